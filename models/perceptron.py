"""The perceptron: a weighted sum and a step.

Source: Rosenblatt, "The perceptron: a probabilistic model for information storage and organization in the brain"
(1958), Psychological Review 65:386-408; the response of +1 or -1 is that of his "Principles of Neurodynamics" (1962).

Deviations:
1. The image itself is what the weights see; Rosenblatt has a layer of fixed random connections before them.
2. A response unit a class, each for itself. Where several fire, or none, the first of them is the answer.
3. In training ``forward`` gives the sums before the step, for the perceptron loss ``max(0, -y sum)``: a step has no
   slope. The loss of the steps themselves is the number of units that are wrong.
4. Weights start as PyTorch starts them (uniform, by fan-in): at sums of zero the loss has no slope either.
"""

from math import prod

import torch
from torch import Tensor, nn


class Perceptron(nn.Module):
    """``step(W x + b)`` on the flattened image: ``channels * height * width * classes + classes`` parameters."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(prod(shape), classes)

    def forward(self, image: Tensor) -> Tensor:
        """``(batch, *shape)`` to responses ``(batch, classes)``, +1 or -1, and 0 where a sum is 0 exactly."""
        sums = self.linear(image.flatten(1))
        return sums if self.training else torch.sign(sums)
