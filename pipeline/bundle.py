"""Stage ``bundle@recipe``: gather what crosses to deployment, hash it, write the contract.

The only writer of a bundle.
"""

import shutil
from pathlib import Path
from typing import Any

from deploy.contract import FORMAT, open_bundle
from deploy.errors import Refused
from deploy.files import read_json, sha256, write_bytes, write_json
from pipeline import stage
from pipeline.recipe import Graph, Project


def bundle(project: Project, name: str) -> None:
    """Write ``build/bundle/<name>/`` (laid out as ``deploy.contract`` says) and open it once, to be sure."""
    recipe = project.recipe(name)
    data, trained = project.build / "prepare" / recipe.data, project.build / "train" / name
    exported, quantized = project.build / "export" / name, project.build / "quantize" / name
    io, made, facts = (
        read_json(exported / "io.json"),
        read_json(quantized / "quantize.json"),
        read_json(data / "data.json"),
    )
    weights = "network.onnx" if isinstance(recipe.train, Graph) else "weights.safetensors"
    folder = project.build / "bundle" / name
    shutil.rmtree(folder, ignore_errors=True)
    graphs: dict[str, dict[str, str]] = {}
    for precision in recipe.precisions:
        if "reason" in made.get(precision, {}):
            continue
        source = exported if precision == "fp32" else quantized / precision
        graphs[precision] = {graph: f"graphs/{precision}/{graph}.onnx" for graph in io}
        for graph, file in graphs[precision].items():
            _copy(source / f"{graph}.onnx", folder / file)
    for split in ("calib", "test"):
        _copy(data / f"{split}.npz", folder / f"examples/{split}.npz")
    for dtype in ("float32", "float64"):
        _copy(exported / "answers" / f"{dtype}.npz", folder / f"answers/{dtype}.npz")
    _copy(quantized / "ranges.json", folder / "ranges.json")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    contract: dict[str, Any] = {
        "format": FORMAT,
        "recipe": name,
        "task": recipe.task,
        "classes": facts["classes"],
        "io": io,
        "graphs": graphs,
        "refused": {precision: entry["reason"] for precision, entry in made.items() if "reason" in entry},
        "data": {"name": facts["name"], "licence": facts["licence"], "sha256": facts["sha256"]},
        "weights": {"sha256": sha256(trained / weights)},
        "files": {
            path.relative_to(folder).as_posix(): {"sha256": sha256(path), "bytes": path.stat().st_size}
            for path in files
        },
    }
    write_json(folder / "contract.json", contract)
    open_bundle(folder)


def _copy(source: Path, target: Path) -> None:
    if not source.is_file():
        raise Refused(f"{source}: not found. `dvc repro` makes it.")
    write_bytes(target, source.read_bytes())


if __name__ == "__main__":
    stage.run_named(bundle)
