"""What recurrent cells remember: the problems against their definitions, gradients and clipping against closed forms, and
what the page says of made-up trainings.
"""

import json
import math
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import labels
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import memory, memory_page
from benchmarks.memory import Run
from benchmarks.memory_page import ADDING, COPYING, OWN
from deploy.errors import Refused
from models.recurrent import build_cell
from pipeline import results
from pipeline.recipe import load_project
from pipeline.results import _kept

SMALL = Run(ADDING, "Elman", 6, seed=1, rate=0.003, steps=60)


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# The problems


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 20), st.integers(2, 40), st.integers(0, 9))
def test_a_sum_is_of_the_marked_numbers_one_in_each_half(batch: int, length: int, seed: int) -> None:
    x, sums = memory.adding(batch, length, random(seed))
    assert x.shape == (batch, length, 2) and sums.shape == (batch,)
    for sequence, total in zip(x.tolist(), sums.tolist(), strict=True):
        marked = [i for i, (_, mark) in enumerate(sequence) if mark]
        assert {mark for _, mark in sequence} <= {0, 1} and len(marked) == 2
        assert marked[0] < length // 2 <= marked[1]
        assert total == pytest.approx(sum(sequence[i][0] for i in marked), abs=1e-6)
        assert all(0 <= number < 1 for number, _ in sequence)


def test_marks_fall_everywhere_in_their_half() -> None:
    x, _ = memory.adding(4_000, 9, random())
    counts = x[:, :, 1].sum(0)
    assert counts[:4].sum() == counts[4:].sum() == 4_000
    assert (counts[:4] / 1000 - 1).abs().max() < 0.1 and (counts[4:] / 800 - 1).abs().max() < 0.1


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 20), st.integers(1, 40), st.integers(0, 9))
def test_what_is_to_be_copied_is_what_was_read_first(batch: int, blank: int, seed: int) -> None:
    x, said = memory.copying(batch, blank, random(seed))
    assert x.shape == (batch, blank + 20, 10) and said.shape == (batch, blank + 20)
    assert (x.sum(2) == 1).all()
    for read, wanted in zip(x.argmax(2).tolist(), said.tolist(), strict=True):
        assert set(read[:10]) <= set(range(8))
        assert read[10:] == [8] * (blank - 1) + [9] + [8] * 10  # Arjovsky et al.: blanks, the delimiter, ten more
        assert wanted == [8] * (blank + 10) + read[:10]


def test_the_loss_without_memory_is_that_of_the_best_constant_answer() -> None:
    _, sums = memory.adding(200_000, 10, random())
    found = {c: float(((sums - c) ** 2).mean()) for c in (0.9, 1.0, 1.1)}
    assert min(found, key=found.get) == 1.0
    assert memory.guess(ADDING, 10) == pytest.approx(found[1.0], rel=0.01)


@pytest.mark.parametrize("blank", [1, 10, 30])
def test_the_loss_without_memory_is_that_of_blanks_and_then_any_symbol(blank: int) -> None:
    _, said = memory.copying(5, blank, random())
    out = torch.full((5, blank + 20, 9), -1e4)
    out[:, : blank + 10, 8] = 0
    out[:, blank + 10 :, :8] = 0
    problem = memory.PROBLEMS[COPYING]
    assert float(problem.loss(out, said)) == pytest.approx(memory.guess(COPYING, blank), rel=1e-5)
    assert memory.guess(COPYING, blank) == pytest.approx(10 * math.log(8) / (blank + 20))


def test_right_is_counted_as_the_sources_count_it() -> None:
    sums = torch.tensor([1.0, 1.0, 1.0, 1.0])
    out = torch.zeros(4, 7, 1)
    out[:, -1, 0] = torch.tensor([1.0, 1.079, 0.921, 1.081])  # 0.04 of half the sum
    assert memory.PROBLEMS[ADDING].right(out, sums) == 0.75
    _, said = memory.copying(2, 3, random())
    answers = functional.one_hot(said, 9).float()
    answers[0, -10:-5] = answers[0, -10:-5].roll(1, 1)[:, [8, *range(1, 8), 0]]  # five of twenty are another symbol's
    answers[:, :-10] = 0  # what is said before does not count
    answers[:, -10:, 8] += 2  # nor does a blank
    assert memory.PROBLEMS[COPYING].right(answers, said) == 0.75


# Gradients and starts


class Linear:
    """A cell that multiplies its state by ``weights`` and adds what it reads; what it says is the state."""

    def __init__(self, weights: Tensor) -> None:
        self.weights, self.width = weights, len(weights)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        after = state @ self.weights.T + x
        return after, after


@pytest.mark.parametrize("a", [0.5, 1.0, 1.3, -0.9])
def test_the_gradient_of_a_linear_cell_is_its_weight_to_the_distance(a: float) -> None:
    x = torch.rand(3, 12, 4, generator=random(), dtype=torch.float64)
    norms = memory.gradient_norms(Linear(a * torch.eye(4, dtype=torch.float64)), x, random())
    np.testing.assert_allclose(norms, np.abs(a) ** np.arange(1, 12), rtol=1e-12)


def test_the_gradient_of_a_rotation_stays_and_that_of_a_matrix_is_its_powers() -> None:
    turn = nn.init.orthogonal_(torch.empty(5, 5, dtype=torch.float64), generator=random())
    x = torch.rand(2, 9, 5, generator=random(), dtype=torch.float64)
    np.testing.assert_allclose(memory.gradient_norms(Linear(turn), x, random()), 1.0, rtol=1e-12)
    weights = torch.rand(5, 5, generator=random(), dtype=torch.float64)
    directions = functional.normalize(torch.randn(2, 5, generator=random(3), dtype=torch.float64), dim=1)
    by_hand = [
        float((directions @ torch.linalg.matrix_power(weights, d)).square().sum(1).mean().sqrt()) for d in range(1, 9)
    ]
    np.testing.assert_allclose(memory.gradient_norms(Linear(weights), x, random(3)), by_hand, rtol=1e-12)


@pytest.mark.parametrize("name", memory.RATES)
def test_the_gradient_of_a_cell_is_that_of_moving_its_state(name: str) -> None:
    """The state after the second of four steps is moved a little, both ways."""
    torch.manual_seed(0)
    cell = build_cell(name, 2, 3).double()
    x = torch.rand(1, 4, 2, generator=random(), dtype=torch.float64)
    direction = functional.normalize(torch.randn(1, 3, generator=random(), dtype=torch.float64), dim=1)
    with torch.no_grad():
        state = torch.zeros(1, cell.width, dtype=torch.float64)
        for now in x[:, :2].unbind(1):
            _, state = cell.step(now, state)

        def said(state: Tensor) -> float:
            for now in x[:, 2:].unbind(1):
                output, state = cell.step(now, state)
            return float((output * direction).sum())

        moves = 1e-6 * torch.eye(cell.width, dtype=torch.float64)
        slopes = [(said(state + move) - said(state - move)) / 2e-6 for move in moves]
    came = memory.gradient_norms(cell, x, random())
    assert len(came) == 3 and came[1] == pytest.approx(np.linalg.norm(slopes), rel=1e-6)


def test_starts_are_what_they_are_called() -> None:
    def started(start: str, name: str = "Elman") -> nn.Module:
        torch.manual_seed(0)
        cell = build_cell(name, 2, 16)
        with torch.no_grad():
            memory.STARTS[start](cell)
        return cell

    own = started(OWN)
    torch.testing.assert_close(
        started(memory.ORTHOGONAL).weight_hh @ started(memory.ORTHOGONAL).weight_hh.T, torch.eye(16)
    )
    for start, radius in (("radius 0.9", 0.9), ("radius 1.5", 1.5), (memory.EXPLODING, 3.0)):
        weights = started(start).weight_hh.detach()
        assert np.abs(np.linalg.eigvals(weights.numpy())).max() == pytest.approx(radius, rel=1e-4)
        torch.testing.assert_close(weights / weights.norm(), own.weight_hh.detach() / own.weight_hh.detach().norm())
    more = started("forget bias + 5", "LSTM").bias_hh - started(OWN, "LSTM").bias_hh
    assert more.unflatten(0, (4, 16)).mean(1).tolist() == pytest.approx([0, 5, 0, 0], abs=1e-6)  # of i, f, g, o
    used = {start for of in memory.GRADIENTS.values() for _, start in of} | {run.start for run in memory.plan()}
    assert used == set(memory.STARTS)


def test_gradients_vanish_explode_and_stay_as_their_starts_say() -> None:
    end = {start: memory.untrained("Elman", start)[-1] for _, start in memory.GRADIENTS["Elman"]}
    assert end[OWN] < end["radius 0.9"] < 1e-6 < end[memory.ORTHOGONAL] < 1 < 1e6 < end[memory.EXPLODING]
    assert memory.untrained("LSTM", OWN)[-1] < 1e-9 < 0.1 < memory.untrained("LSTM", "forget bias + 5")[-1]


# Training


def test_learning_is_steps_of_a_batch_each_clipped() -> None:
    """The same, written out."""
    run = replace(SMALL, rate=0.1, optimiser="gradient_descent", clip=0.3, steps=memory.EVERY + 10)
    came = memory.learn(run)
    torch.manual_seed(1)
    cell, output = build_cell("Elman", 2, memory.UNITS), nn.Linear(memory.UNITS, 1)
    parameters = [*cell.parameters(), *output.parameters()]
    numbers, losses, norms = random(1), [], []
    for _ in range(run.steps):
        x, sums = memory.adding(memory.BATCH, 6, numbers)
        loss = ((output(cell(x)[0][:, -1])[:, 0] - sums) ** 2).mean()
        gradients = torch.autograd.grad(loss, parameters)
        norm = float(torch.cat([g.flatten() for g in gradients]).norm())
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= 0.1 * gradient * min(1.0, 0.3 / norm)
        losses.append(loss.item())
        norms.append(norm)
    assert came["curve"] == pytest.approx([np.mean(losses[: memory.EVERY]), np.mean(losses[memory.EVERY :])], rel=1e-3)
    assert (came["norm"], came["longest"]) == pytest.approx((np.median(norms), max(norms)), rel=1e-2)
    assert came["clipped"] == pytest.approx(100 * np.mean(np.array(norms) > 0.3), abs=2)
    with torch.no_grad():
        x, sums = memory.adding(memory.HELD, 6, random(0))
        assert came["loss"] == pytest.approx(float(((output(cell(x)[0][:, -1])[:, 0] - sums) ** 2).mean()), rel=1e-2)


def test_a_training_that_diverges_says_when_and_tells_no_error() -> None:
    wild = replace(SMALL, rate=1e18, optimiser="gradient_descent", clip=None)
    came = memory.learn(wild)
    assert 1 < came["diverged"] < 60 and came["loss"] is None and came["right"] is None
    json.dumps(came, allow_nan=False)
    assert memory.learn(replace(wild, rate=0.01))["diverged"] is None


def test_a_gated_cell_learns_to_add_and_has_not_learned_to_copy_after_ten_steps() -> None:
    added = memory.learn(Run(ADDING, "GRU", 4, 1, 0.01, steps=300))
    assert added["loss"] < 0.02 and added["right"] > 40 and added["curve"][0] > added["curve"][-1]
    copied = memory.learn(Run(COPYING, "GRU", 1, 1, 0.01, steps=10))
    assert copied["loss"] > 0.9 and 5 < copied["right"] < 25  # of 8 symbols, next to nothing is learned yet


@pytest.mark.slow
def test_elmans_cell_learns_to_copy_one_blank_later() -> None:
    """Better than any guess; how well, the benchmark tells."""
    copied = memory.learn(Run(COPYING, "Elman", 1, 1, 0.003, steps=1500))
    assert copied["loss"] < 0.6 * memory.guess(COPYING, 1) and copied["right"] > 40


def test_a_process_learns_what_this_one_learns_in_the_order_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "cpu_count", lambda: 1)
    runs = [replace(SMALL, steps=5, cell=cell, length=length) for cell, length in (("Elman", 4), ("Jordan", 6))]
    assert memory.learn_all(runs) == [memory.learn(run) for run in runs]


def test_all_is_planned_alike_but_for_cell_length_and_seed() -> None:
    runs = [run for run in memory.plan() if run.optimiser == "adam"]
    every = {
        (problem, cell, n, seed)
        for problem, lengths in memory.LENGTHS.items()
        for n in lengths
        for cell in memory.RATES
        for seed in memory.SEEDS
    }
    assert {(run.problem, run.cell, run.length, run.seed) for run in runs} == every and len(runs) == len(every)
    assert {(run.steps, run.clip, run.start) for run in runs} == {(memory.STEPS, memory.CLIP, OWN)}
    descents = [run for run in memory.plan() if run.optimiser != "adam"]
    alike = {replace(run, seed=0, start="", clip=None) for run in descents}
    assert len(alike) == 1 and len(set(descents)) == len(descents) == 3 * 2 * len(memory.SEEDS)


# The page


def told(run: Run, loss: float | None, right: float | None = 50.0, diverged: int | None = None) -> dict:
    curve = [0.5, 0.2, 0.15]
    norms = {"norm": 0.5, "longest": 7.0, "clipped": 12.0 if run.clip else 0.0}
    return asdict(run) | {"curve": curve, "diverged": diverged, "loss": loss, "right": right} | norms


@pytest.fixture
def recorded(tmp_path: Path) -> dict:
    """As it is read back from its file: the GRU learns all, the LSTM some, the others nothing."""
    runs, descents = [], []
    for run in memory.plan():
        least = memory.guess(run.problem, run.length)
        if run.optimiser == "adam":
            share = {"GRU": 0.05, "LSTM": 0.05 if run.length < 20 else 0.5}.get(run.cell, 0.99)
            runs.append(told(run, least * share * (1 + run.seed / 100)))
        elif run.start == OWN or run.clip:
            descents.append(told(run, 0.05 if run.start == memory.ORTHOGONAL else 0.167))
        else:
            descents.append(told(run, None, None, 17 + run.seed))
    gradients = {
        picture: [{"cell": cell, "start": start, "norm": [(2.0 if "radius 3" in start else 0.5 + 0.01 * i) ** d for d in range(1, 101)]} for i, (cell, start) in enumerate(of)]
        for picture, of in memory.GRADIENTS.items()
    }  # fmt: skip
    host = {"processor": "a processor", "cores": 2, "gpus": [], "packages": {"torch": "2.0"}}
    facts = {"date": "2026-01-02", "commit": "abc", "host": host, "settings": memory.settings()}
    file = tmp_path / "memory.json"
    file.write_text(json.dumps(facts | {"gradients": gradients, "runs": runs, "descents": descents}, allow_nan=False))
    return json.loads(file.read_text())


def test_the_page_says_what_the_numbers_say(recorded: dict) -> None:
    files = memory_page.page(recorded)
    assert set(files) == {"README.md", "length.svg", "gradients.svg", "clipping.svg"}
    text = files["README.md"]
    assert set(re.findall(r"!\[.+\]\((.+)\)", text)) == set(files) - {"README.md"}
    for words in (
        "Made by `python -m benchmarks.memory` on a processor, 2 cores, torch 2.0; 2026-01-02, commit `abc`.",
        "seeds 1, 2, and the least and the greatest",
        "by the number of numbers: 10: LSTM and GRU; 30: GRU, LSTM in part; 100: GRU, LSTM in part.",
        "by the number of blanks: 1: LSTM and GRU; 10: LSTM and GRU; 30: GRU, LSTM in part.",
        "With the gradient not clipped, 4 of 6 trainings diverged and none learned anything; clipped, 0 of 6 trainings "
        "diverged and 2 learned something (orthogonal).",
        "GRU keeps the most of a gradient over 100 steps",
        "Elman the least",
        "It grows with the distance in Elman, radius 3.",
        "| orthogonal | not clipped | 2 | diverged at step 19 | 0.5 | 7 |  |",
        "| orthogonal | clipped | 2 | 0.05 | 0.5 | 7 | 12 |",
        "| a guess |  | 0.167 |  | 0.167 |  | 0.167 |  |",
        "| a guess |  | 0.99 | 87.5 | 0.693 | 87.5 | 0.416 | 87.5 |",
        "| Elman, radius 3 | 2 | 1e+03 | 1.1e+09 | 1.3e+30 | 2.000 |",
    ):
        assert words in text, words
    assert text.count("| Elman | 0.5 |") == 1  # it stands in two pictures and once in the table
    said = {name: labels(svg) for name, svg in files.items() if name.endswith("svg")}
    assert said["length.svg"]["GRU"] == 2  # a line in each panel
    assert said["length.svg"]["a guess: 1/6"] == 1
    assert said["clipping.svg"]["orthogonal: diverged at step 18"] == 1
    assert said["clipping.svg"]["radius 3"] == 4
    assert said["gradients.svg"]["LSTM, forget bias + 5"] == 1 and said["gradients.svg"]["orthogonal"] == 1


def test_the_page_and_its_numbers_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: dict) -> None:
    monkeypatch.setattr(memory, "load_project", lambda: replace(load_project(ROOT / "params.yaml"), root=tmp_path))
    monkeypatch.setattr(results, "commit_of", lambda root: "0123456789")
    monkeypatch.setattr(memory, "learn_all", lambda runs: recorded["runs"] + recorded["descents"])
    memory.main()
    kept = json.loads((tmp_path / memory_page.NUMBERS).read_text())
    assert kept["runs"] == recorded["runs"] and kept["descents"] == recorded["descents"]
    written = tmp_path / "results" / "memory"
    assert {path.name: path.read_text() for path in written.iterdir()} == memory_page.page(kept)
    page = (written / "README.md").read_text()
    link = re.search(r"\[Every number\]\((.+?)\)", page)[1]
    assert "commit `0123456789`" in page and (written / link).resolve() == tmp_path / memory_page.NUMBERS
    assert _kept(tmp_path / "results") == []  # they are not taken for what a host measured


def test_where_nothing_learns_or_grows_it_says_so(recorded: dict) -> None:
    for each in recorded["runs"]:
        each["loss"] = 1.0
    for each in recorded["descents"]:
        each.update(loss=0.2, diverged=None)
    for of in recorded["gradients"].values():
        for each in of:
            each["norm"] = [0.5**d for d in range(1, 101)]
    of = recorded["settings"]
    assert memory_page.learned_sentence(recorded["runs"], of, COPYING).endswith("1: none; 10: none; 30: none.")
    text = memory_page.descent_sentence(recorded["descents"])
    assert text.count("0 of 6 trainings diverged and none learned anything") == 2
    assert memory_page.gradient_sentence(recorded["gradients"]).endswith("It grows in none.")


def test_a_clipped_training_that_diverged_is_no_row(recorded: dict) -> None:
    recorded["runs"][0]["diverged"] = 5
    with pytest.raises(Refused, match="Elman, adding, 10: diverged at step 5"):
        memory_page.table(recorded["runs"], recorded["settings"], ADDING)
