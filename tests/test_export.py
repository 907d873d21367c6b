import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import NAME
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from texts import to_bytes

from deploy.contract import load_arrays
from deploy.errors import Refused
from deploy.files import read_json, sha256
from deploy.numeric import error_max
from deploy.runtimes import open_onnxruntime
from deploy.tasks import classification
from deploy.trt import logger
from models.attention import Encoder
from models.gorner import GornerCNN
from models.linear import SoftmaxRegression
from models.scaled import Scaled
from models.sequence_classifier import RowClassifier
from models.tagger import Tagger
from pipeline import export as export_module
from pipeline.boards.rules import facts
from pipeline.export import SHAPED, _opened, _shapes_from_casts, _with_shapes, check_graph, to_onnx
from pipeline.fp16 import to_fp16
from pipeline.network import open_pytorch
from pipeline.preflight import devices, preflight
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


def rows(batch: int, length: int) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(batch).integers(0, 17, (batch, 1, length, 8)).astype(np.uint8)}


def texts(name: str, batch: int, length: int) -> dict[str, np.ndarray]:
    """Of every length down to 0, as far as ``batch`` goes."""
    return {name: to_bytes([("the 3rd of May '49" * 3)[: max(0, length - 2 * i)] for i in range(batch)], length)}


# What a graph of free sizes is made from: a network, its outputs, and what it is fed.
FREE: dict[str, tuple[Callable[[], torch.nn.Module], tuple[str, ...], Callable[[int, int], dict[str, np.ndarray]]]] = {
    "rows": (lambda: Scaled(RowClassifier((1, 8, 8), 10, "LSTM", units=16), (1, 8, 8)), ("logits",), rows),
    "tagger": (lambda: Tagger(5, "LSTM", size=4, units=6), ("logits",), lambda *size: texts("text", *size)),
    "encoder": (lambda: Encoder(6, 4), ("memory", "state"), lambda *size: texts("source", *size)),
}


def made(name: str) -> tuple[bytes, bytes]:
    """The graph as ``to_onnx`` would make it with shapes of raw inputs, and as it does."""
    build, outputs, feed = FREE[name]
    torch.manual_seed(0)
    network = build()
    if hasattr(network, "fit"):
        network.fit(torch.from_numpy(rows(4, 8)["image"]))
    before: list[onnx.GraphProto] = []
    mended = export_module._shapes_from_casts

    def noted(graph: onnx.GraphProto) -> None:
        before.append(onnx.GraphProto.FromString(graph.SerializeToString()))
        mended(graph)

    export_module._shapes_from_casts = noted
    model = to_onnx(network.eval(), feed(4, 6), outputs)
    after = model.SerializeToString()
    [graph] = before
    model.graph.CopyFrom(graph)
    return _with_shapes(model).SerializeToString(), after


@pytest.fixture(scope="module")
def free() -> dict[str, tuple[bytes, bytes]]:
    """A process each, as the stage has it: an export can bake its sizes into the next one."""
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as processes:
        return dict(zip(FREE, processes.map(made, FREE), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", FREE)
def test_sizes_are_read_from_casts_and_every_answer_is_the_same_to_the_bit(name: str, free) -> None:
    before, after = free[name]
    inputs = {tensor.name for tensor in onnx.load_from_string(after).graph.input}
    asked = [
        [node.input[0] in inputs for node in onnx.load_from_string(data).graph.node if node.op_type == "Shape"]
        for data in (before, after)
    ]
    assert len(asked[0]) == len(asked[1]) and any(asked[0]) and not any(asked[1])
    onnx.checker.check_model(onnx.load_from_string(after), full_check=True)
    for optimise in (True, False):
        one, other = (open_onnxruntime(data, optimise=optimise) for data in (before, after))
        for size in ((1, 1), (4, 6), (9, 13), (2, 40)):
            feed = FREE[name][2](*size)
            said, expected = other(feed), one(feed)
            assert all(np.array_equal(said[key], expected[key]) for key in expected) and set(said) == set(expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", FREE)
def test_no_boards_documents_leave_a_graph_of_free_sizes_in_doubt(name: str, free, tmp_path: Path) -> None:
    before, after = free[name]
    file, half = tmp_path / "fp32.onnx", tmp_path / "fp16.onnx"
    file.write_bytes(before)
    unsure = {device.name for device in devices() if any(x.operator == "Shape" for x in preflight(file, device))}
    assert unsure == {"jetpack-6.1", "jetpack-7.0", "jetpack-6.1-dla"}, "what is mended here is no trouble any more"
    file.write_bytes(after)
    half.write_bytes(to_fp16(file, {})[0])
    for device in devices():
        found = [finding for graph in (file, half) for finding in preflight(graph, device)]
        if device.upgrade:
            assert len(found) == 2 and all(finding.rewrite == device.upgrade for finding in found)
        elif device.unit == "gpu":
            assert not found, device
        else:  # Div is that of Scaled, in float16
            assert {finding.operator for finding in found if finding.severity == "unknown"} <= {"Div"}, device


@pytest.mark.slow
@pytest.mark.parametrize("name", FREE)
def test_nvidias_parser_takes_a_graph_of_free_sizes(name: str, free, tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    file = tmp_path / "fp32.onnx"
    file.write_bytes(free[name][1])
    for data in (free[name][1], to_fp16(file, {})[0]):
        network = trt.Builder(logger(trt)).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger(trt))
        assert parser.parse(data), parser.get_error(0).desc()


INPUTS = {"bytes": TensorProto.UINT8, "small": TensorProto.INT8, "whole": TensorProto.INT64, "real": TensorProto.FLOAT}
TYPES = [TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL, TensorProto.UINT8, TensorProto.INT8]
Node = tuple[str, int, int]


def asking(nodes: list[Node]) -> onnx.ModelProto:
    """Casts of inputs, and shapes of inputs and of what was cast before; every value is an output."""
    built, told = [], []
    values = list(INPUTS)
    for i, (operator, which, to) in enumerate(nodes):
        value = values[which % len(values)]
        built.append(helper.make_node(operator, [value], [f"{i}"], **({"to": to} if operator == "Cast" else {})))
        kind = (to, ["n", 2]) if operator == "Cast" else (TensorProto.INT64, [2])
        told.append(helper.make_tensor_value_info(f"{i}", *kind))
        values += [f"{i}"] if operator == "Cast" else []
    given_ = [helper.make_tensor_value_info(name, kind, ["n", 2]) for name, kind in INPUTS.items()]
    graph = helper.make_graph(built, "g", given_, told)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["Shape", "Cast"]), st.integers(0, 9), st.sampled_from(TYPES)), min_size=1))
@example([("Shape", 0, 1), ("Cast", 2, TensorProto.FLOAT), ("Cast", 0, TensorProto.INT64), ("Cast", 0, 1)])
@example([("Cast", 0, TensorProto.INT8), ("Shape", 4, 1), ("Shape", 0, 1)])
def test_a_shape_is_asked_elsewhere_only_where_that_is_better_and_comes_out_the_same(nodes: list[Node]) -> None:
    before, after = asking(nodes), asking(nodes)
    _shapes_from_casts(after.graph)
    onnx.checker.check_model(after, full_check=True)  # sorted, and of one type everywhere
    raw, good = {"bytes", "small"}, {TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL}
    casts = [n for n in before.graph.node if n.op_type == "Cast" and n.input[0] in raw and n.attribute[0].i in good]
    came = {node.output[0]: node for node in after.graph.node}
    for node in before.graph.node:
        choice = [cast.output[0] for cast in casts if cast.input[0] == node.input[0]] if node.op_type == "Shape" else []
        assert list(came[node.output[0]].input) == [*choice, node.input[0]][:1]
        assert list(came[node.output[0]].attribute) == list(node.attribute)
    if not any(came[node.output[0]] != node for node in before.graph.node):
        assert after.SerializeToString() == before.SerializeToString()
    feed = {
        name: np.arange(6).reshape(3, 2).astype(helper.tensor_dtype_to_np_dtype(kind)) for name, kind in INPUTS.items()
    }
    one, other = (open_onnxruntime(model.SerializeToString(), optimise=False)(feed) for model in (before, after))
    assert set(one) == set(other) and all(np.array_equal(one[key], other[key]) for key in one)


def test_shapes_are_asked_of_the_types_that_tensorrts_documents_name() -> None:
    known = facts("operators.yaml")
    [rule] = known["operators"]["Shape"]["rules"]
    assert {np.dtype(t).name for t in map(helper.tensor_dtype_to_np_dtype, SHAPED)} == set(known["types"][rule["in"]])
