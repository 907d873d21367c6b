"""prepare"""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from deploy.contract import load_arrays, pack_arrays
from deploy.errors import Refused
from deploy.files import read_json
from pipeline.datasets import digits
from pipeline.recipe import Project
from pipeline.splits import split_by_class
from pipeline.uci_digits import SPLITS


def test_digits_are_scikit_learns(project: Project) -> None:
    splits = digits.prepare(project.build / "download" / "digits").values()
    oracle = load_digits()
    expected = {image.tobytes(): label for image, label in zip(oracle.images.astype(np.uint8), oracle.target)}
    came = {image.tobytes(): label for split in splits for image, label in zip(split["image"][:, 0], split["label"])}
    assert came == expected


def test_prepared_splits_are_disjoint_whole_and_hashed(project: Project) -> None:
    folder = project.build / "prepare" / "digits"
    facts = read_json(folder / "data.json")
    seen: set[bytes] = set()
    for split, size in SPLITS.items():
        arrays = load_arrays(folder / f"{split}.npz")
        assert len(arrays["label"]) == size == facts["splits"][split]["n"]
        images = {image.tobytes() for image in arrays["image"]}
        assert len(images) == size
        assert not seen & images
        seen |= images
        fair = np.bincount(load_digits().target) * size / 1797
        assert np.abs(np.bincount(arrays["label"], minlength=10) - fair).max() < 2
    assert len(seen) == 1797


@given(
    label=st.lists(st.integers(0, 4), min_size=8, max_size=200).map(np.array),
    shares=st.lists(st.integers(0, 50), min_size=1, max_size=4),
)
def test_splits_are_disjoint_and_proportional(label: np.ndarray, shares: list[int]) -> None:
    sizes = {f"s{i}": share for i, share in enumerate(shares)}
    if sum(shares) > len(label):
        with pytest.raises(Refused, match="Make them smaller"):
            split_by_class(label, sizes)
        return
    parts = split_by_class(label, sizes)
    index = np.concatenate(list(parts.values()))
    assert len(set(index.tolist())) == len(index) == sum(shares)
    for split, part in parts.items():
        assert len(part) == sizes[split]
        for value in np.unique(label):
            fair = (label == value).mean() * len(part)
            assert abs((label[part] == value).sum() - fair) <= 1 + len(np.unique(label)) / 2
    again = split_by_class(label, sizes)
    assert all((parts[split] == again[split]).all() for split in sizes)


def test_equal_arrays_give_equal_bytes_and_objects_are_refused(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6).reshape(2, 3), "b": np.array([1.5])}
    assert pack_arrays(arrays) == pack_arrays(arrays)
    np.savez(tmp_path / "evil.npz", a=np.array([{"code": "runs"}], dtype=object))
    with pytest.raises(Refused, match=r"evil\.npz: damaged, or no \.npz of plain arrays"):
        load_arrays(tmp_path / "evil.npz")
    (tmp_path / "short.npz").write_bytes(pack_arrays(arrays)[:-20])
    with pytest.raises(Refused, match=r"short\.npz: damaged"):
        load_arrays(tmp_path / "short.npz")
