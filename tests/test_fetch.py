"""The downloader against servers that misbehave, on 127.0.0.1."""

import base64
import contextlib
import email.utils
import gzip
import hashlib
import os
import re
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from server import Request, in_turn, serving

from deploy.errors import Refused
from pipeline import fetch as fetching
from pipeline.fetch import fetch, held, open_session

DATA = np.random.default_rng(0).bytes(40_000)
HALF = len(DATA) // 2
TRIES = fetching.RETRIES + 1


def whole(request: Request) -> None:
    request.give(DATA)


def half(request: Request) -> None:
    request.give(DATA, until=HALF)


def status(code: int, **headers: object) -> Callable[[Request], None]:
    return lambda request: request.head(code, Content_Length=0, **headers)


def source(*urls: str, data: bytes = DATA) -> dict[str, Any]:
    return {"urls": list(urls), "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def bring(path: Path, *urls: str, data: bytes = DATA, down: dict[str, str] | None = None) -> None:
    """Fetch ``data``; what was counted is what lies there, whether it came or not."""
    counted = held(path)

    def count(number: int) -> None:
        nonlocal counted
        counted += number
        assert 0 <= counted <= len(data)

    try:
        with open_session() as session:
            fetch("set/a#b.bin", source(*urls, data=data), path, session, {} if down is None else down, count)
    finally:
        assert counted == (path.stat().st_size if path.is_file() else held(path))
    assert path.read_bytes() == data
    assert [other.name for other in path.parent.iterdir()] == [path.name]


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """Short waits; and nothing of this machine's proxies or mirrors."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"BACKOFF_S": 0.001, "CONNECT_S": 2, "READ_S": 0.2}.items():
            patch.setattr(fetching, name, value)
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            patch.delenv(name, raising=False)
            patch.delenv(name.upper(), raising=False)
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.delenv(fetching.MIRROR, raising=False)
        yield


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "file"


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were waited, without waiting."""
    waits: list[float] = []
    monkeypatch.setattr(fetching.time, "sleep", waits.append)
    return waits


def closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


# --- An honest server, and connections that break ---


def test_a_file_comes_in_one_piece_as_it_is(path: Path) -> None:
    with serving(whole) as server:
        bring(path, server.root)
    assert server.begins == [None]
    assert server.heard[0]["Accept-Encoding"] == "identity"


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(0, 3_000),
    cuts=st.lists(st.integers(0, 3_000), max_size=12),
)
def test_wherever_the_connection_breaks_each_byte_is_sent_once(length: int, cuts: list[int]) -> None:
    data = DATA[:length]
    cuts = sorted({min(cut, length) for cut in cuts} - {length})  # where nothing is left to send, nothing breaks
    left = list(cuts)
    with serving(lambda request: request.give(data, left.pop(0) if left else None)) as server:
        with tempfile.TemporaryDirectory() as folder:
            bring(Path(folder) / "file", server.root, data=data)
        assert [begin or 0 for begin in server.begins] == [0, *cuts]
        assert server.sent == length


def test_a_connection_that_breaks_after_every_few_bytes_gives_the_file(path: Path) -> None:
    """Many more attempts than may gain nothing in a row."""
    step = len(DATA) // 50
    with serving(lambda request: request.give(DATA, until=(request.begin or 0) + step)) as server:
        bring(path, server.root)
    assert len(server.asked) == 50 and server.sent == len(DATA)


def test_there_is_an_end_to_attempts_that_gain_a_byte(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "ATTEMPTS", 7)
    with (
        serving(lambda request: request.give(DATA, until=(request.begin or 0) + 1)) as server,
        pytest.raises(Refused, match=r"7 attempts, and 7 of 40,000 bytes"),
    ):
        bring(path, server.root)
    assert len(server.asked) == 7 and held(path) == 7


def test_attempts_that_gain_nothing_are_few_and_further_and_further_apart(path: Path, slept: list[float]) -> None:
    with serving(half) as server, pytest.raises(Refused, match=r"broke after 20,000 of 40,000 bytes; 5 attem"):
        bring(path, server.root)
    assert server.begins == [None] + [HALF] * TRIES
    assert held(path) == HALF
    assert slept == sorted(slept) and slept[-1] > 2 * slept[2] > 0


def test_a_connection_that_ends_without_an_answer_is_asked_again(path: Path) -> None:
    with serving(in_turn(Request.drop, Request.drop, whole)) as server:
        bring(path, server.root)
    assert server.begins == [None] * 3
    with (
        serving(Request.drop) as server,
        pytest.raises(Refused, match=rf"{server.root}: .*Remote end closed connection without response; 5 attem"),
    ):
        bring(path.with_name("other"), server.root)
    assert server.begins == [None] * TRIES


def test_a_server_that_stalls_is_left_and_asked_for_the_rest(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def stalls(request: Request) -> None:
        request.head(200, Content_Length=len(DATA))
        request.send(DATA[:HALF])
        request.stall()

    with serving(in_turn(stalls, whole)) as server:
        bring(path, server.root)
        assert server.begins == [None, HALF]
        assert f"{server.root}: nothing for 0.2 s, after 20,000 of 40,000 bytes; again\n" in capsys.readouterr().out
    with serving(Request.stall) as server, pytest.raises(Refused, match=r"Read timed out.*; 5 attempts"):
        bring(path.with_name("other"), server.root)


def test_a_server_that_sends_a_byte_now_and_then_is_a_stall(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "SLOW_S", 0.1)

    def trickles(request: Request) -> None:
        begin = request.begin or 0
        request.head(206 if begin else 200, Content_Range=f"bytes {begin}-39999/40000", Connection="close")
        with contextlib.suppress(ConnectionError):
            while not request.server.over.wait(0.01):
                request.send(DATA[begin : begin + 1])
                begin += 1

    with (
        serving(trickles) as server,
        pytest.raises(Refused, match=r"\d+ bytes in 0\.1 s, after \d+ of 40,000 bytes; 5"),
    ):
        bring(path, server.root)
    assert len(server.asked) == TRIES  # a few bytes were gained each time, and were not worth their while
    assert 0 < held(path) < 1_000 and path.with_name("file.part").read_bytes() == DATA[: held(path)]


# --- Servers that say what is not so ---


@pytest.mark.parametrize("said", [HALF, len(DATA) - 1, len(DATA) + 1, 10**15])
def test_a_file_of_another_length_is_not_taken(path: Path, said: int) -> None:
    path.parent.mkdir()
    path.with_name("file.part").write_bytes(DATA[:HALF])

    def lies(request: Request) -> None:
        request.head(200, Content_Length=said)
        request.send(DATA)
        request.drop()

    with serving(lies) as server, pytest.raises(Refused, match=f"a file of {said:,} bytes, 40,000 expected"):
        bring(path, server.root)
    assert server.begins == [HALF]
    assert held(path) == HALF  # what another place had given is not lost


def test_a_range_of_a_file_of_another_length_is_not_taken(path: Path) -> None:
    with (
        serving(in_turn(half, lambda request: request.give(DATA + b"more"))) as server,
        pytest.raises(Refused, match=r"a file of 40,004 bytes, 40,000 expected"),
    ):
        bring(path, server.root)
    assert held(path) == HALF


@pytest.mark.parametrize("begins", [b"", DATA])
def test_a_body_without_end_is_taken_as_far_as_the_file_goes(path: Path, begins: bytes) -> None:
    def endless(request: Request) -> None:
        request.head(200, Connection="close")
        request.send(begins)
        request.endless()

    with serving(endless) as server:
        if begins:
            bring(path, server.root)
        else:
            with pytest.raises(Refused, match=f"SHA-256 {hashlib.sha256(bytes(len(DATA))).hexdigest()}, expected"):
                bring(path, server.root)  # which holds that no more is counted


def test_a_body_that_ends_early_without_a_length_is_resumed(path: Path) -> None:
    def short(request: Request) -> None:
        request.head(200, Connection="close")
        request.send(DATA[:HALF])

    with serving(in_turn(short, whole)) as server:
        bring(path, server.root)
    assert server.begins == [None, HALF]


def test_chunks_are_put_together_and_a_chunk_that_breaks_off_is_resumed(path: Path) -> None:
    def chunked(request: Request) -> None:
        request.head(200, Transfer_Encoding="chunked")
        for begin in range(0, HALF, 5_000):
            request.send(b"1388\r\n" + DATA[begin : begin + 5_000] + b"\r\n")
        request.send(b"1388\r\n" + DATA[HALF : HALF + 100])
        request.drop()

    with serving(in_turn(chunked, whole)) as server:
        bring(path, server.root)
    assert server.begins == [None, HALF + 100]


def test_other_bytes_are_refused_and_the_next_place_is_asked(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = DATA[::-1]
    with serving(lambda request: request.give(other)) as liar, serving(whole) as server:
        bring(path, liar.root, server.root)
        assert liar.begins == [None] == server.begins  # it came in one piece: no use in asking again
        said = f"{liar.root}: SHA-256 {hashlib.sha256(other).hexdigest()}, expected .*; trying the next place\n"
        assert re.fullmatch(said, capsys.readouterr().out)


def test_pieces_that_make_another_file_are_fetched_anew_once(path: Path) -> None:
    path.parent.mkdir()
    for end in (HALF, len(DATA), len(DATA) + 1):
        path.unlink(missing_ok=True)
        path.with_name("file.part").write_bytes(bytes(end))
        with serving(whole) as server:
            bring(path, server.root)
        assert server.begins == ([HALF, None] if end == HALF else [None])
    path.unlink()
    other = DATA[::-1]
    again = in_turn(
        lambda request: request.give(other, until=HALF),
        lambda request: request.give(other),
        lambda request: request.give(other, until=HALF),
        lambda request: request.give(other),
    )
    with serving(again) as server, pytest.raises(Refused, match="SHA-256"):
        bring(path, server.root)
    assert server.begins == [None, HALF, None, HALF]


def test_two_places_give_one_file(path: Path) -> None:
    with serving(in_turn(half, status(404))) as first, serving(whole) as second:
        bring(path, first.root, second.root)
    assert second.begins == [HALF] and first.sent + second.sent == len(DATA)


def test_a_server_without_ranges_begins_anew_and_not_for_ever(path: Path) -> None:
    def ranges_ignored(until: int | None) -> Callable[[Request], None]:
        def answer(request: Request) -> None:
            request.begin = None
            request.give(DATA, until)

        return answer

    with serving(in_turn(half, ranges_ignored(None))) as server:
        bring(path, server.root)
    assert server.begins == [None, HALF]
    path.unlink()
    with serving(ranges_ignored(HALF)) as server, pytest.raises(Refused, match="5 attempts that gained nothing"):
        bring(path, server.root)
    assert len(server.asked) == 1 + TRIES


@pytest.mark.parametrize(
    "answer",
    [
        status(416),
        status(206),
        status(206, Content_Range=f"bytes 5-39999/{len(DATA)}"),
        status(206, Content_Range=f"bytes 0-39999/{len(DATA)}"),
        status(206, Content_Range="lines 20000-39999/40000"),
        status(206, Content_Range=f"bytes 20000-39999/{'9' * 5_000}"),
    ],
)
def test_where_the_rest_is_not_given_the_file_is_asked_for_anew(path: Path, answer: Callable[[Request], None]) -> None:
    with serving(in_turn(half, answer, whole)) as server:
        bring(path, server.root)
    assert server.begins == [None, HALF, None]
    path.unlink()
    with (
        serving(lambda request: (half if request.begin is None else answer)(request)) as server,
        pytest.raises(Refused, match="5 attempts that gained nothing"),
    ):
        bring(path, server.root)
    assert len(server.asked) == 1 + TRIES


def test_compressed_bytes_are_what_the_hash_is_of(path: Path) -> None:
    """A server that labels a ``.gz`` as an encoding, and one that compresses what it was asked to leave as it is."""
    packed = gzip.compress(b"text " * 1_000)

    def labels(request: Request) -> None:
        request.head(200, Content_Length=len(packed), Content_Encoding="gzip")
        request.send(packed)

    with serving(labels) as server:
        bring(path, server.root, data=packed)
        path.unlink()
        with pytest.raises(Refused, match=rf"a file of {len(packed)} bytes \('gzip'\), 5,000 expected"):
            bring(path, server.root, data=b"text " * 1_000)


# --- Status codes and redirects ---


def test_redirects_are_followed_with_the_range_and_not_in_circles(path: Path) -> None:
    def redirects(request: Request) -> None:
        if request.path == "/there":
            return half(request) if request.begin is None else whole(request)
        return request.head(302, Location="/there", Content_Length=0)

    with serving(redirects) as server:
        bring(path, server.root)
    assert server.asked == [("/", None), ("/there", None), ("/", HALF), ("/there", HALF)]
    path.unlink()
    with serving(status(301, Location="/round")) as server, pytest.raises(Refused, match="more than 5 redirects"):
        bring(path, server.root)
    assert len(server.asked) == fetching.REDIRECTS + 1


def test_the_body_of_a_redirect_is_left_unread(path: Path) -> None:
    def endless(request: Request) -> None:
        if request.path == "/there":
            return whole(request)
        request.head(302, Location="/there", Connection="close")
        return request.endless()

    with serving(endless) as server:
        bring(path, server.root)


@pytest.mark.parametrize("scheme", ["file://", "file://localhost", "ftp://127.0.0.1"])
def test_a_redirect_to_another_scheme_is_refused(path: Path, tmp_path: Path, scheme: str) -> None:
    (tmp_path / "here").write_bytes(DATA)
    answer = status(302, Location=f"{scheme}{tmp_path}/here")
    with serving(answer) as server, pytest.raises(Refused, match="it redirects to no http or https URL"):
        bring(path, server.root)


@pytest.mark.parametrize("location", ["http://[::1", "http://", "http:///x", "http://a..b/", "http://[::1]:99999/"])
def test_a_redirect_to_nowhere_is_one_place_that_failed(path: Path, location: str) -> None:
    with serving(status(302, Location=location)) as server, serving(whole) as second:
        bring(path, server.root, second.root)


def test_a_url_of_another_scheme_is_not_opened(path: Path, tmp_path: Path) -> None:
    (tmp_path / "here").write_bytes(DATA)
    with pytest.raises(Refused, match=r"file://.*/here: no http or https URL"):
        bring(path, f"file://{tmp_path}/here")


@pytest.mark.parametrize(("code", "phrase"), [(404, "Not Found"), (403, "Forbidden"), (299, "")])
def test_a_place_that_says_no_is_asked_once(path: Path, code: int, phrase: str) -> None:
    with serving(status(code)) as server, serving(whole) as second:
        with pytest.raises(Refused, match=f"{server.root}: HTTP {code} ?{phrase}\n"):
            bring(path, server.root)
        bring(path, server.root, second.root)
    assert len(server.asked) == 2


@pytest.mark.parametrize("code", fetching.BUSY)
def test_a_busy_server_is_asked_again_after_a_while(path: Path, code: int, slept: list[float]) -> None:
    with serving(in_turn(half, status(code), status(code), whole)) as server:
        bring(path, server.root)
    assert server.begins == [None, HALF, HALF, HALF]
    assert [wait > 0 for wait in slept] == [False, False, True]
    with serving(status(code)) as server, pytest.raises(Refused, match=rf"HTTP {code} [\w ]+; 5 attempts"):
        bring(path.with_name("other"), server.root)
    assert len(server.asked) == TRIES


@pytest.mark.parametrize(
    ("said", "least", "most"),
    [
        ("7", 7, 7),
        ("1000000", 60, 60),
        ("a date in 30 s", 20, 30),
        ("a date long ago", 0, 0.1),
        ("soon", 0, 0.1),
        ("-5", 0, 0.1),
        ("9" * 5_000, 0, 0.1),
    ],
)
def test_a_server_that_asks_to_wait_is_waited_for_up_to_a_limit(
    path: Path, said: str, least: float, most: float, slept: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    dates = {"a date in 30 s": time.time() + 30, "a date long ago": 0}
    if said in dates:
        said = email.utils.formatdate(dates[said], usegmt=True)
    with serving(in_turn(status(429, Retry_After=said), whole)) as server:
        bring(path, server.root)
    assert least <= slept[0] <= most and len(slept) == 1
    assert (f"HTTP 429 Too Many Requests; again in {slept[0]:.1f} s" in capsys.readouterr().out) == (least > 0)


# --- Places ---


def test_every_place_is_named_with_its_reason_and_what_to_do(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mirror" / "set").mkdir(parents=True)
    monkeypatch.setenv("PLUMBLINE_MIRROR", str(tmp_path / "mirror"))
    shut = closed_port()
    with serving(status(404)) as first, pytest.raises(Refused) as refused:
        bring(path, f"{first.root}/f", f"{shut}/f", "http://no-such-host.invalid/f")
    lines = str(refused.value).splitlines()
    expected = [
        "set/a#b.bin: no place gave it:",
        f"  {tmp_path}/mirror/set/a#b.bin: cannot be read (No such file or directory)",
        f"  {first.root}/f: HTTP 404 Not Found",
        f"  {shut}/f: .*Connection refused; 5 attempts that gained nothing",
        r"  http://no-such-host.invalid/f: .*resolve.*; 5 attempts that gained nothing",
        f"Offline, get it elsewhere (40,000 bytes, SHA-256 {hashlib.sha256(DATA).hexdigest()}), put it at "
        "<folder>/set/a#b.bin and set PLUMBLINE_MIRROR=<folder>.",
    ]
    for line, pattern in zip(lines, expected, strict=True):
        assert line == pattern or re.fullmatch(pattern, line), line
    assert not any("0x" in line for line in lines)


def test_a_host_that_does_not_answer_is_passed_over_for_later_files(path: Path, slept: list[float]) -> None:
    down: dict[str, str] = {}
    shut = closed_port()
    with serving(whole) as server:
        bring(path, f"{shut}/a", f"{server.root}/a", down=down)
        waited = len(slept)
        path.unlink()
        bring(path, f"{shut}/b", f"{server.root}/b", down=down)
    assert list(down) == [shut] and waited == len(slept) > 0


def test_a_mirror_in_a_folder_is_tried_first(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLUMBLINE_MIRROR", "mirror")
    copy = tmp_path / "mirror" / "set" / "a#b.bin"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(DATA)
    path.parent.mkdir()
    path.with_name("file.part").write_bytes(DATA[:HALF])
    with serving(whole) as server:
        bring(path, server.root)
    assert not server.asked


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ("nothing", "PLUMBLINE_MIRROR: no folder mirror"),
        ("a file", "PLUMBLINE_MIRROR: no folder mirror"),
        ("a folder", "PLUMBLINE_MIRROR: no folder mirror/set"),
        ("no file", r"cannot be read \(No such file or directory\)"),
        ("a folder of its name", "a file of|cannot be read"),
        ("a shorter file", "a file of 20,000 bytes, 40,000 expected"),
        ("other bytes", f"SHA-256 {hashlib.sha256(DATA[::-1]).hexdigest()}, expected"),
    ],
)
def test_a_mirror_that_lacks_the_file_is_told_and_passed(
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    made: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLUMBLINE_MIRROR", "mirror")
    mirror = tmp_path / "mirror"
    copy = mirror / "set" / "a#b.bin"
    if made == "a file":
        mirror.write_bytes(DATA)
    elif made == "a folder":
        mirror.mkdir()
    elif made == "a folder of its name":
        copy.mkdir(parents=True)
    elif made != "nothing":
        copy.parent.mkdir(parents=True)
    if made in ("a shorter file", "other bytes"):
        copy.write_bytes(DATA[:HALF] if made == "a shorter file" else DATA[::-1])
    with serving(whole) as server:
        bring(path, server.root)
    assert re.fullmatch(rf"mirror/set/a#b\.bin: .*({message}).*; trying the next place\n", capsys.readouterr().out)


def test_a_mirror_at_a_url_is_tried_first(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(in_turn(whole, status(404))) as mirror, serving(whole) as server:
        monkeypatch.setenv("PLUMBLINE_MIRROR", f"{mirror.root}/data/")
        bring(path, server.root)
        assert mirror.asked == [("/data/set/a%23b.bin", None)] and not server.asked
        path.unlink()
        bring(path, server.root)
        assert len(mirror.asked) == 2 and len(server.asked) == 1
        path.unlink()
        monkeypatch.setenv("PLUMBLINE_MIRROR", "ftp://127.0.0.1/data")
        bring(path, server.root)


def test_a_password_is_sent_and_not_shown(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(in_turn(status(503), status(404))) as server, pytest.raises(Refused) as refused:
        bring(path, server.root.replace("//", "//me:s3cret@") + "/x@y")
    assert server.heard[0]["Authorization"] == "Basic " + base64.b64encode(b"me:s3cret").decode()
    told = str(refused.value) + capsys.readouterr().out
    assert told.count("http://***@127.0.0.1") == 2 and "/x@y" in told
    assert "s3cret" not in told and "me:" not in told
    for unreachable in (closed_port(), "http://:x", "http://[", "ftp://127.0.0.1"):
        with pytest.raises(Refused) as refused:
            bring(path, unreachable.replace("//", "//me:s3cret@"))
        assert "s3cret" not in str(refused.value)


def test_a_proxy_of_the_environment_is_asked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(whole) as proxy:
        monkeypatch.setenv("http_proxy", proxy.root)
        bring(path, "http://no-such-host.invalid/f")
    assert proxy.asked == [("http://no-such-host.invalid/f", None)]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("all_proxy", "socks5://127.0.0.1:9", "SOCKS proxy, which needs a package: pip install PySocks"),
        ("all_proxy", "http://127.0.0.1:9", r"Connection refused.*; 5 attempts"),
        ("REQUESTS_CA_BUNDLE", "/no/such/bundle.pem", "invalid path: /no/such/bundle.pem"),
    ],
)
def test_a_wrong_environment_is_told(
    path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(Refused, match=rf"https://no-such-host\.invalid/f: .*{message}"):
        bring(path, "https://no-such-host.invalid/f")


def test_many_files_come_through_one_connection(tmp_path: Path) -> None:
    with serving(whole) as server, open_session() as session:
        for number in range(20):
            path = tmp_path / str(number)
            fetch("set/a", source(f"{server.root}/{number}"), path, session, {}, lambda _: None)
            assert path.read_bytes() == DATA
    assert len(server.asked) == 20 and server.connections == 1


# --- The disk, and a process that ends ---

RUN = f"""
import sys, pathlib
sys.path.insert(0, {str(ROOT)!r})
from pipeline.fetch import fetch, open_session
with open_session() as session:
    fetch("set/a", {{"urls": [sys.argv[1]], "sha256": {hashlib.sha256(DATA).hexdigest()!r}, "bytes": {len(DATA)}}},
          pathlib.Path(sys.argv[2]), session, {{}}, lambda _: None)
"""


def test_a_full_disk_costs_nothing_that_has_come(path: Path) -> None:
    """A real failing write, in a process whose files may not grow beyond 10 kB."""
    with serving(whole) as server:
        done = subprocess.run(
            [sys.executable, "-c", RUN, server.root, str(path)],
            capture_output=True,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)),
        )
        assert done.returncode
        assert (
            "file: 40,000 bytes of set/a could not be written (File too large); what had come is kept. Free some space"
            in done.stderr
        )
        assert held(path) == 10_000 and not path.exists()
        bring(path, server.root)
        assert server.begins == [None, 10_000]


@pytest.fixture
def no_rights(tmp_path: Path) -> Iterator[Path]:
    """A folder in which this process may not write, though it may be root's: it is another user's for that time."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "file.part").write_bytes(DATA[:HALF])
        folder.chmod(0o555)
        (folder / "file.part").chmod(0o444)
        if user == 0:
            os.seteuid(65534)
        try:
            yield folder
        finally:
            if user == 0:
                os.seteuid(user)
            folder.chmod(0o755)


def test_a_folder_that_cannot_be_written_is_named(no_rights: Path) -> None:
    with serving(whole) as server:
        for file in ("file", "other", "folder/file"):
            with pytest.raises(
                Refused, match=rf"{file}: 40,000 bytes of set/a#b.bin could not be written \(Permission d"
            ):
                bring(no_rights / file, server.root)
    assert (no_rights / "file.part").read_bytes() == DATA[:HALF]


def test_a_cache_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"made earlier")
    with pytest.raises(Refused, match=r"cache/file: .* could not be written \((File exists|Not a directory)\)"):
        bring(tmp_path / "cache" / "file", "http://127.0.0.1:9")
    assert (tmp_path / "cache").read_bytes() == b"made earlier"


def test_a_killed_process_has_kept_what_came(path: Path) -> None:
    def half_then_nothing(request: Request) -> None:
        request.head(200, Content_Length=len(DATA))
        request.send(DATA[:HALF])
        request.stall()

    with serving(in_turn(half_then_nothing, whole)) as server:
        process = subprocess.Popen([sys.executable, "-c", RUN, server.root, str(path)])
        try:
            ends = time.monotonic() + 20
            while held(path) < HALF and time.monotonic() < ends:
                time.sleep(0.005)
        finally:
            process.kill()
            process.wait()
        assert held(path) == HALF and not path.exists()
        bring(path, server.root)
        assert server.begins == [None, HALF]
