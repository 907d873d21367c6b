"""Input scaling as part of the network, so that an exported graph takes raw input."""

import torch
from torch import Tensor, nn


class Scaled(nn.Module):
    """``network((image - mean) / deviation)``; both are buffers, saved with the weights.

    Args:
        network: takes floating input of any shape.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.axes = getattr(network, "axes", {})
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("deviation", torch.tensor(1.0))

    def fit(self, image: Tensor) -> None:
        """Set both, in the raw input's unit, from the training split and no other."""
        raw = image.to(torch.float64)
        self.mean.fill_(raw.mean())
        self.deviation.fill_(raw.std(correction=0))

    def forward(self, image: Tensor) -> Tensor:
        """Raw ``image`` ``(batch, ...)`` of any number type to the network's output."""
        return self.network((image.to(self.mean.dtype) - self.mean) / self.deviation)
