"""An LSTM that reads an image row by row, and says at the last row what it was.

Source: Hochreiter & Schmidhuber, "Long Short-Term Memory" (1997), Neural Computation 9:1735-1780, with the forget
gate of Gers, Schmidhuber & Cummins (2000), Neural Computation 12:2451-2471; Le, Jaitly & Hinton (2015,
arXiv:1504.00941) read images so, pixel by pixel.

Deviations: 1. No peepholes, as PyTorch's LSTM has none.
"""

from torch import Tensor, nn


class RowLSTM(nn.Module):
    """``4 units (channels * width + units + 2) + classes (units + 1)`` parameters.

    Args:
        shape: ``(channels, height, width)`` of an image; any number of rows can be read later.
        classes: outputs.
        units: of the LSTM.
        dropout: share of the last row's outputs dropped in training, 0 to 1.
    """

    axes = {"image": {2: "time"}}

    def __init__(self, shape: tuple[int, int, int], classes: int, units: int, dropout: float = 0.0) -> None:
        super().__init__()
        channels, _, width = shape
        self.lstm = nn.LSTM(channels * width, units, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(units, classes)

    def forward(self, image: Tensor) -> Tensor:
        """``(batch, channels, rows, width)`` to logits ``(batch, classes)``."""
        rows = image.transpose(1, 2).flatten(2)  # (batch, rows, channels * width)
        outputs, _ = self.lstm(rows)
        return self.output(self.dropout(outputs[:, -1]))
