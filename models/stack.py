"""A stack of equal convolutions: what one choice costs, everything else alike.

No source has this network; it is for comparisons that the textbooks make in words. That two 3x3 see what one 5x5 sees
with fewer weights, and three what one 7x7 sees: Simonyan & Zisserman (2015), arXiv:1409.1556, section 2.3. Batch
normalisation: Ioffe & Szegedy (2015), arXiv:1502.03167, before the activation, and the convolution without a bias then.
Dilation: Yu & Koltun (2016), arXiv:1511.07122. Global average and one dense layer: He et al. (2016), arXiv:1512.03385.
He initialisation (He et al. 2015, arXiv:1502.01852), biases at 0.

Deviations:
1. A 1x1 convolution without activation comes first and makes ``channels`` of the image's. All others then have as many
   channels before as after them, as those sources compare them: of an image of one channel, the first 5x5 would have
   a sixteenth of the weights of the second 3x3.
2. He initialisation is derived for ReLU, and is taken for every activation.
"""

from torch import Tensor, nn

from models.activation import activation as new_activation


class Stack(nn.Module):
    """Images of any size. Of ``d`` channels: ``c (d + 1) + layers (c (c kernel² + 1)) + classes (c + 1)`` parameters.

    Here ``c`` is ``channels``; with batch normalisation it is one more for each channel of each layer, and a PReLU has
    one more for each layer. What it sees is ``1 + layers dilation (kernel - 1)`` pixels a side.

    Args:
        shape: ``(channels, height, width)`` of an image.
        classes: outputs.
        kernel: side of each convolution, odd.
        layers: how many convolutions, each with its activation.
        channels: of each.
        activation: a name of ``models.activation``.
        normalise: batch normalisation between each convolution and its activation.
        dilation: distance of a kernel's pixels, 1 where they touch.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        kernel: int = 3,
        layers: int = 2,
        channels: int = 16,
        activation: str = "relu",
        normalise: bool = False,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(
                f"Stack: kernel: {kernel} came, an odd number was expected: an even one cannot be padded alike on both "
                f"sides, and the size would change. Take {kernel + 1}"
            )
        self.first = nn.Conv2d(shape[0], channels, 1)
        convolutions = [
            nn.Conv2d(
                channels, channels, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=not normalise
            )
            for _ in range(layers)
        ]
        self.layers = nn.Sequential(
            *(
                nn.Sequential(
                    convolution,
                    nn.BatchNorm2d(channels) if normalise else nn.Identity(),
                    new_activation(activation),
                )
                for convolution in convolutions
            )
        )
        self.output = nn.Linear(channels, classes)
        nn.init.kaiming_normal_(self.first.weight, nonlinearity="linear")
        for convolution in convolutions:
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        for module in (self.first, *convolutions, self.output):
            if module.bias is not None:
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> Tensor:
        """``(batch, channels, height, width)`` to logits ``(batch, classes)``."""
        x = self.layers(self.first(image))  # (batch, channels, height, width)
        return self.output(x.mean((2, 3)))
