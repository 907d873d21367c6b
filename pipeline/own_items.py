"""What every reader of brought data gives, whatever it reads: items, and where each came from."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deploy.errors import Refused

SPLITS = {"train": "train", "test": "test", "select": "select", "val": "select"}  # words for a given split -> split
MOST_TOLD = 5


class Items(NamedTuple):
    """What was brought, in the order in which it was found."""

    inputs: dict[str, np.ndarray]  # the network's, by name, each (n, ...)
    label: np.ndarray  # (n,) int64, index into `classes`
    classes: tuple[str, ...]
    split: np.ndarray | None  # (n,) "train", "select" or "test" where the splits are given
    where: Callable[[int], str]  # number of an item -> its file or line, for people
    told: tuple[str, ...]  # what was ignored or converted, a sentence each


def index_classes(values: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """The classes, sorted (numbers by size), and the index ``(n,)`` int64 of each of ``values`` ``(n,)`` among them."""
    classes, label = np.unique(values, return_inverse=True)
    return tuple(str(name) for name in classes), label.astype(np.int64)


def several(problems: list[str]) -> str:
    """The first few of ``problems``, and how many more there are."""
    more = f"; and {len(problems) - MOST_TOLD:,} more" if len(problems) > MOST_TOLD else ""
    return "; ".join(problems[:MOST_TOLD]) + more


def expect_memory(path: Path, needed: int, fix: str) -> None:
    """Refuse arrays of ``needed`` bytes that would not fit twice: they are held whole and, once more, by split.

    Raises:
        Refused: they are larger than half of this machine's memory.
    """
    half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    if needed > half:
        raise Refused(
            f"{path}: its arrays would be about {needed / 1e9:,.1f} GB, at most {half / 1e9:,.1f} GB were expected: "
            f"half of this machine's memory. {fix}"
        )
