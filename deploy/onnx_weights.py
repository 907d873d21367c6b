"""The weights of an ONNX file apart from its structure, read without the onnx package, which a board has not.

An ONNX file is a protobuf message: fields, each a number, a wire type and a value (protobuf.dev, Encoding). The field
numbers are those of onnx.proto: ModelProto.graph 7, GraphProto.initializer 5; TensorProto: dims 1, data_type 2,
float_data 4, name 8, raw_data 9, double_data 10, external_data 13.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from deploy.errors import Refused

GRAPH, INITIALIZER = 7, 5
DATA_TYPE, NAME, EXTERNAL = 2, 8, 13
VALUES = {4, 9, 10}  # where floating values are kept
FLOATING = {1, 10, 11, 16}  # FLOAT, FLOAT16, DOUBLE, BFLOAT16; a whole number is an axis or a size, and structure


def weights_apart(graph: Path) -> tuple[str, dict[str, str]]:
    """The SHA-256 of all that is no weight, and of each floating initializer by name.

    Raises:
        Refused: the file cannot be read, is no ONNX file, or keeps its weights in another file.
    """
    try:
        return _apart(graph, graph.read_bytes())
    except OSError as error:
        raise Refused(f"{graph}: cannot be read ({error.strerror}). Make or copy it again.") from None
    except (IndexError, UnicodeDecodeError, ValueError) as error:
        raise Refused(f"{graph}: damaged, or no ONNX file ({error}). Make or copy it again.") from None


def _apart(graph: Path, model: bytes) -> tuple[str, dict[str, str]]:
    rest, weights = hashlib.sha256(), {}
    for number, field, whole in _fields(model):
        if number != GRAPH:
            rest.update(whole)
            continue
        for inner, tensor, all_of_it in _fields(field):
            if inner != INITIALIZER:
                rest.update(all_of_it)
                continue
            name, structure, values = _tensor(graph, tensor)
            rest.update(structure)
            if values is not None:
                weights[name] = hashlib.sha256(values).hexdigest()
    return rest.hexdigest(), weights


def _tensor(graph: Path, tensor: bytes) -> tuple[str, bytes, bytes | None]:
    """Name, what is structure, and the values, if they are floating."""
    fields = list(_fields(tensor))
    name = next((field.decode() for number, field, _ in fields if number == NAME), "")
    if any(number == EXTERNAL for number, _, _ in fields):
        raise Refused(f"{graph}: initializer {name!r} is kept in another file, expected all in one. Save it whole.")
    dtype = next((int.from_bytes(field, "little") for number, field, _ in fields if number == DATA_TYPE), 0)
    if dtype not in FLOATING:
        return name, tensor, None
    structure = b"".join(whole for number, _, whole in fields if number not in VALUES)
    return name, structure, b"".join(field for number, field, _ in fields if number in VALUES)


def _fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Number, value and all bytes of each field; a varint is given as little-endian bytes of its number."""
    at = 0
    while at < len(message):
        start = at
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(message, at)
            field = value.to_bytes(10, "little")
        elif kind in (1, 2, 5):
            size = {1: 8, 5: 4}.get(kind, 0)
            if kind == 2:
                size, at = _varint(message, at)
            if at + size > len(message):
                raise ValueError(f"it ends at byte {len(message)} inside a field")
            field, at = message[at : at + size], at + size
        else:
            raise ValueError(f"wire type {kind}")
        yield key >> 3, field, message[start:at]


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise ValueError(f"no number at byte {at}")
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
