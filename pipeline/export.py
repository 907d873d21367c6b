"""Stage ``export@recipe``: the trained network to ONNX, and its own answers, recorded.

One process a graph: an export can bake its sizes into the next one of the same process. The graph is stripped of what
names this machine, so that equal weights give equal graphs.
"""

import copy
import json
import logging
import warnings
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from deploy.contract import load_arrays, pack_arrays
from deploy.errors import Refused
from deploy.files import read_json, sha256, write_bytes, write_json
from deploy.numeric import all_finite, error_max, rounding
from deploy.runtimes import open_onnxruntime
from deploy.tasks import load_task
from pipeline import stage
from pipeline.network import GRAPH, input_names, load_network, open_pytorch
from pipeline.recipe import Project


def export(project: Project, name: str) -> None:
    """Write ``network.onnx``, ``io.json`` and the answers on ``test`` into ``build/export/<name>/``."""
    recipe = project.recipe(name)
    data = project.build / "prepare" / recipe.data
    facts = read_json(data / "data.json")
    weights = project.build / "train" / name / "weights.safetensors"
    network = load_network(recipe.network, facts, weights)
    task = load_task(recipe.task)
    test = load_arrays(data / "test.npz")
    examples = {key: test[key] for key in input_names(network)}
    metadata = {"recipe": name, "task": recipe.task, "classes": json.dumps(facts["classes"])}
    metadata |= {"weights_sha256": sha256(weights), "data_sha256": facts["sha256"]}
    try:
        model = to_onnx(network, examples, task.outputs)
        onnx.helper.set_model_props(model, metadata)
        check_graph(model, network, examples, task.outputs)
    except Refused as error:
        raise Refused(f"{name}: {error}. Mend models/{recipe.network.file}.py.") from None
    folder = project.build / "export" / name
    write_bytes(folder / f"{GRAPH}.onnx", model.SerializeToString())
    write_json(folder / "io.json", {GRAPH: {"inputs": _io(model.graph.input), "outputs": _io(model.graph.output)}})
    for dtype in (torch.float32, torch.float64):
        exact = copy.deepcopy(network).to(dtype)
        answers = task.answer({GRAPH: open_pytorch(exact, task.outputs)}, test)
        if not all_finite(answers):
            raise Refused(f"{name}: the trained network's own answers on test are not all finite. Train it again.")
        write_bytes(folder / "answers" / f"{str(dtype).removeprefix('torch.')}.npz", pack_arrays(answers))


def to_onnx(network: nn.Module, examples: dict[str, np.ndarray], outputs: tuple[str, ...]) -> onnx.ModelProto:
    """Export with the first axis of every input free and named ``batch``.

    Args:
        examples: inputs by the names of ``forward``'s arguments, ``(n, ...)``, n at least 2.

    Raises:
        Refused: the exporter cannot, or a dimension that was to be free would be fixed.
    """
    names = input_names(network)
    inputs = tuple(torch.from_numpy(examples[name][:2]) for name in names)
    free = {name: {0: torch.export.Dim.DYNAMIC} for name in names}
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
    model = program.model_proto  # type: ignore[union-attr]  # without a file name it returns one
    _strip(model)
    return model


def check_graph(
    model: onnx.ModelProto, network: nn.Module, examples: dict[str, np.ndarray], outputs: tuple[str, ...]
) -> None:
    """Hold a graph against ONNX's checker, its shape inference, and the network at two batch sizes.

    Raises:
        Refused: the checker's or the runtime's words; or an axis that is fixed; or answers that are not the network's.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, strict_mode=True, check_type=True)
    except Exception as error:  # ValidationError, InferenceError, or a C++ exception
        raise Refused(f"ONNX's checker refuses the exported graph: {error}") from None
    for tensor in [*model.graph.input, *model.graph.output]:
        first = tensor.type.tensor_type.shape.dim[0]
        if first.dim_param != "batch":
            raise Refused(
                f"{tensor.name}: its first axis is fixed at {first.dim_value}, expected the free axis 'batch'"
            )
    deployed = open_onnxruntime(model.SerializeToString())
    trained, exact = open_pytorch(network, outputs), open_pytorch(copy.deepcopy(network).double(), outputs)
    for batch in (1, 3):
        feed = {key: array[:batch] for key, array in examples.items()}
        try:
            came = deployed(feed)
        except Refused as error:
            raise Refused(f"the exported graph does not run at batch {batch}: {error}") from None
        truth = exact(feed)
        shapes = {key: (array.shape, truth[key].shape) for key, array in came.items()}
        if wrong := {key: pair for key, pair in shapes.items() if pair[0] != pair[1]}:
            raise Refused(f"at batch {batch} the exported graph gives other shapes than the network: {wrong}")
        allowed = 10 * max(error_max(trained(feed), truth), 2 * rounding(truth))
        if not (distance := error_max(came, truth)) <= allowed:
            raise Refused(
                f"at batch {batch} the exported graph is {distance:.3g} from the float64 network, expected at most "
                f"{allowed:.3g}, ten times the trained network's own error"
            )


def _strip(model: onnx.ModelProto) -> None:
    """Remove stack traces and what else names this machine; call every free axis ``batch``."""
    graph = model.graph
    for part in [*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer, graph, model]:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for tensor in [*graph.input, *graph.output, *graph.value_info]:
        for dimension in tensor.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_param = "batch"


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
