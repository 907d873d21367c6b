"""The sets beside the starter set: their recipes; MNIST from a mirror that serves it badly, through `dvc repro`"""

import dataclasses
import os
import random
from collections import Counter
from itertools import product
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from copied import copy_project, repro
from server import Request, serving

from deploy.files import read_json
from pipeline.check import check
from pipeline.datasets import load_dataset
from pipeline.int8 import WINS_FROM
from pipeline.recipe import load_project

MIRROR = os.environ.get("PLUMBLINE_MIRROR")


@pytest.mark.parametrize("folder", ["paper", "paper/sequences", "zoo", "zoo/imagenet", "zoo/sequences"])
def test_its_stages_are_the_starter_sets_and_its_params_pass(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = ROOT / folder / "dvc.yaml"
    assert not copy.is_symlink()  # which DVC does not follow in an earlier commit
    assert copy.read_text() == (ROOT / "dvc.yaml").read_text(), f"stale: `make {folder}/dvc.yaml`"
    monkeypatch.chdir(ROOT / folder)
    project = load_project()
    check(dataclasses.replace(project, build=tmp_path))
    assert {recipe.data for recipe in project.recipes.values()} == set(project.datasets)


def test_the_zoo_has_every_convolutional_network_and_none_of_its_recipes_needs_a_download() -> None:
    """Layers 16, 19, 34 and 50 are of ImageNet's size alone."""
    sets = [load_project(ROOT / folder / "params.yaml") for folder in ("zoo", "zoo/imagenet")]
    recipes = [recipe for project in sets for recipe in project.recipes.values()]
    assert {f"{recipe.network.file}.{recipe.network.class_}" for recipe in recipes} >= {
        *("perceptron.Perceptron", "mlp.MLP", "lenet.LeNet5", "gorner.GornerCNN", "plain.PlainCNN"),
        *("plain.PlainEnsemble", "alexnet.AlexNet", "vgg.VGG", "googlenet.GoogLeNet", "resnet.CifarResNet"),
        *("resnet.ResNet18", "resnet.ResNet34", "resnet.ResNet50"),
    }
    for data in {data for project in sets for data in project.datasets}:
        assert all("package" in source for source in load_dataset(data).SOURCES.values())


def test_the_zoo_has_every_cell_in_every_form() -> None:
    recipes = load_project(ROOT / "zoo" / "sequences" / "params.yaml").recipes.values()
    made = Counter((recipe.network.class_, recipe.network.arguments["cell"]) for recipe in recipes)
    forms, cells = ("RowClassifier", "Tagger", "LanguageModel"), ("Elman", "Jordan", "LSTM", "PeepholeLSTM", "GRU")
    large = [("RowClassifier", cell) for cell in ("LSTM", "GRU", "Elman")]  # also so large that int8 gains
    assert made == Counter([*product(forms, cells), *large])
    units = [recipe.network.arguments["units"] for recipe in recipes]
    assert sum(each >= WINS_FROM for each in units) == len(large)


@pytest.mark.slow
@pytest.mark.skipif(not MIRROR, reason="set PLUMBLINE_MIRROR to a folder that holds the real data sets")
def test_mnist_comes_from_a_mirror_that_serves_it_badly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of all answers are broken off, busy, too short, or no answer; then the softmax recipe, of one epoch."""
    copy_project(tmp_path)
    params = yaml.safe_load((ROOT / "paper" / "params.yaml").read_text())
    recipe = params["recipes"]["softmax_mnist"]
    recipe |= {"floor": 85, "train": recipe["train"] | {"epochs": 1}}
    params |= {"root": ".", "build": "build", "datasets": ["mnist"], "recipes": {"softmax_mnist": recipe}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    moment = random.Random(0)

    def badly(request: Request) -> None:
        data = Path(MIRROR, request.path.lstrip("/")).read_bytes()
        way = moment.choice(["whole", "whole", "whole", "broken", "broken", "busy", "nothing"])
        if way == "busy":
            request.head(503, Content_Length=0, Retry_After=1)
        elif way == "nothing":
            request.drop()
        else:
            begin = request.begin or 0
            request.give(data, begin + moment.randrange(1, 2_000_000) if way == "broken" else None)

    with serving(badly) as server:
        monkeypatch.setenv("PLUMBLINE_MIRROR", server.root)
        repro(tmp_path)
    assert any(begin for _, begin in server.asked), "nothing was resumed"
    verdict = read_json(tmp_path / "build" / "verdicts.json")["softmax_mnist"]
    rows = {target: row for target, row in verdict["targets"].items() if row["deployed"] is not None}
    assert len(rows) >= 3 and {row["n"] for row in rows.values()} == {10_000}
    assert verdict["trained"]["score"] > 88
