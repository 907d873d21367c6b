"""What comes next: entropy in bits per character. Unit: a text. Statistics: nats and characters.

Examples hold ``text`` ``(n, longest)``, UTF-8 bytes, 0 after the end. A text's first byte is given, every further one
is told from those before. The text is fed in chunks, and the state is carried from chunk to chunk: what is measured is
a network that keeps its state outside, as a server or a board does.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from deploy.decoding import log_probabilities
from deploy.errors import Refused
from deploy.run import Run
from deploy.state import carried
from deploy.tasks.metric import Metric

metric = Metric(
    name="entropy per character", unit="bits", higher_is_better=False, lowest=0.0, highest=None, right_or_wrong=False
)
needs = ("text",)
outputs = {"network": ("logits", "next_state")}

BATCH = 64  # texts
CHUNK = 64  # characters fed at once
STEPS = 10_000  # of the long run that shows whether the error grows
WARM = 16  # characters that a timed step has behind it
MOST = 100.0  # nats of a character whose probability is 0 or no number


def answer(runs: dict[str, Run], examples: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Surprise at each character, in chunks with the state carried.

    Returns:
        ``{"nats": (n, longest)}``: minus the logarithm of each byte's probability, 0 for the first and after the end.

    Raises:
        Refused: a text of so few bytes that there is nothing to tell, or to time.
    """
    text = examples["text"]
    length = (text != 0).sum(axis=1)
    if len(short := np.flatnonzero(length <= WARM)):
        raise Refused(
            f"text: number {short[0]} has {length[short[0]]} bytes, expected at least {WARM + 1}. "
            f"Leave it out, or join it to its neighbour."
        )
    nats = np.zeros(text.shape)
    for start in range(0, len(text), BATCH):
        rows = text[start : start + BATCH]
        longest = int(length[start : start + BATCH].max())
        state: dict[str, np.ndarray] = {}
        for at in range(0, longest - 1, CHUNK):
            end = min(at + CHUNK, longest - 1)
            said = runs["network"]({"text": rows[:, at:end]} | state)
            state = carried(said)
            nats[start : start + BATCH, at + 1 : end + 1] = surprise(said["logits"], rows[:, at + 1 : end + 1])
    return {"nats": np.where(text == 0, 0.0, nats)}


def surprise(logits: np.ndarray, came: np.ndarray) -> np.ndarray:
    """Nats of what came ``(batch, time)``: minus the log-softmax of ``logits`` ``(batch, time, 256)`` there."""
    log = log_probabilities(logits.reshape(-1, logits.shape[-1]))
    nats: np.ndarray = -log[np.arange(came.size), came.ravel()].reshape(came.shape)
    return nats


def decode(answers: dict[str, np.ndarray]) -> list[str]:
    """The nats of each text."""
    return [f"{total:.1f} nats" for total in _bounded(answers["nats"]).sum(axis=1)]


def observe(answers: dict[str, np.ndarray], examples: dict[str, np.ndarray]) -> np.ndarray:
    """Statistics ``(n, 2)``: nats, and characters (a byte that goes on with one is none) but for the first."""
    text = examples["text"][:, 1:]
    characters = (text != 0) & ((text & 0xC0) != 0x80)
    return np.stack([_bounded(answers["nats"]).sum(axis=1), characters.sum(axis=1)], axis=1).astype(np.float64)


def score(statistics: np.ndarray) -> float:
    """Bits a character, 0 and up."""
    nats, characters = statistics.sum(axis=0)
    return float(nats / characters / np.log(2))


def details(statistics: np.ndarray) -> dict[str, float]:
    """Perplexity of a character, and bits a character of the text that is told best and worst."""
    bits = statistics[:, 0] / statistics[:, 1] / np.log(2)
    return {
        "perplexity": float(2 ** score(statistics)),
        "bits, best text": float(bits.min()),
        "bits, worst": float(bits.max()),
    }


def requests(runs: dict[str, Run], examples: dict[str, np.ndarray]) -> list[Callable[[], object]]:
    """One step a text, one character at batch 1, from the state after the text's first ``WARM``."""
    text = examples["text"]
    states = [carried(runs["network"]({"text": row[None, :WARM]})) for row in text]
    return [
        partial(runs["network"], {"text": text[i : i + 1, WARM : WARM + 1]} | state) for i, state in enumerate(states)
    ]


def drift(runs: dict[str, Run], examples: dict[str, np.ndarray]) -> np.ndarray:
    """Nats of ``STEPS`` characters ``(steps,)``, the texts one after another, fed one at a time and never reset."""
    text = examples["text"]
    line = np.concatenate([row[row != 0] for row in text])[: STEPS + 1]
    state: dict[str, np.ndarray] = {}
    nats = np.empty(len(line) - 1)
    for i in range(len(nats)):
        said = runs["network"]({"text": line[None, i : i + 1]} | state)
        state = carried(said)
        nats[i] = surprise(said["logits"], line[None, i + 1 : i + 2])[0, 0]
    return nats


def _bounded(nats: np.ndarray) -> np.ndarray:
    return np.fmin(nats, MOST)  # of a number and none, the number
