"""Texts that a language model writes, against a loop over onnxruntime that writes one at a time."""

import asyncio
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served import language_bundle

from deploy.contract import open_bundle
from deploy.errors import Refused
from deploy.server.batching import Batcher
from deploy.server.errors import Status
from deploy.server.metrics import Counts
from deploy.server.model import Model, open_models
from deploy.server.serving import Served, generate
from deploy.server.sessions import Sessions
from deploy.server.writing import Text, Writer, draw, wish


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = language_bundle(tmp_path_factory.mktemp("bundles") / "writer")
    (model,) = open_models(open_bundle(folder), "cpu", "fp32")
    assert model.joined and model.states == ("state",)
    return model


def by_hand(model: Model, prompt: str, characters: int, temperature: float = 0.0, top: int = 0, seed: int = 1) -> str:
    """A second writer: one text, one byte at a time, numbers in Python's own arithmetic."""
    random = np.random.default_rng(seed)
    chances = iter(lambda: random.random(), None)
    written, state, read = b"", np.zeros((1, 2, 24), np.float32), prompt.encode()
    while len(written.decode("utf-8", "replace")) <= characters:  # one more: the last may not be whole
        said = model.run({"text": np.frombuffer(read, np.uint8)[None], "state": state})
        state, logits = said["next_state"], said["logits"][0, -1].astype(float).tolist()
        order = sorted(range(1, 256), key=lambda byte: -logits[byte])
        if temperature:
            kept = set(order[:top] if top else order)
            weights = [
                math.exp((logits[byte] - logits[order[0]]) / temperature) if byte in kept else 0.0
                for byte in range(256)
            ]
            left, byte = next(chances) * sum(weights), 0
            while left >= weights[byte]:
                left -= weights[byte]
                byte += 1
        else:
            byte = order[0]
        read = bytes([byte])
        written += read
    return written.decode("utf-8", "replace")[:characters]


def write(model: Model, *asked: tuple[str, dict[str, Any]], served: Served | None = None) -> list[str]:
    """All of these texts at once."""

    async def one(served: Served, sessions: Sessions, prompt: str, parameters: dict) -> str:
        return "".join([c async for part in generate(served, sessions, prompt, parameters, 30.0)[1] for c in part])

    async def run() -> list[str]:
        with ThreadPoolExecutor(1) as threads:
            counts = Counts()
            served = Served(model, Batcher(model, threads, 100, counts), Writer(model, threads, 64, counts), counts)
            sessions = Sessions(60.0, 2**20)
            return await asyncio.gather(*(one(served, sessions, *each) for each in asked))

    return asyncio.run(run())


def test_the_likeliest_as_by_hand(model: Model) -> None:
    (text,) = write(model, ("for name", {"temperature": 0, "max_tokens": 300}))
    assert text == by_hand(model, "for name", 300) and len(text) == 300


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    temperature=st.floats(0.2, 3),
    top=st.sampled_from([0, 1, 3, 40, 256]),
    seed=st.integers(0, 2**63 - 1),
    prompt=st.text("defr (:)é\n", min_size=1, max_size=100),
)
def test_drawn_as_by_hand(model: Model, temperature: float, top: int, seed: int, prompt: str) -> None:
    asked = {"temperature": temperature, "top_k": top, "seed": seed, "max_tokens": 20}
    (text,) = write(model, (prompt, asked))
    assert text == by_hand(model, prompt, 20, temperature, top, seed)


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("seconds", [0.0, 1.0])  # in the loop's own thread, and apart
def test_who_else_writes_makes_no_difference(model: Model, joined: bool, seconds: float) -> None:
    model = replace(model, joined=joined, seconds=seconds)
    asked = [
        ("for", {"temperature": 0, "max_tokens": 50}),
        ("def add(", {"temperature": 1.3, "seed": 3, "max_tokens": 90}),
        ("x", {"temperature": 0.7, "seed": 4, "max_tokens": 1}),
        ("return one", {"temperature": 1.3, "seed": 3, "top_k": 5, "max_tokens": 33}),
    ]
    assert write(model, *asked) == [write(model, each)[0] for each in asked]


def test_a_seed_is_a_text_and_no_seed_is_any(model: Model) -> None:
    asked = {"temperature": 2.0, "max_tokens": 60}
    with_seed, again, without, other = write(model, *[("for", asked | {"seed": 7})] * 2, *[("for", asked)] * 2)
    assert with_seed == again and without != other


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 59), st.integers(1, 6)), min_size=1, max_size=3), st.booleans())
def test_a_text_ends_before_a_stop(model: Model, places: list[tuple[int, int]], alone: bool) -> None:
    asked = {"temperature": 1.5, "seed": 2, "max_tokens": 60}
    whole = by_hand(model, "for name in", 60, 1.5, 0, 2)
    stops = [whole[at : at + size] for at, size in places][: 1 if alone else 3]
    (text,) = write(model, ("for name in", asked | {"stop": stops[0] if alone else stops}))
    first = min(whole.index(stop) + len(stop) for stop in stops)
    longest = max(len(stop) for stop in stops if whole[:first].endswith(stop))
    assert text == whole[: first - longest]


def test_what_might_have_been_a_stop_is_not_lost(model: Model) -> None:
    whole = by_hand(model, "for", 40)
    (text,) = write(model, ("for", {"temperature": 0, "max_tokens": 40, "stop": whole[-3:] + "\x07"}))
    assert text == whole


def say(text: Text, said: bytes) -> str:
    for byte in said:
        text.say(byte)
    return "".join(text.out)


def test_characters_come_whole() -> None:
    text = Text(wish({"max_tokens": 3}), np.zeros(256), {})
    assert say(text, "é".encode()[:1]) == "" and say(text, "é".encode()[1:]) == "é"
    assert say(text, b"\xff") == "é�" and not text.done  # no UTF-8: a sign that says so
    assert say(text, "漢".encode()) == "é�漢" and text.done


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 2.0]), st.integers(0, 5)), min_size=1, max_size=5), st.data())
def test_a_draw_has_the_chances_that_the_logits_say(rows: list[tuple[float, int]], data: st.DataObject) -> None:
    texts = []
    for temperature, top in rows:
        values = data.draw(st.lists(st.integers(-20, 20).map(lambda n: n / 4), min_size=4, max_size=4, unique=True))
        logits = np.full(256, -1e4, np.float32)
        logits[65:69] = values
        logits[0] = 1e4  # a text has no byte 0
        texts.append(Text(wish({"temperature": temperature, "top_k": top, "seed": 1}), logits, {}))
    drawn = np.array([draw(texts) for _ in range(400)])
    for (temperature, top), text, came in zip(rows, texts, drawn.T):
        likely = sorted(range(65, 69), key=lambda byte: -text.logits[byte])[: top or 4 if temperature else 1]
        weights = np.exp((text.logits[likely].astype(float) - text.logits[likely[0]]) / (temperature or 1.0))
        for byte, chance in zip(likely, weights / weights.sum()):
            assert abs((came == byte).mean() - chance) < 0.15  # six standard deviations
        assert set(came.tolist()) <= set(likely)


def test_what_is_not_finite_is_refused(model: Model) -> None:
    def broken(inputs: dict) -> dict:
        said = model.run(inputs)
        return said | {"logits": said["logits"] * np.float32(np.nan)}

    with pytest.raises(Refused, match="logits: not finite, expected numbers. The network overflows"):
        write(replace(model, run=broken), ("for", {}))


@pytest.mark.parametrize(
    "parameters, words",
    [
        ({"max_tokens": 0}, r"max_tokens: '0', expected an integer from 1 to 100000\."),
        ({"max_tokens": 1.5}, "max_tokens: '1.5', expected"),
        ({"max_tokens": True}, "max_tokens: 'True', expected"),
        ({"temperature": -0.1}, r"temperature: '-0.1', expected a number from 0 to 100\."),
        ({"temperature": math.nan}, "temperature: 'nan', expected"),
        ({"temperature": "hot"}, "temperature: 'hot', expected"),
        ({"top_k": 257}, r"top_k: '257', expected an integer from 0 to 256\."),
        ({"seed": -1}, "seed: '-1', expected an integer from 0 to"),
        ({"stop": ""}, "stop: .*, expected up to 8 strings of 1 to 100 characters"),
        ({"stop": ["x"] * 9}, "stop: .* expected up to 8"),
        ({"stop": 3}, "stop: '3', expected"),
        ({"stop": "x" * 10**6}, r"stop: .{52}, expected"),
    ],
)
def test_wishes_that_cannot_be(parameters: dict, words: str) -> None:
    with pytest.raises(Refused, match=words):
        wish(parameters)


@pytest.mark.parametrize(
    "prompt, words",
    [
        ("", "text_input: empty, expected at least one character"),
        ("a\0b", r"text_input: a character U\+0000"),
        (3, "text_input: int, expected a string"),
    ],
)
def test_prompts_that_cannot_be(model: Model, prompt: Any, words: str) -> None:
    with pytest.raises(Refused, match=words):
        write(model, (prompt, {}))


def test_who_comes_too_many_is_told(model: Model) -> None:
    async def run() -> None:
        with ThreadPoolExecutor(1) as threads:
            writer = Writer(model, threads, 1, Counts())
            state = {"state": np.zeros((1, 2, 24), np.float32)}
            first = writer.write(Text(wish({}), np.zeros(256, np.float32), state))
            await anext(first)
            with pytest.raises(
                Status, match=r"writer-fp32: 1 texts are being written, and it takes no more"
            ) as refused:
                await anext(writer.write(Text(wish({}), np.zeros(256, np.float32), state)))
            assert refused.value.status == 503
            await first.aclose()  # the client is gone
            for _ in range(20):
                await asyncio.sleep(0.001)
            assert len(writer) == 0
            later = writer.write(Text(wish({"max_tokens": 5}), np.zeros(256, np.float32), state))
            assert sum([len(part) async for part in later]) == 5

    asyncio.run(run())


def test_a_sequence_goes_on_where_it_was(model: Model, tmp_path: Path) -> None:
    whole = by_hand(model, "for name", 60)

    async def run() -> None:
        with ThreadPoolExecutor(1) as threads:
            counts = Counts()
            served = Served(model, Batcher(model, threads, 100, counts), Writer(model, threads, 64, counts), counts)
            sessions = Sessions(60.0, 2**20)

            async def part(prompt: str, count: int, **more: Any) -> str:
                asked = {"temperature": 0, "max_tokens": count, "sequence_id": "a", **more}
                return "".join([c async for got in generate(served, sessions, prompt, asked, 9.0)[1] for c in got])

            assert await part("for name", 25, sequence_start=True) == whole[:25]
            assert await part("", 35, sequence_end=True) == whole[25:]
            assert len(sessions) == 0 and sessions.nbytes == 0
            assert await part("for", 25, sequence_start=True) == (first := by_hand(model, "for", 25))
            assert await part(" in", 9) == by_hand(model, "for" + first + " in", 9)

    asyncio.run(run())
