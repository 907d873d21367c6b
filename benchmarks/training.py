"""Images a second in training: the way of PyTorch's MNIST example, ours, and what each part of our fast mode gains.

    python -m benchmarks.training

Görner's CNN (6/12/24) on 60,000 images of 28 x 28, one epoch a turn, all ways in random order, several turns.
The images are scikit-learn's digits enlarged: what is in them does not bear on speed. The example's way is a
``DataLoader`` without workers over torchvision's ``MNIST`` with ``ToTensor`` and ``Normalize``. torchvision cannot be
imported beside a CPU build of PyTorch, so its steps an item (array, PIL image, array, tensor, clone, subtract, divide)
are spelled out here as its source has them, without having been timed against it. All use Adam; ours takes
PyTorch's fused form of it.
"""

import random
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from models.gorner import GornerCNN
from models.scaled import Scaled
from pipeline import losses
from pipeline.intervals import ALPHA
from pipeline.recipe import Training
from pipeline.results import keep_benchmark
from pipeline.supervised import prepare, train_epoch

ITEMS, TURNS, BATCH = 60_000, 5, 100
WAYS: dict[str, dict[str, Any]] = {  # what a recipe's `train` says beside `batch: 100`
    "ours": {},
    "channels-last": {"channels_last": True},
    "bf16": {"bf16": True},
    "bf16, channels-last": {"bf16": True, "channels_last": True},
    "bf16, channels-last, batch 256": {"bf16": True, "channels_last": True, "batch": 256},
    "bf16, channels-last, batch 1024": {"bf16": True, "channels_last": True, "batch": 1024},
}


class Items(Dataset[tuple[Tensor, int]]):
    """torchvision's ``MNIST`` with the example's transforms, an item at a time."""

    def __init__(self, image: np.ndarray, label: np.ndarray, mean: float, deviation: float) -> None:
        self.image, self.label = torch.from_numpy(image[:, 0]), torch.from_numpy(label)
        self.mean, self.deviation = (mean,), (deviation,)

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        picture = Image.fromarray(self.image[i].numpy())
        array = torch.from_numpy(np.array(picture, copy=True))  # ToTensor, to the end of the next line
        tensor = (
            array.view(picture.size[1], picture.size[0], 1).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        )
        tensor = tensor.clone()  # Normalize, to the end
        mean = torch.as_tensor(self.mean, dtype=tensor.dtype, device=tensor.device)
        deviation = torch.as_tensor(self.deviation, dtype=tensor.dtype, device=tensor.device)
        return tensor.sub_(mean.view(-1, 1, 1)).div_(deviation.view(-1, 1, 1)), int(self.label[i])


def enlarged_digits() -> tuple[np.ndarray, np.ndarray]:
    """``(60000, 1, 28, 28)`` uint8 and labels: digits of 8 x 8, enlarged and repeated."""
    digits = load_digits()
    image = torch.from_numpy(digits.images[:, None] * (255 / 16)).float()
    large = functional.interpolate(image, size=(28, 28), mode="bilinear").round().to(torch.uint8).numpy()
    index = np.arange(ITEMS) % len(large)
    return large[index], digits.target[index]


def example_epoch(network: nn.Module, optimiser: torch.optim.Optimizer, items: Items) -> None:
    """One epoch, as in the example's ``train``."""
    network.train()
    for image, label in DataLoader(items, batch_size=BATCH, shuffle=True):
        optimiser.zero_grad()
        functional.cross_entropy(network(image), label).backward()
        optimiser.step()


def main() -> None:
    """Print and keep images a second and the ratios, with bootstrap bounds over turns."""
    image, label = enlarged_digits()
    mean, deviation = float(image.mean()) / 255, float(image.std()) / 255
    items = Items(image, label, mean, deviation)
    examples = {"image": torch.from_numpy(image), "label": torch.from_numpy(label)}
    ours = Training(epochs=1, batch=BATCH, rate=1e-3, patience=1, seed=0)

    def network() -> tuple[nn.Module, torch.optim.Optimizer]:
        built = GornerCNN((1, 28, 28), 10, (6, 12, 24), 6, 0.25)
        return built, torch.optim.Adam(built.parameters(), lr=1e-3)

    def example() -> None:
        example_epoch(*network(), items)

    def loop(training: Training) -> None:
        bare, _ = network()
        scaled = Scaled(bare, (1, 28, 28))
        scaled.fit(examples["image"])
        schedule = prepare(scaled, training, ITEMS)
        shuffle = torch.Generator().manual_seed(0)
        train_epoch(scaled, losses.classification, training, examples, schedule, shuffle, "benchmark")

    ways: dict[str, Callable[[], None]] = {
        f"PyTorch's MNIST example's way, batch {BATCH}": example,
        **{way: partial(loop, replace(ours, **changes)) for way, changes in WAYS.items()},
    }
    order, shuffle = list(ways), random.Random(0).shuffle
    rate: dict[str, list[float]] = {name: [] for name in ways}
    for _ in tqdm(range(TURNS), unit="turn", disable=None):
        shuffle(order)
        for name in order:
            start = time.perf_counter_ns()
            ways[name]()
            rate[name].append(ITEMS / ((time.perf_counter_ns() - start) * 1e-9))
    lines = [f"| way | images a second (median of {TURNS}, least to greatest) | ratio to the example's (95 % bounds) |"]
    lines.append("|---|---|---|")
    base = np.array(rate[next(iter(ways))])
    picks = np.random.default_rng(0).integers(TURNS, size=(2_000, TURNS))
    for name, rates in rate.items():
        ratios = np.array(rates) / base
        low, high = np.quantile(np.median(ratios[picks], axis=1), (ALPHA, 1 - ALPHA))
        lines.append(
            f"| {name} | {np.median(rates):,.0f} ({min(rates):,.0f}–{max(rates):,.0f}) | "
            f"{np.median(ratios):.2f} ({low:.2f}–{high:.2f}) |"
        )
    table = "\n".join(lines)
    print(f"{table}\n\n{torch.get_num_threads()} threads, torch {torch.__version__}")
    keep_benchmark(Path.cwd(), "training", table)


if __name__ == "__main__":
    main()
