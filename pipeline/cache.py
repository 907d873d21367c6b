"""What a stage that was killed had done, so that it goes on from there: ``build/.cache/<stage>@<name>/<hash>/``.

DVC deletes a stage's outs before it runs again, and this is no out. The hash is of all that goes into the result: the
stage's inputs, the project's own code, the packages. A folder of another hash is of no more use and goes.
"""

import hashlib
import json
import shutil
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from deploy.files import sha256
from pipeline.recipe import Project

CODE = Path(__file__).parent.parent


def open_cache(project: Project, stage: str, name: str, inputs: dict[str, Any]) -> Path:
    """The folder for this stage with these inputs; it may not exist yet, and ``close_cache`` removes it.

    Args:
        inputs: what JSON can hold: values of ``params.yaml``, hashes of files.
    """
    code = {
        path.relative_to(CODE).as_posix(): sha256(path)
        for folder in ("models", "pipeline", "deploy")
        for path in sorted((CODE / folder).rglob("*.py"))
    }
    packages = sorted(f"{package.name} {package.version}" for package in distributions())
    told = json.dumps([inputs, code, packages], sort_keys=True)
    folder = project.build / ".cache" / f"{stage}@{name}" / hashlib.sha256(told.encode()).hexdigest()[:16]
    for other in folder.parent.glob("*"):
        if other != folder:
            shutil.rmtree(other)
    return folder


def close_cache(folder: Path) -> None:
    """The stage has written its outs: nothing is left to go on from."""
    done = folder.with_name("done")  # renamed first: a stage killed half-way through must not find half of it
    if folder.exists():
        folder.rename(done)
    shutil.rmtree(folder.parent, ignore_errors=True)
