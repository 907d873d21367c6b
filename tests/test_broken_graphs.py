"""The checks are checked: a graph that is broken on purpose must come out FAIL, and the intact one PASS."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import NAME
from onnx import numpy_helper

from deploy.contract import Bundle
from deploy.measure import measure
from deploy.runtimes import open_onnxruntime
from deploy.targets import GRAPHS, Target
from pipeline.judge import judge
from pipeline.recipe import Budget, Project
from pipeline.verdicts import FAIL, PASS

Break = Callable[[onnx.ModelProto], None]


def change(model: onnx.ModelProto, name: str, how: Callable[[np.ndarray], np.ndarray]) -> None:
    [tensor] = [t for t in model.graph.initializer if t.name == name]
    array = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(how(array).astype(array.dtype), name))


def constant_of(model: onnx.ModelProto, kind: str, position: int = 1) -> str:
    """The constant that the first node of ``kind`` takes."""
    [node, *_] = [node for node in model.graph.node if node.op_type == kind]
    return node.input[position]


def dropped_bias(model: onnx.ModelProto) -> None:
    change(model, "network.conv2.bias", lambda a: a * 0)


def swapped_channels(model: onnx.ModelProto) -> None:
    change(model, "network.conv1.weight", lambda a: a[[1, 0, *range(2, len(a))]])


def slightly_wrong_scale(model: onnx.ModelProto) -> None:
    change(model, constant_of(model, "Div"), lambda a: a * 1.001)


def zeroed_mean(model: onnx.ModelProto) -> None:
    change(model, constant_of(model, "Sub"), lambda a: a * 0)


def scale_a_sixteenth(model: onnx.ModelProto) -> None:
    """The input comes in at a sixteenth of its scale, as when it is divided by its largest value once too often."""
    change(model, constant_of(model, "Div"), lambda a: a * 16)


def swapped_rows(model: onnx.ModelProto) -> None:
    """The last layer's classes 0 and 1 change places: its weights', their scales' and its bias's rows."""
    last = [node for node in model.graph.node if node.op_type == "Gemm"][-1]
    made_by = {output: node for node in model.graph.node for output in node.output}
    sources = [made_by[name].input if name in made_by else [name] for name in last.input[1:]]
    swapped = 0
    for name in {name for source in sources for name in source}:
        [tensor] = [t for t in model.graph.initializer if t.name == name]
        if tensor.dims and tensor.dims[0] == 10:
            change(model, name, lambda a: a[[1, 0, *range(2, 10)]])
            swapped += 1
    assert swapped >= 2


def int8_scale_a_sixteenth(model: onnx.ModelProto) -> None:
    """One activation's Q/DQ range is sixteen times too small: all but the smallest values saturate."""
    change(model, [n for n in model.graph.node if n.op_type == "QuantizeLinear"][1].input[1], lambda a: a / 16)


def judged(project: Project, bundle: Bundle, precision: str, break_it: Break | None, tmp_path: Path) -> dict:
    model = onnx.load(bundle.path(bundle.graphs[precision]["network"]))
    if break_it:
        break_it(model)
    path = tmp_path / "network.onnx"
    onnx.save(model, path)
    target = Target("target", precision, "cpu", {"network": path}, lambda: {"network": open_onnxruntime(path)})
    measurement = measure(bundle, [target], {"name": "here"})
    verdicts = judge(measurement, bundle.sha256, project.recipe(NAME).floor - 6, Budget(1.0, {}))
    return verdicts["targets"]["target"]


PRECISIONS = sorted(set(GRAPHS["onnxruntime-cpu"].values()) | {"int8-tensorrt"})


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_intact_graph_passes(project: Project, bundle: Bundle, precision: str, tmp_path: Path) -> None:
    row = judged(project, bundle, precision, None, tmp_path)
    assert row["verdict"] == PASS, row["reason"]


@pytest.mark.parametrize("break_it", [dropped_bias, swapped_channels, slightly_wrong_scale], ids=lambda f: f.__name__)
def test_a_broken_fp32_graph_fails_by_its_numbers(
    project: Project, bundle: Bundle, break_it: Break, tmp_path: Path
) -> None:
    row = judged(project, bundle, "fp32", break_it, tmp_path)
    assert row["verdict"] == FAIL
    assert "not the same network: largest error against float64" in row["reason"]


@pytest.mark.parametrize("break_it", [zeroed_mean, scale_a_sixteenth, swapped_rows], ids=lambda f: f.__name__)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_broken_graph_fails_by_its_answers(
    project: Project, bundle: Bundle, precision: str, break_it: Break, tmp_path: Path
) -> None:
    row = judged(project, bundle, precision, break_it, tmp_path)
    assert row["verdict"] == FAIL
    assert row["drop_lower95"] > 1.0, row["reason"]


@pytest.mark.parametrize("precision", ["int8-cpu", "int8-tensorrt"])
def test_a_wrong_range_fails_by_its_answers(project: Project, bundle: Bundle, precision: str, tmp_path: Path) -> None:
    row = judged(project, bundle, precision, int8_scale_a_sixteenth, tmp_path)
    assert row["verdict"] == FAIL
    assert row["drop_lower95"] > 1.0, row["reason"]
