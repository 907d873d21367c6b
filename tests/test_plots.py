"""What `dvc plots` draws: counted a second time, drawn without a browser, and in one."""

import csv
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vl_convert
import yaml
from conftest import ROOT
from copied import copy_project
from dvc_render import VegaRenderer
from hypothesis import given
from hypothesis import strategies as st

from deploy.contract import pack_arrays
from deploy.files import write_bytes, write_json
from deploy.measurement import FORMAT
from deploy.tasks import classification, tagging
from pipeline import plots
from pipeline.plots import NOTHING, confusion, latency, offline_page, timed, trained_on, write_plots
from pipeline.recipe import Graph, Project, load_project

DRAWN = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]


def a_project(folder: Path, task: str, measurement: dict, test: dict[str, np.ndarray], classes: list) -> Project:
    """One recipe ``r`` on data ``d``, of which there is what plots are made of."""
    params = load_project(ROOT / "params.yaml")
    recipe = dataclasses.replace(params.recipe("softmax_digits"), data="d", task=task)
    project = dataclasses.replace(params, root=ROOT, build=folder, recipes={"r": recipe})
    write_json(folder / "measure" / "r.json", measurement)
    write_bytes(folder / "prepare" / "d" / "test.npz", pack_arrays(test))
    write_json(folder / "prepare" / "d" / "data.json", {"classes": classes})
    return project


def a_measurement(trained: list, deployed: list, trained_s: list[float], deployed_s: list[float]) -> dict[str, Any]:
    judged = {"statistics": [], "error_max": 0.0}
    answered = {"finite": True, "size_bytes": 1, "graph_sha256": "0", "alone_s": None}
    row = {"precision": "fp32", "device": "cpu", "reason": ""}
    latency_s = {"cpu": {"latency_s": trained_s, "alone_s": None}} if trained_s else {}
    return {
        "format": FORMAT,
        "task": "classification",
        "contract_sha256": "0",
        "host": {"name": "a host"},
        "date": "2026-11-21",
        "trained": judged | {"predicted": trained, "rounding": 0.0, "exact": "float64", "latency": latency_s},
        "targets": {
            "onnx": row | judged | answered | {"predicted": deployed, "latency_s": deployed_s},
            "failed": row | {"failed": "why"},
            "absent": row | {"reason": "no GPU"},
        },
    }


@pytest.fixture
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page takes a second to make, and most tests are not about it."""
    monkeypatch.setattr(plots, "offline_page", str)


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@given(data=st.data(), classes=st.integers(1, 5))
def test_a_matrix_is_a_second_count_of_the_answers(data: st.DataObject, classes: int) -> None:
    truth = np.array(data.draw(st.lists(st.integers(0, classes - 1), min_size=1)))
    said = np.array(data.draw(st.lists(st.integers(-1, classes - 1), min_size=len(truth), max_size=len(truth))))
    names = [f"c{i}" for i in range(classes)]
    rows = confusion({"a": said, "b": truth}, truth, names)
    counted = Counter(("a", f"c{t}", f"c{s}" if s >= 0 else NOTHING) for t, s in zip(truth, said))
    counted += Counter(("b", f"c{t}", f"c{t}") for t in truth)
    assert {row[:3]: row[3] for row in rows if row[3]} == dict(counted)
    assert len({row[:3] for row in rows}) == len(rows)
    assert [row[1:3] for row in rows[:classes]] == [(name, name) for name in names]
    assert all(count or actual == predicted for _, actual, predicted, count in rows)


def test_the_diagonal_is_the_accuracy_that_is_judged(tmp_path: Path, no_page: None) -> None:
    rng = np.random.default_rng(0)
    truth, logits = rng.integers(0, 4, 200), rng.normal(size=(2, 200, 4))
    logits[1, 7] = np.nan
    said = [classification.decode({"logits": each}) for each in logits]
    project = a_project(tmp_path, "classification", a_measurement(*said, [1.0], [1.0]), {"label": truth}, list("abcd"))
    write_plots(project)
    rows = read(tmp_path / "plots" / "confusion" / "r.csv")
    for network, each in zip(("trained", "onnx"), logits):
        right = sum(int(r["count"]) for r in rows if r["network"] == network and r["actual"] == r["predicted"])
        judged = classification.score(classification.observe({"logits": each}, {"label": truth}))
        assert 100 * right / 200 == pytest.approx(judged)
    assert {r["network"] for r in rows} == {"trained", "onnx"}
    assert [r["count"] for r in rows if r["predicted"] == NOTHING] == ["1"]


def test_a_taggers_matrix_has_the_counts_that_its_f1_is_of(tmp_path: Path, no_page: None) -> None:
    rng = np.random.default_rng(0)
    text = np.array([list("dé = 1 # ü€".encode().ljust(24, b"\0")), list(b"x\n".ljust(24, b"\0"))], np.uint8)
    token = rng.integers(0, 3, text.shape) * (text != 0)
    logits = rng.normal(size=(*text.shape, 3))
    logits[0, 3] = np.inf
    logits[text == 0] = 0
    examples = {"text": text, "token": token.astype(np.uint8)}
    said = tagging.decode({"logits": logits})
    project = a_project(tmp_path, "tagging", a_measurement(said, said, [1.0], [1.0]), examples, ["p", "q", "r"])
    write_plots(project)
    rows = [row for row in read(tmp_path / "plots" / "confusion" / "r.csv") if row["network"] == "onnx"]
    right, wrongly_said, missed = tagging.observe({"logits": logits}, examples).sum(axis=0).reshape(3, 3).astype(int)
    assert sum(int(row["count"]) for row in rows) == len("dé = 1 # ü€" + "x\n")
    for i, name in enumerate("pqr"):
        of = {key: sum(int(r["count"]) for r in rows if r[key] == name) for key in ("actual", "predicted")}
        (both,) = (int(r["count"]) for r in rows if r["actual"] == r["predicted"] == name)
        assert (both, of["predicted"] - both, of["actual"] - both) == (right[i], wrongly_said[i], missed[i])


@given(st.lists(st.integers(1, 9999), min_size=1, max_size=200))
def test_a_share_of_requests_took_no_longer_and_no_smaller_time_has_it(microseconds: list[int]) -> None:
    rows = latency({"t": [1e-6 * us for us in microseconds]})
    assert {network for network, *_ in rows} == {"t"}
    for _, share, ms in rows:
        assert sum(us <= round(1e3 * ms) for us in microseconds) >= share * len(microseconds) - 1e-9
        below = sum(us < round(1e3 * ms) for us in microseconds)
        assert below < share * len(microseconds) + 1e-9 or below == 0
    assert rows[-1][1:] == (1.0, pytest.approx(1e-3 * max(microseconds)))


def test_what_was_timed_has_one_name_in_the_report_and_in_dvcs_plots() -> None:
    facts = {"latency_s": [1e-3, 2e-3], "alone_s": None}
    measurement = {"trained": {"latency": {"cpu": facts}}, "targets": {"t": facts, "absent": {"reason": "no GPU"}}}
    recipe = load_project(ROOT / "params.yaml").recipe("softmax_digits")
    assert timed(measurement, recipe) == {network: [1e-3, 2e-3] for network in ("trained (PyTorch eager, cpu)", "t")}
    brought = dataclasses.replace(recipe, train=Graph(Path("g.onnx"), None))
    assert trained_on(brought, "cuda") == "trained (the ONNX file, onnxruntime, cuda)"


HOSTILE = ["a,b", '"quoted"', "two\nlines", "</script><script>alert(1)</script>", "ä€", "", "{plot_divs}"]


def test_classes_of_any_name_come_back_and_none_ends_dvcs_script(tmp_path: Path, no_page: None) -> None:
    truth = np.arange(len(HOSTILE))
    said = truth.tolist()
    project = a_project(tmp_path, "classification", a_measurement(said, said, [1.0], [1.0]), {"label": truth}, HOSTILE)
    write_plots(project)
    rows = read(tmp_path / "plots" / "confusion" / "r.csv")
    assert [row["actual"] for row in rows[: len(HOSTILE)]] == [name.replace("<", "‹") for name in HOSTILE]
    assert "<" not in (tmp_path / "plots" / "confusion" / "r.csv").read_text()


def test_what_was_not_measured_has_no_plot_and_what_is_stale_goes(tmp_path: Path, no_page: None) -> None:
    project = a_project(tmp_path, "classification", a_measurement([0], [0], [1], [1]), {"label": np.array([0])}, ["a"])
    write_plots(project)
    files = sorted(str(path.relative_to(tmp_path / "plots")) for path in (tmp_path / "plots").rglob("*.*"))
    assert files == ["confusion/r.csv", "latency/r.csv", "offline.html"]
    untimed = a_measurement([0], [0], [], [])
    del untimed["targets"]["onnx"]
    write_json(tmp_path / "measure" / "r.json", untimed)
    write_plots(project)
    assert not list((tmp_path / "plots" / "latency").iterdir())
    many = [str(i) for i in range(plots.CLASSES + 1)]
    write_json(tmp_path / "prepare" / "d" / "data.json", {"classes": many})
    write_plots(project)
    assert not list((tmp_path / "plots" / "confusion").iterdir())


def test_a_task_whose_answers_are_no_classes_has_no_matrix(tmp_path: Path, no_page: None) -> None:
    said = ["2026-11-21"]
    test = {"source": np.zeros((1, 3), np.uint8), "target": np.zeros((1, 3), np.uint8)}
    write_plots(a_project(tmp_path, "translation", a_measurement(said, said, [1.0], [1.0]), test, []))
    assert not (tmp_path / "plots" / "confusion").exists()


def test_a_damaged_measurement_is_told_and_the_other_recipes_are_drawn(
    tmp_path: Path, no_page: None, capsys: pytest.CaptureFixture
) -> None:
    measurement = a_measurement([0], [0], [1.0], [1.0])
    project = a_project(tmp_path, "classification", measurement, {"label": np.array([0])}, ["a"])
    project = dataclasses.replace(project, recipes={"cut": project.recipe("r"), "r": project.recipe("r")})
    (tmp_path / "measure" / "cut.json").write_text('{"trained": ')
    write_plots(project)
    assert re.match(r"no plots of cut: .*cut\.json: damaged, not JSON", capsys.readouterr().out)
    assert [path.name for path in (tmp_path / "plots").rglob("*.csv")] == ["r.csv", "r.csv"]


class Page(HTMLParser):
    """Every address that a browser would fetch by itself, and how many scripts open and close."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str | None] = []
        self.scripts = [0, 0]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts[0] += tag == "script"
        self.fetched += [value for key, value in attrs if key in ("src", "href", "data")]

    def handle_endtag(self, tag: str) -> None:
        self.scripts[1] += tag == "script"


def test_the_page_is_a_template_for_dvc_that_fetches_nothing() -> None:
    html = offline_page()
    page = Page()
    page.feed(html)
    assert page.fetched == [] and page.scripts == [1, 1]
    assert html.count("{plot_divs}") == 1 and "{scripts}" not in html and "{refresh_tag}" not in html
    assert len(html) < 1_500_000


def drawn(kind: str, rows: list[dict[str, Any]]) -> str:
    """The SVG of the plot that dvc.yaml declares for ``build/.../<kind>``, its template filled in by DVC's own code."""
    (facts,) = (facts for plot in DRAWN for path, facts in plot.items() if path.endswith(f"/{kind}"))
    properties = facts | {"template_dir": str(ROOT / ".dvc" / "plots"), "title": kind}
    if isinstance(facts["y"], list):
        properties["anchors_y_definitions"] = [{"filename": "f", "field": y} for y in facts["y"]]
        rows = [row | {"field": y, "y": row[y]} for y in facts["y"] for row in rows]
        properties["y"] = "y"
    renderer = VegaRenderer([row | {"rev": "workspace"} for row in rows], kind, **properties)
    return str(vl_convert.vegalite_to_svg(renderer.get_filled_template()))


def test_a_matrix_is_drawn_in_the_order_of_its_classes_with_its_counts() -> None:
    truth, said = np.array([0] * 40 + [1] * 41 + [2] * 42), np.array([0] * 40 + [1] * 41 + [0] * 12 + [2] * 30)
    rows = confusion({"trained": truth, "onnx": said}, truth, ["10", "9", "b"])
    svg = drawn("confusion", [dict(zip(("network", "actual", "predicted", "count"), map(str, row))) for row in rows])
    texts = re.findall(r"<text[^>]*>([^<]+)</text>", svg)
    assert sorted(text for text in texts if re.fullmatch(r"[1-4]\d", text) and text != "10") == sorted(
        ["40", "41", "42", "40", "41", "12", "30"]
    )
    assert [text for text in texts if text in ("10", "9", "b")] == [
        "10",
        "9",
        "b",
    ] * 3  # two axes below, one at the left
    assert [text for text in texts if text.startswith("workspace")] == ["workspace: trained", "workspace: onnx"]


def test_latency_is_a_curve_a_network() -> None:
    names = ("trained (PyTorch eager, cpu)", "a", "b")
    rows = latency({name: [0.001, 0.002, 0.004] for name in names})
    svg = drawn("latency", [dict(zip(("network", "share", "milliseconds"), map(str, row))) for row in rows])
    assert len(re.findall(r'aria-roledescription="line mark"', svg)) == 3
    assert [name for name in names if f">{name}</text>" in svg] == [*names]


def test_the_spread_is_two_bands_and_a_line_for_weights_and_for_biases() -> None:
    ends = ("min", "p25", "p50", "p75", "max")
    rows = [
        {"epoch": str(epoch)}
        | {f"{kind}_{end}": str(i - 2) for kind in ("weights", "biases") for i, end in enumerate(ends)}
        for epoch in range(3)
    ]
    svg = drawn("spread", rows)
    assert len(re.findall(r'aria-roledescription="area mark"', svg)) == 4
    assert len(re.findall(r'aria-roledescription="line mark"', svg)) == 2
    assert svg.index(">weights<") < svg.index(">biases<")


def test_dvc_shows_every_plot_with_no_network(tmp_path: Path) -> None:
    """`dvc plots show` as the README has it; a browser to which no name resolves draws each plot."""
    copy_project(tmp_path)
    said = [0, 1, 1]
    measurement = a_measurement(said, said, [0.001, 0.002], [0.003, 0.004])
    project = a_project(tmp_path / "build", "classification", measurement, {"label": np.array([0, 1, 0])}, HOSTILE)
    write_plots(project)
    for kind in ("loss", "spread"):
        (facts,) = (facts for plot in DRAWN for path, facts in plot.items() if path.endswith(f"/{kind}"))
        ends = [y.replace("p50", end) for y in facts["y"] for end in ("min", "p25", "p50", "p75", "max")]
        head = ["epoch", *dict.fromkeys(ends)]
        lines = [",".join(head), *(",".join([str(epoch)] + ["1"] * (len(head) - 1)) for epoch in range(3))]
        write_bytes(tmp_path / "build" / "history" / kind / "r.csv", "\n".join(lines).encode())
    recipe = {"data": "d", "task": "classification", "network": {"file": "linear"}}
    params = {"root": ".", "build": "build", "datasets": [], "own": {}, "engines": {}, "recipes": {"r": recipe}}
    (tmp_path / "params.yaml").write_text(json.dumps(params))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    words = ["dvc", "plots", "show", "--html-template", "build/plots/offline.html"]
    done = subprocess.run(
        words, cwd=tmp_path, capture_output=True, text=True, timeout=60, env=os.environ | {"PATH": path}
    )
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    written = tmp_path / "dvc_plots" / "index.html"
    html = written.read_text()
    page = Page()
    page.feed(html)
    assert page.fetched == [] and page.scripts == [5, 5]
    assert "jsdelivr" not in html
    if not (browser := shutil.which("chromium")):
        pytest.skip("no chromium here to draw the page")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'browser'}"]
    done = subprocess.run(
        [browser, *flags, "--virtual-time-budget=10000", "--dump-dom", written.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert len(re.findall(r'<svg[^>]* class="marks"', done.stdout)) == 4, done.stderr
    assert ">‹/script&gt;‹script&gt;alert(1)‹/script&gt;</text>" in done.stdout
