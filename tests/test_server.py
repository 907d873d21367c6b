"""The server as a process: what it says of itself, what it answers, what it loads, who it lets in, and how it ends"""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from conftest import NAME, ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served import (
    Reply,
    Running,
    arrays,
    binary,
    free_ports,
    labels_bundle,
    reader_bundle,
    serving,
    turner_bundle,
    write_graphs,
)
from test_imports import BLOCKED

from deploy.contract import Bundle
from deploy.files import sha256
from deploy.tasks.translation import answer as translated

GRAPHS = {"fp32": "fp32", "fp16": "fp16", "int8": "int8-cpu"}
IMAGES = np.random.default_rng(2).integers(0, 17, (64, 1, 8, 8), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    labels_bundle(folder / "labels")
    reader_bundle(folder / "reader")
    turner_bundle(folder / "turner")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path, bundle: Bundle) -> Iterator[Running]:
    """Serves for the tests that change nothing of it."""
    names = ("labels", "reader", "turner")
    with serving(folder / "log", bundle.folder, *(folder / name for name in names)) as running:
        yield running


def straight(graph: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def version_of(folder: Path) -> str:
    return sha256(folder / "contract.json")[:12]


def infer(running: Running, model: str, inputs: dict[str, np.ndarray], **parameters: object) -> Reply:
    body, headers = binary(inputs, **parameters)
    return running.post(f"/v2/models/{model}/infer", body, **headers)


def index(running: Running) -> dict[str, dict]:
    return {row["name"]: row for row in running.post("/v2/repository/index").json}


# What it says of itself


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready", f"/v2/models/{NAME}-int8/ready", "/v2"])
def test_health(server: Running, method: str, path: str) -> None:
    reply = server.ask(method, path)
    assert reply.status == 200 and (path == "/v2" or reply.body == b"")


def test_the_server_tells_its_name_and_what_it_speaks(server: Running) -> None:
    told = server.get("/v2").json
    assert set(told) == {"name", "version", "extensions"} and told["name"] == "plumbline" and told["version"]
    assert {"binary_tensor_data", "classification", "sequence", "generate", "model_repository"} == set(
        told["extensions"]
    )


@pytest.mark.parametrize("precision", list(GRAPHS))
def test_a_model_is_told_as_its_graph_has_it(server: Running, bundle: Bundle, precision: str) -> None:
    told = server.get(f"/v2/models/{NAME}-{precision}").json
    session = straight(bundle.path(bundle.graphs[GRAPHS[precision]]["network"]))
    kinds = {"tensor(uint8)": "UINT8", "tensor(float)": "FP32"}
    for side, tensors in (("inputs", session.get_inputs()), ("outputs", session.get_outputs())):
        assert told[side] == [
            {"name": t.name, "datatype": kinds[t.type], "shape": [-1 if type(s) is str else s for s in t.shape]}
            for t in tensors
        ]
    version = version_of(bundle.folder)
    assert told["name"] == f"{NAME}-{precision}" and told["versions"] == [version]
    assert server.get(f"/v2/models/{NAME}-{precision}/versions/{version}").json == told
    assert server.get(f"/v2/models/{NAME}-{precision}/versions/{version}/ready").status == 200


def test_an_encoder_decoder_is_a_model_and_its_graphs_are_too(server: Running, folder: Path) -> None:
    whole, encoder, step = (server.get(f"/v2/models/turner-fp32{part}").json for part in ("", "-encoder", "-step"))
    assert [t["name"] for t in whole["inputs"]] == ["source"]
    assert whole["outputs"] == [{"name": "greedy", "datatype": "UINT8", "shape": [-1, 32]}]
    assert {t["name"] for t in encoder["outputs"]} == {"memory", "state"}
    assert {t["name"] for t in step["inputs"]} == {"character", "memory", "source", "state"}
    assert whole["versions"] == encoder["versions"] == step["versions"] == [version_of(folder / "turner")]


def test_the_index_has_every_name_and_why_one_is_not_served(server: Running, bundle: Bundle) -> None:
    rows = index(server)
    ready = {name for name, row in rows.items() if row["state"] == "READY"}
    whole = {f"{NAME}-{precision}" for precision in GRAPHS}
    assert ready == whole | {
        "labels-fp32",
        "reader-fp32",
        *(f"turner-fp32{part}" for part in ("", "-encoder", "-step")),
    }
    assert all(rows[name]["version"] == version_of(bundle.folder) and not rows[name]["reason"] for name in whole)
    assert rows["labels-int8"] == {
        "name": "labels-int8",
        "version": "",
        "state": "UNAVAILABLE",
        "reason": "labels: int8-cpu: the recipe does not ask for int8-cpu (`precisions:` in params.yaml).",
    }


@pytest.mark.parametrize(
    "method, path, status, words",
    [
        ("GET", "/nothing", 404, r"GET /nothing: expected a path of the protocol, as /v2/models/NAME/infer\."),
        ("POST", "/v2", 405, r"POST /v2: expected .*GET"),
        ("PUT", "/v2/models/labels-fp32", 405, "PUT .*: expected .*GET"),
        ("DELETE", "/v2/repository/models/labels-fp32/load", 405, "expected POST"),
        ("GET", "/v2/models/labels-fp32/infer", 405, r"GET /v2/models/labels-fp32/infer: expected POST\."),
        ("PUT", "/v2/models/labels-fp32/infer", 405, "expected POST"),
        ("GET", "/v2/models/nobody", 404, "model 'nobody': unknown, expected one of .*labels-fp32, "),
        ("POST", "/v2/models/nobody/infer", 404, "model 'nobody': unknown"),
        ("POST", "/v2/models/labels-fp16/infer", 404, "model 'labels-fp16': not served: .* does not ask for fp16"),
        ("GET", "/v2/models/labels-fp16/ready", 404, "model 'labels-fp16': not served"),
        ("GET", "/v2/models/labels-fp32/versions/7", 404, r"version '7', expected [0-9a-f]{12}\."),
        ("POST", "/v2/models/labels-fp32/versions/7/infer", 404, r"version '7', expected [0-9a-f]{12}\."),
        ("POST", "/v2/repository/models/nobody/load", 404, "model 'nobody': unknown"),
        ("POST", "/v2/repository/models/nobody/unload", 404, "model 'nobody': unknown"),
        ("POST", "/v2/models/reader-fp32/generate", 400, "text_input: empty, expected at least"),
    ],
)
def test_what_is_not_there_says_what_was_expected(
    server: Running, method: str, path: str, status: int, words: str
) -> None:
    reply = server.ask(method, path)
    assert reply.status == status and set(reply.json) == {"error"}
    assert re.search(words, reply.json["error"]), reply.json


def test_head_of_what_takes_post_has_no_body(server: Running) -> None:
    reply = server.ask("HEAD", "/v2/models/labels-fp32/infer")
    assert (reply.status, reply.body) == (405, b"")
    assert server.get("/v2/health/live").status == 200


def test_what_writes_nothing_says_so(server: Running) -> None:
    reply = server.post("/v2/models/labels-fp32/generate", {"text_input": "a"})
    assert reply.status == 400 and reply.json == {
        "error": "labels-fp32: writes no text, expected a language model. Use infer."
    }


# What it answers


def as_json(inputs: dict[str, np.ndarray], **more: object) -> dict:
    kinds = {"uint8": "UINT8", "float32": "FP32"}
    return {
        "inputs": [
            {"name": n, "shape": list(a.shape), "datatype": kinds[a.dtype.name], "data": a.tolist()}
            for n, a in inputs.items()
        ],
        **more,
    }


@pytest.mark.parametrize("rows", [1, 2, 3, 8, 17, 64])
@pytest.mark.parametrize("precision", list(GRAPHS))
def test_every_answer_is_onnxruntimes_to_the_last_bit(
    server: Running, bundle: Bundle, precision: str, rows: int
) -> None:
    image = IMAGES[:rows]
    session = straight(bundle.path(bundle.graphs[GRAPHS[precision]]["network"]))
    (expected,) = session.run(["logits"], {"image": image})
    start = time.perf_counter()
    reply = infer(server, f"{NAME}-{precision}", {"image": image})
    took_ms = 1e3 * (time.perf_counter() - start)
    assert arrays(reply)["logits"].tobytes() == expected.tobytes()
    timing = re.fullmatch(r"queue;dur=(\d+\.\d{3}), compute;dur=(\d+\.\d{3})", reply.headers["Server-Timing"])
    assert timing and float(timing[1]) >= 0 and float(timing[2]) > 0
    assert float(timing[1]) + float(timing[2]) <= took_ms
    said = server.post(f"/v2/models/{NAME}-{precision}/infer", as_json({"image": image}, id="mine")).json
    assert said["model_name"] == f"{NAME}-{precision}" and said["model_version"] == version_of(bundle.folder)
    assert said["id"] == "mine"
    (output,) = said["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("logits", "FP32", [rows, 10])
    assert np.array(output["data"], np.float32).tobytes() == expected.tobytes()


def test_the_path_of_its_version_answers_the_same(server: Running, bundle: Bundle) -> None:
    body, headers = binary({"image": IMAGES[:3]})
    paths = (f"/v2/models/{NAME}-fp32", f"/v2/models/{NAME}-fp32/versions/{version_of(bundle.folder)}")
    one, other = (server.post(f"{path}/infer", body, **headers).body for path in paths)
    assert one == other


def test_the_best_classes_with_their_labels(server: Running, bundle: Bundle) -> None:
    session = straight(bundle.path(bundle.graphs["fp32"]["network"]))
    (logits,) = session.run(["logits"], {"image": IMAGES[:5]})
    asked = as_json({"image": IMAGES[:5]}, outputs=[{"name": "logits", "parameters": {"classification": 3}}])
    (output,) = server.post(f"/v2/models/{NAME}-fp32/infer", asked).json["outputs"]
    best = [sorted(range(10), key=lambda c: -row[c])[:3] for row in logits]
    expected = [f"{row[c]!s}:{c}:{bundle.classes[c]}" for row, order in zip(logits, best) for c in order]
    assert output == {"name": "logits", "shape": [5, 3], "datatype": "BYTES", "data": expected}


def test_only_the_outputs_that_were_asked_for_in_their_order(server: Running) -> None:
    text = {"text": np.frombuffer(b"for n", np.uint8)[None]}
    for names in (["next_state"], ["logits"], ["next_state", "logits"]):
        reply = server.post("/v2/models/reader-fp32/infer", as_json(text, outputs=[{"name": n} for n in names])).json
        assert [output["name"] for output in reply["outputs"]] == names
    reply = server.post("/v2/models/reader-fp32/infer", as_json(text, outputs=[{"name": "state"}]))
    assert reply.status == 400 and reply.json["error"].startswith("outputs: name 'state', expected 'logits'")


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\0", b"1")), min_size=1, max_size=9))
def test_a_line_is_turned_as_by_direct_calls(server: Running, folder: Path, lines: list[bytes]) -> None:
    longest = max(1, *map(len, lines))
    source = np.frombuffer(b"".join(line.ljust(longest, b"\0") for line in lines), np.uint8).reshape(-1, longest)
    opened = {name: straight(folder / f"turner/graphs/fp32/{name}.onnx") for name in ("encoder", "step")}
    runs: dict[str, Callable[[dict], dict]] = {
        name: lambda inputs, s=session: dict(zip([o.name for o in s.get_outputs()], s.run(None, inputs)))
        for name, session in opened.items()
    }
    expected = translated(runs, {"source": source, "target": source})["greedy"]
    got = arrays(infer(server, "turner-fp32", {"source": source}))["greedy"]
    assert np.array_equal(got, expected)


@pytest.mark.parametrize(
    "source, words",
    [
        (b"ab\0c", "source: line 0 has a byte 0 before its end; 0 is padding, after the line. Take it out."),
        (b"x" * 65, r"input 'source': shape \[1, 65\], expected \[batch, time\], time from 1 to 64."),
    ],
)
def test_a_line_that_cannot_be_turned_is_refused(server: Running, source: bytes, words: str) -> None:
    reply = infer(server, "turner-fp32", {"source": np.frombuffer(source, np.uint8)[None]})
    assert reply.status == 400 and re.fullmatch(words, reply.json["error"]), reply.json


def test_a_line_over_128_bytes_is_refused(tmp_path: Path) -> None:
    graphs = turner_bundle(tmp_path / "narrow") / "graphs/fp32"
    import onnx

    text = np.ones((20, 12), np.uint8)
    models = {name: onnx.load(graphs / f"{name}.onnx") for name in ("encoder", "step")}
    wide = write_graphs(
        tmp_path / "wide", "wide", "translation", models, {"source": text, "target": text}, {"time": [1, 12, 999]}
    )
    with serving(tmp_path / "log", wide) as running:
        assert infer(running, "wide-fp32", {"source": np.ones((2, 128), np.uint8)}).status == 200
        reply = infer(running, "wide-fp32", {"source": np.ones((2, 129), np.uint8)})
        assert reply.status == 400
        assert reply.json["error"].startswith("source: line 0 has 129 bytes, expected at most 128.")


# What it loads


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def swap(folder: Path, other: Path) -> None:
    """``other`` in the place of ``folder``, as a deployment puts it there."""
    folder.rename(folder.with_name(f"{folder.name}.before"))
    other.rename(folder)
    shutil.rmtree(folder.with_name(f"{folder.name}.before"))


def test_a_damaged_bundle_is_refused_by_name_and_served_once_it_is_whole(tmp_path: Path) -> None:
    graph = labels_bundle(tmp_path / "labels") / "graphs/fp32/network.onnx"
    whole = graph.read_bytes()
    image = {"image": np.ones((1, 1, 4, 4), np.uint8)}
    (expected,) = straight(graph).run(["logits"], image)
    flip(graph)
    with serving(tmp_path / "log", tmp_path / "labels", reader_bundle(tmp_path / "reader")) as running:
        rows = index(running)
        assert rows["labels-fp32"]["state"] == "UNAVAILABLE" and rows["reader-fp32"]["state"] == "READY"
        assert "network.onnx: changed since the bundle was made: SHA-256" in rows["labels-fp32"]["reason"]
        told = [line for line in running.logged() if line["message"] == "not served" and line["model"] == "labels-fp32"]
        assert [line["level"] for line in told] == ["error"] and told[0]["reason"] == rows["labels-fp32"]["reason"]
        refused = infer(running, "labels-fp32", image)
        assert refused.status == 404 and rows["labels-fp32"]["reason"] in refused.json["error"]
        text = {"text": np.ones((1, 3), np.uint8)}
        assert infer(running, "reader-fp32", text).status == 200
        still = running.post("/v2/repository/models/labels-fp32/load")
        assert still.status == 400 and "changed since the bundle was made" in still.json["error"]
        graph.write_bytes(whole)
        assert running.post("/v2/repository/models/labels-fp32/load").status == 200
        assert arrays(infer(running, "labels-fp32", image))["logits"].tobytes() == expected.tobytes()
        assert index(running)["labels-fp32"]["state"] == "READY" and not index(running)["labels-fp32"]["reason"]


def test_a_load_that_fails_leaves_what_was_served_and_unload_takes_it_away(tmp_path: Path) -> None:
    labels = labels_bundle(tmp_path / "labels")
    image = {"image": np.ones((1, 1, 4, 4), np.uint8)}
    with serving(tmp_path / "log", labels) as running:
        before = infer(running, "labels-fp32", image).body
        flip(labels / "graphs/fp32/network.onnx")
        assert running.post("/v2/repository/models/labels-fp32/load").status == 400
        assert infer(running, "labels-fp32", image).body == before
        assert index(running)["labels-fp32"]["state"] == "READY"
        shutil.rmtree(labels)
        gone = running.post("/v2/repository/models/labels-fp32/load")
        assert gone.status == 400 and "contract.json: not found: no bundle" in gone.json["error"]
        assert infer(running, "labels-fp32", image).body == before
        assert running.post("/v2/repository/models/labels-fp32/unload").status == 200
        refused = infer(running, "labels-fp32", image)
        assert refused.status == 404 and refused.json["error"] == "model 'labels-fp32': not served: unloaded"
        assert index(running)["labels-fp32"]["state"] == "UNAVAILABLE"
        labels_bundle(labels, seed=1)
        assert running.post("/v2/repository/models/labels-fp32/load").status == 200
        assert arrays(infer(running, "labels-fp32", image))["logits"].tobytes() == before[-12:]


def test_a_folder_that_holds_another_recipe_by_now_is_not_loaded_in_its_place(tmp_path: Path) -> None:
    labels_bundle(tmp_path / "here")
    image = {"image": np.ones((1, 1, 4, 4), np.uint8)}
    with serving(tmp_path / "log", tmp_path / "here") as running:
        before = infer(running, "labels-fp32", image).body
        swap(tmp_path / "here", reader_bundle(tmp_path / "other"))
        reply = running.post("/v2/repository/models/labels-fp32/load")
        assert reply.status == 400 and "reader" in reply.json["error"]
        assert infer(running, "labels-fp32", image).body == before
        assert {name for name, row in index(running).items() if row["state"] == "READY"} == {"labels-fp32"}


def test_a_new_version_comes_under_load_without_a_failed_request(tmp_path: Path) -> None:
    folder = labels_bundle(tmp_path / "labels", seed=9)
    image = np.random.default_rng(3).integers(0, 256, (8, 1, 4, 4), np.uint8)
    expected = {}
    for seed in range(4):
        made = labels_bundle(tmp_path / f"made{seed}", seed) if seed else folder
        (expected[version_of(made)],) = straight(made / "graphs/fp32/network.onnx").run(["logits"], {"image": image})
    versions = list(expected)
    failures: list[object] = []
    seen: Counter[str] = Counter()
    stop = threading.Event()
    floor = [0]  # the load of this version has been answered: nothing older may come to a request sent after that

    def hammer(rows: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)
        body, headers = binary({"image": image[:rows]})
        while not stop.is_set():
            least = floor[0]
            try:
                connection.request("POST", "/v2/models/labels-fp32/infer", body, headers)
                reply = connection.getresponse()
                whole = Reply(reply.status, reply.headers, reply.read())
                version = json.loads(whole.body[: int(whole.headers["Inference-Header-Content-Length"])])[
                    "model_version"
                ]
                right = np.allclose(arrays(whole)["logits"], expected[version][:rows], rtol=1e-4, atol=1e-5)
                if not right or versions.index(version) < least:
                    failures.append((version, least, right))
                seen[version] += 1
            except Exception as error:
                failures.append(error)
                return
        connection.close()

    with serving(tmp_path / "log", folder) as running:
        threads = [threading.Thread(target=hammer, args=(rows,), daemon=True) for rows in (1, 1, 3, 8)]
        for thread in threads:
            thread.start()
        for seed in range(1, 4):
            time.sleep(0.25)
            swap(folder, tmp_path / f"made{seed}")
            reply = running.post("/v2/repository/models/labels-fp32/load")
            assert reply.status == 200, reply.body
            floor[0] = seed
        time.sleep(0.25)
        stop.set()
        for thread in threads:
            thread.join(20)
    assert not failures and set(seen) == set(versions) and sum(seen.values()) > 100
    apart = [np.abs(a - b).max() for a in expected.values() for b in expected.values() if a is not b]
    assert min(apart) > 0.01  # a wrong version would have been seen


# Who it lets in

OPEN = ("/", "/page.js", "/page.css", "/v2/health/live", "/v2/health/ready")
GUARDED = [
    ("GET", "/v2"),
    ("GET", "/v2/models/labels-fp32"),
    ("GET", "/v2/models/labels-fp32/ready"),
    ("POST", "/v2/models/labels-fp32/infer"),
    ("POST", "/v2/models/reader-fp32/generate"),
    ("POST", "/v2/models/reader-fp32/generate_stream"),
    ("POST", "/v2/repository/index"),
    ("POST", "/v2/repository/models/labels-fp32/unload"),
    ("POST", "/v2/repository/models/labels-fp32/load"),
    ("GET", "/served"),
    ("GET", "/metrics"),
    ("GET", "/nothing"),
    ("GET", "//"),
    ("GET", "/v2/"),
]


@pytest.mark.parametrize("by", ["variable", "file"])
def test_without_the_token_there_is_nothing_but_health_and_the_page(folder: Path, tmp_path: Path, by: str) -> None:
    file = tmp_path / "token"
    file.write_text("open sesame\n")
    asked: dict[str, str] = {"PLUMBLINE_TOKEN": "open sesame"} if by == "variable" else {"PLUMBLINE_TOKEN": "not this"}
    arguments = ["--token-file", file] if by == "file" else []
    with serving(tmp_path / "log", folder / "labels", folder / "reader", *arguments, **asked) as running:
        for path in OPEN:
            assert running.get(path).status == 200, path
        for method, path in GUARDED:
            for bearer in (
                None,
                "Bearer not this",
                "Bearer open sesamE",
                "open sesame",
                "Basic open sesame",
                "Bearer ",
            ):
                reply = running.ask(method, path, b"", {"Authorization": bearer} if bearer else {})
                assert reply.status == 401 and reply.headers["WWW-Authenticate"] == "Bearer", (method, path, bearer)
                assert reply.json["error"].startswith("authorization: no token, or another, expected `Authorization:")
        body, headers = binary({"image": np.ones((1, 1, 4, 4), np.uint8)})
        path = "/v2/models/labels-fp32/infer"
        assert running.post(path, body, **headers, Authorization="Bearer open sesame").status == 200
        assert running.get("/v2", Authorization="Bearer open sesame").status == 200
        assert "sesame" not in running.log.read_text()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key."""
    folder = tmp_path_factory.mktemp("tls")
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    made += ["-days", "2", "-subj", "/CN=here", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*made, "-keyout", "key.pem", "-out", "cert.pem"], cwd=folder, check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


def test_over_tls_and_in_no_other_way(folder: Path, tmp_path: Path, pair: tuple[Path, Path]) -> None:
    cert, key = pair
    trusted = ssl.create_default_context(cafile=cert)
    asked = ("--tls-cert", cert, "--tls-key", key)
    with serving(tmp_path / "log", folder / "labels", *asked, tls=trusted) as running:
        image = np.ones((2, 1, 4, 4), np.uint8)
        (expected,) = straight(folder / "labels/graphs/fp32/network.onnx").run(["logits"], {"image": image})
        assert arrays(infer(running, "labels-fp32", {"image": image}))["logits"].tobytes() == expected.tobytes()
        running.tls = ssl.create_default_context()
        with pytest.raises(ssl.SSLCertVerificationError):
            running.get("/v2/health/live")
        running.tls = None
        with pytest.raises((http.client.HTTPException, OSError)):
            running.get("/v2/health/live")
        running.tls = trusted
        assert running.get("/v2/health/live").status == 200


# What it is started with


def started(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    """A server that is expected to end by itself."""
    command = [sys.executable, "-m", "deploy.server", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, env=os.environ | environment)
    assert done.returncode != 0 and "Traceback" not in done.stderr, done.stderr
    return done


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "the following arguments are required: BUNDLE"),
        (["{labels}", "--tls-cert", "{cert}"], "server: --tls-cert, --tls-key: one of them, expected both or none."),
        (["{labels}", "--tls-key", "{key}"], "server: --tls-cert, --tls-key: one of them, expected both or none."),
        (["{labels}", "--tls-cert", "nowhere.pem", "--tls-key", "{key}"], r"server: .*nowhere\.pem"),
        (["{labels}", "--tls-cert", "{key}", "--tls-key", "{cert}"], r"server: .*key\.pem.*cert\.pem"),
        (["{labels}", "--token-file", "nowhere"], "server: nowhere: cannot be read .*, expected a token on one line."),
        (["{labels}", "--token-file", "{empty}"], "server: .*empty: empty, expected a token on one line."),
        (["{labels}", "--verdicts", "nowhere.json"], "server: nowhere.json: not found."),
        (["{labels}", "--verdicts", "{empty}"], "server: .*empty: damaged, not JSON"),
        (["{labels}", "--verdicts", "{list}"], "server: .*list: .*expected"),
        (["{labels}", "--verdicts", "{text}"], "server: .*text: .*expected"),
        (["{labels}", "--verdicts", "{rows}"], "server: .*rows: .*expected"),
    ],
)
def test_what_cannot_be_started_is_told_in_words(
    folder: Path, tmp_path: Path, pair: tuple[Path, Path], arguments: list[str], words: str
) -> None:
    files = {"empty": "", "list": "[1]", "text": '{"labels": "PASS"}'}
    files["rows"] = '{"labels": {"targets": {"onnxruntime-cpu-fp32": {"verdict": "PASS"}}}}'
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    places = {"labels": folder / "labels", "cert": pair[0], "key": pair[1]} | {n: tmp_path / n for n in files}
    port = ["--port", free_ports(1)[0], "--grpc-port", 0]
    done = started(*(argument.format(**places) for argument in arguments), *port)
    assert re.search(words, done.stderr), done.stderr


def test_a_port_that_is_taken(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = started(folder / "labels", "--port", port, "--grpc-port", 0)
    assert f"('127.0.0.1', {port}): address already in use" in done.stderr


def test_a_folder_that_is_missing_is_told_and_the_others_are_served(folder: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "log", tmp_path / "nothing", folder / "labels") as running:
        rows = index(running)
        assert rows["nothing-fp32"]["state"] == "UNAVAILABLE"
        assert "nothing/contract.json: not found: no bundle" in rows["nothing-fp32"]["reason"]
        assert rows["labels-fp32"]["state"] == "READY"


def test_verdicts_are_those_of_the_very_graphs(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    names = ("verdict", "reason", "metric", "trained", "deployed", "latency_ratio", "host", "date")
    said = dict(zip(names, ("PASS", "right", "accuracy, %", 97.5, 97.4, 0.5, "here", "2026-01-02")))
    hashes = {name: bundle.graph_sha256(graph)["network"] for name, graph in GRAPHS.items()}
    rows = {
        "onnxruntime-cpu-fp32": said | {"graph_sha256": hashes["fp32"], "more": 1},
        "onnxruntime-cpu-fp16": said | {"graph_sha256": hashes["fp32"]},  # of another graph
        "onnxruntime-cuda-int8": said | {"graph_sha256": hashes["int8"]},  # on another device
    }
    parts = {name: sha256(folder / f"turner/graphs/fp32/{name}.onnx") for name in ("encoder", "step")}
    turner = {"onnxruntime-cpu-fp32": said | {"graph_sha256": parts}}
    labels = {"onnxruntime-cpu-fp32": said | {"graph_sha256": None, "verdict": "NOT MEASURED"}}
    file = tmp_path / "verdicts.json"
    file.write_text(json.dumps({n: {"targets": t} for n, t in ((NAME, rows), ("turner", turner), ("labels", labels))}))
    with serving(tmp_path / "log", bundle.folder, folder / "turner", folder / "labels", "--verdicts", file) as running:
        shown = {row["model"]: row["verdict"] for row in running.get("/served").json}
    assert shown == {
        f"{NAME}-fp32": said,
        f"{NAME}-fp16": None,
        f"{NAME}-int8": None,
        "turner-fp32": said,
        "turner-fp32-encoder": None,
        "turner-fp32-step": None,
        "labels-fp32": None,
    }


def test_what_training_needs_is_not_needed_to_serve(folder: Path) -> None:
    port = free_ports(1)[0]
    code = f"""{BLOCKED}
import os, signal, threading, time, urllib.request
def ask():
    for _ in range(600):
        try:
            urllib.request.urlopen("http://127.0.0.1:{port}/v2/health/ready", timeout=5).close()
            break
        except OSError:
            time.sleep(0.05)
    print("ready", "torch" in sys.modules or "onnx" in sys.modules or "scipy" in sys.modules, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=ask, daemon=True).start()
import runpy
sys.argv = ["server", {str(folder / "labels")!r}, "--port", "{port}", "--grpc-port", "0"]
runpy.run_module("deploy.server", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "ready False\n", done.stderr


# How it ends

SLOW = {"text": np.ones((64, 64), np.uint8)}


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose largest call takes a good part of a second."""
    return reader_bundle(tmp_path_factory.mktemp("slow") / "slow", units=512, recipe="slow")


def end(running: Running, within_s: float) -> float:
    """Seconds until it has ended, in order."""
    start = time.monotonic()
    assert running.process.wait(within_s) == 0, running.log.read_text()
    assert "Traceback" not in running.log.read_text()
    return time.monotonic() - start


def refuses(running: Running) -> bool:
    try:
        socket.create_connection(("127.0.0.1", running.port), 5).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order_and_at_once_where_nothing_is_held(folder: Path, tmp_path: Path, sig: int) -> None:
    with serving(tmp_path / "log", folder / "labels") as running:
        idle = [running.connect() for _ in range(5)]
        for connection in idle[1:]:  # one has never said anything
            connection.request("GET", "/v2/health/live")
            connection.getresponse().read()
        idle[0].connect()
        running.process.send_signal(sig)
        assert end(running, 10) < 3
        assert refuses(running)
        for connection in idle:
            connection.close()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_it_is_ready_ends_it_without_a_trace(
    slow: Path, folder: Path, tmp_path: Path, sig: int
) -> None:
    log, port = tmp_path / "log", free_ports(1)[0]
    command = [sys.executable, "-m", "deploy.server", folder / "labels", *[slow] * 20, "--port", str(port)]
    heard = partial(signal.signal, sig, signal.SIG_DFL)  # a shell lets what it runs in the background ignore SIGINT
    with open(log, "w") as errors:
        process = subprocess.Popen([*command, "--grpc-port", "0"], cwd=ROOT, stderr=errors, preexec_fn=heard)
    try:
        until(lambda: "labels-fp32" in log.read_text() or process.poll() is not None)
        process.send_signal(sig)
        assert process.wait(10) != 1
        assert "Traceback" not in log.read_text() and "Uvicorn running" not in log.read_text()
    finally:
        process.kill()
        process.wait()


def until(so: Callable[[], object], within_s: float = 30) -> None:
    deadline = time.monotonic() + within_s
    while not so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_it_holds_is_answered_and_nothing_new_is_taken(slow: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "log", slow) as running:
        replies: list[Reply] = []
        threads = [
            threading.Thread(target=lambda: replies.append(infer(running, "slow-fp32", SLOW)), daemon=True)
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        late = running.connect()
        body, headers = binary({"text": np.ones((1, 3), np.uint8)})
        late.putrequest("POST", "/v2/models/slow-fp32/infer")
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            late.putheader(name, value)
        late.endheaders(body[:10])  # the rest is still to come
        time.sleep(0.1)
        assert len(replies) < 4
        running.process.send_signal(signal.SIGTERM)
        until(lambda: refuses(running))
        assert running.process.poll() is None
        late.send(body[10:])
        reply = late.getresponse()
        assert reply.status == 200 and len(reply.read()) > 0
        late.close()
        for thread in threads:
            thread.join(30)
        assert [reply.status for reply in replies] == [200] * 4
        assert len({reply.body for reply in replies}) == 1
        end(running, 10)


def test_it_drains_not_ready_and_answers_on_until_a_second_signal(folder: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "log", folder / "labels", "--drain", 2) as running:
        image = {"image": np.ones((1, 1, 4, 4), np.uint8)}
        start = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        until(lambda: running.get("/v2/health/ready").status == 503)
        while time.monotonic() < start + 1:
            assert running.get("/v2/health/ready").status == 503
            assert running.get("/v2/health/live").status == 200
            assert infer(running, "labels-fp32", image).status == 200
        end(running, 10)
        assert time.monotonic() - start >= 2
    with serving(tmp_path / "log", folder / "labels", "--drain", 30) as running:
        running.process.send_signal(signal.SIGTERM)
        until(lambda: running.get("/v2/health/ready").status == 503)
        assert infer(running, "labels-fp32", image).status == 200
        running.process.send_signal(signal.SIGTERM)
        assert end(running, 10) < 3


def test_a_stream_that_is_being_written_is_written_to_its_end(slow: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "log", slow) as running:
        connection = running.connect()
        asked = {"text_input": "for", "parameters": {"max_tokens": 2000, "temperature": 0}}
        connection.request("POST", "/v2/models/slow-fp32/generate_stream", json.dumps(asked))
        reply = connection.getresponse()
        first = reply.readline()
        running.process.send_signal(signal.SIGTERM)
        until(lambda: refuses(running))
        rest = reply.read()
        assert (first + rest).count(b"data: ") == 2000
        connection.close()
        end(running, 10)


def test_under_load_no_request_that_was_taken_is_lost(folder: Path, tmp_path: Path) -> None:
    """Taken: any byte of its answer came; or it was the first on its connection, and that was made before the signal.

    Where an idle connection is closed as the next request is on its way, no byte of an answer comes: HTTP lets a client
    send such a request again (RFC 9112, 9.3.1), and every client does.
    """
    image = np.random.default_rng(3).integers(0, 256, (4, 1, 4, 4), np.uint8)
    (expected,) = straight(folder / "labels/graphs/fp32/network.onnx").run(["logits"], {"image": image})
    body, headers = binary({"image": image})
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = (
        f"POST /v2/models/labels-fp32/infer HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n{head}\r\n"
    )
    sent = request.encode() + body
    lost: list[object] = []
    signalled, answered, again = [0.0], Counter[int](), Counter[str]()

    def one(stream: socket.socket) -> bytes:
        """An answer to its last byte; what came of it, where that is not all."""
        data = b""
        try:
            stream.sendall(sent)
            while True:
                got = stream.recv(65536)
                data += got
                top, found, rest = data.partition(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", top)
                if not got or (found and length and len(rest) >= int(length[1])):
                    return data
        except OSError:
            return data

    def hammer(number: int) -> None:
        while True:
            try:
                stream = socket.create_connection(("127.0.0.1", running.port), 10)
            except OSError:
                return  # not taken
            since = time.monotonic()
            with stream:
                for place in range(1 if number % 2 else 10**9):
                    data = one(stream)
                    top, _, rest = data.partition(b"\r\n\r\n")
                    if not data:
                        again["idle" if place else "new"] += 1
                        if not place and since < signalled[0] - 0.2:
                            lost.append("the first on its connection")
                        break
                    length = re.search(rb"inference-header-content-length: (\d+)", top)
                    if not top.startswith(b"HTTP/1.1 200 ") or not length:
                        lost.append(data)
                        break
                    logits = np.frombuffer(rest[int(length[1]) :], np.float32)
                    if logits.size != 12 or not np.allclose(logits.reshape(4, 3), expected, rtol=1e-4, atol=1e-5):
                        lost.append(data)
                    answered[number] += 1
                    if b"connection: close" in top.lower():
                        break

    with serving(tmp_path / "log", folder / "labels") as running:
        signalled[0] = float("inf")
        threads = [threading.Thread(target=hammer, args=(number,), daemon=True) for number in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(0.7)
        signalled[0] = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        end(running, 15)
        for thread in threads:
            thread.join(15)
            assert not thread.is_alive()
    assert not lost and len(answered) == 8 and sum(answered.values()) > 100
    assert again["idle"] + again["new"] <= 16
