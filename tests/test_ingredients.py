"""What a recipe can name for its training: each against the formula it goes by, and each trained with once."""

import dataclasses
import inspect
import math
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sklearn
import torch
import yaml
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.torch import load_file
from scipy import stats
from scipy.ndimage import map_coordinates
from torch import Tensor, nn

from deploy.contract import load_arrays
from deploy.errors import Refused
from deploy.runtimes import open_onnxruntime
from models.lenet import LeNet5
from models.plain import PlainCNN, PlainEnsemble
from models.scaled import Scaled
from pipeline import criteria, initialisers, losses, optimisers, schedules, supervised
from pipeline.check import SCALINGS, check
from pipeline.datasets import digits, digits_64
from pipeline.download import download
from pipeline.export import check_graph, to_onnx
from pipeline.network import build_network
from pipeline.prepare import prepare
from pipeline.recipe import Augment, Network, Training, load_project
from pipeline.supervised import fit
from pipeline.train import train

RAW = Path(sklearn.__file__).parent / "datasets" / "data"
DIGITS = digits.prepare(RAW)
DATA = {"network": {"shape": [1, 8, 8], "classes": 10}, "scaled": True}
MLP = Network("mlp", "MLP", {"units": [32]})
LINEAR = Network("linear", "SoftmaxRegression")
USUAL = Training(epochs=5, batch=25, rate=0.005, patience=99, seed=1)
Array = np.ndarray


def names(module: ModuleType) -> set[str]:
    """Functions that a module defines for others."""
    own = {name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
    return {name for name in own if inspect.isfunction(getattr(module, name)) and not name.startswith("_")}


def trained(network: Network = MLP, seed: int = 0, **changes: Any) -> tuple[nn.Module, float]:
    """A network after a training on digits, and its accuracy on the 900 test images in %."""
    training = dataclasses.replace(USUAL, **changes)
    torch.manual_seed(seed)
    built = build_network(network, DATA)
    built.fit(torch.from_numpy(DIGITS["train"]["image"]), training.scaling)
    criterion = partial(losses.classification, criterion=getattr(criteria, training.loss))
    fit(built, criterion, training, DIGITS, lambda: {}, "digits")
    with torch.inference_mode():
        answer = built(torch.from_numpy(DIGITS["test"]["image"])).argmax(1).numpy()
    return built, 100 * float((answer == DIGITS["test"]["label"]).mean())


# Optimisers: written out with one weight after another, and with the constants that PyTorch documents.

Step = Callable[[Array, Array, dict[str, Array], int, float], Array]
SHARE = np.array([0.1, 1.0, 3.0, -2.0])


def slope(x: Array) -> Array:
    """Of ``sum(SHARE sin x + x^4 / 20)``."""
    return SHARE * np.cos(x) + x**3 / 5


def paper_adam(x: Array, g: Array, kept: dict[str, Array], t: int, rate: float) -> Array:
    kept["m"] = 0.9 * kept["m"] + 0.1 * g
    kept["v"] = 0.999 * kept["v"] + 0.001 * g**2
    first, second = kept["m"] / (1 - 0.9**t), kept["v"] / (1 - 0.999**t)
    return x - rate * first / (np.sqrt(second) + 1e-8)


def paper_momentum(x: Array, g: Array, kept: dict[str, Array], t: int, rate: float) -> Array:
    kept["m"] = 0.9 * kept["m"] - rate * g
    return x + kept["m"]


def paper_nesterov(x: Array, g: Array, kept: dict[str, Array], t: int, rate: float) -> Array:
    """Sutskever et al., equations 3 and 4: ``x`` is theta + mu v, where the gradient is taken."""
    theta = x - 0.9 * kept["m"]
    kept["m"] = 0.9 * kept["m"] - rate * g
    return theta + kept["m"] + 0.9 * kept["m"]


def paper_adagrad(x: Array, g: Array, kept: dict[str, Array], t: int, rate: float) -> Array:
    kept["v"] = kept["v"] + g**2
    return x - rate * g / (np.sqrt(kept["v"]) + 1e-10)


def paper_adadelta(x: Array, g: Array, kept: dict[str, Array], t: int, rate: float) -> Array:
    kept["v"] = 0.9 * kept["v"] + 0.1 * g**2
    moved = np.sqrt(kept["m"] + 1e-6) / np.sqrt(kept["v"] + 1e-6) * g
    kept["m"] = 0.9 * kept["m"] + 0.1 * moved**2
    return x - rate * moved


def paper_rmsprop(x: Array, g: Array, kept: dict[str, Array], t: int, rate: float) -> Array:
    kept["v"] = 0.99 * kept["v"] + 0.01 * g**2
    return x - rate * g / (np.sqrt(kept["v"]) + 1e-8)


PAPERS: dict[str, Step] = {
    "gradient_descent": lambda x, g, kept, t, rate: x - rate * g,
    "momentum": paper_momentum,
    "nesterov": paper_nesterov,
    "adagrad": paper_adagrad,
    "adadelta": paper_adadelta,
    "rmsprop": paper_rmsprop,
    "adam": paper_adam,
    "adamw": paper_adam,
}


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("name", PAPERS)
def test_an_optimiser_steps_as_its_paper_says(name: str, decay: float) -> None:
    x = np.array([0.3, -1.2, 2.0, 0.7])
    parameter = torch.tensor(x, requires_grad=True)
    optimiser = getattr(optimisers, name)([parameter], 0.05, decay)
    kept = {"m": np.zeros(4), "v": np.zeros(4)}
    for t in range(1, 26):
        g = slope(x)
        if name == "adamw":  # algorithm 2 of its paper: the decay stands beside the step
            x = PAPERS[name](x, g, kept, t, 0.05) - 0.05 * decay * x
        else:
            x = PAPERS[name](x, g + decay * x, kept, t, 0.05)
        optimiser.zero_grad()
        (torch.from_numpy(SHARE) * parameter.sin() + parameter**4 / 20).sum().backward()
        optimiser.step()
        np.testing.assert_allclose(parameter.detach().numpy(), x, rtol=1e-9, atol=1e-12, err_msg=f"step {t}")


def test_every_name_that_a_recipe_may_say_is_held_here() -> None:
    assert names(optimisers) == set(PAPERS) == set(RATES)
    assert names(schedules) == set(RATE_AT)
    assert names(criteria) == set(COST) == set(LEARNED)
    assert names(initialisers) == {"initialise", *DRAWN, "orthogonal"}


# Schedules


def half_cosine(share: float) -> float:
    return (1 + math.cos(math.pi * share)) / 2


def warmed(t: int, steps: int) -> float:
    rising = -(-steps // 10)
    return 0.01 + 0.99 * t / rising if t < rising else half_cosine((t - rising) / (steps - rising))


def cycled(t: int, steps: int) -> float:
    peak = 0.3 * (steps + 1) - 1
    if t <= peak:
        return 1 / 25 + (1 - 1 / 25) * (1 - half_cosine(t / peak))
    return 4e-6 + (1 - 4e-6) * half_cosine((t - peak) / (steps - peak))


RATE_AT: dict[str, Callable[[int, int], float]] = {
    "constant": lambda t, steps: 1.0,
    "step": lambda t, steps: 0.1 ** (t // -(-steps // 3)),
    "exponential": lambda t, steps: (1 / 30) ** (t / steps),
    "cosine": lambda t, steps: half_cosine(t / steps),
    "warm_up": warmed,
    "one_cycle": cycled,
}


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 9, 10, 30, 101])
@pytest.mark.parametrize("name", RATE_AT)
def test_a_schedule_is_its_closed_form_at_every_step(name: str, steps: int) -> None:
    for make in (optimisers.momentum, optimisers.adam):
        optimiser = make([torch.zeros(1, requires_grad=True)], 0.5, 0.0)
        before = {key: value for key, value in optimiser.param_groups[0].items() if key in ("momentum", "betas")}
        schedule = getattr(schedules, name)(optimiser, steps)
        came = []
        for _ in range(steps):
            came.append(optimiser.param_groups[0]["lr"])
            optimiser.step()
            schedule.step()
        assert came == pytest.approx([0.5 * RATE_AT[name](t, steps) for t in range(steps)], rel=1e-9, abs=1e-15)
        assert max(came) <= 0.5 * (1 + 1e-12) and min(came) > 0
        assert {key: optimiser.param_groups[0][key] for key in before} == before != {}  # nothing but the rate moves
        if name == "one_cycle" and steps >= 3:
            assert came[0] == pytest.approx(0.5 / 25)
            assert abs(int(np.argmax(came)) - (0.3 * (steps + 1) - 1)) < 1


# What an answer costs, in float64


def log_softmax(z: Array) -> Array:
    z = z - z.max(1, keepdims=True)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def told(z: Array, label: Array) -> Array:
    return log_softmax(z)[np.arange(len(z)), label]


def code(z: Array, label: Array) -> Array:
    return (np.arange(z.shape[1]) == label[:, None]).astype(np.float64)


def margin(z: Array, label: Array) -> Array:
    return np.where(code(z, label) == 1, z, -z)


def far(z: Array, label: Array) -> Array:
    return np.abs(z - code(z, label))


COST: dict[str, Callable[[Array, Array], Array]] = {  # of each item
    "cross_entropy": lambda z, k: -told(z, k),
    "focal": lambda z, k: -(np.expm1(told(z, k)) ** 2) * told(z, k),
    "binary_cross_entropy": lambda z, k: (np.logaddexp(0, z) - code(z, k) * z).sum(1),
    "squared": lambda z, k: (far(z, k) ** 2).sum(1),
    "absolute": lambda z, k: far(z, k).sum(1),
    "huber": lambda z, k: np.where(far(z, k) < 1, far(z, k) ** 2 / 2, far(z, k) - 0.5).sum(1),
    "hinge": lambda z, k: np.maximum(0, 1 - margin(z, k)).sum(1),
    "perceptron": lambda z, k: np.maximum(0, -margin(z, k)).sum(1),
    "logarithmic": lambda z, k: np.logaddexp(0, -margin(z, k)).sum(1),
    "exponential": lambda z, k: np.exp(-margin(z, k)).sum(1),
}


@st.composite
def answers(draw: st.DrawFn, reach: float) -> tuple[Array, Array]:
    n, classes = draw(st.integers(1, 5)), draw(st.integers(2, 6))
    logits = draw(arrays(np.float32, (n, classes), elements=st.floats(-reach, reach, width=32)))
    return logits, np.array(draw(st.lists(st.integers(0, classes - 1), min_size=n, max_size=n)))


@pytest.mark.parametrize("name", COST)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_criterion_is_its_formula_in_float64_and_has_a_slope_everywhere(name: str, data: st.DataObject) -> None:
    logits, label = data.draw(answers(64 if name == "exponential" else 512))
    z = torch.from_numpy(logits).requires_grad_()
    cost = getattr(criteria, name)(z, torch.from_numpy(label))
    expected = COST[name](logits.astype(np.float64), label).mean()
    # Both entropies take differences of logits: what those are rounded by is what may be lost.
    rounded = 2**-21 * (1 + float(np.abs(logits).max()))
    assert cost.item() == pytest.approx(expected, rel=2e-5, abs=rounded)
    cost.backward()
    assert z.grad.isfinite().all()


@given(data=answers(300))
@settings(max_examples=40, deadline=None)
def test_logarithmic_is_binary_cross_entropy_and_finite_far_on_the_wrong_side(data: tuple[Array, Array]) -> None:
    logits, label = (torch.from_numpy(array) for array in data)
    wrong = torch.where(torch.from_numpy(code(*data)) == 1, -300.0, 300.0)  # margins of -300
    for z in (logits, wrong):
        cost, slopes = zip(
            *(with_slope(criterion, z, label) for criterion in (criteria.logarithmic, criteria.binary_cross_entropy))
        )
        assert cost[0] == pytest.approx(cost[1], rel=1e-5, abs=1e-6)
        torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-5, atol=1e-6)
    assert cost[0] == pytest.approx(300 * z.shape[1])
    torch.testing.assert_close(slopes[0], torch.sign(wrong) / len(z))


def with_slope(criterion: losses.Criterion, logits: Tensor, label: Tensor) -> tuple[float, Tensor]:
    z = logits.clone().requires_grad_()
    cost = criterion(z, label)
    cost.backward()
    return cost.item(), z.grad


@given(data=answers(4))
@settings(max_examples=40, deadline=None)
def test_a_step_against_the_perceptrons_slope_is_rosenblatts_rule(data: tuple[Array, Array]) -> None:
    """He adds ``code x`` to the weights of each unit that is wrong, and nothing to the others'."""
    x, label = data
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(x.shape[1], x.shape[1])).astype(np.float32)
    layer = nn.Linear(x.shape[1], x.shape[1], bias=False)
    layer.weight.data = torch.from_numpy(weight.copy())
    criteria.perceptron(layer(torch.from_numpy(x)), torch.from_numpy(label)).backward()
    expected = np.zeros(weight.shape)
    for row, k in zip(x.astype(np.float64), label):
        for unit in range(len(weight)):
            y = 1.0 if unit == k else -1.0
            if y * float(weight[unit] @ row.astype(np.float32)) < 0:
                expected[unit] += y * row / len(x)
    np.testing.assert_allclose(-layer.weight.grad.numpy(), expected, rtol=1e-5, atol=1e-6)


# Losses: heads, members, and the tasks whose items are bytes


@pytest.mark.parametrize("name", COST)
def test_auxiliary_heads_count_three_tenths_and_members_their_mean(name: str) -> None:
    rng = np.random.default_rng(1)
    own, first, second = (rng.normal(size=(6, 4)) for _ in range(3))
    members = rng.normal(size=(6, 3, 4))
    label = rng.integers(0, 4, 6)

    def cost(z: Array) -> float:
        return float(COST[name](z, label).mean())

    def came(output: Any) -> float:
        return float(losses.classification(output, {"label": torch.from_numpy(label)}, getattr(criteria, name)))

    def tensor(z: Array) -> Tensor:
        return torch.from_numpy(z.astype(np.float32))

    assert came(tensor(own)) == pytest.approx(cost(own), rel=1e-5)
    assert came((tensor(own), tensor(first), tensor(second))) == pytest.approx(
        cost(own) + 0.3 * (cost(first) + cost(second)), rel=1e-5
    )
    assert came(tensor(members)) == pytest.approx(np.mean([cost(members[:, i]) for i in range(3)]), rel=1e-5)
    assert came((tensor(members), tensor(first))) == pytest.approx(
        np.mean([cost(members[:, i]) for i in range(3)]) + 0.3 * cost(first), rel=1e-5
    )


def test_the_criterion_of_other_tasks_gets_what_is_told_and_no_padding_in_float32() -> None:
    rng = np.random.default_rng(2)
    text = np.array([[5, 7, 9, 0, 0], [3, 2, 8, 6, 1]], np.uint8)
    tag = rng.integers(0, 4, (2, 5))
    bytes_, tags = rng.normal(size=(2, 5, 256)), rng.normal(size=(2, 5, 4))
    longer = rng.normal(size=(2, 6, 256))
    examples = {"text": torch.from_numpy(text), "target": torch.from_numpy(text), "token": torch.from_numpy(tag)}
    rows = [(i, t) for i in range(2) for t in range(5) if text[i, t]]
    after = [(i, t) for i, t in rows if t]
    ends = [*rows, (0, 3), (1, 5)]
    wanted = {
        "language_model": ([bytes_[i, t - 1] for i, t in after], [text[i, t] for i, t in after]),
        "translation": ([longer[i, t] for i, t in ends], [text[i, t] if t < 5 else 0 for i, t in ends]),
        "tagging": ([tags[i, t] for i, t in rows], [tag[i, t] for i, t in rows]),
    }
    outputs = {"language_model": (torch.from_numpy(bytes_), None), "translation": torch.from_numpy(longer)}
    outputs["tagging"] = torch.from_numpy(tags)
    for task, (logits, label) in wanted.items():
        for name in ("cross_entropy", "hinge"):
            given_ = [] if name == "cross_entropy" else [criteria.hinge]  # cross-entropy where none is said
            came = getattr(losses, task)(outputs[task], examples, *given_)
            assert came.dtype == torch.float32
            assert float(came) == pytest.approx(COST[name](np.array(logits), np.array(label)).mean(), rel=1e-5)
    half = torch.from_numpy(tags[:, 0]).to(torch.bfloat16)  # as autocast gives them
    assert losses.classification(half, {"label": torch.tensor([1, 2])}, criteria.huber).dtype == torch.float32


# Initialisers

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "convolution": lambda: nn.Conv2d(16, 48, 5),
    "grouped convolution": lambda: nn.Conv2d(32, 64, 3, groups=2),
    "dense": lambda: nn.Linear(300, 70),
    "lstm": lambda: nn.LSTM(60, 40, num_layers=2),
}
DRAWN: dict[str, Callable[[float, float], Any]] = {  # of fan-in and fan-out
    "gaussian": lambda before, after: stats.norm(0, 0.01),
    "uniform": lambda before, after: stats.uniform(-0.05, 0.1),
    "xavier": lambda before, after: stats.uniform(-math.sqrt(6 / (before + after)), 2 * math.sqrt(6 / (before + after))),
    "he": lambda before, after: stats.norm(0, math.sqrt(2 / before)),
}  # fmt: skip


def fans(weight: Tensor) -> tuple[int, int]:
    field = math.prod(weight.shape[2:])
    return weight.shape[1] * field, weight.shape[0] * field


@pytest.mark.parametrize("name", [*DRAWN, "orthogonal"])
def test_an_initialiser_draws_what_its_source_says_and_biases_are_0(name: str) -> None:
    torch.manual_seed(3)
    for make in LAYERS.values():
        layer = make()
        initialisers.initialise(layer, name)
        for parameter, tensor in layer.named_parameters():
            if parameter.startswith("bias"):
                assert not tensor.any()
            elif name == "orthogonal":
                flat = tensor.detach().double().flatten(1)
                short = flat @ flat.T if flat.shape[0] <= flat.shape[1] else flat.T @ flat
                torch.testing.assert_close(short, torch.eye(len(short), dtype=torch.float64), rtol=0, atol=1e-5)
            else:
                expected = DRAWN[name](*fans(tensor))
                drawn = tensor.detach().double().flatten().numpy()
                assert stats.kstest(drawn, expected.cdf).pvalue > 1e-3
                assert drawn.std() == pytest.approx(expected.std(), rel=4 / math.sqrt(len(drawn)))
                low, high = expected.support()
                assert low * (1 + 1e-6) <= drawn.min() and drawn.max() <= high * (1 + 1e-6)


@pytest.mark.parametrize("name", [*DRAWN, "orthogonal"])
def test_lenets_table_stays_a_layer_of_zeros_is_filled_and_other_parameters_stay(name: str) -> None:
    torch.manual_seed(0)
    network = LeNet5((1, 12, 12), 10)
    absent = network.c3.weight == 0
    nn.init.zeros_(network.output.weight)
    coefficient, before = network.s2.coefficient.clone(), network.c3.weight.clone()
    training = dataclasses.replace(USUAL, epochs=1, batch=8, initialiser=name, l1=1e-4, weight_decay=1e-3)
    examples = {"image": torch.randn(16, 1, 12, 12).numpy(), "label": np.arange(16) % 10}
    initialisers.initialise(network, name)
    assert torch.equal(network.s2.coefficient, coefficient)
    for _ in range(2):  # and once more, after training
        assert torch.equal(network.c3.weight == 0, absent) and int(absent.sum()) == 900
        assert not torch.equal(network.c3.weight, before) and network.output.weight.all()
        fit(network, losses.classification, training, {"train": examples, "select": examples}, lambda: {}, "lenet")
    others = nn.Sequential(nn.BatchNorm2d(5), nn.PReLU(3), nn.Embedding(4, 3))
    state = {key: tensor.clone() for key, tensor in others.state_dict().items()}
    initialisers.initialise(others, name)
    assert all(torch.equal(tensor, state[key]) for key, tensor in others.state_dict().items())


# Scaling


@given(
    raw=arrays(
        st.sampled_from([np.uint8, np.float32]),
        st.tuples(st.integers(2, 6), st.integers(1, 3), st.integers(1, 4)),
        elements=st.integers(0, 255),
    ),
    shift=st.sampled_from([0.0, -1000.0]),
)
@settings(max_examples=40, deadline=None)
def test_min_max_takes_each_channel_of_train_to_0_and_1_and_divides_no_constant(raw: Array, shift: float) -> None:
    raw = raw if raw.dtype == np.uint8 else raw + np.float32(shift)
    scaled = Scaled(nn.Identity(), raw.shape[1:])
    scaled.fit(torch.from_numpy(raw), "min_max")
    came = scaled(torch.from_numpy(raw)).numpy()
    for channel in range(raw.shape[1]):
        truth = raw[:, channel].astype(np.float64)
        least, greatest = truth.min(), truth.max()
        np.testing.assert_allclose(came[:, channel], (truth - least) / ((greatest - least) or 1), rtol=1e-6)
        assert came[:, channel].min() == 0 and came[:, channel].max() == (greatest > least)


# The ensemble


def test_an_ensembles_answer_is_its_members_mean_and_in_training_each_learns_for_itself() -> None:
    torch.manual_seed(0)
    network = PlainEnsemble((1, 8, 8), 10, members=3, dropout=0.0)
    image, label = torch.randn(4, 1, 8, 8), torch.tensor([1, 5, 0, 9])
    alone = [PlainCNN((1, 8, 8), 10, dropout=0.0) for _ in range(3)]
    for copied, member in zip(alone, network.members, strict=True):
        copied.load_state_dict(member.state_dict())
    logits = [member(image) for member in alone]
    assert (logits[0] - logits[1]).abs().min() > 0  # each from its own start
    torch.testing.assert_close(network.eval()(image), sum(logits) / 3)
    costs = [criteria.cross_entropy(z, label) for z in logits]
    loss = losses.classification(network.train()(image), {"label": label})
    torch.testing.assert_close(loss, sum(costs) / 3)
    loss.backward()
    for cost, copied, member in zip(costs, alone, network.members):
        cost.backward()
        for own, shared in zip(copied.parameters(), member.parameters()):
            torch.testing.assert_close(shared.grad, own.grad / 3, rtol=1e-4, atol=1e-7)


def test_an_ensemble_is_one_graph() -> None:
    torch.manual_seed(0)
    network = PlainEnsemble((1, 8, 8), 10, members=2)
    for parameter in network.parameters():  # as after training: equal biases would become one tensor in the graph
        parameter.data.add_(torch.empty_like(parameter).uniform_(0, 0.01))
    scaled = Scaled(network, (1, 8, 8)).eval()
    feed = {"image": DIGITS["train"]["image"][:4]}
    scaled.fit(torch.from_numpy(feed["image"]))
    model = to_onnx(scaled, feed, ("logits",))
    check_graph(model, scaled, feed, ("logits",))
    assert [tensor.name for tensor in model.graph.output] == ["logits"]
    weights = sum(math.prod(tensor.dims) for tensor in model.graph.initializer if len(tensor.dims) in (2, 4))
    # Convolutions and dense layers of an 8 x 8 image, of each member, and beside them the scaling.
    assert 0 <= weights - 2 * (144 + 2304 + 4608 + 9216 + 18_432 + 36_864 + 64 * 50 + 500) <= 20
    logits = open_onnxruntime(model.SerializeToString())(feed)["logits"]
    with torch.inference_mode():
        z = (torch.from_numpy(feed["image"]).float() - scaled.mean) / scaled.deviation
        expected = np.mean([member(z).numpy() for member in network.members], 0)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


# Digits, enlarged


def test_enlarged_digits_are_digits_own_splits_between_pixels_in_a_line() -> None:
    large = digits_64.prepare(RAW)
    assert digits_64.SOURCES == digits.SOURCES and digits_64.CLASSES == digits.CLASSES
    assert {split: len(a["label"]) for split, a in large.items()} == {
        "train": 650,
        "calib": 100,
        "select": 147,
        "test": 900,
    }
    at = (np.arange(64) + 0.5) / 8 - 0.5
    for split, small in DIGITS.items():
        image = large[split]["image"]
        assert image.shape == (len(small["label"]), *digits_64.NETWORK["shape"]) and image.dtype == np.uint8
        np.testing.assert_array_equal(large[split]["label"], small["label"])
        for came, before in zip(image[::5, 0], small["image"][::5, 0]):
            grey = before.astype(np.float64) * 255 / 16
            exact = map_coordinates(grey, np.meshgrid(at, at, indexing="ij"), order=1, mode="nearest")
            assert np.abs(came - exact).max() <= 0.5 + 1e-3
    every = np.concatenate([a["image"] for a in large.values()]).reshape(1797, -1)
    assert len(np.unique(every, axis=0)) == 1797 and every.min() == 0 and every.max() > 240


# What a recipe says

OWN = yaml.safe_load((ROOT / "params.yaml").read_text()) | {"root": str(ROOT)}


def checked(tmp_path: Path, **changes: Any) -> Training:
    """The training of a recipe of the project's own that says something else, if it passes."""
    recipe = OWN["recipes"]["softmax_digits"]
    recipe = recipe | {"train": {"epochs": 1, "batch": 1, "rate": 1, "patience": 1, "seed": 1} | changes}
    params = OWN | {"build": str(tmp_path / "build"), "recipes": {"mine": recipe}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    project = load_project(tmp_path / "params.yaml")
    check(project)
    return project.recipe("mine").train


def test_every_ingredient_passes_and_is_what_was_said(tmp_path: Path) -> None:
    for key, module in (
        ("optimiser", optimisers),
        ("schedule", schedules),
        ("loss", criteria),
        ("initialiser", initialisers),
    ):
        for name in names(module) - {"initialise"}:
            assert getattr(checked(tmp_path, **{key: name}), key) == name
    for scaling in SCALINGS:
        assert checked(tmp_path, scaling=scaling).scaling == scaling
    how = {"shift": 2, "rotate": 180, "scale": 0.99, "crop": 0.99, "flip": True, "noise": 300}
    training = checked(tmp_path, epochs=0, weight_decay=0, l1=3, augment=how)
    assert training.augment == Augment(2.0, 180.0, 0.99, 0.99, True, 300.0) and training.epochs == 0
    assert checked(tmp_path) == Training(1, 1, 1.0, 1, 1, augment=Augment(0, 0, 0, 0, False, 0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimiser": "nestorov"}, "train: optimiser: no optimiser 'nestorov'; did you mean 'nesterov'? It may be: adadelta, adagrad, adam, "),
        ({"optimiser": "SGD"}, "no optimiser 'SGD'"),  # what the module imports is none of its own
        ({"schedule": "cosin"}, "train: schedule: no schedule 'cosin'; did you mean 'cosine'? It may be: constant, "),
        ({"schedule": "ceil"}, "no schedule 'ceil'"),
        ({"loss": "cros_entropy"}, "train: loss: no loss 'cros_entropy'; did you mean 'cross_entropy'? It may be: absolute, "),
        ({"loss": "_margin"}, "no loss '_margin'"),
        ({"initialiser": "xavir"}, "train: initialiser: no initialiser 'xavir'; did you mean 'xavier'? It may be: gaussian, he, orthogonal, uniform, xavier"),
        ({"initialiser": "initialise"}, "no initialiser 'initialise'"),
        ({"scaling": "minmax"}, "train: scaling: no scaling 'minmax'; did you mean 'min_max'? It may be: min_max, z_score"),
        ({"optimizer": "adam"}, "train: unknown key 'optimizer'; did you mean 'optimiser'?"),
        ({"loss": 3}, "train: loss: 3 (int) came, a word was expected"),
        ({"epochs": -1}, "train: epochs: -1 came, 0 or a number above it was expected"),
        ({"batch": 0}, "train: batch: 0 came, a number above 0 was expected"),
        ({"patience": 0}, "train: patience: 0 came, a number above 0 was expected"),
        ({"rate": math.inf}, "train: rate: inf came, a number above 0 was expected"),
        ({"weight_decay": -0.1}, "train: weight_decay: -0.1 came, 0 or a number above it was expected"),
        ({"l1": math.nan}, "train: l1: nan came, 0 or a number above it was expected"),
        *(
            ({"augment": {key: -0.5}}, f"train: augment: {key}: -0.5 came, 0 or a number above it was expected")
            for key in ("shift", "rotate", "scale", "crop", "noise")
        ),
        ({"augment": {"crop": 1}}, "train: augment: crop: 1.0 came, a share of the image's size, below 1, was expected"),
        ({"augment": {"scale": 20}}, "train: augment: scale: 20.0 came, a share of the image's size, below 1, was expected"),
        ({"augment": {"flip": 1}}, "train: augment: flip: 1 (int) came, true or false was expected"),
        ({"augment": {"rotation": 5}}, "train: augment: unknown key 'rotation'; did you mean 'rotate'?"),
        ({"augment": 3}, "train: augment: 3 (int) came, a map was expected"),
    ],
)  # fmt: skip
def test_a_wrong_ingredient_is_named_with_the_right_one(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused) as refused:
        checked(tmp_path, **changes)
    assert "recipes: mine: train: " in str(refused.value) and message in str(refused.value)
    assert not (tmp_path / "build" / "check.ok").exists()


# Learning


def textbook(
    weight: Array, bias: Array, x: Array, label: Array, training: Training
) -> tuple[list[tuple[Array, Array]], list[float]]:
    """Softmax regression by gradient descent, in float64: weights and biases after each epoch, and its mean loss."""
    shuffle = torch.Generator().manual_seed(training.seed)
    ends, means = [], []
    for _ in range(training.epochs):
        order, total = torch.randperm(len(x), generator=shuffle).numpy(), 0.0
        for start in range(0, len(x), training.batch):
            i = order[start : start + training.batch]
            z = x[i] @ weight.T + bias
            total -= told(z, label[i]).sum()
            wrong = (np.exp(log_softmax(z)) - code(z, label[i])) / len(i)
            pull = training.l1 * np.sign(weight) + training.weight_decay * weight
            weight = weight - training.rate * (wrong.T @ x[i] + pull)
            bias = bias - training.rate * (wrong.sum(0) + training.weight_decay * bias)
        ends.append((weight, bias))
        means.append(total / len(x))
    return ends, means


@pytest.mark.parametrize(
    ("batch", "more"),
    [
        (40, {}),  # batch gradient descent: one step an epoch, along the gradient of all
        (10_000, {}),
        (1, {}),  # stochastic
        (7, {}),  # mini-batch, whose last is smaller
        (7, {"l1": 0.05}),
        (7, {"weight_decay": 0.2}),
        (40, {"l1": 0.05, "weight_decay": 0.2}),
    ],
)
def test_gradient_descent_is_the_textbooks_whatever_the_batch(batch: int, more: dict[str, float]) -> None:
    training = Training(epochs=4, batch=batch, rate=0.05, patience=9, seed=11, optimiser="gradient_descent", **more)
    x = DIGITS["train"]["image"][:40].astype(np.float32) / 16
    examples = {"image": x, "label": DIGITS["train"]["label"][:40]}
    torch.manual_seed(0)
    network = build_network(LINEAR, DATA | {"scaled": False})
    start = [p.detach().double().numpy() for p in (network.linear.weight, network.linear.bias)]
    ends, means = textbook(*start, x.reshape(40, 64).astype(np.float64), examples["label"], training)
    both = {"train": examples, "select": examples}
    histories = fit(network, losses.classification, training, both, lambda: {}, "linear")
    assert [row["train_loss"] for row in histories["loss"]] == pytest.approx(means, rel=1e-5)
    kept = int(np.argmin([row["select_loss"] for row in histories["loss"]]))
    for parameter, expected in zip((network.linear.weight, network.linear.bias), ends[kept]):
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("initialiser", ["", "he"])
def test_no_epochs_leave_the_weights_as_they_start(initialiser: str) -> None:
    torch.manual_seed(5)
    expected = build_network(MLP, DATA)
    expected.fit(torch.from_numpy(DIGITS["train"]["image"]))
    if initialiser:
        initialisers.initialise(expected, initialiser)
    torch.manual_seed(5)
    network = build_network(MLP, DATA)
    network.fit(torch.from_numpy(DIGITS["train"]["image"]))
    for schedule in RATE_AT:
        training = dataclasses.replace(USUAL, epochs=0, schedule=schedule, initialiser=initialiser)
        torch.manual_seed(5)
        build_network(MLP, DATA)  # draws what stands before the initialiser
        histories = fit(network, losses.classification, training, DIGITS, lambda: {}, "still")
        assert histories == {"loss": [], "spread": [], "speed": []} and not network.training
        assert all(torch.equal(tensor, expected.state_dict()[key]) for key, tensor in network.state_dict().items())


class Killed(Exception):
    pass


@pytest.mark.parametrize(("optimiser", "schedule"), list(zip(PAPERS, cycle(RATE_AT))))
def test_a_training_that_was_killed_goes_on_bit_for_bit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], optimiser: str, schedule: str
) -> None:
    """By every optimiser and every schedule, where dropout and augmentation draw too; killed in the third epoch."""
    how = Augment(shift=1, rotate=10, crop=0.1, flip=True, noise=1)
    training = Training(
        5, 32, 0.01, 9, 3, optimiser=optimiser, schedule=schedule, initialiser="he", weight_decay=1e-3, augment=how
    )
    few = {split: {key: array[:100] for key, array in a.items()} for split, a in DIGITS.items()}

    def run(seed: int, evaluate: Callable[[], dict[str, float]], checkpoint: Path) -> tuple[Any, Any]:
        torch.manual_seed(seed)
        network = build_network(Network("mlp", "MLP", {"units": [16], "dropout": 0.3}), DATA)
        if seed == 0:
            network.fit(torch.from_numpy(few["train"]["image"]))
        return fit(network, losses.classification, training, few, evaluate, "mine", checkpoint), network.state_dict()

    called = []

    def kill() -> dict[str, float]:
        called.append(1)
        if len(called) == 3:
            raise Killed
        return {}

    whole, weights = run(0, lambda: {}, tmp_path / "whole.pt")
    with pytest.raises(Killed):
        run(0, kill, tmp_path / "killed.pt")
    capsys.readouterr()
    # The next start is another one, and has not even been scaled: all comes from what was kept.
    again, came = run(1, lambda: {}, tmp_path / "killed.pt")
    assert "mine: goes on after epoch 1\n" in capsys.readouterr().out
    assert again["loss"] == whole["loss"] and again["spread"] == whole["spread"] and len(whole["loss"]) == 5
    assert len({row["train_loss"] for row in whole["loss"]}) == 5
    assert all(torch.equal(came[key], weights[key]) for key in weights) and came.keys() == weights.keys()


def test_speed_is_told_of_each_epoch_and_is_that_of_learning_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0]
    monkeypatch.setattr(supervised, "time", SimpleNamespace(perf_counter_ns=lambda: now[0]))

    def loss(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        now[0] += 7_000_000_000 if torch.is_inference_mode_enabled() else 100_000_000
        return losses.classification(logits, batch)

    def evaluate() -> dict[str, float]:
        now[0] += 50_000_000_000
        return {}

    rows = fit(build_network(MLP, DATA), loss, dataclasses.replace(USUAL, epochs=2), DIGITS, evaluate, "x")["speed"]
    assert [row.pop("epoch") for row in rows] == [0, 1]
    assert rows == [pytest.approx({"train_s": 2.6, "examples_per_s": 650 / 2.6})] * 2  # 26 batches


def test_the_stage_takes_its_loss_and_scaling_from_the_recipe(tmp_path: Path) -> None:
    params = load_project(ROOT / "params.yaml")
    recipe = params.recipe("softmax_digits")
    training = dataclasses.replace(USUAL, epochs=2, loss="squared", scaling="min_max", optimiser="momentum", rate=0.002)
    recipe = dataclasses.replace(recipe, train=training)
    project = dataclasses.replace(params, root=ROOT, build=tmp_path, recipes={"mine": recipe})
    download(project, "digits")
    prepare(project, "digits")
    train(project, "mine")
    weights = load_file(tmp_path / "train" / "mine" / "weights.safetensors")
    assert (float(weights["mean"]), float(weights["deviation"])) == (0, 16)
    z = (load_arrays(tmp_path / "prepare" / "digits" / "select.npz")["image"] / 16).reshape(-1, 64)
    z = z @ weights["network.linear.weight"].double().numpy().T + weights["network.linear.bias"].double().numpy()
    loss, speed = ((tmp_path / "history" / kind / "mine.csv").read_text().splitlines() for kind in ("loss", "speed"))
    expected = COST["squared"](z, DIGITS["select"]["label"]).mean()
    assert float(loss[-1].split(",")[2]) == pytest.approx(expected, rel=1e-4)
    assert speed[0] == "epoch,train_s,examples_per_s" and len(speed) == len(loss) == 3


# Each once, end to end: chance is 10 %

RATES = {
    "gradient_descent": 0.2,
    "momentum": 0.05,
    "nesterov": 0.05,
    "adagrad": 0.02,
    "adadelta": 1.0,
    "rmsprop": 0.003,
    "adam": 0.005,
    "adamw": 0.005,
}
LEARNED: dict[str, dict[str, Any]] = {loss: {} for loss in COST} | {
    # The median code is 0: a logit stays near it for long.
    "absolute": {"network": LINEAR, "optimiser": "gradient_descent", "rate": 0.01, "epochs": 40},
}


@pytest.mark.parametrize("optimiser", RATES)
def test_every_optimiser_learns(optimiser: str) -> None:
    assert trained(optimiser=optimiser, rate=RATES[optimiser])[1] > 88


@pytest.mark.parametrize("schedule", RATE_AT)
def test_every_schedule_learns(schedule: str) -> None:
    assert trained(schedule=schedule)[1] > 84


@pytest.mark.parametrize("loss", COST)
def test_every_criterion_learns(loss: str) -> None:
    assert trained(loss=loss, **LEARNED[loss])[1] > 75


@pytest.mark.parametrize("initialiser", [*DRAWN, "orthogonal"])
def test_every_initialiser_learns(initialiser: str) -> None:
    assert trained(initialiser=initialiser)[1] > 86


@pytest.mark.parametrize(
    ("network", "changes", "floor"),
    [
        (MLP, {"scaling": "min_max"}, 86),
        (MLP, {"weight_decay": 0.01, "l1": 1e-3, "optimiser": "adamw"}, 86),
        (
            Network("perceptron", "Perceptron"),
            {"loss": "perceptron", "optimiser": "gradient_descent", "rate": 0.1},
            65,
        ),
        (Network("plain", "PlainEnsemble", {"members": 2, "dropout": 0.1}), {"epochs": 3}, 80),
    ],
)
def test_what_else_there_is_learns(network: Network, changes: dict[str, Any], floor: float) -> None:
    assert trained(network, **changes)[1] > floor


def test_l1_makes_weights_small_that_are_not_needed() -> None:
    small = []
    for l1 in (0.0, 0.01):
        network, _ = trained(l1=l1, epochs=8)
        weights = torch.cat([p.detach().flatten() for p in network.parameters() if p.ndim > 1])
        small.append(float((weights.abs() < 0.02).float().mean()))
    assert small[1] > 2 * small[0]
