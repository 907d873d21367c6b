"""AlexNet: five convolutions in two towers and three dense layers.

Source: Krizhevsky, Sutskever & Hinton, "ImageNet classification with deep convolutional neural networks" (2012), NIPS
25, section 3 and figure 2: 11x11 of stride 4 to 96 channels, 5x5 to 256, 3x3 to 384, 384 and 256, of which the second,
fourth and fifth see their own tower alone; local response normalisation after the first and second, pools of 3x3 and
stride 2 after the first, second and fifth; published at 59.3 % top-1 on ILSVRC-2012's validation images (one network).
Weights start Gaussian of deviation 0.01; biases at 1 in the second, fourth and fifth convolution and the dense layers,
else at 0.

Deviations:
1. The first convolution is padded by 2, so that 224 gives the 55 of figure 2; without padding it takes 227.
2. Normalisation sums over all channels of a layer, as the formula does; on two GPUs it did not cross the towers' seam.
3. The softmax itself is in the loss; the graph gives logits, whose order is the same.
"""

from torch import Tensor, nn
from torch.nn import functional

SMALLEST = 63  # pixels a side


class AlexNet(nn.Module):
    """Of 3 channels, 224 or 227 pixels a side and 1,000 classes: 60,965,224 parameters.

    Args:
        shape: ``(channels, height, width)`` of an image, 63 x 63 or larger.
        classes: outputs.
        units: of each hidden dense layer.
        dropout: share of the inputs dropped in training at each hidden dense layer, 0 to 1.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, units: int = 4096, dropout: float = 0.5) -> None:
        super().__init__()
        channels, height, width = shape
        if min(height, width) < SMALLEST:
            raise ValueError(
                f"AlexNet: images of {height} x {width} came, {SMALLEST} x {SMALLEST} or larger were expected: "
                f"nothing would be left of smaller ones after its last pool. Give the data a larger `size`"
            )
        self.conv1 = nn.Conv2d(channels, 96, 11, stride=4, padding=2)
        self.conv2 = nn.Conv2d(96, 256, 5, padding=2, groups=2)
        self.conv3 = nn.Conv2d(256, 384, 3, padding=1)
        self.conv4 = nn.Conv2d(384, 384, 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(384, 256, 3, padding=1, groups=2)
        self.dense6 = nn.Linear(256 * _left(height) * _left(width), units)
        self.dense7 = nn.Linear(units, units)
        self.output = nn.Linear(units, classes)
        self.dropout = nn.Dropout(dropout)
        # Section 3.3: k = 2, n = 5, alpha = 1e-4, beta = 0.75; PyTorch divides its alpha by n.
        self.normalise = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
        ones = (self.conv2, self.conv4, self.conv5, self.dense6, self.dense7)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.constant_(module.bias, float(module in ones))  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> Tensor:
        """``(batch, channels, height, width)`` to logits ``(batch, classes)``; sizes are those of 224."""
        x = self.normalise(functional.relu(self.conv1(image)))  # (batch, 96, 55, 55)
        x = functional.max_pool2d(x, 3, stride=2)  # (batch, 96, 27, 27)
        x = self.normalise(functional.relu(self.conv2(x)))  # (batch, 256, 27, 27)
        x = functional.max_pool2d(x, 3, stride=2)  # (batch, 256, 13, 13)
        x = functional.relu(self.conv3(x))  # (batch, 384, 13, 13)
        x = functional.relu(self.conv4(x))
        x = functional.relu(self.conv5(x))  # (batch, 256, 13, 13)
        x = functional.max_pool2d(x, 3, stride=2).flatten(1)  # (batch, 256 * 6 * 6)
        x = functional.relu(self.dense6(self.dropout(x)))
        x = functional.relu(self.dense7(self.dropout(x)))
        return self.output(x)


def _left(size: int) -> int:
    """Of ``size`` pixels a side, after all."""
    size = (size + 4 - 11) // 4 + 1
    for _ in range(3):
        size = (size - 3) // 2 + 1
    return size
