"""How long all engines of the starter set take for one kind of GPU: built from nothing, and found unchanged.

    python -m benchmarks.engines

TensorRT-RTX compiles for compute capability 8.6 with no GPU here; what its graphs are is what `dvc repro` left in
`build/bundle/`.
"""

import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from deploy.contract import open_bundle
from deploy.engines import build_engines
from deploy.files import read_json
from deploy.targets import engine_targets
from pipeline.recipe import Project, load_project
from pipeline.results import keep_benchmark

CAPABILITY, TURNS = "8.6", 5


def turn(project: Project, cache: Path) -> tuple[int, float]:
    """Every recipe's engines once: how many there are, and the seconds they took."""
    host = read_json(project.build / "host.json")
    targets = [target for target in engine_targets() if target.compute_capability == CAPABILITY]
    bundles = [open_bundle(project.build / "bundle" / name) for name in project.recipes]
    engines, start = 0, time.perf_counter()
    for bundle in bundles:
        kept, out = cache / bundle.recipe, cache / "out" / bundle.recipe
        built = build_engines(bundle, host, targets, asdict(project.engines), out, kept)
        engines += sum(len(entry.get("files", ())) for entry in built.values())
    return engines, time.perf_counter() - start


def main() -> None:
    """Print the table and keep it."""
    project = load_project()
    fresh_s, again_s, engines = [], [], 0
    for _ in tqdm(range(TURNS), desc="engines", unit=" turn", disable=None):
        with tempfile.TemporaryDirectory() as folder:
            engines, seconds = turn(project, Path(folder))
            fresh_s.append(seconds)
            again_s.append(turn(project, Path(folder))[1])
    rows = [("built from nothing", fresh_s), ("found unchanged", again_s)]
    head = f"{engines} engines of {len(project.recipes)} recipes for {CAPABILITY}"
    lines = [f"| {head} | median | least to greatest of {TURNS} |", "|---|---|---|"]
    lines += [f"| {what} | {np.median(s):.2f} s | {min(s):.2f} to {max(s):.2f} s |" for what, s in rows]
    table = "\n".join(lines)
    print(table)
    keep_benchmark(project.root, "engines", table)


if __name__ == "__main__":
    main()
