"""What each graph is fed while a task answers examples: no example shows what a second graph takes from the first."""

from types import ModuleType
from typing import Any

import numpy as np

from deploy.run import Run
from deploy.state import from_zero


def recorded_feeds(
    task: ModuleType, runs: dict[str, Run], examples: dict[str, np.ndarray], io: dict[str, Any] | None = None
) -> dict[str, list[dict[str, np.ndarray]]]:
    """Graph -> its inputs, call by call, in the order of the calls.

    Args:
        io: each graph's inputs and outputs; with it a state that the task does not give is recorded as the zeros that
            it starts at, else left out.
    """
    feeds: dict[str, list[dict[str, np.ndarray]]] = {graph: [] for graph in runs}

    def recording(graph: str, run: Run) -> Run:
        def record(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            feeds[graph].append(inputs)
            return run(inputs)

        return record

    recorded = {graph: recording(graph, run) for graph, run in runs.items()}
    task.answer({graph: from_zero(run, io[graph]) for graph, run in recorded.items()} if io else recorded, examples)
    return feeds
