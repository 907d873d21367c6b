"""The next byte of a text, drawn from what a language model says: for the command that writes, and for the server."""

from collections.abc import Callable, Sequence

import numpy as np

from deploy.errors import Refused


def draw(
    logits: np.ndarray, temperatures: Sequence[float], tops: Sequence[int], chances: Sequence[Callable[[], float]]
) -> list[int]:
    """A byte for each of ``logits`` ``(texts, classes)``; a text has no byte 0.

    Args:
        temperatures: of each text, 0 and up: logits are divided by it, and at 0 the likeliest byte is taken.
        tops: of each text: of so many likeliest bytes is drawn; 0: of all.
        chances: of each text: the next random number, from 0 to 1; not called at temperature 0.

    Raises:
        Refused: logits that are not finite.
    """
    logits = logits.astype(np.float64)
    logits[:, 0] = -np.inf
    likeliest = logits.argmax(axis=1).tolist()
    logits -= logits.max(axis=1, keepdims=True)
    for row, temperature, top in zip(logits, temperatures, tops):
        if 0 < top < len(row):
            row[row < np.partition(row, -top)[-top]] = -np.inf
        if temperature not in (0, 1):
            with np.errstate(over="ignore"):  # at 1e-300 all but the likeliest become impossible
                row /= temperature
    sums = np.exp(logits).cumsum(axis=1)
    if not np.isfinite(sums[:, -1]).all():
        raise Refused("logits: not finite, expected numbers. The network overflows: take another precision of it.")
    return [
        int(row.searchsorted(chance() * row[-1], "right")) if temperature else best
        for temperature, chance, row, best in zip(temperatures, chances, sums, likeliest)
    ]
