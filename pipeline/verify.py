"""Stage ``verify``: judge every measurement against the budget that its recipe declared before the run.

Recipe by recipe as ``params.yaml`` names them, target by target; no rule knows a network, a task or a runtime. Judged
alike are measurements that came back from other machines: ``python -m pipeline.verify --from FILE ...`` takes them into
``results/boards/``, and the next ``dvc repro`` shows them, a target as ``<target>@<host>``.
"""

import dataclasses
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from deploy.errors import Refused
from deploy.files import sha256, write_json
from deploy.measurement import read_measurement, read_returned
from pipeline import stage
from pipeline.judge import METRICS, judge, judge_unmeasured
from pipeline.matrix import counts
from pipeline.recipe import Graph, Project

RETURNED = Path("results", "boards")  # under the project's root: <host>/<recipe>.json


def verify(project: Project) -> None:
    """Write ``verdicts.json`` (all of it), and what ``dvc metrics`` shows: ``metrics.json`` and ``summary.json``."""
    verdicts: dict[str, dict[str, Any]] = {}
    for name, recipe in project.recipes.items():
        again = f"`dvc repro --force --single-item measure@{name}`"
        here = partial(read_measurement, project.build / "measure" / f"{name}.json")
        verdicts[name] = _judged(project, name, here, again)
        verdicts[name]["network"] = recipe.network.class_
        verdicts[name]["data"] = recipe.data
        verdicts[name]["published"] = recipe.published and dataclasses.asdict(recipe.published)
        verdicts[name]["reference"] = "the ONNX file" if isinstance(recipe.train, Graph) else "PyTorch"
        for file in sorted((project.root / RETURNED).glob(f"*/{name}.json")):
            host, again = file.parent.name, "on that machine, and bring its file back"
            there = _judged(project, name, partial(_only, file), again)
            rows = {f"{target}@{host}": row | {"host": host} for target, row in there["targets"].items()}
            verdicts[name]["targets"] |= rows
            verdicts[name]["hosts"] = there["hosts"] | verdicts[name]["hosts"]
    write_json(project.build / "verdicts.json", verdicts)
    write_json(
        project.build / "metrics.json",
        {
            name: {target: {key: row[key] for key in METRICS} for target, row in rows["targets"].items()}
            for name, rows in verdicts.items()
        },
    )
    write_json(project.build / "summary.json", counts(verdicts))


def take(project: Project, files: list[Path]) -> None:
    """Copy what came back from other machines to ``results/boards/<host>/<recipe>.json``.

    Nothing is written unless all of it can be judged. What an earlier file of that host said of a recipe is replaced.

    Raises:
        Refused: a file that is missing, damaged, of another format, or holds what cannot be judged; or one recipe of a
            host twice.
    """
    kept: dict[Path, dict[str, Any]] = {}
    for file in files:
        for measurement in read_returned(file):
            name, host = measurement["recipe"], measurement["host"]["name"]
            if name in project.recipes:
                _judge(project, name, measurement, f"{file}: {name}: ", "on that machine, and bring its file back")
            else:
                print(f"{file}: {name}: no recipe of this params.yaml has that name; kept for the set that has")
            path = project.root / RETURNED / host / f"{name}.json"
            if path in kept:
                raise Refused(f"{file}: {name} on {host} came twice. Name the file that holds for it alone.")
            kept[path] = measurement
    for path, measurement in kept.items():
        told = "in place of an earlier one" if path.exists() else "new"
        write_json(path, measurement)
        print(f"{path}: {measurement['date']}, {len(measurement['targets'])} targets, {told}")
        contract = project.build / "bundle" / path.stem / "contract.json"
        if not contract.is_file() or sha256(contract) != measurement["contract_sha256"]:
            print(f"{path}: of another bundle than the one here: its rows are NOT MEASURED (stale)")
    print("`dvc repro` judges them and takes them into the report.")


def _only(file: Path) -> dict[str, Any]:
    """The one measurement of a file that ``take`` wrote."""
    (measurement,) = read_returned(file)
    return measurement


def _judged(project: Project, name: str, read: Callable[[], dict[str, Any]], again: str) -> dict[str, Any]:
    """The verdicts of one measurement of a recipe; one that is refused must not cost the others theirs."""
    try:
        return _judge(project, name, read(), "", again)
    except Refused as error:
        return judge_unmeasured(str(error), project.recipe(name))


def _judge(project: Project, name: str, measurement: dict[str, Any], where: str, again: str) -> dict[str, Any]:
    """``judge`` with what the project says of the recipe.

    Raises:
        Refused: the measurement is whole, and yet odd.
    """
    if measurement.get("units"):
        told = f"{where}a trial of the first {measurement['units']} test units, which proves nothing"
        raise Refused(f"{told}. Measure all of them: {again}")
    recipe, contract = project.recipe(name), project.build / "bundle" / name / "contract.json"
    now = sha256(contract) if contract.is_file() else ""  # of a bundle that is gone any measurement is stale
    try:
        verdict = judge(measurement, now, recipe.floor, recipe.budget)
        json.dumps(verdict, allow_nan=False)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError) as error:
        told = f"{where}the measurement cannot be judged ({type(error).__name__}: {error})"
        raise Refused(f"{told}. Measure it again: {again}") from None
    return verdict


if __name__ == "__main__":
    words = sys.argv[1:]
    if words and (words[0] != "--from" or len(words) == 1):
        sys.exit("usage: python -m pipeline.verify [--from FILE ...]")
    files, sys.argv = [Path(word) for word in words[1:]], sys.argv[:1]
    stage.run((lambda project: take(project, files)) if files else verify)
