"""The verdicts as text, read back by a second reader: sentences, tables and columns must hold what went in."""

import dataclasses
import re
from collections import Counter
from typing import Any

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from measured import measurement, row, statistics

from deploy.targets import target_names
from pipeline import matrix
from pipeline.judge import judge, judge_unmeasured
from pipeline.matrix import (
    HEADS,
    answer,
    cells,
    columns,
    counts,
    markdown,
    measured,
    not_measured,
    number,
    parts,
    table,
)
from pipeline.recipe import Budget, load_project
from pipeline.verdicts import ABSENT, CAUSES, FAIL, INCONCLUSIVE, NOT_MEASURED, PASS, STALE, WORSE

METRIC = {"name": "accuracy", "unit": "%", "drop_unit": "points", "places": 2, "higher_is_better": True}
NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789_", min_size=1, max_size=30)
DASHED = st.lists(st.text("abcxyz019", min_size=1, max_size=9), min_size=1, max_size=4).map("-".join)
FREE = st.text(st.sampled_from("|\\ \n-a") | st.characters(), max_size=12)


def a_row(verdict: str, **changes: Any) -> dict[str, Any]:
    """As of verdicts.json; a row has numbers unless it was not measured."""
    none = dict.fromkeys(("deployed", "drop", "drop_lower95", "drop_upper95", "latency_ratio", "p50_ms", "n"))
    none |= dict.fromkeys(("size_bytes", "memory_bytes", "graph_sha256", "trained", "latency_against"))
    whole = {"deployed": 98.0, "drop": 0.5, "drop_lower95": 0.1, "drop_upper95": 0.9, "latency_ratio": 0.25}
    whole |= {"latency_ratio_lower95": 0.2, "latency_ratio_upper95": 0.3, "p50_ms": 0.125, "n": 900}
    whole["latency_against"] = "trained"
    cause = "absent" if verdict == NOT_MEASURED else "accuracy"
    causes = [] if verdict == PASS else [{"cause": cause, "reason": f"why {verdict}"}]
    none["causes"] = whole["causes"] = causes
    whole |= {"size_bytes": 1500, "memory_bytes": 2_500_000, "graph_sha256": "0123456789", "trained": 98.5}
    return {"verdict": verdict, "reason": f"why {verdict}"} | (none if verdict == NOT_MEASURED else whole) | changes


def a_recipe(targets: dict[str, dict[str, Any]], score: float | None = 98.5) -> dict[str, Any]:
    budget = {"drop": 1.0, "latency_ratio": {"onnxruntime-cpu-fp32": 0.75}}
    return {"metric": METRIC, "trained": {"score": score}, "budget": budget, "targets": targets}


def of_words(*recipes: list[str]) -> dict[str, Any]:
    """Recipes ``r0``, ``r1`` … with targets ``t0``, ``t1`` … of these verdicts."""
    return {f"r{i}": a_recipe({f"t{j}": a_row(w) for j, w in enumerate(of)}) for i, of in enumerate(recipes)}


def parsed(text: str) -> list[list[str]]:
    """A Markdown table's cells by GitHub's rule: a pipe parts two cells unless a backslash is before it."""
    rows = []
    for line in text.split("\n"):
        first, *inner, last = re.split(r"(?<!\\)\|", line)
        assert first == last == ""
        rows.append([cell.strip(" ").replace(r"\|", "|") for cell in inner])
    head, rule, *body = rows
    assert set(rule) == {"---"}
    return [head, rule, *body]


def one_line(text: str) -> str:
    return " ".join(text.split())


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from(WORSE), max_size=6), max_size=5))
def test_the_answer_agrees_with_a_second_count(recipes: list[list[str]]) -> None:
    said, count = answer(of_words(*recipes)), Counter(word for of in recipes for word in of)
    total = sum(count.values())
    assert counts(of_words(*recipes)) == {word: count[word] for word in (PASS, INCONCLUSIVE, FAIL, NOT_MEASURED)}
    assert said.startswith("Yes") == (count[PASS] > 0 and not count[FAIL] and not count[INCONCLUSIVE])
    assert said.startswith("No:") == bool(count[FAIL])
    assert said.startswith("In part:") == (not count[FAIL] and bool(count[INCONCLUSIVE]))
    assert said.startswith("Not yet:") == (set(count) <= {NOT_MEASURED})
    assert f"{count[PASS]} of {total} deployments are proved" in said
    assert said.endswith(f"; {count[NOT_MEASURED]} were not measured.")
    bad = [word for word in (FAIL, INCONCLUSIVE) if count[word]]
    named = []
    for word in bad:
        places = [[f"t{j}" for j, other in enumerate(of) if other == word] for of in recipes]
        told = [f"r{i} on {of[0] if len(of) == 1 else f'{len(of)} targets'}" for i, of in enumerate(places) if of]
        named += told[:3]
        assert (f"and {len(told) - 3} more)" in said) or len(told) <= 3
    assert re.findall(r"r\d on (?:t\d|\d targets)", said) == named
    assert (f"{count[INCONCLUSIVE]} could not be decided" in said) == bool(count[INCONCLUSIVE])


def test_what_was_tried_and_not_decided_is_no_yes() -> None:
    """The latency of the trained network is not known: NOT MEASURED, though its answers were judged."""
    open_ = a_row(PASS) | {"verdict": NOT_MEASURED, "causes": [{"cause": "latency"}, {"cause": "accuracy"}]}
    said = answer({"r": a_recipe({"t": a_row(PASS), "u": open_})})
    assert said.startswith("In part: 1 could not be decided (r on u); 1 of 2 ") and "; 0 were not measured." in said


def test_the_answer_in_full() -> None:
    rest = "deployments are proved to be as accurate as what was trained, within their budgets;"
    assert answer(of_words([PASS, NOT_MEASURED])) == (f"Yes, where it was measured: 1 of 2 {rest} 1 were not measured.")
    assert answer(of_words([FAIL, PASS, INCONCLUSIVE])) == (
        f"No: 1 of 3 deployments fails (r0 on t0); 1 could not be decided (r0 on t2); 1 of 3 {rest} 0 were not measured."
    )
    assert answer(of_words([FAIL] * 2, [FAIL] * 3)) == (
        f"No: 5 of 5 deployments fail (r0 on 2 targets, r1 on 3 targets); 0 of 5 {rest} 0 were not measured."
    )
    assert answer(of_words(*[[INCONCLUSIVE]] * 5)) == (
        f"In part: 5 could not be decided (r0 on t0, r1 on t0, r2 on t0 and 2 more); 0 of 5 {rest} 0 were not measured."
    )
    assert answer({}) == f"Not yet: nothing is proved; 0 of 0 {rest} 0 were not measured."


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from("abcdef"), st.lists(st.sampled_from(CAUSES), max_size=2)), max_size=4))
def test_a_column_is_a_target_that_something_was_tried_on(recipes: list[dict[str, list[str]]]) -> None:
    verdicts = {
        f"r{i}": a_recipe({t: a_row(PASS, causes=[{"cause": cause} for cause in causes]) for t, causes in of.items()})
        for i, of in enumerate(recipes)
    }
    tried = [target for of in recipes for target, causes in of.items() if ABSENT not in causes and STALE not in causes]
    assert columns(verdicts) == list(dict.fromkeys(tried))


@settings(deadline=None)
@given(st.lists(st.lists(st.tuples(DASHED, st.sampled_from(["", "gpu-host", "a-board"])), max_size=6), max_size=4))
def test_columns_are_this_hosts_first_and_then_host_by_host(recipes: list[list[tuple[str, str]]]) -> None:
    keys = [[f"{name}@{host}" if host else name for name, host in of] for of in recipes]
    came = columns({f"r{i}": a_recipe({key: a_row(PASS) for key in of}) for i, of in enumerate(keys)})
    assert sorted(came) == sorted({key for of in keys for key in of})
    hosts = [key.partition("@")[2] for key in came]
    assert hosts == sorted(hosts, key=lambda host: (host != "", hosts.index(host)))  # together, this one's first
    for host in hosts:
        names = [name for of in recipes for name, at in of if at == host]
        assert [parts(key).name for key in came if parts(key).host == host] == list(dict.fromkeys(names))


@settings(deadline=None)
@given(st.one_of(st.just(""), DASHED), st.text("abcxyz019", min_size=1), st.one_of(st.just(""), DASHED))
def test_a_name_is_put_together_from_its_parts(runtime: str, precision: str, host: str) -> None:
    name = f"{runtime}-{precision}" if runtime else precision
    assert parts(f"{name}@{host}" if host else name) == (name, runtime, precision, host)


def test_a_name_of_each_kind_taken_apart() -> None:
    assert parts("tensorrt-rtx-sm89-fp16@a-cpu-box") == (
        "tensorrt-rtx-sm89-fp16", "tensorrt-rtx-sm89", "fp16", "a-cpu-box"
    )  # fmt: skip
    for name in target_names():
        of = parts(name)
        assert (of.name, f"{of.runtime}-{of.precision}", of.host) == (name, name, "")
        assert of.precision in ("fp32", "fp16", "int8")


def test_rows_of_other_hosts_keep_their_budget_and_say_what_they_are_measured_against() -> None:
    away = {"onnxruntime-cpu-fp32@a-board": a_row(PASS), "tensorrt-fp16@a-board": a_row(PASS)}
    away["tensorrt-fp16@a-board"]["latency_against"] = "tensorrt-fp32"
    verdicts = {"r": a_recipe({"onnxruntime-cpu-fp32": a_row(PASS), **away})}
    told = [cells(one)[HEADS.index("latency ÷ trained")] for one in measured(verdicts)]
    assert told == [
        "0.25 (0.20–0.30), budget 0.75", "0.25 (0.20–0.30), budget 0.75",
        "0.25 (0.20–0.30) ÷ tensorrt-fp32, no budget",
    ]  # fmt: skip
    briefs = parsed(markdown(verdicts))[2][2:]
    assert briefs[:2] == ["PASS 0.50 (≤ 0.90 of 1), 0.25 ×"] * 2
    assert briefs[2] == "PASS 0.50 (≤ 0.90 of 1), 0.25 × (÷ tensorrt-fp32)"
    heads = [line.split()[:3] for line in matrix.terminal(verdicts).split("\n") if "trained" in line.split()[1:2]]
    assert heads == [
        ["onnxruntime-cpu", "trained", "fp32"],
        ["onnxruntime-cpu@a-board", "trained", "fp32"],
        ["tensorrt@a-board", "trained", "fp16"],
    ]


@settings(deadline=None)
@given(
    st.dictionaries(NAMES, st.tuples(st.sampled_from([None, 98.5]), st.lists(st.sampled_from(WORSE), max_size=4))),
    st.lists(FREE, min_size=4, max_size=4, unique=True),
)
def test_tables_parse_back_whatever_the_targets_are_called(recipes: dict[str, Any], targets: list[str]) -> None:
    verdicts = {
        name: a_recipe({target: a_row(word) for target, word in zip(targets, words)}, score)
        for name, (score, words) in recipes.items()
    }
    head, _, *body = parsed(markdown(verdicts))
    assert head == ["recipe", "trained", *map(one_line, columns(verdicts))]
    assert [line[0] for line in body] == list(verdicts)
    assert {len(line) for line in body} <= {len(head)}
    for (score, words), line in zip(recipes.values(), body):
        assert line[1] == ("–" if score is None else "98.50 % accuracy")
        told = {
            target: word if word == NOT_MEASURED else f"{word} 0.50 (≤ 0.90 of 1), 0.25 ×"
            for target, word in zip(targets, words)
        }
        assert line[2:] == [told.get(target, "–") for target in columns(verdicts)]
    head, _, *body = parsed(table(verdicts))
    assert head == [*HEADS, "graph"]
    here = [
        (name, one_line(target), word)
        for name, (_, words) in recipes.items()
        for target, word in zip(targets, words)
        if word != NOT_MEASURED
    ]
    assert [tuple(line[:3]) for line in body] == here
    assert all(len(line) == len(head) and line[-1] == "`01234567`" for line in body)


TARGETS = st.builds(lambda name, host: f"{name}@{host}" if host else name, DASHED, st.sampled_from(["", "x", "y-z"]))


@settings(deadline=None)
@given(st.dictionaries(NAMES, st.dictionaries(TARGETS, st.sampled_from(WORSE), max_size=5), max_size=5))
def test_the_terminals_columns_stand_below_each_other_a_block_a_runtime(recipes: dict[str, dict[str, str]]) -> None:
    verdicts = {name: a_recipe({t: a_row(w) for t, w in of.items()}) for name, of in recipes.items()}
    *blocks, last = matrix.terminal(verdicts).split("\n\n")
    assert last == matrix.LEGEND

    def block_of(target: str) -> str:
        name, at, host = target.partition("@")
        return name.rpartition("-")[0] + at + host

    runtimes = {block_of(target) for target in columns(verdicts)}
    assert len(blocks) == len(runtimes)
    shown = Counter[tuple[str, str, str]]()
    for block in blocks:
        head, *lines = block.split("\n")
        assert [line.split()[0] for line in lines] == list(recipes)
        starts = [found.start() for found in re.finditer(r"(?<=   )\S|^\S", head)]
        starts = starts if head[0] != " " else [0, *starts]
        for line in (head, *lines):
            assert line == line.rstrip()
            assert all(line[at - 3 : at] == "   " and line[at : at + 1] not in ("", " ") for at in starts[1:])
        ends = [*starts[1:], None]
        heads, *rows = [[line[at:end].strip() for at, end in zip(starts, ends)] for line in (head, *lines)]
        assert heads[0] in runtimes and heads[1] == "trained"
        shown.update(
            (
                line[0],
                "-".join(filter(None, (heads[0].partition("@")[0], column))) + "".join(heads[0].partition("@")[1:]),
                re.split(r" \d", cell)[0],
            )
            for line in rows
            for column, cell in zip(heads[2:], line[2:])
            if cell != "–"
        )
    expected = ((name, t, w) for name, of in recipes.items() for t, w in of.items() if t in columns(verdicts))
    assert shown == Counter(expected)


def test_two_hundred_recipes_are_two_hundred_lines() -> None:
    verdicts = of_words(*[[PASS, FAIL, NOT_MEASURED]] * 200)
    assert len(parsed(markdown(verdicts))) == 202
    assert len(parsed(table(verdicts))) == 402
    assert matrix.terminal(verdicts).count("\n") == 202
    assert answer(verdicts).startswith("No: 200 of 600 deployments fail (r0 on t1, r1 on t1, r2 on t1 and 197 more); ")
    assert not_measured(verdicts) == {"why NOT MEASURED": [(f"r{i}", "t2") for i in range(200)]}


def test_no_recipe_is_an_empty_table() -> None:
    assert parsed(markdown({})) == [["recipe", "trained"], ["---"] * 2]
    assert parsed(table({})) == [[*HEADS, "graph"], ["---"] * 14]
    assert columns({}) == measured({}) == [] and not_measured({}) == {}
    assert matrix.terminal({}).count("\n") == 0


@settings(deadline=None)
@given(st.one_of(st.floats(-1e6, 1e6), st.floats(-0.01, 0.01)), st.sampled_from([2, 4]))
def test_a_number_is_the_nearest_of_so_many_places_and_never_a_negative_zero(value: float, places: int) -> None:
    came = number(value, places)
    assert len(came.partition(".")[2]) == places
    assert abs(float(came) - value) <= 0.5000001 * 10**-places
    assert not (came.startswith("-") and float(came) == 0)


def shown(**changes: Any) -> dict[str, str]:
    """The cells of one measured row, by their heads."""
    (came,) = measured({"r": a_recipe({"onnxruntime-cpu-fp32": a_row(PASS, **changes)})})
    return dict(zip(HEADS, cells(came), strict=True))


def test_a_row_in_full() -> None:
    assert shown() == {
        "recipe": "r", "target": "onnxruntime-cpu-fp32", "verdict": "PASS", "metric": "accuracy", "trained": "98.50 %",
        "deployed": "98.00 %", "drop (95 % at most)": "0.50 (0.90)", "budget": "1 point",
        "latency ÷ trained": "0.25 (0.20–0.30), budget 0.75", "p50": "0.125 ms", "size": "1.5 kB", "memory": "2.5 MB",
        "n": "900",
    }  # fmt: skip


def test_a_row_tells_what_it_lacks_by_a_dash() -> None:
    assert shown(latency_ratio=None, p50_ms=None) == shown() | {"latency ÷ trained": "–", "p50": "–"}
    assert shown(drop_upper95=None, drop_lower95=None) == shown() | {"drop (95 % at most)": "0.50 (–)"}
    assert shown(memory_bytes=None) == shown() | {"memory": "–"}
    assert shown(memory_bytes=0)["memory"] == "0.0 MB"
    assert shown(drop=-0.004, drop_upper95=-1e-9)["drop (95 % at most)"] == "0.00 (0.00)"
    (came,) = measured({"r": a_recipe({"elsewhere": a_row(PASS)})})
    assert "0.25 (0.20–0.30), no budget" in cells(came)
    for lack, told in (("latency_ratio", "PASS 0.50 (≤ 0.90 of 1)"), ("drop_upper95", "PASS 0.50 (≤ – of 1), 0.25 ×")):
        assert matrix.brief(a_row(PASS, **{lack: None}), a_recipe({})) == told


@pytest.mark.parametrize(
    ("value", "unit", "told"),
    [
        (1.0, "points", "1 point"),
        (0.2, "points", "0.2 points"),
        (0.02, "bits", "0.02 bits"),
        (2.0, "points", "2 points"),
        (1.0, "", "1"),
        ("1.00", "points", "1.00 points"),
        ("1", "points", "1 point"),
        ("0.33", "", "0.33"),
    ],
)
def test_an_amount_agrees_with_its_unit(value: float | str, unit: str, told: str) -> None:
    assert matrix.amount(value, unit) == told


def test_two_graphs_are_two_hashes_in_the_table() -> None:
    two = a_row(PASS, graph_sha256={"encoder": "0123456789", "step": "abcdefghij"})
    assert parsed(table({"r": a_recipe({"t": two})}))[2][-1] == "`01234567` `abcdefgh`"


def test_a_target_that_failed_unmeasured_is_still_told() -> None:
    failed = a_row(NOT_MEASURED) | {"verdict": FAIL, "reason": "not trained"}
    failed["causes"] = [{"cause": "not trained", "reason": "not trained"}, {"cause": "absent", "reason": "no GPU"}]
    verdicts = {"r": a_recipe({"t": failed, "u": a_row(NOT_MEASURED)})}
    assert not_measured(verdicts) == {"no GPU": [("r", "t")], "why NOT MEASURED": [("r", "u")]}
    assert measured(verdicts) == []
    assert columns(verdicts) == []  # it was not tried; the answer and the page tell of it
    assert answer(verdicts).startswith("No: 1 of 2 deployments fails (r on t)")


def test_what_judging_writes_is_told_with_and_without_a_measurement() -> None:
    """Rows as ``verify`` makes them: one that is proved, one that lost, one absent, one that gave no answer."""
    rows = {
        "onnxruntime-cpu-fp32": row(),
        "onnxruntime-cpu-int8": row(precision="int8-cpu", statistics=statistics(list(range(3, 43)))),
        "onnxruntime-cuda-fp32": {"precision": "fp32", "device": "cuda", "reason": "no GPU"},
        "tensorrt-fp16": {"precision": "fp16", "device": "cuda", "reason": "", "failed": "of memory"},
    }
    judged = judge(measurement(rows), "now", 90.0, Budget(1.0, {"onnxruntime-cpu-fp32": 1.0}))
    recipe = load_project(ROOT / "params.yaml").recipe("softmax_digits")
    verdicts = {"a": judged, "b": judge_unmeasured("gone", recipe)}
    assert columns(verdicts) == ["onnxruntime-cpu-fp32", "onnxruntime-cpu-int8", "tensorrt-fp16"]
    _, _, first, second = parsed(markdown(verdicts))
    assert first[1] == "99.67 % accuracy"
    assert (
        first[2].startswith("PASS 0.00 (≤ 0.33 of 1), 0.5")
        and first[3].startswith("FAIL 4.11 (≤ ")
        and first[4] == "FAIL"
    )
    assert second == ["b", "–", *[NOT_MEASURED] * 3]
    assert [(r["recipe"], r["target"], r["n"]) for r in measured(verdicts)] == [
        ("a", "onnxruntime-cpu-fp32", 900),
        ("a", "onnxruntime-cpu-int8", 900),
    ]
    assert not_measured(verdicts)["gone"] == [("b", target) for target in target_names()]
    assert f"; {1 + len(target_names())} were not measured." in answer(verdicts)
    alone = {"b": judge_unmeasured("gone", dataclasses.replace(recipe, task="language_model"))}
    assert parsed(markdown(alone))[2] == ["b", "–"] and table(alone) == table({})
