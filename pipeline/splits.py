"""Disjoint splits of a data set.

``train`` finds the weights, ``calib`` the ranges of int8 and fp16, ``select`` whatever is chosen (the epoch, the
quantisation), ``test`` nothing but the verdict.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from deploy.errors import Refused

SPLITS = ("train", "calib", "select", "test")
TRUTHS = ("label", "token", "target", "box", "kind", "label_map")  # what is to be told; every other array is an input
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


def cut_calib(items: int, calib: int) -> dict[str, np.ndarray]:
    """Disjoint indices of ``train`` and of ``calib``, which together are all ``items`` of a published training split.

    By chance alone, the same every time: for units that are of no one class.
    """
    return split_by_class(np.zeros(items), {"train": items - calib, "calib": calib})


def without_repeats(units: Mapping[str, Sequence[object]]) -> dict[str, list[int]]:
    """Split -> indices of the units that stay, in order: of equal ones the first, in the first split that has one.

    A published data set gives ``test`` first, ``select`` next and ``train`` last: what is left out of ``train`` costs
    a little of it, and what is left in both would be a false proof.
    """
    seen: set[object] = set()
    kept: dict[str, list[int]] = {}
    for split, its_units in units.items():
        kept[split] = []
        for i, unit in enumerate(its_units):
            if unit not in seen:
                seen.add(unit)
                kept[split].append(i)
    return kept


def check_splits(name: str, splits: dict[str, dict[str, np.ndarray]]) -> None:
    """Hold what a data set has made against what every later stage takes for granted.

    A unit is one row of all inputs, that is of all arrays but ``TRUTHS``: the same image under two labels is one unit.

    Args:
        name: of the data set.
        splits: split -> arrays by name, first axis = unit.

    Raises:
        Refused: a split is missing or empty, its arrays differ in length, or a unit stands twice.
    """
    if set(splits) != set(SPLITS):
        raise Refused(f"{name}: splits {', '.join(splits)} came, {', '.join(SPLITS)} were expected. Make all four.")
    for split, examples in splits.items():
        lengths = {array: len(rows) for array, rows in examples.items()}
        if not any(lengths.values()):
            raise Refused(f"{name}: {split} is empty, at least one unit was expected. Give it some of train's.")
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{array} {length}" for array, length in lengths.items())
            raise Refused(f"{name}: {split}: rows of {told} came, as many of each were expected. Give each unit a row.")
    seen: dict[bytes, str] = {}
    twice = []
    for split, examples in splits.items():
        for row, digest in enumerate(_digests(examples)):
            if digest in seen:
                twice.append(f"row {row} of {split} is {seen[digest]} (SHA-256 {digest.hex()[:12]}…)")
            else:
                seen[digest] = f"row {row} of {split}"
    if twice:
        more = f", and {len(twice) - 1} more" if len(twice) > 1 else ""
        raise Refused(
            f"{name}: {twice[0]}{more}; every unit was expected once, in one split. Leave all but one out; "
            f"pipeline.splits.without_repeats tells which."
        )


def _digests(examples: dict[str, np.ndarray]) -> list[bytes]:
    """SHA-256 of each unit: of the hashes of its row in each input."""
    inputs = [array for name, array in sorted(examples.items()) if name not in TRUTHS]
    columns = [[hashlib.sha256(_unpadded(row)).digest() for row in array] for array in inputs]
    return [hashlib.sha256(b"".join(row)).digest() for row in zip(*columns)]


def _unpadded(row: np.ndarray) -> bytes:
    """A row's bytes; of a text without its padding, of which there is as much as the split's longest text needs."""
    data = row.tobytes()
    return data.rstrip(b"\0") if row.dtype == np.uint8 and row.ndim == 1 else data
