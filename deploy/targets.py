"""Every target a bundle can have on a host: how it is opened, or why it cannot be measured here.

A target is runtime x precision x device. The row of a target that is absent stays in the table, with its reason.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from deploy.contract import Bundle
from deploy.engine import open_engine
from deploy.errors import Refused
from deploy.files import sha256
from deploy.run import Run, one_by_one
from deploy.runtimes import open_onnxruntime
from deploy.state import from_zero
from deploy.told import Told
from deploy.trt import load_tensorrt

RTX_COMPUTE_CAPABILITIES = ("8.6", "8.9", "12.0")  # RTX 30, 40 and 50: what RTX builds for with no GPU here
GRAPHS = {  # runtime -> precision in the target's name -> precision of the graph
    "onnxruntime-cpu": {"fp32": "fp32", "fp16": "fp16", "int8": "int8-cpu"},
    "onnxruntime-cuda": {"fp32": "fp32", "fp16": "fp16", "int8": "int8-tensorrt"},
    "tensorrt": {"fp32": "fp32", "fp16": "fp16", "int8": "int8-tensorrt"},
}


@dataclass(frozen=True)
class Target:
    """What is measured.

    ``precision`` is the graph's; ``device`` is where the trained network must have run to be compared with it;
    ``files`` are what is run (graph or engine); ``reason`` is empty if it can be opened; ``module`` is the runtime's.
    ``told``: graph -> how its calls are carried out, once it is open; ``notes``: what one must know of it, a line each.
    """

    name: str
    precision: str
    device: str
    files: dict[str, Path]
    open: Callable[[], dict[str, Run]]
    reason: str = ""
    module: str = "onnxruntime"
    told: dict[str, Told] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class EngineTarget:
    """An engine to be built: ``module`` is TensorRT or TensorRT-RTX.

    ``compute_capability`` is the GPU that it is for, ``None`` the one that is here; ``dla`` is the core of a board's
    deep-learning accelerator that it runs on, as far as that can.
    """

    name: str
    module: str
    precision: str
    compute_capability: str | None
    dla: int | None = None


def engine_targets() -> list[EngineTarget]:
    """All engines that this version of Plumbline builds, wherever they can run."""
    rows = [EngineTarget(f"tensorrt-{name}", "tensorrt", graph, None) for name, graph in GRAPHS["tensorrt"].items()]
    for capability in RTX_COMPUTE_CAPABILITIES:
        device = "sm" + capability.replace(".", "")
        for name, graph in GRAPHS["tensorrt"].items():
            rows.append(EngineTarget(f"tensorrt-rtx-{device}-{name}", "tensorrt_rtx", graph, capability))
    return rows


def dla_targets() -> list[EngineTarget]:
    """What a board with a DLA builds beside the engines for its GPU; the DLA computes no fp32."""
    return [
        EngineTarget(f"tensorrt-dla-{name}", "tensorrt", graph, None, dla=0)
        for name, graph in GRAPHS["tensorrt"].items()
        if name != "fp32"
    ]


def target_names() -> dict[str, str]:
    """All targets that there can be, in the order of the table -> the precision of the graph."""
    graphs = {name: precision for name, (_, precision) in _graph_targets().items()}
    return graphs | {engine.name: engine.precision for engine in engine_targets()}


def _graph_targets() -> dict[str, tuple[str, str]]:
    """The targets that run a graph itself -> its device and precision."""
    return {
        f"onnxruntime-{device}-{name}": (device, precision)
        for device in ("cpu", "cuda")
        for name, precision in GRAPHS[f"onnxruntime-{device}"].items()
    }


def targets(
    bundle: Bundle,
    host: Mapping[str, Any],
    engines: Path,
    built: dict[str, Any],
    wanted: Sequence[EngineTarget] | None = None,
) -> list[Target]:
    """The rows of ``bundle`` on ``host``: one for each of ``target_names``, or where ``wanted`` says which engines.

    Args:
        engines: folder of the engines; ``built`` is its ``build.json``: target -> ``files`` or ``reason``.
    """
    rows = [_onnxruntime(bundle, host, name, *of) for name, of in _graph_targets().items()]
    wanted = engine_targets() if wanted is None else wanted
    return rows + [_engine(bundle, host, engines, built, engine) for engine in wanted]


def _onnxruntime(bundle: Bundle, host: Mapping[str, Any], name: str, device: str, precision: str) -> Target:
    files = {graph: bundle.path(file) for graph, file in bundle.graphs.get(precision, {}).items()}
    reason = bundle.lacks(precision)
    if not reason and device == "cuda" and not host["gpus"]:
        reason = f"{no_gpu(host)}; measure on a host that has one: `dvc repro` there"
    told = {graph: Told() for graph in files}
    open_ = partial(_open_graphs, bundle, files, device, told)
    return Target(name, precision, device, files, open_, reason, told=told)


def _engine(
    bundle: Bundle, host: Mapping[str, Any], engines: Path, built: dict[str, Any], engine: EngineTarget
) -> Target:
    entry = built.get(engine.name, {"reason": "it was not built: run the build stage"})
    files = {graph: engines / file["file"] for graph, file in entry.get("files", {}).items()}
    reason = entry.get("reason", "") or bundle.lacks(engine.precision)
    if not reason and entry["graph_sha256"] != bundle.graph_sha256(engine.precision):
        reason = "stale: the engine was built from another graph; build it again"
    reason = reason or _elsewhere(engine, entry, host)
    hashes = {graph: file["sha256"] for graph, file in entry.get("files", {}).items()}
    told = {graph: Told() for graph in files}
    open_ = partial(_open_engines, bundle, engine, files, hashes, entry.get("builder", ""), told)
    notes = tuple(entry.get("notes", ()))
    return Target(engine.name, engine.precision, "cuda", files, open_, reason, engine.module, told, notes)


def _elsewhere(engine: EngineTarget, entry: dict[str, Any], host: Mapping[str, Any]) -> str:
    """Why an engine that was built cannot run on ``host``; empty if it can. The GPU that built it is in ``entry``."""
    capabilities = [gpu["compute_capability"] for gpu in host["gpus"]]
    if engine.compute_capability:
        if engine.compute_capability in capabilities:
            return ""
        return (
            f"built, not run: no GPU of compute capability {engine.compute_capability} on this host "
            f"({', '.join(capabilities) or 'none'} here); measure on one that has: `dvc repro` there"
        )
    if not capabilities:
        return f"built, not run: {no_gpu(host)}; measure on the host that built it: `dvc repro` there"
    here = [(gpu["name"], gpu["compute_capability"]) for gpu in host["gpus"]]
    built_on = (entry.get("gpu", here[0][0]), entry.get("compute_capability", here[0][1]))
    if built_on in here:
        return ""
    return (
        f"the engine was built on {built_on[0]} ({built_on[1]}), and here is {here[0][0]} ({here[0][1]}): engines are "
        f"tied to the GPU that built them; build it again here"
    )


def no_gpu(host: Mapping[str, Any]) -> str:
    """Why ``host`` has no GPU to use, in its driver's own words where it has any."""
    return f"no NVIDIA GPU that works on this host ({host['gpu_error']})"


def _open_graphs(bundle: Bundle, files: dict[str, Path], device: str, told: dict[str, Told]) -> dict[str, Run]:
    opened = {graph: open_onnxruntime(file, device, told=told[graph]) for graph, file in files.items()}
    return {graph: from_zero(run, bundle.io[graph]) for graph, run in opened.items()}


def _open_engines(
    bundle: Bundle,
    engine: EngineTarget,
    files: dict[str, Path],
    hashes: dict[str, str],
    builder: str,
    told: dict[str, Told],
) -> dict[str, Run]:
    """Open what ``builder`` built, after all that can be told before TensorRT reads it has been held."""
    trt = load_tensorrt(engine.module)
    for graph, file in files.items():
        if not file.is_file() or sha256(file) != hashes[graph]:
            raise Refused(f"{file}: missing or changed since it was built. Build it again.")
    if builder != f"{engine.module} {trt.__version__}":
        raise Refused(
            f"{', '.join(map(str, files.values()))}: built by {builder or 'an unknown TensorRT'}, and here is "
            f"{engine.module} {trt.__version__}, which reads its own engines only. Build it again, or "
            f"install that."
        )
    opened = {graph: open_engine(trt, file, told=told[graph]) for graph, file in files.items()}
    if engine.dla is not None:
        opened = {graph: one_by_one(run) for graph, run in opened.items()}
    return {graph: from_zero(run, bundle.io[graph]) for graph, run in opened.items()}
