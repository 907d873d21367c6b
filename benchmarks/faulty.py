"""Requests with faults in them, made from good ones, and what has to be true of every answer to them.

A fault lies anywhere: in the request's line, in its headers, in the tree of its JSON, in the text of that, in its
binary values, or in the bytes of all of it.
"""
# ruff: noqa: S101  # a finding is an AssertionError

import http.client
import json
import re
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import seed as set_seed
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parent.parent / "tests"))

from served import Running, resident

HOST = b"127.0.0.1"
STATUSES = {200, 400, 403, 404, 405, 408, 411, 413, 415, 431, 503, 504}
PATIENCE_S = 0.15  # for an answer to what may be no whole request
TEXT: dict[str, Any] = {"name": "text", "shape": [1, 3], "datatype": "UINT8", "data": [[65, 66, 67]]}
# fmt: off
ODD: list[Any] = [
    None, True, False, -1, 0, 1, 2, 65, 2**31, 2**63, 10**400, -0.5, 1e308, "", "text", "é" * 50, "\ud800", "a\nb",
    "\0", [], {}, [[]], [1, [2]], [None], {"text": 1}, [[[[[[[[]]]]]]]], ["a"] * 9, "x" * 3000,
]
PIECES = [
    b"", b"\xff", b"\0", b"]", b"}", b'"', b",", b"NaN", b"1e999", b"[" * 300, b"\\ud800", b"9" * 50, b"\r\n", b"-",
]
NAMES = [
    b"Content-Length", b"Transfer-Encoding", b"Inference-Header-Content-Length", b"Content-Encoding", b"Connection",
    b"Expect", b"Host", b"Origin", b"Authorization", b"Upgrade", b"Content-Type", b"X", b"", b"\xe9", b"a b", b"a\0",
]
VALUES = [
    b"", b"0", b"1", b"-1", b"5", b"0x10", b"1.5", b"nan", b"9" * 30, b"18446744073709551615", b"2147483648", b"5, 5",
    b"chunked", b"gzip, chunked", b"gzip", b"identity", b"close", b"keep-alive", b"upgrade", b"100-continue", b"h2c",
    b"websocket", b"http://evil.example", b"null", b"[", b"a\xff", b"a\0b", b"a\rb", b"a\r\n b", b"Bearer x",
    b"y" * 9000,
]
METHODS = [
    b"GET", b"POST", b"PUT", b"DELETE", b"HEAD", b"OPTIONS", b"CONNECT", b"TRACE", b"PATCH", b"PRI", b"get", b"", b"\0",
]
SEGMENTS = [
    b"", b".", b"..", b"%2e%2e", b"%2f", b"%00", b"%ff", b"%", b"%zz", b"\xe9", b"a" * 300, b" ", b"?x=1", b"#y", b"//",
    b"*", b"v2", b"models", b"versions", b"1", b"infer", b"generate", b"health", b"ready", b"repository", b"index",
    b"load",
]
# fmt: on
PROBE = b"GET /v2/health/live HTTP/1.1\r\n\r\n"
VERSIONS = [b"HTTP/1.0", b"HTTP/1.1", b"HTTP/2.0", b"HTTP/0.9", b"HTTP/9.9", b"HTTP/1.1 ", b"", b"http/1.1", b"HTTP/1"]


class Sent(NamedTuple):
    """A request, before it is bytes."""

    method: bytes
    path: list[bytes]
    version: bytes
    headers: list[tuple[bytes, bytes]]
    told: Any  # JSON; nothing if it is ``...``
    binary: bytes  # behind it


def good(model: str) -> list[Sent]:
    """Requests that a server on a language model ``model`` answers by 200, one of each kind."""
    of = [b"v2", b"models", model.encode()]
    behind = {"name": "text", "shape": [2, 3], "datatype": "UINT8", "parameters": {"binary_data_size": 6}}
    asked = [{"name": "logits", "parameters": {"classification": 2}}, {"name": "next_state"}]
    bodies: list[tuple[bytes, dict[str, Any], bytes]] = [
        (b"infer", {"inputs": [TEXT]}, b""),
        (b"infer", {"inputs": [TEXT], "outputs": asked, "id": "7"}, b""),
        (b"infer", {"inputs": [TEXT], "parameters": {"sequence_id": 9, "sequence_start": True, "timeout": 10**6}}, b""),
        (b"infer", {"inputs": [behind], "parameters": {"binary_data_output": True}}, b"abcdef"),
        (
            b"generate",
            {"text_input": "a", "parameters": {"max_tokens": 3, "temperature": 0.5, "top_k": 5, "seed": 1}},
            b"",
        ),
        (b"generate_stream", {"text_input": "a", "max_tokens": 3, "stop": ["b"]}, b""),
    ]
    posts = [Sent(b"POST", [*of, last], b"HTTP/1.1", [], told, binary) for last, told, binary in bodies]
    paths = ([b"v2"], of, [*of, b"ready"], [b"v2", b"health", b"ready"], [b"metrics"], [b"served"], [b""], [b"page.js"])
    gets = [Sent(b"GET", path, b"HTTP/1.1", [], ..., b"") for path in paths]
    return [*posts, *gets, Sent(b"POST", [b"v2", b"repository", b"index"], b"HTTP/1.1", [], {}, b"")]


def raw(sent: Sent) -> bytes:
    """As it goes over the wire; what it says of its lengths is right unless it names them itself."""
    header = b"" if sent.told is ... else sent.told if isinstance(sent.told, bytes) else json.dumps(sent.told).encode()
    body = header + sent.binary
    named = {name.lower() for name, _ in sent.headers}
    lines = [b"%s /%s %s" % (sent.method, b"/".join(sent.path), sent.version)]
    lines += [b"%s: %s" % pair for pair in sent.headers]
    if b"host" not in named:
        lines.append(b"Host: %s" % HOST)
    if body and not named & {b"content-length", b"transfer-encoding"}:
        lines.append(b"Content-Length: %d" % len(body))
    if sent.binary and b"inference-header-content-length" not in named:
        lines.append(b"Inference-Header-Content-Length: %d" % len(header))
    return b"\r\n".join([*lines, b"", body])


@st.composite
def faulty(draw: st.DrawFn, model: str) -> bytes:
    """A good request with one to three faults in it, at any place."""
    sent = draw(st.sampled_from(good(model)))
    for _ in range(draw(st.integers(1, 3))):
        where = draw(st.sampled_from(["line", "headers", *["told"] * 3, "text", "binary"]))
        if where == "line":
            sent = _in_line(draw, sent)
        elif where == "headers":
            pair = draw(st.sampled_from(NAMES)), draw(st.sampled_from(VALUES))
            sent = sent._replace(headers=[*sent.headers, *[pair] * draw(st.sampled_from([1, 1, 1, 2, 200]))])
        elif where == "binary":
            cut = draw(st.integers(0, len(sent.binary)))
            sent = sent._replace(binary=sent.binary[:cut] + draw(st.binary(max_size=9)))
        elif sent.told is not ... and not isinstance(sent.told, bytes):
            told = _in_tree(draw, sent.told)
            sent = sent._replace(told=_in_bytes(draw, json.dumps(told).encode()) if where == "text" else told)
    whole = raw(sent)
    return draw(st.sampled_from([whole] * 9 + [whole[: draw(st.integers(0, len(whole)))], _in_bytes(draw, whole)]))


def _in_line(draw: st.DrawFn, sent: Sent) -> Sent:
    what = draw(st.sampled_from(["method", "path", "version"]))
    if what == "method":
        return sent._replace(method=draw(st.sampled_from(METHODS)))
    if what == "version":
        return sent._replace(version=draw(st.sampled_from(VERSIONS)))
    place = draw(st.integers(0, len(sent.path)))
    return sent._replace(
        path=[*sent.path[:place], draw(st.sampled_from(SEGMENTS)), *sent.path[place + draw(st.integers(0, 1)) :]]
    )


def _in_tree(draw: st.DrawFn, tree: Any) -> Any:
    """``tree`` with one thing in it replaced, left out, put twice or named otherwise."""
    if not (isinstance(tree, dict | list) and tree and draw(st.integers(0, 3))):
        return draw(st.sampled_from(ODD))
    key = draw(st.sampled_from(sorted(tree) if isinstance(tree, dict) else range(len(tree))))
    what = draw(st.sampled_from(["in", "in", "in", "without", "more"]))
    changed: Any = tree.copy()
    if what == "in":
        changed[key] = _in_tree(draw, tree[key])
    elif what == "without":
        del changed[key]
    elif isinstance(tree, dict):
        changed[draw(st.sampled_from(["", "id", "outputs", "parameters", "data", "classification", "é"]))] = tree[key]
    else:
        changed += [tree[key]] * draw(st.sampled_from([1, 2, 100]))
    return changed


def _in_bytes(draw: st.DrawFn, whole: bytes) -> bytes:
    start = draw(st.integers(0, len(whole)))
    return whole[:start] + draw(st.sampled_from(PIECES)) + whole[start + draw(st.integers(0, 4)) :]


class Answer(NamedTuple):
    """What came back for one request."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


def take(came: bytes, method: bytes) -> tuple[Answer | None, bytes]:
    """The first answer in ``came``, if it is whole, and what is left.

    Raises:
        AssertionError: it is no answer of HTTP.
    """
    head, whole, rest = came.partition(b"\r\n\r\n")
    if not whole:
        return None, came
    assert head.startswith(b"HTTP/1.1 "), f"no answer of HTTP: {head[:100]!r}"
    first, *lines = head.split(b"\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(b": ") for line in lines)}
    status, body = int(first.split()[1]), b""
    if status == 100:
        return take(rest, method)
    if headers.get(b"transfer-encoding") == b"chunked":
        size = b""
        while size != b"0":
            size, whole, rest = rest.partition(b"\r\n")
            if not whole or len(rest) < int(size, 16) + 2:
                return None, came
            body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    elif method != b"HEAD":
        length = int(headers[b"content-length"])
        if len(rest) < length:
            return None, came
        body, rest = rest[:length], rest[length:]
    return Answer(status, headers, body), rest


class Line:
    """A connection, and what came over it."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((HOST.decode(), port), timeout=10)
        self._came = b""
        self.ended = False

    def say(self, data: bytes) -> None:
        """Send ``data``, as far as the server takes it."""
        try:
            self._socket.settimeout(10)
            self._socket.sendall(data)
        except ConnectionError:
            self.ended = True

    def hear(self, method: bytes = b"GET") -> list[Answer]:
        """The next answer; none where the connection ends, or says nothing for a while."""
        self._socket.settimeout(PATIENCE_S)
        answer, self._came = take(self._came, method)
        while not answer:
            try:
                part = self._socket.recv(2**18)
            except TimeoutError:
                return []
            except ConnectionError:  # closed while more was being sent: what was said may be lost
                self.ended = True
                return []
            if not part:
                self.ended = True
                assert not self._came, f"an answer that is cut: {self._came[:200]!r}"
                return []
            answer, self._came = take(self._came + part, method)
        return [answer]

    def end(self) -> None:
        """Say that nothing more comes, and close.

        Raises:
            AssertionError: the server does not close as well.
        """
        with closing(self._socket):
            if self.ended:
                return
            try:
                self._socket.shutdown(socket.SHUT_WR)
                self._socket.settimeout(10)
                while self._socket.recv(2**18):
                    pass
            except TimeoutError:
                raise AssertionError("the client has ended, and the server keeps the connection") from None
            except OSError:
                pass


def judge(answer: Answer) -> None:
    """Hold an answer to the protocol.

    Raises:
        AssertionError: it is another status, or no words where there should be.
    """
    assert answer.status in STATUSES, f"status {answer.status}: {answer.body[:200]!r}"
    if answer.status == 200 or not answer.body:  # nothing in answer to HEAD, and where there are too many connections
        return
    words = re.fullmatch(rb'\{"error": ?"(.{1,1000})"\}', answer.body)
    assert words and json.loads(answer.body), f"not in words: {answer.body[:200]!r}"
    assert answer.status != 503 or b"retry-after" in answer.headers, "503 without Retry-After"


def harm(port: int, data: bytes, right: Callable[[], None]) -> int:
    """Send ``data``, then a good request behind it, and then see to it that the server answers as before.

    Args:
        right: raises ``AssertionError`` if it does not.

    Returns:
        The first status; 0 where the connection was ended without one.

    Raises:
        AssertionError: something was answered that should not be.
    """
    line = Line(port)
    line.say(data)
    answers = line.hear(data.lstrip(b"\r\n").partition(b" ")[0])
    if answers and answers[0].headers.get(b"connection") != b"close":
        line.say(PROBE)
        answers += line.hear()
    line.end()
    for answer in answers:
        judge(answer)
    right()
    return answers[0].status if answers else 0


@contextmanager
def as_before(server: Running, model: str) -> Iterator[Callable[[], None]]:
    """Asks for what ``server`` answers now, and raises ``AssertionError`` where that is another."""
    body = json.dumps({"inputs": [TEXT]}).encode()
    connection = http.client.HTTPConnection(HOST.decode(), server.port, timeout=30)

    def ask() -> tuple[int, bytes]:
        connection.request("POST", f"/v2/models/{model}/infer", body)
        reply = connection.getresponse()
        return reply.status, reply.read()

    expected = ask()
    assert expected[0] == 200, expected

    def right() -> None:
        assert ask() == expected, "another answer than before"

    with closing(connection):
        yield right


def harm_all(server: Running, model: str, requests: int, seed: int) -> dict[int, int]:
    """Send ``requests`` faulty requests, and look into the server's log; how often each status came.

    Raises:
        AssertionError: one was answered as it should not be, told of in full.
    """
    statuses, logged = Counter[int](), len(server.logged())

    @settings(max_examples=requests, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @set_seed(seed)
    @given(faulty(model))
    def send(data: bytes) -> None:
        statuses[harm(server.port, data, right)] += 1

    with as_before(server, model) as right:
        send()
    for line in server.logged()[logged:]:
        assert "trace" not in line and line["level"] != "error", line
    return dict(statuses)


def flat(server: Running, model: str, requests: int) -> list[int]:
    """Ask ``requests`` times, in all ways; MiB that the server has after each tenth.

    Raises:
        AssertionError: an answer that is no 200.
    """
    kinds = [raw(sent) for sent in good(model)[:4] for _ in range(30)]
    end = {"sequence_id": 9, "sequence_end": True}
    kinds += [raw(good(model)[0]._replace(told={"inputs": [TEXT], "parameters": end}))]
    kinds += [raw(sent) for sent in good(model)[4:]]
    line, took = Line(server.port), []
    for tenth in range(10):
        for i in range(requests // 10):
            line.say(kinds[i % len(kinds)])
            while not (answers := line.hear()):
                assert not line.ended, "the connection has ended"
            assert answers[0].status == 200, answers
        took.append(resident(server))
        print(f"flat: {(tenth + 1) * (requests // 10)} requests, {took[-1]} MiB", flush=True)
    line.end()
    return took
