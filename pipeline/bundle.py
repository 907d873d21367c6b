"""Stage ``bundle@recipe``: gather what crosses to deployment, hash it, write the contract.

The only writer of a bundle.
"""

import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from deploy.contract import FORMAT, load_arrays, open_bundle
from deploy.errors import Refused
from deploy.files import read_json, sha256, write_bytes, write_json
from deploy.run import Run
from deploy.state import from_zero
from deploy.tasks import answer_all, load_task
from pipeline import stage
from pipeline.recipe import Graph, Project

BATCH = (1, 8, 64)  # rows of a call: least, best served, greatest
LONGEST = 1024  # steps of a `time` axis that are taken at least: what a graph reads step by step may be of any length


def bundle(project: Project, name: str) -> None:
    """Write ``build/bundle/<name>/`` (laid out as ``deploy.contract`` says) and open it once, to be sure."""
    recipe = project.recipe(name)
    data, trained = project.build / "prepare" / recipe.data, project.build / "train" / name
    exported, quantized = project.build / "export" / name, project.build / "quantize" / name
    io, made, facts = (
        read_json(exported / "io.json"),
        read_json(quantized / "quantize.json"),
        read_json(data / "data.json"),
    )
    weights = "network.onnx" if isinstance(recipe.train, Graph) else "weights.safetensors"
    folder = project.build / "bundle" / name
    shutil.rmtree(folder, ignore_errors=True)
    graphs: dict[str, dict[str, str]] = {}
    for precision in recipe.precisions:
        if "reason" in made.get(precision, {}):
            continue
        source = exported if precision == "fp32" else quantized / precision
        graphs[precision] = {graph: f"graphs/{precision}/{graph}.onnx" for graph in io}
        for graph, file in graphs[precision].items():
            _copy(source / f"{graph}.onnx", folder / file)
    for split in ("calib", "test"):
        _copy(data / f"{split}.npz", folder / f"examples/{split}.npz")
    for dtype in ("float32", "float64"):
        _copy(exported / "answers" / f"{dtype}.npz", folder / f"answers/{dtype}.npz")
    _copy(quantized / "ranges.json", folder / "ranges.json")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    contract: dict[str, Any] = {
        "format": FORMAT,
        "recipe": name,
        "task": recipe.task,
        "classes": facts["classes"],
        "io": io,
        "graphs": graphs,
        "ranges": served_ranges(
            load_task(recipe.task), io, load_arrays(data / "calib.npz"), load_arrays(data / "test.npz")
        ),
        "refused": {precision: entry["reason"] for precision, entry in made.items() if "reason" in entry},
        "data": {"name": facts["name"], "licence": facts["licence"], "sha256": facts["sha256"]},
        "weights": {"sha256": sha256(trained / weights)},
        "files": {
            path.relative_to(folder).as_posix(): {"sha256": sha256(path), "bytes": path.stat().st_size}
            for path in files
        },
    }
    write_json(folder / "contract.json", contract)
    open_bundle(folder)


def served_ranges(
    task: ModuleType, io: dict[str, Any], calib: dict[str, np.ndarray], test: dict[str, np.ndarray]
) -> dict[str, list[int]]:
    """Free axis of an input -> least, best served and greatest size: what an engine is built for.

    Least and greatest are the sizes that ``task`` feeds while it answers ``calib`` and ``test``, and best served is the
    median of what a request feeds, since requests are what is timed. ``batch`` is at least ``BATCH``, and a ``time``
    axis at least 1 to ``LONGEST``.

    Args:
        io: each graph's inputs and outputs. No graph is run: sizes do not depend on what is answered.
    """
    fed: list[dict[str, int]] = []
    runs = {graph: from_zero(_hollow(tensors, fed), tensors) for graph, tensors in io.items()}
    task.answer(runs, calib)
    answer_all(task, runs, test)
    requests = task.requests(runs, test)
    before = len(fed)
    for request in requests:
        request()
    ranges = {}
    for axis in {axis: None for sizes in fed for axis in sizes}:
        sizes = sorted(call[axis] for call in fed if axis in call)
        served = sorted(call[axis] for call in fed[before:] if axis in call) or sizes
        ranges[axis] = [sizes[0], served[len(served) // 2], sizes[-1]]
        if axis == "batch":
            ranges[axis] = [*BATCH[:2], max(BATCH[2], sizes[-1])]
        if axis == "time":
            ranges[axis] = [1, ranges[axis][1], max(LONGEST, sizes[-1])]
    return ranges


def _hollow(tensors: dict[str, Any], fed: list[dict[str, int]]) -> Run:
    """A graph that answers zeros, and notes the size of each free axis of its inputs, a call an entry of ``fed``."""

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        sizes = {
            axis: size
            for tensor in tensors["inputs"]
            for axis, size in zip(tensor["shape"], inputs[tensor["name"]].shape)
            if isinstance(axis, str)
        }
        fed.append(sizes)
        shapes = {
            t["name"]: [n if isinstance(n, int) else sizes.get(n, 1) for n in t["shape"]] for t in tensors["outputs"]
        }
        return {t["name"]: np.zeros(shapes[t["name"]], t["dtype"]) for t in tensors["outputs"]}

    return run


def _copy(source: Path, target: Path) -> None:
    if not source.is_file():
        raise Refused(f"{source}: not found. `dvc repro` makes it.")
    write_bytes(target, source.read_bytes())


if __name__ == "__main__":
    stage.run_named(bundle)
