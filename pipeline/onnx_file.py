"""An ONNX file that somebody brings: checked, and given the data set's raw input and the task's names.

What it computes is not touched. Before it come, as far as they are needed, a cast, the scaling that it was trained
with, and the order of axes that it wants.
"""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from onnx import TensorProto, helper, numpy_helper

from deploy.errors import Refused
from deploy.numeric import error_max, rounding
from deploy.runtimes import open_onnxruntime
from pipeline.recipe import Graph, Scale
from pipeline.splits import TRUTHS

OLDEST = 13  # the first opset in which a channel's weights can have a scale of their own, which int8 needs
RAW = "raw"  # before the names of what is put in front
TOLERANCE = 10  # times float32's rounding: an answer in company may differ so much from the same answer alone


def take_graph(
    given: Graph, task: ModuleType, facts: dict[str, Any], examples: dict[str, np.ndarray]
) -> onnx.ModelProto:
    """The graph in ``given.onnx`` from the data set's raw input ``(batch, ...)`` to the task's outputs by name.

    Args:
        facts: ``data.json``.
        examples: some of the data, first axis = item.

    Raises:
        Refused: no such file, or damaged; an operator, an opset or an IR version that is not supported; a task of
            several graphs; inputs or outputs that are not the data set's and the task's; a batch that is not free.
    """
    where = f"train: onnx: {given.onnx}"
    if list(task.outputs) != ["network"]:
        raise Refused(f"{where}: the task runs {len(task.outputs)} graphs ({', '.join(task.outputs)}); one came")
    model = _read(given.onnx, where)
    _check_operators(model, where)
    [source], outputs = _inputs(model, where), task.outputs["network"]
    raw = [name for name in examples if name not in TRUTHS]
    if len(raw) != 1:
        raise Refused(f"{where}: the data set has the inputs {', '.join(raw)}; one was expected for a graph of one")
    if len(model.graph.output) != len(outputs):
        came = ", ".join(output.name for output in model.graph.output)
        raise Refused(f"{where}: its outputs are {came}; the task expects {len(outputs)}: {', '.join(outputs)}")
    for tensor, name in zip(list(model.graph.output), outputs, strict=True):
        _rename(model.graph, tensor.name, name)
    _put_in_front(model, source, raw[0], examples[raw[0]], given.scale, where)
    _free_batch(model)
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    _check_answers(model, raw[0], examples[raw[0]], len(facts["classes"]), where)
    return model


def _read(path: Path, where: str) -> onnx.ModelProto:
    if not path.is_file():
        raise Refused(f"{where}: no such file; a path is taken from the folder of params.yaml")
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf's, or a missing file of external data
        raise Refused(f"{where}: damaged, or no ONNX file ({str(error).splitlines()[0]}). Export it again.") from None
    if model.ir_version > onnx.IR_VERSION:
        raise Refused(
            f"{where}: IR version {model.ir_version} came, onnx {onnx.__version__} reads up to {onnx.IR_VERSION}. "
            f"Export it with an older onnx, or pin a newer one here."
        )
    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception as error:
        raise Refused(f"{where}: its functions cannot be resolved ({error}). Export it without them.") from None


def _check_operators(model: onnx.ModelProto, where: str) -> None:
    opset = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}.get("ai.onnx", 0)
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST <= opset <= newest:
        raise Refused(
            f"{where}: opset {opset} came, {OLDEST} to {newest} were expected. Convert it: "
            f"onnx.version_converter.convert_version(model, 18)."
        )
    kinds = sorted({(node.domain, node.op_type) for node in model.graph.node})
    unknown = [f"{domain or 'ai.onnx'}.{kind}" for domain, kind in kinds if not _known(kind, opset, domain)]
    if unknown:
        raise Refused(
            f"{where}: {', '.join(unknown)}: not operators of ONNX's own opset {opset}, which every target takes. "
            f"Export it without them: no runtime's own operators, no optimised form that a runtime saved."
        )
    if quantized := [kind for _, kind in kinds if "quantize" in kind.lower() or "Integer" in kind]:
        raise Refused(f"{where}: it is quantized already ({', '.join(quantized)}). Bring the float32 graph.")
    if any(tensor.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16) for tensor in model.graph.initializer):
        raise Refused(f"{where}: its weights are of 16 bits. Bring the float32 graph: fp16 is made, and judged, here.")


def _known(kind: str, opset: int, domain: str) -> bool:
    if domain not in ("", "ai.onnx"):
        return False
    try:
        return not onnx.defs.get_schema(kind, opset, "").deprecated
    except onnx.defs.SchemaError:
        return False


def _inputs(model: onnx.ModelProto, where: str) -> list[onnx.ValueInfoProto]:
    given = {tensor.name for tensor in model.graph.initializer}
    inputs = [tensor for tensor in model.graph.input if tensor.name not in given]
    if len(inputs) != 1:
        told = ", ".join(tensor.name for tensor in inputs) or "none"
        raise Refused(f"{where}: its inputs are {told}; a graph with one input was expected")
    return inputs


def _put_in_front(
    model: onnx.ModelProto, source: onnx.ValueInfoProto, name: str, raw: np.ndarray, scale: Scale | None, where: str
) -> None:
    """Let the graph begin at ``name``, the raw input, and come to ``source`` by a cast, a scale, an order of axes."""
    wanted = [axis.dim_value for axis in source.type.tensor_type.shape.dim][1:]
    shape, order = list(raw.shape[1:]), _order(wanted, list(raw.shape[1:]))
    if order is None:
        told = [axis or "free" for axis in wanted]
        raise Refused(
            f"{where}: its input {source.name} is {told} an item, the data set's {name} is {shape}: neither as it is, "
            f"nor with the channels last, nor flat. Mend the data set's size, or export with another."
        )
    dtype = source.type.tensor_type.elem_type
    begun = onnx.helper.np_dtype_to_tensor_dtype(raw.dtype)
    steps: list[tuple[str, list[np.ndarray], dict[str, Any]]] = []
    if begun != dtype:
        steps.append(("Cast", [], {"to": dtype}))
    for kind, value in _scaling(scale, shape, where) if scale else ():
        steps.append((kind, [value.astype(helper.tensor_dtype_to_np_dtype(dtype))], {}))
    if order == "last":
        steps.append(("Transpose", [], {"perm": [0, *range(2, raw.ndim), 1]}))
    elif order == "flat":
        steps.append(("Flatten", [], {}))
    graph, before = model.graph, source.name
    _rename(graph, before, name if not steps else f"{RAW}_{len(steps)}")
    nodes = []
    for i, (kind, constants, attributes) in enumerate(steps):
        inputs = [name if i == 0 else f"{RAW}_{i}"]
        for constant in constants:
            inputs.append(f"{RAW}_{i}_{kind}")
            graph.initializer.append(numpy_helper.from_array(constant, inputs[-1]))
        nodes.append(helper.make_node(kind, inputs, [f"{RAW}_{i + 1}"], f"{RAW}_{kind}_{i}", **attributes))
    nodes += list(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)
    source.CopyFrom(helper.make_tensor_value_info(name, begun, ["batch", *shape]))


def _order(wanted: list[int], shape: list[int]) -> str | None:
    """How ``shape`` becomes ``wanted``, in which 0 is a free axis: "same", "last" (channels), "flat", or not at all."""

    def fits(came: list[int]) -> bool:
        return len(wanted) == len(came) and all(axis in (0, size) for axis, size in zip(wanted, came, strict=True))

    flat = [int(np.prod(shape))]
    ways = {"same": shape, "last": [*shape[1:], *shape[:1]], "flat": flat}
    return next((way for way, came in ways.items() if fits(came)), None)


def _scaling(scale: Scale, shape: list[int], where: str) -> list[tuple[str, np.ndarray]]:
    """The operators that scale raw input ``(batch, *shape)``, channels first."""
    from pipeline.weights import raw_scale

    mean, deviation = raw_scale(scale, (shape[0], *(1 for _ in shape[1:])), where)
    return [("Sub", mean.numpy()), ("Div", deviation.numpy())]


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Call a tensor otherwise, everywhere; where another one has that name already, that one gives way."""
    if old == new:
        return
    names = {new: f"{new}_of_the_file", old: new}
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for tensor in [*graph.input, *graph.output, *graph.initializer, *graph.value_info]:
        tensor.name = names.get(tensor.name, tensor.name)


def _free_batch(model: onnx.ModelProto) -> None:
    """Call the first axis ``batch`` and forget inferred shapes: whether it is free in truth, running it will show."""
    del model.graph.value_info[:]
    for tensor in [*model.graph.input, *model.graph.output]:
        if tensor.type.tensor_type.shape.dim:
            tensor.type.tensor_type.shape.dim[0].dim_param = "batch"


def _check_answers(model: onnx.ModelProto, name: str, raw: np.ndarray, classes: int, where: str) -> None:
    """Open it, and hold three items' answers in one call against each one's alone."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # ValidationError, InferenceError, or a C++ exception
        raise Refused(f"{where}: ONNX's checker refuses it: {error}. Export it again.") from None
    try:
        run = open_onnxruntime(model.SerializeToString())
        alone = [run({name: raw[i : i + 1]}) for i in range(3)]
    except Refused as error:
        raise Refused(f"{where}: {error}") from None
    try:
        together = run({name: raw[:3]})
    except Refused as error:
        raise Refused(
            f"{where}: it does not run at batch 3 ({error}). Export it with a free first axis (torch.onnx.export: "
            f"dynamic_shapes; tf2onnx and Keras: an input of batch None)."
        ) from None
    apart = {key: np.concatenate([answer[key] for answer in alone]) for key in together}
    allowed = TOLERANCE * rounding(apart)
    if any(apart[key].shape != together[key].shape for key in apart) or error_max(together, apart) > allowed:
        raise Refused(f"{where}: an item is answered otherwise in company than alone: the items of a batch are mixed")
    for key, array in together.items():
        if array.ndim == 2 and classes and array.shape[1] != classes:
            raise Refused(f"{where}: {array.shape[1]} {key} came, the data set has {classes} classes")
