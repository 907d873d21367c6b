"""Stage ``download@dataset``: the raw files, byte for byte, held against their SHA-256."""

import hashlib
import importlib
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from deploy.errors import Refused
from deploy.files import write_bytes
from pipeline import stage
from pipeline.recipe import Project, nearest


def download(project: Project, name: str) -> None:
    """Put every source of data set ``name`` into ``build/download/<name>/``."""
    dataset = load_dataset(name)
    folder = project.build / "download" / name
    for file, source in dataset.SOURCES.items():
        path = folder / file
        data = _bundled(source["package"], source["path"])
        if (came := hashlib.sha256(data).hexdigest()) != source["sha256"]:
            raise Refused(
                f"{path}: SHA-256 {came}, expected {source['sha256']}: {source['package']} carries another file than "
                f"the pinned version does. Install the pinned one: pip install -c constraints.txt -e ."
            )
        write_bytes(path, data)
    print(f"{name}: {len(dataset.SOURCES)} file(s), licence {dataset.LICENCE}")


def load_dataset(name: str) -> ModuleType:
    """The module ``pipeline.datasets.<name>``.

    Raises:
        Refused: there is none of that name.
    """
    known = {path.stem for path in (Path(__file__).parent / "datasets").glob("*.py")} - {"__init__"}
    if name not in known:
        raise Refused(f"no data set {name!r}{nearest(name, known)}")
    return importlib.import_module(f"pipeline.datasets.{name}")


def _bundled(package: str, file: str) -> bytes:
    """A file that an installed package carries."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise Refused(f"{package} is not installed: pip install -c constraints.txt -e .")
    path = Path(spec.submodule_search_locations[0]) / file
    if not path.is_file():
        raise Refused(f"{path}: not found; the pinned {package} carries it: pip install -c constraints.txt -e .")
    return path.read_bytes()


if __name__ == "__main__":
    stage.run_named(download)
