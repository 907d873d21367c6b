"""Requests joined into batches, on a network that is one multiplication, in an event loop and nothing else."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.errors import Refused
from deploy.server.batching import Answer, Batcher
from deploy.server.errors import Status
from deploy.server.metrics import Counts
from deploy.server.model import Model
from deploy.server.protocol import form

INPUT = {"name": "x", "dtype": "float32", "shape": ["batch", "n"]}
OUTPUT = {"name": "y", "dtype": "float32", "shape": ["batch", "n"]}


def model(run: Callable[[dict], dict], seconds: float = 0.0, rows: int = 8, joined: bool = True) -> Model:
    return Model(
        name="m",
        version="1",
        recipe="m",
        precision="fp32",
        task="classification",
        classes=(),
        inputs=[INPUT],
        outputs=[OUTPUT],
        states=(),
        form=form([INPUT]),
        run=run,
        rows=rows,
        joined=joined,
        seconds=seconds,
        seconds_row=0.0,
        stretches=(),
        sha256={},
        largest={},
    )


class Net:
    """Doubles, and remembers how many rows it was given at a time and in which thread."""

    def __init__(self, wait: float = 0.0) -> None:
        self.batches: list[int] = []
        self.threads: set[str] = set()
        self.wait = wait

    def __call__(self, inputs: dict) -> dict:
        self.batches.append(len(inputs["x"]))
        self.threads.add(threading.current_thread().name)
        time.sleep(self.wait)
        return {"y": 2 * inputs["x"]}


def in_loop(work: Callable[[Batcher], Coroutine[Any, Any, Any]], of: Model, most: int = 100) -> Batcher:
    async def run() -> Batcher:
        with ThreadPoolExecutor(1, thread_name_prefix="apart") as threads:
            batcher = Batcher(of, threads, most, Counts())
            await work(batcher)
            return batcher

    return asyncio.run(run())


def x(*values: float, n: int = 1) -> dict:
    return {"x": np.repeat(np.array(values, np.float32)[:, None], n, axis=1)}


@given(
    st.lists(st.tuples(st.integers(1, 5), st.sampled_from([1, 2])), min_size=1, max_size=20),
    st.sampled_from([0.0, 1.0]),
    st.booleans(),
)
def test_everybody_gets_his_own_answer(asked: list[tuple[int, int]], seconds: float, joined: bool) -> None:
    net = Net()

    async def work(batcher: Batcher) -> None:
        sent = [x(*np.random.default_rng(i).random(rows), n=n) for i, (rows, n) in enumerate(asked)]
        answers = await asyncio.gather(*(batcher.submit(each, 10.0) for each in sent))
        for each, answer in zip(sent, answers):
            assert np.array_equal(answer.outputs["y"], 2 * each["x"])
            assert answer.queue_s >= 0 and answer.compute_s >= 0

    batcher = in_loop(work, model(net, seconds, joined=joined))
    assert sum(net.batches) == sum(rows for rows, _ in asked)
    assert joined or net.batches == [rows for rows, _ in asked]
    assert max(net.batches) <= 8 and sum(batcher.counts.rows.counts) == len(net.batches)


def test_what_comes_in_one_turn_is_one_batch() -> None:
    net = Net()

    async def work(batcher: Batcher) -> None:
        await asyncio.gather(*(batcher.submit(x(i), 1.0) for i in range(20)))

    in_loop(work, model(net))
    assert net.batches == [8, 8, 4] and net.threads == {threading.current_thread().name}


def test_only_the_same_sizes_are_joined_and_the_oldest_comes_first() -> None:
    net = Net()

    async def work(batcher: Batcher) -> None:
        done: list[int] = []
        futures = [batcher.submit(x(0, n=n), 1.0) for n in (1, 2, 1, 3, 2, 1)]
        for i, future in enumerate(futures):
            future.add_done_callback(lambda _, i=i: done.append(i))
        await asyncio.gather(*futures)
        await asyncio.sleep(0)
        assert done == [0, 2, 5, 1, 4, 3]

    in_loop(work, model(net))
    assert net.batches == [3, 2, 1]


def test_what_takes_long_runs_in_a_thread_and_what_comes_meanwhile_is_the_next_batch() -> None:
    net = Net(wait=0.05)

    async def work(batcher: Batcher) -> None:
        first = batcher.submit(x(1), 5.0)
        await asyncio.sleep(0.01)
        assert net.batches == [1] and not first.done()
        rest = [batcher.submit(x(i), 5.0) for i in range(5)]
        answers = await asyncio.gather(first, *rest)
        assert answers[0].compute_s >= 0.05 and answers[1].queue_s >= 0.02

    in_loop(work, model(net, seconds=1.0))
    assert net.batches == [1, 5] and all(name.startswith("apart") for name in net.threads)


def test_a_full_queue_says_so_at_once() -> None:
    async def work(batcher: Batcher) -> None:
        futures = [batcher.submit(x(i), 1.0) for i in range(3)]
        assert batcher.full
        with pytest.raises(Status, match=r"^m: 3 requests wait already, and it takes no more\. Ask again") as refused:
            batcher.submit(x(9), 1.0)
        assert refused.value.status == 503
        await asyncio.gather(*futures)
        assert (await batcher.submit(x(9), 1.0)).outputs["y"][0, 0] == 18

    in_loop(work, model(Net()), most=3)


def test_a_request_that_is_late_is_told_while_the_batch_runs() -> None:
    net = Net(wait=0.2)

    async def work(batcher: Batcher) -> None:
        running, patient = batcher.submit(x(1), 0.05), batcher.submit(x(1, n=2), 9.0)
        await asyncio.sleep(0)
        hasty = batcher.submit(x(2), 0.02)
        start = time.perf_counter()
        for future, after in ((hasty, "0.02"), (running, "0.05")):
            with pytest.raises(Status, match=f"m: no answer after {after} s, expected one by then.") as refused:
                await future
            assert refused.value.status == 504
        assert time.perf_counter() - start < 0.15
        assert (await patient).outputs["y"].shape == (1, 2)

    in_loop(work, model(net, seconds=1.0))
    assert net.batches == [1, 1]  # the hasty one never ran


def test_a_request_that_is_cancelled_is_not_run() -> None:
    net = Net(wait=0.05)

    async def work(batcher: Batcher) -> None:
        first = batcher.submit(x(1), 5.0)
        await asyncio.sleep(0.01)
        futures = [batcher.submit(x(i), 5.0) for i in range(4)]
        assert batcher.full
        futures[1].cancel()
        futures[3].cancel()
        await asyncio.sleep(0)
        assert not batcher.full  # there is room again, though a batch still runs
        await asyncio.gather(first, futures[0], futures[2])

    in_loop(work, model(net, seconds=1.0), most=4)
    assert net.batches == [1, 2]


def test_an_array_that_cannot_be_made_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object) -> None:
        raise MemoryError("no room")

    async def work(batcher: Batcher) -> None:
        futures = [batcher.submit(x(i), 1.0) for i in range(2)]
        with monkeypatch.context() as broken:
            broken.setattr("deploy.server.batching.np.concatenate", no_room)
            for result in await asyncio.gather(*futures, return_exceptions=True):
                assert isinstance(result, MemoryError)
        assert (await batcher.submit(x(3), 1.0)).outputs["y"][0, 0] == 6

    in_loop(work, model(Net()))


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_a_run_that_fails_fails_its_batch_alone(seconds: float) -> None:
    calls = []

    def run(inputs: dict) -> dict:
        calls.append(1)
        if len(calls) == 1:
            raise Refused("the graph: broken")
        return {"y": inputs["x"]}

    async def work(batcher: Batcher) -> None:
        first: list[Awaitable[Answer]] = [batcher.submit(x(i), 1.0) for i in range(2)]
        for result in await asyncio.gather(*first, return_exceptions=True):
            assert isinstance(result, Refused) and str(result) == "the graph: broken"
        assert (await batcher.submit(x(3), 1.0)).outputs["y"][0, 0] == 3

    in_loop(work, model(run, seconds))
