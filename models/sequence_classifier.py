"""What a sequence is, said at its end: an image read row by row, a text read word by word.

Sources:
RowClassifier   Le, Jaitly & Hinton, "A simple way to initialize recurrent networks of rectified linear units" (2015),
                arXiv:1504.00941, section 4.2, who read images so, pixel by pixel.
TextClassifier  Tai, Socher & Manning, "Improved semantic representations from tree-structured long short-term memory
                networks" (2015), ACL, arXiv:1503.00075, sections 2 and 4.1: the class of a sentence, told from the
                state after its last word; there the baseline of trees.

Deviations:
1. Any cell of ``models/cells.py``; the sources have a cell of rectified linear units, and the LSTM.
2. Vectors of words start at random; those of the second source were learned from other text (GloVe).
"""

import torch
from torch import Tensor, nn

from models.recurrent import Stacked
from models.words import Words


class RowClassifier(nn.Module):
    """The parameters of its cells and ``classes (units + 1)``.

    Args:
        shape: ``(channels, height, width)`` of an image; any number of rows can be read later.
        classes: outputs.
        cell: a class of ``models/cells.py``, by name.
        units: of each layer.
        layers: stacked cells.
        dropout: share of each layer's outputs dropped in training, 0 to 1.
    """

    axes = {"image": {2: "time"}}

    def __init__(
        self, shape: tuple[int, int, int], classes: int, cell: str, units: int, layers: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        channels, _, width = shape
        self.cells = Stacked(cell, channels * width, units, layers, dropout)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(units, classes)

    def forward(self, image: Tensor) -> Tensor:
        """``(batch, channels, rows, width)`` to logits ``(batch, classes)``."""
        rows = image.transpose(1, 2).flatten(2)  # (batch, rows, channels * width)
        outputs, _ = self.cells(rows)
        return self.output(self.dropout(outputs[:, -1]))


class TextClassifier(nn.Module):
    """``(most + 2) size``, the parameters of its cells and ``classes (units + 1)``.

    Args:
        classes: outputs.
        cell: a class of ``models/cells.py``, by name.
        size: of a word's vector.
        units: of each layer.
        most: words that the vocabulary may hold, the most frequent ones.
        layers: stacked cells.
        dropout: share of the vectors and of each layer's outputs dropped in training, 0 to 1.
    """

    axes = {"text": {1: "time"}}

    def __init__(
        self, classes: int, cell: str, size: int, units: int, most: int, layers: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.words = Words(size, most)
        self.cells = Stacked(cell, size, units, layers, dropout)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(units, classes)

    def fit(self, text: Tensor) -> None:
        """Learn which words there are, from the training split."""
        self.words.fit(text)

    def forward(self, text: Tensor) -> Tensor:
        """``text`` ``(batch, time)`` bytes, 0 after the end, to logits ``(batch, classes)``.

        A text without a word is what the output layer says of zeros.
        """
        vectors, there = self.words(text)
        length = there.long().sum(1)[:, None, None]  # (batch, 1, 1)
        if self.training:
            vectors = vectors[:, : max(1, int(length.max()))]  # what no text has costs more than all the rest
        outputs, _ = self.cells(self.dropout(vectors))  # (batch, words, units)
        place = torch.where(length > 0, length - 1, 0).expand(-1, -1, outputs.shape[2])
        last = torch.where(length > 0, outputs.gather(1, place), 0)[:, 0]  # (batch, units)
        return self.output(self.dropout(last))
