"""A folder of images, one folder a class: ``path/class/x.jpg``, or with given splits ``path/train/class/x.jpg``.

Classes are in the order of their sorted names, and an image is resized to cover ``size`` and its centre cut out, both
as torchvision's ``ImageFolder``, ``Resize`` and ``CenterCrop`` do.
"""

import warnings
from collections import Counter
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from deploy.errors import Refused
from pipeline.own_items import SPLITS, Items, expect_memory, index_classes, several

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # whatever the name says, none that runs a program
GREY = ("1", "L", "LA")

T = TypeVar("T")


class File(NamedTuple):
    """An image, and the folders that it lies in."""

    path: Path
    kind: str
    split: str


class Header(NamedTuple):
    """What an image says of itself before its pixels are read."""

    grey: bool
    size: tuple[int, int]  # height, width, after turning


def read_folder(path: Path, size: tuple[int, int] | None, name: str) -> Items:
    """All images below ``path``.

    EXIF's orientation is applied and transparent images lie on white; of an animation it is the first frame. One
    channel where every image is grey, else red, green and blue.

    Args:
        size: height and width to come to; ``None`` keeps the one that all have.
        name: of the input.

    Returns:
        One input ``(n, channels, height, width)`` uint8.

    Raises:
        Refused: no class folders, folders within them, an empty one; images that are damaged, too large, of more than
            8 bits a channel, or of several sizes where no ``size`` is given; more of them than memory holds.
    """
    files, given, ignored = _list(path)
    headers = _each(path, files, "look at", lambda _, file: _header(file, turned=size is None))
    target = size or _one_size(path, files, headers)
    grey = all(header.grey for header in headers)
    shape = (len(files), 1 if grey else 3, *target)
    expect_memory(path, prod(shape), "Bring fewer images, or a smaller `size: [height, width]`.")
    image = np.empty(shape, np.uint8)

    def read(row: int, file: Path) -> None:
        image[row] = _pixels(file, grey, size)

    _each(path, files, "read", read)
    classes, label = index_classes(np.array([file.kind for file in files]))
    names = [file.path.relative_to(path).as_posix() for file in files]
    split = np.array([file.split for file in files]) if given else None
    count = ", ".join(f"{suffix} {n}" for suffix, n in sorted(ignored.items()))
    told = (f"ignored {ignored.total()} other file(s): {count}",) if ignored else ()
    return Items({name: image}, label, classes, split, names.__getitem__, told)


def _list(path: Path) -> tuple[list[File], bool, Counter[str]]:
    """Every image, whether splits are given, and how many other files there are by suffix."""
    folders, loose = _entries(path)
    ignored = _suffixes(loose)
    if not folders:
        raise Refused(
            f"{path}: no folder in it ({sum(map(_is_image, loose))} images), a folder a class was expected, "
            f"such as {path / 'cat'} and {path / 'dog'}."
        )
    # A class may be called `train`; only what holds folders can be a split.
    given = any(folder.name.lower() in SPLITS and _entries(folder)[0] for folder in folders)
    if not given:
        return _classes(folders, "", ignored), False, ignored
    splits = _given(path, folders)
    files = []
    for folder, split in splits.items():
        inner, loose = _entries(folder)
        ignored += _suffixes(loose)
        files += _classes(inner, split, ignored)
    return files, True, ignored


def _given(path: Path, folders: list[Path]) -> dict[Path, str]:
    """Folder -> split."""
    if others := [folder.name for folder in folders if folder.name.lower() not in SPLITS]:
        raise Refused(
            f"{path}: {', '.join(others)} beside folders of splits; only {', '.join(SPLITS)} were expected there. "
            f"Move it out of {path}, or name it so."
        )
    splits = {folder: SPLITS[folder.name.lower()] for folder in folders}
    came = list(splits.values())
    if sorted(set(came) | {"select"}) != ["select", "test", "train"] or len(set(came)) < len(came):
        raise Refused(
            f"{path}: folders {', '.join(folder.name for folder in folders)} came, train and test were expected, each "
            f"with a folder a class, and at most one of select and val. Add what is missing, or leave the splits out: "
            f"then they are made."
        )
    return splits


def _classes(folders: list[Path], split: str, ignored: Counter[str]) -> list[File]:
    """The images of class folders, sorted; ``ignored`` also counts the other files there."""
    files, empty = [], []
    for folder in folders:
        inner, loose = _entries(folder)
        if inner:
            raise Refused(
                f"{inner[0]}: a folder within the class {folder.name!r}, images alone were expected there. Move them "
                f"up; given splits are folders called train and test that hold the folders of the classes."
            )
        images = list(filter(_is_image, loose))
        ignored.update(_suffixes([file for file in loose if not _is_image(file)]))
        files += [File(image, folder.name, split) for image in images]
        if not images:
            empty.append(f"{folder} ({len(loose)} other files)")
    if empty:
        raise Refused(
            f"no image in {several(empty)}; at least one was expected in each class ({', '.join(SUFFIXES)}). "
            f"Put some there, or remove the folder."
        )
    return files


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Folders (no hidden ones) and files in ``folder``, each sorted by name."""
    entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    folders = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    return folders, [entry for entry in entries if not entry.is_dir()]


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".")


def _suffixes(files: list[Path]) -> Counter[str]:
    """How many there are of each suffix; a file without one counts by its name."""
    return Counter(file.suffix.lower() or file.name for file in files)


def _each(path: Path, files: list[File], verb: str, use: Callable[[int, Path], T]) -> list[T]:
    """What ``use`` makes of each file and its number; those that it fails for are told together."""
    done, bad = [], []
    for number, file in enumerate(tqdm(files, desc=f"{verb} {path.name}", unit="image", disable=None)):
        try:
            with warnings.catch_warnings():  # a damaged EXIF block, say, which costs no pixel
                warnings.simplefilter("ignore")
                done.append(use(number, file.path))
        except MemoryError:
            raise
        except Exception as error:  # Pillow raises what its many decoders raised
            why = "no image of a known kind" if isinstance(error, UnidentifiedImageError) else str(error)
            bad.append(f"{file.path.relative_to(path)}: {why or type(error).__name__}")
    if bad:
        raise Refused(
            f"{path}: {len(bad):,} of {len(files):,} images cannot be used: {several(bad)}. "
            f"Mend them, or take them out."
        )
    return done


def _header(file: Path, turned: bool) -> Header:
    with Image.open(file, formats=FORMATS) as image:
        if image.mode in ("I", "F") or image.mode.startswith("I;"):
            raise ValueError(
                f"mode {image.mode}, at most 8 bits a channel were expected: save it so, or bring an .npz of the values"
            )
        width, height = image.size
        # Reading the orientation of a PNG decodes it, which is not wanted where the size does not matter.
        if turned and image.getexif().get(0x0112, 1) >= 5:
            width, height = height, width
        return Header(image.mode in GREY, (height, width))


def _one_size(path: Path, files: list[File], headers: list[Header]) -> tuple[int, int]:
    """The size of all images, ``(height, width)``."""
    sizes = Counter(header.size for header in headers)
    if len(sizes) > 1:
        example = {header.size: file.path.relative_to(path) for header, file in zip(headers[::-1], files[::-1])}
        told = [f"{n:,} of {h} x {w} (as {example[h, w]})" for (h, w), n in sizes.most_common(2)]
        height, width = sizes.most_common(1)[0][0]
        raise Refused(
            f"{path}: images of {len(sizes)} sizes (height x width), one was expected: {', '.join(told)}. "
            f"Say which they shall be resized to and cut to, such as `size: [{height}, {width}]`."
        )
    return headers[0].size


def _pixels(file: Path, grey: bool, size: tuple[int, int] | None) -> np.ndarray:
    """``(channels, height, width)`` uint8."""
    with Image.open(file, formats=FORMATS) as opened:
        image = _opaque(ImageOps.exif_transpose(opened)).convert("L" if grey else "RGB")
    if size:
        image = _cover(image, *size)
    pixels = np.asarray(image)
    return pixels[None] if grey else pixels.transpose(2, 0, 1)


def _opaque(image: Image.Image) -> Image.Image:
    """``image`` on white."""
    if not image.has_transparency_data:
        return image
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    return white


def _cover(image: Image.Image, height: int, width: int) -> Image.Image:
    """Resized with its proportions kept, bilinear over all pixels (antialiased), and the centre cut out."""
    if height * image.width >= width * image.height:  # the height decides
        whole = (height * image.width // image.height, height)
    else:
        whole = (width, width * image.height // image.width)
    if Image.MAX_IMAGE_PIXELS and whole[0] * whole[1] > Image.MAX_IMAGE_PIXELS:
        raise ValueError(f"{image.height} x {image.width} pixels are too long and narrow for {height} x {width}")
    left, top = round((whole[0] - width) / 2), round((whole[1] - height) / 2)
    resized = image.resize(whole, Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + width, top + height))
