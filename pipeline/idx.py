"""MNIST's file format, and the splits of a data set that comes in MNIST's four files.

Format: http://yann.lecun.com/exdb/mnist/, "FILE FORMATS FOR THE MNIST DATABASE": two bytes 0, one for the type, one for
the number of dimensions, each dimension as four bytes, the greatest first; then the values, the last index fastest.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from deploy.errors import Refused
from pipeline.splits import split_by_class

UINT8 = 0x08  # the only type that MNIST's files have
SPLITS = {"train": 54_000, "calib": 1_000, "select": 5_000}  # of the 60,000; the 10,000 are `test`


def prepare_images(raw: Path) -> dict[str, dict[str, np.ndarray]]:
    """Split -> ``image`` ``(n, 1, 28, 28)`` uint8 of 0 to 255, ``label`` ``(n,)`` int64 of 0 to 9."""
    train, test = (
        {
            "image": read_idx(raw / f"{part}-images-idx3-ubyte.gz")[:, None],
            "label": read_idx(raw / f"{part}-labels-idx1-ubyte.gz").astype(np.int64),
        }
        for part in ("train", "t10k")
    )
    index = split_by_class(train["label"], SPLITS)
    return {split: {name: array[i] for name, array in train.items()} for split, i in index.items()} | {"test": test}


def read_idx(path: Path) -> np.ndarray:
    """The array in a gzipped file of format idx, of the shape that the file says, uint8.

    Raises:
        Refused: no gzip, damaged, of another format or type, or of more or fewer bytes than its head says.
    """
    try:
        data = gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _refused(path, f"not gzip, or not all of it ({error})", "a whole gzip file") from None
    if len(data) < 4 or data[:3] != bytes((0, 0, UINT8)):
        raise _refused(path, f"it begins with {data[:4].hex(' ') or 'nothing'}", "00 00 08 (idx of uint8)")
    head = 4 + 4 * data[3]
    if len(data) < head:
        raise _refused(path, f"{len(data)} bytes", f"a head of {head} bytes, for {data[3]} dimensions")
    shape = struct.unpack(f">{data[3]}I", data[4:head])
    if (values := len(data) - head) != math.prod(shape):
        raise _refused(path, f"{values:,} values", f"{math.prod(shape):,}, of shape {shape} as its head says")
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)


def _refused(path: Path, came: str, expected: str) -> Refused:
    return Refused(f"{path}: {came}; expected {expected}. Bring it back: `dvc checkout --force {path}`.")
