import re
import tomllib

import yaml
from conftest import ROOT

PINS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
)


def test_one_constraints_file_pins_all_that_is_named() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for requirement in [*project["dependencies"], *extras["dev"], *extras["rtx"], *extras["serve"]]:
        name, version = re.match(r"([\w.-]+)==([^;\s]+)", requirement).groups()
        if name == "onnxruntime":  # stands in for onnxruntime-gpu where that has no wheel
            name = "onnxruntime-gpu"
        assert PINS.get(name, PINS.get(name.replace("-", "_"))) == version, name


def test_pins_hold_on_every_machine() -> None:
    text = (ROOT / "constraints.txt").read_text()
    assert "+cpu" not in text and "@" not in text and "file:" not in text
    assert PINS["torch"] == "2.13.0"


def test_no_analytics() -> None:
    assert "analytics = false" in (ROOT / ".dvc" / "config").read_text()


def test_ci_types_the_readmes_commands() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    assert [line for line in ci.splitlines() if line.startswith("make")] == ["make repro", "make test", "make slow"]
    readme = (ROOT / "README.md").read_text()
    assert all(command in readme for command in ("make repro", "make test", "make slow"))


def test_every_recipe_is_named_by_the_rules() -> None:
    for name in yaml.safe_load((ROOT / "params.yaml").read_text())["recipes"]:
        assert re.fullmatch(r"[a-z0-9_]+", name)
