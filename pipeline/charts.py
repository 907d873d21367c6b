"""Charts of one look, drawn by Vega-Lite without a browser: SVG to put into a page.

Text takes the page's own colour (``currentColor``), so that one drawing reads on light and on dark. Colours are Okabe
and Ito's, which the colour-blind can tell apart.
"""

from typing import Any

import altair as alt
import numpy as np
import vl_convert

INK = "currentColor"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
DASHES = ([1, 0], [5, 3], [2, 2])  # a second and third round of colours
WIDTH = 560


def accuracy(rows: list[dict[str, Any]], budget: float, metric: str, unit: str) -> str:
    """The drop of each target with its bounds, against the budget.

    Args:
        rows: each ``target``, ``drop``, ``lower``, ``upper`` (in ``unit``).
    """
    base = alt.Chart(alt.Data(values=rows))
    y = alt.Y("target:N", title=None, sort=None)
    reach = [0.0, budget, *(row["lower"] for row in rows), *(row["upper"] for row in rows)]
    scale = alt.Scale(domain=[min(reach) - 0.1 * budget, max(reach) + 0.1 * budget], nice=False)
    bars = base.mark_rule(strokeWidth=3, color=COLOURS[0]).encode(
        x=alt.X("lower:Q", title=f"{metric} lost, {unit} (95 % bounds; line: budget)", scale=scale), x2="upper:Q", y=y
    )
    points = base.mark_point(filled=True, size=70, color=COLOURS[0], opacity=1).encode(
        x=alt.X("drop:Q", scale=scale), y=y
    )
    lines = alt.Chart(alt.Data(values=[{"at": 0.0, "kind": "none"}, {"at": budget, "kind": "budget"}]))
    marks = lines.mark_rule(strokeWidth=1.5).encode(
        x="at:Q",
        color=alt.Color("kind:N", legend=None, scale=alt.Scale(domain=["none", "budget"], range=[INK, COLOURS[1]])),
        strokeDash=alt.condition("datum.kind == 'none'", alt.value([2, 3]), alt.value([1, 0])),
    )
    return _svg((marks + bars + points).properties(width=WIDTH, height=34 * len(rows)))


def latency(latency_s: dict[str, list[float]]) -> str:
    """The share of requests answered within a time, for each target, log time axis."""
    shares = [*(i / 100 for i in range(99)), 0.985, 0.99, 0.995, 1.0]
    values = [
        {"target": target, "ms": 1e3 * at, "share": 100 * share}
        for target, samples in latency_s.items()
        for share, at in zip(shares, np.quantile(samples, shares).tolist())
    ]
    names = list(latency_s)
    spaced = alt.Axis(labelOverlap="greedy", labelSeparation=8)
    chart = (
        alt.Chart(alt.Data(values=values))
        .mark_line(interpolate="step-after", strokeWidth=2)
        .encode(
            x=alt.X(
                "ms:Q",
                title="latency of one request, milliseconds (log)",
                scale=alt.Scale(type="log", nice=False),
                axis=spaced,
            ),
            y=alt.Y("share:Q", title="requests answered within, %"),
            color=alt.Color(
                "target:N",
                title=None,
                sort=names,
                scale=alt.Scale(domain=names, range=[COLOURS[i % len(COLOURS)] for i in range(len(names))]),
            ),
            strokeDash=alt.StrokeDash(
                "target:N",
                title=None,
                sort=names,
                scale=alt.Scale(domain=names, range=[DASHES[i // len(COLOURS)] for i in range(len(names))]),
            ),
        )
    )
    return _svg(chart.properties(width=WIDTH, height=220))


def drift(curves: dict[str, dict[str, list[float]]]) -> str:
    """The largest error so far against the number of steps, for each network; both axes log.

    Args:
        curves: network -> ``step`` and ``error``.
    """
    values = [
        {"network": name, "step": step, "error": max(error, 1e-12)}
        for name, curve in curves.items()
        for step, error in zip(curve["step"], curve["error"], strict=True)
    ]
    names = list(curves)
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
            color=alt.Color(
                "network:N", title=None, sort=names, scale=alt.Scale(domain=names, range=list(COLOURS[: len(names)]))
            ),
        )
    )
    return _svg(chart.properties(width=WIDTH, height=220))


def training(history: list[dict[str, float]], spread: list[dict[str, float]], metric: str, unit: str) -> str:
    """Losses, the metric, and the spread of weights and biases, by epoch; a line marks the epoch that was kept.

    Args:
        history, spread: rows of the two CSV files that ``train`` writes.
    """
    kept = min(history, key=lambda row: row["select_loss"])["epoch"]
    rule = alt.Chart(alt.Data(values=[{"epoch": kept}])).mark_rule(color=INK, strokeDash=[2, 3]).encode(x="epoch:Q")
    x = alt.X("epoch:Q", title="epoch")
    losses = [
        {"epoch": row["epoch"], "loss": row[f"{split}_loss"], "split": split}
        for row in history
        for split in ("train", "select")
    ]
    loss = (
        alt.Chart(alt.Data(values=losses))
        .mark_line(strokeWidth=2)
        .encode(
            x=x,
            y=alt.Y("loss:Q", title="loss (log)", scale=alt.Scale(type="log")),
            color=alt.Color("split:N", title=None, sort=None, scale=alt.Scale(range=list(COLOURS))),
        )
    )
    rows = alt.Chart(alt.Data(values=history))
    score = rows.mark_line(strokeWidth=2, color=COLOURS[1]).encode(
        x=x, y=alt.Y(f"{metric}:Q", title=f"{metric} on select, {unit}", scale=alt.Scale(zero=False))
    )
    rows = alt.Chart(alt.Data(values=spread))
    spreads = []
    for kind in ("weights", "biases"):
        ends = rows.mark_area(opacity=0.25, color=COLOURS[0]).encode(
            x=x, y=alt.Y(f"{kind}_min:Q", title=kind), y2=f"{kind}_max:Q"
        )
        quartiles = rows.mark_area(opacity=0.45, color=COLOURS[0]).encode(x=x, y=f"{kind}_p25:Q", y2=f"{kind}_p75:Q")
        middle = rows.mark_line(color=COLOURS[0]).encode(x=x, y=f"{kind}_p50:Q")
        spreads.append((ends + quartiles + middle + rule).properties(width=WIDTH / 2 - 40, height=150))
    pairs = [(chart + rule).properties(width=WIDTH / 2 - 40, height=150) for chart in (loss, score)]
    return _svg((pairs[0] | pairs[1]) & (spreads[0] | spreads[1]))


def _svg(chart: Any) -> str:
    styled = chart.configure(
        background="transparent",
        font="Liberation Sans, Arial, Helvetica, sans-serif",  # what Vega measures with: no label is cut off
        padding={"left": 24, "right": 12, "top": 6, "bottom": 6},
        axis=alt.Axis(
            labelColor=INK,
            titleColor=INK,
            domainColor=INK,
            tickColor=INK,
            gridColor=INK,
            gridOpacity=0.12,
            labelLimit=260,
            titleFontWeight="normal",
        ),
        legend=alt.LegendConfig(
            labelColor=INK, titleColor=INK, orient="top", labelLimit=260, columns=3, columnPadding=24
        ),
        view=alt.ViewConfig(stroke=None),
    )
    return str(vl_convert.vegalite_to_svg(styled.to_dict()))
