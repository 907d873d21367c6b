"""Bundles of networks that nobody trained, made in a second, and the server as a process on them."""

import contextlib
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import torch
from conftest import ROOT
from torch import nn

from deploy.contract import FIXED, FORMAT, pack_arrays
from deploy.files import sha256, write_bytes, write_json
from deploy.tasks import load_task
from models.language_model import LanguageModel
from models.sequence_classifier import TextClassifier
from pipeline.export import to_onnx
from pipeline.network import graphs
from pipeline.passages import stack

TEXT = np.frombuffer(b"for name in names: print(name, end='')  \ndef add(one, two): return one + two" * 4, np.uint8)


def text_bundle(folder: Path) -> Path:
    """A classifier of texts at fp32, which knows a few words."""
    torch.manual_seed(0)
    texts = stack([b"a good film", b"a bad film", b"good good", b"bad bad , a film"])
    network = TextClassifier(classes=2, cell="GRU", size=8, units=12, most=10)
    network.fit(torch.from_numpy(texts))
    with torch.no_grad():
        network.output.weight *= 20
    examples = {"text": texts, "label": np.array([1, 0, 1, 0])}
    return write_bundle(
        folder, "reviews", "classification", network.eval(), examples, {"time": [1, 16, 2048]}, ("bad", "good")
    )


def language_bundle(folder: Path, seed: int = 1, units: int = 24, recipe: str = "writer") -> Path:
    """A character language model at fp32."""
    torch.manual_seed(seed)
    network = LanguageModel("GRU", size=8, units=units, layers=2, window=4).eval()
    network.fit(torch.from_numpy(TEXT.copy()))
    with torch.no_grad():
        network.output.weight *= 8  # else every byte is nearly as likely as every other
    text = np.stack([TEXT[i : i + 40] for i in range(20)])
    return write_bundle(folder, recipe, "language_model", network, {"text": text}, {"time": [1, 1, 64]})


def labels_bundle(folder: Path, seed: int = 1, recipe: str = "labels") -> Path:
    """A classifier at fp32 of images ``(batch, 1, 4, 4)`` uint8, written as a graph: in milliseconds."""
    random = np.random.default_rng(seed)
    graph = drawn(
        "(uint8[batch,1,4,4] image) => (float[batch,3] logits)",
        """
        plain = Cast<to = 1>(image)
        flat = Flatten(plain)
        hidden = MatMul(flat, w)
        bent = Tanh(hidden)
        logits = MatMul(bent, v)
        """,
        w=random.standard_normal((16, 8)) / 500,
        v=random.standard_normal((8, 3)),
    )
    image = np.random.default_rng(0).integers(0, 256, (20, 1, 4, 4), np.uint8)
    examples = {"image": image, "label": np.arange(20) % 3}
    return write_graphs(folder, recipe, "classification", {"network": graph}, examples, {}, ("one", "two", "three"))


def reader_bundle(folder: Path, seed: int = 1, units: int = 16, recipe: str = "reader") -> Path:
    """A character language model of one GRU at fp32, written as a graph: in milliseconds. It writes ASCII alone."""
    random = np.random.default_rng(seed)
    graph = drawn(
        f"(uint8[batch,time] text, float[batch,1,{units}] state)"
        f" => (float[batch,time,256] logits, float[batch,1,{units}] next_state)",
        f"""
        rows = Cast<to = 7>(text)
        vectors = Gather(e, rows)
        turned = Transpose<perm = [1, 0, 2]>(vectors)
        first = Transpose<perm = [1, 0, 2]>(state)
        every, last = GRU<hidden_size = {units}, linear_before_reset = 1>(turned, w, r, b, , first)
        said = Squeeze(every, one)
        back = Transpose<perm = [1, 0, 2]>(said)
        weighed = MatMul(back, o)
        logits = Add(weighed, ascii)
        next_state = Transpose<perm = [1, 0, 2]>(last)
        """,
        e=random.standard_normal((256, 8)),
        w=random.standard_normal((1, 3 * units, 8)),
        r=random.standard_normal((1, 3 * units, units)) / units**0.5,
        b=random.standard_normal((1, 6 * units)),
        one=np.array([1]),
        o=random.standard_normal((units, 256)) * 4,
        ascii=np.where(np.arange(256) < 128, 0.0, -1e3),
    )
    text = np.stack([TEXT[i : i + 40] for i in range(20)])
    examples, ranges = {"text": text}, {"time": [1, 1, 64]}
    return write_graphs(folder, recipe, "language_model", {"network": graph}, examples, ranges)


def turner_bundle(folder: Path, seed: int = 1, recipe: str = "turner") -> Path:
    """An encoder-decoder at fp32, written as two graphs: in milliseconds."""
    random = np.random.default_rng(seed)
    encoder = drawn(
        "(uint8[batch,time] source) => (float[batch,time,6] memory, float[batch,4] state)",
        """
        rows = Cast<to = 7>(source)
        memory = Gather(e, rows)
        all = ReduceSum<keepdims = 0>(memory, one)
        mixed = MatMul(all, s)
        state = Tanh(mixed)
        """,
        e=random.standard_normal((256, 6)),
        s=random.standard_normal((6, 4)),
        one=np.array([1]),
    )
    step = drawn(
        "(uint8[batch] character, float[batch,time,6] memory, uint8[batch,time] source, float[batch,4] state)"
        " => (float[batch,256] logits, float[batch,4] next_state)",
        """
        rows = Cast<to = 7>(character)
        before = Gather(e, rows)
        mixed = MatMul(state, r)
        sum = Add(before, mixed)
        next_state = Tanh(sum)
        asked = MatMul(next_state, a)
        column = Unsqueeze(asked, two)
        score = MatMul(memory, column)
        flat = Squeeze(score, two)
        wide = Cast<to = 7>(source)
        padding = Equal(wide, zero)
        masked = Where(padding, low, flat)
        weight = Softmax(masked)
        row = Unsqueeze(weight, one)
        seen = MatMul(row, memory)
        context = Squeeze(seen, one)
        both = Concat<axis = 1>(context, next_state)
        logits = MatMul(both, o)
        """,
        e=random.standard_normal((256, 4)) * 2,
        r=random.standard_normal((4, 4)),
        a=random.standard_normal((4, 6)),
        o=random.standard_normal((10, 256)) + np.where(np.arange(256) == 0, 0.8, 0.0),
        one=np.array([1]),
        two=np.array([2]),
        zero=np.array(0),
        low=np.array(-1e4),
    )
    text = np.stack([TEXT[i : i + 12] for i in range(20)])
    examples, ranges = {"source": text, "target": text}, {"time": [1, 12, 64]}
    return write_graphs(folder, recipe, "translation", {"encoder": encoder, "step": step}, examples, ranges)


def drawn(form: str, nodes: str, **constants: np.ndarray) -> onnx.ModelProto:
    """A graph in ONNX's own text form; floats are float32."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> drawn {form} {{ {nodes} }}')
    for name, array in constants.items():
        array = array.astype(np.float32) if array.dtype.kind == "f" else array
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


def write_bundle(
    folder: Path,
    recipe: str,
    task: str,
    network: nn.Module,
    examples: dict[str, np.ndarray],
    ranges: dict[str, list[int]],
    classes: tuple[str, ...] = (),
) -> Path:
    """A bundle of what PyTorch exports, which takes seconds."""
    fed = dict(examples)
    if task == "language_model":
        fed["state"] = np.zeros((20, len(network.cells.layers), network.cells.layers[0].width), np.float32)
    outputs = load_task(task).outputs
    models = {graph: to_onnx(part, fed, outputs[graph]) for graph, part in graphs(network, outputs).items()}
    return write_graphs(folder, recipe, task, models, examples, ranges, classes)


def write_graphs(
    folder: Path,
    recipe: str,
    task: str,
    models: dict[str, onnx.ModelProto],
    examples: dict[str, np.ndarray],
    ranges: dict[str, list[int]],
    classes: tuple[str, ...] = (),
) -> Path:
    """A bundle that is whole, and whose recorded answers are nobody's."""
    io: dict[str, dict[str, list]] = {}
    for graph, model in models.items():
        write_bytes(folder / f"graphs/fp32/{graph}.onnx", model.SerializeToString())
        session = onnxruntime.InferenceSession(folder / f"graphs/fp32/{graph}.onnx")
        io[graph] = {"inputs": told(session.get_inputs()), "outputs": told(session.get_outputs())}
    for file in FIXED:
        write_bytes(folder / file, b"{}" if file.endswith("json") else pack_arrays(examples))
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "contract.json")
    contract = {
        "format": FORMAT,
        "recipe": recipe,
        "task": task,
        "classes": classes,
        "io": io,
        "graphs": {"fp32": {graph: f"graphs/fp32/{graph}.onnx" for graph in io}},
        "ranges": {"batch": [1, 8, 64], **ranges},
        "refused": {},
        "files": {
            path.relative_to(folder).as_posix(): {"sha256": sha256(path), "bytes": path.stat().st_size}
            for path in files
        },
    }
    write_json(folder / "contract.json", contract)
    return folder


def told(tensors: list) -> list[dict]:
    kinds = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
    return [{"name": t.name, "dtype": kinds[t.type], "shape": t.shape} for t in tensors]


@dataclass
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> dict:
        return json.loads(self.body)


@dataclass
class Running:
    """A server that answers, and its process."""

    port: int
    process: subprocess.Popen
    log: Path
    grpc_port: int = 0
    tls: ssl.SSLContext | None = None

    def connect(self) -> http.client.HTTPConnection:
        """A connection, that is kept as long as the server keeps it."""
        if self.tls:
            return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=self.tls)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def ask(self, method: str, path: str, body: object = None, headers: dict | None = None) -> Reply:
        """One request on a connection of its own."""
        connection = self.connect()
        sent = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        try:
            connection.request(method, path, sent, headers or {})
            reply = connection.getresponse()
            return Reply(reply.status, reply.headers, reply.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self.ask("GET", path, None, headers)

    def post(self, path: str, body: object = None, **headers: str) -> Reply:
        return self.ask("POST", path, body, headers)

    def logged(self) -> list[dict]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@contextlib.contextmanager
def serving(
    log: Path,
    *arguments: object,
    grpc: bool = False,
    tls: ssl.SSLContext | None = None,
    first: str = "",
    **environment: str,
) -> Iterator[Running]:
    """The server on ``arguments``, ready; ended by its own process id.

    Its log is its standard error, in the file ``log``. ``first`` is Python that its process runs before.
    """
    port, grpc_port = free_ports(2)
    begun = ["-c", f"{first}\nfrom deploy.server.__main__ import main\nmain()"] if first else ["-m", "deploy.server"]
    command = [sys.executable, *begun, *map(str, arguments), "--port", str(port)]
    with open(log, "w") as errors:
        process = subprocess.Popen(
            [*command, "--grpc-port", str(grpc_port if grpc else 0)],
            cwd=ROOT,
            stderr=errors,
            env=os.environ | environment,
        )
    running = Running(port, process, log, grpc_port, tls)
    try:
        wait_until(running)
        yield running
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def resident(running: Running) -> int:
    """Mebibytes of memory that the server has."""
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) // 1024


def wait_until(running: Running) -> None:
    """Until it is ready."""
    end = time.monotonic() + 60
    while time.monotonic() < end and running.process.poll() is None:
        with contextlib.suppress(OSError):
            if running.get("/v2/health/ready").status == 200:
                return
        time.sleep(0.05)
    raise AssertionError(running.log.read_text())


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody has."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def binary(inputs: dict[str, np.ndarray], **parameters: object) -> tuple[bytes, dict[str, str]]:
    """A request in binary, that wants its answer so: body and headers."""
    names = {"uint8": "UINT8", "float32": "FP32"}
    told = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": names[array.dtype.name],
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in inputs.items()
    ]
    header = json.dumps({"inputs": told, "parameters": {"binary_data_output": True, **parameters}}).encode()
    body = header + b"".join(np.ascontiguousarray(array).tobytes() for array in inputs.values())
    return body, {"Inference-Header-Content-Length": str(len(header))}


def arrays(reply: Reply) -> dict[str, np.ndarray]:
    """The outputs of an answer in binary."""
    assert reply.status == 200, reply.body
    length = int(reply.headers["Inference-Header-Content-Length"])
    kinds = {"UINT8": np.uint8, "FP32": np.float32}
    outputs, at = {}, length
    for tensor in json.loads(reply.body[:length])["outputs"]:
        size = tensor["parameters"]["binary_data_size"]
        values = np.frombuffer(reply.body[at : at + size], kinds[tensor["datatype"]])
        outputs[tensor["name"]] = values.reshape(tensor["shape"])
        at += size
    return outputs
