"""What a sequence costs: what is timed answers alike, ratios on a made-up clock, and what the page says of made-up times."""

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from pictures import labels
from tqdm import tqdm

from benchmarks import sequences, sequences_page
from benchmarks.sequences_page import DENSE, EAGER, FP16, FP32, INT8, MISSED, OPEN, OWN, RAW, REACHED, RUN
from deploy.targets import target_names
from models.recurrent import build_cell
from pipeline import results
from pipeline.network import open_pytorch
from pipeline.recipe import load_project
from pipeline.results import _kept

SHAKEN = 1e-3 * np.random.default_rng(0).permutation(np.linspace(0.5, 1.5, 40))  # seconds: the machine's mood


def sequence(cell: str, units: int = 6) -> sequences.Sequence:
    torch.manual_seed(0)
    return sequences.Sequence(cell, units).eval()


# What is timed


@pytest.mark.parametrize("cell", sequences.PYTORCHS)
def test_pytorchs_own_layer_answers_as_the_cell_does(cell: str) -> None:
    made = sequence(cell)
    feed = sequences.feed(made, 3, 5)
    feed["state"] = np.random.default_rng(1).standard_normal(feed["state"].shape).astype(np.float32)
    own, trained = (
        open_pytorch(network.eval(), sequences.OUTPUTS)(feed) for network in (sequences.PyTorchs(cell, made), made)
    )
    for name in sequences.OUTPUTS:
        np.testing.assert_allclose(own[name], trained[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [("Elman", 2), ("Jordan", 3), ("LSTM", 8), ("PeepholeLSTM", 8), ("GRU", 6)],  # matrices of units x units
)
def test_the_dense_layer_has_a_steps_products_at_each_place(cell: str, expected: int) -> None:
    made = sequence(cell)
    assert sequences.products(made.cell) == expected * 36 == sequences.products(build_cell(cell, 6, 6))
    dense = sequences.Dense(made)
    assert sequences.products(dense) == expected * 36
    assert dense(torch.rand(2, 7, 6)).shape == (2, 7, expected * 6)


def test_a_feed_is_read_from_a_state_of_zeros() -> None:
    feed = sequences.feed(sequence("LSTM"), 3, 5)
    assert {name: (array.shape, array.dtype) for name, array in feed.items()} == {
        "x": ((3, 5, 6), np.float32),
        "state": ((3, 12), np.float32),
    }
    assert not feed["state"].any() and feed["x"].std() > 0.5
    again, other = (sequences.feed(sequence("LSTM"), 3, 5, seed)["x"] for seed in (0, 1))
    assert (again == feed["x"]).all() and (other != feed["x"]).any()


def test_all_of_a_cell_is_timed_and_answers_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"UNITS": (6,), "LENGTHS": (1, 3), "BATCHES": (1, 2), "LENGTH": 3, "STEP_ROUNDS": 9}.items():
        monkeypatch.setattr(sequences, name, value)
    monkeypatch.setattr(sequences, "ROUNDS", (8, 8))
    seen = {}
    monkeypatch.setattr(sequences, "opened", lambda *of, opened=sequences.opened: seen.setdefault("runs", opened(*of)))
    with tqdm(disable=True) as bar:
        told = sequences.measure("LSTM", 6, tmp_path, bar)
    runs, absent = seen["runs"]
    assert list(runs) == [EAGER, OWN, FP32, FP16, INT8] and absent == told["absent"] == {}
    feed = sequences.feed(sequence("LSTM"), 2, 5)
    raw = dict(zip(sequences.OUTPUTS, sequences.raw(tmp_path / "network.onnx")(feed), strict=True))
    for name, run in (runs | {RAW: lambda _: raw}).items():
        for output in sequences.OUTPUTS:
            error = np.abs(run(feed)[output] - runs[EAGER](feed)[output]).max()
            assert error <= {INT8: 0.05, FP16: 1e-3}.get(name, 1e-6), (name, output)
    assert [(row["length"], set(row["ms"])) for row in told["lengths"]] == [(1, set(runs)), (3, set(runs))]
    assert [(row["batch"], set(row["ms"])) for row in told["batches"]] == [
        (n, {EAGER, FP32, INT8, DENSE}) for n in (1, 2)
    ]
    assert [(row["rounds"], set(row["ms"])) for row in told["steps"]] == [(9, {RUN, RAW})]
    for row in told["lengths"] + told["batches"]:
        assert row["rounds"] == 8 and row["ratio"][EAGER] == [1, 1, 1] and row["products"] == 8 * 36
        assert {"cell": "LSTM", "units": 6}.items() <= row.items() and min(row["ms"].values()) > 0
    json.dumps(told, allow_nan=False)


def test_a_form_that_there_is_not_has_its_reason(tmp_path: Path) -> None:
    made = sequence("Jordan")
    runs, absent = sequences.opened("Jordan", made, sequences.export(made, tmp_path))
    assert list(runs) == [EAGER, FP32, FP16]
    assert list(absent) == [f"Jordan of 6 units on {INT8}"]
    why = absent.popitem()[1]
    assert why.endswith("reads no graph inside a graph, and the rest in int8 would not be an int8 network")


@pytest.mark.parametrize("cell", sequences.IN_INT8)
def test_a_cell_of_any_size_is_timed_in_int8(cell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict] = []
    compare = sequences.compare
    monkeypatch.setattr(sequences, "ROUNDS", (8, 8))
    monkeypatch.setattr(sequences, "compare", lambda asked: seen.append(asked) or compare(asked))
    rows = sequences.measure_size(cell, 6, tmp_path)
    assert [(row["cell"], row["units"], row["length"], row["rounds"]) for row in rows] == [
        (cell, 6, 1, 8),
        (cell, 6, sequences.LENGTH, 8),
    ]
    for asked in seen:
        fp32, int8 = (asked[name]()["outputs"] for name in (FP32, INT8))
        assert 0 < np.abs(int8 - fp32).max() < 0.1  # near, and not the same graph
    assert all(row["ratio"][FP32] == [1, 1, 1] and min(row["ms"].values()) > 0 for row in rows)


def test_what_is_elsewhere_has_its_reason() -> None:
    without = sequences.elsewhere({"gpus": [], "gpu_error": "there is no nvidia-smi"})
    here = {name for name in target_names() if name.startswith("onnxruntime-cpu")}
    assert set(without) == set(target_names()) - here and here == {FP32, FP16, INT8}
    assert set(without.values()) == {"no NVIDIA GPU that works on this host (there is no nvidia-smi)"}
    assert set(sequences.elsewhere({"gpus": [{}]}).values()) == {"this benchmark times the processor alone"}


# Ratios


class Clock:
    """Of nanoseconds, which requests move on."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def takes(self, ns: int) -> None:
        self.now += ns


def test_a_comparison_takes_the_time_that_it_may_and_is_paired() -> None:
    for ns, rounds in ((10, sequences.ROUNDS[1]), (10**12, sequences.ROUNDS[0])):
        clock = Clock()
        times = sequences.compare({"one": partial(clock.takes, ns), "other": partial(clock.takes, 3 * ns)}, None, clock)
        assert {name: len(latency_s) for name, latency_s in times.items()} == {"one": rounds, "other": rounds}
        assert sequences.ratio(times["other"], times["one"]) == pytest.approx([3, 3, 3])
    clock = Clock()
    times = sequences.compare(
        {"one": partial(clock.takes, 10**7), "other": partial(clock.takes, 2 * 10**7)}, None, clock
    )
    assert len(times["one"]) == int(sequences.SECONDS / 0.03)
    assert len(sequences.compare({"one": partial(clock.takes, 10)}, 5, clock)["one"]) == 5


def test_a_row_is_medians_and_ratios_to_one_of_them() -> None:
    made = sequences.row({EAGER: SHAKEN, FP32: SHAKEN / 4, INT8: SHAKEN[::-1]}, EAGER, cell="GRU", length=8)
    assert made["ms"] == pytest.approx({EAGER: 1.0, FP32: 0.25, INT8: 1.0}) and made["rounds"] == 40
    assert made["ratio"][EAGER] == [1, 1, 1] and made["ratio"][FP32] == pytest.approx([0.25] * 3)
    middle, low, high = made["ratio"][INT8]  # not paired: the machine's mood does not cancel
    assert low < middle < high and (made["cell"], made["length"]) == ("GRU", 8)


@pytest.mark.parametrize(
    ("ratio", "most", "least"),
    [
        ([1.2, 1.1, 1.5], REACHED, OPEN),
        ([1.4, 1.3, 1.49], REACHED, MISSED),
        ([1.6, 1.51, 1.7], MISSED, REACHED),
        ([1.5, 1.5, 1.7], OPEN, REACHED),
        ([1.4, 1.3, 1.6], OPEN, OPEN),
    ],
)
def test_a_verdict_is_by_the_whole_interval(ratio: list[float], most: str, least: str) -> None:
    assert sequences_page.verdict_most(ratio, 1.5) == most
    assert sequences_page.verdict_least(ratio, 1.5) == least
    turned = sequences_page.inverse(ratio)
    assert sequences_page.verdict_least(turned, 1 / 1.5) == most and turned[1] <= turned[0] <= turned[2]


# The page

STEP_MS = {EAGER: 0.4, OWN: 0.4, FP32: 0.2, FP16: 0.2, INT8: 0.05}  # and ten times as much once a call
SLOW = {"Elman": 1.0, "LSTM": 4.0}


def times(ms: float) -> np.ndarray:
    return ms * SHAKEN


@pytest.fixture
def recorded() -> dict:
    """As it is read back: PyTorch takes twice fp32's time, and eight times int8's, which Elman's has not."""
    facts: dict = {"lengths": [], "batches": [], "steps": [], "sizes": []}
    for cell, slow in SLOW.items():
        forms = {name: slow * ms for name, ms in STEP_MS.items() if not (name == INT8 and cell == "Elman")}
        for units in (512, 64):
            of = {"cell": cell, "units": units, "products": 1000}
            for length in (1, 8, 32, 128):
                latency_s = {name: times((10 + length) * ms) for name, ms in forms.items()}
                facts["lengths"].append(sequences.row(latency_s, EAGER, **of, length=length))
            over = {("Elman", 64): 1.02, ("LSTM", 512): 1.7}.get((cell, units), 1.2)
            facts["steps"].append(sequences.row({RUN: times(0.01 * over), RAW: times(0.01)}, RAW, **of))
        for batch in (1, 16):
            latency_s = {name: times(32 * ms * batch**0.5) for name, ms in forms.items() if name in (EAGER, FP32, INT8)}
            latency_s |= {DENSE: times(8 * slow * 0.2 * batch)}
            if (cell, batch) == ("LSTM", 16):
                latency_s[EAGER] = latency_s[FP32] / 2
            dense = sequences.ratio(latency_s[FP32], latency_s[DENSE])
            facts["batches"].append(sequences.row(latency_s, EAGER, cell=cell, units=512, batch=batch, dense=dense))
    for cell, units in ((cell, units) for cell in sequences.IN_INT8 for units in sequences.SIZES):
        for length in (1, 32):
            latency_s = {FP32: times(units * length), INT8: times(256 * length)}
            facts["sizes"].append(sequences.row(latency_s, FP32, cell=cell, units=units, length=length))
    host = {"processor": "a processor", "cores": 2, "gpus": [], "packages": {"torch": "2.0", "onnx": "1"}}
    facts |= {"date": "2026-01-02", "commit": "abc", "host": host, "settings": sequences.settings()}
    facts["absent"] = {"tensorrt-fp32": "no GPU", "tensorrt-fp16": "no GPU", f"Elman of 512 units on {INT8}": "none"}
    return json.loads(json.dumps(facts, allow_nan=False))


def test_the_page_says_what_the_numbers_say(recorded: dict) -> None:
    files = sequences_page.page(recorded)
    assert set(files) == {"README.md", "length-512.svg", "length-64.svg", "batch.svg"}
    text = files["README.md"]
    assert set(re.findall(r"!\[.+\]\((.+)\)", text)) == set(files) - {"README.md"}
    least, most = sequences.ROUNDS
    for words in (
        "Made by `python -m benchmarks.sequences` on a processor, 2 cores, no GPU; torch 2.0; 2026-01-02, commit `abc`",
        f"in each of {least} to {most} rounds",
        "at most 1.5 | **reached in 3, not reached in 1** | LSTM, 512 units: 1.70 (1.70–1.70) | "
        "Elman, 64 units: 1.02 (1.02–1.02) | LSTM, 512 units: not reached |",
        "at most 1 | **reached in 13, not reached in 1** | LSTM, 512 units, batch 16: 2.00 (2.00–2.00) |",
        "at least 5 | **reached in all 4** | 512 units, 1 step: 8.00 (8.00–8.00) |",
        "| Elman | PyTorch | 4.4 | 1.00 (1.00–1.00) | 7.2 | 1.00 (1.00–1.00) | 16.8 | 1.00 (1.00–1.00) | 55.2 |",
        "One more step takes in fp32 from 200 µs (Elman) to 800 µs (LSTM), between 32 steps and 128; between 8 and 32 "
        "it is x 1 to 1 of that. In int8 it takes of fp32's time: LSTM x 0.25.",
        "| LSTM | 16 | 3.2 | 6.4 | 2.00 (2.00–2.00) | 3,200 | 1.6 | 6.4 | 1.00 (1.00–1.00) |",
        "Elman x 4 and x 1, from 4 to 1 times its time",
        "PyTorch is the faster: LSTM at batch 16.",
        "| LSTM | 512 | 10 | 17 | 1.70 (1.70–1.70) | not reached |",
        "| int8 ÷ fp32 | at batch 1 | 96 units | 256 units | 384 units | 512 units |",
        "| GRU | 32 steps | 2.67 (2.67–2.67) | 1.00 (1.00–1.00) | 0.67 (0.67–0.67) | 0.50 (0.50–0.50) |",
        "Not measured: tensorrt-fp32, tensorrt-fp16: no GPU.",
        f"Not measured: Elman of 512 units on {INT8}: none.",
    ):
        assert words in text, words
    said = {name: labels(svg) for name, svg in files.items() if name.endswith("svg")}
    assert said["length-512.svg"][INT8] == 1 and said["length-512.svg"][FP32] == 2  # lines
    assert said["length-512.svg"][f"LSTM, {INT8}, 128: 27.6 ms"] == 1
    assert said["batch.svg"][f"LSTM, {DENSE}, 16: 6.4 ms"] == 1 and said["batch.svg"][DENSE] == 2


def test_the_page_and_its_numbers_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: dict) -> None:
    def measured(cell: str, units: int, folder: Path, bar: tqdm) -> dict:
        of = {key: [row for row in recorded[key] if row["cell"] == cell] for key in ("lengths", "batches", "steps")}
        told = {key: [row for row in rows if row["units"] == units] for key, rows in of.items()}
        return told | {"absent": {f"{cell} of {units} units": "so"}}

    monkeypatch.setattr(sequences, "load_project", lambda: replace(load_project(ROOT / "params.yaml"), root=tmp_path))
    monkeypatch.setattr(results, "commit_of", lambda root: "0123456789")
    monkeypatch.setattr(sequences, "measure", measured)
    monkeypatch.setattr(
        sequences,
        "measure_size",
        lambda *of: [row for row in recorded["sizes"] if (row["cell"], row["units"]) == of[:2]],
    )
    sequences.main()
    kept = json.loads((tmp_path / sequences_page.NUMBERS).read_text())
    for key in ("lengths", "batches", "steps", "sizes"):
        assert sorted(kept[key], key=str) == sorted(recorded[key], key=str)
    assert {"Jordan of 64 units", "Elman of 512 units"} < set(kept["absent"])
    written = tmp_path / "results" / "sequences"
    assert {path.name: path.read_text() for path in written.iterdir()} == sequences_page.page(kept)
    page = (written / "README.md").read_text()
    link = re.search(r"\[Every number\]\((.+?)\)", page)[1]
    assert "commit `0123456789`" in page and (written / link).resolve() == tmp_path / sequences_page.NUMBERS
    assert _kept(tmp_path / "results") == []  # they are not taken for what a host measured


def test_what_is_missed_or_undecided_is_named(recorded: dict) -> None:
    for row in recorded["lengths"]:
        if row["length"] == 32:
            row["ratio"][FP32] = [1.1, 0.9, 1.2] if row["cell"] == "LSTM" else [1.3, 1.2, 1.4]
        row["ratio"].pop(INT8, None)
    for row in recorded["batches"]:
        row["ratio"][FP32] = [0.5, 0.4, 0.6]
    table = sequences_page.aims_table(recorded)
    assert "**reached in 10, not reached in 2, undecided in 2** | Elman, 512 units, 32 steps: 1.30 (1.20–1.40)" in table
    assert "LSTM, 64 units, 32 steps: undecided" in table and "Elman, 64 units, 32 steps: not reached" in table
    assert table.endswith("at least 5 | not measured |  |  |  |")
    assert sequences_page.batch_sentence(recorded["batches"]).endswith("PyTorch is the faster: nowhere.")
