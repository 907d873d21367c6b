"""Stage ``download@dataset``: the raw files, byte for byte, held against their SHA-256."""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from deploy.errors import Refused
from deploy.files import sha256, write_bytes
from pipeline import stage
from pipeline.datasets import load_dataset
from pipeline.fetch import fetch, held, open_session
from pipeline.pack import pack_files
from pipeline.recipe import Project


def download(project: Project, name: str) -> None:
    """Put every source of data set ``name`` into ``build/download/<name>/``.

    Whatever has come, a part of a file too, lies in ``build/.cache/download@<name>/`` by its SHA-256 until all is
    there, and is not fetched again: unlike what other stages keep, it does not depend on the project's code. A data set
    that is computed has no source and an empty folder.

    Raises:
        Refused: a file is to be had nowhere, or is another, or cannot be written.
    """
    dataset = load_dataset(name)
    folder = project.build / "download" / name
    cache = project.build / ".cache" / f"download@{name}"
    with _alone(name, cache.with_name(f"{cache.name}.lock")):
        missing = {file: s for file, s in dataset.SOURCES.items() if not _whole(folder / file, s["sha256"])}
        _gather(name, dataset, missing, cache)
        folder.mkdir(parents=True, exist_ok=True)
        for file, source in missing.items():
            write_bytes(folder / file, (cache / source["sha256"]).read_bytes())
        for path in folder.rglob("*"):
            if path.is_file() and path.relative_to(folder).as_posix() not in dataset.SOURCES:
                path.unlink()  # what an earlier version of the data set had
        shutil.rmtree(cache, ignore_errors=True)  # before another process that waits begins to fill it
    size = sum((folder / file).stat().st_size for file in dataset.SOURCES)
    print(f"{name}: {len(dataset.SOURCES)} file(s), {size / 1e6:,.1f} MB, licence {dataset.LICENCE}")


def _gather(name: str, dataset: ModuleType, missing: dict[str, Any], cache: Path) -> None:
    """Fill ``cache`` with the contents that are missing, each once; the bar counts the bytes of all sources."""
    wanted: dict[str, tuple[str, dict[str, Any]]] = {}
    for file, source in missing.items():
        if not _whole(cache / source["sha256"], source["sha256"]):
            wanted.setdefault(source["sha256"], (file, source))
    size = sum(source.get("bytes", 0) for source in dataset.SOURCES.values())
    left = sum(source.get("bytes", 0) - held(cache / digest) for digest, (_, source) in wanted.items())
    down: dict[str, str] = {}
    with (
        open_session() as session,
        tqdm(
            desc=f"download {name}",
            total=size,
            initial=size - left,
            unit="B",
            unit_scale=True,
            disable=None if size else True,
        ) as bar,
    ):
        for digest, (file, source) in wanted.items():
            if "urls" in source:
                fetch(f"{dataset.MIRROR}/{file}", source, cache / digest, session, down, bar.update)
            else:
                write_bytes(cache / digest, _bundled(file, source))


@contextmanager
def _alone(name: str, path: Path) -> Iterator[None]:
    """One process at a time; the system frees the lock of one that is killed."""
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            print(f"{name}: another process downloads it; waiting until that has ended", flush=True)
            lock.acquire()
    except OSError as error:
        raise Refused(
            f"{path}: could not be made and locked ({error.strerror}); nothing was changed. Free some space on that "
            f"disk, or mend its permissions, and run the same command again."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _whole(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest


def _bundled(file: str, source: dict[str, Any]) -> bytes:
    """What an installed package carries: the file at ``path``, or all ``files`` that match, packed into one."""
    package = source["package"]
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise Refused(f"{package} is not installed: pip install -c constraints.txt -e .")
    folder = Path(spec.submodule_search_locations[0])
    if "files" in source:
        data = pack_files(folder, source["files"], source["without"])
    elif (folder / source["path"]).is_file():
        data = (folder / source["path"]).read_bytes()
    else:
        raise Refused(
            f"{folder / source['path']}: not found; the pinned {package} carries it: "
            f"pip install -c constraints.txt -e ."
        )
    if (came := hashlib.sha256(data).hexdigest()) != source["sha256"]:
        raise Refused(
            f"{file}: SHA-256 {came}, expected {source['sha256']}: {package} carries other bytes than the pinned "
            f"version does. Install the pinned one: pip install -c constraints.txt -e ."
        )
    return data


if __name__ == "__main__":
    stage.run_named(download)
