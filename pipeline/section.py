"""One recipe's part of the page: its numbers, charts, examples and hashes.

What is damaged, missing or of another version costs one line, and no more.
"""

import csv
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jinja2

from deploy.contract import load_arrays
from deploy.errors import Refused
from deploy.files import read_json
from deploy.measurement import read_measurement
from deploy.tasks import load_task
from pipeline import charts
from pipeline.examples import examples
from pipeline.matrix import counts
from pipeline.recipe import Graph, Project, Recipe, Weights
from pipeline.verdicts import STALE

UNREADABLE = (
    *(Refused, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, ArithmeticError),
    *(zipfile.BadZipFile, jinja2.UndefinedError),
)
FEW = 10  # items that changed, under which a bootstrap has little to go by
Made = tuple[str, str, str, Callable[[], Any]]  # a chart's file, its title, what it says, and the chart

ACCURACY = (
    "The same test items, answered by both; each end is a one-sided 95 % bound. Accurate enough: the upper end is left "
    "of the budget."
)
LATENCY = (
    "Batch {batch}, {threads} thread; {rounds} rounds, in each of which every network answers once. Dots: half of all "
    "requests (p50), 90 % and 99 % are answered within that time."
)
SIZE = "What is opened: the graphs, or the engines."
MEMORY = (
    "By how much the peak memory of a process grows when it opens the target and answers one item. On small networks "
    "most of it is the runtime's own."
)
RANGES = (
    "The least and the greatest value of each on the calibration examples. int8 has 256 steps for this, and fp16 ends "
    "at ±65,504."
)
LEARNING = "Dashed: the epoch whose weights were kept, of least loss on the split select."
SPREAD = "All weights and all biases, from least to greatest, their quartiles and their median."
DRIFT = (
    "One long run, one step a call, the state handed on and never reset: the largest error against the float64 network "
    "so far, in the unit of the answer (of a language model nats a character)."
)


def section(project: Project, name: str, recipe: Recipe, verdict: dict[str, Any]) -> dict[str, Any]:
    """Everything that the page tells of one recipe; ``lacking`` are the lines of what it cannot.

    Args:
        verdict: the recipe's entry of ``verdicts.json``.
    """
    build, lacking = project.build, list[str]()
    stale = any(cause["cause"] == STALE for row in verdict["targets"].values() for cause in row["causes"])
    measurement = part(lacking, "the measurement", lambda: _measurement(build, name, stale), None)
    quantized = part(lacking, "quantizing", lambda: read_object(build / "quantize" / name / "quantize.json"), {})
    data = part(lacking, "the data set", lambda: read_object(build / "prepare" / recipe.data / "data.json"), None)
    own = "the ONNX file, onnxruntime" if isinstance(recipe.train, Graph) else "PyTorch eager"
    return {
        "name": name,
        "verdict": verdict,
        "here": _here(verdict),
        "counts": counts({name: verdict}),
        "charts": _charts(build, name, verdict, measurement, own, lacking),
        "how": measurement["latency"] if measurement else None,
        "made": part(lacking, "how int8 was chosen", lambda: _made(quantized), []),
        "stale": stale,
        "notes": part(lacking, "notes", lambda: _notes(verdict, quantized), {}),
        "against": _against_fp32(_here(verdict)),
        "kept_float": part(lacking, "what stays in float32", lambda: _kept_float(quantized), {}),
        "data": data,
        "own": own,
        "brought": {Weights: "weights", Graph: "graph"}.get(type(recipe.train), ""),
        "examples": part(lacking, "the test items", lambda: _examples(build, recipe, data, measurement), []),
        "hashes": part(lacking, "the hashes", lambda: _hashes(build, name, measurement), []),
        "lacking": lacking,
    }


def _measurement(build: Path, name: str, stale: bool) -> dict[str, Any]:
    if stale:
        raise Refused("It is of another bundle than this one. Measure again: `dvc repro`.")
    return read_measurement(build / "measure" / f"{name}.json")


def part(lacking: list[str], what: str, make: Callable[[], Any], otherwise: Any) -> Any:
    """What ``make`` gives; where it cannot, ``otherwise``, and a line in ``lacking``."""
    try:
        return make()
    except UNREADABLE as error:
        told = str(error) if isinstance(error, Refused) else f"{type(error).__name__}: {error}"
        lacking.append(f"Not shown: {what}. {told}")
        return otherwise


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        Refused: it is missing or damaged, or holds something else.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise Refused(
            f"{path}: holds a {type(value).__name__}, expected an object. Remove it and run `dvc repro` again."
        )
    return value


def _here(verdict: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {target: row for target, row in verdict["targets"].items() if row["deployed"] is not None}


def _charts(
    build: Path, name: str, verdict: dict[str, Any], measurement: dict[str, Any] | None, own: str, lacking: list[str]
) -> list[dict[str, Any]]:
    """The charts of one recipe: ``file``, ``title``, ``told`` (what it says, below it), and the ``svg``."""
    made: list[Made] = list(_of_verdict(verdict))
    if measurement:
        made += part(lacking, "latency", lambda: list(_of_measurement(verdict, measurement, own)), [])
    made += part(lacking, "activation ranges", lambda: list(_of_ranges(build / "quantize" / name / "ranges.json")), [])
    made += part(lacking, "training", lambda: list(_of_training(build / "history", name, verdict["metric"])), [])
    drawn = []
    for file, title, told, chart in made:
        svg = part(lacking, title.lower(), lambda chart=chart: charts.svg(chart()), "")  # type: ignore[misc]
        if svg:
            drawn.append({"file": file, "title": title, "told": told, "svg": svg})
    return drawn


def _of_verdict(verdict: dict[str, Any]) -> Iterator[Made]:
    here, metric = _here(verdict), verdict["metric"]
    drops = [
        {"target": target, "drop": row["drop"], "lower": row["drop_lower95"], "upper": row["drop_upper95"]}
        for target, row in here.items()
        if row["drop_upper95"] is not None
    ]
    if drops:
        chart = partial(charts.accuracy, drops, verdict["budget"]["drop"], metric["name"], metric["drop_unit"])
        yield "accuracy", "Accuracy lost by deploying", ACCURACY, chart
    for file, title, told, key in (("size", "Size", SIZE, "size_bytes"), ("memory", "Memory", MEMORY, "memory_bytes")):
        bars = [{"target": target, "bytes": row[key]} for target, row in here.items() if row[key] is not None]
        if bars:
            yield file, title, told, partial(charts.weight, bars)


def _of_measurement(verdict: dict[str, Any], measurement: dict[str, Any], own: str) -> Iterator[Made]:
    trained, targets = measurement["trained"], measurement["targets"]
    here = {target: targets[target] for target in _here(verdict)}
    timed = {f"trained ({own}, {device})": facts for device, facts in trained["latency"].items()}
    timed |= {target: row for target, row in here.items() if "latency_s" in row}
    earned = {f"trained ({own}, {device})": facts for device, facts in verdict["trained"]["latency_ms"].items()}
    if timed:
        samples = {network: facts["latency_s"] for network, facts in timed.items()}
        chart = partial(charts.latency, samples, earned | _here(verdict))
        yield "latency", "Latency", LATENCY.format_map(measurement["latency"]), chart
    if "drift" in trained:
        curves = {f"trained ({own}, cpu)": trained["drift"]}
        curves |= {target: row["drift"] for target, row in here.items() if "drift" in row}
        yield "drift", "Drift", DRIFT, partial(charts.drift, curves)


def _of_ranges(path: Path) -> Iterator[Made]:
    for graph, of in read_object(path).items():
        if of:
            yield f"ranges-{graph}", f"Activation ranges: {graph}", RANGES, partial(charts.ranges, graph, of)


def _of_training(folder: Path, name: str, metric: dict[str, Any]) -> Iterator[Made]:
    """Two charts, or none of what was brought: it has no history."""
    history, spread = (_read_csv(folder / kind / f"{name}.csv") for kind in ("loss", "spread"))
    if history:
        yield "learning", "Training", LEARNING, partial(charts.learning, history, metric["name"], metric["unit"])
        yield "spread", "Spread of the weights", SPREAD, partial(charts.spread, spread, history)


def _notes(verdict: dict[str, Any], quantized: dict[str, Any]) -> dict[str, str]:
    """What one must know to read a target's verdict, where its name promises more than it is; by target."""
    kept = _kept_float(quantized)
    notes = {}
    for target, row in _here(verdict).items():
        nodes = [node for at, of in kept.items() if at.startswith(f"{row['precision']}: ") for node in of]
        if target == "onnxruntime-cpu-fp16":
            notes[target] = "fp16 weights, computed in fp32"
        elif nodes:
            notes[target] = f"{len(nodes)} layer{'s stay' if len(nodes) > 1 else ' stays'} in float32"
        elif str(row.get("method", "")).startswith("Clopper"):
            notes[target] = f"{row['changed']} of {row['n']:,} items changed: the bound is a worst case"
        elif str(row.get("method", "")).startswith("BCa") and row["changed"] < FEW:
            notes[target] = f"{row['changed']} of {row['n']:,} items changed: few for a bootstrap"
    return notes


def _against_fp32(here: dict[str, dict[str, Any]]) -> list[str]:
    """What each other precision gains over fp32 of its own runtime, by the medians."""
    told = []
    for target, row in here.items():
        runtime, _, precision = target.rpartition("-")
        other = here.get(f"{runtime}-fp32")
        if other is None or precision == "fp32" or not row["p50_ms"] or not other["p50_ms"]:
            continue
        text = f"{target} takes {row['p50_ms'] / other['p50_ms']:.2f} of fp32's time (median)"
        text += f", {row['size_bytes'] / other['size_bytes']:.2f} of its file"
        if row["memory_bytes"] and other["memory_bytes"]:
            text += f", {row['memory_bytes'] / other['memory_bytes']:.2f} of its memory"
        told.append(text)
    return told


def _read_csv(path: Path) -> list[dict[str, float]]:
    with open(path, newline="") as file:
        rows = csv.DictReader(file)
        if "epoch" not in (rows.fieldnames or []):
            raise Refused(f"{path}: has no column 'epoch'. Remove it and run `dvc repro` again.")
        return [{key: float(value) for key, value in row.items()} for row in rows]


def _examples(
    build: Path, recipe: Recipe, data: dict[str, Any] | None, measurement: dict[str, Any] | None
) -> list[dict[str, Any]]:
    if not data or not measurement:  # which is told already
        return []
    test = load_arrays(build / "prepare" / recipe.data / "test.npz")
    return examples(test, data["classes"], measurement, load_task(recipe.task))


def _hashes(build: Path, name: str, measurement: dict[str, Any] | None) -> list[tuple[str, str]]:
    """What was measured, by SHA-256: data, weights, graphs, contract, engines."""
    contract = read_object(build / "bundle" / name / "contract.json")
    rows = [(f"data: {contract['data']['name']}", contract["data"]["sha256"])]
    rows.append(("weights", contract["weights"]["sha256"]))
    for precision, graphs in contract["graphs"].items():
        rows += [(f"{precision}: {graph}", contract["files"][file]["sha256"]) for graph, file in graphs.items()]
    if measurement:
        rows.append(("contract that was measured", measurement["contract_sha256"]))
    for target, entry in read_object(build / "engines" / name / "build.json").items():
        rows += [(f"{target}: {graph}", file["sha256"]) for graph, file in entry.get("files", {}).items()]
    return rows


def _made(quantized: dict[str, Any]) -> list[dict[str, Any]]:
    """How the int8 graphs were chosen: a row a candidate that was tried, those of a graph best first."""
    return [
        {"precision": precision, "graph": graph, "chosen": i == 0} | candidate
        for precision, graphs in quantized.items()
        if "reason" not in graphs
        for graph, facts in graphs.items()
        for i, candidate in enumerate(facts.get("candidates", []))
        if "reason" not in candidate
    ]


def _kept_float(quantized: dict[str, Any]) -> dict[str, list[str]]:
    """``precision: graph`` -> the nodes that stay in float32 there, for their range or for want of a quantized form."""
    return {
        f"{precision}: {graph}": facts["float32"]
        for precision, graphs in quantized.items()
        if "reason" not in graphs
        for graph, facts in graphs.items()
        if facts.get("float32")
    }
