"""Bidirectional tagger: the class of every character, told from all before it and all after it.

Source: Graves & Schmidhuber, "Framewise phoneme classification with bidirectional LSTM and other neural network
architectures" (2005), Neural Networks 18:602-610, section 2: one LSTM reads forwards, one backwards, and one output
layer sees both at every step.

Deviations:
1. Any cell of ``models/cells.py``; the source's LSTM has peepholes (``PeepholeLSTM``).
2. Characters are UTF-8 bytes, embedded; the source reads 26 acoustic coefficients a frame.
"""

from torch import Tensor, nn
from torch.nn import functional

from models.characters import Characters
from models.recurrent import Bidirectional


class Tagger(nn.Module):
    """``256 size``, the parameters of two cells a layer, and ``classes (2 units + 1)``.

    Args:
        classes: of a character.
        cell: a class of ``models/cells.py``, by name.
        size: of a character's vector.
        units: of each cell.
        layers: of a cell a direction, each reading both of the layer below.
        dropout: share of each layer's outputs dropped in training, 0 to 1.
    """

    axes = {"text": {1: "time"}}

    def __init__(self, classes: int, cell: str, size: int, units: int, layers: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.characters = Characters(size)
        self.layers = nn.ModuleList(Bidirectional(cell, 2 * units if i else size, units) for i in range(layers))
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(2 * units, classes)

    def fit(self, text: Tensor) -> None:
        """Learn which bytes there are, from the training split."""
        self.characters.fit(text)

    def forward(self, text: Tensor) -> Tensor:
        """``text`` ``(batch, time)`` bytes, 0 after the end, to logits ``(batch, time, classes)``."""
        text = text.long()  # TensorRT compares no bytes
        length = (text != 0).sum(dim=1, keepdim=True)  # (batch, 1)
        padding = 0
        if self.training:  # a batch is padded to the longest text of all; nothing is learned there
            padding = text.shape[1] - int(length.max())
            text = text[:, : text.shape[1] - padding]
        x = self.characters(text)
        for layer in self.layers:
            x = self.dropout(layer(x, length))  # (batch, time, 2 units)
        return functional.pad(self.output(x), (0, 0, 0, padding)) if self.training else self.output(x)
