"""What each choice costs on each deployed target: parameters, accuracy, latency; and what share convolutions take.

    python -m benchmarks.cost

Stacks of equal convolutions (``models/stack.py``) that differ in one thing go through the project's own stages on
`digits`, in a folder of their own, and all of a comparison are timed in turn in one process. Writes ``results/cost/``.
"""

import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.cost_page import Compared, Measured, Profile, kernel_us, page
from deploy.contract import Bundle, load_examples, open_bundle
from deploy.engines import build_engines
from deploy.errors import Refused
from deploy.files import read_json, sha256, write_bytes
from deploy.latency import Requests
from deploy.rounds import timed
from deploy.run import Run
from deploy.runtimes import PROVIDERS, THREADS, _options
from deploy.targets import GRAPHS, Target, engine_targets, no_gpu, targets
from deploy.tasks import load_task
from models.alexnet import AlexNet
from models.googlenet import GoogLeNet
from models.gorner import GornerCNN
from models.lenet import LeNet5
from models.plain import PlainCNN
from models.resnet import CifarResNet
from models.scaled import Scaled
from pipeline.bundle import bundle as make_bundle
from pipeline.download import download
from pipeline.export import export, to_onnx
from pipeline.host import host as describe_host
from pipeline.int8 import WEIGHTS
from pipeline.network import load_network
from pipeline.prepare import prepare
from pipeline.quantize import quantize
from pipeline.recipe import Budget, Network, Project, Recipe, Training, load_project
from pipeline.results import here, keep_page
from pipeline.train import train

DATA, TASK = "digits", "classification"
TRAINING = Training(epochs=40, batch=25, rate=0.003, patience=10, seed=1)
FORM = "7-bit int8 a channel"  # of int8 weights; a form is chosen by a hair, and forms differ in time by more than that
SIDES = (28, 64)  # pixels of the timed images
IMAGES = 64  # different ones that are asked for
OTHER_ACTIVATIONS = ("leaky_relu", "prelu", "sigmoid", "tanh", "elu", "selu", "gelu", "swish")  # than ReLU
NETWORKS: dict[str, dict[str, Any]] = {  # recipe -> arguments of `Stack`
    "stack": {},
    "kernel_5": {"kernel": 5, "layers": 1},
    "kernel_7": {"kernel": 7, "layers": 1},
    **{f"layers_{n}": {"layers": n} for n in (3, 4, 8, 16)},
    **{f"channels_{n}": {"channels": n} for n in (8, 32, 64)},
    **{name: {"activation": name} for name in OTHER_ACTIVATIONS},
    "folded": {"normalise": True},
    "not_folded": {"normalise": True},
    "dilated": {"dilation": 2},
}
FOLDED, NOT_FOLDED = "folded", "not_folded"
FOLDING = "ConvBNFusion"  # onnxruntime's name for it


@dataclass(frozen=True)
class Comparison:
    """Networks that differ in one thing: what each is called -> its recipe; ratios are to the first."""

    title: str
    networks: dict[str, str]
    how: str = ""  # what one must know of it


COMPARISONS = {
    "kernel-5": Comparison("Two 3x3 or one 5x5", {"one 5x5": "kernel_5", "two 3x3": "stack"}),
    "kernel-7": Comparison("Three 3x3 or one 7x7", {"one 7x7": "kernel_7", "three 3x3": "layers_3"}),
    "depth": Comparison("Depth", {"2 layers": "stack"} | {f"{n} layers": f"layers_{n}" for n in (4, 8, 16)}),
    "width": Comparison(
        "Width",
        {"8 channels": "channels_8", "16 channels": "stack"} | {f"{n} channels": f"channels_{n}" for n in (32, 64)},
    ),
    "activation": Comparison(
        "Activation",
        {"relu": "stack"} | {name: name for name in OTHER_ACTIVATIONS},
    ),
    "normalisation": Comparison(
        "Batch normalisation",
        {"without": "stack", "folded": FOLDED, "not folded": NOT_FOLDED},
        f"Folded is as exported: the exporter multiplies it into the convolutions. Not folded has the same weights: "
        f"in its graph each convolution is put back as it was trained, with its BatchNormalization after it, and what "
        f"would fold it as onnxruntime opens the graph (`{FOLDING}`) is switched off. It is told of onnxruntime on the "
        f"CPU alone, which where it has a layout of its own for convolutions computes it as one of one weight a "
        f"channel, the activation in it.",
    ),
    "dilation": Comparison("Dilation", {"dilation 1": "stack", "dilation 2": "dilated"}),
}

SHARE_SECONDS, SHARE_RUNS = 4.0, (5, 300)  # of each network whose operators are timed: about, and at least and most
PROFILED = {  # network -> class, image, classes, arguments, batches
    "LeNet5": (LeNet5, (1, 28, 28), 10, {}, (1,)),
    "GornerCNN": (GornerCNN, (1, 28, 28), 10, {}, (1,)),
    "PlainCNN": (PlainCNN, (1, 28, 28), 10, {}, (1,)),
    "CifarResNet, 20 layers": (CifarResNet, (3, 32, 32), 10, {"blocks": 3}, (1,)),
    "GoogLeNet": (GoogLeNet, (3, 224, 224), 1000, {}, (1,)),
    "AlexNet": (AlexNet, (3, 224, 224), 1000, {}, (1, 128)),
}


def stacks(own: Project, build: Path, names: Iterable[str], training: Training) -> Project:
    """``own`` in the folder ``build``, with a recipe for each of ``names``, taken through the stages up to its bundle.

    ``NOT_FOLDED`` is made of ``FOLDED``, which stands before it.
    """
    names = list(names)
    precisions = tuple(GRAPHS["onnxruntime-cpu"].values())
    project = replace(own, build=build, datasets=(DATA,), own={}, recipes={})
    describe_host(project)
    if read_json(build / "host.json")["gpus"]:
        precisions = tuple(dict.fromkeys([*precisions, *GRAPHS["tensorrt"].values()]))
    recipes = {
        name: Recipe(
            network=Network("stack", "Stack", NETWORKS[name]),
            data=DATA,
            task=TASK,
            train=training,
            precisions=precisions,
            floor=0.0,  # nothing is judged here
            budget=Budget(drop=5.0),
        )
        for name in names
    }
    project = replace(project, recipes=recipes)
    download(project, DATA)
    prepare(project, DATA)
    for name in names:
        if name == NOT_FOLDED:
            _not_folded(project)
        else:
            train(project, name)
            export(project, name)
        with patch.dict(WEIGHTS, {"int8-cpu": {FORM: WEIGHTS["int8-cpu"][FORM]}}):
            quantize(project, name)
        make_bundle(project, name)
    return project


def _not_folded(project: Project) -> None:
    """Write what ``train`` and ``export`` would of ``NOT_FOLDED``: the weights of ``FOLDED``, its graph unfolded."""
    for stage in ("train", "export"):
        shutil.copytree(project.build / stage / FOLDED, project.build / stage / NOT_FOLDED)
    recipe = project.recipe(FOLDED)
    facts = read_json(project.build / "prepare" / recipe.data / "data.json")
    network = load_network(recipe.network, facts, project.build / "train" / FOLDED / "weights.safetensors")
    file = project.build / "export" / NOT_FOLDED / "network.onnx"
    write_bytes(file, unfolded(onnx.load(file), network).SerializeToString())


def unfolded(model: onnx.ModelProto, network: nn.Module) -> onnx.ModelProto:
    """``model`` with each convolution as it was trained and its batch normalisation after it.

    Args:
        network: the scaled stack that was exported.
    """
    stack = network.get_submodule("network.layers")
    layers = {f"network.layers.{name}.0.weight": layer for name, layer in stack.named_children()}
    graph = model.graph
    nodes, kept = list(graph.node), {tensor.name: tensor for tensor in graph.initializer}
    graph.ClearField("node")
    graph.ClearField("value_info")

    def put(name: str, tensor: Tensor) -> str:
        array = numpy_helper.from_array(tensor.detach().numpy(), name)
        if name in kept:
            kept[name].CopyFrom(array)
        else:
            graph.initializer.append(array)
        return name

    for node in nodes:
        layer = layers.get(node.input[1]) if node.op_type == "Conv" else None
        if layer is None:
            graph.node.append(node)
            continue
        normalise = layer.get_submodule("1")
        weight, out = put(node.input[1], layer.get_parameter("0.weight")), node.output[0]
        graph.initializer.remove(kept[node.input[2]])  # what the exporter made of the shift
        before = f"{out}_before"
        node.input[:], node.output[:] = [node.input[0], weight], [before]
        statistics = [
            put(f"{weight}.{name}", getattr(normalise, name))
            for name in ("weight", "bias", "running_mean", "running_var")
        ]
        inputs = [before, *statistics]
        normalised = helper.make_node("BatchNormalization", inputs, [out], f"{node.name}_norm", epsilon=normalise.eps)
        graph.node.extend([node, normalised])
    model = onnx.shape_inference.infer_shapes(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def resized(bundle: Bundle, side: int, folder: Path) -> Bundle:
    """The graphs of ``bundle`` for images of ``side`` x ``side``, in ``folder``: all else in them is as it was.

    Global average makes every tensor of a stack but the images themselves free of the size. Of the bundle's other files
    none is there.
    """
    io = json.loads(json.dumps(bundle.io))
    [image] = io["network"]["inputs"]
    image["shape"][2:] = [side, side]
    files = {}
    for graphs in bundle.graphs.values():
        file = graphs["network"]
        model = onnx.load(bundle.path(file))
        for size in model.graph.input[0].type.tensor_type.shape.dim[2:]:
            size.dim_value = side
        model.graph.ClearField("value_info")
        write_bytes(folder / file, onnx.shape_inference.infer_shapes(model).SerializeToString())
        files[file] = {"sha256": sha256(folder / file), "bytes": (folder / file).stat().st_size}
    return replace(bundle, folder=folder, io=io, files=files)


def enlarged(images: np.ndarray, side: int) -> np.ndarray:
    """``(n, channels, height, width)`` to ``(n, channels, side, side)``: the nearest pixel."""
    rows, columns = (np.arange(side) * size // side for size in images.shape[2:])
    return images[:, :, rows[:, None], columns]


def measure(project: Project, comparison: Comparison) -> Compared:
    """Every network of ``comparison`` on every target that is here."""
    task, networks = load_task(TASK), comparison.networks
    absent: dict[str, str] = {}
    right: dict[tuple[str, str], np.ndarray] = {}
    requests: dict[int, dict[tuple[str, str], Requests]] = {side: {} for side in SIDES}
    ran = {}
    for called, name in networks.items():
        bundle = open_bundle(project.build / "bundle" / name)
        test = load_examples(bundle, "test")
        ran[called] = operators(bundle.path(bundle.graphs["fp32"]["network"]), name != NOT_FOLDED)
        for target, run in _opened(project, bundle, name, absent).items():
            right[called, target] = task.observe(task.answer({"network": run}, test), test)[:, 0]
        for side in SIDES:
            large = {key: array[:IMAGES] for key, array in test.items()}
            large["image"] = enlarged(large["image"], side)
            there = resized(bundle, side, project.build / "resized" / f"{name}_{side}")
            for target, run in _opened(project, there, name, absent).items():
                if (called, target) in right:
                    requests[side][called, target] = task.requests({"network": run}, large)
    latency_s: dict[tuple[str, str], dict[int, np.ndarray]] = {key: {} for key in right}
    rounds = {}
    for side, asked in requests.items():
        words = {f"{called} on {target}": (called, target) for called, target in asked}
        rounds[side], times = timed(
            {word: asked[key] for word, key in words.items()},
            {},
            partial(tqdm, desc=f"{comparison.title}, {side} x {side}", unit=" block of rounds", disable=None),
            None,
        )
        for word, facts in times.items():
            if "failed" in facts:
                absent[word] = facts["failed"]
            else:
                latency_s[words[word]][side] = np.array(facts["latency_s"])
    measured = [
        Measured(called, _parameters(project, networks[called]), target, right[called, target], times_s)
        for (called, target), times_s in latency_s.items()
        if set(times_s) == set(SIDES)
    ]
    return Compared(comparison.title, comparison.how, measured, rounds, absent, ran)


def _parameters(project: Project, name: str) -> int:
    """Of the network as it was trained."""
    recipe = project.recipe(name)
    facts = read_json(project.build / "prepare" / recipe.data / "data.json")
    network = load_network(recipe.network, facts, project.build / "train" / name / "weights.safetensors")
    return sum(p.numel() for p in network.parameters())


def _opened(project: Project, bundle: Bundle, name: str, absent: dict[str, str]) -> dict[str, Run]:
    """Target -> the graph of the recipe ``name``, opened; ``absent`` is told of each target that cannot be."""
    host = read_json(project.build / "host.json")
    engines = bundle.folder / "engines"
    capabilities = [gpu["compute_capability"] for gpu in host["gpus"]]
    wanted = []
    for engine in engine_targets():
        if engine.compute_capability in (None, *capabilities):
            wanted.append(engine)
        else:
            absent[engine.name] = f"no GPU of compute capability {engine.compute_capability} on this host"
    built = {}
    if host["gpus"] and name != NOT_FOLDED:
        built = build_engines(bundle, host, wanted, asdict(project.engines), engines, bundle.folder / "cache")
    runs = {}
    for target in targets(bundle, host, engines, built, wanted):
        if target.device == "cuda" and not host["gpus"]:
            absent[target.name] = no_gpu(host)
        elif target.reason:
            absent[f"{name} on {target.name}"] = target.reason
        elif name != NOT_FOLDED:
            try:
                runs[target.name] = target.open()["network"]
            except Refused as refused:
                absent[f"{name} on {target.name}"] = str(refused)
        elif target.device == "cpu":
            runs[target.name] = _open_unfolded(target)
    return runs


def _open_unfolded(target: Target) -> Run:
    """``target``, of ``onnxruntime-cpu``, without the folding that onnxruntime does as it opens a graph."""
    session = _session(target.files["network"], _session_options(fold=False))
    return lambda inputs: {"logits": session.run(["logits"], inputs)[0]}


def operators(graph: Path, fold: bool = True) -> Counter[str]:
    """What onnxruntime runs on the processor in place of ``graph``, by type: how many."""
    options = _session_options(fold)
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = f"{folder}/optimised.onnx"
        _session(graph, options)
        return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def _session_options(fold: bool = True) -> Any:
    """As targets are opened with, but for the folding."""
    options = _options(onnxruntime, "cpu", optimise=True)
    if not fold:
        options.add_session_config_entry("optimization.disable_specified_optimizers", FOLDING)
    return options


def _session(graph: Path | bytes, options: Any) -> Any:
    model = graph if isinstance(graph, bytes) else str(graph)
    return onnxruntime.InferenceSession(model, options, providers=[PROVIDERS["cpu"]])


def profile(name: str, folder: Path) -> list[Profile]:
    """What each operator of a network of ``PROFILED`` takes, in float32 on the processor, at each of its batches.

    Its weights are as they start: what they are does not bear on the time.
    """
    family, shape, classes, arguments, batches = PROFILED[name]
    torch.manual_seed(0)
    network = Scaled(family(shape, classes, **arguments), shape).eval()
    images = np.random.default_rng(0).integers(0, 256, (max(2, *batches), *shape)).astype(np.uint8)
    network.fit(torch.from_numpy(images[:2]))
    graph = to_onnx(network, {"image": images[:2]}, ("logits",)).SerializeToString()
    del network
    return [Profile(name, batch, shape, kernel_us(_profiled(graph, images[:batch], folder))) for batch in batches]


def _profiled(graph: bytes, images: np.ndarray, folder: Path) -> list[dict[str, Any]]:
    """The events of onnxruntime's profiler: a run to warm up, and those that count."""
    options = _session_options()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = _session(graph, options)
    start = time.perf_counter()
    session.run(None, {"image": images})
    least, most = SHARE_RUNS
    runs = int(np.clip(SHARE_SECONDS / (time.perf_counter() - start), least, most))
    for _ in tqdm(range(runs), desc=f"profile, batch {len(images)}", unit=" run", disable=None):
        session.run(None, {"image": images})
    events: list[dict[str, Any]] = read_json(Path(session.end_profiling()))
    return events


def main() -> None:
    """Measure all, print the page and keep it with its pictures."""
    torch.set_num_threads(THREADS)
    where = here(load_project().root)
    with tempfile.TemporaryDirectory() as folder:
        project = stacks(load_project(), Path(folder), NETWORKS, TRAINING)
        told = {name: measure(project, comparison) for name, comparison in COMPARISONS.items()}
        profiles = [each for name in PROFILED for each in profile(name, Path(folder))]
    files = page(told, profiles, where, TRAINING, FORM)
    print(files["README.md"])
    keep_page(project.root, "cost", files)


if __name__ == "__main__":
    main()
