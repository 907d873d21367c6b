"""A GRU or an RNN as its equations, in which a CPU can multiply in int8: ONNX Runtime has an int8 LSTM, and no other.

``write_out`` puts two multiplications in the place of the operator: the input's, over the whole sequence at once, and
the state's, in the body of a Scan. The first is a layer like any other, and onnxruntime's quantizer takes it. The
second it leaves alone: its quantizer of Q/DQ nodes reads no graph inside a graph (1.31). ``quantize_steps`` does that.

A state needs no calibration: a GRU's is between its candidate, a tanh, and the state before, an RNN's is a tanh. What
starts in [-1, 1], as zeros do, stays there. One fixed scale also keeps a sequence apart from those in its batch, and a
text's answers apart from how it is cut into calls; a scale found while it runs (``DynamicQuantizeLinear``) is the
whole batch's. Both take the same time.

Source of the equations: the operators ``GRU`` (14, 22) and ``RNN`` of ONNX's specification.
"""

from collections.abc import Callable, Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

ACTIVATIONS = {"GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
OLDEST = 15  # opset: of a Shape that gives one axis
BODY = "a cell written out"  # the name of the Scans' bodies that are made here
ONE = 127  # steps of an int8 that make 1, of a state
MIDDLE = 128  # the uint8 that is 0 then
NARROW = 64  # the largest weight, at 7 bits, as onnxruntime's `reduce_range` has it

Constants = dict[str, np.ndarray]


def write_out(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every GRU and RNN as its equations, in float32; those that ``why_not`` tells of stay.

    The answers are the operator's, but for the order of sums. Inputs, outputs and their names stay.
    """
    made = onnx.ModelProto.FromString(model.SerializeToString())
    graph = made.graph
    constants = _constants(graph)
    nodes = []
    for node in made.graph.node:
        if node.op_type in ACTIVATIONS and not why_not(model, node):
            written, own = _written(node, constants)
            nodes += written
            graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in own.items())
        else:
            nodes.append(node)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]  # clearing the graph frees them
    graph.ClearField("node")
    graph.node.extend(nodes)
    used = set(_read(graph)) | {output.name for output in graph.output}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
    return made


def why_not(model: onnx.ModelProto, node: onnx.NodeProto, least: int = 0) -> str:
    """Why a GRU or RNN cannot be written out, or has too few units to be the faster for it; else empty."""
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    inputs = list(node.input) + [""] * 6
    constants = _constants(model.graph)
    weights = [name for name in inputs[1:4] if name]
    activations = [word.decode() for word in given.get("activations", [])]
    opset = next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    if (units := given.get("hidden_size", 0)) < least:
        return f"it has {units} units, and in int8 it is the faster from {least} on"
    checks = [
        (node.op_type == "GRU" and not given.get("linear_before_reset"), "its reset gate comes before the product"),
        (given.get("direction", b"forward") != b"forward", "it does not read forwards"),
        (bool(activations) and activations != ACTIVATIONS[node.op_type], f"its activations are {activations}"),
        ("clip" in given, "it clips"),
        (bool(given.get("layout")), "its batch comes before its time"),
        (bool(inputs[4]), "it takes lengths of sequences"),
        (not all(name in constants for name in weights), "its weights are computed"),
        (any(constants[name].dtype != np.float32 for name in weights if name in constants), "it is not float32"),
        (opset < OLDEST, f"opset {opset}, expected {OLDEST} and newer"),
    ]
    return next((why for wrong, why in checks if wrong), "")


def quantize_steps(model: onnx.ModelProto) -> onnx.ModelProto:
    """The multiplications in the bodies that ``write_out`` made, with Q/DQ: states uint8, weights 7-bit a channel."""
    made = onnx.ModelProto.FromString(model.SerializeToString())
    for node in made.graph.node:
        if node.op_type == "Scan":
            body = next(attribute.g for attribute in node.attribute if attribute.name == "body")
            if body.name == BODY:
                _quantize_step(body)
    return made


def _written(node: onnx.NodeProto, constants: Constants) -> tuple[list[onnx.NodeProto], Constants]:
    """The nodes that take the place of ``node``, and their constants.

    Shapes: of ``x`` ``(time, batch, inputs)``, of a state ``(batch, units)``, of ``W`` and ``R``
    ``(1, gates * units, ...)``, of ``B`` ``(1, 2 * gates * units)``.
    """
    x, w, r, b, _, first = (list(node.input) + [""] * 6)[:6]
    every, last = (list(node.output) + [""] * 2)[:2]
    weights, recurrent = constants[w][0], constants[r][0]
    rows, units = recurrent.shape
    bias = constants[b][0] if b else np.zeros(2 * rows, np.float32)
    of_x, of_h = bias[:rows].copy(), bias[rows:]
    # All of the recurrent bias that no gate multiplies joins the input's: it is then added once, not at each step.
    joined = 2 * units if node.op_type == "GRU" else units
    of_x[:joined] += of_h[:joined]
    own: Constants = {}
    keep = _keeper(own, f"{every or last} ")
    called: Callable[[str], str] = f"{every or last} {{}}".format
    nodes = [
        helper.make_node("MatMul", [x, keep("W", weights.T)], [called("W x")], called("input")),
        helper.make_node("Add", [called("W x"), keep("b", of_x)], [called("W x + b")]),
    ]
    if first:
        nodes.append(helper.make_node("Squeeze", [first, keep("directions", np.array([0]))], [called("first")]))
    else:
        nodes += [
            helper.make_node("Shape", [x], [called("batch")], start=1, end=2),
            helper.make_node("Concat", [called("batch"), keep("units", np.array([units]))], [called("size")], axis=0),
            helper.make_node("ConstantOfShape", [called("size")], [called("first")]),
        ]
    body = _gru(recurrent, of_h[joined:], called) if node.op_type == "GRU" else _rnn(recurrent, called)
    states, outputs = called("last"), called("outputs")
    sources = [called("first"), called("W x + b")]
    nodes.append(helper.make_node("Scan", sources, [states, outputs], node.name, body=body, num_scan_inputs=1))
    if every:
        nodes.append(helper.make_node("Unsqueeze", [outputs, keep("direction", np.array([1]))], [every]))
    if last:
        nodes.append(helper.make_node("Unsqueeze", [states, keep("directions", np.array([0]))], [last]))
    return nodes, own


def _gru(recurrent: np.ndarray, bias: np.ndarray, called: Callable[[str], str]) -> onnx.GraphProto:
    """``z, r = sigmoid(W x + b + R h)``, ``n = tanh(W x + b + r (R h + c))``, ``h' = n + z (h - n)``: one step."""
    units = len(bias)
    own: Constants = {}
    keep = _keeper(own, called(""))
    zr, two = keep("z r, n", np.array([2 * units, units])), keep("z, r", np.array([units, units]))
    steps = [
        ("MatMul", ["h", keep("R", recurrent.T)], ["R h"]),
        ("Split", ["R h", zr], ["z r of h", "n of h"]),
        ("Split", ["x", zr], ["z r of x", "n of x"]),
        ("Add", ["z r of x", "z r of h"], ["z r"]),
        ("Sigmoid", ["z r"], ["gates"]),
        ("Split", ["gates", two], ["z", "r"]),
        ("Add", ["n of h", keep("c", bias)], ["n of h + c"]),
        ("Mul", ["r", "n of h + c"], ["r n"]),
        ("Add", ["n of x", "r n"], ["candidate"]),
        ("Tanh", ["candidate"], ["n"]),
        ("Sub", ["h", "n"], ["h - n"]),
        ("Mul", ["z", "h - n"], ["z (h - n)"]),
        ("Add", ["n", "z (h - n)"], ["next"]),
    ]
    return _body(steps, own, units, 3 * units, called)


def _rnn(recurrent: np.ndarray, called: Callable[[str], str]) -> onnx.GraphProto:
    """``h' = tanh(W x + b + R h)``: one step."""
    units = len(recurrent)
    own: Constants = {}
    keep = _keeper(own, called(""))
    steps = [
        ("MatMul", ["h", keep("R", recurrent.T)], ["R h"]),
        ("Sum", ["x", "R h"], ["sum"]),  # onnxruntime 1.31 makes MatMul and Add one Gemm, which it has in float alone
        ("Tanh", ["sum"], ["next"]),
    ]
    return _body(steps, own, units, units, called)


def _body(
    steps: list[tuple[str, list[str], list[str]]], own: Constants, units: int, width: int, called: Callable[[str], str]
) -> onnx.GraphProto:
    """``h`` ``(batch, units)`` and ``x`` ``(batch, width)`` to the next ``h``, once to go on with and once to be said.

    Names are made the body's own: a graph and those inside it share theirs.
    """
    said = [*steps, ("Identity", ["next"], ["said"])]
    nodes = []
    for kind, inputs, outputs in said:
        sources = [name if name in own else called(name) for name in inputs]
        node = helper.make_node(kind, sources, [called(name) for name in outputs], called(outputs[0]))
        if kind == "Split":
            node.attribute.append(helper.make_attribute("axis", 1))
        nodes.append(node)
    sizes = {"h": units, "x": width, "next": units, "said": units}
    h, x, after, out = (
        helper.make_tensor_value_info(called(name), onnx.TensorProto.FLOAT, [None, size])
        for name, size in sizes.items()
    )
    tensors = [numpy_helper.from_array(array, name) for name, array in own.items()]
    return helper.make_graph(nodes, BODY, [h, x], [after, out], tensors)


def _quantize_step(body: onnx.GraphProto) -> None:
    [product] = [node for node in body.node if node.op_type == "MatMul"]
    h, weights = product.input
    [tensor] = [tensor for tensor in body.initializer if tensor.name == weights]
    values, scale = _seven_bits(numpy_helper.to_array(tensor))
    body.initializer.remove(tensor)
    own: Constants = {}
    keep = _keeper(own, weights)
    of_state = [keep(" h scale", np.array(1 / ONE, np.float32)), keep(" h zero", np.array(MIDDLE, np.uint8))]
    of_weights = [keep(" int8", values), keep(" scale", scale), keep(" zero", np.zeros(len(scale), np.int8))]
    body.initializer.extend(numpy_helper.from_array(array, name) for name, array in own.items())
    pairs = [
        helper.make_node("QuantizeLinear", [h, *of_state], [f"{h} uint8"], f"{h} quantized"),
        helper.make_node("DequantizeLinear", [f"{h} uint8", *of_state], [f"{h} again"], f"{h} dequantized"),
        helper.make_node("DequantizeLinear", of_weights, [f"{weights} again"], f"{weights} dequantized", axis=1),
    ]
    product.input[:] = [f"{h} again", f"{weights} again"]
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in [*pairs, *body.node]]
    body.ClearField("node")
    body.node.extend(nodes)


def _seven_bits(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``(inputs, outputs)`` as int8 of the same shape, and the scale of each output; of one that is all 0, 1."""
    largest = np.abs(weights).max(axis=0)
    scale = np.where(largest > 0, largest / NARROW, 1.0).astype(np.float32)
    return np.clip(np.rint(weights / scale), -NARROW, NARROW).astype(np.int8), scale


def _keeper(own: Constants, called: str) -> Callable[[str, np.ndarray], str]:
    """What puts a constant into ``own`` and gives its name, which begins with ``called``."""

    def keep(name: str, array: np.ndarray) -> str:
        own[called + name] = np.ascontiguousarray(array)
        return called + name

    return keep


def _constants(graph: onnx.GraphProto) -> Constants:
    """Initializers, and what nodes ``Constant`` give."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def _read(graph: onnx.GraphProto) -> Iterator[str]:
    """The names that nodes read, those of graphs inside this one too."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _read(attribute.g)
