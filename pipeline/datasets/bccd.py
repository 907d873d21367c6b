"""364 photographs of blood through a microscope, and a box around every cell.

"BCCD Dataset" (Shenggan, 2018, github.com/Shenggan/BCCD_Dataset; photographs of cosmicad and akshaylamba), in the form
of Pascal VOC (Everingham, Van Gool, Williams, Winn & Zisserman 2010, Int. J. Computer Vision 88:303-338).
Unit: a photograph, of 640 x 480, halved. No photograph occurs twice; the published parts hold 205, 87 and 72, and
`calib` is 20 of the first. Two of the 4,888 boxes have no area and are left out: one red cell each in
BloodImage_00338 and BloodImage_00343.
"""

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from deploy.errors import Refused
from pipeline.splits import cut_calib
from pipeline.sums import read_sums

MIRROR = "bccd"
SOURCES = read_sums(
    "bccd", "https://raw.githubusercontent.com/Shenggan/BCCD_Dataset/d272fb14cdff6e473fafeeeba32aba5f560e9e43/"
)
LICENCE = "MIT (Shenggan)"
CLASSES = ("RBC", "WBC", "Platelets")  # red cells, white cells, platelets
NETWORK = {"shape": [3, 240, 320], "classes": 3}
SCALED = True

CALIB = 20  # photographs
SIZE = (640, 480)  # width, height
PARTS = {"train": "train", "select": "val", "test": "test"}


class Box(NamedTuple):
    """Corners in pixels of the whole photograph, and the class."""

    corners: tuple[float, ...]  # left, top, right, bottom
    kind: int


def prepare(raw: Path) -> dict[str, dict[str, np.ndarray]]:
    """Split -> photographs and their boxes, of which a photograph has up to ``most``.

    ``image``  ``(n, 3, 240, 320)`` uint8, red, green, blue; a pixel is the mean of four
    ``box``    ``(n, most, 4)`` float32: left, top, right, bottom in pixels of the halved photograph, 0 after the last
    ``kind``   ``(n, most)`` int64: the index of the box's class + 1, 0 after the last
    """
    root = raw / "BCCD"
    part = {split: _names(root / "ImageSets" / "Main" / f"{name}.txt") for split, name in PARTS.items()}
    whole = part["train"]
    part |= {split: [whole[i] for i in index] for split, index in cut_calib(len(whole), CALIB).items()}
    boxes = {name: read_boxes(root / "Annotations" / f"{name}.xml") for names in part.values() for name in names}
    most = max(map(len, boxes.values()))
    return {split: _examples(root, part[split], boxes, most) for split in ("train", "calib", "select", "test")}


def read_boxes(path: Path) -> list[Box]:
    """The boxes of a photograph that have an area, in the order of the file.

    Raises:
        Refused: no XML, or not of Pascal VOC's form.
    """
    try:
        objects = ElementTree.parse(path).getroot().findall("object")  # noqa: S314  # held against its SHA-256
        boxes = [
            Box(
                tuple(float(entry.findtext(f"bndbox/{corner}", "")) for corner in ("xmin", "ymin", "xmax", "ymax")),
                CLASSES.index(entry.findtext("name", "")),
            )
            for entry in objects
        ]
    except (ElementTree.ParseError, ValueError) as error:
        raise Refused(
            f"{path}: damaged ({error}); an XML of objects was expected, each with one of the names "
            f"{', '.join(CLASSES)} and a bndbox of four numbers. Bring it back: `dvc checkout --force {path}`."
        ) from None
    return [box for box in boxes if box.corners[0] < box.corners[2] and box.corners[1] < box.corners[3]]


def read_photograph(path: Path) -> np.ndarray:
    """A photograph, halved: ``(3, 240, 320)`` uint8.

    Raises:
        Refused: no whole JPEG of 640 x 480.
    """
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB").reduce(2))
            came = f"{image.format} of {image.width} x {image.height}"
            right = (image.format, image.size) == ("JPEG", SIZE)
    except OSError as error:
        came, right = str(error), False
    if not right:
        raise Refused(
            f"{path}: {came}; a whole JPEG of {SIZE[0]} x {SIZE[1]} was expected. "
            f"Bring it back: `dvc checkout --force {path}`."
        )
    return pixels.transpose(2, 0, 1)


def _examples(root: Path, names: list[str], boxes: dict[str, list[Box]], most: int) -> dict[str, np.ndarray]:
    box, kind = np.zeros((len(names), most, 4), np.float32), np.zeros((len(names), most), np.int64)
    for row, name in enumerate(names):
        for place, (corners, its_kind) in enumerate(boxes[name]):
            box[row, place] = np.array(corners) / 2
            kind[row, place] = its_kind + 1
    image = np.stack([read_photograph(root / "JPEGImages" / f"{name}.jpg") for name in names])
    return {"image": image, "box": box, "kind": kind}


def _names(path: Path) -> list[str]:
    return path.read_text(encoding="ascii").split()
