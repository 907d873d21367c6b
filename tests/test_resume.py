"""A stage that is killed at any moment goes on from its cache, and ends with what an unbroken run ends with."""

import contextlib
import dataclasses
import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import NAME, ROOT
from server import Request, serving

from deploy.files import kept_json, read_json, sha256, write_json
from deploy.rounds import BLOCK, WARM_UP, timed
from pipeline.cache import open_cache
from pipeline.recipe import Project

MOST_KILLS = 8


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
    """What the cache holds whole, and when each file was written, in nanoseconds; files may go while it is read."""
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for path in (folder / "build" / ".cache").rglob("[!.]*.*"):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file():
                    found[path] = path.stat().st_mtime_ns
    return found


def killed_again_and_again(folder: Path, stage: str, name: str, enough: int) -> list[str]:
    """Kill a stage (SIGKILL) each time it has kept something new, a random moment after; then let it end.

    Args:
        enough: files in the cache after which it is left to end: so that every kill falls in its midst.

    Returns:
        What the last run printed. Nothing that a killed run kept was written a second time.
    """
    moment = random.Random(stage).uniform
    command = [sys.executable, "-m", f"pipeline.{stage}", name]
    kills = 0
    while len(kept(folder)) < enough and kills < MOST_KILLS:
        before = kept(folder)
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        while process.poll() is None and kept(folder) == before:
            time.sleep(0.002)
        time.sleep(moment(0.0, 0.06))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL  # it was in its midst
        kills += 1
        after = kept(folder)
        # It may have been clearing its cache; what is there still is what was there.
        assert stage == "train" or all(after.get(path, written) == written for path, written in before.items())
    assert kills >= 2
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not kept(folder)
    return done.stdout.splitlines()


@pytest.mark.slow
def test_a_training_ends_with_the_same_weights_bit_for_bit(project: Project, broken_off: Path) -> None:
    link(project, broken_off, "prepare")
    said = killed_again_and_again(broken_off, "train", NAME, enough=2)
    assert re.fullmatch(rf"{NAME}: goes on after epoch \d+", said[0])
    for file in (f"train/{NAME}/weights.safetensors", f"history/loss/{NAME}.csv", f"history/spread/{NAME}.csv"):
        assert sha256(broken_off / "build" / file) == sha256(project.build / file), file


@pytest.mark.slow
def test_a_quantisation_ends_with_the_same_graphs(project: Project, broken_off: Path) -> None:
    link(project, broken_off, "prepare", "export")
    killed_again_and_again(broken_off, "quantize", NAME, enough=5)
    made = broken_off / "build" / "quantize" / NAME
    whole = project.build / "quantize" / NAME
    assert read_json(made / "quantize.json") == read_json(whole / "quantize.json")
    for precision in ("fp16", "int8-cpu", "int8-tensorrt"):
        assert sha256(made / precision / "network.onnx") == sha256(whole / precision / "network.onnx")


@pytest.mark.slow
def test_a_measuring_keeps_the_targets_and_the_rounds_it_has(project: Project, broken_off: Path) -> None:
    link(project, broken_off, "prepare", "train", "bundle", "engines", "host.json")
    killed_again_and_again(broken_off, "measure", NAME, enough=11)
    facts = read_json(broken_off / "build" / "measure" / f"{NAME}.json")
    for target in ("fp32", "fp16", "int8"):
        row = facts["targets"][f"onnxruntime-cpu-{target}"]
        assert len(row["statistics"]) == facts["n"] == 900
        assert len(row["latency_s"]) == facts["latency"]["rounds"] >= 64
        assert min(row["latency_s"]) > 0


def test_rounds_that_were_kept_are_not_timed_again_and_the_rest_is_warmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.rounds.ROUNDS", 2 * BLOCK)
    calls: list[int] = []
    requests = {"t": [lambda: calls.append(1) or time.sleep(2e-3)]}  # slow: none is timed alone
    timed(requests, {}, iter, tmp_path)
    (first,), (last,) = (tmp_path.glob(f"rounds of * from {block}.json") for block in (0, BLOCK))
    write_json(first, {"t": [0.5] * BLOCK})
    last.unlink()
    calls.clear()
    rounds, times = timed(requests, {}, iter, tmp_path)
    assert rounds == 2 * BLOCK and times["t"]["latency_s"][:BLOCK] == [0.5] * BLOCK
    assert len(times["t"]["latency_s"]) == rounds
    assert len(calls) == WARM_UP + BLOCK


def test_a_download_that_is_killed_fetches_nothing_twice(broken_off: Path) -> None:
    """Each run asks a slow server for what the killed ones had not kept, and for no byte before."""
    size = 200_000
    files = {f"{letter}.bin": np.random.default_rng(ord(letter)).bytes(size) for letter in "abcdefgh"}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    cache = broken_off / "build" / ".cache" / "download@digits"
    killed, may_end = threading.Event(), threading.Event()

    def slowly(request: Request) -> None:
        name, begin = request.path[1:], request.begin or 0
        while name == "h.bin" and not killed.is_set() and not may_end.wait(0.005):
            pass  # so that every kill falls in its midst
        with contextlib.suppress(ConnectionError):
            if begin:
                request.head(206, Content_Length=size - begin, Content_Range=f"bytes {begin}-{size - 1}/{size}")
            else:
                request.head(200, Content_Length=size)
            for at in range(begin, size, 20_000):
                request.send(files[name][at : at + 20_000])
                time.sleep(0.004)

    def came() -> dict[str, int]:
        """Name -> bytes of it that lie in the cache."""
        sizes = {}
        for name, digest in digests.items():
            for path in (cache / f"{digest}.part", cache / digest):
                with contextlib.suppress(FileNotFoundError):
                    sizes[name] = path.stat().st_size
        return sizes

    with serving(slowly) as server:
        sources = {name: {"urls": [f"{server.root}/{name}"], "sha256": digests[name], "bytes": size} for name in files}
        code = (
            "from pipeline.datasets import digits; from pipeline.download import download;"
            "from pipeline.recipe import load_project;"
            f"digits.SOURCES, digits.MIRROR = {sources!r}, 'digits'; download(load_project(), 'digits')"
        )
        command = [sys.executable, "-c", code]
        environment = {key: value for key, value in os.environ.items() if key != "PLUMBLINE_MIRROR"}
        environment |= {"NO_PROXY": "127.0.0.1", "PYTHONPATH": str(ROOT)}
        moment, threads = random.Random(0).uniform, threading.active_count()
        before: dict[str, int] = {}
        kills = 0
        while kills < MOST_KILLS and len(before) < 7:
            process = subprocess.Popen(command, cwd=broken_off, env=environment)
            while process.poll() is None and came() == before:
                time.sleep(0.001)
            time.sleep(moment(0.0, 0.1))
            process.kill()
            process.wait()
            assert process.returncode == -signal.SIGKILL
            kills += 1
            killed.set()
            while threading.active_count() > threads:  # the server hears last of what was asked
                time.sleep(0.001)
            killed.clear()
            asked, server.asked = server.asked, []
            assert asked == rest(files, before)[: len(asked)]
            after = came()
            assert all(after[name] >= kept for name, kept in before.items())
            before = after
        assert kills >= 2
        may_end.set()
        subprocess.run(command, cwd=broken_off, env=environment, check=True, stdout=subprocess.DEVNULL)
        assert server.asked == rest(files, before)
    folder = broken_off / "build" / "download" / "digits"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert not cache.exists()


def rest(files: dict[str, bytes], came: dict[str, int]) -> list[tuple[str, int | None]]:
    """The requests, path and first byte, that bring what has not come; a part of no byte is asked for from the start."""
    return [(f"/{name}", came.get(name) or None) for name, data in files.items() if came.get(name, 0) < len(data)]


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
