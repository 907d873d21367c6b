"""What the hard shapes need of export and quantisation: free lengths, several graphs, folding, recurrent layers in int8."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from deploy.errors import Refused
from deploy.runtimes import open_onnxruntime
from deploy.state import carried, from_zero
from models.resnet import CifarResNet
from models.scaled import Scaled
from models.sequence_classifier import RowClassifier
from pipeline.export import check_graph, example_feeds, to_onnx
from pipeline.fp16 import to_fp16
from pipeline.int8 import _alike, float_layers, residual_additions, to_int8
from pipeline.network import graphs, open_pytorch

DIGIT = {"image": np.random.default_rng(0).integers(0, 17, (6, 1, 8, 8)).astype(np.uint8)}


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = Scaled(CifarResNet((1, 8, 8), 10, blocks=1, width=8), (1, 8, 8))
    network.fit(torch.from_numpy(DIGIT["image"]))
    for _ in range(20):  # batch normalisation with statistics of its own
        network(torch.from_numpy(DIGIT["image"]))
    path = tmp_path_factory.mktemp("resnet") / "network.onnx"
    model = to_onnx(network.eval(), DIGIT, ("logits",))
    check_graph(model, network, DIGIT, ("logits",))
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = Scaled(RowClassifier((1, 8, 8), 10, "LSTM", units=16), (1, 8, 8)).eval()
    path = tmp_path_factory.mktemp("rows") / "network.onnx"
    model = to_onnx(network, DIGIT, ("logits",))
    check_graph(model, network, DIGIT, ("logits",))
    onnx.save(model, path)
    return path


def kinds(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def shape(model: onnx.ModelProto, name: str) -> list[str | int]:
    [tensor] = [t for t in [*model.graph.input, *model.graph.output] if t.name == name]
    return [d.dim_param or d.dim_value for d in tensor.type.tensor_type.shape.dim]


def test_batch_normalisation_is_folded_into_the_convolutions(resnet: Path) -> None:
    assert kinds(resnet)["Conv"] == 7 and kinds(resnet)["BatchNormalization"] == 0


def test_residual_additions_are_found_and_their_branch_is_the_longer_way(resnet: Path) -> None:
    model = onnx.load(resnet)
    branches = residual_additions(model)
    made_by = {output: node.op_type for node in model.graph.node for output in node.output}
    assert len(branches) == 3 and {made_by[branch] for branch in branches.values()} == {"Conv"}


@pytest.mark.parametrize("precision", ["int8-cpu", "int8-tensorrt"])
def test_additions_are_quantized_on_both_sides_or_on_one(resnet: Path, precision: str, tmp_path: Path) -> None:
    """The candidate that wins is what its facts say, and float layers are where the CPU cannot fuse."""
    residual = residual_additions(onnx.load(resnet))
    for wanted in ("both sides", "the shortcut's side"):

        def judge(path: Path, wanted: str = wanted) -> tuple[float, float]:
            model = onnx.load(path)
            additions = [node for node in model.graph.node if node.name in residual]
            is_both = all("DequantizeLinear" in name for node in additions for name in node.input)
            assert len(additions) == 3
            return (1.0 if is_both == (wanted == "both sides") else 0.0), 0.0

        model, facts = to_int8(resnet, precision, [DIGIT], judge, True)
        best = facts["candidates"][0]
        assert best["additions"] == wanted
        (tmp_path / "best.onnx").write_bytes(model)
        if precision == "int8-cpu":
            left = [layer for layer in float_layers(tmp_path / "best.onnx") if "Conv" in layer]
            assert best["float_layers"] == len(float_layers(tmp_path / "best.onnx"))
            assert len(left) == (0 if wanted == "both sides" else 3)


def test_lstm_becomes_onnxruntimes_own_int8_lstm(rows: Path, tmp_path: Path) -> None:
    exact = open_onnxruntime(rows)(DIGIT)["logits"]

    def judge(path: Path) -> tuple[float, float]:
        return 0.0, float(np.abs(open_onnxruntime(path)(DIGIT)["logits"] - exact).mean())

    model, facts = to_int8(rows, "int8-cpu", [DIGIT], judge, True)
    (tmp_path / "int8.onnx").write_bytes(model)
    assert kinds(rows)["LSTM"] == 1
    assert kinds(tmp_path / "int8.onnx")["DynamicQuantizeLSTM"] == 1 and kinds(tmp_path / "int8.onnx")["LSTM"] == 0
    assert len(facts["candidates"]) == 2 and not any("reason" in candidate for candidate in facts["candidates"])
    run = open_onnxruntime(tmp_path / "int8.onnx")
    for batch, length in ((1, 8), (5, 3), (2, 11)):
        image = np.random.default_rng(1).integers(0, 17, (batch, 1, length, 8)).astype(np.uint8)
        assert np.abs(run({"image": image})["logits"] - open_onnxruntime(rows)({"image": image})["logits"]).max() < 0.05


def test_int8_of_a_recurrent_layer_is_refused_for_tensorrt_by_name(rows: Path) -> None:
    with pytest.raises(
        Refused, match=r"network\.onnx: LSTM 'node_lstm.*': TensorRT has no int8 form of it.*Deploy fp16 there"
    ):
        to_int8(rows, "int8-tensorrt", [DIGIT], lambda path: (0.0, 0.0), True)


def test_rows_are_a_free_axis_of_the_graph(rows: Path) -> None:
    assert shape(onnx.load(rows), "image") == ["batch", 1, "time", 8]


class BakedIn(nn.Module):
    axes = {"image": {2: "time"}}

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        state = torch.zeros(image.shape[0], 8)
        for t in range(8):  # as nn.RNN is exported: unrolled
            state = torch.tanh(state + image[:, 0, t].to(torch.float32))
        return state if image.shape[2] == 8 else state * 2


def test_a_length_that_is_baked_in_is_refused() -> None:
    with pytest.raises(Refused, match="BakedIn cannot be exported"):
        to_onnx(BakedIn(), DIGIT, ("logits",))


class Lengthwise(nn.Module):
    axes = {"x": {1: "time"}}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


def test_a_length_that_is_noted_as_fixed_is_refused() -> None:
    x = {"x": np.ones((3, 6), np.float32)}
    model = to_onnx(Lengthwise(), x, ("y",))
    assert shape(model, "y") == ["batch", "time"]
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 6
    with pytest.raises(Refused, match=r"on x \[2, 1\] y is \[2, 1\], and the graph says that it is \[0, 6\]"):
        check_graph(model, Lengthwise(), x, ("y",))


def test_a_float16_transpose_before_a_product_does_not_kill_the_process(tmp_path: Path) -> None:
    """ONNX Runtime 1.31 dies of it where the graph is opened: so it is opened in a process of its own."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Transpose", ["x"], ["turned"], "turn", perm=[1, 0, 2]),
            helper.make_node("MatMul", ["turned", "w"], ["y"], "multiply"),
        ],
        "g",
        [value("x", TensorProto.FLOAT, ["time", "batch", 5])],
        [value("y", TensorProto.FLOAT, ["batch", "time", 7])],
        [numpy_helper.from_array(np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "x.onnx")
    half, _ = to_fp16(tmp_path / "x.onnx", {})
    (tmp_path / "half.onnx").write_bytes(half)
    code = f"""
import numpy as np, pathlib
from deploy.runtimes import open_onnxruntime
x = np.arange(30, dtype=np.float32).reshape(2, 3, 5) / 30
a, b = (open_onnxruntime(pathlib.Path({str(tmp_path)!r}) / f)({{"x": x}})["y"] for f in ("x.onnx", "half.onnx"))
assert np.abs(a - b).max() < 1e-2
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


class Pair(nn.Module):
    """Two graphs: the second takes the first's output, and a state."""

    class First(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1

    class Second(nn.Module):
        def forward(self, y: torch.Tensor, state: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
            state = torch.zeros_like(y) if state is None else state
            return y + state, state + 1

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = self.First(), self.Second()


class Task:
    outputs = {"first": ("y",), "second": ("z", "next_state")}

    @staticmethod
    def answer(runs: dict, examples: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        y = runs["first"]({"x": examples["x"]})["y"]
        said = runs["second"]({"y": y})
        return runs["second"]({"y": y} | carried(said))


def test_each_graph_is_a_part_and_is_shown_what_the_task_feeds_it() -> None:
    examples = {"x": np.ones((4, 2), np.float32)}
    feeds = example_feeds(Pair(), Task.outputs, Task, examples)
    assert list(feeds["first"]) == ["x"] and set(feeds["second"]) == {"y", "state"}
    np.testing.assert_array_equal(feeds["second"]["y"], 2 * examples["x"])
    np.testing.assert_array_equal(feeds["second"]["state"], examples["x"])
    with pytest.raises(
        Refused, match="Pair: no part 'third', which the task runs as a graph of its own. Its parts are first, second"
    ):
        graphs(Pair(), {"third": ("a",)})


def test_a_state_that_is_not_given_starts_at_zero_in_pytorch_and_deployed(tmp_path: Path) -> None:
    part, y = Pair().second, np.full((3, 2), 5, np.float32)
    model = to_onnx(part, {"y": y, "state": y}, ("z", "next_state"))
    io = {
        "inputs": [{"name": n, "dtype": "float32", "shape": ["batch", 2]} for n in ("y", "state")],
        "outputs": [{"name": n, "dtype": "float32", "shape": ["batch", 2]} for n in ("z", "next_state")],
    }
    deployed = from_zero(open_onnxruntime(model.SerializeToString()), io)
    for run in (deployed, open_pytorch(part, ("z", "next_state"))):
        first = run({"y": y})
        np.testing.assert_array_equal(first["z"], y)
        np.testing.assert_array_equal(run({"y": y} | carried(first))["z"], y + 1)
    stateless = open_onnxruntime(model.SerializeToString())
    assert from_zero(stateless, {"inputs": io["inputs"], "outputs": io["outputs"][:1]}) is stateless


def test_a_graph_of_another_network_is_refused(rows: Path) -> None:
    other = Scaled(RowClassifier((1, 8, 8), 10, "LSTM", units=16), (1, 8, 8)).eval()
    with pytest.raises(Refused, match="from the float64 network, expected at most"):
        check_graph(onnx.load(rows), other, DIGIT, ("logits",))


def test_an_axis_of_another_name_is_refused(rows: Path) -> None:
    model = onnx.load(rows)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "s77"
    with pytest.raises(Refused, match="image: its axis 2 is called 's77', expected the free axis 'time'"):
        check_graph(model, Scaled(RowClassifier((1, 8, 8), 10, "LSTM", units=16), (1, 8, 8)).eval(), DIGIT, ("logits",))


def test_histograms_are_of_the_commonest_length() -> None:
    feeds = [{"x": np.zeros((n, length))} for n, length in ((2, 5), (1, 7), (9, 3), (4, 5), (4, 7))]
    assert [feed["x"].shape for feed in _alike(feeds)] == [(9, 3)]
    assert [feed["x"].shape for feed in _alike(feeds[:2] + feeds[3:])] == [(2, 5), (4, 5)]
