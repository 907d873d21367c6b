"""One line of text to another, a character at a time. Unit: a line.

Statistics: 1 where the greedy answer is the target to the last character, else 0; and the same of a beam's answer.
Examples hold ``source`` ``(n, longest)`` and ``target`` ``(n, longest)``, UTF-8 bytes, 0 = padding at the end. The
graph ``encoder`` reads a line once; the graph ``step`` is what ``deploy/decoding.py`` takes.

What is held against the float64 network is ``logprob``, of the target's characters, each given the target before it. It
changes with the weights alone, where the probability of a decoded line jumps as soon as one decision falls otherwise.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from deploy.decoding import NO_ANSWER, beam, greedy, log_probabilities
from deploy.errors import Refused
from deploy.run import Run
from deploy.state import carried
from deploy.tasks.metric import Metric

metric = Metric(name="exact match", unit="%", higher_is_better=True, lowest=0.0, highest=100.0, right_or_wrong=True)
needs = ("source", "target")
outputs = {"encoder": ("memory", "state"), "step": ("logits", "next_state")}

WIDTH = 4  # of the beam
LINES = 16  # a batch; the step graph is asked for 16 x 4 rows, an engine's largest batch
LONGEST = 32  # characters of an answer
LONGEST_SOURCE = 128  # bytes of a line that is answered


def answer(runs: dict[str, Run], examples: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every line greedily, with a beam, and as the target would have it; a batch is cut to its longest line.

    An empty line is answered by an empty line, and no graph is asked.

    Args:
        runs: ``{"encoder": run, "step": run}``.
        examples: ``source`` ``(n, ...)`` and ``target`` ``(n, longest)``.

    Returns:
        ``greedy`` and ``beam`` ``(n, 32)`` uint8, 255 throughout where the network gave no number; ``logprob``
        ``(n, longest + 1)``, the log-probabilities of the target's characters and of its end in nats, 0 after that.

    Raises:
        Refused: a line of more than 128 bytes, or with a 0 before its end.
    """
    source, target = examples["source"], examples["target"]
    length = lengths(source)
    lines, asked = len(source), np.flatnonzero(length)
    answers = {name: np.zeros((lines, LONGEST), np.uint8) for name in ("greedy", "beam")}
    answers["logprob"] = np.zeros((lines, target.shape[1] + 1))
    for start in range(0, len(asked), LINES):
        index = asked[start : start + LINES]
        inputs = _encode(runs, source[index, : length[index].max()])
        answers["greedy"][index] = greedy(runs["step"], inputs, LONGEST)[0]
        answers["beam"][index] = beam(runs["step"], inputs, LONGEST, WIDTH)[0]
        answers["logprob"][index] = _logprob(runs["step"], inputs, target[index])
    return answers


def decode(answers: dict[str, np.ndarray]) -> list[str | None]:
    """The greedy answers as text; ``None`` where there is none."""
    return [None if row[0] == NO_ANSWER else _text(row).decode("utf-8", "replace") for row in answers["greedy"]]


def observe(answers: dict[str, np.ndarray], examples: dict[str, np.ndarray]) -> np.ndarray:
    """Statistics ``(n, 2)``: 1.0 where the greedy answer, and where the beam's, is the target, and all is finite."""
    finite = np.isfinite(answers["logprob"]).all(axis=1)
    columns = [
        [_text(row) == _text(truth) for row, truth in zip(answers[name], examples["target"])]
        for name in ("greedy", "beam")
    ]
    return (np.array(columns, dtype=bool) & finite).T.astype(np.float64)


def score(statistics: np.ndarray) -> float:
    """Greedy answers that are right to the last character, in per cent, 0 to 100."""
    return 100.0 * float(statistics[:, 0].mean())


def details(statistics: np.ndarray) -> dict[str, float]:
    """The same of the beam's answers, in per cent."""
    return {f"exact with a beam of {WIDTH}": 100.0 * float(statistics[:, 1].mean())}


def requests(runs: dict[str, Run], examples: dict[str, np.ndarray]) -> list[Callable[[], object]]:
    """One call a line: the line read and answered greedily, by itself and without padding.

    Raises:
        Refused: as ``answer``.
    """
    source, length = examples["source"], lengths(examples["source"])
    return [partial(translate, runs, source[i : i + 1, : length[i]]) for i in range(len(source))]


def translate(runs: dict[str, Run], source: np.ndarray) -> np.ndarray:
    """Lines ``(n, time)`` to their greedy answers ``(n, 32)``; an empty line to an empty one, and no graph is asked."""
    lines = np.zeros((len(source), LONGEST), np.uint8)
    if (asked := source.any(axis=1)).any():
        lines[asked] = greedy(runs["step"], _encode(runs, source[asked]), LONGEST)[0]
    return lines


def _encode(runs: dict[str, Run], source: np.ndarray) -> dict[str, np.ndarray]:
    """All that the step graph takes but ``character``."""
    read = runs["encoder"]({"source": source})
    return {"memory": read["memory"], "source": source, "state": read["state"]}


def _logprob(step: Run, inputs: dict[str, np.ndarray], target: np.ndarray) -> np.ndarray:
    """Of each character of ``target`` ``(lines, longest)`` and its end, told those before: ``(lines, longest + 1)``."""
    lines, longest = target.shape
    edge = np.zeros((lines, 1), np.uint8)
    previous, wanted = np.hstack([edge, target]), np.hstack([target, edge])
    log = np.zeros((lines, longest + 1))
    for place in range(longest + 1):
        said = step({"character": previous[:, place], **inputs})
        log[:, place] = log_probabilities(said["logits"])[np.arange(lines), wanted[:, place]]
        inputs = inputs | carried(said)
    told = np.hstack([np.ones_like(edge), target]) != 0  # all up to the end, and nothing after it
    return np.where(told, log, 0.0)


def lengths(source: np.ndarray) -> np.ndarray:
    """Bytes of each line, ``(n,)``.

    Raises:
        Refused: as ``answer``.
    """
    length = (source != 0).sum(axis=1)
    place = np.arange(source.shape[1])
    if len(torn := np.flatnonzero(((source != 0) != (place < length[:, None])).any(axis=1))):
        raise Refused(f"source: line {torn[0]} has a byte 0 before its end; 0 is padding, after the line. Take it out.")
    if len(over := np.flatnonzero(length > LONGEST_SOURCE)):
        raise Refused(
            f"source: line {over[0]} has {length[over[0]]} bytes, expected at most {LONGEST_SOURCE}. "
            f"Shorten it, or send it in parts."
        )
    return length


def _text(row: np.ndarray) -> bytes:
    return bytes(row).rstrip(b"\0")
