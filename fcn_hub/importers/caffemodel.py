"""Reading .caffemodel files without Caffe.

Such a file is a NetParameter message of Caffe's caffe.proto, as protocol buffers encode it
(protobuf.dev/programming-guides/encoding). Of its hundreds of fields a handful lead to weights, so
what is needed is to walk through the encoding and pick these. Nothing is built of what a file
claims: every length is checked against the bytes that are there, and messages are as deep as the
handful of fields goes.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fcn_hub.checkpoint import CheckpointError

_MAX_BYTES = 2**31 - 1  # of a message: protobuf's own limit
_MAX_FIELDS = 100_000  # of a message; Caffe packs numbers, so even the largest network has few

# Where caffe.proto has a layer's name and its blobs, by the field of the net that holds the layer.
_LAYERS = {100: (1, 7), 2: (4, 6)}  # LayerParameter `layer`; V1LayerParameter `layers`, until 2014
# A blob's numbers, shape, and the four dimensions that it had before it had a shape.
_FLOATS, _DOUBLES, _SHAPE, _DIMENSIONS = 5, 8, 7, (1, 2, 3, 4)

_Field = int | np.ndarray  # a number, or the bytes of whatever has a length


def read_caffemodel(path: Path) -> dict[str, list[np.ndarray]]:
    """The weights of every layer that has some, in the file's order.

    Args:
        path: A .caffemodel file, of any version of Caffe since July 2014.

    Returns:
        By layer name: its blobs, float32 arrays of the shapes that the file states. Most layers
        have two, weights and biases. Old files state four dimensions for everything.

    Raises:
        CheckpointError: Too large, or not such a file.
    """
    size = path.stat().st_size
    if not 0 < size <= _MAX_BYTES:
        raise CheckpointError(f"{path} has {size:,} bytes; a .caffemodel has 1 to {_MAX_BYTES:,}.")
    try:
        return _layers(np.memmap(path, np.uint8, "r"))
    except _Malformed as error:
        raise CheckpointError(f"{path} is not a .caffemodel, or is damaged: {error}.") from None


class _Malformed(ValueError):
    """The bytes are not a message; says what was met."""


def _layers(net: np.ndarray) -> dict[str, list[np.ndarray]]:
    found: dict[str, list[np.ndarray]] = {}
    for number, value in _fields(net):
        if number not in _LAYERS or isinstance(value, int):
            continue
        name_field, blobs_field = _LAYERS[number]
        name, blobs = "", []
        for inner, content in _fields(value):
            if inner == name_field and not isinstance(content, int):
                name = content.tobytes().decode("utf-8", "replace")
            elif inner == blobs_field and not isinstance(content, int):
                blobs.append(_blob(content))
        if blobs:
            found[name] = blobs
    if not found:
        raise _Malformed("there are no layers with weights")
    return found


def _blob(message: np.ndarray) -> np.ndarray:
    """The numbers of a BlobProto in their shape."""
    parts: list[np.ndarray] = []
    shape: list[int] | None = None
    dimensions = dict.fromkeys(_DIMENSIONS, 0)
    for number, value in _fields(message):
        if number in (_FLOATS, _DOUBLES) and not isinstance(value, int):
            kind = np.dtype("<f4" if number == _FLOATS else "<f8")
            if len(value) % kind.itemsize:
                raise _Malformed("a list of numbers is cut off")
            parts.append(np.frombuffer(value.tobytes(), kind).astype(np.float32))
        elif number == _SHAPE and not isinstance(value, int):
            shape = [
                size for inner, sizes in _fields(value) if inner == 1 for size in _sizes(sizes)
            ]
        elif number in dimensions and isinstance(value, int):
            dimensions[number] = value
    numbers = np.concatenate(parts) if parts else np.empty(0, np.float32)
    if shape is None:
        shape = list(dimensions.values())
    if math.prod(shape) != len(numbers):
        raise _Malformed(f"{len(numbers)} numbers do not fill a blob of shape {shape[:8]}")
    return numbers.reshape(shape)


def _sizes(value: _Field) -> Iterator[int]:
    """The dimensions in a BlobShape: packed, or one a field."""
    if isinstance(value, int):
        yield value
        return
    position = 0
    while position < len(value):
        size, position = _varint(value, position)
        yield size


def _fields(message: np.ndarray) -> Iterator[tuple[int, _Field]]:
    """The fields of a message: their numbers and contents."""
    position = 0
    for _ in range(_MAX_FIELDS):
        if position == len(message):
            return
        key, position = _varint(message, position)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, position = _varint(message, position)
            yield number, value
            continue
        if kind == 2:
            length, position = _varint(message, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise _Malformed(f"a field of the unknown kind {kind}")
        if length > len(message) - position:
            raise _Malformed("a field reaches beyond the end")
        yield number, message[position : position + length]
        position += length
    raise _Malformed(f"a message of more than {_MAX_FIELDS:,} fields")


def _varint(message: np.ndarray, position: int) -> tuple[int, int]:
    """A number, seven bits a byte, the lowest first; and where it ends."""
    result = 0
    for shift in range(0, 70, 7):
        if position == len(message):
            raise _Malformed("a number is cut off")
        byte = int(message[position])
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
    raise _Malformed("a number of more than ten bytes")
