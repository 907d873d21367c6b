"""Measure one bundle on every target that is here: facts, never a judgement.

The stage and a board run this same code. A host with PyTorch hands the trained network in as one more ``run``; a
board has its recorded answers only.
"""

from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from deploy.contract import Bundle, load_answers, load_examples
from deploy.errors import Refused
from deploy.files import kept_json, sha256
from deploy.latency import Requests, alone, interleaved
from deploy.numeric import all_finite, error_max, growth, rounding
from deploy.run import Run
from deploy.runtimes import THREADS
from deploy.targets import Target
from deploy.tasks import answer_all, load_task

TRAINED = "trained on"  # the trained network's name among the timed, before the device
ROUNDS = 700  # earns a p99 with an upper bound, which takes 662
ROUNDS_LEAST = 64  # earns a p90
BLOCK = 70  # rounds between two writings to the cache
WARM_UP = 20  # untimed calls of each target before its first round in this process
SECONDS = 30.0  # about what the timed rounds of one bundle may take
ALONE_BELOW_S = 1e-3  # targets faster than this are timed alone as well


def measure(
    bundle: Bundle,
    targets: list[Target],
    host: dict[str, Any],
    trained: dict[str, dict[str, Run]] | None = None,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Accuracy and latency of every target, from the same opened artefact.

    Args:
        trained: device -> graph -> the trained network as a ``run``, where PyTorch is; timed in turn with the targets.
        progress: wraps the timed rounds, for a bar.
        cache: where what is measured is kept as it is measured, so that a run that is killed goes on from there.

    Returns:
        The measurement. ``recipe``, ``task``, ``contract_sha256``, ``host``, ``date``, ``n``; ``latency``, how it was
        taken. ``trained``: the recorded answers' ``statistics``, ``predicted``, ``error_max``; ``rounding``, what
        float32 alone costs; ``exact``, the type of the answers that errors are against; ``latency`` by device.
        ``targets``: each with ``precision``, ``device`` and either a ``reason`` (not measured), or ``failed`` (it
        opened and then could not answer), or ``statistics`` ``(n, k)``, ``predicted``, ``finite``, ``error_max``
        (against the exact answers), ``drift`` (its growth, where the task has one), ``size_bytes``, ``sha256``,
        ``graph_sha256``, ``latency_s`` ``(rounds,)`` and ``alone_s``, the median back to back.

    Raises:
        Refused: the trained network that was handed in is not the one whose answers the bundle carries.
    """
    task = load_task(bundle.task)
    examples = load_examples(bundle, "test")
    exact, recorded = load_answers(bundle, "float64"), load_answers(bundle, "float32")
    reference = _observe(task, recorded, exact, examples) | {"rounding": rounding(exact), "latency": {}}
    reference["exact"] = str(np.result_type(*(array for array in exact.values() if array.dtype.kind == "f")))
    requests: dict[str, Requests] = {}
    for device, runs in (trained or {}).items():
        if device == "cpu":  # where the answers were recorded; a GPU's float32 rounds otherwise
            _kept(cache, "trained", partial(_check_trained, bundle, task, runs, examples, recorded, exact))
        requests[f"{TRAINED} {device}"] = task.requests(runs, examples)
    rows: dict[str, dict[str, Any]] = {}
    for target in targets:
        rows[target.name], runs = _open(target)
        if not runs:
            continue
        facts = _kept(cache, target.name, partial(_answered, bundle, target, task, runs, exact, examples))
        if "failed" not in facts:
            try:
                asked = task.requests(runs, examples)
                asked[0]()  # what cannot answer one unit alone must not end the timing of all
                requests[target.name] = asked
            except Refused as error:
                facts = {"failed": str(error)}
        rows[target.name] |= facts
    rounds, timed = _timed(requests, progress, cache)
    for name, facts in timed.items():
        if name.startswith(TRAINED):
            reference["latency"][name.removeprefix(f"{TRAINED} ")] = facts
        else:
            rows[name] |= facts
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


def _open(target: Target) -> tuple[dict[str, Any], dict[str, Run]]:
    """The row of one target as it begins, and its open runs, or no run and the reason."""
    row: dict[str, Any] = {"precision": target.precision, "device": target.device, "reason": target.reason}
    if target.reason:
        return row, {}
    try:
        return row, target.open()
    except Refused as error:
        return row | {"reason": str(error)}, {}


def _answered(
    bundle: Bundle,
    target: Target,
    task: ModuleType,
    runs: dict[str, Run],
    exact: dict[str, np.ndarray],
    examples: dict[str, np.ndarray],
) -> dict[str, Any]:
    """Accuracy of one open target, and what it was that answered."""
    try:
        facts = _observe(task, answer_all(task, runs, examples), exact, examples)
    except Refused as error:
        return {"failed": str(error)}
    return facts | {
        "size_bytes": sum(path.stat().st_size for path in target.files.values()),
        "sha256": {graph: sha256(path) for graph, path in target.files.items()},
        "graph_sha256": bundle.graph_sha256(target.precision),
    }


def _timed(
    requests: dict[str, Requests], progress: Callable[[Iterable[int]], Iterable[int]], cache: Path | None
) -> tuple[int, dict[str, dict[str, Any]]]:
    """How many rounds, and by name ``latency_s`` ``(rounds,)`` and ``alone_s``; rounds are kept block by block."""
    rounds = int(_kept(cache, "rounds", partial(_rounds, requests)))
    warm_up = [WARM_UP]  # spent by the first block that is not read from the cache

    def block(first: int) -> dict[str, list[float]]:
        calls = warm_up.pop() if warm_up else 0
        timed = interleaved(requests, min(BLOCK, rounds - first), calls, seed=first, first=first)
        return {name: [float(f"{s:.4g}") for s in latency_s] for name, latency_s in timed.items()}

    starts = progress(range(0, rounds, BLOCK))
    blocks = [_kept(cache, f"rounds from {first}", partial(block, first)) for first in starts]
    facts: dict[str, dict[str, Any]] = {}
    for name, request in requests.items():
        latency_s = [s for timed in blocks for s in timed[name]]
        fast = np.median(latency_s) < ALONE_BELOW_S
        alone_s = _kept(cache, f"alone {name}", partial(_alone, request, rounds)) if fast else None
        facts[name] = {"latency_s": latency_s, "alone_s": alone_s}
    return rounds, facts


def _alone(requests: Requests, rounds: int) -> float:
    interleaved({"alone": requests}, 0, WARM_UP)
    return float(f"{np.median(alone(requests, rounds)):.4g}")


def _kept(cache: Path | None, name: str, make: Callable[[], Any]) -> Any:
    return make() if cache is None else kept_json(cache / f"{name}.json", make)


def _observe(
    task: ModuleType, answers: dict[str, np.ndarray], exact: dict[str, np.ndarray], examples: dict[str, np.ndarray]
) -> dict[str, Any]:
    finite = all_finite(answers)
    facts = {
        "statistics": task.observe(answers, examples).tolist(),
        "predicted": task.decode(answers),
        "finite": finite,
        "error_max": error_max(answers, exact) if finite else None,  # JSON has no infinity
    }
    if finite and "drift" in exact:
        facts["drift"] = growth(answers["drift"], exact["drift"])
    return facts


def _check_trained(
    bundle: Bundle,
    task: ModuleType,
    runs: dict[str, Run],
    examples: dict[str, np.ndarray],
    recorded: dict[str, np.ndarray],
    exact: dict[str, np.ndarray],
) -> float:
    """How far the trained network at hand is from the recorded float64 answers, if that is near enough."""
    allowed = 10 * max(error_max(recorded, exact), rounding(exact))
    came = error_max(answer_all(task, runs, examples), exact)
    if not came <= allowed:
        raise Refused(
            f"{bundle.folder}: the trained network at hand is not the one this bundle was made from: its answers are "
            f"{came:.3g} from the recorded float64 ones, expected at most {allowed:.3g}. Run `dvc repro`."
        )
    return came


def _rounds(requests: dict[str, Requests]) -> int:
    """As many rounds as fit into ``SECONDS``, between ``ROUNDS_LEAST`` and ``ROUNDS``, from three trial rounds."""
    if not requests:
        return 0
    trial = interleaved(requests, rounds=3)
    round_s = sum(float(np.median(latency_s)) for latency_s in trial.values())
    return int(min(ROUNDS, max(ROUNDS_LEAST, SECONDS / round_s)))
