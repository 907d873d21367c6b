"""Input scaling as part of the network, so that an exported graph takes raw input."""

import torch
from torch import Tensor, nn


class Scaled(nn.Module):
    """``network((image - mean) / deviation)``; both are buffers, saved with the weights.

    Args:
        network: takes floating input of any shape.
        mean, deviation: fitted on the training split; scalars, in the raw input's unit.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: nn.Module, mean: float = 0.0, deviation: float = 1.0) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(float(mean)))
        self.register_buffer("deviation", torch.tensor(float(deviation)))

    def forward(self, image: Tensor) -> Tensor:
        """Raw ``image`` ``(batch, ...)`` of any number type to the network's output."""
        return self.network((image.to(self.mean.dtype) - self.mean) / self.deviation)
