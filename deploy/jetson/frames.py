"""Frames of a folder or a camera, one at a time: ``(name, frame)``.

A frame is ``(height, width, channels)``, one channel grey, three red, green and blue. ``.npy``, ``.pgm`` and ``.ppm``
are read here, their values as the file has them; any other image and a camera by OpenCV, which JetPack brings, as
uint8 0 to 255, turned as its EXIF says and without its transparency.

Sources: the Netpbm manual, pages pgm and ppm; NVIDIA's Accelerated GStreamer guide for ``nvarguscamerasrc``.
"""

import importlib
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np

from deploy.errors import Refused

# Through the board's image processor, which also halves it; of the frames that nobody fetched, the last.
CSI = (
    "nvarguscamerasrc ! video/x-raw(memory:NVMM), width=1280, height=720 ! nvvidconv ! "
    "video/x-raw, width=640, height=360, format=BGRx ! videoconvert ! video/x-raw, format=BGR ! "
    "appsink drop=true max-buffers=1"
)
PNM = re.compile(rb"P([56])" + 3 * rb"(?:\s|#[^\n]*\n)+([0-9]{1,5})" + rb"\s")  # kind, width, height, greatest value


def folder_frames(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Every image of ``folder`` in the order of their names; one that cannot be read is told and left out.

    Raises:
        Refused: no such folder, or no image in it that can be read.
    """
    if not folder.is_dir():
        raise Refused(f"{folder}: no such folder. Name one that holds images: .npy, .pgm, .ppm, .png, .jpg.")
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    read = 0
    for file in files:
        try:
            frame = read_frame(file)
        except Refused as refused:
            print(f"left out: {refused}", file=sys.stderr)
            continue
        read += 1
        yield file.name, frame
    if not read:
        raise Refused(f"{folder}: none of its {len(files)} files is an image that can be read here. Name another.")


def camera_frames(number: int | None) -> Iterator[tuple[str, np.ndarray]]:
    """What a camera sees, without end. A reader slower than a USB camera gets frames that are up to four old.

    Args:
        number: of a USB camera, N of ``/dev/videoN``; ``None``: the CSI camera.

    Raises:
        Refused: no OpenCV, no camera of that number, or one that stopped.
    """
    name = "the CSI camera" if number is None else f"camera {number}"
    cv2 = _opencv(name)
    camera = cv2.VideoCapture(number) if number is not None else cv2.VideoCapture(CSI, cv2.CAP_GSTREAMER)
    try:
        if not camera.isOpened():
            csi = " CSI also needs an OpenCV with GStreamer: JetPack's, not pip's." if number is None else ""
            raise Refused(f"{name}: cannot be opened. See that it is plugged in, and no other program has it.{csi}")
        while True:
            whole, frame = camera.read()
            if not whole:
                raise Refused(f"{name}: gives no more frames. See that it is still plugged in, and start again.")
            yield name, frame[:, :, ::-1]  # OpenCV's order is blue, green, red
    finally:
        camera.release()


def read_frame(file: Path) -> np.ndarray:
    """The image of one file, ``(height, width, channels)``.

    Raises:
        Refused: damaged, of another kind, or no OpenCV for it.
    """
    try:
        if file.suffix.lower() == ".npy":
            frame = np.load(file, allow_pickle=False)
        elif file.suffix.lower() in (".pgm", ".ppm"):
            frame = _pnm(file.read_bytes())
        else:
            image = _opencv(str(file)).imread(str(file))
            if image is None:
                raise ValueError("OpenCV finds no image in it")
            frame = image[:, :, ::-1]
    except Refused:
        raise
    except Exception as error:  # numpy and OpenCV raise what their parsers raised
        raise Refused(f"{file}: cannot be read ({error}). Bring it again, or take it out.") from None
    frame = frame[:, :, None] if frame.ndim == 2 else frame
    if frame.ndim != 3 or not frame.size or frame.dtype.kind not in "uif":
        came = f"{frame.dtype} {frame.shape}"
        raise Refused(f"{file}: {came}, expected numbers (height, width) or (height, width, channels).")
    return frame


def _pnm(data: bytes) -> np.ndarray:
    """A binary .pgm or .ppm; values over 255 take two bytes, the greater first.

    Raises:
        ValueError: it is none, or too short.
    """
    header = PNM.match(data)
    if not header:
        raise ValueError("no header of a binary .pgm or .ppm")
    width, height, greatest = (int(number) for number in header.groups()[1:])
    shape = (height, width, 1 if header[1] == b"5" else 3)
    dtype = np.uint8 if greatest < 256 else np.dtype(">u2")
    return np.frombuffer(data, dtype, math.prod(shape), header.end()).reshape(shape)


def _opencv(what: str) -> ModuleType:
    try:
        return importlib.import_module("cv2")
    except Exception as error:  # one that goes with another numpy raises more than ImportError
        raise Refused(
            f"{what}: needs OpenCV, which cannot be used here ({error}). `sudo apt install python3-opencv`, "
            f"or bring .npy, .pgm or .ppm."
        ) from None
