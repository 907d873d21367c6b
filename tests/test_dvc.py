"""dvc.yaml itself: what a stage lists, and a toy project through the real `dvc repro`."""

import ast
import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from copied import copy_project, repro, stages

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
# What they do cannot change what a stage writes: messages, whole files, the command line, and params.yaml's typed view
# (its values are tracked as parameters).
EXEMPT = {"deploy/errors.py", "deploy/files.py", "pipeline/stage.py", "pipeline/recipe.py"}
# `check` reads names, not code: its list is of the folders and files that names come from.
NAMES_ONLY = {"check"}


def imports(file: str) -> set[str]:
    """Project files that ``file`` imports at its top, and theirs."""
    found: set[str] = set()
    todo = [file]
    while todo:
        tree = ast.parse((ROOT / todo.pop()).read_text())
        for node in tree.body:
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [name.name for name in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [str(node.module), *(f"{node.module}.{name.name}" for name in node.names)]
            for name in names:
                path = Path(*name.split("."))
                for candidate in (path.with_suffix(".py"), path / "__init__.py"):
                    is_new = (ROOT / candidate).is_file() and str(candidate) not in found
                    if is_new and (ROOT / candidate).stat().st_size:
                        found.add(str(candidate))
                        todo.append(str(candidate))
    return found


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage not in NAMES_ONLY])
def test_a_stage_lists_every_project_file_that_it_imports(stage: str) -> None:
    facts = STAGES[stage].get("do", STAGES[stage])
    listed = {dep.removeprefix("${root}/") for dep in facts["deps"] if dep.startswith("${root}/")}
    needed = {f"pipeline/{stage}.py"} | imports(f"pipeline/{stage}.py")
    missing = {file for file in needed - EXEMPT if file not in listed and str(Path(file).parent) not in listed}
    assert not missing, f"dvc.yaml: {stage} does not list {missing}"
    stray = {dep for dep in listed if "${" not in dep and not (ROOT / dep).exists()}
    assert not stray


def test_every_stage_is_a_module_of_its_name() -> None:
    for stage, facts in STAGES.items():
        command = facts.get("do", facts)["cmd"]
        assert re.fullmatch(rf"python -m pipeline\.{stage}( \$\{{(item|key)\}})?", command)
        assert (ROOT / "pipeline" / f"{stage}.py").is_file()


TOY: dict[str, Any] = {
    "root": ".",
    "build": "build",
    "datasets": ["digits"],
    "own": {},
    "engines": {},
    "recipes": {
        name: {
            "network": {"file": "linear", "class": "SoftmaxRegression", "arguments": {}},
            "data": "digits",
            "task": "classification",
            "train": {
                "epochs": epochs,
                "batch": 50,
                "rate": 0.01,
                "patience": 5,
                "seed": 1,
                "bf16": False,
                "channels_last": False,
            },
            "precisions": precisions,
            "floor": 50.0,
            "budget": {"drop": 20.0, "latency_ratio": {}},
        }
        for name, epochs, precisions in (
            ("toy_a", 3, ["fp32", "fp16", "int8-cpu", "int8-tensorrt"]),
            ("toy_b", 4, ["fp32", "fp16"]),
        )
    },
}


def write_params(folder: Path, params: dict[str, Any]) -> None:
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


@pytest.mark.slow
def test_a_toy_project_through_dvc_repro(tmp_path: Path) -> None:
    """The whole flow on two recipes; again; one recipe edited; a floor and a budget edited, which fails the gate."""
    copy_project(tmp_path)
    write_params(tmp_path, TOY)
    whole = repro(tmp_path)
    per_recipe = ("train", "export", "quantize", "bundle", "preflight", "build", "measure")
    assert len(whole) == 2 + 2 + 2 * len(per_recipe) + 3
    for name in ("report.html", "report.md", "metrics.json", "engines/toy_a/build.json", "bundle/toy_b/contract.json"):
        assert (tmp_path / "build" / name).stat().st_size
    assert list(tmp_path.rglob("__pycache__"))

    assert repro(tmp_path) == ["host", "gate"]

    TOY["recipes"]["toy_a"]["train"]["epochs"] = 5
    write_params(tmp_path, TOY)
    judged = {"host", "check", "verify", "report", "gate"}
    assert set(repro(tmp_path)) == judged | {f"{stage}@toy_a" for stage in per_recipe}

    edited = copy.deepcopy(TOY)
    edited["recipes"]["toy_b"] |= {"floor": 100.0, "budget": {"drop": 25.0, "latency_ratio": {}}}
    write_params(tmp_path, edited)
    for ran in (judged, {"host", "gate"}):  # it fails again until it is mended
        with pytest.raises(AssertionError, match=r"toy_b on onnxruntime-cpu-fp32, .*: FAIL: not trained") as failed:
            repro(tmp_path)
        assert set(stages(str(failed.value))) == ran
    assert (tmp_path / "build" / "report.html").exists()
    write_params(tmp_path, TOY)
    assert repro(tmp_path) == ["host", "gate"]  # DVC has kept what this very state gave
