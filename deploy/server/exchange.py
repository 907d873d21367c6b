"""`infer` over HTTP: what its headers say, and the bytes of its answer."""

import json
from collections.abc import Iterable
from typing import NamedTuple

from deploy.server.batching import Answer, full
from deploy.server.errors import Status, status_and_words
from deploy.server.gate import Gate
from deploy.server.protocol import Request, write_response
from deploy.server.serving import Served

Headers = list[tuple[bytes, bytes]]

HEADER_LENGTH = b"inference-header-content-length"
PHRASES = {
    200: b"OK",
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    413: b"Content Too Large",
    408: b"Request Timeout",
    415: b"Unsupported Media Type",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
}


class Reply(NamedTuple):
    """An answer, as HTTP has it."""

    status: int
    headers: Headers
    body: bytes

    def raw(self, closing: bool) -> bytes:
        """All of it, as it goes over the wire."""
        head = [b"HTTP/1.1 %d %b" % (self.status, PHRASES.get(self.status, b""))]
        head += [b"%b: %b" % header for header in self.headers]
        if closing:
            head.append(b"connection: close")
        return b"\r\n".join([*head, b"", self.body])


def read_headers(headers: Iterable[tuple[bytes, bytes]], served: Served, gate: Gate) -> tuple[bytes | None, int]:
    """Inference-Header-Content-Length, if it was sent, and the bytes that the body is said to have; 0 if none are.

    What can be refused is refused here, before anything of the body is read: a refusal must cost little.

    Raises:
        Status: 401, 403, 413, 415, 503.
    """
    length, announced = None, 0
    bearer = host = origin = b""
    for name, value in headers:
        if name == HEADER_LENGTH:
            length = value
        elif name == b"content-length":
            announced = int(value)
        elif name == b"host":
            host = value
        elif name == b"authorization":
            bearer = value
        elif name == b"origin":
            origin = value
        elif name == b"content-encoding" and value.lower() != b"identity":
            raise Status(415, f"content-encoding: {value[:50].decode('latin-1')!r}, expected none. Send it as it is.")
    gate.from_here(host, origin)
    gate.admit(bearer)
    gate.allow(announced)
    if served.batcher.full:
        raise Status(503, full(served.model.name, gate.limits.waiting))
    return length, announced


def said(request: Request, answer: Answer) -> Reply:
    """``answer`` in the form that was asked for.

    Raises:
        Refused: it cannot be said so.
    """
    model = answer.model  # a sequence goes on with the version that it began with
    length, body = write_response(answer.outputs, request, model.name, model.version, model.classes)
    headers = [
        (b"server-timing", answer.timing.encode()),
        (b"content-length", b"%d" % len(body)),
    ]
    if length is None:
        headers.append((b"content-type", b"application/json"))
    else:
        headers.append((b"content-type", b"application/octet-stream"))
        headers.append((HEADER_LENGTH, b"%d" % length))
    return Reply(200, headers, body)


def refusal(error: Exception) -> Reply:
    """Why there is no answer."""
    status, words = status_and_words(error)
    body = json.dumps({"error": words}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if status == 503:
        headers.append((b"retry-after", b"1"))
    if isinstance(error, Status) and error.allow:
        headers.append((b"allow", error.allow.encode()))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return Reply(status, headers, body)
