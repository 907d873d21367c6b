"""A language model that writes: all texts of one model that are being written take each step together.

A step is one character of every text: one call of the graph, one draw for each. After a millisecond of steps what was
written goes out and everybody else has a turn. Texts come and go between steps. Where rows are not answered in a batch
as they are alone, to the last bit, each text takes its steps alone: what is written never depends on who else writes.
"""

import asyncio
import codecs
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np

from deploy import sampling
from deploy.errors import Refused
from deploy.run import one_by_one
from deploy.server.batching import INLINE_S
from deploy.server.errors import Status
from deploy.server.metrics import Counts
from deploy.server.model import Model
from deploy.state import carried

SLICE_S = 0.001  # of steps, between which everybody else has a turn
MOST = 100_000  # characters of a text
STOPS, LONGEST_STOP = 8, 100


@dataclass(frozen=True)
class Wish:
    """How a text is to be written."""

    characters: int = 200  # at most
    temperature: float = 1.0  # 0 is always the likeliest
    top: int = 0  # of so many likeliest bytes; 0: of all
    seed: int | None = None
    stop: tuple[str, ...] = ()  # the text ends before any of these


def wish(parameters: Mapping[str, Any]) -> Wish:
    """What a request's parameters ask for: ``max_tokens``, ``temperature``, ``top_k``, ``seed``, ``stop``.

    Raises:
        Refused: one that is out of range, or of the wrong kind.
    """
    stop = parameters.get("stop", [])
    stop = [stop] if isinstance(stop, str) else stop
    if not (isinstance(stop, list) and len(stop) <= STOPS and all(_is_stop(each) for each in stop)):
        raise Refused(f"stop: {str(stop)[:50]!r}, expected up to {STOPS} strings of 1 to {LONGEST_STOP} characters.")
    temperature = parameters.get("temperature", Wish.temperature)
    if type(temperature) not in (int, float) or not 0 <= temperature <= 100:
        raise Refused(f"temperature: {str(temperature)[:50]!r}, expected a number from 0 to 100.")
    return Wish(
        _integer(parameters, "max_tokens", Wish.characters, 1, MOST),
        float(temperature),
        _integer(parameters, "top_k", 0, 0, 256),
        _integer(parameters, "seed", None, 0, 2**63 - 1),
        tuple(stop),
    )


def _is_stop(each: Any) -> bool:
    return isinstance(each, str) and 1 <= len(each) <= LONGEST_STOP


def _integer(parameters: Mapping[str, Any], name: str, default: int | None, least: int, most: int) -> Any:
    value = parameters.get(name, default)
    if value is not default and (type(value) is not int or not least <= value <= most):
        raise Refused(f"{name}: {str(value)[:50]!r}, expected an integer from {least} to {most}.")
    return value


class Text:
    """One that is being written."""

    def __init__(self, wish: Wish, logits: np.ndarray, state: dict[str, np.ndarray]) -> None:
        """``logits`` ``(classes,)`` of the first byte to write, and ``state`` ``(1, ...)`` there."""
        self.wish, self.logits, self.state = wish, logits, state
        self.unread = b""  # the byte that was written last, which ``state`` has not read
        self.done = False  # nothing more is written, or nobody reads it
        self.failed: Exception | None = None
        self.out: list[str] = []  # what has not been sent
        self.more = asyncio.Event()
        self._random = np.random.default_rng(wish.seed)
        self._chances: list[float] = []
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._left = wish.characters
        self._held = ""  # what may be the beginning of a stop

    def chance(self) -> float:
        """The next random number, from 0 to 1."""
        if not self._chances:
            self._chances = self._random.random(64).tolist()[::-1]
        return self._chances.pop()

    def say(self, byte: int) -> None:
        """Write ``byte``; it is seen when its character is whole and is the beginning of no stop."""
        self.unread = bytes([byte])
        for character in self._decode(self.unread):
            if self.done:  # a byte may be the end of one character and another
                break
            self._left -= 1
            self.done = self.done or self._left == 0
            if not self.wish.stop:
                self.out.append(character)
                continue
            self._held += character
            if any(self._held.endswith(stop) for stop in self.wish.stop):
                ends = max(len(stop) for stop in self.wish.stop if self._held.endswith(stop))
                self._held, self.done = self._held[:-ends], True
            most = 0 if self.done else max(_begun(self._held, stop) for stop in self.wish.stop)
            if free := self._held[: len(self._held) - most]:
                self.out.append(free)
                self._held = self._held[len(free) :]


def _begun(text: str, stop: str) -> int:
    """How much of ``text``'s end is the beginning of ``stop``."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)


class Writer:
    """Writes the texts of one model."""

    def __init__(self, model: Model, threads: Executor, most: int, counts: Counts) -> None:
        """
        Args:
            threads: take steps of more than a millisecond.
            most: texts at a time.
        """
        self.model = model
        self._threads, self._most, self._counts = threads, most, counts
        self._texts: list[Text] = []  # that take part in each step
        self._coming: list[Text] = []
        self._state: dict[str, np.ndarray] = {}  # of `_texts`, in their order
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._texts) + len(self._coming)

    async def write(self, text: Text) -> AsyncGenerator[list[str], None]:
        """What is written of ``text``, as much at a time as there is.

        Raises:
            Refused: the network gave no number.
            Status: 503, as many are being written as may be.
        """
        if len(self) >= self._most:
            raise Status(
                503,
                f"{self.model.name}: {len(self)} texts are being written, and it takes no more. Ask again after a "
                f"second, or run another.",
            )
        self._coming.append(text)
        self._task = self._task or asyncio.get_running_loop().create_task(self._write())
        try:
            while text.out or not text.done:
                if not text.out:
                    text.more.clear()
                    await text.more.wait()
                out, text.out = text.out, []
                if out:
                    yield out
            if text.failed:
                raise text.failed
        finally:
            text.done = True

    async def _write(self) -> None:
        while self._texts or self._coming:
            end = time.perf_counter() + SLICE_S
            while (self._texts or self._coming) and time.perf_counter() < end:
                try:
                    await self._step()
                except Exception as error:  # noqa: PERF203  # whoever comes next may fare better
                    for text in self._texts:
                        text.failed, text.done = error, True
            for text in self._texts:
                text.more.set()
            await asyncio.sleep(0)
        self._task = None

    async def _step(self) -> None:
        """A byte of each text, and what the network says to it."""
        self._come_and_go()
        for text, byte in zip(self._texts, draw(self._texts)):
            text.say(byte)
        self._counts.characters += len(self._texts)
        self._come_and_go()
        if not self._texts:
            return
        inputs = {"text": np.frombuffer(b"".join([text.unread for text in self._texts]), np.uint8)[:, None]}
        said = await self._run(inputs | self._state)
        self._state = carried(said)
        for text, logits in zip(self._texts, said["logits"][:, -1]):
            text.logits = logits

    def _come_and_go(self) -> None:
        """Let in who has come, and out who is done, each with the state that it goes on from."""
        if any(text.done for text in self._texts):
            for row, text in enumerate(self._texts):
                if text.done:
                    text.state = {name: array[row : row + 1] for name, array in self._state.items()}
                    text.more.set()
            stay = [row for row, text in enumerate(self._texts) if not text.done]
            self._state = {name: array[stay] for name, array in self._state.items()}
            self._texts = [self._texts[row] for row in stay]
        if self._coming:
            come, self._coming = [text for text in self._coming if not text.done], []
            states = [*([self._state] if self._texts else []), *(text.state for text in come)]
            self._texts += come
            if states:
                self._state = {name: np.concatenate([state[name] for state in states]) for name in states[0]}

    async def _run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows = len(self._texts)
        run = self.model.run if self.model.joined else one_by_one(self.model.run)
        if self.model.cost(inputs, rows) <= INLINE_S:
            return run(inputs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, run, inputs)


def draw(texts: Sequence[Text]) -> list[int]:
    """The next byte of each text, from its ``logits``.

    Raises:
        Refused: logits that are not finite.
    """
    wishes = [text.wish for text in texts]
    return sampling.draw(
        np.array([text.logits for text in texts]),
        [wish.temperature for wish in wishes],
        [wish.top for wish in wishes],
        [text.chance for text in texts],
    )
