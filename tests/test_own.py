"""Data that somebody brings: a folder of images, a CSV, an .npz, a text."""

import csv
import hashlib
import io
import resource
import signal
import struct
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deploy.contract import load_arrays
from deploy.errors import Refused
from deploy.files import read_json
from pipeline import own as own_stage
from pipeline.own import LEAST, own
from pipeline.own_images import read_folder
from pipeline.own_items import Items
from pipeline.recipe import Own, Project

SPLITS = ("train", "calib", "select", "test")

Bring = Callable[..., dict[str, dict[str, np.ndarray]]]


@pytest.fixture
def bring(tmp_path: Path) -> Bring:
    """Run the stage on a path, and read back what it wrote."""

    def run(path: Path, **said: object) -> dict[str, dict[str, np.ndarray]]:
        project = Project(tmp_path, tmp_path / "build", (), {}, own={"mine": Own(path, **said)})
        own(project, "mine")
        return {split: load_arrays(tmp_path / "build" / "prepare" / "mine" / f"{split}.npz") for split in SPLITS}

    return run


def facts(tmp_path: Path) -> dict:
    return read_json(tmp_path / "build" / "prepare" / "mine" / "data.json")


def noise(seed: int, height: int = 6, width: int = 5, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def photos(folder: Path, counts: dict[str, int], first: int = 0, **shape: int) -> Path:
    """PNGs of noise, all different."""
    seed = first
    for kind, count in counts.items():
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.fromarray(noise(seed, **shape).squeeze()).save(folder / kind / f"{i}.png")
            seed += 1
    return folder


def table(path: Path, rows: list[list[object]], delimiter: str = ",") -> Path:
    with open(path, "w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def rows(counts: dict[str, int], columns: int = 2) -> list[list[object]]:
    """A header, and a row of noise an item."""
    random = np.random.default_rng(0)
    labels = [name for name, count in counts.items() for _ in range(count)]
    header: list[object] = [*(f"x{i}" for i in range(columns)), "label"]
    return [header, *([*map(float, random.normal(size=columns)), label] for label in labels)]


# --- splits


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(LEAST["all"], 60), min_size=2, max_size=12),
    order=st.randoms(use_true_random=False),
)
def test_any_items_that_are_enough_become_disjoint_stratified_splits(counts: list[int], order: object) -> None:
    label = [kind for kind, count in enumerate(counts) for _ in range(count)]
    order.shuffle(label)
    index = own_stage._split(items(label), np.arange(len(label)))
    assert tuple(index) == SPLITS
    _covers(index, label, stratified_by={"train": 60, "calib": 5, "select": 10, "test": 25}, counts=counts)


@settings(max_examples=60, deadline=None)
@given(
    train=st.lists(st.integers(LEAST["train"], 40), min_size=2, max_size=12),
    test=st.integers(1, 3),
    select=st.integers(0, 3),
)
def test_given_splits_are_kept_and_what_is_missing_is_cut_from_train(train: list[int], test: int, select: int) -> None:
    label = [kind for kind, count in enumerate(train) for _ in range(count)]
    split = ["train"] * len(label)
    for name, count in (("test", test), ("select", select)):
        label += [*range(len(train))] * count
        split += [name] * (len(train) * count)
    index = own_stage._split(items(label, split), np.arange(len(label)))
    assert sorted(index["test"].tolist()) == [i for i, name in enumerate(split) if name == "test"]
    if select:
        assert sorted(index["select"].tolist()) == [i for i, name in enumerate(split) if name == "select"]
    assert {split[i] for i in [*index["train"], *index["calib"]]} == {"train"}
    _covers(index, label)


def items(label: list[int], split: list[str] | None = None) -> Items:
    classes = tuple(map(str, range(max(label) + 1)))
    return Items({}, np.array(label), classes, np.array(split) if split else None, str, ())


def _covers(
    index: dict[str, np.ndarray],
    label: list[int],
    stratified_by: dict[str, int] | None = None,
    counts: list[int] | None = None,
) -> None:
    together = sorted(i for part in index.values() for i in part.tolist())
    assert together == list(range(len(label)))
    assert all(len(part) for part in index.values())
    for split in ("train", "test"):
        assert {label[i] for i in index[split]} == set(label), split
    for split, share in (stratified_by or {}).items():
        came = Counter(label[i] for i in index[split])
        for kind, count in enumerate(counts or []):
            # An item or two a class, and the three that rounding up takes from `train`.
            assert abs(came[kind] - count * share / 100) <= 4, (split, kind)


def test_splits_have_the_declared_sizes_and_are_the_same_every_time(bring: Bring, tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", rows({"b": 120, "a": 80}))
    first = bring(path)
    assert {split: len(part["label"]) for split, part in first.items()} == {
        "train": 120,
        "calib": 10,
        "select": 20,
        "test": 50,
    }
    assert np.bincount(first["test"]["label"]).tolist() == [20, 30]
    again = bring(path)
    for split in SPLITS:
        assert np.array_equal(first[split]["features"], again[split]["features"])


def test_data_json_is_what_prepare_writes_of_a_data_set(bring: Bring, tmp_path: Path, project: Project) -> None:
    bring(photos(tmp_path / "p", {"dog": 8, "cat": 9}))
    came, oracle = facts(tmp_path), read_json(project.build / "prepare" / "digits" / "data.json")
    assert [key for key in came if key != "splits_given"] == list(oracle)
    assert came["splits_given"] is False
    assert came["name"] == "mine"
    assert came["licence"] == "your own"
    assert came["classes"] == ["cat", "dog"]
    assert came["network"] == {"shape": [3, 6, 5], "classes": 2}
    assert came["scaled"] is True
    folder = tmp_path / "build" / "prepare" / "mine"
    for split in SPLITS:
        assert came["splits"][split]["sha256"] == hashlib.sha256((folder / f"{split}.npz").read_bytes()).hexdigest()


def test_what_was_done_is_told(bring: Bring, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = photos(tmp_path / "p", {"dog": 10, "cat": 10})
    (path / "cat" / "copy.png").write_bytes((path / "cat" / "3.png").read_bytes())
    (path / "cat" / "Thumbs.db").write_bytes(b"")
    (path / "dog" / "notes.txt").write_bytes(b"")
    (path / "dog" / "._0.png").write_bytes(b"what macOS leaves")
    (path / "loose.png").write_bytes(b"of no class")
    (path / ".hidden").mkdir()
    bring(path)
    assert capsys.readouterr().out.splitlines() == [
        "mine: ignored 4 other file(s): .db 1, .png 2, .txt 1",
        "mine: dropped 1 exact copies",
        "mine: 2 classes: cat, dog",
        "mine: train 12, calib 1, select 2, test 5",
    ]


# --- images


def test_pixels_come_as_they_were_saved(bring: Bring, tmp_path: Path) -> None:
    path = photos(tmp_path / "p", {"a": 9, "b": 8})
    came = {
        image.tobytes(): label
        for part in bring(path).values()
        for image, label in zip(part["image"], part["label"], strict=True)
    }
    expected = {noise(i).transpose(2, 0, 1).tobytes(): int(i >= 9) for i in range(17)}
    assert came == expected


def test_all_grey_images_have_one_channel_and_one_of_colour_makes_it_three(bring: Bring, tmp_path: Path) -> None:
    path = photos(tmp_path / "p", {"a": 8, "b": 8}, channels=1)
    Image.fromarray(noise(99)[:, :, 0] > 127).save(path / "a" / "bilevel.png")
    train = bring(path)["train"]["image"]
    assert train.shape[1:] == (1, 6, 5)
    Image.fromarray(noise(98)).save(path / "b" / "colour.png")
    assert bring(path)["train"]["image"].shape[1:] == (3, 6, 5)
    grey = read_folder(path, None, "image").inputs["image"][0]
    assert np.array_equal(grey, np.broadcast_to(noise(0, channels=1).transpose(2, 0, 1), (3, 6, 5)))


@pytest.mark.parametrize(("height", "width"), [(12, 20), (20, 12), (13, 27), (9, 9), (7, 40)])
@pytest.mark.parametrize("size", [(4, 4), (6, 3), (30, 31)])
def test_resizing_is_torchvisions_by_hand(tmp_path: Path, height: int, width: int, size: tuple[int, int]) -> None:
    """An antialiased bilinear filter is a triangle as wide as what becomes one pixel; written out as two matrices."""
    pixels = noise(0, height, width)
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a" / "x.png")
    came = read_folder(tmp_path, size, "image").inputs["image"][0].astype(float)

    factor = max(size[0] / height, size[1] / width)
    whole = (
        [size[0], int(width * size[0] / height)]
        if factor == size[0] / height
        else [int(height * size[1] / width), size[1]]
    )
    top, left = round((whole[0] - size[0]) / 2), round((whole[1] - size[1]) / 2)
    resized = np.einsum(
        "ih,hwc,jw->cij", _triangles(height, whole[0]), pixels.astype(float), _triangles(width, whole[1])
    )
    expected = resized[:, top : top + size[0], left : left + size[1]]
    assert came.shape == expected.shape == (3, *size)
    assert np.abs(came - expected).max() <= 1.5  # Pillow rounds to whole grey values after each of the two directions


def _triangles(old: int, new: int) -> np.ndarray:
    scale = old / new
    centre = (np.arange(new)[:, None] + 0.5) * scale
    weights = np.maximum(0, 1 - np.abs(np.arange(old) + 0.5 - centre) / max(scale, 1))
    return weights / weights.sum(axis=1, keepdims=True)


def test_a_known_pattern_is_cut_in_its_centre(tmp_path: Path) -> None:
    """A left third of red, a middle of green, a right of blue: the square centre is green."""
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, :10, 0] = wide[:, 10:20, 1] = wide[:, 20:, 2] = 255
    for kind, pixels in (("wide", wide), ("tall", wide.transpose(1, 0, 2))):
        (tmp_path / kind).mkdir()
        Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / kind / "x.png")
    for image in read_folder(tmp_path, (10, 10), "image").inputs["image"]:
        assert np.array_equal(image, np.stack([np.full((10, 10), value, np.uint8) for value in (0, 255, 0)]))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_a_photograph_upright(tmp_path: Path, orientation: int) -> None:
    """EXIF 2.32, table 6: where the stored image's row 0 and column 0 belong."""
    upright = noise(1, 4, 7)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "a").mkdir()
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a" / "x.png", exif=exif)
    Image.fromarray(upright).save(tmp_path / "a" / "y.png")
    first, second = read_folder(tmp_path, None, "image").inputs["image"]
    assert np.array_equal(first, second)


def test_transparent_images_lie_on_white(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = (10, 20, 30, 255)
    pixels[0, 1] = (10, 20, 30, 0)
    pixels[1, 0] = (0, 0, 0, 51)  # a fifth of black
    Image.fromarray(pixels).save(tmp_path / "a" / "x.png")
    image = read_folder(tmp_path, None, "image").inputs["image"][0]
    assert image[:, 0, 0].tolist() == [10, 20, 30]
    assert image[:, 0, 1].tolist() == [255, 255, 255]
    assert image[:, 1, 0].tolist() == [204, 204, 204]


def test_grey_with_transparency_stays_grey(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    image = Image.new("LA", (2, 1), (7, 255))
    image.putpixel((1, 0), (7, 0))
    image.save(tmp_path / "a" / "x.png")
    assert read_folder(tmp_path, None, "image").inputs["image"].tolist() == [[[[7, 255]]]]


def test_a_damaged_exif_block_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a" / "x.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\x7fgarbage")
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a" / "y.jpg", exif=b"Exif\0\0no TIFF at all")
    assert read_folder(tmp_path, None, "image").inputs["image"].shape == (2, 3, 4, 4)


def test_images_of_every_kind_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    red = Image.new("RGB", (8, 8), (254, 0, 0))
    for suffix in ("jpg", "JPEG", "png", "bmp", "gif", "ppm", "tif", "webp"):
        red.save(tmp_path / "a" / f"x.{suffix}")
    red.convert("CMYK").save(tmp_path / "a" / "cmyk.jpg")
    red.save(tmp_path / "a" / "two.jpg", format="MPO", save_all=True, append_images=[red])  # as telephones write
    red.convert("P").save(tmp_path / "a" / "palette.png")
    image = read_folder(tmp_path, None, "image").inputs["image"]
    assert image.shape == (11, 3, 8, 8)
    assert np.abs(image.astype(int) - np.array([254, 0, 0])[:, None, None]).max() <= 4


def test_given_folders_are_kept(bring: Bring, tmp_path: Path) -> None:
    path = tmp_path / "p"
    photos(path / "Train", {"a": 10, "b": 10})
    photos(path / "val", {"a": 2, "b": 3}, first=100)
    photos(path / "test", {"a": 4, "b": 1}, first=200)
    came = bring(path)
    assert {split: len(part["label"]) for split, part in came.items()} == {
        "train": 19,
        "calib": 1,
        "select": 5,
        "test": 5,
    }
    assert facts(tmp_path)["splits_given"] is True
    assert np.bincount(came["test"]["label"]).tolist() == [4, 1]
    assert {i.tobytes() for i in came["test"]["image"]} == {
        noise(200 + i).transpose(2, 0, 1).tobytes() for i in range(5)
    }


def test_a_class_may_be_called_train(bring: Bring, tmp_path: Path) -> None:
    bring(photos(tmp_path / "p", {"train": 8, "bus": 8}))
    assert facts(tmp_path)["classes"] == ["bus", "train"]


# --- images that are refused


def test_mixed_sizes_are_refused_without_size_only(bring: Bring, tmp_path: Path) -> None:
    path = photos(tmp_path / "p", {"a": 9, "b": 8})
    photos(tmp_path / "p", {"c": 8}, first=50, height=9, width=7)
    with pytest.raises(
        Refused,
        match=r"images of 2 sizes \(height x width\), one was expected: 17 of 6 x 5 \(as a/0.png\), 8 of 9 x 7 \(as c/0.png\)"
        r".*`size: \[6, 5\]`",
    ):
        bring(path)
    assert bring(path, size=(8, 8))["train"]["image"].shape[1:] == (3, 8, 8)


def test_damaged_images_are_refused_by_name(bring: Bring, tmp_path: Path) -> None:
    path = photos(tmp_path / "p", {"a": 9, "b": 8}, height=40, width=40)
    whole = (path / "a" / "3.png").read_bytes()
    (path / "a" / "3.png").write_bytes(whole[: len(whole) // 2])
    (path / "b" / "2.png").write_bytes(b"no image")
    message = r"p: 2 of 17 images cannot be used: a/3.png: .*truncated; b/2.png: no image of a known kind. Mend them"
    with pytest.raises(Refused, match=message):
        bring(path)
    (path / "b" / "2.png").unlink()
    Image.fromarray(noise(0, 64, 64)).save(path / "a" / "3.png", "JPEG")
    whole = (path / "a" / "3.png").read_bytes()
    (path / "a" / "3.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Refused, match=r"a/3.png: image file is truncated \(\d+ bytes not processed\)"):
        bring(path, size=(8, 8))


def test_of_many_damaged_images_five_are_named(bring: Bring, tmp_path: Path) -> None:
    path = photos(tmp_path / "p", {"a": 9, "b": 8})
    for i in range(7):
        (path / "a" / f"{i}.png").write_bytes(b"")
    (path / "b" / "0.png").unlink()
    (path / "b" / "0.png").symlink_to("nowhere.png")
    with pytest.raises(Refused, match=r"8 of 17 images cannot be used: a/0.png: (.*; a/\d.png){4}.*; and 3 more\."):
        bring(path)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(bring: Bring, tmp_path: Path) -> None:
    path = photos(tmp_path / "p", {"a": 8, "b": 8})
    start = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + start + struct.pack(">I", zlib.crc32(start))
    (path / "a" / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + header + b"\0\0\0\0IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    )
    with pytest.raises(Refused, match=r"a/bomb.png: Image size \(3600000000 pixels\) exceeds limit"):
        bring(path, size=(4, 4))


def test_a_ribbon_that_would_grow_beyond_all_bounds_is_refused(bring: Bring, tmp_path: Path) -> None:
    path = photos(tmp_path / "p", {"a": 8, "b": 8})
    Image.new("RGB", (20_000, 1)).save(path / "a" / "ribbon.png")
    with pytest.raises(Refused, match=r"a/ribbon.png: 1 x 20000 pixels are too long and narrow for 224 x 224"):
        bring(path, size=(224, 224))


def test_no_file_is_given_to_a_reader_that_runs_programs(bring: Bring, tmp_path: Path) -> None:
    path = photos(tmp_path / "p", {"a": 8, "b": 8})
    (path / "a" / "x.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 6\nshowpage\n")
    with pytest.raises(Refused, match="a/x.jpg: no image of a known kind"):
        bring(path)


def test_sixteen_bits_are_not_cut_off_unseen(bring: Bring, tmp_path: Path) -> None:
    path = photos(tmp_path / "p", {"a": 8, "b": 8})
    Image.fromarray(np.full((6, 5), 40_000, np.uint16)).save(path / "a" / "scan.png")
    with pytest.raises(Refused, match=r"a/scan.png: mode I;16, at most 8 bits a channel.*bring an .npz"):
        bring(path)


def test_folders_that_are_no_classes_are_refused(bring: Bring, tmp_path: Path) -> None:
    path = tmp_path / "p"
    path.mkdir()
    with pytest.raises(Refused, match=r"p: no folder in it \(0 images\), a folder a class was expected, such as .*cat"):
        bring(path)
    Image.new("RGB", (2, 2)).save(path / "x.png")
    with pytest.raises(Refused, match=r"p: no folder in it \(1 images\)"):
        bring(path)
    photos(path, {"a": 8})
    with pytest.raises(Refused, match=r"p: one class, 'a', came; at least two were expected"):
        bring(path)
    (path / "b").mkdir()
    (path / "b" / "x.heic").write_bytes(b"")
    with pytest.raises(Refused, match=r"no image in .*b \(1 other files\); at least one was expected in each class"):
        bring(path)
    photos(path, {"b/inner": 8})
    with pytest.raises(Refused, match=r"inner: a folder within the class 'b', images alone were expected there"):
        bring(path)


def test_given_folders_must_be_whole(bring: Bring, tmp_path: Path) -> None:
    path = tmp_path / "p"
    photos(path / "train", {"a": 8, "b": 8})
    with pytest.raises(Refused, match=r"folders train came, train and test were expected"):
        bring(path)
    photos(path / "test", {"a": 1}, first=100)
    with pytest.raises(
        Refused, match=r"too few items to have every class in train and in test: 0 of 'b' in test \(at least 1\)"
    ):
        bring(path)
    photos(path / "test", {"b": 1, "c": 1}, first=101)
    with pytest.raises(Refused, match=r"0 of 'c' in train \(at least 3\)"):
        bring(path)
    photos(path / "train", {"c": 3}, first=200)
    photos(path / "validation", {"a": 1}, first=300)
    with pytest.raises(
        Refused, match=r"validation beside folders of splits; only train, test, select, val were expected"
    ):
        bring(path)
    (path / "validation").rename(path / "val")
    photos(path / "select", {"a": 1}, first=400)
    with pytest.raises(Refused, match=r"folders select, test, train, val came.*at most one of select and val"):
        bring(path)


def test_too_few_of_a_class_are_counted(bring: Bring, tmp_path: Path) -> None:
    path = photos(tmp_path / "p", {"a": 20, "b": 8, "c": 7})
    (path / "b" / "7.png").write_bytes((path / "b" / "6.png").read_bytes())
    with pytest.raises(Refused, match=r"7 of 'b' \(at least 8\); 7 of 'c' \(at least 8\); exact copies count once"):
        bring(path)


def test_a_copy_in_another_given_split_is_told_by_hash(bring: Bring, tmp_path: Path) -> None:
    path = tmp_path / "p"
    photos(path / "train", {"a": 8, "b": 8})
    photos(path / "test", {"a": 2, "b": 2}, first=100)
    pixels = noise(3)
    Image.fromarray(pixels).save(path / "test" / "a" / "again.bmp")  # other bytes, the same image
    digest = hashlib.sha256(pixels.transpose(2, 0, 1).tobytes()).hexdigest()[:12]
    with pytest.raises(
        Refused,
        match=rf"1 times the same input in two splits, one was expected: test/a/again.bmp of test \(a\) and "
        rf"train/a/3.png of train \(a\) \(SHA-256 {digest}…\).*take one of each out",
    ):
        bring(path)


def test_one_image_of_two_classes_is_refused(bring: Bring, tmp_path: Path) -> None:
    path = photos(tmp_path / "p", {"a": 8, "b": 8})
    (path / "b" / "x.png").write_bytes((path / "a" / "2.png").read_bytes())
    with pytest.raises(Refused, match=r"1 times the same input under two labels.*a/2.png \(a\) and b/x.png \(b\)"):
        bring(path)


def test_more_than_memory_holds_is_refused_before_it_is_read(
    bring: Bring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 500_000}  # 2 GB
    monkeypatch.setattr("os.sysconf", pages.__getitem__)
    path = photos(tmp_path / "p", {"a": 8, "b": 8})
    assert len(bring(path, size=(100, 100))["train"]["image"])
    with pytest.raises(
        Refused, match=r"p: its arrays would be about 4.8 GB, at most 1.0 GB were expected: half of this"
    ):
        bring(path, size=(10_000, 10_000))
    pages["SC_PHYS_PAGES"] = 4  # half of which is more than the file, and less than what is in it
    with pytest.raises(Refused, match=r"a.csv: its arrays would be about .* Bring fewer rows or columns"):
        bring(table(tmp_path / "a.csv", rows({"a": 3000, "b": 8})))
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((9000, 2)), label=np.zeros(9000))  # 1 kB of a file
    with pytest.raises(Refused, match=r"a.npz: its arrays would be about .* Bring fewer rows"):
        bring(tmp_path / "a.npz")


# --- CSV


@settings(max_examples=25, deadline=None)
@given(
    values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=48, max_size=48, unique=True),
    delimiter=st.sampled_from(",;\t"),
    bom=st.booleans(),
)
def test_a_csv_is_what_numpy_reads(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], delimiter: str, bom: bool
) -> None:
    folder = tmp_path_factory.mktemp("csv")
    grid = np.array(values, np.float32).reshape(16, 3) + np.float32(0)  # no -0, which is another row than 0
    lines = [["species", "a", "b", "c"]]
    lines += [["yes" if i % 2 else "no", *map(str, r)] for i, r in enumerate(grid)]
    path = table(folder / "x.csv", lines, delimiter)
    oracle = np.loadtxt(path, np.float32, delimiter=delimiter, skiprows=1, usecols=(1, 2, 3))
    if bom:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    project = Project(folder, folder, (), {}, own={"x": Own(path, label="species")})
    own(project, "x")
    came = {}
    for split in SPLITS:
        part = load_arrays(folder / "prepare" / "x" / f"{split}.npz")
        assert part["features"].dtype == np.float32
        came |= {row.tobytes(): int(label) for row, label in zip(part["features"], part["label"])}
    assert came == {row.tobytes(): i % 2 for i, row in enumerate(oracle)}


def test_classes_of_numbers_are_sorted_by_size(bring: Bring, tmp_path: Path) -> None:
    lines = rows({"10": 9, "9": 8, "-1.0": 8})
    bring(table(tmp_path / "a.csv", lines))
    assert facts(tmp_path)["classes"] == ["-1", "9", "10"]
    bring(table(tmp_path / "a.csv", [[*line[:2], f"class {line[2]}"] if i else line for i, line in enumerate(lines)]))
    assert facts(tmp_path)["classes"] == ["class -1.0", "class 10", "class 9"]
    assert facts(tmp_path)["network"] == {"shape": [2], "classes": 3}


def test_a_column_of_splits_is_kept(bring: Bring, tmp_path: Path) -> None:
    lines = rows({"a": 30, "b": 30})
    given = ["split", *(["train", "val", "Test "][i % 3] for i in range(60))]
    came = bring(table(tmp_path / "a.csv", [[*line, split] for line, split in zip(lines, given)]))
    expected = {np.float32(line[0]) for line, split in zip(lines, given) if split == "Test "}
    assert set(came["test"]["features"][:, 0]) == expected
    assert {split: len(part["label"]) for split, part in came.items()} == {
        "train": 19,
        "calib": 1,
        "select": 20,
        "test": 20,
    }
    given[5] = "train"
    given[4] = "tset"
    with pytest.raises(Refused, match=r"line 5, 'split': 'tset'; did you mean 'test'"):
        bring(table(tmp_path / "a.csv", [[*line, split] for line, split in zip(lines, given)]))


def test_the_input_is_named_as_the_network_has_it(bring: Bring, tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", rows({"a": 8, "b": 8}))
    assert set(bring(path, input="x")["train"]) == {"x", "label"}
    for wrong in ("two words", "label"):
        with pytest.raises(Refused, match=f"own: mine: input: '{wrong}' came, the name of an argument of the network"):
            bring(path, input=wrong)


def changed(lines: list[list[object]], line: int, column: int, cell: object) -> list[list[object]]:
    copy = [list(row) for row in lines]
    copy[line - 1][column] = cell
    return copy


@pytest.mark.parametrize(
    ("line", "column", "cell", "message"),
    [
        (4, 1, "nan", r"a.csv: line 4, 'x1': 'nan'\. A finite number was expected in every column but 'label'"),
        (4, 0, "", r"line 4, 'x0': ''"),
        (9, 0, "inf", r"line 9, 'x0': 'inf'"),
        (9, 0, "1e300", r"line 9, 'x0': '1e300'"),
        (9, 0, "0,5", r"line 9, 'x0': '0,5'.*with a point as in 0.5"),
        (9, 0, "1_0", r"line 9, 'x0': '1_0'"),
        (9, 0, "male", r"line 9, 'x0': 'male'.*a column of words becomes numbers elsewhere, or goes"),
        (9, 2, " ", r"line 9 has no 'label'"),
        (9, 2, "NaN", r"line 9 has no 'label'"),
        (
            1,
            2,
            "lable",
            r"no column 'label' of labels; did you mean 'lable'\? It may be: lable, x0, x1. Say `label: COLUMN`",
        ),
        (1, 0, "", r"column 1 has no name.*to_csv\(index=False\)"),
        (1, 0, "x1", r"2 columns 'x1', one was expected"),
    ],
)
def test_wrong_cells_are_told_by_line_and_column(
    bring: Bring, tmp_path: Path, line: int, column: int, cell: object, message: str
) -> None:
    with pytest.raises(Refused, match=message):
        bring(table(tmp_path / "a.csv", changed(rows({"a": 8, "b": 8}), line, column, cell)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no first line, names of columns were expected"),
        (b"a,label\n", "no row below the header"),
        (b"label\nx\n", "no column beside label"),
        (
            b"5.1,3.5,0.2,setosa\n4.9,3.0,0.2,setosa\n",
            "no column 'label'.*Does the first line hold the names.*Numbers came",
        ),
        (b"a,label\n1,x\n1,2,x\n\n7\n", "line 3 has 3 cells and the header 2; line 5 has 1 cells and the header 2"),
        (b"a,label\n" + b"1,x\n" * 3000 + b"2,\xe9t\xe9\n", "line 3002 is not UTF-8. Save it as UTF-8"),
        (b"a,label\n1,0.5\n2,1\n", "'0.5' in the column 'label', words or whole numbers were expected"),
        (b"a,label\n" + b"1," + b"x" * 140_000, r"not a CSV \(field larger than field limit"),
        (b"a,label\n" + b"nan,x\n" * 8, r"line 6, 'a': 'nan'; and 3 more\. A finite"),
    ],
)
def test_wrong_tables_are_refused(bring: Bring, tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(Refused, match=message):
        bring(tmp_path / "a.csv")


def test_rows_in_two_given_splits_are_told_by_line_whatever_their_labels(bring: Bring, tmp_path: Path) -> None:
    lines = rows({"a": 8, "b": 8})
    given = ["split", *["train", "train", "train", "test"] * 4]
    both = [[*line, split] for line, split in zip(lines, given)]
    with pytest.raises(Refused, match=r"in two splits.*line 2 of train \(a\) and line 18 of test \(a\)"):
        bring(table(tmp_path / "a.csv", [*both, [*lines[1], "test"]]))
    with pytest.raises(Refused, match=r"in two splits.*line 2 of train \(a\) and line 18 of test \(b\)"):
        bring(table(tmp_path / "a.csv", [*both, [*lines[1][:2], "b", "test"]]))


@settings(max_examples=40, deadline=None)
@given(
    cells=st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 3), st.sampled_from(["a", "b", "c"])), min_size=1, max_size=80
    ),
    as_arrays=st.booleans(),
    splits_given=st.booleans(),
)
def test_of_a_coarse_tables_equal_rows_one_stays_with_the_commonest_label(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[int, int, str]], as_arrays: bool, splits_given: bool
) -> None:
    """After 20 rows of each class that differ: every input comes once, as often labelled as any other, the first so."""
    folder = tmp_path_factory.mktemp("coarse")
    lines = [(10 + i // 3, -1, "abc"[i % 3]) for i in range(60)]
    lines = [(x + 100 * i, y, label) for i, (x, y, label) in enumerate(lines)] + cells
    split = ["test" if i < 30 else "train" for i in range(len(lines))]
    if as_arrays:
        arrays = {"x": np.array([line[:2] for line in lines]), "label": np.array([line[2] for line in lines])}
        np.savez(folder / "a.npz", **arrays | ({"split": np.array(split)} if splits_given else {}))
    else:
        header = ["x", "y", "label", "split"]
        cut = 4 if splits_given else 3
        table(folder / "a.csv", [header[:cut], *([*line, given][:cut] for line, given in zip(lines, split))])
    own(
        Project(folder, folder, (), {}, own={"a": Own(folder / ("a.npz" if as_arrays else "a.csv"))}),
        "a",
    )
    parts = [load_arrays(folder / "prepare" / "a" / f"{name}.npz") for name in SPLITS]
    name = "x" if as_arrays else "features"
    came = [
        (*map(int, row), "abc"[label]) for part in parts for row, label in zip(part[name], part["label"], strict=True)
    ]
    votes: dict[tuple[int, int], list[str]] = {}
    for x, y, label in lines:
        votes.setdefault((x, y), []).append(label)
    # Sorting is stable: of labels that are as common, the one that came first.
    expected = {input_: sorted(labels, key=lambda label: -labels.count(label))[0] for input_, labels in votes.items()}
    assert len(came) == len(expected)
    assert {(x, y): label for x, y, label in came} == expected


def test_what_a_coarse_table_loses_is_told(bring: Bring, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = rows({"a": 8, "b": 8})
    twice = [lines[1], lines[1], lines[9]]
    bring(table(tmp_path / "a.csv", [*lines, *twice]))
    assert "mine: dropped 3 exact copies\n" in capsys.readouterr().out
    bring(table(tmp_path / "a.csv", [*lines, *twice, [*lines[1][:2], "b"], [*lines[12][:2], "a"]]))
    told = "mine: dropped 5 exact copies of inputs, 2 of them under another label than the commonest, which stays\n"
    assert told in capsys.readouterr().out


def test_arrays_of_several_axes_are_no_table(bring: Bring, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(17, 2, 3))
    x[16] = x[0]
    np.savez(tmp_path / "a.npz", x=x, label=np.arange(17) % 2)
    assert sum(len(part["x"]) for part in bring(tmp_path / "a.npz").values()) == 16
    np.savez(tmp_path / "a.npz", x=x, label=[*np.arange(16) % 2, 1])
    with pytest.raises(Refused, match=r"1 times the same input under two labels.*row 0 \(0\) and row 16 \(1\)"):
        bring(tmp_path / "a.npz")


@settings(max_examples=25, deadline=None)
@given(first=st.integers(-100, 100), order=st.permutations(range(16)), form=st.sampled_from(["{}", "{}.0"]))
def test_a_column_that_numbers_the_rows_is_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, first: int, order: list[int], form: str
) -> None:
    folder = tmp_path_factory.mktemp("numbered")
    lines = rows({"a": 8, "b": 8})
    project = Project(folder, folder, (), {}, own={"a": Own(folder / "a.csv")})

    def numbered(numbers: list[float]) -> None:
        cells = [form.format(number) for number in numbers]
        table(folder / "a.csv", [[*line, cell] for line, cell in zip(lines, ["Id", *cells])])
        own(project, "a")

    with pytest.raises(
        Refused, match=rf"a.csv: the column 'Id' numbers the rows, {first} to {first + 15}, features.*Take it out"
    ):
        numbered([first + i for i in order])
    numbered([first + min(i, 14) for i in order])  # whole numbers, of which one stands twice
    numbered([first + 2 * i for i in order])
    numbered([first + i for i in order[:15]] + [first + 17 + order[15]])  # a gap


# --- .npz


def test_arrays_come_by_their_own_names_and_types(
    bring: Bring, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    given = {
        "scan": random.integers(0, 256, (40, 1, 3, 3), np.uint8),
        "depth": random.normal(size=(40, 2)),
        "words": random.integers(0, 9, (40, 4), np.int32),
        "kind_of": random.normal(size=(40, 2)).astype(np.float32),
    }
    label = np.array(["no", "yes"] * 20)
    np.savez(tmp_path / "a.npz", truth=label, **given)
    came = bring(tmp_path / "a.npz", label="truth")
    types = {"scan": "uint8", "depth": "float32", "words": "int64", "kind_of": "float32", "label": "int64"}
    assert {name: str(array.dtype) for name, array in came["train"].items()} == types
    rows_of = {scan.tobytes(): i for i, scan in enumerate(given["scan"])}
    for part in came.values():
        index = [rows_of[scan.tobytes()] for scan in part["scan"]]
        for name in given:
            assert np.array_equal(part[name], given[name][index].astype(types[name]))
        assert np.array_equal(part["label"], label[index] == "yes")
    assert facts(tmp_path)["network"] == {"classes": 2}
    assert facts(tmp_path)["scaled"] is False
    told = capsys.readouterr().out
    assert "mine: depth: float64 became float32\n" in told
    assert "words: int32 became int64" in told
    assert "scan:" not in told


@pytest.mark.parametrize(
    ("label", "classes"),
    [
        (np.array([10, 9] * 8), ["9", "10"]),
        (np.array([10.0, 9.0] * 8), ["9", "10"]),
        (np.array([True, False] * 8), ["0", "1"]),
        (np.array([b"b", b"a"] * 8), ["a", "b"]),
        (np.array([3, 255] * 8, np.uint8), ["3", "255"]),
    ],
)
def test_labels_of_any_kind(bring: Bring, tmp_path: Path, label: np.ndarray, classes: list[str]) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(16, dtype=np.int16)[:, None], label=label)
    came = bring(tmp_path / "a.npz")
    assert facts(tmp_path)["classes"] == classes
    assert facts(tmp_path)["network"] == {"shape": [1], "classes": 2}
    assert facts(tmp_path)["scaled"] is True
    first = classes.index(str(np.array(label[:1]).astype(np.int64)[0]) if label.dtype.kind != "S" else "b")
    for part in came.values():
        assert part["x"].dtype == np.float32
        assert np.array_equal(part["label"], np.where(part["x"][:, 0] % 2 == 0, first, 1 - first))


@pytest.mark.parametrize("kind", ["int64", "int32", "int16", "uint16", "uint64"])
def test_images_of_any_whole_numbers_are_scaled_as_images(
    bring: Bring, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """What `np.array(list_of_images)` gives; one value beyond a byte, and they are no such images."""
    image = np.random.default_rng(0).integers(0, 256, (16, 3, 4, 5)).astype(kind)
    image[0, 0, 0, :2] = 0, 255
    np.savez(tmp_path / "a.npz", image=image, label=np.arange(16) % 2)
    came = [item for part in bring(tmp_path / "a.npz").values() for item in part["image"]]
    assert {item.dtype for item in came} == {np.dtype(np.uint8)}
    assert {item.tobytes() for item in came} == {item.astype(np.uint8).tobytes() for item in image}
    assert facts(tmp_path)["scaled"] is True
    assert f"mine: image: {kind} became uint8\n" in capsys.readouterr().out
    for beyond in [256, -1] if kind.startswith("int") else [256]:
        image[3, 2, 1, 0] = beyond
        np.savez(tmp_path / "a.npz", image=image, label=np.arange(16) % 2)
        train = bring(tmp_path / "a.npz")["train"]["image"]
        assert train.dtype == (np.float32 if kind.endswith("16") else np.int64)
    np.savez(tmp_path / "a.npz", image=image[:, 0] % 200, label=np.arange(16) % 2)  # two axes: it may be indices
    assert bring(tmp_path / "a.npz")["train"]["image"].dtype != np.uint8


def test_indices_are_not_scaled(bring: Bring, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", words=np.arange(48, dtype=np.int32).reshape(16, 3), label=np.arange(16) % 2)
    assert bring(tmp_path / "a.npz")["train"]["words"].dtype == np.int64
    assert facts(tmp_path)["scaled"] is False


def test_an_array_of_splits_is_kept(bring: Bring, tmp_path: Path) -> None:
    split = np.array((["train"] * 4 + ["test", "select"]) * 4)
    x = np.arange(24.0)[:, None]
    np.savez(tmp_path / "a.npz", x=x, label=np.arange(24) // 6 % 2, split=split)
    came = bring(tmp_path / "a.npz")
    assert sorted(came["test"]["x"][:, 0]) == [4, 10, 16, 22]
    assert sorted(came["select"]["x"][:, 0]) == [5, 11, 17, 23]
    assert facts(tmp_path)["splits_given"] is True
    np.savez(tmp_path / "a.npz", x=x, label=np.arange(24) // 6 % 2, split=np.char.replace(split, "select", "dev"))
    with pytest.raises(Refused, match=r"row 5, 'split': 'dev'.*; and |It may be: train, test, select, val"):
        bring(tmp_path / "a.npz")


def wrong_arrays() -> list[tuple[dict[str, np.ndarray], str]]:
    x, label = np.arange(32.0).reshape(16, 2), np.arange(16) % 2
    nan, big = x.copy(), x.copy()
    nan[[3, 5]], big[7, 1] = np.nan, 1e300
    return [
        ({"x": x, "lable": label}, "no array 'label' of labels; did you mean 'lable'"),
        ({"label": label}, "'label' alone, at least one array of inputs"),
        ({"x": x[:9], "label": label}, r"x \[9, 2\], label \[16\]; the same first axis was expected of all"),
        ({"x": np.array(3.0), "label": np.array(1)}, r"x \[\], label \[\]; the same first axis"),
        ({"x": x[:0], "label": label[:0]}, "the same first axis was expected of all, one row an item"),
        ({"x": nan, "label": label}, "'x' has values that are no finite float32 in row 3; row 5. Mend these rows"),
        ({"x": big, "label": label}, "'x' has values that are no finite float32 in row 7"),
        ({"x": x, "label": np.eye(2)[label]}, r"'label' is float64 \[16, 2\].*argmax\(axis=1\)"),
        ({"x": x, "label": label + 0.5}, r"'label' is float64 \[16\], words or whole numbers"),
        ({"x": x, "label": np.where(label, "a", "")}, "no 'label' in row 0; row 2"),
        ({"x": x, "label": np.where(label, np.inf, 0)}, r"'label' is float64 \[16\], words or whole numbers"),
        ({"x": x.astype(str), "label": label}, r"'x' is <U\d+ \[16, 2\], numbers were expected"),
        ({"x": x[:, 0], "label": label}, r"'x' is float64 \[16\], numbers were expected, such as \(n, columns\)"),
        ({"x": x.astype(object), "label": label}, "damaged, or no .npz of plain arrays .*numpy.savez"),
        ({"two words": x, "label": label}, "an input called 'two words' came, the name of an argument"),
        ({"target": x, "label": label}, "an input called 'target' came"),
        (
            {"x": np.full((16, 1), 2**63, np.uint64), "label": label},
            "'x' holds 9223372036854775808, more than an int64",
        ),
    ]


@pytest.mark.parametrize(
    ("arrays", "message"), wrong_arrays(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_wrong_arrays_are_refused(bring: Bring, tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(Refused, match=message):
        bring(tmp_path / "a.npz")


def test_a_damaged_npz_is_refused(bring: Bring, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(32.0).reshape(16, 2), label=np.arange(16) % 2)
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[:-30])
    with pytest.raises(Refused, match=r"a.npz: damaged, or no .npz of plain arrays \(.*zip"):
        bring(tmp_path / "a.npz")
    (tmp_path / "a.npz").write_bytes(whole.replace(struct.pack("<d", 9.0), struct.pack("<d", 8.5)))
    with pytest.raises(Refused, match=r"a.npz: damaged, or no .npz of plain arrays \(.*CRC"):
        bring(tmp_path / "a.npz")
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    (tmp_path / "a.npz").write_bytes(buffer.getvalue())
    with pytest.raises(Refused, match=r"a.npz: damaged, or no .npz"):
        bring(tmp_path / "a.npz")


# --- text, and what is no data at all


def test_a_text_becomes_passages(bring: Bring, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    lines = ["".join(random.choice(list("abcde é"), 70)) for _ in range(900)]
    (tmp_path / "a.txt").write_text("\n\n".join(lines))
    came = bring(tmp_path / "a.txt")
    assert {name for part in came.values() for name in part} == {"text"}
    last = bytes(came["test"]["text"][-1]).rstrip(b"\0").decode()
    assert lines[-1] in last
    told = facts(tmp_path)
    assert (told["classes"], told["network"], told["scaled"], told["licence"]) == ([], {}, False, "your own")
    assert told["splits_given"] is False
    (tmp_path / "a.txt").write_text("too short")
    with pytest.raises(Refused, match=r"a.txt: 1 passages"):
        bring(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("file", "said", "message"),
    [
        ("gone.csv", {}, r"params.yaml: own: mine: path: .*gone.csv: not found from .*Mend the path"),
        ("gone", {}, r"gone: not found"),
        ("a.xlsx", {}, r"a.xlsx: .xlsx came; a folder of images by class, a .csv, an .npz or a text"),
        ("a", {}, r"a file without a suffix came"),
        ("a.csv", {"size": (4, 4)}, r"size: \[4, 4\] came, but .*a.csv is no folder of images. Take it out"),
        ("a.npz", {"size": (4, 4)}, r"is no folder of images"),
        ("folder", {"size": (4,)}, r"size: \[4\] came, \[height, width\] in pixels was expected"),
        ("folder", {"size": (4, 0)}, r"size: \[4, 0\] came"),
        ("folder", {"label": "kind"}, r"label: 'kind' came, but .*folder has no columns or arrays"),
        ("a.txt", {"label": "kind"}, r"a.txt has no columns"),
        ("a.npz", {"input": "x"}, r"input: 'x' came, but the inputs of .*a.npz have their names"),
    ],
)
def test_what_makes_no_sense_is_refused(bring: Bring, tmp_path: Path, file: str, said: dict, message: str) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("a.xlsx", "a", "a.csv", "a.npz", "a.txt"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(Refused, match=message):
        bring(tmp_path / file, **said)


def test_a_name_that_is_not_there_is_told(tmp_path: Path) -> None:
    project = Project(tmp_path, tmp_path, (), {}, own={"photos": Own(tmp_path)})
    with pytest.raises(Refused, match=r"params.yaml: own: no 'fotos'; did you mean 'photos'"):
        own(project, "fotos")


# --- nothing that was made is lost

PARAMS = "root: .\nbuild: build\ndatasets: []\nrecipes: {}\nown: {mine: {path: a.csv}}\n"


def stage(folder: Path, **how: object) -> "subprocess.CompletedProcess[str]":
    """``python -m pipeline.own mine`` in ``folder``."""
    (folder / "params.yaml").write_text(PARAMS)
    return subprocess.run(
        [sys.executable, "-m", "pipeline.own", "mine"],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        **how,
    )


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_refusal_a_full_disk_or_a_kill_leaves_what_was_made(tmp_path: Path) -> None:
    """Real processes: one that may not write more than 1 kB a file, and one that is killed while it writes."""
    lines = rows({"a": 100, "b": 100}, columns=8)
    table(tmp_path / "a.csv", lines)
    done = stage(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "mine: train 120, calib 10, select 20, test 50"
    folder = tmp_path / "build" / "prepare" / "mine"
    made = content(folder)
    assert set(made) == {"train.npz", "calib.npz", "select.npz", "test.npz", "data.json"}

    table(tmp_path / "a.csv", changed(lines, 9, 1, "nan"))
    done = stage(tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip().startswith("own@mine: a.csv: line 9, 'x1': 'nan'. A finite number was expected")
    assert content(folder) == made

    table(tmp_path / "a.csv", changed(lines, 9, 1, 0.5))
    done = stage(tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000)))
    assert "train.npz" in done.stderr
    assert "could not be written (File too large); nothing there was changed" in done.stderr
    assert content(folder) == made

    code = "import os, signal; os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL); from pipeline.own import own; from pipeline.recipe import load_project; own(load_project(), 'mine')"
    killed = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL
    assert {name: data for name, data in content(folder).items() if not name.endswith(".partial")} == made
    assert stage(tmp_path).returncode == 0
    assert content(folder)["test.npz"] != made["test.npz"] or content(folder)["train.npz"] != made["train.npz"]
