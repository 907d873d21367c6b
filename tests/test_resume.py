"""A stage that is killed at any moment goes on from its cache, and ends with what an unbroken run ends with."""

import dataclasses
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import NAME, ROOT

from deploy.files import kept_json, read_json, sha256
from pipeline.cache import open_cache
from pipeline.recipe import Project

KILLS = 4


@pytest.fixture
def broken_off(project: Project, tmp_path: Path) -> Path:
    """A folder with params.yaml of the session's project, and a build in which all but ``train`` and later is linked."""
    recipe = dataclasses.asdict(project.recipe(NAME))
    recipe["network"]["class"] = recipe["network"].pop("class_")
    recipe["precisions"] = list(recipe["precisions"])
    params = {"root": str(ROOT), "build": str(tmp_path / "build"), "datasets": ["digits"], "recipes": {NAME: recipe}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    (tmp_path / "build").mkdir()
    return tmp_path


def link(project: Project, folder: Path, *parts: str) -> None:
    for part in parts:
        (folder / "build" / part).symlink_to(project.build / part)


def kept(folder: Path) -> dict[Path, int]:
    """What the cache holds, and when each file was written, in nanoseconds."""
    return {path: path.stat().st_mtime_ns for path in (folder / "build" / ".cache").rglob("*") if path.is_file()}


def killed_again_and_again(folder: Path, stage: str, name: str) -> list[str]:
    """Start a stage, kill it (SIGKILL) a random moment after it has kept something new; then let it end.

    Returns what the last run printed, and the files of the cache that some kill left for it.
    """
    moment = random.Random(stage).uniform
    command = [sys.executable, "-m", f"pipeline.{stage}", name]
    for _ in range(KILLS):
        before = kept(folder)
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        while process.poll() is None and kept(folder) == before:
            time.sleep(0.002)
        time.sleep(moment(0.0, 0.15))
        process.kill()
        process.communicate()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not kept(folder)
    return done.stdout.splitlines()


@pytest.mark.slow
def test_a_training_ends_with_the_same_weights_bit_for_bit(project: Project, broken_off: Path) -> None:
    link(project, broken_off, "prepare")
    said = killed_again_and_again(broken_off, "train", NAME)
    assert re.fullmatch(rf"{NAME}: goes on after epoch \d+", said[0])
    for file in (f"train/{NAME}/weights.safetensors", f"history/loss/{NAME}.csv", f"history/spread/{NAME}.csv"):
        assert sha256(broken_off / "build" / file) == sha256(project.build / file), file


@pytest.mark.slow
def test_a_quantisation_ends_with_the_same_graphs(project: Project, broken_off: Path) -> None:
    link(project, broken_off, "prepare", "export")
    killed_again_and_again(broken_off, "quantize", NAME)
    made = broken_off / "build" / "quantize" / NAME
    whole = project.build / "quantize" / NAME
    assert read_json(made / "quantize.json") == read_json(whole / "quantize.json")
    for precision in ("fp16", "int8-cpu", "int8-tensorrt"):
        assert sha256(made / precision / "network.onnx") == sha256(whole / precision / "network.onnx")


@pytest.mark.slow
def test_a_measuring_keeps_the_targets_and_the_rounds_it_has(project: Project, broken_off: Path) -> None:
    link(project, broken_off, "prepare", "train", "bundle", "engines", "host.json")
    killed_again_and_again(broken_off, "measure", NAME)
    facts = read_json(broken_off / "build" / "measure" / f"{NAME}.json")
    for target in ("fp32", "fp16", "int8"):
        row = facts["targets"][f"onnxruntime-cpu-{target}"]
        assert len(row["statistics"]) == facts["n"] == 900
        assert len(row["latency_s"]) == facts["latency"]["rounds"] >= 64
        assert min(row["latency_s"]) > 0


def test_a_download_that_is_killed_leaves_a_whole_file_or_none(project: Project, broken_off: Path) -> None:
    raw = broken_off / "build" / "download" / "digits" / "digits.csv.gz"
    command = [sys.executable, "-m", "pipeline.download", "digits"]
    for delay in (0.02, 0.1, 0.2, 0.3, 0.4):
        process = subprocess.Popen(command, cwd=broken_off, stdout=subprocess.DEVNULL)
        time.sleep(delay)
        process.kill()
        process.wait()
        assert not raw.exists() or sha256(raw) == sha256(project.build / "download" / "digits" / raw.name)
    subprocess.run(command, cwd=broken_off, check=True, stdout=subprocess.DEVNULL)
    assert sha256(raw) == sha256(project.build / "download" / "digits" / raw.name)
    assert not kept(broken_off)


def test_other_inputs_have_another_cache_and_the_old_one_goes(project: Project, tmp_path: Path) -> None:
    here = dataclasses.replace(project, build=tmp_path)
    first = open_cache(here, "train", "a", {"seed": 1})
    kept_json(first / "x.json", lambda: 1)
    assert open_cache(here, "train", "a", {"seed": 1}) == first and (first / "x.json").is_file()
    assert open_cache(here, "train", "b", {"seed": 1}) != first and first.is_dir()
    second = open_cache(here, "train", "a", {"seed": 2})
    assert second != first and not first.exists()


def test_what_was_kept_is_not_made_again_and_what_is_damaged_is(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> int:
        made.append(1)
        return len(made)

    path = tmp_path / "cache" / "x.json"
    assert [kept_json(path, make) for _ in range(3)] == [1, 1, 1]
    path.write_text("{")
    assert kept_json(path, make) == 2 == read_json(path)
