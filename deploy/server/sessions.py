"""States that the server keeps between the requests of one client: Triton's sequence extension.

A sequence goes on with the version of the model that it began with, whatever has been loaded since. One that nobody
asks for is forgotten after a while; where there is no room for another, a new one is refused, and none that is alive is
lost.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deploy.errors import Refused
from deploy.server.errors import Status

LONGEST_ID = 128  # characters
REQUESTS = 64  # of one sequence that wait for their turn
OVERHEAD = 2_000  # bytes of a sequence beside its arrays, about


@dataclass
class Session:
    """What is kept of one sequence."""

    key: tuple[str, int | str]  # model and id
    served: Any  # what it began with
    state: dict[str, np.ndarray] = field(default_factory=dict)
    unread: bytes = b""  # text that was written last, and that the network has not read yet
    used: float = 0.0  # monotonic, s
    free: asyncio.Lock = field(default_factory=asyncio.Lock)  # one request at a time, in the order they came
    waiting: int = 0  # requests

    @contextlib.asynccontextmanager
    async def alone(self, wait_s: float) -> AsyncIterator[None]:
        """Have the sequence for one request.

        Raises:
            Status: 503, too many of its requests wait; 504, it was not free in time.
        """
        which = f"sequence {self.key[1]!r} of {self.key[0]}"
        if self.waiting >= REQUESTS:
            raise Status(503, f"{which}: {REQUESTS} requests wait already. Send one when the one before is answered.")
        self.waiting += 1
        try:
            if self.free.locked():
                await asyncio.wait_for(self.free.acquire(), wait_s)
            else:
                await self.free.acquire()
        except asyncio.TimeoutError:
            raise Status(504, f"{which}: busy with an earlier request for {wait_s:g} s. Wait for its answer.") from None
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self.free.release()


@dataclass(frozen=True)
class Sequence:
    """Which one a request belongs to."""

    id: int | str
    start: bool
    end: bool


def sequence(parameters: Mapping[str, Any]) -> Sequence | None:
    """What a request's parameters say; ``None`` if it belongs to none.

    Raises:
        Refused: they are not as the extension has them.
    """
    came = parameters.get("sequence_id", 0)
    start, end = (parameters.get(name, False) for name in ("sequence_start", "sequence_end"))
    if not ((type(came) is int and 0 <= came < 2**64) or (type(came) is str and len(came) <= LONGEST_ID)):
        raise Refused(
            f"sequence_id: {str(came)[:50]!r}, expected an integer under 2^64, or at most {LONGEST_ID} characters."
        )
    if not (type(start) is bool and type(end) is bool):
        raise Refused("sequence_start, sequence_end: expected true or false.")
    if not came and (start or end):
        raise Refused("sequence_start, sequence_end: without a sequence_id, expected one that is not 0.")
    return Sequence(came, start, end) if came else None


class Sessions:
    """All sequences, least lately used first."""

    def __init__(self, idle_s: float, most_bytes: int) -> None:
        self._idle_s, self._most_bytes = idle_s, most_bytes
        self._kept: dict[tuple[str, int | str], Session] = {}
        self.nbytes = 0  # that all of them take

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, model: str, served: Any, which: Sequence) -> Session:
        """The session of a request: a new one at its start.

        Raises:
            Refused: one that goes on, and is not here.
            Status: 503, there is no room for another.
        """
        self.forget()
        key, now = (model, which.id), time.monotonic()
        session = self._kept.get(key)
        if which.start:
            freed = _nbytes(session) if session else 0
            if self.nbytes - freed + OVERHEAD > self._most_bytes:
                raise Status(
                    503,
                    f"sequence {which.id!r}: {len(self)} sequences take {self.nbytes} bytes already, expected room for "
                    f"another in {self._most_bytes}. End one (sequence_end), ask again later, or allow more memory.",
                )
            session = Session(key, served)
            self.nbytes += OVERHEAD - freed
        if session is None:
            raise Refused(
                f"sequence {which.id!r} of {model}: not here: it was never begun, has ended, or nobody asked for it in "
                f"{self._idle_s:g} s. Begin it with sequence_start."
            )
        session.used = now
        self._kept.pop(key, None)
        self._kept[key] = session  # now the last
        return session

    def keep(self, session: Session, state: Mapping[str, np.ndarray], unread: bytes = b"") -> None:
        """Keep what a request left behind."""
        before = _nbytes(session)
        session.state, session.unread = {name: array.copy() for name, array in state.items()}, unread
        if self._kept.get(session.key) is session:
            self.nbytes += _nbytes(session) - before

    def end(self, session: Session) -> None:
        """Forget one."""
        if self._kept.get(session.key) is session:
            del self._kept[session.key]
            self.nbytes -= _nbytes(session)

    def forget(self) -> None:
        """Forget those that nobody asked for."""
        last = time.monotonic() - self._idle_s
        for session in list(itertools.takewhile(lambda session: session.used < last, self._kept.values())):
            if not session.free.locked():
                self.end(session)


def _nbytes(session: Session) -> int:
    return OVERHEAD + len(session.unread) + sum(array.nbytes for array in session.state.values())
