"""Why a row is not ``PASS``, for somebody who has never read one: what was found, how sure, what it means, what to try.

One function a cause, and all wording is here. Text is plain, with commands and names of files between backticks; it
quotes what runtimes said as they said it, so whoever puts it into a page escapes it.
"""

from dataclasses import dataclass, replace
from typing import Any

from pipeline import verdicts
from pipeline.absent import again, measure_by, quoted, why
from pipeline.intervals import BOOTSTRAP_LEAST
from pipeline.matrix import amount, number, parts

METHODS = {  # as `verify` names them -> as one would say it
    "exact unconditional test, Tango's order": "an exact test",
    "BCa bootstrap over units": "a bootstrap (the items redrawn thousands of times)",
    "Clopper-Pearson on the units changed, times the worst effect": "a worst case (how many items may change, times "
    "the most that one can cost)",
}

BETTER_COPY = {  # precision -> how its accuracy is won back
    "fp32": "look at the export and at this runtime, since an fp32 copy should lose nothing",
    "fp16": "look at the changed items, then lower `NEAR` in `pipeline/fp16.py`, so that more layers stay in float32",
    "int8": "look at the changed items, then try more `calib` examples, another range (`CALIBRATIONS` in "
    "`pipeline/int8.py`) and sensitive layers in float",
}

NOT_FINITE_WHY = {  # precision -> where to look
    "fp32": "Look in the network's `forward` for a division by zero or the logarithm of zero.",
    "fp16": "In fp16 no number exceeds 65,504, so some layer overflows: look at the activation ranges (`ranges.json` "
    "in the bundle) and lower `NEAR` in `pipeline/fp16.py`, so that more layers stay in float32.",
    "int8": "Look at the activation ranges (`ranges.json` in the bundle) for a layer that is constant or huge.",
}


@dataclass(frozen=True)
class Advice:
    """One paragraph in four parts, and a sentence for each further cause."""

    found: str
    sure: str
    means: str
    todo: str
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """One cause of one row: all that is known of it."""

    recipe: str
    target: str
    row: dict[str, Any]
    judged: dict[str, Any]  # the recipe's entry of verdicts.json
    verdict: str
    reason: str


def advice(recipe: str, target: str, row: dict[str, Any], judged: dict[str, Any]) -> Advice:
    """What to say of ``row``, which is not ``PASS``: of its worst cause all, of the others what was found.

    Args:
        judged: the recipe's entry of ``verdicts.json``, of whose ``targets`` the row is one.
    """
    told = [
        (cause["verdict"], CAUSE[cause["cause"]](Case(recipe, target, row, judged, cause["verdict"], cause["reason"])))
        for cause in row["causes"]
    ]
    also = (f"Also {verdict}: {other.found[0].lower()}{other.found[1:]}" for verdict, other in told[1:])
    return replace(told[0][1], also=tuple(also))


def paragraph(advice: Advice) -> str:
    """All of it as one paragraph."""
    parts = (advice.found, advice.sure, advice.means, advice.todo, *advice.also)
    return " ".join(part for part in parts if part)


def _not_trained(case: Case) -> Advice:
    metric, trained, n = case.judged["metric"], case.judged["trained"], case.row["n"]
    score = number(trained["score"], metric["places"])
    sure = f"That is what the {n:,} test items gave; no chance is in the comparison."
    if trained["bounds"]:
        low, high = (number(bound, metric["places"]) for bound in trained["bounds"])
        sure = (
            f"Its true value lies between {low} and {amount(high, metric['unit'])} (95 %, an exact interval from {n:,} "
            f"test items)."
        )
    return Advice(
        f"The trained network's own {metric['name']} is {amount(score, metric['unit'])}, worse than the "
        f"{amount(trained['floor'], metric['unit'])} that the recipe demands (`floor:`).",
        sure,
        "The deployed copy may be perfect, and it does not matter: what it copies has not learned enough.",
        "See the training curves: while the loss falls, raise `epochs`; if it jumps, lower `rate`; or try another "
        "`seed`. Of weights or a graph that you brought, check `scale`. Then run `dvc repro`.",
    )


def _stale(case: Case) -> Advice:
    return Advice(
        f"The measurement of {case.target} is not of the bundle (the folder of deployed files) that is here now.",
        "That is certain: their fingerprints (SHA-256) do not agree.",
        "What was measured then says nothing about what you would ship today.",
        again(host) if (host := _elsewhere(case)) else "Run `dvc repro`: it makes what is missing and measures again.",
    )


def _absent(case: Case) -> Advice:
    ship = next((f" Today you can ship {target}, which passes." for target, _ in _passing(case)), "")
    here = f"on this host ({case.judged['host']})" if case.judged["host"] else "on this host"
    host = _elsewhere(case)
    return Advice(
        f"The target {case.target} was not measured {'there' if host else here}: {why(case.reason, host)}.",
        "That is certain, and says nothing for or against the network.",
        "What was not measured never counts as passed, so do not ship it.",
        measure_by(case.reason, case.recipe, host) + ship,
    )


def _no_answer(case: Case) -> Advice:
    return Advice(
        f"The target {case.target} {quoted(case.reason.removeprefix('it '))}.",
        "That is certain: it is no matter of chance.",
        "It would fail in the same way on real requests.",
        f"{_ship(case)}Compare the input that the error names with what the graph takes (`contract.json` in the "
        f"bundle); mend the network's `forward` or the runtime, then run `dvc repro`.",
    )


def _not_finite(case: Case) -> Advice:
    return Advice(
        f"The target {case.target} gave answers that are not finite: infinity, or no number at all.",
        f"That is certain: every answer to the {case.row['n']:,} test items was looked at.",
        "Users would get such answers too, and no error would tell them.",
        f"{_ship(case)}{NOT_FINITE_WHY[_kind(case)]}",
    )


def _another_network(case: Case) -> Advice:
    came, allowed = case.row["error_max"], case.row["error_allowed"]
    right = [
        target
        for target, row in case.judged["targets"].items()
        if row["precision"] == "fp32"
        and row["deployed"] is not None
        and all(cause["cause"] not in (verdicts.ANOTHER_NETWORK, verdicts.NOT_FINITE) for cause in row["causes"])
    ]
    if right:
        todo = (
            f"{_ship(case)}The target {right[0]} computes the same graph rightly, so look at the runtime of "
            f"{case.target} and how it rewrites graphs."
        )
    else:
        todo = (
            "Look first at stage `export` (`pipeline/export.py`) and the network's `forward`: a lost bias, swapped "
            "axes, a scaling done twice. The fp16 and int8 graphs are made from this one: ship none of them before "
            "it is found."
        )
    return Advice(
        f"The largest error of {case.target} against the reference answers is "
        f"{'no finite number' if came is None else f'{came:.3g}'}; rounding explains at most {allowed:.3g}.",
        "That is certain and no matter of chance: both answered the same items.",
        "Something on the way changed the network: a bug, and no matter of budget, even if the score looks the same.",
        todo,
    )


def _accuracy(case: Case) -> Advice:
    return _accuracy_lost(case) if case.verdict == verdicts.FAIL else _accuracy_open(case)


def _accuracy_lost(case: Case) -> Advice:
    row, metric = case.row, case.judged["metric"]
    least = amount(number(row["drop_lower95"], metric["places"]), metric["drop_unit"])
    return Advice(
        _drop(case),
        f"{_changed(case)}: {METHODS[row['method']]} puts the true loss at {least} or more, 95 % sure.",
        "That is worse than you declared acceptable.",
        f"{_ship(case)}To mend this one, {BETTER_COPY[_kind(case)]}; last, raise `budget:`, for a reason that you can "
        f"write down.",
    )


def _accuracy_open(case: Case) -> Advice:
    row, metric = case.row, case.judged["metric"]
    low, high = (number(row[key], metric["places"]) for key in ("drop_lower95", "drop_upper95"))
    decide = row["units_to_decide"]
    if decide:
        then = "pass" if row["drop"] < case.judged["budget"]["drop"] else "fail"
        todo = (
            f"About {decide:,} items would decide (it would {then}, if changes keep this rate): lengthen the test set, "
            f"since a rerun only repeats the same answers."
        )
    elif "flips" in row:
        todo = f"So near the budget no longer test set would decide soon: {BETTER_COPY[_kind(case)]}."
    else:
        todo = (
            "How many items would decide cannot be told for this metric; four times as many about halve the range. "
            "Lengthen the test set: a rerun only repeats the same answers."
        )
    return Advice(
        _drop(case),
        f"{_changed(case)}: {METHODS[row['method']]} puts the true loss between {low} and "
        f"{amount(high, metric['drop_unit'])}, 95 % sure of each end.",
        "These items cannot tell whether that is too much: neither good news nor bad.",
        f"{todo} {_ship(case)}".rstrip(),
    )


def _no_bound(case: Case) -> Advice:
    few = case.row["n"] < BOOTSTRAP_LEAST
    return Advice(
        _drop(case),
        f"{_changed(case)}: too few to tell how far chance may go, and this metric has no worst value.",
        "So nothing bounds the loss, which may be tiny or large: neither good news nor bad.",
        f"Bring {f'at least {BOOTSTRAP_LEAST}' if few else 'more'} test items, or give the metric its ends where it "
        f"has any (`lowest` and `highest` in `deploy/tasks/`). {_ship(case)}".rstrip(),
    )


def _latency(case: Case) -> Advice:
    row, name, host = case.row, parts(case.target).name, _elsewhere(case)
    budget = case.judged["budget"]["latency_ratio"].get(name)
    if case.verdict == verdicts.NOT_MEASURED:
        return Advice(
            f"The latency budget of {budget:g} could not be judged: {quoted(case.reason)}.",
            "That is certain.",
            "Its answers were judged and its speed was not, so it cannot pass.",
            f"Run `dvc repro` on a host where the trained network runs on that device, or take `{name}` out of the "
            f"recipe's `latency_ratio:`.",
        )
    low, high = row["latency_ratio_lower95"], row["latency_ratio_upper95"]
    median = "" if row["p50_ms"] is None else f" (median {row['p50_ms']:.3f} ms)"
    slow = case.verdict == verdicts.FAIL
    against = "the trained network's" if row["latency_against"] == "trained" else f"those of {row['latency_against']}"
    by = f"`dvc repro --force --single-item measure@{case.recipe}`, then `dvc repro`"
    return Advice(
        f"The answers of {case.target}{median} take {row['latency_ratio']:.2f} times as long as {against}; the budget "
        f"allows {budget:g}.",
        f"Timed in turn in the same rounds, the true ratio lies between {low:.3f} and {high:.3f}, 95 % sure of each "
        f"end.",
        f"On {host or 'this host'} it is slower than you declared it may be."
        if slow
        else "That cannot tell whether it is fast enough: neither good news nor bad.",
        _faster(case)
        if slow
        else f"End other programs, or take a quieter machine, and time again{'' if host else f': {by}'}. "
        f"{again(host) + ' ' if host else ''}If that does not decide, time more rounds (`ROUNDS` and `SECONDS` in "
        f"`deploy/rounds.py`).",
    )


CAUSE = {
    verdicts.NOT_TRAINED: _not_trained,
    verdicts.STALE: _stale,
    verdicts.ABSENT: _absent,
    verdicts.NO_ANSWER: _no_answer,
    verdicts.NOT_FINITE: _not_finite,
    verdicts.ANOTHER_NETWORK: _another_network,
    verdicts.ACCURACY: _accuracy,
    verdicts.NO_BOUND: _no_bound,
    verdicts.LATENCY: _latency,
}


def _elsewhere(case: Case) -> str:
    """The host that the row was measured on, if not this one."""
    return parts(case.target).host


def _kind(case: Case) -> str:
    """``fp32``, ``fp16`` or ``int8``."""
    return str(case.row["precision"]).partition("-")[0]


def _drop(case: Case) -> str:
    row, metric = case.row, case.judged["metric"]
    places, unit = metric["places"], metric["drop_unit"]
    before, after, change = (number(value, places) for value in (row["trained"], row["deployed"], abs(row["drop"])))
    budget = amount(case.judged["budget"]["drop"], unit)
    if row["drop"] == 0:
        return f"The {metric['name']} stayed at {amount(after, metric['unit'])}; the budget allows a loss of {budget}."
    way = "better" if row["drop"] < 0 else "worse"
    return (
        f"The {metric['name']} went from {before} to {amount(after, metric['unit'])}, {amount(change, unit)} {way}; "
        f"the budget allows {budget}."
    )


def _changed(case: Case) -> str:
    """How many test items came out otherwise."""
    row = case.row
    if "flips" not in row:
        return f"Of {row['n']:,} test items, {row['changed']:,} scored otherwise"
    lost, won = row["flips"]["lost"], row["flips"]["won"]
    return f"Of {row['n']:,} test items, {lost:,} right answers became wrong and {won:,} wrong ones right"


def _passing(case: Case) -> list[tuple[str, dict[str, Any]]]:
    """The targets of this recipe that pass: of the same host, of the same kind of device, of smaller drop first."""
    asked = parts(case.target)

    def far(target: str) -> tuple[bool, bool]:
        of = parts(target)
        return of.host != asked.host, of.runtime.endswith("-cpu") != asked.runtime.endswith("-cpu")

    rows = [(target, row) for target, row in case.judged["targets"].items() if row["verdict"] == verdicts.PASS]
    return sorted(rows, key=lambda pair: (*far(pair[0]), pair[1]["drop"]))


def _ship(case: Case) -> str:
    """What can be shipped instead, one sentence and a blank; nothing where nothing passes."""
    metric = case.judged["metric"]
    for target, row in _passing(case):
        drop = amount(number(row["drop"], metric["places"]), metric["drop_unit"])
        return f"Ship {target} today: it passes (drop {drop}). "
    return ""


def _faster(case: Case) -> str:
    """What can be shipped where a target is too slow: milliseconds of another host tell nothing about this one."""
    host, ms = _elsewhere(case), case.row["p50_ms"]
    start = f"No other target of this recipe that passes is faster {'there' if host else 'here'}."
    for target, row in _passing(case):
        faster = row["p50_ms"] is not None and ms is not None and row["p50_ms"] < ms
        if faster and parts(target).host == host:
            start = f"Ship {target} instead: it passes and takes {row['p50_ms']:.3f} ms."
            break
    return (
        f"{start} Else try int8, a GPU or a smaller network, and raise `latency_ratio:` last, only for a reason that "
        f"you can write down."
    )
