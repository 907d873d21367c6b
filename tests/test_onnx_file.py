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
from pipeline.int8 import to_int8
from pipeline.onnx_file import files, take_graph
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
    (tmp_path / "empty.onnx").touch()
    refused(tmp_path / "empty.onnx", "empty.onnx: 0 bytes without a node came, a network was expected. Export it again")
    model = onnx.load(linear(tmp_path, ["n", 64]))
    del model.graph.node[:]
    onnx.save(model, tmp_path / "mine.onnx")
    refused(tmp_path / "mine.onnx", r"mine.onnx: \d+ bytes without a node came")


def test_an_error_that_says_nothing_is_told_by_its_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(path: Path) -> None:
        raise MemoryError

    path = linear(tmp_path, ["n", 64])
    monkeypatch.setattr(onnx, "load", silent)
    refused(path, r"damaged, or no ONNX file \(MemoryError\)")


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


@pytest.mark.parametrize(
    ("kind", "told"),
    [("FLOAT16", "float16"), ("BFLOAT16", "bfloat16"), ("DOUBLE", "double"), ("FLOAT8E5M2", "float8e5m2")],
)
@pytest.mark.parametrize("where", ["x", "w", "c"])
def test_another_width_than_float32_is_named(tmp_path: Path, kind: str, told: str, where: str) -> None:
    """As input, as weight, and as a constant within."""
    dtype = TensorProto.DataType.Value(kind)
    path = linear(tmp_path, ["n", 64])
    model = onnx.load(path)
    if where == "x":
        model.graph.input[0].type.tensor_type.elem_type = dtype
    elif where == "w":
        model.graph.initializer[0].CopyFrom(helper.make_tensor("w", dtype, [1], [1.0]))
    else:
        model.graph.node.insert(
            0, helper.make_node("Constant", [], ["c"], value=helper.make_tensor("", dtype, [1], [1]))
        )
    onnx.save(model, path)
    refused(path, f"{where} is of {told}, float .32 bits. was expected. Bring the float32 graph: fp16 is made")


def test_shapes_that_do_not_fit(tmp_path: Path) -> None:
    refused(
        linear(tmp_path, ["n", 65]),
        r"its input x is \[65\] an item, the data set's image is \[1, 8, 8\]: neither as it is",
    )
    refused(linear(tmp_path, ["n", 65], "image"), r"its input image is \[65\] an item")
    refused(linear(tmp_path, ["n", 64], width=7), "7 logits came, the data set has 10 classes")


@pytest.mark.parametrize(
    ("axes", "classes", "told"),
    [
        ([2], 10, r"logits of rank 3 and shape \(1, 10, 1\) came for one item, \(1, 10\) was expected"),
        ([1], 10, r"logits of rank 1 and shape \(1,\) came for one item, \(1, 10\) was expected"),
        (None, 10, r"logits of rank 0 and shape \(\) came for one item, \(1, 10\) was expected"),
        (None, 0, r"logits of rank 0 and shape \(\) came for one item, 1 as the first axis was expected"),
        ([0], 0, r"logits of rank 1 and shape \(10,\) came for one item, 1 as the first axis was expected"),
    ],
)
def test_answers_of_another_shape(tmp_path: Path, axes: list[int] | None, classes: int, told: str) -> None:
    path = linear(tmp_path, ["n", 64])
    model = onnx.load(path)
    model.graph.node[-1].output[0] = "wide"
    inputs = ["wide", "axes"] if axes else ["wide"]
    last = (
        helper.make_node("Unsqueeze", inputs, ["answer"])
        if axes == [2]
        else helper.make_node("ReduceSum", inputs, ["answer"], keepdims=0)
    )
    model.graph.node.append(last)
    if axes:
        model.graph.initializer.append(numpy_helper.from_array(np.array(axes), "axes"))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, path)
    refused(path, told, facts={"classes": [str(i) for i in range(classes)]})


@pytest.mark.parametrize("channels", [1, 3])
def test_flat_colours_could_be_in_either_order(tmp_path: Path, channels: int) -> None:
    image = RANDOM.integers(0, 256, (4, channels, 8, 8 // channels)).astype(np.uint8)
    size = image[0].size
    weight = numpy_helper.from_array(np.ones((size, 10), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["answer"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", size])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["n", 10])],
        [weight],
    )
    path = tmp_path / "flat.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    examples = {"image": image, "label": np.zeros(4, np.int64)}
    if channels == 1:
        np.testing.assert_allclose(said(taken(path, examples=examples), image)[:, 0], image.sum((1, 2, 3)), rtol=1e-6)
    else:
        match = r"x is \[48\] an item, the data set's image is \[3, 8, 2\], of 3 channels: Keras flattens with the chan"
        refused(path, match, examples=examples)


def test_a_scale_needs_a_floating_input(tmp_path: Path) -> None:
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT), helper.make_node("Flatten", ["f"], ["flat"])]
    path = linear(tmp_path, ["n", 64], nodes=nodes)
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    onnx.save(model, path)
    refused(path, "scale: its input x is of uint8; a scale needs a floating input. Leave `scale` out", scale=SIXTEENTH)
    taken(path)


def test_weights_that_are_listed_as_inputs(tmp_path: Path) -> None:
    """As the exporters of IR version 3 had to."""
    path = linear(tmp_path, ["n", 64])
    expected = said(taken(path), DIGITS["image"])
    model = onnx.load(path)
    model.graph.input.insert(0, helper.make_tensor_value_info("w", TensorProto.FLOAT, [64, 10]))
    model.ir_version = 3
    onnx.save(model, path)
    model = taken(path)
    assert [tensor.name for tensor in model.graph.input] == ["image"]
    np.testing.assert_array_equal(said(model, DIGITS["image"]), expected)


@pytest.mark.parametrize("scale", [None, SIXTEENTH])
@pytest.mark.parametrize("clash", ["image", "logits", "raw_1", "raw_2", "raw_1_Sub"])
def test_names_that_are_ours_give_way_also_within_a_branch(tmp_path: Path, clash: str, scale: Scale | None) -> None:
    """The branches read ``clash`` from without; the name that it would give way to is in use as well."""

    def branch(name: str, kind: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(kind, [clash], [f"{name}_out"])], name, [], [out])

    nodes = [
        helper.make_node("Flatten", ["x"], [f"{clash}_2"]),
        helper.make_node("Identity", [f"{clash}_2"], [clash]),
        helper.make_node("If", ["yes"], ["flat"], then_branch=branch("a", "Neg"), else_branch=branch("b", "Identity")),
    ]
    path = linear(tmp_path, ["n", 64], nodes=nodes)
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    onnx.save(model, path)
    weight = numpy_helper.to_array(model.graph.initializer[0])
    expected = -DIGITS["image"].reshape(40, 64).astype(np.float32) @ weight / (16 if scale else 1)
    came = taken(path, scale)
    np.testing.assert_allclose(said(came, DIGITS["image"]), expected, rtol=0, atol=1e-3)
    np.testing.assert_allclose(open_exact(came)(DIGITS)["logits"], expected, rtol=0, atol=1e-3)
    within = [
        attribute.g.node[0] for node in came.graph.node for attribute in node.attribute if attribute.HasField("g")
    ]
    names = [node.name for node in [*came.graph.node, *within]]
    assert len(within) == 2 and "" not in names and len(set(names)) == len(names)


def test_operators_within_a_branch_are_named(tmp_path: Path) -> None:
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    body = helper.make_graph([helper.make_node("Imagined", ["x"], ["out"])], "body", [], [out])
    nodes = [
        helper.make_node("If", ["yes"], ["i"], then_branch=body, else_branch=body),
        helper.make_node("Flatten", ["i"], ["flat"]),
    ]
    refused(linear(tmp_path, ["n", 64], nodes=nodes), "ai.onnx.Imagined: not operators of ONNX's own opset 18")


def test_nodes_without_names_are_quantized_none_the_less(tmp_path: Path) -> None:
    """The quantizer leaves nodes out by name: one without would take all of the others with it."""
    first, second = (RANDOM.normal(size=size).astype(np.float32) for size in [(64, 32), (32, 10)])
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w1"], ["m1"]),
        helper.make_node("Add", ["m1", "b1"], ["a1"]),
        helper.make_node("Relu", ["a1"], ["r"], name="kept"),
        helper.make_node("MatMul", ["r", "w2"], ["m2"], name="kept"),
        helper.make_node("Add", ["m2", "b2"], ["answer"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["n", 10])],
        [
            numpy_helper.from_array(array, name)
            for name, array in (("w1", first), ("w2", second), ("b1", first[0]), ("b2", second[0]))
        ],
    )
    path = tmp_path / "mine.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    model = taken(path, SIXTEENTH)
    names = [node.name for node in model.graph.node]
    assert "kept" in names and "" not in names and len(set(names)) == len(names)
    onnx.save(model, path)
    quantized, facts = to_int8(path, "int8-cpu", [{"image": DIGITS["image"]}], lambda _: (0.0, 0.0), True)
    kinds = [node.op_type for node in onnx.load_from_string(quantized).graph.node]
    assert kinds.count("QuantizeLinear") >= 2, facts


def test_weights_in_files_beside_it(tmp_path: Path) -> None:
    """Which the graph that is taken needs no longer."""
    path = linear(tmp_path, ["n", 64])
    expected = said(taken(path), DIGITS["image"])
    assert files(path) == [path]
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="mine.data", size_threshold=0)
    assert files(path) == [path, tmp_path / "mine.data"]
    model = taken(path)
    (tmp_path / "mine.data").unlink()
    np.testing.assert_array_equal(said(model, DIGITS["image"]), expected)
    assert files(path) == [path, tmp_path / "mine.data"]
    refused(path, "damaged, or no ONNX file .*mine.data")


def outside(tensor: onnx.TensorProto, location: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)


def test_files_are_those_of_every_tensor_and_of_its_folder_alone(tmp_path: Path) -> None:
    path = linear(tmp_path, ["n", 64])
    model = onnx.load(path)
    outside(model.graph.initializer[0], "sub/b.data")
    inner = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.zeros(3, np.float32)))
    outside(inner.attribute[0].t, "a.data")
    body = helper.make_graph([inner], "body", [], [helper.make_tensor_value_info("c", TensorProto.FLOAT, [3])])
    model.graph.node.append(helper.make_node("If", ["yes"], ["i"], then_branch=body, else_branch=body))
    path.write_bytes(model.SerializeToString())
    assert files(path) == [path, tmp_path / "a.data", tmp_path / "sub" / "b.data"]
    for location in ("../c.data", "/c.data"):
        model.graph.initializer[0].external_data[0].value = location
        path.write_bytes(model.SerializeToString())
        with pytest.raises(Refused, match=f"mine.onnx: it has weights in {location}, outside of its folder. Export it"):
            files(path)


def test_files_of_what_cannot_be_read_are_itself(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("weights, please")
    for name in ("text.onnx", "absent.onnx"):
        assert files(tmp_path / name) == [tmp_path / name]


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
