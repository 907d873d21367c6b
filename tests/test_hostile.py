"""Requests that mean harm, or nothing, against the real server: over plain sockets, one connection each."""

import json
import re
import resource
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import pytest
from served import Running, reader_bundle, resident, serving

INFER, GENERATE = "/v2/models/writer-fp32/infer", "/v2/models/writer-fp32/generate"
TENSOR = {"name": "text", "shape": [1, 2], "datatype": "UINT8", "data": [65, 66]}
GOOD = json.dumps({"inputs": [TENSOR]}).encode()
BODY = 2**20  # the most that the server takes
GROWS = 120  # MiB that all of this may leave behind in the server: 64 are two bodies of JSON, read
ACCEPTED = {200, 400, 403, 404, 405, 408, 413, 415, 431, 503, 504}
UNREADABLE = "request: cannot be read as HTTP/1.1, expected one"  # then the connection is closed


class Said(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reader_bundle(tmp_path_factory.mktemp("hostile") / "writer", units=24, recipe="writer")


@pytest.fixture(scope="module")
def server(writer: Path) -> Iterator[Running]:
    with serving(writer.parent / "log", writer, "--body", BODY) as running:
        yield running


@pytest.fixture(scope="module")
def hasty(writer: Path) -> Iterator[Running]:
    """One that waits for nobody, and has little room."""
    first = (
        "import deploy.server.connection as c, deploy.server.app as a; c.WHOLE_S = 2.0; c.CONNECTIONS = 60; "
        "a.SLOW_S = 1.0; import functools, deploy.server.repository as r; "
        "r.Limits = functools.partial(r.Limits, held_bytes=2**24)"
    )
    with serving(writer.parent / "hasty", writer, first=first) as running:
        yield running


@pytest.fixture
def right(request: pytest.FixtureRequest) -> Iterator[None]:
    """The server is as it was: it answers as before, has grown by little, and its log tells of no mistake."""
    running = request.getfixturevalue("hasty" if "hasty" in request.fixturenames else "server")
    before, answer, told = resident(running), running.post(INFER, GOOD), len(running.logged())
    yield
    after = running.post(INFER, GOOD)
    assert (after.status, after.body) == (200, answer.body) == (200, after.body)
    assert resident(running) < before + GROWS
    for line in running.logged()[told:]:
        assert "trace" not in line and line["level"] != "error", line


def connect(running: Running, seconds: float = 10) -> socket.socket:
    return socket.create_connection(("127.0.0.1", running.port), timeout=seconds)


def http(
    method: str = "POST",
    path: str = INFER,
    body: bytes = GOOD,
    *headers: str | bytes,
    length: object = ...,
    host: str = "127.0.0.1",
) -> bytes:
    """A request; ``length`` is what it says of its body, nothing if that is ``None``."""
    said = [header.encode("latin-1") if isinstance(header, str) else header for header in headers]
    if length is not None:
        said.append(b"content-length: %s" % str(len(body) if length is ... else length).encode())
    return b"\r\n".join([f"{method} {path} HTTP/1.1\r\nhost: {host}".encode(), *said, b"", body])


def chunked(*chunks: bytes) -> bytes:
    return http("POST", INFER, b"".join(chunks), "transfer-encoding: chunked", length=None)


def chunk(part: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(part), part)


def heard(sock: socket.socket, answers: int = 1) -> tuple[list[Said], bool]:
    """Up to so many answers, and whether the connection has ended, where fewer came."""
    came, said = b"", []
    while len(said) < answers:
        head, ended, rest = came.partition(b"\r\n\r\n")
        if ended:
            first, *lines = head.decode("latin-1").split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines)
            status, length = int(first.split()[1]), int(headers.get("content-length", 0))
            if status == 100:
                came = rest
                continue
            if len(rest) >= length:
                said.append(Said(status, headers, rest[:length]))
                came = rest[length:]
                continue
        try:
            part = sock.recv(2**16)
        except ConnectionError:
            part = b""
        if not part:
            return said, True
        came += part
    assert not came, came
    return said, False


def ask(running: Running, data: bytes, answers: int = 1, half: bool = False) -> tuple[list[Said], bool]:
    with closing(connect(running)) as sock:
        try:
            sock.sendall(data)
            if half:
                sock.shutdown(socket.SHUT_WR)
        except ConnectionError:  # it has been refused before it was whole
            pass
        return heard(sock, answers)


def words(said: Said) -> str:
    """What was told."""
    assert said.status in ACCEPTED, said
    assert said.headers["content-type"] == "application/json"
    error = json.loads(said.body)
    assert list(error) == ["error"] and len(error["error"]) < 1000, error
    if error["error"].startswith(UNREADABLE):
        assert said.headers["connection"] == "close"
    return error["error"]


def tensor(**changes: object) -> bytes:
    return json.dumps({"inputs": [TENSOR | changes]}).encode()


def generated(text: str = "a", **parameters: object) -> bytes:
    return http("POST", GENERATE, json.dumps({"text_input": text, "parameters": parameters}).encode())


BAD = {
    "a wrong name": (http(body=tensor(name="image")), 400, "inputs: name 'image', expected 'state', 'text'"),
    "a wrong type": (http(body=tensor(datatype="FP32")), 400, "datatype 'FP32', expected UINT8"),
    "a wrong shape": (http(body=tensor(shape=[2])), 400, r"shape \[2\], expected \[batch, time\]"),
    "a negative axis": (http(body=tensor(shape=[1, -2])), 400, "integers from 1"),
    "a huge axis": (http(body=tensor(shape=[1, 2**63])), 400, "time from 1 to 64"),
    "a number that is beyond numbers": (http(body=GOOD.replace(b"66", b"9" * 5000)), 400, "JSON: broken"),
    "NaN": (http(body=GOOD.replace(b"66", b"NaN")), 400, "JSON: NaN, expected a number that JSON has"),
    "NaN in a state": (
        http(
            body=json.dumps(
                {"inputs": [TENSOR, {"name": "state", "shape": [1, 1, 24], "datatype": "FP32", "data": [1] * 24}]}
            )
            .replace("1, 1]", "1, 1e999]")
            .encode()
        ),
        400,
        r"data\[23\] is inf, expected a number",
    ),
    "deep JSON": (http(body=b"[" * 100_000), 400, "JSON: nested too deep"),
    "deep JSON that ends": (http(body=b"[" * 100_000 + b"]" * 100_000), 400, "JSON: nested too deep"),
    "deep objects": (http(body=b'{"inputs":' * 100_000), 400, "JSON: nested too deep"),
    "broken JSON": (http(body=GOOD[:-1]), 400, r"JSON: broken \(Expecting"),
    "a key twice": (http(body=b'{"inputs": [], "inputs": []}'), 400, "JSON: key 'inputs' twice"),
    "no UTF-8": (http(body=b"\xff" + GOOD), 400, "invalid start byte"),
    "nothing": (http(body=b""), 400, "JSON: broken"),
    "no tensor's bytes": (
        http("POST", INFER, tensor(data=None), f"inference-header-content-length: {len(tensor(data=None))}"),
        400,
        "data None, expected a list",
    ),
    "a 2 GiB body announced": (http(length=2**31), 413, f"body: {2**31} bytes, expected at most {BODY}"),
    "2^64 - 1 bytes announced": (http(length=2**64 - 1), 413, "expected at most"),
    "that for text": (http("POST", GENERATE, length=2**31), 413, "expected at most"),
    "more than 2^64 bytes": (http(length=10**30), 400, UNREADABLE),
    "a length that is negative": (http(length=-1), 400, UNREADABLE),
    "a length that is no number": (http(length="ten"), 400, UNREADABLE),
    "a length with an underscore": (http(length="8_6"), 400, UNREADABLE),
    "a length with a sign": (http(length="+86"), 400, UNREADABLE),
    "no length": (http(length=""), 400, UNREADABLE),
    "two lengths": (http("POST", INFER, GOOD, "content-length: 5"), 400, UNREADABLE),
    "two lengths in one": (http(length="86, 86"), 400, UNREADABLE),
    "a length and chunks": (http("POST", INFER, b"0\r\n\r\n", "transfer-encoding: chunked"), 400, UNREADABLE),
    "an unknown transfer": (http("POST", INFER, b"", "transfer-encoding: xchunked", length=None), 400, UNREADABLE),
    "chunked twice": (
        http("POST", INFER, b"0\r\n\r\n", *["transfer-encoding: chunked"] * 2, length=None),
        400,
        UNREADABLE,
    ),
    "a chunk of no size": (chunked(b"xyz\r\n"), 400, UNREADABLE),
    "a chunk of a negative size": (chunked(b"-5\r\n"), 400, UNREADABLE),
    "a chunk larger than numbers": (chunked(b"f" * 40 + b"\r\n"), 400, UNREADABLE),
    "a chunk longer than it says": (chunked(b"2\r\nabcd\r\n"), 400, UNREADABLE),
    "gzip": (http("POST", INFER, GOOD, "content-encoding: gzip"), 415, "content-encoding: 'gzip', expected none"),
    "a huge body expected to be asked for": (
        http("POST", INFER, b"", "expect: 100-continue", length=2**31),
        413,
        "body",
    ),
    "a header with a byte 0": (http("POST", INFER, GOOD, b"x: a\0b"), 400, UNREADABLE),
    "a header with half a line's end": (http("POST", INFER, GOOD, b"x: a\rb"), 400, UNREADABLE),
    "a header over two lines": (http("POST", INFER, GOOD, b"x: a\r\n b"), 400, UNREADABLE),
    "a header without end": (http("POST", INFER, GOOD, "x: " + "a" * 2**21), 431, "or over 65536 bytes"),
    "101 headers": (http("POST", INFER, GOOD, *["x: a"] * 99), 431, "headers: over 100"),
    "101 headers for another path": (http("GET", "/v2", b"", *["x: a"] * 99), 431, "headers: over 100"),
    "10,000 headers": (http("POST", INFER, GOOD, *["x: a"] * 10_000), 431, "headers: over 100"),
    "as many behind the body": (
        chunked(chunk(GOOD), b"0\r\n", b"x: a\r\n" * 100, b"\r\n"),
        431,
        "headers: over 100",
    ),
    "headers without end behind the body": (chunked(chunk(GOOD), b"0\r\nx: ", b"a" * 2**21), 431, "over 65536 bytes"),
    "a path without end": (http("GET", "/" + "a" * 100_000), 400, UNREADABLE),
    "a path above": (http("GET", "/v2/models/../../etc/passwd"), 404, "expected a path of the protocol"),
    "a path above in disguise": (http("GET", "/v2/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd"), 404, "expected a path of"),
    "a path above to load": (http("POST", "/v2/repository/models/..%5C..%5Cetc/load"), 404, "unknown, expected one of"),
    "a path's end": (http("GET", "/v2/models/writer%00-fp32"), 404, "'writer.x00-fp32': unknown"),
    "a line's end in a path": (http("GET", "/v2/models/a%0d%0aset-cookie:b"), 404, "unknown"),
    "a name that is no UTF-8": (http("GET", "/v2/models/%ff%fe"), 404, "unknown, expected one of writer-"),
    "a name of a kilobyte": (http("GET", "/v2/models/" + "a" * 1000), 404, "unknown, expected one of writer-"),
    "a name in Unicode": (http("GET", "/v2/models/%E2%80%AE%F0%9F%92%A9"), 404, "unknown"),
    "a path in bytes": (http("GET", "/é"), 400, UNREADABLE),
    "a slash too many": (http("GET", "/v2/health/live/"), 404, "expected a path of the protocol"),
    "a host that is none": (http("GET", "/nothing", host="["), 403, "host: '\\['"),
    "the page of another site": (
        http("POST", INFER, GOOD, "origin: http://evil.example"),
        403,
        "this server's own page",
    ),
    "another method": (http("GET", INFER), 405, "expected POST"),
    "a method that is none": (http("BREW", INFER), 400, UNREADABLE),
    "a proxy's method": (http("CONNECT", "example:80"), 400, UNREADABLE),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 400, UNREADABLE),
    "HTTP/3.7": (http("GET", "/").replace(b"HTTP/1.1", b"HTTP/3.7"), 400, UNREADABLE),
    "TLS": (bytes.fromhex("16030100a5010000a10303") + bytes(155), 400, UNREADABLE),
    "zeros": (bytes(1000), 400, UNREADABLE),
    "characters below none": (generated(max_tokens=-1), 400, "max_tokens: '-1', expected an integer from 1 to"),
    "characters without end": (generated(max_tokens=10**9), 400, "max_tokens: '1000000000', expected an integer"),
    "a temperature that is none": (generated(temperature="hot"), 400, "temperature: 'hot', expected a number"),
    "more than all bytes": (generated(top_k=257), 400, "top_k: '257', expected an integer from 0 to 256"),
    "a huge seed": (generated(seed=10**4000), 400, "seed: '1000"),
    "too many stops": (generated(stop=["a"] * 9), 400, "stop: .*expected up to 8 strings"),
    "stops in stops": (generated(stop=[["a"]]), 400, "stop: "),
    "a stop that is empty": (generated(stop=""), 400, "stop: "),
    "no time": (generated(timeout=-1), 400, "timeout: '-1', expected microseconds"),
    "a sequence that never began": (generated(sequence_id=7), 400, "sequence 7 of writer-fp32: not here"),
    "a sequence of a long name": (generated(sequence_id="x" * 200), 400, "sequence_id: "),
    "a sequence of no name that begins": (generated(sequence_start=True), 400, "without a sequence_id"),
    "no text": (generated(""), 400, "text_input: empty"),
    "a text with a byte 0": (generated("a\0"), 400, "U\\+0000"),
    "parameters in a list": (http("POST", GENERATE, b'{"text_input": "a", "parameters": []}'), 400, "parameters: list"),
    **{
        f"a JSON length {length!r}": (
            http("POST", INFER, GOOD, f"inference-header-content-length: {length}"),
            400,
            "Inference-Header-",
        )
        for length in ("-1", "abc", "1.5", "9" * 30, "", "0x10", "+5", "5 5", "87", "\u00b2")
    },
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_request_is_told_what_is_wrong_with_it(server: Running, right: None, kind: str) -> None:
    data, status, expected = BAD[kind]
    said, ended = ask(server, data)
    if status == 431 and len(data) > 2**16 and not said:  # it was still being sent when the connection was closed
        assert ended
        return
    assert said[0].status == status, said
    assert re.search(expected, words(said[0]))


@pytest.mark.parametrize(
    "data",
    [
        http(length=len(GOOD) + 20),
        http("POST", GENERATE, b'{"text_input": "a"}', length=50),
        chunked(b"20\r\nabcd"),
        b"GET / HT",
        b"",
    ],
)
def test_a_request_that_breaks_off_is_forgotten(server: Running, right: None, data: bytes) -> None:
    assert ask(server, data, half=True) == ([], True)


def test_a_client_that_leaves_while_text_is_written_is_no_failure(server: Running, right: None) -> None:
    for path in (GENERATE, f"{GENERATE}_stream"):
        for text in ("a", "a" * 500_000):
            with closing(connect(server)) as sock:
                body = json.dumps({"text_input": text, "parameters": {"max_tokens": 100_000}}).encode()
                sock.sendall(http("POST", path, body))
                time.sleep(0.2)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # leaves with a reset
    end = time.monotonic() + 5  # writing has stopped: the count of characters stands still
    counts = [-1.0, -2.0]
    while counts[-1] != counts[-2] and time.monotonic() < end:
        time.sleep(0.3)
        counts.append(characters(server))
    assert counts[-1] == counts[-2]


def test_a_text_without_end_is_not_read_to_its_end(server: Running, right: None) -> None:
    (said,), _ = ask(server, generated("a" * (BODY - 100), timeout=100_000))
    assert said.status == 504 and re.search("text_input: [0-9]+ of [0-9]+ bytes read after 0.1 s", words(said))


def characters(running: Running) -> float:
    told = re.search(r"^plumbline_characters_total\{.*\} (.*)$", running.get("/metrics").body.decode(), re.MULTILINE)
    return float(told[1]) if told else 0.0


def test_what_is_odd_and_right_is_answered(server: Running, right: None) -> None:
    """Chunks, an answer awaited before the body is sent, times and temperatures beyond floats, HTTP/1.0."""
    expected = server.post(INFER, GOOD).body
    pieces = b"".join(chunk(GOOD[i : i + 7]) for i in range(0, len(GOOD), 7))
    slow = GOOD[:-1] + b', "parameters": {"timeout": 1%s}}' % (b"0" * 400)
    for data in (chunked(pieces, b"0\r\n\r\n"), http("POST", INFER, GOOD, "expect: 100-continue"), http(body=slow)):
        (said,), _ = ask(server, data)
        assert (said.status, said.body) == (200, expected)
    (said,), _ = ask(server, http().replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert (said.body, said.headers["connection"]) == (expected, "close")
    for temperature in (5e-324, 1e-300, 100):
        (said,), _ = ask(server, generated(temperature=temperature, max_tokens=20))
        assert said.status == 200 and len(json.loads(said.body)["text_output"]) == 20


def test_requests_that_do_not_wait_are_answered_in_their_order(server: Running, right: None) -> None:
    bad, live = http(body=b"{"), http("GET", "/v2/health/live", b"")
    said, _ = ask(server, b"".join([http(), bad, live] * 20), 60)
    assert [each.status for each in said] == [200, 400, 200] * 20
    assert len({each.body for each in said[::3]}) == 1


def test_a_body_in_tiny_chunks_takes_little_more_than_its_bytes(server: Running, right: None) -> None:
    with closing(connect(server)) as sock:
        before = resident(server)
        sock.sendall(chunked(chunk(b"  ") * (BODY // 2 - 100)))
        time.sleep(0.5)
        assert resident(server) < before + 10
        sock.sendall(chunk(GOOD) + b"0\r\n\r\n")
        assert heard(sock)[0][0].status == 200


def test_who_asks_on_and_on_without_waiting_is_cut_off(server: Running, right: None) -> None:
    with closing(connect(server)) as sock:
        sent, many = 0, http("GET", "/v2/health/live", b"") * 1000
        with pytest.raises(ConnectionError):
            while sent < 100 * 2**20:
                sock.sendall(many)
                sent += len(many)


def test_nothing_is_smuggled(server: Running, right: None) -> None:
    """A body that reads as a request is never answered as one."""
    hidden = http("GET", "/v2/models/hidden")
    for data in (
        http("POST", INFER, b"0\r\n\r\n" + hidden, "transfer-encoding: chunked"),
        http(
            "POST",
            INFER,
            b"0\r\n\r\n" + hidden,
            "Transfer-Encoding: chunked",
            "Transfer-Encoding: identity",
            length=None,
        ),
        http("POST", INFER, hidden, "content-length: 0"),
        http("POST", INFER, hidden),
        chunked(chunk(hidden), b"0\r\n\r\n"),
        http("POST", INFER, hidden, "x: y\r\n\tz"),
    ):
        with closing(connect(server, 0.5)) as sock:
            sock.sendall(data)
            came = b""
            try:
                while part := sock.recv(2**16):
                    came += part
            except (TimeoutError, ConnectionError):
                pass
            assert came.count(b"HTTP/1.1 ") == 1 and b"'hidden'" not in came


def test_a_huge_body_is_refused_before_it_has_come(server: Running, right: None) -> None:
    """2 GiB in chunks: the refusal is there after little more than a body may have."""
    with closing(connect(server)) as sock:
        sock.sendall(chunked())
        sent, part = 0, chunk(bytes(2**16))
        while sent < 2**31 and not sent > BODY + 2**16:
            sock.sendall(part)
            sent += 2**16
        (said,), _ = heard(sock)
        assert said.status == 413 and re.search(f"body: [0-9]+ bytes, expected at most {BODY}", words(said))


def test_thousands_of_silent_connections_are_borne(server: Running, right: None) -> None:
    """Who has a connection is answered; who comes when there are too many is told so; once they go, all is as before."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    try:
        with ExitStack() as stack:
            known = stack.enter_context(closing(connect(server)))
            known.sendall(http())
            assert heard(known)[0][0].status == 200
            silent = [stack.enter_context(closing(connect(server))) for _ in range(min(3000, hard - 200))]
            known.sendall(http())
            assert heard(known)[0][0].status == 200
            (said,), _ = heard(silent[-1])
            assert (said.status, said.headers["retry-after"]) == (503, "1")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    until(lambda: ask(server, http("GET", "/v2/health/live", b""))[0][0].status == 200, 5)


def until(true: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.05)


# Who waits


def ends_within(sock: socket.socket, seconds: float) -> float:
    """Seconds until the server ends the connection."""
    start = time.monotonic()
    sock.settimeout(seconds)
    try:
        while sock.recv(2**16):
            pass
    except ConnectionError:
        pass
    return time.monotonic() - start


@pytest.mark.parametrize("begun", [b"", b"\r\n", b"GET / HT", http("GET", "/", b"", "x: y", length=None)[:-2]])
def test_who_says_nothing_more_is_cut_off(hasty: Running, right: None, begun: bytes) -> None:
    with closing(connect(hasty)) as sock:
        sock.sendall(begun)
        assert ends_within(sock, 6) > 0.5


def test_a_blank_line_after_a_request_keeps_no_connection(hasty: Running, right: None) -> None:
    with closing(connect(hasty)) as sock:
        sock.sendall(http("GET", "/v2/health/live", b""))
        assert heard(sock)[0][0].status == 200
        sock.sendall(b"\r\n")
        ends_within(sock, 6)


def test_a_request_byte_by_byte_is_cut_off(hasty: Running, right: None) -> None:
    with closing(connect(hasty)) as sock, pytest.raises(ConnectionError):
        for byte in http("GET", "/", b"", *["x: y"] * 90) * 9:
            sock.sendall(bytes([byte]))
            time.sleep(0.05)


@pytest.mark.parametrize("path", [INFER, GENERATE])
def test_a_body_byte_by_byte_is_told_so(hasty: Running, right: None, path: str) -> None:
    with closing(connect(hasty)) as sock:
        sock.sendall(http("POST", path, b"", length=1000))
        start = time.monotonic()
        sock.settimeout(0.1)
        while time.monotonic() < start + 5:
            try:
                sock.sendall(b" ")
                if sock.recv(1, socket.MSG_PEEK):
                    break
            except TimeoutError:
                pass
        sock.settimeout(5)
        (said,), _ = heard(sock)
        assert said.status == 408 and re.fullmatch(
            "body: not whole after [12] s, expected all of it by then.", words(said)
        )


def test_answers_that_nobody_takes_are_bounded(hasty: Running, right: None) -> None:
    """Each is 10 MB of JSON; little of that is held, others are told so, and in the end it is dropped."""
    large = http(body=json.dumps({"inputs": [TENSOR | {"shape": [64, 64], "data": [65] * 4096}]}).encode())
    before = resident(hasty)
    with ExitStack() as stack:
        for _ in range(15):
            sock = stack.enter_context(closing(socket.socket()))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", hasty.port))
            sock.sendall(large)
            time.sleep(0.1)
        said = hasty.post(INFER, GOOD)
        assert said.status == 503 and "bytes of requests and answers are held" in said.json["error"]
        assert said.headers["Retry-After"] == "1"
        assert resident(hasty) < before + GROWS
        until(lambda: hasty.post(INFER, GOOD).status == 200, 10)


def test_too_many_silent_ones_make_room_in_time(hasty: Running, right: None) -> None:
    with ExitStack() as stack:
        for _ in range(80):
            stack.enter_context(closing(connect(hasty)))
        assert hasty.get("/v2/health/live").status == 503
        until(lambda: hasty.get("/v2/health/live").status == 200, 8)
