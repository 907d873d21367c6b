"""Stage ``export@recipe``: the trained network to ONNX, and its own answers, recorded.

One process a graph: an export can bake its sizes into the next one of the same process. The graph is stripped of what
names this machine, so that equal weights give equal graphs.
"""

import copy
import json
import logging
import multiprocessing
import re
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import torch
from onnxscript.optimizer import fold_constants
from torch import nn

from deploy.contract import load_arrays, pack_arrays
from deploy.errors import Refused
from deploy.files import read_json, sha256, write_bytes, write_json
from deploy.numeric import all_finite, error_max, rounding
from deploy.run import Run
from deploy.runtimes import open_onnxruntime
from deploy.tasks import answer_all, load_task
from pipeline import stage
from pipeline.exact import open_exact
from pipeline.feeds import recorded_feeds
from pipeline.network import graphs, input_names, load_network, open_network, open_pytorch
from pipeline.recipe import Graph, Network, Project

FEW = 4  # test examples that show what each graph is fed
SHORT = 7  # the most of a free axis that is exported: recurrent layers are traced step by step
LARGEST = 2**30  # bytes of a constant
SHAPED = {  # of which every TensorRT in use documents `Shape`
    getattr(onnx.TensorProto, name) for name in ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "INT32", "INT64", "BOOL")
}


def export(project: Project, name: str) -> None:
    """Write ``<graph>.onnx``, ``io.json`` and the answers on ``test`` into ``build/export/<name>/``."""
    recipe = project.recipe(name)
    data, trained = project.build / "prepare" / recipe.data, project.build / "train" / name
    facts = read_json(data / "data.json")
    task = load_task(recipe.task)
    test = load_arrays(data / "test.npz")
    if isinstance(recipe.train, Graph):
        file = trained / "network.onnx"
        models = {"network": onnx.load(file)}
        runs = _opened(models["network"], task, {key: array[:FEW] for key, array in test.items()}, name)
    else:
        file = trained / "weights.safetensors"
        network = load_network(recipe.network, facts, file)
        examples = example_feeds(network, task.outputs, task, {key: array[:FEW] for key, array in test.items()})
        try:
            models = _exported(recipe.network, facts, file, examples, task.outputs)
            for graph, part in graphs(network, task.outputs).items():
                check_graph(models[graph], part, examples[graph], task.outputs[graph])
        except Refused as error:
            raise Refused(f"{name}: {error}. Mend models/{recipe.network.file}.py.") from None
        runs = {
            str(dtype).removeprefix("torch."): open_network(copy.deepcopy(network).to(dtype), task.outputs)
            for dtype in (torch.float32, torch.float64)
        }
    folder = project.build / "export" / name
    metadata = {"recipe": name, "task": recipe.task, "classes": json.dumps(facts["classes"])}
    metadata |= {"weights_sha256": sha256(file), "data_sha256": facts["sha256"]}
    for graph, model in models.items():
        _strip(model)
        onnx.helper.set_model_props(model, metadata)
        write_bytes(folder / f"{graph}.onnx", model.SerializeToString())
    io = {
        graph: {"inputs": _io(model.graph.input), "outputs": _io(model.graph.output)} for graph, model in models.items()
    }
    write_json(folder / "io.json", io)
    for dtype, of_dtype in runs.items():
        answers = answer_all(task, of_dtype, test)
        if not all_finite(answers):
            raise Refused(f"{name}: the trained network's own answers on test are not all finite. Train it again.")
        write_bytes(folder / "answers" / f"{dtype}.npz", pack_arrays(answers))


def _opened(
    model: onnx.ModelProto, task: ModuleType, few: dict[str, np.ndarray], name: str
) -> dict[str, dict[str, Run]]:
    """A graph that was brought, as onnxruntime computes it and in float64.

    Where there is no float64 of it, the same float32 with basic rewrites stands in its place: then errors are held
    against how far apart two ways of computing the file are. The type of the recorded answers says which it was.
    """
    data = model.SerializeToString()
    try:
        exact = {"network": open_exact(model)}
        task.answer(exact, few)
    except Refused as error:
        print(f"{name}: no float64 of the file ({error}); errors are against its own float32, computed another way")
        exact = {"network": open_onnxruntime(data, optimise=False)}
    return {"float32": {"network": open_onnxruntime(data)}, "float64": exact}


def example_feeds(
    network: nn.Module, outputs: dict[str, tuple[str, ...]], task: ModuleType, examples: dict[str, np.ndarray]
) -> dict[str, dict[str, np.ndarray]]:
    """Graph -> one call's inputs while the task answers ``examples``: the first that has them all, a state too.

    Raises:
        Refused: no call of a graph gives an input that its ``forward`` takes.
    """
    parts = graphs(network, outputs)
    feeds = recorded_feeds(task, open_network(network, outputs), examples)
    chosen = {}
    for graph, part in parts.items():
        whole = [feed for feed in feeds[graph] if all(name in feed for name in input_names(part))]
        if not whole:
            came = sorted({name for feed in feeds[graph] for name in feed})
            raise Refused(
                f"{graph}: forward takes {', '.join(input_names(part))}; the task gives {', '.join(came) or 'nothing'}"
            )
        chosen[graph] = whole[0]
    return chosen


def to_onnx(network: nn.Module, examples: dict[str, np.ndarray], outputs: tuple[str, ...]) -> onnx.ModelProto:
    """Export with the first axis of every input free and named ``batch``, and what else ``axes`` names.

    Args:
        network: its ``axes``, where it has any: input -> axis -> name, such as ``{"text": {1: "time"}}``.
        examples: inputs by the names of ``forward``'s arguments, ``(n, ...)``, n at least 2.

    Raises:
        Refused: the exporter cannot, or a dimension that was to be free would be fixed.
    """
    names = input_names(network)
    axes = free_axes(network)
    short = [_cut(examples[name], dict.fromkeys(axes[name], SHORT)) for name in names]
    inputs = tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in short)
    free = tuple(dict.fromkeys(axes[name], torch.export.Dim.DYNAMIC) for name in names)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of torchvision, which is not needed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own, about PyTorch's internals
            program = torch.onnx.export(
                network,
                inputs,
                dynamo=True,
                dynamic_shapes=free,
                input_names=names,
                output_names=list(outputs),
                verbose=False,
            )
    except Exception as error:  # the exporter has no common class
        raise Refused(f"{type(network).__name__} cannot be exported: {error}") from None
    # The exporter leaves what is computed of large weights alone: a recurrent operator's, in ONNX's order of gates.
    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it warns of what it does not fold
    fold_constants(program.model, input_size_limit=LARGEST, output_size_limit=LARGEST)  # type: ignore[union-attr]
    model = program.model_proto  # type: ignore[union-attr]  # without a file name it returns one
    _strip(model)
    _name_axes(model, axes)
    _shapes_from_casts(model.graph)
    _name_cells(model.graph)
    return _with_shapes(model)


def free_axes(network: nn.Module) -> dict[str, dict[int, str]]:
    """Input -> axis -> name, of every axis that is free."""
    own: dict[str, dict[int, str]] = getattr(network, "axes", {})
    return {name: {0: "batch"} | own.get(name, {}) for name in input_names(network)}


def check_graph(
    model: onnx.ModelProto, network: nn.Module, examples: dict[str, np.ndarray], outputs: tuple[str, ...]
) -> None:
    """Hold a graph against ONNX's checker, its shape inference, and the network at several batch sizes and lengths.

    Raises:
        Refused: the checker's or the runtime's words; or an axis that is fixed; or answers that are not the network's.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, strict_mode=True, check_type=True)
    except Exception as error:  # ValidationError, InferenceError, or a C++ exception
        raise Refused(f"ONNX's checker refuses the exported graph: {error}") from None
    axes = free_axes(network)
    for tensor in [*model.graph.input, *model.graph.output]:
        for axis, expected in axes.get(tensor.name, {0: "batch"}).items():
            dimension = tensor.type.tensor_type.shape.dim[axis]
            if dimension.dim_param != expected:
                came = f"called {dimension.dim_param!r}" if dimension.dim_param else f"fixed at {dimension.dim_value}"
                raise Refused(f"{tensor.name}: its axis {axis} is {came}, expected the free axis {expected!r}")
    deployed = open_onnxruntime(model.SerializeToString())
    trained, exact = open_pytorch(network, outputs), open_pytorch(copy.deepcopy(network).double(), outputs)
    for batch, share in ((1, 1.0), (2, 0.0), (3, 0.5)):
        feed = {
            key: _cut(array, {i: max(1, int(share * array.shape[i])) for i in axes.get(key, {})} | {0: batch})
            for key, array in examples.items()
        }
        sizes = ", ".join(f"{key} {list(array.shape)}" for key, array in feed.items())
        try:
            came_out = deployed(feed)
        except Refused as error:
            raise Refused(f"the exported graph does not run on {sizes}: {error}") from None
        truth = exact(
            {key: array.astype(np.float64) if array.dtype == np.float32 else array for key, array in feed.items()}
        )
        shapes = {key: (array.shape, truth[key].shape) for key, array in came_out.items()}
        if wrong := {key: pair for key, pair in shapes.items() if pair[0] != pair[1]}:
            raise Refused(f"on {sizes} the exported graph gives other shapes than the network: {wrong}")
        for tensor in model.graph.output:
            noted = [dimension.dim_value for dimension in tensor.type.tensor_type.shape.dim]
            real = truth[tensor.name].shape
            if any(fixed not in (0, size) for fixed, size in zip(noted, real, strict=True)):
                raise Refused(
                    f"on {sizes} {tensor.name} is {list(real)}, and the graph says that it is {noted} (0: free)"
                )
        allowed = 10 * max(error_max(trained(feed), truth), 2 * rounding(truth))
        if not (distance := error_max(came_out, truth)) <= allowed:
            raise Refused(
                f"on {sizes} the exported graph is {distance:.3g} from the float64 network, expected at most "
                f"{allowed:.3g}, ten times the trained network's own error"
            )


def _cut(array: np.ndarray, sizes: dict[int, int]) -> np.ndarray:
    """The first of each axis that ``sizes`` names."""
    return array[tuple(slice(sizes.get(axis)) for axis in range(array.ndim))]


def _exported(
    network: Network,
    facts: dict[str, Any],
    weights: Path,
    examples: dict[str, dict[str, np.ndarray]],
    outputs: dict[str, tuple[str, ...]],
) -> dict[str, onnx.ModelProto]:
    """Every part as a graph: one in this process, several in a process each, side by side."""
    if len(outputs) == 1:
        [graph] = outputs
        return {
            graph: onnx.load_from_string(_part_to_onnx(network, facts, weights, graph, examples[graph], outputs[graph]))
        }
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(outputs), mp_context=fresh, max_tasks_per_child=1) as processes:
        jobs = {
            graph: processes.submit(_part_to_onnx, network, facts, weights, graph, examples[graph], outputs[graph])
            for graph in outputs
        }
        return {graph: onnx.load_from_string(job.result()) for graph, job in jobs.items()}


def _part_to_onnx(
    network: Network,
    facts: dict[str, Any],
    weights: Path,
    graph: str,
    examples: dict[str, np.ndarray],
    outputs: tuple[str, ...],
) -> bytes:
    """Export one part of a network; in a process that has exported nothing yet."""
    part = graphs(load_network(network, facts, weights), {graph: outputs})[graph]
    return to_onnx(part, examples, outputs).SerializeToString()


def _strip(model: onnx.ModelProto) -> None:
    """Remove stack traces and what else names this machine."""
    graph = model.graph
    for part in [*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer, graph, model]:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _name_axes(model: onnx.ModelProto, axes: dict[str, dict[int, str]]) -> None:
    """Call the exporter's symbols (``s77``), and sums and products of them, by the names of the axes."""
    called = {
        tensor.type.tensor_type.shape.dim[axis].dim_param: name
        for tensor in model.graph.input
        for axis, name in axes[tensor.name].items()
    }
    for tensor in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        for dimension in tensor.type.tensor_type.shape.dim:
            if dimension.dim_param:
                named = re.sub(r"[A-Za-z_]\w*", lambda found: called.get(found[0], found[0]), dimension.dim_param)
                dimension.dim_param = named


def _name_cells(graph: onnx.GraphProto) -> None:
    """Call recurrent operators, which the exporter names by how they were made, by what they are."""
    for i, node in enumerate(node for node in graph.node if node.op_type in ("RNN", "LSTM", "GRU")):
        node.name = f"node_{node.op_type.lower()}_{i}"


def _shapes_from_casts(graph: onnx.GraphProto) -> None:
    """Take the shape of an input from a Cast of it, which comes first then; an input without one stays as it is."""
    # The exporter asks the raw input for its sizes; of uint8, no document says that TensorRT before 11 answers.
    raw = {tensor.name for tensor in graph.input if tensor.type.tensor_type.elem_type not in SHAPED}
    casts = {
        node.input[0]: node.output[0]
        for node in reversed(graph.node)  # so that the first Cast of an input stands
        if node.op_type == "Cast" and node.input[0] in raw and onnx.helper.get_node_attr_value(node, "to") in SHAPED
    }
    first = set()
    for node in graph.node:
        if node.op_type == "Shape" and node.input[0] in casts:
            node.input[0] = casts[node.input[0]]
            first.add(node.input[0])
    graph.node.sort(key=lambda node: node.output[0] not in first)


def _with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Shapes as ONNX infers them: after a stack of recurrent layers the exporter notes the traced length as fixed."""
    noted = [onnx.ValueInfoProto.FromString(tensor.SerializeToString()) for tensor in model.graph.output]
    model.graph.ClearField("value_info")
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _clear_shapes(attribute.g)
    for tensor in model.graph.output:
        tensor.type.tensor_type.ClearField("shape")
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for tensor, before in zip(model.graph.output, noted, strict=True):
        shape = tensor.type.tensor_type.shape.dim
        if len(shape) != len(before.type.tensor_type.shape.dim):
            tensor.CopyFrom(before)
            continue
        for now, then in zip(shape, before.type.tensor_type.shape.dim):
            if not now.dim_value and (not now.dim_param or now.dim_param.startswith("unk__")):
                now.CopyFrom(then)  # what ONNX cannot infer, the exporter may know
    return model


def _clear_shapes(body: onnx.GraphProto) -> None:
    """A loop's body calls the batch by another name than the graph does, which is then taken for another size."""
    body.ClearField("value_info")
    for tensor in [*body.input, *body.output]:
        tensor.type.tensor_type.ClearField("shape")


def _io(tensors: Any) -> list[dict[str, Any]]:
    return [
        {
            "name": tensor.name,
            "dtype": np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.type.tensor_type.elem_type)).name,
            "shape": [d.dim_param or d.dim_value for d in tensor.type.tensor_type.shape.dim],
        }
        for tensor in tensors
    ]


if __name__ == "__main__":
    stage.run_named(export)
