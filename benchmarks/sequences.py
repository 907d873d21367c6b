"""What a sequence costs deployed: each recurrent cell by length and by batch, one step at a time, in every form.

    python -m benchmarks.sequences

The cells of ``models/cells.py``, as many inputs as units and weights as they start, are exported and put into every
form that the stages make for a processor. What is compared is timed in turn in one process, in random order in each
round: the deployed forms with the cell in PyTorch and with PyTorch's own layer of the same weights; a sequence with a
dense layer of as many products, which takes all places at once, as an image's; the project's own ``run`` with
onnxruntime alone; and the cells that have an int8 form, of several sizes, with their operators in fp32. Writes
``results/sequences/``, and the page's numbers.
"""

import itertools
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.sequences_page import DENSE, EAGER, FP16, FP32, INT8, OWN, RAW, RUN, page
from deploy.errors import Refused
from deploy.files import write_bytes
from deploy.latency import interleaved
from deploy.run import Run
from deploy.runtimes import PROVIDERS, THREADS, _options, open_onnxruntime
from deploy.targets import no_gpu, target_names
from models.recurrent import build_cell
from pipeline.export import check_graph, to_onnx
from pipeline.fp16 import to_fp16
from pipeline.int8 import WINS_FROM, Feeds, to_int8
from pipeline.intervals import median_ratio
from pipeline.network import open_pytorch
from pipeline.ranges import activation_ranges
from pipeline.recipe import load_project
from pipeline.results import here, keep_page

CELLS = ("Elman", "Jordan", "LSTM", "PeepholeLSTM", "GRU")
PYTORCHS = {"Elman": nn.RNN, "LSTM": nn.LSTM, "GRU": nn.GRU}  # PyTorch's layers that are the same cell
UNITS = (512, 64)
LENGTHS = (1, 8, 32, 128)
BATCHES, LENGTH = (1, 4, 16, 64), 32  # of the largest cells, at this length
IN_INT8, SIZES = ("Elman", "GRU", "LSTM"), (96, 256, 384, 512)  # whether the stage would make it or not
OUTPUTS = ("outputs", "next_state")
FEW = 4  # sequences that int8 is calibrated on and fp16's ranges are taken from
SECONDS, ROUNDS = 3.0, (32, 400)  # of each comparison's timed rounds: about, and at least and most
STEP_ROUNDS = 700  # of one step alone
TRIAL, WARM_UP = 3, 3  # rounds that tell how many there is time for, and untimed calls before them

Feed = dict[str, np.ndarray]


class Sequence(nn.Module):
    """A cell as a network of its own: batch and time are free, the state goes in and comes out."""

    def __init__(self, cell: str, units: int) -> None:
        super().__init__()
        self.axes = {"x": {1: "time"}}
        self.cell = build_cell(cell, units, units)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` ``(batch, time, units)``, ``state`` ``(batch, width)`` to the outputs and the next state."""
        outputs, after = self.cell(x, state)
        return outputs, after


class PyTorchs(nn.Module):
    """PyTorch's own layer with the weights of ``sequence``, its state as the cell's."""

    def __init__(self, cell: str, sequence: Sequence) -> None:
        super().__init__()
        units = sequence.cell.units
        self.layer = PYTORCHS[cell](units, units, batch_first=True)
        for name, parameter in sequence.cell.named_parameters():
            self.layer.get_parameter(f"{name}_l0").data.copy_(parameter.data)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """As ``Sequence``."""
        if isinstance(self.layer, nn.LSTM):
            h, c = (part.contiguous()[None] for part in state.chunk(2, 1))
            outputs, (h, c) = self.layer(x, (h, c))
            return outputs, torch.cat([h[0], c[0]], 1)
        outputs, h = self.layer(x, state[None])
        return outputs, h[0]


class Dense(nn.Module):
    """A layer at every place, with as many products a place as a step of ``sequence`` has."""

    def __init__(self, sequence: Sequence) -> None:
        super().__init__()
        self.axes = {"x": {1: "time"}}
        units = sequence.cell.units
        self.layer = nn.Linear(units, products(sequence.cell) // units)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` ``(batch, time, units)`` to ``(batch, time, products / units)``."""
        return self.layer(x)


def products(cell: nn.Module) -> int:
    """Of one step: a weight of a matrix is multiplied once."""
    return sum(parameter.numel() for parameter in cell.parameters() if parameter.ndim == 2)


def feed(sequence: Sequence, batch: int, length: int, seed: int = 0) -> Feed:
    """Numbers to read, and a state of zeros."""
    x = np.random.default_rng(seed).standard_normal((batch, length, sequence.cell.units)).astype(np.float32)
    return {"x": x, "state": np.zeros((batch, sequence.cell.width), np.float32)}


def export(sequence: Sequence, folder: Path) -> Path:
    """The fp32 graph, held against the network."""
    model = to_onnx(sequence, feed(sequence, 2, 4), OUTPUTS)
    check_graph(model, sequence, feed(sequence, 3, 4), OUTPUTS)
    write_bytes(folder / "network.onnx", model.SerializeToString())
    return folder / "network.onnx"


def opened(cell: str, sequence: Sequence, fp32: Path) -> tuple[dict[str, Run], dict[str, str]]:
    """Every form of ``sequence`` on this processor, and those that there are not, with the reason."""
    trained = open_pytorch(sequence, OUTPUTS)
    runs, absent = {EAGER: trained}, {}
    if cell in PYTORCHS:
        runs[OWN] = open_pytorch(PyTorchs(cell, sequence).eval(), OUTPUTS)
    runs[FP32] = open_onnxruntime(fp32)
    ways: dict[str, Callable[[], bytes]] = {
        FP16: partial(_fp16, fp32, sequence),
        INT8: partial(_int8, fp32, sequence, trained),
    }
    for name, make in ways.items():
        try:
            runs[name] = open_onnxruntime(make())
        except Refused as refused:
            why = str(refused).partition(": ")[2].partition(". ")[0]  # what follows is advice for a recipe
            absent[f"{cell} of {sequence.cell.units} units on {name}"] = why
    return runs, absent


def _few(sequence: Sequence) -> Feeds:
    return [feed(sequence, 1, 8, seed) for seed in range(FEW)]


def _fp16(fp32: Path, sequence: Sequence) -> bytes:
    return to_fp16(fp32, activation_ranges(fp32, _few(sequence)))[0]


def _int8(fp32: Path, sequence: Sequence, trained: Run) -> bytes:
    """The form with the fewest layers left in float, as the stage takes it where all are as accurate."""
    few = _few(sequence)

    def judge(graph: Path) -> tuple[float, float]:
        deployed = open_onnxruntime(graph)
        errors = [np.abs(deployed(each)[name] - trained(each)[name]).mean() for each in few for name in OUTPUTS]
        return 0.0, float(np.mean(errors))

    return to_int8(fp32, "int8-cpu", few, judge, higher_is_better=True)[0]


def raw(graph: Path) -> Run:
    """A session of onnxruntime and nothing about it, opened as the project's is."""
    session = onnxruntime.InferenceSession(
        str(graph), _options(onnxruntime, "cpu", optimise=True), providers=[PROVIDERS["cpu"]]
    )
    return lambda inputs: session.run(None, inputs)


def compare(
    requests: Mapping[str, Callable[[], object]],
    rounds: int | None = None,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, np.ndarray]:
    """Name -> latency_s ``(rounds,)``, paired.

    Args:
        rounds: else as many as there is time for in ``SECONDS``.
        clock: nanoseconds; injected by tests.
    """
    asked = {name: [request] for name, request in requests.items()}
    trial = interleaved(asked, TRIAL, WARM_UP, clock=clock)
    round_s = sum(float(np.median(latency_s)) for latency_s in trial.values())
    rounds = rounds or int(np.clip(SECONDS / round_s, *ROUNDS))
    return interleaved(asked, rounds, warm_up=0, seed=1, clock=clock)


def ratio(first: np.ndarray, second: np.ndarray) -> list[float]:
    """The median of the rounds' ratios of two latencies ``(rounds,)``, and its lower and upper bound."""
    middle, bounds = median_ratio(first, second)
    return [middle, bounds.lower, bounds.upper]


def row(latency_s: Mapping[str, np.ndarray], to: str, **of: Any) -> dict[str, Any]:
    """What is kept of a comparison.

    Returns:
        ``of``; ``rounds``; ``ms``: name -> the median; ``ratio``: name -> to that called ``to``.
    """
    ms = {name: 1e3 * float(np.median(times)) for name, times in latency_s.items()}
    ratios = {name: ratio(times, latency_s[to]) for name, times in latency_s.items()}
    return of | {"rounds": len(latency_s[to]), "ms": ms, "ratio": ratios}


def measure(cell: str, units: int, folder: Path, bar: Any) -> dict[str, Any]:
    """All that is timed of one cell: ``lengths``, ``batches``, ``steps``, each rows, and what is ``absent``."""
    torch.manual_seed(0)
    sequence = Sequence(cell, units).eval()
    graph = export(sequence, folder)
    runs, absent = opened(cell, sequence, graph)
    told: dict[str, Any] = {"lengths": [], "batches": [], "steps": [], "absent": absent}
    known = {"cell": cell, "units": units, "products": products(sequence.cell)}
    for length in LENGTHS:
        inputs = feed(sequence, 1, length)
        latency_s = compare({name: partial(run, inputs) for name, run in runs.items()})
        told["lengths"].append(row(latency_s, EAGER, **known, length=length))
        bar.update()
    if units == max(UNITS):
        dense = Dense(sequence).eval()
        images = open_onnxruntime(to_onnx(dense, {"x": feed(sequence, 2, 4)["x"]}, ("y",)).SerializeToString())
        for batch in BATCHES:
            inputs = feed(sequence, batch, LENGTH)
            asked = {name: partial(run, inputs) for name, run in runs.items() if name in (EAGER, FP32, INT8)}
            latency_s = compare(asked | {DENSE: partial(images, {"x": inputs["x"]})})
            dense_ratio = ratio(latency_s[FP32], latency_s[DENSE])
            told["batches"].append(row(latency_s, EAGER, **known, batch=batch, dense=dense_ratio))
            bar.update()
    inputs = feed(sequence, 1, 1)
    latency_s = compare({RUN: partial(runs[FP32], inputs), RAW: partial(raw(graph), inputs)}, STEP_ROUNDS)
    told["steps"].append(row(latency_s, RAW, **known))
    bar.update()
    return told


def measure_size(cell: str, units: int, folder: Path) -> list[dict[str, Any]]:
    """Rows of one cell in fp32 and in int8, whatever its size: at one step, and at ``LENGTH``."""
    torch.manual_seed(0)
    sequence = Sequence(cell, units).eval()
    graph = export(sequence, folder)
    with patch("pipeline.int8.WINS_FROM", 0):
        int8 = _int8(graph, sequence, open_pytorch(sequence, OUTPUTS))
    runs = {FP32: open_onnxruntime(graph), INT8: open_onnxruntime(int8)}
    rows = []
    for length in (1, LENGTH):
        latency_s = compare({name: partial(run, feed(sequence, 1, length)) for name, run in runs.items()})
        rows.append(row(latency_s, FP32, cell=cell, units=units, length=length))
    return rows


def elsewhere(host: Mapping[str, Any]) -> dict[str, str]:
    """Target -> why it is not measured, of those that do not run on a processor."""
    away = [name for name in target_names() if not name.startswith("onnxruntime-cpu")]
    return dict.fromkeys(away, "this benchmark times the processor alone" if host["gpus"] else no_gpu(host))


def settings() -> dict[str, Any]:
    """What the page says of how all was made."""
    return {"units": UNITS, "length": LENGTH, "rounds": ROUNDS, "int8_from": WINS_FROM}


def main() -> None:
    """Measure all, print the page and keep it with its pictures and its numbers."""
    torch.set_num_threads(THREADS)
    root = load_project().root
    facts = here(root) | {"settings": settings(), "lengths": [], "batches": [], "steps": [], "sizes": []}
    facts["absent"] = elsewhere(facts["host"])
    each = len(CELLS) * (len(LENGTHS) + 1)
    total = len(UNITS) * each + len(CELLS) * len(BATCHES) + len(IN_INT8) * len(SIZES)
    with tqdm(total=total, unit=" comparison", disable=None) as bar:
        for units in UNITS:
            for cell in CELLS:
                bar.set_description(f"{cell}, {units} units")
                with tempfile.TemporaryDirectory() as folder:
                    told = measure(cell, units, Path(folder), bar)
                for key in ("lengths", "batches", "steps"):
                    facts[key] += told[key]
                facts["absent"] |= told["absent"]
        for cell, units in itertools.product(IN_INT8, SIZES):
            bar.set_description(f"{cell} in int8, {units} units")
            with tempfile.TemporaryDirectory() as folder:
                facts["sizes"] += measure_size(cell, units, Path(folder))
            bar.update()
    files = page(facts)
    print(files["README.md"])
    keep_page(root, "sequences", files, facts)


if __name__ == "__main__":
    main()
