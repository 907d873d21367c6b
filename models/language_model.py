"""Character language model of stacked GRUs: what comes next, told from all that came before.

Source: Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder" (2014, arXiv:1406.1078), section 2.3, for
the GRU; Görner, "Tensorflow, deep learning and recurrent neural networks, without a Ph.D." (2017), for three layers of
GRU on characters, there of 512 units on Shakespeare.

Deviations:
1. PyTorch's GRU applies the reset gate after the recurrent product (Cho et al. before it), as ONNX's
   ``linear_before_reset = 1`` does.
2. Characters are UTF-8 bytes, embedded instead of one-hot.
"""

from torch import Tensor, nn

from models.characters import Characters


class GRULanguageModel(nn.Module):
    """Logits of the next byte; ``256 size + 3 units (size + units + 2)`` and ``6 units (units + 1)`` a further layer, and
    ``256 (units + 1)``.

    The same graph serves one step, a chunk and a whole text: time is free, and the state goes in and comes out.

    Args:
        size: of a character's vector.
        units: of each layer.
        layers: stacked GRUs.
        dropout: share of a layer's outputs dropped in training, between layers, 0 to 1.
    """

    axes = {"text": {1: "time"}}

    def __init__(self, size: int, units: int, layers: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.characters = Characters(size)
        self.gru = nn.GRU(size, units, layers, batch_first=True, dropout=dropout)
        self.output = nn.Linear(units, 256)

    def fit(self, text: Tensor) -> None:
        """Learn which bytes there are, from the training split."""
        self.characters.fit(text)

    def forward(self, text: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``text`` ``(batch, time)`` bytes, ``state`` ``(batch, layers, units)``, zeros where there is none.

        Returns:
            Logits ``(batch, time, 256)`` of the byte after each, and the next state ``(batch, layers, units)``.
        """
        before = None if state is None else state.transpose(0, 1).contiguous()
        outputs, after = self.gru(self.characters(text), before)
        return self.output(outputs), after.transpose(0, 1)
