"""Stage ``quantize@recipe``: the fp16 and int8 graphs, with the precision inside the graph.

``fp16``           weights and arithmetic in float16, interface as it was; layers that could overflow stay float32.
``int8-cpu``       Q/DQ, uint8 activations: what ONNX Runtime's CPU kernels fuse, and right without VNNI too.
``int8-tensorrt``  Q/DQ, symmetric int8, zero-points 0: what TensorRT takes.

Ranges come from ``calib``, choices from ``select``, at basic graph rewrites, where every processor computes alike. Only
the inputs of a layer are quantized: its output then meets its activation in float and both fuse, and the last
layer's answers keep their resolution.
"""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from onnxconverter_common import float16
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from deploy.contract import load_arrays
from deploy.errors import Refused
from deploy.files import read_json, sha256, write_bytes, write_json
from deploy.run import Run
from deploy.runtimes import open_onnxruntime
from deploy.tasks import load_task
from pipeline import stage
from pipeline.ranges import activation_ranges
from pipeline.recipe import Project

FP16_MOST = 65_504.0
FP16_NEAR = FP16_MOST / 2  # one binary place of room for inputs that `calib` does not show
LAYERS = ["Conv", "Gemm", "MatMul"]
INPUTS_ONLY = {"OpTypesToExcludeOutputQuantization": LAYERS}
CALIBRATIONS: dict[str, dict[str, Any]] = {
    "min-max": {"calibrate_method": CalibrationMethod.MinMax, "extra_options": INPUTS_ONLY},
    "99.9 %": {
        "calibrate_method": CalibrationMethod.Percentile,
        "extra_options": INPUTS_ONLY | {"CalibPercentile": 99.9},
    },
}
SYMMETRIC = {"ActivationSymmetric": True, "WeightSymmetric": True, "DedicatedQDQPair": True, "QuantizeBias": False}
FORMS: dict[str, dict[str, dict[str, Any]]] = {
    "int8-cpu": {
        "uint8 weights": {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QUInt8},
        # int8 weights at 7 bits: at 8 the 16-bit sums of a processor without VNNI saturate.
        "7-bit int8 weights a channel": {
            "activation_type": QuantType.QUInt8,
            "weight_type": QuantType.QInt8,
            "per_channel": True,
            "reduce_range": True,
        },
    },
    "int8-tensorrt": {
        "int8 weights a channel": {
            "activation_type": QuantType.QInt8,
            "weight_type": QuantType.QInt8,
            "per_channel": True,
            "extra_options": SYMMETRIC,
        },
    },
}


def quantize(project: Project, name: str) -> None:
    """Write ``<precision>/<graph>.onnx``, ``ranges.json`` and ``quantize.json`` into ``build/quantize/<name>/``."""
    recipe = project.recipe(name)
    exported, data = project.build / "export" / name, project.build / "prepare" / recipe.data
    folder = project.build / "quantize" / name
    calib, select = load_arrays(data / "calib.npz"), load_arrays(data / "select.npz")
    facts = read_json(data / "data.json")
    if (came := sha256(data / "calib.npz")) != (expected := facts["splits"]["calib"]["sha256"]):
        raise Refused(
            f"{data}/calib.npz: SHA-256 {came[:12]}…, but `prepare` wrote {expected[:12]}…: these are not examples of "
            f"the data set, and a calibration on others proves nothing. Make them again: `dvc repro --force prepare`."
        )
    check_calibration(calib, len(facts["classes"]), f"{data}/calib.npz")
    task = load_task(recipe.task)
    fp32 = {graph: exported / f"{graph}.onnx" for graph in read_json(exported / "io.json")}
    feeds = recorded_feeds(task, fp32, calib)
    ranges = {graph: activation_ranges(file, feeds[graph]) for graph, file in fp32.items()}
    write_json(folder / "ranges.json", ranges)
    reference = _answer(task, fp32, select)
    made: dict[str, Any] = {}
    for precision in recipe.precisions:
        if precision == "fp32":
            continue
        graphs: dict[str, bytes] = {}
        made[precision] = {}
        try:
            for graph, file in fp32.items():
                if precision == "fp16":
                    graphs[graph], made[precision][graph] = to_fp16(file, ranges[graph])
                else:
                    judge = partial(_judge, task, fp32, graph, select, reference)
                    graphs[graph], made[precision][graph] = to_int8(
                        file, precision, feeds[graph], judge, task.metric.higher_is_better
                    )
        except Refused as error:  # this precision cannot be made; a full disk is another matter, below
            made[precision] = {"reason": str(error)}
            continue
        for graph, model in graphs.items():
            write_bytes(folder / precision / f"{graph}.onnx", model)
    write_json(folder / "quantize.json", made)


def recorded_feeds(
    task: ModuleType, graphs: dict[str, Path], examples: dict[str, np.ndarray]
) -> dict[str, list[dict[str, np.ndarray]]]:
    """What each graph is fed, call by call, while the task answers ``examples``."""
    feeds: dict[str, list[dict[str, np.ndarray]]] = {graph: [] for graph in graphs}

    def recording(graph: str, run: Run) -> Run:
        def record(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            feeds[graph].append(inputs)
            return run(inputs)

        return record

    task.answer({graph: recording(graph, open_onnxruntime(file)) for graph, file in graphs.items()}, examples)
    return feeds


def _answer(task: ModuleType, graphs: dict[str, Path], examples: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    runs = {graph: open_onnxruntime(file, optimise=False) for graph, file in graphs.items()}
    answers: dict[str, np.ndarray] = task.answer(runs, examples)
    return answers


def _judge(
    task: ModuleType,
    fp32: dict[str, Path],
    graph: str,
    select: dict[str, np.ndarray],
    reference: dict[str, np.ndarray],
    path: Path,
) -> tuple[float, float]:
    """Score on ``select`` with ``path`` in place of ``graph``, and mean absolute error against fp32's ``reference``."""
    answers = _answer(task, fp32 | {graph: path}, select)
    error = np.mean([np.abs(answers[key] - reference[key]).mean() for key in reference])
    return task.score(task.observe(answers, select)), float(error)


def check_calibration(calib: dict[str, np.ndarray], classes: int, where: str) -> None:
    """Refuse examples that cannot stand for the data: of one class, of one value, or not finite."""
    present = np.unique(calib["label"]) if "label" in calib else np.arange(classes)
    if len(present) < min(2, classes):
        raise Refused(
            f"{where}: all {len(calib['label'])} calibration examples are of class {present.tolist()}, expected "
            f"examples of several of the {classes} classes. Mend the data set's `calib` split: ranges fitted on one "
            f"class fail on the others."
        )
    for name, array in calib.items():
        if name != "label" and not (np.isfinite(array).all() and array.min() < array.max()):
            raise Refused(
                f"{where}: {name!r} is constant or not finite, expected real examples. Mend the `calib` split."
            )


def to_fp16(fp32: Path, ranges: dict[str, list[float]]) -> tuple[bytes, dict[str, Any]]:
    """Convert weights and arithmetic to float16; inputs and outputs keep their types.

    Args:
        ranges: of every activation on ``calib``; a node that touches a value of ``FP16_NEAR`` or more stays float32.

    Returns:
        The graph's bytes, and ``float32``: the names of the nodes that stayed so.

    Raises:
        Refused: ONNX's checker refuses what came out.
    """
    model = onnx.load(fp32)
    largest = {name: max(abs(low), abs(high)) for name, (low, high) in ranges.items()}
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            largest[tensor.name] = float(np.abs(onnx.numpy_helper.to_array(tensor)).max(initial=0.0))
    kept = [
        node.name
        for node in model.graph.node
        if max((largest.get(tensor, 0.0) for tensor in [*node.input, *node.output]), default=0.0) >= FP16_NEAR
    ]
    casts = {
        node.name
        for node in model.graph.node
        if node.op_type == "Cast" and node.attribute[0].i == onnx.TensorProto.FLOAT
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells of each weight below float16's smallest, which becomes that
        converted = float16.convert_float_to_float16(
            model, min_positive_val=2.0**-24, max_finite_val=FP16_MOST, keep_io_types=True, node_block_list=kept
        )
    for node in converted.graph.node:  # the converter leaves a Cast of the network's own as it was
        if node.op_type == "Cast" and node.name in casts - set(kept):
            node.attribute[0].i = onnx.TensorProto.FLOAT16
    converted.graph.ClearField("value_info")  # it kept types of tensors that are gone
    inferred = onnx.shape_inference.infer_shapes(converted)
    check_model(inferred, fp32)
    return inferred.SerializeToString(), {"float32": kept}


def to_int8(
    fp32: Path,
    precision: str,
    feeds: list[dict[str, np.ndarray]],
    judge: Callable[[Path], tuple[float, float]],
    higher_is_better: bool,
) -> tuple[bytes, dict[str, Any]]:
    """Quantize in every form that ``precision`` allows and keep the best on ``select``.

    Args:
        feeds: what the graph was fed on ``calib``, call by call.
        judge: graph file -> score and mean absolute error on ``select``; the better score wins, then the smaller error.

    Returns:
        The best graph's bytes, and all ``candidates``, best first.

    Raises:
        Refused: the graph has no layer to quantize, or the quantizer cannot.
    """
    found = {node.op_type for node in onnx.load(fp32).graph.node}
    if not found & set(LAYERS):
        raise Refused(
            f"{fp32}: no {', '.join(LAYERS)} in it to quantize; it has {', '.join(sorted(found))}. "
            f"Take {precision} out of the recipe's `precisions`."
        )
    candidates: list[tuple[tuple[float, float], bytes, dict[str, Any]]] = []
    failed: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for form, options in FORMS[precision].items():
            for calibration, how in CALIBRATIONS.items():
                path = Path(scratch) / "network.onnx"
                extra = how["extra_options"] | options.get("extra_options", {})
                try:
                    _quantize(fp32, path, feeds, how | options | {"extra_options": extra})
                    score, error = judge(path)
                except Refused as refused:
                    failed.append({"weights": form, "calibration": calibration, "reason": str(refused)})
                    continue
                facts = {"weights": form, "calibration": calibration, "score": score, "error_mean": error}
                candidates.append(((-score if higher_is_better else score, error), path.read_bytes(), facts))
    if not candidates:
        raise Refused(failed[0]["reason"])
    candidates.sort(key=lambda candidate: candidate[0])
    return candidates[0][1], {"candidates": [facts for _, _, facts in candidates] + failed}


def check_model(model: onnx.ModelProto, source: Path) -> None:
    """Hold a made graph against ONNX's checker."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # ValidationError, InferenceError, or a C++ exception
        raise Refused(f"{source}: ONNX's checker refuses the graph made from it: {error}") from None


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime asks for this class
    def __init__(self, feeds: list[dict[str, np.ndarray]]) -> None:
        self._batches = self._iterate(feeds)

    @staticmethod
    def _iterate(feeds: list[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
        # One at a time: the histograms of a last, smaller batch cannot be joined to the others'.
        for feed in feeds:
            for i in range(len(next(iter(feed.values())))):
                yield {name: array[i : i + 1] for name, array in feed.items()}

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


def _quantize(fp32: Path, path: Path, feeds: list[dict[str, np.ndarray]], options: dict[str, Any]) -> None:
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises a pre-processing that the exporter has done
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it collects
            quantize_static(fp32, path, _Reader(feeds), QuantFormat.QDQ, LAYERS, **options)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # the quantizer has no common class
        raise Refused(f"{fp32}: onnxruntime's quantizer cannot quantize this graph: {error}") from None
    finally:
        root.setLevel(level)
    check_model(onnx.load(path), fp32)


if __name__ == "__main__":
    stage.run_named(quantize)
