"""Stage ``own@name``: data that somebody brings, to the four disjoint splits that ``prepare`` makes of a data set.

A folder of images by class, a ``.csv``, an ``.npz`` or a text file. Splits that are given are kept: folders ``train``
and ``test``, or a column or array ``split``. What is missing is made, every class in proportion.
"""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from deploy.errors import Refused
from pipeline import stage
from pipeline.own_arrays import read_arrays
from pipeline.own_csv import read_csv
from pipeline.own_images import read_folder
from pipeline.own_items import Items, expect_memory, several
from pipeline.passages import prepare_text
from pipeline.prepare import write_splits
from pipeline.recipe import PARAMS, TEXT, Own, Project, nearest
from pipeline.splits import TRUTHS, split_by_class

SHARES = {"calib": 5, "select": 10, "test": 25}  # %, rounded up; `train` has the rest

# With fewer items of a class, the even distances of `split_by_class` promise it no place in each of these.
LEAST = {"all": 8, "train": 3, "test": 1}

CLASSES_TOLD = 10


def own(project: Project, name: str) -> None:
    """Write ``{train,calib,select,test}.npz`` and ``data.json`` into ``build/prepare/<name>/``.

    Raises:
        Refused: nothing of that name or path; what its reader refuses; the same input in two given splits or, but in a
            table, under two labels; too few items of a class. What stood there is untouched.
    """
    if name not in project.own:
        raise Refused(f"{PARAMS}: own: no {name!r}{nearest(name, project.own)}")
    said = project.own[name]
    path = said.path
    kind = _check(f"{PARAMS}: own: {name}", said)
    if kind == "text":
        expect_memory(path, path.stat().st_size, "Bring less text.")
        splits = prepare_text(path.read_bytes(), str(path))
        facts: dict[str, Any] = {"classes": [], "network": {}, "scaled": False, "splits_given": False}
        told = []
    else:
        items = _read(kind, said)
        kept, dropped = _once(path, items)
        _check_classes(path, items, kept)
        index = _split(items, kept)
        splits = {
            split: {input_: array[rows] for input_, array in items.inputs.items()} | {"label": items.label[rows]}
            for split, rows in index.items()
        }
        facts = _facts(items)
        told = [*items.told, *dropped]
        told.append(f"{len(items.classes)} classes: {', '.join(items.classes[:CLASSES_TOLD])}")
        told[-1] += ", …" if len(items.classes) > CLASSES_TOLD else ""
    write_splits(project, name, splits, {"licence": "your own"} | facts)
    counts = [f"{split} {len(next(iter(examples.values()))):,}" for split, examples in splits.items()]
    print("\n".join(f"{name}: {line}" for line in [*told, ", ".join(counts)]))


def _check(where: str, said: Own) -> str:
    """What ``said.path`` is, if the other keys say nothing that has no meaning for it."""
    path = said.path
    kinds = {".csv": "csv", ".npz": "npz"} | dict.fromkeys(TEXT, "text")
    kind = "images" if path.is_dir() else kinds.get(path.suffix.lower())
    if not path.exists():
        raise Refused(f"{where}: path: {path}: not found from {Path.cwd()}. Mend the path.")
    if kind is None:
        raise Refused(
            f"{where}: path: {path}: {path.suffix or 'a file without a suffix'} came; a folder of images by class, "
            f"a .csv, an .npz or a text ({', '.join(TEXT)}) was expected. Convert it to one of these."
        )
    if said.size and kind != "images":
        raise Refused(f"{where}: size: {list(said.size)} came, but {path} is no folder of images. Take it out.")
    if said.size and (len(said.size) != 2 or min(said.size) < 1):
        raise Refused(f"{where}: size: {list(said.size)} came, [height, width] in pixels was expected.")
    if said.label != "label" and kind not in ("csv", "npz"):
        raise Refused(f"{where}: label: {said.label!r} came, but {path} has no columns or arrays. Take it out.")
    if said.input is None:
        return kind
    if kind not in ("images", "csv"):
        raise Refused(f"{where}: input: {said.input!r} came, but the inputs of {path} have their names. Take it out.")
    if not said.input.isidentifier() or said.input in TRUTHS:
        raise Refused(
            f"{where}: input: {said.input!r} came, the name of an argument of the network was expected, and none of "
            f"{', '.join(TRUTHS)}."
        )
    return kind


def _read(kind: str, said: Own) -> Items:
    if kind == "images":
        return read_folder(said.path, (said.size[0], said.size[1]) if said.size else None, said.input or "image")
    if kind == "csv":
        return read_csv(said.path, said.label, said.input or "features")
    return read_arrays(said.path, said.label)


def _once(path: Path, items: Items) -> tuple[np.ndarray, list[str]]:
    """Of the items with equal inputs one: the first; in a table the first of the commonest label.

    In a table, whose inputs have one axis an item, a few coarse columns say the same of unlike things: that two labels
    stand for one input is its nature there, and a fault elsewhere.

    Returns:
        Indices of the items that stay, and a sentence on those that do not, if there are any.

    Raises:
        Refused: the same input in two given splits or, but in a table, under two labels.
    """
    arrays = list(items.inputs.values())
    table = all(array.ndim == 2 for array in arrays)
    equal: dict[bytes, list[int]] = {}
    for i in range(len(items.label)):
        digest = hashlib.sha256(b"".join(array[i].tobytes() for array in arrays)).digest()
        equal.setdefault(digest, []).append(i)
    kept, torn, leaked, contradicted = [], list[str](), list[str](), 0
    for digest, rows in equal.items():
        labels = items.label[rows].tolist()
        ((commonest, count),) = Counter(labels).most_common(1)  # of equally common ones the first
        kept.append(rows[labels.index(commonest)])
        contradicted += len(rows) - count
        for i in rows[1:]:
            same = f"{_told(items, rows[0])} and {_told(items, i)} (SHA-256 {digest.hex()[:12]}…)"
            if not table and items.label[i] != labels[0]:
                torn.append(same)
            elif items.split is not None and items.split[i] != items.split[rows[0]]:
                leaked.append(same)
    if torn:
        raise Refused(
            f"{path}: {len(torn):,} times the same input under two labels, one was expected: {several(torn)}. "
            f"Keep the right one of each."
        )
    if leaked:
        raise Refused(
            f"{path}: {len(leaked):,} times the same input in two splits, one was expected: {several(leaked)}. What "
            f"was learnt proves nothing in another split: take one of each out."
        )
    copies = len(items.label) - len(kept)
    dropped = [f"dropped {copies:,} exact copies"] if copies else []
    if contradicted:
        dropped[0] += f" of inputs, {contradicted:,} of them under another label than the commonest, which stays"
    return np.array(kept), dropped


def _told(items: Items, i: int) -> str:
    split = f" of {items.split[i]}" if items.split is not None else ""
    return f"{items.where(i)}{split} ({items.classes[items.label[i]]})"


def _check_classes(path: Path, items: Items, kept: np.ndarray) -> None:
    """There are two classes at least, and of each class enough in every split that is given, or enough to make them.

    Raises:
        Refused: there are not; the classes are named with their counts.
    """
    if len(items.classes) < 2:
        raise Refused(f"{path}: one class, {items.classes[0]!r}, came; at least two were expected. Bring another.")
    pools = {"all": kept}
    if items.split is not None:
        pools = {split: kept[items.split[kept] == split] for split in ("train", "test")}
    few = []
    for pool, index in pools.items():
        counts = np.bincount(items.label[index], minlength=len(items.classes)).tolist()
        place = "" if pool == "all" else f" in {pool}"
        few += [
            f"{count} of {name!r}{place} (at least {LEAST[pool]})"
            for name, count in zip(items.classes, counts)
            if count < LEAST[pool]
        ]
    if few:
        raise Refused(
            f"{path}: too few items to have every class in train and in test: {several(few)}; exact copies count once. "
            f"Bring more of them, or take the class out everywhere."
        )


def _split(items: Items, kept: np.ndarray) -> dict[str, np.ndarray]:
    """Split -> indices of its items, shuffled, the same every time."""
    given = {}
    if items.split is not None:
        of_split = {split: kept[items.split[kept] == split] for split in ("select", "test")}
        given = {split: index for split, index in of_split.items() if len(index)}
        kept = kept[items.split[kept] == "train"]
    cut = {split: -(-len(kept) * share // 100) for split, share in SHARES.items() if split not in given}
    index = _part(items.label, kept, {"train": len(kept) - sum(cut.values())} | cut)
    for split, rows in given.items():
        index |= _part(items.label, rows, {split: len(rows)})
    return {split: index[split] for split in ("train", *SHARES)}


def _part(label: np.ndarray, rows: np.ndarray, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """``rows`` parted into ``sizes``, every class in proportion."""
    return {split: rows[index] for split, index in split_by_class(label[rows], sizes).items()}


def _facts(items: Items) -> dict[str, Any]:
    """What a network is given, whether its input is scaled (if it is the only one, and no indices), who made splits."""
    network: dict[str, Any] = {"classes": len(items.classes)}
    scaled = False
    if len(items.inputs) == 1:
        (array,) = items.inputs.values()
        network = {"shape": list(array.shape[1:])} | network
        scaled = array.dtype != np.int64
    splits_given = items.split is not None
    return {"classes": list(items.classes), "network": network, "scaled": scaled, "splits_given": splits_given}


if __name__ == "__main__":
    stage.run_named(own)
