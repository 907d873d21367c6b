"""The textbooks' pictures: what a caption says against made-up curves, and the training against one written out by hand."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from benchmarks import textbook
from benchmarks import textbook_charts as pictures
from benchmarks.textbook_charts import CONSTANT, DECAY, WITH, WITHOUT, Curve
from deploy.errors import Refused
from models.mlp import MLP
from pipeline import charts, optimisers, results
from pipeline.recipe import load_project

LOOKS = 30


def curve(train_loss: list[float], held_loss: list[float] | None = None, accuracy: list[float] | None = None) -> Curve:
    steps = [50.0 * (i + 1) for i in range(len(train_loss))]
    flat = [1.0] * len(train_loss)
    return {"step": steps, "train_loss": train_loss, "held_loss": held_loss or flat, "accuracy": accuracy or flat}


def accurate(*values: float) -> Curve:
    return curve([1.0] * len(values), accuracy=list(values))


def shaky(by: float, around: float = 98.0) -> Curve:
    """Up and down by ``by`` in all."""
    return accurate(*(around + by / 2 * (-1) ** i for i in range(LOOKS)))


def losing(end: float) -> Curve:
    """Held-out loss falls from 2 to 1, stays there, and is at ``end`` for the last looks."""
    return curve([1.0] * 32, held_loss=[2.0] * 2 + [1.0] * 20 + [end] * 10)


def texts(svg: str) -> str:
    return " | ".join("".join(e.itertext()) for e in ET.fromstring(svg).iter() if e.tag.endswith("}text"))


def lines(svg: str) -> list[str]:
    """What each line that says something says."""
    marks = [e for e in ET.fromstring(svg).iter() if e.get("aria-roledescription") == "line mark"]
    return [e.attrib["aria-label"] for e in marks if "aria-label" in e.attrib]


def digits(n: int = 400) -> textbook.Examples:
    """Bright in a row of its own for each class, and noise: simple to learn."""
    random = np.random.default_rng(0)
    made = {}
    for split in ("train", "select"):
        label = random.integers(10, size=n)
        image = random.integers(60, size=(n, 1, 28, 28)).astype(np.uint8)
        for i, of in enumerate(label):
            image[i, 0, 2 * of : 2 * of + 2] = 255
        made[split] = {"image": torch.from_numpy(image), "label": torch.from_numpy(label)}
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, arrays in digits().items():
        np.savez(tmp_path / f"{split}.npz", **{name: tensor.numpy() for name, tensor in arrays.items()})
    return tmp_path


SMALL = textbook.Run(partial(MLP, textbook.SHAPE, 10, (20,)), 25, 10, textbook.training())


@given(st.lists(st.floats(0, 100), min_size=4, max_size=40), st.floats(-5, 5))
def test_unrest_is_of_the_second_half_and_of_no_level(values: list[float], up: float) -> None:
    late = values[len(values) // 2 :]
    by_hand = sum(abs(b - a) for a, b in pairwise(late)) / (len(late) - 1)
    assert pictures.unrest(accurate(*values)) == pytest.approx(by_hand, abs=1e-9)
    assert pictures.unrest(accurate(*(v + up for v in values))) == pytest.approx(by_hand, abs=1e-9)


def test_unrest_of_what_is_known() -> None:
    assert pictures.unrest(shaky(0.5)) == pytest.approx(0.5)
    assert pictures.unrest(accurate(*[97.0] * 10)) == 0
    assert pictures.unrest(accurate(*[0.0, 90.0] * 5, *[98.0] * 10)) == 0  # the first half does not count


@pytest.mark.parametrize(("end", "share"), [(1.5, 0.5), (1.0, 0.0), (3.0, 2.0), (0.5, 0.0)])
def test_rise_is_from_the_least_to_the_end(end: float, share: float) -> None:
    assert pictures.rise(losing(end)) == pytest.approx(share)


def test_one_lucky_look_is_no_rise() -> None:
    lucky = losing(1.0)
    lucky["held_loss"][15] = 0.5
    assert pictures.rise(lucky) == pytest.approx(1 / 0.95 - 1)  # and not 1


@given(st.lists(st.integers(0, 9), min_size=1, max_size=4), st.lists(st.integers(0, 9), min_size=1, max_size=4))
def test_lines_are_apart_where_every_seed_says_so(first: list[int], second: list[int]) -> None:
    signs = {(a > b) - (a < b) for a in first for b in second}
    assert pictures.apart(first, second) == (signs.pop() if len(signs) == 1 else 0)


@pytest.mark.parametrize(
    ("relu", "sigmoid", "said"),
    [
        ([95, 94, 96], [40, 60, 50], "ReLU learns faster."),
        ([40, 60, 50], [95, 94, 96], "the sigmoid learns faster."),
        ([40, 95, 50], [94, 39, 60], "the seeds do not tell which learns faster."),
    ],
)
def test_start_says_which_learns_faster(relu: list[float], sigmoid: list[float], said: str) -> None:
    curves = {"sigmoid": [accurate(10, of) for of in sigmoid], "relu": [accurate(10, of) for of in relu]}
    told = pictures.start_caption(curves)
    assert told.endswith(said) and told.count(". ") == 0
    assert (
        f"{np.mean(relu):.1f} % ({min(relu):.1f} to {max(relu):.1f}) of the held-out images are told right with ReLU"
        in told
    )


@pytest.mark.parametrize(
    ("constant", "decay", "said"),
    [
        ([shaky(0.5, 98), shaky(0.4, 98)], [shaky(0.1, 98.5), shaky(0.05, 98.5)], "decay takes the noise away, and ends higher (98.50 %"),
        ([shaky(0.1, 98)], [shaky(0.5, 97)], "decay adds noise, and ends lower (97.00 %"),
        ([shaky(0.1, 98), shaky(0.6, 99)], [shaky(0.5, 98), shaky(0.2, 99)], "do not tell which is noisier, and ends no differently"),
    ],
)  # fmt: skip
def test_rate_says_what_decay_does(constant: list[Curve], decay: list[Curve], said: str) -> None:
    assert said in pictures.rate_caption({CONSTANT: constant, DECAY: decay})


@pytest.mark.parametrize(
    ("without", "with_", "said"),
    [
        ([1.5, 1.6], [1.1, 1.2], "by 55 % (50 to 60) without dropout and by 15 % (10 to 20) with it, so dropout holds it down"),
        ([1.1], [1.5], "by 10 % without dropout and by 50 % with it, so dropout makes it worse"),
        ([1.0, 1.0], [1.0, 1.0], "so the seeds do not tell what dropout does"),
    ],
)  # fmt: skip
def test_dropout_says_what_it_does(without: list[float], with_: list[float], said: str) -> None:
    curves = {WITHOUT: [losing(end) for end in without], WITH: [losing(end) for end in with_]}
    assert said in pictures.dropout_caption({"five layers": curves})


def test_panels_are_told_from_the_least_loss_to_the_greatest() -> None:
    curves = {"slow": [curve([2.0, 1.9])], "fast": [curve([2.0, 0.012])], "some": [curve([2.0, 0.5])]}
    told = pictures.panels_caption(curves, "ways")
    assert told.startswith("In the last 50 of 100 steps, of 3 ways, fast has the least training loss (0.012) and slow ")
    shown = charts.svg(pictures.panels(curves, 2))
    assert re.findall(r"(\w+): ([\d.]+)", texts(shown)) == [("fast", "0.012"), ("some", "0.5"), ("slow", "1.9")]
    assert sorted(lines(shown)) == ["fast", "slow", "some"]  # the grey ones say nothing twice
    turned = {name: [curve([2.0, 1 / runs[0]["train_loss"][-1]])] for name, runs in curves.items()}
    assert "slow has the least training loss (0.53) and fast the greatest (83)" in pictures.panels_caption(
        turned, "ways"
    )


def test_a_pair_has_a_line_a_seed_and_one_alone_keeps_the_reach_of_both() -> None:
    curves = {"plain": [accurate(50, *[96] * 19), accurate(60, *[97] * 19)], "better": [accurate(70, *[99] * 19)]}
    both = charts.svg(pictures.pair(curves, "accuracy", "a title"))
    assert sorted(lines(both)) == ["better", "plain", "plain"]
    for word in ("plain", "better", "a title", "steps", "held-out accuracy, %"):
        assert word in texts(both)
    alone = charts.svg(pictures.pair(curves, "accuracy", late=True, only="plain"))
    assert lines(alone) == ["plain"] * 2
    scale = [float(tick) for tick in re.findall(r"9\d\.\d", texts(alone))]
    assert min(scale) >= 96 and 98 < max(scale) <= 99


def test_spread_is_numpys_and_knows_the_ends() -> None:
    values = np.concatenate([np.zeros(30), np.full(50, 0.5), np.ones(20)])
    found = pictures.spread("He", "sigmoid", 1, values)
    assert (found["p5"], found["p25"], found["p50"], found["p95"]) == (0, 0, 0.5, 1)
    assert found["saturated"] == pytest.approx(0.5)
    assert found["deviation"] == pytest.approx(np.sqrt(np.mean((values - 0.45) ** 2)))
    assert pictures.spread("He", "relu", 1, values)["saturated"] == 0  # it has a slope as far as it goes up


def test_weights_of_the_books_lose_the_spread_and_those_of_the_papers_keep_it() -> None:
    found = textbook.spreads(digits()["train"]["image"])
    assert len(found) == 3 * 4 * 5
    at = {(each["start"], each["activation"], each["layer"]): each for each in found}
    assert at["deviation 1", "tanh", 5]["saturated"] > 0.5 > at["Xavier", "tanh", 5]["saturated"]
    assert at["deviation 0.01", "relu", 5]["deviation"] < 1e-3 * at["He", "relu", 5]["deviation"]
    assert 0.3 < at["He", "relu", 5]["deviation"] / at["He", "relu", 1]["deviation"] < 3
    told = pictures.bands_caption(found)
    assert told.startswith(
        "In layer 5, before anything is learned, deviation 1 leaves the most units within 0.01 of an end"
    )
    shown = texts(charts.svg(pictures.bands(found)))
    for word in (*textbook.STARTS, "sigmoid", "tanh", "relu", "layer"):
        assert word in shown
    turned = [each | {"saturated": float(each["start"] == "He")} for each in found]
    assert "He leaves the most units within 0.01 of an end" in pictures.bands_caption(turned)


def test_learning_is_steps_of_a_batch_in_the_order_drawn() -> None:
    """The same, written out: one loop, one look."""
    examples = digits()
    came = textbook.learn(replace(SMALL, steps=6, every=1), examples)
    train, select = examples["train"], examples["select"]
    pixels = {split: examples[split]["image"].float() / 255 for split in examples}
    torch.manual_seed(1)
    network = SMALL.network()
    adam = torch.optim.Adam(network.parameters(), lr=0.003)
    shuffle = torch.Generator().manual_seed(1)
    order = torch.cat([torch.randperm(400, generator=shuffle) for _ in range(2)])[:600]
    for step in range(6):
        part = order[100 * step : 100 * step + 100]
        loss = functional.cross_entropy(network(pixels["train"][part]), train["label"][part])
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            logits = network(pixels["select"])
        assert came["train_loss"][step] == pytest.approx(loss.item(), rel=1e-4)
        assert came["held_loss"][step] == pytest.approx(
            float(functional.cross_entropy(logits, select["label"])), rel=1e-4
        )
        assert came["accuracy"][step] == pytest.approx(
            100 * np.mean((logits.argmax(1) == select["label"]).numpy()), abs=0.3
        )


def test_looks_are_where_they_are_asked_for_and_the_rate_ends_where_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    prepared = textbook.prepare
    monkeypatch.setattr(textbook, "prepare", lambda *asked: kept.append(prepared(*asked)) or kept[-1])
    curve = textbook.learn(replace(SMALL, training=textbook.training(schedule="exponential")), digits())
    assert curve["step"] == [10, 20, 25]
    assert curve["held_loss"] == sorted(curve["held_loss"], reverse=True)
    assert kept[0].get_last_lr()[0] == pytest.approx(0.0001)


def test_dropout_is_not_in_what_is_looked_at() -> None:
    network = MLP(textbook.SHAPE, 10, (20,), dropout=0.5)
    select = digits(50)["select"] | {"image": digits(50)["select"]["image"].float()}
    network.train()
    assert textbook.look(network, select) == textbook.look(network, select)


def test_processes_find_what_one_finds_in_the_order_asked(folder: Path) -> None:
    seeds = [replace(SMALL, training=textbook.training(seed=seed)) for seed in (1, 2)]
    found = textbook.learn_all({"start": {"a": seeds, "b": seeds[::-1]}}, folder)
    alone = [textbook.learn(run, textbook.open_mnist(folder)) for run in seeds]
    assert found == {"start": {"a": alone, "b": alone[::-1]}}
    assert alone[0] != alone[1]


def test_a_loss_that_is_not_finite_ends_it_plainly() -> None:
    wild = replace(SMALL, training=textbook.training(1e30, optimiser="gradient_descent"))
    with pytest.raises(Refused, match=r"step \d+: the loss is (nan|inf), expected a finite number"):
        textbook.learn(wild, digits())


def test_every_activation_and_optimiser_is_once_in_the_plan() -> None:
    planned = textbook.plan()
    named = [run.training.optimiser for runs in planned["optimisers"].values() for run in runs]
    own = [
        n for n, f in vars(optimisers).items() if callable(f) and getattr(f, "__module__", "") == optimisers.__name__
    ]
    assert sorted(named) == sorted(own)
    assert {run.training.seed for lines in planned.values() for runs in lines.values() for run in runs} == {1, 2, 3}
    for name, runs in planned["activations"].items():
        assert [run.network.keywords["activation"] for run in runs] == [name]
        runs[0].network()  # there is one of that name


def test_without_mnist_it_says_how_to_make_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "results" / "textbook" / "README.md"
    kept.parent.mkdir(parents=True)
    kept.write_text("the last one")
    project = replace(load_project(ROOT / "params.yaml"), root=tmp_path, build=tmp_path / "build")
    with pytest.raises(Refused, match=r"paper/prepare/mnist/train\.npz: not found, expected MNIST.*`make paper`"):
        textbook.textbook(project)
    assert kept.read_text() == "the last one"


def test_the_page_has_each_picture_with_its_words(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = tmp_path / "build" / "paper" / "prepare" / "mnist"
    prepared.mkdir(parents=True)
    for split in ("train", "select"):
        (folder / f"{split}.npz").rename(prepared / f"{split}.npz")

    def made_up(planned: textbook.Plan, _: Path) -> pictures.Curves:
        return {
            picture: {line: [losing(1.5) for _ in runs] for line, runs in of.items()} for picture, of in planned.items()
        }

    monkeypatch.setattr(textbook, "learn_all", made_up)
    monkeypatch.setattr(results, "commit_of", lambda root: "0123456789")
    textbook.textbook(replace(load_project(ROOT / "params.yaml"), root=tmp_path, build=tmp_path / "build"))
    written = tmp_path / "results" / "textbook"
    page = (written / "README.md").read_text()
    shown = re.findall(r"!\[.+\]\((.+)\)", page)
    assert len(shown) == 6 and {*shown, "README.md"} == {path.name for path in written.iterdir()}
    assert page.count("Görner, ") == 3 and page.count("Saitoh, ") == 4
    for word in (
        "`python -m benchmarks.textbook` on ",
        " cores",
        "commit `0123456789`",
        "seeds 1, 2, 3",
        "`test` is not looked at",
    ):
        assert word in page
    for name in shown:
        svg = (written / name).read_text()
        assert "prefers-color-scheme:dark" in svg and "currentColor" in svg
        assert not re.search("NaN|Infinity|undefined", svg)
