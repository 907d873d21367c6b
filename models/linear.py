"""Softmax regression: one linear layer; the textbooks' first classifier.

Source: Görner, "Learn TensorFlow and deep learning, without a Ph.D." (2016), part 1: 784 x 10 weights and 10 biases
on 28 x 28 images, published at 92 % on MNIST.

Deviations: 1. The softmax itself is in the loss; the graph gives logits, whose order is the same.
"""

from math import prod

from torch import Tensor, nn


class SoftmaxRegression(nn.Module):
    """``logits = W x + b`` on the flattened image: ``channels * height * width * classes + classes`` parameters."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(prod(shape), classes)

    def forward(self, image: Tensor) -> Tensor:
        """``(batch, *shape)`` to logits ``(batch, classes)``."""
        return self.linear(image.flatten(1))
