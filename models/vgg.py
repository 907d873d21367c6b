"""VGG: 3x3 convolutions alone, two to four between pools, and three dense layers.

Source: Simonyan & Zisserman, "Very deep convolutional networks for large-scale image recognition" (2015,
arXiv:1409.1556), table 1, configurations A (11 layers), D (16) and E (19); published at 29.6, 27.0 and 27.3 % top-1
error on ILSVRC-2012's validation images (table 3, one scale, 256; D and E: trained at 256). Glorot initialisation, with
which the paper says that all of them start without pre-training; biases at 0.

Deviations:
1. Parameters have torchvision's names, so that weights trained with it load.
2. The softmax itself is in the loss; the graph gives logits, whose order is the same.
"""

from torch import Tensor, nn

SMALLEST = 32  # pixels a side
WIDTHS = (64, 128, 256, 512, 512)
PAIRS = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # layers -> convolutions before each pool


class VGG(nn.Module):
    """Of 3 x 224 x 224 and 1,000 classes: 132,863,336 parameters at 11 layers, 138,357,544 at 16, 143,667,240 at 19.

    Args:
        shape: ``(channels, height, width)`` of an image, 32 x 32 or larger.
        classes: outputs.
        layers: 11, 16 or 19.
        units: of each hidden dense layer.
        dropout: share of each hidden dense layer's units dropped in training, 0 to 1.
    """

    def __init__(
        self, shape: tuple[int, int, int], classes: int, layers: int, units: int = 4096, dropout: float = 0.5
    ) -> None:
        super().__init__()
        channels, height, width = shape
        if layers not in PAIRS:
            raise ValueError(f"VGG: layers: {layers} came, 11, 16 or 19 was expected")
        if min(height, width) < SMALLEST:
            raise ValueError(
                f"VGG: images of {height} x {width} came, {SMALLEST} x {SMALLEST} or larger were expected: "
                f"nothing would be left of smaller ones after five pools. Give the data a larger `size`"
            )
        features: list[nn.Module] = []
        for wide, convolutions in zip(WIDTHS, PAIRS[layers], strict=True):
            for _ in range(convolutions):
                features += [nn.Conv2d(channels, wide, 3, padding=1), nn.ReLU()]
                channels = wide
            features.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(
            nn.Linear(channels * (height // 32) * (width // 32), units),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(units, units),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(units, classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> Tensor:
        """``(batch, channels, height, width)`` to logits ``(batch, classes)``."""
        return self.classifier(self.features(image).flatten(1))
