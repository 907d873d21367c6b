import random

import numpy as np

from deploy.latency import alone, interleaved


class Machine:
    """A clock that only work moves, and a record of who worked."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.calls: list[tuple[str, int]] = []

    def requests(self, name: str, cost_ns: int, units: int = 5) -> list:
        def work(unit: int) -> None:
            self.calls.append((name, unit))
            self.now_ns += cost_ns

        return [lambda unit=unit: work(unit) for unit in range(units)]

    def clock(self) -> int:
        return self.now_ns


def test_times_are_those_of_each_target() -> None:
    machine = Machine()
    targets = {"slow": machine.requests("slow", 3_000), "fast": machine.requests("fast", 1_000)}
    latency_s = interleaved(targets, rounds=40, warm_up=2, clock=machine.clock)
    np.testing.assert_allclose(latency_s["slow"], 3e-6)
    np.testing.assert_allclose(latency_s["fast"], 1e-6)


def test_each_round_asks_every_target_the_same_unit_in_random_order() -> None:
    machine = Machine()
    targets = {name: machine.requests(name, 10) for name in ("a", "b", "c")}
    interleaved(targets, rounds=60, warm_up=0, clock=machine.clock)
    rounds = [machine.calls[i : i + 3] for i in range(0, 180, 3)]
    for i, calls in enumerate(rounds):
        assert {name for name, _ in calls} == {"a", "b", "c"}
        assert {unit for _, unit in calls} == {i % 5}
    orders = {tuple(name for name, _ in calls) for calls in rounds}
    assert len(orders) == 6
    first = [calls[0][0] for calls in rounds]
    assert max(first.count(name) for name in "abc") < 40


def test_warm_up_is_not_timed() -> None:
    machine = Machine()
    requests = machine.requests("a", 1_000)
    cold = iter([10**9] * 3)

    def request() -> None:
        machine.now_ns += next(cold, 1_000)

    latency_s = interleaved({"a": [request], "b": requests}, rounds=10, warm_up=3, clock=machine.clock)
    np.testing.assert_allclose(latency_s["a"], 1e-6)


def test_a_machine_that_slows_down_leaves_the_ratio_as_it_was() -> None:
    machine = Machine()
    shaken = random.Random(0)

    def work(cost_ns: int) -> None:
        machine.now_ns += int(cost_ns * (1 + machine.now_ns / 1e9) * shaken.uniform(0.99, 1.01))

    latency_s = interleaved(
        {"trained": [lambda: work(1_000_000)], "deployed": [lambda: work(250_000)]}, rounds=400, clock=machine.clock
    )
    assert latency_s["trained"][-1] > 1.2 * latency_s["trained"][0]
    np.testing.assert_allclose(np.median(latency_s["deployed"] / latency_s["trained"]), 0.25, rtol=0.01)


def test_alone_runs_one_target_back_to_back() -> None:
    machine = Machine()
    np.testing.assert_allclose(alone(machine.requests("a", 500), 7, clock=machine.clock), 5e-7)
    assert [unit for _, unit in machine.calls] == [0, 1, 2, 3, 4, 0, 1]
