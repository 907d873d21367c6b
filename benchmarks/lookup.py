"""What a dictionary finds: the names of WNUT-17's `train`, looked up in `select` and in `test`; judged as networks are.

    python -m benchmarks.lookup

A name is found by its words, as they stand or case-folded: from the left, and the longest that fits, as the baseline of
the CoNLL-2003 shared task does (Tjong Kim Sang & De Meulder 2003). A name of several types is of the one that it most
often has, where that baseline leaves it out. No message of `select` or `test` holds a name of `train` as it stands: the
published parts are of names that are new, and there the look-up finds nothing. Nothing is chosen on `select`.
"""

import argparse
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from deploy.contract import load_arrays
from deploy.errors import Refused
from deploy.tasks import entities
from pipeline.datasets.wnut17 import CLASSES

BUILD = Path("build/paper/sequences")
FORMS = {"as it stands": False, "case-folded": True}
WORD = re.compile(rb"[\x21-\xff]+")  # as the task parts words

Splits = dict[str, dict[str, np.ndarray]]
Names = dict[tuple[str, ...], int]  # words -> type, from 1


def load(build: Path) -> Splits:
    """What stage ``prepare`` wrote of WNUT-17 under ``build``, but for `calib`.

    Raises:
        Refused: it is not there, or damaged.
    """
    folder = build / "prepare" / "wnut17"
    files = {split: folder / f"{split}.npz" for split in ("train", "select", "test")}
    for file in files.values():
        if not file.is_file():
            raise Refused(
                f"{file}: not found, expected the messages of WNUT-17. Make it: `cd paper/sequences && dvc repro "
                f"prepare@wnut17`; where a set builds elsewhere, --build names that folder."
            )
    return {split: load_arrays(file) for split, file in files.items()}


def words(text: np.ndarray, fold: bool) -> list[list[str]]:
    """The words of each text ``(n, longest)``."""
    texts = [[word.decode() for word in WORD.findall(bytes(row))] for row in text]
    return [[word.casefold() for word in line] for line in texts] if fold else texts


def names_of(examples: dict[str, np.ndarray], fold: bool) -> Names:
    """Every name in ``examples``, with the type that it most often has; of two types alike, the one that came first."""
    texts, places = np.nonzero(entities.counted(examples["text"]))
    kinds, ends = entities.names(examples["token"][texts, places], texts)
    every = [word for line in words(examples["text"], fold) for word in line]
    seen: defaultdict[tuple[str, ...], Counter[int]] = defaultdict(Counter)
    for begin in np.flatnonzero(kinds).tolist():
        seen[tuple(every[begin : ends[begin]])][int(kinds[begin])] += 1
    return {name: counter.most_common(1)[0][0] for name, counter in seen.items()}


def look_up(names: Names, line: list[str]) -> list[int]:
    """The class of each word of ``line``."""
    longest = max(map(len, names), default=0)
    classes: list[int] = []
    while (at := len(classes)) < len(line):
        lengths = range(min(longest, len(line) - at), 0, -1)
        length = next((n for n in lengths if tuple(line[at : at + n]) in names), 0)
        if length:
            kind = names[tuple(line[at : at + length])]
            classes += [2 * kind - 1] + [2 * kind] * (length - 1)
        else:
            classes.append(0)
    return classes


def found(names: Names, examples: dict[str, np.ndarray], fold: bool) -> np.ndarray:
    """The task's statistics of what the look-up says to ``examples``."""
    said = np.zeros(examples["text"].shape, np.int64)
    said[entities.counted(examples["text"])] = [
        kind for line in words(examples["text"], fold) for kind in look_up(names, line)
    ]
    return entities.observe({"logits": np.eye(len(CLASSES))[said]}, examples)


def table(splits: Splits) -> str:
    """Precision, recall and F1 of each form on each split, in Markdown."""
    lines = ["| names of `train` | messages of | precision, % | recall, % | F1, % |", "|---|---|---|---|---|"]
    for form, fold in FORMS.items():
        names = names_of(splits["train"], fold)
        for split in ("select", "test"):
            statistics = found(names, splits[split], fold)
            told = entities.details(statistics)
            lines.append(
                f"| {len(names):,}, {form} | `{split}`, {len(statistics):,} | {told['precision']:.2f} | "
                f"{told['recall']:.2f} | {entities.score(statistics):.2f} |"
            )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Print the table, or in one line why there is none."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lookup", description=__doc__.partition("\n")[0])
    parser.add_argument("--build", metavar="FOLDER", type=Path, default=BUILD, help=f"holds prepare/wnut17 ({BUILD})")
    try:
        print(table(load(parser.parse_args(arguments).build)))
    except Refused as error:
        sys.exit(f"lookup: {error}")


if __name__ == "__main__":
    main()
