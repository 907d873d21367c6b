"""The timed rounds of one bundle's targets, kept block by block, so that a run that is killed goes on from there."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from deploy.errors import words
from deploy.files import kept_json, read_json
from deploy.latency import RequestFailed, Requests, alone, interleaved, on_device
from deploy.told import Told

ROUNDS = 700  # earns a p99 with an upper bound, which takes 662
ROUNDS_LEAST = 64  # earns a p90
BLOCK = 70  # rounds between two writings to the cache
WARM_UP = 20  # untimed calls of each target before its first round in this process
SECONDS = 30.0  # about what the timed rounds of one bundle may take
ALONE_BELOW_S = 1e-3  # targets faster than this are timed alone as well
ON_DEVICE = 200  # requests that the device's own clock times


def timed(
    requests: Mapping[str, Requests],
    told: Mapping[str, Mapping[str, Told]],
    progress: Callable[[Iterable[int]], Iterable[int]],
    cache: Path | None,
) -> tuple[int, dict[str, dict[str, Any]]]:
    """Time all of ``requests`` in turn.

    A block in which one fails is timed again without it, so that the rounds of the others stay whole and interleaved.

    Args:
        told: of those on a GPU, graph -> how its calls are carried out.

    Returns:
        How many rounds, and by name ``failed``, or ``latency_s`` ``(rounds,)`` and ``alone_s``; of those on a GPU also
        ``device_s``, ``device_share``, ``no_graph`` and ``on_cpu``, as ``deploy.measurement`` says.
    """
    facts = _failed_before(requests, cache)
    asked = {name: request for name, request in requests.items() if name not in facts}
    of = hashlib.sha256("\n".join(sorted(requests)).encode()).hexdigest()[:8]  # blocks of others are of no use
    warm_up = [WARM_UP]  # spent by the first block that is not read from the cache

    def answering(make: Callable[[], Any], name: str = "") -> Any:
        """What ``make`` gives once nobody fails any more; ``None`` where ``name``, whose own matter it is, fails."""
        while True:
            try:
                return make()
            except RequestFailed as failed:
                who = name or failed.name
                facts[who] = {"failed": failure(cache, who, failed.error)}
                del asked[who]
            if name:
                return None

    def block(first: int) -> dict[str, list[float]]:
        times = interleaved(asked, min(BLOCK, rounds - first), sum(warm_up), seed=first, first=first)
        warm_up.clear()
        return {name: [_short(s) for s in latency_s] for name, latency_s in times.items()}

    rounds = int(kept(cache, f"rounds of {of}", partial(answering, partial(_rounds, asked))))
    blocks = [
        kept(cache, f"rounds of {of} from {first}", partial(answering, partial(block, first)))
        for first in progress(range(0, rounds, BLOCK))
    ]
    for name in list(asked):
        latency_s = [s for times in blocks for s in times[name]]
        own: dict[str, Any] = {"latency_s": latency_s, "alone_s": None}
        if np.median(latency_s) < ALONE_BELOW_S:
            make = partial(answering, partial(_alone, asked[name], rounds), name)
            own["alone_s"] = kept(cache, f"alone {name}", make)
        if name in told and name in asked:
            make = partial(answering, partial(_on_device, asked[name], told[name]), name)
            own |= kept(cache, f"device {name}", make) or {}
        if name in asked:
            facts[name] = own
    return rounds, facts


def kept(cache: Path | None, name: str, make: Callable[[], Any]) -> Any:
    """What ``cache`` keeps under ``name``; what ``make`` gives where it keeps nothing, or there is no cache."""
    return make() if cache is None else kept_json(cache / f"{name}.json", make)


def failure(cache: Path | None, name: str, error: Exception) -> str:
    """Why ``name`` failed; kept, so that a run that goes on from there times the same targets in all its rounds."""
    return str(kept(cache, f"failed {name}", partial(words, error)))


def _failed_before(names: Iterable[str], cache: Path | None) -> dict[str, dict[str, Any]]:
    """Those of ``names`` that failed in the run that was killed, each with ``failed``."""
    files = {name: cache / f"failed {name}.json" for name in names} if cache else {}
    return {name: {"failed": read_json(file)} for name, file in files.items() if file.is_file()}


def _rounds(requests: Mapping[str, Requests]) -> int:
    """As many rounds as fit into ``SECONDS``, between ``ROUNDS_LEAST`` and ``ROUNDS``, from three trial rounds."""
    if not requests:
        return 0
    trial = interleaved(requests, rounds=3)
    round_s = sum(float(np.median(latency_s)) for latency_s in trial.values())
    return int(min(ROUNDS, max(ROUNDS_LEAST, SECONDS / round_s)))


def _alone(requests: Requests, rounds: int) -> float:
    alone(requests, WARM_UP)
    return _short(np.median(alone(requests, rounds)))


def _on_device(requests: Requests, told: Mapping[str, Told]) -> dict[str, Any]:
    on_device(requests, told.values(), WARM_UP)
    for of in told.values():
        of.calls = of.replays = 0
    device_s, wall_s = on_device(requests, told.values(), ON_DEVICE)
    by_its_clock = bool(device_s.any())
    placed = [of.on_cpu for of in told.values()]
    return {
        "device_s": _short(np.median(device_s)) if by_its_clock else None,
        "device_share": _short(device_s.sum() / wall_s.sum()) if by_its_clock else None,
        "no_graph": "; ".join(f"{graph}: {why}" for graph, of in told.items() if (why := _plain(of))),
        "on_cpu": None if None in placed else [node for nodes in placed for node in nodes or ()],
    }


def _plain(told: Told) -> str:
    """Why calls are launched step by step, all or some; empty where each was replayed."""
    if told.plain or told.replays == told.calls:
        return told.plain
    return f"{told.replays} of {told.calls} calls are: of more shapes than graphs are kept, or at their first coming"


def _short(value: float) -> float:
    """Four digits: finer than any clock's noise."""
    return float(f"{value:.4g}")
