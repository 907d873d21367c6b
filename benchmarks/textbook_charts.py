"""What ``benchmarks/textbook.py`` draws, in the look of ``pipeline/charts.py``, and what each picture shows.

A caption is a sentence made from the numbers, and says what they say also where the textbook has it otherwise.
"""

from typing import Any

import altair as alt
import numpy as np

from pipeline import charts

Curve = dict[str, list[float]]  # step, train_loss, held_loss, accuracy: a value a look
Curves = dict[str, dict[str, list[Curve]]]  # picture -> line -> one a seed
Spread = dict[str, Any]  # of one layer: start, activation, layer, p5, p25, p50, p75, p95, deviation, saturated

WITHOUT, WITH = "without dropout", "with dropout"
CONSTANT, DECAY = "constant rate", "decaying rate"
BLUE, VERMILION = charts.COLOURS["fp32"], charts.COLOURS["int8"]
TITLES = {"train_loss": "training loss", "held_loss": "held-out loss", "accuracy": "held-out accuracy, %"}
ENDS = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0)}
DEVIATION = "deviation"
DECADES = [10.0**power for power in range(-6, 3)]
NEAR = 0.01  # of an end, where an activation has next to no slope
LOOKS = 10  # that an end is the mean of
SMALL = (136, 96)  # pixels of one of many panels


def pair(curves: dict[str, list[Curve]], key: str, title: str = "", late: bool = False, only: str = "") -> alt.Chart:
    """Two lines, each once a seed, by step.

    Args:
        curves: line -> one a seed; the second is the one that the textbook recommends.
        key: of a curve.
        late: the axis reaches as far as what follows the first tenth of the looks, of both lines.
        only: the one line that is drawn, if not both.
    """
    values = [
        {"line": name, "seed": seed, "step": step, "value": float(f"{value:.4g}")}
        for name, runs in curves.items()
        for seed, curve in enumerate(runs)
        for step, value in zip(curve["step"], curve[key], strict=True)
        if only in ("", name)
    ]
    reach = [value for runs in curves.values() for curve in runs for value in curve[key][len(curve[key]) // 10 :]]
    scale = alt.Scale(domain=[min(reach), max(reach)]) if late else alt.Scale(zero=True)
    colours = alt.Scale(domain=list(curves), range=[VERMILION, BLUE])
    chart = (
        alt.Chart(alt.Data(values=values))
        .mark_line(strokeWidth=1.3, opacity=0.85, clip=True)
        .encode(
            x=alt.X("step:Q", title="steps", axis=alt.Axis(format=",d", tickCount=6)),
            y=alt.Y("value:Q", title=TITLES[key], scale=scale),
            color=alt.Color("line:N", title=None, sort=None, scale=colours),
            detail="seed:N",
            description="line:N",
        )
    )
    return chart.properties(title=_title(title, 13)) if title else chart


def panels(curves: dict[str, list[Curve]], columns: int) -> alt.ConcatChart:
    """A panel a line, the least last training loss first: that line in colour among all the others in grey."""
    values = [
        {"line": name, "step": step, "value": float(f"{value:.4g}")}
        for name, (curve,) in curves.items()
        for step, value in zip(curve["step"], curve["train_loss"], strict=True)
    ]
    order = sorted(curves, key=lambda name: last(curves[name][0], "train_loss"))
    drawn = []
    for i, name in enumerate(order):
        x = alt.X(
            "step:Q", title="steps" if i >= len(order) - columns else None, axis=alt.Axis(tickCount=2, format=",d")
        )
        scale = alt.Scale(type="log", nice=False)
        labels = alt.Axis(values=DECADES, format="~g", labels=i % columns == 0)
        y = alt.Y("value:Q", title="training loss (log)" if i % columns == 0 else None, scale=scale, axis=labels)
        rest = alt.Chart(alt.Data(values=[row for row in values if row["line"] != name]))
        own = alt.Chart(alt.Data(values=[row for row in values if row["line"] == name]))
        grey = rest.mark_line(strokeWidth=1, color=charts.INK, opacity=0.18, aria=False)
        line = own.mark_line(strokeWidth=2.2, color=BLUE)
        told = f"{name}: {last(curves[name][0], 'train_loss'):.2g}"
        both = grey.encode(x=x, y=y, detail="line:N") + line.encode(x=x, y=y, description="line:N")
        drawn.append(_small(both, told))
    return alt.concat(*drawn, columns=columns, spacing=14).resolve_scale(y="shared")


def bands(found: list[Spread]) -> alt.ConcatChart:
    """A row an activation, a column a start: from 5 % to 95 % of a layer's activations, the middle half, the median."""
    drawn = []
    for row in _in_order(found, "activation"):
        for column in _in_order(found, "start"):
            rows = [each for each in found if each["activation"] == row and each["start"] == column]
            x = alt.X("layer:O", title="layer" if row == found[-1]["activation"] else None, axis=alt.Axis(labelAngle=0))
            ends = ENDS.get(row)
            scale = alt.Scale(domain=list(ends)) if ends else alt.Scale(zero=True)
            axis = alt.Axis(tickCount=3, format=",d" if max(each["p95"] for each in rows) >= 10 else "~g")
            y = alt.Y("p5:Q", title=row if column == found[0]["start"] else None, scale=scale, axis=axis)
            base = alt.Chart(alt.Data(values=rows))
            wide = base.mark_rule(strokeWidth=9, color=BLUE, opacity=0.4).encode(
                x=x, y=y, y2="p95:Q", description="said:N"
            )
            half = base.mark_rule(strokeWidth=9, color=BLUE, opacity=0.75, aria=False).encode(
                x=x, y="p25:Q", y2="p75:Q"
            )
            middle = base.mark_tick(orient="horizontal", width=15, thickness=2, color=VERMILION, aria=False)
            drawn.append(_small(wide + half + middle.encode(x=x, y="p50:Q"), column))
    columns = len(_in_order(found, "start"))
    return alt.concat(*drawn, columns=columns, spacing=14).resolve_scale(y="independent")


def spread(start: str, activation: str, layer: int, values: np.ndarray) -> Spread:
    """How the activations of one layer lie.

    Args:
        values: of any shape.
    """
    marks = dict(zip(("p5", "p25", "p50", "p75", "p95"), np.quantile(values, (0.05, 0.25, 0.5, 0.75, 0.95)).tolist()))
    low, high = ENDS.get(activation, (-np.inf, np.inf))
    saturated = float(np.mean((values <= low + NEAR) | (values >= high - NEAR)))
    said = f"{activation}, {start}, layer {layer}: {marks['p5']:.3g} to {marks['p95']:.3g}"
    return {
        **{"start": start, "activation": activation, "layer": layer, "said": said},
        **{name: float(f"{value:.4g}") for name, value in marks.items()},
        **{DEVIATION: float(values.std(dtype=np.float64)), "saturated": saturated},
    }


def last(curve: Curve, key: str, looks: int = 1) -> float:
    """The mean of the last ``looks``."""
    return float(np.mean(curve[key][-looks:]))


def unrest(curve: Curve) -> float:
    """By how many points accuracy changes from one look to the next, either way, in the second half of the looks."""
    late = curve["accuracy"][len(curve["accuracy"]) // 2 :]
    return float(np.abs(np.diff(late)).mean())


def rise(curve: Curve) -> float:
    """By what share the held-out loss ends above its least, both the mean of so many looks that one does not count."""
    window = np.ones(LOOKS) / LOOKS
    means = np.convolve(curve["held_loss"], window, "valid")
    return float(means[-1] / means.min() - 1)


def apart(first: list[float], second: list[float]) -> int:
    """1 where each value of ``first`` is greater than each of ``second``, -1 where less, 0 where they overlap."""
    return int(min(first) > max(second)) - int(max(first) < min(second))


def start_caption(curves: dict[str, list[Curve]]) -> str:
    """ReLU against the sigmoid."""
    accuracy = {name: [last(curve, "accuracy") for curve in runs] for name, runs in curves.items()}
    found = {1: "ReLU learns faster", -1: "the sigmoid learns faster", 0: "the seeds do not tell which learns faster"}
    steps = curves["relu"][0]["step"][-1]
    verdict = found[apart(accuracy["relu"], accuracy["sigmoid"])]
    return (
        f"After {steps:,.0f} steps {_range(accuracy['relu'], 1, ' %')} of the held-out images are told right with ReLU "
        f"and {_range(accuracy['sigmoid'], 1, ' %')} with the sigmoid: {verdict}."
    )


def rate_caption(curves: dict[str, list[Curve]]) -> str:
    """A constant rate against a decaying one."""
    moves = {name: [unrest(curve) for curve in runs] for name, runs in curves.items()}
    ends = {name: [last(curve, "accuracy", LOOKS) for curve in runs] for name, runs in curves.items()}
    quiet = {1: "decay takes the noise away", -1: "decay adds noise", 0: "the seeds do not tell which is noisier"}
    better = {1: "ends higher", -1: "ends lower", 0: "ends no differently that these seeds could tell"}
    noise = quiet[apart(moves[CONSTANT], moves[DECAY])]
    return (
        f"In the second half accuracy moves by {_range(moves[CONSTANT], 2, ' points')} from one look to the next at a "
        f"constant rate and by {_range(moves[DECAY], 2, ' points')} with decay: {noise}, "
        f"and {better[apart(ends[DECAY], ends[CONSTANT])]} ({_range(ends[DECAY], 2, ' %')} against "
        f"{_range(ends[CONSTANT], 2, ' %')})."
    )


def dropout_caption(networks: dict[str, dict[str, list[Curve]]]) -> str:
    """What the held-out loss does without dropout and with it, network by network."""
    found = {1: "dropout holds it down", -1: "dropout makes it worse", 0: "the seeds do not tell what dropout does"}
    told = []
    for network, curves in networks.items():
        rises = {name: [100 * rise(curve) for curve in runs] for name, runs in curves.items()}
        told.append(
            f"the {network} by {_range(rises[WITHOUT], 0, ' %')} {WITHOUT} and by {_range(rises[WITH], 0, ' %')} with "
            f"it, so {found[apart(rises[WITHOUT], rises[WITH])]}"
        )
    return f"From its least to the end the held-out loss rises, of {'; of '.join(told)}."


def panels_caption(curves: dict[str, list[Curve]], what: str) -> str:
    """The least, the greatest and those between, of one seed."""
    ends = {name: last(curves[name][0], "train_loss") for name in curves}
    order = sorted(ends, key=lambda name: ends[name])
    curve = curves[order[0]][0]
    span = curve["step"][-1] - curve["step"][-2]
    return (
        f"In the last {span:,.0f} of {curve['step'][-1]:,.0f} steps, of {len(order)} {what}, {order[0]} has the "
        f"least training loss ({ends[order[0]]:.2g}) and {order[-1]} the greatest ({ends[order[-1]]:.2g}); by one seed "
        f"close ones cannot be told apart."
    )


def bands_caption(found: list[Spread]) -> str:
    """What is left of the activations in the last layer."""
    deepest = max(each["layer"] for each in found)
    at = {(each["start"], each["activation"]): each for each in found if each["layer"] == deepest}
    starts, names = _in_order(found, "start"), _in_order(found, "activation")
    worst = max(starts, key=lambda start: sum(at[start, name]["saturated"] for name in ENDS))
    stuck = " and ".join(f"{100 * at[worst, name]['saturated']:.0f} % with {name}" for name in ENDS)
    told = [f"{start} {', '.join(f'{at[start, name][DEVIATION]:.2g}' for name in names)}" for start in starts]
    return (
        f"In layer {deepest}, before anything is learned, {worst} leaves the most units within {NEAR:g} of an end, "
        f"where they have next to no slope ({stuck}), and the activations' own deviation ({', '.join(names)}) is after "
        f"{'; after '.join(told)}."
    )


def _range(values: list[float], places: int, unit: str) -> str:
    """The mean over seeds, and the least and the greatest where there are several."""
    mean = f"{np.mean(values):.{places}f}{unit}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{places}f} to {max(values):.{places}f})"


def _in_order(found: list[Spread], key: str) -> list[str]:
    return list(dict.fromkeys(each[key] for each in found))


def _small(chart: Any, title: str) -> Any:
    width, height = SMALL
    return chart.properties(width=width, height=height, title=_title(title, 11))


def _title(text: str, size: int) -> alt.TitleParams:
    return alt.TitleParams(
        text, anchor="start", fontSize=size, fontWeight="normal", color=charts.INK, offset=6, frame="group"
    )
