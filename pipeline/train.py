"""Stage ``train@recipe``: find the weights, or take those, or the graph, that somebody brings."""

import csv
import dataclasses
import inspect
import io
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn

from deploy.contract import load_arrays
from deploy.errors import Refused
from deploy.files import read_json, sha256, write_bytes
from deploy.tasks import load_task
from models.scaled import Scaled
from pipeline import criteria, losses, stage
from pipeline.cache import close_cache, open_cache
from pipeline.intervals import BOOTSTRAP_LEAST, units_least
from pipeline.network import build_network, call, input_names, open_network
from pipeline.onnx_file import take_graph, told
from pipeline.recipe import Graph, Project, Recipe, Training
from pipeline.supervised import fit
from pipeline.weights import take_weights

Examples = dict[str, dict[str, np.ndarray]]  # split -> arrays by name


def train(project: Project, name: str) -> None:
    """Write ``build/train/<name>/`` and ``build/history/{loss,spread,speed}/<name>.csv``.

    The folder holds ``weights.safetensors``, or ``network.onnx`` where a graph was brought; nothing was learned then,
    and a history is empty.
    """
    recipe = project.recipe(name)
    data = project.build / "prepare" / recipe.data
    facts = read_json(data / "data.json")
    task = load_task(recipe.task)
    check_units(facts["splits"]["test"]["n"], task, recipe, name)
    examples = {split: load_arrays(data / f"{split}.npz") for split in ("train", "select")}
    if missing := [array for array in task.needs if array not in examples["train"]]:
        raise Refused(
            f"{name}: the task {recipe.task} needs {missing[0]!r}; the data set {recipe.data} has "
            f"{', '.join(examples['train'])}. Name another `task:`, or other `data:`."
        )
    folder = project.build / "train" / name
    histories: dict[str, list[dict[str, float]]] = {"loss": [], "spread": [], "speed": []}
    if isinstance(recipe.train, Graph):
        model = take_graph(recipe.train, task, facts, examples["select"])
        write_bytes(folder / "network.onnx", model.SerializeToString())
        print(f"{name}: {recipe.train.onnx}: {told(model)}")
    else:
        if isinstance(recipe.train, Training):
            torch.manual_seed(recipe.train.seed)  # the first weights are drawn where the network is built
        network = build_network(recipe.network, facts)
        where = f"models/{recipe.network.file}.py: {recipe.network.class_}"
        _check_inputs(network, examples["train"], where)
        if isinstance(recipe.train, Training):
            _fit_input(network, examples["train"], recipe.train.scaling)
            _check_forward(network, examples["train"], where)
            histories = _learn(project, name, recipe.train, network, examples)
        else:
            network.load_state_dict(take_weights(recipe.train, network))
            print(f"{name}: {recipe.train.weights}: {sum(p.numel() for p in network.parameters()):,} parameters taken")
            _check_forward(network, examples["train"], where)
        weights = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
        write_bytes(folder / "weights.safetensors", safetensors.torch.save(weights))
    for kind, rows in histories.items():
        write_bytes(project.build / "history" / kind / f"{name}.csv", _csv(rows))


def check_units(n: int, task: ModuleType, recipe: Recipe, name: str) -> None:
    """Refuse a test split on which not even a copy that answers alike can be proved to be within its budget.

    A budget that is changed later trains nothing anew: then ``verify`` says how many units are missing.
    """
    metric, least, ways = task.metric, BOOTSTRAP_LEAST, "Bring more test units."
    if metric.right_or_wrong:
        ends = [task.score(np.array([[share]])) for share in (0.0, 1.0)]
        least = units_least(recipe.budget.drop / abs(ends[1] - ends[0]))
        ways = "Bring more test units, or raise the recipe's budget: drop."
    if n < least:
        raise Refused(
            f"{name}: {recipe.data} has {n:,} test units; a drop of {recipe.budget.drop:g} {metric.drop_unit} cannot "
            f"be proved with fewer than {least:,}, not even of a copy that answers alike. {ways}"
        )


def _learn(
    project: Project, name: str, training: Training, network: nn.Module, examples: Examples
) -> dict[str, list[dict[str, float]]]:
    """Train ``network`` in place, from where a killed run left it; returns the histories."""
    recipe = project.recipe(name)
    task = load_task(recipe.task)
    loss = partial(getattr(losses, recipe.task), criterion=getattr(criteria, training.loss))

    def evaluate() -> dict[str, float]:
        answers = task.answer(open_network(network, task.outputs), examples["select"])
        return {task.metric.name: task.score(task.observe(answers, examples["select"]))}

    inputs: dict[str, Any] = {"network": dataclasses.asdict(recipe.network), "train": dataclasses.asdict(training)}
    inputs |= {"task": recipe.task, "threads": torch.get_num_threads()}
    inputs |= {split: sha256(project.build / "prepare" / recipe.data / f"{split}.npz") for split in examples}
    cache = open_cache(project, "train", name, inputs)
    histories = fit(network, loss, training, examples, evaluate, name, cache / "epoch.pt")
    close_cache(cache)
    return histories


def _fit_input(network: nn.Module, raw: dict[str, np.ndarray], scaling: str) -> None:
    """What a network learns from the raw training inputs before it is trained: scaling, an alphabet."""
    if isinstance(network, Scaled):
        network.fit(torch.from_numpy(raw[input_names(network)[0]]), scaling)
    elif fitting := getattr(network, "fit", None):
        fitting(**{key: torch.from_numpy(raw[key]) for key in inspect.signature(fitting).parameters})


def _check_inputs(network: nn.Module, examples: dict[str, np.ndarray], where: str) -> None:
    """Does the data set have what ``forward`` and ``fit`` cannot do without?"""
    own = network.network if isinstance(network, Scaled) else network
    for name, function in (("forward", own.forward), ("fit", getattr(own, "fit", None))):
        for argument, facts in inspect.signature(function).parameters.items() if function else ():
            if argument not in examples and facts.default is inspect.Parameter.empty:
                raise Refused(f"{where}: {name} asks for {argument!r}; the data set has {', '.join(examples)}")


def _check_forward(network: nn.Module, examples: dict[str, np.ndarray], where: str) -> None:
    """Try two examples, so that a wrong size is told by the network's name and not from the depths of PyTorch."""
    batch = {key: torch.from_numpy(array[:2]) for key, array in examples.items()}
    network.eval()
    try:
        with torch.inference_mode():
            call(network, batch)
    except Exception as error:
        came = ", ".join(
            f"{key}: {list(batch[key].shape)} {examples[key].dtype}" for key in input_names(network) if key in batch
        )
        raise Refused(f"{where}: forward failed on {came}: {error}. Mend the sizes of its layers.") from error


def _csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0] if rows else ["epoch"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: f"{value:.6g}" for key, value in row.items()} for row in rows)
    return text.getvalue().encode()


if __name__ == "__main__":
    stage.run_named(train)
