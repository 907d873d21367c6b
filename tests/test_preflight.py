"""The pre-flight against NVIDIA's own parser, hand-made graphs for each restriction, and the data files themselves."""

import dataclasses
import re
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import NAME, ROOT
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from deploy.contract import Bundle
from deploy.errors import Refused
from deploy.files import read_json
from deploy.trt import logger
from pipeline.boards.rules import facts, holds
from pipeline.preflight import Device, Finding, devices, preflight, preflight_recipe
from pipeline.recipe import PRECISIONS, Project

F, U8, I8, I32, I64, BOOL = (
    getattr(TensorProto, name) for name in ("FLOAT", "UINT8", "INT8", "INT32", "INT64", "BOOL")
)
IMAGE = (1, 3, 8, 8)
ORDER = facts("devices.yaml")["order"]
OPERATORS = facts("operators.yaml")["operators"]
DEVICES = {device.name: device for device in devices()}
NEWEST = DEVICES["jetpack-7.2.2"]
DLA = DEVICES["jetpack-7.2.2-dla"]


def floats(*shape: int) -> np.ndarray:
    return np.abs(np.random.default_rng(0).normal(size=shape)).astype(np.float32) + 0.1


def model(
    operator: str,
    inputs: list[Any],
    shape: tuple[int | str, ...] = IMAGE,
    dtype: int = F,
    outputs: int = 1,
    opset: int = 20,
    domain: str = "",
    **attributes: Any,
) -> bytes:
    """One node "it": its first input is the graph's; an array is a constant, a (dtype, shape) a further input."""
    given, constants, names = [helper.make_tensor_value_info("x", dtype, shape)], [], ["x"]
    for i, value in enumerate(inputs):
        names.append("" if value is None else f"in{i}")
        if isinstance(value, tuple):
            given.append(helper.make_tensor_value_info(names[-1], *value))
        elif value is not None:
            constants.append(numpy_helper.from_array(np.asarray(value), names[-1]))
    results = [f"out{i}" for i in range(outputs)]
    node = helper.make_node(operator, names, results, "it", domain=domain, **attributes)
    kinds = {"TopK": [F, I64], "MaxPool": [F, I64], "Cast": [attributes.get("to", F)], "QuantizeLinear": [U8]}
    types = kinds.get(operator, [{"NonZero": I64, "NonMaxSuppression": I64}.get(operator, dtype)] * 3)
    told = [helper.make_tensor_value_info(name, kind, None) for name, kind in zip(results, types)]
    graph = helper.make_graph([node], "g", given, told, constants)
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def recurrent(operator: str, directions: int = 1, **attributes: Any) -> bytes:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[operator]
    weights = [floats(directions, 4 * gates, 3), floats(directions, 4 * gates, 4)]
    return model(operator, weights, (5, 2, 3), hidden_size=4, **attributes)


def resize(**attributes: Any) -> bytes:
    return model("Resize", [None, np.array([1, 1, 2, 2], np.float32)], **attributes)


SCALE = np.float32(0.1)
TWO = {"direction": "bidirectional"}
ROW = [np.array([[0]]), floats(1, 1)]
# A graph -> whether TensorRT 11.4 must take it. Each is given to NVIDIA's parser too.
TAKEN = {
    "conv": (model("Conv", [floats(4, 3, 3, 3)]), True),
    "conv 1-D": (model("Conv", [floats(4, 3, 3)], (1, 3, 8)), True),
    "conv 4-D": (model("Conv", [floats(4, 3, 2, 2, 2, 2)], (1, 3, 8, 8, 8, 8)), False),
    "transposed": (model("ConvTranspose", [floats(3, 4, 2, 2)]), True),
    "transposed 4-D": (model("ConvTranspose", [floats(3, 4, 2, 2, 2, 2)], (1, 3, 8, 8, 8, 8)), False),
    "batch norm": (model("BatchNormalization", [floats(3)] * 4), True),
    "batch norm training": (model("BatchNormalization", [floats(3)] * 4, outputs=3, training_mode=1), False),
    "max pool": (model("MaxPool", [], kernel_shape=[2, 2]), True),
    "max pool indices": (model("MaxPool", [], outputs=2, kernel_shape=[2, 2]), False),
    "max pool dilated": (model("MaxPool", [], kernel_shape=[2, 2], dilations=[2, 2]), False),
    "max pool 4-D": (model("MaxPool", [], (1, 3, 8, 8, 8, 8), kernel_shape=[2] * 4), False),
    "average pool": (model("AveragePool", [], kernel_shape=[2, 2]), True),
    "average pool dilated": (model("AveragePool", [], kernel_shape=[2, 2], dilations=[2, 2]), False),
    "lp pool dilated": (model("LpPool", [], kernel_shape=[2, 2], dilations=[2, 2]), False),
    "unpool": (model("MaxUnpool", [(I64, IMAGE)], kernel_shape=[2, 2]), False),
    **{name: (model(name, []), True) for name in ("GlobalAveragePool", "Relu", "Softmax", "HardSwish", "Gelu", "Mish")},
    "lrn": (model("LRN", [], size=5), True),
    "gemm": (model("Gemm", [floats(8, 4)], (1, 8)), True),
    "matmul": (model("MatMul", [floats(8, 4)]), True),
    "instance norm": (model("InstanceNormalization", [floats(3)] * 2), True),
    "group norm": (model("GroupNormalization", [floats(3)] * 2, opset=21, num_groups=3), True),
    "layer norm": (model("LayerNormalization", [floats(8)]), True),
    "layer norm mean": (model("LayerNormalization", [floats(8)], outputs=3), False),
    **{f"{name} {act}": (recurrent(name, 2, activations=acts, **TWO), act == "equal")
       for name, n in (("LSTM", 3), ("GRU", 2), ("RNN", 1))
       for act, acts in (("equal", ["Tanh"] * 2 * n), ("unequal", ["Tanh"] * n + ["Relu"] * n))},
    **{f"{name} layout": (recurrent(name, layout=1), False) for name in ("LSTM", "GRU", "RNN")},
    **{f"{name} affine": (recurrent(name, activations=["Affine"] * n), False)
       for name, n in (("LSTM", 3), ("GRU", 2), ("RNN", 1))},
    "LSTM coupled": (recurrent("LSTM", input_forget=1), False),
    **{f"resize {mode}": (resize(mode=mode), True) for mode in ("nearest", "linear", "cubic")},
    "resize crop": (resize(coordinate_transformation_mode="tf_crop_and_resize"), False),
    "resize antialias": (resize(mode="linear", antialias=1), False),
    "resize policy": (model("Resize", [None, None, np.array([1, 3, 4, 4])], mode="linear",
                            keep_aspect_ratio_policy="not_larger"), False),
    "grid sample": (model("GridSample", [(F, (1, 4, 4, 2))]), True),
    "roi align": (model("RoiAlign", [(F, (2, 4)), (I64, (2,))], output_height=2, output_width=2), True),
    "suppression": (model("NonMaxSuppression", [(F, (1, 2, 6)), np.array([3]), SCALE, SCALE], (1, 6, 4)), True),
    "non-zero": (model("NonZero", []), True),
    "top 3": (model("TopK", [np.array([3])], (1, 6000), outputs=2), True),
    "top 3840": (model("TopK", [np.array([3840])], (1, 6000), outputs=2), True),
    "top 3841": (model("TopK", [np.array([3841])], (1, 6000), outputs=2), False),
    "top unsorted": (model("TopK", [np.array([3])], (1, 60), outputs=2, sorted=0), False),
    "top of any": (model("TopK", [(I64, (1,))], (1, 60), outputs=2), True),
    "einsum": (model("Einsum", [(F, (2, 8, 3))], (2, 3, 8), equation="...ij,...jk->...ik"), True),
    "scatter": (model("ScatterND", [np.array([[0]]), floats(1, 4)], (4, 4)), True),
    "scatter add": (model("ScatterND", [np.array([[0]]), floats(1, 4)], (4, 4), reduction="add"), False),
    "scatter elements": (model("ScatterElements", ROW, (4, 4)), True),
    "scatter elements add": (model("ScatterElements", ROW, (4, 4), reduction="add"), True),
    **{f"gather {name}": (model(name, [np.array(index)], (4, 4)), True)
       for name, index in (("Gather", [1]), ("GatherElements", [[0, 1]]), ("GatherND", [[0, 1]]))},
    **{f"pad {mode}": (model("Pad", [np.array([0, 0, 1, 1] * 2)], mode=mode), True)
       for mode in ("constant", "reflect", "edge", "wrap")},
    "quantize": (model("QuantizeLinear", [SCALE, np.int8(0)]), True),
    "quantize 3": (model("QuantizeLinear", [SCALE, np.int8(3)]), False),
    "quantize uint8": (model("QuantizeLinear", [SCALE, np.uint8(0)]), False),
    "quantize uint8 128": (model("QuantizeLinear", [SCALE, np.uint8(128)]), False),
    "quantize scale 0": (model("QuantizeLinear", [np.float32(0), np.int8(0)]), False),
    "dequantize int32": (model("DequantizeLinear", [SCALE], (3,), I32), False),
    "QLinearConv": (model("QLinearConv", [SCALE, np.int8(0), np.ones((4, 3, 2, 2), np.int8), SCALE, np.int8(0), SCALE,
                                          np.int8(0)], dtype=I8), False),
    "int8 LSTM": (model("DynamicQuantizeLSTM", [floats(1, 3, 16), floats(1, 4, 16)], (5, 2, 3), domain="com.microsoft",
                        hidden_size=4), False),
    **{f"cast from {kind}": (model("Cast", [], dtype=getattr(TensorProto, kind), to=F), taken)
       for kind, taken in (("UINT8", True), ("INT8", True), ("DOUBLE", True), ("UINT16", False), ("STRING", False))},
    **{f"cast to {kind}": (model("Cast", [], to=getattr(TensorProto, kind)), taken)
       for kind, taken in (("BFLOAT16", True), ("BOOL", True), ("INT16", False), ("UINT32", False))},
    **{f"{name} uint8": (model(name, [], dtype=U8), False) for name in ("Relu", "Sigmoid", "Transpose", "Softmax")},
    **{f"{name} int64": (model(name, [], dtype=I64), name != "Softmax") for name in ("Softmax", "Clip", "Abs")},
    "shape of uint8": (model("Shape", [], dtype=U8), True),
    "axes from outside": (model("ReduceMean", [(I64, (1,))]), False),
    "squeeze from outside": (model("Squeeze", [(I64, (1,))]), False),
    "dropout training": (model("Dropout", [np.float32(0.5), np.array(True)]), False),
    "eye of any": (model("EyeLike", [], ("a", "b")), False),
}  # fmt: skip
# Where TensorRT-RTX's parser and the table must differ, and why.
DIFFER = {
    "roi align": "RTX has no plugin", "non-zero": "RTX has no plugin", "scatter elements add": "RTX has no plugin",
    "LSTM layout": "taken, and ignored", "GRU layout": "taken, and ignored", "RNN layout": "taken, and ignored",
    "quantize uint8": "taken, as int8", "top 3841": "the builder refuses it", "top unsorted": "documented as refused",
}  # fmt: skip


def check(data: bytes, device: Device, folder: Path) -> list[Finding]:
    (folder / "g.onnx").write_bytes(data)
    return preflight(folder / "g.onnx", device)


def parse(trt: Any, data: bytes) -> tuple[bool, Any]:
    builder = trt.Builder(logger(trt))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger(trt))
    return parser.parse(data), (builder, network, parser)


@pytest.mark.parametrize("case", TAKEN)
def test_what_the_table_says(case: str, tmp_path: Path) -> None:
    data, taken = TAKEN[case]
    found = check(data, NEWEST, tmp_path)
    assert (not found) == taken, found
    for finding in found:
        assert finding.severity == "refused" and finding.node == "it"
        node = onnx.load_from_string(data).graph.node[0]
        assert finding.operator.rpartition(":")[2] == node.op_type
        assert len(finding.rewrite) > 5


@pytest.mark.parametrize("case", TAKEN)
def test_nvidias_parser_says_the_same(case: str) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    data, taken = TAKEN[case]
    assert parse(trt, data)[0] == (taken != (case in DIFFER)), DIFFER.get(case)


def test_every_operator_is_known_to_nvidias_parser_as_the_table_has_it() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    _, (_, _, parser) = parse(trt, TAKEN["Relu"][0])
    for operator, entry in OPERATORS.items():
        if "11.4" not in entry.get("unknown", []):
            assert parser.supports_operator(operator.split(":")[-1]) == holds(entry, "11.4"), operator
    schemas = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    assert set(OPERATORS) - {"com.microsoft:DynamicQuantizeLSTM"} <= schemas
    assert {name for name in schemas if parser.supports_operator(name)} - set(OPERATORS) <= NEWER_THAN_ANY_BOARD


def test_why_the_table_is_stricter_than_the_parser() -> None:
    """Each silent error that the table refuses is one."""
    trt = pytest.importorskip("tensorrt_rtx")
    for name in ("LSTM", "GRU", "RNN"):
        _, (_, network, _) = parse(trt, TAKEN[f"{name} layout"][0])
        assert tuple(network.get_output(0).shape) == (5, 1, 2, 4)  # ONNX has (5, 2, 1, 4) of layout 1
    _, (_, network, _) = parse(trt, TAKEN["quantize uint8"][0])
    assert network.get_output(0).dtype == trt.DataType.INT8
    for case, built in (("top 3840", True), ("top 3841", False)):
        _, (builder, network, _) = parse(trt, TAKEN[case][0])
        config = builder.create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM86, 0)
        assert (builder.build_serialized_network(network, config) is not None) == built
    assert "K exceeds the maximum value allowed (3840)" in logger(trt).last()


NEWER_THAN_ANY_BOARD = {"CausalConvWithState", "LinearAttention"}  # of opsets above 25
OLDER = {  # a graph, the last TensorRT that restricts it, its severity there
    "resize cubic": ("10.13", "refused"), "einsum": ("10.3", "refused"), "Gelu": ("10.3", "unknown"),
    "Clip int64": ("10.13", "unknown"), "shape of uint8": ("10.13", "unknown"),
}  # fmt: skip


@pytest.mark.parametrize("case", OLDER)
def test_a_restriction_ends_with_its_version(case: str, tmp_path: Path) -> None:
    last, severity = OLDER[case]
    for name in ("jetpack-6.1", "jetpack-7.0", "jetpack-7.2.2"):
        found = check(TAKEN[case][0], DEVICES[name], tmp_path)
        restricted = ORDER.index(DEVICES[name].tensorrt) <= ORDER.index(last)
        assert [finding.severity for finding in found] == [severity] * restricted


def test_grid_sample_in_3d_is_for_the_newest(tmp_path: Path) -> None:
    data = model("GridSample", [(F, (1, 4, 4, 4, 3))], (1, 3, 8, 8, 8))
    [finding] = check(data, DEVICES["jetpack-6.1"], tmp_path)
    assert (finding.operator, finding.severity, finding.came) == ("GridSample", "refused", "5")
    assert not check(data, NEWEST, tmp_path)


def test_an_unknown_operator_is_no_pass(tmp_path: Path) -> None:
    [finding] = check(model("Mine", [], domain="somewhere"), NEWEST, tmp_path)
    assert (finding.operator, finding.severity) == ("somewhere:Mine", "unknown")
    [finding] = check(model("QuantizeLinear", [(F, ()), np.int8(0)]), NEWEST, tmp_path)
    assert finding.severity == "unknown" and "computed" in finding.came


@pytest.mark.parametrize(("opset", "told"), [(17, "no strongly typed networks"), (18, "documents opsets 7 to 17")])
@pytest.mark.parametrize("name", ["jetpack-5.1", "jetpack-6.0"])
def test_an_old_board_is_refused_whole(name: str, opset: int, told: str, tmp_path: Path) -> None:
    [finding] = check(model("Relu", [], opset=opset), DEVICES[name], tmp_path)
    assert finding.severity == "refused" and told in finding.what and "JetPack 6.1" in finding.rewrite
    assert len(check(model("MaxUnpool", [(I64, IMAGE)], opset=17, kernel_shape=[2, 2]), DEVICES[name], tmp_path)) == 2


@pytest.mark.parametrize(("name", "most"), [("jetpack-6.1", 20), ("jetpack-7.0", 22), ("jetpack-7.2.2", 25)])
def test_an_opset_that_nobody_documents_is_unknown(name: str, most: int, tmp_path: Path) -> None:
    assert not check(model("Relu", [], opset=most), DEVICES[name], tmp_path)
    for opset in (8, most + 1):
        [finding] = check(model("Relu", [], opset=opset), DEVICES[name], tmp_path)
        assert finding.severity == "unknown" and finding.came == f"opset {opset}"


def test_bodies_of_loops_and_branches_are_walked(tmp_path: Path) -> None:
    """MaxUnpool in an If in a Loop, its index a constant from outside."""
    value = helper.make_tensor_value_info
    outs = [value("b", F, None)]
    unpool = helper.make_node("MaxUnpool", ["state", "i"], ["b"], "deep", kernel_shape=[2, 2])
    relu = helper.make_node("Relu", ["state"], ["b2"], "beside")
    branches = {
        "then_branch": helper.make_graph([unpool], "t", [], outs),
        "else_branch": helper.make_graph([relu], "e", [], [value("b2", F, None)]),
    }
    body = helper.make_graph(
        [
            helper.make_node("If", ["go"], ["next"], "if", **branches),
            helper.make_node("Identity", ["go"], ["on"], "id"),
        ],
        "body",
        [value("n", I64, []), value("go", BOOL, []), value("state", F, IMAGE)],
        [value("on", BOOL, []), value("next", F, None)],
    )
    loop = helper.make_node("Loop", ["count", "true", "x"], ["y"], "loop", body=body)
    constants = {"count": np.array(3), "true": np.array(True), "i": np.zeros(IMAGE, np.int64)}
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph([loop], "g", [value("x", F, IMAGE)], [value("y", F, None)], tensors)
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    assert [(finding.node, finding.operator) for finding in check(data, NEWEST, tmp_path)] == [("deep", "MaxUnpool")]


@pytest.mark.parametrize("data", [b"", b"no graph", b"\x08\x0a", TAKEN["conv"][0][:60]])
def test_a_broken_graph_is_one_line(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"g\.onnx: .*(damaged|no ONNX graph|names no opset)") as told:
        check(data, NEWEST, tmp_path)
    assert "\n" not in str(told.value)


@given(cut=st.integers(0, len(TAKEN["conv"][0]) - 1))
def test_a_graph_cut_anywhere_is_refused_or_read(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.getbasetemp() / "cut.onnx"
    file.write_bytes(TAKEN["conv"][0][:cut])
    with pytest.raises(Refused, match=r"cut\.onnx"):
        preflight(file, NEWEST)


def test_a_missing_graph_is_named(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"absent\.onnx: not found"):
        preflight(tmp_path / "absent.onnx", NEWEST)


FP16 = TensorProto.FLOAT16
DLA_CASES = {  # a float16 graph -> what the DLA has against it
    "Conv": (model("Conv", [floats(4, 3, 3, 3).astype(np.float16)], dtype=FP16), ""),
    "kernel": (model("Conv", [np.ones((4, 3, 33, 33), np.float16)], (1, 3, 64, 64), FP16, kernel_shape=[33, 33]), "kernel"),
    "stride": (model("Conv", [np.ones((4, 3, 3, 3), np.float16)], (1, 3, 64, 64), FP16, strides=[9, 9]), "stride"),
    "transposed": (model("ConvTranspose", [np.ones((3, 4, 2, 2), np.float16)], dtype=FP16, pads=[1] * 4), "no padding"),
    "window": (model("MaxPool", [], (1, 3, 64, 64), FP16, kernel_shape=[9, 9]), "window 1 to 8"),
    "channels": (model("Concat", [(FP16, IMAGE)], dtype=FP16, axis=2), "channels only"),
    "lrn": (model("LRN", [], dtype=FP16, size=4), "window 3, 5, 7 or 9"),
    "GRU": (model("GRU", [np.ones((1, 12, 3), np.float16), np.ones((1, 12, 4), np.float16)], (5, 1, 3), FP16,
                  hidden_size=4), "not on the DLA"),
    "free": (model("Relu", [], ("batch", 3, 8, 8), FP16), "no free axes"),
    "batch": (model("Relu", [], (4097, 3, 8, 8), FP16), "batches of 4096"),
    "long": (model("Relu", [], (1, 3, 8, 8193), FP16), "axes of 8192"),
    "flat": (model("Relu", [], (1, 8), FP16), "two spatial axes"),
    "mean": (model("ReduceMean", [np.array([2, 3])], dtype=FP16), "not known whether the DLA"),
}  # fmt: skip


@pytest.mark.parametrize("case", DLA_CASES)
def test_the_dla(case: str, tmp_path: Path) -> None:
    data, what = DLA_CASES[case]
    found = check(data, DLA, tmp_path)
    assert ([what in finding.what for finding in found] == [True]) if what else not found, found
    severity = "unknown" if "not known" in what else "restricted"  # the GPU takes it, or the profile fixes it
    assert all(finding.severity == severity for finding in found)


def test_the_dla_computes_no_float32(tmp_path: Path) -> None:
    [finding] = check(TAKEN["conv"][0], DLA, tmp_path)
    assert finding.severity == "refused" and "fp16 graph" in finding.rewrite


@pytest.mark.parametrize(("dtype", "doubt"), [(FP16, True), (I64, False)])
def test_of_a_type_that_the_dla_never_computes_there_is_no_doubt(dtype: int, doubt: bool, tmp_path: Path) -> None:
    """A Div of the DLA of 10.3, and a ReduceMin of any, beside a float16 Relu."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Relu", ["x"], ["y"], "relu"),
        helper.make_node("Div", ["n", "n"], ["ratio"], "div"),
        helper.make_node("ReduceMin", ["n"], ["least"], "least", keepdims=0),
    ]
    outs = [value("y", FP16, IMAGE), value("ratio", dtype, IMAGE), value("least", dtype, [])]
    graph = helper.make_graph(nodes, "g", [value("x", FP16, IMAGE), value("n", dtype, IMAGE)], outs)
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    found = check(data, DEVICES["jetpack-6.1-dla"], tmp_path)
    assert [(x.node, x.severity) for x in found] == [
        (n, "unknown" if doubt else "restricted") for n in ("div", "least")
    ]
    assert all(("not known whether" if doubt else "on the GPU") in x.what for x in found)


def test_every_cell_of_a_recipe_is_filled(project: Project, bundle: Bundle, tmp_path: Path) -> None:
    copied = dataclasses.replace(project, build=tmp_path)
    (tmp_path / "bundle").symlink_to(project.build / "bundle")
    preflight_recipe(copied, NAME)
    table = read_json(tmp_path / "preflight" / f"{NAME}.json")
    assert list(table) == list(DEVICES)
    for name, row in table.items():
        assert list(row) == list(PRECISIONS)
        for cell in row.values():
            assert cell == "ok" or (cell and isinstance(cell, list)) or cell["absent"]
            if DEVICES[name].upgrade:
                assert cell[0]["severity"] == "refused" and len(cell) == 1
    for name in ("jetpack-6.1", "jetpack-7.0", "jetpack-7.2.2"):
        assert {precision: table[name][precision] for precision in ("fp32", "fp16", "int8-tensorrt")} == dict.fromkeys(
            ("fp32", "fp16", "int8-tensorrt"), "ok"
        )
        assert {finding["operator"] for finding in table[name]["int8-cpu"]} <= {"QuantizeLinear", "DequantizeLinear"}
    for graphs in bundle.graphs.values():
        for file in graphs.values():
            for node in onnx.load(bundle.path(file)).graph.node:
                assert node.op_type in OPERATORS


def test_a_precision_that_is_absent_has_its_reason(project: Project, tmp_path: Path, monkeypatch: Any) -> None:
    from pipeline import preflight as module

    def without(folder: Path) -> Bundle:
        whole = opened(folder)
        graphs = {key: value for key, value in whole.graphs.items() if key != "int8-tensorrt"}
        return dataclasses.replace(whole, graphs=graphs, refused={"int8-tensorrt": "no int8 LSTM"})

    opened = module.open_bundle
    monkeypatch.setattr(module, "open_bundle", without)
    copied = dataclasses.replace(project, build=tmp_path)
    (tmp_path / "bundle").symlink_to(project.build / "bundle")
    preflight_recipe(copied, NAME)
    table = read_json(tmp_path / "preflight" / f"{NAME}.json")
    assert all(row["int8-tensorrt"] == {"absent": "no int8 LSTM"} for row in table.values())


def sourced(entry: dict[str, Any], sources: dict[str, Any]) -> bool:
    return entry["source"] in sources


def test_every_fact_has_its_source_and_date() -> None:
    data, dla, boards = (facts(file) for file in ("operators.yaml", "dla.yaml", "devices.yaml"))
    for source in [*data["sources"].values(), *dla["sources"].values()]:
        assert source["what"] and isinstance(source["date"], date)
        assert source["certainty"] in ("verified", "documented", "recalled")
    for entry in [*boards["tensorrt"].values(), *boards["devices"].values()]:
        assert entry["source"] and isinstance(entry["date"], date)
        assert entry["certainty"] in ("verified", "documented", "recalled")
    assert all(sourced(entry, data["sources"]) for entry in OPERATORS.values())
    assert all(sourced(entry, dla["sources"]) for entry in dla["operators"].values())
    for entry in OPERATORS.values():
        assert set(entry) <= {"from", "to", "types", "unknown", "why", "source", "rewrite", "rules"}
        assert entry["from"] in [*ORDER, "never"] and entry.get("types", "F") in data["types"]
        assert ("unknown" in entry) == ("why" in entry) and set(entry.get("unknown", [])) <= set(ORDER)
        assert ("rewrite" in entry) == (entry["from"] == "never")
    subjects = {"attribute", "input", "output", "rank", "dtype", "static"}
    for entry in [*OPERATORS.values(), *dla["operators"].values()]:
        for rule in entry.get("rules", []):
            assert len(subjects & set(rule)) == 1 and rule["what"] and rule["rewrite"]
            assert sourced({"source": rule.get("source", entry["source"])}, data["sources"] | dla["sources"])
            assert ORDER.index(rule.get("from", ORDER[0])) <= ORDER.index(rule.get("to", ORDER[-1]))


def test_versions_and_devices_are_in_order() -> None:
    numbers = [tuple(map(int, version.split("."))) for version in ORDER]
    assert numbers == sorted(numbers)
    assert list(facts("devices.yaml")["tensorrt"]) == ORDER
    assert {device.tensorrt for device in devices()} == set(ORDER)
    assert {device.tensorrt for device in devices() if device.upgrade} == {"8.5", "8.6"}
    assert {device.tensorrt for device in devices() if device.unit == "dla"} == {"10.3", "11.4"}
    assert all(device.has_dla for device in devices() if device.unit == "dla")
    most = [facts("devices.yaml")["tensorrt"][version]["opsets"]["most"] for version in ORDER]
    assert most == sorted(most)


@given(operator=st.sampled_from(sorted(OPERATORS)), old=st.sampled_from(ORDER), new=st.sampled_from(ORDER))
def test_support_does_not_vanish_unsaid(operator: str, old: str, new: str) -> None:
    entry = OPERATORS[operator]
    if ORDER.index(old) < ORDER.index(new) and holds(entry, old) and not holds(entry, new):
        assert "to" in entry


def test_what_the_textbooks_need_is_known() -> None:
    """Of our own graphs the bundle's test looks; these are the networks to come."""
    needed = {
        "Conv", "ConvTranspose", "BatchNormalization", "MaxPool", "AveragePool", "GlobalAveragePool", "LRN",
        "Gemm", "MatMul", "LSTM", "GRU", "RNN", "Softmax", "Relu", "Sigmoid", "Tanh", "Resize", "GridSample",
        "RoiAlign", "NonMaxSuppression", "NonZero", "TopK", "MaxUnpool", "Loop", "If", "Scan", "Gelu",
        "HardSwish", "InstanceNormalization", "GroupNormalization", "LayerNormalization", "Einsum", "ScatterND",
        "Gather", "GatherND", "GatherElements", "QuantizeLinear", "DequantizeLinear", "QLinearConv", "Pad",
        "Cast", "Clip", "Where", "Expand", "Range", "Equal", "Less", "LessOrEqual", "Not", "Shape", "Slice",
        "Concat", "Squeeze", "Unsqueeze", "Transpose", "Reshape", "ReduceMean", "ReduceSum",
        "DynamicQuantizeLinear", "MatMulInteger",
    }  # fmt: skip
    assert needed <= set(OPERATORS) and "com.microsoft:DynamicQuantizeLSTM" in OPERATORS
    assert not re.search(r"/work|shared", "".join(file.read_text() for file in (ROOT / "pipeline/boards").glob("*.*")))
