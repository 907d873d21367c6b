import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

from deploy.errors import Refused
from pipeline.check import _constant, check
from pipeline.recipe import Engines, load_project

RIGHT = yaml.safe_load((ROOT / "params.yaml").read_text()) | {"root": str(ROOT)}


def checked(tmp_path: Path, params: dict[str, Any]) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(params | {"build": str(tmp_path / "build")}))
    check(load_project(file))


def changed(path: str, value: Any) -> dict[str, Any]:
    """The right params with the value at ``path`` replaced; ``DELETE`` removes it."""
    params = copy.deepcopy(RIGHT)
    *folders, last = path.split("/")
    place = params
    for folder in folders:
        place = place[folder]
    if value == "DELETE":
        del place[last]
    else:
        place[last] = value
    return params


def test_the_projects_own_params_pass(tmp_path: Path) -> None:
    checked(tmp_path, RIGHT)
    assert (tmp_path / "build" / "check.ok").read_text() == "ok\n"


@pytest.mark.parametrize("engines", [{}, {"workspace_mib": 16}, {"level": 0, "workspace_mib": 65536}, {"level": 5}])
def test_how_engines_are_built_may_be_said_or_left_to_tensorrt(tmp_path: Path, engines: dict[str, int]) -> None:
    checked(tmp_path, changed("engines", engines))
    assert load_project(tmp_path / "params.yaml").engines == Engines(**engines)


G = "recipes/gorner_digits"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (f"{G}/flor", 3, "recipes: gorner_digits: unknown key 'flor'; did you mean 'floor'?"),
        (f"{G}/train/epoch", 3, "gorner_digits: train: unknown key 'epoch'; did you mean 'epochs'?"),
        (f"{G}/floor", "DELETE", "gorner_digits: 'floor' is missing"),
        (f"{G}/budget/drop", "1", "budget: drop: '1' (str) came, a number (as 0.003 or 3.0e-3) was expected"),
        (f"{G}/budget/drop", True, "budget: drop: True (bool) came, a number (as 0.003 or 3.0e-3) was expected"),
        (f"{G}/budget/drop", float("nan"), "budget: drop: nan came, a number above 0 was expected"),
        (f"{G}/budget/latency_ratio", {"onnxruntime-cpu-fp23": 1.0}, "no target 'onnxruntime-cpu-fp23'; did you mean 'onnxruntime-cpu-fp32'?"),
        (f"{G}/train/batch", 2.5, "train: batch: 2.5 (float) came, a whole number was expected"),
        (f"{G}/train/rate", -1.0, "train: rate: -1.0 came, a number above 0 was expected"),
        (f"{G}/network/file", "gornr", "network: file: no network file 'gornr'; did you mean 'gorner'?"),
        (f"{G}/network/class", "GornerCN", "network: class: no network 'GornerCN'; did you mean 'GornerCNN'?"),
        (f"{G}/network/arguments", {"chanels": []}, "arguments: no argument 'chanels'; did you mean 'channels'?"),
        (f"{G}/task", "clasification", "task: no task 'clasification'; did you mean 'classification'?"),
        (f"{G}/data", "digit", "data: no data set 'digit'; did you mean 'digits'?"),
        ("datasets", ["digitz"], "datasets: no data set 'digitz'; did you mean 'digits'?"),
        (f"{G}/precisions", ["fp32", "int8-cpus"], "no precision 'int8-cpus'; did you mean 'int8-cpu'?"),
        (f"{G}/precisions", ["fp16"], "fp32 is missing"),
        (f"{G}/floor", float("nan"), "floor: nan came, accuracy of 0 to 100 % was expected"),
        (f"{G}/floor", 960.0, "floor: 960.0 came, accuracy of 0 to 100 % was expected"),
        (f"{G}/floor", 0.96, "floor: 0.96 came, per cent were expected: write 96"),
        (f"{G}/network/arguments", {"shape": [1, 8, 8]}, "arguments: 'shape' is given by the data set; take it out"),
        (f"{G}/train/seed", 2**70, "a whole number from 0 to 2^63 - 1 was expected"),
        (f"{G}/network/class", "Scaled", "no network 'Scaled'"),
        ("recipes/..%2f", {}, "'network' is missing"),
        ("engines/level", 6, "engines: level: 6 came, 0 (fast to build) to 5 (fast to run) was expected"),
        ("engines/level", -1, "engines: level: -1 came"),
        ("engines/level", 2.5, "engines: level: 2.5 (float) came, a whole number was expected"),
        ("engines/workspace_mib", 15, "engines: workspace_mib: 15 came, 16 or more was expected, in MiB"),
        ("engines/workspace", 512, "engines: unknown key 'workspace'; did you mean 'workspace_mib'?"),
        ("engines", 3, "engines: 3 (int) came, a map was expected"),
        ("recipes", {}, "no recipe under `recipes:`"),
        ("recipes", [1], "recipes: [1] (list) came, a map was expected"),
    ],
)  # fmt: skip
def test_a_wrong_word_is_named_with_the_right_one(tmp_path: Path, path: str, value: Any, message: str) -> None:
    with pytest.raises(Refused) as refused:
        checked(tmp_path, changed(path, value))
    assert message in str(refused.value)
    assert "params.yaml" in str(refused.value)
    assert not (tmp_path / "build" / "check.ok").exists()


def test_a_recipes_name_cannot_leave_the_build_folder(tmp_path: Path) -> None:
    params = copy.deepcopy(RIGHT)
    params["recipes"] = {"../evil": params["recipes"]["gorner_digits"]}
    with pytest.raises(Refused, match=r"'\.\./evil' came, a name of small letters, digits and _ was expected"):
        checked(tmp_path, params)


def test_no_yaml_and_no_file(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("recipes: [")
    with pytest.raises(Refused, match="not YAML"):
        load_project(tmp_path / "params.yaml")
    with pytest.raises(Refused, match="not found in .*Run this from the folder that holds it"):
        load_project(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("source", "arguments", "message"),
    [
        ("class N:\n    def __init__(self, shape, classes, *, hidden): ...", {"hidden": 3}, None),
        ("class B:\n    def __init__(self, shape, classes, hidden=3): ...\nclass N(B): ...", {"hidden": 3}, None),
        ("class N:\n    def __init__(self, shape, classes, **options): ...", {"anything": 3}, None),
        ("class N:\n    def __init__(self, shape, classes, hidden): ...", {}, "'hidden' is missing, and N needs it"),
        (
            "class N:\n    def __init__(self, shape, n_classes): ...",
            {},
            "'n_classes' is missing, and N needs it; the data set 'digits' gives shape, classes",
        ),
        ("class N:\n    def __init__(self:", {}, r"new.py:2: not Python"),
    ],
)
def test_a_new_networks_constructor_is_read_as_python_reads_it(
    tmp_path: Path, source: str, arguments: dict[str, Any], message: str | None
) -> None:
    for folder in ("models", "deploy"):
        (tmp_path / "root" / folder).mkdir(parents=True)
    for part in ("pipeline", "deploy/tasks"):
        (tmp_path / "root" / part).symlink_to(ROOT / part)
    (tmp_path / "root" / "models" / "new.py").write_text(source)
    recipe = copy.deepcopy(RIGHT["recipes"]["gorner_digits"])
    recipe["network"] = {"file": "new", "class": "N", "arguments": arguments}
    params = RIGHT | {"root": str(tmp_path / "root"), "recipes": {"new": recipe}}
    if message is None:
        checked(tmp_path, params)
    else:
        with pytest.raises(Refused, match=message):
            checked(tmp_path, params)


def test_a_key_that_stands_twice_and_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("root: .\nrecipes:\n  a: 1\n  a: 2\n")
    with pytest.raises(Refused, match="the key 'a' stands twice in the map that begins at line 3"):
        load_project(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("# nothing\n")
    with pytest.raises(Refused, match="empty, expected root, build, datasets and recipes"):
        load_project(tmp_path / "params.yaml")


def test_a_constant_that_would_have_to_be_computed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text("NETWORK: dict[str, int] = {'classes': 7}\nSCALED = bool(1)\n")
    assert _constant(tmp_path / "data.py", "NETWORK") == {"classes": 7}
    with pytest.raises(Refused, match=r"data\.py:2: SCALED is computed, a value written out was expected"):
        _constant(tmp_path / "data.py", "SCALED")


OWN = {"mine": {"path": "pyproject.toml", "size": [8, 8]}}
BROUGHT = {"network": {"file": "resnet", "class": "ResNet18"}, "data": "digits"}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("own", {"mine": {"path": "absent"}}, "own: mine: path: absent: not there; a path is taken from the folder of params.yaml"),
        ("own", {"digits": OWN["mine"]}, "own: digits: `datasets` has one of that name"),
        ("own", {"My photos": OWN["mine"]}, "own: 'My photos' came, a name of small letters, digits and _ was expected"),
        ("own", {"mine": OWN["mine"] | {"size": [8]}}, "own: mine: size: [8] came, [height, width] in pixels were expected"),
        ("own", {"mine": OWN["mine"] | {"sise": 8}}, "own: mine: unknown key 'sise'; did you mean 'size'?"),
        (f"{G}/train", {"weights": "absent.pt"}, "train: absent.pt: no such file; a path is taken from the folder of params.yaml"),
        (f"{G}/train", {"onnx": "absent.onnx"}, "train: absent.onnx: no such file"),
        (f"{G}/train", {"weights": "pyproject.toml", "epochs": 3}, "train: unknown key 'epochs'. It may be: scale, weights"),
        (
            f"{G}/train",
            {"weights": "pyproject.toml", "scale": {"mean": [0], "deviation": [0.0]}},
            "scale: divide_by and deviation: 0.0 came, a number above 0 was expected",
        ),
        (f"{G}/train", {"weights": "pyproject.toml", "scale": {"mean": 0.5, "deviation": [1]}}, "scale: mean: 0.5 (float) came, a list was expected"),
        (f"{G}/network", {"file": "__init__"}, "network: file: no network file '__init__'"),
    ],
)  # fmt: skip
def test_what_is_brought_is_checked_at_the_door(
    tmp_path: Path, path: str, value: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(Refused) as refused:
        checked(tmp_path, changed(path, value))
    assert message in str(refused.value)


def test_own_data_own_weights_and_an_own_graph_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    params = changed("own", OWN)
    weights = {"weights": "pyproject.toml", "scale": {"divide_by": 255, "mean": [0.5], "deviation": [0.5]}}
    usual = {"task": "classification", "precisions": ["fp32"], "floor": 50, "budget": {"drop": 1}}
    params["recipes"]["a"] = usual | {
        "network": {"file": "resnet", "class": "ResNet18"},
        "data": "mine",
        "train": weights,
    }
    params["recipes"]["b"] = usual | {
        "network": {"file": "__init__"},
        "data": "mine",
        "train": {"onnx": "pyproject.toml"},
    }
    checked(tmp_path, params)


def test_what_recipes_share_is_taken_over_and_a_key_that_stands_twice_is_still_found(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    text = (
        (ROOT / "params.yaml")
        .read_text()
        .replace("root: .", f"root: {ROOT}")
        .replace("build: build", f"build: {tmp_path}")
    )
    mine = "  mine:\n    <<: *usual\n    data: digits\n    network: {file: linear, class: SoftmaxRegression}\n    floor: 50\n    budget: {drop: 1}\n"
    train = "    train: {epochs: 1, batch: 1, rate: 1.0, patience: 1, seed: 1, bf16: false, channels_last: false}\n"
    file.write_text(text + "\n" + mine + train)
    project = load_project(file)
    check(project)
    assert project.recipe("mine").task == "classification" and project.recipe("mine").network.file == "linear"
    file.write_text(text + "\n" + mine + train + "    floor: 60\n")
    with pytest.raises(Refused, match="the key 'floor' stands twice in the map that begins at line"):
        load_project(file)


def test_a_scaling_is_refused_where_the_input_is_text(tmp_path: Path) -> None:
    params = copy.deepcopy(RIGHT)
    params["recipes"]["gru_python"]["train"]["scaling"] = "min_max"
    with pytest.raises(
        Refused, match=r"gru_python: train: scaling: min_max came; .*python_source is text.*take it out"
    ):
        checked(tmp_path, params)
