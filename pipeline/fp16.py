"""Weights and arithmetic in float16, with the interface as it was; layers that could overflow stay float32."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxconverter_common import float16

from deploy.errors import Refused

MOST = 65_504.0
ZERO = onnx.helper.make_tensor("", onnx.TensorProto.FLOAT16, [1], [0.0])
NEAR = MOST / 2  # one binary place of room for inputs that `calib` does not show


def to_fp16(fp32: Path, ranges: dict[str, list[float]]) -> tuple[bytes, dict[str, Any]]:
    """Convert weights and arithmetic to float16; inputs and outputs keep their types.

    Args:
        ranges: of every activation on ``calib``; a node that touches a value of ``NEAR`` or more stays float32.

    Returns:
        The graph's bytes, and ``float32``: the names of the nodes that stayed so for their range.

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
        if max((largest.get(tensor, 0.0) for tensor in [*node.input, *node.output]), default=0.0) >= NEAR
    ]
    # A float16 Transpose before a MatMul kills the process that opens the graph with ONNX Runtime 1.31's CPU provider.
    multiplied = {name for node in model.graph.node if node.op_type == "MatMul" for name in node.input}
    turned = [n.name for n in model.graph.node if n.op_type == "Transpose" and n.output[0] in multiplied]
    casts = {
        node.name
        for node in model.graph.node
        if node.op_type == "Cast" and node.attribute[0].i == onnx.TensorProto.FLOAT
    }
    _say_outputs_apart(model.graph)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells of each weight below float16's smallest, which becomes that
        converted = float16.convert_float_to_float16(
            model, min_positive_val=2.0**-24, max_finite_val=MOST, keep_io_types=True, node_block_list=[*kept, *turned]
        )
    for node in converted.graph.node:  # the converter leaves as they were:
        if node.op_type == "Cast" and node.name in casts - set(kept):  # a Cast of the network's own
            node.attribute[0].i = onnx.TensorProto.FLOAT16
        if node.op_type == "ConstantOfShape" and not node.attribute and node.name not in kept:  # a state of zeros
            node.attribute.append(onnx.helper.make_attribute("value", ZERO))
    converted.graph.ClearField("value_info")  # it kept types of tensors that are gone
    inferred = onnx.shape_inference.infer_shapes(converted)
    check_model(inferred, fp32)
    return inferred.SerializeToString(), {"float32": kept}


def _say_outputs_apart(graph: onnx.GraphProto) -> None:
    """An output that nodes read too becomes an Identity's: else the converter hands them its float32."""
    read = {name for node in graph.node for name in node.input}
    for name in [output.name for output in graph.output if output.name in read]:
        inside = f"{name} inside"
        for node in graph.node:
            node.input[:] = [inside if each == name else each for each in node.input]
            node.output[:] = [inside if each == name else each for each in node.output]
        graph.node.append(onnx.helper.make_node("Identity", [inside], [name], f"{name} said"))


def check_model(model: onnx.ModelProto, source: Path) -> None:
    """Hold a made graph against ONNX's checker."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # ValidationError, InferenceError, or a C++ exception
        raise Refused(f"{source}: ONNX's checker refuses the graph made from it: {error}") from None
