"""The server's gRPC side: the same models, checks and words as over HTTP.

A message is read when its call has been admitted, and as few at a time as there is room for at the greatest size; until
then the transport's window holds a few kilobytes of it.

Sources:
    KServe, specification/protocol/open_inference_grpc.proto in kserve/open-inference-protocol.
    NVIDIA, protobuf/grpc_service.proto in triton-inference-server/common.
    gRPC, include/grpc/impl/channel_arg_names.h in grpc/grpc, for what bounds connections.
"""

import asyncio
import contextlib
import itertools
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, NoReturn

import grpc

from deploy.errors import Refused
from deploy.server import inference_pb2 as pb
from deploy.server.app import Application
from deploy.server.batching import Answer, full
from deploy.server.errors import Status, status_and_words, status_of
from deploy.server.messages import parsed, read_message, write_message
from deploy.server.metadata import model_metadata, server_metadata
from deploy.server.serving import check_outputs, infer

SERVICE = "inference.GRPCInferenceService"
OPEN = ("ServerLive", "ServerReady")  # to who has no token too
CONNECTIONS = 1_000
CALLS = 1_024  # at a time, whatever they do; of one connection a quarter
STREAMS = 64  # at a time: each may hold a message
SLOW_S = 20.0  # for the whole of a message to come
GIVE_WAY_S = 2.0  # who waits so long for room to read gets that of one who is slower
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}


class Rpc:
    """What answers to calls; one for a process."""

    def __init__(self, application: Application, host: str, port: int, tls: tuple[bytes, bytes] | None) -> None:
        """
        Args:
            port: 0 for any that is free.
            tls: the key and the certificate, in PEM; ``None``: without.

        Raises:
            Refused: the port cannot be had.
        """
        limits = application.repository.limits
        self._application = application
        self._room = asyncio.Semaphore(max(1, limits.held_bytes // limits.body_bytes))  # for messages on their way
        self._reading: dict[asyncio.Future[Any], float] = {}  # them, and since when (monotonic, s), the slowest first
        self._streams: set[Any] = set()
        self._waiting: set[Any] = set()  # streams that nothing is asked of
        self._ending = False
        self._server = grpc.aio.server(
            maximum_concurrent_rpcs=CALLS,
            options=(
                ("grpc.so_reuseport", 0),  # else a second server takes half of the calls and says nothing
                ("grpc.max_receive_message_length", limits.body_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.compression_enabled_algorithms_bitset", 1),  # identity: else 16 KiB may become 16 MiB
                ("grpc.http2.bdp_probe", 0),  # else the window of each call grows
                ("grpc.max_allowed_incoming_connections", CONNECTIONS),
                ("grpc.max_concurrent_streams", CALLS // 4),
                ("grpc.max_connection_idle_ms", 75_000),
                ("grpc.keepalive_time_ms", 60_000),  # whoever is gone without a word is found out
                ("grpc.keepalive_timeout_ms", 20_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.server_handshake_timeout_ms", 20_000),
            ),
        )
        self._server.add_generic_rpc_handlers((self._handlers(), _Unserved()))
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if tls:
                self.port = self._server.add_secure_port(address, grpc.ssl_server_credentials([tls]))
            else:
                self.port = self._server.add_insecure_port(address)
        except RuntimeError:
            pem = ", and a key and a certificate in PEM that belong together" if tls else ""
            raise Refused(f"{address}: cannot be listened on, expected a free port{pem}.") from None

    async def start(self) -> None:
        """Take calls."""
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, and answer what was taken within ``grace_s``."""
        self._ending = True
        for task in self._waiting:
            task.cancel()
        await self._server.stop(grace_s)

    def _handlers(self) -> grpc.GenericRpcHandler:
        calls = {
            "ServerLive": (pb.ServerLiveRequest, self._live),
            "ServerReady": (pb.ServerReadyRequest, self._ready),
            "ServerMetadata": (pb.ServerMetadataRequest, self._metadata),
            "ModelReady": (pb.ModelReadyRequest, self._model_ready),
            "ModelMetadata": (pb.ModelMetadataRequest, self._model_metadata),
            "ModelInfer": (pb.ModelInferRequest, self._model_infer),
            "RepositoryIndex": (pb.RepositoryIndexRequest, self._index),
            "RepositoryModelLoad": (pb.RepositoryModelLoadRequest, self._load),
            "RepositoryModelUnload": (pb.RepositoryModelUnloadRequest, self._unload),
        }
        # To a client, a stream of one message is that message; here it is read when the call has been admitted.
        handlers = {
            name: grpc.stream_unary_rpc_method_handler(partial(self._answer, name not in OPEN, *call))
            for name, call in calls.items()
        }
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._stream)
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    async def _answer(
        self, guarded: bool, kind: Any, answer: Callable[[Any, int, Any], Awaitable[Any]], _: Any, context: Any
    ) -> bytes:
        """Answer a call of one message."""
        try:
            return await self._answered(guarded, kind, answer, context)
        except Exception as error:
            status, words = status_and_words(error)
        # Here, where the error is gone: it keeps every frame that it went through, and so the message.
        return await _abort(context, status, words)

    async def _answered(
        self, guarded: bool, kind: Any, answer: Callable[[Any, int, Any], Awaitable[Any]], context: Any
    ) -> bytes:
        if guarded:
            self._admit(context)
        body = await self._read(context)
        if body is grpc.aio.EOF:
            raise Refused(f"message: none, expected a {kind.DESCRIPTOR.name}.")
        with self._holding(len(body)):
            said = await answer(parsed(kind, body), len(body), context)
        return said.SerializeToString()

    async def _read(self, context: Any) -> Any:
        """A call's message.

        Raises:
            Status: 408, it takes too long; that is sooner where others wait for the room that it takes.
        """
        while self._room.locked():
            try:
                await asyncio.wait_for(self._room.acquire(), GIVE_WAY_S)
                break
            except asyncio.TimeoutError:
                for slowest, since in itertools.islice(self._reading.items(), 1):
                    if time.monotonic() - since > GIVE_WAY_S:
                        slowest.cancel()
        else:
            await self._room.acquire()
        reading = asyncio.ensure_future(context.read())
        self._reading[reading] = time.monotonic()
        try:
            await asyncio.wait((reading,), timeout=SLOW_S)
            if not reading.done() or reading.cancelled():
                raise Status(408, f"message: not whole in time, expected all of it within {SLOW_S:g} s, or sooner.")
            return reading.result()
        finally:
            reading.cancel()
            del self._reading[reading]
            self._room.release()

    @contextlib.contextmanager
    def _holding(self, nbytes: int) -> Iterator[None]:
        """Count a message among what is held.

        Raises:
            Status: 503, there is no room for it now.
        """
        self._application.gate.hold(nbytes)
        try:
            yield
        finally:
            self._application.gate.release(nbytes)

    def _admit(self, context: Any) -> None:
        bearer = dict(context.invocation_metadata()).get("authorization", "")
        self._application.gate.admit(bearer.encode() if isinstance(bearer, str) else bearer)

    async def _live(self, _: Any, __: int, ___: Any) -> Any:
        return pb.ServerLiveResponse(live=True)

    async def _ready(self, _: Any, __: int, ___: Any) -> Any:
        return pb.ServerReadyResponse(ready=self._application.ready)

    async def _metadata(self, _: Any, __: int, ___: Any) -> Any:
        return pb.ServerMetadataResponse(**server_metadata())

    async def _model_ready(self, asked: Any, _: int, __: Any) -> Any:
        try:
            self._application.repository.find(asked.name, asked.version)
        except Status:  # Triton answers so, and its client takes an error for a failure of the server
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def _model_metadata(self, asked: Any, _: int, __: Any) -> Any:
        served = self._application.repository.find(asked.name, asked.version)
        return pb.ModelMetadataResponse(**model_metadata(served.model))

    async def _index(self, asked: Any, _: int, __: Any) -> Any:
        return pb.RepositoryIndexResponse(models=self._application.repository.index(asked.ready))

    async def _load(self, asked: Any, _: int, __: Any) -> Any:
        if asked.parameters:
            raise Refused(
                f"parameters: {min(asked.parameters)[:50]!r}, expected none. A model is loaded as its bundle has it."
            )
        await self._application.repository.load(asked.model_name)
        return pb.RepositoryModelLoadResponse()

    async def _unload(self, asked: Any, _: int, __: Any) -> Any:
        self._application.repository.unload(asked.model_name)
        return pb.RepositoryModelUnloadResponse()

    async def _model_infer(self, message: Any, nbytes: int, context: Any) -> Any:
        said, answer = await self._infer(message, nbytes, context)
        context.set_trailing_metadata((("server-timing", answer.timing),))
        return said

    async def _infer(self, message: Any, nbytes: int, context: Any) -> tuple[Any, Answer]:
        """Answer an inference, and count it."""
        application = self._application
        limits = application.repository.limits
        served = application.repository.find(message.model_name, message.model_version)
        status = 200
        try:
            if served.batcher.full:
                raise Status(503, full(served.model.name, limits.waiting))
            request = read_message(message, nbytes, served.model.form)
            check_outputs(request, served.model)
            left_s = context.time_remaining()
            most_s = min(limits.deadline_s, math.inf if left_s is None else left_s)
            answer = await infer(served, application.sessions, request.inputs, request.parameters, most_s)
            return write_message(answer.outputs, request, answer.model), answer
        except asyncio.CancelledError:
            status = 499
            raise
        except Exception as error:
            status = status_of(error)
            raise
        finally:
            served.counts.answered(status)

    async def _stream(self, _: Any, context: Any) -> None:
        """Answer each message of a stream in its order; a refusal is told in its place, and the stream goes on."""
        task = asyncio.current_task()
        try:
            self._admit(context)
            if len(self._streams) >= STREAMS:
                raise Status(503, f"{len(self._streams)} streams are open, and no more can be. Ask again later.")
            self._streams.add(task)
            while (body := await self._next(task, context)) is not grpc.aio.EOF:
                await context.write(await self._told(body, context))
            return
        except Status as error:
            status, words = status_and_words(error)
        finally:
            self._streams.discard(task)
        await _abort(context, status, words)

    async def _next(self, task: Any, context: Any) -> Any:
        """The next message of a stream.

        Raises:
            Status: none has come for as long as a sequence may rest, or the server ends.
        """
        idle_s = self._application.repository.limits.idle_s
        ends = Status(503, "the server ends, and the stream with it. Begin it again, at another.")
        if self._ending:
            raise ends
        self._waiting.add(task)
        try:
            return await asyncio.wait_for(context.read(), idle_s)
        except asyncio.TimeoutError:
            raise Status(408, f"stream: no message for {idle_s:g} s, expected one by then. Begin it again.") from None
        except asyncio.CancelledError:
            if self._ending:
                raise ends from None
            raise
        finally:
            self._waiting.discard(task)

    async def _told(self, body: bytes, context: Any) -> bytes:
        """The answer to a message of a stream."""
        message = pb.ModelInferRequest()
        try:
            with self._holding(len(body)):
                message = parsed(pb.ModelInferRequest, body)
                said, _ = await self._infer(message, len(body), context)
            said.parameters["triton_final_response"].bool_param = True  # Triton's mark: nothing more comes for it
            return pb.ModelStreamInferResponse(infer_response=said).SerializeToString()
        except Exception as error:
            _, words = status_and_words(error)
            of = pb.ModelInferResponse(model_name=message.model_name, id=message.id)
            return pb.ModelStreamInferResponse(error_message=words, infer_response=of).SerializeToString()


class _Unserved(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers to every other call."""

    def service(self, called: Any) -> Any:
        """What answers to ``called``."""

        async def refuse(_: Any, context: Any) -> bytes:
            words = f"{called.method[:100]}: not served, expected a call of the Open Inference Protocol, as ModelInfer."
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, words)
            return b""

        return grpc.stream_unary_rpc_method_handler(refuse)


async def _abort(context: Any, status: int, words: str) -> NoReturn:
    """End a call by a status of HTTP."""
    trailing = (("grpc-retry-pushback-ms", "1000"),) if status == 503 else ()
    await context.abort(CODES.get(status, grpc.StatusCode.INTERNAL), words, trailing)
    raise AssertionError("abort() came back")


async def start_rpc(application: Application, host: str, port: int, tls: tuple[bytes, bytes] | None = None) -> Rpc:
    """Take calls for ``application``, in the event loop that runs.

    Args:
        port: 0 for any that is free; ``port`` of what is returned tells which.
        tls: the key and the certificate, in PEM; ``None``: without.

    Raises:
        Refused: the port cannot be had.
    """
    rpc = Rpc(application, host, port, tls)
    await rpc.start()
    return rpc
