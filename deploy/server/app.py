"""The server's HTTP side: an ASGI application.

`infer` is answered by hand, and mostly before it comes here (connection.py); every other path goes through Starlette.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HTTPRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deploy.errors import Refused
from deploy.server.errors import Status, status_of
from deploy.server.exchange import Reply, read_headers, refusal, said
from deploy.server.gate import Gate
from deploy.server.metadata import model_metadata, server_metadata
from deploy.server.metrics import registry, told
from deploy.server.model import Model
from deploy.server.protocol import read_object, read_request
from deploy.server.repository import Repository, verdict
from deploy.server.serving import Served, check_outputs, generate, infer
from deploy.server.sessions import Sessions

log = logging.getLogger("plumbline.server")

OPEN = ("/", "/page.js", "/page.css", "/v2/health/live", "/v2/health/ready")  # to who has no token too
PAGE = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
SLOW_S = 20.0  # for the whole of a body to come
SAFE = {
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}
WISHES = ("max_tokens", "temperature", "top_k", "seed", "stop")

T = TypeVar("T")


class Application:
    """What answers to requests; one for a process."""

    def __init__(self, repository: Repository, gate: Gate, device: str, judged: dict[str, Any]) -> None:
        """``judged`` is ``build/verdicts.json``, or nothing."""
        self.repository, self.gate = repository, gate
        self.sessions = Sessions(gate.limits.idle_s, gate.limits.sessions_bytes)
        self.accepting = False
        self._device, self._judged = device, judged
        self._metrics = registry(
            lambda: [(s.model.name, s.model.version, s.counts) for s in repository.served()], self._gauges
        )
        self._rest = self._starlette()

    @property
    def ready(self) -> bool:
        """Whether it takes requests, and has something to answer them with."""
        return self.accepting and any(self.repository.served())

    def _gauges(self) -> dict[str, float]:
        return {
            "ready": float(self.ready),
            "held_bytes": float(self.gate.held),
            "sequences": float(len(self.sessions)),
            "sequences_bytes": float(self.sessions.nbytes),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http" and (served := self.repository.routes.get(scope["path"].encode())) is not None:
            await self._infer(served, scope, receive, send)
        elif scope["type"] == "http":
            await self._rest(scope, receive, send)

    async def _infer(self, served: Served, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer `infer`, and count it; what `Connection` can answer without this is not seen here."""
        try:
            reply = await self._answer(served, scope, receive)
        except ClientDisconnect:
            served.counts.answered(499)
            return
        except Exception as error:
            reply = refusal(error)
        served.counts.answered(reply.status)
        await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
        await send({"type": "http.response.body", "body": reply.body})

    async def _answer(self, served: Served, scope: Scope, receive: Receive) -> Reply:
        length, announced = read_headers(scope["headers"], served, self.gate)
        if scope["method"] != "POST":
            raise Status(405, f"{scope['method']} {scope['path']}: expected POST.", "POST")
        async with self._body(receive, announced) as body:
            request = read_request(body, length, served.model.form, self.gate.limits.body_bytes)
            check_outputs(request, served.model)
            work = infer(served, self.sessions, request.inputs, request.parameters, self.gate.limits.deadline_s)
            return said(request, await _unless_gone(work, receive))

    @contextlib.asynccontextmanager
    async def _body(self, receive: Receive, announced: int) -> AsyncGenerator[bytes, None]:
        """All of a body, which counts among what is held.

        Raises:
            ClientDisconnect: the client is gone.
            Status: 408 it takes too long, 413 it is too large, 503 there is no room for it now.
        """
        self.gate.allow(announced)
        parts: list[bytes] = []
        try:
            try:
                await asyncio.wait_for(self._read(receive, parts), SLOW_S)
            except asyncio.TimeoutError:
                raise Status(408, f"body: not whole after {SLOW_S:g} s, expected all of it by then.") from None
            yield b"".join(parts)
        finally:
            self.gate.release(sum(map(len, parts)))

    async def _read(self, receive: Receive, parts: list[bytes]) -> None:
        size = 0
        while True:
            message: Message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            self.gate.hold(len(message["body"]))
            parts.append(message["body"])
            size += len(message["body"])
            self.gate.allow(size)
            if not message.get("more_body"):
                return

    def _starlette(self) -> ASGIApp:
        """Everything but `infer`."""
        versions = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
        routes = [
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._is_ready),
            Route("/v2", self._server),
            *(Route(path, self._model) for path in versions),
            *(Route(f"{path}/ready", self._model_ready) for path in versions),
            *(Route(f"{path}/infer", self._not_served, methods=["POST"]) for path in versions),
            *(Route(f"{path}/generate", self._generate, methods=["POST"]) for path in versions),
            *(Route(f"{path}/generate_stream", self._stream, methods=["POST"]) for path in versions),
            Route("/v2/repository/index", self._index, methods=["POST"]),
            Route("/v2/repository/models/{model}/load", self._load, methods=["POST"]),
            Route("/v2/repository/models/{model}/unload", self._unload, methods=["POST"]),
            Route("/metrics", self._count),
            Route("/served", self._served),
            *(Route(path, _page(*file)) for path, file in PAGE.items()),
        ]
        inner = Starlette(
            routes=routes,
            exception_handlers={
                Refused: _refused,
                HTTPException: _no_such_path,
                ClientDisconnect: _gone,
                Exception: _failed,
            },
        )
        inner.router.redirect_slashes = False  # to where the client's own Host says

        async def admitted(scope: Scope, receive: Receive, send: Send) -> None:
            headers = dict(scope["headers"])
            try:
                self.gate.from_here(headers.get(b"host", b""), headers.get(b"origin", b""))
                if scope["path"] not in OPEN:
                    self.gate.admit(headers.get(b"authorization", b""))
            except Refused as refused:
                await _refused(None, refused)(scope, receive, send)
            else:
                await inner(scope, receive, send)

        return admitted

    async def _live(self, _: HTTPRequest) -> Response:
        return Response()

    async def _is_ready(self, _: HTTPRequest) -> Response:
        return Response(status_code=200 if self.ready else 503)

    async def _server(self, _: HTTPRequest) -> Response:
        return JSONResponse(server_metadata())

    async def _model(self, request: HTTPRequest) -> Response:
        return JSONResponse(model_metadata(self._find(request).model))

    async def _model_ready(self, request: HTTPRequest) -> Response:
        self._find(request)
        return Response()

    async def _not_served(self, request: HTTPRequest) -> Response:
        self._find(request)
        raise Status(404, f"{request.url.path[:200]}: not served any more.")

    async def _index(self, request: HTTPRequest) -> Response:
        only_ready = (await self._object(request)).get("ready") is True
        return JSONResponse(self.repository.index(only_ready))

    async def _load(self, request: HTTPRequest) -> Response:
        if (await self._object(request)).get("parameters"):
            raise Refused("parameters: given, expected none. A model is loaded as its bundle has it.")
        await self.repository.load(request.path_params["model"])
        return JSONResponse({})

    async def _unload(self, request: HTTPRequest) -> Response:
        self.repository.unload(request.path_params["model"])
        return JSONResponse({})

    async def _count(self, _: HTTPRequest) -> Response:
        return Response(told(self._metrics), media_type="text/plain; version=0.0.4")

    async def _served(self, _: HTTPRequest) -> Response:
        return JSONResponse(
            [
                {
                    "model": model.name,
                    "version": model.version,
                    "recipe": model.recipe,
                    "precision": model.precision,
                    "task": model.task,
                    "inputs": model.inputs,
                    "outputs": model.outputs,
                    "classes": model.classes,
                    "largest": model.largest,
                    "device": self._device,
                    "verdict": verdict(model, self._device, self._judged),
                }
                for model in (served.model for served in self.repository.served())
            ]
        )

    async def _generate(self, request: HTTPRequest) -> Response:
        served = self._find(request)
        with _counted(served):
            model, texts = await self._written(served, request)

            async def whole() -> str:
                async with contextlib.aclosing(texts):
                    return "".join([part async for parts in texts for part in parts])

            text = await _unless_gone(whole(), request.receive)
        return JSONResponse(_named(model) | {"text_output": text})

    async def _stream(self, request: HTTPRequest) -> Response:
        served = self._find(request)
        with _counted(served):
            model, texts = await self._written(served, request)
            # At once, so that what is refused is refused by a status.
            first: list[str] = await _unless_gone(anext(texts, []), request.receive)
        return EventStream(_events(model, first, texts))

    async def _written(self, served: Served, request: HTTPRequest) -> tuple[Model, AsyncGenerator[list[str], None]]:
        """What a language model writes for ``request``, and which."""
        asked = await self._object(request)
        parameters = asked.get("parameters", {})
        if type(parameters) is not dict:
            raise Refused(f"parameters: {type(parameters).__name__}, expected an object.")
        # The generate extension takes them beside text_input as well.
        parameters = {name: value for name, value in asked.items() if name in WISHES} | parameters
        return generate(served, self.sessions, asked.get("text_input", ""), parameters, self.gate.limits.deadline_s)

    async def _object(self, request: HTTPRequest) -> dict[str, Any]:
        """The JSON of a request; an empty one is an empty object."""
        async with self._body(request.receive, int(request.headers.get("content-length", 0))) as body:
            return read_object(body) if body else {}

    def _find(self, request: HTTPRequest) -> Served:
        return self.repository.find(request.path_params["model"], request.path_params.get("version", ""))


class EventStream(Response):
    """Server-sent events, until there are no more or the client has gone.

    Starlette's own streaming is cancelled only while it waits, and one that always has something to send never does.
    """

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-store"})
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """ASGI."""

        async def all_of_them() -> None:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async with contextlib.aclosing(self._events):
                async for events in self._events:
                    await send({"type": "http.response.body", "body": events, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

        with contextlib.suppress(ClientDisconnect):
            await _unless_gone(all_of_them(), receive)


async def _events(
    model: Model, first: list[str], texts: AsyncGenerator[list[str], None]
) -> AsyncGenerator[bytes, None]:
    """Server-sent events, one a character."""
    start = json.dumps(_named(model))[:-1] + ', "text_output": '
    try:
        async with contextlib.aclosing(texts):
            yield b"".join([_event(start, part) for part in first])
            async for parts in texts:
                yield b"".join([_event(start, part) for part in parts])
    except Refused as refused:  # the status is sent already
        yield f"data: {json.dumps({'error': str(refused)})}\n\n".encode()


def _event(start: str, part: str) -> bytes:
    return f"data: {start}{_quoted(part)}}}\n\n".encode()


def _named(model: Model) -> dict[str, str]:
    return {"model_name": model.name, "model_version": model.version}


@contextlib.contextmanager
def _counted(served: Served) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        served.counts.answered(status_of(error))
        raise
    served.counts.answered(200)


_quoted = json.encoder.encode_basestring_ascii


async def _unless_gone(work: Awaitable[T], receive: Receive) -> T:
    """What ``work`` gives, unless the client goes away: then it is cancelled.

    Raises:
        ClientDisconnect: it has gone.
    """
    asking = asyncio.current_task()
    gone = False

    async def watch() -> None:
        nonlocal gone
        await receive()  # the body has come: all that there can be is the end
        gone = True
        if asking:
            asking.cancel()

    watching = asyncio.get_running_loop().create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if gone:
            raise ClientDisconnect from None
        raise
    finally:
        watching.cancel()


def _refused(_: HTTPRequest | None, error: Exception) -> Response:
    reply = refusal(error)
    response = Response(reply.body, reply.status)
    response.raw_headers = reply.headers
    return response


async def _failed(request: HTTPRequest, error: Exception) -> Response:
    return _refused(request, error)


async def _gone(_: HTTPRequest, __: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _no_such_path(request: HTTPRequest, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    allowed = (error.headers or {}).get("Allow", "") if isinstance(error, HTTPException) else ""
    allowed = ", ".join(sorted(allowed.split(", ")))
    expected = f"expected {allowed}" if allowed else "expected a path of the protocol, as /v2/models/NAME/infer"
    return _refused(request, Status(status, f"{request.method} {request.url.path[:200]}: {expected}.", allowed))


def _page(file: str, kind: str) -> Callable[[HTTPRequest], Response]:
    body = (Path(__file__).parent / file).read_bytes()

    def respond(_: HTTPRequest) -> Response:
        return Response(body, media_type=kind, headers=SAFE)

    return respond
