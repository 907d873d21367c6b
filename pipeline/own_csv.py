"""A ``.csv`` with a header: one column of labels, all others numbers."""

import csv
import re
from array import array
from math import isfinite
from pathlib import Path
from typing import TextIO

import numpy as np
from tqdm import tqdm

from deploy.errors import Refused
from pipeline.own_items import SPLITS, Items, expect_memory, index_classes, several
from pipeline.recipe import nearest

DELIMITERS = ",;\t"
WHOLE = re.compile(r"[+-]?\d{1,18}(\.0*)?", re.ASCII)  # pandas writes whole numbers so where one was missing


def read_csv(path: Path, label: str, name: str) -> Items:
    """All rows of ``path``. A column ``split`` gives the splits.

    Args:
        label: the column of labels, words or whole numbers.
        name: of the input.

    Returns:
        One input ``(n, columns)`` float32.

    Raises:
        Refused: no such column, columns without a name, rows of another length, a cell that is no finite number, a
            missing label, a column that numbers the rows, no UTF-8; lines and columns are named.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return _read(path, file, label, name)
    except UnicodeDecodeError:
        raise Refused(f"{path}: line {_undecodable(path)} is not UTF-8. Save it as UTF-8.") from None
    except csv.Error as error:
        raise Refused(f"{path}: not a CSV ({error}). Save it again as comma-separated values.") from None


def _read(path: Path, file: TextIO, label: str, name: str) -> Items:
    delimiter = _delimiter(file.readline())
    file.seek(0)
    reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
    header = [column.strip() for column in next(reader, [])]
    _check_header(path, header, label)
    columns = [i for i, column in enumerate(header) if column not in (label, "split")]
    at_label = header.index(label)
    at_split = header.index("split") if "split" in header and label != "split" else None
    values, lines = array("f"), array("q")
    labels, splits, bad = list[str](), list[str](), list[str]()
    for cells in tqdm(reader, desc=f"read {path.name}", unit="line", disable=None):
        line = reader.line_num
        if not cells:
            continue
        if len(cells) != len(header):
            bad.append(f"line {line} has {len(cells)} cells and the header {len(header)}")
            continue
        if not lines:
            rows = path.stat().st_size // (sum(map(len, cells)) + len(cells)) + 1
            expect_memory(path, 4 * len(columns) * rows, "Bring fewer rows or columns.")
        row = [cells[i] for i in columns]
        numbers = _numbers(row)
        if numbers is None:
            bad += [f"line {line}, {header[i]!r}: {cells[i]!r}" for i in columns if _numbers([cells[i]]) is None]
            continue
        word = cells[at_label].strip()
        if word.lower() in ("", "nan"):
            bad.append(f"line {line} has no {label!r}")
        if at_split is not None:
            given = cells[at_split].strip().lower()
            if given not in SPLITS:
                bad.append(f"line {line}, 'split': {given!r}{nearest(given, SPLITS)}")
            splits.append(SPLITS.get(given, ""))
        values.extend(numbers)
        labels.append(word)
        lines.append(line)
    if bad:
        raise Refused(
            f"{path}: {several(bad)}. A finite number was expected in every column but {label!r}, with a point as in "
            f"0.5. Mend these lines or take them out; a column of words becomes numbers elsewhere, or goes."
        )
    if not lines:
        raise Refused(f"{path}: no row below the header, at least some of each class were expected.")
    classes, index = index_classes(_labels(path, labels, label))
    features = np.frombuffer(values, np.float32).reshape(len(lines), len(columns))
    _check_no_numbering(path, [header[i] for i in columns], features)
    given_splits = np.array(splits) if splits else None
    return Items({name: features}, index, classes, given_splits, lambda i: f"line {lines[i]}", ())


def _check_header(path: Path, header: list[str], label: str) -> None:
    if not header:
        raise Refused(f"{path}: no first line, names of columns were expected there. Bring a table with a header.")
    if label not in header:
        numbers = sum(_numbers([column]) is not None for column in header)
        first = " Does the first line hold the names of the columns? Numbers came." if numbers else ""
        raise Refused(f"{path}: no column {label!r} of labels{nearest(label, header)}.{first} Say `label: COLUMN`.")
    if "" in header:
        raise Refused(
            f"{path}: column {header.index('') + 1} has no name. Name it, or take it out: a numbering of the rows "
            f"tells what no new item will (pandas leaves it out with `to_csv(index=False)`)."
        )
    if twice := [column for column in header if header.count(column) > 1]:
        raise Refused(f"{path}: {header.count(twice[0])} columns {twice[0]!r}, one was expected. Rename or remove one.")
    if set(header) <= {label, "split"}:
        raise Refused(f"{path}: no column beside {' and '.join(header)}, at least one of numbers was expected.")


def _check_no_numbering(path: Path, columns: list[str], features: np.ndarray) -> None:
    """No column of ``features`` ``(n, columns)`` is so many consecutive whole numbers, in whatever order.

    In a sorted table it gives the class away, and it makes equal rows unlike: no copy would be found.
    """
    for column, values in zip(columns, features.T, strict=True):
        ordered = np.sort(values.astype(np.float64))  # in which no difference overflows
        if len(ordered) > 1 and ordered[0] % 1 == 0 and np.all(np.diff(ordered) == 1):
            raise Refused(
                f"{path}: the column {column!r} numbers the rows, {ordered[0]:.0f} to {ordered[-1]:.0f}, features were "
                f"expected: a row's number tells what no new item will, and hides rows that are equal. Take it out "
                f"(pandas leaves its own out with `to_csv(index=False)`)."
            )


def _labels(path: Path, words: list[str], label: str) -> np.ndarray:
    """As whole numbers if all are, else as words ``(n,)``."""
    if all(WHOLE.fullmatch(word) for word in words):
        return np.array([int(word.partition(".")[0]) for word in words])
    if _numbers(words) is not None:
        example = next(word for word in words if not WHOLE.fullmatch(word))
        raise Refused(
            f"{path}: {example!r} in the column {label!r}, words or whole numbers were expected: labels are classes. "
            f"Make classes of the numbers, or name another column with `label:`."
        )
    return np.array(words)


def _numbers(cells: list[str]) -> "array[float] | None":  # Python 3.11 has no array[float]
    """As float32; ``None`` where one is no finite number in that range."""
    try:
        numbers = array("f", map(float, cells))
    except (ValueError, OverflowError):
        return None
    # Python reads 1_000 as a number; in a table it is a name.
    return numbers if all(map(isfinite, numbers)) and "_" not in "".join(cells) else None


def _delimiter(header: str) -> str:
    """What cuts the header into the most cells."""
    return max(DELIMITERS, key=lambda delimiter: len(next(csv.reader([header], delimiter=delimiter), [])))


def _undecodable(path: Path) -> int:
    """The first line that is not UTF-8."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 0
