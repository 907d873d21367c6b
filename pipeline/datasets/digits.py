"""1,797 handwritten digits, 8 x 8, grey values 0 to 16.

The test set of UCI's "Optical Recognition of Handwritten Digits" (Alpaydin & Kaynak 1998). scikit-learn carries
it, so that no network is needed.
Unit: an image. No image occurs twice.
"""

import gzip
from pathlib import Path

import numpy as np

from pipeline.splits import split_by_class

SOURCES = {
    "digits.csv.gz": {
        "package": "sklearn",
        "path": "datasets/data/digits.csv.gz",
        "sha256": "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22",
    }
}
LICENCE = "CC BY 4.0 (UCI Machine Learning Repository, doi:10.24432/C50P49)"
CLASSES = tuple("0123456789")
NETWORK = {"shape": [1, 8, 8], "classes": 10}  # what a network's constructor is given
SCALED = True  # the z-score of the input, fitted on `train`, is part of the network

# 900 test images: a copy that flips none has a 95 % upper bound of 0.33 points, and so can prove a budget of one.
SPLITS = {"train": 650, "calib": 100, "select": 147, "test": 900}


def prepare(raw: Path) -> dict[str, dict[str, np.ndarray]]:
    """Split -> ``image`` ``(n, 1, 8, 8)`` uint8 of 0 to 16, ``label`` ``(n,)`` int64 of 0 to 9."""
    with gzip.open(raw / "digits.csv.gz", "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    image, label = table[:, :-1].reshape(-1, 1, 8, 8).astype(np.uint8), table[:, -1]
    index = split_by_class(label, SPLITS)
    return {split: {"image": image[i], "label": label[i]} for split, i in index.items()}
