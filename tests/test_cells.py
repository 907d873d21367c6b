"""The recurrent cells against PyTorch's own, against the sources' equations in float64, and against what is exported"""

import functools
import io
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from deploy.errors import Refused
from deploy.run import Run
from deploy.runtimes import open_onnxruntime
from models import cells
from models.language_model import LanguageModel
from models.recurrent import Bidirectional, Stacked, build_cell
from models.sequence_classifier import RowClassifier
from models.tagger import Tagger
from pipeline.export import check_graph, to_onnx
from pipeline.fp16 import to_fp16
from pipeline.int8 import to_int8
from pipeline.network import open_pytorch
from pipeline.ranges import activation_ranges

NAMES = ["Elman", "Jordan", "LSTM", "PeepholeLSTM", "GRU"]
PYTORCHS = {"Elman": nn.RNN, "LSTM": nn.LSTM, "GRU": nn.GRU}
OPERATORS = {"Elman": "RNN", "Jordan": "Scan", "LSTM": "LSTM", "PeepholeLSTM": "LSTM", "GRU": "GRU"}
INPUTS, UNITS = 5, 7
# Of answers up to 4, between one run over a text and the same in pieces: at least twice the largest seen. float16 rounds a
# state that is handed over, and an int8 LSTM takes one scale for all that is in a call.
WITHIN = {"trained": 1e-5, "fp32": 1e-5, "fp16": 0.01, "int8": 0.1}


def cell(name: str, scale: float = 3.0) -> cells.Cell:
    """With weights so large that each step bends."""
    torch.manual_seed(0)
    made = build_cell(name, INPUTS, UNITS)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(scale)
    return made


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def told(name: str, weights: dict[str, np.ndarray], x: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sources' equations, one unit's gate a matrix of its own: outputs ``(time, units)`` and the last state."""
    h, c = state[:UNITS], state[UNITS:]
    outputs = []

    def gate(i: int, vector: np.ndarray, kind: str) -> np.ndarray:
        rows = slice(i * UNITS, (i + 1) * UNITS)
        return weights[f"weight_{kind}"][rows] @ vector + weights.get(f"bias_{kind}", np.zeros(9 * UNITS))[rows]

    for now in x:
        if name == "Elman":
            h = np.tanh(gate(0, now, "ih") + gate(0, h, "hh"))
        elif name == "Jordan":
            hidden = np.tanh(gate(0, now, "ih") + gate(0, h, "hh") + weights["bias"])
            h = np.tanh(weights["weight_out"] @ hidden + weights["bias_out"])
        elif name == "GRU":
            r, z = (sigmoid(gate(i, now, "ih") + gate(i, h, "hh")) for i in (0, 1))
            n = np.tanh(gate(2, now, "ih") + r * gate(2, h, "hh"))
            h = (1 - z) * n + z * h
        else:
            b = weights.get("bias", np.zeros(4 * UNITS)).reshape(4, UNITS)
            p = weights.get("peephole", np.zeros(3 * UNITS)).reshape(3, UNITS)
            i, f, g, o = (gate(k, now, "ih") + gate(k, h, "hh") + b[k] for k in range(4))
            c = sigmoid(f + p[1] * c) * c + sigmoid(i + p[0] * c) * np.tanh(g)
            h = sigmoid(o + p[2] * c) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs), np.concatenate([h, c])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("whole", [True, False])
def test_a_cell_is_its_sources_equations(name: str, whole: bool) -> None:
    made = cell(name).double()
    weights = {key: tensor.detach().numpy() for key, tensor in made.named_parameters()}
    x, state = torch.randn(2, 9, INPUTS).double(), torch.randn(2, made.width).double().tanh()
    with torch.inference_mode():
        came, last = made(x, state) if whole else cells._loop(made, x, state)  # type: ignore[arg-type]
    for row in range(2):
        outputs, after = told(name, weights, x[row].numpy(), state[row].numpy())
        np.testing.assert_allclose(came[row], outputs, rtol=0, atol=1e-12)
        np.testing.assert_allclose(last[row], after, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", PYTORCHS)
@pytest.mark.parametrize("whole", [True, False])
def test_a_cell_is_pytorchs_own(name: str, whole: bool) -> None:
    made, theirs = cell(name), PYTORCHS[name](INPUTS, UNITS, batch_first=True)
    theirs.load_state_dict({f"{key}_l0": tensor for key, tensor in made.state_dict().items()})
    x = torch.randn(3, 11, INPUTS)
    with torch.inference_mode():
        came, last = made(x) if whole else cells._loop(made, x, torch.zeros(3, made.width))  # type: ignore[arg-type]
        expected, after = theirs(x)
    torch.testing.assert_close(came, expected, rtol=0, atol=1e-6)
    state = torch.cat([part[0] for part in after], 1) if name == "LSTM" else after[0]
    torch.testing.assert_close(last, state, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", PYTORCHS)
def test_a_cell_starts_as_pytorchs_own_does(name: str) -> None:
    torch.manual_seed(3)
    mine = build_cell(name, INPUTS, UNITS).state_dict()
    torch.manual_seed(3)
    theirs = PYTORCHS[name](INPUTS, UNITS).state_dict()
    for key, tensor in mine.items():
        assert torch.equal(tensor, theirs[f"{key}_l0"])


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_the_equations(name: str) -> None:
    """Backpropagation through time, against differences in float64."""
    made = cell(name, 1.0).double()
    x = torch.randn(2, 4, INPUTS, dtype=torch.float64, requires_grad=True)
    state = torch.randn(2, made.width, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, state: made(x, state), (x, state))


COUNTS = {
    "Elman": UNITS * (INPUTS + UNITS + 2),
    "Jordan": UNITS * (INPUTS + 2 * UNITS + 2),
    "LSTM": 4 * UNITS * (INPUTS + UNITS + 2),
    "PeepholeLSTM": 4 * UNITS * (INPUTS + UNITS + 1) + 3 * UNITS,
    "GRU": 3 * UNITS * (INPUTS + UNITS + 2),
}


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_as_many_as_the_docstring_says(name: str) -> None:
    assert sum(p.numel() for p in build_cell(name, INPUTS, UNITS).parameters()) == COUNTS[name]


def test_a_cell_that_is_none_is_told_with_those_that_are() -> None:
    with pytest.raises(
        ValueError, match="cell: 'lstm' came, one of Elman, Jordan, LSTM, PeepholeLSTM, GRU was expected"
    ):
        build_cell("lstm", 1, 1)


@pytest.mark.parametrize("name", NAMES)
def test_layers_read_one_another_and_keep_a_state_each(name: str) -> None:
    torch.manual_seed(0)
    stack = Stacked(name, INPUTS, UNITS, 3).eval()
    x = torch.randn(2, 6, INPUTS)
    state = torch.randn(2, 3, stack.layers[0].width).tanh()
    with torch.inference_mode():
        came, last = stack(x, state)
        for i, layer in enumerate(stack.layers):
            x, after = layer(x, state[:, i])
            torch.testing.assert_close(last[:, i], after)
    torch.testing.assert_close(came, x)


@pytest.mark.parametrize("name", NAMES)
def test_from_both_sides_is_each_text_turned_by_itself(name: str) -> None:
    torch.manual_seed(0)
    both = Bidirectional(name, INPUTS, UNITS)
    x = torch.randn(3, 6, INPUTS)
    lengths = [6, 3, 1]
    with torch.inference_mode():
        came = both(x, torch.tensor(lengths)[:, None])
        for row, length in enumerate(lengths):
            alone = x[row : row + 1, :length]
            forwards, backwards = both.forwards(alone)[0], both.backwards(alone.flip(1))[0].flip(1)
            expected = torch.cat([forwards, backwards], 2)[0]
            torch.testing.assert_close(came[row, :length], expected, rtol=1e-5, atol=1e-6)


def text(batch: int, time: int) -> np.ndarray:
    return np.random.default_rng(batch).integers(97, 120, (batch, time)).astype(np.uint8)


def scaled_up(network: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2)
    return network.eval()


@functools.cache
def writer(name: str) -> tuple[LanguageModel, onnx.ModelProto]:
    torch.manual_seed(0)
    network = LanguageModel(name, size=6, units=UNITS, layers=2, window=4)
    scaled_up(network)
    state = np.random.default_rng(0).normal(0, 0.3, (4, 2, network.cells.layers[0].width)).astype(np.float32)
    examples = {"text": text(4, 9), "state": state}
    model = to_onnx(network, examples, ("logits", "next_state"))
    check_graph(model, network, examples, ("logits", "next_state"))  # at several batches and lengths
    return network, model


@pytest.fixture(scope="module")
def writers() -> dict[str, tuple[Run, dict[str, Run]]]:
    """Cell -> the trained network, and its graph by precision."""
    made = {}
    for name in NAMES:
        network, model = writer(name)
        made[name] = (open_pytorch(network, ("logits", "next_state")), opened(model))
    return made


def opened(model: onnx.ModelProto) -> dict[str, Run]:
    fp32 = io.BytesIO(model.SerializeToString())
    converted, told = to_fp16(fp32, {})  # type: ignore[arg-type]  # a file or its like
    assert not told["float32"]
    runs = {"fp32": open_onnxruntime(model.SerializeToString()), "fp16": open_onnxruntime(converted)}
    if any(node.op_type == "LSTM" for node in model.graph.node):
        with tempfile.TemporaryDirectory() as folder:
            onnx.save(model, f"{folder}/network.onnx")
            made = to_int8(Path(folder) / "network.onnx", "int8-cpu", [], lambda graph: (1.0, 0.0), True)[0]
        runs["int8"] = open_onnxruntime(made)
    return runs


def state_of(name: str, batch: int) -> np.ndarray:
    return np.zeros((batch, 2, 2 * UNITS if "LSTM" in name else UNITS), np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_the_graph_has_onnxs_own_operator(name: str) -> None:
    kinds = [node.op_type for node in writer(name)[1].graph.node]
    assert kinds.count(OPERATORS[name]) == 2
    assert {"RNN", "LSTM", "GRU", "Loop", "Scan"} & set(kinds) == {OPERATORS[name]}


@pytest.mark.parametrize("name", ["Elman", "LSTM", "PeepholeLSTM", "GRU"])
def test_a_graphs_weights_are_constants(name: str) -> None:
    """Else no quantizer finds them, and each call would order its gates anew."""
    graph = writer(name)[1].graph
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == OPERATORS[name]:
            assert set(node.input[1:4]) <= constants
            assert name != "PeepholeLSTM" or node.input[7] in constants


@pytest.mark.parametrize(
    ("name", "precision"),
    [(name, precision) for name in NAMES for precision in WITHIN if precision != "int8" or "LSTM" in name],
)
@settings(max_examples=8, deadline=None)
@given(cuts=st.sets(st.integers(1, 29), max_size=8), batch=st.integers(1, 3))
def test_whole_sequences_steps_and_chunks_of_any_size_agree(
    writers: dict[str, tuple[Run, dict[str, Run]]], name: str, precision: str, cuts: set[int], batch: int
) -> None:
    trained, graphs = writers[name]
    run, atol = (trained if precision == "trained" else graphs[precision]), WITHIN[precision]
    came = text(batch, 30)
    start = {"state": state_of(name, batch)}
    whole, truth = run({"text": came} | start), trained({"text": came} | start)
    for output in ("logits", "next_state"):
        np.testing.assert_allclose(whole[output], truth[output], rtol=0, atol=atol)
    for edges in ([0, *sorted(cuts), 30], list(range(31))):
        state, logits = start, []
        for begin, end in pairwise(edges):
            said = run({"text": came[:, begin:end]} | state)
            state = {"state": said["next_state"]}
            logits.append(said["logits"])
        np.testing.assert_allclose(np.concatenate(logits, 1), whole["logits"], rtol=0, atol=atol)
        np.testing.assert_allclose(state["state"], whole["next_state"], rtol=0, atol=atol)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_no_steps_no_texts_and_the_state_of_others_are_refused(
    writers: dict[str, tuple[Run, dict[str, Run]]], name: str, precision: str
) -> None:
    """Of onnxruntime itself a GRU ends the process, an LSTM forgets its state, and Jordan's answers four texts for one."""
    run = writers[name][1][precision]
    for batch, time, states, why in (
        (2, 0, 2, "time of text is 0, 1 or more was expected"),
        (0, 3, 0, "batch of text is 0, 1 or more was expected"),
        (1, 3, 4, "batch of state is 4, that of another input 1"),
        (4, 3, 1, "batch of state is 1, that of another input 4"),
    ):
        with pytest.raises(Refused, match=why):
            run({"text": text(batch, time), "state": state_of(name, states)})
    assert np.isfinite(run({"text": text(2, 3), "state": state_of(name, 2)})["logits"]).all()  # and goes on


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "Jordan" else pytest.mark.slow) for name in NAMES]
)
def test_many_to_one_and_many_to_many_are_free_in_batch_and_time(name: str) -> None:
    torch.manual_seed(0)
    rows = scaled_up(RowClassifier((1, 8, 8), 10, name, units=6, layers=2))
    image = {"image": np.random.default_rng(0).random((4, 1, 8, 8)).astype(np.float32)}
    model = to_onnx(rows, image, ("logits",))
    check_graph(model, rows, image, ("logits",))
    for run in opened(model).values():
        for batch, time in ((1, 1), (5, 40)):
            longer = np.random.default_rng(1).random((batch, 1, time, 8)).astype(np.float32)
            truth = open_pytorch(rows, ("logits",))({"image": longer})["logits"]
            np.testing.assert_allclose(run({"image": longer})["logits"], truth, rtol=0, atol=0.02)
    tagger = scaled_up(Tagger(5, name, size=4, units=6, layers=2))
    ragged = {"text": np.where(np.arange(9) < np.array([[9], [4], [1], [0]]), text(4, 9), 0).astype(np.uint8)}
    model = to_onnx(tagger, ragged, ("logits",))
    check_graph(model, tagger, ragged, ("logits",))
    whole = open_onnxruntime(model.SerializeToString())
    together = whole(ragged)["logits"]
    for row, length in enumerate([9, 4, 1]):
        alone = whole({"text": ragged["text"][row : row + 1, :length]})["logits"][0]
        np.testing.assert_allclose(together[row, :length], alone, rtol=0, atol=1e-5)


def test_a_state_given_is_not_the_state_from_zero() -> None:
    """A graph that dropped the state would pass every test that starts at zero."""
    network, model = writer("LSTM")
    run = open_onnxruntime(model.SerializeToString())
    zero = np.zeros((1, 2, 2 * UNITS), np.float32)
    for layer in (0, 1):
        for part in (slice(0, UNITS), slice(UNITS, None)):
            given = zero.copy()
            given[:, layer, part] = 0.7
            came, still = (run({"text": text(1, 3), "state": state})["logits"] for state in (given, zero))
            assert np.abs(came - still).max() > 1e-3
            truth = open_pytorch(network, ("logits", "next_state"))({"text": text(1, 3), "state": given})
            np.testing.assert_allclose(came, truth["logits"], rtol=0, atol=1e-5)


def test_ranges_are_told_of_a_scan_too(tmp_path: Path) -> None:
    _, model = writer("Jordan")
    feeds = [{"text": text(2, 9), "state": np.zeros((2, 2, UNITS), np.float32)}]
    path = tmp_path / "network.onnx"
    onnx.save(model, path)
    ranges = activation_ranges(path, feeds)
    states = [output for node in model.graph.node if node.op_type == "Scan" for output in node.output]
    assert len(states) == 4 and set(states) <= set(ranges)
    logits = open_onnxruntime(path)(feeds[0])["logits"]
    assert ranges["logits"] == pytest.approx([logits.min(), logits.max()], rel=1e-5)
