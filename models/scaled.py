"""Input scaling as part of the network, so that an exported graph takes raw input."""

import torch
from torch import Tensor, nn

PART = 1 << 23  # numbers that are summed at a time, so that copies in float64 stay below 100 MB


class Scaled(nn.Module):
    """``network((raw - mean) / deviation)``, a mean and a deviation for each channel; buffers, saved with the weights.

    Args:
        network: its ``forward`` has one argument, of floating type.
        shape: of one item's input: ``(channels, height, width)``, or ``(columns,)``.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.network = network
        self.axes = getattr(network, "axes", {})
        each = (shape[0], *(1 for _ in shape[1:]))
        self.register_buffer("mean", torch.zeros(each))
        self.register_buffer("deviation", torch.ones(each))

    def fit(self, raw: Tensor, scaling: str = "z_score") -> None:
        """Set both, in the raw input's unit, from the training split and no other; what is constant is not divided.

        Args:
            raw: ``(items, channels, ...)``.
            scaling: ``z_score``, or ``min_max``: the least becomes 0 and the greatest 1.
        """
        rest = (0, *range(2, raw.ndim))
        if scaling == "min_max":
            least, greatest = raw.amin(rest, keepdim=True).double(), raw.amax(rest, keepdim=True).double()
            self._set(least[0], (greatest - least)[0])
            return
        each = raw.numel() // raw.shape[1]
        parts = raw.split(max(1, PART // raw[0].numel()))
        mean = torch.stack([part.double().sum(rest, keepdim=True) for part in parts]).sum(0) / each
        squares = [((part.double() - mean) ** 2).sum(rest, keepdim=True) for part in parts]
        deviation = (torch.stack(squares).sum(0) / each).sqrt()
        self._set(mean[0], deviation[0])

    def _set(self, mean: Tensor, deviation: Tensor) -> None:
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(deviation > 0, deviation, 1.0))

    def forward(self, raw: Tensor) -> Tensor:
        """``raw`` ``(batch, channels, ...)`` of any number type to the network's output."""
        return self.network((raw.to(self.mean.dtype) - self.mean) / self.deviation)
