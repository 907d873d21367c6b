from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import NAME
from onnx import TensorProto, helper, numpy_helper

from deploy.contract import load_arrays
from deploy.errors import Refused
from deploy.files import read_json, sha256
from deploy.numeric import error_max
from deploy.runtimes import open_onnxruntime
from deploy.tasks import classification
from models.gorner import GornerCNN
from models.linear import SoftmaxRegression
from models.scaled import Scaled
from pipeline.export import _opened, check_graph, to_onnx
from pipeline.network import open_pytorch
from pipeline.recipe import Project

OUTPUTS = ("logits",)


def scaled(network: torch.nn.Module) -> Scaled:
    built = Scaled(network, (1, 8, 8))
    built.fit(torch.from_numpy(EXAMPLES["image"]))
    return built.eval()


EXAMPLES = {"image": np.random.default_rng(0).integers(0, 17, (8, 1, 8, 8)).astype(np.uint8)}


@pytest.mark.parametrize(
    "network",
    [SoftmaxRegression((1, 8, 8), 10), GornerCNN((1, 8, 8), 10), GornerCNN((1, 8, 8), 10, (6, 12, 24), 6, 0.3)],
    ids=["softmax", "gorner", "gorner wide"],
)
def test_onnxruntime_answers_as_pytorch_on_random_weights_at_two_batch_sizes(
    network: torch.nn.Module, tmp_path
) -> None:
    network = scaled(network)
    model = to_onnx(network, EXAMPLES, OUTPUTS)
    onnx.save(model, tmp_path / "network.onnx")
    deployed = open_onnxruntime(tmp_path / "network.onnx")
    trained = open_pytorch(network, OUTPUTS)
    for batch in (1, 7):
        feed = {"image": EXAMPLES["image"][:batch]}
        truth = open_pytorch(network.double(), OUTPUTS)(feed)
        network.float()
        assert deployed(feed)["logits"].shape == (batch, 10)
        assert error_max(deployed(feed), truth) <= 10 * error_max(trained(feed), truth) + 1e-7


def test_the_graph_says_what_it_is_and_not_where_it_was_made(project: Project) -> None:
    file = project.build / "export" / NAME / "network.onnx"
    model = onnx.load(file)
    facts = {prop.key: prop.value for prop in model.metadata_props}
    assert facts["recipe"] == NAME
    assert facts["weights_sha256"] == sha256(project.build / "train" / NAME / "weights.safetensors")
    assert str(project.root).encode() not in file.read_bytes()
    assert b"stack_trace" not in file.read_bytes()
    assert read_json(file.parent / "io.json") == {
        "network": {
            "inputs": [{"name": "image", "dtype": "uint8", "shape": ["batch", 1, 8, 8]}],
            "outputs": [{"name": "logits", "dtype": "float32", "shape": ["batch", 10]}],
        }
    }


def test_equal_weights_give_equal_graphs() -> None:
    network = scaled(GornerCNN((1, 8, 8), 10))
    first, again = (to_onnx(network, EXAMPLES, OUTPUTS).SerializeToString() for _ in range(2))
    assert first == again


def test_recorded_answers_are_the_trained_networks(project: Project) -> None:
    answers = {
        dtype: load_arrays(project.build / "export" / NAME / "answers" / f"{dtype}.npz")["logits"]
        for dtype in ("float32", "float64")
    }
    assert answers["float32"].dtype == np.float32 and answers["float64"].dtype == np.float64
    assert answers["float32"].shape == (900, 10)
    assert 0 < np.abs(answers["float32"] - answers["float64"]).max() < 1e-4


class Fixed(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.to(torch.float32).reshape(2, 64)


def test_a_batch_that_is_baked_in_is_refused() -> None:
    with pytest.raises(Refused, match="Fixed cannot be exported"):
        to_onnx(Fixed(), EXAMPLES, OUTPUTS)
    model = to_onnx(Scaled(SoftmaxRegression((1, 8, 8), 10), (1, 8, 8)).eval(), EXAMPLES, OUTPUTS)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    with pytest.raises(Refused, match="image: its axis 0 is fixed at 2, expected the free axis 'batch'"):
        check_graph(model, SoftmaxRegression((1, 8, 8), 10), EXAMPLES, OUTPUTS)


def test_a_graph_that_does_not_run_at_another_batch_is_refused() -> None:
    network = Scaled(SoftmaxRegression((1, 8, 8), 10), (1, 8, 8)).eval()
    model = to_onnx(network, EXAMPLES, OUTPUTS)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT64:  # the shape that Reshape takes: (-1, 64) becomes (2, 64)
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array([2, 64]), tensor.name))
    model.graph.ClearField("value_info")
    with pytest.raises(Refused, match="ONNX's checker refuses|does not run on image"):
        check_graph(model, network, EXAMPLES, OUTPUTS)


def test_a_graph_that_the_checker_refuses_is_refused_in_its_words() -> None:
    network = Scaled(SoftmaxRegression((1, 8, 8), 10), (1, 8, 8)).eval()
    model = to_onnx(network, EXAMPLES, OUTPUTS)
    model.graph.node[-1].input[0] = "nothing makes this"
    with pytest.raises(Refused, match="ONNX's checker refuses the exported graph: .*nothing makes this"):
        check_graph(model, network, EXAMPLES, OUTPUTS)


def test_a_graph_of_other_weights_is_refused() -> None:
    one, other = (Scaled(SoftmaxRegression((1, 8, 8), 10), (1, 8, 8)).eval() for _ in range(2))
    with pytest.raises(Refused, match="from the float64 network, expected at most"):
        check_graph(to_onnx(one, EXAMPLES, OUTPUTS), other, EXAMPLES, OUTPUTS)


def with_grid_sample(tmp_path: Path) -> onnx.ModelProto:
    """A dense layer behind a GridSample, which ONNX's evaluator computes in float32."""
    random = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.linspace(-0.9, 0.9, 8), np.linspace(-0.9, 0.9, 8)), -1)[None].astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Shape", ["image"], ["n"], end=1),
        helper.make_node("Concat", ["n", "ones"], ["often"], axis=0),
        helper.make_node("Expand", ["grid", "often"], ["grids"]),
        helper.make_node("GridSample", ["float", "grids"], ["sampled"]),
        helper.make_node("Flatten", ["sampled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [
            numpy_helper.from_array(grid, "grid"),
            numpy_helper.from_array(np.array([1, 1, 1]), "ones"),
            numpy_helper.from_array(random.normal(size=(64, 10)).astype(np.float32), "weight"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_where_there_is_no_float64_two_ways_of_computing_the_file_are_held_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = with_grid_sample(tmp_path)
    few = {"image": np.random.default_rng(1).integers(0, 17, (4, 1, 8, 8)).astype(np.uint8), "label": np.zeros(4, int)}
    runs = _opened(model, classification, few, "mine")
    assert "mine: no float64 of the file (float64: GridSample: " in capsys.readouterr().out
    answers = {dtype: classification.answer(of_dtype, few)["logits"] for dtype, of_dtype in runs.items()}
    assert answers["float64"].dtype == answers["float32"].dtype == np.float32
    np.testing.assert_allclose(answers["float64"], answers["float32"], rtol=0, atol=1e-3)
