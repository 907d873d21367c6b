"""Stage ``check``: refuse a wrong ``params.yaml`` before anything runs.

Only names are looked up, in the source as text: nothing heavy is imported, so that this takes no time.
"""

import ast
import re
from pathlib import Path

from deploy.errors import Refused
from deploy.files import write_bytes
from deploy.targets import GRAPHS, engine_targets
from pipeline import stage
from pipeline.recipe import PARAMS, PRECISIONS, Project, Recipe, nearest

FROM_DATA = ("shape", "classes")  # constructor arguments that the data set gives


def check(project: Project) -> None:
    """Hold every word of ``params.yaml`` against what exists; write ``check.ok``, whose content never changes."""
    for name in project.datasets:
        _known(f"{PARAMS}: datasets", "data set", name, _modules(project.root / "pipeline" / "datasets"))
    if not project.recipes:
        raise Refused(f"{PARAMS}: no recipe under `recipes:`, expected at least one")
    for name, recipe in project.recipes.items():
        if not re.fullmatch(r"[a-z0-9_]+", name):
            raise Refused(f"{PARAMS}: recipes: {name!r} came, a name of small letters, digits and _ was expected")
        _check_recipe(project, f"{PARAMS}: recipes: {name}", recipe)
    write_bytes(project.build / "check.ok", b"ok\n")


def _check_recipe(project: Project, where: str, recipe: Recipe) -> None:
    _known(f"{where}: data", "data set", recipe.data, project.datasets)
    _known(f"{where}: task", "task", recipe.task, _modules(project.root / "deploy" / "tasks") - {"metric"})
    _known(f"{where}: network: file", "network file", recipe.network.file, _modules(project.root / "models"))
    classes = _constructors(project.root / "models" / f"{recipe.network.file}.py")
    _known(f"{where}: network: class", "network", recipe.network.class_, classes)
    for argument in recipe.network.arguments:
        allowed = classes[recipe.network.class_] - set(FROM_DATA)
        _known(f"{where}: network: arguments", "argument", argument, allowed)
    for precision in recipe.precisions:
        _known(f"{where}: precisions", "precision", precision, PRECISIONS)
    if "fp32" not in recipe.precisions:
        raise Refused(f"{where}: precisions: fp32 is missing; the other graphs are made from it")
    for target in recipe.budget.latency_ratio:
        _known(f"{where}: budget: latency_ratio", "target", target, _targets())
    train = recipe.train
    for key in ("epochs", "batch", "patience", "rate"):
        _positive(f"{where}: train: {key}", getattr(train, key))
    _positive(f"{where}: budget: drop", recipe.budget.drop)
    for target, ratio in recipe.budget.latency_ratio.items():
        _positive(f"{where}: budget: latency_ratio: {target}", ratio)


def _known(where: str, kind: str, word: str, words: object) -> None:
    if word not in words:  # type: ignore[operator]
        raise Refused(f"{where}: no {kind} {word!r}{nearest(word, words)}")  # type: ignore[arg-type]


def _positive(where: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise Refused(f"{where}: {value} came, a number above 0 was expected")


def _modules(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.py")} - {"__init__"}


def _constructors(file: Path) -> dict[str, set[str]]:
    """Class -> names of its constructor's arguments."""
    classes = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)]
    found = {}
    for node in classes:
        starts = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
        found[node.name] = {argument.arg for start in starts for argument in start.args.args[1:]}
    return found


def _targets() -> set[str]:
    names = {f"{runtime}-{precision}" for runtime, precisions in GRAPHS.items() for precision in precisions}
    return names | {target.name for target in engine_targets()}


if __name__ == "__main__":
    stage.run(check)
