"""The server's HTTP side: an ASGI application.

`infer` is answered here by hand, since everything counts there; every other path goes through Starlette.
"""

import asyncio
import contextlib
import hmac
import json
import logging
import re
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
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
from deploy.server.batching import Answer, full
from deploy.server.errors import Status, status_of
from deploy.server.metadata import model_metadata, server_metadata
from deploy.server.metrics import registry, told
from deploy.server.model import Model
from deploy.server.protocol import Request, read_object, read_request, write_response
from deploy.server.repository import Repository, verdict
from deploy.server.serving import Served, generate, infer
from deploy.server.sessions import Sessions

log = logging.getLogger("plumbline.server")

HEADER_LENGTH = b"inference-header-content-length"
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

HERE = re.compile(rb"(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?", re.IGNORECASE)

T = TypeVar("T")


class Application:
    """What answers to requests; one for a process."""

    def __init__(
        self, repository: Repository, device: str, token: str, judged: dict[str, Any], local: bool = False
    ) -> None:
        """
        Args:
            local: serves this machine alone, and is called by no name but its own.
            token: what requests must bear; empty: none.
            judged: ``build/verdicts.json``, or nothing.
        """
        self.repository = repository
        self.sessions = Sessions(repository.limits.idle_s, repository.limits.sessions_bytes)
        self.ready = False
        self.alone: Callable[[], bool] = lambda: False  # whether a request is the only one here; the server knows
        self._device, self._token, self._judged, self._local = device, token.encode(), judged, local
        self.held = 0  # bytes of bodies
        self._metrics = registry(
            lambda: [(s.model.name, s.model.version, s.counts) for s in repository.served()], self._gauges
        )
        self._rest = self._starlette()

    def _gauges(self) -> dict[str, float]:
        return {
            "ready": float(self.ready),
            "held_bytes": float(self.held),
            "sequences": float(len(self.sessions)),
            "sequences_bytes": float(self.sessions.nbytes),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http" and (served := self.repository.routes.get(scope["path"])) is not None:
            await self._infer(served, scope, receive, send)
        elif scope["type"] == "http":
            await self._rest(scope, receive, send)

    async def _infer(self, served: Served, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer `infer`, and count it."""
        headers: list[tuple[bytes, bytes]]
        try:
            if scope["method"] != "POST":
                raise Status(405, f"{scope['method']} {scope['path']}: expected POST.")
            length, body, answer = await self._answer(served, scope, receive)
            timing = b"queue;dur=%.3f, compute;dur=%.3f" % (1e3 * answer.queue_s, 1e3 * answer.compute_s)
            headers = [(b"server-timing", timing), (b"content-length", b"%d" % len(body))]
            if length is None:
                headers.append((b"content-type", b"application/json"))
            else:
                headers.append((b"content-type", b"application/octet-stream"))
                headers.append((HEADER_LENGTH, b"%d" % length))
            status = 200
        except ClientDisconnect:
            served.counts.answered(499)
            return
        except Exception as error:
            status, headers, body = _refusal(error)
        served.counts.answered(status)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, served: Served, scope: Scope, receive: Receive) -> tuple[int | None, bytes, Answer]:
        length = None
        announced = 0
        bearer = host = origin = b""
        for name, value in scope["headers"]:
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
                raise Status(415, f"content-encoding: {value[:50]!r}, expected none. Send the body as it is.")
        self._from_here(host, origin)
        self.admit(bearer)
        if served.batcher.full:  # told before anything of the body is read: a refusal must cost little
            raise Status(503, full(served.model.name, self.repository.limits.waiting))
        body = await self._body(receive, announced)
        self.held += len(body)
        try:
            limits = self.repository.limits
            request = read_request(body, length, served.model.form, limits.body_bytes)
            check_outputs(request, served.model)
            work = infer(served, self.sessions, request.inputs, request.parameters, limits.deadline_s, self.alone())
            answer = await (_unless_gone(work, receive) if served.batcher.busy else work)
            model = answer.model  # a sequence goes on with the version that it began with
            return *write_response(answer.outputs, request, model.name, model.version, model.classes), answer
        finally:
            self.held -= len(body)

    def admit(self, bearer: bytes) -> None:
        """Refuse who has no token: ``bearer`` is the value of `authorization`.

        Raises:
            Status: 401.
        """
        if self._token and not hmac.compare_digest(bearer, b"Bearer " + self._token):
            raise Status(401, "authorization: no token, or another, expected `Authorization: Bearer` and the server's.")

    def _from_here(self, host: bytes, origin: bytes) -> None:
        """Refuse what another site's page makes a browser send, under a name of its own that leads here too.

        Raises:
            Status: 403.
        """
        if origin and origin.partition(b"://")[2] != host:
            raise Status(403, f"origin: {origin[:100].decode('latin-1')!r}, expected this server's own page.")
        if self._local and host and not HERE.fullmatch(host):
            raise Status(403, f"host: {host[:100].decode('latin-1')!r}, expected localhost or 127.0.0.1.")

    async def _body(self, receive: Receive, announced: int) -> bytes:
        """All of a body.

        Raises:
            ClientDisconnect: the client is gone.
            Status: 408 it takes too long, 413 it is too large, 503 there is no room for it now.
        """
        most = self.repository.limits.body_bytes
        if announced > most:
            raise _too_large(announced, most)
        message = await receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            body: bytes = message["body"]
            return body
        try:
            return await asyncio.wait_for(self._parts(message, receive, most), SLOW_S)
        except asyncio.TimeoutError:
            raise Status(408, f"body: not whole after {SLOW_S:g} s, expected all of it by then.") from None

    async def _parts(self, message: Message, receive: Receive, most: int) -> bytes:
        parts: list[bytes] = []
        held = 0
        try:
            while True:
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                parts.append(message["body"])
                held += len(parts[-1])
                self.held += len(parts[-1])
                if held > most:
                    raise _too_large(held, most)
                if self.held > self.repository.limits.held_bytes:
                    raise Status(503, f"{self.held} bytes of requests are held, and no more can be. Ask again later.")
                if not message.get("more_body"):
                    return b"".join(parts)
                message = await receive()
        finally:
            self.held -= held

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
                if scope["path"] not in OPEN:
                    self.admit(headers.get(b"authorization", b""))
                self._from_here(headers.get(b"host", b""), headers.get(b"origin", b""))
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
        index = self.repository.index()
        return JSONResponse([entry for entry in index if not only_ready or entry["state"] == "READY"])

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
            texts = await self._written(served, request)

            async def whole() -> str:
                async with contextlib.aclosing(texts):
                    return "".join([part async for parts in texts for part in parts])

            text = await _unless_gone(whole(), request.receive)
        return JSONResponse(_named(served) | {"text_output": text})

    async def _stream(self, request: HTTPRequest) -> Response:
        served = self._find(request)
        with _counted(served):
            texts = await self._written(served, request)
            first: list[str] = await anext(texts, [])  # so that what is refused is refused by a status
        return EventStream(_events(served, first, texts))

    async def _written(self, served: Served, request: HTTPRequest) -> AsyncGenerator[list[str], None]:
        """What a language model writes for ``request``."""
        asked = await self._object(request)
        parameters = asked.get("parameters", {})
        if type(parameters) is not dict:
            raise Refused(f"parameters: {type(parameters).__name__}, expected an object.")
        # The generate extension takes them beside text_input as well.
        parameters = {name: value for name, value in asked.items() if name in WISHES} | parameters
        return generate(
            served, self.sessions, asked.get("text_input", ""), parameters, self.repository.limits.deadline_s
        )

    async def _object(self, request: HTTPRequest) -> dict[str, Any]:
        """The JSON of a request; an empty one is an empty object."""
        body = await self._body(request.receive, int(request.headers.get("content-length", 0)))
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
    served: Served, first: list[str], texts: AsyncGenerator[list[str], None]
) -> AsyncGenerator[bytes, None]:
    """Server-sent events, one a character."""
    start = json.dumps(_named(served))[:-1] + ', "text_output": '
    try:
        async with contextlib.aclosing(texts):
            yield b"".join([_event(start, part) for part in first])
            async for parts in texts:
                yield b"".join([_event(start, part) for part in parts])
    except Refused as refused:  # the status is sent already
        yield f"data: {json.dumps({'error': str(refused)})}\n\n".encode()


def _event(start: str, part: str) -> bytes:
    return f"data: {start}{_quoted(part)}}}\n\n".encode()


def _named(served: Served) -> dict[str, str]:
    return {"model_name": served.model.name, "model_version": served.model.version}


@contextlib.contextmanager
def _counted(served: Served) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        served.counts.answered(status_of(error))
        raise
    served.counts.answered(200)


_quoted = json.encoder.encode_basestring_ascii


async def _unless_gone(work: Coroutine[Any, Any, T], receive: Receive) -> T:
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


def check_outputs(request: Request, model: Model) -> None:
    """Refuse, before anything is run, outputs that ``model`` does not have.

    Raises:
        Refused: there is one.
    """
    if unknown := set(request.outputs).difference([tensor["name"] for tensor in model.outputs]):
        raise Refused(f"outputs: name {min(unknown)[:50]!r}, expected {model.output_names}.")


def status_and_words(error: Exception) -> tuple[int, str]:
    """The status and the words that a client is told; a mistake of ours is told in the log alone."""
    status = status_of(error)
    if status == 500:
        log.exception("failed", exc_info=error)
        return status, "the server failed at this; its log says how. Ask again, or ask its owner."
    return status, str(error)


def _refusal(error: Exception) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    status, words = status_and_words(error)
    body = json.dumps({"error": words}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if status == 503:
        headers.append((b"retry-after", b"1"))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return status, headers, body


def _refused(_: HTTPRequest | None, error: Exception) -> Response:
    status, headers, body = _refusal(error)
    response = Response(body, status)
    response.raw_headers = headers
    return response


async def _failed(request: HTTPRequest, error: Exception) -> Response:
    return _refused(request, error)


async def _gone(_: HTTPRequest, __: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _no_such_path(request: HTTPRequest, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    allowed = (error.headers or {}).get("Allow", "") if isinstance(error, HTTPException) else ""
    expected = f"expected {allowed}" if allowed else "expected a path of the protocol, as /v2/models/NAME/infer"
    return _refused(request, Status(status, f"{request.method} {request.url.path[:200]}: {expected}."))


def _too_large(came: int, most: int) -> Status:
    return Status(413, f"body: {came} bytes, expected at most {most}. Send a smaller batch.")


def _page(file: str, kind: str) -> Callable[[HTTPRequest], Response]:
    body = (Path(__file__).parent / file).read_bytes()

    def respond(_: HTTPRequest) -> Response:
        return Response(body, media_type=kind, headers=SAFE)

    return respond
