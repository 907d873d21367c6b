"""The networks of ImageNet at 3 x 224 x 224, deployed: latency, and how far answers are from the trained network's.

    make imagenet

Their weights are those that they start with, and nothing is claimed of accuracy. Parity is told twice: the largest
error of an output against the network in float64, in units of PyTorch's own in float32; and the share of images of
which the first class is PyTorch's. Reads what the stage ``measure`` wrote of the set ``zoo/imagenet``.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from deploy.measurement import read_measurement
from pipeline.matrix import parts, piped
from pipeline.recipe import load_project
from pipeline.results import keep_benchmark

SET = Path("zoo/imagenet")
HEAD = ["network", "parameters", "PyTorch", "target", "p50", "÷ PyTorch", "size", "error ÷ PyTorch's", "same class"]


def rows(name: str, measurement: dict[str, Any], parameters: int) -> list[list[str]]:
    """One a target that was measured."""
    trained = measurement["trained"]
    eager_s = float(np.median(trained["latency"]["cpu"]["latency_s"]))
    own = max(trained["error_max"], trained["rounding"])
    lines = []
    for target, facts in measurement["targets"].items():
        if not facts["reason"]:
            latency_s = float(np.median(facts["latency_s"]))
            same = np.mean(np.array(facts["predicted"]) == np.array(trained["predicted"]))
            lines.append(
                [
                    *(name, f"{parameters:,}", f"{1e3 * eager_s:.1f} ms", target, f"{1e3 * latency_s:.1f} ms"),
                    *(f"{latency_s / eager_s:.2f}", f"{facts['size_bytes'] / 1e6:.1f} MB"),
                    *(f"{facts['error_max'] / own:,.1f}", f"{100 * same:.0f} %"),
                ]
            )
    return lines


def absent(measurements: list[dict[str, Any]]) -> str:
    """How many rows were not measured, by runtime."""
    count: dict[str, int] = {}
    for measurement in measurements:
        for target, facts in measurement["targets"].items():
            if facts["reason"]:
                count[parts(target).runtime] = count.get(parts(target).runtime, 0) + 1
    return ", ".join(f"{n} of {runtime}" for runtime, n in sorted(count.items())) or "none"


def parameters(graph: Path) -> int:
    """Float32 numbers in a graph: the network's, normalisation folded, without biases that start at 0."""
    weights = onnx.load(graph).graph.initializer
    return sum(int(np.prod(weight.dims)) for weight in weights if weight.data_type == onnx.TensorProto.FLOAT)


def main() -> None:
    """Print and keep the table."""
    project = load_project(SET / "params.yaml")
    measured = {name: read_measurement(SET / project.build / "measure" / f"{name}.json") for name in project.recipes}
    lines = []
    for name, measurement in measured.items():
        lines += rows(name, measurement, parameters(SET / project.build / "export" / name / "network.onnx"))
    first = next(iter(measured.values()))
    table = (
        f"{piped(HEAD, lines)}\n\nRandom weights, 3 x 224 x 224, batch 1, one thread, {first['n']} images; parameters "
        f"as the graph has them, without biases that start at 0; rows that were not measured: "
        f"{absent(list(measured.values()))}."
    )
    print(table)
    keep_benchmark(Path.cwd(), "imagenet", table)


if __name__ == "__main__":
    main()
