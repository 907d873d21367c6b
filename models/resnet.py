"""ResNet in the form for small images: 3x3 convolutions in pairs, each pair beside a shortcut.

Source: He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition" (2016, arXiv:1512.03385), section 4.2: a
first convolution to 16 channels, then stages of 16, 32 and 64 channels at full, half and quarter size, ``blocks`` pairs
in each, global average, one dense layer: ``6 blocks + 2`` layers, published with 3 blocks (20 layers, 0.27 M
parameters) at 91.25 % on CIFAR-10. He initialisation (He et al. 2015, arXiv:1502.01852).

Deviations:
1. ``width`` other than 16 where a recipe says so; the stages keep the ratio 1 : 2 : 4.
2. Where a stage halves the image, the shortcut takes every second pixel and pads channels with zeros (the paper's
   option A), spelt as a slice and a pad; the added channels are all at the end.
"""

from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """Two 3x3 convolutions and the shortcut: ``relu(x + branch(x))``."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride, self.added = stride, width - channels
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, channels, height, width)`` to ``(batch, width, height / stride, width / stride)``."""
        branch = functional.relu(self.norm1(self.conv1(x)))
        branch = self.norm2(self.conv2(branch))
        shortcut = x[:, :, :: self.stride, :: self.stride] if self.stride > 1 else x
        if self.added:
            shortcut = functional.pad(shortcut, (0, 0, 0, 0, 0, self.added))
        return functional.relu(branch + shortcut)


class CifarResNet(nn.Module):
    """Of 3 x 32 x 32, 10 classes and 3 blocks a stage: 269,722 parameters.

    Args:
        shape: ``(channels, height, width)`` of an image.
        classes: outputs.
        blocks: of each of the three stages.
        width: channels of the first stage.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, blocks: int, width: int = 16) -> None:
        super().__init__()
        self.conv = nn.Conv2d(shape[0], width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        stages = []
        channels = width
        for stage, wide in enumerate((width, 2 * width, 4 * width)):
            for i in range(blocks):
                stages.append(Block(channels, wide, stride=2 if stage and i == 0 else 1))
                channels = wide
        self.blocks = nn.Sequential(*stages)
        self.output = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """``(batch, channels, height, width)`` to logits ``(batch, classes)``."""
        x = self.blocks(functional.relu(self.norm(self.conv(image))))
        return self.output(x.mean((2, 3)))
