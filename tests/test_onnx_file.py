"""An ONNX file that somebody brings"""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import ROOT
from onnx import TensorProto, helper, numpy_helper

from deploy.contract import load_arrays
from deploy.errors import Refused
from deploy.files import read_json
from deploy.runtimes import open_onnxruntime
from deploy.tasks import classification, load_task
from models.gorner import GornerCNN
from pipeline.exact import open_exact
from pipeline.export import to_onnx
from pipeline.onnx_file import take_graph
from pipeline.recipe import Graph, Project, Scale

KERAS = ROOT / "tests" / "from_keras" / "digits.onnx"
SIXTEENTH = Scale(mean=(0.0,), deviation=(1.0,), divide_by=16.0)
FACTS = {"network": {"shape": [1, 8, 8], "classes": 10}, "classes": list("0123456789")}
RANDOM = np.random.default_rng(0)
DIGITS = {"image": RANDOM.integers(0, 17, (40, 1, 8, 8)).astype(np.uint8), "label": np.zeros(40, np.int64)}


def taken(path: Path, scale: Scale | None = None, examples: dict = DIGITS, facts: dict = FACTS) -> onnx.ModelProto:
    return take_graph(Graph(path, scale), classification, facts, examples)


def said(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    return open_onnxruntime(model.SerializeToString())({"image": image})["logits"]


def linear(
    tmp_path: Path,
    shape: list[int | str],
    name: str = "x",
    nodes: list[onnx.NodeProto] | None = None,
    opset: int = 18,
    dtype: int = TensorProto.FLOAT,
    width: int = 10,
) -> Path:
    """A file with one dense layer on a flat input of 64, behind ``nodes`` that make ``flat`` of ``name``."""
    nodes = nodes or [helper.make_node("Flatten", [name], ["flat"])]
    weight = np.random.default_rng(1).normal(size=(64, width)).astype(helper.tensor_dtype_to_np_dtype(dtype))
    graph = helper.make_graph(
        [*nodes, helper.make_node("MatMul", ["flat", "w"], ["answer"])],
        "g",
        [helper.make_tensor_value_info(name, dtype, shape)],
        [helper.make_tensor_value_info("answer", dtype, [shape[0], width])],
        [numpy_helper.from_array(weight, "w")],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    path = tmp_path / "mine.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def test_keras_own_file_is_as_accurate_through_us_as_by_hand(project: Project) -> None:
    """Channels last, names with colons, a scale outside the file, a softmax within, free axes of two names."""
    test = load_arrays(project.build / "prepare" / "digits" / "test.npz")
    session = open_onnxruntime(KERAS)
    [by_hand] = session({"keras_tensor": (test["image"].transpose(0, 2, 3, 1) / 16).astype(np.float32)}).values()
    model = taken(KERAS, SIXTEENTH)
    came = said(model, test["image"])
    np.testing.assert_allclose(came, by_hand, rtol=0, atol=1e-6)
    assert int((came.argmax(1) == test["label"]).sum()) == 887  # what Keras itself says, by from_keras/make.py
    assert [(i.name, i.type.tensor_type.elem_type) for i in model.graph.input] == [("image", TensorProto.UINT8)]
    assert [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [
        "batch",
        1,
        8,
        8,
    ]
    assert [dim.dim_param or dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim] == ["batch", 10]
    exact = open_exact(model)({"image": test["image"]})["logits"]
    assert exact.dtype == np.float64
    np.testing.assert_allclose(came, exact, rtol=0, atol=1e-5)


def test_a_scale_that_is_forgotten_is_another_network(project: Project) -> None:
    test = load_arrays(project.build / "prepare" / "digits" / "test.npz")
    right = (said(taken(KERAS), test["image"]).argmax(1) == test["label"]).sum()
    assert right < 880


def test_pytorchs_own_export_is_taken_as_it_is(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = GornerCNN((1, 8, 8), 10).eval()
    floats = {"image": DIGITS["image"].astype(np.float32)}
    onnx.save(to_onnx(network, floats, ("answer",)), tmp_path / "mine.onnx")
    with torch.inference_mode():
        expected = network(torch.from_numpy(floats["image"])).numpy()
    np.testing.assert_allclose(said(taken(tmp_path / "mine.onnx"), DIGITS["image"]), expected, rtol=0, atol=1e-4)


def test_colours_with_the_channels_last_are_turned_and_scaled_by_channel(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x", "axes"], ["answer"], keepdims=0)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6, 5, 3])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.array([1, 2]), "axes")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "c.onnx")
    image = RANDOM.integers(0, 256, (4, 3, 6, 5)).astype(np.uint8)
    facts = {"network": {"shape": [3, 6, 5], "classes": 3}, "classes": ["a", "b", "c"]}
    scale = Scale((0.1, 0.2, 0.3), (0.5, 1.0, 2.0), 255.0)
    model = taken(tmp_path / "c.onnx", scale, {"image": image, "label": np.zeros(4, np.int64)}, facts)
    mean, deviation = (np.array(values)[:, None, None] for values in (scale.mean, scale.deviation))
    expected = ((image / 255 - mean) / deviation).mean((2, 3))
    np.testing.assert_allclose(said(model, image), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [["n", 64], ["n", 1, 8, 8], ["n", 8, 8, 1], [1, 64]])
@pytest.mark.parametrize("name", ["x", "image", "logits"])  # also those that we give, in the wrong place
def test_flat_first_last_and_a_batch_noted_as_fixed(tmp_path: Path, shape: list, name: str) -> None:
    path = linear(tmp_path, shape, name)
    weight = numpy_helper.to_array(onnx.load(path).graph.initializer[0])
    expected = DIGITS["image"].reshape(40, 64).astype(np.float32) @ weight
    np.testing.assert_allclose(said(taken(path), DIGITS["image"]), expected, rtol=0, atol=1e-3)


def refused(path: Path, match: str, **given: object) -> None:
    with pytest.raises(Refused, match=match):
        taken(path, **given)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    refused(
        tmp_path / "absent.onnx",
        "train: onnx: .*absent.onnx: no such file; a path is taken from the folder of params.yaml",
    )
    (tmp_path / "cut.onnx").write_bytes(KERAS.read_bytes()[:2000])
    refused(tmp_path / "cut.onnx", "cut.onnx: damaged, or no ONNX file .* Export it again")
    (tmp_path / "text.onnx").write_text("weights, please")
    refused(tmp_path / "text.onnx", "text.onnx: ")


def test_versions_are_named(tmp_path: Path) -> None:
    path = linear(tmp_path, ["n", 64], opset=9)
    refused(
        path, r"opset 9 came, 13 to \d+ were expected. Convert it: onnx.version_converter.convert_version\(model, 18\)"
    )
    model = onnx.load(linear(tmp_path, ["n", 64]))
    model.ir_version = 99
    path.write_bytes(model.SerializeToString())
    refused(path, r"IR version 99 came, onnx .* reads up to \d+. Export it with an older onnx")


def test_operators_that_not_every_target_has_are_named(tmp_path: Path) -> None:
    own = [
        helper.make_node("Gelu", ["x"], ["g"], domain="com.microsoft"),
        helper.make_node("Imagined", ["g"], ["h"]),
        helper.make_node("Flatten", ["h"], ["flat"]),
    ]
    refused(
        linear(tmp_path, ["n", 64], nodes=own),
        r"ai.onnx.Imagined|com.microsoft.Gelu, .*: not operators of ONNX's own opset 18",
    )


def test_what_has_its_precision_already_is_refused(tmp_path: Path) -> None:
    q = [
        helper.make_node("QuantizeLinear", ["x", "scale"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale"], ["d"]),
        helper.make_node("Flatten", ["d"], ["flat"]),
    ]
    path = linear(tmp_path, ["n", 64], nodes=q)
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.1, np.float32), "scale"))
    onnx.save(model, path)
    refused(path, r"it is quantized already \(DequantizeLinear, QuantizeLinear\). Bring the float32 graph")
    refused(
        linear(tmp_path, ["n", 64], dtype=TensorProto.FLOAT16), "its weights are of 16 bits. Bring the float32 graph"
    )


def test_shapes_that_do_not_fit(tmp_path: Path) -> None:
    refused(
        linear(tmp_path, ["n", 65]),
        r"its input x is \[65\] an item, the data set's image is \[1, 8, 8\]: neither as it is",
    )
    refused(linear(tmp_path, ["n", 64], width=7), "7 logits came, the data set has 10 classes")


def test_a_batch_that_is_baked_in_or_mixed_is_refused(tmp_path: Path) -> None:
    baked = [helper.make_node("Reshape", ["x", "shape"], ["flat"])]
    path = linear(tmp_path, [1, 1, 8, 8], nodes=baked)
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 64]), "shape"))
    onnx.save(model, path)
    refused(path, "it does not run at batch 3 (.|\n)*Export it with a free first axis")
    mixed = [
        helper.make_node("ReduceMean", ["x", "axes"], ["m"]),
        helper.make_node("Sub", ["x", "m"], ["s"]),
        helper.make_node("Flatten", ["s"], ["flat"]),
    ]
    path = linear(tmp_path, ["n", 1, 8, 8], nodes=mixed)
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "axes"))
    onnx.save(model, path)
    refused(path, "an item is answered otherwise in company than alone")


def test_several_inputs_outputs_and_graphs_are_refused(tmp_path: Path) -> None:
    path = linear(tmp_path, ["n", 64])
    model = onnx.load(path)
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["n", 1]))
    onnx.save(model, path)
    refused(path, "its inputs are x, more; a graph with one input was expected")
    path = linear(tmp_path, ["n", 64])
    model = onnx.load(path)
    model.graph.output.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["n", 64]))
    onnx.save(model, path)
    refused(path, "its outputs are answer, flat; the task expects 1: logits")
    with pytest.raises(Refused, match=r"the task runs 2 graphs \(encoder, step\); one came"):
        take_graph(Graph(path), load_task("translation"), FACTS, DIGITS)
    two = DIGITS | {"age": np.zeros((40, 1), np.float32)}
    refused(linear(tmp_path, ["n", 64]), "the data set has the inputs image, age; one was expected", examples=two)


def test_functions_are_resolved(tmp_path: Path) -> None:
    path = linear(tmp_path, ["n", 64], nodes=[helper.make_node("Mine", ["x"], ["flat"], domain="own")])
    model = onnx.load(path)
    inner = [helper.make_node("Flatten", ["a"], ["b"])]
    model.functions.append(helper.make_function("own", "Mine", ["a"], ["b"], inner, [helper.make_opsetid("", 18)]))
    model.opset_import.append(helper.make_opsetid("own", 1))
    onnx.save(model, path)
    weight = numpy_helper.to_array(model.graph.initializer[0])
    expected = DIGITS["image"].reshape(40, 64).astype(np.float32) @ weight
    np.testing.assert_allclose(said(taken(path), DIGITS["image"]), expected, rtol=0, atol=1e-3)


def test_facts_are_those_of_the_data_set(project: Project) -> None:
    """What the tests above say of digits is what ``prepare`` wrote."""
    facts = read_json(project.build / "prepare" / "digits" / "data.json")
    assert facts["network"] == FACTS["network"] and facts["classes"] == FACTS["classes"]
