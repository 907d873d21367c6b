"""A connection of uvicorn's: `infer` is answered in it, without ASGI, and what uvicorn leaves open is bounded.

ASGI gives every request a task, an event and a dictionary, for which `infer` has no use. So one that comes by itself is
read and answered here, in uvicorn's own callbacks. One that is pipelined behind another
request, that waits for "100 Continue", or whose client does not read its answers goes the way of every other request.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from deploy.errors import Refused
from deploy.server.app import Application
from deploy.server.batching import Answer
from deploy.server.errors import Status
from deploy.server.exchange import Reply, read_headers, refusal, said
from deploy.server.protocol import Request, read_request
from deploy.server.serving import Served, check_outputs, deadline, infer

CONNECTIONS = 2_000
WHOLE_S = 30.0  # for a request to come, from its first byte or the connection; for half of an answer to be taken
HEAD_BYTES = 2**16  # of a request's line and headers, beside what came with its first byte
PIPELINED = 128  # requests that wait behind another of their connection
HEADERS = 100  # of a request: each takes some ten times its bytes
LARGE = f"headers: over {HEADERS}, or over {HEAD_BYTES} bytes, expected fewer. Leave some out."
BROKEN = "request: cannot be read as HTTP/1.1, expected one, with a body as long as its headers say."
FULL = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


def _nothing() -> None:
    pass


class Direct:
    """An `infer` that is answered here; it stands where uvicorn has its cycle of a request and a response."""

    message_event = asyncio.Event()  # which uvicorn sets when the client has gone, and nobody waits for here

    def __init__(self, served: Served, keep_alive: bool) -> None:
        self.served = served
        self.keep_alive = keep_alive
        self.length: bytes | None = None  # of the JSON
        self.body = bytearray()  # not parts of it: a chunk of one byte would take forty
        self.cancel: Callable[[], object] = _nothing  # what is being done for it
        self.response_complete = False
        self.disconnected = False


class Connection(HttpToolsProtocol):
    """One of a bounded number, that has to send requests and to take answers within a bounded time and space."""

    due: float | None  # monotonic, s; None while nothing is to come
    taken: float  # monotonic, s: when half of what is unsent has to be
    unsent = 0  # bytes of answers that the client had not taken when that was last looked at; they are held
    head: int | None = None  # bytes of headers that are not whole yet, but for what came with their first byte
    direct: Direct | None = None  # that is not answered yet

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection, if there is room for it."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self.application: Application = self.config.loaded_app
        self.due = time.monotonic() + WHOLE_S
        if len(self.connections) > CONNECTIONS:
            self.transport.write(FULL)
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """End what is done for a client that has gone."""
        if self.direct is not None:
            direct, self.direct = self.direct, None
            direct.response_complete = True
            direct.cancel()
            direct.served.counts.answered(499)
            self.application.gate.release(len(direct.body))
        self._left(0)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Anything at all."""
        before = self.head
        super().data_received(data)
        if self.head is not None:
            self.head += len(data) if before is not None else 0
            if self.head > HEAD_BYTES:
                self.send_400_response("")
        if len(self.pipeline) > PIPELINED:
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # uvicorn's words
        """Say why nothing more can be read, and end."""
        if not self.transport.is_closing():
            large = len(self.headers or ()) > HEADERS or (self.head or 0) > HEAD_BYTES
            error = Status(431, LARGE) if large else Refused(BROKEN)
            self.transport.write(refusal(error).raw(closing=True))
            self.transport.close()

    def _headed(self) -> None:
        """Headers are whole; `send_400_response` tells why that is the end."""
        self.head = None
        if len(self.headers) > HEADERS:
            raise Status(431, LARGE)

    def on_message_begin(self) -> None:
        """A request's first byte."""
        super().on_message_begin()
        self.head = 0
        self.due = time.monotonic() + WHOLE_S

    def on_headers_complete(self) -> None:
        """Take an `infer` that can be answered here."""
        self._headed()
        served = self.application.repository.routes.get(self.url)
        if (
            served is None
            or self.parser.get_method() != b"POST"
            or self.parser.get_http_version() != "1.1"
            or self.expect_100_continue
            or self.flow.write_paused
            or (self.cycle is not None and not self.cycle.response_complete)
        ):
            super().on_headers_complete()
            return
        self.direct = direct = Direct(served, self.parser.should_keep_alive())
        self.cycle = direct  # type: ignore[assignment]
        try:
            direct.length, _ = read_headers(self.headers, served, self.application.gate)
        except Exception as error:
            self._tell(direct, refusal(error))

    def on_chunk_header(self) -> None:
        """A chunk, or what comes behind the last: headers again."""
        self.head = 0

    def on_body(self, body: bytes) -> None:
        """Keep a part of a body."""
        self.head = None
        direct = self.cycle
        if not isinstance(direct, Direct):
            super().on_body(body)
        elif not direct.response_complete:
            try:
                self.application.gate.hold(len(body))
                direct.body += body
                self.application.gate.allow(len(direct.body))
            except Exception as error:
                self._tell(direct, refusal(error))

    def on_message_complete(self) -> None:
        """A request's last byte."""
        self._headed()
        self.due = None
        direct = self.cycle
        if not isinstance(direct, Direct):
            super().on_message_complete()
        elif not direct.response_complete:
            try:
                self._ask(direct)
            except Exception as error:
                self._tell(direct, refusal(error))

    def _ask(self, direct: Direct) -> None:
        served, limits = direct.served, self.application.gate.limits
        request = read_request(bytes(direct.body), direct.length, served.model.form, limits.body_bytes)
        check_outputs(request, served.model)
        if "sequence_id" not in request.parameters:
            wait_s = deadline(request.parameters, limits.deadline_s)
            call = served.batcher.call(request.inputs, wait_s, partial(self._told, direct, request))
            direct.cancel = partial(served.batcher.cancel, call)
            return
        work = infer(served, self.application.sessions, request.inputs, request.parameters, limits.deadline_s)
        task = self.loop.create_task(work)
        task.add_done_callback(partial(self._went_on, direct, request))
        direct.cancel = task.cancel

    def _went_on(self, direct: Direct, request: Request, task: asyncio.Task[Answer]) -> None:
        """A sequence has taken its step."""
        if not task.cancelled():
            self._told(direct, request, task.exception() or task.result())

    def _told(self, direct: Direct, request: Request, answer: Answer | BaseException) -> None:
        if not direct.response_complete:
            try:
                if isinstance(answer, BaseException):
                    raise answer
                reply = said(request, answer)
            except Exception as error:
                reply = refusal(error)
            self._tell(direct, reply)

    def _tell(self, direct: Direct, reply: Reply) -> None:
        direct.response_complete, self.direct = True, None
        direct.cancel = _nothing  # which leads back to `direct`: a circle for each request is what makes Python pause
        direct.served.counts.answered(reply.status)
        self.application.gate.release(len(direct.body))
        self.transport.write(reply.raw(closing=not direct.keep_alive))
        if not direct.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def pause_writing(self) -> None:
        """The client takes less than it is sent."""
        super().pause_writing()
        self._left(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """It has taken nearly all."""
        super().resume_writing()
        self._left(0)

    def _left(self, unsent: int) -> None:
        self.application.gate.release(self.unsent - unsent)
        self.unsent, self.taken = unsent, time.monotonic() + WHOLE_S

    def sweep(self, now: float) -> None:
        """End a client that has had its time."""
        if self.unsent and self.taken < now:
            left = self.transport.get_write_buffer_size()
            if left > self.unsent / 2:
                self.transport.abort()
            self._left(left)
        if self.due is None:
            if self.timeout_keep_alive_task is None and self.cycle.response_complete:
                self.due = now + WHOLE_S  # it has said something that begins no request
        elif self.due < now:
            if self.direct is not None:
                words = f"body: not whole after {WHOLE_S:g} s, expected all of it by then."
                self._tell(self.direct, refusal(Status(408, words)))
                self.transport.close()
            else:
                self.transport.abort()
