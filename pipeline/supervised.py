"""Learning from examples: the weights that explain ``train``, of the epoch of least loss on ``select``.

Data that fit in memory are tensors sliced by index: no loader, no worker. Seeds are fixed; one thread count and one
machine give the same weights, bit for bit, also when it was killed and run again: it goes on after the last epoch that
it finished.
"""

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from deploy.errors import Refused
from pipeline import optimisers, schedules
from pipeline.augment import augmented
from pipeline.checkpoint import load_checkpoint, save_checkpoint
from pipeline.initialisers import initialise
from pipeline.network import call, input_names
from pipeline.recipe import Augment, Training

PART = 256  # items that are looked at together where nothing is learned
Loss = Callable[[Any, dict[str, Tensor]], Tensor]


def fit(
    network: nn.Module,
    loss: Loss,
    training: Training,
    examples: dict[str, dict[str, np.ndarray]],
    evaluate: Callable[[], dict[str, float]],
    name: str,
    checkpoint: Path | None = None,
) -> dict[str, list[dict[str, float]]]:
    """Train ``network`` in place; it ends with the weights of the epoch of least loss on ``select``.

    Args:
        loss: of the network's output and a batch of examples.
        examples: ``train`` and ``select``, arrays by name, first axis = item.
        evaluate: metrics of the network as it stands, for the bar and the history.
        checkpoint: where each epoch leaves all that the next one needs, and a killed run finds it.

    Returns:
        Histories, a row an epoch: ``loss``, on both splits, and metrics; ``spread`` of all weights and all biases;
        ``speed``, what learning took (``train_s``), without looking at ``select``, and the examples a second.

    Raises:
        Refused: a loss that is not finite.
    """
    tensors = {split: {key: torch.from_numpy(a) for key, a in arrays.items()} for split, arrays in examples.items()}
    items = len(next(iter(tensors["train"].values())))
    schedule = prepare(network, training, items)
    shuffle = torch.Generator().manual_seed(training.seed)
    best = copy.deepcopy(network.state_dict())
    histories: dict[str, list[dict[str, float]]] = {"loss": [], "spread": [], "speed": []}
    if checkpoint and (at := load_checkpoint(checkpoint)):
        network.load_state_dict(at["network"])
        schedule.optimizer.load_state_dict(at["optimiser"])
        schedule.load_state_dict(at["schedule"])
        shuffle.set_state(at["shuffle"])
        torch.set_rng_state(at["random"])
        best, histories = at["best"], at["histories"]
        print(f"{name}: goes on after epoch {len(histories['loss']) - 1}")
    history = histories["loss"]
    bar = tqdm(total=training.epochs, initial=len(history), desc=f"train {name}", unit="epoch", disable=None)
    while len(history) < training.epochs and _waited(history) < training.patience:
        epoch = len(history)
        start = time.perf_counter_ns()
        train_loss = train_epoch(network, loss, training, tensors["train"], schedule, shuffle, f"{name}, epoch {epoch}")
        train_s = 1e-9 * (time.perf_counter_ns() - start)
        network.eval()
        with torch.inference_mode():
            select_loss = _mean_loss(network, loss, tensors["select"])
        _check_finite(select_loss, training, f"{name}, epoch {epoch}, on select")
        metrics = evaluate()
        history.append({"epoch": epoch, "train_loss": train_loss, "select_loss": select_loss} | metrics)
        histories["spread"].append({"epoch": epoch} | spread(network))
        histories["speed"].append({"epoch": epoch, "train_s": train_s, "examples_per_s": items / train_s})
        if _waited(history) == 0:
            best = copy.deepcopy(network.state_dict())
        if checkpoint:
            save_checkpoint(
                checkpoint,
                {
                    "network": network.state_dict(),
                    "optimiser": schedule.optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                    "shuffle": shuffle.get_state(),
                    "random": torch.get_rng_state(),
                    "best": best,
                    "histories": histories,
                },
            )
        shown = {"loss": f"{select_loss:.4f}"} | {key: f"{value:.2f}" for key, value in metrics.items()}
        bar.set_postfix(shown, refresh=False)
        bar.update()
    bar.close()
    if history:
        told = ", ".join(f"{key} {value:.6g}" for key, value in _kept(history).items())
        print(f"{name}: {len(history)} epochs; kept {told}")
    network.load_state_dict(best)
    network.eval()
    return histories


def prepare(network: nn.Module, training: Training, items: int) -> LRScheduler:
    """Start the weights of ``network`` and lay it out in memory as ``training`` says; its schedule has its optimiser.

    Args:
        items: that an epoch looks at.
    """
    if training.initialiser:
        initialise(network, training.initialiser)
    memory_format = torch.channels_last if training.channels_last else torch.contiguous_format
    network.to(memory_format=memory_format)  # type: ignore[call-overload]
    optimiser = getattr(optimisers, training.optimiser)(network.parameters(), training.rate, training.weight_decay)
    steps = training.epochs * math.ceil(items / training.batch)
    schedule: LRScheduler = getattr(schedules, training.schedule)(optimiser, max(1, steps))
    return schedule


def train_epoch(
    network: nn.Module,
    loss: Loss,
    training: Training,
    examples: dict[str, Tensor],
    schedule: LRScheduler,
    shuffle: torch.Generator,
    where: str,
) -> float:
    """One pass over ``examples`` in random order; returns the mean loss over items, without what ``l1`` adds.

    ``bf16`` computes the forward pass in bfloat16 where that is safe, and keeps weights and gradients in float32.
    """
    network.train()
    items = len(next(iter(examples.values())))
    image = input_names(network)[0]
    weights = [p for p in network.parameters() if p.ndim > 1]
    total = torch.zeros(())
    for index in torch.randperm(items, generator=shuffle).split(training.batch):
        batch = {key: tensor[index] for key, tensor in examples.items()}
        if training.augment != Augment():
            batch[image] = augmented(batch[image], training.augment)
        with torch.autocast("cpu", torch.bfloat16, enabled=training.bf16):
            value = loss(_forward(network, batch, training.channels_last), batch)
        schedule.optimizer.zero_grad()
        (value + training.l1 * sum(w.abs().sum() for w in weights) if training.l1 else value).backward()
        schedule.optimizer.step()
        schedule.step()
        total += value.detach() * len(index)
    mean = float(total) / items
    _check_finite(mean, training, where)
    return mean


def _mean_loss(network: nn.Module, loss: Loss, examples: dict[str, Tensor]) -> float:
    """The mean over items, in parts that memory can hold."""
    items = len(next(iter(examples.values())))
    total = 0.0
    for start in range(0, items, PART):
        batch = {key: tensor[start : start + PART] for key, tensor in examples.items()}
        total += float(loss(_forward(network, batch), batch)) * len(next(iter(batch.values())))
    return total / items


def spread(network: nn.Module) -> dict[str, float]:
    """Least, quartiles and greatest of all weights and of all biases."""
    row = {}
    for kind, parameters in {
        "weights": [p for p in network.parameters() if p.ndim > 1],
        "biases": [p for p in network.parameters() if p.ndim == 1],
    }.items():
        values = torch.cat([p.detach().flatten() for p in parameters]).numpy()
        for label, value in zip(("min", "p25", "p50", "p75", "max"), np.quantile(values, (0, 0.25, 0.5, 0.75, 1))):
            row[f"{kind}_{label}"] = float(value)
    return row


def _forward(network: nn.Module, batch: dict[str, Tensor], channels_last: bool = False) -> Any:
    """What ``forward`` makes of a batch; a state is not in it, and so starts at zero."""
    if channels_last:
        batch = {key: x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x for key, x in batch.items()}
    return call(network, batch)


def _kept(history: list[dict[str, float]]) -> dict[str, float]:
    """The first epoch of least loss on ``select``."""
    return min(history, key=lambda row: row["select_loss"])


def _waited(history: list[dict[str, float]]) -> int:
    """Epochs since the one that is kept."""
    return len(history) - 1 - int(_kept(history)["epoch"]) if history else 0


def _check_finite(value: float, training: Training, where: str) -> None:
    if not math.isfinite(value):
        raise Refused(
            f"{where}: the loss is {value}, expected a finite number. Lower `rate` (now {training.rate:g}) "
            f"in params.yaml, or look for NaN in the data."
        )
