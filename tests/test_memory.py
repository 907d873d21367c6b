import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploy import memory
from deploy.contract import Bundle
from deploy.memory import measure_memory
from deploy.run import Run
from deploy.targets import Target, targets

MIB = 2**20
HOST = {"gpus": [], "gpu_error": "none"}


def linear_target(folder: Path, width: int) -> Target:
    """A target whose graph is one matrix ``(width, width)`` of float32."""
    weight = np.random.default_rng(0).standard_normal((width, width), dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["features", "weight"], ["logits"])],
        "linear",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", width])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "network.onnx")
    io = {
        "inputs": [{"name": "features", "dtype": "float32", "shape": ["batch", width]}],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": ["batch", width]}],
    }
    files = {"network.onnx": {"sha256": "", "bytes": 0}}
    graphs = {"fp32": {"network": "network.onnx"}}
    bundle = Bundle(folder, "r", "classification", (), {"network": io}, graphs, {}, files, {}, "")
    [target] = [row for row in targets(bundle, HOST, folder, {}) if row.name == "onnxruntime-cpu-fp32"]
    return target


def examples(width: int) -> dict[str, np.ndarray]:
    return {"features": np.ones((5, width), np.float32), "label": np.zeros(5, np.int64)}


def test_a_weight_of_64_mib_is_seen_and_not_thrice(tmp_path: Path) -> None:
    facts = measure_memory(linear_target(tmp_path, 4096), "classification", examples(4096))
    assert facts["memory_reason"] == "" and facts["device_memory_bytes"] is None
    assert 64 * MIB <= facts["memory_bytes"] < 3 * 64 * MIB


def test_a_tiny_graph_takes_little_however_much_this_process_holds(tmp_path: Path) -> None:
    held = np.ones(300 * MIB // 8)  # an inherited peak would hide all growth
    facts = measure_memory(linear_target(tmp_path, 8), "classification", examples(8))
    assert 0 < facts["memory_bytes"] < 32 * MIB
    assert held.nbytes == 300 * MIB


def target(open_: Callable[[], dict[str, Run]]) -> Target:
    return Target("t", "fp32", "cpu", {}, open_)


@pytest.mark.parametrize(
    ("open_", "reason"),
    [
        (partial(os._exit, 3), "the process that measures it ended with status 3: without a word"),
        (partial(signal.raise_signal, signal.SIGKILL), "ended with status -9"),
        (partial(int, "x"), "ended with status 1: ValueError: invalid literal for int"),
        (lambda: {}, "it cannot be handed to the process that would measure it"),
    ],
    ids=["exits", "is killed", "raises", "cannot be started"],
)
def test_a_child_that_dies_is_a_reason(open_: Callable[[], dict[str, Run]], reason: str) -> None:
    facts = measure_memory(target(open_), "classification", examples(8))
    assert facts["memory_bytes"] is None and facts["device_memory_bytes"] is None
    assert reason in facts["memory_reason"]


def test_a_graph_that_is_gone_is_told_in_the_runtimes_words(tmp_path: Path) -> None:
    gone = linear_target(tmp_path, 8)
    (tmp_path / "network.onnx").unlink()
    facts = measure_memory(gone, "classification", examples(8))
    assert facts["memory_bytes"] is None
    assert "network.onnx: onnxruntime cannot open this graph" in facts["memory_reason"]


def test_a_child_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PATIENCE", 1.0)
    start = time.monotonic()
    facts = measure_memory(target(partial(time.sleep, 60)), "classification", examples(8))
    assert time.monotonic() - start < 20
    assert facts["memory_bytes"] is None and "was ended after 1 s" in facts["memory_reason"]
