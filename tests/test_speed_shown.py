"""How fast each recipe was trained: in its section, in the table of all networks, and in the Markdown."""

import csv
import dataclasses
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import NAME
from hypothesis import given
from hypothesis import strategies as st
from judged import memoised
from judged import shown as make_shown

from deploy.errors import Refused
from pipeline.recipe import Graph, Network, Project, Recipe, Training, Weights
from pipeline.report import SPEED_HEADS, rate, report
from pipeline.section import training_speed
from pipeline.train import train

HEAD = "epoch,train_s,examples_per_s\n"
KNOWN = f"{HEAD}0,8,125\n1,4,250.4\n2,2,15000\n"  # median 250.4, 14 s in all


@pytest.fixture(scope="module", autouse=True)
def drawn_once() -> Iterator[None]:
    with memoised():
        yield


@pytest.fixture(scope="module")
def shown(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_shown(project, tmp_path_factory.mktemp("speed"))


@pytest.fixture
def mine(shown: Project, tmp_path: Path) -> Project:
    """A copy to change, of one recipe."""
    shutil.copytree(shown.build, tmp_path / "build", dirs_exist_ok=True)  # links become what they lead to
    return dataclasses.replace(shown, build=tmp_path / "build", recipes={"passes": shown.recipe("passes")})


def with_training(recipe: Recipe, **changes: Any) -> Recipe:
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, **changes))


def told(project: Project) -> tuple[str, str]:
    """The page, on which a line may end anywhere, and the Markdown."""
    report(project)
    html, text = ((project.build / f"report.{kind}").read_text() for kind in ("html", "md"))
    return " ".join(html.split()), text


def test_what_training_wrote_is_what_is_told(project: Project) -> None:
    """Of a real training: each number once more, by numpy from the file itself."""
    file = project.build / "history" / "speed" / f"{NAME}.csv"
    rows = list(csv.DictReader(file.read_text().splitlines()))
    speeds, seconds = (np.array([float(row[key]) for row in rows]) for key in ("examples_per_s", "train_s"))
    came = training_speed(project.build, NAME, project.recipe(NAME))
    assert came == {
        "median": pytest.approx(np.median(speeds)),
        "least": speeds.min(),
        "greatest": speeds.max(),
        "total_s": pytest.approx(seconds.sum()),
        "epochs": len(speeds),
        "batch": 25,
        "mode": "float32",
    }
    np.testing.assert_allclose(speeds * seconds, (speeds * seconds)[0], rtol=1e-4)  # as many examples in each epoch


@given(st.lists(st.floats(0.01, 1e6), min_size=1, max_size=9), st.booleans(), st.booleans())
def test_the_median_is_numpys_and_lies_between_the_ends(
    tmp_path_factory: pytest.TempPathFactory, speeds: list[float], bf16: bool, channels_last: bool
) -> None:
    build = tmp_path_factory.mktemp("history")
    (build / "history" / "speed").mkdir(parents=True)
    text = HEAD + "".join(f"{i},{1 / speed!r},{speed!r}\n" for i, speed in enumerate(speeds))
    (build / "history" / "speed" / "net.csv").write_text(text)
    recipe = Recipe(Network("linear"), "digits", "classification", Training(3, 7, 0.1, 1, 1, bf16, channels_last), (), 0, None)  # fmt: skip
    came = training_speed(build, "net", recipe)
    assert came["median"] == pytest.approx(np.median(speeds)) and came["least"] <= came["median"] <= came["greatest"]
    assert (came["batch"], came["epochs"]) == (7, len(speeds))
    assert ("bf16" in came["mode"], "float32" in came["mode"]) == (bf16, not bf16)
    assert ("channels-last" in came["mode"]) == channels_last


def test_a_section_and_both_tables_say_it(mine: Project) -> None:
    """Rows stand by file of ``models/``, whatever their order in ``params.yaml``."""
    slow = mine.recipe("passes")
    fast = with_training(slow, batch=1024, bf16=True, channels_last=True)
    early = dataclasses.replace(slow, network=dataclasses.replace(slow.network, file="alexnet", class_="AlexNet"))
    recipes = {"passes": fast, "loses": early}
    for name in recipes:
        (mine.build / "history" / "speed" / f"{name}.csv").write_text(KNOWN)
    html, text = told(dataclasses.replace(mine, recipes=recipes))
    assert (
        "It was trained at 250 examples a second (median of 3 epochs; 125 to 15,000), in 14 s, batch 1024, bf16, "
        "channels-last." in html
    )
    assert "in 14 s, batch 25, float32." in html
    lines = [
        "| " + " | ".join(SPEED_HEADS) + " |",
        "| " + " | ".join(["---"] * len(SPEED_HEADS)) + " |",
        "| loses | alexnet: AlexNet | digits | float32 | 250 | 125 to 15,000 | 14 s | 3 | 25 |",
        "| passes | gorner: GornerCNN | digits | bf16, channels-last | 250 | 125 to 15,000 | 14 s | 3 | 1024 |",
    ]
    assert "\n".join(lines) in text
    table = re.search(r'aria-labelledby="speed">.*?</section>', html)[0]
    cells = re.findall(r"<td(?: data-sort=\"([^\"]*)\")?>(.*?)</td>", table)
    assert [cell for _, cell in cells] == [cell for line in lines[2:] for cell in line.strip("| ").split(" | ")]
    assert [key for key, _ in cells[:9]] == ["", "", "", "", "250.4", "125.0", "14.0", "3", "25"]


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (None, "FileNotFoundError"),
        ("[1, 2]", "has no column &#39;epoch&#39;"),
        ("epoch,train_s\n0,3\n", "KeyError: &#39;examples_per_s&#39;"),
        (KNOWN[:-8], "ValueError|TypeError"),  # cut off in the middle of a row
        (f"{HEAD}0,nan,125\n", "holds a time or speed that is no number above 0"),
        (f"{HEAD}0,8,0\n", "holds a time or speed that is no number above 0"),
    ],
)
def test_what_is_missing_or_damaged_costs_a_line(mine: Project, broken: str | None, why: str) -> None:
    """A build from before there were speeds has no file."""
    file = mine.build / "history" / "speed" / "passes.csv"
    file.unlink()
    if broken is not None:
        file.write_text(broken)
    html, text = told(mine)
    assert re.search(rf"Not shown: the training&#39;s speed\. [^<]*({why})", html)
    assert "It was trained at" not in html and 'id="speed"' not in html and "examples a second" not in text
    assert "Dashed: the epoch whose weights were kept" in html and html.count("<figure>") >= 4  # the rest is there


def test_nothing_is_told_of_what_was_brought_or_ran_no_epoch(mine: Project) -> None:
    recipe = mine.recipe("passes")
    shutil.rmtree(mine.build / "history" / "speed")
    for brought in (Weights(Path("a.safetensors")), Graph(Path("a.onnx"))):
        html, text = told(dataclasses.replace(mine, recipes={"passes": dataclasses.replace(recipe, train=brought)}))
        assert "It was trained at" not in html and "training&#39;s speed" not in html and "a second" not in text
    (mine.build / "history" / "speed").mkdir()
    (mine.build / "history" / "speed" / "passes.csv").write_text("epoch\n")
    assert training_speed(mine.build, "passes", recipe) is None


def test_a_training_of_no_epochs_is_told_without_a_speed(project: Project, tmp_path: Path) -> None:
    """``epochs: 0`` leaves the weights as they start, and its file has a head alone: `train` wrote it, not this test."""
    (tmp_path / "prepare").symlink_to(project.build / "prepare")
    still = with_training(project.recipe(NAME), epochs=0)
    train(dataclasses.replace(project, build=tmp_path, recipes={NAME: still}), NAME)
    assert training_speed(tmp_path, NAME, still) is None


def test_a_speed_that_is_no_number_is_refused_by_its_file(tmp_path: Path, project: Project) -> None:
    (tmp_path / "history" / "speed").mkdir(parents=True)
    (tmp_path / "history" / "speed" / "net.csv").write_text(f"{HEAD}0,8,inf\n")
    with pytest.raises(Refused, match=r"speed/net\.csv: holds a time or speed that is no number above 0\. Remove it"):
        training_speed(tmp_path, "net", project.recipe(NAME))


@pytest.mark.parametrize(
    ("value", "shown"), [(0.01234, "0.0123"), (7.0, "7"), (99.94, "99.9"), (100.4, "100"), (1234567.8, "1,234,568")]
)
def test_a_rate_has_the_places_that_it_earns(value: float, shown: str) -> None:
    assert rate(value) == shown
