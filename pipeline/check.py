"""Stage ``check``: refuse a wrong ``params.yaml`` before anything runs.

Only names are looked up, in the source as text: nothing heavy is imported, so that this takes no time.
"""

import ast
import re
from collections.abc import Collection
from math import inf, isfinite
from pathlib import Path
from typing import Any

from deploy.errors import Refused
from deploy.files import write_bytes
from deploy.targets import GRAPHS, engine_targets
from deploy.tasks import load_task
from deploy.tasks.metric import Metric
from pipeline import stage
from pipeline.recipe import PARAMS, PRECISIONS, TEXT, Engines, Graph, Own, Project, Recipe, Training, Weights, nearest

INGREDIENTS = {"optimiser": "optimisers", "schedule": "schedules", "loss": "criteria"}  # module of pipeline/: functions
SCALINGS = ("z_score", "min_max")
LEAST_WORKSPACE_MIB = 16  # less is a slip of the unit: TensorRT tells itself what more a graph takes


def check(project: Project) -> None:
    """Hold every word of ``params.yaml`` against what exists; write ``check.ok``, whose content never changes."""
    for name in project.datasets:
        _known(f"{PARAMS}: datasets", "data set", name, _modules(project.root / "pipeline" / "datasets"))
    _check_engines(f"{PARAMS}: engines", project.engines)
    for name, own in project.own.items():
        _check_own(f"{PARAMS}: own: {name}", name, own, project)
    if not project.recipes:
        raise Refused(f"{PARAMS}: no recipe under `recipes:`, expected at least one")
    for name, recipe in project.recipes.items():
        _check_name(f"{PARAMS}: recipes", name)
        _check_recipe(project, f"{PARAMS}: recipes: {name}", recipe)
    write_bytes(project.build / "check.ok", b"ok\n")


def _check_name(where: str, name: str) -> None:
    if not re.fullmatch(r"[a-z0-9_]+", str(name)):
        raise Refused(f"{where}: {name!r} came, a name of small letters, digits and _ was expected")


def _check_engines(where: str, engines: Engines) -> None:
    if engines.workspace_mib is not None and engines.workspace_mib < LEAST_WORKSPACE_MIB:
        raise Refused(
            f"{where}: workspace_mib: {engines.workspace_mib} came, {LEAST_WORKSPACE_MIB} or more was expected, in "
            f"MiB; take it out to leave TensorRT all that the GPU has"
        )
    if engines.level is not None and not 0 <= engines.level <= 5:
        raise Refused(f"{where}: level: {engines.level} came, 0 (fast to build) to 5 (fast to run) was expected")


def _check_own(where: str, name: str, own: Own, project: Project) -> None:
    _check_name(f"{PARAMS}: own", name)
    if name in project.datasets:
        raise Refused(f"{where}: `datasets` has one of that name; call yours otherwise")
    if not own.path.exists():
        raise Refused(f"{where}: path: {own.path}: not there; a path is taken from the folder of {PARAMS}")
    if own.size is not None and not (len(own.size) == 2 and min(own.size) > 0):
        raise Refused(f"{where}: size: {list(own.size)} came, [height, width] in pixels were expected")


def _check_recipe(project: Project, where: str, recipe: Recipe) -> None:
    _known(f"{where}: data", "data set", recipe.data, [*project.datasets, *project.own])
    _known(f"{where}: task", "task", recipe.task, _modules(project.root / "deploy" / "tasks") - {"metric"})
    _known(f"{where}: task", "task with a loss (pipeline/losses.py)", recipe.task, _functions(project, "losses"))
    if not isinstance(recipe.train, Graph):
        files = _modules(project.root / "models") - {"scaled", "characters", "activation"}
        _known(f"{where}: network: file", "network file", recipe.network.file, files)
        _check_network(project, where, recipe)
    for precision in recipe.precisions:
        _known(f"{where}: precisions", "precision", precision, PRECISIONS)
    if "fp32" not in recipe.precisions:
        raise Refused(f"{where}: precisions: fp32 is missing; the other graphs are made from it")
    for target in recipe.budget.latency_ratio:
        _known(f"{where}: budget: latency_ratio", "target", target, _targets())
    _check_training(project, f"{where}: train", recipe)
    metric = load_task(recipe.task).metric
    _check_score(f"{where}: floor", recipe.floor, metric)
    if recipe.published:
        _check_score(f"{where}: published: score", recipe.published.score, metric)
        if not recipe.published.source.strip():
            raise Refused(
                f"{where}: published: source: nothing came, where the score stands was expected (author, year, table)"
            )
    _positive(f"{where}: budget: drop", recipe.budget.drop)
    for target, ratio in recipe.budget.latency_ratio.items():
        _positive(f"{where}: budget: latency_ratio: {target}", ratio)


def _check_score(where: str, score: float, metric: Metric) -> None:
    """A score in the metric's unit and range; a share in place of per cent is a slip."""
    low, high = (
        metric.lowest if metric.lowest is not None else -inf,
        metric.highest if metric.highest is not None else inf,
    )
    if not (isfinite(score) and low <= score <= high):
        raise Refused(f"{where}: {score} came, {metric.name} of {low:g} to {high:g} {metric.unit} was expected")
    if metric.unit == "%" and 0 < score <= 1:
        raise Refused(f"{where}: {score} came, per cent were expected: write {100 * score:g}")


def _check_training(project: Project, where: str, recipe: Recipe) -> None:
    """Names that there are, numbers in their range, and files that are brought where they are said to be."""
    train = recipe.train
    if isinstance(train, Training):
        for key, module in INGREDIENTS.items():
            _known(f"{where}: {key}", key, getattr(train, key), _functions(project, module))
        if train.initialiser:
            names = _functions(project, "initialisers") - {"initialise"}
            _known(f"{where}: initialiser", "initialiser", train.initialiser, names)
        _known(f"{where}: scaling", "scaling", train.scaling, SCALINGS)
        if train.scaling != SCALINGS[0] and not _scaled(project, recipe.data):
            raise Refused(
                f"{where}: scaling: {train.scaling} came; the input of {recipe.data} is text, which is not scaled: "
                f"take it out"
            )
        for key in ("batch", "patience", "rate"):
            _positive(f"{where}: {key}", getattr(train, key))
        for key in ("epochs", "weight_decay", "l1"):
            _not_negative(f"{where}: {key}", getattr(train, key))
        for key in ("shift", "rotate", "scale", "crop", "noise"):
            _not_negative(f"{where}: augment: {key}", getattr(train.augment, key))
        for key in ("scale", "crop"):
            if getattr(train.augment, key) >= 1:
                raise Refused(
                    f"{where}: augment: {key}: {getattr(train.augment, key)} came, a share of the image's size, below "
                    f"1, was expected"
                )
        if not 0 <= train.seed < 2**63:
            raise Refused(f"{where}: seed: {train.seed} came, a whole number from 0 to 2^63 - 1 was expected")
        return
    file = train.weights if isinstance(train, Weights) else train.onnx
    if not file.is_file():
        raise Refused(f"{where}: {file}: no such file; a path is taken from the folder of {PARAMS}")
    if train.scale:
        for value in (train.scale.divide_by, *train.scale.deviation):
            _positive(f"{where}: scale: divide_by and deviation", value)


def _check_network(project: Project, where: str, recipe: Recipe) -> None:
    """The class is there, takes what the recipe says, and needs nothing but that and what the data set gives."""
    name, file = recipe.network.class_, project.root / "models" / f"{recipe.network.file}.py"
    classes = _constructors(file)
    _known(f"{where}: network: class", "network", name, classes)
    takes = classes[name]
    given = _given(project, recipe.data)
    if takes is None:  # it takes whatever comes
        return
    own = {argument: needed for argument, needed in takes.items() if argument not in given}
    for argument in recipe.network.arguments:
        if argument in given:
            raise Refused(f"{where}: network: arguments: {argument!r} is given by the data set; take it out")
        _known(f"{where}: network: arguments", "argument", argument, own)
    if missing := [argument for argument, needed in own.items() if needed and argument not in recipe.network.arguments]:
        raise Refused(
            f"{where}: network: arguments: {missing[0]!r} is missing, and {name} needs it; the data set "
            f"{recipe.data!r} gives {', '.join(given) or 'nothing'}"
        )


def _given(project: Project, data: str) -> Collection[str]:
    """The constructor's arguments that a data set gives."""
    if data in project.own:
        return () if project.own[data].path.suffix.lower() in TEXT else ("shape", "classes")
    return tuple(_constant(project.root / "pipeline" / "datasets" / f"{data}.py", "NETWORK"))


def _scaled(project: Project, data: str) -> bool:
    """Is the input of a data set scaled?"""
    if data in project.own:
        return project.own[data].path.suffix.lower() not in TEXT
    return bool(_constant(project.root / "pipeline" / "datasets" / f"{data}.py", "SCALED"))


def _known(where: str, kind: str, word: str, words: Collection[str]) -> None:
    if word not in words:
        raise Refused(f"{where}: no {kind} {word!r}{nearest(word, words)}")


def _positive(where: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise Refused(f"{where}: {value} came, a number above 0 was expected")


def _not_negative(where: str, value: float) -> None:
    if not 0 <= value < float("inf"):
        raise Refused(f"{where}: {value} came, 0 or a number above it was expected")


def _modules(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.py")} - {"__init__"}


def _functions(project: Project, module: str) -> set[str]:
    """What a module of ``pipeline/`` offers by name."""
    functions = [
        node.name for node in _parse(project.root / "pipeline" / f"{module}.py") if isinstance(node, ast.FunctionDef)
    ]
    return {name for name in functions if not name.startswith("_")}


def _constant(file: Path, name: str) -> Any:
    """The literal that a module gives ``name``."""
    for node in _parse(file):
        if not isinstance(node, ast.Assign | ast.AnnAssign):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            try:
                return ast.literal_eval(node.value or ast.Constant(None))
            except ValueError:
                raise Refused(
                    f"{file}:{node.lineno}: {name} is computed, a value written out was expected: it is read without "
                    f"running the file"
                ) from None
    raise Refused(f"{file}: {name} is missing; pipeline/datasets/__init__.py lists what a data set defines")


def _constructors(file: Path) -> dict[str, dict[str, bool] | None]:
    """Class -> its constructor's arguments -> is it needed? ``None``: it takes any. A subclass takes its base's."""
    found: dict[str, dict[str, bool] | None] = {}
    for node in _parse(file):
        if isinstance(node, ast.ClassDef):
            starts = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
            bases = [base.id for base in node.bases if isinstance(base, ast.Name) and base.id in found]
            found[node.name] = _arguments(starts[0]) if starts else (found[bases[0]] if bases else {})
    return found


def _arguments(start: ast.FunctionDef) -> dict[str, bool] | None:
    if start.args.kwarg:
        return None
    plain = start.args.args[1:]
    first_default = len(plain) - len(start.args.defaults)
    takes = {argument.arg: i < first_default for i, argument in enumerate(plain)}
    named = zip(start.args.kwonlyargs, start.args.kw_defaults)
    return takes | {argument.arg: default is None for argument, default in named}


def _parse(file: Path) -> list[ast.stmt]:
    try:
        return ast.parse(file.read_text(), filename=str(file)).body
    except SyntaxError as error:
        raise Refused(f"{file}:{error.lineno}: not Python: {error.msg}") from None


def _targets() -> set[str]:
    names = {f"{runtime}-{precision}" for runtime, precisions in GRAPHS.items() for precision in precisions}
    return names | {target.name for target in engine_targets()}


if __name__ == "__main__":
    stage.run(check)
