"""The smallest and largest value of every activation on the calibration examples.

What fp16 and int8 can hold is decided by these, and a deployed graph's overflow is told from these.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx

from deploy.errors import Refused
from deploy.runtimes import open_onnxruntime


def activation_ranges(graph: Path, feeds: Iterable[dict[str, np.ndarray]]) -> dict[str, list[float]]:
    """Run a graph with every intermediate tensor made an output.

    Args:
        graph: an fp32 graph.
        feeds: what the graph was fed, call by call, inputs by name ``(batch, ...)``.

    Returns:
        tensor -> ``[smallest, largest]`` over all feeds, floating tensors only, graph inputs apart.

    Raises:
        Refused: an activation is not finite.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load(graph))
    floating = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE}
    computed = {name for node in model.graph.node for name in node.output} - {o.name for o in model.graph.output}
    for tensor in model.graph.value_info:
        if tensor.type.tensor_type.elem_type in floating and tensor.name in computed:
            model.graph.output.append(tensor)
    run = open_onnxruntime(model.SerializeToString(), optimise=False)
    ranges: dict[str, list[float]] = {}
    for feed in feeds:
        for name, array in run(feed).items():
            if not np.isfinite(array).all():
                raise Refused(
                    f"{graph}: the activation {name!r} is not finite on the calibration examples. Train again."
                )
            low, high = ranges.get(name, (np.inf, -np.inf))
            ranges[name] = [min(low, float(array.min())), max(high, float(array.max()))]
    return ranges
