"""Character language model of stacked recurrent cells: what comes next, told from all that came before.

Source: Görner, "Tensorflow, deep learning and recurrent neural networks, without a Ph.D." (2017), for three layers of
GRU on characters, there of 512 units on Shakespeare; the cells' sources are in ``models/cells.py``.

Deviations:
1. Characters are UTF-8 bytes, embedded instead of one-hot.
2. In training a text is read in windows, each from a state of zeros, side by side: backpropagation through time is
   truncated (Williams & Peng 1990, Neural Computation 2:490-501) and takes as many steps as a window is long.
"""

from torch import Tensor, nn

from models.characters import Characters
from models.recurrent import Stacked


class LanguageModel(nn.Module):
    """Logits of the next byte: ``256 size``, the cells' parameters and ``256 (units + 1)``.

    The same graph serves one step, a chunk and a whole text: time is free, and the state goes in and comes out.

    Args:
        cell: a class of ``models/cells.py``, by name.
        size: of a character's vector.
        units: of each layer.
        layers: stacked cells.
        window: characters; in training it must divide a text's length.
        dropout: share of each layer's outputs dropped in training, 0 to 1.
    """

    axes = {"text": {1: "time"}}

    def __init__(self, cell: str, size: int, units: int, layers: int, window: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.window = window
        self.characters = Characters(size)
        self.cells = Stacked(cell, size, units, layers, dropout)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(units, 256)

    def fit(self, text: Tensor) -> None:
        """Learn which bytes there are, from the training split."""
        self.characters.fit(text)

    def forward(self, text: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``text`` ``(batch, time)`` bytes, ``state`` ``(batch, layers, width)``, zeros where there is none.

        Returns:
            Logits ``(batch, time, 256)`` of the byte after each, and the next state ``(batch, layers, width)``.

        Raises:
            ValueError: in training, a text that is no whole number of windows.
        """
        vectors = self.characters(text)
        if self.training:
            batch, time, size = vectors.shape
            if time % self.window:
                raise ValueError(f"window: {self.window} came, a divisor of a text's {time} bytes was expected")
            outputs, after = self.cells(vectors.reshape(-1, self.window, size))
            return self.output(self.dropout(outputs).reshape(batch, time, -1)), after
        outputs, after = self.cells(vectors, state)
        return self.output(outputs), after
