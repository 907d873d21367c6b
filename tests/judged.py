"""A project with a recipe for each kind of verdict, made from one measurement, for the tests of the report"""

import copy
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import NAME

from deploy.files import read_json, write_json
from pipeline import charts
from pipeline.measure import measure
from pipeline.preflight import preflight_recipe
from pipeline.recipe import Project
from pipeline.report import report
from pipeline.verify import RETURNED, verify

FOLDERS = ("bundle", "quantize", "engines", "export")
MADE: dict[Path, Project] = {}
GPU_HOST, BOARD = "amd-epyc-16-cores-nvidia-h200", "jetson-orin-nano"


def judged(project: Project, build: Path) -> Project:
    """``passes``; ``loses`` (int8 fails and fp16 is open); ``untrained``, under its floor; ``halfway``, not measured."""
    measured = project.build / "measure" / f"{NAME}.json"
    if not measured.exists():
        measure(project, NAME)
    recipe = dataclasses.replace(project.recipe(NAME), floor=80.0)
    made = {"passes": recipe, "loses": recipe, "untrained": dataclasses.replace(recipe, floor=99.99), "halfway": recipe}
    for name in made:
        for folder in FOLDERS:
            (build / folder).mkdir(parents=True, exist_ok=True)
            (build / folder / name).symlink_to(project.build / folder / NAME)
        for kind in ("loss", "spread", "speed"):
            (build / "history" / kind).mkdir(parents=True, exist_ok=True)
            (build / "history" / kind / f"{name}.csv").symlink_to(project.build / "history" / kind / f"{NAME}.csv")
        measurement = copy.deepcopy(read_json(measured))
        if name == "loses":
            lose(measurement, "onnxruntime-cpu-int8", 60)
            lose(measurement, "onnxruntime-cpu-fp16", 6)
        if name != "halfway":
            write_json(build / "measure" / f"{name}.json", measurement)
    for name in made:
        preflight_recipe(dataclasses.replace(project, build=build), name)
    (build / "prepare").symlink_to(project.build / "prepare")
    (build / "host.json").symlink_to(project.build / "host.json")
    changed = dataclasses.replace(project, root=build, build=build, recipes=made)  # of what others returned nothing
    verify(changed)
    return changed


def shown(project: Project, build: Path) -> Project:
    """As ``judged``, with its report: made once in a run of the tests, and copied to ``build``."""
    if project.build not in MADE:
        made = MADE[project.build] = judged(project, project.build.with_name("shown"))
        report(made)
    shutil.copytree(MADE[project.build].build, build, symlinks=True, dirs_exist_ok=True)
    return dataclasses.replace(MADE[project.build], root=build, build=build)


def returned(project: Project, name: str, gpu: bool) -> dict[str, Any]:
    """What came back of recipe ``name`` from a host with a GPU and PyTorch, or from a board with TensorRT alone.

    Kept where ``verify`` reads it. Three targets of ``tensorrt``, of which the board could not run int8; on the host
    also three of ``onnxruntime-cuda``.
    """
    there = copy.deepcopy(read_json(project.build / "measure" / f"{name}.json"))
    targets, trained = there["targets"], there["trained"]
    there["host"]["name"], there["date"] = (GPU_HOST, "2026-11-19") if gpu else (BOARD, "2026-11-20")
    trained["latency"] = {"cuda": trained["latency"]["cpu"]} if gpu else {}
    rows = {}
    for runtime, speed in (("onnxruntime-cuda", 0.5), ("tensorrt", 0.25))[not gpu :]:
        for faster, precision in enumerate(("fp32", "fp16", "int8"), start=1):
            row = copy.deepcopy(targets[f"onnxruntime-cpu-{precision}"])
            row |= {"device": "cuda", "latency_s": [speed * s / faster for s in row["latency_s"]], "alone_s": None}
            row |= {"device_s": 2e-5 / faster, "device_share": 0.91, "no_graph": "", "on_cpu": None}
            row |= {"precision": "int8-tensorrt" if precision == "int8" else precision}
            if runtime == "onnxruntime-cuda":
                row["on_cpu"] = ["node_Shape_1", "node_Gather_2"]
            rows[f"{runtime}-{precision}"] = row
    if not gpu:
        rows["tensorrt-fp16"]["no_graph"] = "capture failed: operation not permitted"
        rows["tensorrt-fp32"]["power"] = {"energy_j": 4.1e-3, "power_w": {"mean": 7.25}, "untold": {}}
        untold = {"power_w": "there is no sensor of it", "energy_j": "there is no sensor of it"}
        rows["tensorrt-fp16"]["power"] = {"energy_j": None, "power_w": None, "untold": untold}
        absent = "network.onnx: tensorrt 10.3 does not work on this machine: no memory. Update the GPU's driver"
        rows["tensorrt-int8"] = {"precision": "int8-tensorrt", "device": "cuda", "reason": absent}
    there["targets"] = rows
    write_json(project.root / RETURNED / there["host"]["name"] / f"{name}.json", there)
    return there


@contextmanager
def memoised() -> Iterator[None]:
    """Every chart is made and drawn once: of the same numbers the same chart, of the same chart the same SVG and PNG."""

    def once(make: Callable[..., Any]) -> Callable[..., Any]:
        known: dict[str, tuple[Any, Any]] = {}

        def kept(*of: Any) -> Any:
            key = json.dumps(of, default=id)  # a chart is itself alone, and is kept, so that no other takes its id
            if key not in known:
                known[key] = of, make(*of)
            return known[key][1]

        return kept

    with pytest.MonkeyPatch.context() as patch:
        for name in ("accuracy", "latency", "weight", "ranges", "drift", "learning", "spread", "tradeoff", "beside"):
            patch.setattr(charts, name, once(getattr(charts, name)))
        for name in ("svg", "png"):
            patch.setattr(charts, name, once(getattr(charts, name)))
        yield


def lose(measurement: dict, target: str, n: int) -> None:
    """Let ``target`` answer wrongly where the trained network is right, ``n`` times."""
    row, trained = measurement["targets"][target], measurement["trained"]
    row["statistics"] = copy.deepcopy(trained["statistics"])
    row["predicted"] = list(trained["predicted"])
    right = [i for i, statistic in enumerate(trained["statistics"]) if statistic[0] == 1][:n]
    for i in right:
        row["statistics"][i] = [0.0]
        row["predicted"][i] = (trained["predicted"][i] + 1) % 10
