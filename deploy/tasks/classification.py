"""One class an item. Unit: an item (an image, a row). Statistic: 1 where the answer is right, else 0.

Examples hold the graph's inputs by name and ``label``, ``(n,)`` class indices.
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
    inputs = {name: array for name, array in examples.items() if name != "label"}
    parts = [
        runs["network"]({name: array[start : start + BATCH] for name, array in inputs.items()})["logits"]
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
    inputs = {name: array for name, array in examples.items() if name != "label"}
    return [
        partial(runs["network"], {name: array[i : i + 1] for name, array in inputs.items()})
        for i in range(len(examples["label"]))
    ]
