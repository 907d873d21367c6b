"""LeNet-5: convolutions that see some of the maps before them, and subsampling that is learned.

Source: LeCun, Bottou, Bengio & Haffner, "Gradient-based learning applied to document recognition" (1998), Proceedings
of the IEEE 86:2278-2324, section II.B; published at 99.05 % on MNIST, at 99.2 % with distorted training images. Layers
C1, S2, C3, S4, C5 and F6 have 60,000 parameters on a field of 32 x 32. Squashing by 1.7159 tanh(2x/3) (appendix A);
weights and biases start uniform within 2.4 / fan-in.

Deviations:
1. The field is the image and two pixels on every side, as of 28 x 28 there, but these are 0 after scaling, the mean of
   the images, and not the background's value. Larger images have a larger C5, smaller ones a smaller, and it gives one
   place always.
2. S2 and S4 take the mean of four where the paper takes their sum: the coefficient is four times the paper's.
3. C3's kernels are one tensor of all 6 x 16, so that the graph has a plain convolution; the 36 that table I leaves out
   start at 0 and, masked in training, stay there.
4. The output is a dense layer with cross-entropy, not the distance to fixed bitmaps of 7 x 12, which exist for ASCII
   alone. All codes being +1 or -1, the least distance is the largest ``w x``: a dense layer with free weights.
5. Colour: C1 sees every channel.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

SMALLEST = 12  # pixels a side
# Table I: the maps of S2 that each map of C3 sees.
TABLE = (
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    (0, 1, 2, 3, 4, 5),
)


class Subsampling(nn.Module):
    """The mean of 2 x 2, a coefficient and a bias a map."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.coefficient = nn.Parameter(torch.empty(maps, 1, 1).uniform_(-2.4, 2.4))  # of the sum: 2.4 / 4
        self.bias = nn.Parameter(torch.empty(maps, 1, 1).uniform_(-0.6, 0.6))

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, maps, height, width)`` to ``(batch, maps, height / 2, width / 2)``."""
        return functional.avg_pool2d(x, 2) * self.coefficient + self.bias


class TableConvolution(nn.Conv2d):
    """5 x 5, 6 maps to 16, by ``TABLE``: 1,516 parameters, and 900 numbers that are 0."""

    table: Tensor

    def __init__(self) -> None:
        super().__init__(6, 16, 5)
        table = torch.tensor([[float(before in seen) for before in range(6)] for seen in TABLE])
        self.register_buffer("table", table[:, :, None, None], persistent=False)
        for weight, bias, seen in zip(self.weight.data, self.bias.data, TABLE):  # type: ignore[union-attr]
            _start(weight, 25 * len(seen))
            _start(bias, 25 * len(seen))
        self.weight.data *= self.table

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, 6, height, width)`` to ``(batch, 16, height - 4, width - 4)``."""
        weight = self.weight * self.table if self.training else self.weight
        return functional.conv2d(x, weight, self.bias)


class LeNet5(nn.Module):
    """28 x 28 x 1 and 10 classes: 60,850 parameters, and 900 numbers that are 0.

    Args:
        shape: ``(channels, height, width)`` of an image, 12 x 12 or larger.
        classes: outputs.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        if min(height, width) < SMALLEST:
            raise ValueError(
                f"LeNet5: images of {height} x {width} came, {SMALLEST} x {SMALLEST} or larger were expected: "
                f"nothing would be left of smaller ones at C5. Give the data a larger `size`"
            )
        self.c1 = nn.Conv2d(channels, 6, 5, padding=2)
        self.s2 = Subsampling(6)
        self.c3 = TableConvolution()
        self.s4 = Subsampling(16)
        self.c5 = nn.Conv2d(16, 120, ((height // 2 - 4) // 2, (width // 2 - 4) // 2))
        self.f6 = nn.Linear(120, 84)
        self.output = nn.Linear(84, classes)
        for layer in (self.c1, self.c5, self.f6, self.output):
            _start(layer.weight.data, layer.weight[0].numel())
            _start(layer.bias.data, layer.weight[0].numel())  # type: ignore[union-attr]

    def forward(self, image: Tensor) -> Tensor:
        """``(batch, channels, height, width)`` to logits ``(batch, classes)``."""
        x = squash(self.c1(image))  # (batch, 6, height, width)
        x = squash(self.s2(x))  # (batch, 6, height / 2, width / 2)
        x = squash(self.c3(x))  # (batch, 16, height / 2 - 4, width / 2 - 4)
        x = squash(self.s4(x))  # (batch, 16, height / 4 - 2, width / 4 - 2)
        x = squash(self.c5(x))  # (batch, 120, 1, 1)
        return self.output(squash(self.f6(x.flatten(1))))


def squash(x: Tensor) -> Tensor:
    """1 at 1 and -1 at -1, and most curved there."""
    return 1.7159 * torch.tanh(x * (2 / 3))


def _start(tensor: Tensor, fan_in: int) -> None:
    tensor.uniform_(-2.4 / fan_in, 2.4 / fan_in)
