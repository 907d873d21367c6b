"""scikit-learn's handwritten digits at any size: its file, and the splits of the data sets that are made of it.

The test set of UCI's "Optical Recognition of Handwritten Digits" (Alpaydin & Kaynak 1998): 1,797 of 8 x 8.
"""

import gzip
from pathlib import Path

import numpy as np
from PIL import Image

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
# 900 test images: a copy that flips none has a 95 % upper bound of 0.33 points, and so can prove a budget of one.
SPLITS = {"train": 650, "calib": 100, "select": 147, "test": 900}
WHITE = 16


def prepare_digits(raw: Path) -> dict[str, dict[str, np.ndarray]]:
    """Split -> ``image`` ``(n, 1, 8, 8)`` uint8 of 0 to 16, ``label`` ``(n,)`` int64 of 0 to 9."""
    with gzip.open(raw / "digits.csv.gz", "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    image, label = table[:, :-1].reshape(-1, 1, 8, 8).astype(np.uint8), table[:, -1]
    index = split_by_class(label, SPLITS)
    return {split: {"image": image[i], "label": label[i]} for split, i in index.items()}


def prepare_enlarged(raw: Path, side: int) -> dict[str, dict[str, np.ndarray]]:
    """The same images and splits, ``image`` ``(n, 1, side, side)`` uint8 of 0 to 255.

    Enlarged in a line between pixels, so that nothing is in them that is not in the small ones.
    """
    return {
        split: {"image": np.stack([_enlarged(image[0], side) for image in arrays["image"]]), "label": arrays["label"]}
        for split, arrays in prepare_digits(raw).items()
    }


def _enlarged(image: np.ndarray, side: int) -> np.ndarray:
    grey = Image.fromarray(image.astype(np.float32) * (255 / WHITE))
    large = np.asarray(grey.resize((side, side), Image.Resampling.BILINEAR))
    return large.round().clip(0, 255).astype(np.uint8)[None]
