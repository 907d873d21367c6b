"""A gRPC message of an inference to a request, and its answer to a message; what is checked is checked as over HTTP.

Values come raw or in typed fields. They are answered raw, whichever way they came, as Triton answers them: FP16 and
classes have no other form that its client reads.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from deploy.errors import Refused
from deploy.server import inference_pb2 as pb
from deploy.server.model import Model
from deploy.server.protocol import (
    TYPES,
    Form,
    Request,
    classified,
    counted,
    first_wrong,
    from_binary,
    read_input,
    read_rest,
)

FIELDS = 1_000  # of a message, inside which there are more
CONTENTS = {  # numpy's name -> the field that holds such values, and the type of that
    "bool": ("bool_contents", "bool"),
    "uint8": ("uint_contents", "uint32"),
    "uint16": ("uint_contents", "uint32"),
    "uint32": ("uint_contents", "uint32"),
    "uint64": ("uint64_contents", "uint64"),
    "int8": ("int_contents", "int32"),
    "int16": ("int_contents", "int32"),
    "int32": ("int_contents", "int32"),
    "int64": ("int64_contents", "int64"),
    "float32": ("fp32_contents", "float32"),
    "float64": ("fp64_contents", "float64"),
}


def read_message(message: Any, nbytes: int, expected: Form) -> Request:
    """The arrays of a ``ModelInferRequest`` of ``nbytes``, each as the contract has it.

    Raises:
        Refused: anything about it is not as the protocol or the contract has it.
    """
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise Refused(f"raw_input_contents: {len(raw)}, expected {len(message.inputs)}, one for each of the inputs.")
    arrays: dict[str, np.ndarray] = {}
    sizes: dict[str, int] = {}
    for place, tensor in enumerate(message.inputs):
        told = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        name, shape, count, dtype, _ = read_input(told, expected, arrays, sizes, nbytes)
        if "shared_memory_region" in tensor.parameters:
            raise Refused(f"input '{name}': in shared memory, expected in the message: none is shared with a client.")
        if raw:
            if tensor.HasField("contents"):
                raise Refused(f"input '{name}': both contents and raw_input_contents, expected one of them.")
            arrays[name] = _from_raw(name, raw[place], shape, count, dtype)
        else:
            arrays[name] = _from_contents(name, tensor.contents, shape, count, dtype)
    request = {"id": message.id, "parameters": _parameters("request", message.parameters)}
    if message.outputs:
        request["outputs"] = [
            {"name": asked.name, "parameters": _parameters(f"output {asked.name[:50]!r}", asked.parameters)}
            for asked in message.outputs
        ]
    return read_rest(request, expected, arrays)


def _from_raw(name: str, raw: bytes, shape: list[int], count: int, dtype: np.dtype) -> np.ndarray:
    if len(raw) != count * dtype.itemsize:
        raise Refused(
            f"input '{name}': {len(raw)} bytes in raw_input_contents, expected {count * dtype.itemsize} for the shape "
            f"{shape}."
        )
    return from_binary(name, raw, 0, len(raw), shape, count, dtype)


def _from_contents(name: str, contents: Any, shape: list[int], count: int, dtype: np.dtype) -> np.ndarray:
    if dtype == np.float16:
        raise Refused(f"input '{name}': FP16 in contents, expected in raw_input_contents: contents has no such number.")
    expected, wide = CONTENTS[dtype.name]
    for field, _ in contents.ListFields():
        if field.name != expected:
            raise Refused(f"input '{name}': {field.name}, expected {expected} for {TYPES[dtype.name][0]}.")
    flat = getattr(contents, expected)
    if len(flat) != count:
        raise Refused(
            f"input '{name}': {len(flat)} values in {expected}, expected {count} for the shape {shape}, or as many in "
            f"raw_input_contents."
        )
    came = np.fromiter(flat, wide, count)
    values = came.astype(dtype, copy=False)
    if dtype.itemsize < came.itemsize and (wrong := values != came).any():
        raise first_wrong(name, came.tolist(), dtype, wrong.tolist())
    return values.reshape(shape)


def _parameters(label: str, of: Mapping[str, Any]) -> dict[str, Any]:
    told = {}
    for name, parameter in of.items():
        if (kind := parameter.WhichOneof("parameter_choice")) is None:
            raise Refused(f"{label}: parameter {name[:50]!r} without a value, expected one.")
        told[name] = getattr(parameter, kind)
    return told


def write_message(answers: Mapping[str, np.ndarray], request: Request, model: Model) -> Any:
    """The answers that were asked for, as a ``ModelInferResponse``.

    Args:
        answers: every output of the model.

    Raises:
        Refused: classes of NaN, or more than there are.
    """
    message = pb.ModelInferResponse(model_name=model.name, model_version=model.version, id=request.id)
    for name in request.outputs or answers:
        answer = answers[name]
        if name in request.top:
            count = request.top[name]
            raw = counted(classified(name, answer, count, model.classes))
            message.outputs.add(name=name, datatype="BYTES", shape=[*answer.shape[:-1], count])
        else:
            raw = answer.tobytes()
            message.outputs.add(name=name, datatype=TYPES[answer.dtype.name][0], shape=answer.shape)
        message.raw_output_contents.append(raw)
    return message


def parsed(kind: Any, body: bytes) -> Any:
    """``body`` as a message of ``kind``.

    Raises:
        Refused: it is none, or of more fields than any model needs: an empty one is two bytes there and 90 here.
    """
    fields = place = 0
    try:
        while place < len(body):
            tag, place = _varint(body, place)
            wire = tag & 7
            if wire == 2:
                size, place = _varint(body, place)
                place += size
            else:
                place = _varint(body, place)[1] if wire == 0 else place + {1: 8, 5: 4}[wire]
            fields += 1
            if fields > FIELDS:
                raise Refused(f"message: more than {FIELDS} fields, expected a {kind.DESCRIPTOR.name}.")
        return kind.FromString(body)
    except (DecodeError, IndexError, KeyError):
        raise Refused(f"message: {len(body)} bytes that cannot be read, expected a {kind.DESCRIPTOR.name}.") from None


def _varint(body: bytes, place: int) -> tuple[int, int]:
    """The number at ``place``, seven bits a byte, and the place after it."""
    value = shift = 0
    while (byte := body[place]) & 0x80:
        value |= (byte & 0x7F) << shift
        shift += 7
        place += 1
        if shift > 63:
            raise KeyError
    return value | byte << shift, place + 1
