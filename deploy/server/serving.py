"""What is served under one name, and one request answered, whatever it came by."""

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import numpy as np

from deploy.errors import Refused
from deploy.server.batching import Answer, Batcher
from deploy.server.errors import Status
from deploy.server.metrics import Counts
from deploy.server.model import Model
from deploy.server.protocol import Request
from deploy.server.sessions import Sequence, Session, Sessions, sequence
from deploy.server.writing import Text, Wish, Writer, wish
from deploy.state import carried


@dataclass(frozen=True)
class Served:
    """A model, and what it does."""

    model: Model
    batcher: Batcher
    writer: Writer | None  # a language model's
    counts: Counts


def deadline(parameters: Mapping[str, Any], most_s: float) -> float:
    """Seconds that a request may take: Triton's ``timeout``, in microseconds, and never more than ``most_s``.

    Raises:
        Refused: it is no such number.
    """
    asked = parameters.get("timeout", 0)
    if type(asked) is not int or asked < 0:
        raise Refused(f"timeout: {str(asked)[:50]!r}, expected microseconds, an integer from 0.")
    return min(asked, 1e6 * most_s) / 1e6 if asked else most_s  # in this order: the integer may be beyond any float


def check_outputs(request: Request, model: Model) -> None:
    """Refuse, before anything is run, outputs that ``model`` does not have, and inputs that it cannot read.

    Raises:
        Refused: there is such a thing.
    """
    if model.check:
        model.check(request.inputs)
    if unknown := set(request.outputs).difference([tensor["name"] for tensor in model.outputs]):
        raise Refused(f"outputs: name {min(unknown)[:50]!r}, expected {model.output_names}.")


async def infer(
    served: Served,
    sessions: Sessions,
    inputs: dict[str, np.ndarray],
    parameters: Mapping[str, Any],
    most_s: float,
) -> Answer:
    """The answer to a request, in a sequence where it belongs to one.

    Raises:
        Refused: what it asks for cannot be.
        Status: there is no room for it, or it came too late.
    """
    wait_s = deadline(parameters, most_s)
    which = sequence(parameters)
    if which is None:
        return await served.batcher.submit(inputs, wait_s)
    model = served.model
    if not model.states:
        raise Refused(f"sequence {which.id!r}: {model.name} has no state, expected a recurrent network. Leave it out.")
    if given := [name for name in model.states if name in inputs]:
        raise Refused(
            f"input '{given[0]}': given, and kept by the server for sequence {which.id!r}: expected one of them."
        )
    session = sessions.take(model.name, served, which)
    async with session.alone(wait_s):
        _check_begun(session, which)
        if session.state:
            rows, kept = len(next(iter(inputs.values()))), len(next(iter(session.state.values())))
            if rows != kept:
                raise Refused(f"sequence {which.id!r}: a batch of {rows}, expected {kept}, as it began.")
        if session.unread:
            read = {"text": np.frombuffer(session.unread, np.uint8)[None]} | session.state
            sessions.keep(session, carried((await session.served.batcher.submit(read, wait_s)).outputs))
        answer = await session.served.batcher.submit(inputs | session.state, wait_s)
        sessions.keep(session, carried(answer.outputs))
    if which.end:
        sessions.end(session)
    return answer


def _check_begun(session: Session, which: Sequence) -> None:
    """Refuse to go on with a sequence whose first request failed: it would be answered as if it were the first."""
    if not (which.start or session.state):
        raise Refused(f"sequence {which.id!r}: its first request failed. Begin it again with sequence_start.")


def generate(
    served: Served, sessions: Sessions, prompt: Any, parameters: Mapping[str, Any], most_s: float
) -> tuple[Model, AsyncGenerator[list[str], None]]:
    """What a language model writes after ``prompt``, as it comes, and the model that does.

    Args:
        prompt: text; may be empty where a sequence goes on.

    Raises:
        Refused, Status: as ``infer``, here or while it comes.
    """
    if served.writer is None:
        raise Refused(f"{served.model.name}: writes no text, expected a language model. Use infer.")
    if type(prompt) is not str:
        raise Refused(f"text_input: {type(prompt).__name__}, expected a string.")
    read, asked, wait_s = prompt.encode("utf-8", "replace"), wish(parameters), deadline(parameters, most_s)
    if which := sequence(parameters):
        session = sessions.take(served.model.name, served, which)
        return session.served.model, _write_in(session, sessions, which, read, asked, wait_s)
    return served.model, _write(served, read, asked, wait_s)


async def _write(served: Served, read: bytes, asked: Wish, wait_s: float) -> AsyncGenerator[list[str], None]:
    text = await _begin(served, read, {}, asked, wait_s)
    async with aclosing(served.writer.write(text)) as written:  # type: ignore[union-attr]  # it has one
        async for characters in written:
            yield characters


async def _write_in(
    session: Session, sessions: Sessions, which: Sequence, read: bytes, asked: Wish, wait_s: float
) -> AsyncGenerator[list[str], None]:
    async with session.alone(wait_s):
        _check_begun(session, which)
        text = await _begin(session.served, session.unread + read, session.state, asked, wait_s)
        async with aclosing(session.served.writer.write(text)) as written:
            async for characters in written:
                yield characters
        sessions.keep(session, text.state, text.unread)  # not if it was broken off: then the sequence is as it was
    if which.end:
        sessions.end(session)


async def _begin(served: Served, read: bytes, state: dict[str, np.ndarray], asked: Wish, wait_s: float) -> Text:
    """A text that begins where the network has read ``read``, a piece at a time, and all of it in ``wait_s``."""
    if not read:
        raise Refused("text_input: empty, expected at least one character to go on from.")
    if 0 in read:
        raise Refused("text_input: a character U+0000, which no text has. Take it out.")
    piece, end = served.model.form.ranges["time"][2], time.monotonic() + wait_s
    for start in range(0, len(read), piece):
        if time.monotonic() > end:
            raise Status(504, f"text_input: {start} of {len(read)} bytes read after {wait_s:g} s. Send less at once.")
        text = np.frombuffer(read, np.uint8)[None, start : start + piece]
        answer: Answer = await served.batcher.submit({"text": text} | state, wait_s)
        state = carried(answer.outputs)
    return Text(asked, answer.outputs["logits"][0, -1], state)
