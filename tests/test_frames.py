"""Frames: files written here by the formats' own words, Pillow's readers as the second opinion, and a double of OpenCV."""

import io
import sys
import types
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from deploy.errors import Refused
from deploy.jetson.frames import CSI, camera_frames, folder_frames, read_frame

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]))
COLOURS = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("frames")


@given(SHAPES.flatmap(lambda shape: arrays(np.uint8, shape)))
def test_what_pillow_wrote_is_read(folder: Path, frame: np.ndarray) -> None:
    file = folder / ("x.pgm" if frame.shape[2] == 1 else "x.PPM")
    Image.fromarray(frame[:, :, 0] if frame.shape[2] == 1 else frame).save(file, format="PPM")
    np.testing.assert_array_equal(read_frame(file), frame)


def test_a_header_may_have_comments_and_values_two_bytes(tmp_path: Path) -> None:
    (tmp_path / "x.pgm").write_bytes(b"P5 # made\n#by hand 9 9\n 2\t1\n#\n4000\n" + bytes([0x0F, 0xA0, 0, 7]) + b"rest")
    frame = read_frame(tmp_path / "x.pgm")
    assert frame.shape == (1, 2, 1) and frame.ravel().tolist() == [4000, 7]


def test_values_stay_as_the_file_has_them(tmp_path: Path) -> None:
    (tmp_path / "x.pgm").write_bytes(b"P5\n2 1\n16\n" + bytes([16, 3]))
    assert read_frame(tmp_path / "x.pgm").ravel().tolist() == [16, 3]


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1), (2, 3, 5)])
def test_an_array_is_taken_with_any_channels(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    np.save(tmp_path / "x.npy", array)
    np.testing.assert_array_equal(read_frame(tmp_path / "x.npy"), array.reshape(2, 3, -1))


def saved(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("x.pgm", b"", r"x\.pgm: cannot be read \(no header of a binary \.pgm or \.ppm\)\. Bring it again"),
        ("x.pgm", b"P2 1 1 255 0", "no header of a binary"),
        ("x.ppm", b"P6 2 2 255\n" + bytes(11), "cannot be read"),
        ("x.ppm", b"P6 99999 99999 255\n" + bytes(11), "cannot be read"),
        ("x.pgm", b"P5 0 4 255\n", "x.pgm: "),
        ("x.npy", b"", "cannot be read"),
        ("x.npy", saved(COLOURS)[:-1], "cannot be read"),
        ("x.npy", saved(COLOURS)[:40], "cannot be read"),
        ("x.npy", saved(np.array([{}])), "cannot be read"),
        ("x.npy", saved(np.array([["a"]])), r"<U1 \(1, 1, 1\), expected numbers \(height, width\) or"),
        ("x.npy", saved(np.zeros((1, 1, 2, 2))), r"float64 \(1, 1, 2, 2\), expected numbers"),
    ],
)
def test_what_is_broken_is_refused_by_name(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(Refused, match=said) as refused:
        read_frame(tmp_path / name)
    assert str(refused.value).startswith(str(tmp_path / name))


@given(st.binary(max_size=30), st.integers(0, 40), st.sampled_from([".pgm", ".npy"]))
def test_no_bytes_at_all_raise_anything_else(folder: Path, data: bytes, cut: int, suffix: str) -> None:
    whole = saved(COLOURS) if suffix == ".npy" else b"P5 4 2 255\n12345678"
    (folder / f"any{suffix}").write_bytes(whole[:cut] + data)
    try:
        frame = read_frame(folder / f"any{suffix}")
    except Refused:
        return
    assert frame.ndim == 3 and frame.size


def test_a_folder_is_read_in_order_and_what_is_broken_left_out_by_name(tmp_path: Path, capsys: Any) -> None:
    for name, value in (("b.npy", 1), ("a.npy", 0), ("d.npy", 2)):
        np.save(tmp_path / name, np.full((1, 1), value))
    (tmp_path / "c.pgm").write_bytes(b"P5")
    (tmp_path / ".hidden").write_bytes(b"")
    (tmp_path / "below").mkdir()
    assert [(name, int(frame)) for name, (((frame,),),) in folder_frames(tmp_path)] == [
        ("a.npy", 0), ("b.npy", 1), ("d.npy", 2),
    ]  # fmt: skip
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"left out: {tmp_path / 'c.pgm'}: cannot be read")


def test_a_folder_without_any_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"nowhere: no such folder\. Name one that holds images"):
        next(folder_frames(tmp_path / "nowhere"))
    (tmp_path / "x.pgm").write_bytes(b"P5")
    with pytest.raises(Refused, match="none of its 1 files is an image that can be read here"):
        list(folder_frames(tmp_path))


class OpenCV(types.ModuleType):
    """A double: blue, green and red as the real one has them; a camera of three frames."""

    CAP_GSTREAMER = 1800

    def __init__(self, opens: bool = True) -> None:
        super().__init__("cv2")
        self.asked: list[tuple[Any, ...]] = []
        self.left, self.released = 3, 0
        self.isOpened = lambda: opens

    def imread(self, file: str) -> np.ndarray | None:
        try:
            return np.asarray(Image.open(file).convert("RGB"))[:, :, ::-1]
        except OSError:
            return None

    def VideoCapture(self, *asked: Any) -> "OpenCV":
        self.asked.append(asked)
        return self

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.left -= 1
        return (True, COLOURS[:, :, ::-1]) if self.left >= 0 else (False, None)

    def release(self) -> None:
        self.released += 1


@pytest.fixture
def opencv(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenCV]:
    double = OpenCV()
    monkeypatch.setitem(sys.modules, "cv2", double)
    yield double


def test_other_images_come_by_opencv_as_red_green_blue(tmp_path: Path, opencv: OpenCV, capsys: Any) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "x.png")
    (tmp_path / "notes.txt").write_text("no image")
    ((name, frame),) = folder_frames(tmp_path)
    np.testing.assert_array_equal(frame, COLOURS)
    assert name == "x.png" and "notes.txt: cannot be read (OpenCV finds no image in it)" in capsys.readouterr().err


def test_without_opencv_they_are_left_out_with_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(Refused, match=r"x\.png: needs OpenCV, which cannot be used here .*apt install python3-opencv"):
        read_frame(tmp_path / "x.png")
    with pytest.raises(Refused, match="camera 0: needs OpenCV"):
        next(camera_frames(0))


def test_an_opencv_that_does_not_go_with_numpy_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cv2.py").write_text("raise TypeError('numpy._DTypeMeta')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    with pytest.raises(Refused, match=r"camera 0: needs OpenCV, which cannot be used here \(numpy\._DTypeMeta\)"):
        next(camera_frames(0))


def test_a_camera_gives_red_green_blue_until_it_stops(opencv: OpenCV) -> None:
    frames = camera_frames(2)
    for name, frame in islice(frames, 3):
        np.testing.assert_array_equal(frame, COLOURS)
        assert name == "camera 2"
    assert opencv.asked == [(2,)] and not opencv.released
    with pytest.raises(Refused, match=r"camera 2: gives no more frames\. See that it is still plugged in"):
        next(frames)
    assert opencv.released == 1


def test_a_camera_is_given_back_by_who_stops_early(opencv: OpenCV) -> None:
    frames = camera_frames(None)
    next(frames)
    frames.close()
    assert opencv.released == 1 and opencv.asked == [(CSI, OpenCV.CAP_GSTREAMER)]


@pytest.mark.parametrize(("number", "said"), [(9, "camera 9: cannot"), (None, "the CSI camera: .*OpenCV with GStr")])
def test_a_camera_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch, number: int | None, said: str) -> None:
    double = OpenCV(opens=False)
    monkeypatch.setitem(sys.modules, "cv2", double)
    with pytest.raises(Refused, match=said):
        next(camera_frames(number))
    assert double.released == 1
