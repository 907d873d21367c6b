"""scikit-learn's own Python source, and the token class of every byte of it.

The package is pinned and carries its source, so that no network is needed. Truth: the standard library's ``tokenize``.
Unit: a file, of which `calib`, `select` and `test` have one passage each; in `train` a passage. No file is in two
splits.
"""

import io
import keyword
import tarfile
import token
import tokenize
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np

SOURCES = {
    "sklearn.tar": {
        "package": "sklearn",
        "files": "**/*.py",
        # Windows has another _distributor_init.py; what is under externals/ is of other authors and licences.
        "without": ("_distributor_init.py", "externals/*"),
        "sha256": "c4861c43b2651b122ee272c66da2c886ac1d3c96f602a327f775c465c014eac3",
    }
}
LICENCE = "BSD-3-Clause (scikit-learn)"
CLASSES = ("whitespace", "keyword", "name", "number", "string", "comment", "operator")
NETWORK = {"classes": 7}
SCALED = False

SPLITS = {"calib": 20, "select": 30, "test": 340}  # files; `train` has passages of all others
PASSAGES = 5200  # of `train`: 1.3 MB
PASSAGE = {"train": 256, "calib": 1024, "select": 1024, "test": 1024}  # bytes at most
SEED = 0

WHITESPACE, KEYWORD, NAME, NUMBER, STRING, COMMENT, OPERATOR = range(len(CLASSES))
KINDS = {token.NAME: NAME, token.NUMBER: NUMBER, token.STRING: STRING, token.OP: OPERATOR, tokenize.COMMENT: COMMENT}
LAYOUT = (token.NEWLINE, tokenize.NL, token.INDENT, token.DEDENT, token.ENDMARKER)
# From Python 3.12 an f-string comes in pieces, from 3.14 a t-string too: all from the first to the last is string.
START, MIDDLE, END = (
    tuple(getattr(token, f"{kind}STRING_{piece}") for kind in "FT" if hasattr(token, f"{kind}STRING_{piece}"))
    for piece in ("START", "MIDDLE", "END")
)


class Source(NamedTuple):
    """A file: its bytes ``(n,)``, their classes ``(n,)``, and where statements begin at the left margin."""

    text: np.ndarray
    token: np.ndarray
    beginnings: np.ndarray


def prepare(raw: Path) -> dict[str, dict[str, np.ndarray]]:
    """Split -> ``text`` uint8 of UTF-8 bytes, ``token`` uint8 of classes; both ``(n, longest)``, 0 after the end.

    A passage of `train` is 256 bytes from anywhere in a file. Any other begins with a statement that stands at the left
    margin, drawn among those that have 1,024 bytes from there on, and ends with the last of them that ends a line.
    """
    random = np.random.default_rng(SEED)
    files = _read(raw / "sklearn.tar")
    order = random.permutation(len(files)).tolist()
    pieces = {}
    for split, size in SPLITS.items():
        pieces[split] = [_draw(files[i], PASSAGE[split], random) for i in order[:size]]
        order = order[size:]
    cut = [piece for i in order for piece in _cut(files[i], PASSAGE["train"])]
    once = list({text.tobytes(): (text, classes) for text, classes in cut}.values())
    pieces["train"] = [once[i] for i in random.permutation(len(once))[:PASSAGES]]
    return {split: _stack(pieces[split], longest) for split, longest in PASSAGE.items()}


def label(text: str) -> tuple[bytes, list[int]]:
    """The class of each character of a whole file, and where statements begin that stand at the left margin.

    Whatever is in no token is whitespace: blanks, ends of lines, a backslash that continues one. ``match``, ``case``,
    ``type`` and ``_`` are names.

    Returns:
        One class a character, and indices of characters. A decorated definition begins twice, and ``else`` counts as
        a beginning: nothing before it is needed to tell its tokens.
    """
    lines = [0, *accumulate(len(line) for line in io.StringIO(text))]  # where each begins; tokens count rows from 1
    classes, beginnings, opened, fresh = bytearray(len(text)), [], [], True
    for kind, string, (row, column), (last, until), _ in tokenize.generate_tokens(io.StringIO(text).readline):
        if kind in LAYOUT:
            fresh = fresh or kind == token.NEWLINE
            continue
        begin, end = lines[row - 1] + column, lines[last - 1] + until
        if kind != tokenize.COMMENT:
            if fresh and column == 0:
                beginnings.append(begin)
            fresh = False
        if kind in START:
            opened.append(begin)
        elif kind in END:
            begin = opened.pop()  # whatever the expressions within were
            classes[begin:end] = bytes((STRING,)) * (end - begin)
        elif kind not in MIDDLE:
            found = KEYWORD if keyword.iskeyword(string) else KINDS[kind]
            classes[begin:end] = bytes((found,)) * (end - begin)
    return bytes(classes), beginnings


def _read(archive: Path) -> list[Source]:
    """The files that have a passage to draw, sorted by name as the archive is; of equal ones the first."""
    with tarfile.open(archive) as tar:
        texts = dict.fromkeys(tar.extractfile(entry).read() for entry in tar)  # type: ignore[union-attr]
    least = max(PASSAGE.values())
    sources = [_source(data) for data in texts if len(data) >= least]
    return [source for source in sources if np.any(source.beginnings + least <= len(source.text))]


def _source(data: bytes) -> Source:
    """Both of ``label``'s count characters; here they count bytes."""
    classes, beginnings = label(data.decode())
    text = np.frombuffer(data, np.uint8)
    first = (text & 0xC0) != 0x80  # the others continue a character
    return Source(text, np.frombuffer(classes, np.uint8)[np.cumsum(first) - 1], np.flatnonzero(first)[beginnings])


def _draw(source: Source, longest: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Text and classes of whole lines, ``longest`` bytes at most, from a beginning at random."""
    begin = int(random.choice(source.beginnings[source.beginnings + longest <= len(source.text)]))
    end = begin + 1 + int(np.flatnonzero(source.text[begin : begin + longest] == ord("\n"))[-1])
    return source.text[begin:end], source.token[begin:end]


def _cut(source: Source, longest: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Text and classes of all consecutive passages of exactly ``longest`` bytes."""
    begins = range(0, len(source.text) - longest + 1, longest)
    return [(source.text[begin : begin + longest], source.token[begin : begin + longest]) for begin in begins]


def _stack(passages: list[tuple[np.ndarray, np.ndarray]], longest: int) -> dict[str, np.ndarray]:
    """Passages as rows, padded at the end."""
    text, classes = np.zeros((2, len(passages), longest), np.uint8)
    for row, (passage, its_classes) in enumerate(passages):
        text[row, : len(passage)] = passage
        classes[row, : len(passage)] = its_classes
    return {"text": text, "token": classes}
