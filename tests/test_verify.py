"""The stage: measurements in files, of this host and of others, and the gate behind it."""

import copy
import dataclasses
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from measured import measurement, row

from deploy.errors import Refused
from deploy.files import read_json, sha256, write_json
from deploy.measurement import FORMAT
from deploy.targets import target_names
from pipeline import verify as verify_stage
from pipeline.gate import gate
from pipeline.recipe import Budget, Project, load_project
from pipeline.verdicts import FAIL, INCONCLUSIVE, NOT_MEASURED, PASS

BUDGET = Budget(drop=1.0, latency_ratio={"fp32": 1.0})


def test_the_gate_stops_on_fail_alone_and_on_all_but_pass_when_strict(project: Project, tmp_path) -> None:
    copied = dataclasses.replace(project, build=tmp_path)

    def row(verdict: str, reason: str) -> dict:
        return {"verdict": verdict, "reason": reason, "deployed": None, "causes": []}

    rows = {t: row(v, f"why {v}") for t, v in (("a", PASS), ("b", INCONCLUSIVE), ("c", NOT_MEASURED))}
    verdicts = {"r": {"targets": rows, "trained": {"score": None}, "metric": {}}}
    write_json(tmp_path / "verdicts.json", verdicts)
    gate(copied)
    with pytest.raises(Refused, match=r"2 of 3 rows stop it:\n  r on b: INCONCLUSIVE: why INCONCLUSIVE\n  r on c"):
        gate(copied, strict=True)
    failed = copy.deepcopy(verdicts)
    failed["r"]["targets"]["d"] = row(FAIL, "drop 5")
    write_json(tmp_path / "verdicts.json", failed)
    with pytest.raises(Refused, match="1 of 4 rows stop it:\n  r on d: FAIL: drop 5"):
        gate(copied)
    assert read_json(tmp_path / "verdicts.json") == failed


def two_recipes(folder: Path) -> Project:
    """Two recipes as they are declared, each with a bundle and a measurement of three targets."""
    params = load_project(ROOT / "params.yaml")
    recipe = dataclasses.replace(params.recipe("softmax_digits"), floor=90.0, budget=Budget(1.0, {}))
    absent = {"precision": "fp16", "device": "cuda", "reason": "no GPU here"}
    failed = {"precision": "fp16", "device": "cpu", "reason": "", "failed": "out of memory"}
    for name in ("good", "bad"):
        write_json(folder / "bundle" / name / "contract.json", {})
        now = sha256(folder / "bundle" / name / "contract.json")
        facts = measurement({"fp32": row(), "gpu": absent, "fp16": failed})
        write_json(folder / "measure" / f"{name}.json", facts | {"format": FORMAT, "contract_sha256": now})
    return dataclasses.replace(params, build=folder, recipes={"good": recipe, "bad": recipe})


def judged(project: Project) -> dict[str, Any]:
    verify_stage.verify(project)
    return read_json(project.build / "verdicts.json")


def test_a_measurement_is_judged_from_its_file(tmp_path: Path) -> None:
    rows = judged(two_recipes(tmp_path))["bad"]["targets"]
    assert {name: facts["verdict"] for name, facts in rows.items()} == {"fp32": PASS, "gpu": NOT_MEASURED, "fp16": FAIL}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def of_format_1(path: Path) -> None:
    write_json(path, {key: value for key, value in read_json(path).items() if key != "format"})


def without_trained(path: Path) -> None:
    write_json(path, {key: value for key, value in read_json(path).items() if key != "trained"})


def of_an_unknown_task(path: Path) -> None:
    write_json(path, read_json(path) | {"task": "juggling"})


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (Path.unlink, "bad.json: not found: this recipe was not measured"),
        (cut, "bad.json: damaged, not JSON"),
        (of_format_1, f"bad.json: measured by an older version of Plumbline (format 1, expected {FORMAT})"),
        (without_trained, "bad.json: incomplete: lacks trained"),
        (of_an_unknown_task, "no task 'juggling'"),
    ],
    ids=["missing", "cut", "older", "incomplete", "unknown task"],
)
def test_a_measurement_that_is_refused_costs_its_own_recipe_alone(
    tmp_path: Path, spoil: Callable[[Path], None], told: str
) -> None:
    project = two_recipes(tmp_path)
    whole = judged(project)
    spoil(tmp_path / "measure" / "bad.json")
    verdicts = judged(project)
    assert verdicts["good"] == whole["good"]
    bad = verdicts["bad"]
    assert {name: facts["precision"] for name, facts in bad["targets"].items()} == target_names()
    for facts in bad["targets"].values():
        assert facts["verdict"] == NOT_MEASURED and told in facts["reason"]
        told_of = ("verdict", "reason", "causes", "metric", "precision")
        assert all(value is None for key, value in facts.items() if key not in told_of)
    assert bad["trained"] == {"score": None, "floor": 90.0, "bounds": None, "details": {}, "latency_ms": {}}
    assert bad["host"] is None and bad["date"] is None
    assert bad["metric"] == whole["good"]["metric"] and bad["budget"] == whole["good"]["budget"]
    assert bad.keys() == whole["bad"].keys()
    assert read_json(tmp_path / "metrics.json")["bad"].keys() == target_names().keys()


def test_of_a_bundle_that_is_gone_every_row_is_stale(tmp_path: Path) -> None:
    project = two_recipes(tmp_path)
    (tmp_path / "bundle" / "bad" / "contract.json").unlink()
    verdicts = judged(project)
    assert all(facts["reason"].startswith("stale") for facts in verdicts["bad"]["targets"].values())
    assert {facts["verdict"] for facts in verdicts["bad"]["targets"].values()} == {NOT_MEASURED}
    assert verdicts["good"]["targets"]["fp32"]["verdict"] == PASS


# What came back from other machines


def returned(project: Project, host: str = "a-gpu-host", **rows: dict[str, Any]) -> dict[str, Any]:
    """What ``deploy.measure`` would have told of recipe ``good`` on ``host``, where there is no PyTorch."""
    there = {"onnxruntime-cuda-fp32": row(device="cuda"), "onnxruntime-cuda-fp16": row(device="cuda", precision="fp16")}
    for facts in there.values():
        facts |= {"device_s": 1e-4, "device_share": 0.5, "no_graph": "", "on_cpu": []}
    now = sha256(project.build / "bundle" / "good" / "contract.json")
    facts = measurement(there | rows, latency={})
    return facts | {"format": FORMAT, "recipe": "good", "host": {"name": host}, "contract_sha256": now}


def rooted(folder: Path) -> Project:
    return dataclasses.replace(two_recipes(folder / "build"), root=folder)


def test_a_return_is_kept_and_judged_beside_this_hosts_rows(tmp_path: Path) -> None:
    project = rooted(tmp_path)
    alone = judged(project)
    file = tmp_path / "back.json"
    write_json(file, {"format": FORMAT, "measurements": [returned(project)]})
    verify_stage.take(project, [file])
    assert read_json(tmp_path / "results/boards/a-gpu-host/good.json") == returned(project)
    rows = judged(project)["good"]["targets"]
    assert [name for name in rows if "@" not in name] == list(alone["good"]["targets"])
    there = {name: facts for name, facts in rows.items() if "@" in name}
    assert list(there) == ["onnxruntime-cuda-fp32@a-gpu-host", "onnxruntime-cuda-fp16@a-gpu-host"]
    half = there["onnxruntime-cuda-fp16@a-gpu-host"]
    assert half["verdict"] == PASS and half["host"] == "a-gpu-host" and half["date"] == "2026-01-01"
    assert half["latency_against"] == "onnxruntime-cuda-fp32" and half["latency_ratio"] == pytest.approx(1.0)
    assert half["device_ms"] == pytest.approx(0.1) and half["device_share"] == 0.5
    assert there["onnxruntime-cuda-fp32@a-gpu-host"]["latency_ratio"] is None
    assert judged(project)["bad"] == alone["bad"]
    assert read_json(project.build / "summary.json")[PASS] == 2 + 2


def test_one_recipes_measurement_alone_is_taken_too_and_replaces_the_last(tmp_path: Path) -> None:
    project = rooted(tmp_path)
    for share in (0.5, 0.9):
        facts = returned(project)
        facts["targets"]["onnxruntime-cuda-fp16"]["device_share"] = share
        write_json(tmp_path / "good.json", facts)
        verify_stage.take(project, [tmp_path / "good.json"])
    assert judged(project)["good"]["targets"]["onnxruntime-cuda-fp16@a-gpu-host"]["device_share"] == 0.9


def test_a_budget_that_needs_pytorch_is_not_met_where_there_is_none(tmp_path: Path) -> None:
    project = rooted(tmp_path)
    recipe = dataclasses.replace(
        project.recipe("good"), budget=Budget(1.0, {"onnxruntime-cuda-fp16": 2.0, "tensorrt-fp16": 1.0})
    )
    project = dataclasses.replace(project, recipes={"good": recipe})
    write_json(tmp_path / "back.json", returned(project))
    verify_stage.take(project, [tmp_path / "back.json"])
    rows = judged(project)["good"]["targets"]
    assert rows["onnxruntime-cuda-fp16@a-gpu-host"]["verdict"] == NOT_MEASURED
    assert "the trained network was not timed on that device" in rows["onnxruntime-cuda-fp16@a-gpu-host"]["reason"]
    assert rows["onnxruntime-cuda-fp32@a-gpu-host"]["verdict"] == PASS


def test_a_return_of_another_bundle_is_stale(tmp_path: Path) -> None:
    project = rooted(tmp_path)
    write_json(tmp_path / "back.json", returned(project))
    verify_stage.take(project, [tmp_path / "back.json"])
    write_json(project.build / "bundle" / "good" / "contract.json", {"changed": True})
    rows = judged(project)["good"]["targets"]
    assert rows["onnxruntime-cuda-fp16@a-gpu-host"]["verdict"] == NOT_MEASURED
    assert rows["onnxruntime-cuda-fp16@a-gpu-host"]["reason"].startswith("stale")


def nothing(facts: dict[str, Any]) -> Any:
    return {"format": FORMAT, "measurements": []}


def not_a_list(facts: dict[str, Any]) -> Any:
    return {"format": FORMAT, "measurements": 7}


def twice(facts: dict[str, Any]) -> Any:
    return {"format": FORMAT, "measurements": [facts, facts]}


def leaves_the_folder(facts: dict[str, Any]) -> Any:
    return facts | {"host": {"name": "../../elsewhere"}}


def nameless(facts: dict[str, Any]) -> Any:
    return {key: value for key, value in facts.items() if key != "recipe"}


def words_for_numbers(facts: dict[str, Any]) -> Any:
    facts["targets"]["onnxruntime-cuda-fp16"]["statistics"] = [["right"]]
    return facts


def fewer_units(facts: dict[str, Any]) -> Any:
    facts["targets"]["onnxruntime-cuda-fp16"]["statistics"] = [[1.0]] * 3
    return facts


def not_a_number(facts: dict[str, Any]) -> Any:
    facts["targets"]["onnxruntime-cuda-fp16"]["device_share"] = float("nan")
    return facts


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (nothing, r"back\.json: holds no measurements\. To mend it, measure on that machine and bring its file back\."),
        (not_a_list, r"back\.json: holds no measurements"),
        (twice, r"back\.json: holds good twice"),
        (leaves_the_folder, r"back\.json: its host is called '\.\./\.\./elsewhere', expected letters"),
        (nameless, r"back\.json: its recipe is called None, expected letters"),
        (words_for_numbers, r"back\.json: good: the measurement cannot be judged \(ValueError: could not convert"),
        (fewer_units, r"back\.json: good: the measurement cannot be judged \("),
        (not_a_number, r"back\.json: good: the measurement cannot be judged \(ValueError: Out of range float"),
        (lambda facts: [facts], r"back\.json: holds a list, expected an object"),
        (lambda facts: facts | {"format": 1}, r"back\.json: measured by an older version of Plumbline"),
    ],
)
def test_a_return_that_cannot_be_judged_is_refused_and_nothing_is_written(
    tmp_path: Path, spoil: Callable[[dict[str, Any]], Any], told: str
) -> None:
    project = rooted(tmp_path)
    whole = returned(project, "another-host")
    (tmp_path / "whole.json").write_text(json.dumps(whole))
    (tmp_path / "back.json").write_text(json.dumps(spoil(returned(project))))
    with pytest.raises(Refused, match=told):
        verify_stage.take(project, [tmp_path / "whole.json", tmp_path / "back.json"])
    assert not (tmp_path / "results").exists()


@settings(deadline=None, max_examples=60)
@given(st.floats(0, 1, exclude_max=True))
def test_a_truncated_return_is_refused_by_its_name(share: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        project = rooted(Path(folder))
        text = json.dumps({"format": FORMAT, "measurements": [returned(project)]})
        (Path(folder) / "back.json").write_text(text[: int(share * len(text))])
        with pytest.raises(Refused, match=r"back\.json: damaged, not JSON"):
            verify_stage.take(project, [Path(folder) / "back.json"])


def test_a_kept_return_that_is_damaged_later_costs_no_other_row(tmp_path: Path) -> None:
    project = rooted(tmp_path)
    alone = judged(project)
    write_json(tmp_path / "back.json", returned(project))
    verify_stage.take(project, [tmp_path / "back.json"])
    cut(tmp_path / "results/boards/a-gpu-host/good.json")
    rows = judged(project)["good"]["targets"]
    there = {name: facts for name, facts in rows.items() if "@" in name}
    assert set(there) == {f"{target}@a-gpu-host" for target in target_names()}
    assert all("good.json: damaged" in facts["reason"] and facts["host"] == "a-gpu-host" for facts in there.values())
    assert {name: facts for name, facts in rows.items() if "@" not in name} == alone["good"]["targets"]


def test_a_recipe_of_another_set_is_kept_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = rooted(tmp_path)
    write_json(tmp_path / "back.json", returned(project) | {"recipe": "of_paper"})
    verify_stage.take(project, [tmp_path / "back.json"])
    assert "of_paper: no recipe of this params.yaml has that name" in capsys.readouterr().out
    assert (tmp_path / "results/boards/a-gpu-host/of_paper.json").is_file()
    assert not [name for name in judged(project)["good"]["targets"] if "@" in name]


def test_a_trial_of_some_units_is_no_measurement(tmp_path: Path) -> None:
    project = rooted(tmp_path)
    write_json(tmp_path / "back.json", returned(project) | {"units": 50})
    with pytest.raises(Refused, match=r"back\.json: good: a trial of the first 50 test units, which proves nothing"):
        verify_stage.take(project, [tmp_path / "back.json"])


def test_one_recipe_of_a_host_that_comes_twice_is_refused(tmp_path: Path) -> None:
    project = rooted(tmp_path)
    for name in ("a.json", "b.json"):
        write_json(tmp_path / name, returned(project))
    with pytest.raises(Refused, match=r"b\.json: good on a-gpu-host came twice"):
        verify_stage.take(project, [tmp_path / "a.json", tmp_path / "b.json"])
    assert not (tmp_path / "results").exists()


def test_what_comes_of_another_bundle_is_told_at_the_door(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = rooted(tmp_path)
    write_json(tmp_path / "back.json", returned(project) | {"contract_sha256": "0" * 64})
    verify_stage.take(project, [tmp_path / "back.json"])
    assert (
        "good.json: of another bundle than the one here: its rows are NOT MEASURED (stale)" in capsys.readouterr().out
    )
