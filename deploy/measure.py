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
from deploy.errors import Refused, words
from deploy.files import sha256
from deploy.latency import Requests
from deploy.measurement import FORMAT
from deploy.memory import measure_memory
from deploy.numeric import all_finite, error_max, growth, rounding
from deploy.rounds import failure, kept, timed
from deploy.run import Run
from deploy.runtimes import THREADS
from deploy.targets import Target
from deploy.tasks import answer_all, load_task

TRAINED = "trained on"  # the trained network's name among the timed, before the device


def measure(
    bundle: Bundle,
    targets: list[Target],
    host: dict[str, Any],
    trained: dict[str, dict[str, Run]] | None = None,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    cache: Path | None = None,
    units: int | None = None,
    around: Callable[[str, Requests], Requests] | None = None,
) -> dict[str, Any]:
    """Accuracy, memory and latency of every target, from the same opened artefact.

    Args:
        trained: device -> graph -> the trained network as a ``run``, where PyTorch is; timed in turn with the targets.
            Under further names (``cuda fp16``) others of PyTorch's ways to run it, which are timed and no more.
        progress: wraps the timed rounds, for a bar.
        cache: where what is measured is kept as it is measured, so that a run that is killed goes on from there.
        units: measure the first so many of ``test`` alone, and no drift; ``None``: all of them.
        around: is given a target's name and its requests, and gives those that are timed in their place.

    Returns:
        The measurement, as ``deploy.measurement`` tells it.

    Raises:
        Refused: the trained network that was handed in is not the one whose answers the bundle carries.
    """
    task = load_task(bundle.task)
    examples, exact = _first(load_examples(bundle, "test"), units), _first(load_answers(bundle, "float64"), units)
    reference, requests = _trained(bundle, task, trained or {}, exact, examples, cache, units)
    rows: dict[str, dict[str, Any]] = {}
    for target in targets:
        rows[target.name], asked = _row(bundle, task, target, exact, examples, cache)
        if asked:
            requests[target.name] = around(target.name, asked) if around else asked
    told = {target.name: target.told for target in targets if target.device == "cuda" and target.told}
    rounds, times = timed(requests, told, progress, cache)
    for name, facts in times.items():
        _enter(name, facts, reference, rows)
    return {
        "format": FORMAT,
        "recipe": bundle.recipe,
        "task": bundle.task,
        "contract_sha256": bundle.sha256,
        "host": host,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "n": len(reference["predicted"]),
        "units": units,
        "latency": {"batch": 1, "threads": THREADS, "rounds": rounds, "order": "random within a round"},
        "trained": reference,
        "targets": rows,
    }


def _first(arrays: dict[str, np.ndarray], units: int | None) -> dict[str, np.ndarray]:
    """The first so many units, and then without ``drift``, which is one long run through all of them."""
    return arrays if units is None else {name: array[:units] for name, array in arrays.items() if name != "drift"}


def _trained(
    bundle: Bundle,
    task: ModuleType,
    trained: dict[str, dict[str, Run]],
    exact: dict[str, np.ndarray],
    examples: dict[str, np.ndarray],
    cache: Path | None,
    units: int | None,
) -> tuple[dict[str, Any], dict[str, Requests]]:
    """What there is to tell of the trained network before it is timed, and its requests by name."""
    recorded = _first(load_answers(bundle, "float32"), units)
    reference = _observe(task, recorded, exact, examples) | {"rounding": rounding(exact), "latency": {}}
    reference["exact"] = str(np.result_type(*(array for array in exact.values() if array.dtype.kind == "f")))
    requests: dict[str, Requests] = {}
    for device, runs in trained.items():
        if device == "cpu":  # where the answers were recorded; a GPU's float32 rounds otherwise
            kept(cache, "trained", partial(_check_trained, bundle, task, runs, examples, recorded, exact))
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
    facts = kept(cache, target.name, partial(_answered, bundle, target, task, runs, exact, examples))
    if "failed" in facts:
        return row | facts, []
    try:
        requests: Requests = task.requests(runs, examples)
        requests[0]()  # what cannot answer one unit alone is not timed
    except Exception as error:  # a runtime raises what it likes
        return row | {"failed": failure(cache, target.name, error)}, []
    memory = kept(cache, f"memory {target.name}", partial(measure_memory, target, bundle.task, examples))
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
        answers = answer_all(task, runs, examples) if "drift" in exact else task.answer(runs, examples)
    except Exception as error:
        return {"failed": words(error)}
    return _observe(task, answers, exact, examples) | {
        "size_bytes": sum(path.stat().st_size for path in target.files.values()),
        "sha256": {graph: sha256(path) for graph, path in target.files.items()},
        "graph_sha256": bundle.graph_sha256(target.precision),
        "notes": list(target.notes),
    }


def _enter(name: str, facts: dict[str, Any], reference: dict[str, Any], rows: dict[str, dict[str, Any]]) -> None:
    """Enter what ``timed`` tells of ``name``: a target that failed keeps nothing else that was measured of it."""
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


if __name__ == "__main__":
    from deploy.standalone import main  # which imports this file

    main()
