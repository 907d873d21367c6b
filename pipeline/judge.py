"""One recipe's measurement against what the recipe declared: every target's verdict, with its causes and numbers."""

from dataclasses import asdict, dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

from deploy.targets import target_names
from deploy.tasks import load_task
from deploy.tasks.metric import Metric
from pipeline import intervals
from pipeline.intervals import ALPHA, Interval
from pipeline.matrix import number
from pipeline.recipe import Budget, Recipe
from pipeline.verdicts import (
    ABSENT,
    ACCURACY,
    ANOTHER_NETWORK,
    CAUSES,
    FAIL,
    INCONCLUSIVE,
    LATENCY,
    NO_ANSWER,
    NO_BOUND,
    NOT_FINITE,
    NOT_MEASURED,
    NOT_TRAINED,
    PASS,
    STALE,
    WORSE,
)

ERROR_RATIO = 10  # an fp32 graph's error against float64, at most so many times the trained float32 network's


@dataclass(frozen=True)
class Judgement:
    """One part of a row's verdict, in words, with its cause (one of ``CAUSES``, none for ``PASS``) and its numbers."""

    verdict: str
    reason: str
    cause: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


METRICS = (
    "verdict",
    "reason",
    "metric",
    "trained",
    "deployed",
    "drop_upper95",
    "n",
    "latency_ratio",
    "p50_ms",
    "size_bytes",
    "memory_bytes",
    "graph_sha256",
)


MEMORY = ("memory_bytes", "device_memory_bytes", "memory_reason")
ON_DEVICE = ("device_share", "no_graph", "on_cpu")
POWER = ("power_w", "energy_mj", "power_reason")  # of a board: the module's, and of one request at it
SERVED = ("transport_ms", "queue_ms", "compute_ms")  # medians, of what is served
HOST = ("device", "host", "date", "notes", "sha256", "latency_against", "device_ms")
ROW = (*METRICS, *HOST, *ON_DEVICE, *POWER, *SERVED)  # what every row has; some of it may be null


def causes(parts: list[Judgement]) -> list[dict[str, str]]:
    """What keeps a row from ``PASS``, worst first, and of equals first what may explain the others."""
    bad = [part for part in parts if part.verdict != PASS]
    bad.sort(key=lambda part: (-WORSE.index(part.verdict), CAUSES.index(part.cause)))
    return [{"cause": part.cause, "verdict": part.verdict, "reason": part.reason} for part in bad]


def unmeasured(reason: str, precision: str, metric: Metric) -> dict[str, Any]:
    """The row of a target of a recipe that has no measurement which could be judged."""
    row: dict[str, Any] = dict.fromkeys(ROW)
    return row | {
        "verdict": NOT_MEASURED,
        "reason": reason,
        "causes": causes([Judgement(NOT_MEASURED, reason, ABSENT)]),
        "metric": f"{metric.name}, {metric.unit}",
        "precision": precision,
    }


def judge(measurement: dict[str, Any], contract_sha256: str, floor: float, budget: Budget) -> dict[str, Any]:
    """Judge one recipe's measurement.

    Args:
        contract_sha256: of the bundle as it is now; a measurement of another one is stale.
        floor: what the trained network itself must reach, in the metric's unit.

    Returns:
        ``trained`` (its score and interval) and ``targets``: target -> the row, with ``causes`` and every key of
        ``ROW``, whose value is ``None`` where nothing was measured. ``hosts``: the host's name -> its ``facts``, the
        ``date``, ``latency_ms``: the trained network's there, device -> percentiles, and why it ``failed`` on one.
    """
    task = load_task(measurement["task"])
    trained = measurement["trained"]
    statistics = np.asarray(trained["statistics"], dtype=float)
    score = task.score(statistics)
    metric = task.metric
    rows = {}
    for target, row in measurement["targets"].items():
        stale = measurement["contract_sha256"] != contract_sha256
        parts = _parts(measurement, target, task, floor, budget, stale)
        worst = max(parts, key=lambda part: WORSE.index(part.verdict))
        merged: dict[str, Any] = dict.fromkeys(ROW)
        for part in parts:
            merged |= part.facts
        merged |= {"host": measurement["host"]["name"], "date": measurement["date"]}
        if "statistics" in row:
            hashes = row["graph_sha256"]
            merged |= {"size_bytes": row["size_bytes"]} | {key: row.get(key) for key in (*MEMORY, *ON_DEVICE)}
            merged["device_ms"] = None if row.get("device_s") is None else 1e3 * row["device_s"]
            merged |= _power(row.get("power")) | {"notes": row.get("notes"), "sha256": row.get("sha256")}
            merged |= _served(row)
            merged["details"] = task.details(np.asarray(row["statistics"], dtype=float))
            merged["graph_sha256"] = next(iter(hashes.values())) if len(hashes) == 1 else hashes
        merged |= {
            "verdict": worst.verdict,
            "reason": "; ".join(part.reason for part in parts if worst.verdict == PASS or part.verdict != PASS),
            "causes": causes(parts),
            "metric": f"{metric.name}, {metric.unit}",
            "trained": score,
            "n": len(statistics),
            "precision": row["precision"],
            "device": row["device"],
        }
        rows[target] = merged
    host, date = measurement["host"], measurement["date"]
    latency_ms = {device: _latency_ms(timed) for device, timed in trained["latency"].items()}
    return {
        "metric": _told(metric),
        "trained": {"score": score, "floor": floor, "bounds": _score_bounds(statistics, task)}
        | {"details": task.details(statistics), "latency_ms": latency_ms},
        "budget": asdict(budget),
        "host": host["name"],
        "date": date,
        "hosts": {
            host["name"]: {"facts": host, "date": date, "latency_ms": latency_ms, "failed": trained.get("failed", {})}
        },
        "targets": rows,
    }


def _power(power: dict[str, Any] | None) -> dict[str, Any]:
    if power is None:
        return {}
    energy_j, mean = power["energy_j"], power["power_w"]
    return {
        "power_w": mean and mean["mean"],
        "energy_mj": None if energy_j is None else 1e3 * energy_j,
        "power_reason": "" if energy_j is not None else power["untold"].get("energy_j", "untold"),
    }


def _served(row: dict[str, Any]) -> dict[str, Any]:
    """Where the time of a served target's requests goes; nothing of any other."""
    parts = {f"{part}_ms": row.get(f"{part}_s") for part in ("transport", "queue", "compute")}
    medians = {part: 1e3 * float(np.median(seconds)) for part, seconds in parts.items() if seconds}
    if len(medians) < len(parts):
        return {}
    told = ", ".join(f"{part.removesuffix('_ms')} {ms:.3f} ms" for part, ms in medians.items())
    return medians | {"notes": [*(row.get("notes") or []), f"{told} (medians)"]}


def judge_unmeasured(reason: str, recipe: Recipe) -> dict[str, Any]:
    """As ``judge``, of a recipe whose measurement was refused: every target that there can be, not measured."""
    metric = load_task(recipe.task).metric
    rows = {target: unmeasured(reason, precision, metric) for target, precision in target_names().items()}
    return {
        "metric": _told(metric),
        "trained": {"score": None, "floor": recipe.floor, "bounds": None, "details": {}, "latency_ms": {}},
        "budget": asdict(recipe.budget),
        "host": None,
        "date": None,
        "hosts": {},
        "targets": rows,
    }


def _told(metric: Metric) -> dict[str, Any]:
    return {name: getattr(metric, name) for name in ("name", "unit", "drop_unit", "places", "higher_is_better")}


def _parts(
    measurement: dict[str, Any], target: str, task: ModuleType, floor: float, budget: Budget, stale: bool
) -> list[Judgement]:
    row, trained = measurement["targets"][target], measurement["trained"]
    before = np.asarray(trained["statistics"], dtype=float)
    parts = []
    unit, score = task.metric.unit, task.score(before)
    if not task.metric.drop(floor, score) <= 0:  # a score that is no number is under every floor
        told = f"not trained: {score:.2f} {unit}, and the floor is {floor:g} {unit}"
        parts.append(Judgement(FAIL, told, NOT_TRAINED))
    if stale:
        reason = "stale: measured on another bundle than this one"
        return [*parts, Judgement(NOT_MEASURED, reason, STALE)]
    if row["reason"]:
        return [*parts, Judgement(NOT_MEASURED, row["reason"], ABSENT)]
    if "failed" in row:
        told = f"it opened and then failed on the test examples: {row['failed']}"
        return [*parts, Judgement(FAIL, told, NO_ANSWER)]
    parts.append(judge_accuracy(before, np.asarray(row["statistics"], dtype=float), task, budget.drop))
    if not row["finite"]:
        parts.append(Judgement(FAIL, "answers that are not finite numbers", NOT_FINITE))
    if row["precision"] == "fp32":
        parts.append(judge_error(row, trained))
    return [*parts, _speed(measurement, target, budget.latency_ratio.get(target))]


def _speed(measurement: dict[str, Any], target: str, budget: float | None) -> Judgement:
    """Latency against the trained network's; where PyTorch was not, unjudged against that of another target.

    That is the one that all were timed ``beside``, as of what is served, or else the same runtime's own fp32.
    """
    row, trained = measurement["targets"][target], measurement["trained"]
    timed = trained["latency"].get(row["device"])
    runtime = target.rpartition("-")[0]
    own = f"{runtime.removesuffix('-dla')}-fp32"  # a DLA computes no fp32: the GPU's beside it
    other = measurement.get("beside") or measurement["targets"].get(own, {}) | {"target": own}
    if timed is None and budget is None and other["target"] != target and "latency_s" in other:
        return judge_latency(row, other, None, against=other["target"])
    failed = trained.get("failed", {}).get(row["device"], "")
    return judge_latency(row, timed, budget, failed)


def judge_accuracy(before: np.ndarray, after: np.ndarray, task: ModuleType, budget: float) -> Judgement:
    """Is the drop of the score proved to be below ``budget``?

    Args:
        before, after: statistics ``(n, k)`` of the trained and of the deployed network, the same units in one order.
        budget: in the metric's unit.

    Raises:
        ValueError: the two are not of the same units.
    """
    if before.shape != after.shape or not len(before):
        raise ValueError(f"statistics of shape {after.shape}, and the trained network's are of {before.shape}")
    n, metric = len(before), task.metric
    places = metric.places
    changed = int((before != after).any(axis=1).sum())
    drop = metric.drop(task.score(before), task.score(after))
    facts: dict[str, Any] = {"deployed": task.score(after), "drop": drop, "changed": changed}
    decide = None
    surely_below = surely_above = True
    if metric.right_or_wrong:
        ends = [task.score(np.full((1, before.shape[1]), share)) for share in (0.0, 1.0)]
        scale = abs(ends[1] - ends[0])  # of a share, in the metric's unit
        right_before, right_after = before[:, 0], after[:, 0]
        lost, won = int((right_before > right_after).sum()), int((right_before < right_after).sum())
        exact, shown = intervals.drop_interval(lost, won, n), intervals.tango_interval(lost, won, n)
        bounds: Interval | None = Interval(scale * exact.lower, scale * exact.upper)
        wrong = n - int(right_before.sum())
        facts |= {
            "method": "exact unconditional test, Tango's order",
            "flips": {"lost": lost, "won": won},
            "error_ratio": (wrong + lost - won) / wrong if wrong else None,
            "tango": [scale * shown.lower, scale * shown.upper],
        }
        surely_below = intervals.p_not_worse(lost, won, n, budget / scale) <= ALPHA
        surely_above = intervals.p_not_worse(won, lost, n, -budget / scale) <= ALPHA
        if not surely_below and not surely_above:
            decide = intervals.units_to_decide(lost, won, n, budget / scale)
    else:
        bounds, facts["method"] = _corpus_bounds(before, after, task, changed)
    facts["units_to_decide"] = decide
    if bounds is None:
        facts |= {"drop_lower95": None, "drop_upper95": None}
        told = f"drop {number(drop, places)} {metric.drop_unit}, and no bound: {facts['method']}"
        return Judgement(INCONCLUSIVE, told, NO_BOUND, facts)
    facts |= {"drop_lower95": bounds.lower, "drop_upper95": bounds.upper}
    told = f"drop {number(drop, places)} {metric.drop_unit}"
    told += f", at most {number(bounds.upper, places)} (95 %), budget {budget:g}"
    if bounds.upper < budget and surely_below:
        return Judgement(PASS, told, facts=facts)
    if bounds.lower > budget and surely_above:
        least = f"drop {number(drop, places)} {metric.drop_unit}, at least {number(bounds.lower, places)} (95 %)"
        return Judgement(FAIL, f"{least}, budget {budget:g}", ACCURACY, facts)
    needed = f"; about {decide:,} units would decide, there are {n:,}" if decide else ""
    return Judgement(INCONCLUSIVE, f"{told}{needed}", ACCURACY, facts)


def _score_bounds(statistics: np.ndarray, task: ModuleType) -> list[float] | None:
    """The trained score's two-sided 95 % bounds, exact; ``None`` but for units that are right or wrong."""
    if not task.metric.right_or_wrong:
        return None
    shares = intervals.clopper_pearson(int(statistics[:, 0].sum()), len(statistics), ALPHA)
    return sorted(task.score(np.full((1, statistics.shape[1]), share)) for share in shares)


def _corpus_bounds(
    before: np.ndarray, after: np.ndarray, task: ModuleType, changed: int
) -> tuple[Interval | None, str]:
    """Bounds of a corpus metric's drop: BCa over units, or the fraction changed times a unit's worst effect."""
    metric, n = task.metric, len(before)

    def drop(index: np.ndarray) -> float:
        return metric.drop(task.score(before[index]), task.score(after[index]))

    bounds = intervals.bootstrap_drop(drop, n) if changed and n >= intervals.BOOTSTRAP_LEAST else None
    if bounds:
        return bounds, "BCa bootstrap over units"
    if metric.lowest is None or metric.highest is None:
        return None, "too few units, or too few that differ, for a bootstrap, and the metric itself is unbounded"
    # The range is the worst effect where every unit weighs alike; a unit that weighs more shows when it is left out.
    whole, keep = task.score(before), ~np.eye(n, dtype=bool)
    influence = max(abs(whole - task.score(before[keep[i]])) for i in range(n)) if n > 1 else 0.0
    worst = max(metric.highest - metric.lowest, n * influence)
    return intervals.fraction_drop(changed, n, worst), "Clopper-Pearson on the units changed, times the worst effect"


def judge_error(row: dict[str, Any], trained: dict[str, Any]) -> Judgement:
    """An fp32 graph against the float64 network, by the trained float32 network's own error."""
    allowed = ERROR_RATIO * max(trained["error_max"], trained["rounding"])
    came = row["error_max"]
    facts = {"error_max": came, "error_allowed": allowed}
    against = "float64" if trained["exact"] == "float64" else "float32 (there is no float64 of it)"
    if came is not None and came <= allowed:
        return Judgement(PASS, f"largest error against {against} {came:.2g}, allowed {allowed:.2g}", facts=facts)
    return Judgement(
        FAIL,
        f"not the same network: largest error against {against} {came if came is None else format(came, '.3g')}, "
        f"allowed {allowed:.2g} ({ERROR_RATIO} times the trained network's own)",
        ANOTHER_NETWORK,
        facts,
    )


def judge_latency(
    row: dict[str, Any],
    trained: dict[str, Any] | None,
    budget: float | None,
    failed: str = "",
    against: str = "trained",
) -> Judgement:
    """Deployed / trained latency of the same rounds, against ``budget`` where there is one.

    Args:
        trained: the trained network's latency on the same kind of device; ``None`` where it was not timed there.
        failed: why it was not, where it failed while it was timed.
        against: whose latency ``trained`` is, if not that network's.
    """
    if trained is None:
        told = "no latency ratio: the trained network was not timed on that device"
        told = f"no latency ratio: the trained network failed while it was timed ({failed})" if failed else told
        if budget is None:
            return Judgement(PASS, told, facts=_latency_ms(row))
        return Judgement(NOT_MEASURED, told, LATENCY, _latency_ms(row))
    ratio, bounds = intervals.median_ratio(np.asarray(row["latency_s"]), np.asarray(trained["latency_s"]))
    facts: dict[str, Any] = {
        "latency_ratio": ratio,
        "latency_ratio_lower95": bounds.lower,
        "latency_ratio_upper95": bounds.upper,
        "latency_against": against,
    }
    facts |= _latency_ms(row)
    told = f"latency {ratio:.2f} of {against} ({bounds.lower:.2f} to {bounds.upper:.2f})"
    if budget is None:
        return Judgement(PASS, told, facts=facts)
    told += f", budget {budget:g}"
    if bounds.upper < budget:
        return Judgement(PASS, told, facts=facts)
    return Judgement(FAIL if bounds.lower > budget else INCONCLUSIVE, told, LATENCY, facts)


def _latency_ms(row: dict[str, Any]) -> dict[str, float | None]:
    """Percentiles in milliseconds, where the samples earn them; ``alone_ms`` is the median back to back."""
    latency_s = np.asarray(row["latency_s"])
    shares = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99}
    earned = {key: intervals.percentile(latency_s, share) for key, share in shares.items()}
    earned["alone_ms"] = row["alone_s"]
    return {key: None if value is None else 1e3 * value for key, value in earned.items()}
