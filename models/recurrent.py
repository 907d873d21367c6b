"""Cells in layers: one upon the other, or one from each side.

Source of the bidirectional form: Schuster & Paliwal, "Bidirectional recurrent neural networks" (1997), IEEE
Transactions on Signal Processing 45:2673-2681, section III.
"""

import torch
from torch import Tensor, nn

from models import cells


class Stacked(nn.Module):
    """Each layer reads what the one below it says.

    Args:
        cell: a class of ``models/cells.py``, by name.
        inputs: features of ``x``.
        units: of each layer.
        layers: how many.
        dropout: share of what goes from a layer to the next that is dropped in training, 0 to 1.
    """

    def __init__(self, cell: str, inputs: int, units: int, layers: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(build_cell(cell, inputs if i == 0 else units, units) for i in range(layers))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``x`` ``(batch, time, inputs)``, ``state`` ``(batch, layers, width)``, zeros where there is none.

        Returns:
            The last layer's outputs ``(batch, time, units)``, and the next state ``(batch, layers, width)``.
        """
        after = []
        for i, layer in enumerate(self.layers):
            x, last = layer(self.dropout(x) if i else x, None if state is None else state[:, i])
            after.append(last)
        return x, torch.stack(after, 1)


class Bidirectional(nn.Module):
    """One cell reads forwards, one backwards; at each place the outputs of both.

    The backward cell gets each text reversed within its own length, so that no padding comes before a character: what
    is said of a text does not depend on how much padding its batch has.

    Args:
        cell: a class of ``models/cells.py``, by name.
        inputs: features of ``x``.
        units: of each direction.
    """

    def __init__(self, cell: str, inputs: int, units: int) -> None:
        super().__init__()
        self.forwards = build_cell(cell, inputs, units)
        self.backwards = build_cell(cell, inputs, units)

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        """``x`` ``(batch, time, inputs)``, ``length`` ``(batch, 1)`` to ``(batch, time, 2 units)``.

        Past a text's length what comes out is of no meaning.
        """
        place = torch.arange(x.shape[1], device=x.device)
        last = length - 1  # (batch, 1)
        turned = torch.where(place <= last, last - place, place)[:, :, None]  # (batch, time, 1); padding stays
        past, _ = self.forwards(x)  # (batch, time, units)
        future, _ = self.backwards(_turn(x, turned))
        return torch.cat([past, _turn(future, turned)], dim=2)


def build_cell(cell: str, inputs: int, units: int) -> cells.Cell:
    """The untrained cell of that name.

    Raises:
        ValueError: there is none of that name.
    """
    known = [name for name, kind in vars(cells).items() if isinstance(kind, type) and issubclass(kind, nn.Module)]
    if cell not in known:
        raise ValueError(f"cell: {cell!r} came, one of {', '.join(known)} was expected")
    built: cells.Cell = getattr(cells, cell)(inputs, units)
    return built


def _turn(x: Tensor, turned: Tensor) -> Tensor:
    """``x`` ``(batch, time, n)`` in the order ``turned`` ``(batch, time, 1)``, which undoes itself."""
    return x.gather(1, turned.expand(-1, -1, x.shape[2]))
