"""Stage ``prepare@dataset``: raw files to arrays, in four disjoint splits.

``train`` finds the weights, ``calib`` the ranges of int8 and fp16, ``select`` whatever is chosen (the epoch, the
quantisation), ``test`` nothing but the verdict.
"""

import hashlib
from typing import Any

import numpy as np

from deploy.contract import pack_arrays
from deploy.errors import Refused
from deploy.files import write_bytes, write_json
from pipeline import stage
from pipeline.download import load_dataset
from pipeline.recipe import Project

SEED = 0


def prepare(project: Project, name: str) -> None:
    """Write ``{train,calib,select,test}.npz`` and ``data.json`` into ``build/prepare/<name>/``."""
    dataset = load_dataset(name)
    examples = dataset.prepare(project.build / "download" / name)
    folder = project.build / "prepare" / name
    digests: dict[str, Any] = {}
    units = len(next(iter(examples.values())))
    for split, index in split_by_class(examples.get("label", np.zeros(units)), dataset.SPLITS).items():
        packed = pack_arrays({key: array[index] for key, array in examples.items()})
        write_bytes(folder / f"{split}.npz", packed)
        digests[split] = {"n": len(index), "sha256": hashlib.sha256(packed).hexdigest()}
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


def split_by_class(label: np.ndarray, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """Disjoint indices of each split, every class in proportion, shuffled, the same every time.

    Args:
        label: class of each item ``(n,)``.
        sizes: split -> items; together at most ``n``.

    Raises:
        Refused: more items are asked for than there are.
    """
    if sum(sizes.values()) > len(label):
        raise Refused(f"splits {sizes} ask for {sum(sizes.values())} items; there are {len(label)}. Make them smaller.")
    random = np.random.default_rng(SEED)
    # Each class's items, shuffled, at even distances from 0 to 1: any run of this order has the classes in proportion.
    place = np.empty(len(label))
    for value in np.unique(label):
        items = random.permutation(np.flatnonzero(label == value))
        place[items] = (np.arange(len(items)) + random.random()) / len(items)
    order = np.argsort(place, kind="stable")
    ends = np.cumsum(list(sizes.values()))
    starts = ends - list(sizes.values())
    return {split: random.permutation(order[a:b]) for split, a, b in zip(sizes, starts, ends, strict=True)}


if __name__ == "__main__":
    stage.run_named(prepare)
