"""Stage ``measure@recipe``: every target that is here, in one process, interleaved with the trained network."""

import torch
from tqdm import tqdm

from deploy.contract import open_bundle
from deploy.files import read_json, write_json
from deploy.measure import measure as measure_bundle
from deploy.targets import targets
from deploy.tasks import load_task
from pipeline import stage
from pipeline.network import GRAPH, load_network, open_pytorch
from pipeline.recipe import Project

THREADS = 1  # as every runtime is opened: the ratio is of one thread to one thread


def measure(project: Project, name: str) -> None:
    """Write ``build/measure/<name>.json``."""
    recipe = project.recipe(name)
    bundle = open_bundle(project.build / "bundle" / name)
    host = read_json(project.build / "host.json")
    engines = project.build / "engines" / name
    rows = targets(bundle, host, engines, read_json(engines / "build.json"))
    torch.set_num_threads(THREADS)
    facts = read_json(project.build / "prepare" / recipe.data / "data.json")
    network = load_network(recipe.network, facts, project.build / "train" / name / "weights.safetensors")
    trained = {GRAPH: open_pytorch(network, load_task(recipe.task).outputs)}
    measurement = measure_bundle(
        bundle,
        rows,
        host,
        trained,
        progress=lambda rounds: tqdm(rounds, desc=f"measure {name}", unit="round", disable=None),
    )
    write_json(project.build / "measure" / f"{name}.json", measurement)
    measured = [row for row, facts in measurement["targets"].items() if not facts["reason"]]
    print(f"{name}: measured {', '.join(measured)}; {len(rows) - len(measured)} targets not here")


if __name__ == "__main__":
    stage.run_named(measure)
