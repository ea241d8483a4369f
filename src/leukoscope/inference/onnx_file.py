"""What an ONNX file points to outside itself, read from its bytes without the onnx package.

An ONNX file is a protocol-buffer message (onnx.proto). A tensor may name another file on the disk as the place of its
numbers; a bundle must never do that, since such a file escapes the hashes and can be any file of the reader.
"""

from collections.abc import Iterator

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


def points_outside(onnx: bytes) -> bool:
    """Tell whether any tensor of the file keeps its numbers in another file.

    Raises:
        ValueError: the bytes are not a protocol-buffer message.
    """
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
