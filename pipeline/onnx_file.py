"""An ONNX file that somebody brings: checked, and given the data set's raw input and the task's names.

What it computes is not touched. Before it come, as far as they are needed, a cast, the scaling that it was trained
with, and the order of axes that it wants.
"""

from collections.abc import Iterator
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
RAW = "raw_"  # before the names of what is put in front
Step = tuple[str, list[np.ndarray], dict[str, Any]]  # an operator, its constants, its attributes
TOLERANCE = 10  # times float32's rounding: an answer in company may differ so much from the same answer alone


def take_graph(
    given: Graph, task: ModuleType, facts: dict[str, Any], examples: dict[str, np.ndarray]
) -> onnx.ModelProto:
    """The graph in ``given.onnx`` from the data set's raw input ``(batch, ...)`` to the task's outputs by name.

    Args:
        facts: ``data.json``.
        examples: some of the data, first axis = item.

    Raises:
        Refused: no such file, empty, or damaged; an operator, an opset, an IR version or a floating type that is not
            supported; a task of several graphs; inputs or outputs that are not the data set's and the task's; a batch
            that is not free.
    """
    where = f"train: onnx: {given.onnx}"
    if list(task.outputs) != ["network"]:
        raise Refused(f"{where}: the task runs {len(task.outputs)} graphs ({', '.join(task.outputs)}); one came")
    model = _read(given.onnx, where)
    _check_operators(model, where)
    _check_floats(model, where)
    source, outputs = _input(model, where), task.outputs["network"]
    raw = [name for name in examples if name not in TRUTHS]
    if len(raw) != 1:
        raise Refused(f"{where}: the data set has the inputs {', '.join(raw)}; one was expected for a graph of one")
    if len(model.graph.output) != len(outputs):
        came = ", ".join(output.name for output in model.graph.output)
        raise Refused(f"{where}: its outputs are {came}; the task expects {len(outputs)}: {', '.join(outputs)}")
    steps = _steps(source, raw[0], examples[raw[0]], given.scale, where)
    _free_names(model, [raw[0], *outputs])
    _rename(model, {tensor.name: name for tensor, name in zip(model.graph.output, outputs, strict=True)})
    _put_in_front(model, source, raw[0], examples[raw[0]], steps)
    _name_nodes(model)
    _free_batch(model)
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    _check_answers(model, raw[0], examples[raw[0]], len(facts["classes"]), where)
    return model


def files(path: Path) -> list[Path]:
    """The ONNX file and the files of external data that it names, there or not: what its weights depend on.

    Of a file that cannot be read, itself alone: ``take_graph`` says why.

    Raises:
        Refused: it names a file outside of its folder.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception:  # protobuf's, or the system's
        return [path]
    tensors = [tensor for holder in (model.graph, *model.functions) for _, tensor in _tensors(holder)]
    entries = [entry for tensor in tensors for entry in tensor.external_data if entry.key == "location"]
    folder = path.parent
    for entry in entries:
        if not (folder / entry.value).resolve().is_relative_to(folder.resolve()):
            raise Refused(
                f"train: onnx: {path}: it has weights in {entry.value}, outside of its folder. Export it again, with "
                f"its external data beside it."
            )
    return [path, *sorted({folder / entry.value for entry in entries})]


def told(model: onnx.ModelProto) -> str:
    """Its opset, IR version and operators, for people."""
    [opset] = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    kinds = sorted({node.op_type for node in model.graph.node})
    return f"opset {opset}, IR version {model.ir_version}, {len(model.graph.node)} nodes ({', '.join(kinds)})"


def _read(path: Path, where: str) -> onnx.ModelProto:
    if not path.is_file():
        raise Refused(f"{where}: no such file; a path is taken from the folder of params.yaml")
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf's, or a missing file of external data
        [reason, *_] = str(error).splitlines() or [type(error).__name__]
        raise Refused(f"{where}: damaged, or no ONNX file ({reason}). Export it again.") from None
    if not model.graph.node:
        raise Refused(
            f"{where}: {path.stat().st_size} bytes without a node came, a network was expected. Export it again."
        )
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
    kinds = sorted({(node.domain, node.op_type) for graph in _graphs(model.graph) for node in graph.node})
    unknown = [f"{domain or 'ai.onnx'}.{kind}" for domain, kind in kinds if not _known(kind, opset, domain)]
    if unknown:
        raise Refused(
            f"{where}: {', '.join(unknown)}: not operators of ONNX's own opset {opset}, which every target takes. "
            f"Export it without them: no runtime's own operators, no optimised form that a runtime saved."
        )
    if quantized := [kind for _, kind in kinds if "quantize" in kind.lower() or "Integer" in kind]:
        raise Refused(f"{where}: it is quantized already ({', '.join(quantized)}). Bring the float32 graph.")


def _check_floats(model: onnx.ModelProto, where: str) -> None:
    """Weights, constants and inputs: those of another width than float32 would be judged as what they are not."""
    kinds = [(tensor.name, tensor.type.tensor_type.elem_type) for tensor in model.graph.input]
    kinds += [(name, tensor.data_type) for name, tensor in _tensors(model.graph)]
    for name, kind in kinds:
        told = TensorProto.DataType.Name(kind)
        if kind != TensorProto.FLOAT and ("FLOAT" in told or kind == TensorProto.DOUBLE):
            raise Refused(
                f"{where}: {name} is of {told.lower()}, float (32 bits) was expected. Bring the float32 graph: fp16 is "
                f"made, and judged, here."
            )


def _known(kind: str, opset: int, domain: str) -> bool:
    if domain not in ("", "ai.onnx"):
        return False
    try:
        return not onnx.defs.get_schema(kind, opset, "").deprecated
    except onnx.defs.SchemaError:
        return False


def _graphs(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    """``graph`` and those within it: branches and the bodies of loops."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _tensors(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[tuple[str, TensorProto]]:
    """Weights and constants by name, also of the graphs within."""
    for inner in _graphs(graph):
        if isinstance(inner, onnx.GraphProto):
            yield from ((tensor.name, tensor) for tensor in inner.initializer)
        for node in inner.node:
            yield from ((node.output[0], attribute.t) for attribute in node.attribute if attribute.HasField("t"))


def _input(model: onnx.ModelProto, where: str) -> onnx.ValueInfoProto:
    """The one input; weights that are listed as inputs too, as old exporters do, are so no longer."""
    weights = {tensor.name for tensor in model.graph.initializer}
    for tensor in list(model.graph.input):
        if tensor.name in weights:
            model.graph.input.remove(tensor)
    model.ir_version = max(model.ir_version, 4)  # the first that lets a weight be no input
    if len(model.graph.input) != 1:
        told = ", ".join(tensor.name for tensor in model.graph.input) or "none"
        raise Refused(f"{where}: its inputs are {told}; a graph with one input was expected")
    return model.graph.input[0]


def _steps(source: onnx.ValueInfoProto, name: str, raw: np.ndarray, scale: Scale | None, where: str) -> list[Step]:
    """What makes ``source`` of ``raw``: a cast, a scale, an order of axes, as far as they are needed."""
    shape, dtype = list(raw.shape[1:]), source.type.tensor_type.elem_type
    order = _order(source, name, shape, where)
    if scale and dtype != TensorProto.FLOAT:
        raise Refused(
            f"{where}: scale: its input {source.name} is of {TensorProto.DataType.Name(dtype).lower()}; a scale needs "
            f"a floating input. Leave `scale` out, if the file scales within, or export it with a float32 input."
        )
    steps: list[Step] = []
    if helper.np_dtype_to_tensor_dtype(raw.dtype) != dtype:
        steps.append(("Cast", [], {"to": dtype}))
    for kind, value in _scaling(scale, shape, where) if scale else ():
        steps.append((kind, [value], {}))
    if order == "last":
        steps.append(("Transpose", [], {"perm": [0, *range(2, raw.ndim), 1]}))
    elif order == "flat":
        steps.append(("Flatten", [], {}))
    return steps


def _put_in_front(
    model: onnx.ModelProto, source: onnx.ValueInfoProto, name: str, raw: np.ndarray, steps: list[Step]
) -> None:
    """Let the graph begin at ``name``, the raw input, and come to ``source`` by ``steps``."""
    graph, nodes = model.graph, []
    _rename(model, {source.name: f"{RAW}{len(steps)}" if steps else name})
    for i, (kind, constants, attributes) in enumerate(steps):
        inputs = [name if i == 0 else f"{RAW}{i}"]
        for constant in constants:
            inputs.append(f"{RAW}{i}_{kind}")
            graph.initializer.append(numpy_helper.from_array(constant, inputs[-1]))
        nodes.append(helper.make_node(kind, inputs, [f"{RAW}{i + 1}"], f"{RAW}{kind}_{i}", **attributes))
    nodes += list(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)
    begun = helper.np_dtype_to_tensor_dtype(raw.dtype)
    source.CopyFrom(helper.make_tensor_value_info(name, begun, ["batch", *raw.shape[1:]]))


def _order(source: onnx.ValueInfoProto, name: str, shape: list[int], where: str) -> str:
    """How an item of ``shape`` becomes what ``source`` wants: "same", "last" (the channels), or "flat"."""
    wanted = [axis.dim_value for axis in source.type.tensor_type.shape.dim][1:]

    def fits(came: list[int]) -> bool:
        return len(wanted) == len(came) and all(axis in (0, size) for axis, size in zip(wanted, came, strict=True))

    flat = [int(np.prod(shape))]
    ways = {"same": shape, "last": [*shape[1:], *shape[:1]], "flat": flat}
    order = next((way for way, came in ways.items() if fits(came)), None)
    told = (
        f"{where}: its input {source.name} is {[axis or 'free' for axis in wanted]} an item, the data set's {name} is"
    )
    if order is None:
        raise Refused(
            f"{told} {shape}: neither as it is, nor with the channels last, nor flat. Mend the data set's size, or "
            f"export with another."
        )
    if order == "flat" and len(shape) > 1 and shape[0] > 1:
        raise Refused(
            f"{told} {shape}, of {shape[0]} channels: Keras flattens with the channels last, PyTorch with them first, "
            f"and nothing tells which. Export it with the flattening within."
        )
    return order


def _scaling(scale: Scale, shape: list[int], where: str) -> list[tuple[str, np.ndarray]]:
    """The operators that scale raw input ``(batch, *shape)``, channels first."""
    from pipeline.weights import raw_scale

    mean, deviation = raw_scale(scale, (shape[0], *(1 for _ in shape[1:])), where)
    return [("Sub", mean.numpy()), ("Div", deviation.numpy())]


def _rename(model: onnx.ModelProto, names: dict[str, str]) -> None:
    """Call tensors otherwise, everywhere: a branch or a loop's body reads those about it by name."""
    for graph in _graphs(model.graph):
        for node in graph.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
        for tensor in _named(graph):
            tensor.name = names.get(tensor.name, tensor.name)


def _named(graph: Any) -> list[Any]:
    return [*graph.input, *graph.output, *graph.initializer, *graph.value_info]


def _free_names(model: onnx.ModelProto, wanted: list[str]) -> None:
    """Let the file's own tensors of the names that are to be given, ``wanted`` and ``RAW``'s, give way."""
    graphs = list(_graphs(model.graph))
    taken = {name for graph in graphs for node in graph.node for name in [*node.input, *node.output]}
    taken |= {tensor.name for graph in graphs for tensor in _named(graph)} | set(wanted)
    clashes = sorted(name for name in taken if name in wanted or name.startswith(RAW))
    _rename(model, {name: _fresh(name, taken) for name in clashes})


def _name_nodes(model: onnx.ModelProto) -> None:
    """Give every node a name of its own, by which the quantizer tells them apart; one that is so already stays."""
    nodes = [node for graph in _graphs(model.graph) for node in graph.node]
    taken, seen = {node.name for node in nodes}, {""}
    for i, node in enumerate(nodes):
        if node.name in seen:
            node.name = _fresh(f"{node.op_type}_{i}", taken)
        seen.add(node.name)


def _fresh(name: str, taken: set[str]) -> str:
    while name in taken:
        name = f"{name}_2"
    taken.add(name)
    return name


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
    _check_shapes(alone[0], classes, where)
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


def _check_shapes(answers: dict[str, np.ndarray], classes: int, where: str) -> None:
    """One item's answers: a number a class, where the data have classes."""
    for key, array in answers.items():
        if classes and array.ndim == 2 and array.shape[1] != classes:
            raise Refused(f"{where}: {array.shape[1]} {key} came, the data set has {classes} classes")
        if array.ndim == 0 or len(array) != 1 or (classes and array.ndim != 2):
            expected = f"(1, {classes})" if classes else "1 as the first axis"
            raise Refused(
                f"{where}: {key} of rank {array.ndim} and shape {array.shape} came for one item, {expected} was "
                f"expected. Export it with an answer for each item of the batch."
            )
