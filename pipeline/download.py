"""Stage ``download@dataset``: the raw files, byte for byte, held against their SHA-256."""

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tqdm import tqdm

from deploy.errors import Refused
from deploy.files import sha256, write_bytes
from pipeline import stage
from pipeline.cache import close_cache, open_cache
from pipeline.datasets import load_dataset
from pipeline.pack import pack_files
from pipeline.recipe import Project


def download(project: Project, name: str) -> None:
    """Put every source of data set ``name`` into ``build/download/<name>/``.

    Files that were there, and whole, when the stage was killed are not fetched again. A data set that is computed has
    no source and an empty folder.
    """
    dataset = load_dataset(name)
    folder = project.build / "download" / name
    cache = open_cache(project, "download", name, dataset.SOURCES)
    for file, source in tqdm(dataset.SOURCES.items(), desc=f"download {name}", unit="file", disable=None):
        if (cache / file).is_file() and sha256(cache / file) == source["sha256"]:
            continue
        data = _bundled(source)
        if (came := hashlib.sha256(data).hexdigest()) != source["sha256"]:
            raise Refused(
                f"{folder / file}: SHA-256 {came}, expected {source['sha256']}: {source['package']} carries other "
                f"bytes than the pinned version does. Install the pinned one: pip install -c constraints.txt -e ."
            )
        write_bytes(cache / file, data)
    folder.mkdir(parents=True, exist_ok=True)
    for file in dataset.SOURCES:
        write_bytes(folder / file, (cache / file).read_bytes())
    close_cache(cache)
    print(f"{name}: {len(dataset.SOURCES)} file(s), licence {dataset.LICENCE}")


def _bundled(source: dict[str, Any]) -> bytes:
    """What an installed package carries: the file at ``path``, or all ``files`` that match, packed into one."""
    package = source["package"]
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise Refused(f"{package} is not installed: pip install -c constraints.txt -e .")
    folder = Path(spec.submodule_search_locations[0])
    if "files" in source:
        return pack_files(folder, source["files"], source["without"])
    path = folder / source["path"]
    if not path.is_file():
        raise Refused(f"{path}: not found; the pinned {package} carries it: pip install -c constraints.txt -e .")
    return path.read_bytes()


if __name__ == "__main__":
    stage.run_named(download)
