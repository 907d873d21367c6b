"""Pieces of two photographs, 3 x 224 x 224, values 0 to 255: what ImageNet's networks are given to be timed on.

scikit-learn's sample images, a Chinese pavilion and a flower, each 427 x 640. Pieces begin at places drawn by chance
and overlap, so that they are not independent and nothing can be learned of a network's accuracy from them. The label
is the photograph, and 998 of the 1,000 classes have none.
Unit: a piece. No piece occurs twice.
"""

from pathlib import Path

import numpy as np
from PIL import Image

SOURCES = {
    "china.jpg": {
        "package": "sklearn",
        "path": "datasets/images/china.jpg",
        "sha256": "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
    },
    "flower.jpg": {
        "package": "sklearn",
        "path": "datasets/images/flower.jpg",
        "sha256": "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638",
    },
}
LICENCE = "CC BY 2.0 (danielbuechele, vultilion)"
CLASSES = ("pavilion", "flower", *(f"unused {i}" for i in range(2, 1000)))
SIDE = 224
NETWORK = {"shape": [3, 224, 224], "classes": 1000}
SCALED = True

SPLITS = {"train": 16, "calib": 16, "select": 16, "test": 60}


def prepare(raw: Path) -> dict[str, dict[str, np.ndarray]]:
    """Split -> ``image`` ``(n, 3, 224, 224)`` uint8 of 0 to 255, ``label`` ``(n,)`` int64, 0 or 1."""
    photographs = [np.asarray(Image.open(raw / file)) for file in SOURCES]  # (427, 640, 3)
    n = sum(SPLITS.values())
    label = np.arange(n) % len(photographs)
    random = np.random.default_rng(0)
    height, width = photographs[0].shape[:2]
    places = random.choice((height - SIDE) * (width - SIDE), n, replace=False)
    rows, columns = np.unravel_index(places, (height - SIDE, width - SIDE))
    image = np.stack(
        [
            photographs[of][row : row + SIDE, column : column + SIDE].transpose(2, 0, 1)
            for of, row, column in zip(label, rows, columns)
        ]
    )
    ends = np.cumsum(list(SPLITS.values()))
    return {
        split: {"image": image[end - size : end], "label": label[end - size : end]}
        for (split, size), end in zip(SPLITS.items(), ends, strict=True)
    }
