"""A language model that writes on the command line, against a plain loop over its run and against the server's."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served import labels_bundle, reader_bundle

from deploy.contract import Bundle, open_bundle
from deploy.errors import Refused
from deploy.run import Run
from deploy.runtimes import open_onnxruntime
from deploy.sample import check_wishes, longest, open_writer, write
from deploy.server import writing

START = b"for name in"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(reader_bundle(tmp_path_factory.mktemp("bundles") / "reader"))


@pytest.fixture(scope="module")
def run(bundle: Bundle) -> Run:
    return open_writer(bundle, "fp32")


def by_hand(bundle: Bundle, start: bytes, count: int, temperature: float, seed: int) -> bytes:
    """One byte at a time, the state put in and taken out by name, numbers in Python's own arithmetic."""
    run = open_onnxruntime(bundle.path("graphs/fp32/network.onnx"))
    random, state, written = np.random.default_rng(seed), np.zeros((1, 1, 16), np.float32), b""
    for place in range(len(start) + count - 1):
        said = run({"text": np.frombuffer(start + written, np.uint8)[None, place : place + 1], "state": state})
        state, logits = said["next_state"], said["logits"][0, -1].astype(float).tolist()
        if place < len(start) - 1:
            continue
        best = max(logits[1:])
        if temperature:
            weights = [0.0] + [math.exp((logit - best) / temperature) for logit in logits[1:]]
            left, byte = random.random() * sum(weights), 0
            while left >= weights[byte]:
                left -= weights[byte]
                byte += 1
        else:
            byte = logits.index(best, 1)
        written += bytes([byte])
    return written


def sampled(run: Run, start: bytes, count: int, temperature: float, seed: int, piece: int = 1) -> str:
    return "".join(write(run, start, count, temperature, seed, piece))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([0.0, 0.3, 0.8, 1.0, 2.5]), st.integers(0, 2**40), st.binary(min_size=1, max_size=9))
def test_it_is_a_plain_loop(bundle: Bundle, run: Run, temperature: float, seed: int, start: bytes) -> None:
    start = start.replace(b"\0", b"x")
    assert sampled(run, start, 40, temperature, seed).encode() == by_hand(bundle, start, 40, temperature, seed)


def test_a_seed_is_a_text(run: Run) -> None:
    first, again, other = (sampled(run, START, 60, 0.8, seed) for seed in (3, 3, 4))
    assert first == again != other and len(first) == 60


def test_at_temperature_0_it_is_the_likeliest_whatever_the_seed(run: Run) -> None:
    text = sampled(run, START, 30, 0.0, 1)
    assert text == sampled(run, START, 30, 0.0, 2)
    read = START + text.encode()
    logits = run({"text": np.frombuffer(read, np.uint8)[None]})["logits"][0]
    assert logits[len(START) - 1 : -1, 1:].argmax(axis=1).tolist() == [byte - 1 for byte in text.encode()]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_how_the_start_is_cut_makes_no_difference(run: Run, temperature: float) -> None:
    texts = {sampled(run, START * 3, 80, temperature, 7, piece) for piece in (1, 2, 5, 33, 64)}
    assert len(texts) == 1


def test_the_server_writes_the_same(run: Run) -> None:
    said = run({"text": np.frombuffer(START, np.uint8)[None]})
    wish = writing.wish({"temperature": 0.8, "seed": 5, "max_tokens": 50})
    text, state = writing.Text(wish, said["logits"][0, -1], {}), said["next_state"]
    while not text.done:
        text.say(*writing.draw([text]))
        said = run({"text": np.frombuffer(text.unread, np.uint8)[None], "state": state})
        state, text.logits = said["next_state"], said["logits"][0, -1]
    assert "".join(text.out) == sampled(run, START, 50, 0.8, 5)


def saying(line: bytes) -> Run:
    """Says ``line``, byte by byte, and then a dot for ever; its state is the place."""

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        place = inputs.get("state", np.zeros((1, 1), np.int64))
        logits = np.full((1, 1, 256), -1e3, np.float32)
        logits[0, 0, (line + b"." * 99)[int(place[0, 0])]] = 0
        return {"logits": logits, "next_state": place + 1}

    return run


def test_characters_are_counted_and_come_whole() -> None:
    assert list(write(saying("é→b".encode()), b"a", 3, 0.8, 0)) == ["é", "→", "b"]
    assert list(write(saying(b"\xc3b"), b"a", 2, 0.8, 0)) == ["\ufffd", "b"]
    assert list(write(saying(b"\xc3b"), b"a", 1, 0.8, 0)) == ["\ufffd"]


def test_what_is_not_finite_is_refused() -> None:
    def broken(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"logits": np.full((1, 1, 256), np.nan)}

    with pytest.raises(Refused, match="logits: not finite, expected numbers. The network overflows: take another"):
        sampled(broken, b"a", 1, 0.8, 0)


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ((b"", 1, 0.8, 0), "--start: empty, expected at least one byte.* Give it a letter or a line feed"),
        ((b"a\0b", 1, 0.8, 0), "--start: a byte 0 at place 1.* Take it out"),
        ((b"a", 0, 0.8, 0), "--characters: 0, expected 1 or more"),
        ((b"a", 1, -0.5, 0), "--temperature: -0.5, expected a finite number from 0. Take 0 for the likeliest"),
        ((b"a", 1, math.nan, 0), "--temperature: nan, expected a finite number"),
        ((b"a", 1, math.inf, 0), "--temperature: inf, expected a finite number"),
        ((b"a", 1, 0.8, -1), "--seed: -1, expected an integer from 0"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(wishes: tuple[bytes, int, float, int], words: str) -> None:
    check_wishes(b"a", 1, 0.0, 0)
    with pytest.raises(Refused, match=words):
        check_wishes(*wishes)


def test_a_bundle_that_writes_nothing_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    assert longest(bundle) == 64
    other = open_bundle(labels_bundle(tmp_path / "labels"))
    with pytest.raises(Refused, match="labels: a bundle of the task classification, expected language_model.* Give a"):
        open_writer(other, "fp32")


def test_a_precision_that_is_not_there_is_refused(bundle: Bundle) -> None:
    with pytest.raises(Refused, match="--precision: 'fp8', expected one of fp32, fp16, int8. Choose one"):
        open_writer(bundle, "fp8")
    with pytest.raises(
        Refused,
        match=r"--precision: int8, and .*reader has no graph of it: the recipe does not ask for int8-cpu "
        r"\(`precisions:` in params.yaml\). Expected one that it has: fp32. Choose one",
    ):
        open_writer(bundle, "int8")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "deploy.sample", *arguments]


def test_the_command_writes_bytes_as_they_come(bundle: Bundle, run: Run) -> None:
    asked = command(str(bundle.folder), "--start", "for é", "--characters", "30", "--seed", "2")
    done = subprocess.run(asked, cwd=ROOT, capture_output=True)
    start = "for é".encode()
    assert done.stdout == start + sampled(run, start, 30, 0.8, 2).encode() + b"\n", done.stderr
    assert done.returncode == 0 and done.stderr == b""


def test_the_command_says_in_one_line_what_is_wrong(bundle: Bundle, tmp_path: Path) -> None:
    for arguments, words in (
        ([str(bundle.folder), "--start", ""], "sample: --start: empty"),
        ([str(bundle.folder), "--start", "a", "--temperature", "nan"], "sample: --temperature: nan"),
        ([str(bundle.folder), "--start", "a", "--precision", "fp8"], "sample: --precision: 'fp8'"),
        ([str(tmp_path), "--start", "a"], f"sample: {tmp_path / 'contract.json'}: not found: no bundle"),
    ):
        done = subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 1 and done.stdout == ""
        assert done.stderr.startswith(words) and done.stderr.count("\n") == 1


@pytest.mark.skipif(os.name != "posix", reason="a pipe that is closed")
def test_a_reader_who_has_enough_is_no_error(bundle: Bundle) -> None:
    asked = command(str(bundle.folder), "--start", "a", "--characters", "100000")
    with subprocess.Popen(asked, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.read(5)[:1] == b"a"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
