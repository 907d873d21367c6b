import csv
import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import NAME, ROOT
from safetensors.torch import load_file, save_file

from deploy.contract import load_arrays
from deploy.errors import Refused
from deploy.files import read_json
from deploy.tasks import classification, language_model
from pipeline import losses
from pipeline.host import host
from pipeline.network import build_network, load_network
from pipeline.recipe import Budget, Graph, Network, Project, Training, Weights
from pipeline.supervised import PART, _mean_loss, fit, spread
from pipeline.train import _check_forward, _check_inputs, check_units, train

LINEAR = Network("linear", "SoftmaxRegression", {})
DATA = {"network": {"shape": [1, 8, 8], "classes": 10}, "scaled": True}


def open_csv(project: Project, kind: str) -> io.StringIO:
    return io.StringIO((project.build / "history" / kind / f"{NAME}.csv").read_text())


@pytest.fixture
def examples(project: Project) -> dict[str, dict[str, np.ndarray]]:
    return {split: load_arrays(project.build / "prepare" / "digits" / f"{split}.npz") for split in ("train", "select")}


def trained(
    examples: dict[str, dict[str, np.ndarray]], **changes: object
) -> tuple[torch.nn.Module, list[dict[str, float]]]:
    torch.manual_seed(0)
    network = build_network(LINEAR, DATA)
    network.fit(torch.from_numpy(examples["train"]["image"]))
    training = dataclasses.replace(
        Training(epochs=5, batch=50, rate=0.01, patience=5, seed=3, bf16=False, channels_last=False), **changes
    )
    history = fit(network, losses.classification, training, examples, lambda: {"accuracy": 0.0}, "linear")["loss"]
    return network, history


def test_the_same_seed_gives_the_same_weights_and_another_does_not(examples: dict) -> None:
    first, again, other = (trained(examples, seed=seed)[0].state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_loss_falls_and_the_best_epoch_is_kept(examples: dict) -> None:
    network, history = trained(examples, epochs=40, rate=0.2, patience=3)
    losses_on_select = [row["select_loss"] for row in history]
    best = int(np.argmin(losses_on_select))
    assert losses_on_select[best] < losses_on_select[0]
    assert len(history) == min(40, best + 1 + 3)  # it stopped `patience` epochs after the best
    batch = {key: torch.from_numpy(array) for key, array in examples["select"].items()}
    with torch.inference_mode():
        kept = float(losses.classification(network(batch["image"]), batch))
    assert kept == losses_on_select[best]


def test_a_loss_that_is_not_a_number_stops_with_the_fix(examples: dict) -> None:
    with pytest.raises(
        Refused,
        match=r"linear, epoch 0.*the loss is nan, expected a finite number. Lower `rate` \(now 0.01\).*or look for NaN in the data",
    ):
        spoilt = examples["train"] | {"image": np.full((650, 1, 8, 8), np.nan, np.float32)}
        trained(examples | {"train": spoilt})


@pytest.mark.parametrize("fast", [{"bf16": True}, {"channels_last": True}, {"bf16": True, "channels_last": True}])
def test_fast_mode_learns_as_well_and_its_weights_load(project: Project, tmp_path: Path, fast: dict) -> None:
    """Through the stage, on a network of convolutions, whose weights lie in another order in memory."""
    recipe = project.recipe(NAME)
    quick = dataclasses.replace(
        project,
        recipes={NAME: dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, epochs=12, **fast))},
        build=tmp_path,
    )
    (tmp_path / "prepare").symlink_to(project.build / "prepare")
    train(quick, NAME)
    assert float(list(csv.DictReader(open_csv(quick, "loss")))[-1]["accuracy"]) > 88
    data = read_json(tmp_path / "prepare" / "digits" / "data.json")
    load_network(recipe.network, data, tmp_path / "train" / NAME / "weights.safetensors")


def test_spread_is_that_of_all_weights_and_all_biases() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
    row = spread(network)
    weights = torch.cat([network[0].weight.flatten(), network[1].weight.flatten()])
    assert row["weights_min"] == pytest.approx(float(weights.min().detach()))
    assert row["weights_p50"] == pytest.approx(float(weights.detach().quantile(0.5)))
    assert row["biases_max"] == pytest.approx(float(torch.cat([network[0].bias, network[1].bias]).max().detach()))


def test_the_stage_writes_weights_and_a_history_for_plots(project: Project) -> None:
    folder = project.build / "train" / NAME
    loss, spreads = (list(csv.DictReader(open_csv(project, kind))) for kind in ("loss", "spread"))
    assert len(loss) == len(spreads) <= 30
    assert list(loss[0]) == ["epoch", "train_loss", "select_loss", "accuracy"]
    plots = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    listed = {path.rpartition("/")[2]: facts["y"] for plot in plots for path, facts in plot.items()}
    assert listed["loss"] == list(loss[0])[1:3]
    assert set(listed["spread"]) < set(spreads[0])
    weights = load_file(folder / "weights.safetensors")
    image = load_arrays(project.build / "prepare" / "digits" / "train.npz")["image"]
    assert weights["mean"].shape == (1, 1, 1)
    assert float(weights["mean"]) == pytest.approx(image.mean())
    assert float(weights["deviation"]) == pytest.approx(image.std())


def test_weights_that_are_damaged_or_of_another_network_are_refused(project: Project, tmp_path: Path) -> None:
    recipe = project.recipe(NAME)
    data = read_json(project.build / "prepare" / "digits" / "data.json")
    right = project.build / "train" / NAME / "weights.safetensors"
    (tmp_path / "cut.safetensors").write_bytes(right.read_bytes()[:1000])
    with pytest.raises(Refused, match=r"cut\.safetensors: damaged, or no safetensors file.*dvc checkout --force"):
        load_network(recipe.network, data, tmp_path / "cut.safetensors")
    (tmp_path / "text.safetensors").write_text("no weights here")
    with pytest.raises(Refused, match="damaged, or no safetensors file"):
        load_network(recipe.network, data, tmp_path / "text.safetensors")
    with pytest.raises(Refused, match="not found"):
        load_network(recipe.network, data, tmp_path / "absent.safetensors")
    tensors = load_file(right)
    alien = dict(tensors)
    alien["network.dense.weight"] = torch.zeros(3, 4)
    alien["network.extra"] = alien.pop("network.conv1.bias")
    save_file(alien, tmp_path / "alien.safetensors")
    with pytest.raises(Refused) as refused:
        load_network(recipe.network, data, tmp_path / "alien.safetensors")
    message = str(refused.value)
    assert "these are not the weights of GornerCNN (models/gorner.py)" in message
    assert "network.conv1.bias: missing, expected [6]" in message
    assert "network.extra: unknown, came [6]" in message
    assert "network.dense.weight: came [3, 4] float32, expected [200, 96] float32" in message
    save_file({key: tensor.half() for key, tensor in tensors.items()}, tmp_path / "half.safetensors")
    with pytest.raises(Refused, match=r"network\.conv1\.weight: came .* float16, expected .* float32"):
        load_network(recipe.network, data, tmp_path / "half.safetensors")
    tensors["network.dense.bias"][0] = float("nan")
    save_file(tensors, tmp_path / "nan.safetensors")
    with pytest.raises(Refused, match=r"network\.dense\.bias: not finite"):
        load_network(recipe.network, data, tmp_path / "nan.safetensors")


def test_a_network_that_does_not_fit_the_data_is_told_by_its_name(project: Project, tmp_path: Path) -> None:
    (tmp_path / "prepare").symlink_to(project.build / "prepare")
    recipe = project.recipe(NAME)

    def with_arguments(**arguments: object) -> Project:
        network = dataclasses.replace(recipe.network, arguments=arguments)
        return dataclasses.replace(
            project, build=tmp_path, recipes={NAME: dataclasses.replace(recipe, network=network)}
        )

    with pytest.raises(Refused, match=r"models/gorner\.py: GornerCNN\(shape=.*channels='six'\) failed: "):
        train(with_arguments(channels="six"), NAME)


class Wrong(torch.nn.Linear):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(image.flatten(1).float())


def test_a_layer_of_a_wrong_size_is_told_before_training(examples: dict) -> None:
    _check_forward(Wrong(64, 10), examples["train"], "models/wrong.py: Wrong")
    with pytest.raises(
        Refused, match=r"models/wrong\.py: Wrong: forward failed on image: \[2, 1, 8, 8\] uint8: .*cannot be multiplied"
    ):
        _check_forward(Wrong(60, 10), examples["train"], "models/wrong.py: Wrong")
    with pytest.raises(Refused, match="forward asks for 'input'; the data set has image, label"):
        _check_inputs(torch.nn.Linear(64, 10), examples["train"], "models/wrong.py: Wrong")


def test_too_few_test_units_for_the_budget_are_told_before_training(project: Project) -> None:
    recipe = dataclasses.replace(project.recipe(NAME), budget=Budget(1.0))
    with pytest.raises(
        Refused,
        match=r"mine: digits has 300 test units; a drop of 1 points cannot be proved with fewer than 301, not even of a "
        r"copy that answers alike\. Bring more test units, or raise the recipe's budget: drop\.",
    ):
        check_units(300, classification, recipe, "mine")
    check_units(301, classification, recipe, "mine")
    with pytest.raises(Refused, match=r"has 49 test units; .* 1 bits cannot be proved with fewer than 50.* Bring more"):
        check_units(49, language_model, recipe, "mine")
    check_units(50, language_model, recipe, "mine")


def test_a_task_that_the_data_have_no_truth_for_is_told(project: Project, tmp_path: Path) -> None:
    mine = brought(project, tmp_path, Weights(tmp_path / "w.pt"))
    recipe = dataclasses.replace(mine.recipe(NAME), task="tagging")
    with pytest.raises(Refused, match=f"{NAME}: the task tagging needs 'text'; the data set digits has image, label"):
        train(dataclasses.replace(mine, recipes={NAME: recipe}), NAME)


def brought(project: Project, folder: Path, given: Weights | Graph) -> Project:
    (folder / "prepare").symlink_to(project.build / "prepare")
    recipe = dataclasses.replace(project.recipe(NAME), train=given)
    return dataclasses.replace(project, build=folder, recipes={NAME: recipe})


def test_weights_that_are_brought_are_the_networks_and_no_history_is_made_up(project: Project, tmp_path: Path) -> None:
    right = project.build / "train" / NAME / "weights.safetensors"
    mine = brought(project, tmp_path, Weights(right))
    train(mine, NAME)
    came, expected = load_file(tmp_path / "train" / NAME / "weights.safetensors"), load_file(right)
    assert came.keys() == expected.keys() and all(torch.equal(came[key], expected[key]) for key in came)
    assert open_csv(mine, "loss").read() == open_csv(mine, "spread").read() == "epoch\n"


def test_a_bad_file_loses_nothing_that_was_made(project: Project, tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(b"cut")
    mine = brought(project, tmp_path, Weights(tmp_path / "cut.safetensors"))
    (tmp_path / "train" / NAME).mkdir(parents=True)
    (tmp_path / "train" / NAME / "weights.safetensors").write_bytes(b"made earlier")
    with pytest.raises(Refused, match="cut.safetensors: damaged"):
        train(mine, NAME)
    assert (tmp_path / "train" / NAME / "weights.safetensors").read_bytes() == b"made earlier"


def test_the_hash_of_what_is_brought_is_written_for_dvc_to_see(project: Project, tmp_path: Path) -> None:
    mine = brought(project, tmp_path, Weights(tmp_path / "mine.pt"))
    host(mine)
    assert read_json(tmp_path / "brought" / f"{NAME}.json") == {"sha256": None}
    (tmp_path / "mine.pt").write_bytes(b"1")
    host(mine)
    first = read_json(tmp_path / "brought" / f"{NAME}.json")["sha256"]
    assert len(first) == 64
    (tmp_path / "mine.pt").write_bytes(b"2")
    host(mine)
    assert read_json(tmp_path / "brought" / f"{NAME}.json")["sha256"] not in (None, first)
    assert read_json(project.build / "brought" / f"{NAME}.json") == {"sha256": None}


def test_the_loss_on_select_is_the_mean_over_items_whatever_the_parts(examples: dict) -> None:
    network = build_network(LINEAR, DATA).eval()
    tensors = {key: torch.from_numpy(array) for key, array in examples["train"].items()}
    assert len(tensors["image"]) > PART
    with torch.inference_mode():
        whole = float(losses.classification(network(tensors["image"]), tensors))
        assert _mean_loss(network, losses.classification, tensors) == pytest.approx(whole, rel=1e-6)
