"""From `python3 run.py` on a board to its first engine being built: seconds, and the memory of Python until then.

    python -m benchmarks.kit

On this machine, with the double of TensorRT 10.3 and the recorded Orin Nano that the tests use: what the kit itself
takes, without TensorRT's own libraries. A process of its own each time.
"""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pipeline.kit import TOP, kit
from pipeline.recipe import load_project
from pipeline.results import keep_benchmark

RECIPE, TURNS = "gorner_digits", 9

CHILD = """
import json, os, sys, time
from pathlib import Path
sys.path.insert(0, os.getcwd())
from deploy.jetson import kit
import recording
from boards.recorded import board
from recording import Engine, Input, Output, double

image = Input("image", "UINT8", ((1, 1, 8, 8), (8, 1, 8, 8), (64, 1, 8, 8)))
trt = double("10.3.0", Engine([image, Output("logits", "FLOAT", "image")]))
sys.modules["tensorrt"] = trt
kit.runtimes = lambda: ["tensorrt"]

def first_build(*_):
    seconds = time.time() - float(os.environ["BEGUN"])
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"seconds": seconds, "bytes": 1024 * int(peak.split()[1])}), flush=True)
    os._exit(0)

recording.BEHAVIOUR["Builder.build_serialized_network"] = first_build
root, run = board("orin-nano", Path(os.environ["ROOT"]))
kit.run_kit(Path.cwd(), Path("measured"), None, root, run)
"""


def main() -> None:
    """Print the table and keep it."""
    project = load_project()
    kit(project, [RECIPE])
    tests = project.root.resolve() / "tests"
    told = []
    for _ in tqdm(range(TURNS), desc="kit", unit=" turn", disable=None):
        with tempfile.TemporaryDirectory() as folder:
            with tarfile.open(project.build / "kit" / f"{RECIPE}.tar.gz") as packed:
                packed.extractall(folder, filter="data")
            there = {"BEGUN": str(time.time()), "PYTHONPATH": str(tests), "ROOT": f"{folder}/root"}
            child = subprocess.run(
                [sys.executable, "-c", CHILD],
                cwd=Path(folder, TOP),
                env=os.environ | there,
                capture_output=True,
                check=True,
            )
        told.append(json.loads(child.stdout.splitlines()[-1]))
    rows = (
        ("seconds", 1, "s", "command to first engine build"),
        ("bytes", 1e6, "MB", "peak memory of Python until then"),
    )
    lines = [f"| the kit of {RECIPE}, on doubles | median | least to greatest of {TURNS} |", "|---|---|---|"]
    for key, scale, unit, what in rows:
        values = [facts[key] / scale for facts in told]
        lines.append(f"| {what} | {np.median(values):.3g} {unit} | {min(values):.3g} to {max(values):.3g} {unit} |")
    table = "\n".join(lines)
    print(table)
    keep_benchmark(project.root, "kit", table)


if __name__ == "__main__":
    main()
