"""The fuzzers' short form: what they found and kept, changed a little; and that they find what is wrong."""

import importlib.util
import inspect
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType

import pytest
from conftest import ROOT
from served import Running, reader_bundle, serving

from benchmarks import faulty, fuzz
from deploy.errors import Refused
from deploy.server import protocol


def kept(name: str) -> list[bytes]:
    """The fuzzers' seeds, findings, and inputs that reach all that they have reached."""
    return [*fuzz.seeds(name), *(text.encode("latin-1") for text in json.loads((ROOT / fuzz.KEPT).read_text())[name])]


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_what_was_kept_is_read_or_refused_in_little_time_and_memory(name: str) -> None:
    inputs = kept(name)
    assert len(inputs) > 20
    for data in inputs:
        fuzz.watched(fuzz.TARGETS[name])(data)
        fuzz.bounded(fuzz.TARGETS[name], data)


def test_what_was_kept_reaches_every_line_of_the_protocol() -> None:
    """Where this fails the protocol has grown: `python -m benchmarks.fuzz parser`."""
    lines = set()
    for name, function in inspect.getmembers(protocol, inspect.isfunction):
        if function.__module__ == protocol.__name__ and name != "form":
            lines |= lines_of(function)
    assert len(lines) > 150
    for name in fuzz.TARGETS:
        for data in kept(name):
            lines -= {line for _, _, line in fuzz.reached(fuzz.TARGETS[name], data)}
    source = Path(protocol.__file__).read_text().splitlines()
    missed = [source[line - 1].strip() for line in sorted(lines)]
    assert [line for line in missed if "for which the protocol has no datatype" not in line] == []


def lines_of(function: FunctionType) -> set[int]:
    first = function.__code__.co_firstlineno
    return {line for *_, line in function.__code__.co_lines() if line and line > first}


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_changed_a_little_it_is_read_or_refused(name: str) -> None:
    draw, inputs, play = random.Random(1), kept(name), fuzz.watched(fuzz.TARGETS[name])
    for _ in range(10_000):
        data = bytearray(draw.choice(inputs))
        for _ in range(draw.randint(1, 3)):
            start, other = draw.randrange(len(data) + 1), draw.choice(inputs)
            cut = draw.randrange(len(other) + 1)
            piece = draw.choice([draw.randbytes(1), draw.choice(fuzz.WORDS).encode(), other[cut : cut + 20], b""])
            data[start : start + draw.randrange(4)] = piece
        play(bytes(data[: fuzz.LONGEST]))


@pytest.mark.skipif(not importlib.util.find_spec("atheris"), reason="atheris is not installed")
@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_guided_by_coverage_nothing_is_found(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(fuzz, "KEPT", tmp_path / "kept.json")
    assert fuzz.fuzz(name, 20_000, tmp_path)
    assert len(json.loads((tmp_path / "kept.json").read_text())[name]) > 10


# What is wrong is found


def test_another_error_than_a_refusal_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_axes", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        for data in kept("parser"):
            fuzz.play_parser(data)


def test_a_wrong_array_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    right = fuzz.read_request

    def wrong(*arguments: object) -> protocol.Request:
        request = right(*arguments)
        return request._replace(inputs={name: array[None] for name, array in request.inputs.items()})

    monkeypatch.setattr(fuzz, "read_request", wrong)
    with pytest.raises(AssertionError, match="another shape"):
        fuzz.play_parser(fuzz.seeds("parser")[0])


def test_what_takes_long_or_much_is_a_finding() -> None:
    with pytest.raises(AssertionError, match="slow"):
        fuzz.watched(lambda _: time.sleep(0.06))(b"")
    fuzz.watched(lambda _: time.sleep(0.06))(bytes(2048))
    with pytest.raises(AssertionError, match="bytes for an input of 1000"):
        fuzz.bounded(lambda _: bytearray(10**6), bytes(1000))
    fuzz.bounded(lambda _: bytearray(10**5), bytes(1000))


def test_a_refusal_over_several_lines_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise Refused("one line\nanother")

    monkeypatch.setattr(fuzz, "read_request", refuse)
    with pytest.raises(AssertionError, match="several lines"):
        fuzz.play_parser(b"0\n{}")


@pytest.mark.parametrize(
    ("said", "finding"),
    [
        (b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n", None),
        (b"HTTP/1.1 307 No\r\ncontent-length: 0\r\n\r\n", "status 307"),
        (b'HTTP/1.1 500 No\r\ncontent-length: 13\r\n\r\n{"error":"a"}', "status 500"),
        (b'HTTP/1.1 400 No\r\ncontent-length: 12\r\n\r\n{"error":""}', "not in words"),
        (b'HTTP/1.1 400 No\r\ncontent-length: 13\r\n\r\n{"wrong":"a"}', "not in words"),
        (b'HTTP/1.1 503 No\r\ncontent-length: 13\r\n\r\n{"error":"a"}', "503 without Retry-After"),
        (b'HTTP/1.1 503 No\r\nretry-after: 1\r\ncontent-length: 13\r\n\r\n{"error":"a"}', ""),
        (b'HTTP/1.1 400 No\r\ncontent-length: 13\r\n\r\n{"error":"a"}', ""),
        (b"HTTP/1.1 400 No\r\ncontent-length: 3\r\n\r\nNo.", "not in words"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", ""),
    ],
)
def test_an_answer_is_judged(said: bytes, finding: str | None) -> None:
    answer, rest = faulty.take(said, b"GET")
    assert answer and not rest
    assert faulty.take(said[:-1], b"GET") == (None, said[:-1])
    if finding == "":
        faulty.judge(answer)
    else:
        with pytest.raises(AssertionError, match=finding or "status"):
            faulty.judge(answer)


# Over HTTP


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("fuzz")
    with serving(folder / "log", reader_bundle(folder / "writer", recipe="writer")) as running:
        yield running


def test_good_requests_are_good(server: Running) -> None:
    for sent in faulty.good("writer-fp32"):
        line = faulty.Line(server.port)
        line.say(faulty.raw(sent))
        (answer,) = line.hear(sent.method)
        assert answer.status == 200, answer
        line.end()


def test_requests_with_faults_are_refused_in_words(server: Running) -> None:
    statuses = faulty.harm_all(server, "writer-fp32", 250, seed=1)
    assert statuses[400] > 25 and statuses[200] > 25
