"""The front against its definition, point by point; bounds and budgets on one scale of scores."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measured import measurement, row, statistics

from pipeline.judge import judge
from pipeline.recipe import Budget
from pipeline.tradeoff import mark_front, panels

ACCURACY = {"name": "accuracy", "unit": "%", "drop_unit": "points", "places": 2, "higher_is_better": True}
ENTROPY = {"name": "entropy", "unit": "bits", "drop_unit": "bits", "places": 4, "higher_is_better": False}
MARKS = st.tuples(*[st.integers(1, 4)] * 3)  # so few values that ties are usual


def a_row(deployed: float, drops: tuple[float, float] | None = (-0.5, 1.5), **changes: Any) -> dict[str, Any]:
    lower, upper = drops or (None, None)
    whole = {
        "verdict": "PASS",
        "deployed": deployed,
        "drop_lower95": lower,
        "drop_upper95": upper,
        "p50_ms": 0.5,
        "size_bytes": 1000,
    }
    whole |= {"latency_ratio": 0.25, "latency_ratio_lower95": 0.2, "latency_ratio_upper95": 0.4}
    return whole | changes


def a_recipe(
    targets: dict[str, dict[str, Any]],
    score: float = 98.0,
    metric: dict[str, Any] = ACCURACY,
    data: str = "digits",
    budget: float = 1.0,
    **trained: Any,
) -> dict[str, Any]:
    whole = {"score": score, "bounds": [97.0, 98.75], "latency_ms": {"cpu": {"p50_ms": 2.0}}}
    return {
        "metric": metric, "data": data, "budget": {"drop": budget}, "trained": whole | trained, "targets": targets,
        "host": "here",
    }  # fmt: skip


def beats(a: dict[str, Any], b: dict[str, Any], higher: bool) -> bool:
    """As good as ``b`` in score, latency and size, and better in one."""
    score_a, score_b = (p["score"] if higher else -p["score"] for p in (a, b))
    if score_a < score_b or a["ms"] > b["ms"] or a["bytes"] > b["bytes"]:
        return False
    return bool(score_a > score_b or a["ms"] < b["ms"] or a["bytes"] < b["bytes"])


@settings(deadline=None)
@given(
    st.lists(st.tuples(MARKS, st.sampled_from("ab")), min_size=1, max_size=25),
    st.lists(MARKS, max_size=3),
    st.booleans(),
)
def test_the_front_is_what_no_deployed_point_of_its_host_beats(deployed: list, trained: list, higher: bool) -> None:
    points = [
        {"target": target, "host": host, "passes": target == "t", "score": float(score), "ms": float(ms), "bytes": size}
        for target, of in (("trained", [(marks, "a") for marks in trained]), ("t", deployed))
        for (score, ms, size), host in of
    ]
    mark_front(points, higher)
    for point in points:
        rivals = [other for other in points if other["target"] == "t" and other["host"] == point["host"]]
        front = point["target"] == "t" and not any(beats(rival, point, higher) for rival in rivals)
        assert point["front"] == front
    for host in {host for _, host in deployed}:
        assert any(point["front"] for point in points if point["host"] == host)


def test_what_does_not_pass_neither_is_on_the_front_nor_keeps_others_off_it() -> None:
    (panel,) = panels({"r": a_recipe({"a": a_row(99.0, verdict="FAIL", p50_ms=0.1), "b": a_row(98.0)})})
    assert {point["target"]: point["front"] for point in panel["points"]} == {"trained": False, "a": False, "b": True}


@pytest.mark.parametrize("higher", [True, False])
def test_a_trained_point_neither_is_on_the_front_nor_keeps_others_off_it(higher: bool) -> None:
    best = {"target": "trained", "host": "here", "passes": False, "score": 5.0, "ms": 0.1, "bytes": 1}
    other = {"target": "t", "host": "here", "passes": True, "score": 5.0, "ms": 0.2, "bytes": 2}
    mark_front([best, other], higher)
    assert (best["front"], other["front"]) == (False, True)


def test_a_panel_in_full() -> None:
    (panel,) = panels({"r": a_recipe({"a-fp32": a_row(97.5), "gone": a_row(1.0) | {"deployed": None}})})
    points = panel.pop("points")
    assert panel == {
        "title": "digits", "metric": "accuracy, %", "higher_is_better": True, "reach": [96.5, 99.0]
    }  # fmt: skip
    assert points == [
        {
            "recipe": "r", "target": "trained", "host": "here", "score": 98.0, "lower": 97.0, "upper": 98.75, "ms": 2.0,
            "ms_lower": None, "ms_upper": None, "bytes": 1000, "named": True, "passes": False, "front": False,
            "said": "r, trained: 98 %, 2 ms",
        },
        {
            "recipe": "r", "target": "a-fp32", "host": "here", "score": 97.5, "lower": 96.5, "upper": 98.5, "ms": 0.5,
            "ms_lower": pytest.approx(0.4), "ms_upper": pytest.approx(0.8), "bytes": 1000, "named": False,
            "passes": True, "front": True, "said": "r, a-fp32: 97.5 %, 0.5 ms, on the front",
        },
    ]  # fmt: skip


def test_of_a_metric_that_is_better_when_low_the_bounds_lie_above_by_the_drop() -> None:
    (panel,) = panels({"r": a_recipe({"a": a_row(2.1, (-0.05, 0.2))}, 2.0, ENTROPY, budget=0.5, bounds=None)})
    trained, point = panel["points"]
    assert (point["lower"], point["upper"]) == (pytest.approx(1.95), pytest.approx(2.2))
    assert (trained["lower"], trained["upper"]) == (None, None)
    assert panel["higher_is_better"] is False and panel["reach"] == [1.5, 2.5]


def test_a_row_of_another_host_is_there_with_its_host_and_one_that_only_others_measured_has_no_picture() -> None:
    verdicts = {"r": a_recipe({"a-fp32": a_row(97.5), "a-fp32@a-board": a_row(97.5, p50_ms=9.0)})}
    (panel,) = panels(verdicts)
    assert [(p["host"], p["target"], p["front"], p["named"]) for p in panel["points"]] == [
        ("here", "trained", False, True), ("here", "a-fp32", True, False), ("a-board", "a-fp32@a-board", True, False)
    ]  # fmt: skip
    assert panel["points"][2]["said"] == "r, a-fp32@a-board: 97.5 %, 9 ms, on the front"
    assert panels({"r": a_recipe({"a-fp32@a-board": a_row(97.5)}, None, bounds=None, latency_ms={})}) == []


def test_a_metric_whose_name_holds_a_comma_keeps_its_unit() -> None:
    metric = ACCURACY | {"name": "exact match, without case"}
    (panel,) = panels({"r": a_recipe({"a": a_row(97.5)}, metric=metric)})
    assert panel["points"][1]["said"].startswith("r, a: 97.5 %, 0.5 ms")


def test_what_is_not_known_is_none() -> None:
    rows = {"a": a_row(97.0, None), "b": a_row(97.0, latency_ratio=None), "untimed": a_row(97.0, p50_ms=None)}
    (panel,) = panels({"r": a_recipe(rows)})
    _, a, b = panel["points"]
    assert (a["lower"], a["upper"], a["ms_lower"]) == (None, None, pytest.approx(0.4))
    assert (b["lower"], b["ms_lower"], b["ms_upper"]) == (96.5, None, None)
    assert panels({"r": a_recipe({"untimed": a_row(97.0, p50_ms=None)})}) == panels({}) == []


def test_recipes_on_one_data_set_share_a_panel_and_another_metric_has_its_own() -> None:
    rows = {"a": a_row(97.0)}
    verdicts = {
        "one": a_recipe(rows),
        "other": a_recipe(rows, metric=ENTROPY),
        "two": a_recipe({"a": a_row(96.0, size_bytes=10)}),
        "elsewhere": a_recipe(rows, data="iris"),
        "unmeasured": a_recipe({"a": a_row(0.0) | {"deployed": None}}, data="none"),
    }
    came = [(p["title"], p["metric"], sorted({q["recipe"] for q in p["points"]})) for p in panels(verdicts)]
    assert came == [
        ("digits", "accuracy, %", ["one", "two"]),
        ("digits", "entropy, bits", ["other"]),
        ("iris", "accuracy, %", ["elsewhere"]),
    ]
    assert [p["recipe"] for p in panels(verdicts)[0]["points"] if p["front"]] == ["one", "two"]


@pytest.mark.parametrize(
    "latency_ms", [{}, {"cpu": {"p50_ms": 2.0}}, {"cpu": {"p50_ms": 2.0}, "cuda": {"p50_ms": 1.0}}]
)
def test_each_recipe_is_named_once_timed_as_trained_or_not(latency_ms: dict[str, Any]) -> None:
    rows = {"a": a_row(97.0), "b": a_row(96.0)}
    (panel,) = panels({name: a_recipe(rows, latency_ms=latency_ms) for name in ("one", "two")})
    assert [point["recipe"] for point in panel["points"] if point["named"]] == ["one", "two"]
    assert sum(point["target"] == "trained" for point in panel["points"]) == 2 * len(latency_ms)


def test_the_trained_network_is_as_large_as_the_largest_made_of_it() -> None:
    (panel,) = panels({"r": a_recipe({"a": a_row(97.0, size_bytes=7), "b": a_row(97.0, size_bytes=5)})})
    assert [point["bytes"] for point in panel["points"]] == [7, 7, 5]


SCORES = st.floats(0, 100).map(lambda x: round(x, 2))


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            SCORES, st.floats(0.01, 5), st.lists(st.tuples(SCORES, st.floats(-9, 9), st.floats(-9, 9)), min_size=1)
        ),
        min_size=1,
        max_size=3,
    ),
    st.booleans(),
)
def test_all_that_is_drawn_and_the_budgets_are_within_reach(recipes: list, higher: bool) -> None:
    metric = ACCURACY | {"higher_is_better": higher}
    verdicts = {
        f"r{i}": a_recipe(
            {f"t{k}": a_row(deployed, (min(a, b), max(a, b))) for k, (deployed, a, b) in enumerate(rows)},
            score, metric, budget=budget, bounds=None,
        )
        for i, (score, budget, rows) in enumerate(recipes)
    }  # fmt: skip
    (panel,) = panels(verdicts)
    least, most = panel["reach"]
    ends = [score + sign * budget for score, budget, _ in recipes for sign in (-1, 1)]
    for point in panel["points"]:
        ends += [point["score"], *(point[key] for key in ("lower", "upper") if point[key] is not None)]
        assert point["target"] == "trained" or point["lower"] <= point["upper"]
    assert (least, most) == (min(ends), max(ends))


def test_what_judging_writes_is_drawn() -> None:
    rows = {
        "a-fp32": row(),
        "a-int8": row(precision="int8-cpu", statistics=statistics([0, 1, 2, 3, 4]), size_bytes=300),
    }
    rows |= {"away": {"precision": "fp32", "device": "cuda", "reason": "no GPU"}}
    judged = judge(measurement(rows), "now", 90.0, Budget(1.0)) | {"data": "digits"}
    (panel,) = panels({"r": judged})
    trained, fp32, int8 = panel["points"]
    assert [point["target"] for point in panel["points"]] == ["trained", "a-fp32", "a-int8"]
    assert trained["score"] == fp32["score"] == pytest.approx(100 * 897 / 900)
    assert trained["lower"] < trained["score"] < trained["upper"]
    assert int8["lower"] < int8["score"] < fp32["score"] < fp32["upper"]
    assert fp32["ms_lower"] < fp32["ms"] < fp32["ms_upper"] and fp32["ms"] == pytest.approx(0.503, abs=1e-3)
    assert trained["bytes"] == 1000 and fp32["front"] and int8["front"]
