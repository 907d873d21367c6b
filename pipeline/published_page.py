"""``results/PUBLISHED.md`` and its picture: what was published, trained here and deployed here, side by side.

Of every recipe in the files of ``results/`` that say of one at least what was ``published``. Made with the README's
tables by ``make results`` and ``make paper-results``.
"""

from collections.abc import Iterator
from typing import Any

import altair as alt

from pipeline import charts
from pipeline.intervals import ALPHA, clopper_pearson
from pipeline.matrix import number, parts, piped, tried

Results = dict[str, dict[str, Any]]  # set and host, as the file is called -> what `results/` keeps of them
Bounds = tuple[float, float]

PRECISIONS = tuple(charts.COLOURS)
TITLE = "# Published, trained here, deployed here\n\nMade by `make paper-results` from the files beside it.\n\n"
NONE = """\
Nothing that is kept says yet what was published. A recipe says it by
`published: {score: 98.9, source: "who, when, which table"}`; `make paper-results` makes this page.
"""
HOW = """\
In brackets the exact 95 % interval (Clopper and Pearson 1934) of a share of right answers among the n test units, for
this one training: another seed moves the score as well, and how uncertain the published score is stands nowhere here.
Of any other metric there is no interval of the score itself, but the 95 % upper bound of what deploying cost (lost ≤).

- **reached**: the published score is worse than the whole interval of what was trained here;
- **within the interval**: there are too few test units to tell the two apart;
- **not reached**: the published score is better than the whole interval;
- **–**: nobody's figure stands beside it, only the floor.

`PASS` and the other verdicts are of what deploying cost, against the trained network on the same units, one by one;
that tells far smaller differences than two intervals do. The floor is what a recipe's trained network itself must
reach. In the picture an upright line stands at what was published.

![How much better than published each network is, trained and deployed, with 95 % intervals](PUBLISHED.svg)
"""
HEAD = ["recipe", "network", "data", "published", "trained here", "against published"]
HEAD += [*(f"deployed: {precision}" for precision in PRECISIONS), "floor", "n"]


def published_page(results: Results) -> str:
    """The page's text: a table for each file that holds such a recipe, a row a recipe."""
    tables = [
        f"## {name}\n\n{piped(HEAD, [_line(*of) for of in recipes.items()])}\n\n{_where(result, recipes)}\n"
        for name, result in results.items()
        if _with_published(result) and (recipes := result["verdicts"])
    ]
    return TITLE + ("\n".join([HOW, *tables]) if tables else NONE)


def published_picture(results: Results) -> str:
    """All of them as the text of an SVG file, a panel a metric; empty where there is none."""
    panels: dict[tuple[str, str], list[dict[str, Any]]] = {}
    shown = {name: recipes for name, result in results.items() if (recipes := _with_published(result))}
    for name, recipes in shown.items():
        for recipe, verdict in recipes.items():
            metric = verdict["metric"]
            row = f"{recipe}, {verdict['published']['score']:g} {metric['unit']}"
            row += f", {name}" if len(shown) > 1 else ""
            panel = panels.setdefault((metric["name"], metric["drop_unit"]), [])
            panel += [point | {"row": row} for point in _points(recipe, verdict)]
    drawn = [_panel(points, *of) for of, points in panels.items()]
    return charts.svg_file(charts.svg(alt.vconcat(*drawn, spacing=28))) if drawn else ""


def against_published(recipe: dict[str, Any]) -> str:
    """Where the published score lies, in words.

    Args:
        recipe: an entry of ``verdicts.json`` that has ``published``.
    """
    score, bounds, published = recipe["trained"]["score"], recipe["trained"]["bounds"], recipe["published"]["score"]
    if score is None:
        return "not measured"
    upwards = recipe["metric"]["higher_is_better"]
    if bounds is None:
        reached = score >= published if upwards else score <= published
        return f"{'reached' if reached else 'not reached'}, by the score alone: it has no interval"
    if published < bounds[0]:
        return f"{'reached' if upwards else 'not reached'}: published lies below the interval"
    if published > bounds[1]:
        return f"{'not reached' if upwards else 'reached'}: published lies above the interval"
    return "within the interval"


def deployed_bounds(recipe: dict[str, Any], row: dict[str, Any]) -> Bounds | None:
    """The exact 95 % interval of a deployed score, in per cent; ``None`` where the score is no share of right answers.

    Right and wrong change places without changing the interval, so that an error rate has its own as well.
    """
    if recipe["trained"]["bounds"] is None or recipe["metric"]["unit"] != "%":
        return None
    low, high = clopper_pearson(round(row["n"] * row["deployed"] / 100), row["n"], ALPHA)
    return 100 * low, 100 * high


def _with_published(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The recipes that say what was published; a file that was kept before there was such a word has none."""
    return {name: recipe for name, recipe in result["verdicts"].items() if recipe.get("published")}


def _line(name: str, recipe: dict[str, Any]) -> list[str]:
    metric, trained, published = recipe["metric"], recipe["trained"], recipe.get("published")
    n = next((row["n"] for row in recipe["targets"].values() if row["n"]), None)
    return [
        name,
        recipe.get("network") or recipe["reference"],
        recipe["data"],
        f"{published['score']:g} {metric['unit']} {metric['name']} ({published['source']})" if published else "–",
        "not measured" if trained["score"] is None else _told(trained["score"], trained["bounds"], metric),
        against_published(recipe) if published else "–",
        *(_deployed(recipe, precision) for precision in PRECISIONS),
        f"{trained['floor']:g} {metric['unit']}",
        "–" if n is None else f"{n:,}",
    ]


def _deployed(recipe: dict[str, Any], precision: str) -> str:
    """What was measured of a precision: the runtimes that came to the same stand together."""
    told: dict[str, list[str]] = {}
    for target, row in _tried(recipe, precision):
        of = parts(target)
        told.setdefault(_row(recipe, row), []).append(f"{of.runtime}@{of.host}" if of.host else of.runtime)
    return "<br>".join(f"{what} on {', '.join(where)}" for what, where in told.items()) or "not measured"


def _row(recipe: dict[str, Any], row: dict[str, Any]) -> str:
    metric = recipe["metric"]
    if row["deployed"] is None:
        return f"{row['verdict']}: {row['reason']}"
    bounds = deployed_bounds(recipe, row)
    told = _told(row["deployed"], bounds, metric)
    if bounds is None:
        upper = row["drop_upper95"]
        told += " (no bound)" if upper is None else f" (lost ≤ {number(upper, metric['places'])})"
    return f"{told} {row['verdict']}"


def _tried(recipe: dict[str, Any], precision: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for target, row in recipe["targets"].items():
        if parts(target).precision == precision and tried(row):
            yield target, row


def _told(score: float, bounds: Bounds | None, metric: dict[str, Any]) -> str:
    if bounds is None:
        return _amount(score, metric)
    low, high = (number(bound, metric["places"]) for bound in bounds)
    return f"{_amount(score, metric)} ({low}–{high})"


def _amount(score: float, metric: dict[str, Any]) -> str:
    return f"{number(score, metric['places'])} {metric['unit']}"


def _where(result: dict[str, Any], recipes: dict[str, dict[str, Any]]) -> str:
    host = result["host"]
    dates = " and ".join(sorted({recipe["date"] for recipe in recipes.values() if recipe["date"]})) or "not measured"
    return f"{host['name']}: {host['processor']}, {host['cores']} cores; {dates}, commit `{result['commit']}`."


def _points(name: str, recipe: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The published score, the trained one and each deployed one: by how much it is ``better`` than published."""
    metric, published, trained = recipe["metric"], recipe["published"], recipe["trained"]
    said = f"{name}: published {published['score']:g} {metric['unit']} ({published['source']})"
    yield {"kind": "published", "better": 0.0, "lower": None, "upper": None, "said": said}
    scores = [] if trained["score"] is None else [("trained", "trained", trained["score"], trained["bounds"])]
    scores += [
        (precision, target, row["deployed"], deployed_bounds(recipe, row))
        for precision in PRECISIONS
        for target, row in _tried(recipe, precision)
        if row["deployed"] is not None
    ]
    for kind, what, score, bounds in scores:
        lower, upper = bounds or (None, None)
        yield {
            "kind": kind,
            "better": _better(score, published["score"], metric),
            "lower": _better(lower, published["score"], metric),
            "upper": _better(upper, published["score"], metric),
            "said": f"{name}, {what}: {_told(score, bounds, metric)}",
        }


def _better(score: float | None, published: float, metric: dict[str, Any]) -> float | None:
    if score is None:
        return None
    return score - published if metric["higher_is_better"] else published - score


def _panel(points: list[dict[str, Any]], metric: str, unit: str) -> alt.LayerChart:
    kinds = ("trained", *PRECISIONS)
    rows = list(dict.fromkeys(point["row"] for point in points))
    y = alt.Y("row:N", title=None, sort=None, axis=alt.Axis(labelLimit=320))
    beside = alt.YOffset("kind:N", scale=alt.Scale(domain=list(kinds), paddingOuter=0.6))
    colour = alt.Color(
        "kind:N",
        title=None,
        scale=alt.Scale(domain=list(kinds), range=[charts.TRAINED, *charts.COLOURS.values()]),
        legend=alt.Legend(columns=len(kinds)),
    )
    x = alt.X(
        "better:Q", title=f"{metric}: better than published (0) by, {unit}", scale=alt.Scale(zero=True, padding=10)
    )

    def of(shown: list[dict[str, Any]]) -> alt.Chart:
        return alt.Chart(alt.Data(values=shown))

    reached = [point for point in points if point["kind"] in kinds]
    ticks = of([point for point in points if point["kind"] == "published"])
    ticks = ticks.mark_tick(color=charts.INK, thickness=2, size=46, opacity=1).encode(x=x, y=y, description="said:N")
    bars = of([point for point in reached if point["lower"] is not None]).mark_rule(strokeWidth=2, opacity=0.7)
    bars = bars.encode(x="lower:Q", x2="upper:Q", y=y, yOffset=beside, color=colour, description="said:N")
    dots = of(reached).mark_point(filled=True, size=60, opacity=1)
    dots = dots.encode(x=x, y=y, yOffset=beside, color=colour, description="said:N")
    return (ticks + bars + dots).properties(width=charts.WIDTH, height=64 * len(rows))
