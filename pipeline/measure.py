"""Stage ``measure@recipe``: every target that is here, in one process, interleaved with the trained network."""

import torch
from torch import nn
from tqdm import tqdm

from deploy.contract import open_bundle
from deploy.errors import Refused
from deploy.files import read_json, write_json
from deploy.measure import measure as measure_bundle
from deploy.measurement import WAYS
from deploy.run import Run
from deploy.runtimes import THREADS, open_onnxruntime
from deploy.targets import targets
from deploy.tasks import load_task
from pipeline import stage
from pipeline.cache import close_cache, open_cache
from pipeline.network import graphs, load_network, open_network
from pipeline.recipe import Graph, Project


def measure(project: Project, name: str) -> None:
    """Write ``build/measure/<name>.json``."""
    bundle = open_bundle(project.build / "bundle" / name)
    host = read_json(project.build / "host.json")
    engines = project.build / "engines" / name
    torch.set_num_threads(THREADS)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    trained = {"cpu": _trained(project, name, "cpu")}
    for way in WAYS if torch.cuda.is_available() else ():
        try:
            trained |= _on_cuda(project, name, way)
        except (Refused, RuntimeError) as error:  # no CUDA for a graph that was brought; too little memory
            print(f"{name}: no latency of the trained network on {way}: {error}")
    built = read_json(engines / "build.json")
    cache = open_cache(project, "measure", name, {"bundle": bundle.sha256, "host": host, "engines": built})
    measurement = measure_bundle(
        bundle,
        targets(bundle, host, engines, built),
        host,
        trained,
        progress=lambda blocks: tqdm(blocks, desc=f"measure {name}", unit=" block of rounds", disable=None),
        cache=cache,
    )
    write_json(project.build / "measure" / f"{name}.json", measurement)
    close_cache(cache)
    for device, why in measurement["trained"].get("failed", {}).items():
        print(f"{name}: no latency of the trained network on {device}: {why}")
    rows = measurement["targets"]
    here = [target for target, row in rows.items() if not row["reason"]]
    for target in here:
        if "failed" in rows[target]:
            print(f"{name}: {target} failed: {rows[target]['failed']}")
    print(f"{name}: measured {', '.join(here)}; {len(rows) - len(here)} targets are not here")


def _trained(project: Project, name: str, device: str) -> dict[str, Run]:
    """The network that was trained, in PyTorch; of a graph that was brought, the file itself in onnxruntime."""
    recipe = project.recipe(name)
    if isinstance(recipe.train, Graph):
        return {"network": open_onnxruntime(project.build / "train" / name / "network.onnx", device)}
    return open_network(_network(project, name).to(device), load_task(recipe.task).outputs)


def _on_cuda(project: Project, name: str, way: str) -> dict[str, dict[str, Run]]:
    """What is timed under the name ``way``, one of ``WAYS``; of a graph that was brought the plain one alone.

    ``reduce-overhead`` replays CUDA graphs: at batch 1, where launching takes longer than computing, the fastest mode.
    """
    device, *how = way.split(" ")
    if not how:
        return {way: _trained(project, name, device)}
    recipe = project.recipe(name)
    if isinstance(recipe.train, Graph):
        return {}
    outputs = load_task(recipe.task).outputs
    network = _network(project, name).to(device, torch.half if "fp16" in how else None)
    for part in graphs(network, outputs).values() if "compiled" in how else ():
        part.compile(mode="reduce-overhead")
    return {way: open_network(network, outputs)}


def _network(project: Project, name: str) -> nn.Module:
    recipe = project.recipe(name)
    facts = read_json(project.build / "prepare" / recipe.data / "data.json")
    return load_network(recipe.network, facts, project.build / "train" / name / "weights.safetensors")


if __name__ == "__main__":
    stage.run_named(measure)
