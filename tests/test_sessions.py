"""Sequences: whatever comes between, each is answered to the last bit as it would be alone"""

import asyncio
import contextlib
import http.client
import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from served import Reply, Running, arrays, binary, reader_bundle, serving

from deploy.contract import open_bundle
from deploy.errors import Refused
from deploy.files import sha256
from deploy.server import sessions as module
from deploy.server.batching import Answer, Batcher
from deploy.server.errors import Status
from deploy.server.metrics import Counts
from deploy.server.model import Model, open_models
from deploy.server.serving import Served, infer
from deploy.server.sessions import OVERHEAD, Sequence, Session, Sessions, sequence

UNITS = 16
Chunk = np.ndarray  # (batch, time)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reader_bundle(tmp_path_factory.mktemp("sessions") / "reader")


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    (model,) = open_models(open_bundle(folder), "cpu", "fp32")
    assert model.joined  # or these tests would show nothing
    return model


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("log") / "log", folder) as running:
        yield running


def straight(folder: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(folder / "graphs/fp32/network.onnx", options)


def alone(folder: Path, chunks: list[Chunk]) -> list[bytes]:
    """What each chunk is answered where the state is carried from one to the next by hand."""
    session, said = straight(folder), []
    state = np.zeros((len(chunks[0]), 1, UNITS), np.float32)
    for chunk in chunks:
        logits, state = session.run(["logits", "next_state"], {"text": chunk, "state": state})
        said.append(logits.tobytes())
    return said


# What is kept


class Kept(RuleBasedStateMachine):
    """Sessions against a dictionary and a clock that is turned by hand."""

    @initialize(most=st.integers(0, 6 * OVERHEAD), idle=st.integers(1, 10))
    def begin(self, most: int, idle: int) -> None:
        self.now, self.most, self.idle = 100.0, most, idle
        self.clock = patch.object(module, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.clock.start()
        self.sessions = Sessions(float(idle), most)
        self.there: dict[tuple[str, int], tuple[Session, int, float]] = {}  # session, bytes, last asked for
        self.gone: list[Session] = []

    def teardown(self) -> None:
        if hasattr(self, "clock"):
            self.clock.stop()

    def forget(self) -> None:
        old = [key for key, (s, _, used) in self.there.items() if used < self.now - self.idle and not s.free.locked()]
        self.gone += [self.there.pop(key)[0] for key in old]

    @property
    def total(self) -> int:
        return sum(nbytes for _, nbytes, _ in self.there.values())

    @rule(key=st.tuples(st.sampled_from("ab"), st.integers(1, 3)), start=st.booleans())
    def take(self, key: tuple[str, int], start: bool) -> None:
        self.forget()
        mine = self.there.get(key)
        if start and self.total - (mine[1] if mine else 0) + OVERHEAD > self.most:
            with pytest.raises(Status, match=r"sequences take \d+ bytes already, expected room for another") as refused:
                self.sessions.take(key[0], None, Sequence(key[1], True, False))
            assert refused.value.status == 503
        elif not start and not mine:
            with pytest.raises(Refused, match=r"not here: .* Begin it with sequence_start\.") as missing:
                self.sessions.take(key[0], None, Sequence(key[1], False, False))
            assert not isinstance(missing.value, Status)
        else:
            session = self.sessions.take(key[0], None, Sequence(key[1], start, False))
            assert (mine is not None and session is mine[0]) != start
            if start and mine:
                self.gone.append(mine[0])
            self.there[key] = (session, OVERHEAD if start or not mine else mine[1], self.now)

    @precondition(lambda self: self.there or self.gone)
    @rule(data=st.data(), floats=st.integers(0, 900), unread=st.integers(0, 3))
    def keep(self, data: st.DataObject, floats: int, unread: int) -> None:
        """A request is answered: of one that is there, or was ended meanwhile."""
        session = data.draw(st.sampled_from([*(s for s, _, _ in self.there.values()), *self.gone]))
        mine = np.arange(floats, dtype=np.float32)
        self.sessions.keep(session, {"state": mine}, b"x" * unread)
        mine[:] = -1  # what is kept is a copy: it holds no batch's memory, and nobody else writes to it
        assert np.array_equal(session.state["state"], np.arange(floats))
        for key, (there, _, used) in self.there.items():
            if there is session:
                self.there[key] = (there, OVERHEAD + 4 * floats + unread, used)

    @precondition(lambda self: self.there or self.gone)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from([*(s for s, _, _ in self.there.values()), *self.gone]))
        self.sessions.end(session)
        if self.there.get(session.key, (None,))[0] is session:
            del self.there[session.key]
            self.gone.append(session)

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def work(self, data: st.DataObject) -> None:
        """A request of one begins or ends its run; what is being run is not forgotten."""
        session = data.draw(st.sampled_from([s for s, _, _ in self.there.values()]))
        if session.free.locked():
            session.free.release()
        else:
            asyncio.run(session.free.acquire())

    @rule(seconds=st.integers(1, 6))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @invariant()
    def nothing_is_lost_and_all_is_counted(self) -> None:
        if hasattr(self, "sessions"):
            assert self.sessions.nbytes == self.total and len(self.sessions) == len(self.there)
            assert {key: s for key, (s, _, _) in self.there.items()} == self.sessions._kept


TestKept = Kept.TestCase
TestKept.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize(
    "parameters, words",
    [
        ({"sequence_id": -1}, r"sequence_id: '-1', expected an integer under 2\^64, or at most 128 characters\."),
        ({"sequence_id": 2**64}, "sequence_id: '18446744073709551616', expected"),
        ({"sequence_id": True}, "sequence_id: 'True', expected"),
        ({"sequence_id": 1.0}, "sequence_id: '1.0', expected"),
        ({"sequence_id": "x" * 129}, "sequence_id: 'x{50}', expected"),
        ({"sequence_id": 1, "sequence_start": 1}, "sequence_start, sequence_end: expected true or false"),
        ({"sequence_start": True}, "sequence_start, sequence_end: without a sequence_id, expected one that is not 0"),
        ({"sequence_id": 0, "sequence_end": True}, "without a sequence_id"),
        ({"sequence_id": "", "sequence_end": True}, "without a sequence_id"),
    ],
)
def test_parameters_that_cannot_be(parameters: dict, words: str) -> None:
    with pytest.raises(Refused, match=words):
        sequence(parameters)


# Steps of many sequences, in one event loop

lengths = st.sampled_from([1, 1, 2, 3, 7, 64])


@st.composite
def plans(draw: st.DrawFn) -> tuple[list[list[Chunk]], list[list[int]]]:
    """The chunks of two to four sequences, and turns: which of them take a step at the same time."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    chunks = [
        [random.integers(1, 128, (batch, time), np.uint8) for time in draw(st.lists(lengths, min_size=1, max_size=5))]
        for batch in draw(st.lists(st.sampled_from([1, 1, 1, 2, 5]), min_size=2, max_size=4))
    ]
    left = [len(each) for each in chunks]
    turns = []
    while any(left):
        which = draw(st.sets(st.sampled_from([i for i, more in enumerate(left) if more]), min_size=1))
        turns.append(sorted(which))
        for i in which:
            left[i] -= 1
    return chunks, turns


def in_loop(
    model: Model, work: Callable[[Served, Sessions], Any], idle_s: float = 60.0, most_bytes: int = 2**20
) -> tuple[Any, Served, Sessions]:
    async def run() -> tuple[Any, Served, Sessions]:
        with ThreadPoolExecutor(1) as threads:
            counts = Counts()
            served, sessions = (
                Served(model, Batcher(model, threads, 100, counts), None, counts),
                Sessions(idle_s, most_bytes),
            )
            return await work(served, sessions), served, sessions

    return asyncio.run(run())


def step(served: Served, sessions: Sessions, which: Any, chunk: Chunk, start: bool = False, end: bool = False) -> Any:
    parameters = {"sequence_id": which, "sequence_start": start, "sequence_end": end}
    return infer(served, sessions, {"text": chunk}, parameters, 10.0)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=plans(), seconds=st.sampled_from([0.0, 1.0]), joined=st.booleans())
def test_whatever_comes_between_a_sequence_is_answered_as_if_it_were_alone(
    model: Model, folder: Path, plan: tuple[list[list[Chunk]], list[list[int]]], seconds: float, joined: bool
) -> None:
    chunks, turns = plan
    said: list[list[bytes]] = [[] for _ in chunks]

    async def work(served: Served, sessions: Sessions) -> None:
        for turn in turns:
            asked = []
            for i in turn:
                at = len(said[i])
                asked.append(step(served, sessions, i + 1, chunks[i][at], at == 0, at == len(chunks[i]) - 1))
            answers: list[Answer] = await asyncio.gather(*asked)
            for i, answer in zip(turn, answers):
                said[i].append(answer.outputs["logits"].tobytes())

    _, _, sessions = in_loop(replace(model, seconds=seconds, joined=joined), work)
    assert said == [alone(folder, each) for each in chunks]
    assert len(sessions) == sessions.nbytes == 0


def test_steps_that_come_together_are_one_batch(model: Model, folder: Path) -> None:
    chunks = [np.full((1, 3), 65 + i, np.uint8) for i in range(8)]

    async def work(served: Served, sessions: Sessions) -> list[Answer]:
        return await asyncio.gather(*(step(served, sessions, i + 1, c, True) for i, c in enumerate(chunks)))

    answers, served, sessions = in_loop(model, work)
    assert served.counts.rows.counts[3] == 1 and sum(served.counts.rows.counts) == 1  # one batch, of eight
    assert [a.outputs["logits"].tobytes() for a in answers] == [alone(folder, [c])[0] for c in chunks]
    assert sessions.nbytes == 8 * (OVERHEAD + 4 * UNITS)


def test_steps_of_one_sequence_that_are_sent_at_once_are_taken_in_their_order(model: Model, folder: Path) -> None:
    chunks = [np.full((1, 1 + i), 65 + i, np.uint8) for i in range(6)]

    async def work(served: Served, sessions: Sessions) -> list[Answer]:
        return await asyncio.gather(*(step(served, sessions, "a", c, i == 0, i == 5) for i, c in enumerate(chunks)))

    answers, _, sessions = in_loop(model, work)
    assert [a.outputs["logits"].tobytes() for a in answers] == alone(folder, chunks) and len(sessions) == 0


def test_a_sequence_whose_request_fails_or_is_cancelled_stays_as_it_was(model: Model, folder: Path) -> None:
    broken = [False]

    def run(inputs: dict) -> dict:
        if broken[0]:
            raise Refused("the graph: broken")
        time.sleep(0.05)
        return dict(model.run(inputs))

    chunks = [np.full((1, 2), 65 + i, np.uint8) for i in range(3)]

    async def work(served: Served, sessions: Sessions) -> list[bytes]:
        said = [(await step(served, sessions, 1, chunks[0], True)).outputs["logits"].tobytes()]
        broken[0] = True
        with pytest.raises(Refused, match="the graph: broken"):
            await step(served, sessions, 1, chunks[2], end=True)
        broken[0] = False
        said.append((await step(served, sessions, 1, chunks[1])).outputs["logits"].tobytes())
        task = asyncio.ensure_future(step(served, sessions, 1, chunks[0]))
        await asyncio.sleep(0.02)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        with pytest.raises(Status, match=r"no answer after 0\.001 s"):
            await infer(served, sessions, {"text": chunks[0]}, {"sequence_id": 1, "timeout": 1000}, 10.0)
        with pytest.raises(Refused, match="sequence 1: a batch of 2, expected 1, as it began"):
            await step(served, sessions, 1, np.ones((2, 3), np.uint8))
        said.append((await step(served, sessions, 1, chunks[2])).outputs["logits"].tobytes())
        return said

    said, _, _ = in_loop(replace(model, run=run, seconds=1.0), work)
    assert said == alone(folder, chunks)


def test_what_follows_a_first_request_that_failed_is_not_answered_as_if_it_were_the_first(model: Model) -> None:
    calls = [0]

    def run(inputs: dict) -> dict:
        calls[0] += 1
        if calls[0] == 1:
            raise Refused("the graph: broken")
        return dict(model.run(inputs))

    async def work(served: Served, sessions: Sessions) -> list[Any]:
        chunk = np.ones((1, 2), np.uint8)
        asked = [step(served, sessions, 1, chunk, i == 0) for i in range(3)]  # sent without waiting
        return await asyncio.gather(*asked, return_exceptions=True)

    said, _, _ = in_loop(replace(model, run=run), work)
    assert [str(error)[:40] for error in said] == [
        "the graph: broken",
        *["sequence 1: its first request failed. Be"] * 2,
    ]


# Over HTTP


def ask(running: Running, chunk: Chunk, model: str = "reader-fp32", **parameters: object) -> Reply:
    body, headers = binary({"text": chunk}, **parameters)
    return running.post(f"/v2/models/{model}/infer", body, **headers)


def logits(reply: Reply) -> bytes:
    return arrays(reply)["logits"].tobytes()


def version(reply: Reply) -> str:
    return json.loads(reply.body[: int(reply.headers["Inference-Header-Content-Length"])])["model_version"]


CHUNKS = [np.frombuffer(text, np.uint8)[None] for text in (b"for n", b"a", b"me in names:", b" ")]


def test_a_state_that_the_client_carries(server: Running, folder: Path) -> None:
    state: dict[str, np.ndarray] = {}
    for chunk, expected in zip(CHUNKS, alone(folder, CHUNKS)):
        body, headers = binary({"text": chunk} | state)
        got = arrays(server.post("/v2/models/reader-fp32/infer", body, **headers))
        assert got["logits"].tobytes() == expected
        state = {"state": got["next_state"]}


def test_clients_at_the_same_time_each_have_their_own(server: Running, folder: Path) -> None:
    random = np.random.default_rng(5)
    plan = [[random.integers(1, 128, (1, time), np.uint8) for time in (1, 1, 5, 1, 1, 5, 1, 1)] for _ in range(4)]

    def one(number: int) -> list[bytes]:
        chunks, said = plan[number], []
        connection = server.connect()
        for i, chunk in enumerate(chunks):
            ends = {"sequence_start": i == 0, "sequence_end": i == len(chunks) - 1}
            body, headers = binary({"text": chunk}, sequence_id=f"client {number}", **ends)
            connection.request("POST", "/v2/models/reader-fp32/infer", body, headers)
            reply = connection.getresponse()
            said.append(logits(Reply(reply.status, reply.headers, reply.read())))
        connection.close()
        return said

    with ThreadPoolExecutor(4) as threads:
        for _ in range(10):
            assert list(threads.map(one, range(4))) == [alone(folder, chunks) for chunks in plan]


def test_a_sequence_begins_goes_on_begins_again_and_ends(server: Running, folder: Path) -> None:
    first, second = alone(folder, CHUNKS[:2]), alone(folder, [CHUNKS[2], CHUNKS[1]])
    for which in (7, "seven", 2**64 - 1):
        missing = ask(server, CHUNKS[0], sequence_id=which)
        assert missing.status == 400 and re.search(r"sequence .* not here: it was never begun", missing.json["error"])
        assert logits(ask(server, CHUNKS[0], sequence_id=which, sequence_start=True)) == first[0]
        assert logits(ask(server, CHUNKS[1], sequence_id=which)) == first[1]
        assert logits(ask(server, CHUNKS[2], sequence_id=which, sequence_start=True)) == second[0]
        given = {"text": CHUNKS[1], "state": np.zeros((1, 1, UNITS), np.float32)}
        body, headers = binary(given, sequence_id=which)
        refused = server.post("/v2/models/reader-fp32/infer", body, **headers)
        assert refused.status == 400 and "input 'state': given, and kept by the server" in refused.json["error"]
        wider = ask(server, np.ones((3, 2), np.uint8), sequence_id=which)
        assert wider.status == 400 and "a batch of 3, expected 1, as it began" in wider.json["error"]
        assert logits(ask(server, CHUNKS[1], sequence_id=which, sequence_end=True)) == second[1]
        assert ask(server, CHUNKS[1], sequence_id=which).status == 400
    assert logits(ask(server, CHUNKS[0], sequence_id=1, sequence_start=True, sequence_end=True)) == first[0]
    assert ask(server, CHUNKS[1], sequence_id=1).status == 400


def test_one_that_nobody_asks_for_is_forgotten(folder: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "log", folder, "--idle", 1.2) as running:
        for which in (1, 2):
            assert ask(running, CHUNKS[0], sequence_id=which, sequence_start=True).status == 200
        for _ in range(4):
            time.sleep(0.4)
            assert ask(running, CHUNKS[1], sequence_id=1).status == 200
        gone = ask(running, CHUNKS[1], sequence_id=2)
        assert gone.status == 400 and "or nobody asked for it in 1.2 s." in gone.json["error"]


def test_where_there_is_no_room_for_another_none_that_is_alive_is_lost(folder: Path, tmp_path: Path) -> None:
    expected = alone(folder, CHUNKS)
    most = 3 * (OVERHEAD + 4 * UNITS) + OVERHEAD  # room for four
    with serving(tmp_path / "log", folder, "--sessions", most) as running:
        for which in range(1, 5):
            assert logits(ask(running, CHUNKS[0], sequence_id=which, sequence_start=True)) == expected[0]
        full = ask(running, CHUNKS[0], sequence_id=5, sequence_start=True)
        assert full.status == 503 and full.headers["Retry-After"] == "1"
        assert full.json["error"].startswith(
            "sequence 5: 4 sequences take 8256 bytes already, expected room for another"
        )
        for which in range(1, 5):
            assert logits(ask(running, CHUNKS[1], sequence_id=which)) == expected[1]
        assert logits(ask(running, CHUNKS[0], sequence_id=4, sequence_start=True)) == expected[0]
        assert ask(running, CHUNKS[2], sequence_id=3, sequence_end=True).status == 200
        assert logits(ask(running, CHUNKS[0], sequence_id=5, sequence_start=True)) == expected[0]
        assert logits(ask(running, CHUNKS[2], sequence_id=1)) == expected[2]


def test_a_sequence_goes_on_with_the_version_that_it_began_with(tmp_path: Path) -> None:
    folder, other = reader_bundle(tmp_path / "reader", 1), reader_bundle(tmp_path / "other", 2)
    old, new = (sha256(each / "contract.json")[:12] for each in (folder, other))
    before, after = alone(folder, CHUNKS), alone(other, CHUNKS)
    greedy = [by_hand(each, b"for", 9) for each in (folder, other)]
    with serving(tmp_path / "log", folder) as running:
        first = ask(running, CHUNKS[0], sequence_id=1, sequence_start=True)
        assert (logits(first), version(first)) == (before[0], old)
        write(running, "for", 4, sequence_id=3, sequence_start=True)
        folder.rename(tmp_path / "before")
        other.rename(folder)
        assert running.post("/v2/repository/models/reader-fp32/load").status == 200
        for place in (1, 2):
            reply = ask(running, CHUNKS[place], sequence_id=1)
            assert (logits(reply), version(reply)) == (before[place], old)
            reply = ask(running, CHUNKS[place - 1], sequence_id=2, sequence_start=place == 1)
            assert (logits(reply), version(reply)) == (after[place - 1], new)
        went_on = write(running, "", 5, sequence_id=3)
        assert went_on["text_output"] == greedy[0][4:]
        again = write(running, "for", 9, sequence_id=3, sequence_start=True)
        assert again["text_output"] == greedy[1] and again["model_version"] == new


# Text


def by_hand(folder: Path, read: bytes, count: int) -> str:
    """The likeliest byte each time; its network writes ASCII alone."""
    session, written = straight(folder), b""
    state = np.zeros((1, 1, UNITS), np.float32)
    while len(written) < count:
        text = np.frombuffer(read, np.uint8)[None]
        said, state = session.run(["logits", "next_state"], {"text": text, "state": state})
        read = bytes([1 + int(said[0, -1, 1:].argmax())])
        written += read
    return written.decode()


def write(running: Running, prompt: str, count: int, **parameters: object) -> dict:
    asked = {"text_input": prompt, "parameters": {"max_tokens": count, "temperature": 0, **parameters}}
    reply = running.post("/v2/models/reader-fp32/generate", asked)
    assert reply.status == 200, reply.body
    return reply.json


class Stream:
    """Server-sent events, as they come."""

    def __init__(self, running: Running, prompt: str, **parameters: object) -> None:
        self.connection: http.client.HTTPConnection = running.connect()
        body = json.dumps({"text_input": prompt, "parameters": parameters})
        self.connection.request("POST", "/v2/models/reader-fp32/generate_stream", body)
        self.reply = self.connection.getresponse()
        assert self.reply.headers["Content-Type"].startswith("text/event-stream")

    def __iter__(self) -> Iterator[str]:
        while line := self.reply.readline():
            assert line.startswith(b"data: ") and self.reply.readline() == b"\n"
            yield json.loads(line[6:])["text_output"]

    def close(self) -> None:
        self.reply.close()
        self.connection.close()


def test_text_within_a_sequence_is_as_if_it_were_written_at_once(server: Running, folder: Path) -> None:
    whole = by_hand(folder, b"for name", 60)
    assert write(server, "for name", 60)["text_output"] == whole
    assert write(server, "for name", 25, sequence_id="t", sequence_start=True)["text_output"] == whole[:25]
    assert write(server, "", 15, sequence_id="t")["text_output"] == whole[25:40]
    stream = Stream(server, "", max_tokens=20, temperature=0, sequence_id="t", sequence_end=True)
    assert "".join(stream) == whole[40:]
    stream.close()
    gone = server.post("/v2/models/reader-fp32/generate", {"text_input": "x", "parameters": {"sequence_id": "t"}})
    assert gone.status == 400 and "not here" in gone.json["error"]


def test_infer_goes_on_where_text_ended(server: Running, folder: Path) -> None:
    whole = by_hand(folder, b"for", 12)
    write(server, "for", 12, sequence_id="mixed", sequence_start=True)
    expected = alone(folder, [np.frombuffer(b"for" + whole.encode(), np.uint8)[None], CHUNKS[0]])
    last = logits(ask(server, CHUNKS[0], sequence_id="mixed", sequence_end=True))
    apart = np.abs(np.frombuffer(last, np.float32) - np.frombuffer(expected[1], np.float32)).max()
    assert apart < 1e-4  # a text that is read a byte at a time is rounded otherwise than in one piece


def test_two_streams_at_once_are_two_alone(server: Running) -> None:
    asked: list[dict[str, Any]] = [
        {"max_tokens": 1500, "temperature": 1.0, "seed": 1},
        {"max_tokens": 1200, "temperature": 0.7, "seed": 2, "top_k": 9},
    ]

    def whole(parameters: dict) -> str:
        stream = Stream(server, "for", **parameters)
        text = "".join(stream)
        stream.close()
        return text

    expected = [whole(each) for each in asked]
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(whole, asked)) == expected
    assert [len(text) for text in expected] == [1500, 1200]


def characters(running: Running) -> float:
    told = running.get("/metrics").body.decode()
    return float(re.search(r'plumbline_characters_total\{model="reader-fp32".*\} (\S+)', told)[1])  # type: ignore[index]


def test_a_stream_that_is_broken_off_writes_no_more_and_its_sequence_is_as_before(
    server: Running, folder: Path
) -> None:
    whole = by_hand(folder, b"for name", 40)
    write(server, "for name", 20, sequence_id="broken", sequence_start=True)
    stream = Stream(server, "", max_tokens=100_000, temperature=0, sequence_id="broken")
    first = "".join(text for _, text in zip(range(10), stream))
    assert first == whole[20:30]
    waiting = server.post(
        "/v2/models/reader-fp32/generate",
        {"text_input": "x", "parameters": {"sequence_id": "broken", "timeout": 50_000}},
    )
    assert waiting.status == 504 and "busy with an earlier request for 0.05 s" in waiting.json["error"]
    stream.close()
    before = -1.0
    for _ in range(100):
        if before == (before := characters(server)):
            break
        time.sleep(0.05)
    time.sleep(0.2)
    assert characters(server) == before < 100_000
    assert write(server, "", 20, sequence_id="broken", sequence_end=True)["text_output"] == whole[20:]
