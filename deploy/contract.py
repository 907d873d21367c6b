"""The bundle: the only thing that crosses from training to deployment, and ``contract.json`` that describes it.

    contract.json                 what is in here, what sizes its inputs have, and the SHA-256 of every file
    graphs/<precision>/<graph>.onnx
    examples/{calib,test}.npz     raw inputs and truths, one array a name, first axis = unit
    answers/{float32,float64}.npz what the trained network answered on ``test``
    ranges.json                   largest and smallest value of every activation on ``calib``

Nothing in a bundle is code: arrays load with ``allow_pickle=False``, and a path cannot leave the folder.
"""

import io
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from deploy.errors import Refused
from deploy.files import read_json, sha256

FORMAT = 2  # since `ranges`
FIXED = ("examples/calib.npz", "examples/test.npz", "answers/float32.npz", "answers/float64.npz", "ranges.json")


@dataclass(frozen=True)
class Bundle:
    """A bundle that was opened and found whole."""

    folder: Path
    recipe: str
    task: str
    classes: tuple[str, ...]
    io: dict[str, dict[str, list[dict[str, Any]]]]  # graph -> {"inputs" | "outputs": [{name, dtype, shape}]}
    graphs: dict[str, dict[str, str]]  # precision -> graph -> file
    refused: dict[str, str]  # precision that could not be made -> why
    files: dict[str, dict[str, Any]]  # file -> {"sha256", "bytes"}
    ranges: dict[str, tuple[int, int, int]]  # free axis of an input -> least, best served, greatest size of an engine
    sha256: str  # of contract.json itself

    def path(self, file: str) -> Path:
        """Where ``file`` of this bundle lies; one that the contract has no hash for is refused."""
        if file not in self.files:
            raise Refused(f"{self.folder}/contract.json: lists no hash for {file}. {_again(self.folder)}")
        return inside(self.folder, file)

    def graph_sha256(self, precision: str) -> dict[str, str]:
        """The hash of each graph of ``precision``."""
        return {name: self.files[file]["sha256"] for name, file in self.graphs[precision].items()}

    def lacks(self, precision: str) -> str:
        """Why there is no graph of ``precision``; empty if there is one."""
        if precision in self.graphs:
            return ""
        return self.refused.get(precision, f"the recipe does not ask for {precision} (`precisions:` in params.yaml)")


def open_bundle(folder: Path) -> Bundle:
    """Read ``contract.json`` and hold every file against its hash.

    Raises:
        Refused: no contract, one of another format, or a file that is missing, changed or outside the folder.
    """
    file = folder / "contract.json"
    if not file.is_file():
        raise Refused(
            f"{file}: not found: no bundle. `dvc repro` makes them in build/bundle/; elsewhere copy it again."
        )
    contract = read_json(file)
    if not isinstance(contract, dict) or contract.get("format") != FORMAT:
        came = contract.get("format") if isinstance(contract, dict) else type(contract).__name__
        raise Refused(
            f"{file}: format {came!r}, but this version of Plumbline reads format {FORMAT}. "
            f"Make the bundle again with `dvc repro`, or use the version that wrote it."
        )
    try:
        bundle = Bundle(
            folder=folder,
            recipe=contract["recipe"],
            task=contract["task"],
            classes=tuple(contract["classes"]),
            io=contract["io"],
            graphs=contract["graphs"],
            refused=contract["refused"],
            files=contract["files"],
            ranges=_ranges(contract["ranges"], contract["io"]),
            sha256=sha256(file),
        )
        named = [path for graphs in bundle.graphs.values() for path in graphs.values()]
        expected = {path: str(entry["sha256"]) for path, entry in bundle.files.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Refused(f"{file}: incomplete or damaged ({type(error).__name__}: {error}). {_again(folder)}") from None
    for path in [*FIXED, *named]:
        bundle.path(path)
    for path, digest in expected.items():
        _check(inside(folder, path), digest, folder)
    return bundle


def _ranges(ranges: dict[str, list[int]], io: dict[str, Any]) -> dict[str, tuple[int, int, int]]:
    """``ranges``, if every free axis of an input has one.

    Raises:
        KeyError, TypeError, ValueError: one is missing, or no three sizes in order.
    """
    found: dict[str, tuple[int, int, int]] = {}
    for axis in {axis for graph in io.values() for tensor in graph["inputs"] for axis in tensor["shape"]}:
        if isinstance(axis, str):
            least, best, greatest = ranges[axis]
            if not (all(type(size) is int for size in ranges[axis]) and 1 <= least <= best <= greatest):
                raise ValueError(f"ranges: {axis}: {ranges[axis]}, expected least, best served and greatest size")
            found[axis] = (least, best, greatest)
    return found


def inside(folder: Path, file: str) -> Path:
    """``folder / file``, if that stays inside ``folder``."""
    path = PurePosixPath(file)
    whole = folder / path
    if path.is_absolute() or ".." in path.parts or not whole.resolve().is_relative_to(folder.resolve()):
        raise Refused(f"{folder}/contract.json: the path {file!r} leaves the bundle. {_again(folder)}")
    return whole


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read an ``.npz`` of plain arrays.

    Raises:
        Refused: missing, truncated, or holding Python objects.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except FileNotFoundError:
        raise Refused(f"{path}: not found. `dvc repro` makes it; elsewhere copy the bundle again.") from None
    except Exception as error:  # numpy raises what zipfile, zlib or its own parser raised
        raise Refused(
            f"{path}: damaged, or no .npz of plain arrays ({error}). Bring it back: `dvc checkout --force {path}`; "
            f"elsewhere copy it again."
        ) from None


def pack_arrays(arrays: dict[str, np.ndarray]) -> bytes:
    """Arrays as the bytes of a compressed ``.npz``: equal arrays give equal bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # numpy's stub takes `allow_pickle` for an array
    return buffer.getvalue()


def load_examples(bundle: Bundle, split: str) -> dict[str, np.ndarray]:
    """The raw inputs and truths of ``calib`` or ``test``."""
    return load_arrays(bundle.path(f"examples/{split}.npz"))


def load_answers(bundle: Bundle, dtype: str) -> dict[str, np.ndarray]:
    """What the trained network answered on ``test``, in ``float32`` or ``float64``."""
    return load_arrays(bundle.path(f"answers/{dtype}.npz"))


def _check(path: Path, expected: str, folder: Path) -> None:
    if not path.is_file():
        raise Refused(f"{path}: missing, though contract.json lists it. {_again(folder)}")
    came = sha256(path)
    if came != expected:
        raise Refused(
            f"{path}: changed since the bundle was made: SHA-256 {came[:12]}…, expected {expected[:12]}…. "
            f"{_again(folder)}"
        )


def _again(folder: Path) -> str:
    return f"Bring it back with `dvc checkout --force {folder}`, or copy the bundle again from where it was made."
