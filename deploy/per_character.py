"""A class for each byte of a text: how a network is asked for it, and how its answer is read. Shared by tasks.

Examples hold ``text`` ``(n, longest)``, UTF-8 bytes, 0 after the end. Which bytes count is the task's to say.
"""

import string
from collections.abc import Callable
from functools import partial

import numpy as np

from deploy.run import Run

BATCH = 32  # texts
SIGNS = string.digits + string.ascii_lowercase + "?"  # of classes 0 to 35, and at -1 of none
BLANK = 32  # the greatest byte that is white space, and so of no word


def answer(runs: dict[str, Run], examples: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The network's raw answers to all bytes, in batches as long as their longest text.

    Returns:
        ``{"logits": (n, longest, classes)}`` in the runtime's own floating type, 0 after a text's end.
    """
    text = examples["text"]
    parts = []
    for start in range(0, len(text), BATCH):
        rows = text[start : start + BATCH]
        length = max(1, int((rows != 0).sum(axis=1).max()))  # of empty texts, a padding: no graph reads nothing
        logits = runs["network"]({"text": rows[:, :length]})["logits"]
        parts.append(np.pad(logits, ((0, 0), (0, text.shape[1] - length), (0, 0))))
    logits = np.concatenate(parts)
    logits[text == 0] = 0
    return {"logits": logits}


def decode(answers: dict[str, np.ndarray]) -> list[str]:
    """A sign a byte: the digit or letter of its class, ``?`` where an answer is not finite."""
    ends = (answers["logits"] != 0).any(axis=2)  # false after a text's end, where all logits are 0
    return [
        "".join(SIGNS[c] for c in classes[: len(end) - int(end[::-1].argmax())] if end.any())
        for classes, end in zip(likeliest(answers["logits"]), ends)
    ]


def requests(runs: dict[str, Run], examples: dict[str, np.ndarray]) -> list[Callable[[], object]]:
    """One call a text, at batch 1, as long as the text is."""
    text = examples["text"]
    return [
        partial(runs["network"], {"text": text[i : i + 1, : max(1, length)]})
        for i, length in enumerate((text != 0).sum(axis=1).tolist())
    ]


def likeliest(logits: np.ndarray) -> np.ndarray:
    """The class of each byte ``(n, longest)``; -1 where an answer is not finite, which is never right."""
    finite = np.isfinite(logits).all(axis=2)
    return np.where(finite, np.where(finite[:, :, None], logits, 0).argmax(axis=2), -1)
