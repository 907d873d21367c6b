"""One recipe's part of the page: its numbers, charts, examples and hashes.

What is damaged, missing or of another version costs one line, and no more.
"""

import csv
import statistics
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
from pipeline.matrix import counts, hosts, parts
from pipeline.plots import timed, trained_on
from pipeline.recipe import Graph, Project, Recipe, Training, Weights
from pipeline.verdicts import STALE

UNREADABLE = (
    *(Refused, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, ArithmeticError),
    *(zipfile.BadZipFile, jinja2.UndefinedError),
)
FEW = 10  # items that changed, under which a bootstrap has little to go by
KNOWN = {  # runtime and precision of a target -> what its name does not say
    ("onnxruntime-cpu", "fp16"): "fp16 weights, computed in fp32",
}
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
    here = [row for target, row in verdict["targets"].items() if "@" not in target]
    stale = any(cause["cause"] == STALE for row in here for cause in row["causes"])
    measurement = part(lacking, "the measurement", lambda: _measurement(build, name, stale), None)
    quantized = part(lacking, "quantizing", lambda: read_object(build / "quantize" / name / "quantize.json"), {})
    data = part(lacking, "the data set", lambda: read_object(build / "prepare" / recipe.data / "data.json"), None)
    return {
        "name": name,
        "verdict": verdict,
        "here": _here(verdict),
        "counts": counts({name: verdict}),
        "charts": _charts(build, name, recipe, verdict, measurement, lacking),
        "speed": part(lacking, "the training's speed", lambda: training_speed(build, name, recipe), None),
        "how": measurement["latency"] if measurement else None,
        "made": part(lacking, "how int8 was chosen", lambda: _made(quantized), []),
        "stale": stale,
        "notes": part(lacking, "notes", lambda: _notes(verdict, quantized), {}),
        "against": _against_fp32(_here(verdict)),
        "on_device": _on_device(_here(verdict), verdict["trained"]["latency_ms"].get("cpu")),
        "kept_float": part(lacking, "what stays in float32", lambda: _kept_float(quantized), {}),
        "data": data,
        "trained_ms": _trained_ms(recipe, verdict),
        "unscored": {trained_on(recipe, way) for way in verdict["trained"]["latency_ms"] if " " in way},
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
    build: Path,
    name: str,
    recipe: Recipe,
    verdict: dict[str, Any],
    measurement: dict[str, Any] | None,
    lacking: list[str],
) -> list[dict[str, Any]]:
    """The charts of one recipe: ``file``, ``title``, ``told`` (what it says, below it), and the ``svg``."""
    made: list[Made] = list(_of_verdict(verdict))
    if measurement:
        made += part(lacking, "latency", lambda: list(_of_measurement(recipe, verdict, measurement)), [])
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


def _of_measurement(recipe: Recipe, verdict: dict[str, Any], measurement: dict[str, Any]) -> Iterator[Made]:
    """What is drawn of single requests and steps, which the verdicts do not hold: of this host's measurement alone."""
    shown, trained = _here(verdict), measurement["trained"]
    here = {target: measurement["targets"][target] for target in shown if not parts(target).host}
    away = " and ".join(hosts(shown)[1:])
    lacks = f" Not drawn: what was measured on {away}, whose {{}} are not in this host's measurement." if away else ""
    samples = {
        network: latency_s
        for network, latency_s in timed(measurement, recipe).items()
        if network in here or network not in measurement["targets"]
    }
    if samples:
        chart = partial(
            charts.latency, samples, _trained_ms(recipe, verdict) | {target: shown[target] for target in here}
        )
        yield "latency", "Latency", LATENCY.format_map(measurement["latency"]) + lacks.format("samples"), chart
    if "drift" in trained:
        curves = {trained_on(recipe, "cpu"): trained["drift"]}
        curves |= {target: row["drift"] for target, row in here.items() if "drift" in row}
        yield "drift", "Drift", DRIFT + lacks.format("curves"), partial(charts.drift, curves)


def _trained_ms(recipe: Recipe, verdict: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """The trained network where it was timed, by its name there -> its latency in milliseconds."""
    return {trained_on(recipe, device): facts for device, facts in verdict["trained"]["latency_ms"].items()}


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


def training_speed(build: Path, name: str, recipe: Recipe) -> dict[str, Any] | None:
    """How fast a recipe was trained, where it was trained; ``None`` of what was brought, and where no epoch was run.

    Returns:
        ``median``, ``least`` and ``greatest``: examples a second, of all epochs; ``total_s``; ``epochs``; ``batch``,
        items; ``mode``: float32 or the fast mode's parts that were on.

    Raises:
        Refused: a time or a speed that is no number above 0.
    """
    if not isinstance(recipe.train, Training):
        return None
    path = build / "history" / "speed" / f"{name}.csv"
    rows = _read_csv(path)
    if not rows:
        return None
    speeds, seconds = ([row[key] for row in rows] for key in ("examples_per_s", "train_s"))
    if not all(0 < value < float("inf") for value in speeds + seconds):
        raise Refused(f"{path}: holds a time or speed that is no number above 0. Remove it and run `dvc repro` again.")
    return {
        "median": statistics.median(speeds),
        "least": min(speeds),
        "greatest": max(speeds),
        "total_s": sum(seconds),
        "epochs": len(rows),
        "batch": recipe.train.batch,
        "mode": ("bf16" if recipe.train.bf16 else "float32") + ", channels-last" * recipe.train.channels_last,
    }


def _notes(verdict: dict[str, Any], quantized: dict[str, Any]) -> dict[str, str]:
    """What one must know to read a target's verdict, where its name promises more than it is; by target."""
    kept = _kept_float(quantized)
    notes = {}
    for target, row in _here(verdict).items():
        nodes = [node for at, of in kept.items() if at.startswith(f"{row['precision']}: ") for node in of]
        of = parts(target)
        if (of.runtime, of.precision) in KNOWN:
            notes[target] = KNOWN[of.runtime, of.precision]
        elif nodes:
            notes[target] = f"{len(nodes)} layer{'s stay' if len(nodes) > 1 else ' stays'} in float32"
        elif str(row.get("method", "")).startswith("Clopper"):
            notes[target] = f"{row['changed']} of {row['n']:,} items changed: the bound is a worst case"
        elif str(row.get("method", "")).startswith("BCa") and row["changed"] < FEW:
            notes[target] = f"{row['changed']} of {row['n']:,} items changed: few for a bootstrap"
    return notes


def _against_fp32(here: dict[str, dict[str, Any]]) -> list[str]:
    """What each other precision gains over fp32 of its own runtime on its own host, by the medians."""
    named = {target: parts(target) for target in here}
    fp32 = {(of.runtime, of.host): here[target] for target, of in named.items() if of.precision == "fp32"}
    told = []
    for target, row in here.items():
        of = named[target]
        other = fp32.get((of.runtime, of.host))
        if other is None or of.precision == "fp32" or not row["p50_ms"] or not other["p50_ms"]:
            continue
        text = f"{target} takes {row['p50_ms'] / other['p50_ms']:.2f} of fp32's time (median)"
        text += f", {row['size_bytes'] / other['size_bytes']:.2f} of its file"
        if row["memory_bytes"] and other["memory_bytes"]:
            text += f", {row['memory_bytes'] / other['memory_bytes']:.2f} of its memory"
        told.append(text)
    return told


def _on_device(here: dict[str, dict[str, Any]], trained_ms: dict[str, Any] | None) -> list[str]:
    """Of what was timed on a GPU: how much of a request is spent there, how it is launched, what runs elsewhere.

    Of a board also the energy of a request, and its time beside that of the trained network on this host's processor.
    """
    told = []
    for target, row in here.items():
        facts = []
        if row["device_share"] is not None:
            ms = "" if row["device_ms"] is None else f" ({row['device_ms']:.3f} ms)"
            facts.append(f"{100 * row['device_share']:.0f} % of the time is on the device{ms}")
        if row["no_graph"] is not None:
            why = row["no_graph"]
            facts.append(f"not replayed as one CUDA graph: {why}" if why else "replayed as one CUDA graph")
        if row["on_cpu"]:
            one = len(row["on_cpu"]) == 1
            facts.append(
                f"{len(row['on_cpu'])} {'node that computes' if one else 'nodes that compute'} sizes "
                f"{'runs' if one else 'run'} on the processor"
            )
        if row["energy_mj"] is not None:
            facts.append(f"{row['energy_mj']:.3g} mJ a request, the module at {row['power_w']:.1f} W")
        elif row["power_reason"]:
            facts.append(f"no energy: {row['power_reason']}")
        if row["power_reason"] is not None and row["p50_ms"] and trained_ms and trained_ms["p50_ms"]:
            facts.append(f"its median is {row['p50_ms'] / trained_ms['p50_ms']:.2f} of the trained network's here")
        facts += row["notes"] or []
        if facts:
            told.append(f"{target}: {'; '.join(facts)}")
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
    """``precision: graph`` -> the nodes that stay in float32 there, for their range."""
    return {
        f"{precision}: {graph}": facts["float32"]
        for precision, graphs in quantized.items()
        if "reason" not in graphs
        for graph, facts in graphs.items()
        if facts.get("float32")
    }
