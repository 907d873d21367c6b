"""The page that ``benchmarks.memory`` keeps: tables, what they say in a sentence, and pictures."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np

from deploy.errors import Refused
from pipeline import charts
from pipeline.matrix import piped

Told = Mapping[str, Any]  # of one training, as `benchmarks.memory.learn` tells it

COMMAND = "python -m benchmarks.memory"
NUMBERS = "results/bench/numbers/memory.json"  # elsewhere under results/ it would be taken for what a host measured
ADDING, COPYING = "adding", "copying"
OWN = "own start"
CLIPPED = {False: "not clipped", True: "clipped"}
COLOURS = (*charts.COLOURS.values(), charts.BUDGET, charts.TRAINED, charts.INK, "#E69F00")  # the last: Okabe and Ito's
LEARNED, IN_PART = 0.1, 0.8  # of a guess's loss: what stays below it has learned the problem, or some of it
FLOOR = 1e-40  # of a gradient's length, below which none is drawn
DISTANCES = (1, 10, 30, 100)
DECADES = [10.0**power for power in range(-6, 1)]
TOP = 1.0  # of a training loss that is drawn
TITLES = {ADDING: "mean squared error of the sum (log)", COPYING: "recalled symbols that are wrong, %"}
AXES = {ADDING: "numbers in the sequence (log)", COPYING: "blanks between symbols and recall (log)"}


def ends(runs: Sequence[Told], problem: str) -> dict[tuple[str, int], dict[str, list[float]]]:
    """Cell and length -> ``losses`` and ``shares``, per cent of right sums or of wrong symbols: one a seed.

    Raises:
        Refused: a training diverged, which clipped ones do not.
    """
    made: dict[tuple[str, int], dict[str, list[float]]] = {}
    for run in runs:
        if run["problem"] == problem:
            if run["diverged"]:
                raise Refused(f"{run['cell']}, {problem}, {run['length']}: diverged at step {run['diverged']}")
            of = made.setdefault((run["cell"], run["length"]), {"losses": [], "shares": []})
            of["losses"].append(run["loss"])
            of["shares"].append(run["right"] if problem == ADDING else 100 - run["right"])
    return made


def guesses(settings: Told, problem: str) -> dict[int, float]:
    """Length -> the loss of a guess."""
    return dict(zip(settings["lengths"][problem], settings["guess"][problem], strict=True))


def below(runs: Sequence[Told], settings: Told, problem: str, share: float) -> dict[int, list[str]]:
    """Length -> the cells whose loss is below ``share`` of a guess's in every seed."""
    of, least = ends(runs, problem), guesses(settings, problem)
    return {
        length: [cell for cell, at in of if at == length and max(of[cell, at]["losses"]) < share * least[length]]
        for length in settings["lengths"][problem]
    }


def table(runs: Sequence[Told], settings: Told, problem: str) -> str:
    """A row a cell, two columns a length; the last row is what a guess reaches."""
    of, lengths = ends(runs, problem), settings["lengths"][problem]
    loss, of_what = ("MSE", "right") if problem == ADDING else ("nats", "wrong")
    heads = ["cell", "rate"]
    heads += [head for length in lengths for head in (f"{length}: {loss}", f"{length}: {of_what}, %")]
    lines = []
    for cell in dict.fromkeys(cell for cell, _ in of):
        cells = [cell, f"{settings['rates'][cell]:g}"]
        for length in lengths:
            cells += [_range(of[cell, length]["losses"], ".3g"), _range(of[cell, length]["shares"], ".1f")]
        lines.append(cells)
    chance = "" if problem == ADDING else "87.5"
    least = guesses(settings, problem)
    lines.append(["a guess", "", *(word for n in lengths for word in (f"{least[n]:.3g}", chance))])
    return piped(heads, lines)


def learned_sentence(runs: Sequence[Told], settings: Told, problem: str) -> str:
    """Who has learned the problem at which length."""
    what = "numbers" if problem == ADDING else "blanks"
    told = []
    some = below(runs, settings, problem, IN_PART)
    for length, whole in below(runs, settings, problem, LEARNED).items():
        part = [cell for cell in some[length] if cell not in whole]
        words = [_names(whole)] if whole else []
        words += [f"{_names(part)} in part"] if part else []
        told.append(f"{length}: {', '.join(words) or 'none'}")
    return (
        f"After {settings['steps']:,} steps these are below a tenth of a guess's loss, in part below eight "
        f"tenths of it, in every seed, by the number of {what}: {'; '.join(told)}."
    )


def factor(norms: Sequence[float]) -> float:
    """By which a gradient changes with each step back: the geometric mean over all of them."""
    return float((norms[-1] / norms[0]) ** (1 / (len(norms) - 1)))


def gradient_table(gradients: Mapping[str, Sequence[Told]]) -> str:
    """A row a cell and start."""
    lines = []
    for of in gradients.values():
        for each in of:
            name = called(each)
            cells = [f"{each['norm'][d - 1]:.2g}" for d in DISTANCES]
            if [name, *cells, f"{factor(each['norm']):.3f}"] not in lines:
                lines.append([name, *cells, f"{factor(each['norm']):.3f}"])
    return piped(["cell", *(f"{d} back" for d in DISTANCES), "a step"], lines)


def gradient_sentence(gradients: Mapping[str, Sequence[Told]]) -> str:
    """What is left after all steps of the cells as they start, and where there is more of it than after one."""
    own = [each for each in gradients["cells"] if each["start"] == OWN]
    most, least = max(own, key=lambda each: each["norm"][-1]), min(own, key=lambda each: each["norm"][-1])
    steps = len(own[0]["norm"])
    text = (
        f"Of the cells as they start, {called(most)} keeps the most of a gradient over {steps} steps, "
        f"{most['norm'][-1]:.1g}, and {called(least)} the least, {least['norm'][-1]:.1g}."
    )
    grows = {called(each) for of in gradients.values() for each in of if each["norm"][-1] > each["norm"][0]}
    return text + (f" It grows with the distance in {_names(sorted(grows))}." if grows else " It grows in none.")


def descent_table(descents: Sequence[Told], settings: Told) -> str:
    """A row a start, clipped or not, and seed."""
    lines = []
    for each in descents:
        end = f"diverged at step {each['diverged']}" if each["diverged"] else f"{each['loss']:.3g}"
        norms = [f"{each[key]:.2g}" if each[key] is not None else "" for key in ("norm", "longest")]
        share = f"{each['clipped']:.0f}" if each["clip"] else ""
        lines.append([each["start"], CLIPPED[bool(each["clip"])], str(each["seed"]), end, *norms, share])
    heads = ["start of the recurrent weights", "gradient", "seed", "held-out MSE", "its length, median", "longest"]
    return piped([*heads, f"steps clipped to {settings['clip']:g}, %"], lines)


def descent_sentence(descents: Sequence[Told]) -> str:
    """What clipping and the start did."""
    told = []
    for clip, words in CLIPPED.items():
        of = [each for each in descents if bool(each["clip"]) == clip]
        lost = sum(each["diverged"] is not None for each in of)
        best = [each for each in of if each["loss"] is not None and each["loss"] < IN_PART / 6]
        starts = _names(list(dict.fromkeys(each["start"] for each in best)))
        learnt = f"{len(best)} learned something ({starts})" if best else "none learned anything"
        told.append(f"{words}, {lost} of {len(of)} trainings diverged and {learnt}")
    return f"With the gradient {'; '.join(told)}. Something is a held-out error below eight tenths of 1/6."


def length_chart(runs: Sequence[Told], settings: Told, problem: str) -> alt.LayerChart:
    """What is reached by length: a line a cell, a point a seed, and what a guess reaches."""
    of = ends(runs, problem)
    cells = list(dict.fromkeys(cell for cell, _ in of))
    lines, points = [], []
    for (cell, length), at in of.items():
        each = at["losses"] if problem == ADDING else at["shares"]
        lines.append({"cell": cell, "length": length, "value": _short(float(np.mean(each)))})
        points += [
            {"cell": cell, "length": length, "value": _short(one), "said": f"{cell}, {length}: {one:.3g}"}
            for one in each
        ]
    lengths = settings["lengths"][problem]
    scale = alt.Scale(type="log", nice=False, domain=[0.85 * lengths[0], 1.2 * lengths[-1]])
    x = alt.X("length:Q", title=AXES[problem], scale=scale, axis=alt.Axis(values=lengths, format="d"))
    if problem == ADDING:
        bottom = min(1e-4, *map(min, (at["losses"] for at in of.values())))
        y_scale = alt.Scale(type="log", domain=[bottom, 0.5], nice=False)
        axis = alt.Axis(values=DECADES, format="~g")
        level, words = 1 / 6, "a guess: 1/6"
    else:
        y_scale, axis = alt.Scale(domain=[0, 100]), alt.Axis()
        level, words = 87.5, "by chance: 87.5 %"
    y = alt.Y("value:Q", title=TITLES[problem], scale=y_scale, axis=axis)
    colour, shape = _coloured(cells, "cell:N")
    drawn = alt.Chart(alt.Data(values=lines)).mark_line(strokeWidth=2)
    dots = alt.Chart(alt.Data(values=points)).mark_point(filled=True, size=60, opacity=0.9)
    return (
        _level(level, words, y_scale)
        + drawn.encode(x=x, y=y, color=colour, description="cell:N")
        + dots.encode(x=x, y=y, color=colour, shape=shape, description="said:N")
    )


def gradient_chart(of: Sequence[Told], title: str, key: Callable[[Told], str]) -> alt.LayerChart:
    """The gradient's length by distance, a line for each, which ``key`` names."""
    values = [
        {"name": key(each), "distance": d, "norm": _short(norm)}
        for each in of
        for d, norm in enumerate(each["norm"], start=1)
        if norm > FLOOR
    ]
    colour, _ = _coloured([key(each) for each in of], "name:N")
    reach = max(len(each["norm"]) for each in of)
    x = alt.X("distance:Q", title="steps back", axis=alt.Axis(values=[*range(0, reach + 1, 20)]))
    tens = alt.Axis(format=".0e", tickCount=8)
    y = alt.Y("norm:Q", title="length of the gradient (log)", scale=alt.Scale(type="log", nice=False), axis=tens)
    line = alt.Chart(alt.Data(values=values)).mark_line(strokeWidth=2)
    return line.encode(x=x, y=y, color=colour, description="name:N").properties(title=_title(title))


def descent_chart(descents: Sequence[Told], settings: Told, clip: bool) -> alt.LayerChart:
    """The training loss by step, a line a start and seed; a cross where a training diverged."""
    starts = list(dict.fromkeys(each["start"] for each in descents))
    every, values, lost = settings["every"], [], []
    for each in descents:
        if bool(each["clip"]) == clip:
            said = {"start": each["start"], "seed": each["seed"]}
            shown = [min(loss, TOP) for loss in each["curve"]]  # what leaves the picture leaves it at its top
            values += [said | {"step": (i + 1) * every, "loss": _short(loss)} for i, loss in enumerate(shown)]
            if each["diverged"]:
                words = f"{each['start']}: diverged at step {each['diverged']}"
                height = TOP * 0.75 ** (1 + starts.index(each["start"]))  # one below the other, where all diverge soon
                lost.append(said | {"step": each["diverged"], "loss": height, "said": words})
    colour, _ = _coloured(starts, "start:N")
    x_scale = alt.Scale(domain=[0, settings["steps"]])
    x = alt.X("step:Q", title="steps", scale=x_scale, axis=alt.Axis(format=",d", tickCount=5))
    least = min((loss for each in descents for loss in each["curve"]), default=TOP)
    y_scale = alt.Scale(type="log", domain=[min(least, 0.03), TOP], nice=False)
    ticks = alt.Axis(format="~g", values=[0.01, 0.03, 0.1, 0.3, 1])
    y = alt.Y("loss:Q", title="training loss (log)", scale=y_scale, axis=ticks)
    lines = alt.Chart(alt.Data(values=values)).mark_line(strokeWidth=1.8, opacity=0.9)
    crosses = alt.Chart(alt.Data(values=lost)).mark_point(shape="cross", filled=True, size=90, angle=45, opacity=1)
    drawn = _level(1 / 6, "", y_scale) + lines.encode(x=x, y=y, color=colour, detail="seed:N", description="start:N")
    if lost:
        drawn += crosses.encode(x=x, y=y, color=colour, description="said:N")
    cross = "; a cross: diverged" if lost else ""
    return drawn.properties(title=_title(f"{CLIPPED[clip]} (dashed: 1/6, a guess{cross})"))


def page(facts: Told) -> dict[str, str]:
    """``README.md`` and its pictures, by the names of the files, from what ``benchmarks.memory`` keeps."""
    settings, runs, descents, gradients = (facts[key] for key in ("settings", "runs", "descents", "gradients"))
    pictures = {
        "length.svg": charts.beside([length_chart(runs, settings, problem) for problem in (ADDING, COPYING)]),
        "gradients.svg": charts.beside(
            [
                gradient_chart(gradients["cells"], "the cells as they start", called),
                gradient_chart(gradients["Elman"], "Elman's, by its start", lambda each: str(each["start"])),
            ]
        ).resolve_scale(color="independent"),
        "clipping.svg": charts.beside([descent_chart(descents, settings, clip) for clip in CLIPPED]),
    }
    text = f"# What recurrent cells remember\n\n{_where(facts)}\n\n{_how(settings)}\n"
    text += "\n![Error by length: the adding problem, the copying problem](length.svg)\n"
    for problem, (title, what) in SECTIONS.items():
        said = learned_sentence(runs, settings, problem)
        text += f"\n## {title}\n\n{what}\n\n{said}\n\n{table(runs, settings, problem)}\n"
    text += f"\n## How far a gradient reaches\n\n{GRADIENTS}\n\n{gradient_sentence(gradients)}\n"
    text += f"\n{gradient_table(gradients)}\n\n![Length of the gradient by distance](gradients.svg)\n"
    text += f"\n## Clipping, and the start\n\n{_descents(settings)}\n\n{descent_sentence(descents)}\n"
    text += f"\n{descent_table(descents, settings)}\n\n![Training loss with and without clipping](clipping.svg)\n"
    return {"README.md": text} | {name: charts.svg_file(charts.svg(chart)) for name, chart in pictures.items()}


SECTIONS = {
    ADDING: (
        "The adding problem",
        "Numbers from 0 to 1 are read one by one; one in each half is marked, and at the end the sum of the two is "
        "wanted (Hochreiter & Schmidhuber 1997, experiment 4; Le et al. 2015, arXiv:1504.00941). Who guesses says 1 "
        "and is wrong by 1/6 on the mean of squares, the variance of such a sum. Right is within 0.08, Hochreiter and "
        "Schmidhuber's 0.04 of a target half as wide.",
    ),
    COPYING: (
        "The copying problem",
        "Ten symbols of eight, then blanks, a delimiter, and the ten are wanted in their order (Arjovsky et al. 2016, "
        "arXiv:1511.06464, section 4.1). Who guesses says blanks until the delimiter and then any symbol: "
        "10 ln 8 / (blanks + 20) nats a place, and 7 of 8 symbols wrong. Wrong is of the ten alone, the likeliest of "
        "the eight symbols taken.",
    ),
}
GRADIENTS = (
    "The gradient of what a cell says last, seen in a random direction of length 1, with respect to its state so many "
    "steps before; nothing is trained, and the numbers of the adding problem are read, in float64. Where each step "
    "multiplies it by less than 1 it vanishes, and nothing that far back can be learned from; by more, and it explodes "
    "(Pascanu et al. 2013, arXiv:1211.5063, section 2). A radius is the magnitude of the largest eigenvalue of Elman's "
    "recurrent weights, which were scaled to it; orthogonal ones were drawn for it (Saxe et al. 2014, "
    "arXiv:1312.6120); of an LSTM's start as it is a forget gate lets about half through, and a bias opens it "
    "(Gers et al. 2000; Jozefowicz et al. 2015). Below is the length so many steps back, and the factor of one step, "
    "the geometric mean of all."
)


def called(each: Told) -> str:
    """A cell and its start, if that is not its own."""
    return str(each["cell"] if each["start"] == OWN else f"{each['cell']}, {each['start']}")


def _descents(settings: Told) -> str:
    return (
        f"Elman's cell on the adding problem of {settings['length']} numbers, by gradient descent without momentum at "
        f"a rate of {settings['descent']:g}: a gradient that is longer than {settings['clip']:g} is cut to that length "
        f"(Pascanu et al. 2013, section 3.2), or left as it is. Its length is told before the cut, over the steps that "
        f"were made."
    )


def _how(settings: Told) -> str:
    return (
        f"Each cell of `models/cells.py` has {settings['units']} units and a dense layer on what it says. Trainings of "
        f"the first two tables are alike: {settings['steps']:,} steps of Adam in batches of {settings['batch']} new "
        f"sequences, gradients clipped at a length of {settings['clip']:g}, each cell at the better of two rates, "
        f"0.003 and 0.01, the weights as the cell starts them. Results are of {settings['held']:,} held-out sequences: "
        f"the mean over seeds {', '.join(map(str, settings['seeds']))}, and the least and the greatest."
    )


def _where(facts: Told) -> str:
    host = facts["host"]
    return (
        f"Made by `{COMMAND}` on {host['processor']}, {host['cores']} cores, torch {host['packages']['torch']}; "
        f"{facts['date']}, commit `{facts['commit']}`. [Every number](../../{NUMBERS})."
    )


def _coloured(names: Sequence[str], field: str) -> tuple[alt.Color, alt.Shape]:
    """A colour and a shape for each name, in one legend."""
    names = list(dict.fromkeys(names))
    legend = alt.Legend(columns=3, symbolLimit=len(names), symbolOpacity=1)
    colours = alt.Scale(domain=names, range=list(COLOURS[: len(names)]))
    shapes = alt.Scale(domain=names, range=[charts.SHAPES[i % len(charts.SHAPES)] for i in range(len(names))])
    colour = alt.Color(field, title=None, sort=None, scale=colours, legend=legend)
    return colour, alt.Shape(field, title=None, sort=None, scale=shapes, legend=legend)


def _level(at: float, words: str, scale: alt.Scale) -> alt.LayerChart:
    """A line across, with what it is above it."""
    base = alt.Chart(alt.Data(values=[{"at": at, "said": words}])).encode(y=alt.Y("at:Q", scale=scale))
    line = base.mark_rule(color=charts.INK, strokeDash=[2, 3], opacity=0.7).encode(description="said:N")
    text = base.mark_text(align="left", baseline="bottom", dx=4, dy=-9, color=charts.INK, aria=False)
    return line + text.encode(x=alt.value(0), text="said:N")


def _title(text: str) -> alt.TitleParams:
    return alt.TitleParams(text, anchor="start", fontSize=13, fontWeight="normal", color=charts.INK, frame="group")


def _range(values: Sequence[float], form: str) -> str:
    """The mean, and the least and the greatest where there are several."""
    mean = f"{np.mean(values):{form}}"
    return mean if len(values) == 1 else f"{mean} ({min(values):{form}}–{max(values):{form}})"


def _names(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:]))) or "none"


def _short(value: float) -> float:
    return float(f"{value:.4g}")
