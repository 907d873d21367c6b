"""A copy of the project for a test to change, and `dvc repro` in it"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import ROOT


def copy_project(folder: Path, *more: str) -> None:
    """Code and stages into ``folder``, and the folders that ``more`` names; no params.yaml, no git, nothing built."""
    for name in ("models", "pipeline", "deploy", ".dvc", *more):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "tmp", "cache"))
    (folder / "results" / "boards").mkdir(parents=True)
    for name in ("dvc.yaml", ".dvcignore", "results/boards/README.md"):
        shutil.copy(ROOT / name, folder / name)
    with open(folder / ".dvc" / "config", "a") as config:
        config.write("    no_scm = true\n")


def repro(folder: Path) -> list[str]:
    """Run ``dvc repro``, as on a machine that writes bytecode; which stages ran."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(["dvc", "repro"], cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return stages(done.stdout)


def stages(said: str) -> list[str]:
    """The stages that ran, of what ``dvc repro`` said."""
    return re.findall(r"Running stage '(.+?)'", said)
