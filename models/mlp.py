"""Multilayer perceptron: dense layers, narrower and narrower, with any activation between them.

Source: Görner, "Learn TensorFlow and deep learning, without a Ph.D." (2016), part 1: five layers of 200, 100, 60, 30
and 10 units, first with the sigmoid, then with ReLU; with a decaying rate and dropout published at 98 % on MNIST.
Weights start as there: a Gaussian of deviation 0.1, cut at 0.2; biases at 0.1 with ReLU and at 0 with the sigmoid, and
the output's at 0.

Deviations:
1. The softmax itself is in the loss; the graph gives logits, whose order is the same.
2. With the activations that the source has not, biases start at 0.
3. The biases of the output start at 0 in all forms; some of the source's have 0.1 there.
"""

from itertools import pairwise
from math import prod

from torch import Tensor, nn

from models.activation import activation as activation_of


class MLP(nn.Module):
    """28 x 28 x 1 and 10 classes: 185,300 parameters.

    Args:
        shape: of one item's input; it is flattened.
        classes: outputs.
        units: of the hidden layers.
        activation: after each hidden layer, by a name of ``models/activation.py``.
        dropout: share of each hidden layer's units dropped in training, 0 to 1.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        units: tuple[int, ...] = (200, 100, 60, 30),
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        hidden: list[nn.Module] = []
        for before, after in pairwise([prod(shape), *units]):
            dense = nn.Linear(before, after)
            _start(dense, 0.1 if activation == "relu" else 0.0)
            hidden += [dense, activation_of(activation), nn.Dropout(dropout)]
        self.hidden = nn.Sequential(*hidden)
        self.output = nn.Linear([prod(shape), *units][-1], classes)
        _start(self.output, 0.0)

    def forward(self, image: Tensor) -> Tensor:
        """``(batch, *shape)`` to logits ``(batch, classes)``."""
        return self.output(self.hidden(image.flatten(1)))


def _start(dense: nn.Linear, bias: float) -> None:
    nn.init.trunc_normal_(dense.weight, std=0.1, a=-0.2, b=0.2)
    nn.init.constant_(dense.bias, bias)
