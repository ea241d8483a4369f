"""What is inside an exported ONNX file: what it points to outside itself, and its linear head, read and replaced."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError, require

# message -> {field number: message inside}; only what can lead to a tensor. Numbers are those of onnx.proto.
_INSIDE = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # of a tensor
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5


# Operators of networks for images, each of which terminates whatever its input: no Loop, Scan, If or SequenceMap.
_NAMES = (
    "Abs Add And ArgMax ArgMin AveragePool BatchNormalization Cast CastLike Ceil Celu Clip Concat Constant "
    "ConstantOfShape Conv ConvInteger ConvTranspose CumSum DepthToSpace DequantizeLinear Div Dropout "
    "DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand Flatten Floor Gather GatherElements GatherND Gelu Gemm "
    "GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid "
    "HardSwish Hardmax Identity InstanceNormalization LRN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax "
    "LpNormalization LpPool MatMul MatMulInteger Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg Not "
    "OneHot Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum "
    "ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize Round "
    "ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Size Slice Softmax Softplus Softsign SpaceToDepth Split "
    "Sqrt Squeeze Sub Sum Swish Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor"
)
OPERATORS = frozenset(_NAMES.split())
_GRAPH, _NODES, _FUNCTIONS = 7, 1, 25
_INPUTS, _INITIALIZERS, _TENSOR_NAME = 11, 5, 8
_TAKEN, _GIVEN, _OPERATOR, _DOMAIN = 1, 2, 4, 7  # of a node
_LARGEST_KEY = 1 << 32  # other readers cut larger ones off, and would find fields where this one finds none
_ORT = b"ORTM"  # at byte 4 of ONNX Runtime's own format, which it would read instead of ONNX

# Operator -> which of its inputs give the size of its output. Pixel values must not reach these: memory and time of a
# network are then the same for every image, and one trial shows them.
_SIZES = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "OneHot": (1,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1, 2),
    "TopK": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
}
_WITHOUT_VALUES = ("Shape", "Size")  # what they give depends on sizes alone


def check_graph(onnx: bytes, where: Path) -> None:
    """Make sure that a file is an ONNX graph that keeps to itself and always comes to an end.

    Raises:
        BundleError: it is none, points to other files, uses operators that are not on the list, or needs more memory
            for one image than for another.
    """
    try:
        outside, strange = points_outside(onnx), sorted(strange_operators(onnx))
        growing = grows_with_values(onnx)
    except ValueError:
        raise BundleError(f"{where} is not an ONNX file. Make the bundle again with leukoscope export.") from None
    if outside:
        raise BundleError(
            f"{where} keeps data in files outside the bundle, which no hash protects, so it is not loaded. "
            "Make the bundle again with leukoscope export."
        )
    if strange:
        raise BundleError(
            f"{where} uses {', '.join(strange[:5])}, which no network of this program needs, so it is not loaded. "
            "Do not trust this bundle; ask who made it."
        )
    if growing:
        raise BundleError(
            f"{where} takes the size of what {growing} gives from the image's values, so its memory has no bound. "
            "Do not trust this bundle; ask who made it."
        )


def strange_operators(onnx: bytes) -> set[str]:
    """Return the operators of the main graph that are not in OPERATORS, and "functions" where the file brings its own.

    Only operators with graphs inside, of which none is allowed, could hide others.

    Raises:
        ValueError: the bytes are not a protocol-buffer message.
    """
    found: set[str] = set()
    for field, value in _fields(memoryview(onnx)):
        if field == _FUNCTIONS:
            found.add("functions")
        elif field == _GRAPH and isinstance(value, memoryview):
            found |= {_operator(node) for number, node in _fields(value) if number == _NODES}
    return found - OPERATORS


def _operator(node: int | memoryview) -> str:
    if not isinstance(node, memoryview):
        raise ValueError("not an ONNX file")
    named = {field: bytes(value) for field, value in _fields(node) if isinstance(value, memoryview)}
    domain = named.get(_DOMAIN, b"").decode(errors="replace")
    name = named.get(_OPERATOR, b"").decode(errors="replace")
    return name if domain in ("", "ai.onnx") else f"{domain}.{name}"


def grows_with_values(onnx: bytes) -> str:
    """Return an operator whose output's size depends on the values of the graph's input; "" where there is none.

    Raises:
        ValueError: the bytes are not a protocol-buffer message.
    """
    takers: dict[bytes, list[tuple[str, int, list[bytes]]]] = {}  # name -> who takes it, as which input, and gives what
    reached: list[bytes] = []
    for graph in _messages(memoryview(onnx), _GRAPH):
        fixed = {bytes(name) for each in _messages(graph, _INITIALIZERS) for name in _messages(each, _TENSOR_NAME)}
        inputs = {bytes(name) for each in _messages(graph, _INPUTS) for name in _messages(each, 1)}
        reached += inputs - fixed
        for node in _messages(graph, _NODES):
            given = [bytes(name) for name in _messages(node, _GIVEN)]
            for place, name in enumerate(_messages(node, _TAKEN)):
                takers.setdefault(bytes(name), []).append((_operator(node), place, given))
    seen = set(reached)
    while reached:
        for operator, place, given in takers.get(reached.pop(), []):
            if place in _SIZES.get(operator, ()) or (operator.startswith("Reduce") and place == 1):
                return operator
            if operator not in _WITHOUT_VALUES:
                reached += [name for name in given if name not in seen]
                seen.update(given)
    return ""


def _messages(message: memoryview, wanted: int) -> Iterator[memoryview]:
    return (value for field, value in _fields(message) if field == wanted and isinstance(value, memoryview))


def points_outside(onnx: bytes) -> bool:
    """Tell whether any tensor of the file keeps its numbers in another file.

    Raises:
        ValueError: the bytes are not a protocol-buffer message.
    """
    if onnx[4:8] == _ORT:
        raise ValueError("not an ONNX file")
    return _points_outside(memoryview(onnx), "model")


def _points_outside(message: memoryview, kind: str) -> bool:
    for field, value in _fields(message):
        if kind == "tensor":
            if field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value != 0):
                return True
        elif isinstance(value, memoryview) and (inside := _INSIDE[kind].get(field)) and _points_outside(value, inside):
            return True
    return False


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (field number, value) of a message; a value with a length as its bytes, without copying them."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        field, wire = key >> 3, key & 7
        if not 0 < key >> 3 < _LARGEST_KEY >> 3:
            raise ValueError("not an ONNX file")
        if wire == _VARINT:
            number, place = _varint(message, place)
            yield field, number
            continue
        length = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}.get(wire)
        if wire == _LENGTH:
            length, place = _varint(message, place)
        if length is None or place + length > len(message):
            raise ValueError("not an ONNX file")
        yield field, message[place : place + length]
        place += length


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """Return the number that starts at `place`, seven bits a byte, and the place after it."""
    number = shift = 0
    while place < len(message) and shift < 70:
        byte = message[place]
        number |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return number, place
    raise ValueError("not an ONNX file")


Floats = NDArray[np.float64]
_EMBEDDING, _MAP = "embedding", "map"


def read_head(content: bytes) -> tuple[Floats, Floats]:
    """Return weight (outputs, channels) and bias (outputs,) of the head in an ONNX file.

    Raises:
        MissingExtraError: the extra `adapt` is not installed.
        BundleError: there is no such head.
    """
    graph = _load(content).graph
    product, addition, _ = _places(graph)
    weight = _value(graph, product.input[1])
    transposed = product.op_type == "Gemm" and any(each.name == "transB" and each.i for each in product.attribute)
    weight = np.asarray(weight if transposed else weight.T, np.float64)
    if product.op_type == "Gemm" and len(product.input) < 3:  # the exporter leaves out a bias that is zero
        return weight, np.zeros(len(weight))
    bias = _value(graph, product.input[2] if product.op_type == "Gemm" else _other(addition, product.output[0]))
    return weight, np.asarray(bias, np.float64).ravel()


def with_head(content: bytes, weight: Floats, bias: Floats) -> bytes:
    """Return the ONNX file with another head of the same shape."""
    onnx = require("onnx", feature="Adapting a bundle", extra="adapt")
    model = _load(content)
    product, addition, plane = _places(model.graph)
    old, _ = read_head(content)
    if old.shape != weight.shape:
        raise BundleError(f"The head has the shape {old.shape}, not {weight.shape}.")
    transposed = product.op_type == "Gemm" and any(each.name == "transB" and each.i for each in product.attribute)
    arrays = {
        "adapted.weight": weight if transposed else weight.T,
        "adapted.bias": bias,
        "adapted.plane": weight[:, :, None, None],
    }
    tensors = [onnx.numpy_helper.from_array(np.ascontiguousarray(a, np.float32), name) for name, a in arrays.items()]
    names = set(arrays)
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in names]
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, *tensors])
    if product.op_type == "Gemm":
        product.input[1:] = ["adapted.weight", "adapted.bias"]
    else:
        product.input[1] = "adapted.weight"
        _replace(addition, _other(addition, product.output[0]), "adapted.bias")
    plane.input[1:] = ["adapted.plane", "adapted.bias"]
    _drop_unused(model.graph)
    onnx.checker.check_model(model)
    written: bytes = model.SerializeToString(deterministic=True)
    return written


def _load(content: bytes) -> Any:
    return require("onnx", feature="Adapting a bundle", extra="adapt").load_from_string(content)


def _places(graph: Any) -> tuple[Any, Any, Any]:
    """Return the product on the embedding, what adds its bias (or the product itself), and the convolution of the map.

    Raises:
        BundleError: the graph is not one that leukoscope exports.
    """
    made = {name: node for node in graph.node for name in node.output}
    products = [node for node in graph.node if node.op_type in ("Gemm", "MatMul") and node.input[0] == _EMBEDDING]
    features = _features(made)
    planes = [
        node
        for node in graph.node
        if node.op_type == "Conv" and node.input[0] == features and _leads_to(graph, node.output[0], _MAP)
    ]
    if len(products) != 1 or len(planes) != 1:
        raise BundleError("This network has no linear head on its embedding. Export the bundle again.")
    following = [node for node in graph.node if node.op_type == "Add" and products[0].output[0] in node.input]
    return products[0], following[0] if following else products[0], planes[0]


def _features(made: dict[str, Any]) -> str:
    """Return the name of the feature map that is pooled into the embedding."""
    node = made.get(_EMBEDDING)
    while node is not None and node.op_type in ("Flatten", "Reshape", "Squeeze", "Identity"):
        node = made.get(node.input[0])
    return str(node.input[0]) if node is not None else ""


def _leads_to(graph: Any, name: str, goal: str) -> bool:
    reached = {name}
    for node in graph.node:  # nodes are in the order of the computation
        if reached & set(node.input):
            reached |= set(node.output)
    return goal in reached


def _value(graph: Any, name: str) -> NDArray[Any]:
    """Return the numbers behind a name, through the Cast that widens half precision."""
    onnx = require("onnx", feature="Adapting a bundle", extra="adapt")
    made = {output: node for node in graph.node for output in node.output}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    while name not in tensors and name in made and made[name].op_type in ("Cast", "Unsqueeze", "Identity"):
        name = made[name].input[0]
    if name not in tensors:
        raise BundleError(
            "The head of this network is stored in a form that cannot be adapted (int8). Use --store half."
        )
    return np.asarray(onnx.numpy_helper.to_array(tensors[name]))


def _other(node: Any, name: str) -> str:
    return str(next(each for each in node.input if each != name))


def _replace(node: Any, old: str, new: str) -> None:
    for place, name in enumerate(node.input):
        if name == old:
            node.input[place] = new


def _drop_unused(graph: Any) -> None:
    """Take out the old head's numbers and what only they were needed for."""
    wanted = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(node.input)
    nodes = [type(node).FromString(node.SerializeToString()) for node in reversed(kept)]
    tensors = [tensor for tensor in graph.initializer if tensor.name in wanted]
    tensors = [type(tensor).FromString(tensor.SerializeToString()) for tensor in tensors]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)
