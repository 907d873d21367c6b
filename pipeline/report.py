"""Stage ``report``: the verdicts as a page to look at, and as Markdown."""

import base64
import csv
import io
import re
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape
from PIL import Image

from deploy.contract import load_arrays
from deploy.files import read_json, write_bytes
from deploy.tasks import load_task
from pipeline import charts, stage
from pipeline.recipe import Graph, Project, Recipe, Weights
from pipeline.verdicts import FAIL, INCONCLUSIVE, PASS

PICTURE = 64  # pixels at most, of a side
WRONG_SHOWN = 48  # items that somebody got wrong, a recipe


def report(project: Project) -> None:
    """Write ``report.html`` (one file, no script, nothing from elsewhere) and ``report.md``."""
    verdicts = read_json(project.build / "verdicts.json")
    host = read_json(project.build / "host.json")
    sections = [_section(project, name, recipe, verdicts[name]) for name, recipe in project.recipes.items()]
    folder = Path(__file__).parent
    page = jinja2.Environment(autoescape=True, loader=jinja2.FileSystemLoader(folder), undefined=jinja2.StrictUndefined)
    page.filters["prose"] = prose
    html = page.get_template("report.html").render(
        answer=answer(verdicts),
        sections=sections,
        host=host,
        number=number,
        absent=not_measured(verdicts),
        heads=HEADS,
        rows=[(row, cells(row)) for row in measured(verdicts)],
        dates=sorted({recipe["date"] for recipe in verdicts.values()}),
    )
    write_bytes(project.build / "report.html", html.encode())
    text = f"# Plumbline report\n\n{answer(verdicts)}\n\n{table(verdicts)}\n\nHost: {host['name']}\n"
    for (verdict, reason), targets in not_measured(verdicts).items():
        text += f"\n- **{verdict}** ({reason}): {', '.join(targets)}"
    write_bytes(project.build / "report.md", (text + "\n").encode())
    print(_terminal(verdicts))
    print(f"{answer(verdicts)}\nThe page: {project.build / 'report.html'}")


def prose(text: str) -> Markup:
    """Text as HTML, with what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704  # escaped on this line


def answer(verdicts: dict[str, Any]) -> str:
    """Can it ship? One sentence."""
    rows = [row for recipe in verdicts.values() for row in recipe["targets"].values()]
    count = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in (PASS, INCONCLUSIVE, FAIL)}
    absent = sum(row["deployed"] is None for row in rows)
    if count[FAIL]:
        start = f"No: {count[FAIL]} of {len(rows)} deployments failed"
    elif not count[PASS]:
        start = "Not yet: nothing is proved"
    elif count[INCONCLUSIVE]:
        start = f"In part: {count[INCONCLUSIVE]} could not be decided"
    else:
        start = "Yes, where it was measured"
    return (
        f"{start}; {count[PASS]} of {len(rows)} deployments are proved to be what was trained within their budget, "
        f"{absent} were not measured on this host."
    )


def measured(verdicts: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that were measured, each with ``recipe``, ``target`` and its recipe's budget and metric."""
    return [
        row
        | {"recipe": name, "target": target, "metric": recipe["metric"], "budget": recipe["budget"]["drop"]}
        | {"latency_budget": recipe["budget"]["latency_ratio"].get(target)}
        for name, recipe in verdicts.items()
        for target, row in recipe["targets"].items()
        if row["deployed"] is not None
    ]


def not_measured(verdicts: dict[str, Any]) -> dict[tuple[str, str], list[str]]:
    """Verdict and reason -> ``recipe: target`` of the rows that were not measured."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for name, recipe in verdicts.items():
        for target, row in recipe["targets"].items():
            if row["deployed"] is None:
                reasons.setdefault((row["verdict"], row["reason"]), []).append(f"{name}: {target}")
    return reasons


HEADS = [
    "recipe",
    "target",
    "verdict",
    "metric",
    "trained",
    "deployed",
    "drop (95 % at most)",
    "budget",
    "latency ÷ trained",
    "p50",
    "size",
    "n",
]


def cells(row: dict[str, Any]) -> list[str]:
    """A measured row as text, one cell a head of ``HEADS``."""
    unit, drop_unit = row["metric"]["unit"], row["metric"]["drop_unit"]
    places = row["metric"]["places"]
    ratio = "–"
    if row["latency_ratio"] is not None:
        ratio = f"{row['latency_ratio']:.2f} ({row['latency_ratio_lower95']:.2f}–{row['latency_ratio_upper95']:.2f})"
        ratio += f", budget {row['latency_budget']:g}" if row["latency_budget"] else ", no budget"
    return [
        row["recipe"],
        row["target"],
        row["verdict"],
        row["metric"]["name"],
        f"{row['trained']:.2f} {unit}",
        f"{row['deployed']:.2f} {unit}",
        f"{number(row['drop'], places)} ({number(row['drop_upper95'], places)})",
        f"{row['budget']:g} {drop_unit}",
        ratio,
        f"{row['p50_ms']:.3f} ms",
        f"{row['size_bytes'] / 1000:.1f} kB",
        str(row["n"]),
    ]


def number(value: float | None, places: int = 2) -> str:
    """So many places, or a dash where there is none."""
    return "–" if value is None else f"{value:.{places}f}"


def table(verdicts: dict[str, Any]) -> str:
    """The measured rows as a Markdown table, each with the first digits of its graph's hash."""
    rows = [[*cells(row), _short(row["graph_sha256"])] for row in measured(verdicts)]
    lines = [[*HEADS, "graph"], ["---"] * (len(HEADS) + 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _short(hashes: str | dict[str, str]) -> str:
    """The first digits of the hash of one graph, or of each."""
    return " ".join(f"`{h[:8]}`" for h in ([hashes] if isinstance(hashes, str) else hashes.values()))


def _terminal(verdicts: dict[str, Any]) -> str:
    """The measured rows in columns."""
    lines = [list(HEADS), *(cells(row) for row in measured(verdicts))]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADS))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def _section(project: Project, name: str, recipe: Recipe, verdict: dict[str, Any]) -> dict[str, Any]:
    measurement = read_json(project.build / "measure" / f"{name}.json")
    metric = load_task(recipe.task).metric
    history, spread = (_read_csv(project.build / "history" / kind / f"{name}.csv") for kind in ("loss", "spread"))
    here = {target: row for target, row in verdict["targets"].items() if row["deployed"] is not None}
    drops = [
        {"target": target, "drop": row["drop"], "lower": row["drop_lower95"], "upper": row["drop_upper95"]}
        for target, row in here.items()
        if row["drop_upper95"] is not None
    ]
    own = "the ONNX file, onnxruntime" if isinstance(recipe.train, Graph) else "PyTorch eager"
    timed = {f"trained ({own}, {on})": facts for on, facts in measurement["trained"]["latency"].items()}
    timed |= {target: measurement["targets"][target] for target in here}
    latencies = {target: facts["latency_s"] for target, facts in timed.items()}
    drifts = {f"trained ({own}, cpu)": measurement["trained"]} | {t: measurement["targets"][t] for t in here}
    drifts = {network: facts["drift"] for network, facts in drifts.items() if "drift" in facts}
    quantized = read_json(project.build / "quantize" / name / "quantize.json")
    built = read_json(project.build / "engines" / name / "build.json")
    return {
        "name": name,
        "verdict": verdict,
        "here": here,
        "accuracy": charts.accuracy(drops, recipe.budget.drop, metric.name, metric.drop_unit) if drops else "",
        "latency": charts.latency(latencies) if latencies else "",
        "how": measurement["latency"],
        "drift": charts.drift(drifts) if drifts else "",
        "details": {"trained": verdict["trained"]["details"]}
        | {target: row["details"] for target, row in here.items()},
        "made": _made(quantized),
        "kept_float": _kept_float(quantized),
        "data": read_json(project.build / "prepare" / recipe.data / "data.json"),
        "own": own,
        "brought": {Weights: "weights", Graph: "graph"}.get(type(recipe.train), ""),
        "training": charts.training(history, spread, metric.name, metric.unit) if history else "",
        "wrong": _wrong(project, recipe, measurement),
        "engines": {
            target: sum(file["bytes"] for file in entry["files"].values())
            for target, entry in built.items()
            if "files" in entry and target not in here
        },
    }


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


def _read_csv(path: Path) -> list[dict[str, float]]:
    with open(path, newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def _wrong(project: Project, recipe: Recipe, measurement: dict[str, Any]) -> dict[str, Any] | None:
    """Test items that the trained network or a deployed one got wrong, those on which they disagree first."""
    data = project.build / "prepare" / recipe.data
    test, classes = load_arrays(data / "test.npz"), read_json(data / "data.json")["classes"]
    said = {"trained": measurement["trained"]["predicted"]}
    said |= {t: row["predicted"] for t, row in measurement["targets"].items() if "predicted" in row}
    if {"image", "label"} <= set(test) and test["image"].ndim == 4 and test["image"].shape[1] in (1, 3):
        truth = [str(classes[label]) for label in test["label"]]
        said = {t: [str(classes[p]) if p >= 0 else "nothing finite" for p in row] for t, row in said.items()}
        shown = partial(_picture_of, test["image"])
    elif {"source", "target"} <= set(test):
        truth, lines = _lines(test["target"]), _lines(test["source"])
        said = {t: [p if p is not None else "nothing finite" for p in row] for t, row in said.items()}
        shown = partial(_text_of, lines)
    else:  # there is nothing to look at in mere numbers, and a whole text has no one answer that is right or wrong
        return None
    answers = np.array(list(said.values()))  # (networks, n)
    wrong = np.flatnonzero((answers != np.array(truth)).any(axis=0))
    differ = (answers != answers[0]).any(axis=0)
    order = sorted(map(int, wrong), key=lambda i: (not differ[i], i))
    items = [
        shown(i)
        | {
            "index": i,
            "truth": truth[i],
            "trained": said["trained"][i],
            "others": {t: row[i] for t, row in said.items() if row[i] != said["trained"][i]},
        }
        for i in order[:WRONG_SHOWN]
    ]
    return {"items": items, "all": len(order), "differ": int(differ.sum())}


def _picture_of(images: np.ndarray, i: int) -> dict[str, Any]:
    return {"image": picture(images[i])}


def _text_of(lines: list[str], i: int) -> dict[str, Any]:
    return {"text": lines[i]}


def _lines(text: np.ndarray) -> list[str]:
    return [bytes(row).rstrip(b"\0").decode("utf-8", "replace") for row in text]


def picture(image: np.ndarray) -> str:
    """An image ``(1 or 3, height, width)`` as a data URI: a grey one as ink on paper, its largest value black.

    Of numbers that are no uint8 the image's least becomes 0 and its greatest 255.
    """
    if image.dtype != np.uint8:
        above = image.astype(np.float64) - float(image.min())
        image = np.rint(255 * (above / (above.max() or 1))).astype(np.uint8)
    if len(image) == 3:
        pixels = image.transpose(1, 2, 0)
    else:
        pixels = 255 - (255.0 * image[0] / max(1, image.max())).astype(np.uint8)
    small = Image.fromarray(pixels)
    small.thumbnail((PICTURE, PICTURE))
    data = io.BytesIO()
    small.save(data, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


if __name__ == "__main__":
    stage.run(report)
