"""The data set of scikit-learn's own source, and how its files are packed"""

import hashlib
import io
import os
import tarfile
import tokenize
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from deploy.errors import Refused
from pipeline.datasets import python_source
from pipeline.datasets.python_source import CLASSES, label
from pipeline.pack import pack_files

SOURCE = python_source.SOURCES["sklearn.tar"]
SIGNS = dict(zip("wkn1sco", CLASSES))

# Each piece of a source begins with the sign of its class: whitespace, keyword, name, 1 a number, string, comment, operator.
PIECES = [
    ["kif", "w ", "nx", "o:", "w ", "kreturn", "w ", "11.5e3", "w  ", "c# so", "w\n"],
    ["nmatch", "w ", "o=", "w ", "n_", "w ", "o+", "w ", "ntype", "w\n"],
    ["na", "w ", "o=", "w ", "sb'x'", "w ", 'srb"y"', "w\n"],
    ["nx", "o=", "10xFF_FF", "o+", "11j", "o@", "ny", "o-", "10", "w\n"],
    ["kdef", "w ", "nf", "o(", "o**", "nk", "o)", "o->", "kNone", "o:", "w\n    ", "o...", "w\n"],
    ["nx", "o=", "11", "w ", "o+", "w \\\n    ", "12", "w\n\n\t\n", "ny"],
    ["né", "w ", "o=", "w ", "s'ü€'", "w ", "c# ñ", "w\n", "kpass", "w\n"],
    ["ns", "o=", 's"""a\n# b\nc"""', "w ", "c# d"],
    # An f-string is a string from end to end, whatever is in it.
    ["sf'a{b}c'", "w\n"],
    ["sf'{a[\"k\"]}'", "o+", "nx", "w\n"],
    ["sF'{a:>{width}.2f}!'", "w ", "o;", "w ", "nb", "w\n"],
    ["sf'{{a}} {b!r}'", "w ", "c# {c}", "w\n"],
    ["sf'{a=}{x if y else 1}'", "sf''", "w\n"],
    ['srf"""a {b\n + 1} # c\n{{d\n"""', "o;", "ne", "w\n"],
    ["nx", "o=", "sf'{f\"{y:{1}}\"}'", "o+", "sf'é{z}€'", "w ", "s'é'", "w\n", "nq", "w\n"],
]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("download")
    (folder / "sklearn.tar").write_bytes(packed())
    return folder


@pytest.fixture(scope="module")
def examples(raw: Path) -> dict[str, dict[str, np.ndarray]]:
    return python_source.prepare(raw)


def package() -> Path:
    spec = find_spec(SOURCE["package"])
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def packed() -> bytes:
    return pack_files(package(), SOURCE["files"], SOURCE["without"])


@pytest.mark.parametrize("pieces", PIECES, ids="".join)
def test_labels_are_those_written_by_hand(pieces: list[str]) -> None:
    text = "".join(piece[1:] for piece in pieces)
    expected = [SIGNS[piece[0]] for piece in pieces for _ in piece[1:]]
    assert [CLASSES[i] for i in label(text)[0]] == expected


def test_statements_begin_at_the_left_margin_and_outside_of_strings() -> None:
    text = '"""a\nb = 1\n"""\n# c\nd = (\n1\n)\nif d: e\nelse:\n    f\n\n@g\ndef h(): pass\n'
    lines = [text[at:].partition("\n")[0] for at in label(text)[1]]
    assert lines == ['"""a', "d = (", "if d: e", "else:", "@g", "def h(): pass"]


def test_bytes_of_a_character_share_its_class() -> None:
    source = python_source._source("x = 'é€' # ñ\nyé = 1\n".encode())
    assert "".join("wkn1sco"[i] for i in source.token) == "nwow" + "s" * 7 + "w" + "cccc" + "w" + "nnn" + "wow1w"
    np.testing.assert_array_equal(source.beginnings, [0, 17])


def test_splits_are_disjoint_whole_and_padded_at_the_end(raw: Path, examples: dict[str, dict[str, np.ndarray]]) -> None:
    with tarfile.open(raw / "sklearn.tar") as tar:
        files = [tar.extractfile(entry).read() for entry in tar]
    assert {split: len(arrays["text"]) for split, arrays in examples.items()} == (
        python_source.SPLITS | {"train": python_source.PASSAGES}
    )
    seen: dict[bytes, str] = {}  # a file that holds a passage of one split holds none of another
    for split, arrays in examples.items():
        assert arrays["text"].dtype == arrays["token"].dtype == np.uint8
        assert arrays["text"].shape == arrays["token"].shape == (len(arrays["text"]), python_source.PASSAGE[split])
        there = arrays["text"] != 0
        assert (np.diff(there.astype(int), axis=1) <= 0).all() and there[:, :200].all()
        assert set(np.unique(arrays["token"])) == set(range(len(CLASSES)))
        assert not arrays["token"][~there].any()
        passages = {bytes(row[row != 0]) for row in arrays["text"]}
        assert len(passages) == len(arrays["text"])
        if split != "train":
            assert all(passage.endswith(b"\n") and len(passage) > 900 for passage in passages)
            for passage in passages:
                homes = [data for data in files if passage in data]
                assert len(homes) == 1
                assert homes[0] not in seen
                seen[homes[0]] = split
    train = {bytes(row) for row in examples["train"]["text"]}
    cuts = {bytes(data[at : at + 256]) for data in seen for at in range(0, len(data) - 255, 256)}
    assert len(train & cuts) <= 5  # lists of imports that two files share word for word


def test_a_passage_is_labelled_as_its_whole_file_is(examples: dict[str, dict[str, np.ndarray]]) -> None:
    """What a passage begins with needs nothing before it: its own labels are the same, but for a string it cuts."""
    for text, truth in zip(examples["select"]["text"], examples["select"]["token"]):
        passage = bytes(text[text != 0])
        lines = passage.splitlines(keepends=True)
        for end in range(len(lines), 0, -1):  # the longest beginning that is whole
            try:
                source = python_source._source(b"".join(lines[:end]))
                break
            except (tokenize.TokenError, IndentationError):
                continue
        np.testing.assert_array_equal(source.token, truth[: len(source.token)])


def test_prepare_is_the_same_every_time(raw: Path, examples: dict[str, dict[str, np.ndarray]]) -> None:
    again = python_source.prepare(raw)
    for split, arrays in examples.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(again[split][name], array)


def test_the_archive_is_the_pinned_one_and_holds_nothing_but_names_and_bytes(raw: Path) -> None:
    data = (raw / "sklearn.tar").read_bytes()
    assert hashlib.sha256(data).hexdigest() == SOURCE["sha256"]
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        entries = tar.getmembers()
    names = [entry.name for entry in entries]
    assert names == sorted(names) and "base.py" in names and "linear_model/_base.py" in names
    assert not [name for name in names if name.startswith("externals/") or name == "_distributor_init.py"]
    assert {(e.mtime, e.mode, e.uid, e.gid, e.uname, e.gname) for e in entries} == {(0, 0o644, 0, 0, "", "")}


def test_equal_files_pack_to_equal_bytes(tmp_path: Path) -> None:
    for folder, newline in (("linux", b"\n"), ("windows", b"\r\n")):
        for name in ("b/x.py", "a.py", "b.py", "skip/y.py", "z.txt"):
            file = tmp_path / folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(name.encode() + newline)
    os.utime(tmp_path / "linux" / "a.py", (1, 1))
    (tmp_path / "linux" / "b.py").chmod(0o600)
    linux, windows = (pack_files(tmp_path / folder, "**/*.py", ("skip/*",)) for folder in ("linux", "windows"))
    assert linux == windows
    with tarfile.open(fileobj=io.BytesIO(linux)) as tar:
        assert {entry.name: tar.extractfile(entry).read() for entry in tar} == {
            "a.py": b"a.py\n",
            "b.py": b"b.py\n",
            "b/x.py": b"b/x.py\n",
        }
    with pytest.raises(Refused, match=r"no file matches '\*\*/\*\.rs', less skip/\*"):
        pack_files(tmp_path, "**/*.rs", ("skip/*",))
