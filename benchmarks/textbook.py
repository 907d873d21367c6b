"""The textbooks' pictures, made anew from real MNIST with this project's own networks and training.

    python -m benchmarks.textbook

Sources: Görner, "Learn TensorFlow and deep learning, without a Ph.D." (2016); Saitoh, "Deep Learning from Scratch"
(2016). It writes ``results/textbook/``: the pictures, and a page that says what each one shows, in a sentence made from
its numbers.

Deviations:
1. What was not trained on is the 5,000 images of ``select``, and training has 54,000; ``test`` is not looked at.
2. The rate decays by the same share with each step, to a thirtieth at the last; Görner's is 0.0001 + 0.003 e^(-step /
   2000).
3. Saitoh compares four optimisers on four layers of 100 units in batches of 128, three activations, and weights on
   Gaussian noise; here all is Görner's five layers, in his batches of 100, and weights are looked at on digits.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache, partial
from multiprocessing import get_context
from os import cpu_count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from benchmarks import textbook_charts as pictures
from benchmarks.textbook_charts import Curve, Curves, Spread
from deploy.contract import load_arrays
from deploy.errors import Refused
from models.activation import ACTIVATIONS
from models.gorner import GornerCNN
from models.mlp import MLP
from models.scaled import Scaled
from pipeline import charts, losses, stage
from pipeline.initialisers import DEVIATION, initialise
from pipeline.recipe import Project, Training
from pipeline.results import here, keep_page
from pipeline.supervised import prepare, train_epoch

Examples = dict[str, dict[str, Tensor]]  # split -> images (n, 1, 28, 28) uint8 and labels (n,)

SHAPE, CLASSES, BATCH = (1, 28, 28), 10, 100
SEEDS = (1, 2, 3)
FEW, MANY, SOME = 300, 10_000, 2_000  # steps: Görner's two, and Saitoh's
RATE, DROPPED = 0.003, 0.25  # Görner's
OPTIMISERS = {  # rate, of 0.001, 0.003 ... 1 that of the least training loss in a trial of `SOME` steps; weight decay
    "gradient_descent": (0.3, 0.0),
    "momentum": (0.03, 0.0),
    "nesterov": (0.03, 0.0),
    "adagrad": (0.03, 0.0),
    "adadelta": (1.0, 0.0),
    "rmsprop": (0.001, 0.0),
    "adam": (0.003, 0.0),
    "adamw": (0.003, 0.01),  # without decay it is Adam
}
STARTS = {  # of weights: a function of pipeline/initialisers.py, and what its weights are multiplied by
    "deviation 1": ("gaussian", 1 / DEVIATION),
    "deviation 0.01": ("gaussian", 1.0),
    "Xavier": ("xavier", 1.0),
    "He": ("he", 1.0),
}
GORNER, SAITOH = (
    'Görner, "Learn TensorFlow and deep learning, without a Ph.D." (2016)',
    'Saitoh, "Deep Learning from Scratch" (2016)',
)


@dataclass(frozen=True)
class Run:
    """One training of ``network``; after ``every`` of the ``steps`` it is looked at."""

    network: Callable[[], nn.Module]
    steps: int
    every: int
    training: Training


@dataclass(frozen=True)
class Picture:
    """A chart, what it shows, and how it was made and by whom first."""

    name: str
    title: str
    chart: Any
    caption: str
    how: str


Plan = dict[str, dict[str, list[Run]]]  # picture -> line -> a run for each seed


def training(rate: float = RATE, seed: int = SEEDS[0], optimiser: str = "adam", schedule: str = "constant") -> Training:
    """In Görner's batches, pixels from 0 to 1."""
    return Training(1, BATCH, rate, 1, seed, optimiser=optimiser, schedule=schedule, scaling="min_max")


def plan() -> Plan:
    """All trainings; what is without dropout in the picture of the dense layers is the decay's own in ``rate``."""
    dense = partial(MLP, SHAPE, CLASSES)
    wide = partial(GornerCNN, SHAPE, CLASSES, (6, 12, 24), 6)
    decayed = [training(seed=seed, schedule="exponential") for seed in SEEDS]
    return {
        "convolutions": {
            name: [Run(partial(wide, dropped), MANY, 100, decayed[0])]
            for name, dropped in ((pictures.WITHOUT, 0.0), (pictures.WITH, DROPPED))
        },
        "dense": {pictures.WITH: [Run(partial(dense, dropout=DROPPED), MANY, 100, each) for each in decayed]},
        "rate": {
            pictures.CONSTANT: [Run(dense, MANY, 100, training(seed=seed)) for seed in SEEDS],
            pictures.DECAY: [Run(dense, MANY, 100, each) for each in decayed],
        },
        "start": {
            name: [Run(partial(dense, activation=name), FEW, 5, training(seed=seed)) for seed in SEEDS]
            for name in ("sigmoid", "relu")
        },
        "activations": {
            name: [Run(partial(dense, activation=name), SOME, 50, training())] for name in (*ACTIVATIONS, "softmax")
        },
        "optimisers": {
            f"{name} at {rate:g}": [Run(dense, SOME, 50, replace(training(rate, optimiser=name), weight_decay=decay))]
            for name, (rate, decay) in OPTIMISERS.items()
        },
    }


@cache
def open_mnist(folder: Path) -> Examples:
    """``train`` and ``select`` of MNIST as ``make paper`` prepared it.

    Raises:
        Refused: it is not there, or damaged.
    """
    if missing := [split for split in ("train", "select") if not (folder / f"{split}.npz").is_file()]:
        raise Refused(
            f"{folder / missing[0]}.npz: not found, expected MNIST in its splits. `make paper` prepares it, among much "
            f"else; `cd paper && dvc repro prepare@mnist` prepares it alone."
        )
    return {
        split: {name: torch.from_numpy(array) for name, array in load_arrays(folder / f"{split}.npz").items()}
        for split in ("train", "select")
    }


def learn(run: Run, examples: Examples) -> Curve:
    """Train, and tell at each look the mean training loss since the last one, and loss and accuracy on ``select``."""
    torch.manual_seed(run.training.seed)
    network = Scaled(run.network(), SHAPE)
    network.fit(examples["train"]["image"], run.training.scaling)
    items = run.steps * run.training.batch
    schedule = prepare(network, run.training, items)
    shuffle = torch.Generator().manual_seed(run.training.seed)
    each = len(examples["train"]["label"])
    order = torch.cat([torch.randperm(each, generator=shuffle) for _ in range(-(-items // each))])[:items]
    curve: Curve = {"step": [], "train_loss": [], "held_loss": [], "accuracy": []}
    for at, part in enumerate(order.split(run.every * run.training.batch), start=1):
        seen = {name: tensor[part] for name, tensor in examples["train"].items()}
        step = min(at * run.every, run.steps)
        loss = train_epoch(network, losses.classification, run.training, seen, schedule, shuffle, f"step {step}")
        held_loss, accuracy = look(network, examples["select"])
        for key, value in zip(curve, (step, loss, held_loss, accuracy), strict=True):
            curve[key].append(value)
    return curve


def look(network: nn.Module, examples: dict[str, Tensor]) -> tuple[float, float]:
    """Loss, in nats, and accuracy, in %, of the network as it is used."""
    network.eval()
    with torch.inference_mode():
        logits = torch.cat([network(part) for part in examples["image"].split(1000)])
    right = (logits.argmax(1) == examples["label"]).double().mean()
    return float(functional.cross_entropy(logits, examples["label"])), 100 * float(right)


def learn_all(planned: Plan, folder: Path) -> Curves:
    """Each run of ``planned``, in as many processes as there are cores; of one thread each, so that none bears on it.

    Raises:
        Refused: MNIST is not in ``folder``, or a loss is not finite.
    """
    workers = min(cpu_count() or 1, sum(len(runs) for lines in planned.values() for runs in lines.values()))
    with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        futures = {
            picture: {line: [pool.submit(_learn_from, folder, run) for run in runs] for line, runs in lines.items()}
            for picture, lines in planned.items()
        }
        every = [future for lines in futures.values() for runs in lines.values() for future in runs]
        try:
            for future in tqdm(as_completed(every), total=len(every), desc="textbook", unit="training", disable=None):
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return {
        picture: {line: [future.result() for future in runs] for line, runs in lines.items()}
        for picture, lines in futures.items()
    }


def _learn_from(folder: Path, run: Run) -> Curve:
    return learn(run, open_mnist(folder))


def spreads(images: Tensor) -> list[Spread]:
    """What five layers of 100 units make of ``images`` before they learn, for each start and activation."""
    found = []
    for activation in ("sigmoid", "tanh", "relu"):
        for start, (name, factor) in STARTS.items():
            torch.manual_seed(SEEDS[0])
            network = MLP(SHAPE, CLASSES, (100,) * 5, activation)
            initialise(network, name)
            scaled = Scaled(network, SHAPE)
            scaled.fit(images)
            with torch.inference_mode():
                values = ((images - scaled.mean) / scaled.deviation).flatten(1)
                layer = 0
                for part in network.hidden:
                    if isinstance(part, nn.Linear):
                        part.weight.mul_(factor)
                    values = part(values)
                    if isinstance(part, nn.Dropout):  # the last of a layer's parts, which drops nothing here
                        layer += 1
                        found.append(pictures.spread(start, activation, layer, values.numpy()))
    return found


def drawn(curves: Curves, found: list[Spread]) -> list[Picture]:
    """The pictures, in the page's order."""
    dense = {pictures.WITHOUT: curves["rate"][pictures.DECAY], **curves["dense"]}
    dropout = {"five layers": dense, "convolutions (one seed)": curves["convolutions"]}
    adam = f"Adam at {RATE:g}"
    return [
        Picture(
            "start",
            "ReLU against the sigmoid",
            charts.beside([pictures.pair(curves["start"], key) for key in ("train_loss", "accuracy")]),
            pictures.start_caption(curves["start"]),
            f"{adam}; the loss is the mean of 5 steps. {GORNER}.",
        ),
        Picture(
            "rate",
            "The noise of a constant rate against decay",
            charts.beside([pictures.pair(curves["rate"], "accuracy", late=True, only=name) for name in curves["rate"]]),
            pictures.rate_caption(curves["rate"]),
            f"{adam}, or from there down to {RATE / 30:g}; ReLU; the axes reach as far as what follows the "
            f"first {MANY // 10:,} steps. {GORNER}.",
        ),
        Picture(
            "dropout",
            "The loss that rises without dropout",
            charts.beside([pictures.pair(each, "held_loss", name, late=True) for name, each in dropout.items()]),
            pictures.dropout_caption(dropout),
            f"Adam from {RATE:g} down to {RATE / 30:g}; ReLU; {100 * DROPPED:g} % of each hidden dense layer's units "
            f"dropped, or none; the convolutions are 6, 12 and 24 wide; the axes as above. {GORNER}; {SAITOH}, 6.4.",
        ),
        Picture(
            "activations",
            "Every activation once",
            pictures.panels(curves["activations"], 5),
            pictures.panels_caption(curves["activations"], "activations"),
            f"{adam}, seed {SEEDS[0]}; each panel is one in colour among the others, with its last loss, the "
            f"mean of 50 steps. {SAITOH}, chapter 3.",
        ),
        Picture(
            "optimisers",
            "Every optimiser once",
            pictures.panels(curves["optimisers"], 4),
            pictures.panels_caption(curves["optimisers"], "optimisers"),
            f"ReLU, seed {SEEDS[0]}; each at the rate, of 0.001, 0.003 ... 1, of the least training loss in a trial of "
            f"as many steps, and `adamw` with a weight decay of {OPTIMISERS['adamw'][1]:g}, without which it is Adam. "
            f"Panels as above. {SAITOH}, 6.1.",
        ),
        Picture(
            "weights",
            "How weights start",
            pictures.bands(found),
            pictures.bands_caption(found),
            f"Five layers of 100 units, 1,000 training images (mean 0, deviation 1), seed {SEEDS[0]}; bars "
            f"from 5 to 95 % and from 25 to 75 % of the activations, and their median. {SAITOH}, 6.2.",
        ),
    ]


def page(shown: list[Picture], where: str) -> str:
    """The page of the pictures, as Markdown.

    Args:
        where: the command, the host, the date, the commit.
    """
    text = (
        "# The textbooks' pictures\n\n"
        f"Made anew from MNIST with the networks of `models/` and the training of `pipeline/`. Unless a picture says "
        f"otherwise the network is Görner's of five dense layers, 200, 100, 60, 30 and 10 units wide, in batches of "
        f"{BATCH}, with the seeds {', '.join(map(str, SEEDS))}, a line each. Held-out is the 5,000 images of `select`, "
        f"on which nothing is trained; `test` is not looked at.\n\n{where}\n"
    )
    for each in shown:
        text += f"\n## {each.title}\n\n![{each.title}]({each.name}.svg)\n\n{each.caption}\n\n{each.how}\n"
    return text


def textbook(project: Project) -> None:
    """Write the pictures and their page, all at the end: what stood there stays until then."""
    folder = project.build / "paper" / "prepare" / "mnist"
    found = spreads(open_mnist(folder)["train"]["image"][:1000])
    now = here(project.root)
    shown = drawn(learn_all(plan(), folder), found)
    host = now["host"]
    machine = f"{host['processor']}, {host['cores']} cores, torch {host['packages']['torch']}"
    where = f"`python -m benchmarks.textbook` on {machine}; {now['date']}, commit `{now['commit']}`."
    files = {f"{each.name}.svg": charts.svg_file(charts.svg(each.chart)) for each in shown}
    keep_page(project.root, "textbook", files | {"README.md": page(shown, where)})
    print("\n".join(f"{each.title}: {each.caption}" for each in shown))


if __name__ == "__main__":
    stage.run(textbook)
