"""Stage ``host``: what comes from outside: this machine, and the files that recipes bring.

Runs every time; what is unchanged re-runs nothing after it.
"""

import hashlib
from pathlib import Path

from deploy.files import sha256, write_json
from deploy.host import describe
from pipeline import stage
from pipeline.recipe import Graph, Project, Recipe, Weights


def host(project: Project) -> None:
    """Write ``host.json``, and ``brought/<recipe>.json``: the hash of the weights or the graph that it brings.

    DVC cannot depend on a file that one recipe names and another does not; on this it can. A file that is missing has
    no hash, and stage ``train`` says so.
    """
    write_json(project.build / "host.json", describe())
    for name, recipe in project.recipes.items():
        hashes = [sha256(path) for path in _brought(recipe) if path.is_file()]
        digest = hashlib.sha256("".join(hashes).encode()).hexdigest() if hashes else None
        write_json(project.build / "brought" / f"{name}.json", {"sha256": digest})


def _brought(recipe: Recipe) -> list[Path]:
    """The files that a recipe brings; of a graph also those that hold its weights beside it."""
    if isinstance(recipe.train, Graph):
        from pipeline.onnx_file import files  # loads onnx, for which few recipes have a use and this always runs

        return files(recipe.train.onnx)
    return [recipe.train.weights] if isinstance(recipe.train, Weights) else []


if __name__ == "__main__":
    stage.run(host)
