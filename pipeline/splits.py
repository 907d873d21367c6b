"""Disjoint splits of a data set that comes in one piece.

``train`` finds the weights, ``calib`` the ranges of int8 and fp16, ``select`` whatever is chosen (the epoch, the
quantisation), ``test`` nothing but the verdict.
"""

import numpy as np

from deploy.errors import Refused

SEED = 0


def split_by_class(label: np.ndarray, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """Disjoint indices of each split, every class in proportion, shuffled, the same every time.

    Args:
        label: class of each item ``(n,)``.
        sizes: split -> items; together at most ``n``.

    Raises:
        Refused: more items are asked for than there are.
    """
    if sum(sizes.values()) > len(label):
        raise Refused(f"splits {sizes} ask for {sum(sizes.values())} items; there are {len(label)}. Make them smaller.")
    random = np.random.default_rng(SEED)
    # Each class's items, shuffled, at even distances from 0 to 1: any run of this order has the classes in proportion.
    place = np.empty(len(label))
    for value in np.unique(label):
        items = random.permutation(np.flatnonzero(label == value))
        place[items] = (np.arange(len(items)) + random.random()) / len(items)
    order = np.argsort(place, kind="stable")
    ends = np.cumsum(list(sizes.values()))
    starts = ends - list(sizes.values())
    return {split: random.permutation(order[a:b]) for split, a, b in zip(sizes, starts, ends, strict=True)}
