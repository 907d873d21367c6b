"""ResNet: 3x3 convolutions in pairs, each pair beside a shortcut; for small images, and for those of ImageNet.

Source: He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition" (2016, arXiv:1512.03385). For small images
section 4.2: a first convolution to 16 channels, then stages of 16, 32 and 64 channels at full, half and quarter size,
``blocks`` pairs in each, global average, one dense layer: ``6 blocks + 2`` layers, published with 3 blocks (20 layers,
0.27 M parameters) at 91.25 % on CIFAR-10. For ImageNet table 1: 7x7 of stride 2 to 64 channels, pooled, then stages of
64, 128, 256 and 512 channels, two pairs in each with 18 layers, 3, 4, 6 and 3 with 34, and as many threes of 1x1, 3x3
and 1x1 to four times the channels with 50; published at 72.12, 75.48 and 77.15 % top-1 (10-crop). He initialisation (He
et al. 2015, arXiv:1502.01852).

Deviations:
1. ``width`` other than 16 where a recipe says so; the stages keep the ratio 1 : 2 : 4.
2. Where a stage of the small form halves the image, the shortcut takes every second pixel and pads channels with zeros
   (the paper's option A), spelt as a slice and a pad; the added channels are all at the end. The shortcut of those for
   ImageNet is a 1x1 convolution there (option B).
3. The parameters of those for ImageNet have torchvision's names, so that weights trained with it load.
4. In a three it is the 3x3 that has the stride, as torchvision's; the paper's has it in the first 1x1.
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


class BasicBlock(nn.Module):
    """As ``Block``, with a 1x1 convolution in the shortcut where the size changes."""

    growth = 1  # channels of the output for one of ``width``

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = nn.Sequential()
        if stride > 1 or channels != width:
            convolution = nn.Conv2d(channels, width, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(convolution, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, channels, height, width)`` to ``(batch, width, height / stride, width / stride)``."""
        branch = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(branch)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1 to ``width``, 3x3, and 1x1 to ``4 width``, beside the shortcut."""

    growth = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = nn.Sequential()
        if stride > 1 or channels != 4 * width:
            convolution = nn.Conv2d(channels, 4 * width, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(convolution, nn.BatchNorm2d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, channels, height, width)`` to ``(batch, 4 width, height / stride, width / stride)``."""
        branch = functional.relu(self.bn1(self.conv1(x)))
        branch = functional.relu(self.bn2(self.conv2(branch)))
        return functional.relu(self.bn3(self.conv3(branch)) + self.downsample(x))


class ImageNetResNet(nn.Module):
    """Table 1, whatever the image's size (published at 224 x 224).

    Args:
        shape: ``(channels, height, width)`` of an image.
        classes: outputs.
        block: of which the stages are made.
        depths: blocks of each of the four stages.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        block: type[BasicBlock | Bottleneck],
        depths: tuple[int, int, int, int],
    ) -> None:
        super().__init__()
        grown = block.growth
        self.conv1 = nn.Conv2d(shape[0], 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(block, 64, 64, 1, depths[0])
        self.layer2 = _stage(block, 64 * grown, 128, 2, depths[1])
        self.layer3 = _stage(block, 128 * grown, 256, 2, depths[2])
        self.layer4 = _stage(block, 256 * grown, 512, 2, depths[3])
        self.fc = nn.Linear(512 * grown, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """``(batch, channels, height, width)`` to logits ``(batch, classes)``."""
        x = functional.relu(self.bn1(self.conv1(image)))
        x = functional.max_pool2d(x, 3, stride=2, padding=1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


class ResNet18(ImageNetResNet):
    """Of 3 channels and 1,000 classes: 11,689,512 parameters."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(shape, classes, BasicBlock, (2, 2, 2, 2))


class ResNet34(ImageNetResNet):
    """Of 3 channels and 1,000 classes: 21,797,672 parameters."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(shape, classes, BasicBlock, (3, 4, 6, 3))


class ResNet50(ImageNetResNet):
    """Of 3 channels and 1,000 classes: 25,557,032 parameters."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(shape, classes, Bottleneck, (3, 4, 6, 3))


def _stage(block: type[BasicBlock | Bottleneck], channels: int, width: int, stride: int, depth: int) -> nn.Sequential:
    first = block(channels, width, stride)
    return nn.Sequential(first, *(block(width * block.growth, width, 1) for _ in range(depth - 1)))
