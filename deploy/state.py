"""A recurrent network's state: an input ``X`` of a graph that also has an output ``next_X``, batch first."""

from typing import Any

import numpy as np

from deploy.run import Run

NEXT = "next_"


def from_zero(run: Run, io: dict[str, list[dict[str, Any]]]) -> Run:
    """``run``, but a state that a call does not give starts at zero.

    Args:
        io: the graph's ``inputs`` and ``outputs`` as the contract has them.
    """
    outputs = {tensor["name"] for tensor in io["outputs"]}
    states = [tensor for tensor in io["inputs"] if NEXT + tensor["name"] in outputs]
    if not states:
        return run

    def started(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        absent = [tensor for tensor in states if tensor["name"] not in inputs]
        batch = len(next(iter(inputs.values())))
        return run(inputs | {t["name"]: np.zeros((batch, *t["shape"][1:]), t["dtype"]) for t in absent})

    return started


def carried(outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The states that a call gave back, named as the next call takes them."""
    return {name.removeprefix(NEXT): array for name, array in outputs.items() if name.startswith(NEXT)}
