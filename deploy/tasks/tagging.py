"""The class of every character. Unit: a text. Statistics: of each class right, wrongly said, and missed.

Examples hold ``text`` ``(n, longest)``, UTF-8 bytes, 0 after the end, and ``token`` ``(n, longest)``, class indices. A
class that neither the truth nor any answer has does not count for the mean.
"""

import string
from collections.abc import Callable
from functools import partial

import numpy as np

from deploy.run import Run
from deploy.tasks.metric import Metric

metric = Metric(name="macro F1", unit="%", higher_is_better=True, lowest=0.0, highest=100.0, right_or_wrong=False)
needs = ("text", "token")
outputs = {"network": ("logits",)}

BATCH = 32  # texts
SIGNS = string.digits + string.ascii_lowercase + "?"  # of classes 0 to 35, and at -1 of none


def answer(runs: dict[str, Run], examples: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The network's raw answers to all characters, in batches as long as their longest text.

    Returns:
        ``{"logits": (n, longest, classes)}`` in the runtime's own floating type, 0 after a text's end.
    """
    text = examples["text"]
    parts = []
    for start in range(0, len(text), BATCH):
        rows = text[start : start + BATCH]
        length = int((rows != 0).sum(axis=1).max())
        logits = runs["network"]({"text": rows[:, :length]})["logits"]
        parts.append(np.pad(logits, ((0, 0), (0, text.shape[1] - length), (0, 0))))
    logits = np.concatenate(parts)
    logits[text == 0] = 0
    return {"logits": logits}


def decode(answers: dict[str, np.ndarray]) -> list[str]:
    """A sign a character: the digit or letter of its class, ``?`` where an answer is not finite."""
    ends = (answers["logits"] != 0).any(axis=2)  # false after a text's end, where all logits are 0
    return [
        "".join(SIGNS[c] for c in classes[: len(end) - int(end[::-1].argmax())] if end.any())
        for classes, end in zip(_classes(answers["logits"]), ends)
    ]


def observe(answers: dict[str, np.ndarray], examples: dict[str, np.ndarray]) -> np.ndarray:
    """Statistics ``(n, 3 * classes)``: characters of each class rightly said, wrongly said, missed."""
    every = np.arange(answers["logits"].shape[2])
    text = examples["text"]
    there = ((text != 0) & ((text & 0xC0) != 0x80))[:, :, None]  # a byte that goes on with a character is none
    said = (_classes(answers["logits"])[:, :, None] == every) & there  # (n, longest, classes)
    true = (examples["token"][:, :, None] == every) & there
    counts = [(said & true).sum(axis=1), (said & ~true).sum(axis=1), (true & ~said).sum(axis=1)]
    return np.concatenate(counts, axis=1).astype(np.float64)


def score(statistics: np.ndarray) -> float:
    """Mean F1 of the classes that occur, in per cent, 0 to 100."""
    return float(np.nanmean(_f1(statistics)))


def details(statistics: np.ndarray) -> dict[str, float]:
    """F1 in per cent of each class that occurs."""
    return {f"F1 of class {i}": float(f1) for i, f1 in enumerate(_f1(statistics)) if np.isfinite(f1)}


def requests(runs: dict[str, Run], examples: dict[str, np.ndarray]) -> list[Callable[[], object]]:
    """One call a text, at batch 1, as long as the text is."""
    text = examples["text"]
    return [
        partial(runs["network"], {"text": text[i : i + 1, :length]})
        for i, length in enumerate((text != 0).sum(axis=1).tolist())
    ]


def _classes(logits: np.ndarray) -> np.ndarray:
    """The class of each character ``(n, longest)``; -1 where an answer is not finite, which is never right."""
    finite = np.isfinite(logits).all(axis=2)
    return np.where(finite, np.where(finite[:, :, None], logits, 0).argmax(axis=2), -1)


def _f1(statistics: np.ndarray) -> np.ndarray:
    """F1 of each class ``(classes,)`` in per cent, NaN of one that neither the truth nor any answer has."""
    right, wrong, missed = statistics.sum(axis=0).reshape(3, -1)
    counted = 2 * right + wrong + missed
    return np.where(counted > 0, 200 * right / np.maximum(counted, 1), np.nan)
