"""The smallest and largest value of every activation on the calibration examples.

What fp16 and int8 can hold is decided by these, and a deployed graph's overflow is told from these.
"""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from deploy.errors import Refused

BATCH = 64


def activation_ranges(graph: Path, examples: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """Run a graph with every intermediate tensor made an output.

    Args:
        graph: an fp32 graph.
        examples: the graph's inputs by name ``(n, ...)``.

    Returns:
        tensor -> ``[smallest, largest]`` over all examples, floating tensors only, graph inputs apart.

    Raises:
        Refused: an activation is not finite.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load(graph))
    floating = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE}
    computed = {name for node in model.graph.node for name in node.output} - {o.name for o in model.graph.output}
    for tensor in model.graph.value_info:
        if tensor.type.tensor_type.elem_type in floating and tensor.name in computed:
            model.graph.output.append(tensor)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    ranges = {name: [np.inf, -np.inf] for name in names}
    for start in range(0, len(next(iter(examples.values()))), BATCH):
        batch = {name: array[start : start + BATCH] for name, array in examples.items()}
        for name, array in zip(names, session.run(names, batch), strict=True):
            if not np.isfinite(array).all():
                raise Refused(
                    f"{graph}: the activation {name!r} is not finite on the calibration examples. Train again."
                )
            ranges[name] = [min(ranges[name][0], float(array.min())), max(ranges[name][1], float(array.max()))]
    return ranges
