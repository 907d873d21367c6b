"""An ONNX graph in float64: ONNX's own reference evaluator, a second implementation, as the oracle.

onnxruntime's CPU has no convolution of float64.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from deploy.errors import Refused
from deploy.run import Run


def open_exact(model: onnx.ModelProto) -> Run:
    """``model`` with every float32 widened to float64, as a ``run``.

    Raises:
        Refused: the evaluator has no such operator, or not for float64.
    """
    wide = _widened(model)
    names = [output.name for output in wide.graph.output]
    try:
        evaluator = ReferenceEvaluator(wide, new_ops=[MaxPool, AveragePool])
    except Exception as error:  # it has no common class
        raise Refused(f"float64: {error}") from None

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        feed = {key: array.astype(np.float64) if array.dtype == np.float32 else array for key, array in inputs.items()}
        try:
            with np.errstate(all="ignore"):
                return dict(zip(names, evaluator.run(names, feed), strict=True))
        except Exception as error:
            raise Refused(f"float64: {type(error).__name__}: {error}") from None

    return run


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
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT:
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
        return (np.maximum.reduce(list(_windows(x, -np.inf, attributes))),)


class AveragePool(OpRun):
    """As ``MaxPool``; padding counts only where ``count_include_pad`` says so."""

    def _run(self, x: np.ndarray, **attributes: Any) -> tuple[np.ndarray, ...]:
        total: np.ndarray = np.add.reduce(list(_windows(x, 0.0, attributes)))
        if attributes.get("count_include_pad"):
            return (total / np.prod(attributes["kernel_shape"]),)
        return (total / np.add.reduce(list(_windows(np.ones_like(x), 0.0, attributes))),)


def _windows(x: np.ndarray, padding: float, attributes: dict[str, Any]) -> Iterator[np.ndarray]:
    """``x`` shifted to each place of the window, thinned by the strides."""
    kernel = attributes["kernel_shape"]
    strides = attributes.get("strides") or [1] * len(kernel)
    auto = attributes.get("auto_pad") or "NOTSET"
    if attributes.get("ceil_mode") or any(step != 1 for step in attributes.get("dilations") or ()):
        raise NotImplementedError("a pool with ceil_mode or dilations")
    sizes = x.shape[2:]
    if auto.startswith("SAME"):
        whole = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(sizes, kernel, strides, strict=True)]
        less, more = [n // 2 for n in whole], [n - n // 2 for n in whole]
        before, after = (less, more) if auto == "SAME_UPPER" else (more, less)
    else:
        pads = list(attributes.get("pads") or [0] * (2 * len(kernel))) if auto == "NOTSET" else [0] * (2 * len(kernel))
        before, after = pads[: len(kernel)], pads[len(kernel) :]
    padded = np.pad(x, [(0, 0), (0, 0), *zip(before, after, strict=True)], constant_values=padding)
    ends = [size - k + 1 for size, k in zip(padded.shape[2:], kernel, strict=True)]

    for place in product(*(range(k) for k in kernel)):
        cuts = [slice(p, p + end, s) for p, end, s in zip(place, ends, strides, strict=True)]
        yield padded[(slice(None), slice(None), *cuts)]
