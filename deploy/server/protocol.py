"""The Open Inference Protocol, version 2: the bytes of a request to arrays, arrays to the bytes of a response.

A request is JSON, or JSON with the values of tensors behind it: little-endian, row-major, nothing between them. Nothing
is allocated by what a request *says*: its values are counted against the bytes that came before an array is made. A
binary tensor is a view of the body. JSON takes up to 30 times the body's bytes while it is read, measured: an empty
object is two bytes there and a dictionary here.

FP16 goes in binary alone: JSON has no such number. JSON has no NaN and no infinity either; binary carries them.

Sources:
    KServe, "Predict Protocol - Version 2", docs/predict-api/v2/required_api.md in kserve/kserve.
    NVIDIA, "Binary Tensor Data Extension" and "Classification Extension", docs/protocol/extension_binary_data.md and
    extension_classification.md in triton-inference-server/server.
"""

import json
import reprlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from deploy.errors import Refused

TYPES = {  # numpy's name -> the protocol's, and how `array` calls what JSON gives for it
    "bool": ("BOOL", "B"),
    "uint8": ("UINT8", "B"),
    "uint16": ("UINT16", "H"),
    "uint32": ("UINT32", "I"),
    "uint64": ("UINT64", "Q"),
    "int8": ("INT8", "b"),
    "int16": ("INT16", "h"),
    "int32": ("INT32", "i"),
    "int64": ("INT64", "q"),
    "float16": ("FP16", ""),
    "float32": ("FP32", "d"),
    "float64": ("FP64", "d"),
}
_DTYPES = {name: np.dtype(name).newbyteorder("<") for name in TYPES}
_DATATYPES = {_DTYPES[name]: datatype for name, (datatype, _) in TYPES.items()}

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring = 3, 80


class Form(NamedTuple):
    """What a model takes: ``form`` makes one of a contract's inputs, once."""

    inputs: dict[str, tuple[list[int | str], str, str, np.dtype]]  # shape, datatype, how `array` calls it, numpy's type
    optional: frozenset[str]  # names that may be left out
    ranges: Mapping[str, tuple[int, int, int]]  # free axis -> least, best served and greatest size; any, if not there


class Request(NamedTuple):
    """What was asked."""

    inputs: dict[str, np.ndarray]
    parameters: dict[str, Any]  # of the whole request
    outputs: tuple[str, ...]  # in the order to answer them; empty: all
    binary: bool | frozenset[str]  # which of them in binary: all or none, or these
    top: dict[str, int]  # output -> so many classes, best first, in place of its values
    id: str  # "" if none was given


def form(
    inputs: Iterable[Mapping[str, Any]],
    optional: Iterable[str] = (),
    ranges: Mapping[str, tuple[int, int, int]] | None = None,
) -> Form:
    """What a model takes.

    Args:
        inputs: ``{name, dtype, shape}`` each, as in the contract; an axis that is a name is free, from 1, and has one
            size in all inputs.
        optional: names of those that may be left out.
        ranges: free axis -> the least, best served and greatest size, as in the contract.
    """
    told = {t["name"]: (t["shape"], *TYPES[t["dtype"]], _DTYPES[t["dtype"]]) for t in inputs}
    return Form(told, frozenset(optional), ranges or {})


def read_request(body: bytes, header_length: int | bytes | None, expected: Form, limit: int) -> Request:
    """The arrays of a request, each as the contract has it.

    Args:
        header_length: bytes of the JSON, the value of Inference-Header-Content-Length; ``None``: all of ``body``.
        limit: the most bytes that ``body`` may have.

    Returns:
        The request. Binary inputs are read-only views of ``body`` where they lie aligned in it, else copies.

    Raises:
        Refused: anything about it is not as the protocol or the contract has it.
    """
    if len(body) > limit:
        raise Refused(f"body: {len(body)} bytes, expected at most {limit}. Send a smaller batch.")
    place = len(body) if header_length is None else _header_length(header_length, len(body))
    request = read_object(body[:place])
    arrays: dict[str, np.ndarray] = {}
    sizes: dict[str, int] = {}
    for each in _objects(request, "inputs"):
        name, shape, count, dtype, code = read_input(each, expected, arrays, sizes, len(body))
        size = _parameters(each, f"input '{name}'").get("binary_data_size")
        if size is None:
            if "data" not in each:
                raise Refused(f"input '{name}': neither data nor binary_data_size, expected one of them.")
            arrays[name] = _from_json(name, each["data"], shape, count, dtype, code)
        else:
            if "data" in each:
                raise Refused(f"input '{name}': both data and binary_data_size, expected one of them.")
            arrays[name] = from_binary(name, body, place, size, shape, count, dtype)
            place += size
    made = read_rest(request, expected, arrays)
    if place < len(body):
        raise Refused(f"body: {len(body) - place} bytes left over after the last input, expected none.")
    return made


def read_input(
    each: dict[str, Any], expected: Form, arrays: dict[str, np.ndarray], sizes: dict[str, int], most: int
) -> tuple[str, list[int], int, np.dtype, str]:
    """What an input says of itself: its name, shape, number of values, numpy's type, and how `array` calls that.

    Args:
        each: ``{name, datatype, shape}``, and whatever else.
        arrays: the inputs before it.
        sizes: of the free axes, as far as they are known; those of ``each`` are added.
        most: bytes that came; a value takes one at least.

    Raises:
        Refused: it is not as the model takes it.
    """
    name = each.get("name")
    if type(name) is not str or name not in expected.inputs:
        raise Refused(f"inputs: name {_said(name)}, expected {_names(expected.inputs)}.")
    if name in arrays:
        raise Refused(f"input '{name}': given twice, expected once.")
    axes, datatype, code, dtype = expected.inputs[name]
    if each.get("datatype") != datatype:
        strings = " Strings are not served." if each.get("datatype") == "BYTES" else ""
        raise Refused(f"input '{name}': datatype {_said(each.get('datatype'))}, expected {datatype}.{strings}")
    return name, *_shape(name, each.get("shape"), axes, sizes, expected.ranges, most), dtype, code


def read_rest(request: dict[str, Any], expected: Form, arrays: dict[str, np.ndarray]) -> Request:
    """The whole of a request whose inputs are ``arrays``.

    Raises:
        Refused: an input is missing, or what is asked for is not as the protocol has it.
    """
    if len(arrays) < len(expected.inputs) and (without := expected.inputs.keys() - arrays.keys() - expected.optional):
        raise Refused(f"inputs: without {_names(without)}, expected {_names(expected.inputs)}.")
    if "id" in request and type(request["id"]) is not str:
        raise Refused(f"id: {_said(request['id'])}, expected a string.")
    parameters = _parameters(request, "request")
    return Request(arrays, parameters, *_outputs(request, parameters), request.get("id", ""))


def write_response(
    answers: dict[str, np.ndarray], request: Request, model: str, version: str, classes: Sequence[str] = ()
) -> tuple[int | None, bytes]:
    """The answers that were asked for, in the form that was asked for.

    Args:
        answers: every output of the model.
        classes: the labels of the last axis, for who asks for the best classes; none where they are not as many.

    Returns:
        Bytes of the JSON, for Inference-Header-Content-Length, or ``None`` where no output is binary; and the body.

    Raises:
        Refused: an output that the model does not have; FP16, NaN or an infinity in JSON; classes of NaN, or more than
            there are.
    """
    outputs, values = [], []
    for name in request.outputs or answers:
        if name not in answers:
            raise Refused(f"outputs: name {_said(name)}, expected {_names(answers)}.")
        answer = answers[name]
        binary = request.binary if isinstance(request.binary, bool) else name in request.binary
        if name in request.top:
            strings = classified(name, answer, request.top[name], classes)
            shape, datatype = [*answer.shape[:-1], request.top[name]], "BYTES"
            raw: Any = counted(strings) if binary else strings
        else:
            if answer.dtype not in _DATATYPES:
                raise Refused(f"output '{name}': {answer.dtype}, for which the protocol has no datatype.")
            shape, datatype = list(answer.shape), _DATATYPES[answer.dtype]
            raw = memoryview(np.ascontiguousarray(answer)) if binary else _listed(name, answer)
        start = f'{{"name":{_encoded(name)},"shape":{shape},"datatype":"{datatype}",'
        if binary:
            values.append(raw)
            size = raw.nbytes if isinstance(raw, memoryview) else len(raw)
            outputs.append(f'{start}"parameters":{{"binary_data_size":{size}}}}}')
        else:
            outputs.append(f'{start}"data":{_as_json(name, raw)}}}')
    asked = f'"id":{_encoded(request.id)},' if request.id else ""
    header = (
        f'{{"model_name":{_encoded(model)},"model_version":{_encoded(version)},{asked}"outputs":[{",".join(outputs)}]}}'
    ).encode()
    return (len(header), b"".join([header, *values])) if values else (None, header)


def _header_length(came: int | bytes, most: int) -> int:
    """``came`` as a number of bytes of the body."""
    length = came if isinstance(came, int) else int(came) if came.isdigit() and len(came) <= 20 else -1
    if not 0 <= length <= most:
        shown = _said(came if isinstance(came, int) else came.decode("latin-1"))
        raise Refused(f"Inference-Header-Content-Length: {shown}, expected a number from 0 to the body's {most} bytes.")
    return length


def _no_number(spelled: str) -> float:
    raise Refused(f"JSON: {spelled}, expected a number that JSON has. Send such values in binary.")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; a key that is there twice would mean one thing to one reader and another to the next."""
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise Refused(f"JSON: key {_said(twice)} twice, expected once.")
    return made


_DECODER = json.JSONDecoder(parse_constant=_no_number, object_pairs_hook=_once)
_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
_encoded = _ENCODER.encode


def read_object(header: bytes) -> dict[str, Any]:
    """One object of JSON.

    Raises:
        Refused: it is none, is nested too deep, names a key twice, or has a number that JSON has not.
    """
    try:
        request = _DECODER.decode(header.decode())
    except RecursionError:
        raise Refused("JSON: nested too deep, expected no deeper than a tensor.") from None
    except ValueError as error:
        raise Refused(f"JSON: broken ({error}), expected one object in UTF-8.") from None
    if type(request) is not dict:
        raise Refused(f"JSON: {_said(request)}, expected an object.")
    return request


def _objects(request: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """The list of objects under ``key``."""
    listed = request.get(key)
    if type(listed) is not list:
        raise Refused(f"{key}: {_said(listed)}, expected a list of objects.")
    for each in listed:
        if type(each) is not dict:
            raise Refused(f"{key}: {_said(each)} in the list, expected objects.")
    return listed


def _parameters(of: dict[str, Any], label: str) -> dict[str, Any]:
    parameters = of.get("parameters", {})
    if type(parameters) is not dict:
        raise Refused(f"{label}: parameters {_said(parameters)}, expected an object.")
    return parameters


def _outputs(
    request: dict[str, Any], parameters: dict[str, Any]
) -> tuple[tuple[str, ...], bool | frozenset[str], dict[str, int]]:
    """The names that were asked for, which of them in binary, and of which the best classes."""
    every = _flag(parameters, "binary_data_output", False, "request")
    if "outputs" not in request:
        return (), every, {}
    binary: dict[str, bool] = {}
    top: dict[str, int] = {}
    for each in _objects(request, "outputs"):
        name = each.get("name")
        if type(name) is not str:
            raise Refused(f"outputs: name {_said(name)}, expected a string.")
        label = f"output {_said(name)}"
        if name in binary:
            raise Refused(f"{label}: asked for twice, expected once.")
        parameters = _parameters(each, label)
        binary[name] = _flag(parameters, "binary_data", every, label)
        if "classification" in parameters:
            count = parameters["classification"]
            if type(count) is not int or count < 1:
                raise Refused(f"{label}: classification {_said(count)}, expected how many classes, from 1.")
            top[name] = count
    if not binary:
        return (), every, {}
    return tuple(binary), frozenset(name for name, asked in binary.items() if asked), top


def _flag(parameters: dict[str, Any], key: str, default: bool, label: str) -> bool:
    value = parameters.get(key, default)
    if type(value) is not bool:
        raise Refused(f"{label}: {key} {_said(value)}, expected true or false.")
    return value


def _shape(
    name: str,
    came: Any,
    expected: list[int | str],
    sizes: dict[str, int],
    ranges: Mapping[str, tuple[int, int, int]],
    most: int,
) -> tuple[list[int], int]:
    """``came`` as a shape, and its number of values; ``sizes`` of the free axes are added as they come.

    Args:
        most: bytes of the body; a value takes one at least, in JSON as in binary.
    """
    if type(came) is not list or len(came) != len(expected):
        raise Refused(f"input '{name}': shape {_said(came)}, expected {_axes(expected)}.")
    count = 1
    for size, axis in zip(came, expected):
        if type(size) is not int or size < 1:
            raise Refused(f"input '{name}': shape {_said(came)}, expected {_axes(expected)}, integers from 1.")
        if size != (axis if type(axis) is int else sizes.setdefault(axis, size)):  # type: ignore[arg-type]
            known = f"; {axis} is {_said(sizes[axis])} in another axis" if isinstance(axis, str) else ""
            raise Refused(f"input '{name}': shape {_said(came)}, expected {_axes(expected)}{known}.")
        if axis in ranges and not ranges[axis][0] <= size <= ranges[axis][2]:  # type: ignore[index]
            least, _, greatest = ranges[axis]  # type: ignore[index]
            raise Refused(
                f"input '{name}': shape {_said(came)}, expected {_axes(expected)}, {axis} from {least} to {greatest}."
            )
        count *= size
    if count > most:
        raise Refused(f"input '{name}': shape {_said(came)}, expected no more values than the body has bytes, {most}.")
    return came, count


def from_binary(
    name: str, body: bytes, place: int, size: Any, shape: list[int], count: int, dtype: np.dtype
) -> np.ndarray:
    """The ``size`` bytes of ``body`` from ``place`` on as an array.

    Raises:
        Refused: they are not as many as ``shape`` takes, or are no values of ``dtype``.
    """
    if type(size) is not int or size != count * dtype.itemsize:
        raise Refused(
            f"input '{name}': binary_data_size {_said(size)}, expected {count * dtype.itemsize} for the shape {shape}."
        )
    if place + size > len(body):
        raise Refused(
            f"input '{name}': {len(body) - place} bytes of binary data are left after the JSON and the inputs before, "
            f"expected {size}. Send all of them, and Inference-Header-Content-Length: the bytes of the JSON."
        )
    values = np.frombuffer(body, dtype, count, place)
    if dtype.kind == "b" and (wrong := values.view(np.uint8)).max() > 1:
        raise Refused(f"input '{name}': a byte {wrong.max()}, expected 0 or 1 for BOOL.")
    return (values if values.flags.aligned else values.copy()).reshape(shape)


def _from_json(name: str, data: Any, shape: list[int], count: int, dtype: np.dtype, code: str) -> np.ndarray:
    if dtype == np.float16:
        raise Refused(f"input '{name}': FP16 in JSON, expected in binary (binary_data_size): JSON has no such number.")
    flat = _flat(name, data, shape, count)
    takes = {bool} if dtype.kind == "b" else {int, float} if dtype.kind == "f" else {int}
    if not set(map(type, flat)) <= takes:
        raise first_wrong(name, flat, dtype, [type(value) not in takes for value in flat])
    try:
        values = np.frombuffer(array(code, flat), np.dtype(code))
    except OverflowError:
        raise first_wrong(name, flat, dtype, _beyond(flat, dtype)) from None
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            values = values.astype(dtype, copy=False)
        if not np.isfinite(values).all():
            raise first_wrong(name, flat, dtype, _beyond(flat, dtype))
    return (values.view(bool) if dtype.kind == "b" else values).reshape(shape)


def _flat(name: str, data: Any, shape: list[int], count: int) -> list[Any]:
    """The values in a row, of ``data`` in a row or nested as ``shape`` has it."""
    if type(data) is not list:
        raise Refused(f"input '{name}': data {_said(data)}, expected a list.")
    if data and type(data[0]) is not list:
        if len(data) != count:
            raise Refused(f"input '{name}': {len(data)} values in data, expected {count} for the shape {shape}.")
        return data
    level = [data]
    for size in shape:
        if set(map(type, level)) != {list} or set(map(len, level)) != {size}:
            raise Refused(f"input '{name}': data not nested as the shape {shape}, expected so, or {count} in a row.")
        level = list(chain.from_iterable(level))
    return level


def _beyond(flat: list[Any], dtype: np.dtype) -> list[bool]:
    """Which of the numbers ``dtype`` cannot hold."""
    least, most = _range(dtype)
    return [not least <= value <= most for value in flat]


def _range(dtype: np.dtype) -> tuple[float, float]:
    """The least and the greatest number that ``dtype`` holds."""
    if dtype.kind == "f":
        return float(np.finfo(dtype).min), float(np.finfo(dtype).max)
    return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)


def first_wrong(name: str, flat: list[Any], dtype: np.dtype, wrong: list[bool]) -> Refused:
    """What is told of the first value that is ``wrong``."""
    place = wrong.index(True)
    if dtype.kind == "b":
        expected = "true or false"
    else:
        least, most = _range(dtype)
        expected = f"{'a number' if dtype.kind == 'f' else 'an integer'} from {least} to {most}"
    return Refused(f"input '{name}': data[{place}] is {_said(flat[place])}, expected {expected}.")


def _listed(name: str, answer: np.ndarray) -> list[Any]:
    """The values in a row."""
    if answer.dtype == np.float16:
        raise Refused(f"output '{name}': FP16 in JSON, expected in binary (binary_data): JSON has no such number.")
    return answer.ravel().tolist()


def _as_json(name: str, values: list[Any]) -> str:
    try:
        return _encoded(values)
    except ValueError:
        place = int(np.flatnonzero(~np.isfinite(values))[0])
        raise Refused(
            f"output '{name}': value {place} is {values[place]}, which JSON does not have, expected a number. "
            f"Ask for it in binary (binary_data)."
        ) from None


def classified(name: str, answer: np.ndarray, count: int, classes: Sequence[str]) -> list[str]:
    """The ``count`` largest of the last axis as ``value:index[:label]``, in a row; of equal ones the first is first."""
    if not answer.ndim or count > answer.shape[-1]:
        most = answer.shape[-1] if answer.ndim else 0
        raise Refused(f"output '{name}': classification {_said(count)}, expected at most {most}, its classes.")
    if answer.dtype.kind == "f" and np.isnan(answer).any():
        raise Refused(f"output '{name}': NaN among the classes, expected numbers, which have an order.")
    many = answer.shape[-1]
    order = many - 1 - np.argsort(answer[..., ::-1], axis=-1, kind="stable")[..., ::-1][..., :count]
    labels = [f":{label}" for label in classes] if len(classes) == many else [""] * many
    values = np.take_along_axis(answer, order, axis=-1)
    return [f"{value!s}:{index}{labels[index]}" for value, index in zip(values.ravel(), order.ravel())]


def counted(strings: Iterable[str]) -> bytes:
    """Strings as the protocol's binary form has them."""
    return b"".join(len(string).to_bytes(4, "little") + string for string in map(str.encode, strings))


def _said(value: Any) -> str:
    """What came, on one short line; a tensor's worth of it is cut."""
    said = _SHORT.repr(value)
    return said if len(said) <= 100 else f"{said[:97]}..."


def _names(names: Any) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))


def _axes(expected: list[int | str]) -> str:
    return f"[{', '.join(map(str, expected))}]"
