"""The page that ``benchmarks.cost`` keeps: tables, what they say in a sentence, and pictures."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np

from pipeline import charts
from pipeline.intervals import ALPHA, clopper_pearson, median_ratio
from pipeline.matrix import parts, piped
from pipeline.recipe import Training

COMMAND = "python -m benchmarks.cost"
WITHOUT_EXPONENTIAL = ("relu", "leaky_relu", "prelu")
KINDS = ("convolution", "dense", "normalisation", "pooling", "rest")  # of operators
KIND_COLOURS = (*charts.COLOURS.values(), charts.BUDGET, charts.TRAINED)
OPERATORS = {
    "Conv": "convolution",
    "FusedConv": "convolution",
    "Gemm": "dense",
    "FusedGemm": "dense",
    "MatMul": "dense",
    "FusedMatMul": "dense",
    "BatchNormalization": "normalisation",
    "LRN": "normalisation",
    "Pow": "normalisation",
    "MaxPool": "pooling",
    "AveragePool": "pooling",
    "GlobalAveragePool": "pooling",
    "ReduceMean": "pooling",
}
ACROSS_CHANNELS = 5  # axes of what an AveragePool is given that is part of a local response normalisation
# Saitoh, "Deep Learning from Scratch" (O'Reilly Japan 2016), section 8.3.1, after Jia's thesis (Berkeley 2014): the
# convolutions' share of AlexNet's forward pass, per cent.
TEXTBOOK = {"a CPU": 89, "a GPU": 95}


@dataclass(frozen=True)
class Measured:
    """One network of a comparison on one target."""

    network: str
    parameters: int
    target: str
    right: np.ndarray  # (images,) 1 where the deployed graph is right, else 0
    latency_s: dict[int, np.ndarray]  # side of the images -> (rounds,), paired with all others of the comparison


@dataclass(frozen=True)
class Compared:
    """What a comparison gave."""

    title: str
    how: str  # what one must know of it
    measured: list[Measured]  # the first network's first
    rounds: dict[int, int]  # side of the images -> how many
    absent: dict[str, str]  # target, or network on a target -> why it was not measured
    operators: dict[str, Counter[str]]  # network -> what onnxruntime runs of its fp32 graph on the CPU


@dataclass(frozen=True)
class Profile:
    """What a network's operators took."""

    network: str
    batch: int
    shape: tuple[int, ...]  # of an image
    us: dict[str, np.ndarray]  # kind -> (runs,) microseconds


def rows(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """A row for each network and target.

    ``network``, ``parameters``, ``target``; ``accuracy`` and its bounds ``lower`` and ``upper``, per cent; ``ms``: side
    -> the median; ``ratio``: side -> to the first network on the same target, the median and its two bounds. A target
    on which the first network was not measured has no row.
    """
    first = {each.target: each for each in measured if each.network == measured[0].network}
    made = []
    for each in measured:
        if each.target not in first:
            continue
        low, high = clopper_pearson(int(each.right.sum()), len(each.right), 2 * ALPHA)
        ratio = {}
        for side, latency_s in each.latency_s.items():
            middle, bounds = median_ratio(latency_s, first[each.target].latency_s[side])
            ratio[side] = (middle, bounds.lower, bounds.upper)
        made.append(
            {
                "network": each.network,
                "parameters": each.parameters,
                "target": each.target,
                "accuracy": 100 * float(each.right.mean()),
                "lower": 100 * low,
                "upper": 100 * high,
                "ms": {side: 1e3 * float(np.median(latency_s)) for side, latency_s in each.latency_s.items()},
                "ratio": ratio,
            }
        )
    return made


def table(of: Sequence[Mapping[str, Any]]) -> str:
    """The rows as Markdown."""
    sides = list(of[0]["ms"])
    heads = ["network", "parameters", "target", "accuracy, %"]
    heads += [head for side in sides for head in (f"{_square(side)}, ms", f"÷ {of[0]['network']}")]
    lines = []
    for row in of:
        cells = [row["network"], f"{row['parameters']:,}", row["target"]]
        cells.append(f"{row['accuracy']:.1f} ({row['lower']:.1f}–{row['upper']:.1f})")
        for side in sides:
            cells += [_ms(row["ms"][side]), _ratio(*row["ratio"][side])]
        lines.append(cells)
    return piped(heads, lines)


def sentence(of: Sequence[Mapping[str, Any]]) -> str:
    """What a table says of its first target with the largest images, and how far that goes elsewhere.

    Of several networks beside the first it tells the dearest and the cheapest.
    """
    target, side, first = of[0]["target"], max(of[0]["ms"]), of[0]
    others = [row for row in of if row["target"] == target and row["network"] != first["network"]]
    others.sort(key=lambda row: row["ratio"][side][0])
    ends = {row["network"]: row for row in (others[-1], others[0])}

    def told(end: Mapping[str, Any]) -> str:
        every = [ratio[0] for row in of if row["network"] == end["network"] for ratio in row["ratio"].values()]
        parameters = end["parameters"] / first["parameters"]
        return (
            f"{end['network']}: time x {_ratio(*end['ratio'][side])}, over all targets and sizes x {min(every):.2f} to "
            f"{max(every):.2f}; parameters x {parameters:.3g}; right {end['accuracy']:.1f} % against "
            f"{first['accuracy']:.1f} %"
        )

    words = [told(end) for end in ends.values()]
    if len(words) > 1:
        words = [f"the dearest is {words[0]}", f"the cheapest is {words[1]}"]
    text = f"Next to {first['network']}, on {target} at {_square(side)}, {'; '.join(words)}."
    alike = [row["network"] for row in others if row["ratio"][side][1] <= 1 <= row["ratio"][side][2]]
    if alike:
        text += f" Not to be told from {first['network']} by time there: {', '.join(alike)}."
    return text


def exponentials(of: Sequence[Mapping[str, Any]]) -> str:
    """What the exponentials of activations cost, of the first target with the largest images."""
    target, side = of[0]["target"], max(of[0]["ms"])
    there = [row for row in of if row["target"] == target][1:]
    told = []
    for what, has in (("with an exponential or erf", True), ("without one", False)):
        these = [row for row in there if (row["network"] not in WITHOUT_EXPONENTIAL) == has]
        ratios = [row["ratio"][side][0] for row in these]
        if ratios:
            names = ", ".join(row["network"] for row in these)
            told.append(f"those {what} ({names}) take x {min(ratios):.2f} to {max(ratios):.2f}")
    return f"On {target} at {_square(side)} {'; '.join(told)}."


def more_operators(of: Mapping[str, Counter[str]]) -> str:
    """What onnxruntime runs of each network that it does not run of the first; empty if there is nothing."""
    first, *others = of
    told = []
    for network in others:
        more = of[network] - of[first]
        if more:
            told.append(f"{network} {', '.join(f'{n} {kind}' for kind, n in more.items())}")
    return f"What onnxruntime runs in fp32 on the CPU beside that of {first}: {'; '.join(told)}." if told else ""


def kernel_us(events: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Kind of operator -> microseconds in each run ``(runs,)``, without the first, which warms up.

    Args:
        events: of onnxruntime's profiler: ``model_run`` for each run, and within its time a node's ``…_kernel_time``.
    """
    starts = [event["ts"] for event in events if event["name"] == "model_run"]
    order = np.argsort(starts)
    us = {kind: np.zeros(len(starts)) for kind in KINDS}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            run = int(np.searchsorted(np.array(starts)[order], event["ts"], side="right")) - 1
            us[_kind(event["args"])][run] += event["dur"]
    return {kind: of[1:] for kind, of in us.items()}


def _kind(arguments: Mapping[str, Any]) -> str:
    kind = OPERATORS.get(arguments["op_name"], "rest")
    if (
        arguments["op_name"] == "AveragePool"
        and len(next(iter(arguments["input_type_shape"][0].values()))) == ACROSS_CHANNELS
    ):
        return "normalisation"
    return kind


def shares(of: Profile) -> dict[str, tuple[float, float, float]]:
    """Kind -> per cent of the operators' time: the median over runs, and its two bounds."""
    total = np.sum(list(of.us.values()), axis=0)
    made = {}
    for kind, us in of.us.items():
        middle, bounds = median_ratio(us, total)
        made[kind] = (100 * middle, 100 * bounds.lower, 100 * bounds.upper)
    return made


def shares_table(profiles: Sequence[Profile]) -> str:
    """All networks as Markdown, and what the textbooks say."""
    lines = []
    for profile in profiles:
        of = shares(profile)
        total_ms = 1e-3 * float(np.median(np.sum(list(profile.us.values()), axis=0)))
        middle, low, high = of["convolution"]
        cells = [profile.network, " x ".join(map(str, profile.shape)), str(profile.batch), _ms(total_ms)]
        cells.append(f"{middle:.1f} ({low:.1f}–{high:.1f})")
        cells += [f"{of[kind][0]:.1f}" for kind in KINDS[1:]]
        lines.append([*cells, str(len(profile.us["convolution"]))])
    for where, share in TEXTBOOK.items():
        lines.append([f"AlexNet on {where}, in the textbooks", "", "", "", str(share), "", "", "", "", ""])
    return piped(["network", "image", "batch", "ms a run", "convolution, %", *KINDS[1:], "runs"], lines)


def shares_sentence(profiles: Sequence[Profile]) -> str:
    """Convolutions in AlexNet, beside the textbooks, and elsewhere."""
    of = {(profile.network, profile.batch): shares(profile) for profile in profiles}
    alexnet = [
        f"{each['convolution'][0]:.0f} % at batch {batch}" for (name, batch), each in of.items() if name == "AlexNet"
    ]
    textbook = " and ".join(f"{share} % on {where}" for where, share in TEXTBOOK.items())
    rest = {name: each["convolution"][0] for (name, _), each in of.items() if name != "AlexNet"}
    text = (
        f"Of AlexNet's operators' time convolutions take {' and '.join(alexnet)}, where the textbooks say {textbook}."
    )
    largest = max(KINDS[1:], key=lambda kind: of["AlexNet", 1][kind][0])
    text += f" At batch 1 most of what is left is {largest}, {of['AlexNet', 1][largest][0]:.0f} %."
    if rest:
        most, least = max(rest, key=rest.__getitem__), min(rest, key=rest.__getitem__)
        text += f" Of the others {most} has the most, {rest[most]:.0f} %, and {least} the least, {rest[least]:.0f} %."
    return text


def comparison_chart(of: Sequence[Mapping[str, Any]]) -> alt.ConcatChart:
    """Parameters, accuracy, and for each size the latency next to the first network's; a colour for each precision."""
    networks = list(dict.fromkeys(row["network"] for row in of))
    targets = list(dict.fromkeys(row["target"] for row in of))
    runtimes = list(dict.fromkeys(parts(name).runtime for name in targets))
    height = len(networks) * (10 + 9 * len(targets))
    values = []
    for row in of:
        known = {key: row[key] for key in ("network", "target")}
        known |= {"precision": parts(row["target"]).precision, "runtime": parts(row["target"]).runtime}
        known |= {f"at {side}": ratio for side, ratio in row["ratio"].items()}
        values.append(known | {"right": (row["accuracy"], row["lower"], row["upper"])})
    colour = alt.Color(
        "precision:N",
        title=None,
        scale=alt.Scale(domain=list(charts.COLOURS), range=list(charts.COLOURS.values())),
        legend=alt.Legend(symbolOpacity=1),
    )
    shape = alt.Shape(
        "runtime:N",
        title=None,
        scale=alt.Scale(domain=runtimes, range=list(charts.SHAPES[: len(runtimes)])),
        legend=alt.Legend(symbolFillColor=charts.INK, symbolStrokeColor=charts.INK) if len(runtimes) > 1 else None,
    )
    offset = alt.YOffset("target:N", sort=targets, scale=alt.Scale(domain=targets, paddingOuter=0.8))

    def by_network(names: bool) -> alt.Y:
        axis = alt.Axis(domain=False, ticks=False, labelPadding=6, labelOverlap=False) if names else None
        return alt.Y("network:N", title=None, sort=networks, axis=axis)

    def dots(title: str, key: str, unit: str, names: bool, x: alt.Scale) -> Any:
        """Points with their bounds: what stands under ``key``."""
        points = []
        for row in values:
            middle, low, high = row[key]
            said = f"{row['network']} on {row['target']}: {middle:.4g} ({low:.4g} to {high:.4g}) {unit}"
            told = {"middle": middle, "low": low, "high": high, "said": said}
            points.append({name: row[name] for name in ("network", "target", "precision", "runtime")} | told)
        base = alt.Chart(alt.Data(values=points)).encode(
            y=by_network(names), yOffset=offset, color=colour, description="said:N"
        )
        bars = base.mark_rule(strokeWidth=3, opacity=0.6).encode(x=alt.X("low:Q", title=title, scale=x), x2="high:Q")
        return bars + base.mark_point(filled=True, size=42, opacity=1).encode(x=alt.X("middle:Q", scale=x), shape=shape)

    first = networks[0]
    one = alt.Chart(alt.Data(values=[{"at": 1.0, "said": f"as long as {first}"}]))
    one = one.mark_rule(color=charts.INK, strokeDash=[2, 3], opacity=0.6).encode(x="at:Q", description="said:N")
    most = max(end for row in of for ratio in row["ratio"].values() for end in ratio)
    times = alt.Scale(domain=[0, 1.05 * most], nice=False)  # of both sizes, from 0: a distance is a share
    accuracy = dots("accuracy, %", "right", "%", False, alt.Scale(zero=False))
    panels = [_parameter_bars(of, by_network(True)), accuracy]
    for i, side in enumerate(of[0]["ratio"]):
        title = f"latency at {_square(side)} ÷ that of {first}"
        panels.append(one + dots(title, f"at {side}", "times", i % 2 == 0, times))
    return alt.concat(*(panel.properties(width=270, height=height) for panel in panels), columns=2, spacing=24)


def _parameter_bars(of: Sequence[Mapping[str, Any]], y: alt.Y) -> Any:
    counts = {row["network"]: row["parameters"] for row in of}
    values = [
        {"network": name, "parameters": count, "told": f"{count:,}", "said": f"{name}: {count:,} parameters"}
        for name, count in counts.items()
    ]
    most = max(counts.values())
    x = alt.X("parameters:Q", title="parameters", axis=alt.Axis(values=[]), scale=alt.Scale(domain=[0, 1.25 * most]))
    base = alt.Chart(alt.Data(values=values)).encode(y=y, x=x, description="said:N")
    bars = base.mark_bar(height=12, cornerRadiusEnd=2, color=charts.TRAINED)
    return bars + base.mark_text(align="left", dx=5, color=charts.INK, aria=False).encode(text="told:N")


def shares_chart(profiles: Sequence[Profile]) -> alt.LayerChart:
    """What each kind of operator takes of a network's time; of AlexNet's convolutions also what the textbooks say."""
    parts_of = {
        f"{profile.network}, batch {profile.batch}": {kind: of[0] for kind, of in shares(profile).items()}
        for profile in profiles
    }
    parts_of |= {f"AlexNet in the textbooks, {where}": {KINDS[0]: share} for where, share in TEXTBOOK.items()}
    values = []
    for name, share in parts_of.items():
        reached = 0.0
        for kind, of in share.items():
            said = f"{name}: {kind} {of:.1f} %"
            values.append({"name": name, "kind": kind, "from": reached, "to": reached + of, "said": said})
            reached += of
    axis = alt.Axis(domain=False, ticks=False, labelLimit=260, labelOverlap=False)
    y = alt.Y("name:N", title=None, sort=list(parts_of), axis=axis)
    scale = alt.Scale(domain=[0, 100], nice=False, clamp=True)  # medians of shares may add up to a little more
    colour = alt.Color(
        "kind:N",
        title=None,
        sort=None,
        scale=alt.Scale(domain=list(KINDS), range=list(KIND_COLOURS)),
        legend=alt.Legend(columns=len(KINDS)),
    )
    x = alt.X("from:Q", title="share of the operators' time, %", scale=scale)
    bars = alt.Chart(alt.Data(values=values)).mark_bar(height=18)
    first = [{"name": name, "told": f"{share[KINDS[0]]:.0f} %"} for name, share in parts_of.items()]
    told = alt.Chart(alt.Data(values=first)).mark_text(align="left", dx=6, color=charts.PAPER, aria=False)
    drawn = bars.encode(x=x, x2="to:Q", y=y, color=colour, description="said:N")
    return (drawn + told.encode(x=alt.value(0), y=y, text="told:N")).properties(width=620, height=28 * len(parts_of))


def page(
    comparisons: Mapping[str, Compared],
    profiles: Sequence[Profile],
    facts: Mapping[str, Any],
    training: Training,
    form: str,
) -> dict[str, str]:
    """``README.md`` and its pictures, by the names of the files.

    Args:
        comparisons: by the names of their pictures.
        facts: ``host``, ``date`` and ``commit``.
        training: how every network was trained.
        form: of int8 weights on the CPU.
    """
    made = {name: rows(told.measured) for name, told in comparisons.items()}
    pictures: dict[str, Any] = {f"{name}.svg": comparison_chart(of) for name, of in made.items()}
    pictures["shares.svg"] = shares_chart(profiles)
    sides = sorted({side for of in made.values() for row in of for side in row["ms"]})
    images = len(next(iter(comparisons.values())).measured[0].right)
    text = f"# What it costs at the device\n\n{_where(facts)}\n\n{_how(sides, images, training, form)}\n"
    absent: dict[str, str] = {}
    for name, told in comparisons.items():
        absent |= told.absent
        said = sentence(made[name]) + (f" {exponentials(made[name])}" if name == "activation" else "")
        counted = ", ".join(f"{n} at {_square(side)}" for side, n in told.rounds.items())
        notes = " ".join(filter(None, (f"Rounds: {counted}.", more_operators(told.operators), told.how)))
        text += f"\n## {told.title}\n\n{said}\n\n{table(made[name])}\n\n{notes}\n"
        text += f"\n![{told.title}: parameters, accuracy and latency]({name}.svg)\n"
    text += (
        f"\n## Convolutions' share of the time\n\n{shares_sentence(profiles)}\n\n{shares_table(profiles)}\n\n{SHARES}\n"
    )
    text += "\n![Each kind of operator's share of the time](shares.svg)\n"
    for reason in dict.fromkeys(absent.values()):
        names = ", ".join(name for name, of in absent.items() if of == reason)
        text += f"\nNot measured: {names}: {reason}.\n"
    return {"README.md": text} | {name: charts.svg_file(charts.svg(chart)) for name, chart in pictures.items()}


SHARES = (
    "By onnxruntime's profiler, by type of operator, fp32 on the CPU, one thread; weights as they start. The median "
    "over runs of a share of the time in all operators, with 95 % bootstrap bounds either side for convolutions. What "
    "onnxruntime fuses into an operator, such as a ReLU, counts with it. The profiler counts whole microseconds, of "
    "which most operators of the small networks take few. Normalisation is local response normalisation, which the "
    "exporter spells as an average pool across channels, a power and products; the products are in the rest, with "
    "scaling, activations that are not fused, and changes of layout. The textbooks' figures are of the forward pass: "
    'Saitoh, "Deep Learning from Scratch", section 8.3.1, after Jia\'s thesis of 2014.'
)


def _where(facts: Mapping[str, Any]) -> str:
    host, packages = facts["host"], facts["host"]["packages"]
    gpus = ", ".join(gpu["name"] for gpu in host["gpus"]) or "no GPU"
    versions = ", ".join(
        f"{name} {packages[name]}"
        for name in ("torch", "onnxruntime-gpu", "onnxruntime", "tensorrt", "tensorrt_rtx")
        if name in packages
    )
    return (
        f"Made by `{COMMAND}` on {host['processor']}, {host['cores']} cores, {gpus}; {versions}; {facts['date']}, "
        f"commit `{facts['commit']}`."
    )


def _how(sides: Sequence[int], images: int, training: Training, form: str) -> str:
    sizes = " and ".join(_square(side) for side in sides)
    return (
        f"Each network is a stack of equal convolutions (`models/stack.py`): two 3x3 of 16 channels with ReLU, but for "
        f"what its table says. All went through the stages alike: trained on `digits` (8 x 8 pixels; at most "
        f"{training.epochs} epochs, {training.optimiser} at a rate of {training.rate:g}, one seed), exported, "
        f"quantized, bundled, and opened as every target is. Batch 1, one thread.\n\n"
        f"Accuracy is each deployed graph's on the {images} test images, with exact 95 % bounds either side: over "
        f"images, not over trainings. Latency is that of the same graphs taking images of {sizes}: global average "
        f"leaves nothing in a graph that depends on the size, so that the size of its input alone was changed, and "
        f"weights and ranges are those whose accuracy is told. All networks and targets of a comparison are timed in "
        f"turn in one process, in random order in each round; medians, and the median of the rounds' ratios with 95 % "
        f"bootstrap bounds either side. onnxruntime computes an fp16 graph in fp32 on the CPU. Its int8 weights are "
        f"{form} in every network, where the stage takes what is best on `select`: two forms may be as good, and "
        f"differ more in time than what is compared here."
    )


def _ratio(middle: float, low: float, high: float) -> str:
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def _ms(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def _square(side: int) -> str:
    return f"{side} x {side}"
