"""Latency, interleaved: every target answers the same request in turn, in random order, round after round.

What drifts (clock, temperature, neighbours) then falls on all alike, and a round's ratio is a paired observation.
Inputs are in memory, outputs are on the host when a call returns, and no loader runs inside the clock.
"""

import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from deploy.told import Told

Requests = Sequence[Callable[[], object]]


class RequestFailed(Exception):
    """A request of the target ``name`` raised ``error``."""

    def __init__(self, name: str, error: Exception) -> None:
        super().__init__(f"{name}: {error}")
        self.name, self.error = name, error


def interleaved(
    targets: Mapping[str, Requests],
    rounds: int,
    warm_up: int = 20,
    seed: int = 0,
    first: int = 0,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, np.ndarray]:
    """Time one request of every target in each round; all targets answer the same request in a round.

    Args:
        targets: name -> its requests, the same units in the same order for every target.
        rounds: timed rounds; request ``round % len(requests)`` is used.
        first: number of the first round.
        warm_up: untimed calls of each target before the first round.
        clock: nanoseconds; injected by tests.

    Returns:
        name -> latency_s ``(rounds,)``, seconds; position = round, so that two targets' arrays are paired.

    Raises:
        RequestFailed: a request raised; the name is told.
    """
    order = list(targets)
    shuffle = random.Random(seed).shuffle
    latency_s = {name: np.empty(rounds) for name in order}
    name = ""
    try:
        for name in order:
            for i in range(warm_up):
                targets[name][i % len(targets[name])]()
        for i in range(rounds):
            shuffle(order)
            for name in order:
                request = targets[name][(first + i) % len(targets[name])]
                start = clock()
                request()
                latency_s[name][i] = (clock() - start) * 1e-9
    except Exception as error:  # a runtime raises what it likes
        raise RequestFailed(name, error) from error
    return latency_s


def alone(requests: Requests, rounds: int, clock: Callable[[], int] = time.perf_counter_ns) -> np.ndarray:
    """Time one target back to back, caches warm: latency_s ``(rounds,)``.

    Interleaving evicts the caches of tiny networks; both numbers are facts, so both are reported.

    Raises:
        RequestFailed: a request raised.
    """
    return interleaved({"alone": requests}, rounds, warm_up=0, clock=clock)["alone"]


def on_device(
    requests: Requests, told: Collection[Told], rounds: int, clock: Callable[[], int] = time.perf_counter_ns
) -> tuple[np.ndarray, np.ndarray]:
    """Each request's seconds by the device's own clock, and by the host's: two arrays ``(rounds,)``, back to back.

    Where a request is several calls, the device's are added up. Apart from the timed rounds, since asking costs time.

    Args:
        told: of each of the target's graphs.

    Raises:
        RequestFailed: a request raised.
    """
    device_s, wall_s = np.empty(rounds), np.empty(rounds)
    _set_timing(told, True)
    try:
        for i in range(rounds):
            wall_s[i] = alone([requests[i % len(requests)]], 1, clock)[0]
            device_s[i] = sum(sum(of.device_s) for of in told)
            _set_timing(told, True)
    finally:
        _set_timing(told, False)
    return device_s, wall_s


def _set_timing(told: Collection[Told], timing: bool) -> None:
    """Switch the device's clock on or off, and forget what it told."""
    for of in told:
        of.timing = timing
        of.device_s.clear()
