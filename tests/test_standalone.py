"""Measuring without a pipeline: what `python -m deploy.measure` writes is what the stage would have measured."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import NAME, ROOT

from deploy import standalone
from deploy.contract import Bundle
from deploy.errors import Refused
from deploy.files import read_json, write_json
from deploy.measure import measure
from deploy.measurement import FORMAT, read_returned
from deploy.rounds import BLOCK
from deploy.standalone import alone_in, measure_bundles, write_return
from pipeline import verify as verify_stage
from pipeline.recipe import Project

BLOCKED = """
import runpy, sys
for name in ("torch", "onnx", "dvc", "tqdm", "yaml", "scipy", "pipeline", "models"):
    sys.modules[name] = None
runpy.run_module("deploy.measure", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.rounds.ROUNDS", BLOCK)


def command(words: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    paths = os.environ | {"PYTHONPATH": str(ROOT)}
    asked = [sys.executable, "-c", BLOCKED, *words]
    return subprocess.run(asked, cwd=cwd, env=paths, capture_output=True, text=True, timeout=120)


def test_numpy_and_a_runtime_are_enough_and_the_scores_are_the_hosts(
    project: Project, bundle: Bundle, tmp_path: Path
) -> None:
    done = command([str(bundle.folder.resolve()), "--out", "back"], tmp_path)
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "back").glob("*.json")
    assert f"run there: python -m pipeline.verify --from {file.name}" in done.stdout
    (there,) = read_returned(file)
    assert there["recipe"] == NAME and there["contract_sha256"] == bundle.sha256
    assert there["trained"]["latency"] == {}
    here = {target: row for target, row in there["targets"].items() if not row["reason"]}
    assert set(here) >= {"onnxruntime-cpu-fp32", "onnxruntime-cpu-fp16", "onnxruntime-cpu-int8"}
    targets = [t for t in standalone.targets(bundle, there["host"], tmp_path, {}) if t.name in here]
    stage = measure(bundle, targets, {"name": "here"})["targets"]
    for name, row in here.items():
        np.testing.assert_array_equal(row["statistics"], stage[name]["statistics"])
        assert row["predicted"] == stage[name]["predicted"] and row["sha256"] == stage[name]["sha256"]


def test_what_is_written_is_taken_and_judged(project: Project, bundle: Bundle, tmp_path: Path) -> None:
    file = measure_bundles([bundle.folder], tmp_path / "back")
    rooted = Project(tmp_path, project.build, project.datasets, project.recipes)
    verify_stage.take(rooted, [file])
    name = read_json(file)["measurements"][0]["host"]["name"]
    assert (tmp_path / "results" / "boards" / name / f"{NAME}.json").is_file()


def test_rows_are_those_that_this_machine_is_for(bundle: Bundle, tmp_path: Path, capsys: Any) -> None:
    rows = read_json(measure_bundles([bundle.folder], tmp_path))["measurements"][0]["targets"]
    gpus = standalone.describe()["gpus"]
    assert all(row["device"] == "cpu" or gpus for row in rows.values())
    assert f"{NAME}: onnxruntime-cpu-int8: measured" in capsys.readouterr().out


def test_what_was_measured_before_it_was_stopped_is_not_measured_again(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    whole = standalone.measure

    def stopped(*arguments: Any, **named: Any) -> dict[str, Any]:
        whole(*arguments, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(standalone, "measure", stopped)
    with pytest.raises(KeyboardInterrupt):
        measure_bundles([bundle.folder], tmp_path)
    monkeypatch.setattr(standalone, "measure", whole)
    monkeypatch.setattr("deploy.measure.answer_all", lambda *_: asked.append("again"))
    measured = read_json(measure_bundles([bundle.folder], tmp_path))
    assert not asked and measured["format"] == FORMAT
    assert not (tmp_path / "measuring").exists()


def test_bad_requests_are_one_line_each(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refused, match=rf"{NAME}: asked for twice, expected each recipe once"):
        measure_bundles([bundle.folder, bundle.folder], tmp_path)
    with pytest.raises(Refused, match=r"contract\.json: not found"):
        measure_bundles([tmp_path / "nothing"], tmp_path)
    monkeypatch.setattr(standalone, "RUNTIMES", ("no_such_runtime",))
    with pytest.raises(Refused, match="none of no_such_runtime is installed here: nothing can be measured"):
        measure_bundles([bundle.folder], tmp_path)
    done = command(["nothing"], tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("measure: nothing/contract.json: not found")
    assert "Traceback" not in done.stderr


def test_recipes_that_were_measured_before_stay_in_the_file(bundle: Bundle, tmp_path: Path, capsys: Any) -> None:
    """`deploy.measure A`, then `deploy.measure B`; what is damaged, or of another machine, is left out and told."""
    file = measure_bundles([bundle.folder], tmp_path)
    measured = read_json(file)["measurements"][0]
    other = copy.deepcopy(measured) | {"recipe": "other"}
    write_return([other], tmp_path)
    assert read_json(file)["measurements"] == [measured, other]
    write_return([other | {"date": "1999-12-31"}], tmp_path)
    assert read_json(file)["measurements"] == [measured, other | {"date": "1999-12-31"}]
    changed = copy.deepcopy(other)
    changed["host"]["packages"]["numpy"] = "0.1"
    capsys.readouterr()
    write_return([changed], tmp_path)
    assert read_json(file)["measurements"] == [changed]
    assert f"{NAME}: measured before this machine was changed, and left out" in capsys.readouterr().out
    for text in ("{", json.dumps({"format": FORMAT - 1, "measurements": [measured | {"format": FORMAT - 1}]})):
        file.write_text(text)
        write_return([other], tmp_path)
        assert read_json(file)["measurements"] == [other]
        assert f"what was measured before is left out: {file}: " in capsys.readouterr().out


def test_what_varies_on_a_board_from_start_to_start_does_not_end_what_was_measured(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = measure_bundles([bundle.folder], tmp_path)
    (measured,) = read_json(file)["measurements"]
    boards = [{"memory_bytes": n, "untold": {"clocks": f"{n}"}, "l4t": "36.4.3"} for n in (1, 2)]
    first, second = (measured | {"host": measured["host"] | {"board": board}} for board in boards)
    write_json(file, {"format": FORMAT, "measurements": [first]})
    write_return([second | {"recipe": "other"}], tmp_path)
    assert [each["recipe"] for each in read_json(file)["measurements"]] == [NAME, "other"]

    monkeypatch.setattr(standalone, "measure", lambda *_, **__: {})

    def kept(host: dict[str, Any]) -> str:
        _, _, cache = standalone.measure_bundle(bundle, host, ["onnxruntime"], [], tmp_path, units=10)
        return cache.name

    same = kept(first["host"])
    assert kept(second["host"]) == same
    assert kept(first["host"] | {"board": boards[0] | {"l4t": "36.5.0"}}) != same


def test_other_code_begins_anew(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of `deploy/` that nothing here imports by name: each counts."""

    monkeypatch.setattr(standalone, "measure", lambda *_, **__: {})

    def kept() -> str:
        return standalone.measure_bundle(bundle, standalone.describe(), ["onnxruntime"], [], tmp_path, units=10)[2].name

    code = tmp_path / "deploy" / "tasks"
    code.mkdir(parents=True)
    (code / "some.py").write_text("1")
    monkeypatch.setattr(standalone.deploy, "__path__", [str(tmp_path / "deploy")])
    before = kept()
    assert kept() == before
    (code / "some.py").write_text("2")
    assert kept() != before


def test_where_nothing_can_be_measured_the_gpus_error_is_told(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = standalone.describe() | {"gpus": [], "gpu_error": "nvidia-smi: the driver is gone"}
    monkeypatch.setattr(standalone, "describe", lambda: host)
    monkeypatch.setattr(standalone, "runtimes", lambda: ["tensorrt"])
    with pytest.raises(
        Refused, match=rf"{NAME}: nothing can be measured here.*tensorrt.*nvidia-smi: the driver is gone"
    ):
        measure_bundles([bundle.folder], tmp_path)
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize("kind", [PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError])
def test_what_is_not_of_this_user_is_one_line_with_its_path(kind: type[OSError], tmp_path: Path) -> None:
    told = r"^kept/x: cannot be used \(as it is\), .*chown -R \$USER .*`--out FOLDER`\.$"
    with pytest.raises(Refused, match=told), alone_in(tmp_path):
        raise kind(1, "as it is", "kept/x")
    with alone_in(tmp_path):  # given back
        pass


def test_a_run_beside_another_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with alone_in(tmp_path), pytest.raises(Refused, match="another run is measuring there"):
        measure_bundles([bundle.folder], tmp_path)
    (tmp_path / "lock").unlink()
    (tmp_path / "lock").mkdir()
    with pytest.raises(Refused, match=r"lock: cannot be used \(Is a directory\)"):
        measure_bundles([bundle.folder], tmp_path)
