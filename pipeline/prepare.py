"""Stage ``prepare@dataset``: raw files to arrays, in the four disjoint splits that the data set makes."""

import hashlib
from typing import Any

import numpy as np

from deploy.contract import pack_arrays
from deploy.files import write_bytes, write_json
from pipeline import stage
from pipeline.datasets import load_dataset
from pipeline.recipe import Project
from pipeline.splits import check_splits


def prepare(project: Project, name: str) -> None:
    """Write ``{train,calib,select,test}.npz`` and ``data.json`` into ``build/prepare/<name>/``."""
    dataset = load_dataset(name)
    facts = {
        "licence": dataset.LICENCE,
        "classes": list(dataset.CLASSES),
        "network": dataset.NETWORK,
        "scaled": dataset.SCALED,
    }
    write_splits(project, name, dataset.prepare(project.build / "download" / name), facts)


def write_splits(project: Project, name: str, splits: dict[str, dict[str, np.ndarray]], facts: dict[str, Any]) -> None:
    """Write what ``prepare`` writes, of any data.

    Args:
        project: says where.
        name: of the data.
        splits: split -> arrays by name, first axis = unit.
        facts: ``licence``, ``classes``, ``network`` and ``scaled``, as a data set has them.

    Raises:
        Refused: as ``check_splits``, before anything is written; or the disk is full.
    """
    check_splits(name, splits)
    folder = project.build / "prepare" / name
    digests: dict[str, Any] = {}
    for split, examples in splits.items():
        packed = pack_arrays(examples)
        write_bytes(folder / f"{split}.npz", packed)
        digests[split] = {"n": len(next(iter(examples.values()))), "sha256": hashlib.sha256(packed).hexdigest()}
    write_json(
        folder / "data.json",
        {"name": name}
        | facts
        | {
            "splits": digests,
            "sha256": hashlib.sha256("".join(d["sha256"] for d in digests.values()).encode()).hexdigest(),
        },
    )


if __name__ == "__main__":
    stage.run_named(prepare)
