"""A model that is served: a graph of a bundle, or an encoder and a step as one call; opened, tried out, and warm.

What is tried out decides how requests are run. Requests are joined into one batch only where that changes nothing: a
graph whose activations are quantized as they come (onnxruntime's int8 LSTM) takes one scale for the whole batch, so
that requests would change each other's answers. And what a call costs tells whether it is run where it is (under a
millisecond) or in a thread.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from deploy.contract import Bundle, load_examples
from deploy.errors import Refused
from deploy.run import Run
from deploy.runtimes import open_onnxruntime
from deploy.server.protocol import Form, form
from deploy.state import NEXT, from_zero
from deploy.targets import GRAPHS
from deploy.tasks.translation import LONGEST, lengths, translate

CALLS = 5  # timed, of each size; the median counts
PROBED = 9  # rows: no power of two, so that a kernel's remainder is among them
ROUNDING = {"fp16": np.finfo(np.float16).eps}  # of another precision: float32's
STRETCH = 16  # times rounding, of the largest answer: as far as sums in another order may come to lie apart


@dataclass(frozen=True)
class Model:
    """What answers to a name."""

    name: str
    version: str
    recipe: str
    precision: str  # as a target's name has it: fp32, fp16, int8
    task: str
    classes: tuple[str, ...]
    inputs: list[dict[str, Any]]  # {name, dtype, shape}
    outputs: list[dict[str, Any]]
    states: tuple[str, ...]  # inputs that a call may leave out: they start at zero
    form: Form
    run: Run
    rows: int  # of one call, at most
    joined: bool  # whether requests may be run as one batch
    seconds: float  # of a call of one row
    seconds_row: float  # of each further row
    stretches: tuple[tuple[str, int, int], ...]  # input, axis, size that was timed: of each free axis but the batch
    sha256: dict[str, str]  # of each graph
    largest: dict[str, float]  # input -> its largest value among the bundle's test examples
    check: Callable[[dict[str, np.ndarray]], object] | None = None  # raises Refused for what it cannot read

    @property
    def output_names(self) -> str:
        """For people."""
        return ", ".join(f"'{tensor['name']}'" for tensor in self.outputs)

    def cost(self, inputs: Mapping[str, np.ndarray], rows: int) -> float:
        """Seconds that a call takes, about; a free axis is taken to cost in proportion to its size."""
        seconds = self.seconds + self.seconds_row * (rows - 1)
        for name, axis, timed in self.stretches:
            seconds *= inputs[name].shape[axis] / timed
        return seconds


def open_models(bundle: Bundle, device: str, precision: str) -> list[Model]:
    """What is served of ``bundle`` at ``precision``, the whole first: of two graphs each is a model too.

    Args:
        device: ``"cpu"`` or ``"cuda"``.
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"``.

    Raises:
        Refused: the bundle has no such graphs, or they cannot be opened or run there.
    """
    of = GRAPHS[f"onnxruntime-{device}"][precision]
    if why := bundle.lacks(of):
        raise Refused(f"{bundle.recipe}: {of}: {why}.")
    runs = {
        graph: from_zero(open_onnxruntime(bundle.path(file), device), bundle.io[graph])
        for graph, file in bundle.graphs[of].items()
    }
    open_ = partial(_model, bundle, precision, bundle.graph_sha256(of), load_examples(bundle, "test"))
    if "encoder" not in runs:
        return [open_("", bundle.io["network"], runs["network"])]
    decoding = open_("", whole_decoding(bundle), lambda inputs: {"greedy": translate(runs, inputs["source"])})
    return [
        replace(decoding, check=lambda inputs: lengths(inputs["source"])),
        *(open_(f"-{graph}", bundle.io[graph], run) for graph, run in runs.items()),
    ]


def whole_decoding(bundle: Bundle) -> dict[str, list[dict[str, Any]]]:
    """``inputs`` and ``outputs`` of an encoder and a step as one call: lines to their greedy answers, 0 = padding."""
    greedy = {"name": "greedy", "dtype": "uint8", "shape": ["batch", LONGEST]}
    return {"inputs": bundle.io["encoder"]["inputs"], "outputs": [greedy]}


def _model(
    bundle: Bundle,
    precision: str,
    hashes: dict[str, str],
    examples: dict[str, np.ndarray],
    part: str,
    io: dict[str, list[dict[str, Any]]],
    run: Run,
) -> Model:
    made = {tensor["name"] for tensor in io["outputs"]}
    states = tuple(tensor["name"] for tensor in io["inputs"] if NEXT + tensor["name"] in made)
    free = all(tensor["shape"][:1] == ["batch"] for side in io.values() for tensor in side)
    rows = bundle.ranges["batch"][2] if free else 1
    one, some = (_example(bundle, examples, io["inputs"], count) for count in (1, PROBED if rows > 1 else 1))
    seconds = _timed(run, one)
    stretches = {
        axis: (tensor["name"], place, bundle.ranges[axis][1])
        for tensor in io["inputs"]
        for place, axis in enumerate(tensor["shape"])
        if isinstance(axis, str) and axis != "batch"
    }
    return Model(
        name=f"{bundle.recipe}-{precision}{part}",
        version=bundle.sha256[:12],
        recipe=bundle.recipe,
        precision=precision,
        task=bundle.task,
        classes=bundle.classes,
        inputs=io["inputs"],
        outputs=io["outputs"],
        states=states,
        form=form(io["inputs"], states, bundle.ranges),
        run=run,
        rows=rows,
        joined=rows > 1 and _same_together(run, some, precision, bool(states)),
        seconds=seconds,
        seconds_row=max(0.0, _timed(run, some) - seconds) / (PROBED - 1) if rows > 1 else 0.0,
        stretches=tuple(stretches.values()),
        sha256=hashes,
        largest={t["name"]: float(examples[t["name"]].max()) for t in io["inputs"] if t["name"] in examples},
    )


def _example(
    bundle: Bundle, examples: dict[str, np.ndarray], inputs: list[dict[str, Any]], rows: int
) -> dict[str, np.ndarray]:
    """Inputs to try a graph with: the bundle's test examples at the sizes served best; noise for states."""
    random = np.random.default_rng(1)
    made = {}
    for tensor in inputs:
        shape = [rows if axis == "batch" else _size(axis, bundle) for axis in tensor["shape"]]
        source = examples.get(tensor["name"])
        if source is None or source.ndim != len(shape):
            source = random.standard_normal(shape) if tensor["dtype"].startswith("float") else np.ones(shape)
        cut = source[(slice(None), *map(slice, shape[1:]))]
        made[tensor["name"]] = np.resize(cut, shape).astype(tensor["dtype"])
    return made


def _size(axis: int | str, bundle: Bundle) -> int:
    return axis if isinstance(axis, int) else bundle.ranges[axis][1]


def _timed(run: Run, inputs: dict[str, np.ndarray]) -> float:
    """Median seconds of a call that is warm."""
    took = []
    for _ in range(1 + CALLS):
        start = time.perf_counter()
        run(inputs)
        took.append(time.perf_counter() - start)
    return statistics.median(took[1:])


def _same_together(run: Run, inputs: dict[str, np.ndarray], precision: str, exactly: bool) -> bool:
    """Whether every row is answered in a batch as it is alone.

    Args:
        exactly: to the last bit, as a state needs that is carried on; else rounding may differ.
    """
    together = run(inputs)
    for row in range(PROBED):
        alone = run({name: array[row : row + 1] for name, array in inputs.items()})
        for name, array in alone.items():
            if np.array_equal(array[0], together[name][row]):
                continue
            apart = np.abs(array[0].astype(np.float64) - together[name][row].astype(np.float64)).max()
            most = np.abs(array.astype(np.float64)).max() * STRETCH * ROUNDING.get(precision, np.finfo(np.float32).eps)
            if exactly or not apart <= most:
                return False
    return True
