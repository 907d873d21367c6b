import pytest
import torch
from torch.nn import functional

from models import scaled
from models.gorner import GornerCNN
from models.linear import SoftmaxRegression
from models.resnet import BasicBlock, Block, CifarResNet, ResNet18
from models.scaled import Scaled
from models.sequence_classifier import RowClassifier

SMALL = (1, 8, 8)
NETWORKS = {
    "softmax": lambda: SoftmaxRegression(SMALL, 10),
    "gorner narrow": lambda: GornerCNN(SMALL, 10),
    "gorner wide": lambda: GornerCNN(SMALL, 10, (6, 12, 24), first=6, dropout=0.25),
    "rows": lambda: RowClassifier(SMALL, 10, "LSTM", units=24),
    "resnet": lambda: CifarResNet(SMALL, 10, blocks=1, width=4),
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
        # He et al., table 6: 0.27 M at 20 layers, 0.46 M at 32, 0.66 M at 44, 0.85 M at 56.
        (CifarResNet((3, 32, 32), 10, blocks=3), 269_722),
        (CifarResNet((3, 32, 32), 10, blocks=5), 464_154),
        (CifarResNet((3, 32, 32), 10, blocks=7), 658_586),
        (CifarResNet((3, 32, 32), 10, blocks=9), 853_018),
        (RowClassifier((1, 28, 28), 10, "LSTM", units=128), 4 * 128 * (28 + 128 + 2) + 10 * 129),
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
    network = Scaled(torch.nn.Identity(), (2,))
    network.fit(torch.tensor([[2, 7], [6, 7]], dtype=torch.uint8))  # means 4 and 7; deviations 2 and none
    torch.testing.assert_close(network(torch.tensor([[8, 9]], dtype=torch.uint8)), torch.tensor([[2.0, 2.0]]))
    assert {"mean", "deviation"} <= set(network.state_dict())


def test_each_channel_has_its_own_scale_whatever_the_number_of_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaled, "PART", 100)
    raw = torch.randint(0, 256, (33, 3, 4, 2), dtype=torch.uint8)
    network = Scaled(torch.nn.Identity(), (3, 4, 2))
    network.fit(raw)
    after = network(raw).double()
    torch.testing.assert_close(after.mean((0, 2, 3)), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        after.std((0, 2, 3), correction=0), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-5
    )


def test_a_block_whose_branch_gives_nothing_is_its_shortcut() -> None:
    """He et al., section 3.2 and option A of section 3.3: every second pixel, zeros in the new channels."""
    x = torch.rand(2, 3, 8, 8)
    for stride, width in ((1, 3), (2, 6)):
        block = Block(3, width, stride).eval()
        torch.nn.init.zeros_(block.conv2.weight)
        expected = torch.zeros(2, width, 8 // stride, 8 // stride)
        expected[:, :3] = x[:, :, ::stride, ::stride]
        torch.testing.assert_close(block(x), expected)


def test_the_reader_of_rows_is_pytorchs_own_cell_and_reads_any_number_of_rows() -> None:
    network = RowClassifier(SMALL, 10, "LSTM", units=5).double().eval()
    cell = torch.nn.LSTMCell(8, 5).double()
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        getattr(cell, name).data = getattr(network.cells.layers[0], name).data
    for rows in (1, 8, 13):
        image = torch.rand(3, 1, rows, 8, dtype=torch.float64)
        state = None
        for t in range(rows):
            state = cell(image[:, 0, t], state)
        torch.testing.assert_close(network(image), network.output(state[0]), rtol=0, atol=1e-12)


def test_resnet18_halves_five_times_and_its_shortcuts_are_convolutions_where_the_size_changes() -> None:
    """He et al., table 1: 112, 56, 28, 14, 7; option B of section 3.3."""
    network, sizes = ResNet18((3, 224, 224), 1000).eval(), []
    for part in (network.conv1, network.layer1, network.layer2, network.layer3, network.layer4):
        part.register_forward_hook(lambda _, __, out: sizes.append(tuple(out.shape[1:])))
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)
    assert sizes == [(64, 112, 112), (64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)]
    same, other = BasicBlock(4, 4, 1).eval(), BasicBlock(4, 8, 2).eval()
    x = torch.rand(2, 4, 6, 6)
    for block, expected in ((same, x), (other, other.downsample[1](other.downsample[0](x)))):
        torch.nn.init.zeros_(block.bn2.weight)
        torch.testing.assert_close(block(x), functional.relu(expected))
