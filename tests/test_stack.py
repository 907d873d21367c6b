"""The stack of equal convolutions: what it sees, what it has, and what is left of it in the graph."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from deploy.errors import Refused
from models.activation import ACTIVATIONS
from models.scaled import Scaled
from models.stack import Stack
from pipeline.export import check_graph, to_onnx
from pipeline.network import build_network
from pipeline.recipe import Network


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def seen(**arguments: int) -> np.ndarray:
    """Which pixels of 31 x 31 the middle one of the last convolution depends on, by its gradient."""
    torch.manual_seed(0)
    network = Stack((1, 31, 31), 2, channels=4, activation="tanh", **arguments).double()  # of tanh no slope is 0
    image = torch.randn(1, 1, 31, 31, dtype=torch.float64, requires_grad=True)
    network.layers(network.first(image))[0, :, 15, 15].sum().backward()
    return (image.grad[0, 0] != 0).numpy()


def square(side: int, step: int = 1) -> np.ndarray:
    """Every ``step``-th pixel of ``side`` x ``side`` about the middle of 31 x 31."""
    expected = np.zeros((31, 31), bool)
    reach = slice(15 - side // 2, 15 + side // 2 + 1, step)
    expected[reach, reach] = True
    return expected


def test_two_3x3_see_what_one_5x5_sees_and_three_what_one_7x7_sees() -> None:
    for kernel, layers, side in ((5, 1, 5), (3, 2, 5), (7, 1, 7), (3, 3, 7), (1, 2, 1), (3, 8, 17)):
        assert (seen(kernel=kernel, layers=layers) == square(side)).all()


def test_a_dilated_one_sees_farther_with_holes_between() -> None:
    assert (seen(layers=1, dilation=2) == square(5, 2)).all()
    assert (seen(layers=2, dilation=2) == square(9, 2)).all()
    assert (seen(layers=1, kernel=5, dilation=3) == square(13, 3)).all()


@given(
    st.sampled_from([1, 3, 5, 7]), st.integers(1, 4), st.integers(1, 3), st.integers(1, 12), st.integers(1, 12),
    st.booleans(),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_no_layer_changes_the_size(
    kernel: int, layers: int, dilation: int, height: int, width: int, normalise: bool
) -> None:
    network = Stack((2, 5, 5), 3, kernel, layers, 4, normalise=normalise, dilation=dilation).eval()
    x = network.first(torch.zeros(2, 2, height, width))
    for layer in network.layers:
        x = layer(x)
        assert x.shape == (2, 4, height, width)
    assert network(torch.zeros(2, 2, height, width)).shape == (2, 3)


@given(
    st.sampled_from([1, 3, 5, 7]), st.integers(0, 5), st.integers(1, 9), st.integers(1, 3), st.integers(1, 10),
    st.booleans(), st.sampled_from(["relu", "prelu"]),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_parameters_are_counted_by_the_formula(
    kernel: int, layers: int, c: int, d: int, classes: int, normalise: bool, activation: str
) -> None:
    network = Stack((d, 8, 8), classes, kernel, layers, c, activation, normalise)
    expected = c * (d + 1) + layers * (c * (c * kernel**2 + 1)) + classes * (c + 1)
    expected += layers * c * normalise + layers * (activation == "prelu")
    assert parameters(network) == expected


def test_the_textbooks_weights_18_to_25_and_27_to_49() -> None:
    def weights(**arguments: int) -> int:
        network = Stack((1, 8, 8), 10, channels=16, **arguments)
        return sum(p.numel() for p in network.layers.parameters() if p.ndim == 4)

    assert weights(kernel=3, layers=2) / weights(kernel=5, layers=1) == 18 / 25
    assert weights(kernel=3, layers=3) / weights(kernel=7, layers=1) == 27 / 49


def test_it_starts_as_he_says_and_two_layers_are_two_convolutions_by_hand() -> None:
    torch.manual_seed(0)
    network = Stack((1, 8, 8), 10, kernel=5, layers=2, channels=32).requires_grad_(False)
    for layer in network.layers:
        weight = layer[0].weight
        assert float(weight.std()) == pytest.approx(math.sqrt(2 / (32 * 25)), rel=4 / math.sqrt(2 * weight.numel()))
        assert (layer[0].bias == 0).all()
    image = torch.randn(3, 1, 8, 8)
    x = image * network.first.weight[:, 0, 0, 0].reshape(1, 32, 1, 1)
    for layer in network.layers:
        x = functional.conv2d(functional.pad(x, (2, 2, 2, 2)), layer[0].weight).clamp(min=0)
    expected = x.flatten(2).mean(2) @ network.output.weight.T + network.output.bias
    torch.testing.assert_close(network(image), expected)


def test_normalisation_stands_before_the_activation_and_the_convolution_has_no_bias() -> None:
    network = Stack((1, 8, 8), 10, activation="elu", normalise=True)
    for layer in network.layers:
        assert [type(part) for part in layer] == [nn.Conv2d, nn.BatchNorm2d, nn.ELU] and layer[0].bias is None
    x = torch.randn(16, 1, 8, 8)
    out = network.layers[0][:2](network.first(x))
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(16), atol=1e-4, rtol=0)


def test_an_even_kernel_is_refused_where_a_recipe_names_it() -> None:
    data = {"network": {"shape": [1, 8, 8], "classes": 10}, "scaled": True}
    with pytest.raises(Refused, match=r"Stack\(.*\) failed: Stack: kernel: 4 came, an odd number was expected.*Take 5"):
        build_network(Network("stack", "Stack", {"kernel": 4}), data)
    named = build_network(Network("stack", "Stack", {"kernel": 5, "layers": 1, "channels": 8}), data)
    assert isinstance(named.network, Stack) and parameters(named) == 8 * 2 + 8 * (8 * 25 + 1) + 10 * 9


@pytest.mark.parametrize(
    "arguments", [{"activation": "prelu"}, {"normalise": True, "activation": "gelu"}, {"dilation": 2, "kernel": 5}]
)
def test_the_graph_answers_as_the_network_and_normalisation_is_folded_into_it(arguments: dict) -> None:
    torch.manual_seed(1)
    network = Stack((1, 9, 8), 5, channels=8, **arguments)
    images = torch.randint(0, 17, (40, 1, 9, 8), dtype=torch.uint8)
    for layer in network.layers:  # as after training
        if isinstance(layer[1], nn.BatchNorm2d):
            nn.init.uniform_(layer[1].weight, 0.5, 2)
            nn.init.uniform_(layer[1].bias, -1, 1)
    scaled = Scaled(network, (1, 9, 8))
    scaled.fit(images)
    scaled(images)  # statistics other than 0 and 1
    examples = {"image": images[:4].numpy()}
    model = to_onnx(scaled.eval(), examples, ("logits",))
    check_graph(model, scaled, examples, ("logits",))
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Conv") == 3 and "BatchNormalization" not in kinds


def test_every_activation_can_be_named() -> None:
    for name, kind in ACTIVATIONS.items():
        assert isinstance(Stack((1, 8, 8), 10, activation=name).layers[1][2], kind)
