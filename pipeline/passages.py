"""Text to rows of bytes: passages of a long text, and splits of them."""

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from deploy.errors import Refused
from pipeline.splits import without_repeats

ABOUT = 1_000  # characters of a passage of `calib`, `select` and `test`
WINDOW = 256  # bytes of one of `train`, which a network that is trained in windows must be able to divide
SHARES = {"test": 10, "select": 20, "calib": 50}  # one passage in so many, from the end of the text
LEAST = 20  # passages

MARKS = (r"\n\s*\n", r"\n", r"\s")  # after a blank line, after a line, after a blank: where to cut, the best first


def prepare_text(data: bytes, where: str = "the text") -> dict[str, dict[str, np.ndarray]]:
    """One text to the splits of a language model: ``text`` ``(n, longest)`` uint8 of UTF-8 bytes, 0 after the end.

    `test` has the last tenth of the passages, `select` a twentieth before it, `calib` a fiftieth before that, and
    `train` all before in consecutive pieces of exactly 256 bytes, which may begin within a character; the bytes that
    fill no piece are cut away. A byte order mark is no part of the text. Equal passages and equal pieces are kept once.

    Args:
        data: the text, whole.
        where: what a refusal calls it.

    Raises:
        Refused: not UTF-8, a byte 0, or fewer than 20 passages that differ.
    """
    try:
        text = data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise Refused(
            f"{where}: byte {error.start:,} is 0x{data[error.start]:02x} ({error.reason}), UTF-8 was expected. "
            f"Save it as UTF-8."
        ) from None
    if (zero := data.find(0)) >= 0:
        raise Refused(f"{where}: byte {zero:,} is 0, text was expected; 0 is padding, after the text. Take it out.")
    cut = [passage.encode() for passage in passages(text, ABOUT)]
    once = list(dict.fromkeys(reversed(cut)))  # the last of equal ones stays, so that `test` loses none
    if len(once) < LEAST:
        raise Refused(
            f"{where}: {len(once)} passages of about {ABOUT:,} characters that differ, expected at least {LEAST}. "
            f"Bring more text."
        )
    pieces: dict[str, list[bytes]] = {}
    rest = once
    for split, share in SHARES.items():
        size = max(1, round(len(once) / share))
        pieces[split], rest = rest[size - 1 :: -1], rest[size:]
    train = b"".join(reversed(rest))
    pieces["train"] = [train[at : at + WINDOW] for at in range(0, len(train) - WINDOW + 1, WINDOW)]
    kept = without_repeats(pieces)
    return {split: {"text": stack([pieces[split][i] for i in kept[split]])} for split in ("train", *reversed(SHARES))}


def passages(text: str, about: int) -> list[str]:
    """``text`` in passages of about ``about`` characters, cut at blank lines; joined they are the text.

    A paragraph of more than twice ``about`` is cut at the ends of its lines, a line of more than that at blanks, and a
    word of more than that anywhere between two characters.

    Returns:
        Passages of ``about / 2`` to ``3 about`` characters; one shorter where the text is; none of an empty text.
    """
    found, passage = [], ""
    for piece in _pieces(text, about, MARKS):
        nearer = abs(len(passage) + len(piece) - about) < abs(len(passage) - about)
        if nearer or 2 * len(passage) < about:
            passage += piece
        else:
            found.append(passage)
            passage = piece
    if found and 2 * len(passage) < about:
        found[-1] += passage
    elif passage:
        found.append(passage)
    return found


def _pieces(text: str, about: int, marks: Sequence[str]) -> list[str]:
    """``text`` cut after each of ``marks[0]``; a piece of more than twice ``about`` is cut by the marks after it."""
    if not marks:
        return [text[at : at + about] for at in range(0, len(text), about)]
    ends = [0, *(mark.end() for mark in re.finditer(marks[0], text)), len(text)]
    pieces = [text[begin:end] for begin, end in pairwise(ends) if begin < end]
    return [
        part for piece in pieces for part in ([piece] if len(piece) <= 2 * about else _pieces(piece, about, marks[1:]))
    ]


def stack(texts: Sequence[bytes], longest: int = 0) -> np.ndarray:
    """Rows ``(n, longest)`` uint8, padded with 0 at the end; as long as the longest of them where that is more."""
    longest = max(longest, *map(len, texts))
    return np.array(texts, dtype=f"S{longest}").view(np.uint8).reshape(len(texts), longest)
