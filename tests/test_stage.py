"""Errors as a person sees them: one line, no traceback, a status that stops DVC."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params | {"root": str(ROOT), "build": "build"}))
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("pipeline.train", "gorner_digit"), "train@gorner_digit: params.yaml: no recipe 'gorner_digit'; did you mean 'gorner_digits'?"),
        (("pipeline.export", "gorner_digits"), "export@gorner_digits: build/prepare/digits/data.json: not found."),
        (("pipeline.gate",), "gate: build/verdicts.json: not found."),
        (("pipeline.train",), "usage: python -m pipeline.train NAME"),
        (("pipeline.check", "what"), "usage: python -m pipeline.check"),
    ],
)  # fmt: skip
def test_an_error_is_one_line(folder: Path, words: tuple[str, ...], message: str) -> None:
    done = run(folder, *words)
    assert done.returncode == 1
    assert done.stderr.startswith(message)
    assert "Traceback" not in done.stderr and done.stderr.count("\n") == 1


def test_a_typo_stops_before_anything_runs(folder: Path) -> None:
    text = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(text.replace("GornerCNN", "GornerCN"))
    done = run(folder, "pipeline.check")
    assert done.returncode == 1
    assert "no network 'GornerCN'; did you mean 'GornerCNN'?" in done.stderr
    assert not (folder / "build").exists()
