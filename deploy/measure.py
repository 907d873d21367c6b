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
from deploy.files import kept_json, read_json, sha256
from deploy.latency import Requests, alone, interleaved
from deploy.measurement import FORMAT
from deploy.memory import measure_memory
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
    """Accuracy, memory and latency of every target, from the same opened artefact.

    Args:
        trained: device -> graph -> the trained network as a ``run``, where PyTorch is; timed in turn with the targets.
        progress: wraps the timed rounds, for a bar.
        cache: where what is measured is kept as it is measured, so that a run that is killed goes on from there.

    Returns:
        The measurement, as ``deploy.measurement`` tells it.

    Raises:
        Refused: the trained network that was handed in is not the one whose answers the bundle carries.
    """
    task = load_task(bundle.task)
    examples, exact = load_examples(bundle, "test"), load_answers(bundle, "float64")
    reference, requests = _trained(bundle, task, trained or {}, exact, examples, cache)
    rows: dict[str, dict[str, Any]] = {}
    for target in targets:
        rows[target.name], asked = _row(bundle, task, target, exact, examples, cache)
        if asked:
            requests[target.name] = asked
    rounds, timed = _timed(requests, progress, cache)
    for name, facts in timed.items():
        _enter(name, facts, reference, rows)
    return {
        "format": FORMAT,
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


def _trained(
    bundle: Bundle,
    task: ModuleType,
    trained: dict[str, dict[str, Run]],
    exact: dict[str, np.ndarray],
    examples: dict[str, np.ndarray],
    cache: Path | None,
) -> tuple[dict[str, Any], dict[str, Requests]]:
    """What there is to tell of the trained network before it is timed, and its requests by name."""
    recorded = load_answers(bundle, "float32")
    reference = _observe(task, recorded, exact, examples) | {"rounding": rounding(exact), "latency": {}}
    reference["exact"] = str(np.result_type(*(array for array in exact.values() if array.dtype.kind == "f")))
    requests: dict[str, Requests] = {}
    for device, runs in trained.items():
        if device == "cpu":  # where the answers were recorded; a GPU's float32 rounds otherwise
            _kept(cache, "trained", partial(_check_trained, bundle, task, runs, examples, recorded, exact))
        requests[f"{TRAINED} {device}"] = task.requests(runs, examples)
    return reference, requests


def _row(
    bundle: Bundle,
    task: ModuleType,
    target: Target,
    exact: dict[str, np.ndarray],
    examples: dict[str, np.ndarray],
    cache: Path | None,
) -> tuple[dict[str, Any], Requests]:
    """The row of one target before it is timed, and its requests: none where it cannot be timed."""
    row: dict[str, Any] = {"precision": target.precision, "device": target.device, "reason": target.reason}
    if target.reason:
        return row, []
    try:
        runs = target.open()
    except Refused as error:
        return row | {"reason": str(error)}, []
    facts = _kept(cache, target.name, partial(_answered, bundle, target, task, runs, exact, examples))
    if "failed" in facts:
        return row | facts, []
    try:
        requests: Requests = task.requests(runs, examples)
        requests[0]()  # what cannot answer one unit alone is not timed
    except Exception as error:  # a runtime raises what it likes
        return row | {"failed": _failed(cache, target.name, error)}, []
    memory = _kept(cache, f"memory {target.name}", partial(measure_memory, target, bundle.task, examples))
    return row | facts | memory, requests


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
        answers = answer_all(task, runs, examples)
    except Exception as error:
        return {"failed": _told(error)}
    return _observe(task, answers, exact, examples) | {
        "size_bytes": sum(path.stat().st_size for path in target.files.values()),
        "sha256": {graph: sha256(path) for graph, path in target.files.items()},
        "graph_sha256": bundle.graph_sha256(target.precision),
    }


def _enter(name: str, facts: dict[str, Any], reference: dict[str, Any], rows: dict[str, dict[str, Any]]) -> None:
    """Enter what ``_timed`` tells of ``name``: a target that failed keeps nothing else that was measured of it."""
    if name.startswith(TRAINED):
        device = name.removeprefix(f"{TRAINED} ")
        if "failed" in facts:
            reference.setdefault("failed", {})[device] = facts["failed"]
        else:
            reference["latency"][device] = facts
    elif "failed" in facts:
        rows[name] = {key: rows[name][key] for key in ("precision", "device", "reason")} | facts
    else:
        rows[name] |= facts


class _Asked(dict[str, Requests]):
    """Requests by name. ``last`` is whose were looked up last, so whose it was that raised.

    Looking up lies outside the clock; a function around each request would lie inside.
    """

    last = ""

    def __getitem__(self, name: str) -> Requests:
        self.last = name
        return super().__getitem__(name)


def _timed(
    requests: dict[str, Requests], progress: Callable[[Iterable[int]], Iterable[int]], cache: Path | None
) -> tuple[int, dict[str, dict[str, Any]]]:
    """How many rounds, and by name ``latency_s`` ``(rounds,)`` and ``alone_s``, or ``failed``; kept block by block.

    A block in which one fails is timed again without it, so that the rounds of the others stay whole and interleaved.
    """
    facts = _failed_before(requests, cache)
    asked = _Asked({name: request for name, request in requests.items() if name not in facts})
    warm_up = [WARM_UP]  # spent by the first block that is not read from the cache

    def answering(make: Callable[[], Any]) -> Any:
        try:
            return make()
        except Exception as error:
            if asked.last not in asked:  # then it was no request that raised
                raise
            facts[asked.last] = {"failed": _failed(cache, asked.last, error)}
            del asked[asked.last]
        return answering(make)

    def kept(name: str, make: Callable[[], Any]) -> Any:
        return _kept(cache, name, partial(answering, make))

    def block(first: int) -> dict[str, list[float]]:
        timed = interleaved(asked, min(BLOCK, rounds - first), sum(warm_up), seed=first, first=first)
        warm_up.clear()
        return {name: [float(f"{s:.4g}") for s in latency_s] for name, latency_s in timed.items()}

    rounds = int(kept("rounds", partial(_rounds, asked)))
    blocks = [kept(f"rounds from {first}", partial(block, first)) for first in progress(range(0, rounds, BLOCK))]
    for name in list(asked):
        latency_s = [s for timed in blocks for s in timed[name]]
        fast = np.median(latency_s) < ALONE_BELOW_S
        alone_s = kept(f"alone {name}", partial(_alone, asked, name, rounds)) if fast else None
        if name in asked:
            facts[name] = {"latency_s": latency_s, "alone_s": alone_s}
    return rounds, facts


def _alone(asked: _Asked, name: str, rounds: int) -> float | None:
    """The median back to back; ``None`` of one that has failed at it."""
    if name not in asked:
        return None
    requests = asked[name]
    interleaved({"alone": requests}, 0, WARM_UP)
    return float(f"{np.median(alone(requests, rounds)):.4g}")


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, Refused) else f"{type(error).__name__}: {error}"


def _failed(cache: Path | None, name: str, error: Exception) -> str:
    """Why ``name`` failed; kept, so that a run that goes on from there times the same targets in all its rounds."""
    return _kept(cache, f"failed {name}", partial(_told, error))


def _failed_before(names: Iterable[str], cache: Path | None) -> dict[str, dict[str, Any]]:
    """Those of ``names`` that failed in the run that was killed, each with ``failed``."""
    files = {name: cache / f"failed {name}.json" for name in names} if cache else {}
    return {name: {"failed": read_json(file)} for name, file in files.items() if file.is_file()}


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
