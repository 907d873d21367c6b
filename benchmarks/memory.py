"""What recurrent cells can and cannot remember: two problems by length, gradients by distance, and what tames them.

    python -m benchmarks.memory

Every cell of ``models/cells.py`` learns the adding and the copying problem at several lengths, all alike; Elman's
learns the first with plain gradient descent from several starts, its gradient clipped or not; and of untrained cells it
is told how much of a gradient is left so many steps back. Writes ``results/memory/``, and the page's numbers.

Sources: Hochreiter & Schmidhuber, "Long short-term memory" (1997), Neural Computation 9:1735-1780, experiment 4, in the
form of Le, Jaitly & Hinton (2015), arXiv:1504.00941; Arjovsky, Shah & Bengio (2016), arXiv:1511.06464, section 4.1;
Pascanu, Mikolov & Bengio (2013), arXiv:1211.5063.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from os import cpu_count
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from benchmarks.memory_page import ADDING, COPYING, OWN, page
from models.recurrent import build_cell
from pipeline import optimisers
from pipeline.recipe import load_project
from pipeline.results import here, keep_page

UNITS, BATCH, STEPS, EVERY = 64, 32, 2_200, 50  # steps: of each training, and those that one point of a curve is of
CLIP = 1.0  # the most that all gradients of a step are long together
SEEDS = (1, 2)
HELD = 2_000  # sequences on which nothing was trained
RATES = {  # Adam's; of 0.003 and 0.01 that of the lesser errors in trials of about as many steps
    "Elman": 0.003,
    "Jordan": 0.003,
    "LSTM": 0.01,
    "PeepholeLSTM": 0.01,
    "GRU": 0.01,
}
LENGTHS = {ADDING: (10, 30, 100), COPYING: (1, 10, 30)}  # of the sequence; of the blank
SYMBOLS, REMEMBERED = 8, 10  # Arjovsky et al., section 4.1
BLANK, DELIMITER = SYMBOLS, SYMBOLS + 1
RIGHT = 0.08  # Hochreiter & Schmidhuber's 0.04 of a target between 0 and 1, of a sum between 0 and 2
DISTANCE = 100  # steps back, of the gradients
RATE, LENGTH = 0.1, 30  # of gradient descent, clipped or not: its rate, and the numbers in a sequence
SLOW = ("PeepholeLSTM", "GRU", "Jordan")  # a step of these takes longest, the first one's by far


class Steps(Protocol):
    """A cell, as far as gradients ask of it."""

    width: int

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` ``(batch, inputs)`` and ``state`` ``(batch, width)`` to the output and the next state."""


@dataclass(frozen=True)
class Problem:
    """``make``: batch, length and random numbers -> ``x`` ``(batch, time, inputs)`` and the targets.

    ``loss`` and ``right``, a share from 0 to 1, take what comes out, ``(batch, time, outputs)``, and the targets.
    """

    make: Callable[[int, int, torch.Generator], tuple[Tensor, Tensor]]
    inputs: int
    outputs: int
    loss: Callable[[Tensor, Tensor], Tensor]
    right: Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class Run:
    """One training of ``cell`` from ``start``, a name of ``STARTS``; ``clip`` is ``None`` where nothing is clipped.

    ``length`` is of the sequence, or of the copying problem's blank.
    """

    problem: str
    cell: str
    length: int
    seed: int
    rate: float
    optimiser: str = "adam"
    start: str = OWN
    clip: float | None = CLIP
    steps: int = STEPS


def adding(batch: int, length: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Numbers from 0 to 1, one in each half of them marked by a 1 beside it, and the sum of the two.

    Returns:
        ``(batch, length, 2)`` and ``(batch,)``.
    """
    numbers, marks, row = torch.rand(batch, length, generator=random), torch.zeros(batch, length), torch.arange(batch)
    half = length // 2
    for least, most in ((0, half), (half, length)):
        marks[row, torch.randint(least, most, (batch,), generator=random)] = 1
    return torch.stack([numbers, marks], 2), (numbers * marks).sum(1)


def copying(batch: int, blank: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Ten symbols of eight, ``blank - 1`` blanks, a delimiter and ten more blanks; blanks until the symbols are due.

    Returns:
        One-hot ``(batch, blank + 20, 10)``, and the number of what is to be said at each place ``(batch, blank + 20)``.
    """
    symbols = torch.randint(SYMBOLS, (batch, REMEMBERED), generator=random)
    read = torch.full((batch, blank + 2 * REMEMBERED), BLANK)
    said = read.clone()
    read[:, :REMEMBERED], said[:, -REMEMBERED:] = symbols, symbols
    read[:, REMEMBERED + blank - 1] = DELIMITER
    return functional.one_hot(read, SYMBOLS + 2).float(), said


def guess(problem: str, length: int) -> float:
    """The loss of the best guess that reads no symbol and no number.

    Of the adding problem 1: the variance of the sum of two numbers spread evenly from 0 to 1 is left, 1/6. Who sees the
    last number and its mark, and remembers nothing, gains ``1 / (12 (length - length // 2))`` on that. Of the copying
    problem blanks, and then any of the symbols: ``10 ln 8 / (blank + 20)`` nats a place.
    """
    return 1 / 6 if problem == ADDING else REMEMBERED * math.log(SYMBOLS) / (length + 2 * REMEMBERED)


PROBLEMS = {
    ADDING: Problem(
        adding,
        inputs=2,
        outputs=1,
        loss=lambda out, sums: functional.mse_loss(out[:, -1, 0], sums),
        right=lambda out, sums: float(((out[:, -1, 0] - sums).abs() < RIGHT).double().mean()),
    ),
    COPYING: Problem(
        copying,
        inputs=SYMBOLS + 2,
        outputs=SYMBOLS + 1,
        loss=lambda out, said: functional.cross_entropy(out.flatten(0, 1), said.flatten()),
        right=lambda out, said: float(
            (out[:, -REMEMBERED:, :SYMBOLS].argmax(2) == said[:, -REMEMBERED:]).double().mean()
        ),
    ),
}


class Reader(nn.Module):
    """A cell, and a dense layer on its outputs."""

    def __init__(self, cell: str, inputs: int, outputs: int) -> None:
        super().__init__()
        self.cell = build_cell(cell, inputs, UNITS)
        self.output = nn.Linear(UNITS, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` ``(batch, time, inputs)`` to ``(batch, time, outputs)``."""
        outputs, _ = self.cell(x)
        return self.output(outputs)


def _to_radius(radius: float, cell: Any) -> None:
    """Scale the recurrent weights: their largest eigenvalue gets the magnitude ``radius``."""
    cell.weight_hh.mul_(radius / torch.linalg.eigvals(cell.weight_hh).abs().max())


def _orthogonal(cell: Any) -> None:
    """Saxe, McClelland & Ganguli (2014), arXiv:1312.6120: what is multiplied by the weights stays as long as it was."""
    nn.init.orthogonal_(cell.weight_hh)


def _open_forget_gate(by: float, cell: Any) -> None:
    """Gers et al. (2000); Jozefowicz, Zaremba & Sutskever (2015), ICML: add to the forget gate's bias."""
    cell.bias_hh[cell.units : 2 * cell.units].add_(by)


ORTHOGONAL, EXPLODING = "orthogonal", "radius 3"
STARTS: dict[str, Callable[[Any], None]] = {
    OWN: lambda _: None,
    "radius 0.9": partial(_to_radius, 0.9),
    ORTHOGONAL: _orthogonal,
    "radius 1.5": partial(_to_radius, 1.5),
    EXPLODING: partial(_to_radius, 3.0),
    "forget bias + 1": partial(_open_forget_gate, 1.0),
    "forget bias + 5": partial(_open_forget_gate, 5.0),
}
GRADIENTS = {  # picture -> cell and start
    "cells": [(cell, OWN) for cell in RATES] + [("LSTM", "forget bias + 1"), ("LSTM", "forget bias + 5")],
    "Elman": [("Elman", start) for start in (OWN, "radius 0.9", ORTHOGONAL, "radius 1.5", EXPLODING)],
}


def plan() -> list[Run]:
    """All trainings."""
    runs = [
        Run(problem, cell, length, seed, rate)
        for problem, lengths in LENGTHS.items()
        for length in lengths
        for cell, rate in RATES.items()
        for seed in SEEDS
    ]
    return runs + [
        Run(ADDING, "Elman", LENGTH, seed, RATE, "gradient_descent", start, clip)
        for start in (OWN, ORTHOGONAL, EXPLODING)
        for clip in (None, CLIP)
        for seed in SEEDS
    ]


def learn(run: Run) -> dict[str, Any]:
    """Train, and see what is right of sequences that were not trained on.

    Returns:
        The run's own fields; ``curve``, the mean training loss of each ``EVERY`` steps; ``diverged``, the step at which
        the loss or the gradient was no finite number, else ``None``; ``loss`` and ``right`` (per cent) on held-out
        sequences, ``None`` where it diverged; of the lengths of the steps' gradients before they are clipped ``norm``,
        the median, and ``longest``; ``clipped``, the share of steps that were, per cent.
    """
    problem = PROBLEMS[run.problem]
    torch.manual_seed(run.seed)
    network = Reader(run.cell, problem.inputs, problem.outputs)
    with torch.no_grad():
        STARTS[run.start](network.cell)
    parameters = list(network.parameters())
    optimiser = getattr(optimisers, run.optimiser)(parameters, run.rate, 0.0)
    random = torch.Generator().manual_seed(run.seed)
    losses: list[float] = []
    norms: list[float] = []
    diverged = None
    for step in range(run.steps):
        x, target = problem.make(BATCH, run.length, random)
        loss = problem.loss(network(x), target)
        optimiser.zero_grad()
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(parameters, run.clip or math.inf))
        if not math.isfinite(norm + loss.item()):
            diverged = step + 1
            break
        optimiser.step()
        losses.append(loss.item())
        norms.append(norm)
    told: dict[str, Any] = {"curve": [float(np.mean(losses[i : i + EVERY])) for i in range(0, len(losses), EVERY)]}
    told |= {"diverged": diverged, "loss": None, "right": None}
    if diverged is None:
        told |= look(network, problem, run.length)
    clipped = 100 * float(np.mean(np.array(norms) > run.clip)) if run.clip and norms else 0.0
    told |= {"norm": float(np.median(norms)) if norms else None, "longest": max(norms, default=None)}
    return asdict(run) | told | {"clipped": clipped}


def look(network: nn.Module, problem: Problem, length: int) -> dict[str, float]:
    """``loss``, and ``right``, per cent, of ``HELD`` sequences that are the same for every network."""
    x, target = problem.make(HELD, length, torch.Generator().manual_seed(0))
    with torch.inference_mode():
        out = network(x)
    return {"loss": float(problem.loss(out, target)), "right": 100 * problem.right(out, target)}


def gradient_norms(cell: Steps, x: Tensor, random: torch.Generator) -> list[float]:
    """How long the gradient of what is said last is, with respect to the state one step before, two, and so on.

    What is said last is seen in a random direction of length 1, which for each sequence is another; the root of the
    mean square over sequences. Of a cell that multiplies its state by ``a`` it is ``|a|`` to the distance.

    Args:
        x: ``(batch, time, inputs)``.

    Returns:
        ``time - 1`` lengths, the nearest first.
    """
    state = x.new_zeros(len(x), cell.width).requires_grad_()
    states = []
    output = state
    for now in x.unbind(1):
        output, state = cell.step(now, state)
        states.append(state)
    seen = functional.normalize(torch.randn(output.shape, generator=random, dtype=x.dtype), dim=1)
    gradients = torch.autograd.grad((output * seen).sum(), states[:-1])
    return [float(gradient.square().sum(1).mean().sqrt()) for gradient in reversed(gradients)]


def untrained(cell: str, start: str) -> list[float]:
    """``gradient_norms`` of a cell as it starts, in float64, reading numbers of the adding problem."""
    torch.manual_seed(SEEDS[0])
    built = build_cell(cell, PROBLEMS[ADDING].inputs, UNITS).double()
    with torch.no_grad():
        STARTS[start](built)
    random = torch.Generator().manual_seed(SEEDS[0])
    x, _ = adding(BATCH, DISTANCE + 1, random)
    return gradient_norms(built, x.double(), random)


def learn_all(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Each of ``runs``, in their order, learned in as many processes as there are cores, one thread each.

    Those that take longest are begun first, so that no core waits long for the last one.
    """
    begun = sorted(runs, key=lambda run: (run.cell not in SLOW, run.cell != SLOW[0], -run.length))
    with ProcessPoolExecutor(min(cpu_count() or 1, len(runs)), get_context("spawn"), _alone) as pool:
        futures = {run: pool.submit(learn, run) for run in begun}
        every = as_completed(futures.values())
        try:
            for future in tqdm(every, total=len(runs), desc="memory", unit="training", disable=None):
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [futures[run].result() for run in runs]


def _alone() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # what vanishes would take several times as long to compute


def settings() -> dict[str, Any]:
    """What the page says of how all was made."""
    return {
        **{"units": UNITS, "batch": BATCH, "steps": STEPS, "every": EVERY, "clip": CLIP, "seeds": SEEDS, "held": HELD},
        **{"rates": RATES, "right": RIGHT, "length": LENGTH, "descent": RATE, "lengths": LENGTHS},
        "guess": {problem: [guess(problem, length) for length in lengths] for problem, lengths in LENGTHS.items()},
    }


def main() -> None:
    """Learn all, print the page and keep it with its pictures and its numbers."""
    root = load_project().root
    where = here(root)
    gradients = {
        picture: [{"cell": cell, "start": start, "norm": untrained(cell, start)} for cell, start in of]
        for picture, of in GRADIENTS.items()
    }
    told = learn_all(plan())
    facts = {
        **where,
        **{"settings": settings(), "gradients": gradients},
        "runs": [each for each in told if each["optimiser"] == "adam"],
        "descents": [each for each in told if each["optimiser"] != "adam"],
    }
    files = page(facts)
    print(files["README.md"])
    keep_page(root, "memory", files, facts)


if __name__ == "__main__":
    main()
