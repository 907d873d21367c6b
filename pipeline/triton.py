"""``make triton``: a Triton model repository and Kubernetes manifests from bundles: more than one machine serves.

Not a stage: what it copies, the stages have written. ``build/triton/`` holds

    models/<recipe>-<precision>/             ONNX Runtime on the processor
    models/<recipe>-tensorrt-<precision>/    each engine that TensorRT built, on the GPU that built it
    kserve.yaml, kubernetes.yaml             as ``pipeline/kserve.py`` writes them

A model is called as ``deploy.server`` calls it, with the same inputs and outputs, but for a state: Triton itself keeps
it, by sequence. Each graph by itself, its state going in and coming out, is ``<recipe>-<precision>-<graph>``.

Sources: model_config.proto of triton-inference-server/common, and batcher.md, implicit_state_management.md and
model_configuration.md in docs/user_guide of triton-inference-server/server (release 24.10).
"""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import onnx

import deploy
from deploy.contract import Bundle, open_bundle
from deploy.errors import Refused
from deploy.files import read_json, sha256, write_bytes
from deploy.runtimes import THREADS
from deploy.server.model import whole_decoding
from deploy.server.protocol import TYPES
from deploy.state import NEXT
from deploy.targets import GRAPHS
from pipeline import stage
from pipeline.kserve import IMAGE, STORAGE, kserve, kubernetes
from pipeline.recipe import Project

# Beside `model.py`: what opens a graph, and what decodes. No more of `deploy/` is loaded there.
RUNS = ("__init__", "errors", "run", "runtimes")
DECODES = ("__init__", "errors", "run", "state", "decoding", "tasks/__init__", "tasks/metric", "tasks/translation")
SEQUENCES = 1024  # that are alive at once; a further one waits until one ends or is idle for too long
IDLE_US = 600_000_000  # microseconds after which a sequence that did not end is given up

Config = dict[str, Any]  # a message: field -> number, truth, string, `Word`, message, or a list of such
Files = dict[str, bytes | Path]  # name in the repository -> bytes, or the file that has them


class Word(str):
    """An enumeration's value, which protobuf's text writes without quotes."""

    __slots__ = ()


class Backend(NamedTuple):
    """What runs a graph."""

    name: str
    platform: str
    file: str
    kind: str


ONNX = Backend("onnxruntime", "onnxruntime_onnx", "model.onnx", "KIND_CPU")
TENSORRT = Backend("tensorrt", "tensorrt_plan", "model.plan", "KIND_GPU")
PYTHON = Backend("python", "", "model.onnx", "KIND_CPU")


class Part(NamedTuple):
    """One model of the repository: some of a bundle under a name."""

    name: str
    inputs: list[dict[str, Any]]  # {name, dtype, shape}
    outputs: list[dict[str, Any]]
    states: list[dict[str, Any]]  # inputs that Triton keeps from request to request
    graph: str  # what it runs; empty: it decodes, and asks the other models


def triton(
    project: Project,
    names: Sequence[str],
    python_backend: bool = False,
    storage_uri: str = STORAGE,
    image: str = IMAGE,
) -> None:
    """Write ``build/triton/`` of some recipes, or of all where none is named: equal bundles give equal bytes.

    Args:
        python_backend: have every model run by Triton's Python backend, in ``build/triton-python/``: for a Triton that
            has no other one. It needs numpy and onnxruntime in Triton's Python.
        storage_uri: where KServe will find ``models/``.
        image: the container image that has ``deploy.server``.

    Raises:
        Refused: an unknown recipe, a bundle or an engine that is missing or damaged, a full disk. A repository that is
            there stays.
    """
    folders = [project.build / "bundle" / name for name in names or project.recipes if project.recipe(name)]
    bundles = [open_bundle(folder) for folder in folders]
    files: Files = {}
    for bundle in bundles:
        files |= _models(bundle, ONNX if not python_backend else PYTHON, _graphs(bundle))
        if not python_backend:  # which has no TensorRT
            files |= _models(bundle, TENSORRT, _engines(bundle, project.build / "engines" / bundle.recipe))
    gpu = any(name.endswith(TENSORRT.file) for name in files)
    files["kserve.yaml"] = kserve(bundles, project.build / "measure", storage_uri, gpu).encode()
    files["kubernetes.yaml"] = kubernetes(bundles, image).encode()
    out = project.build / ("triton-python" if python_backend else "triton")
    _replace(out, files)
    models = sorted({name.split("/")[1] for name in files if name.startswith("models/")})
    print(f"{out}: {len(models)} models of {len(bundles)} recipes")
    print(f"Triton: tritonserver --model-repository={out / 'models'}")
    print(f"KServe: copy {out / 'models'} to {storage_uri}, then kubectl apply -f {out / 'kserve.yaml'}")


def _graphs(bundle: Bundle) -> dict[str, tuple[dict[str, Path], dict[str, str]]]:
    """A model's name -> its graphs, and what its configuration tells of them."""
    found: dict[str, tuple[dict[str, Path], dict[str, str]]] = {}
    for precision, of in GRAPHS["onnxruntime-cpu"].items():
        if why := bundle.lacks(of):
            print(f"{bundle.recipe}-{precision}: left out: {why}")
            continue
        graphs = {graph: bundle.path(file) for graph, file in bundle.graphs[of].items()}
        found[f"{bundle.recipe}-{precision}"] = (graphs, {"precision": of})
    return found


def _engines(bundle: Bundle, folder: Path) -> dict[str, tuple[dict[str, Path], dict[str, str]]]:
    """As ``_graphs``, of the engines that TensorRT built from this bundle; of others it is told why not.

    Raises:
        Refused: an engine is missing, or was changed since it was built.
    """
    built = read_json(folder / "build.json") if (folder / "build.json").is_file() else {}
    found = {}
    for precision, of in GRAPHS["tensorrt"].items():
        entry = built.get(f"tensorrt-{precision}", {})
        name = f"{bundle.recipe}-tensorrt-{precision}"
        if "files" not in entry:
            continue
        if bundle.lacks(of) or entry["graph_sha256"] != bundle.graph_sha256(of):
            print(f"{name}: left out: the engine was built from another graph; build it again: `dvc repro`")
            continue
        for file in entry["files"].values():
            engine = folder / file["file"]
            if not engine.is_file() or sha256(engine) != file["sha256"]:
                raise Refused(f"{engine}: missing or changed since it was built. Build it again: `dvc repro`.")
        # An engine runs with the TensorRT that built it alone; Triton's release must have that one.
        told = {"precision": of} | {key: entry[key] for key in ("builder", "gpu") if key in entry}
        found[name] = ({graph: folder / file["file"] for graph, file in entry["files"].items()}, told)
    return found


def _models(
    bundle: Bundle, backend: Backend, found: Mapping[str, tuple[dict[str, Path], dict[str, str]]]
) -> Iterator[tuple[str, bytes | Path]]:
    """The files of the models that ``found`` names, by name in the repository."""
    for whole, (graphs, told) in found.items():
        apart = backend is not TENSORRT and any(_scaled_as_they_come(path) for path in graphs.values())
        for part in _parts(bundle, whole):
            runs = backend if part.graph else PYTHON
            top = f"models/{part.name}"
            yield f"{top}/config.pbtxt", pbtxt(_config(bundle, part, runs, apart, told)).encode()
            if any(_labelled(bundle, tensor) for tensor in part.outputs):
                yield f"{top}/labels.txt", "".join(f"{name}\n" for name in bundle.classes).encode()
            if part.graph:
                yield f"{top}/1/{runs.file}", graphs[part.graph]
            if runs is PYTHON:
                yield f"{top}/1/model.py", Path(__file__).with_name("triton_model.py")
                for module in RUNS if part.graph else DECODES:
                    yield f"{top}/1/deploy/{module}.py", Path(deploy.__path__[0], f"{module}.py")


def _parts(bundle: Bundle, whole: str) -> Iterator[Part]:
    """The models that one precision of a bundle becomes: the whole first, then each graph that is not the whole."""
    states = {graph: _states(io) for graph, io in bundle.io.items()}
    if len(bundle.io) == 1:
        ((graph, io),) = bundle.io.items()
        kept = {name for state in states[graph] for name in (state["name"], NEXT + state["name"])}
        inputs, outputs = ([tensor for tensor in side if tensor["name"] not in kept] for side in io.values())
        yield Part(whole, inputs, outputs, states[graph], graph)
        apart = {graph: io} if kept else {}
    else:
        io = whole_decoding(bundle)
        yield Part(whole, io["inputs"], io["outputs"], [], "")
        apart = bundle.io
    for graph, io in apart.items():
        yield Part(f"{whole}-{graph}", io["inputs"], io["outputs"], [], graph)


def _states(io: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    made = {tensor["name"] for tensor in io["outputs"]}
    return [tensor for tensor in io["inputs"] if NEXT + tensor["name"] in made]


def _scaled_as_they_come(graph: Path) -> bool:
    """Does it quantize activations with a scale found anew in each call, as onnxruntime's int8 LSTM does?

    That scale is one for the whole batch, so that requests which are joined change each other's answers.
    """
    model = onnx.load(graph, load_external_data=False)
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while nodes:
        node = nodes.pop()
        if node.op_type.startswith("DynamicQuantize"):
            return True
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                nodes += inner.node
    return False


def _config(bundle: Bundle, part: Part, backend: Backend, apart: bool, told: Mapping[str, str]) -> Config:
    """``config.pbtxt`` as a message.

    Args:
        apart: requests may not be joined.
        told: what else its parameters tell.
    """
    # Triton's batch is the first axis of tensors that have further ones; `character` of a step graph has none. The
    # shapes on the wire are the contract's either way, and nothing is lost: a decoding asks for all its lines at once.
    batched = all(tensor["shape"][0] == "batch" and tensor["shape"][1:] for tensor in [*part.inputs, *part.outputs])
    greatest = bundle.ranges["batch"][2] if batched else 0
    if part.states and apart:
        greatest = 1  # a sequence's requests are of one row each: so they are not joined with another's
    config: Config = {"name": part.name, "backend": backend.name}
    if backend.platform:
        config["platform"] = backend.platform
    config["max_batch_size"] = greatest
    config["input"] = [_tensor(tensor, batched) for tensor in part.inputs]
    config["output"] = [
        _tensor(tensor, batched) | ({"label_filename": "labels.txt"} if _labelled(bundle, tensor) else {})
        for tensor in part.outputs
    ]
    # One instance, one thread: one core answers for a model. More cores: `count`, or more replicas.
    config["instance_group"] = [{"count": 1, "kind": Word(backend.kind)}]
    if part.states:
        config["sequence_batching"] = {
            "max_sequence_idle_microseconds": IDLE_US,
            "oldest": {"max_candidate_sequences": SEQUENCES},
            "state": [_state(tensor) for tensor in part.states],
        }
    elif batched and not apart:
        # No delay: what waits while a call runs is the next batch. No `max_queue_size`, with which Triton 2.51 stalled
        # for half a second now and then; a client that will not wait sends its `timeout`.
        config["dynamic_batching"] = {}
    # A sequence's state is not there while Triton warms a model, and a decoding's other models may not be.
    if part.graph and not part.states:
        config["model_warmup"] = [_warm(bundle, part, batched, rows) for rows in sorted({1, greatest or 1})]
    facts = {"contract_sha256": bundle.sha256, **told}
    if backend is ONNX:
        facts |= {"intra_op_thread_count": str(THREADS), "inter_op_thread_count": "1"}
    config["parameters"] = [{"key": key, "value": {"string_value": value}} for key, value in facts.items()]
    return config


def _tensor(tensor: Mapping[str, Any], batched: bool) -> Config:
    sizes = tensor["shape"][1:] if batched else tensor["shape"]
    dims = [size if isinstance(size, int) else -1 for size in sizes]
    return {"name": tensor["name"], "data_type": _type(tensor), "dims": dims}


def _state(tensor: Mapping[str, Any]) -> Config:
    """A state of one sequence; its sizes are numbers all."""
    of = {"data_type": _type(tensor), "dims": tensor["shape"][1:]}
    zero = {"name": f"{tensor['name']} at the start", **of, "zero_data": True}
    return {"input_name": tensor["name"], "output_name": NEXT + tensor["name"], **of, "initial_state": [zero]}


def _warm(bundle: Bundle, part: Part, batched: bool, rows: int) -> Config:
    """One call of zeros before a model is ready, at the sizes that are served best."""
    inputs = []
    for tensor in part.inputs:
        sizes = [1 if size == "batch" else size for size in tensor["shape"][1 if batched else 0 :]]
        dims = [size if isinstance(size, int) else bundle.ranges[size][1] for size in sizes]
        inputs.append({"key": tensor["name"], "value": {"data_type": _type(tensor), "dims": dims, "zero_data": True}})
    return {"name": f"rows: {rows}", "batch_size": rows, "inputs": inputs}


def _labelled(bundle: Bundle, tensor: Mapping[str, Any]) -> bool:
    """Is it one number a class? Labels stand for places in a whole row: of more axes they would name the wrong ones."""
    return bundle.task == "classification" and tensor["shape"] == ["batch", len(bundle.classes)]


def _type(tensor: Mapping[str, Any]) -> Word:
    return Word(f"TYPE_{TYPES[tensor['dtype']][0]}")


def pbtxt(message: Mapping[str, Any], indent: str = "") -> str:
    """A message as protobuf's text."""
    lines = []
    for field, value in message.items():
        for each in value if isinstance(value, list) and isinstance(value[0], Mapping) else [value]:
            if isinstance(each, Mapping):
                inner = pbtxt(each, indent + "  ")
                lines.append(f"{indent}{field} {{\n{inner}{indent}}}\n" if inner else f"{indent}{field} {{}}\n")
            else:
                plain = str(each) if isinstance(each, Word) else json.dumps(each, ensure_ascii=False)
                lines.append(f"{indent}{field}: {plain}\n")
    return "".join(lines)


def _replace(folder: Path, files: Files) -> None:
    """Put a new folder of ``files`` where ``folder`` is; it is whole before the old one goes.

    Raises:
        Refused: it cannot be written; the old one is untouched.
    """
    partial, old = folder.with_name(f".{folder.name}.partial"), folder.with_name(f".{folder.name}.old")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    try:
        for name, data in files.items():
            write_bytes(partial / name, data if isinstance(data, bytes) else data.read_bytes())
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if not folder.exists() and old.exists():
            old.rename(folder)
        shutil.rmtree(old, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m pipeline.triton", description=__doc__.partition("\n")[0])
    parser.add_argument("recipe", nargs="*", help="none: every recipe of params.yaml")
    parser.add_argument("--python-backend", action="store_true", help="for a Triton that has no other backend")
    parser.add_argument("--storage-uri", default=STORAGE, help="where KServe will find models/ (%(default)s)")
    parser.add_argument("--image", default=IMAGE, help="the image that has deploy.server (%(default)s)")
    asked = parser.parse_args()
    sys.argv = sys.argv[:1]
    stage.run(lambda project: triton(project, asked.recipe, asked.python_backend, asked.storage_uri, asked.image))
