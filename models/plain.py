"""The deep 3x3 CNN: pairs of small convolutions, each pair with a pool after it, and two dense layers.

Source: Saitoh, "Deep Learning from Scratch" (O'Reilly Japan 2016), section 8.1, ``deep_convnet.py``: 16, 16, 32, 32, 64
and 64 channels, the fourth convolution padded by 2 so that 28 x 28 ends at 4 x 4; 50 units; dropout of one half after
both dense layers; He initialisation (He et al. 2015, arXiv:1502.01852), biases at 0; Adam; published at 99.38 % on
MNIST. Several of it whose answers are averaged are an ensemble, as in section 8.1.2 there.

Deviations:
1. The softmax itself is in the loss; the graph gives logits, whose order is the same.
2. Input height and width may be any from 4 on, not 28 alone.
3. The ensemble averages logits, which is the geometric mean of its members' probabilities; no probability can vanish in
   float16 then.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

SMALLEST = 4  # pixels a side


class PlainCNN(nn.Module):
    """28 x 28 x 1 and 10 classes: 123,552 parameters.

    Args:
        shape: ``(channels, height, width)`` of an image, 4 x 4 or larger.
        classes: outputs.
        channels: of the three pairs of convolutions.
        units: of the hidden dense layer.
        dropout: share of each dense layer's units dropped in training, the logits too, 0 to 1.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        channels: tuple[int, int, int] = (16, 32, 64),
        units: int = 50,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        depth, height, width = shape
        if min(height, width) < SMALLEST:
            raise ValueError(
                f"PlainCNN: images of {height} x {width} came, {SMALLEST} x {SMALLEST} or larger were expected: "
                f"nothing would be left of smaller ones after three pools. Give the data a larger `size`"
            )
        a, b, c = channels
        self.conv1 = nn.Conv2d(depth, a, 3, padding=1)
        self.conv2 = nn.Conv2d(a, a, 3, padding=1)
        self.conv3 = nn.Conv2d(a, b, 3, padding=1)
        self.conv4 = nn.Conv2d(b, b, 3, padding=2)
        self.conv5 = nn.Conv2d(b, c, 3, padding=1)
        self.conv6 = nn.Conv2d(c, c, 3, padding=1)
        self.dense = nn.Linear(c * ((height // 2 + 2) // 4) * ((width // 2 + 2) // 4), units)
        self.output = nn.Linear(units, classes)
        self.dropout = nn.Dropout(dropout)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> Tensor:
        """``(batch, channels, height, width)`` to logits ``(batch, classes)``."""
        x = functional.relu(self.conv2(functional.relu(self.conv1(image))))
        x = functional.max_pool2d(x, 2)  # (batch, a, height / 2, width / 2)
        x = functional.relu(self.conv4(functional.relu(self.conv3(x))))
        x = functional.max_pool2d(x, 2)  # (batch, b, height / 4 + 1, width / 4 + 1)
        x = functional.relu(self.conv6(functional.relu(self.conv5(x))))
        x = functional.max_pool2d(x, 2)  # (batch, c, 4, 4) of 28 x 28
        x = self.dropout(functional.relu(self.dense(x.flatten(1))))
        return self.dropout(self.output(x))


class PlainEnsemble(nn.Module):
    """Several of ``PlainCNN``, each from its own start, which see the same batches and learn each for itself.

    Training minimises the mean of their losses: a member's gradient is its own over ``members``, which Adam and its
    like, that divide by the gradient's size, do not notice; of the others multiply the rate.

    Args:
        shape: ``(channels, height, width)`` of an image, 4 x 4 or larger.
        classes: outputs.
        members: how many.
        dropout: as ``PlainCNN``'s.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, members: int = 3, dropout: float = 0.5) -> None:
        super().__init__()
        self.members = nn.ModuleList(PlainCNN(shape, classes, dropout=dropout) for _ in range(members))

    def forward(self, image: Tensor) -> Tensor:
        """``(batch, channels, height, width)`` to logits ``(batch, classes)``; or, in training, of each member."""
        logits = torch.stack([member(image) for member in self.members], 1)
        return logits if self.training else logits.mean(1)
