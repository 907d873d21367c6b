"""The server from start to end, in order: models, then requests; not ready, then no new ones, then what it holds."""

import asyncio
import gc
import logging
import time
from socket import socket
from types import FrameType

import uvicorn

from deploy.server.app import Application
from deploy.server.connection import Connection
from deploy.server.rpc import Rpc, start_rpc

log = logging.getLogger("plumbline.server")

SWEEPS = 10  # ticks of a tenth of a second
GRACE_S = 60.0  # for what it holds when it ends


class Server(uvicorn.Server):
    """Serves over HTTP, and over gRPC where that has a port."""

    def __init__(
        self,
        config: uvicorn.Config,
        application: Application,
        drain_s: float,
        grpc_port: int,
        tls: tuple[bytes, bytes] | None,
    ) -> None:
        """
        Args:
            drain_s: how long it answers on, not ready, so that a balancer sees it before connections are refused.
            grpc_port: 0: none.
            tls: the key and the certificate, in PEM.
        """
        super().__init__(config)
        self._application, self._drain_s = application, drain_s
        self._grpc_port, self._tls = grpc_port, tls
        self._rpc: Rpc | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[socket] | None = None) -> None:
        """Open the models, serve, and end.

        Raises:
            Refused: the port for gRPC cannot be had.
        """
        self._loop = asyncio.get_running_loop()
        await self._application.repository.load_all()
        gc.freeze()  # what is here stays: else the server stops now and then while all of it is looked through
        try:
            if self._grpc_port:
                self._rpc = await start_rpc(self._application, self.config.host, self._grpc_port, self._tls)
            self._application.accepting = True
            await super().serve(sockets)
        finally:
            if self._rpc:
                await self._rpc.stop(0)
            self._application.repository.close()

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        if self.started:
            scheme, host = "https" if self._tls else "http", self.config.host
            log.info("ready", extra={"url": f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.config.port}"})

    async def on_tick(self, counter: int) -> bool:
        """End connections that are overdue."""
        if counter % SWEEPS == 0:
            now = time.monotonic()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection):
                    connection.sweep(now)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Take nothing new, and answer what is held."""
        ending = [super().shutdown(sockets)]
        if self._rpc:
            ending.append(self._rpc.stop(GRACE_S))
        await asyncio.gather(*ending)
        self._captured_signals.clear()  # uvicorn would raise them again, and an orderly end look like a kill

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins the end, a second one hastens it."""
        if self._loop is None or not self._application.accepting:
            self.should_exit = self.force_exit = True
            return
        self._application.accepting = False
        log.info("not ready any more", extra={"drain_s": self._drain_s})
        self._loop.call_soon_threadsafe(self._loop.call_later, self._drain_s, super().handle_exit, sig, frame)
