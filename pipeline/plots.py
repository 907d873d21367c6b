"""What `dvc plots` draws beside the training curves: confusion and latency, and a page that draws with no network."""

import csv
import io
from functools import cache
from typing import Any

import numpy as np
import vl_convert

from deploy.contract import load_arrays
from deploy.errors import Refused
from deploy.files import read_json, write_bytes
from deploy.measurement import read_measurement
from deploy.per_character import SIGNS
from deploy.tasks import load_task
from pipeline.charts import within
from pipeline.recipe import Graph, Project, Recipe

Rows = list[tuple[Any, ...]]

CLASSES = 100  # a matrix of more cannot be read
NOTHING = "nothing finite"

# `dvc plots show` of 3.67 loads Vega from another host; in this page it is inline. DVC fills in `{plot_divs}`, in which
# each plot calls `vegaEmbed`, with an empty one where its file is not made yet. The menu of a plot saves it, and sends
# nobody to an editor elsewhere.
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Plumbline: plots</title>
<style>body {{ display: flex; flex-wrap: wrap; gap: 1.5em; align-items: start; font-family: sans-serif }}
body > div {{ max-width: 100%; overflow-x: auto }}</style>
<script>(() => {{ {script} }})();</script>
</head>
<body>
{{plot_divs}}
</body>
</html>
"""
EMBED = """
const kept = {export: true, source: false, compiled: false, editor: false};
window.vegaEmbed = (place, spec) => spec.data && vegaEmbed(place, spec, {mode: "vega-lite", actions: kept});
"""


def write_plots(project: Project) -> None:
    """Write ``build/plots/``: ``confusion/<recipe>.csv``, ``latency/<recipe>.csv`` and ``offline.html``.

    A recipe whose answers are no classes, or over ``CLASSES`` of them, has no confusion; one that nothing was timed of
    has no latency; one whose measurement or data cannot be read has neither, and a line says why. A file of an earlier
    run that this one does not write is removed.

    Raises:
        Refused: the disk is full, or the folder cannot be written.
    """
    folder = project.build / "plots"
    files = {folder / "offline.html": offline_page().encode()}
    for name, recipe in project.recipes.items():
        data = project.build / "prepare" / recipe.data
        try:
            measurement = read_measurement(project.build / "measure" / f"{name}.json")
            test, classes = load_arrays(data / "test.npz"), read_json(data / "data.json")["classes"]
        except Refused as error:
            print(f"no plots of {name}: {error}")
            continue
        if rows := _confusion(recipe.task, measurement, test, classes):
            files[folder / "confusion" / f"{name}.csv"] = _csv(["network", "actual", "predicted", "count"], rows)
        if rows := latency(timed(measurement, recipe)):
            files[folder / "latency" / f"{name}.csv"] = _csv(["network", "share", "milliseconds"], rows)
    for path, content in files.items():
        write_bytes(path, content)
    for path in {path for path in folder.rglob("*") if path.is_file()} - set(files):
        path.unlink()


def confusion(said: dict[str, np.ndarray], truth: np.ndarray, classes: list[str]) -> Rows:
    """How often each network said each class of each: ``(network, actual, predicted, count)``, without zeros.

    The diagonal comes first, and whole: a plot whose axes keep the order of the rows has the classes in theirs.

    Args:
        said: network -> class indices ``(n,)``, -1 where an answer was not finite.
        truth: class indices ``(n,)``.
    """
    names = [*map(str, classes), NOTHING]
    rows = []
    for network, answers in said.items():
        counts = np.zeros((len(classes), len(names)), np.int64)
        np.add.at(counts, (truth, answers), 1)  # -1 is the last column
        rows += [(network, names[i], names[i], int(counts[i, i])) for i in range(len(classes))]
        rows += [(network, names[i], names[j], int(counts[i, j])) for i, j in np.argwhere(counts) if i != j]
    return rows


def trained_on(recipe: Recipe, device: str) -> str:
    """What the trained network is called beside its targets, where it was timed."""
    where, _, way = device.partition(" ")  # `cuda`, or another of PyTorch's ways there: `cuda compiled fp16`
    own = "the ONNX file, onnxruntime" if isinstance(recipe.train, Graph) else f"PyTorch {way or 'eager'}"
    return f"trained ({own}, {where})"


def timed(measurement: dict[str, Any], recipe: Recipe) -> dict[str, list[float]]:
    """Network -> the seconds that each request took, of all that were timed on the measurement's host."""
    trained = {trained_on(recipe, device): facts for device, facts in measurement["trained"]["latency"].items()}
    networks = trained | {target: row for target, row in measurement["targets"].items() if "latency_s" in row}
    return {network: facts["latency_s"] for network, facts in networks.items()}


def latency(latency_s: dict[str, list[float]]) -> Rows:
    """``(network, share, milliseconds)``: so long at most took that share of the timed requests."""
    return [(network, share, ms) for network, samples in latency_s.items() for share, ms in within(samples)]


@cache  # the tests of the report write it often
def offline_page() -> str:
    """DVC's page of plots as a template that loads nothing, with Vega, Vega-Lite and vega-embed inline."""
    return PAGE.format(script=vl_convert.javascript_bundle(EMBED))


def _confusion(task: str, measurement: dict[str, Any], test: dict[str, np.ndarray], classes: list[str]) -> Rows:
    if len(classes) > CLASSES:
        return []
    networks = {"trained": measurement["trained"]} | measurement["targets"]
    predicted = {network: facts["predicted"] for network, facts in networks.items() if "predicted" in facts}
    module = load_task(task)
    if "label" in module.needs:
        return confusion({network: np.array(row) for network, row in predicted.items()}, test["label"], classes)
    if "token" in module.needs:  # a class a character or word, and of its bytes the first counts
        there = module.counted(test["text"])
        said = {network: _tokens(row, there.shape[1])[there] for network, row in predicted.items()}
        return confusion(said, test["token"][there], classes)
    return []


def _tokens(texts: list[str], longest: int) -> np.ndarray:
    """The classes ``(n, longest)`` that ``SIGNS`` stand for, -1 for ``?`` and after a text's end."""
    of_sign = {sign: i for i, sign in enumerate(SIGNS[:-1])}
    return np.array([[of_sign.get(sign, -1) for sign in text.ljust(longest, SIGNS[-1])] for text in texts])


def _csv(head: list[str], rows: Rows) -> bytes:
    """A CSV file. DVC puts its cells into a script of its page as they are, so none of them may hold a tag."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([str(cell).replace("<", "‹") for cell in row] for row in rows)
    return text.getvalue().encode()
