"""Görner's CNN: three convolutions and two dense layers, no pooling (strides shrink the image).

Source: Görner, "Learn TensorFlow and deep learning, without a Ph.D." (2016), part 2. Narrow form: 5x5 to 4 channels,
5x5 stride 2 to 8, 4x4 stride 2 to 12, 200 units; published at 98.9 % on MNIST. Wide form: 6x6 to 6, 5x5 stride 2 to 12,
4x4 stride 2 to 24, 200 units, dropout; above 99 %.

Deviations:
1. The 5x5 convolution of stride 2 is padded by 2 on every side; TensorFlow's "SAME" pads 1 before and 2 after. The
   others are padded as there.
2. Weights start as PyTorch starts them (uniform, by fan-in), not as a truncated Gaussian of deviation 0.1.
3. Input height and width may be any multiple of four, not 28 alone.
"""

from torch import Tensor, nn
from torch.nn import functional


class GornerCNN(nn.Module):
    """28 x 28 x 1 and 10 classes: 122,270 parameters at widths 4/8/12 with a 5x5 start, 244,076 at 6/12/24 with 6x6.

    Args:
        shape: ``(channels, height, width)`` of an image, height and width multiples of four.
        classes: outputs.
        channels: of the three convolutions.
        first: side of the first kernel, 5 or 6.
        dropout: share of the dense layer's units dropped in training, 0 to 1.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        channels: tuple[int, int, int] = (4, 8, 12),
        first: int = 5,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        depth, height, width = shape
        a, b, c = channels
        left = (first - 1) // 2  # an even kernel wants one more after than before, which no convolution's padding says
        self.pad = nn.ZeroPad2d((left, left + 1, left, left + 1)) if first % 2 == 0 else nn.Identity()
        self.conv1 = nn.Conv2d(depth, a, first, padding=0 if first % 2 == 0 else left)
        self.conv2 = nn.Conv2d(a, b, 5, stride=2, padding=2)
        self.conv3 = nn.Conv2d(b, c, 4, stride=2, padding=1)
        self.dense = nn.Linear(c * (height // 4) * (width // 4), 200)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(200, classes)

    def forward(self, image: Tensor) -> Tensor:
        """``(batch, channels, height, width)`` to logits ``(batch, classes)``."""
        x = functional.relu(self.conv1(self.pad(image)))  # (batch, a, height, width)
        x = functional.relu(self.conv2(x))  # (batch, b, height / 2, width / 2)
        x = functional.relu(self.conv3(x))  # (batch, c, height / 4, width / 4)
        x = functional.relu(self.dense(x.flatten(1)))
        return self.output(self.dropout(x))
