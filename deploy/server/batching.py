"""Requests of one model that are run as one batch: those that came in one turn of the event loop, and no timer.

A turn's requests are joined when the turn is over, so that nobody waits for somebody who may not come. Where one is
expected to take under a millisecond, and all of them under four, they are run where they are, since handing them to a
thread and back costs about as much; any other is run in a thread, and what comes meanwhile is the next batch. A batch's
rows are in the order in which they came; only requests of the same sizes (but for the batch) are joined.

The queue is bounded: who comes when it is full is told so at once.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import NamedTuple

import numpy as np

from deploy.server.errors import Status
from deploy.server.metrics import Counts
from deploy.server.model import Model

INLINE_S = 0.001  # of one request
JOINED_S = 0.004  # of all that are joined


class Answer(NamedTuple):
    """What a model said, and how long that took."""

    model: Model
    outputs: dict[str, np.ndarray]
    queue_s: float
    compute_s: float

    @property
    def timing(self) -> str:
        """As the header Server-Timing has it, in milliseconds."""
        return f"queue;dur={1e3 * self.queue_s:.3f}, compute;dur={1e3 * self.compute_s:.3f}"


Tell = Callable[[Answer | Exception], None]


class Call:
    """A request, from the queue to its answer."""

    __slots__ = ("deadline", "done", "inputs", "rows", "since", "sizes", "tell")

    def __init__(self, inputs: dict[str, np.ndarray], deadline_s: float, tell: Tell) -> None:
        self.inputs = inputs
        self.rows = next(iter(inputs.values())).shape[0]
        self.sizes = [(name, array.shape[1:]) for name, array in inputs.items()]  # what is joined has the same
        self.tell = tell  # is given the answer, or why there is none; once
        self.since = time.perf_counter()  # s
        self.deadline = self.since + deadline_s
        self.done = False  # answered, or waited for no more


class Batcher:
    """The queue of one model, and what runs it. All but the run itself happens in the event loop's thread."""

    def __init__(self, model: Model, threads: Executor, most: int, counts: Counts) -> None:
        """
        Args:
            threads: run what takes long.
            most: requests that may wait.
        """
        self.model = model
        self.counts = counts
        self._threads, self._most = threads, most
        self._waiting: deque[Call] = deque()
        self._turn = False  # whether one is to come
        self._running: list[Call] = []  # the batch in a thread
        self._alarm: asyncio.TimerHandle | None = None  # for the nearest deadline

    @property
    def full(self) -> bool:
        """Whether a request would be turned away."""
        return len(self._waiting) >= self._most

    def submit(self, inputs: dict[str, np.ndarray], deadline_s: float) -> "asyncio.Future[Answer]":
        """The answer to come; cancelling it takes the request out of the queue.

        Args:
            inputs: as the model's ``form`` has it, states too.
            deadline_s: from now; an answer that is not there by then is a 504.

        Raises:
            Status: 503, the queue is full.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()

        def tell(answer: Answer | Exception) -> None:
            if future.done():
                return
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

        call = self.call(inputs, deadline_s, tell)
        future.add_done_callback(lambda _: self.cancel(call))
        return future

    def call(self, inputs: dict[str, np.ndarray], deadline_s: float, tell: Tell) -> Call:
        """As ``submit``, for who is told.

        Raises:
            Status: 503, the queue is full.
        """
        if self.full:
            raise Status(503, full(self.model.name, self._most))
        call = Call(inputs, deadline_s, tell)
        self._waiting.append(call)
        if self._running:
            self._watch(call)
        elif not self._turn:
            self._turn = True
            asyncio.get_running_loop().call_soon(self._take_turn)
        return call

    def cancel(self, call: Call) -> None:
        """Nobody waits for ``call`` any more: it is not run, unless it runs already, and makes room in the queue."""
        if not call.done:
            call.done = True
            self._waiting = deque(call for call in self._waiting if not call.done)

    def _watch(self, call: Call) -> None:
        """See to it that ``call`` is told when it is too late."""
        loop = asyncio.get_running_loop()
        at = loop.time() + call.deadline - time.perf_counter()
        if self._alarm is None or at < self._alarm.when():
            if self._alarm:
                self._alarm.cancel()
            self._alarm = loop.call_at(at, self._expire)

    def _expire(self) -> None:
        self._alarm = None
        now = time.perf_counter()
        for call in [*self._running, *self._waiting]:
            if call.done:
                continue
            if call.deadline > now:
                self._watch(call)
                continue
            call.done = True
            call.tell(
                Status(
                    504,
                    f"{self.model.name}: no answer after {call.deadline - call.since:g} s, expected one by then. "
                    f"Send less at once, allow more time, or ask again when there is less to do.",
                )
            )
        self._waiting = deque(call for call in self._waiting if not call.done)

    def _take_turn(self) -> None:
        self._turn = False
        if self._running or not (calls := self._next()):
            return
        start = time.perf_counter()
        try:
            inputs = _joined([call.inputs for call in calls])
            one, every = calls[0], sum(call.rows for call in calls)
            if self.model.cost(one.inputs, one.rows) > INLINE_S or self.model.cost(inputs, every) > JOINED_S:
                self._threads.submit(self._in_thread, asyncio.get_running_loop(), calls, inputs)
                self._running = calls
                for call in [*calls, *self._waiting]:
                    self._watch(call)
                return
            outputs: Mapping[str, np.ndarray] | Exception = self.model.run(inputs)
        except Exception as error:
            outputs = error
        self._answer(calls, start, time.perf_counter(), outputs)
        if self._waiting and not self._turn:
            self._turn = True
            asyncio.get_running_loop().call_soon(self._take_turn)

    def _next(self) -> list[Call]:
        """The requests of the next batch: the oldest, and those that can be joined to it."""
        calls: list[Call] = []
        rows = 0
        left: deque[Call] = deque()
        while self._waiting:
            call = self._waiting.popleft()
            if not calls:
                calls, rows = [call], call.rows
            elif self.model.joined and rows + call.rows <= self.model.rows and call.sizes == calls[0].sizes:
                calls.append(call)
                rows += call.rows
            else:
                left.append(call)
                if not self.model.joined or rows >= self.model.rows:
                    break
        left.extend(self._waiting)
        self._waiting = left
        return calls

    def _in_thread(self, loop: asyncio.AbstractEventLoop, calls: list[Call], inputs: dict[str, np.ndarray]) -> None:
        start = time.perf_counter()
        try:
            outputs: Mapping[str, np.ndarray] | Exception = self.model.run(inputs)
        except Exception as error:
            outputs = error
        loop.call_soon_threadsafe(self._ran, calls, start, time.perf_counter(), outputs)

    def _ran(self, calls: list[Call], start: float, end: float, outputs: Mapping[str, np.ndarray] | Exception) -> None:
        self._running = []
        self._answer(calls, start, end, outputs)
        self._take_turn()

    def _answer(
        self, calls: list[Call], start: float, end: float, outputs: Mapping[str, np.ndarray] | Exception
    ) -> None:
        at = 0
        self.counts.ran(sum(call.rows for call in calls), end - start)
        for call in calls:
            if not call.done:
                call.done = True
                if isinstance(outputs, Exception):
                    call.tell(outputs)
                else:
                    own = {name: array[at : at + call.rows] for name, array in outputs.items()}
                    self.counts.waited(start - call.since)
                    call.tell(Answer(self.model, own, start - call.since, end - start))
            at += call.rows


def _joined(inputs: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    if len(inputs) == 1:
        return inputs[0]
    return {name: np.concatenate([each[name] for each in inputs]) for name in inputs[0]}


def full(model: str, waiting: int) -> str:
    """What is told to who comes too many."""
    return f"{model}: {waiting} requests wait already, and it takes no more. Ask again after a second, or run another."
