"""Networks by name."""

from dataclasses import dataclass
from pathlib import Path

from ..config import Model
from ..errors import UnknownNameError, UsageError
from .network import Network
from .seed_cnn import seed_cnn, seed_cnn_deep
from .timm_backbone import PREFIX, check_hub, matching, refuse_unknown, timm_network
from .weights import check_file

_OWN = {"seed-cnn": seed_cnn, "seed-cnn-deep": seed_cnn_deep}


@dataclass(frozen=True)
class Entry:
    """A network that can be asked for."""

    name: str
    about: str


# Shown first; any other timm backbone works the same way.
KNOWN = (
    Entry("seed-cnn", "The paper's four-layer network: 44,529 parameters, made for 450 px."),
    Entry("seed-cnn-deep", "The same with a second convolution in each block: 132,769 parameters."),
    Entry("timm:tf_efficientnet_lite0", "3.4 million parameters; good on small computers, the one to fine-tune first."),
    Entry("timm:resnet18", "11 million parameters; the plain baseline."),
    Entry("timm:inception_v3", "22 million parameters; compared by Abir et al. Needs 75 px or more."),
    Entry("timm:resnetv2_101", "43 million parameters; compared by Abir et al."),
    Entry("timm:vgg19", "20 million parameters without its classifier; compared by Abir et al."),
    Entry("timm:inception_resnet_v2", "54 million parameters; compared by Abir et al. Needs 75 px or more."),
)


def build_network(settings: Model, *, classes: int, size: int) -> Network:
    """Build the network that the settings name, for crops of `size` pixels; fresh weights come from torch's seed.

    Raises:
        UnknownNameError, UsageError: the name is not known, or the network cannot take such crops.
        BundleError: its weights file is missing, damaged, or does not fit.
    """
    check(settings)
    if settings.name.startswith(PREFIX):
        return timm_network(settings, classes=classes, size=size)
    return _OWN[settings.name](classes=classes, dropout=settings.dropout, momentum=settings.norm_momentum)


def check(settings: Model) -> None:
    """Find a wrong name or path at once, without building anything.

    Raises:
        UnknownNameError, UsageError: the name is not known, such a network has no pretrained weights, or the hub
            that has them does not answer.
        BundleError: the weights file does not exist.
    """
    if settings.name.startswith(PREFIX):
        refuse_unknown(settings.name.removeprefix(PREFIX))
        if settings.weights == "hub":
            check_hub(settings.name.removeprefix(PREFIX))
        elif settings.weights:
            check_file(Path(settings.weights))
    elif settings.name not in _OWN:
        raise UnknownNameError("network", settings.name, [*_OWN, f"{PREFIX}<any timm backbone>"])
    elif settings.weights:
        raise UsageError(f"{settings.name} has no pretrained weights; leave model.weights empty.")


def find(pattern: str = "") -> list[Entry]:
    """Return the networks whose names match a pattern such as 'timm:resnet*' or hold a text such as 'lite'.

    Without a pattern, the recommended ones.
    """
    if not pattern:
        return list(KNOWN)
    about = {entry.name: entry.about for entry in KNOWN}
    own = [name for name in _OWN if pattern in name]
    names = own + [PREFIX + name for name in matching(pattern.removeprefix(PREFIX))]
    return [Entry(name, about.get(name, "")) for name in names]
