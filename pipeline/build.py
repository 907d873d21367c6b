"""Stage ``build@recipe``: every TensorRT engine that this host can build, and a reason for every one it cannot."""

import shutil
import time
from typing import Any

from tqdm import tqdm

from deploy.builder import build_engine
from deploy.contract import Bundle, open_bundle
from deploy.errors import Refused
from deploy.files import read_json, sha256, write_bytes, write_json
from deploy.targets import EngineTarget, engine_targets, missing_graph, no_gpu
from deploy.trt import load_tensorrt
from pipeline import stage
from pipeline.recipe import Project


def build(project: Project, name: str) -> None:
    """Write ``<target>.<graph>.engine`` and ``build.json`` into ``build/engines/<name>/``."""
    bundle = open_bundle(project.build / "bundle" / name)
    host = read_json(project.build / "host.json")
    folder = project.build / "engines" / name
    shutil.rmtree(folder, ignore_errors=True)
    built: dict[str, Any] = {}
    for target in tqdm(engine_targets(), desc=f"build {name}", unit="engine", disable=None):
        try:
            plans, built[target.name] = _build(bundle, host, target)
        except Refused as error:
            built[target.name] = {"reason": str(error)}
            continue
        files = {}
        for graph, plan in plans.items():
            engine = folder / f"{target.name}.{graph}.engine"
            write_bytes(engine, plan)
            files[graph] = {"file": engine.name, "sha256": sha256(engine), "bytes": len(plan)}
        built[target.name]["files"] = files
    write_json(folder / "build.json", built)
    engines = sum("reason" not in entry for entry in built.values())
    print(f"{name}: {engines} engines built")
    for reason in sorted({entry["reason"] for entry in built.values() if "reason" in entry}):
        print(f"  not built: {reason}")


def _build(bundle: Bundle, host: dict[str, Any], target: EngineTarget) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The engines of one target, a graph each, and the facts of the build.

    Raises:
        Refused: why there can be none; nothing that a full disk causes, which is the stage's own error.
    """
    if reason := missing_graph(bundle, target.precision):
        raise Refused(reason)
    if target.compute_capability is None and not host["gpus"]:
        raise Refused(f"{no_gpu(host)}, and TensorRT builds for the GPU that is there; build on one: `dvc repro`")
    trt = load_tensorrt(target.module)
    plans, layers = {}, {}
    start = time.perf_counter()
    for graph, file in bundle.graphs[target.precision].items():
        inputs = bundle.io[graph]["inputs"]
        plans[graph], layers[graph] = build_engine(trt, bundle.path(file), inputs, target.compute_capability)
    return plans, {
        "builder": f"{target.module} {trt.__version__}",
        "seconds": round(time.perf_counter() - start, 3),
        "graph_sha256": bundle.graph_sha256(target.precision),
        "layers": layers,
    }


if __name__ == "__main__":
    stage.run_named(build)
