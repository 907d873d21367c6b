"""The class of every character. Unit: a text. Statistics: of each class right, wrongly said, and missed.

Examples hold ``text`` ``(n, longest)``, UTF-8 bytes, 0 after the end, and ``token`` ``(n, longest)``, class indices. A
class that neither the truth nor any answer has does not count for the mean.
"""

import numpy as np

from deploy import per_character
from deploy.tasks.metric import Metric

metric = Metric(name="macro F1", unit="%", higher_is_better=True, lowest=0.0, highest=100.0, right_or_wrong=False)
needs = ("text", "token")
outputs = {"network": ("logits",)}
answer, decode, requests = per_character.answer, per_character.decode, per_character.requests


def counted(text: np.ndarray) -> np.ndarray:
    """At which bytes an answer counts ``(n, longest)``: where a character begins, not where a byte goes on with one."""
    there: np.ndarray = (text != 0) & ((text & 0xC0) != 0x80)
    return there


def observe(answers: dict[str, np.ndarray], examples: dict[str, np.ndarray]) -> np.ndarray:
    """Statistics ``(n, 3 * classes)``: characters of each class rightly said, wrongly said, missed."""
    every = np.arange(answers["logits"].shape[2])
    there = counted(examples["text"])[:, :, None]
    said = (per_character.likeliest(answers["logits"])[:, :, None] == every) & there  # (n, longest, classes)
    true = (examples["token"][:, :, None] == every) & there
    counts = [(said & true).sum(axis=1), (said & ~true).sum(axis=1), (true & ~said).sum(axis=1)]
    return np.concatenate(counts, axis=1).astype(np.float64)


def score(statistics: np.ndarray) -> float:
    """Mean F1 of the classes that occur, in per cent, 0 to 100."""
    return float(np.nanmean(_f1(statistics)))


def details(statistics: np.ndarray) -> dict[str, float]:
    """F1 in per cent of each class that occurs."""
    return {f"F1 of class {i}": float(f1) for i, f1 in enumerate(_f1(statistics)) if np.isfinite(f1)}


def _f1(statistics: np.ndarray) -> np.ndarray:
    """F1 of each class ``(classes,)`` in per cent, NaN of one that neither the truth nor any answer has."""
    right, wrong, missed = statistics.sum(axis=0).reshape(3, -1)
    total = 2 * right + wrong + missed
    return np.where(total > 0, 200 * right / np.maximum(total, 1), np.nan)
