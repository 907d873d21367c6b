"""One class an item. Unit: an item (an image, a row). Statistic: 1 where the answer is right, else 0.

Examples hold the graph's inputs by name and ``label``, ``(n,)`` class indices. An input ``text`` is ``(n, longest)``,
UTF-8 bytes, 0 after the end: the network gets no more of it than the longest text of a batch has.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from deploy.run import Run
from deploy.tasks.metric import Metric

metric = Metric(name="accuracy", unit="%", higher_is_better=True, lowest=0.0, highest=100.0, right_or_wrong=True)
needs = ("label",)
outputs = {"network": ("logits",)}

BATCH = 64


def answer(runs: dict[str, Run], examples: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The network's raw answers to all examples, in batches.

    Args:
        runs: ``{"network": run}``.
        examples: inputs ``(n, ...)`` by name, and ``label`` ``(n,)``.

    Returns:
        ``{"logits": (n, classes)}`` in the runtime's own floating type.
    """
    parts = [
        runs["network"](_inputs(examples, start, start + BATCH))["logits"]
        for start in range(0, len(examples["label"]), BATCH)
    ]
    return {"logits": np.concatenate(parts)}


def decode(answers: dict[str, np.ndarray]) -> list[int]:
    """The class of each item; -1 where an answer is not finite, which is never right."""
    logits = answers["logits"]
    classes = np.where(np.isfinite(logits).all(axis=1), np.nan_to_num(logits).argmax(axis=1), -1)
    return [int(c) for c in classes]


def observe(answers: dict[str, np.ndarray], examples: dict[str, np.ndarray]) -> np.ndarray:
    """Statistics ``(n, 1)``: 1.0 where the decoded class is the label's."""
    right = np.asarray(decode(answers)) == examples["label"]
    return right.astype(np.float64)[:, None]


def score(statistics: np.ndarray) -> float:
    """Accuracy in per cent, 0 to 100."""
    return 100.0 * float(statistics[:, 0].mean())


def details(_: np.ndarray) -> dict[str, float]:
    """None: accuracy says it all."""
    return {}


def requests(runs: dict[str, Run], examples: dict[str, np.ndarray]) -> list[Callable[[], object]]:
    """One call an item, at batch 1, with its input already cut out: what the latency run times."""
    return [partial(runs["network"], _inputs(examples, i, i + 1)) for i in range(len(examples["label"]))]


def _inputs(examples: dict[str, np.ndarray], start: int, end: int) -> dict[str, np.ndarray]:
    """The examples from ``start`` to ``end`` without their label; a text ends with the longest of them."""
    inputs = {name: array[start:end] for name, array in examples.items() if name != "label"}
    if "text" in inputs:
        used = np.flatnonzero(inputs["text"].any(axis=0))
        inputs["text"] = inputs["text"][:, : used[-1] + 1 if len(used) else 1]
    return inputs
