"""Bidirectional LSTM tagger: the class of every character, told from all before it and all after it.

Source: Graves & Schmidhuber, "Framewise phoneme classification with bidirectional LSTM and other neural network
architectures" (2005), Neural Networks 18:602-610, section 2: one LSTM reads forwards, one backwards, and one output
layer sees both at every step.

Deviations:
1. No peepholes, as PyTorch's LSTM has none.
2. Characters are UTF-8 bytes, embedded; the source reads 26 acoustic coefficients a frame.
"""

import torch
from torch import Tensor, nn

from models.characters import Characters


class Tagger(nn.Module):
    """``256 size + 8 units (size + units + 2) + classes (2 units + 1)`` parameters.

    The backward LSTM gets each text reversed within its own length, so that no padding comes before a character: what
    is said of a text does not depend on how much padding its batch has.

    Args:
        classes: of a character.
        size: of a character's vector.
        units: of each LSTM.
    """

    axes = {"text": {1: "time"}}

    def __init__(self, classes: int, size: int, units: int) -> None:
        super().__init__()
        self.characters = Characters(size)
        self.forwards = nn.LSTM(size, units, batch_first=True)
        self.backwards = nn.LSTM(size, units, batch_first=True)
        self.output = nn.Linear(2 * units, classes)

    def fit(self, text: Tensor) -> None:
        """Learn which bytes there are, from the training split."""
        self.characters.fit(text)

    def forward(self, text: Tensor) -> Tensor:
        """``text`` ``(batch, time)`` bytes, 0 after the end, to logits ``(batch, time, classes)``."""
        text = text.long()  # TensorRT compares no bytes
        place = torch.arange(text.shape[1], device=text.device)
        last = (text != 0).sum(dim=1, keepdim=True) - 1  # (batch, 1)
        turned = torch.where(place <= last, last - place, place)[:, :, None]  # (batch, time, 1); padding stays
        x = self.characters(text)
        past, _ = self.forwards(x)  # (batch, time, units)
        future, _ = self.backwards(_turn(x, turned))
        return self.output(torch.cat([past, _turn(future, turned)], dim=2))


def _turn(x: Tensor, turned: Tensor) -> Tensor:
    """``x`` ``(batch, time, n)`` in the order ``turned`` ``(batch, time, 1)``, which undoes itself."""
    return x.gather(1, turned.expand(-1, -1, x.shape[2]))
