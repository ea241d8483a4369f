"""A network as one ONNX file that needs nothing else, and its weights as safetensors."""

import copy
import logging
import warnings
from collections.abc import Mapping
from typing import Literal, TypeAlias

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from safetensors.torch import save
from torch import Tensor, nn

from ..errors import UsageError
from .network import Network, WithMap

_OPSET = 18
_OUTPUTS = ("probabilities", "map", "embedding")
_WORTH_EIGHT_BITS = 4096  # numbers in an array; smaller ones gain little and are the touchy ones

Store: TypeAlias = Literal["single", "half", "int8"]
"""How a file keeps matrices and kernels: 4 bytes a number, 2 (probabilities move by some 1e-4), or 1 with a scale for
each output (some 1e-2; measure it before you rely on it). They are widened once, when the file is loaded."""


def to_onnx(
    network: Network, *, size: int, metadata: Mapping[str, str] | None = None, store: Store = "single"
) -> bytes:
    """Return an ONNX file of the network: uint8 crops (batch, size, size, 3) to what WithMap gives, in one pass.

    Raises:
        UsageError: the network has a layer that ONNX cannot express.
    """
    # In half precision the folded weights would be too small to be kept exactly.
    model = WithMap(_with_scale_folded(network) if store == "single" else network).eval()
    crops = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    with warnings.catch_warnings(), _silent("torch.onnx", "onnxscript", "onnx_ir"):
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                model,
                (crops,),
                dynamo=True,
                opset_version=_OPSET,
                input_names=["crops"],
                output_names=list(_OUTPUTS),
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
        except Exception as failed:
            line = (str(failed).strip() or type(failed).__name__).splitlines()[0]
            raise UsageError(f"This network cannot be written as ONNX ({line}). Choose another backbone.") from failed
    assert program is not None
    file = program.model_proto
    if store != "single":
        store_small(file.graph, store)
    del file.metadata_props[:]
    helper.set_model_props(file, dict(metadata or {}))
    file.producer_name, file.doc_string = "leukoscope", ""
    _forget_origins(file.graph)
    onnx.checker.check_model(file)
    content: bytes = file.SerializeToString(deterministic=True)
    return content


class _AsTheyAre(nn.Module):
    """Crops (batch, height, width, 3) to (batch, 3, height, width), 0 to 255 as they are."""

    def forward(self, crops: Tensor) -> Tensor:
        return crops.permute(0, 3, 1, 2).float()


def _with_scale_folded(network: Network) -> Network:
    """Put the division by 255 into the first convolution where nothing is subtracted: a pass over the image less.

    With a mean to subtract this would be wrong at the border, where padding is zero after the subtraction.
    """
    first = next(iter(network.backbone.children()), None)
    if not isinstance(first, nn.Conv2d) or first.in_channels != 3 or network.rescaling.shift.any():
        return network
    folded = copy.deepcopy(network)
    convolution = next(iter(folded.backbone.children()))
    assert isinstance(convolution, nn.Conv2d)
    with torch.no_grad():
        convolution.weight.mul_(network.rescaling.scale.view(1, 3, 1, 1))
    folded.rescaling = _AsTheyAre()  # type: ignore[assignment]
    return folded


def to_safetensors(network: Network, *, metadata: Mapping[str, str] | None = None, store: Store = "single") -> bytes:
    """Return the weights as a safetensors file, in half precision where `store` asks for less than single."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    if store != "single":
        tensors = {
            name: value.half() if _is_large(tuple(value.shape), value.is_floating_point()) else value
            for name, value in tensors.items()
        }
    return save(tensors, metadata=dict(metadata or {}))


def _is_large(shape: tuple[int, ...], floating: bool) -> bool:
    """Tell what is worth storing in half: biases and statistics are few, and some are too small or large for it."""
    return floating and len(shape) >= 2


def store_small(graph: onnx.GraphProto, store: Store) -> None:
    """Store large initialisers in fewer bytes behind nodes that widen them; ONNX Runtime folds these when it loads."""
    widening: list[onnx.NodeProto] = []
    for tensor in list(graph.initializer):
        if tensor.data_type != onnx.TensorProto.FLOAT or not _is_large(tuple(tensor.dims), True):
            continue
        name, values = tensor.name, numpy_helper.to_array(tensor)
        if store == "int8" and values.size >= _WORTH_EIGHT_BITS:
            scale = np.abs(values).max(axis=tuple(range(1, values.ndim)), keepdims=True) / 127
            scale[scale == 0] = 1  # an output without weights
            graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), f"{name}.scale"))
            small = numpy_helper.from_array(np.rint(values / scale).astype(np.int8), f"{name}.int8")
            widening.append(helper.make_node("Cast", [small.name], [f"{name}.steps"], to=onnx.TensorProto.FLOAT))
            widening.append(helper.make_node("Mul", [f"{name}.steps", f"{name}.scale"], [name]))
        else:
            small = numpy_helper.from_array(values.astype(np.float16), f"{name}.half")
            widening.append(helper.make_node("Cast", [small.name], [name], to=onnx.TensorProto.FLOAT))
        tensor.CopyFrom(small)
    for place, node in enumerate(widening):
        graph.node.insert(place, node)


def _forget_origins(graph: onnx.GraphProto) -> None:
    """Take out the exporter's notes: they hold paths and source lines of this machine."""
    for owner in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del owner.metadata_props[:]
        owner.doc_string = ""


class _silent:  # noqa: N801  # used like a function
    """Keep the exporter's chatter from the terminal; its errors are raised."""

    def __init__(self, *names: str) -> None:
        self._loggers = [logging.getLogger(name) for name in names]

    def __enter__(self) -> None:
        self._levels = [logger.level for logger in self._loggers]
        for logger in self._loggers:
            logger.setLevel(logging.CRITICAL)

    def __exit__(self, *_: object) -> None:
        for logger, level in zip(self._loggers, self._levels, strict=True):
            logger.setLevel(level)
