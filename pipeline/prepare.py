"""Stage ``prepare@dataset``: raw files to arrays, in the four disjoint splits that the data set makes."""

import hashlib
from typing import Any

from deploy.contract import pack_arrays
from deploy.files import write_bytes, write_json
from pipeline import stage
from pipeline.datasets import load_dataset
from pipeline.recipe import Project


def prepare(project: Project, name: str) -> None:
    """Write ``{train,calib,select,test}.npz`` and ``data.json`` into ``build/prepare/<name>/``."""
    dataset = load_dataset(name)
    folder = project.build / "prepare" / name
    digests: dict[str, Any] = {}
    for split, examples in dataset.prepare(project.build / "download" / name).items():
        packed = pack_arrays(examples)
        write_bytes(folder / f"{split}.npz", packed)
        digests[split] = {"n": len(next(iter(examples.values()))), "sha256": hashlib.sha256(packed).hexdigest()}
    write_json(
        folder / "data.json",
        {
            "name": name,
            "licence": dataset.LICENCE,
            "classes": list(dataset.CLASSES),
            "network": dataset.NETWORK,
            "scaled": dataset.SCALED,
            "splits": digests,
            "sha256": hashlib.sha256("".join(d["sha256"] for d in digests.values()).encode()).hexdigest(),
        },
    )


if __name__ == "__main__":
    stage.run_named(prepare)
