"""An ``.npz``: one array of labels, and every other an input of the network by its own name."""

import zipfile
from pathlib import Path

import numpy as np

from deploy.errors import Refused
from pipeline.own_items import SPLITS, Items, expect_memory, index_classes, several
from pipeline.recipe import nearest
from pipeline.splits import TRUTHS


def read_arrays(path: Path, label: str) -> Items:
    """All rows of ``path``. An array ``split`` gives the splits.

    Args:
        label: the array of labels ``(n,)``, words or whole numbers.

    Returns:
        Inputs ``(n, ...)``: uint8 and float32 as they came, whole numbers of 0 to 255 in three axes or more an item, an
        image's, as uint8, other whole numbers of more than 16 bits as int64, all else as float32.

    Raises:
        Refused: no ``.npz`` of plain arrays, no such array, arrays of several lengths or of no numbers, a value that is
            not finite; array and row are named.
    """
    arrays = _load(path)
    if label not in arrays:
        raise Refused(f"{path}: no array {label!r} of labels{nearest(label, arrays)}. Say `label: ARRAY`.")
    lengths = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if len(set(lengths.values())) > 1 or not lengths[label]:
        told = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
        raise Refused(f"{path}: {told}; the same first axis was expected of all, one row an item. Make them alike.")
    classes, index = index_classes(_labels(path, label, arrays.pop(label)))
    split = _splits(path, arrays.pop("split")) if "split" in arrays else None
    if not arrays:
        raise Refused(f"{path}: {label!r} alone, at least one array of inputs was expected beside it.")
    inputs = {name: _input(path, name, array) for name, array in arrays.items()}
    changed = [name for name in arrays if inputs[name].dtype != arrays[name].dtype]
    converted = tuple(f"{name}: {arrays[name].dtype} became {inputs[name].dtype}" for name in changed)
    return Items(inputs, index, classes, split, lambda i: f"row {i}", converted)


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            needed = sum(entry.file_size for entry in archive.infolist())
        expect_memory(path, needed, "Bring fewer rows.")
        with np.load(path, allow_pickle=False) as arrays:
            loaded = {name: arrays[name] for name in arrays.files}
    except Refused:
        raise
    except Exception as error:  # numpy raises what zipfile, zlib or its own parser raised
        raise Refused(
            f"{path}: damaged, or no .npz of plain arrays ({error}). Write it again with `numpy.savez`, without Python "
            f"objects."
        ) from None
    if other := [name for name, array in loaded.items() if not isinstance(array, np.ndarray)]:
        raise Refused(f"{path}: {other[0]!r} is no array, arrays alone were expected. Write it with `numpy.savez`.")
    return loaded


def _labels(path: Path, name: str, label: np.ndarray) -> np.ndarray:
    """As whole numbers or words ``(n,)``."""
    if label.ndim == 1 and label.dtype.kind == "f" and np.all(np.abs(label) < 2**53) and np.all(label % 1 == 0):
        label = label.astype(np.int64)
    if label.dtype.kind == "S":
        label = np.char.decode(label, "utf-8", "replace")
    if label.ndim != 1 or label.dtype.kind not in "iubU":
        raise Refused(
            f"{path}: {name!r} is {label.dtype} {list(label.shape)}, words or whole numbers of one axis were expected: "
            f"a class an item. Where there is a column a class, `argmax(axis=1)` gives them."
        )
    if missing := [f"row {i}" for i in np.flatnonzero(label == "")] if label.dtype.kind == "U" else []:
        raise Refused(f"{path}: no {name!r} in {several(missing)}. Give them one, or take them out.")
    return label.astype(np.int64) if label.dtype.kind == "b" else label


def _splits(path: Path, split: np.ndarray) -> np.ndarray:
    words = [word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word) for word in split.tolist()]
    if wrong := [f"row {i}, 'split': {word!r}" for i, word in enumerate(words) if word.strip().lower() not in SPLITS]:
        raise Refused(f"{path}: {several(wrong)}. It may be: {', '.join(SPLITS)}")
    return np.array([SPLITS[word.strip().lower()] for word in words])


def _input(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    """``(n, ...)`` uint8, int64 or float32."""
    if not name.isidentifier() or name in TRUTHS:
        raise Refused(
            f"{path}: an input called {name!r} came, the name of an argument of the network was expected, and none of "
            f"{', '.join(TRUTHS)}. Rename it where you call `numpy.savez`, or take it out."
        )
    if array.dtype.kind not in "fiub" or array.ndim < 2 or 0 in array.shape:
        raise Refused(
            f"{path}: {name!r} is {array.dtype} {list(array.shape)}, numbers were expected, such as (n, columns) or "
            f"(n, channels, height, width). Convert it, or take it out."
        )
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind in "iu" and array.ndim > 3 and array.min() >= 0 and array.max() <= 255:
        return array.astype(np.uint8)  # an image of what numpy makes of a list, to be scaled like any other
    if array.dtype.kind in "iu" and array.dtype.itemsize > 2:  # indices, say, of words; not all of them fit float32
        if array.dtype == np.uint64 and array.max() > np.iinfo(np.int64).max:
            raise Refused(f"{path}: {name!r} holds {array.max()}, more than an int64 does. Make the numbers smaller.")
        return array.astype(np.int64)
    with np.errstate(over="ignore"):
        single = array.astype(np.float32)
    rows = np.flatnonzero(~np.isfinite(single).all(axis=tuple(range(1, single.ndim))))
    if len(rows):
        raise Refused(
            f"{path}: {name!r} has values that are no finite float32 in {several([f'row {i}' for i in rows])}. "
            f"Mend these rows, or take them out."
        )
    return single
