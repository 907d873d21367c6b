"""The Open Inference Protocol, against a second reader and writer of it, which knows `struct` and no numpy."""

import json
import math
import random
import re
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.errors import Refused
from deploy.server.protocol import Request, form, read_request, write_response

LIMIT = 2**20
# numpy's name -> the protocol's, struct's code, least and greatest integer
KINDS = {
    "bool": ("BOOL", "?", 0, 1),
    "uint8": ("UINT8", "B", 0, 2**8 - 1),
    "uint16": ("UINT16", "H", 0, 2**16 - 1),
    "uint32": ("UINT32", "I", 0, 2**32 - 1),
    "uint64": ("UINT64", "Q", 0, 2**64 - 1),
    "int8": ("INT8", "b", -(2**7), 2**7 - 1),
    "int16": ("INT16", "h", -(2**15), 2**15 - 1),
    "int32": ("INT32", "i", -(2**31), 2**31 - 1),
    "int64": ("INT64", "q", -(2**63), 2**63 - 1),
    "float16": ("FP16", "e", 0, 0),
    "float32": ("FP32", "f", 0, 0),
    "float64": ("FP64", "d", 0, 0),
}
IMAGE = [{"name": "image", "dtype": "uint8", "shape": ["batch", 2, 2]}]
TWO = [
    {"name": "text", "dtype": "int32", "shape": ["batch", "time"]},
    {"name": "state", "dtype": "float32", "shape": ["batch", 2]},
]


def values_of(dtype: str, finite: bool) -> st.SearchStrategy:
    if dtype == "bool":
        return st.booleans()
    if dtype.startswith("float"):
        width = int(dtype[5:])
        return st.floats(width=width, allow_nan=not finite, allow_infinity=not finite)  # type: ignore[arg-type]
    return st.integers(*KINDS[dtype][2:])


@st.composite
def tensors(draw: st.DrawFn, finite: bool) -> list[dict[str, Any]]:
    """Some tensors, each with its values in a row and whether it goes in binary; FP16 always does."""
    made = []
    for name in draw(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=3, unique=True)):
        dtype = draw(st.sampled_from(sorted(KINDS)))
        shape = draw(st.lists(st.integers(1, 3), max_size=4))
        binary = dtype == "float16" or draw(st.booleans())
        count = math.prod(shape)
        each = values_of(dtype, finite or not binary)
        values = draw(st.lists(each, min_size=count, max_size=count))
        made.append({"name": name, "dtype": dtype, "shape": shape, "values": values, "binary": binary})
    return made


def packed(tensor: dict[str, Any]) -> bytes:
    return struct.pack(f"<{len(tensor['values'])}{KINDS[tensor['dtype']][1]}", *tensor["values"])


def nested(values: list, shape: list[int]) -> list:
    if len(shape) < 2:
        return values
    step = len(values) // shape[0]
    return [nested(values[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]


def written(sent: list[dict[str, Any]], rows: bool = True, indent: int | None = None, **more: Any) -> tuple[int, bytes]:
    """A client's request: the length of its JSON, and its body."""
    inputs, blob = [], b""
    for tensor in sent:
        each = {key: tensor[key] for key in ("name", "shape")} | {"datatype": KINDS[tensor["dtype"]][0]}
        if tensor["binary"]:
            each["parameters"] = {"binary_data_size": len(packed(tensor))}
            blob += packed(tensor)
        else:
            each["data"] = tensor["values"] if rows else nested(tensor["values"], tensor["shape"])
        inputs.append(each)
    header = json.dumps({"inputs": inputs, **more}, indent=indent).encode()
    return len(header), header + blob


def read(length: int | None, body: bytes) -> dict[str, Any]:
    """A client's reading of a response: `values` in a row for each output."""
    response = json.loads(body[:length], parse_constant=pytest.fail)
    rest = body[len(body) if length is None else length :]
    code = {datatype: code for datatype, code, *_ in KINDS.values()}
    for output in response["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            output["values"] = output["data"]
        elif output["datatype"] == "BYTES":
            output["values"], part = [], rest[:size]
            while part:
                (chars,) = struct.unpack("<I", part[:4])
                output["values"].append(part[4 : 4 + chars].decode())
                part = part[4 + chars :]
        else:
            output["values"] = list(
                struct.unpack(f"<{math.prod(output['shape'])}{code[output['datatype']]}", rest[:size])
            )
        rest = rest[size or 0 :]
    assert not rest
    return response


def same(values: list, others: list) -> bool:
    """Equal, with NaN as NaN and -0.0 as it is."""
    return list(map(repr, values)) == list(map(repr, others))


@given(tensors(finite=False), st.booleans(), st.sampled_from([None, 1, 3]), st.data())
def test_what_a_client_wrote_is_read(sent: list[dict], rows: bool, indent: int | None, data: st.DataObject) -> None:
    length, body = written(sent, rows, indent)
    free = [
        [data.draw(st.sampled_from([size, f"{i} {j}"])) for j, size in enumerate(t["shape"])]
        for i, t in enumerate(sent)
    ]
    inputs = [{"name": t["name"], "dtype": t["dtype"], "shape": shape} for t, shape in zip(sent, free)]
    came = data.draw(st.sampled_from([length, b"%d" % length]))
    request = read_request(body, came, form(inputs[::-1]), LIMIT)
    assert list(request.inputs) == [tensor["name"] for tensor in sent]
    for tensor, array in zip(sent, request.inputs.values()):
        assert array.dtype == tensor["dtype"] and array.shape == tuple(tensor["shape"]) and array.flags.aligned
        assert same(array.ravel().tolist(), tensor["values"])


@given(tensors(finite=False), st.text(max_size=5), st.booleans(), st.data())
def test_what_is_answered_a_client_reads(made: list[dict], said: str, flip: bool, data: st.DataObject) -> None:
    answers = {}
    for tensor in made:
        array = np.array(tensor["values"], tensor["dtype"]).reshape(tensor["shape"])
        answers[tensor["name"]] = np.array(array, order="F" if flip else "C")
    wanted = data.draw(st.permutations(made))
    outputs = [{"name": tensor["name"], "parameters": {"binary_data": tensor["binary"]}} for tensor in wanted]
    more = {"id": said, "outputs": outputs, "parameters": {"binary_data_output": data.draw(st.booleans())}}
    request = read_request(json.dumps({"inputs": [], **more}).encode(), None, form([]), LIMIT)
    length, answer = write_response(answers, request, 'a "model"', "é")
    assert (length is None) == (not any(tensor["binary"] for tensor in made))
    response = read(length, answer)
    assert response["model_name"] == 'a "model"' and response["model_version"] == "é"
    assert response.get("id", "") == said
    for tensor, output in zip(wanted, response["outputs"], strict=True):
        assert (output["name"], output["shape"]) == (tensor["name"], tensor["shape"])
        assert output["datatype"] == KINDS[tensor["dtype"]][0]
        assert ("data" in output) != tensor["binary"]
        assert same(output["values"], tensor["values"])


def asked(**parts: Any) -> Request:
    return Request(**{"inputs": {}, "parameters": {}, "outputs": (), "binary": False, "top": {}, "id": ""} | parts)


def test_all_outputs_are_answered_where_none_is_named() -> None:
    answers = {"b": np.zeros((1, 2), np.float32), "a": np.arange(3)}
    body = json.dumps({"inputs": [], "outputs": []}).encode()
    length, answer = write_response(answers, read_request(body, None, form([]), LIMIT), "m", "1")
    assert length is None and [output["name"] for output in read(None, answer)["outputs"]] == ["b", "a"]
    body = json.dumps({"inputs": [], "parameters": {"binary_data_output": True}}).encode()
    length, answer = write_response(answers, read_request(body, None, form([]), LIMIT), "m", "1")
    assert [output["parameters"] for output in read(length, answer)["outputs"]] == [
        {"binary_data_size": 8},
        {"binary_data_size": 24},
    ]


def test_an_output_has_its_own_word_over_the_requests() -> None:
    named = [{"name": "a"}, {"name": "b", "parameters": {"binary_data": False}}]
    body = json.dumps({"inputs": [], "outputs": named, "parameters": {"binary_data_output": True}}).encode()
    request = read_request(body, None, form([]), LIMIT)
    response = read(*write_response({"a": np.arange(3), "b": np.arange(2)}, request, "m", "1"))
    assert [("data" in output, output["values"]) for output in response["outputs"]] == [
        (False, [0, 1, 2]),
        (True, [0, 1]),
    ]


def test_binary_is_a_view_where_it_lies_aligned_and_a_copy_where_not() -> None:
    views = []
    for spaces in range(4):
        sent = {"name": "state", "dtype": "float32", "shape": [1, 2], "values": [1.5, -2.0], "binary": True}
        length, body = written([sent], id=" " * spaces)
        state = read_request(body, length, form(TWO[1:]), LIMIT).inputs["state"]
        assert state.tolist() == [[1.5, -2.0]] and state.flags.aligned
        views.append(np.shares_memory(state, np.frombuffer(body, np.uint8)))
    assert sorted(views) == [False, False, False, True]
    length, body = written([{"name": "image", "dtype": "uint8", "shape": [1, 2, 2], "values": [1] * 4, "binary": True}])
    assert np.shares_memory(
        read_request(body, length, form(IMAGE), LIMIT).inputs["image"], np.frombuffer(body, np.uint8)
    )


# Bad requests


def tensor(**changes: Any) -> dict[str, Any]:
    made = {"name": "image", "shape": [1, 2, 2], "datatype": "UINT8", "data": [1, 2, 3, 4]} | changes
    return {key: value for key, value in made.items() if value is not ...}


def binary(size: Any, **changes: Any) -> dict[str, Any]:
    return tensor(data=..., parameters={"binary_data_size": size}, **changes)


def typed(datatype: str, data: Any) -> tuple[dict, list[dict]]:
    dtype = {row[0]: name for name, row in KINDS.items()}[datatype]
    return {"inputs": [{"name": "x", "shape": [2], "datatype": datatype, "data": data}]}, [
        {"name": "x", "dtype": dtype, "shape": [2]}
    ]


RANGE = "expected [batch, 2, 2]"
BAD: list[tuple[Any, str]] = [
    (tensor(name="img"), "inputs: name 'img', expected 'image'."),
    (tensor(name=["image"]), "inputs: name ['image'], expected 'image'."),
    (tensor(name=[[["é" * 500] * 9] * 9]), "ééé..., expected 'image'."),
    (tensor(name="a\nb\ud800"), "inputs: name 'a\\nb\\ud800', expected 'image'."),
    (tensor(name=...), "inputs: name None, expected 'image'."),
    ([], "inputs: without 'image', expected 'image'."),
    ([tensor(), tensor()], "input 'image': given twice, expected once."),
    ([7], "inputs: 7 in the list, expected objects."),
    ({"inputs": tensor()}, "expected a list of objects."),
    ({}, "inputs: None, expected a list of objects."),
    (b"[]", "JSON: [], expected an object."),
    (b'"a"', "JSON: 'a', expected an object."),
    (b"", "JSON: broken (Expecting value: line 1 column 1 (char 0)), expected one object in UTF-8."),
    (b'{"inputs": [}', "JSON: broken (Expecting value: line 1 column 13 (char 12))"),
    (b"{} {}", "JSON: broken (Extra data: line 1 column 4 (char 3))"),
    (b'\xff{"inputs": []}', "JSON: broken ('utf-8' codec can't decode byte 0xff in position 0: invalid start byte)"),
    (b'{"inputs": [], "inputs": []}', "JSON: key 'inputs' twice, expected once."),
    (tensor(datatype="FP32"), "input 'image': datatype 'FP32', expected UINT8."),
    (tensor(datatype="BYTES"), "input 'image': datatype 'BYTES', expected UINT8. Strings are not served."),
    (tensor(datatype={}), "input 'image': datatype {}, expected UINT8."),
    (tensor(shape=[1, 4]), f"input 'image': shape [1, 4], {RANGE}."),
    (tensor(shape=4), f"input 'image': shape 4, {RANGE}."),
    (tensor(shape=[1, 2, 3]), f"input 'image': shape [1, 2, 3], {RANGE}."),
    (tensor(shape=[0, 2, 2], data=[]), f"input 'image': shape [0, 2, 2], {RANGE}, integers from 1."),
    (tensor(shape=[-1, 2, 2]), f"shape [-1, 2, 2], {RANGE}, integers from 1."),
    (tensor(shape=[1.0, 2, 2]), f"shape [1.0, 2, 2], {RANGE}, integers from 1."),
    (tensor(shape=[True, 2, 2]), f"shape [True, 2, 2], {RANGE}, integers from 1."),
    (tensor(shape=["1", 2, 2]), f"shape ['1', 2, 2], {RANGE}, integers from 1."),
    (
        tensor(shape=[2**62, 2, 2]),
        "shape [4611686018427387904, 2, 2], expected no more values than the body has bytes, ",
    ),
    (tensor(shape=[10**4000, 2, 2]), "expected no more values than the body has bytes, "),
    (
        binary(0, shape=[2**62, 2, 2]),
        "shape [4611686018427387904, 2, 2], expected no more values than the body has bytes, ",
    ),
    (tensor(data=...), "input 'image': neither data nor binary_data_size, expected one of them."),
    (
        tensor(parameters={"binary_data_size": 4}),
        "input 'image': both data and binary_data_size, expected one of them.",
    ),
    (tensor(parameters=[]), "input 'image': parameters [], expected an object."),
    (tensor(data="1234"), "input 'image': data '1234', expected a list."),
    (tensor(data=[1, 2, 3]), "input 'image': 3 values in data, expected 4 for the shape [1, 2, 2]."),
    (tensor(data=[]), "input 'image': data not nested as the shape [1, 2, 2], expected so, or 4 in a row."),
    (tensor(data=[[1, 2], [3, 4]]), "input 'image': data not nested as the shape [1, 2, 2]"),
    (tensor(data=[[[1, 2], [3]]]), "input 'image': data not nested as the shape [1, 2, 2]"),
    (tensor(data=[[[1, 2], 3]]), "input 'image': data not nested as the shape [1, 2, 2]"),
    (tensor(data=[[[1, 2], [3, [4]]]]), "input 'image': data[3] is [4], expected an integer from 0 to 255."),
    (tensor(data=[1, 2, 3, [4]]), "input 'image': data[3] is [4], expected an integer from 0 to 255."),
    (tensor(data=[1, 2, 256, 4]), "input 'image': data[2] is 256, expected an integer from 0 to 255."),
    (tensor(data=[1, -1, 3, 4]), "input 'image': data[1] is -1, expected an integer from 0 to 255."),
    (tensor(data=[1.0, 2, 3, 4]), "input 'image': data[0] is 1.0, expected an integer from 0 to 255."),
    (tensor(data=[1, 2, 3, "4"]), "input 'image': data[3] is '4', expected an integer from 0 to 255."),
    (tensor(data=[1, True, 3, 4]), "input 'image': data[1] is True, expected an integer from 0 to 255."),
    (tensor(data=[1, None, 3, 4]), "input 'image': data[1] is None, expected an integer from 0 to 255."),
    (typed("BOOL", [True, 1]), "input 'x': data[1] is 1, expected true or false."),
    (typed("INT64", [0, 2**63]), "data[1] is 9223372036854775808, expected an integer from -9223372036854775808 to 9"),
    (
        typed("UINT64", [2**64, 0]),
        "data[0] is 18446744073709551616, expected an integer from 0 to 18446744073709551615.",
    ),
    (typed("FP16", [1, 2]), "input 'x': FP16 in JSON, expected in binary (binary_data_size)"),
    (
        typed("FP32", [1, 1e39]),
        "input 'x': data[1] is 1e+39, expected a number from -3.4028234663852886e+38 to 3.402823",
    ),
    (typed("FP64", [10**400, 0]), "input 'x': data[0] is 100000000000000000...0000000000000000000, expected a number"),
    (typed("FP64", [True, 0]), "input 'x': data[0] is True, expected a number from -1.79769"),
    (b'{"inputs": [NaN]}', "JSON: NaN, expected a number that JSON has. Send such values in binary."),
    (b'{"inputs": [-Infinity]}', "JSON: -Infinity, expected a number that JSON has."),
    ({"inputs": [tensor()], "id": 7}, "id: 7, expected a string."),
    ({"inputs": [tensor()], "parameters": 7}, "request: parameters 7, expected an object."),
    (
        {"inputs": [tensor()], "parameters": {"binary_data_output": 1}},
        "request: binary_data_output 1, expected true or false.",
    ),
    ({"inputs": [tensor()], "outputs": "y"}, "outputs: 'y', expected a list of objects."),
    ({"inputs": [tensor()], "outputs": [{"name": 1}]}, "outputs: name 1, expected a string."),
    ({"inputs": [tensor()], "outputs": [{"name": "y"}] * 2}, "output 'y': asked for twice, expected once."),
    (
        {"inputs": [tensor()], "outputs": [{"name": "y", "parameters": {"binary_data": "yes"}}]},
        "output 'y': binary_data 'yes', expected true or false.",
    ),
    (
        {"inputs": [tensor()], "outputs": [{"name": "y", "parameters": {"classification": 0}}]},
        "output 'y': classification 0, expected how many classes, from 1.",
    ),
]


def as_body(part: Any) -> bytes:
    if isinstance(part, bytes):
        return part
    if isinstance(part, dict) and "datatype" not in part and "shape" not in part:
        return json.dumps(part).encode()
    return json.dumps({"inputs": part if isinstance(part, list) else [part]}).encode()


@pytest.mark.parametrize(("part", "message"), BAD, ids=range(len(BAD)))
def test_a_bad_request_is_refused_in_one_line(part: Any, message: str) -> None:
    part, inputs = part if isinstance(part, tuple) else (part, IMAGE)
    with pytest.raises(Refused, match=re.escape(message)) as refused:
        read_request(as_body(part), None, form(inputs), LIMIT)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


HEADER = as_body(binary(4))


@pytest.mark.parametrize(
    ("body", "length", "message"),
    [
        (HEADER + b"1234", b"12a", "Inference-Header-Content-Length: '12a', expected a number from 0 to the body's "),
        (HEADER + b"1234", b"", "Inference-Header-Content-Length: '', expected a number"),
        (HEADER + b"1234", b"1_0", "Inference-Header-Content-Length: '1_0', expected a number"),
        (HEADER + b"1234", b"9" * 5000, "Inference-Header-Content-Length: '9999"),
        (HEADER + b"1234", -1, "Inference-Header-Content-Length: -1, expected a number"),
        (HEADER, len(HEADER) + 1, f"Inference-Header-Content-Length: {len(HEADER) + 1}, expected a number"),
        (HEADER + b"1234", 0, "JSON: broken"),
        (HEADER + b"1234", len(HEADER) - 1, "JSON: broken"),
        (HEADER + b"1234", None, "JSON: broken (Extra data"),
        (
            HEADER,
            None,
            "input 'image': 0 bytes of binary data are left after the JSON and the inputs before, expected 4.",
        ),
        (HEADER + b"123", len(HEADER), "input 'image': 3 bytes of binary data are left after the JSON"),
        (HEADER + b"12345", len(HEADER), "body: 1 bytes left over after the last input, expected none."),
        (as_body(tensor()) + b"1", len(as_body(tensor())), "body: 1 bytes left over after the last input"),
        *(
            (
                as_body(binary(size)) + b"1234",
                len(as_body(binary(size))),
                f"input 'image': binary_data_size {size!r}, expected 4 for the shape [1, 2, 2].",
            )
            for size in (3, 5, -4, 0, 4.0, "4", True, 2**70)
        ),
        (b"x" * (LIMIT + 1), None, f"body: {LIMIT + 1} bytes, expected at most {LIMIT}. Send a smaller batch."),
    ],
)
def test_a_bad_frame_is_refused(body: bytes, length: Any, message: str) -> None:
    with pytest.raises(Refused, match=re.escape(message)):
        read_request(body, length, form(IMAGE), LIMIT)


def test_a_byte_that_is_no_boolean_is_refused() -> None:
    header = as_body(binary(2, shape=[2], datatype="BOOL"))
    inputs = [{"name": "image", "dtype": "bool", "shape": ["n"]}]
    with pytest.raises(Refused, match="input 'image': a byte 2, expected 0 or 1 for BOOL"):
        read_request(header + b"\x01\x02", len(header), form(inputs), LIMIT)


def test_a_free_axis_has_one_size_in_all_inputs() -> None:
    sent = [
        {"name": "text", "dtype": "int32", "shape": [2, 3], "values": [0] * 6, "binary": False},
        {"name": "state", "dtype": "float32", "shape": [3, 2], "values": [0.0] * 6, "binary": True},
    ]
    length, body = written(sent)
    with pytest.raises(
        Refused, match=re.escape("'state': shape [3, 2], expected [batch, 2]; batch is 2 in another axis.")
    ):
        read_request(body, length, form(TWO), LIMIT)
    length, body = written(sent[:1])
    with pytest.raises(Refused, match="inputs: without 'state', expected 'state', 'text'"):
        read_request(body, length, form(TWO), LIMIT)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"inputs":' + b"[" * 200_000, "JSON: nested too deep"),
        (b'{"inputs":' * 50_000, "JSON: nested too deep"),
        (b'{"inputs":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "JSON: nested too deep"),
        (b'{"inputs":' + b"[" * 300 + b"]" * 300 + b"}", "inputs: [[[[...]]]] in the list, expected objects."),
        (b'{"inputs":' + b"9" * 500_000 + b"}", "JSON: broken (Exceeds the limit (4300 digits)"),
        (b'{"inputs":' + b"9" * 4000 + b"}", "expected a list of objects."),
        (as_body(typed("FP32", [1, 2])[0]).replace(b"2]}", b"1e999]}"), "data[1] is inf, expected a number from -3.40"),
        (as_body(typed("FP32", [1, 2])[0]).replace(b"2]}", b"9" * 4000 + b"]}"), "data[1] is 99999"),
    ],
)
def test_deep_json_and_huge_numbers_are_refused(body: bytes, message: str) -> None:
    with pytest.raises(Refused, match=re.escape(message)):
        read_request(body, None, form(typed("FP32", [])[1]), LIMIT)


def test_random_bytes_raise_nothing_but_refused() -> None:
    """Noise, and good requests with some bytes changed, cut or put twice; some of the latter are still good."""
    draw = random.Random(0)
    good = [
        written(
            [
                {"name": "text", "dtype": "int32", "shape": [2, 1], "values": [5, -6], "binary": first},
                {
                    "name": "state",
                    "dtype": "float32",
                    "shape": [2, 2],
                    "values": [0.5, 1.0, -2.0, 3.0],
                    "binary": second,
                },
            ],
            id="a",
            outputs=[{"name": "y", "parameters": {"binary_data": True}}],
        )
        for first in (True, False)
        for second in (True, False)
    ]
    read_well = 0
    for turn in range(6000):
        length, body = draw.choice(good)
        changed = bytearray(body)
        if turn % 3 == 0:
            changed = bytearray(draw.randbytes(draw.randrange(60)))
        for _ in range(draw.randrange(3)):
            start = draw.randrange(len(changed) + 1)
            piece = draw.choice([draw.randbytes(1), b"9", b"]", b'"', b"-", b"e9", changed[start : start + 9], b""])
            changed[start : start + draw.randrange(3)] = piece
        try:
            request = read_request(
                bytes(changed), draw.choice([None, length, length, length, b"x", 7]), form(TWO), LIMIT
            )
        except Refused as refused:
            assert "\n" not in str(refused) and len(str(refused)) < 400
        else:
            read_well += 1
            batch, time = request.inputs["text"].shape
            assert request.inputs["state"].shape == (batch, 2) and batch * time * 4 <= len(changed) * 4
    assert 500 < read_well < 5000


@pytest.mark.parametrize(
    ("body", "most"),
    [
        (b'{"inputs":[' + b",".join([b"{}"] * 300_000) + b"]}", 32),
        (b'{"inputs":[{"name":' + b",".join([b"[]"] * 300_000) + b"]}]}", 32),
        (
            b'{"inputs":[{"name":"x","datatype":"FP32","shape":[400000],"data":['
            + b",".join([b"1"] * 400_000)
            + b"]}]}",
            32,
        ),
        (as_body({"inputs": [{"name": "x", "datatype": "FP32", "shape": [2**40]} | {"data": [1]}]}).ljust(LIMIT), 4),
    ],
)
def test_memory_is_bounded_by_the_bodys_size(body: bytes, most: int) -> None:
    tracemalloc.start()
    try:
        read_request(body, None, form([{"name": "x", "dtype": "float32", "shape": ["n"]}]), LIMIT)
    except Refused:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < most * len(body)


# Answers


@pytest.mark.parametrize(
    ("answer", "parts", "message"),
    [
        (np.ones(2, np.float32), {"outputs": ("z",)}, "outputs: name 'z', expected 'y'."),
        (np.ones(2, np.float16), {}, "output 'y': FP16 in JSON, expected in binary (binary_data)"),
        (
            np.array([1, np.nan], np.float32),
            {},
            "output 'y': value 1 is nan, which JSON does not have, expected a number.",
        ),
        (np.array([[1, 2], [np.inf, 0]]), {}, "output 'y': value 2 is inf, which JSON does not have"),
        (np.ones(2, complex), {"binary": True}, "output 'y': complex128, for which the protocol has no datatype."),
        (np.ones((1, 2)), {"top": {"y": 3}}, "output 'y': classification 3, expected at most 2, its classes."),
        (np.ones(()), {"top": {"y": 1}}, "output 'y': classification 1, expected at most 0, its classes."),
        (np.array([[1, np.nan]]), {"top": {"y": 1}}, "output 'y': NaN among the classes, expected numbers"),
    ],
)
def test_an_answer_that_cannot_be_said_is_refused(answer: np.ndarray, parts: dict, message: str) -> None:
    with pytest.raises(Refused, match=re.escape(message)):
        write_response({"y": answer}, asked(**parts), "m", "1")


@given(
    st.integers(1, 3),
    st.lists(st.lists(st.integers(-3, 3), min_size=4, max_size=4), min_size=1, max_size=3),
    st.booleans(),
)
def test_the_best_classes_come_first_and_of_equal_ones_the_first(
    count: int, rows: list[list[int]], binary: bool
) -> None:
    labels = ["apple", "é", "a:b", ""]
    for classes, label in ((labels, [f":{name}" for name in labels]), ((), [""] * 4), (labels[:2], [""] * 4)):
        request = asked(outputs=("y",), binary=frozenset({"y"} if binary else ()), top={"y": count})
        response = read(*write_response({"y": np.array(rows, np.int8)}, request, "m", "1", classes))
        (output,) = response["outputs"]
        best = [sorted(range(4), key=lambda place: (-row[place], place))[:count] for row in rows]
        assert output["values"] == [f"{row[i]}:{i}{label[i]}" for row, places in zip(rows, best) for i in places]
        assert output["shape"] == [len(rows), count] and output["datatype"] == "BYTES"


def test_a_class_as_the_extensions_document_has_it() -> None:
    answer = np.array([1.1, 3.3, 0.5, 2.4], np.float32)
    body = as_body({"inputs": [], "outputs": [{"name": "y", "parameters": {"classification": 2}}]})
    response = read(*write_response({"y": answer}, read_request(body, None, form([]), LIMIT), "m", "1"))
    assert response["outputs"][0]["data"] == ["3.3:1", "2.4:3"] and response["outputs"][0]["shape"] == [2]
