"""Measure one bundle on every target that is here: facts, never a judgement.

The stage and a board run this same code. A host with PyTorch hands the trained network in as one more ``run``; a
board has its recorded answers only.
"""

from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from types import ModuleType
from typing import Any

import numpy as np

from deploy.contract import Bundle, load_answers, load_examples
from deploy.errors import Refused
from deploy.files import sha256
from deploy.latency import Requests, alone, interleaved
from deploy.numeric import all_finite, error_max, rounding
from deploy.run import Run
from deploy.runtimes import THREADS
from deploy.targets import Target
from deploy.tasks import load_task

TRAINED = "trained on"  # the trained network's name among the timed, before the device
ROUNDS = 700  # earns a p99 with an upper bound, which takes 662
ROUNDS_LEAST = 64  # earns a p90
SECONDS = 30.0  # about what the timed rounds of one bundle may take
ALONE_BELOW_S = 1e-3  # targets faster than this are timed alone as well


def measure(
    bundle: Bundle,
    targets: list[Target],
    host: dict[str, Any],
    trained: dict[str, dict[str, Run]] | None = None,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> dict[str, Any]:
    """Accuracy and latency of every target, from the same opened artefact.

    Args:
        trained: device -> graph -> the trained network as a ``run``, where PyTorch is; timed in turn with the targets.
        progress: wraps the timed rounds, for a bar.

    Returns:
        The measurement. ``recipe``, ``task``, ``contract_sha256``, ``host``, ``date``, ``n``; ``latency``, how it was
        taken. ``trained``: the recorded answers' ``statistics``, ``predicted``, ``error_max``; ``rounding``, what
        float32 alone costs; ``latency`` by device. ``targets``: each with ``precision``, ``device`` and either a
        ``reason`` (not measured), or ``failed`` (it opened and then could not answer), or ``statistics`` ``(n, k)``,
        ``predicted``, ``finite``, ``error_max`` (against float64), ``size_bytes``, ``sha256``, ``graph_sha256``,
        ``latency_s`` ``(rounds,)`` and ``alone_s``, the median back to back.

    Raises:
        Refused: the trained network that was handed in is not the one whose answers the bundle carries.
    """
    task = load_task(bundle.task)
    examples = load_examples(bundle, "test")
    exact, recorded = load_answers(bundle, "float64"), load_answers(bundle, "float32")
    reference = _observe(task, recorded, exact, examples) | {"rounding": rounding(exact), "latency": {}}
    requests: dict[str, Requests] = {}
    for device, runs in (trained or {}).items():
        if device == "cpu":  # where the answers were recorded; a GPU's float32 rounds otherwise
            _check_trained(bundle, task.answer(runs, examples), recorded, exact)
        requests[f"{TRAINED} {device}"] = task.requests(runs, examples)
    rows: dict[str, dict[str, Any]] = {}
    for target in targets:
        row, runs = _accuracy(bundle, target, task, exact, examples)
        rows[target.name] = row
        if "statistics" in row:
            requests[target.name] = task.requests(runs, examples)
    rounds = _rounds(requests)
    for name, latency_s in interleaved(requests, rounds, progress=progress).items():
        fast = np.median(latency_s) < ALONE_BELOW_S
        timed = {
            "latency_s": [float(f"{s:.4g}") for s in latency_s],
            "alone_s": float(f"{np.median(alone(requests[name], rounds)):.4g}") if fast else None,
        }
        if name.startswith(TRAINED):
            reference["latency"][name.removeprefix(f"{TRAINED} ")] = timed
        else:
            rows[name] |= timed
    return {
        "recipe": bundle.recipe,
        "task": bundle.task,
        "contract_sha256": bundle.sha256,
        "host": host,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "n": len(reference["predicted"]),
        "latency": {"batch": 1, "threads": THREADS, "rounds": rounds, "order": "random within a round"},
        "trained": reference,
        "targets": rows,
    }


def _accuracy(
    bundle: Bundle, target: Target, task: ModuleType, exact: dict[str, np.ndarray], examples: dict[str, np.ndarray]
) -> tuple[dict[str, Any], dict[str, Run]]:
    """The row of one target but for its latency, and its open runs."""
    row: dict[str, Any] = {"precision": target.precision, "device": target.device, "reason": target.reason}
    if target.reason:
        return row, {}
    try:
        runs = target.open()
    except Refused as error:
        return row | {"reason": str(error)}, {}
    try:
        row |= _observe(task, task.answer(runs, examples), exact, examples)
    except Refused as error:
        return row | {"failed": str(error)}, {}
    row["size_bytes"] = sum(path.stat().st_size for path in target.files.values())
    row["sha256"] = {graph: sha256(path) for graph, path in target.files.items()}
    row["graph_sha256"] = bundle.graph_sha256(target.precision)
    return row, runs


def _observe(
    task: ModuleType, answers: dict[str, np.ndarray], exact: dict[str, np.ndarray], examples: dict[str, np.ndarray]
) -> dict[str, Any]:
    finite = all_finite(answers)
    return {
        "statistics": task.observe(answers, examples).tolist(),
        "predicted": task.decode(answers),
        "finite": finite,
        "error_max": error_max(answers, exact) if finite else None,  # JSON has no infinity
    }


def _check_trained(
    bundle: Bundle, live: dict[str, np.ndarray], recorded: dict[str, np.ndarray], exact: dict[str, np.ndarray]
) -> None:
    allowed = 10 * max(error_max(recorded, exact), rounding(exact))
    came = error_max(live, exact)
    if not came <= allowed:
        raise Refused(
            f"{bundle.folder}: the trained network at hand is not the one this bundle was made from: its answers are "
            f"{came:.3g} from the recorded float64 ones, expected at most {allowed:.3g}. Run `dvc repro`."
        )


def _rounds(requests: dict[str, Requests]) -> int:
    """As many rounds as fit into ``SECONDS``, between ``ROUNDS_LEAST`` and ``ROUNDS``, from three trial rounds."""
    if not requests:
        return 0
    trial = interleaved(requests, rounds=3)
    round_s = sum(float(np.median(latency_s)) for latency_s in trial.values())
    return int(min(ROUNDS, max(ROUNDS_LEAST, SECONDS / round_s)))
