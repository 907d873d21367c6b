"""gRPC through a real client, against the run itself, the HTTP side's words, and the names that tritonclient knows."""

import asyncio
import gc
import re
import struct
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from time import sleep
from typing import Any

import grpc
import numpy as np
import pytest
import uvloop
from conftest import NAME, ROOT
from google.protobuf.json_format import MessageToDict
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.contract import Bundle, load_examples
from deploy.errors import Refused
from deploy.runtimes import open_onnxruntime
from deploy.server import inference_pb2 as pb
from deploy.server import rpc as rpc_module
from deploy.server.app import Application
from deploy.server.gate import Gate
from deploy.server.messages import read_message
from deploy.server.metadata import model_metadata, server_metadata
from deploy.server.model import Model, open_models
from deploy.server.protocol import form, read_request
from deploy.server.repository import Entry, Limits, Repository
from deploy.server.rpc import SERVICE, Rpc, start_rpc
from deploy.state import from_zero

# As tritonclient 2.73.0 has them: message, and of each field its name, number, label, type and `oneof`.
FIELDS = """
ServerLiveRequest:
ServerLiveResponse: live 1 optional bool
ServerReadyRequest:
ServerReadyResponse: ready 1 optional bool
ModelReadyRequest: name 1 optional string, version 2 optional string
ModelReadyResponse: ready 1 optional bool
ServerMetadataRequest:
ServerMetadataResponse: name 1 optional string, version 2 optional string, extensions 3 repeated string
ModelMetadataRequest: name 1 optional string, version 2 optional string
ModelMetadataResponse: name 1 optional string, versions 2 repeated string, platform 3 optional string, inputs 4 repeated .inference.ModelMetadataResponse.TensorMetadata, outputs 5 repeated .inference.ModelMetadataResponse.TensorMetadata
ModelMetadataResponse.TensorMetadata: name 1 optional string, datatype 2 optional string, shape 3 repeated int64
InferParameter: bool_param 1 optional bool of parameter_choice, int64_param 2 optional int64 of parameter_choice, string_param 3 optional string of parameter_choice, double_param 4 optional double of parameter_choice, uint64_param 5 optional uint64 of parameter_choice
InferTensorContents: bool_contents 1 repeated bool, int_contents 2 repeated int32, int64_contents 3 repeated int64, uint_contents 4 repeated uint32, uint64_contents 5 repeated uint64, fp32_contents 6 repeated float, fp64_contents 7 repeated double, bytes_contents 8 repeated bytes
ModelInferRequest: model_name 1 optional string, model_version 2 optional string, id 3 optional string, parameters 4 repeated .inference.ModelInferRequest.ParametersEntry, inputs 5 repeated .inference.ModelInferRequest.InferInputTensor, outputs 6 repeated .inference.ModelInferRequest.InferRequestedOutputTensor, raw_input_contents 7 repeated bytes
ModelInferRequest.InferInputTensor: name 1 optional string, datatype 2 optional string, shape 3 repeated int64, parameters 4 repeated .inference.ModelInferRequest.InferInputTensor.ParametersEntry, contents 5 optional .inference.InferTensorContents
ModelInferRequest.InferInputTensor.ParametersEntry: key 1 optional string, value 2 optional .inference.InferParameter
ModelInferRequest.InferRequestedOutputTensor: name 1 optional string, parameters 2 repeated .inference.ModelInferRequest.InferRequestedOutputTensor.ParametersEntry
ModelInferRequest.InferRequestedOutputTensor.ParametersEntry: key 1 optional string, value 2 optional .inference.InferParameter
ModelInferRequest.ParametersEntry: key 1 optional string, value 2 optional .inference.InferParameter
ModelInferResponse: model_name 1 optional string, model_version 2 optional string, id 3 optional string, parameters 4 repeated .inference.ModelInferResponse.ParametersEntry, outputs 5 repeated .inference.ModelInferResponse.InferOutputTensor, raw_output_contents 6 repeated bytes
ModelInferResponse.InferOutputTensor: name 1 optional string, datatype 2 optional string, shape 3 repeated int64, parameters 4 repeated .inference.ModelInferResponse.InferOutputTensor.ParametersEntry, contents 5 optional .inference.InferTensorContents
ModelInferResponse.InferOutputTensor.ParametersEntry: key 1 optional string, value 2 optional .inference.InferParameter
ModelInferResponse.ParametersEntry: key 1 optional string, value 2 optional .inference.InferParameter
ModelStreamInferResponse: error_message 1 optional string, infer_response 2 optional .inference.ModelInferResponse
ModelRepositoryParameter: bool_param 1 optional bool of parameter_choice, int64_param 2 optional int64 of parameter_choice, string_param 3 optional string of parameter_choice, bytes_param 4 optional bytes of parameter_choice
RepositoryIndexRequest: repository_name 1 optional string, ready 2 optional bool
RepositoryIndexResponse: models 1 repeated .inference.RepositoryIndexResponse.ModelIndex
RepositoryIndexResponse.ModelIndex: name 1 optional string, version 2 optional string, state 3 optional string, reason 4 optional string
RepositoryModelLoadRequest: repository_name 1 optional string, model_name 2 optional string, parameters 3 repeated .inference.RepositoryModelLoadRequest.ParametersEntry
RepositoryModelLoadRequest.ParametersEntry: key 1 optional string, value 2 optional .inference.ModelRepositoryParameter
RepositoryModelLoadResponse:
RepositoryModelUnloadRequest: repository_name 1 optional string, model_name 2 optional string, parameters 3 repeated .inference.RepositoryModelUnloadRequest.ParametersEntry
RepositoryModelUnloadRequest.ParametersEntry: key 1 optional string, value 2 optional .inference.ModelRepositoryParameter
RepositoryModelUnloadResponse:
"""
# Call, what it takes and gives, and whether either is a stream.
CALLS = """
ServerLive .inference.ServerLiveRequest .inference.ServerLiveResponse False False
ServerReady .inference.ServerReadyRequest .inference.ServerReadyResponse False False
ModelReady .inference.ModelReadyRequest .inference.ModelReadyResponse False False
ServerMetadata .inference.ServerMetadataRequest .inference.ServerMetadataResponse False False
ModelMetadata .inference.ModelMetadataRequest .inference.ModelMetadataResponse False False
ModelInfer .inference.ModelInferRequest .inference.ModelInferResponse False False
ModelStreamInfer .inference.ModelInferRequest .inference.ModelStreamInferResponse True True
RepositoryIndex .inference.RepositoryIndexRequest .inference.RepositoryIndexResponse False False
RepositoryModelLoad .inference.RepositoryModelLoadRequest .inference.RepositoryModelLoadResponse False False
RepositoryModelUnload .inference.RepositoryModelUnloadRequest .inference.RepositoryModelUnloadResponse False False
"""
# numpy's name -> the protocol's, struct's code, the field of typed contents, least and greatest
KINDS = {
    "bool": ("BOOL", "?", "bool_contents", 0, 1),
    "uint8": ("UINT8", "B", "uint_contents", 0, 2**8 - 1),
    "uint16": ("UINT16", "H", "uint_contents", 0, 2**16 - 1),
    "uint32": ("UINT32", "I", "uint_contents", 0, 2**32 - 1),
    "uint64": ("UINT64", "Q", "uint64_contents", 0, 2**64 - 1),
    "int8": ("INT8", "b", "int_contents", -(2**7), 2**7 - 1),
    "int16": ("INT16", "h", "int_contents", -(2**15), 2**15 - 1),
    "int32": ("INT32", "i", "int_contents", -(2**31), 2**31 - 1),
    "int64": ("INT64", "q", "int64_contents", -(2**63), 2**63 - 1),
    "float16": ("FP16", "e", None, 0, 0),
    "float32": ("FP32", "f", "fp32_contents", 0, 0),
    "float64": ("FP64", "d", "fp64_contents", 0, 0),
}
LIMITS = Limits(waiting=4, body_bytes=100_000, held_bytes=1_000_000, idle_s=30.0)
TOKEN = "to be let in"
Code = grpc.StatusCode


def tensor(name: str, dtype: str, *shape: int | str) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": list(shape)}


def model(name: str, inputs: list[dict], outputs: list[dict], run: Callable, seconds: float = 0.0) -> Model:
    """A model that was never a file."""
    states = tuple(t["name"] for t in inputs if f"next_{t['name']}" in {o["name"] for o in outputs})
    return Model(
        name=name,
        version="1",
        recipe=name,
        precision="fp32",
        task="classification",
        classes=("low", "middle", "high"),
        inputs=inputs,
        outputs=outputs,
        states=states,
        form=form(inputs, states, {"batch": (1, 2, 64)}),
        run=from_zero(run, {"inputs": inputs, "outputs": outputs}),
        rows=64,
        joined=False,
        seconds=seconds,
        seconds_row=0.0,
        stretches=(),
        sha256={},
        largest={},
    )


class Latch:
    """A model's run that goes on when it is let."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.runs = 0

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.runs += 1
        self.entered.set()
        assert self.open.wait(20)
        return {"y": inputs["x"]}


def summed(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    total = inputs["state"] + inputs["x"]
    return {"y": total, "next_state": total}


def failing(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    raise ValueError("a secret")


X, Y = tensor("x", "float64", "batch"), tensor("y", "float64", "batch")
EVERY = [tensor(dtype, dtype, "batch", 3) for dtype in KINDS]


class Place:
    """A server in a thread of its own, and a client."""

    def __init__(self, folders: list[Path], token: str = "", tls: tuple[bytes, bytes] | None = None) -> None:
        self.loop = uvloop.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.repository = self.do(self._repository(folders))
        self.application = Application(self.repository, Gate(LIMITS, token), "cpu", {})
        self.application.accepting = True
        self.rpc: Rpc = self.do(start_rpc(self.application, "127.0.0.1", 0, tls))
        self.address = f"127.0.0.1:{self.rpc.port}"
        self.channel = grpc.insecure_channel(self.address)

    async def _repository(self, folders: list[Path]) -> Repository:
        made = Repository(folders, "cpu", LIMITS)
        await made.load_all()
        return made

    def do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def serve(self, one: Model) -> Any:
        """What is served as ``one``, anew."""

        async def there() -> Any:
            served = self.repository._serve(one)
            self.repository.entries[one.name] = Entry(Path(), "fp32", served)
            return served

        return self.do(there())

    def gated(self) -> tuple[Latch, Any]:
        gate = Latch()
        made = model("gated", [X], [Y], gate.run, seconds=1.0)
        return gate, self.serve(replace(made, version=str(id(gate))))  # another, so that its counts begin at 0

    def call(self, name: str, **of: Any) -> grpc.UnaryUnaryMultiCallable:
        answer = getattr(pb, f"{name}Response")
        return (of.pop("channel", None) or self.channel).unary_unary(
            f"/{SERVICE}/{name}", lambda message: message.SerializeToString(), answer.FromString
        )

    def ask(self, name: str, message: Any = None, **of: Any) -> Any:
        return self.call(name)(getattr(pb, f"{name}Request")() if message is None else message, timeout=30, **of)

    def infer(self, message: Any, **of: Any) -> Any:
        return self.ask("ModelInfer", message, **of)

    def stream(self, messages: Iterator[Any], **of: Any) -> Any:
        return self.channel.stream_stream(
            f"/{SERVICE}/ModelStreamInfer",
            lambda message: message.SerializeToString(),
            pb.ModelStreamInferResponse.FromString,
        )(messages, timeout=30, **of)

    def close(self) -> None:
        self.channel.close()
        self.do(self.rpc.stop(5))
        assert self.application.gate.held == 0
        self.repository.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


@pytest.fixture(scope="module")
def place(bundle: Bundle) -> Iterator[Place]:
    made = Place([bundle.folder])
    made.serve(model("every", EVERY, EVERY, lambda inputs: {name: a[:, ::-1] for name, a in inputs.items()}))
    made.serve(
        model("sum", [X, tensor("state", "float64", "batch")], [Y, tensor("next_state", "float64", "batch")], summed)
    )
    made.serve(model("failing", [X], [Y], failing))
    made.serve(model("same", [X], [Y], lambda inputs: {"y": inputs["x"]}))
    yield made
    made.close()


def packed(dtype: str, values: list) -> bytes:
    return struct.pack(f"<{len(values)}{KINDS[dtype][1]}", *values)


def unpacked(dtype: str, raw: bytes) -> list:
    code = KINDS[dtype][1]
    return list(struct.unpack(f"<{len(raw) // struct.calcsize(code)}{code}", raw))


def asked(name: str, *sent: tuple[str, str, list[int], list], raw: bool = True, **parameters: Any) -> Any:
    """A request: input, dtype, shape and values each."""
    message = pb.ModelInferRequest(model_name=name)
    for label, dtype, shape, values in sent:
        each = message.inputs.add(name=label, datatype=KINDS[dtype][0], shape=shape)
        if raw:
            message.raw_input_contents.append(packed(dtype, values))
        else:
            getattr(each.contents, KINDS[dtype][2]).extend(values)
    for key, value in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}[type(value)]
        setattr(message.parameters[key], kind, value)
    return message


def one(name: str, *values: float, **parameters: Any) -> Any:
    return asked(name, ("x", "float64", [len(values)], list(values)), **parameters)


def refused(work: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        work()
    return caught.value.code(), caught.value.details()


def until(so: Callable[[], Any]) -> None:
    for _ in range(500):
        if so():
            return
        sleep(0.01)
    pytest.fail("it never came")


def described(kind: Any) -> Iterator[tuple[str, str]]:
    fields = []
    for field in sorted(kind.fields, key=lambda field: field.number):
        label = "repeated" if field.is_repeated else "optional"
        code = next(
            name for name, value in vars(type(field)).items() if name.startswith("TYPE_") and value == field.type
        )
        typed = f".{field.message_type.full_name}" if field.message_type else code.removeprefix("TYPE_").lower()
        choice = f" of {field.containing_oneof.name}" if field.containing_oneof else ""
        fields.append(f"{field.name} {field.number} {label} {typed}{choice}")
    yield kind.full_name.removeprefix("inference."), ", ".join(fields)
    for inner in kind.nested_types:
        yield from described(inner)


def test_names_and_numbers_are_what_tritonclient_knows() -> None:
    theirs = {line.split(":")[0]: line.partition(": ")[2] for line in FIELDS.split("\n") if line}
    ours = dict(pair for kind in pb.DESCRIPTOR.message_types_by_name.values() for pair in described(kind))
    assert ours == theirs
    calls = [
        f"{call.name} .{call.input_type.full_name} .{call.output_type.full_name} "
        f"{call.client_streaming} {call.server_streaming}"
        for call in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
    ]
    assert sorted(calls) == sorted(CALLS.split("\n")[1:-1])


def test_what_is_committed_is_made_of_the_proto(tmp_path: Path) -> None:
    folder = ROOT / "deploy/server"
    made = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        "-I",
        folder,
        f"--python_out={tmp_path}",
        folder / "inference.proto",
    ]
    subprocess.run(made, check=True)
    assert (tmp_path / "inference_pb2.py").read_text() == (folder / "inference_pb2.py").read_text()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("raw", [True, False])
def test_answers_are_those_of_the_run(place: Place, bundle: Bundle, precision: str, raw: bool) -> None:
    images = load_examples(bundle, "test")["image"][:5]
    served = open_models(bundle, "cpu", precision)[0]
    values = images.ravel().tolist()
    said = place.infer(asked(f"{NAME}-{precision}", ("image", "uint8", list(images.shape), values), raw=raw))
    (output,) = said.outputs
    assert (said.model_name, said.model_version) == (f"{NAME}-{precision}", bundle.sha256[:12])
    assert (output.name, output.datatype, list(output.shape)) == ("logits", "FP32", [5, 10])
    answer = np.frombuffer(said.raw_output_contents[0], "<f4").reshape(5, 10)
    np.testing.assert_array_equal(answer, served.run({"image": images})["logits"])
    if precision == "fp32":
        run = open_onnxruntime(bundle.path(bundle.graphs["fp32"]["network"]))
        np.testing.assert_array_equal(answer, run({"image": images})["logits"])


def values_of(dtype: str) -> st.SearchStrategy:
    if dtype == "bool":
        return st.booleans()
    if dtype.startswith("float"):
        return st.floats(width=int(dtype[5:]))  # type: ignore[arg-type]
    return st.integers(*KINDS[dtype][3:])


@settings(deadline=None)
@given(st.data(), st.integers(1, 3), st.permutations(sorted(KINDS)), st.booleans())
def test_every_datatype_goes_there_and_back(
    place: Place, data: st.DataObject, rows: int, order: list[str], raw: bool
) -> None:
    values = {d: data.draw(st.lists(values_of(d), min_size=3 * rows, max_size=3 * rows)) for d in order}
    if not raw:
        typed = [d for d in order if d != "float16"]
        message = asked("every", *((d, d, [rows, 3], values[d]) for d in typed), raw=False)
        parsed = pb.ModelInferRequest.FromString(message.SerializeToString())
        arrays = read_message(parsed, parsed.ByteSize(), form([t for t in EVERY if t["name"] in typed])).inputs
        assert {d: repr(a.ravel().tolist()) for d, a in arrays.items()} == {d: repr(values[d]) for d in typed}
        assert all(a.dtype == d and a.shape == (rows, 3) and a.flags.aligned for d, a in arrays.items())
        return
    message = asked("every", *((d, d, [rows, 3], values[d]) for d in order))
    wanted = data.draw(st.lists(st.sampled_from(order), unique=True))
    for name in wanted:
        message.outputs.add(name=name)
    message.id = data.draw(st.text(max_size=5))
    said = place.infer(message)
    assert said.id == message.id
    assert [output.name for output in said.outputs] == (wanted or order)
    for output, answer in zip(said.outputs, said.raw_output_contents, strict=True):
        dtype = output.name
        assert output.datatype == KINDS[dtype][0] and list(output.shape) == [rows, 3]
        turned = [value for row in range(rows) for value in values[dtype][3 * row : 3 * row + 3][::-1]]
        assert repr(unpacked(dtype, answer)) == repr(turned)


def test_classes_are_counted_strings(place: Place) -> None:
    message = asked("every", *((d, d, [2, 3], [0, 1, 0, 1, 0, 0]) for d in KINDS))
    message.outputs.add(name="uint8").parameters["classification"].int64_param = 2
    said = place.infer(message)
    assert said.outputs[0].datatype == "BYTES" and list(said.outputs[0].shape) == [2, 2]
    strings, rest = [], said.raw_output_contents[0]
    while rest:
        (size,) = struct.unpack("<I", rest[:4])
        strings.append(rest[4 : 4 + size].decode())
        rest = rest[4 + size :]
    assert strings == ["1:1:middle", "0:0:low", "1:2:high", "0:0:low"]


def changed(change: Callable[[Any], Any]) -> Any:
    message = one("same", 1.0, 2.0)
    change(message)
    return message


REFUSALS = {
    "no such model": (lambda m: setattr(m, "model_name", "other"), Code.NOT_FOUND, "model 'other': unknown"),
    "no such version": (lambda m: setattr(m, "model_version", "7"), Code.NOT_FOUND, "version '7', expected 1."),
    "no inputs": (
        lambda m: [m.ClearField("inputs"), m.ClearField("raw_input_contents")],
        Code.INVALID_ARGUMENT,
        "inputs: without 'x', expected 'x'.",
    ),
    "another name": (
        lambda m: setattr(m.inputs[0], "name", "z"),
        Code.INVALID_ARGUMENT,
        "inputs: name 'z', expected 'x'.",
    ),
    "another datatype": (
        lambda m: setattr(m.inputs[0], "datatype", "FP32"),
        Code.INVALID_ARGUMENT,
        "input 'x': datatype 'FP32', expected FP64.",
    ),
    "strings": (lambda m: setattr(m.inputs[0], "datatype", "BYTES"), Code.INVALID_ARGUMENT, "Strings are not served."),
    "rank": (
        lambda m: m.inputs[0].shape.append(1),
        Code.INVALID_ARGUMENT,
        r"input 'x': shape \[2, 1\], expected \[batch\].",
    ),
    "negative": (lambda m: m.inputs[0].shape.__setitem__(0, -1), Code.INVALID_ARGUMENT, "integers from 1."),
    "too many": (lambda m: m.inputs[0].shape.__setitem__(0, 65), Code.INVALID_ARGUMENT, "batch from 1 to 64."),
    "twice": (
        lambda m: [m.inputs.append(m.inputs[0]), m.raw_input_contents.append(b"")],
        Code.INVALID_ARGUMENT,
        "input 'x': given twice",
    ),
    "too few bytes": (
        lambda m: m.raw_input_contents.__setitem__(0, b"1234567"),
        Code.INVALID_ARGUMENT,
        "input 'x': 7 bytes in raw_input_contents, expected 16 for the shape",
    ),
    "one raw too many": (
        lambda m: m.raw_input_contents.append(b""),
        Code.INVALID_ARGUMENT,
        "raw_input_contents: 2, expected 1",
    ),
    "neither": (
        lambda m: m.ClearField("raw_input_contents"),
        Code.INVALID_ARGUMENT,
        "input 'x': 0 values in fp64_contents, expected 2",
    ),
    "both": (
        lambda m: m.inputs[0].contents.fp64_contents.extend([1, 2]),
        Code.INVALID_ARGUMENT,
        "input 'x': both contents and raw_input_contents",
    ),
    "another field": (
        lambda m: [m.ClearField("raw_input_contents"), m.inputs[0].contents.fp32_contents.append(1)],
        Code.INVALID_ARGUMENT,
        "input 'x': fp32_contents, expected fp64_contents for FP64.",
    ),
    "shared memory": (
        lambda m: [
            m.ClearField("raw_input_contents"),
            setattr(m.inputs[0].parameters["shared_memory_region"], "string_param", "a"),
        ],
        Code.INVALID_ARGUMENT,
        "input 'x': in shared memory",
    ),
    "no such output": (lambda m: m.outputs.add(name="z"), Code.INVALID_ARGUMENT, "outputs: name 'z', expected 'y'."),
    "an output twice": (
        lambda m: [m.outputs.add(name="y"), m.outputs.add(name="y")],
        Code.INVALID_ARGUMENT,
        "output 'y': asked for twice",
    ),
    "no classes": (
        lambda m: setattr(m.outputs.add(name="y").parameters["classification"], "int64_param", 0),
        Code.INVALID_ARGUMENT,
        "output 'y': classification 0, expected how many classes, from 1.",
    ),
    "too many classes": (
        lambda m: setattr(m.outputs.add(name="y").parameters["classification"], "int64_param", 3),
        Code.INVALID_ARGUMENT,
        "output 'y': classification 3, expected at most 2",
    ),
    "a parameter without a value": (
        lambda m: m.parameters["timeout"],
        Code.INVALID_ARGUMENT,
        "request: parameter 'timeout' without a value",
    ),
    "no timeout": (
        lambda m: setattr(m.parameters["timeout"], "string_param", "soon"),
        Code.INVALID_ARGUMENT,
        "timeout: 'soon', expected microseconds",
    ),
    "no state": (
        lambda m: setattr(m.parameters["sequence_id"], "int64_param", 3),
        Code.INVALID_ARGUMENT,
        "sequence 3: same has no state",
    ),
    "a failure of ours": (lambda m: setattr(m, "model_name", "failing"), Code.INTERNAL, "^the server failed at this"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_refused_says_what_came_and_what_was_expected(place: Place, case: str) -> None:
    change, code, words = REFUSALS[case]
    told, details = refused(lambda: place.infer(changed(change)))
    assert told == code
    assert re.search(words, details), details
    (streamed,) = place.stream(iter([changed(change)]))
    assert streamed.error_message == details


@pytest.mark.parametrize(
    "each",
    [
        {"name": "z"},
        {"datatype": "FP32"},
        {"datatype": "BYTES"},
        {"shape": [2, 2]},
        {"shape": [0]},
        {"shape": [-(2**62)]},
        {"shape": [2**40]},
        {"shape": [65]},
    ],
)
def test_the_words_are_those_of_http(each: dict) -> None:
    """Of the same mistake, in a body of as many bytes."""
    expected = form([tensor("x", "int8", "batch")], (), {"batch": (1, 2, 64)} if each != {"shape": [2**40]} else {})
    told = {"name": "x", "datatype": "INT8", "shape": [2]} | each
    message = pb.ModelInferRequest(inputs=[pb.ModelInferRequest.InferInputTensor(**told)], raw_input_contents=[b"12"])
    body = str({"inputs": [told | {"data": [1, 2]}]}).replace("'", '"').encode()
    with pytest.raises(Refused) as http:
        read_request(body, None, expected, 1000)
    with pytest.raises(Refused) as ours:
        read_message(message, len(body), expected)
    assert str(ours.value) == str(http.value)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int8", "int16"])
def test_a_number_that_the_datatype_cannot_hold_is_refused_as_in_json(dtype: str) -> None:
    *_, field, least, greatest = KINDS[dtype]
    for value in [greatest + 1, *([least - 1] if least else [])]:
        message = pb.ModelInferRequest()
        each = message.inputs.add(name="x", datatype=KINDS[dtype][0], shape=[3])
        getattr(each.contents, field).extend([0, value, 1])
        with pytest.raises(
            Refused, match=re.escape(f"data[1] is {value}, expected an integer from {least} to {greatest}.")
        ):
            read_message(message, 100, form([tensor("x", dtype, "batch")]))


def test_fp16_comes_raw_alone() -> None:
    message = pb.ModelInferRequest()
    message.inputs.add(name="x", datatype="FP16", shape=[1]).contents.fp32_contents.append(1)
    with pytest.raises(Refused, match="input 'x': FP16 in contents, expected in raw_input_contents"):
        read_message(message, 100, form([tensor("x", "float16", "batch")]))


def test_a_byte_that_is_no_bool_is_refused() -> None:
    message = pb.ModelInferRequest(raw_input_contents=[b"\x01\x02"])
    message.inputs.add(name="x", datatype="BOOL", shape=[2])
    with pytest.raises(Refused, match="input 'x': a byte 2, expected 0 or 1 for BOOL"):
        read_message(message, 100, form([tensor("x", "bool", "batch")]))


parameters = st.dictionaries(
    st.sampled_from(["sequence_id", "sequence_start", "sequence_end", "timeout", "classification", "binary_data", "binary_data_output", "é"]),
    st.one_of(
        st.just({}),
        st.fixed_dictionaries({"bool_param": st.booleans()}),
        st.fixed_dictionaries({"int64_param": st.integers(-(2**63), 2**63 - 1) | st.integers(0, 5)}),
        st.fixed_dictionaries({"string_param": st.text(max_size=3)}),
        st.fixed_dictionaries({"double_param": st.floats()}),
        st.fixed_dictionaries({"uint64_param": st.integers(0, 2**64 - 1)}),
    ),
    max_size=3,
)  # fmt: skip
contents = st.fixed_dictionaries(
    {},
    optional={
        field: st.lists(values_of(dtype), max_size=4)
        for dtype, (_, _, field, *_) in KINDS.items()
        if field and dtype in ("bool", "int32", "int64", "uint32", "uint64", "float32", "float64")
    },
)
messages = st.fixed_dictionaries(
    {"model_name": st.sampled_from(["same", "sum", "every", f"{NAME}-fp32", "", "../etc"])},
    optional={
        "model_version": st.sampled_from(["", "1", "x"]),
        "id": st.text(max_size=3),
        "parameters": parameters,
        "inputs": st.lists(
            st.fixed_dictionaries(
                {
                    "name": st.sampled_from(["x", "x", "state", "image", "bool"]) | st.text(max_size=3),
                    "datatype": st.sampled_from(["FP64", "FP64", "UINT8", "BOOL", ""]),
                    "shape": st.lists(st.integers(1, 3) | st.integers(-(2**63), 2**63 - 1), max_size=2),
                },
                optional={"contents": contents, "parameters": parameters},
            ),
            max_size=3,
        ),
        "outputs": st.lists(
            st.fixed_dictionaries(
                {"name": st.sampled_from(["y", "logits", "next_state", "z"])}, optional={"parameters": parameters}
            ),
            max_size=2,
        ),
        "raw_input_contents": st.lists(st.binary(max_size=24).map(lambda raw: raw.ljust(8, b"\0")), max_size=3),
    },
)
EXPECTED = {Code.OK, Code.INVALID_ARGUMENT, Code.NOT_FOUND}


def sent_as(place: Place, body: bytes) -> grpc.StatusCode:
    call = place.channel.unary_unary(f"/{SERVICE}/ModelInfer")
    _, done = call.with_call(body, timeout=30)
    return done.code()


def code_of(place: Place, body: bytes) -> grpc.StatusCode:
    try:
        return sent_as(place, body)
    except grpc.RpcError as error:
        return error.code()  # type: ignore[attr-defined]


@settings(deadline=None, max_examples=500)
@given(messages)
def test_no_message_is_a_failure_of_ours(place: Place, message: dict) -> None:
    assert code_of(place, pb.ModelInferRequest(**message).SerializeToString()) in EXPECTED


VALID = one("sum", 1.0, 2.0, sequence_id=3, sequence_start=True).SerializeToString()


@settings(deadline=None, max_examples=500)
@given(st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=4), st.integers(0, len(VALID)))
def test_no_bytes_are_a_failure_of_ours(place: Place, changes: list[tuple[int, int]], end: int) -> None:
    body = bytearray(VALID)
    for at, byte in changes:
        body[at] = byte
    assert code_of(place, bytes(body[: end or None])) in EXPECTED


def test_bytes_that_are_no_message_and_no_message_at_all(place: Place) -> None:
    told = refused(lambda: sent_as(place, b"\xff\xff"))
    assert told == (Code.INVALID_ARGUMENT, "message: 2 bytes that cannot be read, expected a ModelInferRequest.")
    nothing = place.channel.stream_unary(f"/{SERVICE}/ModelInfer")
    told = refused(lambda: nothing(iter([]), timeout=30))
    assert told == (Code.INVALID_ARGUMENT, "message: none, expected a ModelInferRequest.")


def test_a_message_of_very_many_parts_is_refused_before_it_is_read(place: Place) -> None:
    told = refused(lambda: sent_as(place, pb.ModelInferRequest(inputs=[{}] * 1001).SerializeToString()))
    assert told == (Code.INVALID_ARGUMENT, "message: more than 1000 fields, expected a ModelInferRequest.")
    told = refused(
        lambda: sent_as(place, pb.ModelInferRequest(model_name="other", inputs=[{}] * 999).SerializeToString())
    )
    assert told[0] == Code.NOT_FOUND


def test_what_is_refused_is_not_kept(place: Place) -> None:
    """Without the collector of cycles, which counts objects and knows nothing of their size."""
    message = asked("same", ("x", "float64", [9_000], [0.0] * 9_000))
    gc.collect()
    gc.disable()
    try:
        tracemalloc.start()
        for _ in range(20):
            refused(lambda: place.infer(message))
            list(place.stream(iter([message])))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert kept < 10 * 72_000


def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_module, "CONNECTIONS", 2)
    place = Place([])
    others = [grpc.insecure_channel(place.address, [("grpc.use_local_subchannel_pool", 1)]) for _ in range(2)]
    try:
        for channel in others:
            grpc.channel_ready_future(channel).result(10)
        assert refused(lambda: place.ask("ServerLive"))[0] == Code.UNAVAILABLE
        others.pop().close()
        assert place.ask("ServerLive", wait_for_ready=True).live
    finally:
        for channel in others:
            channel.close()
        place.close()


def test_who_is_slow_gives_way(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_module, "GIVE_WAY_S", 0.1)
    never = threading.Event()

    def nothing() -> Iterator[bytes]:
        never.wait(20)
        yield from ()

    call = place.channel.stream_unary(f"/{SERVICE}/ModelInfer")
    slow = [call.future(nothing(), timeout=30) for _ in range(LIMITS.held_bytes // LIMITS.body_bytes)]
    until(lambda: place.rpc._room.locked())
    assert said(place.infer(one("same", 1.0))) == [1.0]
    until(lambda: any(one.done() for one in slow))  # the one that gave way hears of it in its own time
    assert all(one.code() == Code.DEADLINE_EXCEEDED for one in slow if one.done())
    never.set()
    until(lambda: all(one.done() for one in slow))


def test_a_message_that_is_too_large_is_refused(place: Place) -> None:
    code, words = refused(lambda: sent_as(place, bytes(LIMITS.body_bytes + 1)))
    assert code == Code.RESOURCE_EXHAUSTED and "100001 vs. 100000" in words


def test_a_message_that_does_not_come_is_not_waited_for(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_module, "SLOW_S", 0.2)
    never = threading.Event()

    def nothing() -> Iterator[bytes]:
        never.wait(20)
        yield from ()

    call = place.channel.stream_unary(f"/{SERVICE}/ModelInfer")
    told = refused(lambda: call(nothing(), timeout=30))
    never.set()
    assert told == (Code.DEADLINE_EXCEEDED, "message: not whole in time, expected all of it within 0.2 s, or sooner.")


def test_what_is_held_is_bounded(place: Place) -> None:
    def hold(nbytes: int) -> None:
        place.application.gate.held += nbytes

    place.loop.call_soon_threadsafe(hold, LIMITS.held_bytes)
    told = refused(lambda: place.infer(one("same", 1.0)))
    place.loop.call_soon_threadsafe(hold, -LIMITS.held_bytes)
    assert told[0] == Code.UNAVAILABLE and "bytes of requests and answers are held, and no more can be" in told[1]
    assert place.infer(one("same", 1.0)).raw_output_contents[0] == packed("float64", [1.0])


def test_compressed_messages_and_other_calls_are_refused(place: Place) -> None:
    code, words = refused(lambda: place.infer(one("same", 1.0), compression=grpc.Compression.Gzip))
    assert code == Code.UNIMPLEMENTED and "gzip" in words
    call = place.channel.unary_unary(f"/{SERVICE}/ModelStatistics")
    code, words = refused(lambda: call(b"", timeout=30))
    assert code == Code.UNIMPLEMENTED and words.startswith(
        f"/{SERVICE}/ModelStatistics: not served, expected a call of"
    )


def test_a_failure_of_ours_is_told_in_the_log_alone(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    code, words = refused(lambda: place.infer(one("failing", 1.0)))
    assert code == Code.INTERNAL and "secret" not in words
    assert "a secret" in caplog.text


def test_metadata_is_that_of_http(place: Place) -> None:
    for served in place.repository.served():
        name = served.model.name
        told = MessageToDict(place.ask("ModelMetadata", pb.ModelMetadataRequest(name=name)))
        for side in ("inputs", "outputs"):  # JSON of protobuf has 64 bits as strings
            told[side] = [each | {"shape": [int(size) for size in each["shape"]]} for each in told[side]]
        assert told == model_metadata(served.model)
    assert MessageToDict(place.ask("ServerMetadata")) == server_metadata()
    told = refused(lambda: place.ask("ModelMetadata", pb.ModelMetadataRequest(name="other")))
    assert told[0] == Code.NOT_FOUND


def test_health(place: Place) -> None:
    assert place.ask("ServerLive").live and place.ask("ServerReady").ready
    place.application.accepting = False
    assert place.ask("ServerLive").live and not place.ask("ServerReady").ready
    place.application.accepting = True
    ready = {
        asked: place.ask("ModelReady", pb.ModelReadyRequest(name=asked[0], version=asked[1])).ready
        for asked in [("same", ""), ("same", "1"), ("same", "2"), ("other", "")]
    }
    assert list(ready.values()) == [True, True, False, False]


def test_models_are_loaded_and_unloaded(place: Place) -> None:
    name = f"{NAME}-fp16"
    index = place.ask("RepositoryIndex").models
    assert [MessageToDict(m) for m in index] == [
        {key: value for key, value in m.items() if value} for m in place.repository.index(False)
    ]
    place.ask("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name=name))
    assert {m.name: (m.state, m.reason) for m in place.ask("RepositoryIndex").models}[name] == (
        "UNAVAILABLE",
        "unloaded",
    )
    ready = place.ask("RepositoryIndex", pb.RepositoryIndexRequest(ready=True)).models
    assert len(ready) == len(index) - 1 and name not in {m.name for m in ready}
    told = refused(lambda: place.infer(asked(name)))
    assert told == (Code.NOT_FOUND, f"model '{name}': not served: unloaded")
    load = pb.RepositoryModelLoadRequest(model_name=name)
    load.parameters["config"].string_param = "{}"
    assert refused(lambda: place.ask("RepositoryModelLoad", load))[0] == Code.INVALID_ARGUMENT
    place.ask("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name=name))
    assert place.ask("ModelReady", pb.ModelReadyRequest(name=name)).ready
    for call in ("Load", "Unload"):
        message = getattr(pb, f"RepositoryModel{call}Request")(model_name="other")
        assert (
            refused(lambda call=call, message=message: place.ask(f"RepositoryModel{call}", message))[0]
            == Code.NOT_FOUND
        )


def said(response: Any) -> list[float]:
    return unpacked("float64", dict(zip([o.name for o in response.outputs], response.raw_output_contents))["y"])


@given(st.lists(st.tuples(st.sampled_from([1, "two", 3]), st.integers(-9, 9)), min_size=1, max_size=20), st.booleans())
@settings(deadline=None, max_examples=30)
def test_interleaved_sequences_are_summed_each_for_itself(
    place: Place, steps: list[tuple[int | str, int]], streamed: bool
) -> None:
    sums: dict[int | str, float] = {}
    sent, expected = [], []
    for which, step in steps:
        sent.append(one("sum", float(step), sequence_id=which, sequence_start=which not in sums, sequence_end=False))
        sums[which] = sums.get(which, 0.0) + step
        expected.append([sums[which]])
    for which in sums:
        sent.append(one("sum", 0.5, sequence_id=which, sequence_end=True))
        expected.append([sums[which] + 0.5])
    if streamed:
        answers = list(place.stream(iter(sent)))
        assert not any(answer.error_message for answer in answers)
        assert all(a.infer_response.parameters["triton_final_response"].bool_param for a in answers)
        assert [said(answer.infer_response) for answer in answers] == expected
    else:
        assert [said(place.infer(message)) for message in sent] == expected
    assert not {("sum", which) for which in sums} & place.application.sessions._kept.keys()


def test_a_stream_goes_on_after_a_refusal(place: Place) -> None:
    sent = [one("same", 1.0), one("other", 2.0), one("same", 3.0), one("sum", 4.0, sequence_id=9)]
    for place_in, message in enumerate(sent):
        message.id = str(place_in)
    answers = list(place.stream(iter(sent)))
    assert [answer.infer_response.id for answer in answers] == ["0", "1", "2", "3"]
    assert [answer.error_message.split(":")[0] for answer in answers] == ["", "model 'other'", "", "sequence 9 of sum"]
    assert [said(answers[i].infer_response) for i in (0, 2)] == [[1.0], [3.0]]


def test_streams_are_bounded_in_number_and_in_rest(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_module, "STREAMS", 1)
    more = threading.Event()

    def held() -> Iterator[Any]:
        yield one("same", 1.0)
        more.wait(20)

    first = place.stream(held())
    assert said(next(first).infer_response) == [1.0]
    told = refused(lambda: list(place.stream(iter([one("same", 1.0)]))))
    assert told == (Code.UNAVAILABLE, "1 streams are open, and no more can be. Ask again later.")
    more.set()
    assert list(first) == []
    monkeypatch.setattr(place.repository, "limits", replace(LIMITS, idle_s=0.2))
    more.clear()
    until(lambda: not place.rpc._streams)
    rested = place.stream(held())
    assert said(next(rested).infer_response) == [1.0]
    code, words = refused(lambda: next(rested))
    more.set()
    assert (
        code == Code.DEADLINE_EXCEEDED
        and words == "stream: no message for 0.2 s, expected one by then. Begin it again."
    )


def test_a_cancelled_call_is_never_run(place: Place) -> None:
    gate, served = place.gated()
    running = place.call("ModelInfer").future(one("gated", 1.0), timeout=30)
    assert gate.entered.wait(10)
    waiting = place.call("ModelInfer").future(one("gated", 2.0), timeout=30)
    until(lambda: len(served.batcher._waiting) == 1)
    waiting.cancel()
    until(lambda: served.counts.answers.get(499) == 1)
    gate.open.set()
    assert said(running.result()) == [1.0]
    assert said(place.infer(one("gated", 3.0))) == [3.0]
    assert gate.runs == 2 and served.counts.answers == {499: 1, 200: 2}


def test_a_deadline_is_kept(place: Place) -> None:
    gate, served = place.gated()
    code, words = refused(lambda: place.infer(one("gated", 1.0, timeout=50_000)))
    assert code == Code.DEADLINE_EXCEEDED and words.startswith("gated: no answer after 0.05 s, expected one by then.")
    code, _ = refused(lambda: place.call("ModelInfer")(one("gated", 1.0), timeout=0.2))
    assert code == Code.DEADLINE_EXCEEDED
    until(lambda: sum(served.counts.answers.values()) == 2)
    gate.open.set()
    assert said(place.infer(one("gated", 3.0))) == [3.0]
    assert gate.runs == 2  # the second was late before its turn


def test_who_comes_too_many_is_told_so_at_once(place: Place) -> None:
    gate, served = place.gated()
    calls = [place.call("ModelInfer").future(one("gated", float(i)), timeout=30) for i in range(1 + LIMITS.waiting)]
    until(lambda: served.batcher.full)
    with pytest.raises(grpc.RpcError) as caught:
        place.infer(one("gated", 9.0))
    assert caught.value.code() == Code.UNAVAILABLE
    assert "gated: 4 requests wait already, and it takes no more." in caught.value.details()
    assert ("grpc-retry-pushback-ms", "1000") in caught.value.trailing_metadata()
    gate.open.set()
    assert [said(call.result()) for call in calls] == [[float(i)] for i in range(1 + LIMITS.waiting)]
    assert served.counts.answers == {503: 1, 200: 5}


def test_what_was_waited_and_computed_is_told(place: Place) -> None:
    _, done = place.call("ModelInfer").with_call(one("same", 1.0), timeout=30)
    timing = dict(done.trailing_metadata())["server-timing"]
    queue, compute = re.fullmatch(r"queue;dur=(\d+\.\d{3}), compute;dur=(\d+\.\d{3})", timing).groups()
    assert 0 <= float(queue) < 1000 and 0 < float(compute) < 1000


def test_without_the_token_there_is_nothing_but_health() -> None:
    place = Place([], TOKEN)
    place.serve(model("same", [X], [Y], lambda inputs: {"y": inputs["x"]}))
    expected = "authorization: no token, or another, expected `Authorization: Bearer` and the server's."
    try:
        for bearer in (None, "Bearer", f"Bearer {TOKEN}.", TOKEN, "Bearer "):
            metadata = (("authorization", bearer),) if bearer else ()
            told = refused(lambda metadata=metadata: place.infer(one("same", 1.0), metadata=metadata))
            assert told == (Code.UNAUTHENTICATED, expected)
            told = refused(lambda metadata=metadata: list(place.stream(iter([one("same", 1.0)]), metadata=metadata)))
            assert told == (Code.UNAUTHENTICATED, expected)
        guarded = [name for name in CALL_NAMES if name not in ("ServerLive", "ServerReady", "ModelStreamInfer")]
        for name in guarded:
            assert refused(lambda name=name: place.ask(name))[0] == Code.UNAUTHENTICATED
        assert place.ask("ServerLive").live and place.ask("ServerReady").ready
        assert said(place.infer(one("same", 1.0), metadata=(("authorization", f"Bearer {TOKEN}"),))) == [1.0]
    finally:
        place.close()


CALL_NAMES = [line.split()[0] for line in CALLS.split("\n") if line]


def test_over_tls(tmp_path: Path) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {cert}"
    subprocess.run(made.split(), check=True, capture_output=True)
    place = Place([], tls=(key.read_bytes(), cert.read_bytes()))
    try:
        place.channel.close()
        place.channel = grpc.secure_channel(place.address, grpc.ssl_channel_credentials(cert.read_bytes()))
        assert place.ask("ServerLive").live
    finally:
        place.close()


def test_a_port_that_is_taken_is_refused(place: Place) -> None:
    with pytest.raises(Refused, match=rf"127.0.0.1:{place.rpc.port}: cannot be listened on"):
        place.do(start_rpc(place.application, "127.0.0.1", place.rpc.port))


def test_who_stops_answers_what_was_taken_and_ends_streams_that_rest() -> None:
    place = Place([])
    gate, served = place.gated()
    more = threading.Event()

    def held(*messages: Any) -> Iterator[Any]:
        yield from messages
        more.wait(20)

    try:
        with ThreadPoolExecutor() as threads:
            unary = place.call("ModelInfer").future(one("gated", 2.0), timeout=30)
            stream = place.stream(held(one("gated", 1.0)))
            until(lambda: gate.runs == 1 and len(served.batcher._waiting) == 1)
            resting = place.stream(held())
            until(lambda: len(place.rpc._waiting) == 1)
            stopping = threads.submit(place.do, place.rpc.stop(20))
            code, words = refused(lambda: list(resting))
            assert code == Code.UNAVAILABLE and words.startswith("the server ends, and the stream with it.")
            assert refused(lambda: place.infer(one("gated", 3.0)))[0] == Code.UNAVAILABLE
            assert not stopping.done()
            gate.open.set()
            assert said(unary.result()) == [2.0]
            assert said(next(stream).infer_response) == [1.0]
            assert refused(lambda: next(stream))[0] == Code.UNAVAILABLE
            stopping.result(10)
    finally:
        more.set()
        place.close()
    assert gate.runs == 2 and served.counts.answers == {200: 2}
