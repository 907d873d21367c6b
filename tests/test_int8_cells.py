"""GRU and RNN as equations: against ONNX Runtime's operators, in int8 against fp32, and through the quantizer."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from deploy.errors import Refused
from deploy.runtimes import open_onnxruntime
from models.sequence_classifier import RowClassifier
from pipeline import int8
from pipeline.export import to_onnx
from pipeline.int8 import Feeds, float_layers, to_int8
from pipeline.int8_cells import BODY, quantize_steps, why_not, write_out

GATES = {"GRU": 3, "RNN": 1}
INPUTS, UNITS = 5, 12


def stack(kind: str, layers: int = 1, units: int = UNITS, given: bool = True, head: bool = False) -> onnx.ModelProto:
    """``layers`` of a cell on ``x`` ``(time, batch, inputs)``, from ``before_i`` ``(1, batch, units)`` or from zeros.

    Gives ``y`` ``(time, batch, units)`` and each ``after_i``; with a ``head`` ``x`` comes batch first, as in a recipe's
    graph, and ``y`` are logits of 16.
    """
    random = np.random.default_rng(0)
    value = helper.make_tensor_value_info
    nodes, inputs = [], [value("x", TensorProto.FLOAT, [*(["batch", "time"] if head else ["time", "batch"]), INPUTS])]
    constants = {"one": np.array([1])}
    outputs, source = [], "x"
    if head:
        nodes.append(helper.make_node("Transpose", ["x"], ["turned"], "turn", perm=[1, 0, 2]))
        source = "turned"
    for i in range(layers):
        width = INPUTS if i == 0 else units
        for name, shape in (("w", (1, GATES[kind] * units, width)), ("r", (1, GATES[kind] * units, units))):
            # As PyTorch begins; much larger, and a recurrent network makes any difference greater at each step.
            constants[f"{name}{i}"] = (random.uniform(-1, 1, shape) / units**0.5).astype(np.float32)
        constants[f"b{i}"] = random.uniform(-1, 1, (1, 2 * GATES[kind] * units)).astype(np.float32)
        attributes = {"linear_before_reset": 1} if kind == "GRU" else {}
        sources = [source, f"w{i}", f"r{i}", f"b{i}", "", f"before_{i}" if given else ""]
        made = helper.make_node(
            kind, sources, [f"every_{i}", f"after_{i}"], f"cell {i}", hidden_size=units, **attributes
        )
        source = f"said_{i}"
        nodes += [made, helper.make_node("Squeeze", [f"every_{i}", "one"], [source], f"squeeze {i}")]
        if given:
            inputs.append(value(f"before_{i}", TensorProto.FLOAT, [1, "batch", units]))
        outputs.append(value(f"after_{i}", TensorProto.FLOAT, [1, "batch", units]))
    if head:
        constants["o"] = (random.standard_normal((units, 16)) * 4 / units**0.5).astype(np.float32)
        nodes.append(helper.make_node("MatMul", [source, "o"], ["y"], "head"))
    else:
        nodes.append(helper.make_node("Identity", [source], ["y"], "last"))
    outputs.insert(0, value("y", TensorProto.FLOAT, ["time", "batch", 16 if head else units]))
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "stack", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def feed(time: int, batch: int, layers: int = 0, units: int = UNITS, seed: int = 1) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    states = {f"before_{i}": random.uniform(-1, 1, (1, batch, units)).astype(np.float32) for i in range(layers)}
    return {"x": random.standard_normal((time, batch, INPUTS)).astype(np.float32)} | states


def answers(model: onnx.ModelProto, inputs: dict[str, np.ndarray], optimise: bool = True) -> dict[str, np.ndarray]:
    return open_onnxruntime(model.SerializeToString(), optimise=optimise)(inputs)


def cell(model: onnx.ModelProto) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type in GATES)


def changed(kind: str = "GRU", **attributes: object) -> onnx.ModelProto:
    """One cell with other attributes."""
    model = stack(kind)
    node = cell(model)
    kept = [attribute for attribute in node.attribute if attribute.name not in attributes]
    del node.attribute[:]
    node.attribute.extend([*kept, *(helper.make_attribute(*each) for each in attributes.items())])
    return model


@pytest.mark.parametrize("kind", list(GATES))
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("given_state", [True, False])
def test_written_out_it_answers_as_the_operator_does(kind: str, layers: int, given_state: bool) -> None:
    model = stack(kind, layers, given=given_state)
    before = model.SerializeToString()
    written = write_out(model)
    assert model.SerializeToString() == before
    onnx.checker.check_model(written, full_check=True)
    assert [node.op_type for node in written.graph.node].count("Scan") == layers
    assert not any(node.op_type in GATES for node in written.graph.node)
    names = {tensor.name for tensor in written.graph.initializer}
    assert not names & {"w0", "r0", "b0"}  # what nothing reads any more is gone
    for optimise in (True, False):
        for time, batch in ((1, 1), (1, 3), (7, 1), (32, 2), (60, 5)):
            fed = feed(time, batch, layers if given_state else 0)
            expected, came = answers(model, fed), answers(written, fed, optimise)
            assert list(came) == list(expected)
            for name, array in expected.items():
                assert came[name].shape == array.shape
                np.testing.assert_allclose(came[name], array, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", list(GATES))
@pytest.mark.parametrize("form", [lambda model: model, quantize_steps], ids=["float", "int8"])
@settings(max_examples=10, deadline=None)
@given(cuts=st.sets(st.integers(1, 19), max_size=5))
def test_a_state_that_is_handed_over_changes_nothing(
    kind: str, form: Callable[[onnx.ModelProto], onnx.ModelProto], cuts: set[int]
) -> None:
    run = open_onnxruntime(form(write_out(stack(kind, 2))).SerializeToString())
    fed = feed(20, 2, 2)
    whole = run(fed)
    states = {name: array for name, array in fed.items() if name != "x"}
    said = []
    for part in np.split(fed["x"], sorted(cuts)):
        came = run({"x": part} | states)
        said.append(came["y"])
        states = {f"before_{i}": came[f"after_{i}"] for i in range(2)}
    # A state that lies on the edge between two steps of an int8 may be rounded to the other.
    atol = 1e-6 if form is not quantize_steps else 0.02
    np.testing.assert_allclose(np.concatenate(said), whole["y"], rtol=0, atol=atol)


@pytest.mark.parametrize("kind", list(GATES))
@pytest.mark.parametrize("outputs", [["every_0"], ["", "after_0"]])
def test_an_output_that_is_not_asked_for_is_not_made(kind: str, outputs: list[str]) -> None:
    model = stack(kind)
    node = cell(model)
    del node.output[:]
    node.output.extend(outputs)
    if outputs == ["every_0"]:
        del model.graph.output[1]
    else:
        del model.graph.output[0], model.graph.node[1:]
    written = write_out(model)
    onnx.checker.check_model(written, full_check=True)
    for name, array in answers(model, feed(6, 2, 1)).items():
        np.testing.assert_allclose(answers(written, feed(6, 2, 1))[name], array, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", list(GATES))
def test_without_a_bias(kind: str) -> None:
    model = stack(kind)
    cell(model).input[3] = ""
    written = write_out(model)
    for name, array in answers(model, feed(6, 2, 1)).items():
        np.testing.assert_allclose(answers(written, feed(6, 2, 1))[name], array, rtol=0, atol=1e-6)


def test_weights_in_nodes_and_weights_that_two_cells_share() -> None:
    model = stack("RNN", 3)
    for node in model.graph.node:
        if node.op_type == "RNN" and node.name != "cell 0":
            node.input[1:4] = ["w1", "r1", "b1"]
    [shared] = [tensor for tensor in model.graph.initializer if tensor.name == "r1"]
    model.graph.initializer.remove(shared)
    model.graph.node.insert(0, helper.make_node("Constant", [], ["r1"], "weights", value=shared))
    written = write_out(model)
    onnx.checker.check_model(written, full_check=True)
    fed = feed(9, 2, 3)
    for name, array in answers(model, fed).items():
        np.testing.assert_allclose(answers(written, fed)[name], array, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (changed(linear_before_reset=0), "its reset gate comes before the product"),
        (changed("RNN", direction="reverse"), "it does not read forwards"),
        (changed("RNN", activations=["Relu"]), r"its activations are \['Relu'\]"),
        (changed(activations=["HardSigmoid", "Tanh"]), "its activations are"),
        (changed(clip=3.0), "it clips"),
        (changed("RNN", layout=1), "its batch comes before its time"),
    ],
    ids=lambda each: "" if isinstance(each, onnx.ModelProto) else each,
)
def test_a_cell_of_another_form_is_left_alone(model: onnx.ModelProto, why: str) -> None:
    assert re.match(why, why_not(model, cell(model)))
    assert write_out(model) == model


def test_lengths_computed_weights_and_an_old_opset_are_left_alone() -> None:
    lengths, computed, old = stack("GRU"), stack("GRU"), stack("GRU")
    lengths.graph.input.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, ["batch"]))
    cell(lengths).input[4] = "lengths"
    computed.graph.node.insert(0, helper.make_node("Neg", ["w0"], ["turned"], "turn"))
    cell(computed).input[1] = "turned"
    old.opset_import[0].version = 14
    for model, why in (
        (lengths, "it takes lengths of sequences"),
        (computed, "its weights are computed"),
        (old, "opset 14, expected 15 and newer"),
    ):
        assert why_not(model, cell(model)) == why
        assert write_out(model) == model


def test_the_activations_by_their_names_are_the_operators_own() -> None:
    model = changed(activations=["Sigmoid", "Tanh"], direction="forward")
    assert not why_not(model, cell(model))


@pytest.mark.parametrize("kind", list(GATES))
def test_a_state_of_another_batch_is_refused_as_the_operator_refuses_it(kind: str) -> None:
    """Onnxruntime alone would broadcast one text over four states; a Reshape in the graph, which would not, it drops."""
    run = open_onnxruntime(quantize_steps(write_out(stack(kind))).SerializeToString())
    with pytest.raises(Refused, match="batch of before_0 is 4, that of another input 1"):
        run({"x": feed(3, 1)["x"], "before_0": feed(3, 4, 1)["before_0"]})


def test_of_smaller_cells_it_is_told_that_they_gain_nothing() -> None:
    model = stack("GRU")
    told = why_not(model, cell(model), UNITS + 1)
    assert told == f"it has {UNITS} units, and in int8 it is the faster from {UNITS + 1} on"
    assert not why_not(model, cell(model), UNITS)


@pytest.mark.parametrize("kind", list(GATES))
def test_steps_in_int8_are_close_and_multiply_in_int8(kind: str, tmp_path: Path) -> None:
    units = 64
    model = stack(kind, 2, units, head=True)
    written = write_out(model)
    quantized = quantize_steps(written)
    onnx.checker.check_model(quantized, full_check=True)
    assert quantize_steps(model) == model and quantize_steps(written) != written
    bodies = [a.g for node in quantized.graph.node for a in node.attribute if a.HasField("g")]
    assert len(bodies) == 2 and all(body.name == BODY for body in bodies)
    for body in bodies:
        weights = [numpy_helper.to_array(t) for t in body.initializer if t.data_type == TensorProto.INT8]
        assert max(np.abs(array).max() for array in weights) == 64  # 7 bits: right without VNNI too
        assert not [t for t in body.initializer if t.data_type == TensorProto.FLOAT and len(t.dims) == 2]
    onnx.save(quantized, tmp_path / "int8.onnx")
    assert not [layer for layer in float_layers(tmp_path / "int8.onnx") if "R h" in layer]
    onnx.save(written, tmp_path / "written.onnx")
    assert len([layer for layer in float_layers(tmp_path / "written.onnx") if "R h" in layer]) == 2
    fed = feed(40, 8, 2, units)
    fed["x"] = fed["x"].swapaxes(0, 1)
    expected = answers(model, fed)["y"]
    for optimise in (True, False):
        came = answers(quantized, fed, optimise)["y"]
        assert np.abs(came - expected).mean() < 0.05 * np.abs(expected).mean()
        assert (came.argmax(-1) == expected.argmax(-1)).mean() > 0.95


def test_rows_of_a_batch_cannot_touch_each_other() -> None:
    run = open_onnxruntime(quantize_steps(write_out(stack("GRU", 2))).SerializeToString())
    fed = feed(10, 3, 2)
    together = run(fed)["y"]
    for row in range(3):
        alone = run({name: array[:, row : row + 1] for name, array in fed.items()})["y"]
        np.testing.assert_allclose(alone[:, 0], together[:, row], rtol=0, atol=1e-6)


def test_the_multiplications_of_a_cell_are_in_the_graph_as_layers() -> None:
    """Anything else called Scan is nobody's business here."""
    written = write_out(stack("GRU"))
    for node in written.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                attribute.g.name = "another's"
    assert quantize_steps(written) == written


def turned(seed: int) -> dict[str, np.ndarray]:
    """One text of 30, batch first, from a state."""
    fed = feed(30, 1, 2, seed=seed)
    return fed | {"x": fed["x"].swapaxes(0, 1)}


def graph_of(model: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(model, folder / "network.onnx")
    return folder / "network.onnx"


def quantized(fp32: Path, feeds: Feeds) -> tuple[onnx.ModelProto, dict]:
    made, facts = to_int8(fp32, "int8-cpu", feeds, lambda path: (1.0, 0.1), True)
    return onnx.load_from_string(made), facts


@pytest.mark.parametrize("kind", list(GATES))
def test_large_cells_are_multiplied_in_int8(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "WINS_FROM", UNITS)
    model, facts = quantized(graph_of(stack(kind, 2, head=True), tmp_path), [turned(seed) for seed in range(4)])
    assert [each["weights"] for each in facts["candidates"]] == ["7-bit int8 a channel"] * 2
    assert not [each for each in facts["candidates"] if "reason" in each or each["float_layers"]]
    onnx.save(model, tmp_path / "made.onnx")
    assert float_layers(tmp_path / "made.onnx") == []
    expected = answers(stack(kind, 2, head=True), turned(9))["y"]
    assert np.abs(answers(model, turned(9))["y"] - expected).mean() < 0.05 * np.abs(expected).mean()


def test_a_graph_of_cells_alone_can_be_quantized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "WINS_FROM", UNITS)
    model, facts = quantized(graph_of(stack("GRU", 2), tmp_path), [feed(1, 1, 2, seed=seed) for seed in range(4)])
    assert len(facts["candidates"]) == 2
    assert [node.op_type for node in model.graph.node].count("Scan") == 2


def test_small_cells_are_refused_with_the_reason(tmp_path: Path) -> None:
    why = f"network.onnx: GRU 'cell 0', GRU 'cell 1': it has {UNITS} units, and in int8 it is the faster from "
    why += f"{int8.WINS_FROM} on, and the rest in int8 would not be an int8 network. Deploy fp32 there"
    with pytest.raises(Refused, match=re.escape(why)):
        quantized(graph_of(stack("GRU", 2, head=True), tmp_path), [turned(1)])


def test_one_cell_that_stays_float_refuses_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = stack("GRU", 2, head=True)
    second = [node for node in model.graph.node if node.op_type == "GRU"][1]
    del second.attribute[:]
    second.attribute.append(helper.make_attribute("hidden_size", UNITS))  # its reset gate comes first
    monkeypatch.setattr(int8, "WINS_FROM", UNITS)
    why = "network.onnx: GRU 'cell 1': its reset gate comes before the product, and the rest in int8"
    with pytest.raises(Refused, match=re.escape(why)):
        quantized(graph_of(model, tmp_path), [turned(1)])


def test_a_cell_beside_an_lstm_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = stack("GRU", 2)
    model.graph.node[1].op_type = "LSTM"  # of no sense, but nothing is run
    monkeypatch.setattr(int8, "WINS_FROM", UNITS)
    with pytest.raises(Refused, match="it is beside an LSTM"):
        quantized(graph_of(model, tmp_path), [turned(1)])


def test_a_cell_that_is_a_loop_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rows = RowClassifier((1, 4, 4), 3, "Jordan", units=UNITS).eval()
    image = {"image": np.random.default_rng(0).random((4, 1, 4, 4)).astype(np.float32)}
    fp32 = graph_of(to_onnx(rows, image, ("logits",)), tmp_path)
    for precision, why in (
        ("int8-cpu", "the quantizer reads no graph inside a graph"),
        ("int8-tensorrt", "TensorRT has no int8 form of it"),
    ):
        with pytest.raises(Refused, match=rf"Scan '.*': {why}, and the rest in int8 would not be an int8 network"):
            to_int8(fp32, precision, [image], lambda path: (1.0, 0.1), True)
