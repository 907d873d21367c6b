"""A served model as a `run`: the real server's answers are onnxruntime's, and what is measured of it is judged"""

import dataclasses
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import onnx
import pytest
import server
from conftest import NAME, ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from measured import measurement, row
from onnx import numpy_helper

from deploy import standalone, targets
from deploy.contract import Bundle, load_examples, open_bundle
from deploy.errors import Refused
from deploy.files import read_json, sha256, write_json
from deploy.host import describe
from deploy.measurement import read_returned
from deploy.remote import (
    DTYPES,
    HEADER_LENGTH,
    UNASKED,
    Wait,
    _answers,
    _request,
    open_remote,
)
from deploy.rounds import BLOCK
from deploy.run import Run
from deploy.runtimes import open_onnxruntime
from deploy.served import Served, Server, noting, open_server, remote_targets
from deploy.server.__main__ import TOKEN
from deploy.server.protocol import TYPES, Request, form, read_request, write_response
from deploy.standalone import measure_served
from deploy.tasks import load_task
from pipeline import verify as verify_stage
from pipeline.judge import judge
from pipeline.recipe import Budget, Project
from pipeline.verdicts import FAIL, NOT_MEASURED, PASS

GRAPHS = {"fp32": "fp32", "fp16": "fp16", "int8": "int8-cpu"}
WHAT = "Mend that, and measure again."

COMMAND = """
import runpy, sys
for name in ("torch", "onnx", "dvc", "tqdm", "yaml", "scipy", "pipeline", "models", "starlette", "uvicorn", "grpc"):
    sys.modules[name] = None
import deploy.rounds
deploy.rounds.ROUNDS = deploy.rounds.BLOCK
runpy.run_module("deploy.measure", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.rounds.ROUNDS", BLOCK)


@dataclasses.dataclass(frozen=True)
class Started:
    """A server of ours, and how it is ended."""

    url: str
    host: str
    process: "subprocess.Popen[bytes]"

    def end(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)


@contextmanager
def started(*bundles: Path, token: str = "", tls: Path | None = None) -> Iterator[Started]:
    """``tls``: a folder with ``cert.pem`` and ``key.pem``."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        host = f"127.0.0.1:{one.getsockname()[1]}"
    command = [sys.executable, "-m", "deploy.server", *map(str, bundles), "--port", host[10:], "--grpc-port", "0"]
    secure = ["--tls-cert", str(tls / "cert.pem"), "--tls-key", str(tls / "key.pem")] if tls else []
    environment = os.environ | {"PLUMBLINE_TOKEN": token}
    url = f"http{'s' if tls else ''}://{host}"
    trust = ssl._create_unverified_context() if tls else None
    with subprocess.Popen([*command, *secure], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(600):
                assert process.poll() is None, "the server ended"
                try:
                    urllib.request.urlopen(f"{url}/v2/health/ready", timeout=10, context=trust).close()
                    break
                except urllib.error.URLError:
                    time.sleep(0.05)
            else:
                pytest.fail("not ready after 30 s")
            yield Started(url, host, process)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def ours(bundle: Bundle) -> Iterator[Started]:
    with started(bundle.folder) as one:
        yield one


def local(bundle: Bundle, precision: str) -> Run:
    return open_onnxruntime(bundle.path(bundle.graphs[GRAPHS[precision]]["network"]))


def command(words: list[str], cwd: Path) -> "subprocess.CompletedProcess[str]":
    asked, paths = [sys.executable, "-c", COMMAND, *words], os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(asked, cwd=cwd, env=paths, capture_output=True, text=True, timeout=120)


# The run


@pytest.mark.parametrize("precision", GRAPHS)
def test_every_example_is_answered_to_the_last_bit_as_without_a_server(
    ours: Started, bundle: Bundle, precision: str
) -> None:
    task, examples = load_task(bundle.task), load_examples(bundle, "test")
    runs = {"network": open_remote(ours.url, f"{NAME}-{precision}")}
    came = task.answer(runs, examples)["logits"]
    expected = task.answer({"network": local(bundle, precision)}, examples)["logits"]
    assert came.dtype == expected.dtype and came.flags.writeable
    np.testing.assert_array_equal(came, expected)


def test_any_image_is_answered_to_the_last_bit(ours: Started, bundle: Bundle) -> None:
    there, here = open_remote(ours.url, f"{NAME}-fp32", version=bundle.sha256[:12]), local(bundle, "fp32")

    @settings(deadline=None, max_examples=40)
    @given(st.integers(1, 64), st.integers(0, 2**32))
    def alike(batch: int, seed: int) -> None:
        image = np.random.default_rng(seed).integers(0, 256, (batch, 1, 8, 8), np.uint8)
        for came in (image, np.asfortranarray(image)):
            np.testing.assert_array_equal(there({"image": came})["logits"], here({"image": image})["logits"])

    alike()


def test_what_the_server_refuses_is_told_in_its_words_with_the_model_and_the_host(ours: Started) -> None:
    run = open_remote(ours.url, f"{NAME}-fp32")
    told = rf"^{NAME}-fp32 at {ours.host}: input 'image': shape \[2, 8, 8\], expected \[batch, 1, 8, 8\]"
    with pytest.raises(Refused, match=told):
        run({"image": np.zeros((2, 8, 8), np.uint8)})
    with pytest.raises(Refused, match=r"input 'image': <U1, for which the protocol has no datatype"):
        run({"image": np.array([["a"]])})
    assert run({"image": np.zeros((2, 1, 8, 8), np.uint8)})["logits"].shape == (2, 10)  # and goes on


def test_a_model_or_a_version_that_is_not_there_says_nothing_of_any_model(ours: Started) -> None:
    with pytest.raises(Refused, match=rf"^none at {ours.host}: {UNASKED} \(404: model 'none': unknown, expected"):
        open_remote(ours.url, "none")
    with pytest.raises(Refused, match=rf"{UNASKED} \(404: "):
        open_remote(ours.url, "../../x")
    with pytest.raises(Refused, match=rf"{UNASKED} \(404: .*version '123', expected"):
        open_remote(ours.url, f"{NAME}-fp32", version="123")


def test_several_threads_each_get_their_own_answer(ours: Started, bundle: Bundle) -> None:
    run, here = open_remote(ours.url, f"{NAME}-fp32"), local(bundle, "fp32")
    images = np.random.default_rng(1).integers(0, 17, (40, 1, 8, 8), np.uint8)
    came: dict[int, np.ndarray] = {}

    def ask(first: int) -> None:
        for i in range(first, 40, 4):
            came[i] = run({"image": images[i : i + 1]})["logits"]

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for i in range(40):
        np.testing.assert_array_equal(came[i], here({"image": images[i : i + 1]})["logits"])


def test_the_parts_add_up_to_the_wall_time(ours: Started) -> None:
    waits: list[Wait] = []
    run = open_remote(ours.url, f"{NAME}-fp32", waits=waits)
    image = np.zeros((1, 1, 8, 8), np.uint8)
    left = []
    for _ in range(100):
        start = time.perf_counter()
        run({"image": image})
        left.append(time.perf_counter() - start - sum(waits[-1]))
    assert len(waits) == 100 and min(left) >= 0
    assert np.median(left) < 0.1 * np.median([sum(wait) for wait in waits])  # what nobody told of
    assert all(wait.queue_s >= 0 and wait.compute_s > 0 and wait.transport_s > 0 for wait in waits)
    assert min(wait.compute_s for wait in waits) < min(
        wait.transport_s for wait in waits
    )  # a small network on loopback


def test_a_request_of_several_calls_is_told_as_one() -> None:
    waits: list[Wait] = []
    calls = [Wait(1.0, 2.0, 3.0), Wait(10.0, 20.0, 30.0)]
    noted: list[Wait | None] = []
    both, none = noting([lambda: waits.extend(calls), lambda: None], waits, noted)
    both()
    none()
    both()
    assert noted == [(11.0, 22.0, 33.0), None, (11.0, 22.0, 33.0)]


@pytest.mark.parametrize(
    "url",
    [
        *("", "127.0.0.1:8000", "ftp://127.0.0.1", "http://", "http://h:port", "http://h:0", "http://h:70000"),
        *("http://[::1", "http://me:secret@h:1", "http://h:1/?x=1", "http://h:1/#x"),
    ],
)
def test_what_is_no_address_is_refused_before_anything_is_asked(url: str) -> None:
    with pytest.raises(
        Refused, match=r"no server's address, expected http://HOST:PORT or https://HOST:PORT"
    ) as refused:
        open_server(url)
    assert "secret" not in str(refused.value)


def test_a_token_that_no_header_can_hold_is_refused(ours: Started) -> None:
    for token in ("a\r\nb", "ключ"):
        with pytest.raises(Refused, match=rf"^the token for {ours.host}: has characters that no header can"):
            open_server(ours.url, token)


def test_nobody_there_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        host = f"127.0.0.1:{one.getsockname()[1]}"
    with pytest.raises(Refused, match=rf"^x at {host}: {UNASKED} \(ConnectionRefusedError: .*\)\. {WHAT}$"):
        open_remote(f"http://{host}", "x")


def test_over_tls_with_a_token(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=here"]
    made += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(made, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    image = {"image": np.ones((1, 1, 8, 8), np.uint8)}
    with started(bundle.folder, token="open sesame", tls=tmp_path) as secure:
        with pytest.raises(Refused, match=rf"{UNASKED} \(SSLCertVerificationError: .*self.signed certificate"):
            open_server(secure.url, "open sesame")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        for token in ("", "another"):
            with pytest.raises(Refused, match=rf"{UNASKED} \(401: authorization: no token, or another, expected"):
                open_server(secure.url, token)
        assert open_server(secure.url, "open sesame").models[f"{NAME}-int8"].device == "cpu"
        run = open_remote(secure.url, f"{NAME}-int8", "open sesame")
        np.testing.assert_array_equal(run(image)["logits"], local(bundle, "int8")(image)["logits"])
        monkeypatch.setenv(standalone.TOKEN, "open sesame")
        done = command([str(bundle.folder.resolve()), "--server", secure.url], tmp_path)
        assert done.returncode == 0, done.stderr
        (file,) = tmp_path.glob("measured/*.json")
        assert "sesame" not in file.read_text() and f"{NAME}: remote-int8: measured\n" in done.stdout
    assert standalone.TOKEN == TOKEN


# A server that misbehaves


def header(outputs: list[dict[str, Any]]) -> bytes:
    return json.dumps({"outputs": outputs}).encode()


OUTPUT = {"name": "y", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
VALUES = np.array([1.5, -2.0], "<f4")


def answering(body: bytes, length: object, status: int = 200, **more: object) -> Callable[[server.Request], None]:
    """Ready, and then ``body``."""

    def answer(request: server.Request) -> None:
        asked = int(request.headers.get("Content-Length", 0))
        request.rfile.read(asked)
        if not asked:
            request.head(200, Content_Length=0)
            return
        named = {} if length is None else {"Inference_Header_Content_Length": length}
        request.head(status, Content_Length=len(body), **named, **more)
        request.send(body)

    return answer


@pytest.fixture
def posted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.Request, "do_POST", server.Request.do_GET, raising=False)


INPUT = {"x": np.zeros(3, np.float16)}


@pytest.mark.usefixtures("posted")
def test_a_connection_that_was_dropped_while_idle_is_opened_again_and_only_once() -> None:
    body = header([OUTPUT])

    def once(request: server.Request) -> None:
        answering(body + VALUES.tobytes(), len(body))(request)
        request.drop()  # not announced by `Connection: close`

    with server.serving(once) as there:
        run = open_remote(there.root, "m")
        for asked in range(2, 5):
            np.testing.assert_array_equal(run(INPUT)["y"], VALUES)
            assert there.connections == asked
        there.answer = server.Request.drop  # from now on it answers nobody
        for asked in (5, 6):  # after `ready` and three answers, one try more each: on a new connection
            with pytest.raises(Refused, match=rf"^m at 127.*: {UNASKED} \(RemoteDisconnected: "):
                run(INPUT)
            assert len(there.asked) == asked
        there.answer = once
        np.testing.assert_array_equal(run(INPUT)["y"], VALUES)


@pytest.mark.usefixtures("posted")
def test_a_connection_is_kept() -> None:
    body = header([OUTPUT])
    with server.serving(answering(body + VALUES.tobytes(), len(body))) as there:
        waits: list[Wait] = []
        run = open_remote(there.root + "/below/", "a model", waits=waits)
        for _ in range(5):
            run(INPUT)
        assert there.connections == 1 and not waits  # it does not tell
        assert {path for path, _ in there.asked} == {
            "/below/v2/models/a%20model/ready",
            "/below/v2/models/a%20model/infer",
        }


WHOLE = header([OUTPUT])


@pytest.mark.usefixtures("posted")
@pytest.mark.parametrize(
    ("body", "length", "told"),
    [
        (WHOLE + VALUES.tobytes(), None, "TypeError"),
        (WHOLE + VALUES.tobytes(), "many", "ValueError: invalid literal"),
        (WHOLE + VALUES.tobytes(), len(WHOLE) - 1, "JSONDecodeError"),
        (WHOLE + VALUES.tobytes()[:-1], len(WHOLE), "ValueError"),
        (WHOLE + VALUES.tobytes() + b"more", len(WHOLE), "ValueError: .* bytes, and .* are told of"),
        (header([OUTPUT | {"shape": [3]}]) + VALUES.tobytes(), len(WHOLE), r"ValueError: 8 bytes for FP32 \[3\]"),
        (header([OUTPUT | {"datatype": "FP99"}]) + VALUES.tobytes(), len(WHOLE), "KeyError: 'FP99'"),
        (b'{"outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [1]}]}', 75, "KeyError: 'parameters'"),
        (b"[" * 100_000, 100_000, "RecursionError"),
    ],
    ids=["no length", "no number", "short", "cut", "left over", "sizes", "datatype", "JSON", "deep"],
)
def test_an_answer_that_cannot_be_read_is_refused(body: bytes, length: object, told: str) -> None:
    with server.serving(answering(body, length)) as there:
        run = open_remote(there.root, "m")
        with pytest.raises(Refused, match=rf"^m at 127\.0\.0\.1:\d+: an answer that cannot be read \({told}"):
            run(INPUT)


@settings(deadline=None, max_examples=300)
@given(st.integers(-5, 200), st.binary(max_size=200) | st.builds(lambda more: WHOLE + more, st.binary(max_size=20)))
def test_bytes_that_are_no_answer_raise_what_is_caught(length: int, body: bytes) -> None:
    try:
        arrays = _answers(length, body)
    except (KeyError, TypeError, ValueError):
        return
    assert sum(array.nbytes for array in arrays.values()) + length == len(body)


@pytest.mark.usefixtures("posted")
@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (400, b'{"error": "input: odd."}', r"^m at 127\.0\.0\.1:\d+: input: odd\.$"),
        (500, b"<html>", r"^m at 127\.0\.0\.1:\d+: Internal Server Error$"),
        (503, b'{"error": "full."}', rf"{UNASKED} \(503: full\)\. {WHAT}$"),
        (404, b"[]", rf"{UNASKED} \(404: Not Found\)\. {WHAT}$"),
        (302, b"", rf"{UNASKED} \(302: Found\)\. {WHAT}$"),
    ],
)
def test_a_refusal_tells_of_the_model_or_of_the_server_alone(status: int, body: bytes, told: str) -> None:
    with server.serving(answering(body, None, status)) as there:
        run = open_remote(there.root, "m")
        with pytest.raises(Refused, match=told):
            run(INPUT)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"[7]", b"{}", b'[{"model": "m", "version": "1"}]'])
def test_what_is_no_server_of_ours_is_refused(body: bytes) -> None:
    with (
        server.serving(lambda request: request.give(body)) as there,
        pytest.raises(Refused, match=rf"^{there.root}: not as a server of this version of Plumbline tells"),
    ):
        open_server(there.root)


# A Triton, as far as it is asked: in this process, over the graphs of the bundle


class Triton:
    """Answers as Triton does with what `make triton` wrote; says nothing of where a request's seconds went."""

    def __init__(self, bundle: Bundle, most: int) -> None:
        self.configs: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, str] = {}
        self.runs: dict[str, Run] = {}
        self.rows: list[int] = []  # of each request
        self.bundle, self.most = bundle, most
        self.form = form(bundle.io["network"]["inputs"])
        for precision, graph in GRAPHS.items():
            self.add(f"{NAME}-{precision}", graph)
            self.runs[f"{NAME}-{precision}"] = local(bundle, precision)

    def add(self, name: str, precision: str, *kinds: str, **more: object) -> None:
        told = {"contract_sha256": self.bundle.sha256, "precision": precision}
        self.configs[name] = {
            "max_batch_size": self.most,
            "instance_group": [{"kind": kind, "count": 2} for kind in kinds or ("KIND_CPU", "KIND_CPU")],
            "parameters": {key: {"string_value": value} for key, value in told.items()},
        } | more
        self.versions[name] = "1"

    def __call__(self, request: server.Request) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        match unquote(request.path).split("/")[1:]:
            case ["v2"]:
                self.say(request, {"name": "triton", "version": "2.51.0", "extensions": []})
            case ["v2", "repository", "index"]:
                assert json.loads(body) == {"ready": True}
                index = [{"name": n, "version": v, "state": "READY"} for n, v in self.versions.items()]
                self.say(request, index)
            case ["v2", "models", name, "versions", version, "config"] if self.versions.get(name) == version:
                self.say(request, {"name": name, **self.configs[name]})
            case ["v2", "models", name, "versions", "1", "ready"] if name in self.runs:
                request.head(200, Content_Length=0)
            case ["v2", "models", name, "versions", "1", "infer"] if name in self.runs:
                self.infer(request, name, body)
            case _:
                self.say(request, {"error": "Not Found"}, 404)

    def infer(self, request: server.Request, name: str, body: bytes) -> None:
        read = read_request(body, int(request.headers[HEADER_LENGTH]), self.form, 1 << 20)
        self.rows.append(len(read.inputs["image"]))
        if self.rows[-1] > self.most:
            self.say(request, {"error": f"inference request batch-size must be <= {self.most}"}, 400)
            return
        length, answer = write_response(self.runs[name](read.inputs), read, name, "1")
        request.head(200, Content_Length=len(answer), **{HEADER_LENGTH: length})
        request.send(answer)

    def say(self, request: server.Request, told: object, status: int = 200) -> None:
        body = json.dumps(told).encode()
        request.head(status, Content_Length=len(body))
        request.send(body)


@pytest.mark.usefixtures("posted")
def test_a_triton_is_measured_and_judged_as_our_server_and_its_rows_say_what_it_does_not_tell(
    project: Project, bundle: Bundle, ours: Started, tmp_path: Path
) -> None:
    triton = Triton(bundle, most=10)
    with server.serving(triton) as there:
        file = measure_served([bundle.folder], tmp_path / "back", there.root)
    (measured,) = read_returned(file)
    assert measured["host"]["server"] == {"url": there.root, "name": "triton 2.51.0"}
    assert measured["host"]["name"].endswith(f"-asking-127-0-0-1-{there.server_port}")
    assert set(triton.rows) >= {1, 10} and max(triton.rows) == 10
    (beside,) = read_returned(measure_served([bundle.folder], tmp_path / "ours", ours.url))
    rows = judged(rooted(project, tmp_path / "root"), file)
    assert list(rows) == ["remote-fp32", "remote-fp16", "remote-int8"]
    for name, facts in rows.items():
        kept = measured["targets"][name]
        for told in ("statistics", "predicted", "graph_sha256", "precision", "device", "size_bytes"):
            assert kept[told] == beside["targets"][name][told]
        assert not {"queue_s", "compute_s", "transport_s"} & kept.keys()
        assert facts["verdict"] == PASS, facts["reason"]
        assert facts["latency_against"] == "onnxruntime-cpu-fp32" and facts["latency_ratio"] > 1
        assert [facts["queue_ms"], facts["compute_ms"], facts["transport_ms"]] == [None, None, None]
        assert facts["notes"] == ["served by triton 2.51.0", standalone.UNTOLD]


@pytest.mark.usefixtures("posted")
def test_of_a_tritons_models_those_are_taken_that_a_caller_can_ask_graph_by_graph(bundle: Bundle) -> None:
    triton = Triton(bundle, most=64)
    triton.add("gru-fp32", "fp32", sequence_batching={"oldest": {}})
    triton.add("gru-fp32-network", "fp32")
    triton.add("dates-fp16-step", "fp16", "KIND_GPU")
    triton.add("somebody's", "fp32", "KIND_MODEL", parameters={"note": {}})
    triton.versions |= {"gru-fp32-network": "10"}
    with server.serving(triton) as there:
        models = open_server(there.root).models
        contract = bundle.sha256[:12]
        assert models.keys() == {*(f"{NAME}-{p}" for p in GRAPHS), "gru-fp32-network", "dates-fp16-step"}
        assert models["gru-fp32-network"] == Served("10", contract, "fp32", "cpu", 64)
        assert models["dates-fp16-step"] == Served("1", contract, "fp16", "cuda", 64)
        assert models[f"{NAME}-int8"] == Served("1", contract, "int8-cpu", "cpu", 64)
        for kinds in (["KIND_CPU", "KIND_GPU"], ["KIND_MODEL"]):
            triton.add("odd", "fp32", *kinds)
            told = rf"^odd at .*: instance groups of {', '.join(kinds)}, expected KIND_CPU or KIND_GPU alone"
            with pytest.raises(Refused, match=told):
                open_server(there.root)
        triton.versions = {}
        with pytest.raises(Refused, match=rf"^{there.root}: not as a server of .*`make triton` writes the models\.$"):
            open_server(there.root)


@pytest.mark.usefixtures("posted")
def test_a_triton_with_another_bundle_or_without_a_graph_of_it_says_so(bundle: Bundle) -> None:
    triton = Triton(bundle, most=64)
    triton.bundle = dataclasses.replace(bundle, sha256="0" * 64)
    triton.add(f"{NAME}-fp16", "fp16")
    del triton.versions[f"{NAME}-int8"]
    triton.add(f"{NAME}-int8", "int8-cpu", sequence_batching={})
    with server.serving(triton) as there:
        rows = {row.name: row for row in remote_targets(bundle, open_server(there.root))}
    assert not rows["remote-fp32"].reason
    assert rows["remote-fp16"].reason.startswith(f"version 000000000000 of {NAME}-fp16 is served at 127.0.0.1:")
    assert rows["remote-int8"].reason.startswith(f"{NAME}-int8 is not served at 127.0.0.1:")


# The bytes, against the server's own reading and writing of them


def test_the_datatypes_are_the_protocols() -> None:
    assert {dtype.newbyteorder("="): name for name, dtype in DTYPES.items()} == {
        np.dtype(name): datatype for name, (datatype, _) in TYPES.items()
    }


@settings(deadline=None, max_examples=100)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=5),
        st.tuples(st.sampled_from(sorted(TYPES)), st.lists(st.integers(1, 4), max_size=3), st.booleans()),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 2**32),
)
def test_arrays_of_every_datatype_go_there_and_come_back(tensors: dict[str, Any], seed: int) -> None:
    random = np.random.default_rng(seed)
    arrays = {}
    for name, (dtype, shape, swapped) in tensors.items():
        values = np.asarray(random.integers(0, 2, shape) if dtype == "bool" else random.integers(-99, 99, shape))
        whole = values.astype(dtype)
        arrays[name] = whole.astype(whole.dtype.newbyteorder(">")) if swapped else whole
    io = [{"name": name, "dtype": dtype, "shape": shape} for name, (dtype, shape, _) in tensors.items()]
    length, body = _request(arrays, "m at h")
    read = read_request(body, length, form(io), 1 << 20)
    told, answer = write_response(read.inputs, Request({}, {}, (), True, {}, ""), "m", "1")
    assert read.binary is True and told is not None
    back = _answers(told, answer)
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(read.inputs[name], array)
        np.testing.assert_array_equal(back[name], array)
        assert back[name].dtype == np.dtype(tensors[name][0])


# What is measured of a server, and the verdicts


def rooted(project: Project, folder: Path, bundle: Path | None = None) -> Project:
    """A project to take returns into, of the one bundle, with no measurement of its own."""
    (folder / "build" / "bundle").mkdir(parents=True)
    (folder / "build" / "bundle" / NAME).symlink_to(bundle or project.build / "bundle" / NAME)
    recipe = dataclasses.replace(project.recipe(NAME), floor=80.0)
    return dataclasses.replace(project, root=folder, build=folder / "build", recipes={NAME: recipe})


def judged(project: Project, file: Path) -> dict[str, Any]:
    """The rows of ``file`` once it is taken, by target alone."""
    verify_stage.take(project, [file])
    verify_stage.verify(project)
    rows = read_json(project.build / "verdicts.json")[NAME]["targets"]
    return {target.partition("@")[0]: facts for target, facts in rows.items() if "@" in target}


def test_measured_from_the_command_line_and_judged_it_passes(
    project: Project, bundle: Bundle, ours: Started, tmp_path: Path
) -> None:
    done = command([str(bundle.folder.resolve()), "--out", "back", "--server", ours.url], tmp_path)
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "back").glob("*.json")
    here = describe()["name"]
    host = f"{here}-asking-{ours.host.replace('.', '-').replace(':', '-')}"
    assert file.name == f"{host}.json"
    (measured,) = read_returned(file)
    software = measured["host"]["server"]["name"]
    assert measured["host"]["server"] == {"url": ours.url, "name": software} and software.startswith("plumbline")
    assert measured["beside"].keys() == {"target", "latency_s", "alone_s"}
    rows = judged(rooted(project, tmp_path / "root"), file)
    assert list(rows) == ["remote-fp32", "remote-fp16", "remote-int8"]
    expected = load_task(bundle.task)
    for name, facts in rows.items():
        kept = measured["targets"][name]
        answers = expected.answer({"network": local(bundle, name[7:])}, load_examples(bundle, "test"))
        assert kept["statistics"] == expected.observe(answers, load_examples(bundle, "test")).tolist()
        assert kept["graph_sha256"] == bundle.graph_sha256(GRAPHS[name[7:]])
        assert facts["verdict"] == PASS, facts["reason"]
        assert facts["host"] == host and facts["device"] == "cpu" and facts["memory_bytes"] is None
        assert facts["latency_against"] == "onnxruntime-cpu-fp32" and facts["latency_ratio"] > 1
        assert facts["no_graph"] is None and facts["device_share"] is None
        parts = [np.array(kept[part]) for part in ("queue_s", "compute_s", "transport_s")]
        assert all(part.shape == (BLOCK,) for part in parts)
        left = np.array(kept["latency_s"]) - sum(parts)
        assert np.median(left) < 0.1 * np.median(kept["latency_s"]) and left.min() > -1e-6  # four digits are kept
        medians = [1e3 * float(np.median(part)) for part in parts]
        assert [facts["queue_ms"], facts["compute_ms"], facts["transport_ms"]] == medians
        queue, compute, transport = medians
        assert facts["notes"] == [
            f"served by {software}",
            f"transport {transport:.3f} ms, queue {queue:.3f} ms, compute {compute:.3f} ms (medians)",
        ]


def test_a_server_that_is_not_there_is_one_line_on_the_command_line(bundle: Bundle, tmp_path: Path) -> None:
    for url, told in (("http://127.0.0.1:1", f"/served at 127.0.0.1:1: {UNASKED} ("), ("", "'': no server's address")):
        done = command([str(bundle.folder.resolve()), "--server", url], tmp_path)
        assert done.returncode == 1 and done.stderr.startswith(f"measure: {told}") and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def changed(bundle: Bundle, folder: Path, change: Callable[[dict[str, Any], Path], None]) -> Path:
    """A copy of the bundle whose contract, or more, is another."""
    shutil.copytree(bundle.folder, folder)
    contract = read_json(folder / "contract.json")
    change(contract, folder)
    write_json(folder / "contract.json", contract)
    return folder


def test_a_server_with_another_version_is_refused_by_its_name(
    project: Project, bundle: Bundle, ours: Started, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = changed(bundle, tmp_path / NAME, lambda contract, _: contract.update(newer=True))
    now = open_bundle(folder).sha256[:12]
    file = measure_served([folder], tmp_path / "back", ours.url)
    told = f"version {bundle.sha256[:12]} of {NAME}-fp16 is served at {ours.host}, and the bundle here is {now}: they differ"
    assert told in capsys.readouterr().out
    rows = judged(rooted(project, tmp_path / "root", folder), file)
    assert {facts["verdict"] for facts in rows.values()} == {NOT_MEASURED}
    assert rows["remote-fp16"]["reason"].startswith(told)
    assert "beside" not in read_returned(file)[0]


def test_a_bundle_that_is_not_served_or_lacks_a_precision_says_so(
    bundle: Bundle, ours: Started, tmp_path: Path
) -> None:
    def other(contract: dict[str, Any], _: Path) -> None:
        contract["recipe"] = "another"
        contract["graphs"].pop("fp16")

    rows = {
        r.name: r for r in remote_targets(open_bundle(changed(bundle, tmp_path / "b", other)), open_server(ours.url))
    }
    assert rows["remote-int8"].reason.startswith(f"another-int8 is not served at {ours.host}. ")
    assert rows["remote-fp16"].reason.startswith("the recipe does not ask for fp16")


def zeroed(contract: dict[str, Any], folder: Path) -> None:
    """Each graph's last bias and weights are 0, and the contract is of them."""
    for graphs in contract["graphs"].values():
        path = folder / graphs["network"]
        model = onnx.load(path)
        for tensor in model.graph.initializer:
            array = numpy_helper.to_array(tensor)
            if array.ndim > 1:
                tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(array), tensor.name))
        onnx.save(model, path)
        contract["files"][graphs["network"]] = {"sha256": sha256(path), "bytes": path.stat().st_size}


def test_a_broken_graph_that_is_served_fails_by_its_answers(project: Project, bundle: Bundle, tmp_path: Path) -> None:
    folder = changed(bundle, tmp_path / NAME, zeroed)
    with started(folder) as broken:
        file = measure_served([folder], tmp_path / "back", broken.url)
    rows = judged(rooted(project, tmp_path / "root", folder), file)
    assert len(rows) == 3
    for facts in rows.values():
        assert facts["verdict"] == FAIL and facts["drop_lower95"] > 50, facts["reason"]


def test_a_server_that_dies_meanwhile_leaves_rows_unmeasured(
    project: Project, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with started(bundle.folder) as one:

        def dying(_: str, blocks: Any) -> Iterator[int]:
            for block in blocks:
                one.end()
                yield block

        monkeypatch.setattr(standalone, "_counted", dying)
        file = measure_served([bundle.folder], tmp_path / "back", one.url)
    rows = judged(rooted(project, tmp_path / "root"), file)
    assert len(rows) == 3
    for name, facts in rows.items():
        assert facts["verdict"] == NOT_MEASURED
        assert facts["reason"].startswith(f"{NAME}-{name[7:]} at {one.host}: {UNASKED} (")
        assert facts["deployed"] is None and facts["transport_ms"] is None
    with pytest.raises(Refused, match=rf"^/served at {one.host}: {UNASKED} \(ConnectionRefusedError"):
        measure_served([bundle.folder], tmp_path / "back", one.url)
    version = bundle.sha256[:12]
    models = {f"{NAME}-{name}": Served(version, version, graph, "cpu") for name, graph in GRAPHS.items()}
    gone = Server(one.url, "", "plumbline", models)
    monkeypatch.setattr(standalone, "open_server", lambda *_: gone)
    measure_served([bundle.folder], tmp_path / "back", one.url)  # gone before the first model was opened
    reasons = [facts["reason"] for facts in read_returned(file)[0]["targets"].values()]
    assert all(UNASKED in reason for reason in reasons) and len(reasons) == 3


def test_of_a_gpu_elsewhere_nothing_is_told_as_of_one_here(
    bundle: Bundle, ours: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = open_server(ours.url)
    of = {f"{NAME}-{name}": graph for name, graph in targets.GRAPHS["onnxruntime-cuda"].items()}
    models = {name: dataclasses.replace(there.models[name], device="cuda", precision=of[name]) for name in of}
    there = dataclasses.replace(there, models=models)
    monkeypatch.setattr(standalone, "open_server", lambda *_: there)
    monkeypatch.setattr(standalone, "describe", lambda: describe() | {"gpus": [], "gpu_error": "none"})
    (measured,) = read_returned(measure_served([bundle.folder], tmp_path, ours.url))
    assert "beside" not in measured  # a GPU is not compared with a processor
    rows = judge(measured, bundle.sha256, 80.0, Budget(1.0, {}))["targets"]
    for facts in rows.values():
        assert facts["device"] == "cuda" and facts["no_graph"] is None and facts["on_cpu"] is None
    assert measured["targets"]["remote-int8"]["precision"] == "int8-tensorrt"
    assert [facts["latency_against"] for facts in rows.values()] == [None, "remote-fp32", "remote-fp32"]


def test_what_was_measured_before_it_was_stopped_is_not_measured_again(
    bundle: Bundle, ours: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.rounds.ROUNDS", 2 * BLOCK + 7)
    whole = standalone._counted

    def stopping(what: str, blocks: Any) -> Iterator[int]:
        for block in whole(what, blocks):
            if block == 2 * BLOCK:
                raise KeyboardInterrupt
            yield block

    monkeypatch.setattr(standalone, "_counted", stopping)
    with pytest.raises(KeyboardInterrupt):
        measure_served([bundle.folder], tmp_path, ours.url)
    (before,) = tmp_path.rglob("noted from 0.json")
    noted = read_json(before)["remote-fp32"]
    monkeypatch.setattr(standalone, "_counted", whole)
    (measured,) = read_returned(measure_served([bundle.folder], tmp_path, ours.url))
    for facts in measured["targets"].values():
        assert len(facts["queue_s"]) == len(facts["latency_s"]) == 2 * BLOCK + 7
    first = [float(f"{wait[2]:.4g}") for wait in noted]
    assert measured["targets"]["remote-fp32"]["transport_s"][:BLOCK] == first
    assert not (tmp_path / "measuring").exists()


def test_what_was_noted_is_kept_of_the_blocks_that_are_timed_now(tmp_path: Path) -> None:
    """A block that is read from the cache, before or after one that is timed, keeps what was noted of it then."""
    before, now = [[9.0, 9.0, 9.0]] * BLOCK, Wait(1.0, 2.0, 3.0)
    for first in (0, 2 * BLOCK):
        write_json(tmp_path / f"noted from {first}.json", {"a": before})
    noted: dict[str, list[Wait | None]] = {"a": []}
    for first in standalone._keep_noted(tmp_path, noted, range(0, 3 * BLOCK, BLOCK)):
        if first == BLOCK:
            noted["a"] += [Wait(0.0, 0.0, 0.0)] * 20 + [now] * BLOCK  # a warm-up, and the rounds
    told = standalone._noted_of(tmp_path, "a", 2 * BLOCK + 5)
    assert told["transport_s"] == [9.0] * BLOCK + [3.0] * BLOCK + [9.0] * 5
    assert standalone._noted_of(tmp_path, "a", 3 * BLOCK + 5) == {}  # of some it is not known
    write_json(tmp_path / "noted from 0.json", {"a": [None, *before[1:]]})
    assert standalone._noted_of(tmp_path, "a", BLOCK) == {}


def test_a_server_that_does_not_tell_leaves_the_parts_out_and_is_judged_all_the_same() -> None:
    facts = measurement({"remote-fp32": row(), "remote-fp16": row(precision="fp16")}, latency={})
    rows = judge(facts, "now", 90.0, Budget(1.0, {}))["targets"]
    assert rows["remote-fp32"]["transport_ms"] is None and rows["remote-fp32"]["notes"] is None
    assert rows["remote-fp32"]["latency_ratio"] is None and rows["remote-fp32"]["verdict"] == PASS
    assert rows["remote-fp16"]["latency_against"] == "remote-fp32"  # nothing was timed beside them
    beside = facts | {"beside": row(latency_s=[0.25e-3] * 700) | {"target": "onnxruntime-cpu-fp32"}}
    rows = judge(beside, "now", 90.0, Budget(1.0, {}))["targets"]
    for name in ("remote-fp32", "remote-fp16"):
        assert rows[name]["latency_against"] == "onnxruntime-cpu-fp32"
        assert rows[name]["latency_ratio"] == pytest.approx(2.0, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gru_python", "dates_attention"])
def test_state_and_decoding_are_the_callers_and_every_answer_is_the_same(name: str) -> None:
    """Of what `make repro` builds: a language model whose state goes there and back, an encoder and a step."""
    bundle = open_bundle(ROOT / "build" / "bundle" / name)
    task, examples = load_task(bundle.task), load_examples(bundle, "test")
    few = {name: array[:40] for name, array in examples.items()}
    with started(bundle.folder) as one:
        there = open_server(one.url)
        targets = remote_targets(bundle, there)
        assert [target.precision for target in targets if not target.reason] == ["fp32", "fp16"]
        assert "would not be an int8 network" in targets[2].reason
        for target in targets[:2]:
            beside = standalone.targets(bundle, {"gpus": [], "gpu_error": ""}, Path("none"), {}, [])
            (here,) = [each for each in beside if each.name == target.name.replace("remote", "onnxruntime-cpu")]
            came, expected = task.answer(target.open(), few), task.answer(here.open(), few)
            assert came.keys() == expected.keys()
            for part, array in expected.items():
                np.testing.assert_array_equal(came[part], array, err_msg=f"{target.name}: {part}")
