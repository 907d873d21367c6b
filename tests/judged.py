"""A project with a recipe for each kind of verdict, made from one measurement, for the tests of the report"""

import copy
import dataclasses
from pathlib import Path

from conftest import NAME

from deploy.files import read_json, write_json
from pipeline.measure import measure
from pipeline.preflight import preflight_recipe
from pipeline.recipe import Project
from pipeline.verify import verify

FOLDERS = ("bundle", "quantize", "engines", "export")


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
        for kind in ("loss", "spread"):
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
    changed = dataclasses.replace(project, build=build, recipes=made)
    verify(changed)
    return changed


def lose(measurement: dict, target: str, n: int) -> None:
    """Let ``target`` answer wrongly where the trained network is right, ``n`` times."""
    row, trained = measurement["targets"][target], measurement["trained"]
    row["statistics"] = copy.deepcopy(trained["statistics"])
    row["predicted"] = list(trained["predicted"])
    right = [i for i, statistic in enumerate(trained["statistics"]) if statistic[0] == 1][:n]
    for i in right:
        row["statistics"][i] = [0.0]
        row["predicted"][i] = (trained["predicted"][i] + 1) % 10
