"""What `benchmarks.cost` makes of measurements with known answers, and that what it times is what was trained."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import ROOT
from pictures import labels

from benchmarks import cost, cost_page
from benchmarks.cost_page import Compared, Measured, Profile
from deploy.contract import load_examples, open_bundle
from deploy.errors import Refused
from deploy.files import read_json
from deploy.runtimes import open_onnxruntime
from models.activation import ACTIVATIONS
from pipeline.intervals import clopper_pearson
from pipeline.network import load_network
from pipeline.recipe import Project, load_project

FP32, INT8 = "onnxruntime-cpu-fp32", "onnxruntime-cpu-int8"
SHAKEN = 1e-4 * np.random.default_rng(0).permutation(
    np.linspace(0.5, 1.5, 80)
)  # seconds: every network's rounds share the machine's mood


def measured(network: str, times: dict[int, float], parameters: int, right: int, target: str = FP32) -> Measured:
    """``times`` as long as the first network, at each size."""
    hits = np.repeat([1.0, 0.0], [right, 100 - right])
    return Measured(network, parameters, target, hits, {side: SHAKEN * of for side, of in times.items()})


MADE_UP = [
    measured("relu", {28: 1, 64: 4}, 1000, 90),
    measured("relu", {28: 2, 64: 8}, 1000, 80, INT8),
    measured("prelu", {28: 1, 64: 4}, 2000, 90),
    measured("tanh", {28: 3, 64: 10}, 1000, 95),
    measured("tanh", {28: 3, 64: 4}, 1000, 70, INT8),
    measured("elu", {28: 2, 64: 7}, 1000, 95),
    measured("elu", {28: 2, 64: 7}, 1000, 95, "a-target-without-relu"),
]


def test_a_row_holds_the_paired_ratio_to_the_first_network_on_its_own_target() -> None:
    made = {(row["network"], row["target"]): row for row in cost_page.rows(MADE_UP)}
    assert list(made) == [(each.network, each.target) for each in MADE_UP[:-1]]  # nothing to divide the last one by
    for (network, target), expected in {
        ("relu", FP32): {28: 1, 64: 1},
        ("prelu", FP32): {28: 1, 64: 1},
        ("tanh", FP32): {28: 3, 64: 2.5},
        ("tanh", INT8): {28: 1.5, 64: 0.5},
        ("elu", FP32): {28: 2, 64: 1.75},
    }.items():
        for side, ratio in expected.items():
            assert made[network, target]["ratio"][side] == pytest.approx((ratio, ratio, ratio))
    row = made["tanh", INT8]
    low, high = clopper_pearson(70, 100, 0.1)
    assert (row["accuracy"], row["lower"], row["upper"]) == pytest.approx((70, 100 * low, 100 * high))
    assert row["ms"] == pytest.approx({28: 3e3 * np.median(SHAKEN), 64: 4e3 * np.median(SHAKEN)})


def test_the_table_has_every_number() -> None:
    lines = cost_page.table(cost_page.rows(MADE_UP)).split("\n")
    assert lines[0].startswith("| network | parameters | target | accuracy, % | 28 x 28, ms | ÷ relu | 64 x 64, ms |")
    assert lines[6] == (
        "| tanh | 1,000 | onnxruntime-cpu-int8 | 70.0 (61.6–77.5) | 0.3 | 1.50 (1.50–1.50) | 0.4 | 0.50 (0.50–0.50) |"
    )
    assert len(lines) == 2 + len(MADE_UP) - 1 and {line.count("|") for line in lines} == {9}


def test_the_sentence_says_what_the_numbers_say() -> None:
    several = cost_page.sentence(cost_page.rows(MADE_UP))
    assert several == (
        "Next to relu, on onnxruntime-cpu-fp32 at 64 x 64, the dearest is tanh: time x 2.50 (2.50–2.50), over all "
        "targets and sizes x 0.50 to 3.00; parameters x 1; right 95.0 % against 90.0 %; the cheapest is prelu: time x "
        "1.00 (1.00–1.00), over all targets and sizes x 1.00 to 1.00; parameters x 2; right 90.0 % against 90.0 %. Not "
        "to be told from relu by time there: prelu."
    )
    two = cost_page.sentence(cost_page.rows([MADE_UP[0], MADE_UP[5]]))
    assert two.startswith("Next to relu, on onnxruntime-cpu-fp32 at 64 x 64, elu: time x 1.75")
    assert "dearest" not in two and "cheapest" not in two and "Not to be told" not in two
    assert cost_page.exponentials(cost_page.rows(MADE_UP)) == (
        "On onnxruntime-cpu-fp32 at 64 x 64 those with an exponential or erf (tanh, elu) take x 1.75 to 2.50; "
        "those without one (prelu) take x 1.00 to 1.00."
    )


def test_more_operators_are_those_that_the_first_network_has_not() -> None:
    ran = {"relu": Counter(Conv=3, Gemm=1), "elu": Counter(Conv=3, Elu=2), "none": Counter(Conv=2)}
    expected = "What onnxruntime runs in fp32 on the CPU beside that of relu: elu 2 Elu."
    assert cost_page.more_operators(ran) == expected
    assert cost_page.more_operators({"relu": ran["relu"], "none": ran["none"]}) == ""


# Operators


def event(op: str, ts: int, dur: int, axes: int = 4) -> dict:
    shape = [{"float": [1] * axes}]
    arguments = {"op_name": op, "input_type_shape": shape, "output_type_shape": shape}
    return {"cat": "Node", "name": f"node_{op}_kernel_time", "ts": ts, "dur": dur, "args": arguments}


def run_of(ts: int, **us: int) -> list[dict]:
    """A run that starts at ``ts``, as onnxruntime writes it: what it runs, and then the run itself."""
    events, at = [], ts + 1
    for op, dur in us.items():
        events.append(event(op.rstrip("_"), at, dur, axes=5 if op.endswith("_") else 4))
        at += dur
    return [*events, {"cat": "Session", "name": "model_run", "ts": ts, "dur": at - ts, "args": {}}]


EVENTS = [
    {"cat": "Session", "name": "model_loading_array", "ts": 0, "dur": 5000, "args": {}},
    *run_of(10_000, Conv=900, Gemm=100),  # warms up
    *run_of(20_000, Conv=40, FusedConv=10, FusedGemm=20, AveragePool_=15, AveragePool=5, Pow=3, Tanh=7),
    *run_of(30_000, Conv=60, FusedConv=0, FusedGemm=20, MaxPool=10, ReorderOutput=10),
]


def test_operators_are_told_by_kind_and_run() -> None:
    us = cost_page.kernel_us(EVENTS)
    assert {kind: of.tolist() for kind, of in us.items()} == {
        "convolution": [50, 60],
        "dense": [20, 20],
        "normalisation": [18, 0],
        "pooling": [5, 10],
        "rest": [7, 10],
    }
    shuffled = [EVENTS[i] for i in np.random.default_rng(0).permutation(len(EVENTS))]
    again = cost_page.kernel_us(shuffled)
    assert {kind: sorted(of) for kind, of in again.items()} == {kind: sorted(of) for kind, of in us.items()}


def profile(name: str, batch: int, **us: float) -> Profile:
    return Profile(name, batch, (3, 224, 224), {kind: 1e4 * SHAKEN * us.get(kind, 0.0) for kind in cost_page.KINDS})


PROFILES = [
    profile("LeNet5", 1, convolution=25, rest=75),
    profile("PlainCNN", 1, convolution=80, dense=20),
    profile("AlexNet", 1, convolution=45, dense=30, normalisation=20, pooling=1, rest=4),
    profile("AlexNet", 128, convolution=60, dense=5, normalisation=35),
]


def test_shares_are_of_the_operators_own_time() -> None:
    of = cost_page.shares(PROFILES[2])
    for kind, share in {"convolution": 45, "dense": 30, "normalisation": 20, "pooling": 1, "rest": 4}.items():
        assert of[kind] == pytest.approx((share, share, share))
    assert cost_page.shares_sentence(PROFILES) == (
        "Of AlexNet's operators' time convolutions take 45 % at batch 1 and 60 % at batch 128, where the textbooks say "
        "89 % on a CPU and 95 % on a GPU. At batch 1 most of what is left is dense, 30 %. Of the others PlainCNN has "
        "the most, 80 %, and LeNet5 the least, 25 %."
    )
    lines = cost_page.shares_table(PROFILES).split("\n")
    assert lines[5] == ("| AlexNet | 3 x 224 x 224 | 128 | 0.1 | 60.0 (60.0–60.0) | 5.0 | 35.0 | 0.0 | 0.0 | 80 |")
    assert "| AlexNet on a GPU, in the textbooks |  |  |  | 95 |" in lines[-1]


# The page


def test_the_page_has_every_table_and_its_pictures_every_mark() -> None:
    ran = {"relu": Counter(Conv=3), "prelu": Counter(Conv=3, PRelu=2), "tanh": Counter(Conv=3), "elu": Counter(Conv=3)}
    absent = {"tensorrt-fp32": "no GPU", "tensorrt-fp16": "no GPU"}
    compared = Compared("Activation", "And so on.", MADE_UP, {28: 80, 64: 79}, absent, ran)
    host = {"processor": "a processor", "cores": 2, "gpus": [], "packages": {"torch": "2.0", "onnx": "1"}}
    facts = {"host": host, "date": "2026-01-02", "commit": "abc"}
    files = cost_page.page({"activation": compared}, PROFILES, facts, cost.TRAINING, cost.FORM)
    assert set(files) == {"README.md", "activation.svg", "shares.svg"}
    text = files["README.md"]
    assert "`python -m benchmarks.cost` on a processor, 2 cores, no GPU; torch 2.0; 2026-01-02, commit `abc`" in text
    assert "Batch 1, one thread" in text and "on the 100 test images" in text
    assert "Rounds: 80 at 28 x 28, 79 at 64 x 64. What onnxruntime runs" in text and "And so on." in text
    assert "Not measured: tensorrt-fp32, tensorrt-fp16: no GPU." in text
    assert cost_page.sentence(cost_page.rows(MADE_UP)) in text and cost_page.shares_sentence(PROFILES) in text
    assert set(re.findall(r"\]\((.+?)\)", text)) == {"activation.svg", "shares.svg"}
    said = {name: labels(svg) for name, svg in files.items() if name.endswith("svg")}
    of = "onnxruntime-cpu-int8: 0.5 (0.5 to 0.5) times"
    assert said["activation.svg"][f"tanh on {of}"] == 2  # a point and its bounds
    assert said["activation.svg"]["prelu: 2,000 parameters"] == 1
    assert (
        sum(said["activation.svg"].values()) == 4 + 3 * 2 * 6 + 2
    )  # bars, marks with bounds, and where they are alike
    assert said["shares.svg"]["AlexNet, batch 128: normalisation 35.0 %"] == 1
    assert said["shares.svg"]["AlexNet in the textbooks, a CPU: convolution 89.0 %"] == 1


def test_comparisons_are_what_they_are_called() -> None:
    def of(name: str) -> list[dict]:
        usual = {"kernel": 3, "layers": 2, "channels": 16, "activation": "relu", "normalise": False, "dilation": 1}
        return [usual | cost.NETWORKS[network] for network in cost.COMPARISONS[name].networks.values()]

    for name in ("kernel-5", "kernel-7"):
        sides = [1 + each["layers"] * (each["kernel"] - 1) for each in of(name)]
        assert sides[0] == sides[1] == int(name[-1])
    assert [each["layers"] for each in of("depth")] == [2, 4, 8, 16]
    assert [each["channels"] for each in of("width")] == [8, 16, 32, 64]
    assert {each["activation"] for each in of("activation")} == set(ACTIVATIONS)
    assert [each["normalise"] for each in of("normalisation")] == [False, True, True]
    assert [each["dilation"] for each in of("dilation")] == [1, 2]
    for name, comparison in cost.COMPARISONS.items():
        free = {"kernel", "layers"} if name.startswith("kernel") else set()
        varied = {key for key in of(name)[0] if len({each[key] for each in of(name)}) > 1}
        assert len(varied - free) == (not free), (name, varied)
        assert set(comparison.networks.values()) <= set(cost.NETWORKS)
    used = {network for comparison in cost.COMPARISONS.values() for network in comparison.networks.values()}
    assert used == set(cost.NETWORKS)


# Through the stages


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    own = replace(load_project(ROOT / "params.yaml"), root=ROOT)
    training = replace(cost.TRAINING, epochs=2)
    return cost.stacks(own, tmp_path_factory.mktemp("build"), [cost.FOLDED, cost.NOT_FOLDED], training)


def network_of(made: Project) -> torch.nn.Module:
    facts = read_json(made.build / "prepare" / "digits" / "data.json")
    weights = made.build / "train" / cost.FOLDED / "weights.safetensors"
    return load_network(made.recipe(cost.FOLDED).network, facts, weights)


def graph(made: Project, name: str, precision: str = "fp32") -> Path:
    bundle = open_bundle(made.build / "bundle" / name)
    return bundle.path(bundle.graphs[precision]["network"])


def test_what_is_not_folded_answers_alike_and_is_computed_for_itself(made: Project) -> None:
    images = load_examples(open_bundle(made.build / "bundle" / cost.FOLDED), "test")["image"]
    both = [open_onnxruntime(graph(made, name))({"image": images})["logits"] for name in (cost.FOLDED, cost.NOT_FOLDED)]
    np.testing.assert_allclose(both[0], both[1], rtol=1e-4, atol=1e-4)
    for precision in ("fp32", "fp16", "int8-cpu"):
        nodes = Counter(node.op_type for node in onnx.load(graph(made, cost.NOT_FOLDED, precision)).graph.node)
        assert nodes["BatchNormalization"] == 2 and nodes["Conv"] == 3
    folded, open_, closed = (
        cost.operators(graph(made, cost.FOLDED)),
        cost.operators(graph(made, cost.NOT_FOLDED), fold=False),
        cost.operators(graph(made, cost.NOT_FOLDED)),
    )
    assert closed == folded  # onnxruntime folds it, where it is let
    more = open_ - folded
    assert more["Conv"] + more["BatchNormalization"] == 2


@pytest.mark.parametrize("side", [28, 33])
def test_a_graph_of_another_size_answers_as_the_network_does(made: Project, tmp_path: Path, side: int) -> None:
    bundle = open_bundle(made.build / "bundle" / cost.FOLDED)
    images = cost.enlarged(load_examples(bundle, "test")["image"][:40], side)
    assert images.shape == (40, 1, side, side)
    there = cost.resized(bundle, side, tmp_path)
    assert there.io["network"]["inputs"][0]["shape"] == ["batch", 1, side, side] != bundle.io["network"]["inputs"]
    with torch.inference_mode():
        expected = network_of(made)(torch.from_numpy(images)).numpy()
    spread = np.abs(expected).max()
    for precision, error in (("fp32", 1e-6), ("fp16", 1e-3), ("int8-cpu", 0.1)):
        file = there.path(there.graphs[precision]["network"])
        came = open_onnxruntime(file)({"image": images})["logits"]
        assert np.abs(came - expected).mean() < error * spread
        weights = [
            sorted(t.raw_data for t in onnx.load(path).graph.initializer)
            for path in (file, graph(made, cost.FOLDED, precision))
        ]
        assert weights[0] == weights[1]
        with pytest.raises(Refused, match="got image: uint8"):
            open_onnxruntime(file)({"image": images[:, :, :8, :8]})


def test_enlarging_repeats_pixels() -> None:
    image = np.arange(4).reshape(1, 1, 2, 2)
    assert cost.enlarged(image, 5)[0, 0].tolist() == [[0, 0, 0, 1, 1]] * 3 + [[2, 2, 2, 3, 3]] * 2


def test_all_that_is_here_is_measured_and_the_rest_has_its_reason(
    made: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.rounds.ROUNDS", 16)
    monkeypatch.setattr("deploy.rounds.ROUNDS_LEAST", 16)
    networks = {"folded": cost.FOLDED, "not folded": cost.NOT_FOLDED}
    compared = cost.measure(made, cost.Comparison("Folding", networks))
    here = [(each.network, each.target) for each in compared.measured]
    assert {pair for pair in here if "cpu" in pair[1]} == {
        (network, f"onnxruntime-cpu-{precision}") for network in networks for precision in ("fp32", "fp16", "int8")
    }
    assert compared.rounds == {28: 16, 64: 16}
    for each in compared.measured:
        assert {side: len(of) for side, of in each.latency_s.items()} == compared.rounds
        assert all((of > 0).all() for of in each.latency_s.values()) and len(each.right) == 900
        assert each.parameters == 16 * 2 + 2 * (16 * 16 * 9 + 32) + 17 * 10
    right = {(each.network, each.target): each.right for each in compared.measured}
    assert (right["folded", FP32] == right["not folded", FP32]).mean() > 0.99
    named = {each.target for each in compared.measured} | set(compared.absent)
    assert {"onnxruntime-cuda-fp32", "tensorrt-int8", "tensorrt-rtx-sm89-fp16"} <= named
    assert cost_page.table(cost_page.rows(compared.measured)).count("\n") >= 1 + 6


def test_the_profiler_tells_of_each_run_that_counts(
    made: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "SHARE_RUNS", (4, 4))
    images = cost.enlarged(load_examples(open_bundle(made.build / "bundle" / cost.FOLDED), "test")["image"], 8)
    file = graph(made, cost.FOLDED)
    us = cost_page.kernel_us(cost._profiled(file.read_bytes(), images, tmp_path))
    assert {len(of) for of in us.values()} == {4}
    of = cost_page.shares(Profile("a stack", 900, (1, 8, 8), us))
    assert 20 < of["convolution"][0] < 100 and of["normalisation"][0] == 0 and of["dense"][0] > 0
