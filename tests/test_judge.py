import types
from typing import Any

import numpy as np
import pytest
from measured import measurement, row, statistics

from deploy.tasks.metric import Metric
from pipeline import judge as judge_module
from pipeline.judge import judge, judge_accuracy
from pipeline.recipe import Budget
from pipeline.verdicts import FAIL, INCONCLUSIVE, NOT_MEASURED, PASS

BUDGET = Budget(drop=1.0, latency_ratio={"fp32": 1.0})


def verdict(facts: dict[str, Any], floor: float = 90.0, budget: Budget = BUDGET, **trained: Any) -> dict[str, Any]:
    return judge(measurement({"fp32": facts}, **trained), "now", floor, budget)["targets"]["fp32"]


def test_a_faithful_copy_passes() -> None:
    came = verdict(row())
    assert came["verdict"] == PASS
    assert came["trained"] == came["deployed"] == pytest.approx(100 * 897 / 900)
    assert came["drop_upper95"] == pytest.approx(0.3345, abs=1e-3)
    assert came["latency_ratio"] == pytest.approx(0.5, abs=0.01)
    assert came["p50_ms"] == pytest.approx(0.503, abs=0.001)
    assert came["metric"] == "accuracy, %"
    assert came["n"] == 900 and came["size_bytes"] == 1000 and came["graph_sha256"] == "ab" * 32
    assert came["flips"] == {"lost": 0, "won": 0} and came["error_ratio"] == 1.0


def test_a_loss_beyond_the_budget_fails_with_its_lower_bound() -> None:
    came = verdict(row(statistics=statistics(list(range(3, 43)))))
    assert came["verdict"] == FAIL
    assert came["flips"] == {"lost": 40, "won": 3}
    assert "at least" in came["reason"] and "budget 1" in came["reason"]


def test_a_loss_that_900_units_cannot_tell_is_inconclusive_and_says_how_many_could() -> None:
    came = verdict(row(statistics=statistics([0, 1, 2, 3, 4, 5, 6, 7, 8])))
    assert came["verdict"] == INCONCLUSIVE
    assert came["units_to_decide"] > 900
    assert f"about {came['units_to_decide']:,} units would decide, there are 900" in came["reason"]


def test_equal_scores_with_many_flips_are_not_a_pass() -> None:
    """As many lost as won: no difference to see, and yet nothing is proved."""
    came = verdict(row(statistics=statistics(list(range(60, 120)))), statistics=statistics(list(range(60))))
    assert came["drop"] == 0.0
    assert came["verdict"] == INCONCLUSIVE


def test_an_untrained_network_fails_on_every_target_measured_or_not() -> None:
    rows = {"fp32": row(), "elsewhere": {"precision": "fp16", "device": "cuda", "reason": "no GPU"}}
    came = judge(measurement(rows), "now", 99.9, BUDGET)["targets"]
    assert {facts["verdict"] for facts in came.values()} == {FAIL}
    assert all("not trained: 99.67 %, and the floor is 99.9 %" in facts["reason"] for facts in came.values())
    assert came["elsewhere"]["reason"].endswith("; no GPU")


def test_a_score_that_is_no_number_is_under_every_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = types.SimpleNamespace(
        metric=Metric("F1", "%", True, None, None, False), score=lambda _: float("nan"), details=lambda _: {}
    )
    monkeypatch.setattr(judge_module, "load_task", lambda name: broken)
    absent = {"precision": "fp16", "device": "cuda", "reason": "no GPU"}
    assert judge(measurement({"t": absent}), "now", 0.0, BUDGET)["targets"]["t"]["verdict"] == FAIL


def test_answers_that_are_no_numbers_fail() -> None:
    came = verdict(row(finite=False, error_max=None))
    assert came["verdict"] == FAIL
    assert "not finite" in came["reason"]


@pytest.mark.parametrize(("error", "expected"), [(9e-6, PASS), (11e-6, FAIL), (None, FAIL)])
def test_an_fp32_graph_is_held_to_ten_times_the_trained_networks_own_error(error: float | None, expected: str) -> None:
    assert verdict(row(error_max=error))["verdict"] == expected
    assert verdict(row(error_max=error, precision="int8-cpu"))["verdict"] == PASS  # int8 is judged by its answers


def test_a_trained_network_without_error_is_granted_the_rounding_of_float32() -> None:
    assert verdict(row(error_max=5e-7), error_max=0.0)["verdict"] == PASS
    assert verdict(row(error_max=2e-6), error_max=0.0)["verdict"] == FAIL


def test_errors_say_what_they_are_against() -> None:
    assert "largest error against float64 1.1e-05, allowed 1e-05" in verdict(row(error_max=11e-6))["reason"]
    told = verdict(row(error_max=11e-6), exact="float32")["reason"]
    assert "largest error against float32 (there is no float64 of it) 1.1e-05" in told


@pytest.mark.parametrize(("factor", "expected"), [(0.9, PASS), (1.0, INCONCLUSIVE), (1.1, FAIL)])
def test_latency_is_judged_by_its_bounds(factor: float, expected: str) -> None:
    random = np.random.default_rng(0)
    trained = 1e-3 * random.lognormal(0, 0.02, 700)
    came = verdict(
        row(latency_s=list(factor * trained * random.lognormal(0, 0.02, 700))),
        latency={"cpu": {"latency_s": list(trained), "alone_s": None}},
    )
    assert came["verdict"] == expected
    assert came["latency_ratio_lower95"] <= came["latency_ratio"] <= came["latency_ratio_upper95"]


def test_without_a_budget_latency_is_told_and_not_judged() -> None:
    came = verdict(row(latency_s=[2e-3] * 700), budget=Budget(1.0, {}))
    assert came["verdict"] == PASS and came["latency_ratio"] > 1.9


def test_a_board_without_pytorch_has_latency_but_no_ratio() -> None:
    facts = measurement({"fp32": row()})
    facts["trained"]["latency"] = {}
    judged = judge(facts, "now", 90.0, Budget(1.0, {}))["targets"]["fp32"]
    assert judged["verdict"] == PASS and judged["latency_ratio"] is None and judged["p50_ms"] is not None
    assert judge(facts, "now", 90.0, BUDGET)["targets"]["fp32"]["verdict"] == NOT_MEASURED


def test_a_stale_or_absent_measurement_is_never_a_pass() -> None:
    facts = measurement({"fp32": row(), "gpu": {"precision": "fp16", "device": "cuda", "reason": "no GPU here"}})
    stale = judge(facts, "another", 90.0, BUDGET)["targets"]["fp32"]
    assert stale["verdict"] == NOT_MEASURED and "stale" in stale["reason"]
    absent = judge(facts, "now", 90.0, BUDGET)["targets"]["gpu"]
    assert absent["verdict"] == NOT_MEASURED and absent["reason"] == "no GPU here"
    assert absent["deployed"] is None and absent["drop_upper95"] is None


def test_a_target_that_opened_and_then_failed_on_real_examples_is_a_failure() -> None:
    came = verdict({"precision": "fp32", "device": "cpu", "reason": "", "failed": "got image: expected batch 1"})
    assert came["verdict"] == FAIL
    assert "it opened and then failed on the test examples: got image" in came["reason"]


def test_a_gpu_is_not_compared_with_a_processor() -> None:
    assert verdict(row(device="cuda"), budget=Budget(1.0, {}))["latency_ratio"] is None
    assert verdict(row(device="cuda"))["verdict"] == NOT_MEASURED  # a budget that could not be judged


def test_right_or_wrong_units_of_a_metric_of_which_less_is_better() -> None:
    """An error rate: a unit's statistic is still 1 where it is right."""
    error_rate = types.SimpleNamespace(
        metric=Metric("error rate", "%", False, 0.0, 100.0, right_or_wrong=True),
        score=lambda statistics: 100 * (1 - float(statistics[:, 0].mean())),
    )
    before, after = np.array(statistics(list(range(30)))), np.array(statistics(list(range(540))))
    assert judge_accuracy(before, after, error_rate, 1.0).verdict == FAIL
    better = judge_accuracy(after, before, error_rate, 1.0)
    assert better.verdict == PASS and better.facts["drop"] == pytest.approx(-100 * 510 / 900)
    assert better.facts["flips"] == {"lost": 0, "won": 510}


def f1_task(bounded: bool = True) -> Any:
    """A corpus metric: statistics a unit are true positives, false positives and false negatives."""

    def score(counts: np.ndarray) -> float:
        tp, fp, fn = counts.sum(axis=0)
        return 100.0 * 2 * tp / max(2 * tp + fp + fn, 1)

    return types.SimpleNamespace(
        metric=Metric("F1", "%", True, 0.0 if bounded else None, 100.0 if bounded else None, right_or_wrong=False),
        score=score,
    )


def test_a_corpus_metric_is_judged_by_the_same_rules() -> None:
    random = np.random.default_rng(0)
    before = random.integers(5, 15, (300, 3)).astype(float)
    slightly, badly = before.copy(), before.copy()
    slightly[::10, 2] += 1
    badly[:, 0] -= 4
    badly[:, 2] += 4
    passed = judge_accuracy(before, slightly, f1_task(), 1.0)
    assert passed.verdict == PASS and "BCa" in passed.facts["method"]
    assert passed.facts["drop"] < passed.facts["drop_upper95"] < 1.0
    assert judge_accuracy(before, badly, f1_task(), 1.0).verdict == FAIL


def test_identical_answers_of_a_corpus_metric_are_bounded_by_what_could_have_changed() -> None:
    before = np.random.default_rng(0).integers(5, 15, (300, 3)).astype(float)
    same = judge_accuracy(before, before.copy(), f1_task(), 5.0)
    assert same.verdict == PASS and "Clopper-Pearson" in same.facts["method"]
    assert same.facts["drop_upper95"] == pytest.approx(100 * (1 - 0.05 ** (1 / 300)), rel=1e-6)
    assert judge_accuracy(before, before.copy(), f1_task(), 0.5).verdict == INCONCLUSIVE
    unbounded = judge_accuracy(before, before.copy(), f1_task(bounded=False), 5.0)
    assert unbounded.verdict == INCONCLUSIVE and unbounded.facts["drop_upper95"] is None
    assert "no bound" in unbounded.reason


def test_a_unit_that_outweighs_the_rest_widens_the_bound() -> None:
    before = np.ones((300, 3))
    before[0] = (1000, 500, 500)
    heavy = judge_accuracy(before, before.copy(), f1_task(), 5.0).facts["drop_upper95"]
    light = judge_accuracy(np.ones((300, 3)), np.ones((300, 3)), f1_task(), 5.0).facts["drop_upper95"]
    assert heavy > 2 * light


def test_a_metric_of_which_less_is_better_drops_when_it_grows() -> None:
    perplexity = types.SimpleNamespace(
        metric=Metric("perplexity", "", False, 1.0, None, right_or_wrong=False),
        score=lambda counts: float(np.exp(counts[:, 0].sum() / counts[:, 1].sum())),
    )
    before = np.column_stack([np.random.default_rng(0).normal(100, 5, 200), np.full(200, 100.0)])
    worse = before * (1.2, 1.0)
    assert judge_accuracy(before, worse, perplexity, 0.1).verdict == FAIL
    assert judge_accuracy(worse, before, perplexity, 0.1).verdict == PASS


@pytest.mark.parametrize("shape", [(1, 1), (900, 2), (899, 1), (0, 1)])
def test_statistics_of_other_units_are_no_pass(shape: tuple[int, int]) -> None:
    """numpy would stretch one row over all units, and find nothing lost."""
    with pytest.raises(ValueError, match=r"statistics of shape .*, and the trained network's are of \(900, 1\)"):
        verdict(row(statistics=np.ones(shape).tolist()))
