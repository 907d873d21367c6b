"""A served model as a ``run``: asked over the Open Inference Protocol with binary tensors, and measured as any target.

What is measured is what a caller sees, from arrays to arrays. A request's seconds are told apart: the server says how
long it waited in its queue and how long it was computed (the header Server-Timing), and the rest is transport: both
ends' reading and writing, and the way between.

A row of a served model has ``queue_s``, ``compute_s`` and ``transport_s`` beside what ``deploy.measurement`` lists:
``(rounds,)`` seconds, position = round, as in ``latency_s``. Where a request is several calls, theirs are added up, and
what the caller computes between them is in none. Of a server that does not tell, as Triton, they are left out, and a
note says so: there is no telling its queue and its computing from the way.

Sources: model_configuration.md, protocol/extension_model_configuration.md and extension_model_repository.md in docs of
triton-inference-server/server (release 24.10).
"""

import http.client
import json
import math
import re
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import numpy as np

from deploy.contract import Bundle
from deploy.errors import Refused
from deploy.latency import Requests
from deploy.run import Run
from deploy.state import from_zero
from deploy.targets import GRAPHS, Target

DTYPES = {"BOOL": np.dtype("bool")} | {  # the protocol's name -> numpy's, little-endian as the protocol has it
    f"{word}{8 * size}": np.dtype(f"<{kind}{size}")
    for word, kind, sizes in (("UINT", "u", (1, 2, 4, 8)), ("INT", "i", (1, 2, 4, 8)), ("FP", "f", (2, 4, 8)))
    for size in sizes
}
_DATATYPES = {dtype: name for name, dtype in DTYPES.items()}
HEADER_LENGTH = "Inference-Header-Content-Length"
KINDS = {"KIND_CPU": "cpu", "KIND_GPU": "cuda"}  # Triton's name of a model's device -> ours

PATIENCE_S = 60.0  # for an answer; the server's own deadline is shorter
OF_THE_MODEL = (400, 500)  # what a model answers by that cannot do it; any other status tells of the server alone
UNASKED = "the server cannot be asked"  # in every refusal that says nothing of a model


class Wait(NamedTuple):
    """Where one call's seconds went."""

    queue_s: float
    compute_s: float
    transport_s: float


@dataclass(frozen=True)
class Served:
    """A model that takes what its graph takes: a state goes there and back, and is not the server's to keep."""

    version: str  # as the server counts them
    contract: str  # the first 12 hex digits of the SHA-256 of the contract that it is of
    precision: str  # of its graph
    device: str  # "cpu" or "cuda"
    most: int = 0  # rows of a request; 0: it sets no bound


@dataclass(frozen=True)
class Server:
    """A server that was reached."""

    url: str
    token: str = field(repr=False)
    name: str  # with its version: "plumbline 1.0", "triton 2.51.0"
    models: dict[str, Served]  # one at least


@dataclass(frozen=True)
class RemoteTarget(Target):
    """A target that is served; ``waits``: of each call since it was last emptied."""

    waits: list[Wait] = field(default_factory=list)


def open_remote(url: str, model: str, token: str = "", version: str = "", waits: list[Wait] | None = None) -> Run:
    """Open a served model; calls from several threads are asked one after another.

    Args:
        url: of the server, ``http://HOST:PORT`` or ``https://HOST:PORT``; its certificate is held against the system's.
        token: that requests bear; empty: none.
        version: that must answer; empty: any.
        waits: gets an entry a call, where the server tells it.

    Raises:
        Refused: no such server or model there. Of the run: what the server refused, in its words, or that it is gone.
    """
    connection = _Connection(url, token)
    path = f"/v2/models/{quote(model, safe='')}" + (f"/versions/{quote(version, safe='')}" if version else "")
    try:
        connection.ask(model, "GET", f"{path}/ready")
    except Refused:
        connection.close()
        raise

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        start = time.perf_counter()
        length, body = _request(inputs, f"{model} at {connection.host}")
        told, answer = connection.ask(model, "POST", f"{path}/infer", body, {HEADER_LENGTH: str(length)})
        try:
            outputs = _answers(int(told[HEADER_LENGTH]), answer)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise Refused(
                f"{model} at {connection.host}: an answer that cannot be read ({type(error).__name__}: {error}), "
                f"expected binary tensors. Ask a server of the Open Inference Protocol with that extension."
            ) from None
        if waits is not None and (timing := _timing(told.get("Server-Timing", ""))):
            waits.append(Wait(*timing, time.perf_counter() - start - sum(timing)))
        return outputs

    weakref.finalize(run, connection.close)
    return run


def open_server(url: str, token: str = "") -> Server:
    """What is served at ``url``, by Plumbline or by a Triton that has what ``make triton`` wrote.

    Raises:
        Refused: nothing answers there, it wants another token, or it serves nothing of Plumbline's.
    """
    connection = _Connection(url, token)
    try:
        try:
            models = _told(json.loads(connection.ask("/served", "GET", "/served")[1]))
        except _NotThere:
            models = _configured(connection)
        about = json.loads(connection.ask("/v2", "GET", "/v2")[1])
        name = f"{about['name']} {about['version']}".strip()
        if not models:
            raise ValueError
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise Refused(
            f"{url}: not as a server of this version of Plumbline tells what it serves, nor as a Triton does, expected "
            f"models, each with its contract and device. Start one: `python -m deploy.server BUNDLE ...`; for Triton "
            f"`make triton` writes the models."
        ) from None
    finally:
        connection.close()
    return Server(url, token, name, models)


def _told(models: list[dict[str, str]]) -> dict[str, Served]:
    """What Plumbline's own server says at ``/served``."""
    return {
        model["model"]: Served(
            model["version"],
            model["version"],
            GRAPHS[f"onnxruntime-{model['device']}"][model["precision"]],
            model["device"],
        )
        for model in models
    }


def _configured(connection: "_Connection") -> dict[str, Served]:
    """What Triton says in the configurations of its models; those of somebody else are left out.

    Raises:
        Refused: it does not answer, or a model is on no one device.
        KeyError, TypeError, ValueError, AttributeError: it does not say so.
    """
    index = "/v2/repository/index"
    ready = json.loads(connection.ask(index, "POST", index, b'{"ready": true}')[1])
    found = {}
    for name, version in sorted(((model["name"], model["version"]) for model in ready), key=lambda of: int(of[1])):
        path = f"/v2/models/{quote(name, safe='')}/versions/{version}/config"
        config = json.loads(connection.ask(name, "GET", path)[1])
        told = {key: parameter.get("string_value") for key, parameter in config["parameters"].items()}
        if "contract_sha256" not in told or "sequence_batching" in config:  # whose state Triton keeps
            continue
        kinds = {group["kind"] for group in config["instance_group"]}
        if len(kinds) > 1 or not kinds <= KINDS.keys():
            raise Refused(
                f"{name} at {connection.host}: instance groups of {', '.join(sorted(kinds))}, expected KIND_CPU or "
                f"KIND_GPU alone: what is measured is of one device. Leave one kind in its config.pbtxt."
            )
        (device,) = (KINDS[kind] for kind in kinds)
        most = int(config["max_batch_size"])
        found[name] = Served(version, told["contract_sha256"][:12], told["precision"], device, most)
    return found


def host_of(url: str) -> str:
    """``HOST:PORT`` of ``url``.

    Raises:
        Refused: it is no server's address.
    """
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
        if not whole or parts.query or parts.fragment or parts.port == 0:
            raise ValueError
    except ValueError:
        raise Refused(
            f"{url.rpartition('@')[2]!r}: no server's address, expected http://HOST:PORT or https://HOST:PORT, and no "
            f"user in it."
        ) from None
    return parts.netloc


def remote_targets(bundle: Bundle, server: Server) -> list[RemoteTarget]:
    """``remote-fp32``, ``remote-fp16`` and ``remote-int8``: the graphs of ``bundle`` as ``server`` serves them.

    That it has them follows from the contract's hash, which has the graphs': Plumbline's server has held them against
    it, and ``make triton`` has before it copied them.
    """
    return [_target(bundle, server, precision) for precision in GRAPHS["onnxruntime-cpu"]]


def _target(bundle: Bundle, server: Server, precision: str) -> RemoteTarget:
    expected, host = bundle.sha256[:12], host_of(server.url)
    models = {graph: _called(f"{bundle.recipe}-{precision}", graph, server) for graph in bundle.io}
    served = {model: server.models[model] for model in models.values() if model in server.models}
    device = next(iter([*served.values(), *server.models.values()])).device
    of = GRAPHS[f"onnxruntime-{device}"][precision]  # unless what is served says another
    of = next((facts.precision for facts in served.values()), of)
    reason = bundle.lacks(of)
    for model in models.values():
        if model not in served:
            reason = reason or f"{model} is not served at {host}. Mend that: its log says why."
        elif (came := served[model].contract) != expected:
            reason = reason or (
                f"version {came} of {model} is served at {host}, and the bundle here is {expected}: they differ. "
                f"Measure with the bundle that is served, or serve this one."
            )
    waits: list[Wait] = []

    def open_() -> dict[str, Run]:
        runs = {}
        for graph, model in models.items():
            run = open_remote(server.url, model, server.token, served[model].version, waits)
            runs[graph] = from_zero(_in_parts(run, served[model].most), bundle.io[graph])
        return runs

    files = {graph: bundle.path(file) for graph, file in bundle.graphs.get(of, {}).items()}
    notes = (f"served by {server.name}",)
    return RemoteTarget(f"remote-{precision}", of, device, files, open_, reason, notes=notes, waits=waits)


def _called(whole: str, graph: str, server: Server) -> str:
    """The model that is one graph of ``whole`` alone; Triton keeps the state of ``whole`` itself where there is one."""
    apart = f"{whole}-{graph}"
    return whole if graph == "network" and apart not in server.models else apart


def _in_parts(run: Run, most: int) -> Run:
    """``run``, which takes ``most`` rows at a time, for any batch: the first axis of every array."""
    if not most:
        return run

    def answer(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        starts = range(0, len(next(iter(inputs.values()))), most)
        parts = [run({name: array[i : i + most] for name, array in inputs.items()}) for i in starts]
        return parts[0] if len(parts) == 1 else {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

    return answer


def noting(requests: Requests, waits: list[Wait], noted: list[Wait | None]) -> Requests:
    """``requests``, each of which adds to ``noted`` what its calls took together; ``None`` where no server told.

    Args:
        waits: what the calls fill.
    """
    return [partial(_noted, request, waits, noted) for request in requests]


def _noted(request: Callable[[], object], waits: list[Wait], noted: list[Wait | None]) -> None:
    waits.clear()
    request()
    noted.append(Wait(*map(sum, zip(*waits))) if waits else None)


class _NotThere(Refused):
    """A server that has nothing at that path."""


class _Connection:
    """A connection that is kept from request to request."""

    def __init__(self, url: str, token: str) -> None:
        self.host = host_of(url)
        parts = urlsplit(url)
        if not (token.isascii() and token.isprintable()):
            raise Refused(f"the token for {self.host}: has characters that no header can, expected visible ASCII.")
        self._path, self._lock = parts.path.rstrip("/"), threading.Lock()
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        name = str(parts.hostname)
        self._http = (
            http.client.HTTPSConnection(name, parts.port, timeout=PATIENCE_S, context=ssl.create_default_context())
            if parts.scheme == "https"
            else http.client.HTTPConnection(name, parts.port, timeout=PATIENCE_S)
        )

    def close(self) -> None:
        """End it; the next request begins another."""
        self._http.close()

    def ask(
        self,
        model: str,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[http.client.HTTPMessage, bytes]:
        """The headers and the body of the answer.

        Raises:
            Refused: there is none, or it is a refusal; ``_NotThere`` where that is 404.
        """
        with self._lock:
            try:
                response, answer = self._exchange(method, self._path + path, body, {**self._headers, **(headers or {})})
            except (OSError, http.client.HTTPException) as error:
                self._http.close()
                raise Refused(self._unasked(model, f"{type(error).__name__}: {error}")) from None
        if response.status != 200:
            words = _words(answer) or response.reason
            if response.status in OF_THE_MODEL:
                raise Refused(f"{model} at {self.host}: {words}")
            kind = _NotThere if response.status == 404 else Refused
            raise kind(self._unasked(model, f"{response.status}: {words}"))
        return response.headers, answer

    def _exchange(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[http.client.HTTPResponse, bytes]:
        kept = self._http.sock is not None
        try:
            return self._once(method, path, body, headers)
        except (ConnectionError, ssl.SSLError):
            if not kept:
                raise
            self._http.close()  # it was dropped while nothing was asked
            return self._once(method, path, body, headers)

    def _once(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[http.client.HTTPResponse, bytes]:
        self._http.request(method, path, body or None, headers)
        response = self._http.getresponse()
        return response, response.read()

    def _unasked(self, model: str, why: str) -> str:
        return f"{model} at {self.host}: {UNASKED} ({why.rstrip('.')}). Mend that, and measure again."


def _timing(header: str) -> tuple[float, float] | None:
    """Seconds in the queue and of computing, by Server-Timing (milliseconds); ``None`` where that does not tell."""
    told = {name: 1e-3 * float(ms) for name, ms in re.findall(r"(\w+);dur=(\d+(?:\.\d*)?)", header)}
    return (told["queue"], told["compute"]) if told.keys() >= {"queue", "compute"} else None


def _words(answer: bytes) -> str:
    """What a refusal says; empty if it is none of the protocol's."""
    try:
        return str(json.loads(answer)["error"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return ""


def _request(inputs: Mapping[str, np.ndarray], label: str) -> tuple[int, bytes]:
    """Bytes of the JSON, and the body."""
    tensors, values = [], []
    for name, array in inputs.items():
        dtype = array.dtype.newbyteorder("<")
        if dtype not in _DATATYPES:
            raise Refused(f"{label}: input '{name}': {array.dtype}, for which the protocol has no datatype.")
        values.append(array.astype(dtype, copy=False).tobytes())
        told = {"name": name, "shape": array.shape, "datatype": _DATATYPES[dtype]}
        tensors.append(told | {"parameters": {"binary_data_size": len(values[-1])}})
    header = json.dumps({"inputs": tensors, "parameters": {"binary_data_output": True}}).encode()
    return len(header), b"".join([header, *values])


def _answers(length: int, body: bytes) -> dict[str, np.ndarray]:
    """The outputs by name.

    Raises:
        KeyError, TypeError, ValueError: the answer is not as the protocol has it.
    """
    outputs, place = {}, length
    for told in json.loads(body[:length])["outputs"]:
        dtype, shape, size = DTYPES[told["datatype"]], told["shape"], told["parameters"]["binary_data_size"]
        if size != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{size} bytes for {told['datatype']} {shape}")
        outputs[told["name"]] = np.frombuffer(body[place : place + size], dtype).reshape(shape).copy()
        place += size
    if place != len(body):
        raise ValueError(f"{len(body)} bytes, and {place} are told of")
    return outputs
