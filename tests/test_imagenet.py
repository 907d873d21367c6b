"""The photographs that ImageNet's networks are timed on, and the table of what came of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.datasets
from PIL import Image
from sklearn.datasets import load_sample_image

from benchmarks.imagenet import absent, parameters, rows
from pipeline.datasets import digits_28, digits_64, photographs
from pipeline.export import to_onnx
from pipeline.network import build_network
from pipeline.recipe import Network
from pipeline.splits import check_splits
from pipeline.uci_digits import prepare_digits


@pytest.fixture
def raw() -> Path:
    return Path(sklearn.datasets.__file__).parent / "images"


def test_every_piece_is_cut_out_of_its_photograph_and_none_occurs_twice(raw: Path) -> None:
    splits = photographs.prepare(raw)
    check_splits("photographs", splits)
    assert {split: len(arrays["label"]) for split, arrays in splits.items()} == photographs.SPLITS
    whole = [load_sample_image(name).transpose(2, 0, 1) for name in ("china.jpg", "flower.jpg")]
    assert {int(label) for arrays in splits.values() for label in arrays["label"]} == {0, 1}
    for image, label in zip(splits["calib"]["image"], splits["calib"]["label"]):
        windows = np.lib.stride_tricks.sliding_window_view(whole[label][0], (8, 8))
        places = np.argwhere((windows == image[0, :8, :8]).all((2, 3)))
        assert any(np.array_equal(whole[label][:, y : y + 224, x : x + 224], image) for y, x in places)


@pytest.mark.parametrize("dataset", [digits_28, digits_64])
def test_enlarged_digits_have_the_small_ones_splits_and_shrink_to_them(dataset: Any, raw: Path) -> None:
    folder = raw.parent / "data"
    small, large = prepare_digits(folder), dataset.prepare(folder)
    check_splits("digits", large)
    side = dataset.NETWORK["shape"][1]
    for split, arrays in large.items():
        assert arrays["image"].shape == (len(small[split]["label"]), 1, side, side)
        np.testing.assert_array_equal(arrays["label"], small[split]["label"])
    box = [Image.fromarray(image[0]).resize((8, 8), Image.Resampling.BOX) for image in large["calib"]["image"]]
    n = len(box)
    alike = np.corrcoef(np.array(box).reshape(n, -1), small["calib"]["image"].reshape(n, -1))[:n, n:]
    np.testing.assert_array_equal(alike.argmax(1), np.arange(n))  # each is most like the one that it was made of
    assert alike.diagonal().min() > 0.9


def measurement() -> dict[str, Any]:
    target = {"reason": "", "latency_s": [0.002, 0.004, 0.003], "size_bytes": 2_500_000, "error_max": 6e-6}
    return {
        "trained": {
            "latency": {"cpu": {"latency_s": [0.01, 0.012, 0.014]}},
            "predicted": [1, 2, 3, 4],
            "error_max": 2e-6,
            "rounding": 1e-6,
        },
        "targets": {
            "onnxruntime-cpu-fp32": target | {"predicted": [1, 2, 3, 9]},
            "tensorrt-fp32": {"reason": "no GPU"},
            "tensorrt-fp16": {"reason": "no GPU"},
        },
    }


def test_a_row_says_latency_error_and_agreement_against_pytorch() -> None:
    assert rows("net", measurement(), 1_234_567) == [
        ["net", "1,234,567", "12.0 ms", "onnxruntime-cpu-fp32", "3.0 ms", "0.25", "2.5 MB", "3.0", "75 %"]
    ]
    assert absent([measurement(), measurement()]) == "4 of tensorrt"


def test_a_graphs_parameters_are_the_networks(tmp_path: Path) -> None:
    facts = {"network": {"shape": [1, 8, 8], "classes": 10}, "scaled": False}
    network = build_network(Network("linear", "SoftmaxRegression"), facts).eval()
    model = to_onnx(network, {"image": np.zeros((2, 1, 8, 8), np.float32)}, ("logits",))
    (tmp_path / "network.onnx").write_bytes(model.SerializeToString())
    assert parameters(tmp_path / "network.onnx") == 650
