"""An HTTP server on 127.0.0.1 whose every answer a test makes, misbehaving as it likes."""

import contextlib
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Request(BaseHTTPRequestHandler):
    """``begin``: the first byte that is asked for, None without a range."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "Server"

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.begin = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else None
        self.server.asked.append((self.path, self.begin))
        self.server.heard.append(self.headers)
        self.server.answer(self)

    def head(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def give(self, data: bytes, until: int | None = None) -> None:
        """As an honest server does; ``until``: the connection ends before that byte of the file."""
        begin = self.begin or 0
        if begin >= len(data) and begin:
            self.head(416, Content_Length=0)
            return
        if self.begin is None:
            self.head(200, Content_Length=len(data))
        else:
            self.head(206, Content_Length=len(data) - begin, Content_Range=f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.send(data[begin:until])
        if until is not None:
            self.drop()

    def send(self, body: bytes) -> None:
        self.wfile.write(body)
        self.wfile.flush()
        self.server.sent += len(body)

    def endless(self) -> None:
        with contextlib.suppress(ConnectionError):
            while not self.server.over.is_set():
                self.wfile.write(bytes(10_000))
        self.close_connection = True

    def stall(self) -> None:
        self.server.over.wait(10)
        self.close_connection = True

    def drop(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    connections = 0

    def __init__(self, answer: Callable[[Request], None]) -> None:
        self.answer, self.over = answer, threading.Event()
        self.asked: list[tuple[str, int | None]] = []
        self.heard: list[Any] = []
        self.sent = 0
        super().__init__(("127.0.0.1", 0), Request)
        self.root = f"http://127.0.0.1:{self.server_port}"

    def get_request(self) -> tuple[socket.socket, Any]:
        self.connections += 1
        return super().get_request()

    def handle_error(self, *_: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            raise

    @property
    def begins(self) -> list[int | None]:
        return [begin for _, begin in self.asked]


@contextlib.contextmanager
def serving(answer: Callable[[Request], None]) -> Iterator[Server]:
    server = Server(answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def in_turn(*answers: Callable[[Request], None]) -> Callable[[Request], None]:
    """One answer a request; the last again and again."""
    left = list(answers)
    return lambda request: (left.pop(0) if len(left) > 1 else left[0])(request)
