"""One small project, taken through the stages once: Görner's CNN on digits, trained for a few epochs."""

import os
from dataclasses import replace
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # two threads stall on a machine whose other core is busy; before PyTorch loads

import pytest

from deploy.contract import Bundle, open_bundle
from pipeline.build import build
from pipeline.bundle import bundle as make_bundle
from pipeline.download import download
from pipeline.export import export
from pipeline.host import host
from pipeline.prepare import prepare
from pipeline.quantize import quantize
from pipeline.recipe import Project, load_project
from pipeline.train import train

ROOT = Path(__file__).parent.parent
NAME = "gorner_digits"


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Up to its engines, in a folder of its own. Tests read it; one that writes copies what it needs."""
    params = load_project(ROOT / "params.yaml")
    recipe = params.recipe(NAME)
    recipe = replace(recipe, train=replace(recipe.train, epochs=30))
    project = replace(params, root=ROOT, build=tmp_path_factory.mktemp("build"), recipes={NAME: recipe})
    host(project)
    download(project, "digits")
    prepare(project, "digits")
    for stage in (train, export, quantize, make_bundle, build):
        stage(project, NAME)
    return project


@pytest.fixture(scope="session")
def bundle(project: Project) -> Bundle:
    return open_bundle(project.build / "bundle" / NAME)
