"""A connection of uvicorn's, with what that leaves open: those that say nothing or little, and too many of them."""

import asyncio
import time

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

CONNECTIONS = 2_000
WHOLE_S = 30.0  # for a request to come, from its first byte or the connection
FULL = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class Connection(HttpToolsProtocol):
    """One of a bounded number, that has to send a request within a bounded time."""

    due: float | None  # monotonic, s; None while nothing is to come

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection, if there is room for it."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self.due = time.monotonic() + WHOLE_S
        if len(self.connections) > CONNECTIONS:
            self.transport.write(FULL)
            self.transport.close()

    def on_message_begin(self) -> None:
        """A request's first byte."""
        super().on_message_begin()
        self.due = time.monotonic() + WHOLE_S

    def on_message_complete(self) -> None:
        """A request's last byte."""
        super().on_message_complete()
        self.due = None
