import pytest
import torch
from torch.nn import functional

from models.gorner import GornerCNN
from models.linear import SoftmaxRegression
from models.scaled import Scaled

SMALL = (1, 8, 8)
NETWORKS = {
    "softmax": lambda: SoftmaxRegression(SMALL, 10),
    "gorner narrow": lambda: GornerCNN(SMALL, 10),
    "gorner wide": lambda: GornerCNN(SMALL, 10, (6, 12, 24), first=6, dropout=0.25),
}


def parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        # Görner's slides: 784 x 10 weights and 10 biases.
        (SoftmaxRegression((1, 28, 28), 10), 784 * 10 + 10),
        # Görner's slides, W1[5,5,1,4] W2[5,5,4,8] W3[4,4,8,12] W4[7*7*12,200] W5[200,10], and a bias a channel or unit.
        (GornerCNN((1, 28, 28), 10), 100 + 4 + 800 + 8 + 1536 + 12 + 588 * 200 + 200 + 2000 + 10),
        # The wide form: W1[6,6,1,6] W2[5,5,6,12] W3[4,4,12,24] W4[7*7*24,200].
        (
            GornerCNN((1, 28, 28), 10, (6, 12, 24), first=6),
            216 + 6 + 1800 + 12 + 4608 + 24 + 1176 * 200 + 200 + 2000 + 10,
        ),
    ],
)
def test_parameter_counts_are_the_papers(network: torch.nn.Module, expected: int) -> None:
    assert parameters(network) == expected


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("batch", [1, 5])
def test_shapes(name: str, batch: int) -> None:
    assert NETWORKS[name]()(torch.rand(batch, *SMALL)).shape == (batch, 10)


@pytest.mark.parametrize("name", NETWORKS)
def test_overfits_one_batch(name: str) -> None:
    torch.manual_seed(0)
    network, image, label = NETWORKS[name](), torch.randn(16, *SMALL), torch.arange(16) % 10
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    network.eval()  # dropout would keep it from remembering
    for _ in range(300):
        loss = functional.cross_entropy(network(image), label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.05
    assert (network(image).argmax(1) == label).all()


def test_first_layer_pads_as_tensorflows_same() -> None:
    """An even kernel at stride 1: one more after than before. A lone pixel shows where each weight lands."""
    network = GornerCNN(SMALL, 10, first=6)
    image = torch.zeros(1, 1, 8, 8)
    image[0, 0, 4, 4] = 1
    out = network.conv1(network.pad(image))[0, 0] - network.conv1.bias[0]
    # output (y, x) sees input y-2 .. y+3, so that the pixel at 4 meets weight 4 - (y - 2).
    expected = torch.zeros(8, 8)
    for y in range(1, 7):
        for x in range(1, 7):
            expected[y, x] = network.conv1.weight[0, 0, 6 - y, 6 - x]
    torch.testing.assert_close(out, expected)


def test_scaling_is_inside_the_network_and_its_weights() -> None:
    network = Scaled(torch.nn.Identity())
    network.fit(torch.tensor([2, 6], dtype=torch.uint8))  # mean 4, deviation 2
    torch.testing.assert_close(network(torch.tensor([[8]], dtype=torch.uint8)), torch.tensor([[2.0]]))
    assert {"mean", "deviation"} <= set(network.state_dict())
