"""What is served under one name, and one request answered, whatever it came by."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import numpy as np

from deploy.errors import Refused
from deploy.server.batching import Answer, Batcher
from deploy.server.metrics import Counts
from deploy.server.model import Model
from deploy.server.protocol import Request
from deploy.server.sessions import Sessions, sequence
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
    """Refuse, before anything is joined to others and run, outputs that ``model`` does not have, and what it cannot read.

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


async def generate(
    served: Served, sessions: Sessions, prompt: Any, parameters: Mapping[str, Any], most_s: float
) -> AsyncGenerator[list[str], None]:
    """What a language model writes after ``prompt``, as it comes; in a sequence where the request belongs to one.

    Args:
        prompt: text; may be empty where a sequence goes on.

    Raises:
        Refused, Status: as ``infer``.
    """
    if served.writer is None:
        raise Refused(f"{served.model.name}: writes no text, expected a language model. Use infer.")
    if type(prompt) is not str:
        raise Refused(f"text_input: {type(prompt).__name__}, expected a string.")
    asked, wait_s, which = wish(parameters), deadline(parameters, most_s), sequence(parameters)
    read = prompt.encode("utf-8", "replace")
    if which is None:
        text = await _begin(served, read, {}, asked, wait_s)
        async with aclosing(served.writer.write(text)) as written:
            async for characters in written:
                yield characters
        return
    session = sessions.take(served.model.name, served, which)
    async with session.alone(wait_s):
        text = await _begin(session.served, session.unread + read, session.state, asked, wait_s)
        async with aclosing(session.served.writer.write(text)) as written:
            async for characters in written:
                yield characters
        sessions.keep(session, text.state, text.unread)  # not if it was broken off: then the sequence is as it was
    if which.end:
        sessions.end(session)


async def _begin(served: Served, read: bytes, state: dict[str, np.ndarray], asked: Wish, wait_s: float) -> Text:
    """A text that begins where the network has read ``read``, a piece at a time."""
    if not read:
        raise Refused("text_input: empty, expected at least one character to go on from.")
    if 0 in read:
        raise Refused("text_input: a character U+0000, which no text has. Take it out.")
    piece = served.model.form.ranges["time"][2]
    for start in range(0, len(read), piece):
        text = np.frombuffer(read, np.uint8)[None, start : start + piece]
        answer: Answer = await served.batcher.submit({"text": text} | state, wait_s)
        state = carried(answer.outputs)
    return Text(asked, answer.outputs["logits"][0, -1], state)
