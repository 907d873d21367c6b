"""State: the GRU language model fed whole, in chunks and step by step, trained and deployed; and broken on purpose."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from deploy.contract import Bundle, open_bundle, pack_arrays
from deploy.errors import Refused
from deploy.files import read_json, sha256, write_bytes, write_json
from deploy.measure import measure
from deploy.run import Run
from deploy.runtimes import open_onnxruntime
from deploy.state import carried, from_zero
from deploy.targets import Target, targets
from deploy.tasks import language_model as task
from models.language_model import LanguageModel
from pipeline import int8
from pipeline.bundle import bundle as make_bundle
from pipeline.export import export
from pipeline.host import host
from pipeline.judge import judge
from pipeline.network import load_network, open_network
from pipeline.quantize import quantize
from pipeline.recipe import Budget, Network, Project, Recipe, Training, load_project
from pipeline.train import train
from pipeline.verdicts import FAIL, PASS

NAME = "gru"
LAYERS, UNITS = 3, 24
FILES = {"train": 300, "calib": 6, "select": 10, "test": 60}
STEPS = 1_500  # the recipe's 10,000 take PyTorch a while


def remembering(random: np.random.Generator) -> np.ndarray:
    """Lines of one letter and dots in turn, ``(64,)``: after a dot only the state knows the letter."""
    lines = [bytes([letter, *b"."]) * 7 + b"\n" for letter in random.choice(list(b"abcdefghijklmnop"), 5)]
    return np.frombuffer(b"".join(lines), np.uint8)[:64].copy()


@pytest.fixture(scope="module")
def text_project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Three small layers, trained for a few seconds, through the stages to the bundle."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "STEPS", STEPS)
        patch.setattr(task, "CHUNK", 2)  # so that most answers rest on a state that was handed over
        patch.setattr(int8, "WINS_FROM", UNITS)
        project = load_project(ROOT / "params.yaml")
        recipe = Recipe(
            network=Network(
                "language_model",
                "LanguageModel",
                {"cell": "GRU", "size": 12, "units": UNITS, "layers": LAYERS, "window": 32},
            ),
            data="letters",
            task="language_model",
            train=Training(14, 8, 0.02, 14, 0, False, False),
            precisions=("fp32", "fp16", "int8-cpu", "int8-tensorrt"),
            floor=6.0,
            budget=Budget(0.1, {}),
        )
        build = tmp_path_factory.mktemp("text")
        project = dataclasses.replace(project, build=build, recipes={NAME: recipe})
        random, digests = np.random.default_rng(0), {}
        for split, n in FILES.items():
            text = np.stack([remembering(random) for _ in range(n)])
            text[::3, 40:] = 0  # ragged
            packed = pack_arrays({"text": text})
            write_bytes(build / "prepare" / "letters" / f"{split}.npz", packed)
            digests[split] = {"n": n, "sha256": sha256(build / "prepare" / "letters" / f"{split}.npz")}
        facts = {"name": "letters", "licence": "", "classes": [], "network": {}, "scaled": False, "sha256": "0"}
        write_json(build / "prepare" / "letters" / "data.json", facts | {"splits": digests})
        host(project)
        for stage in (train, export, quantize, make_bundle):
            stage(project, NAME)
        yield project


@pytest.fixture(scope="module")
def text_bundle(text_project: Project) -> Bundle:
    return open_bundle(text_project.build / "bundle" / NAME)


@pytest.fixture(scope="module")
def runs(text_project: Project, text_bundle: Bundle) -> dict[str, Run]:
    """The trained network, and its graph in every precision that a CPU runs."""
    weights = text_project.build / "train" / NAME / "weights.safetensors"
    data = read_json(text_project.build / "prepare" / "letters" / "data.json")
    network = load_network(text_project.recipe(NAME).network, data, weights)
    opened = {"trained": open_network(network, task.outputs)["network"]}
    for precision, files in text_bundle.graphs.items():
        run = open_onnxruntime(text_bundle.path(files["network"]))
        opened[precision] = from_zero(run, text_bundle.io["network"])
    return opened


WAYS = ["trained", "fp32", "fp16", "int8-cpu"]
TEXT = remembering(np.random.default_rng(1))[None]


def fed(run: Run, text: np.ndarray, sizes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Logits of ``text`` fed in chunks of ``sizes``, and the last state."""
    state: dict[str, np.ndarray] = {}
    logits, at = [], 0
    for size in sizes:
        said = run({"text": text[:, at : at + size]} | state)
        state = carried(said)
        logits.append(said["logits"])
        at += size
    assert at == text.shape[1]
    return np.concatenate(logits, axis=1), state["state"]


def test_the_stack_is_that_of_pytorchs_own_cells() -> None:
    """Float64, one cell a layer and one step at a time."""
    torch.manual_seed(0)
    network = LanguageModel("GRU", 5, 7, LAYERS, window=4).double().eval()
    cells = []
    for layer in range(LAYERS):
        cell = torch.nn.GRUCell(5 if layer == 0 else 7, 7).double()
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(cell, name).data = getattr(network.cells.layers[layer], name).data
        cells.append(cell)
    text = torch.from_numpy(np.random.default_rng(0).integers(1, 255, (2, 9)).astype(np.uint8))
    before = torch.randn(2, LAYERS, 7, dtype=torch.float64)
    states = list(before.unbind(1))
    with torch.inference_mode():
        logits, after = network(text, before)
        for t in range(9):
            x = network.characters(text[:, t : t + 1])[:, 0]
            for layer, cell in enumerate(cells):
                x = states[layer] = cell(x, states[layer])
            torch.testing.assert_close(logits[:, t], network.output(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(after, torch.stack(states, 1), rtol=0, atol=1e-12)


def test_parameters_are_as_many_as_its_docstring_says() -> None:
    size, units = 5, 7
    expected = 256 * size + 3 * units * (size + units + 2) + 2 * 6 * units * (units + 1) + 256 * (units + 1)
    assert sum(p.numel() for p in LanguageModel("GRU", size, units, 3, window=4).parameters()) == expected


def test_the_state_is_explicit_batch_first_and_time_is_free(text_bundle: Bundle) -> None:
    state = {"name": "state", "dtype": "float32", "shape": ["batch", LAYERS, UNITS]}
    assert text_bundle.io["network"] == {
        "inputs": [{"name": "text", "dtype": "uint8", "shape": ["batch", "time"]}, state],
        "outputs": [
            {"name": "logits", "dtype": "float32", "shape": ["batch", "time", 256]},
            state | {"name": "next_state"},
        ],
    }
    model = onnx.load(text_bundle.path(text_bundle.graphs["fp32"]["network"]))
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("GRU") == LAYERS and not {"Loop", "Scan"} & set(kinds)  # native, and no step is baked in


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.sets(st.integers(1, TEXT.shape[1] - 1), max_size=12))
def test_whole_chunks_of_any_size_and_steps_agree(runs: dict[str, Run], way: str, cuts: set[int]) -> None:
    edges = [0, *sorted(cuts), TEXT.shape[1]]
    whole, last = fed(runs[way], TEXT, [TEXT.shape[1]])
    for sizes in (np.diff(edges).tolist(), [1] * TEXT.shape[1]):
        logits, state = fed(runs[way], TEXT, sizes)
        # float32 sums may be ordered otherwise; float16 rounds a state where it is handed over; int8 rounds up or down.
        atol = {"trained": 2e-5, "fp32": 2e-5, "fp16": 5e-3, "int8-cpu": 2e-5}[way]
        np.testing.assert_allclose(state, last, rtol=0, atol=atol)
        np.testing.assert_allclose(
            logits, whole, rtol=0, atol=(atol if way != "int8-cpu" else 0.02) * np.abs(whole).max()
        )


@pytest.mark.parametrize("way", WAYS)
def test_deployed_is_trained_step_by_step_too(runs: dict[str, Run], way: str) -> None:
    truth, _ = fed(runs["trained"], TEXT, [TEXT.shape[1]])
    logits, _ = fed(runs[way], TEXT, [1] * TEXT.shape[1])
    allowed = {"trained": 1e-5, "fp32": 1e-4, "fp16": 0.05, "int8-cpu": 1.0}[way]
    assert np.abs(logits - truth).max() < allowed


@pytest.mark.parametrize("way", WAYS)
def test_one_sequence_of_a_batch_cannot_touch_another(runs: dict[str, Run], way: str) -> None:
    random = np.random.default_rng(0)
    text = random.integers(32, 127, (4, 30)).astype(np.uint8)
    other = text.copy()
    other[[0, 2, 3]] = random.integers(32, 127, (3, 30))
    for sizes in ([30], [1] * 30, [7, 23]):
        first, again = fed(runs[way], text, sizes), fed(runs[way], other, sizes)
        np.testing.assert_allclose(first[0][1], again[0][1], rtol=0, atol=1e-5)
        np.testing.assert_allclose(first[1][1], again[1][1], rtol=0, atol=1e-5)
        assert np.abs(first[1][0] - again[1][0]).max() > 1e-2


@pytest.mark.parametrize("way", WAYS)
def test_reset_forgets_everything(runs: dict[str, Run], way: str) -> None:
    fresh = runs[way]({"text": TEXT[:, :20]})
    full = runs[way]({"text": TEXT[:, 20:]} | carried(fresh))
    zero = np.zeros((1, LAYERS, UNITS), np.float32)
    for again in (runs[way]({"text": TEXT[:, :20]}), runs[way]({"text": TEXT[:, :20], "state": zero})):
        np.testing.assert_array_equal(again["logits"], fresh["logits"])
    assert np.abs(full["next_state"] - fresh["next_state"]).max() > 1e-2


def test_bits_are_those_of_pytorchs_own_loss(runs: dict[str, Run], text_project: Project) -> None:
    text = np.load(text_project.build / "prepare" / "letters" / "test.npz")["text"]
    statistics = task.observe(task.answer({"network": runs["trained"]}, {"text": text}), {"text": text})
    for row, (nats, characters) in zip(text, statistics):
        line = torch.from_numpy(row[row != 0].astype(np.int64))
        logits = torch.from_numpy(runs["trained"]({"text": row[row != 0][None]})["logits"][0])
        loss = torch.nn.functional.cross_entropy(logits[:-1], line[1:], reduction="sum")
        assert nats == pytest.approx(float(loss), rel=1e-4) and characters == len(line) - 1
    bits = statistics[:, 0].sum() / statistics[:, 1].sum() / np.log(2)
    assert task.score(statistics) == pytest.approx(bits)
    assert task.details(statistics)["perplexity"] == pytest.approx(2**bits)


def test_a_character_of_several_bytes_is_one_character() -> None:
    text = np.frombuffer("aé→b".encode(), np.uint8)[None]
    statistics = task.observe({"nats": np.ones(text.shape)}, {"text": text})
    assert statistics.tolist() == [[7.0, 3.0]]  # seven bytes; é, → and b after the a that is given


def test_a_text_with_nothing_to_tell_is_refused_by_its_number() -> None:
    text = np.ones((3, 30), np.uint8)
    text[1, 5:] = 0
    with pytest.raises(Refused, match="text: number 1 has 5 bytes, expected at least 17. Leave it out"):
        task.answer({"network": uniform}, {"text": text})


def uniform(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"logits": np.zeros((*inputs["text"].shape, 256)), "next_state": np.zeros((len(inputs["text"]), 1))}


def test_a_window_that_does_not_divide_a_text_is_refused() -> None:
    """Else windows would go from one text into the next wherever a batch comes to a whole number of them."""
    network = LanguageModel("GRU", size=4, units=5, layers=1, window=6).train()
    with pytest.raises(ValueError, match="window: 6 came, a divisor of a text's 16 bytes was expected"):
        network(torch.ones(3, 16, dtype=torch.uint8))
    assert network(torch.ones(2, 18, dtype=torch.uint8))[0].shape == (2, 18, 256)


def test_uniform_and_broken_runs() -> None:
    text = np.frombuffer(b"x = 1\n" * 30, np.uint8).reshape(2, -1)
    answers = task.answer({"network": uniform}, {"text": text})
    assert task.score(task.observe(answers, {"text": text})) == pytest.approx(8.0)

    def broken(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: array * np.nan for name, array in uniform(inputs).items()}

    answers = task.answer({"network": broken}, {"text": text})
    assert not np.isfinite(answers["nats"][:, 1:]).any()
    assert task.score(task.observe(answers, {"text": text})) == pytest.approx(task.MOST / np.log(2))


def judged(project: Project, bundle: Bundle, precision: str, change: Callable | None, tmp_path: Path) -> dict:
    model = onnx.load(bundle.path(bundle.graphs[precision]["network"]))
    if change:
        change(model.graph)
    onnx.save(model, tmp_path / "network.onnx")
    run = from_zero(open_onnxruntime(tmp_path / "network.onnx"), bundle.io["network"])
    target = Target("t", precision, "cpu", {"network": tmp_path / "network.onnx"}, lambda: {"network": run})
    recipe = project.recipe(NAME)
    return judge(measure(bundle, [target], {"name": "here"}), bundle.sha256, recipe.floor, recipe.budget)["targets"][
        "t"
    ]


def before_use(graph: onnx.GraphProto, kind: str, constant: np.ndarray, **attributes: int) -> None:
    """Put a node between the graph's ``state`` and all that reads it."""
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == "state":
                node.input[i] = "state as it is read"
    graph.initializer.append(numpy_helper.from_array(constant, "how it is read"))
    graph.node.insert(0, helper.make_node(kind, ["state", "how it is read"], ["state as it is read"], **attributes))


def swapped_layers(graph: onnx.GraphProto) -> None:
    before_use(graph, "Gather", np.array([1, 0, 2]), axis=1)


def swapped_sequences(graph: onnx.GraphProto) -> None:
    """Every sequence of a batch goes on from its neighbour's state."""
    rows = helper.make_node("ReverseSequence", ["state", "lengths"], ["state as it is read"], batch_axis=1, time_axis=0)
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == "state":
                node.input[i] = "state as it is read"
    graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "first"))
    nodes = [
        helper.make_node("Shape", ["state"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["batch"]),
        helper.make_node("Expand", ["batch", "layers"], ["lengths"]),
        rows,
    ]
    graph.initializer.append(numpy_helper.from_array(np.array([LAYERS], np.int64), "layers"))
    for node in reversed(nodes):
        graph.node.insert(0, node)


def forgotten(graph: onnx.GraphProto) -> None:
    """Every call starts from zero: what a server does that loses its sessions."""
    before_use(graph, "Mul", np.float32(0))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8-cpu"])
def test_the_intact_graph_passes(text_project: Project, text_bundle: Bundle, precision: str, tmp_path: Path) -> None:
    row = judged(text_project, text_bundle, precision, None, tmp_path)
    assert row["verdict"] == PASS, row["reason"]


@pytest.mark.parametrize("change", [swapped_layers, swapped_sequences, forgotten], ids=lambda f: f.__name__)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8-cpu"])
def test_a_confused_state_fails(
    text_project: Project, text_bundle: Bundle, precision: str, change: Callable, tmp_path: Path
) -> None:
    row = judged(text_project, text_bundle, precision, change, tmp_path)
    assert row["verdict"] == FAIL, row["reason"]
    if precision == "fp32":
        assert "not the same network" in row["reason"]


def test_drift_is_recorded_step_by_step(text_project: Project, text_bundle: Bundle) -> None:
    rows = targets(text_bundle, read_json(text_project.build / "host.json"), Path("none"), {})
    facts = measure(text_bundle, [row for row in rows if "cpu" in row.name], {"name": "here"})
    for row in [facts["trained"], *facts["targets"].values()]:
        assert row["drift"]["step"][0] == 1 and row["drift"]["step"][-1] == STEPS
        assert row["drift"]["error"] == sorted(row["drift"]["error"])  # the largest so far
    last = {name: row["drift"]["error"][-1] for name, row in facts["targets"].items()}
    assert facts["trained"]["drift"]["error"][-1] < 1e-3
    assert last["onnxruntime-cpu-fp32"] < 1e-3 < last["onnxruntime-cpu-int8"]


def test_tensorrt_is_refused_int8(text_project: Project) -> None:
    reason = read_json(text_project.build / "quantize" / NAME / "quantize.json")["int8-tensorrt"]["reason"]
    assert re.search(rf"(GRU '[^']+'(, )?){{{LAYERS}}}: TensorRT has no int8 form of it", reason)
