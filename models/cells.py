"""The recurrent cells of the textbooks: ``step`` is the equations, ``forward`` a whole sequence of the same.

Elman       Elman, "Finding structure in time" (1990), Cognitive Science 14:179-211.
Jordan      Jordan, "Serial order: a parallel distributed processing approach" (1986), ICS report 8604.
LSTM        Hochreiter & Schmidhuber (1997), Neural Computation 9:1735-1780; forget gate: Gers, Schmidhuber & Cummins
            (2000), Neural Computation 12:2451-2471.
PeepholeLSTM  Gers, Schraudolph & Schmidhuber (2002), JMLR 3:115-143, section 2.
GRU         Cho et al. (2014), arXiv:1406.1078, section 2.3.

Every cell takes ``x`` and a ``state`` ``(batch, width)``, batch first and zeros where there is none, and gives an
output of ``units``. Where PyTorch has the cell, ``forward`` is its kernel on the cell's own weights, which have
PyTorch's layout and names; else a loop over ``step``. In an export it is ONNX's own operator, dynamic in batch and
time: RNN, LSTM (peepholes are its input ``P``) or GRU; for Jordan, which has none, a Scan over ``step``.

Deviations:
1. Each gate has two biases, as PyTorch's; their sum is the paper's one. Peephole LSTM and Jordan have one.
2. Elman and Jordan squash by tanh, where the sources have the logistic function.
3. GRU applies the reset gate after the recurrent product (Cho et al. before it), as PyTorch and ONNX's
   ``linear_before_reset = 1`` do.
4. Jordan's output feeds back as it is; the source adds ``mu`` times what fed back before (``mu`` = 0 here).
5. The peephole LSTM squashes its memory by tanh on the way out, as the LSTM before it and ONNX's; the source does not.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Elman(nn.Module):
    """``h' = tanh(W x + b + R h + c)``; the output is ``h'``. ``units (inputs + units + 2)`` parameters.

    Args:
        inputs: features of ``x``.
        units: of ``h``.
    """

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.units = self.width = units
        self.weight_ih, self.weight_hh = _uniform(units, units, inputs), _uniform(units, units, units)
        self.bias_ih, self.bias_hh = _uniform(units, units), _uniform(units, units)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` ``(batch, inputs)``, ``state`` ``(batch, units)`` to the output and the next state, both that shape."""
        gates = functional.linear(x, self.weight_ih, self.bias_ih)
        h = torch.tanh(gates + functional.linear(state, self.weight_hh, self.bias_hh))
        return h, h

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``x`` ``(batch, time, inputs)`` to outputs ``(batch, time, units)`` and the state after the last."""
        if torch.onnx.is_in_onnx_export():
            outputs, h = _onnx("RNN", x, self.units, _one(self.weight_ih), _one(self.weight_hh), self._bias(), state)
            return outputs, h
        outputs, h = torch.rnn_tanh(x, _given(self, x, state)[None], _weights(self), True, 1, 0.0, False, False, True)
        return outputs, h[0]

    def _bias(self) -> Tensor:
        return _one(torch.cat([self.bias_ih, self.bias_hh]))


class Jordan(nn.Module):
    """``h = tanh(W x + R y + b)``, ``y' = tanh(V h + c)``: what it said before feeds back, not what it thought.

    ``units (inputs + 2 units + 2)`` parameters; the state is the output ``y``.

    Args:
        inputs: features of ``x``.
        units: of ``h`` and of ``y``.
    """

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.units = self.width = units
        self.weight_ih, self.weight_hh = _uniform(units, units, inputs), _uniform(units, units, units)
        self.bias = _uniform(units, units)
        self.weight_out, self.bias_out = _uniform(units, units, units), _uniform(units, units)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` ``(batch, inputs)``, ``state`` ``(batch, units)`` to the output and the next state, both that shape."""
        h = torch.tanh(functional.linear(x, self.weight_ih, self.bias) + functional.linear(state, self.weight_hh))
        y = torch.tanh(functional.linear(h, self.weight_out, self.bias_out))
        return y, y

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``x`` ``(batch, time, inputs)`` to outputs ``(batch, time, units)`` and the state after the last."""
        if torch.onnx.is_in_onnx_export():
            return _scan(self, x, _given(self, x, state))
        return _loop(self, x, _given(self, x, state))


class LSTM(nn.Module):
    """``i, f, o = sigmoid(W x + b + R h + c)``, ``g = tanh(the same)``; ``c' = f c + i g``, ``h' = o tanh c'``.

    ``4 units (inputs + units + 2)`` parameters; the state is ``[h, c]``, the output ``h'``.

    Args:
        inputs: features of ``x``.
        units: of ``h`` and of ``c``.
    """

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.units, self.width = units, 2 * units
        self.weight_ih, self.weight_hh = _uniform(units, 4 * units, inputs), _uniform(units, 4 * units, units)
        self.bias_ih, self.bias_hh = _uniform(units, 4 * units), _uniform(units, 4 * units)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` ``(batch, inputs)``, ``state`` ``(batch, 2 units)`` to the output ``(batch, units)`` and next state."""
        h, c = state.chunk(2, 1)
        gates = functional.linear(x, self.weight_ih, self.bias_ih) + functional.linear(h, self.weight_hh, self.bias_hh)
        i, f, g, o = gates.chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, torch.cat([h, c], 1)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``x`` ``(batch, time, inputs)`` to outputs ``(batch, time, units)`` and the state after the last."""
        if torch.onnx.is_in_onnx_export():
            weights = _one(_iofg(self.weight_ih)), _one(_iofg(self.weight_hh))
            bias = _one(torch.cat([_iofg(self.bias_ih), _iofg(self.bias_hh)]))
            return _onnx("LSTM", x, self.units, *weights, bias, state)
        h, c = (part.contiguous()[None] for part in _given(self, x, state).chunk(2, 1))
        outputs, h, c = torch.lstm(x, (h, c), _weights(self), True, 1, 0.0, False, False, True)
        return outputs, torch.cat([h[0], c[0]], 1)


class PeepholeLSTM(nn.Module):
    """An LSTM whose gates see the memory: ``i`` and ``f`` add ``p c``, and ``o`` adds ``p c'``, each ``p`` of its own.

    ``4 units (inputs + units + 1) + 3 units`` parameters; the state is ``[h, c]``, the output ``h'``.

    Args:
        inputs: features of ``x``.
        units: of ``h`` and of ``c``.
    """

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.units, self.width = units, 2 * units
        self.weight_ih, self.weight_hh = _uniform(units, 4 * units, inputs), _uniform(units, 4 * units, units)
        self.bias = _uniform(units, 4 * units)
        self.peephole = _uniform(units, 3 * units)  # of i, f, o

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` ``(batch, inputs)``, ``state`` ``(batch, 2 units)`` to the output ``(batch, units)`` and next state."""
        h, c = state.chunk(2, 1)
        gates = functional.linear(x, self.weight_ih, self.bias) + functional.linear(h, self.weight_hh)
        i, f, g, o = gates.chunk(4, 1)
        p_i, p_f, p_o = self.peephole.chunk(3)
        c = torch.sigmoid(f + p_f * c) * c + torch.sigmoid(i + p_i * c) * torch.tanh(g)
        h = torch.sigmoid(o + p_o * c) * torch.tanh(c)
        return h, torch.cat([h, c], 1)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``x`` ``(batch, time, inputs)`` to outputs ``(batch, time, units)`` and the state after the last."""
        if torch.onnx.is_in_onnx_export():
            weights = _one(_iofg(self.weight_ih)), _one(_iofg(self.weight_hh))
            bias = _one(torch.cat([_iofg(self.bias), torch.zeros_like(self.bias)]))
            return _onnx("LSTM", x, self.units, *weights, bias, state, _one(_ordered(self.peephole, [0, 2, 1])))
        return _loop(self, x, _given(self, x, state))


class GRU(nn.Module):
    """``r, z = sigmoid(W x + b + R h + c)``, ``n = tanh(W x + b + r (R h + c))``; ``h' = (1 - z) n + z h``.

    ``3 units (inputs + units + 2)`` parameters; the output is ``h'``.

    Args:
        inputs: features of ``x``.
        units: of ``h``.
    """

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.units = self.width = units
        self.weight_ih, self.weight_hh = _uniform(units, 3 * units, inputs), _uniform(units, 3 * units, units)
        self.bias_ih, self.bias_hh = _uniform(units, 3 * units), _uniform(units, 3 * units)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` ``(batch, inputs)``, ``state`` ``(batch, units)`` to the output and the next state, both that shape."""
        of_x = functional.linear(x, self.weight_ih, self.bias_ih).chunk(3, 1)
        of_h = functional.linear(state, self.weight_hh, self.bias_hh).chunk(3, 1)
        r, z = torch.sigmoid(of_x[0] + of_h[0]), torch.sigmoid(of_x[1] + of_h[1])
        n = torch.tanh(of_x[2] + r * of_h[2])
        h = (1 - z) * n + z * state
        return h, h

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``x`` ``(batch, time, inputs)`` to outputs ``(batch, time, units)`` and the state after the last."""
        if torch.onnx.is_in_onnx_export():
            weights = _one(_zrh(self.weight_ih)), _one(_zrh(self.weight_hh))
            bias = _one(torch.cat([_zrh(self.bias_ih), _zrh(self.bias_hh)]))
            return _onnx("GRU", x, self.units, *weights, bias, state)
        outputs, h = torch.gru(x, _given(self, x, state)[None], _weights(self), True, 1, 0.0, False, False, True)
        return outputs, h[0]


Cell = Elman | Jordan | LSTM | PeepholeLSTM | GRU


def _uniform(units: int, *shape: int) -> nn.Parameter:
    """Evenly from -1/sqrt(units) to 1/sqrt(units), as PyTorch starts its recurrent layers."""
    return nn.Parameter(torch.empty(*shape).uniform_(-(units**-0.5), units**-0.5))


def _weights(cell: Elman | LSTM | GRU) -> list[Tensor]:
    return [cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh]


def _given(cell: Cell, x: Tensor, state: Tensor | None) -> Tensor:
    return x.new_zeros(x.shape[0], cell.width) if state is None else state.contiguous()


def _loop(cell: Jordan | PeepholeLSTM, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    outputs = []
    for now in x.unbind(1):
        output, state = cell.step(now, state)
        outputs.append(output)
    return torch.stack(outputs, 1), state


def _scan(cell: Jordan, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """ONNX's Scan, which the exporter makes of PyTorch's."""

    def step(state: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
        output, state = cell.step(now, state)
        return state, output.clone()  # the two may not be one tensor

    state, outputs = torch._higher_order_ops.scan(step, state, x.transpose(0, 1).contiguous(), dim=0)
    return outputs.transpose(0, 1), state


def _onnx(
    operator: str,
    x: Tensor,
    units: int,
    weight: Tensor,
    recurrent: Tensor,
    bias: Tensor,
    state: Tensor | None,
    peephole: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """ONNX's operator in place of a loop; ``state`` goes in and comes out batch first, ``[h, c]`` where it has a c."""
    batch, time, _ = x.shape
    lstm = operator == "LSTM"
    parts: list[Tensor | None] = [None] * (1 + lstm)
    if state is not None:
        parts = [_one(part) for part in (state.chunk(2, 1) if lstm else [state])]
    attributes: dict[str, Any] = {"hidden_size": units}
    if operator == "GRU":
        attributes["linear_before_reset"] = 1
    no_lengths = None
    inputs = [x.transpose(0, 1), weight, recurrent, bias, no_lengths, *parts]
    outputs, *after = torch.onnx.ops.symbolic_multi_out(
        operator,
        [*inputs, peephole] if peephole is not None else inputs,
        attributes,
        dtypes=[x.dtype] * (2 + lstm),
        shapes=[(time, 1, batch, units), *[(1, batch, units)] * (1 + lstm)],
    )
    return outputs.squeeze(1).transpose(0, 1), torch.cat([part[0] for part in after], 1) if lstm else after[0][0]


def _one(tensor: Tensor) -> Tensor:
    """With ONNX's axis of directions, of which there is one."""
    return tensor.unsqueeze(0)


def _iofg(gates: Tensor) -> Tensor:
    """PyTorch's order of gates ``i, f, g, o`` in ONNX's."""
    return _ordered(gates, [0, 3, 1, 2])


def _zrh(gates: Tensor) -> Tensor:
    """PyTorch's order of gates ``r, z, n`` in ONNX's."""
    return _ordered(gates, [1, 0, 2])


def _ordered(gates: Tensor, order: list[int]) -> Tensor:
    return gates.unflatten(0, (len(order), -1))[order].flatten(0, 1)
