"""The page that ``benchmarks.sequences`` keeps: its aims, tables, what they say in a sentence, and pictures."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt

from pipeline import charts
from pipeline.matrix import piped

Row = Mapping[str, Any]  # of one comparison, as `benchmarks.sequences.row` tells it

COMMAND = "python -m benchmarks.sequences"
NUMBERS = "results/bench/numbers/sequences.json"  # elsewhere under results/ it would be taken for what a host measured
EAGER, OWN = "PyTorch", "PyTorch's own layer"
FP32, FP16, INT8 = "onnxruntime-cpu-fp32", "onnxruntime-cpu-fp16", "onnxruntime-cpu-int8"
DENSE, RUN, RAW = "a dense layer, onnxruntime-cpu-fp32", "the project's run", "onnxruntime alone"
COLOURS = {
    EAGER: charts.TRAINED,
    OWN: charts.INK,
    **dict(zip((FP32, FP16, INT8), charts.COLOURS.values(), strict=True)),
    DENSE: charts.BUDGET,
}
DASHED = (OWN, FP16)  # each lies on another line where there is nothing between them
REACHED, MISSED, OPEN = "reached", "not reached", "undecided"
STEP_AIM, WHOLE_AIM, INT8_AIM = 1.5, 1.0, 5.0  # run ÷ session; deployed ÷ PyTorch; PyTorch ÷ int8
PANEL = (230, 190)  # pixels

Interval = Sequence[float]  # the median of the rounds' ratios, and its lower and upper bound


def verdict_most(ratio: Interval, aim: float) -> str:
    """Whether a ratio is at most ``aim``: by its interval, never by its middle alone."""
    _, low, high = ratio
    return REACHED if high <= aim else MISSED if low > aim else OPEN


def verdict_least(ratio: Interval, aim: float) -> str:
    """Whether a ratio is at least ``aim``."""
    _, low, high = ratio
    return REACHED if low >= aim else MISSED if high < aim else OPEN


def inverse(ratio: Interval) -> list[float]:
    """The ratio the other way round, with its bounds."""
    middle, low, high = ratio
    return [1 / middle, 1 / high, 1 / low]


def aims(facts: Row) -> list[tuple[str, str, Interval, str]]:
    """Aim, case, ratio and verdict of each case: a step, whole sequences in fp32, the LSTM in int8."""
    made: list[tuple[str, str, Interval, str]] = []
    for row in facts["steps"]:
        ratio = row["ratio"][RUN]
        made.append((STEP, f"{row['cell']}, {row['units']} units", ratio, verdict_most(ratio, STEP_AIM)))
    for row in facts["lengths"]:
        if row["length"] > 1:
            ratio, case = row["ratio"][FP32], f"{row['cell']}, {row['units']} units, {row['length']} steps"
            made.append((WHOLE, case, ratio, verdict_most(ratio, WHOLE_AIM)))
    for row in facts["batches"]:
        if row["batch"] > 1:
            ratio, case = row["ratio"][FP32], f"{row['cell']}, {row['units']} units, batch {row['batch']}"
            made.append((WHOLE, case, ratio, verdict_most(ratio, WHOLE_AIM)))
    for row in facts["lengths"]:
        if row["cell"] == "LSTM" and row["units"] == max(facts["settings"]["units"]) and INT8 in row["ratio"]:
            ratio, case = inverse(row["ratio"][INT8]), f"{row['units']} units, {_steps(row['length'])}"
            made.append((INT8_LSTM, case, ratio, verdict_least(ratio, INT8_AIM)))
    return made


STEP = f"a step through `open_onnxruntime` ÷ onnxruntime alone, at most {STEP_AIM:g}"
WHOLE = f"whole sequences, {FP32} ÷ PyTorch, at most {WHOLE_AIM:g}"
INT8_LSTM = f"the largest LSTM at batch 1, PyTorch ÷ {INT8}, at least {INT8_AIM:g}"


def aims_table(facts: Row) -> str:
    """A row an aim: its verdict, the worst case and the best, and each that does not reach it."""
    lines = []
    for aim in (STEP, WHOLE, INT8_LSTM):
        cases = [each for each in aims(facts) if each[0] == aim]
        if not cases:
            lines.append([aim, "not measured", "", "", ""])
            continue
        order = sorted(cases, key=lambda each: each[2][0], reverse=aim != INT8_LSTM)
        counts = {word: sum(each[3] == word for each in cases) for word in (REACHED, MISSED, OPEN)}
        told = ", ".join(f"{word} in {n}" for word, n in counts.items() if n and n < len(cases))
        verdict = told or f"{next(word for word, n in counts.items() if n)} in all {len(cases)}"
        ends = [f"{case}: {_ratio(ratio)}" for _, case, ratio, _ in (order[0], order[-1])]
        missed = "; ".join(f"{case}: {word}" for _, case, _, word in cases if word != REACHED)
        lines.append([aim, f"**{verdict}**", *ends, missed])
    return piped(["aim", "verdict", "the worst case", "the best case", "not reached or undecided"], lines)


def length_table(rows: Sequence[Row]) -> str:
    """A row a cell and form: at each length milliseconds and the ratio to PyTorch's; and what one more step takes."""
    lengths = _lengths(rows)
    heads = ["cell", "form", *(head for n in lengths for head in (f"{_steps(n)}, ms", "÷ PyTorch"))]
    lines = []
    for cell in _once(row["cell"] for row in rows):
        of = {row["length"]: row for row in rows if row["cell"] == cell}
        for name in _once(name for row in of.values() for name in row["ms"]):
            cells = [word for n in lengths for word in (_ms(of[n]["ms"][name]), _ratio(of[n]["ratio"][name]))]
            lines.append([cell, name, *cells, _ms(step_us(rows, cell, name, *lengths[-2:]))])
    return piped([*heads, "one more step, µs"], lines)


def step_us(rows: Sequence[Row], cell: str, name: str, short: int, long: int) -> float:
    """Microseconds of one more step between two lengths: what a call takes apart from its steps drops out."""
    ms = {row["length"]: row["ms"][name] for row in rows if row["cell"] == cell}
    return float(1e3 * (ms[long] - ms[short]) / (long - short))


def length_sentence(rows: Sequence[Row]) -> str:
    """What one more step takes in fp32, whether it depends on the length, and how much of it int8 takes."""
    cells, (*_, first, short, long) = _once(row["cell"] for row in rows), _lengths(rows)
    us = {cell: step_us(rows, cell, FP32, short, long) for cell in cells}
    before = [step_us(rows, cell, FP32, first, short) / us[cell] for cell in cells]
    least, most = min(cells, key=us.__getitem__), max(cells, key=us.__getitem__)
    text = (
        f"One more step takes in fp32 from {_ms(us[least])} µs ({least}) to {_ms(us[most])} µs ({most}), between "
        f"{short} steps and {long}; between {first} and {short} it is x {min(before):.2g} to {max(before):.2g} of that."
    )
    quantized = [row["cell"] for row in rows if row["length"] == long and INT8 in row["ms"]]
    shares = [f"{cell} x {step_us(rows, cell, INT8, short, long) / us[cell]:.2g}" for cell in quantized]
    return text + (f" In int8 it takes of fp32's time: {', '.join(shares)}." if shares else "")


def batch_table(rows: Sequence[Row], length: int) -> str:
    """A row a cell and batch: milliseconds a sequence, microseconds a step of all, and ratios of fp32."""
    heads = ["cell", "batch", "PyTorch, ms a sequence", "fp32, ms a sequence", "÷ PyTorch", "fp32, µs a step of all"]
    heads += ["int8, ms a sequence", "dense, ms an item", "fp32 ÷ dense"]
    lines = []
    for row in rows:
        each = {name: ms / row["batch"] for name, ms in row["ms"].items()}
        step = _ms(1e3 * row["ms"][FP32] / length)
        int8 = _ms(each[INT8]) if INT8 in each else ""
        cells = [row["cell"], str(row["batch"]), _ms(each[EAGER]), _ms(each[FP32]), _ratio(row["ratio"][FP32])]
        lines.append([*cells, step, int8, _ms(each[DENSE]), _ratio(row["dense"])])
    return piped(heads, lines)


def batch_sentence(rows: Sequence[Row]) -> str:
    """By how much a sequence gets cheaper in a batch, beside the dense layer, and where PyTorch is faster."""
    least, most = min(row["batch"] for row in rows), max(row["batch"] for row in rows)
    told = []
    for cell in _once(row["cell"] for row in rows):
        of = {row["batch"]: row for row in rows if row["cell"] == cell}
        gain = {name: of[least]["ms"][name] * most / least / of[most]["ms"][name] for name in (FP32, DENSE)}
        ends = [f"{of[batch]['dense'][0]:.3g}" for batch in (least, most)]
        told.append(f"{cell} x {gain[FP32]:.2g} and x {gain[DENSE]:.2g}, from {ends[0]} to {ends[1]} times its time")
    slower: dict[str, list[str]] = {}
    for row in rows:
        if row["ratio"][FP32][1] > 1:
            slower.setdefault(row["cell"], []).append(str(row["batch"]))
    where = "; ".join(f"{cell} at batch {', '.join(batches)}" for cell, batches in slower.items())
    return (
        f"From batch {least} to {most} a sequence in fp32 and an item of the dense layer get cheaper by: "
        f"{'; '.join(told)}. PyTorch is the faster: {where or 'nowhere'}."
    )


def step_table(rows: Sequence[Row]) -> str:
    """A row a cell and size: microseconds of one step at batch 1."""
    heads = ["cell", "units", f"{RAW}, µs", f"{RUN}, µs", "ratio", f"at most {STEP_AIM:g}"]
    lines = [
        [
            *(row["cell"], str(row["units"])),
            *(_ms(1e3 * row["ms"][name]) for name in (RAW, RUN)),
            *(_ratio(row["ratio"][RUN]), verdict_most(row["ratio"][RUN], STEP_AIM)),
        ]
        for row in rows
    ]
    return piped(heads, lines)


def size_table(rows: Sequence[Row]) -> str:
    """A row a cell and length: int8 ÷ fp32 at each number of units."""
    units = sorted({row["units"] for row in rows})
    of = {(row["cell"], row["length"], row["units"]): _ratio(row["ratio"][INT8]) for row in rows}
    kinds = list(dict.fromkeys((row["cell"], row["length"]) for row in rows))
    lines = [[cell, _steps(length), *(of[cell, length, n] for n in units)] for cell, length in kinds]
    return piped(["int8 ÷ fp32", "at batch 1", *(f"{n} units" for n in units)], lines)


def length_chart(rows: Sequence[Row]) -> alt.ConcatChart:
    """A panel a cell, latency by length, a line a form; both axes log."""
    return _panels(rows, "length", _lengths(rows), "steps (log)", "ms a sequence (log)")


def batch_chart(rows: Sequence[Row]) -> alt.ConcatChart:
    """A panel a cell, milliseconds a sequence by batch, a line a form and the dense layer's; both axes log."""
    each = [row | {"ms": {name: ms / row["batch"] for name, ms in row["ms"].items()}} for row in map(dict, rows)]
    return _panels(each, "batch", sorted({row["batch"] for row in rows}), "batch (log)", "ms a sequence (log)")


def _panels(rows: Sequence[Row], key: str, ticks: list[int], title: str, unit: str) -> alt.ConcatChart:
    names = [name for name in COLOURS if any(name in row["ms"] for row in rows)]
    legend = alt.Legend(columns=3, symbolType="stroke", symbolStrokeWidth=2.5, symbolSize=320)
    colour = alt.Color(
        "form:N",
        title=None,
        sort=None,
        scale=alt.Scale(domain=names, range=[COLOURS[name] for name in names]),
        legend=legend,
    )
    dashes = [charts.DASHES[4] if name in DASHED else charts.DASHES[0] for name in names]
    dash = alt.StrokeDash("form:N", title=None, sort=None, scale=alt.Scale(domain=names, range=dashes), legend=legend)
    cells = _once(row["cell"] for row in rows)
    panels = []
    for i, cell in enumerate(cells):
        values = [
            {"form": name, "at": row[key], "ms": float(f"{ms:.4g}"), "said": f"{cell}, {name}, {row[key]}: {ms:.3g} ms"}
            for row in rows
            if row["cell"] == cell
            for name, ms in row["ms"].items()
        ]
        scale = alt.Scale(type="log", nice=False, domain=[0.9 * ticks[0], 1.1 * ticks[-1]])
        x = alt.X("at:Q", title=title, scale=scale, axis=alt.Axis(values=ticks, format="d"))
        y = alt.Y(
            "ms:Q",
            title=unit if i % 3 == 0 else None,
            scale=alt.Scale(type="log", nice=False),
            axis=alt.Axis(values=[10.0**power for power in range(-4, 5)], format="~g"),
        )
        base = alt.Chart(alt.Data(values=values))
        lines = base.mark_line(strokeWidth=2).encode(x=x, y=y, color=colour, strokeDash=dash, description="form:N")
        points = base.mark_point(filled=True, size=30, opacity=1).encode(x=x, y=y, color=colour, description="said:N")
        shown = alt.TitleParams(cell, anchor="start", fontSize=13, fontWeight="normal", color=charts.INK, frame="group")
        width, height = PANEL
        panels.append((lines + points).properties(width=width, height=height, title=shown))
    return alt.concat(*panels, columns=3, spacing=24).resolve_scale(y="shared", color="shared", strokeDash="shared")


def page(facts: Row) -> dict[str, str]:
    """``README.md`` and its pictures, by the names of the files, from what ``benchmarks.sequences`` keeps."""
    settings = facts["settings"]
    by_units = {n: [row for row in facts["lengths"] if row["units"] == n] for n in settings["units"]}
    pictures = {f"length-{n}.svg": length_chart(rows) for n, rows in by_units.items()}
    pictures["batch.svg"] = batch_chart(facts["batches"])
    text = f"# What a sequence costs deployed\n\n{_where(facts)}\n\n{_how(settings)}\n"
    text += f"\n## What was aimed at\n\n{AIMS}\n\n{aims_table(facts)}\n\n## By length\n\n{LENGTHS}\n"
    for n, rows in by_units.items():
        text += f"\n### {n} units\n\n{length_sentence(rows)}\n\n{length_table(rows)}\n"
        text += f"\n![Latency by length, {n} units](length-{n}.svg)\n"
    text += f"\n## By batch\n\n{_batches(settings)}\n\n{batch_sentence(facts['batches'])}\n"
    text += f"\n{batch_table(facts['batches'], settings['length'])}\n\n![Milliseconds a sequence by batch](batch.svg)\n"
    text += f"\n## One step\n\n{STEPS}\n\n{step_table(facts['steps'])}\n"
    text += f"\n## From how many units on int8 is the faster\n\n{_sizes(settings)}\n\n{size_table(facts['sizes'])}\n"
    reasons = facts["absent"]
    for reason in dict.fromkeys(reasons.values()):
        text += f"\nNot measured: {', '.join(name for name, of in reasons.items() if of == reason)}: {reason}.\n"
    return {"README.md": text} | {name: charts.svg_file(charts.svg(chart)) for name, chart in pictures.items()}


AIMS = (
    "Reached is where the whole interval of the ratio is on the good side of the aim, not reached where it is on the "
    "other, and else it is undecided."
)
LENGTHS = (
    "Batch 1. Where a cell is one operator, its products with what is read are made for all steps at once; those with "
    "the state wait for the step before, and each multiplies a matrix by one vector, for which it reads all its "
    "weights: where these do not fit into the nearest caches, a step takes as long as the reading, and int8 has a "
    "quarter to read."
)
STEPS = (
    "One step at batch 1, the state given and taken, as a server or a game calls it: what the project's `run` of the "
    "fp32 graph (`open_onnxruntime`) takes, and the same graph in a session of onnxruntime that is called directly."
)


def _batches(settings: Row) -> str:
    return (
        f"{settings['length']} steps, {max(settings['units'])} units. The dense layer has as many products a place as "
        f"the cell has a step, and takes all {settings['length']} places at once, as it would an image's: a reading of "
        f"its weights serves all places. The cell's recurrent weights are read again at each step: time does not "
        f"batch, since a state is known only when the step before is done. Sequences side by side can: where the "
        f"kernel reads once for all of them, a step of all takes less than as many times the time of one."
    )


def _sizes(settings: Row) -> str:
    return (
        f"onnxruntime has an int8 operator of the LSTM alone; the stages take it at any size, for its file too. "
        f"A GRU or an RNN is written out instead: a product of what is read, of all steps at once, and one of the "
        f"state in a Scan, each in int8. That costs a few small operators a step, and saves three quarters of the "
        f"reading. The stages do so from {settings['int8_from']} units on and refuse int8 below (`WINS_FROM` in "
        f"`pipeline/int8.py`); here it was done at every size."
    )


def _how(settings: Row) -> str:
    least, most = settings["rounds"]
    return (
        f"Each cell of `models/cells.py` has as many inputs as units, and weights as they start, which do not bear on "
        f"the time. Its graph was exported, held against the network, and put into the forms that the stages make; an "
        f"int8 form is the one with the fewest layers left in float, and an RNN or GRU has one from "
        f"{settings['int8_from']} units on (`pipeline/int8.py`). PyTorch is the cell itself, in eager mode; its own "
        f"layer, where it has one, is of the same weights. Arrays in memory go in and come out, the state with "
        f"them; one thread. What stands in a cell's rows at one length or batch was timed in turn in one process, in "
        f"random order in each of {least} to {most} rounds; medians, and the median of the rounds' ratios with 95 % "
        f"bootstrap bounds either side. onnxruntime computes an fp16 graph in fp32 on the CPU."
    )


def _where(facts: Row) -> str:
    host, packages = facts["host"], facts["host"]["packages"]
    gpus = ", ".join(gpu["name"] for gpu in host["gpus"]) or "no GPU"
    versions = ", ".join(
        f"{name} {packages[name]}" for name in ("torch", "onnxruntime-gpu", "onnxruntime") if name in packages
    )
    return (
        f"Made by `{COMMAND}` on {host['processor']}, {host['cores']} cores, {gpus}; {versions}; {facts['date']}, "
        f"commit `{facts['commit']}`. [Every number](../../{NUMBERS})."
    )


def _ratio(ratio: Interval) -> str:
    middle, low, high = ratio
    places = 2 if middle < 10 else 1
    return f"{middle:.{places}f} ({low:.{places}f}–{high:.{places}f})"


def _ms(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def _steps(n: int) -> str:
    return "1 step" if n == 1 else f"{n} steps"


def _lengths(rows: Sequence[Row]) -> list[int]:
    return sorted({row["length"] for row in rows})


def _once(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
