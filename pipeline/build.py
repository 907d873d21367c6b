"""Stage ``build@recipe``: every TensorRT engine that this host can build, and a reason for every one it cannot.

An engine is kept as soon as it is built, in ``build/.cache/build@<recipe>/``, under the hash of all that it is made
from: a build that was killed goes on from there, and what is unchanged is not built again. TensorRT's timings of layers
are kept in ``build/.cache/timing/``, for all recipes.
"""

import hashlib
import json
import re
import shutil
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from tqdm import tqdm

import deploy
from deploy.builder import Built, build_engine
from deploy.contract import Bundle, missing_graph, open_bundle
from deploy.errors import Refused
from deploy.files import read_json, sha256, write_bytes, write_json
from deploy.progress import Progress
from deploy.targets import EngineTarget, engine_targets, no_gpu
from deploy.trt import load_tensorrt
from pipeline import stage
from pipeline.recipe import Project

CODE = [
    Path(deploy.__path__[0]) / file for file in ("builder.py", "progress.py", "trt.py")
]  # what decides on an engine
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f} of {total} targets [{elapsed}, {remaining} left{postfix}]"


def build(project: Project, name: str) -> None:
    """Write the engines, the layers of each, and ``build.json`` into ``build/engines/<name>/``.

    An engine is ``<target>.<graph>.engine``, its layers are ``<target>.<graph>.layers.json``. ``build.json`` has a
    ``reason`` in place of engines that could not be built.

    Raises:
        Refused: a damaged bundle, a full disk, Ctrl-C. What was built until then is kept.
    """
    bundle = open_bundle(project.build / "bundle" / name)
    host = read_json(project.build / "host.json")
    folder, cache = project.build / "engines" / name, project.build / ".cache" / f"build@{name}"
    shutil.rmtree(folder, ignore_errors=True)
    targets = engine_targets()
    built: dict[str, Any] = {}
    used: set[str] = set()
    with tqdm(total=len(targets), desc=f"build {name}", bar_format=BAR, disable=None) as bar:
        for done, target in enumerate(targets):

            def progress(share: float, phase: str, done: int = done) -> None:
                bar.set_postfix_str(phase, refresh=False)
                bar.update(done + share - bar.n)

            try:
                built[target.name] = _build(project, bundle, host, target, used, progress)
            except KeyboardInterrupt:
                raise Refused("stopped. Every engine that was whole is kept: the same command goes on.") from None
            bar.update(done + 1 - bar.n)
    write_json(folder / "build.json", built)
    for old in cache.glob("*"):
        if old.name not in used:
            shutil.rmtree(old)
    print(f"{name}: {sum('reason' not in entry for entry in built.values())} engines built")
    for reason in sorted({entry["reason"] for entry in built.values() if "reason" in entry}):
        print(f"  not built: {reason}")


def _build(
    project: Project, bundle: Bundle, host: dict[str, Any], target: EngineTarget, used: set[str], progress: Progress
) -> dict[str, Any]:
    """The row of one target, whose engines then lie in the stage's out.

    Args:
        used: is told the hashes under which they are kept.

    Raises:
        Refused: what a full disk causes, which is the stage's own error; why there can be no engine is in the row.
    """
    try:
        trt = _compiler(bundle, host, target)
    except Refused as refused:
        return {"reason": str(refused)}
    options = asdict(project.engines)
    facts = {"builder": f"{target.module} {trt.__version__}"} | _device(host, target) | {"options": options}
    out, cache = project.build / "engines" / bundle.recipe, project.build / ".cache"
    files, seconds = {}, 0.0
    for graph, source in bundle.graphs[target.precision].items():
        inputs = bundle.io[graph]["inputs"]
        made_from = facts | {"graph": bundle.files[source]["sha256"], "inputs": inputs, "ranges": bundle.ranges}
        place = cache / f"build@{bundle.recipe}" / _hash(made_from)
        used.add(place.name)
        if not _whole(place):
            start = time.perf_counter()
            timings = None if target.compute_capability else cache / "timing" / _timings_of(facts)
            try:
                built = build_engine(
                    trt,
                    bundle.path(source),
                    inputs,
                    bundle.ranges,
                    target.compute_capability,
                    **options,
                    timing=_read_timings(timings) if timings else None,
                    progress=partial(_told, progress, f"{target.name} {graph}"),
                )
            except Refused as refused:
                return {"reason": str(refused)}
            _keep(place, built, time.perf_counter() - start, timings)
        seconds += read_json(place / "built.json")["seconds"]
        files[graph] = _take(place, out, f"{target.name}.{graph}")
    graphs = bundle.graph_sha256(target.precision)
    return facts | {"seconds": round(seconds, 3), "graph_sha256": graphs, "files": files}


def _compiler(bundle: Bundle, host: dict[str, Any], target: EngineTarget) -> ModuleType:
    """What builds ``target``.

    Raises:
        Refused: why nothing can.
    """
    if reason := missing_graph(bundle, target.precision):
        raise Refused(reason)
    if target.compute_capability is None and not host["gpus"]:
        raise Refused(f"{no_gpu(host)}, and TensorRT builds for the GPU that is there; build on one: `dvc repro`")
    return load_tensorrt(target.module)


def _device(host: dict[str, Any], target: EngineTarget) -> dict[str, str]:
    """What the engine is for: a kind of GPU; of TensorRT itself, this one."""
    if target.compute_capability:
        return {"compute_capability": target.compute_capability}
    return {"compute_capability": host["gpus"][0]["compute_capability"], "gpu": host["gpus"][0]["name"]}


def _told(progress: Progress, engine: str, share: float, phase: str) -> None:
    progress(share, f"{engine}: {phase}")


def _hash(made_from: dict[str, Any]) -> str:
    """Of all that decides what is built, the code that asks for it included."""
    told = json.dumps([made_from, [sha256(file) for file in CODE]], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _keep(place: Path, built: Built, seconds: float, timings: Path | None) -> None:
    """Write the engine, its layers, and ``built.json`` last: where that is right, all is whole."""
    for note in built.notes:
        print(f"{timings}: {note}")
    shutil.rmtree(place, ignore_errors=True)
    write_bytes(place / "engine", built.plan)
    write_json(place / "layers.json", built.layers)
    facts = {"sha256": sha256(place / "engine"), "layers_sha256": sha256(place / "layers.json")}
    write_json(place / "built.json", facts | {"seconds": round(seconds, 3)})
    if timings:
        write_bytes(timings, hashlib.sha256(built.timing).digest() + built.timing)


def _whole(place: Path) -> bool:
    """Is there an engine, as it was built?"""
    try:
        facts = read_json(place / "built.json")
        return bool(
            facts["sha256"] == sha256(place / "engine") and facts["layers_sha256"] == sha256(place / "layers.json")
        )
    except (Refused, OSError, KeyError, TypeError):
        return False


def _take(place: Path, out: Path, name: str) -> dict[str, Any]:
    """Copy what is kept into the stage's out; its entry in ``build.json``."""
    engine, layers = out / f"{name}.engine", out / f"{name}.layers.json"
    write_bytes(engine, (place / "engine").read_bytes())
    write_bytes(layers, (place / "layers.json").read_bytes())
    return {"file": engine.name, "sha256": sha256(engine), "bytes": engine.stat().st_size, "layers": layers.name}


def _timings_of(facts: dict[str, Any]) -> str:
    """A timing cache is of one TensorRT and one GPU."""
    return re.sub(r"[^a-z0-9.]+", "-", f"{facts['builder']} {facts['gpu']}".lower()) + ".cache"


def _read_timings(file: Path) -> bytes:
    """A timing cache, behind its SHA-256; empty where there is none, or a damaged one, which is told."""
    data = file.read_bytes() if file.is_file() else b""
    if data and hashlib.sha256(data[32:]).digest() != data[:32]:
        print(f"{file}: damaged, and thrown away: the timings of layers are begun anew")
        return b""
    return data[32:]


if __name__ == "__main__":
    stage.run_named(build)
