"""Accuracy, latency and size of all that answers the same test items, and which of them none other beats."""

from typing import Any

from pipeline.matrix import parts
from pipeline.verdicts import PASS


def panels(verdicts: dict[str, Any]) -> list[dict[str, Any]]:
    """What ``charts.tradeoff`` draws: one panel for each data set and metric, whose scores can be compared.

    Returns:
        ``title``, ``metric`` (name and unit), ``higher_is_better``, ``reach`` (the scores to show: the budget around
        each trained score at least, so that a difference of nothing looks like nothing), and ``points``. A point:
        ``recipe``, ``target``, ``host`` (that it was timed on); ``score`` with ``lower`` and ``upper`` (of a deployed
        network its paired bounds around the trained score, of the trained one its own where they are known, else
        ``None``); ``ms`` (the median) with ``ms_lower`` and ``ms_upper`` (the ratio's bounds times the median that it
        divides by, else ``None``); ``bytes``;
        ``passes`` (of a deployed one); ``front`` (see ``mark_front``); ``named`` (one point a recipe carries its
        name); ``said``, all of it in words.
    """
    made: dict[tuple[str, str], dict[str, Any]] = {}
    for name, recipe in verdicts.items():
        deployed = _deployed(name, recipe)
        if not deployed:
            continue
        metric = recipe["metric"]
        key = (recipe["data"], metric["name"])
        panel = {"title": recipe["data"], "metric": f"{metric['name']}, {metric['unit']}", "points": [], "reach": []}
        panel = made.setdefault(key, panel | {"higher_is_better": metric["higher_is_better"]})
        points = _trained(name, recipe, deployed) + deployed
        points[0]["named"] = True
        ends = [recipe["trained"]["score"] + sign * recipe["budget"]["drop"] for sign in (-1, 1)]
        ends += [point[key] for point in points for key in ("score", "lower", "upper") if point[key] is not None]
        panel["points"] += points
        panel["reach"] = [min(ends + panel["reach"]), max(ends + panel["reach"])]
    for panel in made.values():
        mark_front(panel["points"], panel["higher_is_better"])
        for point in panel["points"]:
            unit = panel["metric"].split(", ")[-1]  # the metric's name may hold a comma itself
            point["said"] = f"{point['recipe']}, {point['target']}: {point['score']:.4g} {unit}"
            point["said"] += f", {point['ms']:.3g} ms" + (", on the front" if point["front"] else "")
    return list(made.values())


def mark_front(points: list[dict[str, Any]], higher_is_better: bool) -> None:
    """Set ``front`` of each point that ``passes`` and that no other such on its host beats: as accurate, as fast, as
    small, and better in one of the three. By the medians and the scores themselves: where bounds overlap, chance may
    decide.
    """
    sign = -1 if higher_is_better else 1
    costs = [(sign * point["score"], point["ms"], point["bytes"]) for point in points]
    rivals = [(point["host"], cost) for cost, point in zip(costs, points) if point["passes"]]
    for cost, point in zip(costs, points):
        on_it = [other for host, other in rivals if host == point["host"]]
        beaten = any(other != cost and all(a <= b for a, b in zip(other, cost)) for other in on_it)
        point["front"] = point["passes"] and not beaten


def _deployed(name: str, recipe: dict[str, Any]) -> list[dict[str, Any]]:
    trained = recipe["trained"]
    points: list[dict[str, Any]] = []
    if trained["score"] is None:  # measured on other hosts alone: there is nothing to draw bounds around
        return points
    for target, row in recipe["targets"].items():
        if row["deployed"] is None or row["p50_ms"] is None:
            continue
        sign = -1 if recipe["metric"]["higher_is_better"] else 1
        ends = [row["drop_lower95"], row["drop_upper95"]]
        lower, upper = (None, None) if None in ends else sorted(trained["score"] + sign * end for end in ends)
        ratios = [row["latency_ratio_lower95"], row["latency_ratio_upper95"]] if row["latency_ratio"] else []
        times = [row["p50_ms"] / row["latency_ratio"] * ratio for ratio in ratios] or [None, None]
        points.append(
            {"recipe": name, "target": target, "host": parts(target).host or recipe["host"]}
            | {"score": row["deployed"], "lower": lower, "upper": upper}
            | {"ms": row["p50_ms"], "ms_lower": times[0], "ms_upper": times[1], "bytes": row["size_bytes"]}
            | {"named": False, "passes": row["verdict"] == PASS}
        )
    return points


def _trained(name: str, recipe: dict[str, Any], deployed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The trained network where it was timed, as large as the largest of what was made of it."""
    trained = recipe["trained"]
    lower, upper = trained["bounds"] or (None, None)
    return [
        {"recipe": name, "target": "trained", "host": recipe["host"]}
        | {"score": trained["score"], "lower": lower, "upper": upper}
        | {"ms": timed["p50_ms"], "ms_lower": None, "ms_upper": None, "named": False, "passes": False}
        | {"bytes": max(point["bytes"] for point in deployed)}
        for device, timed in trained["latency_ms"].items()
        if " " not in device  # another of PyTorch's ways to run it, whose score nobody measured
    ]
