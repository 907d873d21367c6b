"""All TensorRT engines of one bundle that this machine can build, and a reason for every one it cannot.

An engine is kept as soon as it is built, under the hash of all that it is made from: a build that was killed goes on
from there, and what is unchanged is not built again. Where only weights changed, an engine that was built with
``refit`` gets the new ones. TensorRT's timings of layers are kept for all bundles.
"""

import hashlib
import json
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import deploy
from deploy.builder import Built, build_engine
from deploy.contract import Bundle
from deploy.errors import Refused
from deploy.files import read_json, sha256, write_bytes, write_json
from deploy.onnx_weights import weights_apart
from deploy.progress import Progress
from deploy.refit import refit_engine
from deploy.targets import EngineTarget, no_gpu
from deploy.trt import load_tensorrt

# What decides on an engine.
CODE = ("builder", "engines", "onnx_weights", "progress", "refit", "trt")


def build_engines(
    bundle: Bundle,
    host: Mapping[str, Any],
    targets: Sequence[EngineTarget],
    options: Mapping[str, Any],
    out: Path,
    cache: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the engines, the layers of each, and ``build.json``, which is returned, into ``out``.

    An engine is ``<target>.<graph>.engine``, its layers are ``<target>.<graph>.layers.json``. ``build.json`` has a
    ``reason`` in place of engines that could not be built.

    Args:
        host: as ``deploy.host`` describes it.
        options: of ``build_engine``: ``level``, ``workspace_mib``, ``refit``.
        cache: where this bundle's engines are kept; the timings are in ``timing/`` beside it.
        progress: is told how many targets are done, and what is being built.

    Raises:
        Refused: a full disk, Ctrl-C. What was built until then is kept.
    """
    shutil.rmtree(out, ignore_errors=True)
    built: dict[str, Any] = {}
    used: set[str] = set()
    for done, target in enumerate(targets):

        def told(share: float, what: str, done: int = done) -> None:
            if progress:
                progress(done + share, what)

        try:
            built[target.name] = _build(bundle, host, target, options, out, cache, used, told)
        except KeyboardInterrupt:
            raise Refused("stopped. Every engine that was whole is kept: the same command goes on.") from None
        told(1.0, target.name)
    write_json(out / "build.json", built)
    _clean(cache, used, {name for name, entry in built.items() if "files" in entry})
    return built


def _clean(cache: Path, used: set[str], built: set[str]) -> None:
    """Remove what is of no more use: what is not whole, and older engines of targets that were built now.

    Of one that was not, its last engine stays: a GPU that is missing for once must not cost minutes of building.
    """
    for place in cache.glob("*"):
        if place.name in used:
            continue
        if not _whole(place) or read_json(place / "built.json")["target"] in built:
            shutil.rmtree(place, ignore_errors=True)


def _build(
    bundle: Bundle,
    host: Mapping[str, Any],
    target: EngineTarget,
    options: Mapping[str, Any],
    out: Path,
    cache: Path,
    used: set[str],
    progress: Progress,
) -> dict[str, Any]:
    """The row of one target, whose engines then lie in ``out``.

    Args:
        used: is told the names under which they are kept.

    Raises:
        Refused: what a full disk causes; why there can be no engine is in the row.
    """
    try:
        trt = _compiler(bundle, host, target)
    except Refused as refused:
        return {"reason": str(refused)}
    if target.compute_capability:
        options = {**options, "refit": False}  # it cannot be built so for a GPU that is not here
    facts: dict[str, Any] = {"builder": f"{target.module} {trt.__version__}", **_device(host, target)}
    facts["options"] = dict(options)
    facts |= {} if target.dla is None else {"dla": target.dla}
    files, seconds, notes = {}, 0.0, []
    for graph, source in bundle.graphs[target.precision].items():
        form = _hash(facts | {"inputs": bundle.io[graph]["inputs"], "ranges": bundle.ranges})  # all but the graph
        place = cache / _hash({"form": form, "graph": bundle.files[source]["sha256"]})
        used.add(place.name)
        if not _whole(place):
            start = time.perf_counter()
            timings = None if target.compute_capability else cache.parent / "timing" / _timings_of(facts)
            told = partial(_told, progress, f"{target.name} {graph}")
            try:
                apart = weights_apart(bundle.path(source)) if options["refit"] else None
                built = _refitted(trt, bundle.path(source), apart, form, cache) if apart else None
                built = built or _compiled(trt, bundle, graph, target, options, timings, told)
            except Refused as refused:
                return {"reason": str(refused)}
            took = {"seconds": round(time.perf_counter() - start, 3), "notes": built.notes}
            _keep(place, built, {"target": target.name, "form": form, "apart": apart} | took)
            if timings and built.timing:
                write_bytes(timings, hashlib.sha256(built.timing).digest() + built.timing)
        kept = read_json(place / "built.json")
        seconds += kept["seconds"]
        notes += kept["notes"]
        files[graph] = _take(place, out, f"{target.name}.{graph}")
    graphs = bundle.graph_sha256(target.precision)
    return facts | {"seconds": round(seconds, 3), "notes": notes, "graph_sha256": graphs, "files": files}


def _compiled(
    trt: ModuleType,
    bundle: Bundle,
    graph: str,
    target: EngineTarget,
    options: Mapping[str, Any],
    timings: Path | None,
    progress: Progress,
) -> Built:
    """What TensorRT makes of one graph, with the timings that are kept."""
    return build_engine(
        trt,
        bundle.path(bundle.graphs[target.precision][graph]),
        bundle.io[graph]["inputs"],
        bundle.ranges,
        target.compute_capability,
        **options,
        dla=target.dla,
        timing=_read_timings(timings) if timings else None,
        progress=progress,
    )


def _compiler(bundle: Bundle, host: Mapping[str, Any], target: EngineTarget) -> ModuleType:
    """What builds ``target``.

    Raises:
        Refused: why nothing can.
    """
    if reason := bundle.lacks(target.precision):
        raise Refused(reason)
    if target.compute_capability is None and not host["gpus"]:
        raise Refused(f"{no_gpu(host)}, and TensorRT builds for the GPU that is there; build on a host with one")
    axes = sorted(set(bundle.ranges) - {"batch"})
    if target.dla is not None and axes:
        raise Refused(f"the DLA takes fixed shapes alone, and {', '.join(axes)} is free in this network. Use the GPU.")
    return load_tensorrt(target.module)


def _device(host: Mapping[str, Any], target: EngineTarget) -> dict[str, str]:
    """What the engine is for: a kind of GPU; of TensorRT itself, this one."""
    if target.compute_capability:
        return {"compute_capability": target.compute_capability}
    return {"compute_capability": host["gpus"][0]["compute_capability"], "gpu": host["gpus"][0]["name"]}


def _told(progress: Progress, engine: str, share: float, phase: str) -> None:
    progress(share, f"{engine}: {phase}")


def _hash(made_from: Mapping[str, Any]) -> str:
    """Of all that decides what is built, the code that asks for it included."""
    told = json.dumps([made_from, [sha256(Path(deploy.__path__[0], f"{name}.py")) for name in CODE]], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _refitted(trt: ModuleType, graph: Path, apart: tuple[str, dict[str, str]], form: str, cache: Path) -> Built | None:
    """An engine of the same form with the weights of ``graph``; ``None`` where none can take them, and it is told why.

    Nothing is lost by trying: what comes of it is measured like any engine.

    Args:
        apart: what ``weights_apart`` tells of ``graph``.
    """
    for place in sorted(cache.glob("*")):
        if not _whole(place):
            continue
        facts = read_json(place / "built.json")
        if facts["form"] != form or not facts["apart"] or facts["apart"][0] != apart[0]:
            continue
        try:
            plan = refit_engine(trt, place / "engine", (facts["apart"][0], facts["apart"][1]), graph)
        except Refused as refused:
            print(f"built anew, not refitted: {refused}")
            continue
        return Built(plan, read_json(place / "layers.json"), b"", ())
    return None


def _keep(place: Path, built: Built, facts: dict[str, Any]) -> None:
    """Write the engine, its layers, and ``built.json`` last: where that is right, all is whole."""
    for note in built.notes:
        print(note)
    shutil.rmtree(place, ignore_errors=True)
    write_bytes(place / "engine", built.plan)
    write_json(place / "layers.json", built.layers)
    hashes = {"sha256": sha256(place / "engine"), "layers_sha256": sha256(place / "layers.json")}
    write_json(place / "built.json", hashes | facts)


def _whole(place: Path) -> bool:
    """Is there an engine, as it was built?"""
    try:
        facts = read_json(place / "built.json")
        hashes = facts["sha256"], facts["layers_sha256"]
        known = {"target", "form", "apart", "notes", "seconds"} <= facts.keys()
        return known and hashes == (sha256(place / "engine"), sha256(place / "layers.json"))
    except (Refused, OSError, KeyError, TypeError, AttributeError):
        return False


def _take(place: Path, out: Path, name: str) -> dict[str, Any]:
    """Copy what is kept into ``out``; its entry in ``build.json``."""
    engine, layers = out / f"{name}.engine", out / f"{name}.layers.json"
    write_bytes(engine, (place / "engine").read_bytes())
    write_bytes(layers, (place / "layers.json").read_bytes())
    return {"file": engine.name, "sha256": sha256(engine), "bytes": engine.stat().st_size, "layers": layers.name}


def _timings_of(facts: Mapping[str, Any]) -> str:
    """A timing cache is of one TensorRT and one GPU."""
    return re.sub(r"[^a-z0-9.]+", "-", f"{facts['builder']} {facts['gpu']}".lower()) + ".cache"


def _read_timings(file: Path) -> bytes:
    """A timing cache, behind its SHA-256; empty where there is none, or a damaged one, which is told."""
    data = file.read_bytes() if file.is_file() else b""
    if data and hashlib.sha256(data[32:]).digest() != data[:32]:
        print(f"{file}: damaged, and thrown away: the timings of layers are begun anew")
        return b""
    return data[32:]
