"""Latency, interleaved: every target answers the same request in turn, in random order, round after round.

What drifts (clock, temperature, neighbours) then falls on all alike, and a round's ratio is a paired observation.
Inputs are in memory, outputs are on the host when a call returns, and no loader runs inside the clock.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Requests = Sequence[Callable[[], object]]


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
    """
    order = list(targets)
    shuffle = random.Random(seed).shuffle
    for name in order:
        for i in range(warm_up):
            targets[name][i % len(targets[name])]()
    latency_s = {name: np.empty(rounds) for name in order}
    for i in range(rounds):
        shuffle(order)
        for name in order:
            request = targets[name][(first + i) % len(targets[name])]
            start = clock()
            request()
            latency_s[name][i] = (clock() - start) * 1e-9
    return latency_s


def alone(requests: Requests, rounds: int, clock: Callable[[], int] = time.perf_counter_ns) -> np.ndarray:
    """Time one target back to back, caches warm: latency_s ``(rounds,)``.

    Interleaving evicts the caches of tiny networks; both numbers are facts, so both are reported.
    """
    latency_s = np.empty(rounds)
    for i in range(rounds):
        request = requests[i % len(requests)]
        start = clock()
        request()
        latency_s[i] = (clock() - start) * 1e-9
    return latency_s
