"""Lists of the files of data sets that have hundreds: one line a file, ``sha256 bytes path``."""

from pathlib import Path
from typing import Any


def read_sums(name: str, base: str) -> dict[str, dict[str, Any]]:
    """The SOURCES of the files that ``<name>.txt`` lists; each has the URL ``base`` + its path."""
    lines = Path(__file__).with_name(f"{name}.txt").read_text(encoding="ascii").splitlines()
    entries = [line.split(" ", 2) for line in lines]
    return {path: {"urls": [base + path], "sha256": digest, "bytes": int(size)} for digest, size, path in entries}
