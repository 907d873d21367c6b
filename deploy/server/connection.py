"""A connection of uvicorn's: `infer` is answered in it, without ASGI, and what uvicorn leaves open is bounded.

ASGI gives every request a task, an event and a dictionary; without them the server answers half as many again. So an
`infer` that comes by itself is read and answered here, in uvicorn's own callbacks. One that is pipelined behind another
request, that waits for "100 Continue", or whose client does not read its answers goes the way of every other request.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from deploy.server.app import Application
from deploy.server.batching import Answer
from deploy.server.exchange import Reply, read_headers, refusal, said
from deploy.server.protocol import Request, read_request
from deploy.server.serving import Served, check_outputs, deadline, infer

CONNECTIONS = 2_000
WHOLE_S = 30.0  # for a request to come, from its first byte or the connection
FULL = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class Direct:
    """An `infer` that is answered here; it stands where uvicorn has its cycle of a request and a response."""

    message_event = asyncio.Event()  # which uvicorn sets when the client has gone, and nobody waits for here

    def __init__(self, served: Served, keep_alive: bool) -> None:
        self.served = served
        self.keep_alive = keep_alive
        self.length: bytes | None = None  # of the JSON
        self.parts: list[bytes] = []
        self.size = 0  # bytes of `parts`, which are held
        self.cancel: Callable[[], object] = lambda: None  # what is being done for it
        self.response_complete = False
        self.disconnected = False


class Connection(HttpToolsProtocol):
    """One of a bounded number, that has to send a request within a bounded time."""

    due: float | None  # monotonic, s; None while nothing is to come
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
            self.application.gate.release(direct.size)
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """A request's first byte."""
        super().on_message_begin()
        self.due = time.monotonic() + WHOLE_S

    def on_headers_complete(self) -> None:
        """Take an `infer` that can be answered here."""
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

    def on_body(self, body: bytes) -> None:
        """Keep a part of a body."""
        direct = self.cycle
        if not isinstance(direct, Direct):
            super().on_body(body)
        elif not direct.response_complete:
            try:
                self.application.gate.hold(len(body))
                direct.parts.append(body)
                direct.size += len(body)
                self.application.gate.allow(direct.size)
            except Exception as error:
                self._tell(direct, refusal(error))

    def on_message_complete(self) -> None:
        """A request's last byte."""
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
        body = direct.parts[0] if len(direct.parts) == 1 else b"".join(direct.parts)
        request = read_request(body, direct.length, served.model.form, limits.body_bytes)
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
        direct.served.counts.answered(reply.status)
        self.application.gate.release(direct.size)
        self.transport.write(reply.raw(closing=not direct.keep_alive))
        if not direct.keep_alive:
            self.transport.close()
        self.on_response_complete()
