"""A served model as a ``run``: asked over the Open Inference Protocol with binary tensors.

What is measured is what a caller sees, from arrays to arrays. A request's seconds are told apart: the server says how
long it waited in its queue and how long it was computed (the header Server-Timing), and the rest is transport: both
ends' reading and writing, and the way between.
"""

import http.client
import json
import math
import re
import ssl
import threading
import time
import weakref
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import numpy as np

from deploy.errors import Refused
from deploy.run import Run

DTYPES = {"BOOL": np.dtype("bool")} | {  # the protocol's name -> numpy's, little-endian as the protocol has it
    f"{word}{8 * size}": np.dtype(f"<{kind}{size}")
    for word, kind, sizes in (("UINT", "u", (1, 2, 4, 8)), ("INT", "i", (1, 2, 4, 8)), ("FP", "f", (2, 4, 8)))
    for size in sizes
}
_DATATYPES = {dtype: name for name, dtype in DTYPES.items()}
HEADER_LENGTH = "Inference-Header-Content-Length"

PATIENCE_S = 60.0  # for an answer; the server's own deadline is shorter
OF_THE_MODEL = (400, 500)  # what a model answers by that cannot do it; any other status tells of the server alone
UNASKED = "the server cannot be asked"  # in every refusal that says nothing of a model


class Wait(NamedTuple):
    """Where one call's seconds went."""

    queue_s: float
    compute_s: float
    transport_s: float


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
    connection = Connection(url, token)
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


class NotThere(Refused):
    """A server that has nothing at that path."""


class Connection:
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
            Refused: there is none, or it is a refusal; ``NotThere`` where that is 404.
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
            kind = NotThere if response.status == 404 else Refused
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
