"""An ONNX graph in float64: ONNX's own reference evaluator, a second implementation, as the oracle.

onnxruntime's CPU has no convolution of float64.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from scipy import special

from deploy.errors import Refused
from deploy.run import Run

ROWS = 8  # at a time: the evaluator's convolutions copy each input once for every place of the kernel
# What the evaluator computes in float32, whatever comes: found by inputs that float32 cannot tell apart.
FLOAT32 = {"AffineGrid", "CausalConvWithState", "GridSample", "LinearAttention", "MelWeightMatrix", "TfIdfVectorizer"}


def open_exact(model: onnx.ModelProto) -> Run:
    """``model`` with every float32 widened to float64, as a ``run``; the first axis of each input is the item.

    Raises:
        Refused: the evaluator has no such operator, or not for float64; of most it shows only when it runs.
    """
    wide = _widened(model)
    names = [output.name for output in wide.graph.output]
    try:
        evaluator = ReferenceEvaluator(wide, new_ops=OWN)
    except Exception as error:  # it has no common class
        raise Refused(f"float64: {error}") from None

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        feed = {key: array.astype(np.float64) if array.dtype == np.float32 else array for key, array in inputs.items()}
        try:
            with np.errstate(all="ignore"):
                parts = [evaluator.run(names, part) for part in _parts(feed)]
                joined = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)] if parts[1:] else parts[0]
                return dict(zip(names, joined, strict=True))
        except Exception as error:
            raise Refused(f"float64: {type(error).__name__}: {error}") from None

    return run


def _parts(feed: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """``feed``, ``ROWS`` items a part; as it is where it is as short, or its inputs differ in length."""
    rows = {len(array) if array.ndim else 1 for array in feed.values()}
    if len(rows) != 1 or max(rows) <= ROWS:
        return [feed]
    return [{key: array[i : i + ROWS] for key, array in feed.items()} for i in range(0, max(rows), ROWS)]


def _widened(model: onnx.ModelProto) -> onnx.ModelProto:
    wide = onnx.ModelProto.FromString(model.SerializeToString())
    _widen_graph(wide.graph)
    return wide


def _widen_graph(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    for tensor in graph.initializer:
        _widen(tensor)
    for value in [*graph.input, *graph.output]:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for node in graph.node:
        if node.op_type in FLOAT32:
            raise Refused(f"float64: {node.op_type}: ONNX's evaluator computes it in float32")
        if node.op_type == "ConstantOfShape" and not node.attribute:
            node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1))))
        for attribute in node.attribute:
            if attribute.name in ("value_float", "value_floats"):
                wide = numpy_helper.from_array(np.array(helper.get_attribute_value(attribute), np.float64))
                attribute.CopyFrom(helper.make_attribute("value", wide))
            if attribute.name in ("to", "dtype", "softmax_precision") and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
            if attribute.HasField("t"):
                _widen(attribute.t)
            if attribute.HasField("g"):  # a loop's body, a branch
                _widen_graph(attribute.g)


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


class MaxPool(OpRun):
    """The evaluator's own goes through outputs one by one in Python; this one through the window's places."""

    def _run(self, x: np.ndarray, **attributes: Any) -> tuple[np.ndarray, ...]:
        if len(self.output) > 1:
            raise NotImplementedError("MaxPool with indices")
        return (np.maximum.reduce(list(_windows(x, -np.inf, -np.inf, attributes))),)


class AveragePool(OpRun):
    """As ``MaxPool``; padding counts only where ``count_include_pad`` says so, and what ``ceil_mode`` adds never."""

    def _run(self, x: np.ndarray, **attributes: Any) -> tuple[np.ndarray, ...]:
        counted = float(attributes["count_include_pad"])
        total: np.ndarray = np.add.reduce(list(_windows(x, 0.0, 0.0, attributes)))
        return (total / np.add.reduce(list(_windows(np.ones_like(x[:1, :1]), counted, 0.0, attributes))),)


def _windows(x: np.ndarray, padding: float, beyond: float, attributes: dict[str, Any]) -> Iterator[np.ndarray]:
    """``x`` shifted to each place of the window, thinned by the strides; ``beyond`` is what ``ceil_mode`` adds."""
    kernel = attributes["kernel_shape"]
    strides, dilations = (attributes.get(name) or [1] * len(kernel) for name in ("strides", "dilations"))
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    before, after = _pads(x.shape[2:], spans, strides, attributes)
    over = [0] * len(kernel)
    if attributes.get("ceil_mode"):
        over = [_overhang(*sizes) for sizes in zip(x.shape[2:], before, after, spans, strides, strict=True)]
    padded = np.pad(x, [(0, 0), (0, 0), *zip(before, after, strict=True)], constant_values=padding)
    padded = np.pad(padded, [(0, 0), (0, 0), *((0, more) for more in over)], constant_values=beyond)
    ends = [size - span + 1 for size, span in zip(padded.shape[2:], spans, strict=True)]

    for place in product(*(range(0, span, d) for span, d in zip(spans, dilations, strict=True))):
        cuts = [slice(p, p + end, s) for p, end, s in zip(place, ends, strides, strict=True)]
        yield padded[(slice(None), slice(None), *cuts)]


def _pads(
    sizes: tuple[int, ...], spans: list[int], strides: list[int], attributes: dict[str, Any]
) -> tuple[list[int], list[int]]:
    """How many places come before and after, an axis."""
    auto = attributes.get("auto_pad") or "NOTSET"
    if auto.startswith("SAME"):
        if any(step != 1 for step in attributes.get("dilations") or ()):
            raise NotImplementedError("auto_pad SAME with dilations, which onnxruntime forgets in its padding")
        whole = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(sizes, spans, strides, strict=True)]
        less, more = [n // 2 for n in whole], [n - n // 2 for n in whole]
        return (less, more) if auto == "SAME_UPPER" else (more, less)
    given = attributes.get("pads") if auto == "NOTSET" else None
    pads = list(given or [0] * (2 * len(spans)))
    return pads[: len(spans)], pads[len(spans) :]


def _overhang(size: int, before: int, after: int, span: int, stride: int) -> int:
    """What a last window of ``ceil_mode`` needs after the padding; one that began in the padding is left out."""
    rest = (before + size + after - span) % stride
    begins = before + size + after - span - rest + stride
    return stride - rest if rest and begins < before + size else 0


class Erf(OpRun):
    """The evaluator's own computes in float32."""

    def _run(self, x: np.ndarray) -> tuple[np.ndarray, ...]:
        return (special.erf(x),)


class Gelu(OpRun):
    """The standard's own expansion has constants of float32."""

    def _run(self, x: np.ndarray, approximate: str) -> tuple[np.ndarray, ...]:
        if approximate == "tanh":
            return (x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),)
        return (x / 2 * (1 + special.erf(x / np.sqrt(2))),)


class HardSwish(OpRun):
    """As ``Gelu``."""

    def _run(self, x: np.ndarray) -> tuple[np.ndarray, ...]:
        return (x * np.clip(x / 6 + 0.5, 0, 1),)


class GroupNormalization(OpRun):
    """The standard's own expansion casts to float32. ``scale``: one a group before opset 21, then one a channel."""

    def _run(
        self, x: np.ndarray, scale: np.ndarray, bias: np.ndarray, num_groups: int, epsilon: float, **_: Any
    ) -> tuple[np.ndarray, ...]:
        groups = x.reshape(len(x), num_groups, -1)
        deviation = np.sqrt(groups.var(2, keepdims=True) + epsilon)
        normal = ((groups - groups.mean(2, keepdims=True)) / deviation).reshape(x.shape)
        by_channel = (1, x.shape[1], *(1 for _ in x.shape[2:]))
        scale, bias = (np.repeat(array, x.shape[1] // len(array)).reshape(by_channel) for array in (scale, bias))
        return (normal * scale + bias,)


OWN = [MaxPool, AveragePool, Erf, Gelu, HardSwish, GroupNormalization]
