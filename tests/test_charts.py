"""Charts read back from the SVG: a mark for each thing, where its value is, in the one look, with nothing else changed."""

import io
import math
import re
import xml.etree.ElementTree as ET
from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import pytest
import vl_convert
from PIL import Image

from pipeline import charts, matrix

TARGETS = ["onnxruntime-cpu-fp32", "onnxruntime-cpu-int8", "tensorrt-fp16", "trained (PyTorch eager, cpu)"]
ODD = [
    'a "quoted" <b>&amp;</b> name\'s',
    'x="1.23456" d="M1.2345,6.789"',
    "#1d2327 currentColor 1.23456",
    "${datum.at} \\1 \\g<0> %s {0}",
    "très-long-" * 30 + "int8",
]
PALETTE = {*charts.COLOURS.values(), charts.TRAINED, charts.BUDGET, "currentColor", "none", "transparent"}
KEPT = "the weights of epoch 3 were kept"


def drops(targets: list[str]) -> list[dict[str, Any]]:
    return [{"target": name, "drop": 0.1234567, "lower": -0.3, "upper": 0.4567891} for name in targets]


def samples(targets: list[str]) -> dict[str, list[float]]:
    return {name: [1e-4 * (i + 1) * (k + 1) for i in range(100)] for k, name in enumerate(targets)}


def earned(targets: list[str]) -> dict[str, dict[str, float | None]]:
    return {name: {"p50_ms": 5.0 * (k + 1), "p90_ms": 9.0 * (k + 1), "p99_ms": None} for k, name in enumerate(targets)}


def history(losses: list[float]) -> list[dict[str, float]]:
    return [
        {"epoch": float(i), "train_loss": loss / 2, "select_loss": loss, "accuracy": 90.0 + i}
        for i, loss in enumerate(losses, start=1)
    ]


def spreads(epochs: int) -> list[dict[str, float]]:
    parts = {"min": -2.0, "p25": -0.5, "p50": 0.1, "p75": 0.5, "max": 2.0}
    return [
        {"epoch": float(i)} | {f"{kind}_{part}": i * x for kind in ("weights", "biases") for part, x in parts.items()}
        for i in range(1, epochs + 1)
    ]


def point(target: str, score: float, ms: float, **changes: Any) -> dict[str, Any]:
    whole = {
        "recipe": "lenet",
        "target": target,
        "score": score,
        "lower": score - 1,
        "upper": score + 1,
        "ms": ms,
        "host": "here",
    }
    whole |= {"ms_lower": 0.9 * ms, "ms_upper": 1.1 * ms, "bytes": 1000, "front": False, "named": target == "trained"}
    return whole | {"said": f"said of {target}"} | changes


def panel(points: list[dict[str, Any]], title: str = "digits", higher: bool = True) -> dict[str, Any]:
    reach = [min(p["score"] for p in points) - 2, max(p["score"] for p in points) + 2]
    return {
        "title": title, "metric": "accuracy, %", "higher_is_better": higher, "reach": reach, "points": points
    }  # fmt: skip


POINTS = [
    point("trained", 98.0, 2.0, ms_lower=None, ms_upper=None),
    point("a-fp32", 97.5, 1.0, front=True),
    point("a-int8", 95.0, 0.25, front=True),
    point("b-fp16", 96.0, 1.5, lower=None, upper=None),
]
LOSSES = [1.0, 0.5, 0.2, 0.3]


def every(name: str) -> Any:
    """One of each chart, by its name."""
    return {
        "accuracy": lambda: charts.accuracy(drops(TARGETS), 1.0, "accuracy", "points"),
        "latency": lambda: charts.latency(samples(TARGETS), earned(TARGETS)),
        "weight": lambda: charts.weight([{"target": name, "bytes": 1234567} for name in TARGETS]),
        "ranges": lambda: charts.ranges("network", {"conv": [-1.5, 3.0], "relu": [0.0, 70000.0]}),
        "drift": lambda: charts.drift({name: {"step": [1, 10, 100], "error": [1e-7, 2e-7, 0.3]} for name in TARGETS}),
        "learning": lambda: charts.learning(history(LOSSES), "accuracy", "%"),
        "spread": lambda: charts.spread(spreads(4), history(LOSSES)),
        "tradeoff": lambda: charts.tradeoff(panel(POINTS)),
        "beside": lambda: charts.beside([charts.tradeoff(panel(POINTS, title)) for title in ("one", "two", "three")]),
    }[name]()


EVERY = ["accuracy", "latency", "weight", "ranges", "drift", "learning", "spread", "tradeoff", "beside"]


@cache
def drawn(name: str) -> str:
    return charts.svg(every(name))


def elements(svg: str) -> list[ET.Element]:
    return list(ET.fromstring(svg).iter())


def texts(svg: str) -> list[str]:
    """What stands in the picture; of an axis' labels those too that would overlap, without their text."""
    return ["".join(e.itertext()) for e in elements(svg) if e.tag.endswith("}text")]


def labels(svg: str) -> Counter[str]:
    """What the marks say, without axes and legends."""
    said = (e for e in elements(svg) if e.get("aria-label") and e.get("aria-roledescription") not in ("axis", "legend"))
    return Counter(e.attrib["aria-label"] for e in said)


def places(svg: str) -> dict[tuple[str, str], tuple[float, float]]:
    """A mark's label and kind -> where it stands, in pixels of its view."""
    return {
        (e.attrib["aria-label"], e.get("aria-roledescription", "")): (float(at[1]), float(at[2]))
        for e in elements(svg)
        if e.get("aria-label") and (at := re.match(r"translate\((.+),(.+)\)", e.get("transform", "")))
    }


def image(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png))


@pytest.mark.parametrize("name", EVERY)
def test_the_drawing_is_vegas_own_but_for_tenths_of_a_pixel_and_the_ink(name: str) -> None:
    own = vl_convert.vegalite_to_svg(charts._styled(every(name)))
    assert texts(own) == texts(drawn(name))
    for before, after in zip(elements(own), elements(drawn(name)), strict=True):
        assert before.tag == after.tag and before.text == after.text and list(before.attrib) == list(after.attrib)
        for key, value in before.attrib.items():
            came = after.attrib[key]
            if key in ("d", "transform", "x", "y", "x1", "x2", "y1", "y2", "width", "height", "viewBox"):
                numbers = [np.array(re.findall(r"-?[\d.]+(?:e-?\d+)?", text), float) for text in (value, came)]
                np.testing.assert_allclose(*numbers, rtol=0, atol=0.0500001)
                assert not re.search(r"\.\d\d", came)
            elif "clip" in value:  # numbered on from drawing to drawing, so that those of a page differ
                assert re.sub(r"\d+", "", came) == re.sub(r"\d+", "", value)
            else:
                assert came == ("currentColor" if value == charts.INK else value)


@pytest.mark.parametrize("name", EVERY)
def test_one_look_and_nothing_from_elsewhere(name: str) -> None:
    colours = {e.attrib[key] for e in elements(drawn(name)) for key in ("fill", "stroke") if key in e.attrib}
    assert colours <= PALETTE
    assert "currentColor" in colours and colours & {charts.TRAINED, *charts.COLOURS.values()}
    assert set(re.findall(r"#[0-9a-fA-F]{3,8}\b|rgba?\(", drawn(name))) <= PALETTE
    assert {e.tag for e in elements(drawn(name))}.isdisjoint(
        f"{{http://www.w3.org/2000/svg}}{tag}" for tag in ("script", "style", "image", "use", "foreignObject", "a")
    )
    for address in re.findall(r"\w+://[^\"'\s)]*|url\([^)]*\)|@import", drawn(name)):
        assert address.startswith(("http://www.w3.org/", "url(#"))
    assert not re.search("NaN|Infinity|undefined|null", drawn(name))


@pytest.mark.parametrize("name", EVERY)
def test_a_drawing_is_transparent_and_its_png_white_and_twice_as_large(name: str) -> None:
    root = ET.fromstring(drawn(name))
    size = tuple(2 * int(root.attrib[key]) for key in ("width", "height"))
    bare, png = image(vl_convert.svg_to_png(drawn(name), scale=2)), charts.png(drawn(name))
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert bare.size == image(png).size == size
    for corner in ((0, 0), (size[0] - 1, size[1] - 1)):
        assert bare.convert("RGBA").getpixel(corner)[3] == 0
        assert image(png).convert("RGBA").getpixel(corner) == (255, 255, 255, 255)
    seen = {colour for _, colour in image(png).convert("RGB").getcolors(1 << 20)}
    assert (0x1D, 0x23, 0x27) in seen


@pytest.mark.parametrize("name", ["accuracy", "beside"])
def test_a_file_of_its_own_follows_light_and_dark(name: str) -> None:
    file = charts.svg_file(drawn(name))
    root = ET.fromstring(file)
    assert root[0].tag == "{http://www.w3.org/2000/svg}style"
    rule = re.fullmatch(r"svg\{color:(.+?)\}@media\(prefers-color-scheme:dark\)\{svg\{color:(.+?)\}\}", root[0].text)
    dark, light = (sum(bytes.fromhex(colour[1:])) for colour in rule.groups())
    assert rule[1] == charts.INK and dark < 200 < 600 < light
    root.remove(root[0])
    assert [e.attrib for e in root.iter()] == [e.attrib for e in elements(drawn(name))]


def test_two_drawings_of_one_page_share_no_name() -> None:
    ids = [{e.attrib["id"] for e in elements(charts.svg(every("weight"))) if "id" in e.attrib} for _ in range(2)]
    assert all(ids) and ids[0].isdisjoint(ids[1])


def test_each_thing_has_its_marks_in_words() -> None:
    told = [f"{name}: lost 0.1235, -0.3 to 0.4568 points" for name in TARGETS]
    rest = {"nothing lost": 1, "budget 1 point": 1}
    assert labels(drawn("accuracy")) == dict.fromkeys(told, 2) | rest
    assert labels(drawn("weight")) == {f"{name}: 1.2 MB": 1 for name in TARGETS}
    limits = {f"fp16 ends at {sign}65504": 1 for sign in ("", "-")}
    assert labels(drawn("ranges")) == {"conv: -1.5 to 3": 1, "relu: 0 to 7e+04": 1} | limits
    points = {f"{name}: p{share} {k * share / 10:.4g} ms": 1 for k, name in enumerate(TARGETS, 1) for share in (50, 90)}
    came = labels(drawn("latency"))
    assert {label: n for label, n in came.items() if ": p" in label} == points
    for chart in ("latency", "drift"):
        assert {name: labels(drawn(chart))[name] for name in TARGETS} == dict.fromkeys(TARGETS, 1)
    bars = {p["target"]: (p["lower"] is not None) + (p["ms_lower"] is not None) for p in POINTS}
    dots = {f"said of {p['target']}": bars[p["target"]] + (2 if p["front"] else 1) for p in POINTS}
    assert {label: n for label, n in labels(drawn("tradeoff")).items() if label.startswith("said")} == dots
    assert {label: n // 3 for label, n in labels(drawn("beside")).items() if label.startswith("said")} == dots
    assert labels(drawn("learning"))[KEPT] == labels(drawn("spread"))[KEPT] == 2
    assert labels(drawn("learning")) == {KEPT: 2, "train": 1, "select": 1}
    assert labels(drawn("spread")) == {KEPT: 2}


def test_what_is_told_beside_the_marks() -> None:
    assert {*TARGETS, "accuracy lost, points", "budget 1 point"} <= set(texts(drawn("accuracy")))
    assert Counter(texts(drawn("weight"))) == Counter([*TARGETS, *["1.2 MB"] * len(TARGETS)])
    assert {*TARGETS, "requests answered within, %"} <= set(texts(drawn("latency")))
    assert "activations of network, first to last" in texts(drawn("ranges"))
    assert {"train", "select", "loss (log)"} <= set(texts(drawn("learning")))
    assert {"weights", "biases"} <= set(texts(drawn("spread")))
    assert {"digits", "lenet", "accuracy, % (log of what is missing to 100)", "trained", "fp32", "fp16", "int8"} <= set(
        texts(drawn("tradeoff"))
    )
    together = Counter(texts(drawn("beside")))
    assert together["fp32"] == 1 and together["lenet"] == 3 and together["one"] == together["two"] == 1


@pytest.mark.parametrize("odd", ODD)
def test_any_name_stands_as_it_is(odd: str) -> None:
    rows = [odd, "plain-fp32"]
    for chart in (
        charts.accuracy(drops(rows), 1.0, "accuracy", "points"),
        charts.latency(samples(rows), earned(rows)),
        charts.weight([{"target": name, "bytes": 5} for name in rows]),
        charts.ranges(odd, {odd: [-1.0, 2.0]}),
        charts.drift({name: {"step": [1, 9], "error": [0.1, 0.2]} for name in rows}),
        charts.tradeoff(panel([p | {"recipe": odd, "said": odd} for p in POINTS], odd)),
    ):
        svg = charts.svg(chart)
        assert any(odd in label for label in labels(svg))
        shown = [text for text in texts(svg) if text[:12] == odd[:12] or f"of {odd[:12]}" in text]
        assert shown and all(text in odd or text[:-1] in odd or odd in text for text in shown)  # whole, or cut by "…"
        assert texts(svg) == texts(vl_convert.vegalite_to_svg(charts._styled(chart)))
        assert ET.fromstring(svg).get("width") == "400"
        ET.fromstring(charts.svg_file(svg))
        assert image(charts.png(svg)).width == 800


def test_long_names_leave_the_plot_its_place() -> None:
    long = charts.svg(charts.tradeoff(panel([p | {"recipe": "r" * 100} for p in POINTS], "t" * 300)))
    for key, at in places(drawn("tradeoff")).items():
        if key[0].startswith("said"):
            assert places(long)[key] == pytest.approx(at, abs=1)


@pytest.mark.parametrize("n", [1, 60])
def test_one_row_and_sixty_all_carry_their_names(n: int) -> None:
    names = [f"target{i}-int8" for i in range(n)]
    for chart in (
        charts.accuracy(drops(names), 1.0, "accuracy", "points"),
        charts.latency(samples(names), earned(names)),
        charts.weight([{"target": name, "bytes": 5e6 * i} for i, name in enumerate(names)]),
    ):
        came = Counter(texts(charts.svg(chart)))
        assert all(came[name] == 1 for name in names)
    assert len(labels(charts.svg(charts.ranges("g", {name: [-i, i] for i, name in enumerate(names)})))) == n


@pytest.mark.parametrize(
    ("rows", "budget"),
    [
        ([(0.5, -0.25, 1.75), (-0.1, -0.4, 0.2)], 1.0),
        ([(40.0, 30.0, 50.0), (0.0, -0.001, 0.001)], 0.02),
        ([(-3.0, -5.0, -2.0), (0.0, 0.0, 0.0)], 0.5),
    ],
)
def test_bounds_stand_where_they_are_within_the_budget_or_beyond_it(rows: list, budget: float) -> None:
    named = [dict(zip(("target", "drop", "lower", "upper"), (f"t{i}", *row))) for i, row in enumerate(rows)]
    svg = charts.svg(charts.accuracy(named, budget, "entropy", "bits"))
    at = {label: x for (label, kind), (x, _) in places(svg).items() if kind == "rule mark"}
    zero, limit = at["nothing lost"], at[f"budget {matrix.amount(budget, 'bits')}"]
    scale = (limit - zero) / budget
    ends = {e.get("aria-label"): e.get("x2") for e in elements(svg) if e.get("aria-roledescription") == "rule mark"}
    for row in named:
        said = next(label for label in at if label.startswith(f"{row['target']}: "))
        dot = places(svg)[said, "point"][0]
        came = [at[said], dot, at[said] + float(ends[said])]
        error = 0.2 + 0.2 * max(map(abs, (row["drop"], row["lower"], row["upper"]))) / budget
        assert came == pytest.approx([zero + scale * row[key] for key in ("lower", "drop", "upper")], abs=error)
        assert all(0 <= x <= charts.WIDTH for x in came)


@pytest.mark.parametrize("higher", [True, False])
def test_points_stand_at_score_and_latency_better_above(higher: bool) -> None:
    at = places(charts.svg(charts.tradeoff(panel(POINTS, higher=higher))))
    x, y = zip(*(at[p["said"], "point"] for p in POINTS))
    scores = [-math.log1p((100 - p["score"]) / charts.LEAST_ERROR) if higher else p["score"] for p in POINTS]
    for pixels, values in ((x, [math.log(p["ms"]) for p in POINTS]), (y, scores)):
        line = np.polyfit(values, pixels, 1)
        np.testing.assert_allclose(np.polyval(line, values), pixels, atol=0.2)
        assert line[0] > 0 if pixels is x else (line[0] < 0) == higher


def test_each_host_has_its_shape_and_each_precision_its_colour_on_all_of_them() -> None:
    away = [point("a-fp32@b-int8", 97.5, 3.0, host="b-int8"), point("a-fp16@c", 97.5, 4.0, host="c")]
    svg = charts.svg(charts.tradeoff(panel(POINTS + away)))
    assert {"here", "b-int8", "c"} <= set(texts(svg)) and not {"here"} & set(texts(drawn("tradeoff")))
    assert {e.attrib[key] for e in elements(svg) for key in ("fill", "stroke") if key in e.attrib} <= PALETTE
    dots = {}
    for e in elements(svg):
        if e.get("aria-roledescription") == "point" and e.get("fill") not in (None, "transparent"):
            dots[e.attrib["aria-label"]] = (re.sub(r"[-\d.,\s]+", " ", e.attrib["d"]), e.attrib["fill"])
    shapes = {name: dots[f"said of {name}"][0] for name in ("a-fp32", "a-int8", "a-fp32@b-int8", "a-fp16@c")}
    assert shapes["a-fp32"] == shapes["a-int8"] and len(set(shapes.values())) == 3
    colours = [dots[f"said of {name}"][1] for name in ("a-fp32", "a-fp32@b-int8", "a-fp16@c", "b-fp16")]
    assert colours == [charts.COLOURS[of] for of in ("fp32", "fp32", "fp16", "fp16")]


@pytest.mark.parametrize("n", [1, 12])
def test_the_host_of_a_target_stands_below_it_whole_and_every_target_is_named(n: int) -> None:
    names = [f"onnxruntime-cuda-int8@amd-epyc-{i}-cores-nvidia-h200" for i in range(n)] + ["plain-fp32"]
    for chart in (
        charts.accuracy(drops(names), 1.0, "accuracy", "points"),
        charts.weight([{"target": name, "bytes": 5e6} for name in names]),
    ):
        svg = charts.svg(chart)
        assert set(names) <= set(texts(svg))
        lines = [list(e) for e in elements(svg) if e.tag.endswith("}text") and "".join(e.itertext()) in names[:-1]]
        assert all([line.text.endswith("@") for line in of] == [True, False] for of in lines) and len(lines) == n
        fills = {
            e.get("fill") or e.get("stroke") for e in elements(svg) if (e.get("aria-label") or "").startswith(names[0])
        }
        assert charts.COLOURS["int8"] in fills


def test_a_bound_of_nothing_is_a_bound_and_none_is_not() -> None:
    """An upper bar ends at a score of 0 where a network may be wrong throughout."""

    def bars(**changes: Any) -> list[ET.Element]:
        points = [point("a-fp32", 1.0, 1.0, **changes)]
        marks = elements(charts.svg(charts.tradeoff(panel(points))))
        return [e for e in marks if e.get("aria-roledescription") == "rule mark" and not float(e.get("x2", 0))]

    assert len(bars(lower=0.0, upper=2.0)) == len(bars(lower=-1.0, upper=0.0)) == 1
    assert bars(lower=None, upper=None) == []


@pytest.mark.parametrize(
    ("of", "limits"),
    [([-3.0, 5.0], 0), ([0.0, 0.0], 0), ([-66.0, 1.0], 2), ([0.0, 65504.0], 2), ([-1e6, 0.1], 2), ([0.0, 3e38], 2)],
)
def test_the_ends_of_fp16_are_drawn_where_values_come_near(of: list[float], limits: int) -> None:
    svg = charts.svg(charts.ranges("g", {"a": of, "b": [0.0, 1.0]}))
    at = {label: y for (label, _), (_, y) in places(svg).items() if label.startswith("fp16")}
    assert len(at) == len(set(at.values())) == limits and len(labels(svg)) == 2 + limits
    height = int(ET.fromstring(svg).attrib["height"])
    assert all(0 <= y <= height for y in at.values())
    numbers = [text for text in texts(svg) if re.fullmatch(r"[−\d.].*", text)]
    assert all(len(text) <= 6 for text in numbers) and "" not in numbers


def heights(svg: str, split: str) -> list[float]:
    line = next(e for e in elements(svg) if e.get("aria-label") == split)
    return [float(y) for _, y in re.findall(r"[ML]([\d.]+),([\d.-]+)", line.attrib["d"])]


def test_a_loss_of_zero_costs_the_log_axis_nothing() -> None:
    svg = charts.svg(charts.learning(history([1.0, 0.1, 0.0]), "accuracy", "%"))
    first, second, third = heights(svg, "select")
    assert first < second < third
    assert "1e-12" in texts(svg)


@pytest.mark.parametrize(
    "chart",
    [
        lambda: charts.latency({"a-fp32": [1e-3] * 100}, {"a-fp32": {"p50_ms": 1.0}}),
        lambda: charts.accuracy([dict.fromkeys(("drop", "lower", "upper"), 0.0) | {"target": "a"}], 1.0, "m", "bits"),
        lambda: charts.weight([{"target": "a", "bytes": 0}, {"target": "b", "bytes": 0}]),
        lambda: charts.drift({"a": {"step": [1, 2], "error": [0.0, 0.0]}}),
        lambda: charts.learning(history([0.5] * 3), "accuracy", "%"),
        lambda: charts.learning(history([0.5]), "accuracy", "%"),
        lambda: charts.spread([dict.fromkeys(spreads(1)[0], 0.0)], history([0.5])),
        lambda: charts.tradeoff(panel([point("a-fp32", 0.0, 1.0), point("b-fp32", 0.0, 1.0)])),
    ],
)
def test_values_that_are_all_equal_or_nothing_are_drawn(chart: Any) -> None:
    svg = charts.svg(chart())
    assert labels(svg)
    assert not re.search("NaN|Infinity|undefined|null", svg)
    assert len(image(charts.png(svg)).convert("RGB").getcolors(1 << 20)) > 2


@pytest.mark.parametrize(
    ("of", "told"),
    [(0, "0.0 kB"), (49, "0.0 kB"), (1234, "1.2 kB"), (999_949, "999.9 kB"), (1e6, "1.0 MB"), (2.55e9, "2.5 GB")],
)
def test_a_size_has_the_unit_that_suits_it(of: float, told: str) -> None:
    assert charts.size(of) == told


@pytest.mark.parametrize("higher", [True, False])
@pytest.mark.parametrize("metric", ["accuracy, %", "loss, nats"])
def test_names_of_equal_scores_stand_a_line_apart_and_the_best_one_at_its_own(higher: bool, metric: str) -> None:
    points = [point("trained", 98.0 + at, 2.0, recipe=f"n{i}", named=True) for i, at in enumerate((0, 0, 0.01, -1))]
    drawn = elements(charts.svg(charts.tradeoff(panel(points, higher=higher) | {"metric": metric})))
    at = {
        "".join(e.itertext()): float(re.search(r"translate\([-\d.]+,([-\d.]+)\)", e.attrib["transform"])[1])
        for e in drawn
        if e.tag.endswith("}text") and "".join(e.itertext()) in ("n0", "n1", "n2", "n3")
    }
    assert sorted(at) == ["n0", "n1", "n2", "n3"]
    rows = sorted(at.values())
    assert np.diff(rows).min() > 12
    assert min(at, key=at.__getitem__) == ("n2" if higher else "n3")
