"""Texts as the networks take them: rows of UTF-8 bytes, 0 after the end."""

import numpy as np


def lines(array: np.ndarray) -> list[str]:
    return [bytes(row).rstrip(b"\0").decode() for row in array]


def to_bytes(texts: list[str], longest: int = 0) -> np.ndarray:
    rows = [text.encode() for text in texts]
    longest = max([longest, *map(len, rows)])
    return np.array([list(row.ljust(longest, b"\0")) for row in rows], np.uint8)
