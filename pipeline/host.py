"""Stage ``host``: what comes from outside: this machine, and the files that recipes bring.

Runs every time; what is unchanged re-runs nothing after it.
"""

from deploy.files import sha256, write_json
from deploy.host import describe
from pipeline import stage
from pipeline.recipe import Graph, Project, Weights


def host(project: Project) -> None:
    """Write ``host.json``, and ``brought/<recipe>.json``: the hash of the weights or the graph that it brings.

    DVC cannot depend on a file that one recipe names and another does not; on this it can. A file that is missing has
    no hash, and stage ``train`` says so.
    """
    write_json(project.build / "host.json", describe())
    for name, recipe in project.recipes.items():
        brought = {Weights: "weights", Graph: "onnx"}.get(type(recipe.train))
        path = getattr(recipe.train, brought) if brought else None
        digest = sha256(path) if path and path.is_file() else None
        write_json(project.build / "brought" / f"{name}.json", {"sha256": digest})


if __name__ == "__main__":
    stage.run(host)
