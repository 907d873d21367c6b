"""The published networks against their papers' tables, and against second ways of computing their parts."""

import math
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from deploy.errors import Refused
from models.activation import ACTIVATIONS, activation
from models.alexnet import AlexNet
from models.googlenet import GoogLeNet
from models.lenet import LeNet5, squash
from models.mlp import MLP
from models.perceptron import Perceptron
from models.plain import PlainCNN
from models.resnet import BasicBlock, Bottleneck, CifarResNet, ResNet18, ResNet34, ResNet50
from models.scaled import Scaled
from models.vgg import VGG
from pipeline import losses
from pipeline.export import check_graph, to_onnx
from pipeline.network import build_network
from pipeline.recipe import Network

MNIST, IMAGENET = (1, 28, 28), (3, 224, 224)


def imagenet(family: Callable[..., nn.Module], **arguments: int) -> nn.Module:
    """Without memory behind it."""
    with torch.device("meta"):
        return family(IMAGENET, 1000, **arguments)


def parameters(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def multiplications(network: nn.Module, shape: tuple[int, ...]) -> dict[str, int]:
    """Module -> those of all layers within it, for one image; the network itself is ``""``."""
    own: dict[str, int] = {}

    def note(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(layer: nn.Module, _: object, out: Tensor) -> None:
            places = out[0].numel() // out.shape[1]
            own[name] = layer.weight.numel() * places

        return hook

    hooks = [
        layer.register_forward_hook(note(name))
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    network.eval()(torch.empty(1, *shape, device="meta"))
    for hook in hooks:
        hook.remove()
    return {
        name: sum(count for layer, count in own.items() if f"{layer}.".startswith(f"{name}.") or not name)
        for name, _ in network.named_modules()
    }


def sizes(network: nn.Module, image: Tensor, names: list[str]) -> list[tuple[int, ...]]:
    """What the modules of these names give, without the batch, in order of their names."""
    came: dict[str, tuple[int, ...]] = {}
    hooks = [
        network.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: came.update({name: tuple(out.shape[1:])})
        )
        for name in names
    ]
    network.eval()(image)
    for hook in hooks:
        hook.remove()
    return [came[name] for name in names]


# Parameters


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        # A weight for each pixel and class, and a threshold a class.
        (lambda: Perceptron(MNIST, 10), 784 * 10 + 10),
        # Görner's slides: W1[784,200] W2[200,100] W3[100,60] W4[60,30] W5[30,10], and a bias a unit.
        (lambda: MLP(MNIST, 10), 156_800 + 20_000 + 6_000 + 1_800 + 300 + 200 + 100 + 60 + 30 + 10),
        # LeCun et al.: 60,000 before the output, which is 84 x 10 and 10 here; 900 of C3's numbers are none.
        (lambda: LeNet5(MNIST, 10), 60_000 + 850 + 900),
        # deep_convnet.py: W1[16,1,3,3] ... W6[64,64,3,3] W7[64*4*4,50] W8[50,10], and a bias a channel or unit.
        (
            lambda: PlainCNN(MNIST, 10),
            144 + 2304 + 4608 + 9216 + 18_432 + 36_864 + 51_200 + 500 + 16 + 16 + 32 + 32 + 64 + 64 + 50 + 10,
        ),
        # Krizhevsky et al., section 1: 60 million. With groups, by their figure 2: 60,965,224.
        (lambda: imagenet(AlexNet), 60_965_224),
        # Simonyan & Zisserman, table 2: 133, 138 and 144 million; torchvision publishes the exact counts.
        (lambda: imagenet(VGG, layers=11), 132_863_336),
        (lambda: imagenet(VGG, layers=16), 138_357_544),
        (lambda: imagenet(VGG, layers=19), 143_667_240),
        # As torchvision publishes them.
        (lambda: imagenet(ResNet18), 11_689_512),
        (lambda: imagenet(ResNet34), 21_797_672),
        (lambda: imagenet(ResNet50), 25_557_032),
        # He et al., section 4.2 and table 6: 20 layers, 0.27 M.
        (lambda: CifarResNet((3, 32, 32), 10, blocks=3), 269_722),
    ],
)
def test_parameter_counts_are_the_papers(network: Callable[[], nn.Module], expected: int) -> None:
    assert parameters(network()) == expected


@pytest.mark.parametrize(
    ("family", "arguments", "milliards"),
    [
        # As torchvision publishes them for 224 x 224; He et al., table 1, have 1.8, 3.6, and with the stride in the
        # first 1x1 3.8.
        (VGG, {"layers": 11}, 7.61),
        (VGG, {"layers": 16}, 15.47),
        (VGG, {"layers": 19}, 19.63),
        (ResNet18, {}, 1.81),
        (ResNet34, {}, 3.66),
        (ResNet50, {}, 4.09),
    ],
)
def test_multiplications_are_the_published_ones(family: Callable[..., nn.Module], arguments, milliards: float) -> None:
    assert round(multiplications(imagenet(family, **arguments), IMAGENET)[""] / 1e9, 2) == milliards


# Perceptron


def perceptron_loss(sums: Tensor, label: Tensor) -> Tensor:
    sign = 2 * functional.one_hot(label, sums.shape[1]) - 1
    return functional.relu(-sign * sums).sum(1).mean()


def test_the_slope_of_the_perceptron_loss_is_rosenblatts_rule_and_it_ends_without_a_mistake() -> None:
    torch.manual_seed(0)
    network = Perceptron((5,), 2).double()
    truth = torch.randn(5, dtype=torch.float64)
    x = torch.randn(400, 5, dtype=torch.float64)
    x = x[(x @ truth).abs() > 0.3]  # with a margin: then it ends (Novikoff 1962)
    label = (x @ truth > 0).long()
    network.zero_grad()
    perceptron_loss(network(x[:1]), label[:1]).backward()
    sums = network.linear(x[0])
    for unit in range(2):
        y = 1.0 if label[0] == unit else -1.0
        expected = -y * x[0] if y * sums[unit] < 0 else torch.zeros(5, dtype=torch.float64)
        torch.testing.assert_close(network.linear.weight.grad[unit], expected)
    optimiser = torch.optim.SGD(network.parameters(), lr=1.0)
    for _ in range(1000):
        optimiser.zero_grad()
        loss = perceptron_loss(network(x), label)
        loss.backward()
        optimiser.step()
    steps = network.eval()(x)
    assert set(steps.unique().tolist()) == {-1.0, 1.0}
    assert perceptron_loss(steps, label) == 0 and (steps.argmax(1) == label).all()


def test_the_loss_of_steps_is_the_number_of_wrong_units() -> None:
    network = Perceptron((4,), 3).eval().requires_grad_(False)
    x, label = torch.randn(50, 4), torch.arange(50) % 3
    wrong = sum(
        (unit == int(k)) != (float(step) > 0)
        for row, k in zip(network(x), label, strict=True)
        for unit, step in enumerate(row)
    )
    assert float(perceptron_loss(network(x), label)) * 50 == pytest.approx(wrong)


# Dense layers


def test_activations_are_what_their_names_say() -> None:
    x = [-3.0, -0.5, 0.0, 0.25, 2.0]
    formula: dict[str, Callable[[float], float]] = {
        "sigmoid": lambda v: 1 / (1 + math.exp(-v)),
        "tanh": math.tanh,
        "relu": lambda v: max(v, 0.0),
        "leaky_relu": lambda v: max(v, 0.01 * v),
        "prelu": lambda v: max(v, 0.25 * v),
        "elu": lambda v: v if v > 0 else math.expm1(v),
        "selu": lambda v: 1.0507009873554805 * (v if v > 0 else 1.6732632423543772 * math.expm1(v)),
        "gelu": lambda v: v * (1 + math.erf(v / math.sqrt(2))) / 2,
        "swish": lambda v: v / (1 + math.exp(-v)),
        "softmax": lambda v: math.exp(v) / sum(math.exp(other) for other in x),
    }
    assert set(formula) == {*ACTIVATIONS, "softmax"}
    for name, function in formula.items():
        came = activation(name).double()(torch.tensor([x], dtype=torch.float64))[0]
        expected = torch.tensor([function(v) for v in x], dtype=torch.float64)
        torch.testing.assert_close(came, expected, rtol=0, atol=1e-12, msg=name)


def test_an_unknown_activation_is_refused_by_the_names_that_there_are() -> None:
    data = {"network": {"shape": [1, 4, 4], "classes": 3}, "scaled": False}
    with pytest.raises(Refused, match=r"models/mlp.py: MLP\(.*no activation 'rectified'; there are elu, gelu, .*tanh"):
        build_network(Network("mlp", "MLP", {"activation": "rectified"}), data)


def test_five_layers_start_as_görners_do() -> None:
    torch.manual_seed(0)
    for name, bias in (("sigmoid", 0.0), ("relu", 0.1)):
        network = MLP(MNIST, 10, activation=name)
        network.requires_grad_(False)
        dense = [layer for layer in network.hidden if isinstance(layer, nn.Linear)]
        assert [layer.out_features for layer in dense] == [200, 100, 60, 30]
        assert all((layer.bias == bias).all() for layer in dense) and (network.output.bias == 0).all()
        # A Gaussian cut at two deviations has 0.8796 of its deviation.
        assert 0.086 < float(dense[0].weight.std()) < 0.09 and float(dense[0].weight.abs().max()) <= 0.2
        assert [type(layer) for layer in network.hidden[1::3]] == [ACTIVATIONS[name]] * 4


# LeNet-5

TABLE_I = """
X . . . X X X . . X X X X . X X
X X . . . X X X . . X X X X . X
X X X . . . X X X . . X . X X X
. X X X . . X X X X . . X . X X
. . X X X . . X X X X . X X . X
. . . X X X . . X X X X . X X X
"""


def test_c3_sees_what_table_i_says_and_training_keeps_it_so() -> None:
    expected = torch.tensor([[cell == "X" for cell in row.split()] for row in TABLE_I.split("\n")[1:-1]]).T
    assert expected.shape == (16, 6) and int(expected.sum()) == 60
    torch.manual_seed(0)
    network = LeNet5(MNIST, 10)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        functional.cross_entropy(network(torch.randn(4, *MNIST)), torch.arange(4)).backward()
        optimiser.step()
    assert int(network.c3.weight.count_nonzero()) + len(network.c3.bias) == 1516
    maps = torch.randn(1, 6, 14, 14)
    for training in (False, True):
        network.train(training)
        before = network.c3(maps)
        for seen in range(6):
            other = maps.clone()
            other[0, seen] += 1
            changed = (network.c3(other) != before).flatten(2).any(2)[0]
            assert torch.equal(changed, expected[:, seen])


def test_lenets_layers_have_the_papers_sizes_parameters_and_connections() -> None:
    network = LeNet5(MNIST, 10)
    names = ["c1", "s2", "c3", "s4", "c5", "f6"]
    shapes = sizes(network, torch.zeros(1, *MNIST), names)
    assert shapes == [(6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 5, 5), (120, 1, 1), (84,)]
    counts = [parameters(network.get_submodule(name)) for name in names]
    counts[2] -= 900
    assert counts == [156, 12, 1516, 32, 48_120, 10_164]
    # Section II.B. A map of C1 has a place for each of its weights' uses; a unit of S2 has four inputs and a bias.
    connections = [156 * 28 * 28, 6 * 5 * 14 * 14, 1516 * 10 * 10, 16 * 5 * 5 * 5, 48_120, 10_164]
    assert connections == [122_304, 5_880, 151_600, 2_000, 48_120, 10_164]
    assert sum(connections) + 84 * 10 == 340_908


def test_subsampling_and_squashing_are_the_papers() -> None:
    network = LeNet5(MNIST, 10).double()
    x = torch.randn(2, 6, 8, 6, dtype=torch.float64)
    came = network.s2(x)
    for item, channel, row, column in np.ndindex(2, 6, 4, 3):
        four = x[item, channel, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].sum()
        expected = four * network.s2.coefficient[channel, 0, 0] / 4 + network.s2.bias[channel, 0, 0]
        torch.testing.assert_close(came[item, channel, row, column], expected)
    assert squash(torch.tensor([1.0, -1.0])).tolist() == pytest.approx([1.0, -1.0], abs=1e-4)
    assert float(squash(torch.tensor(100.0))) == pytest.approx(1.7159)


def test_lenets_weights_start_within_2_4_of_their_inputs() -> None:
    network = LeNet5(MNIST, 10).requires_grad_(False)
    for layer, inputs in ((network.c1, 25), (network.c5, 400), (network.f6, 120), (network.output, 84)):
        largest = float(layer.weight.abs().max())
        assert 0.9 * 2.4 / inputs < largest <= 2.4 / inputs
    for weight, inputs in ((network.c3.weight[0], 75), (network.c3.weight[6], 100), (network.c3.weight[15], 150)):
        assert 0.8 * 2.4 / inputs < float(weight.abs().max()) <= 2.4 / inputs


# The deep 3x3 CNN


def test_plain_cnn_has_the_sources_sizes_and_he_initialisation() -> None:
    torch.manual_seed(0)
    network = PlainCNN(MNIST, 10).requires_grad_(False)
    names = ["conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "dense", "output"]
    assert sizes(network, torch.zeros(1, *MNIST), names) == [
        *[(16, 28, 28)] * 2,
        *[(32, 14, 14), (32, 16, 16)],
        *[(64, 8, 8)] * 2,
        *[(50,), (10,)],
    ]
    before = (1 * 9, 16 * 9, 16 * 9, 32 * 9, 32 * 9, 64 * 9, 64 * 4 * 4, 50)  # pre_node_nums of deep_convnet.py
    for name, inputs in zip(names, before, strict=True):
        layer = network.get_submodule(name)
        spread = 4 / math.sqrt(2 * layer.weight.numel())  # four standard errors of a deviation
        assert float(layer.weight.std()) == pytest.approx(math.sqrt(2 / inputs), rel=spread)
        assert (layer.bias == 0).all()


# AlexNet


def normalised(x: np.ndarray) -> np.ndarray:
    """Krizhevsky et al., section 3.3, as it is written: k = 2, n = 5, alpha = 1e-4, beta = 0.75."""
    out = np.empty_like(x)
    channels = x.shape[1]
    for i in range(channels):
        nearby = range(max(0, i - 2), min(channels - 1, i + 2) + 1)
        out[:, i] = x[:, i] / (2 + 1e-4 * sum(x[:, j] ** 2 for j in nearby)) ** 0.75
    return out


@pytest.mark.parametrize("network", [lambda: AlexNet((3, 63, 63), 3, units=4), lambda: GoogLeNet((3, 31, 31), 3)])
def test_local_response_normalisation_is_the_papers_formula(network: Callable[[], nn.Module]) -> None:
    x = 100 * np.random.default_rng(0).normal(size=(2, 9, 3, 4))
    np.testing.assert_allclose(network().normalise(torch.from_numpy(x)).numpy(), normalised(x), rtol=1e-12)


def test_alexnets_layers_have_the_papers_sizes_also_of_227() -> None:
    network = imagenet(AlexNet)
    names = ["conv1", "conv2", "conv3", "conv4", "conv5", "dense6", "dense7", "output"]
    shapes = sizes(network, torch.empty(1, *IMAGENET, device="meta"), names)
    assert shapes[0] == (96, 55, 55)
    # Section 3.5: the neurons of each layer; of the first it says 253,440, which is not 96 x 55 x 55.
    assert [math.prod(shape) for shape in shapes[1:]] == [186_624, 64_896, 64_896, 43_264, 4096, 4096, 1000]
    with torch.device("meta"):
        assert parameters(AlexNet((3, 227, 227), 1000)) == 60_965_224


def test_the_towers_of_alexnet_meet_in_the_third_convolution_alone() -> None:
    network = AlexNet((3, 63, 63), 3, units=4)
    for layer, alone in ((network.conv2, True), (network.conv3, False), (network.conv4, True), (network.conv5, True)):
        x = torch.randn(1, layer.in_channels, 5, 5)
        other = x.clone()
        other[:, layer.in_channels // 2 :] = 0  # the second tower is silent
        half = layer.out_channels // 2
        assert torch.allclose(layer(x)[:, :half], layer(other)[:, :half], atol=1e-6) == alone


def test_alexnet_starts_as_the_paper_says() -> None:
    torch.manual_seed(0)
    network = AlexNet((3, 63, 63), 10, units=64).requires_grad_(False)
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    assert [name for name, layer in layers.items() if (layer.bias == 1).all()] == [
        *("conv2", "conv4", "conv5", "dense6", "dense7")
    ]
    assert (layers["conv1"].bias == 0).all() and (layers["conv3"].bias == 0).all() and (network.output.bias == 0).all()
    assert all(0.008 < float(layer.weight.std()) < 0.012 for layer in layers.values())


# VGG


@pytest.mark.parametrize(
    ("layers", "named"),
    [
        (11, [0, 3, 6, 8, 11, 13, 16, 18]),
        (16, [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]),
        (19, [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34]),
    ],
)
def test_vgg_has_torchvisions_names_and_halves_five_times(layers: int, named: list[int]) -> None:
    network = imagenet(VGG, layers=layers)
    modules = [f"features.{i}" for i in named] + [f"classifier.{i}" for i in (0, 3, 6)]
    assert len(modules) == layers
    assert list(network.state_dict()) == [f"{name}.{part}" for name in modules for part in ("weight", "bias")]
    pools = [name for name, layer in network.named_modules() if isinstance(layer, nn.MaxPool2d)]
    shapes = sizes(network, torch.empty(1, *IMAGENET, device="meta"), pools)
    assert shapes == [(64, 112, 112), (128, 56, 56), (256, 28, 28), (512, 14, 14), (512, 7, 7)]


def test_another_depth_of_vgg_is_refused() -> None:
    with pytest.raises(ValueError, match="VGG: layers: 13 came, 11, 16 or 19 was expected"):
        VGG((3, 32, 32), 10, layers=13)


# GoogLeNet: table 1, a row: its modules, output size, thousands (1,024) of parameters, millions of multiplications

TABLE_1 = {
    "reduce2 conv2": ((192, 56, 56), 112, 360),
    "inception3a": ((256, 28, 28), 159, 128),
    "inception3b": ((480, 28, 28), 380, 304),
    "inception4a": ((512, 14, 14), 364, 73),
    "inception4b": ((512, 14, 14), 437, 88),
    "inception4c": ((512, 14, 14), 463, 100),
    "inception4d": ((528, 14, 14), 580, 119),
    "inception4e": ((832, 14, 14), 840, 170),
    "inception5a": ((832, 7, 7), 1072, 54),
    "inception5b": ((1024, 7, 7), 1388, 71),
    "output": ((1000,), 1000, 1),
}
# Table 1 does not agree with itself there: 54 M in 7 x 7 places are the 1,072 K, but its own widths give neither.
OTHER = {"inception5a"}
# The multiplications of these are the table's, its parameters are not: 100 M in 14 x 14 places are no 463 K.
OTHER_PARAMETERS = OTHER | {f"inception{name}" for name in ("4a", "4c", "4d", "4e", "5b")}


def test_googlenets_rows_are_those_of_table_1() -> None:
    network = imagenet(GoogLeNet)
    counted = multiplications(network, IMAGENET)
    last = {row: row.split()[-1] for row in TABLE_1}
    shapes = sizes(network, torch.empty(1, *IMAGENET, device="meta"), list(last.values()))
    for (row, (shape, thousands, millions)), came in zip(TABLE_1.items(), shapes, strict=True):
        assert came == shape
        weights = sum(
            p.numel()
            for name in row.split()
            for p in network.get_submodule(name).parameters()
            if p.ndim > 1  # the table counts no biases
        )
        assert (abs(weights / 1024 - thousands) <= 1) == (row not in OTHER_PARAMETERS), row
        assert weights / 1024 == pytest.approx(thousands, rel=0.08), row
        assert (abs(sum(counted[name] for name in row.split()) / 1e6 - millions) <= 1) == (row not in OTHER), row
    # As of Caffe's GoogLeNet, whose layers are these.
    assert parameters(network) - parameters(network.head4a, network.head4d) == 6_998_552


def test_googlenets_first_row_would_be_the_tables_if_it_were_separable() -> None:
    """Deviation 1: 7 x 7 on each channel to 8, then 1 x 1 to 64: 2.7 K and 34 M."""
    separable = 49 * 3 * 8 + 3 * 8 * 64
    assert round(separable / 1000, 1) == 2.7 and round(separable * 112 * 112 / 1e6) == 34
    network = imagenet(GoogLeNet)
    assert network.conv1.weight.numel() == 9408
    assert sizes(network, torch.empty(1, *IMAGENET, device="meta"), ["conv1"]) == [(64, 112, 112)]


def test_the_heads_are_those_of_section_5_in_training_and_nowhere_else() -> None:
    network = imagenet(GoogLeNet)
    image = torch.empty(2, *IMAGENET, device="meta")
    seen: list[tuple[int, ...]] = []
    for head in (network.head4a, network.head4d):
        head.conv.register_forward_hook(lambda _, given, out: seen.append((*given[0].shape[1:], *out.shape[1:])))
    assert [tuple(logits.shape) for logits in network.train()(image)] == [(2, 1000)] * 3
    assert seen == [(512, 4, 4, 128, 4, 4), (528, 4, 4, 128, 4, 4)]
    assert network.head4a.dense.in_features == 2048 and network.head4a.dense.out_features == 1024
    assert network.eval()(image).shape == (2, 1000) and len(seen) == 2


def test_the_loss_of_heads_counts_three_tenths() -> None:
    logits, label = torch.randn(3, 5, 4), {"label": torch.tensor([0, 1, 2, 3, 0])}
    one, other, third = (losses.classification(each, label) for each in logits)
    torch.testing.assert_close(losses.classification(tuple(logits), label), one + 0.3 * (other + third))


# ResNet


@pytest.mark.parametrize(
    ("family", "block", "depths"), [(ResNet34, BasicBlock, (3, 4, 6, 3)), (ResNet50, Bottleneck, (3, 4, 6, 3))]
)
def test_resnets_for_imagenet_have_the_stages_of_table_1(family, block, depths) -> None:
    network, grown = imagenet(family), block.growth
    names = ["conv1", *(f"layer{stage}" for stage in (1, 2, 3, 4))]
    shapes = sizes(network, torch.empty(1, *IMAGENET, device="meta"), names)
    wide = [(64 * 2**i * grown, 56 // 2**i, 56 // 2**i) for i in range(4)]
    assert shapes == [(64, 112, 112), *wide]
    assert tuple(len(network.get_submodule(name)) for name in names[1:]) == depths
    shortcuts = [name for name, part in network.named_modules() if name.endswith("downsample") and len(part)]
    whole = [] if grown == 1 else ["layer1.0.downsample"]
    assert shortcuts == [*whole, *(f"layer{stage}.0.downsample" for stage in (2, 3, 4))]


def test_resnet50_has_torchvisions_names() -> None:
    names = [name for name, _ in imagenet(ResNet50).named_parameters()]
    assert len(names) == 161  # 53 convolutions, 53 normalisations of two, and fc
    for name, shape in {
        "layer1.0.conv1.weight": (64, 64, 1, 1),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer2.0.conv2.weight": (128, 128, 3, 3),
        "layer3.5.conv3.weight": (1024, 256, 1, 1),
        "layer4.2.bn3.bias": (2048,),
        "fc.weight": (1000, 2048),
    }.items():
        assert name in names and imagenet(ResNet50).get_parameter(name).shape == shape


def test_a_bottleneck_whose_branch_gives_nothing_is_its_shortcut() -> None:
    same, other = Bottleneck(16, 4, 1).eval(), Bottleneck(16, 8, 2).eval()
    x = torch.rand(2, 16, 6, 6)
    for block, expected in ((same, x), (other, other.downsample[1](other.downsample[0](x)))):
        nn.init.zeros_(block.bn3.weight)
        torch.testing.assert_close(block(x), functional.relu(expected))


# All of them

SMALL = {  # shapes as `data.json` and arguments as a recipe have them
    "perceptron": ([1, 4, 4], Network("perceptron", "Perceptron")),
    "mlp sigmoid": ([1, 4, 4], Network("mlp", "MLP", {"activation": "sigmoid"})),
    "mlp relu": ([2, 3], Network("mlp", "MLP", {"units": [30, 20], "dropout": 0.25})),
    "lenet": ([3, 12, 13], Network("lenet", "LeNet5")),
    "plain": ([1, 4, 5], Network("plain", "PlainCNN", {"channels": [4, 8, 8], "dropout": 0.25})),
    "alexnet": ([3, 63, 64], Network("alexnet", "AlexNet", {"units": 32})),
    "vgg11": ([1, 32, 33], Network("vgg", "VGG", {"layers": 11, "units": 32})),
    "googlenet": ([3, 31, 40], Network("googlenet", "GoogLeNet")),
    "resnet34": ([1, 8, 9], Network("resnet", "ResNet34")),
    "resnet50": ([3, 32, 16], Network("resnet", "ResNet50")),
}
SMALLEST = {"lenet": 12, "plain": 4, "alexnet": 63, "vgg11": 32, "googlenet": 31}


def built(name: str, seed: int = 0, shape: list[int] | None = None) -> nn.Module:
    given, network = SMALL[name]
    torch.manual_seed(seed)
    return build_network(network, {"network": {"shape": shape or given, "classes": 5}, "scaled": False})


@pytest.mark.parametrize("name", SMALLEST)
@pytest.mark.parametrize("axis", [1, 2])
def test_the_smallest_image_is_taken_and_a_smaller_one_is_refused_in_words(name: str, axis: int) -> None:
    side = SMALLEST[name]
    square = [SMALL[name][0][0], side, side]
    assert built(name, shape=square).eval()(torch.zeros(2, *square)).shape == (2, 5)
    small = [square[0], 2 * side, 2 * side]
    small[axis] = side - 1
    expected = f"images of {small[1]} x {small[2]} came, {side} x {side} or larger were expected: .* larger `size`"
    with pytest.raises(Refused, match=expected):
        built(name, shape=small)


@pytest.mark.parametrize("name", SMALL)
def test_the_callers_seed_is_all_that_weights_depend_on(name: str) -> None:
    one, same, other = (list(built(name, seed).parameters()) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", SMALL)
def test_a_step_down_the_slope_lowers_the_loss(name: str) -> None:
    network, shape = built(name).train(), SMALL[name][0]
    image, label = torch.randn(6, *shape), torch.arange(6) % 5

    def loss() -> Tensor:
        torch.manual_seed(7)  # the same units are dropped
        output = network(image)
        return (
            perceptron_loss(output, label) if name == "perceptron" else losses.classification(output, {"label": label})
        )

    value = loss()
    value.backward()
    before = float(value.detach())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    steepness = sum(float((p.grad**2).sum()) for p in network.parameters())
    step = 0.01 * before / steepness  # so short that the slope foretells a hundredth of the loss
    with torch.no_grad():
        for p in network.parameters():
            p -= step * p.grad
        assert 0.98 * before < float(loss()) < 0.995 * before


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in ("vgg11", "resnet34", "resnet50"))) for name in SMALL],
)
def test_the_graph_answers_as_the_network_in_float64_and_has_no_more_in_it(name: str) -> None:
    network, shape = built(name), SMALL[name][0]
    examples = {"image": np.random.default_rng(0).integers(0, 256, (4, *shape)).astype(np.uint8)}
    # As after training: equal tensors would become one in the graph.
    for tensor in [*network.parameters(), *network.buffers()]:
        if tensor.ndim == 1:
            tensor.data.add_(torch.empty_like(tensor).uniform_(0.0, 0.2))
    scaled = Scaled(network, shape)
    scaled.fit(torch.from_numpy(examples["image"]))
    model = to_onnx(scaled.eval(), examples, ("logits",))
    check_graph(model, scaled, examples, ("logits",))
    kinds = {node.op_type for node in model.graph.node}
    assert "BatchNormalization" not in kinds and "Dropout" not in kinds
    numbers = sum(
        math.prod(tensor.dims) for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT
    )
    heads = [part for part_name, part in network.named_children() if part_name.startswith("head")]
    assert bool(heads) == (name == "googlenet")
    normalisations = parameters(*(part for part in network.modules() if isinstance(part, nn.BatchNorm2d)))
    # What is left: parameters, folded normalisations as biases, the scaling, and a few constants.
    expected = parameters(network) - parameters(*heads) - normalisations // 2
    assert expected <= numbers <= expected + 20
    if name == "perceptron":
        assert "Sign" in kinds
