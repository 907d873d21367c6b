"""Published data sets against what is known of them, and against second readers"""

import ast
import csv
import gzip
import hashlib
import io
import os
import re
import struct
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from texts import lines, to_bytes

from deploy.contract import load_arrays
from deploy.errors import Refused
from deploy.files import read_json
from deploy.tasks import classification, language_model, tagging, translation
from pipeline import prepare as stage
from pipeline.datasets import (
    bccd,
    camvid,
    digits,
    fashion_mnist,
    load_dataset,
    mnist,
    multi30k,
    sst2,
    tinyshakespeare,
    wnut17,
)
from pipeline.idx import read_idx
from pipeline.recipe import load_project
from pipeline.splits import TRUTHS, check_splits, cut_calib, without_repeats

REAL = (mnist, fashion_mnist, tinyshakespeare, sst2, wnut17, multi30k, bccd, camvid)
NAMES = [module.__name__.rpartition(".")[2] for module in REAL]

Splits = dict[str, dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def mirror() -> Path:
    folder = os.environ.get("PLUMBLINE_MIRROR", "")
    if not Path(folder).is_dir() or not folder:
        pytest.skip("set PLUMBLINE_MIRROR to a folder that holds the real data sets")
    return Path(folder)


@pytest.fixture(scope="module")
def prepared(mirror: Path):
    """Name -> splits; made once each."""
    made: dict[str, Splits] = {}

    def get(name: str) -> Splits:
        if name not in made:
            dataset = load_dataset(name)
            made[name] = dataset.prepare(mirror / dataset.MIRROR)
        return made[name]

    return get


# What is said of each, without the files.


@pytest.mark.parametrize("dataset", REAL, ids=NAMES)
def test_sources_are_pinned_and_what_others_read_as_text_is_written_out(dataset: ModuleType) -> None:
    assert dataset.LICENCE and dataset.MIRROR
    for file, source in dataset.SOURCES.items():
        assert set(source) == {"urls", "sha256", "bytes"}
        assert re.fullmatch("[0-9a-f]{64}", source["sha256"]) and source["bytes"] > 0
        for url in source["urls"]:
            assert re.match(r"https?://[a-z0-9.-]+/", url) and url.endswith(Path(file).name)
            if "githubusercontent" in url:  # a branch may move, a commit cannot
                assert re.search(r"/[0-9a-f]{40}/", url)
    tree = ast.parse(Path(dataset.__file__).read_text())
    written = {
        node.target.id if isinstance(node, ast.AnnAssign) else node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and isinstance(getattr(node, "target", None) or node.targets[0], ast.Name)
    }
    assert ast.literal_eval(written["NETWORK"]) == dataset.NETWORK
    assert ast.literal_eval(written["CLASSES"]) == dataset.CLASSES
    assert dataset.NETWORK.get("classes", 0) == len(dataset.CLASSES)


@pytest.mark.parametrize("dataset", REAL, ids=NAMES)
def test_the_mirror_holds_what_the_sources_say(dataset: ModuleType, mirror: Path) -> None:
    for file, source in dataset.SOURCES.items():
        data = (mirror / dataset.MIRROR / file).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (source["bytes"], source["sha256"]), file


# All of them.


@pytest.mark.parametrize("name", NAMES)
def test_splits_are_disjoint_the_same_every_time_and_of_the_shapes_that_are_said(
    name: str, prepared, mirror: Path
) -> None:
    dataset, splits = load_dataset(name), prepared(name)
    check_splits(name, splits)
    assert list(splits) == ["train", "calib", "select", "test"]
    for examples in splits.values():
        if "image" in examples:
            assert (
                examples["image"].shape[1:] == tuple(dataset.NETWORK["shape"]) and examples["image"].dtype == np.uint8
            )
            assert examples["image"].max() > 250
        for text in (examples[key] for key in ("text", "source", "target") if key in examples):
            assert text.dtype == np.uint8
            assert not ((text[:, :-1] == 0) & (text[:, 1:] != 0)).any()
            lines(text)
    if name not in ("mnist", "fashion_mnist", "bccd", "camvid"):  # these take a while; `calib` is cut alike
        for split, examples in dataset.prepare(mirror / dataset.MIRROR).items():
            for key, array in examples.items():
                np.testing.assert_array_equal(array, splits[split][key])


# MNIST and its like.

MNIST_TRAIN = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]  # of each digit
MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_mnist_is_the_published_one(prepared, mirror: Path) -> None:
    splits = prepared("mnist")
    assert read_idx(mirror / "mnist" / "train-labels-idx1-ubyte.gz")[:5].tolist() == [5, 0, 4, 1, 9]
    assert splits["test"]["label"][:5].tolist() == [7, 2, 1, 0, 4]
    assert np.bincount(splits["test"]["label"]).tolist() == MNIST_TEST
    whole = np.concatenate([splits[split]["label"] for split in ("train", "calib", "select")])
    assert np.bincount(whole).tolist() == MNIST_TRAIN
    pixels = np.concatenate([splits[split]["image"] for split in ("train", "calib", "select")])
    assert (round(pixels.mean() / 255, 4), round(pixels.std() / 255, 4)) == (0.1307, 0.3081)  # as is said everywhere


def test_fashion_mnist_is_the_published_one(prepared) -> None:
    splits = prepared("fashion_mnist")
    assert fashion_mnist.CLASSES[splits["test"]["label"][0]] == "Ankle boot"
    assert np.bincount(splits["test"]["label"]).tolist() == [1000] * 10
    pixels = np.concatenate([splits[split]["image"] for split in ("train", "calib", "select")])
    assert (round(pixels.mean() / 255, 4), round(pixels.std() / 255, 4)) == (0.2860, 0.3530)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_images_keep_their_labels_and_classes_their_shares(name: str, prepared, mirror: Path) -> None:
    splits, folder = prepared(name), mirror / load_dataset(name).MIRROR
    assert {split: len(examples["label"]) for split, examples in splits.items()} == (
        {"train": 54_000, "calib": 1_000, "select": 5_000, "test": 10_000}
    )
    published = {}  # read by place, with no reader of the format
    for part, n in (("train", 60_000), ("t10k", 10_000)):
        images = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())[16:]
        labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())[8:]
        published |= {images[784 * i : 784 * (i + 1)]: labels[i] for i in range(n)}
    assert len(published) == 70_000
    for examples in splits.values():
        assert all(published[image.tobytes()] == label for image, label in zip(examples["image"], examples["label"]))
        share = np.bincount(examples["label"]) / len(examples["label"])
        assert np.abs(share - np.bincount(splits["train"]["label"]) / 54_000).max() < 0.01


@given(shape=st.lists(st.integers(0, 5), max_size=4), seed=st.integers(0, 9))
def test_idx_is_read_as_it_is_written(tmp_path_factory: pytest.TempPathFactory, shape: list[int], seed: int) -> None:
    array = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    path = tmp_path_factory.mktemp("idx") / "a.gz"
    path.write_bytes(
        gzip.compress(bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}i", *shape) + array.tobytes())
    )
    came = read_idx(path)
    assert came.dtype == np.uint8 and came.shape == tuple(shape)
    np.testing.assert_array_equal(came, array)


IDX = bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3]) + b"abcdef"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(IDX)[:-9], r"a\.gz: not gzip, or not all of it .*; expected a whole gzip file\. Bring it back"),
        (IDX, r"a\.gz: not gzip, or not all of it \(Not a gzipped file"),
        (b"", r"a\.gz: it begins with nothing; expected 00 00 08"),
        (gzip.compress(b"\0\0\x0d\1" + IDX), r"it begins with 00 00 0d 01; expected 00 00 08 \(idx of uint8\)"),
        (gzip.compress(b"PK\3\4" + IDX), r"it begins with 50 4b 03 04; expected 00 00 08"),
        (gzip.compress(IDX[:9]), r"9 bytes; expected a head of 12 bytes, for 2 dimensions"),
        (gzip.compress(IDX[:-1]), r"5 values; expected 6, of shape \(2, 3\) as its head says"),
        (gzip.compress(IDX + b"g"), r"7 values; expected 6, of shape \(2, 3\)"),
    ],
)
def test_a_broken_idx_file_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(data)
    with pytest.raises(Refused, match=message):
        read_idx(tmp_path / "a.gz")


def test_a_flipped_bit_in_a_gzip_file_is_refused(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, 60, np.uint8)
    whole = gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 60]) + array.tobytes())
    came = []
    for place in range(10, len(whole)):  # all after the head
        (tmp_path / "a.gz").write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        try:
            came.append(read_idx(tmp_path / "a.gz"))
        except Refused as error:
            assert "a.gz: not gzip, or not all of it" in str(error)
    assert len(came) <= 1, "one flip may fall on a bit that stands for nothing"
    assert all((found == array).all() for found in came)


# Texts.


def test_tinyshakespeare_is_its_text_from_the_beginning_to_the_end(prepared, mirror: Path) -> None:
    data = (mirror / "tinyshakespeare" / "input.txt").read_bytes()
    splits = prepared("tinyshakespeare")
    train = splits["train"]["text"].tobytes()
    rest = {split: lines(splits[split]["text"]) for split in ("calib", "select", "test")}
    joined = "".join("".join(passages) for passages in rest.values()).encode()
    assert data.startswith(train) and data.endswith(joined) and 0 <= len(data) - len(train) - len(joined) < 256
    assert data.startswith(b"First Citizen:\nBefore we proceed any further, hear me speak.")
    assert {split: len(passages) for split, passages in rest.items()} == {"calib": 22, "select": 54, "test": 109}
    assert 0.09 < len("".join(rest["test"])) / len(data) < 0.11
    for passages in rest.values():
        for passage in passages:
            assert 500 <= len(passage) <= 2_500
            assert passage.endswith("\n\n") or passage is rest["test"][-1]
            assert re.match(r"[A-Z][\w' ]+:\n", passage), "a speech begins with who speaks"
    assert set(data) == set(train) | set(joined) and len(set(data)) == 65


def test_a_network_that_knows_nothing_says_8_bits_of_tinyshakespeare(prepared) -> None:
    examples = {"text": prepared("tinyshakespeare")["calib"]["text"]}

    def uniform(inputs):
        return {
            "logits": np.zeros((*inputs["text"].shape, 256), np.float32),
            "next_state": np.zeros((len(inputs["text"]), 1), np.float32),
        }

    answers = language_model.answer({"network": uniform}, examples)
    assert language_model.score(language_model.observe(answers, examples)) == pytest.approx(8)


def test_sst2_is_the_published_one(prepared, mirror: Path) -> None:
    splits = prepared("sst2")
    rows = {}
    for part in ("train", "dev", "test"):
        with open(mirror / "sst2" / f"{part}.tsv", encoding="utf-8", newline="") as file:
            rows[part] = [
                (text, int(label)) for text, label in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            ]
    came = {split: list(zip(lines(examples["text"]), examples["label"].tolist())) for split, examples in splits.items()}
    assert came["test"] == rows["test"] and Counter(label for _, label in rows["test"]) == {0: 912, 1: 909}
    assert came["select"] == rows["dev"]
    assert {split: len(pairs) for split, pairs in came.items()} == {
        "train": 6_709,
        "calib": 200,
        "select": 872,
        "test": 1_821,
    }
    elsewhere = {text for text, _ in rows["test"] + rows["dev"]}
    assert set(came["train"] + came["calib"]) == {row for row in rows["train"] if row[0] not in elsewhere}
    assert came["test"][0] == ("no movement , no yuks , not much of anything", sst2.CLASSES.index("negative"))
    assert splits["calib"]["label"].mean() == pytest.approx(splits["train"]["label"].mean(), abs=0.01)
    sure = dict(came["test"])

    def knows(inputs):
        return {"logits": np.eye(2, dtype=np.float32)[[sure[line] for line in lines(inputs["text"])]]}

    answers = classification.answer({"network": knows}, splits["test"])
    assert classification.score(classification.observe(answers, splits["test"])) == 100


def write_sst2(folder: Path, train: bytes) -> None:
    (folder / "dev.tsv").write_bytes(b"b\t1\n")
    (folder / "test.tsv").write_bytes(b"a\t0\n\xc3\xa9 c\t1\n")
    (folder / "train.tsv").write_bytes(train)


def test_what_stands_in_the_test_part_of_sst2_is_left_out_of_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sst2, "CALIB", 2)
    write_sst2(tmp_path, b"a\t1\nd\t0\nb\t0\ne\t1\nd\t0\nf\t0\ng\t1\n")
    splits = sst2.prepare(tmp_path)
    assert lines(splits["test"]["text"]) == ["a", "é c"] and lines(splits["select"]["text"]) == ["b"]
    assert sorted(lines(splits["train"]["text"]) + lines(splits["calib"]["text"])) == ["d", "e", "f", "g"]
    check_splits("sst2", splits)


@pytest.mark.parametrize("line", [b"no tab 1", b"two\t2", b"\t1", b"a\tb\t1", b""])
def test_a_line_of_sst2_that_is_none_is_refused(line: bytes, tmp_path: Path) -> None:
    write_sst2(tmp_path, b"a\t1\n" + line + b"\nb\t1\n")
    with pytest.raises(
        Refused, match=r"train\.tsv:2: .* came, a sentence, a tab and 0 or 1 were expected\. Bring the file back"
    ):
        sst2.prepare(tmp_path)


def conll(text: str) -> list[list[tuple[str, str]]]:
    """Messages of words and tags: a second reader."""
    return [re.findall(r"^(\S+)\t(\S+)$", block, re.M) for block in re.split(r"(?m)^\s*$\n?", text) if block.strip()]


def test_wnut17_is_the_published_one(prepared, mirror: Path) -> None:
    splits = prepared("wnut17")
    published = {}
    for split, file in (
        ("train", "wnut17train.conll"),
        ("select", "emerging.dev.conll"),
        ("test", "emerging.test.annotated"),
    ):
        published[split] = conll((mirror / "wnut17" / file).read_text(encoding="utf-8"))
    assert [len(messages) for messages in published.values()] == [3_394, 1_009, 1_287]  # as the paper says
    came = {
        split: [tagged(*row) for row in zip(examples["text"], examples["token"])] for split, examples in splits.items()
    }
    for split, messages in published.items():
        once: dict[str, list[tuple[str, str]]] = {}
        for message in messages:
            once.setdefault(" ".join(word for word, _ in message), message)
        mine = came["train"] + came["calib"] if split == "train" else came[split]
        assert sorted(mine) == sorted(once.values())
    names = Counter(tag for messages in published.values() for message in messages for _, tag in message)
    assert set(names) == set(wnut17.CLASSES) and len(wnut17.CLASSES) == 13
    assert {split: len(messages) for split, messages in came.items()} == {
        "train": 3_191,
        "calib": 100,
        "select": 1_006,
        "test": 1_280,
    }
    assert any(byte > 0xEF for byte in splits["test"]["text"].ravel()), "smileys of four bytes"


def tagged(text: np.ndarray, token: np.ndarray) -> list[tuple[str, str]]:
    """Words and tags out of a row, which must give every byte of a word one class, and a blank and the padding 0."""
    data, found, at = bytes(text).rstrip(b"\0"), [], 0
    for word in data.split(b" "):
        classes = set(token[at : at + len(word)].tolist())
        assert len(classes) == 1, data
        found.append((word.decode(), wnut17.CLASSES[classes.pop()]))
        at += len(word) + 1
    assert not token[text == 0].any() and not token[text == ord(" ")].any()
    return found


def test_the_task_tagging_takes_wnut17_as_it_is(prepared) -> None:
    examples = prepared("wnut17")["calib"]
    truth = {bytes(text).rstrip(b"\0"): token for text, token in zip(examples["text"], examples["token"])}

    def knows(inputs):
        rows = [truth[bytes(row).rstrip(b"\0")][: len(row)] for row in inputs["text"]]
        return {"logits": np.eye(13, dtype=np.float32)[np.stack(rows)]}

    answers = tagging.answer({"network": knows}, examples)
    assert tagging.score(tagging.observe(answers, examples)) == 100
    assert len([call() for call in tagging.requests({"network": knows}, examples)]) == 100
    wrong = examples | {"token": np.where(examples["token"] == 9, 11, examples["token"])}
    assert tagging.score(tagging.observe(answers, wrong)) < 100


def write_wnut17(folder: Path, train: bytes) -> None:
    (folder / "wnut17train.conll").write_bytes(train)
    (folder / "emerging.dev.conll").write_bytes(b"d\tO\n\n")
    (folder / "emerging.test.annotated").write_bytes("in\tO\nKöln\tB-location\n\t\n".encode())


def test_a_message_ends_at_white_space_and_at_the_end_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wnut17, "CALIB", 1)
    write_wnut17(tmp_path, "\n\nü\tB-person\nb\tI-person\n\t\nc\tO\n \nc\tB-group\n\ne\tO".encode())
    splits = wnut17.prepare(tmp_path)
    train = [tagged(*row) for split in ("train", "calib") for row in zip(splits[split]["text"], splits[split]["token"])]
    assert sorted(train) == [[("c", "O")], [("e", "O")], [("ü", "B-person"), ("b", "I-person")]]
    assert lines(splits["test"]["text"]) == ["in Köln"]
    location = wnut17.CLASSES.index("B-location")
    assert splits["test"]["token"].tolist() == [[0, 0, 0] + [location] * 5]  # two bytes of them are the ö


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            b"two words\tO",
            r"wnut17train\.conll:2: 'two words\\tO' came, a word without white space, a tab and one of O, B-",
        ),
        ("no\u00a0blank\tO".encode(), r":2: .* a word without white space"),
        (b"\tO", r":2: '\\tO' came"),
        (b"word O", r":2: 'word O' came"),
        (b"word\tB-animal", r":2: .* one of O, B-corporation, .*Bring the file back"),
        (b"\xff\tO", r"wnut17train\.conll: byte 4 is no UTF-8 \(invalid start byte\)\. Bring the file back"),
    ],
)
def test_a_line_of_wnut17_that_is_none_is_refused(line: bytes, message: str, tmp_path: Path) -> None:
    write_wnut17(tmp_path, b"a\tO\n" + line + b"\n")
    with pytest.raises(Refused, match=message):
        wnut17.prepare(tmp_path)


def test_multi30k_is_the_published_one(prepared, mirror: Path) -> None:
    splits, folder = prepared("multi30k"), mirror / "multi30k" / "data" / "task1" / "raw"
    published = {}
    for split, part in (("test", "test_2016_flickr"), ("select", "val"), ("train", "train")):
        with (
            gzip.open(folder / f"{part}.en.gz", "rt", encoding="utf-8", newline="\n") as english,
            gzip.open(folder / f"{part}.de.gz", "rt", encoding="utf-8", newline="\n") as german,
        ):
            published[split] = [(a.rstrip("\n"), b.rstrip("\n")) for a, b in zip(english, german, strict=True)]
    assert {split: len(pairs) for split, pairs in published.items()} == {
        "test": 1_000,
        "select": 1_014,
        "train": 29_000,
    }
    assert published["train"][0] == (
        "Two young, White males are outside near many bushes.",
        "Zwei junge weiße Männer sind im Freien in der Nähe vieler Büsche.",
    )
    came = {
        split: list(zip(lines(examples["source"]), lines(examples["target"]))) for split, examples in splits.items()
    }
    fits = {split: [pair for pair in pairs if len(pair[0].encode()) <= 128] for split, pairs in published.items()}
    assert came["test"] == fits["test"] and came["select"] == fits["select"]
    others = {source for source, _ in fits["test"] + fits["select"]}
    once: dict[str, str] = {}
    for source, target in fits["train"]:
        once.setdefault(source, target)
    assert dict(came["train"] + came["calib"]) == {
        source: target for source, target in once.items() if source not in others
    }
    assert {split: len(pairs) for split, pairs in came.items()} == {
        "train": 28_605,
        "calib": 200,
        "select": 1_007,
        "test": 985,
    }


def test_the_task_translation_takes_every_line_of_multi30k(prepared) -> None:
    assert multi30k.LONGEST == translation.LONGEST_SOURCE
    for examples in prepared("multi30k").values():
        assert len(translation.requests({}, examples)) == len(examples["source"])  # refuses a line that is too long


@pytest.mark.parametrize(
    ("english", "message"),
    [
        (gzip.compress(b"one\ntwo\n"), r"raw/train: 2 English and 1 German lines came, as many of each"),
        (gzip.compress(b"one\n")[:-5], r"train\.en\.gz: damaged \(.*\), gzip of UTF-8 was expected\. Bring it back"),
        (b"one\n", r"train\.en\.gz: damaged \(Not a gzipped file"),
        (gzip.compress(b"\xff\n"), r"train\.en\.gz: damaged \('utf-8' codec can't decode byte 0xff"),
    ],
)
def test_broken_files_of_multi30k_are_refused(english: bytes, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "task1" / "raw"
    folder.mkdir(parents=True)
    for part in multi30k.PARTS.values():
        for language in ("en", "de"):
            (folder / f"{part}.{language}.gz").write_bytes(gzip.compress(f"{part} {language}\n".encode()))
    (folder / "train.en.gz").write_bytes(english)
    with pytest.raises(Refused, match=message):
        multi30k.prepare(tmp_path)


# Boxes and label maps.

OBJECT = re.compile(
    r"<object>\s*<name>(\w+)</name>.*?<xmin>(\d+)</xmin>\s*<ymin>(\d+)</ymin>\s*<xmax>(\d+)</xmax>\s*<ymax>(\d+)</ymax>",
    re.S,
)


def test_bccd_is_the_published_one(prepared, mirror: Path) -> None:
    splits, root = prepared("bccd"), mirror / "bccd" / "BCCD"
    names = {
        part: (root / "ImageSets" / "Main" / f"{part}.txt").read_text().split() for part in ("train", "val", "test")
    }
    assert {split: len(examples["image"]) for split, examples in splits.items()} == {
        "train": 185,
        "calib": 20,
        "select": 87,
        "test": 72,
    }
    every = Counter()
    for split, part in (("select", "val"), ("test", "test")):
        for name, box, kind in zip(names[part], splits[split]["box"], splits[split]["kind"]):
            found = OBJECT.findall((root / "Annotations" / f"{name}.xml").read_text())
            truth = [(k, *(int(v) / 2 for v in corners)) for k, *corners in found if corners[0] != corners[2]]
            there = kind > 0
            assert [(bccd.CLASSES[k - 1], *corners) for k, corners in zip(kind[there], box[there].tolist())] == truth, (
                name
            )
            assert not box[~there].any() and not there[len(truth) :].any()
            every.update(k for k, *_ in truth)
    assert every == {"RBC": 968 + 805 - 1, "WBC": 87 + 71, "Platelets": 83 + 69}
    kinds = np.concatenate([splits[split]["kind"][splits[split]["kind"] > 0] for split in splits])
    assert np.bincount(kinds).tolist() == [0, 4155 - 2, 372, 361]  # as published, less two of no area
    with Image.open(root / "JPEGImages" / f"{names['test'][0]}.jpg") as whole:
        mean = np.asarray(whole).reshape(240, 2, 320, 2, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
    assert np.abs(splits["test"]["image"][0] - mean).max() <= 0.5
    for examples in splits.values():
        box = examples["box"][examples["kind"] > 0]
        assert box.dtype == np.float32 and (box >= 0).all() and (box <= [320, 240, 320, 240]).all()
        assert (box[:, 0] < box[:, 2]).all() and (box[:, 1] < box[:, 3]).all()
    # A white cell's nucleus is stained: what is in its box is more violet than the whole photograph.
    inside, outside = [], []
    for image, box, kind in zip(*(splits["test"][key] for key in ("image", "box", "kind"))):
        for x0, y0, x1, y1 in box[kind == bccd.CLASSES.index("WBC") + 1].astype(int):
            inside.append(np.median(image[1, y0:y1, x0:x1]))
            outside.append(np.median(image[1]))
    assert np.mean(np.array(inside) < np.array(outside)) > 0.95


VOC = "<annotation><object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object></annotation>"


@pytest.mark.parametrize("corners", [(5, 5, 5, 5), (5, 5, 5, 9), (5, 5, 9, 5), (9, 5, 5, 9)])
def test_a_box_of_no_area_is_left_out(corners: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text(
        VOC.format("WBC", 1, 2, 4, 8).replace("</annotation>", "")
        + VOC.format("RBC", *corners).replace("<annotation>", "")
    )
    assert bccd.read_boxes(path) == [((1.0, 2.0, 4.0, 8.0), 1)]


@pytest.mark.parametrize(
    "text",
    [
        VOC.format("RBC", 1, 2, 3, 4)[:-9],
        VOC.format("Virus", 1, 2, 3, 4),
        VOC.format("RBC", 1, "x", 3, 4),
        VOC.format("RBC", 1, 2, 3, 4).replace("xmax", "xman"),
        "",
    ],
)
def test_a_broken_xml_is_refused_by_name(text: str, tmp_path: Path) -> None:
    (tmp_path / "BloodImage_1.xml").write_text(text)
    with pytest.raises(
        Refused, match=r"BloodImage_1\.xml: damaged \(.*one of the names RBC, WBC, Platelets.*Bring it back"
    ):
        bccd.read_boxes(tmp_path / "BloodImage_1.xml")


def encoded(size: tuple[int, int], form: str, mode: str = "RGB") -> bytes:
    random = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(random).convert(mode).save(buffer, form)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "came"),
    [
        (encoded((640, 480), "JPEG")[:-5000], "image file is truncated"),
        (encoded((480, 640), "JPEG"), "JPEG of 480 x 640"),
        (encoded((640, 480), "PNG"), "PNG of 640 x 480"),
        (b"<html>Not found</html>", "cannot identify image file"),
    ],
)
def test_a_broken_jpeg_is_refused_by_name(data: bytes, came: str, tmp_path: Path) -> None:
    (tmp_path / "BloodImage_1.jpg").write_bytes(data)
    with pytest.raises(
        Refused, match=rf"BloodImage_1\.jpg: {came}.*; a whole JPEG of 640 x 480 was expected\. Bring it back"
    ):
        bccd.read_photograph(tmp_path / "BloodImage_1.jpg")


def read_png(path: Path) -> np.ndarray:
    """``(height, width, channels)``: a second reader, of 8 bits a channel and without interlacing."""
    data, at, packed = path.read_bytes(), 8, b""
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + size]
        if kind == b"IHDR":
            width, height, bits, colour, *rest = struct.unpack(">IIBBBBB", body)
            assert bits == 8 and not any(rest)
        packed += body if kind == b"IDAT" else b""
        at += 12 + size
    channels = {0: 1, 2: 3}[colour]
    raw = zlib.decompress(packed)
    row, rows = [0] * width * channels, []
    for y in range(height):
        start = y * (width * channels + 1)
        above, row = row, list(raw[start + 1 : start + 1 + width * channels])
        for i in range(len(row)):
            a, b, c = row[i - channels] if i >= channels else 0, above[i], above[i - channels] if i >= channels else 0
            paeth = min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]
            row[i] = (row[i] + (0, a, b, (a + b) // 2, paeth)[raw[start]]) % 256
        rows.append(row)
    return np.array(rows, np.uint8).reshape(height, width, channels)


def test_camvid_is_the_published_one(prepared, mirror: Path) -> None:
    splits, folder = prepared("camvid"), mirror / "camvid-segnet" / "CamVid"
    assert {split: len(examples["image"]) for split, examples in splits.items()} == {
        "train": 56,
        "calib": 6,
        "select": 17,
        "test": 20,
    }
    first = "0001TP_008550.png"
    np.testing.assert_array_equal(splits["test"]["image"][0].transpose(1, 2, 0), read_png(folder / "test" / first))
    np.testing.assert_array_equal(splits["test"]["label_map"][0], read_png(folder / "testannot" / first)[:, :, 0])
    where = {}
    for split, part in (("test", "test"), ("select", "val")):
        listed = (folder.parent / f"camvid_subset_{part}.txt").read_text().split()[::2]
        assert [f"/SegNet/{file}" for file in camvid.SOURCES if file.startswith(f"CamVid/{part}/")] == listed
        for frame, labels in zip(splits[split]["image"], splits[split]["label_map"]):
            assert labels.dtype == np.uint8 and labels.max() <= camvid.VOID
            for kind in np.unique(labels):
                where.setdefault(kind, []).append(
                    (np.nonzero(labels == kind)[0].mean(), frame[:, labels == kind].mean())
                )
    height, grey = ({k: np.mean([pair[i] for pair in pairs]) for k, pairs in where.items()} for i in (0, 1))
    sky, road, car, pavement = (camvid.CLASSES.index(name) for name in ("Sky", "Road", "Car", "Pavement"))
    assert set(where) == set(range(12))
    assert max(height, key=height.get) == road and height[sky] < height[car] and height[pavement] > height[car]
    assert max(grey, key=grey.get) == sky


@pytest.mark.parametrize(
    ("data", "came"),
    [
        (encoded((480, 360), "PNG", "L")[:-5000], ""),
        (encoded((480, 360), "PNG", "RGB"), "PNG of 480 x 360, mode RGB"),
        (encoded((480, 360), "PNG", "P"), "PNG of 480 x 360, mode P"),
        (encoded((360, 480), "PNG", "L"), "PNG of 360 x 480, mode L"),
        (b"", "cannot identify image file"),
        (encoded((480, 360), "PNG", "L")[:60] + b"?" * 200, ""),
    ],
)
def test_a_broken_png_is_refused_by_name(data: bytes, came: str, tmp_path: Path) -> None:
    (tmp_path / "frame.png").write_bytes(data)
    with pytest.raises(
        Refused, match=rf"frame\.png: {came}.*; a whole PNG of 480 x 360, mode L, was expected\. Bring it back"
    ):
        camvid.read_png(tmp_path / "frame.png", "L")


def test_a_label_map_of_unknown_classes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camvid, "SOURCES", {f"CamVid/{part}/a.png": {} for part in ("train", "val", "test")})
    monkeypatch.setattr(camvid, "CALIB", 0)
    for part in ("train", "val", "test"):
        for folder, mode in ((part, "RGB"), (f"{part}annot", "L")):
            (tmp_path / "CamVid" / folder).mkdir(parents=True)
            colour = 12 if (part, mode) == ("val", "L") else 11
            Image.new(mode, (480, 360), (colour,) * 3 if mode == "RGB" else colour).save(
                tmp_path / "CamVid" / folder / "a.png"
            )
    with pytest.raises(Refused, match=r"valannot/a\.png: a pixel of class 12, expected 0 to 11\. Bring it back"):
        camvid.prepare(tmp_path)


# What the stage holds every data set against.


def made() -> Splits:
    text = to_bytes(["one", "two", "three", "four", "five"])
    return {
        "train": {"text": text[:2, :3], "label": np.array([0, 1])},
        "calib": {"text": text[2:3], "label": np.array([0])},
        "select": {"text": text[3:4], "label": np.array([0])},
        "test": {"text": text[4:], "label": np.array([1])},
    }


def test_whole_splits_pass() -> None:
    check_splits("texts", made())


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"test": {"text": to_bytes(["two"], 9), "label": np.array([0])}}, r"^texts: row 0 of test is row 1 of train \(SHA-256 [0-9a-f]{12}…\); every unit was expected once, in one split\. Leave all but one out"),
        ({"train": {"text": to_bytes(["one", "one"]), "label": np.array([0, 1])}}, r"^texts: row 1 of train is row 0 of train"),
        ({"train": {"text": to_bytes(["four", "five"]), "label": np.array([0, 1])}}, r"^texts: row 0 of select is row 0 of train .*, and 1 more;"),
        ({"calib": {"text": np.zeros((0, 4), np.uint8), "label": np.zeros(0, np.int64)}}, r"^texts: calib is empty, at least one unit was expected"),
        ({"calib": {}}, r"^texts: calib is empty"),
        ({"select": {"text": to_bytes(["four"]), "label": np.array([0, 1])}}, r"^texts: select: rows of text 1, label 2 came, as many of each were expected"),
        ({"extra": {"text": to_bytes(["six"])}}, r"^texts: splits train, calib, select, test, extra came, train, calib, select, test were expected"),
    ],
)  # fmt: skip
def test_broken_splits_are_refused(broken: Splits, message: str) -> None:
    with pytest.raises(Refused, match=message):
        check_splits("texts", made() | broken)


def test_a_missing_split_is_refused() -> None:
    splits = made()
    del splits["select"]
    with pytest.raises(Refused, match=r"splits train, calib, test came"):
        check_splits("texts", splits)


@given(
    rows=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)), min_size=4, max_size=12),
    ends=st.tuples(*[st.integers(1, 3)] * 3),
    truth=st.sampled_from(TRUTHS),
)
def test_a_unit_is_all_its_inputs_and_no_truth(
    rows: list[tuple[int, int, int]], ends: tuple[int, ...], truth: str
) -> None:
    ends = np.minimum(np.cumsum(ends), [len(rows) - 3, len(rows) - 2, len(rows) - 1])
    splits = {}
    for split, part in zip(("train", "calib", "select", "test"), np.split(np.array(rows), np.unique(ends))):
        first, second = part[:, :1].astype(np.float32), part[:, 1:2].astype(np.uint8)
        splits[split] = {"first": first, "second": second, truth: part[:, 2]}
    if len(splits) < 4:
        return
    if len({row[:2] for row in rows}) == len(rows):
        check_splits("numbers", splits)
    else:
        with pytest.raises(Refused, match="every unit was expected once"):
            check_splits("numbers", splits)


@given(units=st.dictionaries(st.sampled_from("abc"), st.lists(st.integers(0, 9), max_size=20)))
def test_of_equal_units_the_first_stays(units: dict[str, list[int]]) -> None:
    kept = without_repeats(units)
    stay = {split: [units[split][i] for i in index] for split, index in kept.items()}
    before: list[int] = []
    for split, its_units in units.items():
        assert stay[split] == [unit for i, unit in enumerate(its_units) if unit not in before + its_units[:i]]
        before += its_units


@given(items=st.integers(0, 300), share=st.integers(0, 100))
def test_calib_and_train_are_all_items_once(items: int, share: int) -> None:
    index = cut_calib(items, items * share // 100)
    assert len(index["calib"]) == items * share // 100
    assert sorted(np.concatenate([index["train"], index["calib"]]).tolist()) == list(range(items))


def test_the_stage_writes_real_data_and_says_what_it_has_said_before(mirror: Path, tmp_path: Path) -> None:
    project = replace(load_project(ROOT / "params.yaml"), root=ROOT, build=tmp_path)
    (tmp_path / "download").mkdir()
    (tmp_path / "download" / "sst2").symlink_to(mirror.resolve() / "sst2")
    stage.prepare(project, "sst2")
    folder = tmp_path / "prepare" / "sst2"
    facts = read_json(folder / "data.json")
    assert list(facts) == ["name", "licence", "classes", "network", "scaled", "splits", "sha256"]
    assert facts["classes"] == ["negative", "positive"] and facts["network"] == {"classes": 2} and not facts["scaled"]
    for split, said in facts["splits"].items():
        assert len(load_arrays(folder / f"{split}.npz")["label"]) == said["n"]
        assert hashlib.sha256((folder / f"{split}.npz").read_bytes()).hexdigest() == said["sha256"]


def test_the_stage_refuses_a_unit_that_stands_twice_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = made()
    splits["test"]["text"][0, :4] = splits["select"]["text"][0, :4]
    splits["test"]["text"][0, 4:] = 0
    monkeypatch.setattr(digits, "prepare", lambda raw: splits)
    with pytest.raises(Refused, match=r"^digits: row 0 of test is row 0 of select"):
        stage.prepare(replace(load_project(ROOT / "params.yaml"), build=tmp_path), "digits")
    assert not list(tmp_path.iterdir())
