"""Stage ``quantize@recipe``: the fp16 and int8 graphs, with the precision inside the graph.

Ranges come from ``calib``, choices from ``select``, at basic graph rewrites, where every processor computes alike.
``fp16.py`` and ``int8.py`` say how a graph is made.
"""

import dataclasses
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from deploy.contract import load_arrays
from deploy.errors import Refused
from deploy.files import kept_json, read_json, sha256, write_bytes, write_json
from deploy.run import Run
from deploy.runtimes import open_onnxruntime
from deploy.state import from_zero
from deploy.tasks import load_task
from pipeline import stage
from pipeline.cache import close_cache, open_cache
from pipeline.feeds import recorded_feeds
from pipeline.fp16 import to_fp16
from pipeline.int8 import Feeds, Nothing, to_int8
from pipeline.ranges import activation_ranges
from pipeline.recipe import Project


@dataclasses.dataclass(frozen=True)
class Source:
    """What a precision is made from, and judged by."""

    task: ModuleType
    graphs: dict[str, Path]
    io: dict[str, Any]
    feeds: dict[str, Feeds]  # graph -> what it was fed on `calib`
    ranges: dict[str, dict[str, list[float]]]  # graph -> activation -> smallest and largest on `calib`
    select: dict[str, np.ndarray]
    reference: dict[str, np.ndarray]  # the fp32 graphs' answers on `select`

    def answer(self, graphs: dict[str, Path]) -> dict[str, np.ndarray]:
        """Answers on ``select``, of ``graphs`` in place of the fp32 ones."""
        answers: dict[str, np.ndarray] = self.task.answer(_open(self.graphs | graphs, self.io), self.select)
        return answers

    def judge(self, before: dict[str, Path], graph: str, path: Path) -> tuple[float, float]:
        """Score on ``select`` and mean absolute error against fp32's answers, with ``path`` in place of ``graph``.

        Args:
            before: graphs of this precision that are made already: what is judged last is what ships.
        """
        answers = self.answer(before | {graph: path})
        floats = [key for key, array in self.reference.items() if np.issubdtype(array.dtype, np.floating)]
        error = np.mean([np.abs(answers[key] - self.reference[key]).mean() for key in floats])
        return self.task.score(self.task.observe(answers, self.select)), float(error)


def quantize(project: Project, name: str) -> None:
    """Write ``<precision>/<graph>.onnx``, ``ranges.json`` and ``quantize.json`` into ``build/quantize/<name>/``.

    A precision that was made when the stage was killed is not made again.
    """
    recipe = project.recipe(name)
    exported, data = project.build / "export" / name, project.build / "prepare" / recipe.data
    folder = project.build / "quantize" / name
    calib, select = load_arrays(data / "calib.npz"), load_arrays(data / "select.npz")
    facts = read_json(data / "data.json")
    if (came := sha256(data / "calib.npz")) != (expected := facts["splits"]["calib"]["sha256"]):
        raise Refused(
            f"{data}/calib.npz: SHA-256 {came[:12]}…, but `prepare` wrote {expected[:12]}…: these are not examples of "
            f"the data set, and a calibration on others proves nothing. Make them again: `dvc repro --force prepare`."
        )
    check_calibration(calib, len(facts["classes"]), f"{data}/calib.npz")
    task = load_task(recipe.task)
    io = read_json(exported / "io.json")
    fp32 = {graph: exported / f"{graph}.onnx" for graph in io}
    feeds = recorded_feeds(task, {graph: open_onnxruntime(file) for graph, file in fp32.items()}, calib, io)
    ranges = {graph: activation_ranges(file, feeds[graph]) for graph, file in fp32.items()}
    reference = task.answer(_open(fp32, io), select)
    source = Source(task, fp32, io, feeds, ranges, select, reference)
    inputs = {graph: sha256(file) for graph, file in fp32.items()} | {"task": recipe.task, "data": facts["sha256"]}
    cache = open_cache(project, "quantize", name, inputs)
    made: dict[str, Any] = {}
    for precision in recipe.precisions:
        if precision != "fp32":
            made[precision] = kept_json(cache / f"{precision}.json", partial(_make, source, precision, cache))
    for precision, entry in made.items():
        for graph in fp32 if "reason" not in entry else ():
            file = f"{precision}/{graph}.onnx"
            write_bytes(folder / file, (cache / file).read_bytes())
    write_json(folder / "ranges.json", ranges)
    write_json(folder / "quantize.json", made)
    close_cache(cache)


def _make(source: Source, precision: str, folder: Path) -> dict[str, Any]:
    """Write the graphs of one precision; graph -> how it was made, or the ``reason`` why there is none."""
    made: dict[str, Any] = {}
    untouched: list[str] = []
    done: dict[str, Path] = {}
    for graph, file in source.graphs.items():
        try:
            if precision == "fp16":
                model, made[graph] = to_fp16(file, source.ranges[graph])
            else:
                judge = partial(source.judge, dict(done), graph)
                better = source.task.metric.higher_is_better
                model, made[graph] = to_int8(file, precision, source.feeds[graph], judge, better)
        except Nothing as nothing:  # another graph of the recipe may have something to quantize
            untouched.append(str(nothing))
            model, made[graph] = file.read_bytes(), {"untouched": str(nothing)}
        except Refused as error:  # this precision cannot be made; a full disk is another matter, below
            return {"reason": str(error)}
        done[graph] = folder / precision / f"{graph}.onnx"
        write_bytes(done[graph], model)
    return {"reason": "; ".join(untouched)} if len(untouched) == len(source.graphs) else made


def _open(graphs: dict[str, Path], io: dict[str, Any]) -> dict[str, Run]:
    return {graph: from_zero(open_onnxruntime(file, optimise=False), io[graph]) for graph, file in graphs.items()}


def check_calibration(calib: dict[str, np.ndarray], classes: int, where: str) -> None:
    """Refuse examples that cannot stand for the data: of one class, of one value, or not finite."""
    present = np.unique(calib["label"]) if "label" in calib else np.arange(classes)
    if len(present) < min(2, classes):
        raise Refused(
            f"{where}: all {len(calib['label'])} calibration examples are of class {present.tolist()}, expected "
            f"examples of several of the {classes} classes. Mend the data set's `calib` split: ranges fitted on one "
            f"class fail on the others."
        )
    for name, array in calib.items():
        if name != "label" and not (np.isfinite(array).all() and array.min() < array.max()):
            raise Refused(
                f"{where}: {name!r} is constant or not finite, expected real examples. Mend the `calib` split."
            )


if __name__ == "__main__":
    stage.run_named(quantize)
