import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import NAME
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from deploy.contract import load_arrays, pack_arrays
from deploy.errors import Refused
from deploy.files import read_json, write_bytes, write_json
from deploy.runtimes import open_onnxruntime
from pipeline.feeds import recorded_feeds
from pipeline.fp16 import to_fp16
from pipeline.int8 import CALIBRATIONS, WEIGHTS, Nothing, to_int8
from pipeline.quantize import check_calibration, quantize
from pipeline.ranges import activation_ranges
from pipeline.recipe import Project


def initializers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def quantized(project: Project, precision: str) -> onnx.ModelProto:
    return onnx.load(project.build / "quantize" / NAME / precision / "network.onnx")


def test_int8_graphs_are_of_the_form_that_each_runtime_takes(project: Project) -> None:
    for precision, zero_points in (("int8-cpu", np.uint8), ("int8-tensorrt", np.int8)):
        model = quantized(project, precision)
        values = initializers(model)
        activations = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
        assert len(activations) == 5  # the input of each of the five layers
        for node in activations:
            assert values[node.input[2]].dtype == zero_points
        if precision == "int8-tensorrt":
            points = [values[node.input[2]] for node in model.graph.node if node.op_type.endswith("quantizeLinear")]
            points += [values[node.input[2]] for node in activations]
            assert all((point == 0).all() for point in points)
            assert not any(array.dtype == np.int32 for array in values.values())  # no quantized bias
        last = model.graph.node[-1]
        assert last.op_type == "Gemm" and last.output[0] == "logits"  # the answers themselves are not quantized


def test_weights_of_int8_are_stored_in_eight_bits(project: Project) -> None:
    for precision in ("int8-cpu", "int8-tensorrt"):
        tensors = initializers(quantized(project, precision)).values()
        assert not [
            a for a in tensors if a.dtype == np.float32 and a.ndim > 1 and a.size > 1
        ]  # one number: the scaling


def test_fp16_graph_computes_in_fp16_and_keeps_its_interface(project: Project) -> None:
    model = quantized(project, "fp16")
    assert {a.dtype for a in initializers(model).values() if a.ndim > 1} == {np.dtype(np.float16)}
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT


def large(gain: float) -> onnx.ModelProto:
    """``y = (x * gain) / gain`` on float input: its middle is as large as ``gain`` makes it."""
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "gain"], ["grown"], "grow"),
            helper.make_node("Div", ["grown", "gain"], ["shrunk"], "shrink"),
            helper.make_node("Identity", ["shrunk"], ["y"], "last"),
        ],
        "large",
        [tensor("x", TensorProto.FLOAT, ["batch", 4])],
        [tensor("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(np.float32(gain), "gain")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(("gain", "kept"), [(10.0, []), (60_000.0, ["grow", "shrink"]), (1e6, ["grow", "shrink"])])
def test_layers_near_the_end_of_fp16_stay_in_fp32(tmp_path: Path, gain: float, kept: list[str]) -> None:
    onnx.save(large(gain), tmp_path / "large.onnx")
    examples = {"x": np.linspace(-1.0, 1.0, 40, dtype=np.float32).reshape(10, 4)}
    ranges = activation_ranges(tmp_path / "large.onnx", [examples])
    assert ranges["grown"] == pytest.approx([-gain, gain])
    model, facts = to_fp16(tmp_path / "large.onnx", ranges)
    assert facts == {"float32": kept}
    # ONNX's reference evaluator computes float16 as float16, as a GPU does; ONNX Runtime's CPU would hide an overflow.
    [answers] = ReferenceEvaluator(onnx.load_from_string(model)).run(None, examples)
    np.testing.assert_allclose(answers, examples["x"], atol=2e-3)


def test_without_the_ranges_that_graph_overflows(tmp_path: Path) -> None:
    """The check above can fail."""
    onnx.save(large(1_000.0), tmp_path / "large.onnx")
    model, facts = to_fp16(tmp_path / "large.onnx", {"grown": [0.0, 0.0]})
    assert facts == {"float32": []}
    with np.errstate(over="ignore"):
        [answers] = ReferenceEvaluator(onnx.load_from_string(model)).run(None, {"x": np.full((1, 4), 100, np.float32)})
    assert np.isinf(answers).all()


def test_an_output_that_the_graph_reads_too_is_converted(tmp_path: Path) -> None:
    """The converter would hand the reader its float32, and weights in float16 beside it."""
    value = helper.make_tensor_value_info
    weights = np.random.default_rng(0).standard_normal((3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["memory"], "read"),
        helper.make_node("Gemm", ["memory", "w"], ["state"], "bridge"),
    ]
    ends = [value(name, TensorProto.FLOAT, ["batch", 3]) for name in ("x", "memory", "state")]
    graph = helper.make_graph(nodes, "both", ends[:1], ends[1:], [numpy_helper.from_array(weights, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), tmp_path / "x.onnx")
    half, facts = to_fp16(tmp_path / "x.onnx", {})
    x = np.random.default_rng(1).standard_normal((5, 3)).astype(np.float32)
    came = open_onnxruntime(half)({"x": x})
    assert list(came) == ["memory", "state"] and facts == {"float32": []}
    np.testing.assert_allclose(came["memory"], x @ weights, rtol=0, atol=2e-2)
    np.testing.assert_allclose(came["state"], x @ weights @ weights, rtol=0, atol=5e-2)


def test_a_weight_beyond_fp16_is_not_clipped(tmp_path: Path) -> None:
    onnx.save(large(1e6), tmp_path / "large.onnx")
    model, facts = to_fp16(tmp_path / "large.onnx", {"grown": [0.0, 0.0]})
    assert facts == {"float32": ["grow", "shrink"]}
    assert float(initializers(onnx.load_from_string(model))["gain"]) == 1e6


def test_ranges_are_those_of_a_second_implementation(project: Project) -> None:
    """PyTorch's own activations, by hooks."""
    from pipeline.network import load_network

    ranges = read_json(project.build / "quantize" / NAME / "ranges.json")["network"]
    recipe = project.recipe(NAME)
    data = project.build / "prepare" / "digits"
    network = load_network(
        recipe.network, read_json(data / "data.json"), project.build / "train" / NAME / "weights.safetensors"
    )
    import torch

    seen = {}
    for name, module in network.named_modules():
        module.register_forward_hook(
            lambda _, __, out, name=name: seen.__setitem__(name, (float(out.min()), float(out.max())))
        )
    with torch.inference_mode():
        network(torch.from_numpy(load_arrays(data / "calib.npz")["image"]))
    found = list(ranges.values())
    for layer in ("network.conv1", "network.conv2", "network.conv3", "network.dense", "network.output"):
        assert any(pair == pytest.approx(seen[layer], rel=1e-4, abs=1e-4) for pair in found), layer


def test_an_activation_that_is_not_finite_is_named(tmp_path: Path) -> None:
    onnx.save(large(3e38), tmp_path / "large.onnx")
    with pytest.raises(Refused, match="the activation '(grown|y)' is not finite on the calibration examples"):
        activation_ranges(tmp_path / "large.onnx", [{"x": np.full((2, 4), 1e3, np.float32)}])


def test_calibration_of_one_class_or_of_nothing_is_refused() -> None:
    image = np.arange(20.0).reshape(10, 2)
    check_calibration({"image": image, "label": np.arange(10)}, 10, "calib.npz")
    with pytest.raises(
        Refused,
        match=r"calib\.npz: all 10 calibration examples are of class \[3\], expected examples of several of the 10",
    ):
        check_calibration({"image": image, "label": np.full(10, 3)}, 10, "calib.npz")
    with pytest.raises(Refused, match="'image' is constant or not finite"):
        check_calibration({"image": np.zeros((10, 2)), "label": np.arange(10)}, 10, "calib.npz")
    with pytest.raises(Refused, match="'image' is constant or not finite"):
        check_calibration({"image": np.where(image > 3, np.nan, image), "label": np.arange(10)}, 10, "calib.npz")


def test_the_stage_refuses_a_calibration_of_one_class_and_leaves_what_was_made(
    project: Project, tmp_path: Path
) -> None:
    copy = dataclasses.replace(project, build=tmp_path)
    for file in (project.build / "prepare" / "digits").iterdir():
        write_bytes(tmp_path / "prepare" / "digits" / file.name, file.read_bytes())
    calib = load_arrays(tmp_path / "prepare" / "digits" / "calib.npz")
    alien = pack_arrays(calib | {"label": np.zeros(100, int)})
    write_bytes(tmp_path / "prepare" / "digits" / "calib.npz", alien)
    write_bytes(tmp_path / "quantize" / NAME / "quantize.json", b"{}")
    with pytest.raises(Refused, match=r"calib\.npz: SHA-256 .*these are not examples of the data set"):
        quantize(copy, NAME)
    facts = read_json(tmp_path / "prepare" / "digits" / "data.json")
    facts["splits"]["calib"]["sha256"] = hashlib.sha256(alien).hexdigest()
    write_json(tmp_path / "prepare" / "digits" / "data.json", facts)
    with pytest.raises(Refused, match=r"calib\.npz: all 100 calibration examples are of class \[0\]"):
        quantize(copy, NAME)
    assert (tmp_path / "quantize" / NAME / "quantize.json").read_bytes() == b"{}"


def test_the_candidate_that_wins_is_the_best_on_select(project: Project) -> None:
    made = read_json(project.build / "quantize" / NAME / "quantize.json")
    for precision in ("int8-cpu", "int8-tensorrt"):
        candidates = made[precision]["network"]["candidates"]
        assert len(candidates) == len(CALIBRATIONS) * len(WEIGHTS[precision])
        keys = [(-c["score"], c["float_layers"], c["error_mean"]) for c in candidates]
        assert keys == sorted(keys)


def test_a_graph_with_nothing_to_quantize_is_refused_by_name(tmp_path: Path) -> None:
    onnx.save(large(2.0), tmp_path / "large.onnx")
    with pytest.raises(
        Nothing,
        match=r"large\.onnx: no Conv, Gemm, MatMul, LSTM, GRU, RNN in it to quantize; it has Div, Identity, Mul",
    ):
        to_int8(tmp_path / "large.onnx", "int8-cpu", [], lambda path: (0.0, 0.0), True)


def test_each_graph_is_calibrated_on_what_the_task_feeds_it(project: Project) -> None:
    """Two graphs in a chain: the second sees the first's outputs, as no example could have shown it."""
    file = project.build / "export" / NAME / "network.onnx"
    calib = load_arrays(project.build / "prepare" / "digits" / "calib.npz")

    class Chain:
        @staticmethod
        def answer(runs: dict, examples: dict[str, np.ndarray]) -> None:
            for start in range(0, 100, 30):
                logits = runs["first"]({"image": examples["image"][start : start + 30]})["logits"]
                runs["second"]({"image": np.abs(logits[:, None, :8, None]).repeat(8, 3).astype(np.uint8)})

    run = open_onnxruntime(file)
    feeds = recorded_feeds(Chain, {"first": run, "second": run}, calib)
    assert [len(feed["image"]) for feed in feeds["first"]] == [30, 30, 30, 10]
    np.testing.assert_array_equal(np.concatenate([feed["image"] for feed in feeds["first"]]), calib["image"])
    assert [feed["image"].shape for feed in feeds["second"]][-1] == (10, 1, 8, 8)
    ranges = {graph: activation_ranges(file, feeds[graph])["logits"] for graph in feeds}
    assert ranges["first"] != ranges["second"]
