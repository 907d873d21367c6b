"""Charts of one look, drawn by Vega-Lite without a browser: as SVG to put into a page, as SVG and PNG files.

Text takes the page's own colour (``currentColor``), so that one drawing reads on light and on dark. Colours are Okabe
and Ito's, which the colour-blind can tell apart: one for each precision, grey for what was trained; a runtime has its
dashes, a host its shape where there are several. Each mark says in words what it shows (``aria-label``), which the page
tells to whoever points at it.
"""

import json
import math
import re
from typing import Any

import altair as alt
import numpy as np
import vl_convert

from pipeline.matrix import amount, parts

INK, PAPER = "#1d2327", "#ffffff"  # of files; the page has its own
COLOURS = {"fp32": "#0072B2", "fp16": "#009E73", "int8": "#D55E00"}
TRAINED, BUDGET = "#8a929a", "#CC79A7"
DASHES = ([1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [4, 4], [1, 3])  # a runtime each
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")  # a host each
WIDTH = 400  # pixels, labels and all: it fits a phone, and two or three stand side by side on a desk
FP16_MAX = 65504.0
SHARES = [*(i / 100 for i in range(99)), 0.985, 0.99, 0.995, 1.0]  # of requests, at which a curve of latency is told
ERRORS = (0, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100)  # per cent: ticks of their axis
LEAST_ERROR = 0.1  # per cent: below it that axis is straight, so that none has its place
NAME = 0.055  # of a chart's height: a line of text
FEW = 10  # epochs, of which each has its tick
COORDINATES = r'\s(?:d|transform|x|y|x1|x2|y1|y2|width|height|viewBox)="[^"]*"'
PERCENTILES = {"p50_ms": 50, "p90_ms": 90, "p99_ms": 99}


def accuracy(rows: list[dict[str, Any]], budget: float, metric: str, unit: str) -> alt.LayerChart:
    """The drop of each target with its bounds, against the budget.

    Args:
        rows: each ``target``, ``drop``, ``lower``, ``upper`` (in ``unit``).
    """
    values = [
        row | {"said": f"{row['target']}: lost {row['drop']:.4g}, {row['lower']:.4g} to {row['upper']:.4g} {unit}"}
        for row in rows
    ]
    base = alt.Chart(alt.Data(values=values)).encode(y=_by_target(), color=_coloured(rows), description="said:N")
    reach = [0.0, budget, *(row["lower"] for row in rows), *(row["upper"] for row in rows)]
    ends = [min(reach) - 0.1 * budget, max(reach) + 0.15 * budget]
    scale = alt.Scale(domain=ends, nice=False)
    bars = base.mark_rule(strokeWidth=4, strokeCap="round").encode(
        x=alt.X("lower:Q", title=f"{metric} lost, {unit}", scale=scale), x2="upper:Q"
    )
    points = base.mark_point(filled=True, size=90, opacity=1).encode(x=alt.X("drop:Q", scale=scale))
    beyond = alt.Chart(alt.Data(values=[{"from": budget, "to": ends[1]}]))
    beyond = beyond.mark_rect(color=BUDGET, opacity=0.15, aria=False).encode(x=alt.X("from:Q", scale=scale), x2="to:Q")
    line = alt.Chart(alt.Data(values=[{"at": budget, "kind": f"budget {amount(budget, unit)}"}]))
    limit = line.mark_rule(strokeWidth=2, color=BUDGET).encode(x="at:Q", description="kind:N")
    told = line.mark_text(align="right", dx=-5, dy=-6, baseline="bottom", color=INK, aria=False).encode(
        x="at:Q", y=alt.value(0), text="kind:N"
    )
    zero = alt.Chart(alt.Data(values=[{"at": 0.0, "said": "nothing lost"}]))
    zero = zero.mark_rule(color=INK, strokeDash=[2, 3], opacity=0.6)
    return _fitted(
        beyond + zero.encode(x="at:Q", description="said:N") + limit + bars + points + told, 34 * len(rows) + 56
    )


def latency(latency_s: dict[str, list[float]], earned: dict[str, dict[str, float | None]]) -> alt.LayerChart:
    """The share of requests answered within a time, for each network, on a log time axis.

    Args:
        earned: network -> ``p50_ms``, ``p90_ms``, ``p99_ms``, of which those that the samples earn are marked.
    """
    values = [
        {"target": target, "ms": ms, "share": 100 * share}
        for target, samples in latency_s.items()
        for share, ms in within(samples)
    ]
    marked = [
        {"target": target, "ms": facts[key], "share": share, "said": f"{target}: p{share} {facts[key]:.4g} ms"}
        for target, facts in earned.items()
        for key, share in PERCENTILES.items()
        if facts.get(key) is not None
    ]
    x = alt.X(
        "ms:Q",
        title="latency of one request, milliseconds (log)",
        scale=alt.Scale(type="log", nice=False),
    )
    y = alt.Y("share:Q", title="requests answered within, %")
    named = [{"target": target} for target in latency_s]
    lines = (
        alt.Chart(alt.Data(values=values))
        .mark_line(interpolate="step-after", strokeWidth=2)
        .encode(x=x, y=y, color=_coloured(named, legend=True), strokeDash=_dashed(named), description="target:N")
    )
    points = (
        alt.Chart(alt.Data(values=marked))
        .mark_point(filled=True, size=45, opacity=1)
        .encode(x=x, y=y, color=_coloured(named), description="said:N")
    )
    return _fitted(lines + points, 250 + 18 * len(latency_s))


def within(latency_s: list[float]) -> list[tuple[float, float]]:
    """Each share of ``SHARES``, and the milliseconds within which that share of the requests was answered.

    Args:
        latency_s: of each request, seconds.
    """
    answered = np.quantile(latency_s, SHARES, method="inverted_cdf").tolist()
    return [(share, float(f"{1e3 * s:.4g}")) for share, s in zip(SHARES, answered)]


def weight(rows: list[dict[str, Any]]) -> alt.LayerChart:
    """What each target takes, as bars with their numbers.

    Args:
        rows: each ``target`` and ``bytes``.
    """
    values = [row | {"said": f"{row['target']}: {size(row['bytes'])}", "told": size(row["bytes"])} for row in rows]
    base = alt.Chart(alt.Data(values=values)).encode(
        y=_by_target(), x=alt.X("bytes:Q", title=None, axis=None), description="said:N"
    )
    bars = base.mark_bar(height=14, cornerRadiusEnd=2).encode(color=_coloured(rows))
    told = base.mark_text(align="left", dx=5, color=INK, aria=False).encode(text="told:N")
    away = any(parts(row["target"]).host for row in rows)
    return _fitted(bars + told, (34 if away else 26) * len(rows) + 16)


def size(of: float) -> str:
    """Bytes in the unit that suits them."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if of >= scale:
            return f"{of / scale:.1f} {unit}"
    return f"{of / 1e3:.1f} kB"


def ranges(graph: str, of: dict[str, list[float]]) -> alt.LayerChart:
    """The least and the greatest value of each activation on the calibration examples, in the graph's order.

    Args:
        of: tensor -> its least and greatest value.
    """
    values = [
        {"at": i, "low": low, "high": high, "said": f"{name}: {low:.4g} to {high:.4g}"}
        for i, (name, (low, high)) in enumerate(of.items(), start=1)
    ]
    reach = max(10.0, *(max(abs(low), abs(high)) for low, high in of.values()))
    near = reach > FP16_MAX / 1000  # a line far from all bars would only flatten them
    ends = max(reach, FP16_MAX if near else 0.0)
    scale = alt.Scale(type="symlog", domain=[-ends, ends], nice=False)
    tens = [sign * 10.0**power for power in range(0, int(math.log10(ends)) + 1) for sign in (-1, 1)]
    y = alt.Y(
        "low:Q",
        title="value (symmetric log)",
        scale=scale,
        axis=alt.Axis(values=[0, *tens], format="~s" if ends < 1e15 else "~e"),
    )
    bars = (
        alt.Chart(alt.Data(values=values))
        .mark_rule(strokeWidth=max(2, min(9, 260 / len(values))), color=COLOURS["fp32"], strokeCap="butt")
        .encode(
            x=alt.X("at:Q", title=f"activations of {graph}, first to last", axis=alt.Axis(tickMinStep=1, grid=False)),
            y=y,
            y2="high:Q",
            description="said:N",
        )
    )
    limits = [{"at": sign * FP16_MAX, "said": f"fp16 ends at {sign * FP16_MAX:g}"} for sign in (-1, 1) if near]
    lines = alt.Chart(alt.Data(values=limits)).mark_rule(color=BUDGET, strokeWidth=2)
    return _fitted(bars + lines.encode(y="at:Q", description="said:N"), 240)


def drift(curves: dict[str, dict[str, list[float]]]) -> alt.Chart:
    """The largest error so far against the number of steps, for each network; both axes log.

    Args:
        curves: network -> ``step`` and ``error``.
    """
    values = [
        {"target": name, "step": step, "error": max(error, 1e-12)}
        for name, curve in curves.items()
        for step, error in zip(curve["step"], curve["error"], strict=True)
    ]
    named = [{"target": name} for name in curves]
    chart = (
        alt.Chart(alt.Data(values=values))
        .mark_line(interpolate="step-after", strokeWidth=2)
        .encode(
            x=alt.X("step:Q", title="steps since the state was zero (log)", scale=alt.Scale(type="log", nice=False)),
            y=alt.Y(
                "error:Q",
                title="largest error so far (log)",
                scale=alt.Scale(type="log"),
                axis=alt.Axis(format=".0e", tickCount=6),
            ),
            color=_coloured(named, legend=True),
            strokeDash=_dashed(named),
            description="target:N",
        )
    )
    return _fitted(chart, 250 + 18 * len(curves))


def learning(history: list[dict[str, float]], metric: str, unit: str) -> alt.VConcatChart:
    """Losses and the metric by epoch; a line marks the epoch that was kept.

    Args:
        history: rows of the CSV file that ``train`` writes.
    """
    losses = [
        {"epoch": row["epoch"], "loss": max(row[f"{split}_loss"], 1e-12), "split": split}
        for row in history
        for split in ("train", "select")
    ]
    alone = len(history) == 1  # one epoch makes no line
    colours = alt.Scale(domain=["train", "select"], range=[TRAINED, COLOURS["fp32"]])
    x = _epochs(history)
    loss = (
        alt.Chart(alt.Data(values=losses))
        .mark_line(strokeWidth=2, point=alone)
        .encode(
            x=x,
            y=alt.Y("loss:Q", title="loss (log)", scale=alt.Scale(type="log"), axis=alt.Axis(tickCount=4, format="~g")),
            color=alt.Color("split:N", title=None, sort=None, scale=colours),
            description="split:N",
        )
    )
    score = (
        alt.Chart(alt.Data(values=history))
        .mark_line(strokeWidth=2, color=COLOURS["fp32"], point=alone, aria=False)
        .encode(x=x, y=alt.Y("score:Q", title=[f"{metric}", f"on select, {unit}"], scale=alt.Scale(zero=False)))
        .transform_calculate(score=f"datum[{json.dumps(metric)}]")
    )
    return _stacked([chart + _kept(history) for chart in (loss, score)])


def spread(of: list[dict[str, float]], history: list[dict[str, float]]) -> alt.VConcatChart:
    """All weights and all biases by epoch: least, quartiles, median, greatest.

    Args:
        of, history: rows of the two CSV files that ``train`` writes.
    """
    x = _epochs(history)
    rows = alt.Chart(alt.Data(values=of))
    charts = []
    for kind in ("weights", "biases"):
        y = alt.Y(f"{kind}_min:Q", title=kind)
        ends = rows.mark_area(opacity=0.25, color=COLOURS["fp32"], aria=False).encode(x=x, y=y, y2=f"{kind}_max:Q")
        quartiles = rows.mark_area(opacity=0.45, color=COLOURS["fp32"], aria=False)
        middle = rows.mark_line(color=COLOURS["fp32"], aria=False).encode(x=x, y=f"{kind}_p50:Q")
        charts.append(ends + quartiles.encode(x=x, y=f"{kind}_p25:Q", y2=f"{kind}_p75:Q") + middle + _kept(history))
    return _stacked(charts)


def tradeoff(panel: dict[str, Any]) -> alt.LayerChart:
    """Score against latency of all that answers one data set's test items; area is size, a ring marks the front.

    Per cent of right answers stand by the logarithm of what is missing to 100, or nine networks between 98 and 99.8 %
    would lie on each other; so would their names, which keep a distance. Where they were timed on several hosts, each
    host has its shape.

    Args:
        panel: one of ``tradeoff.panels``.
    """
    by_errors = panel["higher_is_better"] and panel["metric"].endswith(", %")
    worst, best = panel["reach"] if panel["higher_is_better"] else reversed(panel["reach"])
    scale, axis, title = alt.Scale(domain=[worst, best], zero=False, nice=False), alt.Axis(), panel["metric"]
    points = panel["points"]
    if by_errors:
        worst, best = 100 - worst, max(0.0, 100 - best)
        scale = alt.Scale(domain=[worst, best], type="symlog", constant=LEAST_ERROR, nice=False)
        axis = alt.Axis(values=ERRORS, labelExpr="format(100 - datum.value, '~r')")
        title += " (log of what is missing to 100)"
        points = [point | _missing(point) for point in points]
    x = alt.X(
        "ms:Q",
        title="latency of one request, milliseconds (log)",
        scale=alt.Scale(type="log", nice=False, padding=24),
    )
    y = alt.Y("score:Q", title=title, scale=scale, axis=axis)
    colour = alt.Color(
        "kind:N",
        title=None,
        scale=alt.Scale(domain=["trained", *COLOURS], range=[TRAINED, *COLOURS.values()]),
        legend=alt.Legend(columns=4),
    )
    area = alt.Size("bytes:Q", legend=None, scale=alt.Scale(type="sqrt", range=[40, 420]))
    points = [point | {"kind": _precision(point["target"]) or "trained"} for point in points]
    hosts = list(dict.fromkeys(point["host"] for point in points))
    shapes = [SHAPES[i % len(SHAPES)] for i in range(len(hosts))]
    legend = alt.Legend(orient="bottom", columns=1, symbolFillColor=INK, symbolStrokeColor=INK)
    shape = alt.Shape("host:N", title=None, scale=alt.Scale(domain=hosts, range=shapes), legend=legend)
    by_host = {"shape": shape} if len(hosts) > 1 else {}

    def of(key: str) -> alt.Chart:
        shown = [point for point in points if point[key] is not None and point[key] is not False]  # 0 is a bound
        return alt.Chart(alt.Data(values=shown))

    every = alt.Chart(alt.Data(values=points))
    together = every.mark_line(color=INK, strokeWidth=1, opacity=0.25, aria=False).encode(
        x=x, y=y, detail="recipe:N", order="ms:Q"
    )
    bars = of("lower").mark_rule(strokeWidth=1.5, opacity=0.7)
    bars = bars.encode(x=x, y=alt.Y("lower:Q", scale=scale), y2="upper:Q", color=colour, description="said:N")
    across = of("ms_lower").mark_rule(strokeWidth=1.5, opacity=0.7)
    across = across.encode(x="ms_lower:Q", x2="ms_upper:Q", y=y, color=colour, description="said:N")
    dots = every.mark_point(filled=True, opacity=0.85)
    dots = dots.encode(x=x, y=y, size=area, color=colour, description="said:N", **by_host)
    rings = of("front").mark_point(filled=False, color=INK, strokeWidth=2, opacity=1)
    rings = rings.encode(x=x, y=y, size=area, description="said:N", **by_host)
    names = (
        alt.Chart(alt.Data(values=_apart([point for point in points if point["named"]], worst, best, by_errors)))
        .mark_text(align="right", dx=10, dy=-17, color=INK, limit=180, aria=False)
        .encode(x=x, y=alt.Y("name_at:Q", scale=scale), text="recipe:N")
    )
    chart = together + bars + across + dots + rings + names
    return _fitted(chart.properties(title=_title(panel["title"])), 320 + 18 * (len(hosts) if by_host else 0))


def _missing(point: dict[str, Any]) -> dict[str, float | None]:
    """The score and its bounds as errors; those of a drop may reach past 100 %."""
    at = {key: point[key] for key in ("score", "lower", "upper")}
    return {key: None if value is None else max(0.0, 100 - value) for key, value in at.items()}


def _apart(points: list[dict[str, Any]], worst: float, best: float, by_errors: bool) -> list[dict[str, Any]]:
    """The points with ``name_at``, the score at which the name stands: from the best on, each a line below the last."""

    def height(score: float) -> float:
        return math.log1p(score / LEAST_ERROR) if by_errors else score

    line = (height(worst) - height(best)) * NAME  # of either sign
    ordered = sorted(points, key=lambda point: (height(point["score"]) - height(best)) / line)
    lines: list[float] = []
    for point in ordered:
        at = height(point["score"]) / line
        lines.append(max(at, lines[-1] + 1) if lines else at)
    return [
        point | {"name_at": LEAST_ERROR * math.expm1(at * line) if by_errors else at * line}
        for point, at in zip(ordered, lines)
    ]


def svg(chart: Any) -> str:
    """For a page: transparent, in the page's own ink, coordinates to a tenth of a pixel."""
    drawn = str(vl_convert.vegalite_to_svg(_styled(chart)))
    return re.sub(r"<[^>]*>", lambda tag: _tidied(tag[0]), drawn)  # a name in a text may look like an attribute


def _tidied(tag: str) -> str:
    tag = re.sub(COORDINATES, lambda found: re.sub(r"\d+\.\d{2,}", _tenth, found[0]), tag)
    return tag.replace(f'"{INK}"', '"currentColor"')


def _tenth(found: re.Match[str]) -> str:
    return f"{float(found[0]):.1f}".removesuffix(".0")


def svg_file(drawn: str) -> str:
    """What ``svg`` drew as a file of its own, which follows the light or dark of whoever shows it."""
    ink = f"<style>svg{{color:{INK}}}@media(prefers-color-scheme:dark){{svg{{color:#e7eaec}}}}</style>"
    return re.sub(r"(<svg[^>]*>)", rf"\1{ink}", drawn, count=1)


def png(drawn: str) -> bytes:
    """What ``svg`` drew for print: dark on white, two pixels a point."""
    paper = f'<rect width="100%" height="100%" fill="{PAPER}"/>'
    filled = re.sub(r"(<svg[^>]*>)", rf"\1{paper}", drawn.replace('="currentColor"', f'="{INK}"'), count=1)
    return bytes(vl_convert.svg_to_png(filled, scale=2))


def beside(charts: list[Any], columns: int = 2) -> alt.ConcatChart:
    """One picture of several charts, each with the scales of its own."""
    free = [chart.properties(width=WIDTH - 60, height=WIDTH - 160) for chart in charts]
    return alt.concat(*free, columns=columns, spacing=36).resolve_scale(
        x="independent", y="independent", size="independent", color="shared"
    )


def _precision(target: str) -> str:
    """What a target's name says of its precision; empty for the trained network."""
    of = parts(target).precision
    return of if of in COLOURS else ""


def _by_target() -> alt.Y:
    """A line for each target; a host stands below what was measured on it."""
    two = {"condition": {"test": "indexof(datum.label, '@') >= 0", "value": -6}, "value": 0}  # half a line up
    broken = "split(replace(datum.label, '@', '@\\n'), '\\n')"
    axis = alt.Axis(labelExpr=broken, labelOffset=two, labelOverlap=False)
    return alt.Y("target:N", title=None, sort=None, axis=axis)


def _coloured(rows: list[dict[str, Any]], legend: bool = False) -> alt.Color:
    """A colour for each target, by its precision."""
    names = list(dict.fromkeys(row["target"] for row in rows))
    scale = alt.Scale(domain=names, range=[COLOURS.get(_precision(name), TRAINED) for name in names])
    shown = alt.Legend(columns=1, symbolLimit=len(names)) if legend else None  # Vega leaves out those after 30
    return alt.Color("target:N", title=None, sort=None, scale=scale, legend=shown)


def _dashed(rows: list[dict[str, Any]]) -> alt.StrokeDash:
    """Dashes for each target, by its runtime, so that equal precisions on two runtimes differ."""
    names = [row["target"] for row in rows]
    runtimes = list(dict.fromkeys(parts(name).runtime for name in names if _precision(name)))
    dashes = [
        DASHES[runtimes.index(parts(name).runtime) % len(DASHES)] if _precision(name) else DASHES[0] for name in names
    ]
    return alt.StrokeDash("target:N", title=None, sort=None, scale=alt.Scale(domain=names, range=dashes))


def _epochs(history: list[dict[str, float]]) -> alt.X:
    """The axis of epochs, of which there are no halves."""
    epochs = [row["epoch"] for row in history]
    axis = alt.Axis(values=epochs, format="d") if len(epochs) <= FEW else alt.Axis(format="d")
    return alt.X("epoch:Q", title="epoch", axis=axis)


def _kept(history: list[dict[str, float]]) -> alt.Chart:
    """A line at the epoch of least loss on ``select``."""
    at = min(history, key=lambda row: row["select_loss"])["epoch"]
    values = alt.Data(values=[{"epoch": at, "said": f"the weights of epoch {at:g} were kept"}])
    return alt.Chart(values).mark_rule(color=INK, strokeDash=[2, 3]).encode(x="epoch:Q", description="said:N")


def _stacked(charts: list[Any]) -> alt.VConcatChart:
    return alt.vconcat(*(chart.properties(width=WIDTH - 90, height=110) for chart in charts), spacing=14)


def _title(text: str) -> alt.TitleParams:
    return alt.TitleParams(text, anchor="start", fontSize=13, fontWeight="bold", color=INK, offset=10, limit=WIDTH - 60)


def _fitted(chart: Any, height: float) -> Any:
    """So wide and so high, labels and all where it stands alone (``_styled``)."""
    return chart.properties(width=WIDTH, height=height)


def _styled(chart: Any) -> dict[str, Any]:
    styled = chart.configure(
        background="transparent",
        font="Liberation Sans, Arial, Helvetica, sans-serif",  # what Vega measures with: no label is cut off
        padding={"left": 10, "right": 14, "top": 6, "bottom": 4},  # a little for wider fonts
        axis=alt.Axis(
            labelColor=INK,
            titleColor=INK,
            domainColor=INK,
            tickColor=INK,
            gridColor=INK,
            gridOpacity=0.12,
            domainOpacity=0.4,
            tickOpacity=0.4,
            labelFontSize=12,
            titleFontSize=12,
            labelLimit=190,
            labelOverlap="greedy",
            labelSeparation=8,
            titleFontWeight="normal",
        ),
        legend=alt.LegendConfig(labelColor=INK, titleColor=INK, labelFontSize=12, orient="top", labelLimit=340),
        view=alt.ViewConfig(stroke=None),
    )
    drawn = dict(styled.to_dict(validate=False))  # ours, and the checking takes longer than the drawing
    if "width" in drawn:  # one chart alone
        drawn["autosize"] = {"type": "fit", "contains": "padding"}
    return drawn
