"""Text as a network's raw input: UTF-8 bytes, 0 for padding, embedded inside the graph."""

import torch
from torch import Tensor, nn

UNKNOWN = 1  # the row of every byte that training did not hold; the byte 1 itself is a control code of no text
MISREAD = 0.005  # share of characters that training reads as unknown, so that their row learns to mean that


class Characters(nn.Module):
    """A vector a byte; padding is the vector 0, and all bytes that training did not hold share one vector.

    Args:
        size: of a vector.
    """

    row: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, size, padding_idx=0)
        self.register_buffer("row", torch.arange(256))

    def fit(self, text: Tensor) -> None:
        """Learn which bytes there are, from the training split and no other."""
        known = torch.zeros(256, dtype=torch.bool)
        known[text.flatten().long()] = True
        known[0] = True
        self.row.copy_(torch.where(known, torch.arange(256), UNKNOWN))

    def forward(self, text: Tensor) -> Tensor:
        """``text`` ``(batch, time)`` bytes of any whole-number type to vectors ``(batch, time, size)``."""
        rows = self.row[text.long()]
        if self.training:
            misread = (torch.rand(rows.shape) < MISREAD) & (rows != 0)
            rows = torch.where(misread, UNKNOWN, rows)
        return self.embedding(rows)
