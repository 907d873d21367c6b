"""Stage ``host``: what this machine is. Runs every time; an unchanged machine re-runs nothing after it."""

from deploy.files import write_json
from deploy.host import describe
from pipeline import stage
from pipeline.recipe import Project


def host(project: Project) -> None:
    """Write ``host.json``."""
    write_json(project.build / "host.json", describe())


if __name__ == "__main__":
    stage.run(host)
