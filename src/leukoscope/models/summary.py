"""The layer table of a network, as Keras prints it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .network import Network


@dataclass(frozen=True)
class Layer:
    """One row of the table."""

    kind: str
    shape: tuple[int, ...]
    """Of its output for one crop, channels last: (height, width, channels) or (channels,)."""
    parameters: int


def layers_of(network: Network, *, size: int) -> list[Layer]:
    """Return the layers in the order in which a crop of `size` pixels passes them.

    Layers of a timm backbone that are not plain sequences stand as one row each.
    """
    rows: list[Layer] = []

    def note(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            rows.append(Layer(type(module).__name__, _channels_last(output), count(module)))

    hooks = [module.register_forward_hook(note) for module in _rows(network)]
    training = network.training
    with torch.no_grad():
        network.eval()(torch.zeros(1, size, size, 3, dtype=torch.uint8))
    network.train(training)
    for hook in hooks:
        hook.remove()
    return rows


def count(module: nn.Module, *, trainable: bool | None = None) -> int:
    """Return the number of parameters as Keras counts them: moving statistics are parameters that do not train."""
    learnt = sum(value.numel() for value in module.parameters())
    moving = sum(
        value.numel() for name, value in module.named_buffers() if name.endswith(("running_mean", "running_var"))
    )
    return {None: learnt + moving, True: learnt, False: moving}[trainable]


def describe(network: Network, *, name: str, size: int) -> dict[str, Any]:
    """Return the table as plain data, the content of RUN/model.json."""
    layers = [("Input", (size, size, 3), 0)] + [
        (row.kind, row.shape, row.parameters) for row in layers_of(network, size=size)
    ]
    return {
        "name": name,
        "parameters": count(network),
        "trainable": count(network, trainable=True),
        "rescaling": _rescaling(network),
        "layers": [{"name": kind, "output_shape": list(shape), "parameters": n} for kind, shape, n in layers],
    }


def _rescaling(network: Network) -> dict[str, list[float]]:
    """Return what is taken off each channel of a crop from 0 to 1, and what the rest is divided by."""
    std = 1 / (255 * network.rescaling.scale.flatten())
    mean = -network.rescaling.shift.flatten() * std
    return {name: [round(value, 6) for value in each.tolist()] for name, each in (("mean", mean), ("std", std))}


def summary_table(network: Network, *, size: int) -> str:
    """Return the table as text: kind, output shape and parameters of each layer, then the totals."""
    rows = [("Layer", "Output shape", "Parameters")]
    rows.append(("Input", _shown((size, size, 3)), "0"))
    rows += [(row.kind, _shown(row.shape), f"{row.parameters:,}") for row in layers_of(network, size=size)]
    wide, shape, number = (max(len(row[column]) for row in rows) for column in range(3))
    lines = [f"{kind:<{wide}}  {output:<{shape}}  {many:>{number}}" for kind, output, many in rows]
    rule = "-" * len(lines[0])
    totals = [
        f"Total parameters: {count(network):,}",
        f"Trainable: {count(network, trainable=True):,}",
        f"Not trainable: {count(network, trainable=False):,}",
    ]
    return "\n".join([lines[0], rule, *lines[1:], rule, *totals])


def _rows(module: nn.Module) -> list[nn.Module]:
    """Return the modules that get a row: plain sequences and the outer shells are opened, everything else is whole."""
    children = list(module.children())
    shell = (
        isinstance(module, Network | nn.Sequential) or hasattr(module, "forward_features") or hasattr(module, "body")
    )
    if not children or not shell:
        return [module]
    return [row for child in children for row in _rows(child)]


def _channels_last(output: Tensor) -> tuple[int, ...]:
    shape = tuple(output.shape[1:])
    return (*shape[1:], shape[0]) if len(shape) == 3 else shape


def _shown(shape: tuple[int, ...]) -> str:
    return f"(None, {', '.join(map(str, shape))})"
