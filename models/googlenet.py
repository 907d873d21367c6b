"""GoogLeNet: nine modules of four branches each, and two auxiliary heads while it is trained.

Source: Szegedy et al., "Going deeper with convolutions" (2015, arXiv:1409.4842), table 1 and figure 3; published at
6.67 % top-5 error on ILSVRC-2014 (seven networks, 144 crops), 10.07 % (one network, one crop: table 3). The heads are
those of section 5: in training their losses count 0.3 of the output's each, later they are left out.

Deviations:
1. The first convolution is a 7x7 as in figure 3, of 9,408 weights; table 1 counts 2.7 K, which are those of seven by
   seven a channel to 8 each and a 1x1 after them.
2. Normalisation has AlexNet's constants (Krizhevsky et al. 2012, section 3.3); the paper gives none.
3. Pools of stride 2 take what is there at the far edge where a window hangs over it; the paper does not say.
4. Where the maps at a head are smaller than 5 x 5, as of images below 79 pixels a side, its pool takes them whole.
5. Weights start as Glorot's, biases at 0; the paper does not say.
6. The softmax itself is in the loss; the graph gives logits, whose order is the same.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

SMALLEST = 31  # pixels a side


class Inception(nn.Module):
    """1x1, 3x3, 5x5 and a pool side by side, the larger ones on fewer channels first.

    Args:
        channels: of the input.
        widths: table 1's: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool proj.
    """

    def __init__(self, channels: int, *widths: int) -> None:
        super().__init__()
        one, reduce3, three, reduce5, five, pool = widths
        self.one = nn.Conv2d(channels, one, 1)
        self.reduce3 = nn.Conv2d(channels, reduce3, 1)
        self.three = nn.Conv2d(reduce3, three, 3, padding=1)
        self.reduce5 = nn.Conv2d(channels, reduce5, 1)
        self.five = nn.Conv2d(reduce5, five, 5, padding=2)
        self.pool = nn.Conv2d(channels, pool, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, channels, height, width)`` to ``(batch, one + three + five + pool, height, width)``."""
        one = functional.relu(self.one(x))
        three = functional.relu(self.three(functional.relu(self.reduce3(x))))
        five = functional.relu(self.five(functional.relu(self.reduce5(x))))
        pool = functional.relu(self.pool(functional.max_pool2d(x, 3, stride=1, padding=1)))
        return torch.cat([one, three, five, pool], dim=1)


class Head(nn.Module):
    """An auxiliary classifier on maps ``(channels, height, width)``."""

    def __init__(self, channels: int, height: int, width: int, classes: int) -> None:
        super().__init__()
        self.window = min(5, height), min(5, width)
        places = ((height - self.window[0]) // 3 + 1) * ((width - self.window[1]) // 3 + 1)
        self.conv = nn.Conv2d(channels, 128, 1)
        self.dense = nn.Linear(128 * places, 1024)
        self.dropout = nn.Dropout(0.7)
        self.output = nn.Linear(1024, classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, channels, height, width)`` to logits ``(batch, classes)``."""
        x = functional.relu(self.conv(functional.avg_pool2d(x, self.window, stride=3)))
        return self.output(self.dropout(functional.relu(self.dense(x.flatten(1)))))


class GoogLeNet(nn.Module):
    """Of 3 x 224 x 224 and 1,000 classes: 6,998,552 parameters, and 6,379,728 of the two heads.

    Args:
        shape: ``(channels, height, width)`` of an image, 31 x 31 or larger.
        classes: outputs.
        dropout: share of the averages dropped in training, 0 to 1.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, dropout: float = 0.4) -> None:
        super().__init__()
        channels, height, width = shape
        if min(height, width) < SMALLEST:
            raise ValueError(
                f"GoogLeNet: images of {height} x {width} came, {SMALLEST} x {SMALLEST} or larger were expected: "
                f"nothing would be left of smaller ones after its last pool. Give the data a larger `size`"
            )
        self.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3)
        self.reduce2 = nn.Conv2d(64, 64, 1)
        self.conv2 = nn.Conv2d(64, 192, 3, padding=1)
        self.inception3a = Inception(192, 64, 96, 128, 16, 32, 32)
        self.inception3b = Inception(256, 128, 128, 192, 32, 96, 64)
        self.inception4a = Inception(480, 192, 96, 208, 16, 48, 64)
        self.inception4b = Inception(512, 160, 112, 224, 24, 64, 64)
        self.inception4c = Inception(512, 128, 128, 256, 24, 64, 64)
        self.inception4d = Inception(512, 112, 144, 288, 32, 64, 64)
        self.inception4e = Inception(528, 256, 160, 320, 32, 128, 128)
        self.inception5a = Inception(832, 256, 160, 320, 32, 128, 128)
        self.inception5b = Inception(832, 384, 192, 384, 48, 128, 128)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(1024, classes)
        at = (height + 1) // 2 // 8, (width + 1) // 2 // 8  # the maps of 4a to 4e
        self.head4a = Head(512, *at, classes)
        self.head4d = Head(528, *at, classes)
        self.normalise = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)  # PyTorch divides its alpha by 5
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """``(batch, channels, height, width)`` to logits ``(batch, classes)``; sizes are those of 224.

        In training those of the heads after 4a and 4d stand beside them.
        """
        x = _pool(functional.relu(self.conv1(image)))  # (batch, 64, 56, 56)
        x = functional.relu(self.reduce2(self.normalise(x)))
        x = _pool(self.normalise(functional.relu(self.conv2(x))))  # (batch, 192, 28, 28)
        x = _pool(self.inception3b(self.inception3a(x)))  # (batch, 480, 14, 14)
        x4a = self.inception4a(x)
        x4d = self.inception4d(self.inception4c(self.inception4b(x4a)))
        x = _pool(self.inception4e(x4d))  # (batch, 832, 7, 7)
        x = self.inception5b(self.inception5a(x)).mean((2, 3))  # (batch, 1024)
        logits = self.output(self.dropout(x))
        return (logits, self.head4a(x4a), self.head4d(x4d)) if self.training else logits


def _pool(x: Tensor) -> Tensor:
    """``(batch, channels, height, width)`` to ``(batch, channels, height / 2, width / 2)``, rounded down."""
    return functional.max_pool2d(x, 3, stride=2, ceil_mode=True)
