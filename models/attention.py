"""Encoder-decoder with attention, characters to characters: one recurrent network reads a line, another writes one.

Source: Luong, Pham & Manning, "Effective Approaches to Attention-based Neural Machine Translation" (2015,
arXiv:1508.04025): global attention after the recurrent layer, with the score "general" (section 3.1).

Deviations:
1. One GRU layer a direction in the encoder and one in the decoder; the paper stacks four LSTMs, in one direction.
2. The decoder starts from ``tanh(W [last; first] + b)`` of the encoder's two directions, near Bahdanau, Cho & Bengio
   (2015, arXiv:1409.0473, A.2.2), and not from a copy of the encoder's state.
3. No input feeding (section 3.3): the decoder's recurrence then depends on no attention, and training goes over all of
   the target at once.
4. Characters stand in place of words. The start is a vector of zeros, the end is the byte 0.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.cells import GRU
from models.characters import Characters
from models.recurrent import Bidirectional

CHARACTERS = 256  # a logit a byte
MASKED = -1e4  # score of padding: exp gives exactly 0, and float16 holds it


class Encoder(nn.Module):
    """A GRU in each direction: ``6 units (size + units + 2) + 2 units² + units`` parameters, and ``256 size``."""

    axes = {"source": {1: "time"}}

    def __init__(self, units: int, size: int) -> None:
        super().__init__()
        self.characters = Characters(size)
        self.cells = Bidirectional("GRU", size, units)
        self.bridge = nn.Linear(2 * units, units)

    def forward(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """``source`` ``(batch, time)`` bytes, 0 = padding at the end.

        Returns:
            ``memory`` ``(batch, time, 2 units)``, of no meaning where there is padding, and ``state``
            ``(batch, units)``, from which the decoder starts.
        """
        source = source.long()  # TensorRT compares no uint8
        length = (source != 0).sum(dim=1, keepdim=True)  # (batch, 1)
        memory = self.cells(self.characters(source), length)
        after, before = memory.chunk(2, 2)  # (batch, time, units)
        end = torch.where(length > 0, length - 1, 0)[:, :, None].expand(-1, -1, after.shape[2])
        state = torch.tanh(self.bridge(torch.cat([after.gather(1, end)[:, 0], before[:, 0]], dim=1)))
        return memory, state


class Step(nn.Module):
    """One character of the decoder: ``3 units (size + units + 2) + 5 units² + 256 (units + 1)`` and ``256 size``."""

    axes = {"memory": {1: "time"}, "source": {1: "time"}}

    def __init__(self, units: int, size: int) -> None:
        super().__init__()
        self.characters = Characters(size)
        self.cell = GRU(size, units)
        self.query = nn.Linear(units, 2 * units, bias=False)  # W_a
        self.combine = nn.Linear(3 * units, units, bias=False)  # W_c
        self.output = nn.Linear(units, CHARACTERS)  # W_s

    def forward(
        self, character: Tensor, memory: Tensor, source: Tensor, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The character before, ``(batch,)`` bytes, 0 = start, to what comes next.

        Args:
            memory: ``(batch, time, 2 units)``, the encoder's.
            source: ``(batch, time)``, the encoder's input; its padding gets no attention.
            state: ``(batch, units)``, the encoder's or that of the step before; ``None`` = zeros.

        Returns:
            ``logits`` ``(batch, 256)``, 0 = end, and ``next_state`` ``(batch, units)``.
        """
        if state is None:
            state = memory.new_zeros(len(memory), self.cell.units)
        # TensorRT reshapes and compares no uint8.
        logits, state = self.write(character.long()[:, None], memory, source.long(), state)
        return logits[:, 0], state

    def write(self, previous: Tensor, memory: Tensor, source: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Many steps at once: ``previous`` ``(batch, steps)`` to logits ``(batch, steps, 256)`` and the last state."""
        hidden, state = self.cell(self.characters(previous), state)  # (batch, steps, units), (batch, units)
        score = self.query(hidden) @ memory.transpose(1, 2)  # (batch, steps, time): h_t W_a h_s
        score = score.masked_fill((source == 0)[:, None], MASKED)
        context = torch.softmax(score, dim=2) @ memory  # equation 7
        combined = torch.tanh(self.combine(torch.cat([context, hidden], dim=2)))  # equation 5
        return self.output(combined), state  # equation 6 but for its softmax, which is in the loss


class EncoderDecoder(nn.Module):
    """Two graphs: ``encoder`` reads the line once, ``step`` writes a character a call.

    Args:
        units: of a recurrent layer; the encoder has one a direction.
        size: of a character's vector.
    """

    def __init__(self, units: int, size: int) -> None:
        super().__init__()
        self.encoder = Encoder(units, size)
        self.step = Step(units, size)

    def fit(self, source: Tensor, target: Tensor) -> None:
        """Learn which bytes there are, from the training split and no other."""
        self.encoder.characters.fit(source)
        self.step.characters.fit(target)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """The training form: each character is told those before it, as they should be.

        Args:
            source: ``(batch, time)`` bytes, 0 = padding at the end.
            target: ``(batch, longest)`` bytes, 0 = padding at the end.

        Returns:
            Logits ``(batch, longest + 1, 256)``: what ``step`` would say after each beginning of ``target``.
        """
        memory, state = self.encoder(source)
        previous = functional.pad(target, (1, 0))
        logits, _ = self.step.write(previous, memory, source, state)
        return logits
