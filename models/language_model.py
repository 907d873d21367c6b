"""Character language model of stacked GRUs: what comes next, told from all that came before.

Source: Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder" (2014, arXiv:1406.1078), section 2.3,
for the GRU; Görner, "Tensorflow, deep learning and recurrent neural networks, without a Ph.D." (2017), for three layers
of GRU on characters, there of 512 units on Shakespeare.

Deviations:
1. PyTorch's GRU applies the reset gate after the recurrent product (Cho et al. before it), as ONNX's
   ``linear_before_reset = 1`` does.
2. Characters are UTF-8 bytes, embedded instead of one-hot.
3. In training a text is read in windows, each from a state of zeros, side by side: backpropagation through time is
   truncated (Williams & Peng 1990, Neural Computation 2:490-501) and takes as many steps as a window is long.
"""

from torch import Tensor, nn

from models.characters import Characters


class GRULanguageModel(nn.Module):
    """Logits of the next byte: ``256 size + 3 units (size + units + 2) + 256 (units + 1)`` parameters, and
    ``6 units (units + 1)`` for each layer after the first.

    The same graph serves one step, a chunk and a whole text: time is free, and the state goes in and comes out.

    Args:
        size: of a character's vector.
        units: of each layer.
        layers: stacked GRUs.
        window: characters; in training it must divide a text's length.
    """

    axes = {"text": {1: "time"}}

    def __init__(self, size: int, units: int, layers: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.characters = Characters(size)
        self.gru = nn.GRU(size, units, layers, batch_first=True)
        self.output = nn.Linear(units, 256)

    def fit(self, text: Tensor) -> None:
        """Learn which bytes there are, from the training split."""
        self.characters.fit(text)

    def forward(self, text: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``text`` ``(batch, time)`` bytes, ``state`` ``(batch, layers, units)``, zeros where there is none.

        Returns:
            Logits ``(batch, time, 256)`` of the byte after each, and the next state ``(batch, layers, units)``.
        """
        vectors = self.characters(text)
        if self.training:
            batch, time, size = vectors.shape
            outputs, after = self.gru(vectors.reshape(-1, self.window, size))
            return self.output(outputs.reshape(batch, time, -1)), after.transpose(0, 1)
        outputs, after = self.gru(vectors, None if state is None else state.transpose(0, 1).contiguous())
        return self.output(outputs), after.transpose(0, 1)
