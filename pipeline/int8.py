"""Int8 inside the graph, in every form that a runtime takes; the best one on ``select`` is kept.

``int8-cpu``       layers: Q/DQ, uint8 activations, what ONNX Runtime's CPU kernels fuse, and right without VNNI too.
                   LSTM: dynamic quantisation, ONNX Runtime's own operator. GRU and RNN have none: from ``WINS_FROM``
                   units on they are written out as equations (``int8_cells.py``); with smaller ones it is refused.
``int8-tensorrt``  Q/DQ, symmetric int8, zero-points 0: what TensorRT takes. It has no int8 LSTM, GRU or RNN.

Only the inputs of a layer are quantized: its output then meets its activation in float and both fuse, and the last
layer's answers keep their resolution. The addition that ends a residual block is quantized on both sides or on its
shortcut's alone: the one lets a CPU's additions run in int8, the other lets a GPU fuse it into the convolution before.
"""

import contextlib
import io
import itertools
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from deploy.errors import Refused
from pipeline.fp16 import check_model
from pipeline.int8_cells import quantize_steps, why_not, write_out

LAYERS = ["Conv", "Gemm", "MatMul"]
RECURRENT = ["LSTM", "GRU", "RNN"]
CALIBRATIONS: dict[str, dict[str, Any]] = {
    "min-max": {"calibrate_method": CalibrationMethod.MinMax},
    "99.9 %": {"calibrate_method": CalibrationMethod.Percentile, "extra_options": {"CalibPercentile": 99.9}},
}
SYMMETRIC = {"ActivationSymmetric": True, "WeightSymmetric": True, "DedicatedQDQPair": True, "QuantizeBias": False}
# int8 weights at 7 bits: at 8 the 16-bit sums of a processor without VNNI saturate.
NARROW = {"weight_type": QuantType.QInt8, "per_channel": True, "reduce_range": True}
WEIGHTS: dict[str, dict[str, dict[str, Any]]] = {
    "int8-cpu": {
        "uint8": {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QUInt8},
        "7-bit int8 a channel": {"activation_type": QuantType.QUInt8} | NARROW,
    },
    "int8-tensorrt": {
        "int8 a channel": {
            "activation_type": QuantType.QInt8,
            "weight_type": QuantType.QInt8,
            "per_channel": True,
            "extra_options": SYMMETRIC,
        },
    },
}
# An LSTM's weights become int8 whatever is asked for (onnxruntime 1.31), and 8 bits saturate without VNNI.
DYNAMIC: dict[str, dict[str, Any]] = {"7-bit int8 a channel": NARROW}
# Units from which a GRU or RNN is the faster in int8: `python -m benchmarks.sequences`, the last table of
# results/sequences/README.md.
WINS_FROM = 384

Feeds = list[dict[str, np.ndarray]]


class Nothing(Refused):
    """A graph has no layer that could be quantized."""


def to_int8(
    fp32: Path,
    precision: str,
    feeds: Feeds,
    judge: Callable[[Path], tuple[float, float]],
    higher_is_better: bool,
) -> tuple[bytes, dict[str, Any]]:
    """Quantize in every form that ``precision`` allows and keep the best on ``select``.

    Args:
        feeds: what the graph was fed on ``calib``, call by call.
        judge: graph file -> score and mean absolute error on ``select``. The better score wins; where it is equal, the
            graph of which ONNX Runtime's CPU leaves the fewest layers in float (``int8-cpu`` alone: it cannot be told
            of TensorRT); then the smaller error.

    Returns:
        The best graph's bytes, and all ``candidates``, best first.

    Raises:
        Nothing: the graph has no layer to quantize.
        Refused: it has layers that the runtime takes in no int8 form, or in none that is faster; or the quantizer
            cannot.
    """
    model = onnx.load(fp32)
    recurrent = [node for node in model.graph.node if node.op_type in RECURRENT or _multiplies_inside(node)]
    if stays := _stay_float(model, recurrent, precision):
        told = "; ".join(f"{', '.join(nodes)}: {why}" for why, nodes in stays.items())
        advice = "Deploy fp16 there" if precision == "int8-tensorrt" else "Deploy fp32 there"
        if all(node.op_type == "LSTM" for node in recurrent):
            advice += ", or int8 with ONNX Runtime on a CPU"
        raise Refused(f"{fp32.name}: {told}, and the rest in int8 would not be an int8 network. {advice}")
    found = {node.op_type for node in model.graph.node}
    if not found & {*LAYERS, *RECURRENT}:
        raise Nothing(
            f"{fp32.name}: no {', '.join(LAYERS + RECURRENT)} in it to quantize; it has {', '.join(sorted(found))}. "
            f"Take {precision} out of the recipe's `precisions`"
        )
    forms = _dynamic_forms(found) if "LSTM" in found else _static_forms(model, precision)
    candidates: list[tuple[tuple[float, int, float], bytes, dict[str, Any]]] = []
    failed: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "network.onnx"
        for facts, make in forms:
            try:
                make(fp32, path, feeds)
                check_model(onnx.load(path), fp32)
                score, error = judge(path)
            except Refused as refused:
                failed.append(facts | {"reason": str(refused)})
                continue
            floats = len(float_layers(path)) if precision == "int8-cpu" else 0
            facts |= {"score": score, "float_layers": floats, "error_mean": error}
            candidates.append(((-score if higher_is_better else score, floats, error), path.read_bytes(), facts))
    if not candidates:
        raise Refused(failed[0]["reason"])
    candidates.sort(key=lambda candidate: candidate[0])
    tried = [facts for _, _, facts in candidates] + failed
    return candidates[0][1], {"candidates": tried}


def _stay_float(model: onnx.ModelProto, recurrent: list[onnx.NodeProto], precision: str) -> dict[str, list[str]]:
    """Why -> the recurrent nodes that have no int8 form, or none that is faster; empty where all have."""
    stays: dict[str, list[str]] = {}
    kinds = {node.op_type for node in recurrent}
    for node in recurrent:
        if precision == "int8-tensorrt":
            why = "TensorRT has no int8 form of it"
        elif node.op_type == "LSTM":
            why = ""
        elif node.op_type not in RECURRENT:
            why = "the quantizer reads no graph inside a graph"
        elif "LSTM" in kinds:
            why = "it is beside an LSTM, whose graph is quantized while it runs, by a quantizer that has no other cell"
        else:
            why = why_not(model, node, WINS_FROM)
        if why:
            stays.setdefault(why, []).append(f"{node.op_type} {node.name or node.output[0]!r}")
    return stays


def float_layers(graph: Path) -> list[str]:
    """The layers of an int8 graph that ONNX Runtime's CPU provider computes in float, for want of a kernel."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "optimised.onnx"
        _resave(graph, path, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED)
        names = {*LAYERS, *(f"Fused{layer}" for layer in LAYERS), *RECURRENT}
        return [f"{node.op_type} {node.name}" for node in _all_nodes(onnx.load(path).graph) if node.op_type in names]


def _multiplies_inside(node: onnx.NodeProto) -> bool:
    """Whether a node is a loop with a layer in its body, as Jordan's cell is."""
    bodies = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return any(inner.op_type in LAYERS for body in bodies for inner in _all_nodes(body))


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Those of graphs inside it too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _all_nodes(attribute.g)


def residual_additions(model: onnx.ModelProto) -> dict[str, str]:
    """Additions that end a residual block -> their input that is the branch, the longer way round."""
    made_by = {output: node for node in model.graph.node for output in node.output}
    depth: dict[str, int] = {}
    for node in model.graph.node:  # in topological order, as ONNX demands
        depth |= dict.fromkeys(node.output, 1 + max((depth.get(name, 0) for name in node.input), default=0))
    return {
        node.name: max(node.input, key=lambda name: depth[name])
        for node in model.graph.node
        if node.op_type == "Add"
        and all(name in made_by for name in node.input)
        and any(made_by[name].op_type == "Conv" for name in node.input)
    }


def _dynamic_forms(found: set[str]) -> Iterator[tuple[dict[str, Any], Callable[[Path, Path, Feeds], None]]]:
    """LSTM alone, and with the layers about it; activations are quantized while it runs, and nothing is calibrated."""
    dense = [["LSTM", "MatMul"]] if found & {"Gemm", "MatMul"} else []  # the quantizer turns Gemm into MatMul
    for weights, options in DYNAMIC.items():
        for types in [["LSTM"], *dense]:

            def make(fp32: Path, path: Path, _: Feeds, types: list[str] = types, options: Any = options) -> None:
                # As exported, the quantizer skips an LSTM without a word; after basic rewrites it takes it.
                _resave(fp32, path, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC)
                model = onnx.load(path)
                model.graph.ClearField("value_info")  # the quantizer transposes weights and forgets these
                onnx.save(model, path)
                _quietly(fp32, lambda: quantize_dynamic(path, path, types, **options))
                if not any(node.op_type == "DynamicQuantizeLSTM" for node in onnx.load(path).graph.node):
                    raise Refused(f"{fp32.name}: onnxruntime's quantizer left the LSTM as it was")

            yield {"weights": weights, "calibration": f"dynamic: {', '.join(types)}"}, make


def _static_forms(
    model: onnx.ModelProto, precision: str
) -> Iterator[tuple[dict[str, Any], Callable[[Path, Path, Feeds], None]]]:
    """Of layers; of a GRU or RNN, written out first, those ways alone that every processor computes alike."""
    cells = any(node.op_type in RECURRENT for node in model.graph.node)
    written = write_out(model) if cells else model
    for weights, how in WEIGHTS[precision].items():
        if not cells or how.get("per_channel"):
            yield from _calibrated(written, weights, how, quantize_steps if cells else lambda graph: graph)


def _calibrated(
    model: onnx.ModelProto,
    weights: str,
    how: dict[str, Any],
    after: Callable[[onnx.ModelProto], onnx.ModelProto],
) -> Iterator[tuple[dict[str, Any], Callable[[Path, Path, Feeds], None]]]:
    """One way of weights with every way of ranges; ``after`` is done to what the quantizer made of ``model``."""
    branches = residual_additions(model)
    sides = ("both sides", "the shortcut's side") if branches else ("",)
    for (calibration, ranges), side in itertools.product(CALIBRATIONS.items(), sides):
        types = [*LAYERS, "Add"] if side else LAYERS
        extra = {"OpTypesToExcludeOutputQuantization": types}
        extra |= ranges.get("extra_options", {}) | how.get("extra_options", {})
        options = ranges | how | {"extra_options": extra}
        options["nodes_to_exclude"] = [
            node.name for node in model.graph.node if node.op_type == "Add" and node.name not in branches
        ]

        def make(
            fp32: Path, path: Path, feeds: Feeds, types: list[str] = types, options: Any = options, side: str = side
        ) -> None:
            alike = _alike(feeds) if options["calibrate_method"] == CalibrationMethod.Percentile else feeds
            onnx.save(model, path)
            _quietly(fp32, lambda: quantize_static(path, path, _Reader(alike), QuantFormat.QDQ, types, **options))
            if side == "the shortcut's side":
                _leave_branches_float(path, branches)
            onnx.save(after(onnx.load(path)), path)

        yield {"weights": weights, "calibration": calibration} | ({"additions": side} if side else {}), make


def _leave_branches_float(path: Path, branches: dict[str, str]) -> None:
    """Take the Q/DQ pair off the branch's side of each residual addition."""
    model = onnx.load(path)
    made_by = {output: node for node in model.graph.node for output in node.output}

    def source(name: str) -> str:
        node = made_by.get(name)
        return source(node.input[0]) if node and node.op_type in ("QuantizeLinear", "DequantizeLinear") else name

    for node in model.graph.node:
        if node.name in branches:
            for i, name in enumerate(node.input):
                if source(name) == branches[node.name]:
                    node.input[i] = branches[node.name]
    used = {output.name for output in model.graph.output}
    for node in reversed(list(model.graph.node)):  # from the end: what no node after it reads, nothing does
        if used & set(node.output):
            used |= set(node.input)
        else:
            model.graph.node.remove(node)
    onnx.save(model, path)


def _resave(graph: Path, path: Path, level: Any) -> None:
    """The graph after onnxruntime's own rewrites."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen classes of its own
        raise Refused(f"{graph.name}: onnxruntime cannot open this graph: {error}") from None


def _alike(feeds: Feeds) -> Feeds:
    """The feeds of the commonest lengths: histograms of other lengths cannot be joined to theirs."""

    def shape(feed: dict[str, np.ndarray]) -> tuple[tuple[int, ...], ...]:
        return tuple(array.shape[1:] for array in feed.values())

    [(commonest, _)] = Counter(
        shape(feed) for feed in feeds for _ in range(len(next(iter(feed.values()))))
    ).most_common(1)
    return [feed for feed in feeds if shape(feed) == commonest]


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime asks for this class
    def __init__(self, feeds: Feeds) -> None:
        self._batches = self._iterate(feeds)

    @staticmethod
    def _iterate(feeds: Feeds) -> Iterator[dict[str, np.ndarray]]:
        # One at a time: the histograms of a last, smaller batch cannot be joined to the others'.
        for feed in feeds:
            for i in range(len(next(iter(feed.values())))):
                yield {name: array[i : i + 1] for name, array in feed.items()}

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


def _quietly(fp32: Path, quantizer: Callable[[], None]) -> None:
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises a pre-processing that the exporter has done
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it collects
            quantizer()
    except (OSError, MemoryError):
        raise
    except Exception as error:  # the quantizer has no common class
        raise Refused(f"{fp32.name}: onnxruntime's quantizer cannot quantize this graph: {error}") from None
    finally:
        root.setLevel(level)
