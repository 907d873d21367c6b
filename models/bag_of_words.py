"""Bag of words: what a text is, from which words stand in it and however they are ordered; the linear baseline.

Source: Joachims, "Text categorization with support vector machines: learning with many relevant features" (1998), ECML,
section 2: a text is the number of times that each word stands in it, and the classifier is linear.

Deviations:
1. It is learned by gradient descent on the loss of a softmax, which is in the loss; the source has support vectors.
2. Counts are as they are; the source weighs them by rarity and scales each text to length 1.
3. The source's words stand three times at least in training, and stop words are left out; here twice, and all are in.
"""

import torch
from torch import Tensor, nn

from models.words import Words


class BagOfWords(nn.Module):
    """Each word adds its own logits: ``(most + 2) classes`` and ``classes`` parameters.

    Args:
        classes: outputs.
        most: words that the vocabulary may hold, the most frequent ones.
        dropout: share of the words' logits dropped in training, 0 to 1.
    """

    axes = {"text": {1: "time"}}

    def __init__(self, classes: int, most: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.words = Words(classes, most)
        self.dropout = nn.Dropout(dropout)
        self.bias = nn.Parameter(torch.zeros(classes))

    def fit(self, text: Tensor) -> None:
        """Learn which words there are, from the training split."""
        self.words.fit(text)

    def forward(self, text: Tensor) -> Tensor:
        """``text`` ``(batch, time)`` bytes, 0 after the end, to logits ``(batch, classes)``."""
        logits, _ = self.words(text)  # (batch, words, classes), 0 at padding
        return self.dropout(logits).sum(1) + self.bias
