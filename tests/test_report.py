import dataclasses
import json
import os
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import ROOT
from judged import BOARD, GPU_HOST, lose, memoised, returned
from judged import shown as make_shown

from deploy.errors import Refused
from deploy.files import read_json, write_json
from deploy.measurement import FORMAT
from pipeline import verify as verify_stage
from pipeline.absent import why
from pipeline.gate import gate
from pipeline.judge import ROW, judge_unmeasured
from pipeline.recipe import Project
from pipeline.report import broken, interval, lost, named, prose, report
from pipeline.results import every_number, pages, picture, with_tables
from pipeline.section import _against_fp32, _kept_float, _made, _notes, _on_device
from pipeline.verdicts import FAIL, INCONCLUSIVE, NOT_MEASURED, PASS
from pipeline.verify import verify


@pytest.fixture(scope="module", autouse=True)
def drawn_once() -> Iterator[None]:
    """These tests write the report some sixty times, and nearly all of its charts are the same each time."""
    with memoised():
        yield


@pytest.fixture(scope="module")
def shown(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_shown(project, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def away(shown: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """As ``shown``, with what came back from a host with a GPU and from a board."""
    build = tmp_path_factory.mktemp("away")
    shutil.copytree(shown.build, build, symlinks=True, dirs_exist_ok=True)
    recipes = {name: shown.recipe(name) for name in ("passes", "loses")}
    made = dataclasses.replace(shown, root=build, build=build, recipes=recipes)
    for name, gpu in (("passes", True), ("passes", False), ("loses", True)):
        returned(made, name, gpu)
    verify(made)
    report(made)
    return made


class Tags(HTMLParser):
    """Tags that open and close in order, and every address that a browser would fetch."""

    VOID = ("meta", "img", "br", "wbr", "input", "path", "rect", "line", "circle")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.fetched += [value for key, value in attrs if key in ("src", "data") or (key == "href" and tag == "link")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag, (tag, self.getpos())


def whole(html: str) -> None:
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    assert all(address.startswith("data:image/png;base64,") for address in tags.fetched)
    assert "url(http" not in html and "@import" not in html


def test_the_page_is_one_whole_file(shown: Project) -> None:
    html = (shown.build / "report.html").read_text()
    whole(html)
    assert len(html) < 3_000_000


def test_every_row_stands_there_with_its_verdict_and_its_reason(shown: Project) -> None:
    html, text = ((shown.build / f"report.{kind}").read_text() for kind in ("html", "md"))
    verdicts = read_json(shown.build / "verdicts.json")
    words = [row["verdict"] for recipe in verdicts.values() for row in recipe["targets"].values()]
    assert {PASS, FAIL, INCONCLUSIVE, NOT_MEASURED} == set(words)
    for recipe in verdicts.values():
        for target, row in recipe["targets"].items():
            assert target in html
            for reason in (cause["reason"] for cause in row["causes"] if cause["cause"] == "absent"):
                assert str(prose(why(reason))) in html and why(reason) in text  # of a row that fails too


def test_what_is_not_proved_is_told_in_a_paragraph_worst_first(shown: Project) -> None:
    html, text = ((shown.build / f"report.{kind}").read_text() for kind in ("html", "md"))
    at = [
        html.index(part)
        for part in ('id="why"', "loses</a> on onnxruntime-cpu-int8", "loses</a> on onnxruntime-cpu-fp16")
    ]
    assert at == sorted(at)
    assert (
        "**loses on onnxruntime-cpu-int8: FAIL.**" in text
        and "**loses on onnxruntime-cpu-fp16: INCONCLUSIVE.**" in text
    )
    assert "60 right answers became wrong" in text and "6 right answers became wrong" in text


def test_flips_are_shown_as_the_items_themselves(shown: Project) -> None:
    html = (shown.build / "report.html").read_text()
    section = html[html.index('id="recipe-loses"') : html.index('id="recipe-untrained"')]
    assert "Right before, wrong when deployed: 60 (24 shown)" in section
    item = section[section.index("Right before") :].split("<li>")[1]
    assert 'src="data:image/png' in item and "trained: <strong>" in item and "onnxruntime-cpu-int8: <strong>" in item


def test_every_board_and_precision_has_its_word(shown: Project) -> None:
    html = (shown.build / "report.html").read_text()
    table = html[html.index('<table class="boards">') : html.index("</table>", html.index('<table class="boards">'))]
    devices = read_json(shown.build / "preflight" / "passes.json")
    words = re.findall(r'class="board \w+">(fp32|fp16|int8) (ok|refused|restricted|unknown|absent)<', table)
    assert len(words) == len(shown.recipes) * len(devices) * 3
    assert "Install JetPack 6.1 or newer." in html  # of boards that are too old


def test_charts_are_files_too(shown: Project) -> None:
    names = {path.name for path in (shown.build / "charts").iterdir()}
    of = {f"{name}-{chart}" for name in ("passes", "loses", "untrained") for chart in ("accuracy", "latency")}
    assert names == {f"{name}.{kind}" for name in of | {"tradeoff"} for kind in ("svg", "png")}


def test_the_chain_of_hashes_is_told(shown: Project) -> None:
    html = (shown.build / "report.html").read_text()
    contract = read_json(shown.build / "bundle" / "passes" / "contract.json")
    for part in (
        contract["data"]["sha256"],
        contract["weights"]["sha256"],
        contract["files"]["graphs/fp32/network.onnx"]["sha256"],
    ):
        assert part in html


def test_a_cause_is_told_of_those_that_it_is_true_of(mine: Project) -> None:
    """Of an untrained recipe whose fp32 also loses, the others did not lose."""
    path = mine.build / "measure" / "passes.json"
    measurement = read_json(path)
    lose(measurement, "onnxruntime-cpu-fp32", 60)
    write_json(path, measurement)
    untrained = dataclasses.replace(mine, recipes={"passes": dataclasses.replace(mine.recipe("passes"), floor=99.99)})
    verify(untrained)
    report(untrained)
    told = (mine.build / "report.md").read_text()
    (one,) = re.findall(r"\*\*passes on onnxruntime-cpu-fp32: FAIL\.\*\* (.*)", told)
    (rest,) = re.findall(r"\*\*passes on onnxruntime-cpu-fp16, .*: FAIL\.\*\* (.*)", told)
    assert "60 right answers" in one or "points worse" in one
    assert "points worse" not in rest and "deployed copy may be perfect" in rest
    assert "no NVIDIA GPU that works on this host" in told  # they fail, and were not measured either
    assert "No: 18 of 18 deployments fail (passes on 18 targets); 0 of 18" in told and "; 15 were not measured." in told


def test_a_measurement_of_another_bundle_shows_nothing_of_this_one(mine: Project) -> None:
    contract = mine.build / "bundle" / "passes" / "contract.json"
    contract.write_text(contract.read_text() + "\n")
    verify(mine)
    report(mine)
    html = (mine.build / "report.html").read_text()
    assert "Not shown: the measurement. It is of another bundle than this one." in html
    assert "The trained network reaches" not in html and "when deployed" not in html


@pytest.mark.parametrize("part", ["host.json", "prepare/digits/data.json"])
def test_what_lacks_a_word_costs_a_line(mine: Project, part: str) -> None:
    facts = read_json(mine.build / part)
    for key in facts:
        write_json(mine.build / part, {other: value for other, value in facts.items() if other != key})
        report(mine)
        whole((mine.build / "report.html").read_text())


def test_an_odd_measurement_costs_its_own_recipe_alone(mine: Project) -> None:
    write_json(mine.build / "measure" / "odd.json", read_json(mine.build / "measure" / "passes.json"))
    for folder in ("bundle", "quantize", "engines"):
        (mine.build / folder / "odd").symlink_to(mine.build / folder / "passes")
    both = dataclasses.replace(mine, recipes={name: mine.recipe("passes") for name in ("passes", "odd")})
    path = mine.build / "measure" / "odd.json"
    for change in ("statistics", "latency_s"):
        measurement = read_json(mine.build / "measure" / "passes.json")
        measurement["targets"]["onnxruntime-cpu-fp32"][change] = measurement["targets"]["onnxruntime-cpu-fp32"][change][
            1:
        ]
        write_json(path, measurement)
        verify(both)
        verdicts = read_json(mine.build / "verdicts.json")
        assert verdicts["passes"]["targets"]["onnxruntime-cpu-fp32"]["verdict"] == PASS
        row = verdicts["odd"]["targets"]["onnxruntime-cpu-fp32"]
        assert row["verdict"] == NOT_MEASURED and "the measurement cannot be judged (ValueError" in row["reason"]


def test_a_recipe_that_failed_halfway_costs_the_others_nothing(shown: Project) -> None:
    verdicts = read_json(shown.build / "verdicts.json")
    assert {row["verdict"] for row in verdicts["halfway"]["targets"].values()} == {NOT_MEASURED}
    assert "`dvc repro measure@halfway`" in verdicts["halfway"]["targets"]["onnxruntime-cpu-fp32"]["reason"]
    html = (shown.build / "report.html").read_text()
    section = html[html.index('id="recipe-halfway"') :]
    assert "Not shown: the measurement." in section and "this recipe was not measured" in section
    assert "Activation ranges" in section  # of what there is


@pytest.fixture
def mine(shown: Project, tmp_path: Path) -> Project:
    """A copy to break."""
    shutil.copytree(shown.build, tmp_path / "build", dirs_exist_ok=True)  # links become what they lead to
    return dataclasses.replace(shown, build=tmp_path / "build", recipes={"passes": shown.recipe("passes")})


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("verdicts.json", "the verdicts"),
        ("host.json", "the host"),
        ("measure/passes.json", "the measurement"),
        ("quantize/passes/quantize.json", "quantizing"),
        ("quantize/passes/ranges.json", "activation ranges"),
        ("history/loss/passes.csv", "training"),
        ("history/spread/passes.csv", "training"),
        ("prepare/digits/test.npz", "the test items"),
        ("prepare/digits/data.json", "the data set"),
        ("bundle/passes/contract.json", "the hashes"),
        ("engines/passes/build.json", "the hashes"),
        ("preflight/passes.json", "the boards of passes"),
    ],
)
@pytest.mark.parametrize("how", ["missing", "of another kind"])
def test_what_is_broken_costs_a_line(mine: Project, path: str, told: str, how: str) -> None:
    (mine.build / path).unlink()
    if how == "of another kind":
        (mine.build / path).write_text("[1, 2]")
    report(mine)
    html = (mine.build / "report.html").read_text()
    whole(html)
    assert f"Not shown: {told}" in html
    if path != "verdicts.json":
        assert html.count("<figure>") >= 4


@pytest.mark.parametrize("path", ["measure/passes.json", "history/loss/passes.csv", "prepare/digits/test.npz"])
def test_what_is_cut_off_costs_no_more(mine: Project, path: str) -> None:
    os.truncate(mine.build / path, (mine.build / path).stat().st_size // 2)
    report(mine)
    whole((mine.build / "report.html").read_text())


def test_nothing_was_measured_at_all(mine: Project) -> None:
    shutil.rmtree(mine.build / "measure")
    verify(mine)
    report(mine)
    html = (mine.build / "report.html").read_text()
    whole(html)
    assert "Not yet: nothing is proved; 0 of 18 deployments" in html
    assert "was not measured on this host" in html and html.count('<li class="tint NOT') == 3  # how many, why, which


def test_a_measurement_of_an_older_version_is_no_verdict(mine: Project) -> None:
    path = mine.build / "measure" / "passes.json"
    measurement = read_json(path)
    del measurement["format"]
    write_json(path, measurement)
    verify(mine)
    report(mine)
    assert (
        f"measured by an older version of Plumbline (format 1, expected {FORMAT})"
        in (mine.build / "report.html").read_text()
    )


def test_a_recipe_without_a_verdict_is_named(mine: Project) -> None:
    more = dataclasses.replace(mine, recipes=mine.recipes | {"new": mine.recipe("passes")})
    report(more)
    assert "new: no verdict; run <code>dvc repro</code>" in (mine.build / "report.html").read_text()


def test_two_hundred_recipes(mine: Project) -> None:
    """Of a few everything, of the others what is there of a recipe that was never run."""
    known = read_json(mine.build / "verdicts.json")["passes"]
    names = ["passes", *(f"recipe_{i:03}" for i in range(199))]
    never = judge_unmeasured("never run", mine.recipe("passes")) | {"data": "digits"}
    write_json(mine.build / "verdicts.json", dict.fromkeys(names, never) | {"passes": known})
    report(dataclasses.replace(mine, recipes=dict.fromkeys(names, mine.recipe("passes"))))
    html = (mine.build / "report.html").read_text()
    whole(html)
    sections = html.split('<details class="recipe"')[1:]
    assert len(sections) == 200
    assert not any(" open" in section.split(">")[0] for section in sections)  # of so many those with a fault alone


def test_the_interval_of_a_cell_lies_where_the_numbers_say() -> None:
    drawn = interval({"drop": 0.0, "drop_lower95": -1.0, "drop_upper95": 1.0}, 1.0)
    assert drawn == {"from": 0.0, "to": 200 / 2.25, "zero": 100 / 2.25, "budget": 200 / 2.25}
    assert interval({"drop": 9.0, "drop_lower95": 5.0, "drop_upper95": 99.0}, 1.0)["to"] == 100.0
    assert interval({"drop": 9.0, "drop_lower95": None, "drop_upper95": None}, 1.0) is None


def test_a_gain_is_told_as_one_and_a_reading_by_its_class() -> None:
    metric = {"places": 2, "drop_unit": "points"}
    assert lost({"drop": -0.111}, metric) == "gained 0.11 points"
    assert lost({"drop": -0.001}, metric) == lost({"drop": 0.0}, metric) == "lost 0.00 points"
    assert named("F1 of class 1", {"classes": ["a", "b"]}) == "F1 of class b"
    assert named("F1 of class 7", {"classes": ["a", "b"]}) == "F1 of class 7" == named("F1 of class 7", None)


def test_a_name_that_promises_more_than_it_is_has_a_note() -> None:
    row = {"deployed": 1.0, "precision": "int8-cpu", "method": "", "changed": 0, "n": 900}
    rows = {
        "onnxruntime-cpu-int8": row,
        "onnxruntime-cpu-fp16": row | {"precision": "fp16"},
        "onnxruntime-cpu-fp16@a-host": row | {"precision": "fp16"},
        "onnxruntime-cuda-fp16@a-cpu-host": row | {"precision": "fp16"},
        "a-fp32": row | {"precision": "fp32"},
    }
    rows |= {"b-fp32": row | {"precision": "fp32", "method": "Clopper-Pearson on", "changed": 3}}
    quantized = {"int8-cpu": {"network": {"float32": ["node_GRU_1", "node_GRU_2"]}}}
    assert _notes({"targets": rows}, quantized) == {
        "onnxruntime-cpu-int8": "2 layers stay in float32",
        "onnxruntime-cpu-fp16": "fp16 weights, computed in fp32",
        "onnxruntime-cpu-fp16@a-host": "fp16 weights, computed in fp32",
        "b-fp32": "3 of 900 items changed: the bound is a worst case",
    }


def test_precisions_are_told_against_fp32_of_their_own_runtime() -> None:
    fp32 = {"p50_ms": 2.0, "size_bytes": 100, "memory_bytes": 10}
    rows = {"a-fp32": fp32, "a-int8": {"p50_ms": 1.0, "size_bytes": 25, "memory_bytes": None}, "b-fp16": fp32}
    assert _against_fp32(rows) == ["a-int8 takes 0.50 of fp32's time (median), 0.25 of its file"]
    rows |= {"a-fp32@a-host": fp32 | {"p50_ms": 4.0}, "a-int8@a-host": rows["a-int8"], "a-int8@alone": rows["a-int8"]}
    assert _against_fp32(rows)[1:] == ["a-int8@a-host takes 0.25 of fp32's time (median), 0.25 of its file"]


def test_rows_of_other_hosts_stand_beside_this_hosts(away: Project) -> None:
    html, text = ((away.build / f"report.{kind}").read_text() for kind in ("html", "md"))
    whole(html)
    verdicts = read_json(away.build / "verdicts.json")
    heads = re.findall(r'<th scope="col">(<span class="name">.*?)</th>', html)
    here = [f"onnxruntime-cpu-{precision}" for precision in ("fp32", "fp16", "int8")]
    there = [
        f"{runtime}-{precision}@{GPU_HOST}" for runtime in ("onnxruntime-cuda", "tensorrt") for precision in PRECISIONS
    ]
    board = [f"tensorrt-{precision}@{BOARD}" for precision in ("fp32", "fp16")]
    assert heads == [str(broken(target)) for target in here + there + board]
    assert f"measured {verdicts['passes']['date']}, on {GPU_HOST} 2026-11-19, on {BOARD} 2026-11-20." in html
    assert f"NOT MEASURED</strong> on {BOARD}:" in html and "does not work on that machine: no memory" in html
    assert f"**NOT MEASURED** on {BOARD}: network.onnx: tensorrt 10.3 does not work on that machine" in text
    assert "÷ tensorrt-fp32</span>" in html and re.search(r"× \(÷ tensorrt-fp32\)", text)
    section = html[html.index('id="recipe-passes"') : html.index('id="recipe-loses"')]
    for target in there + board:
        assert str(broken(target)) in section  # its line in the table of numbers
    for told in (
        f"onnxruntime-cuda-fp32@{GPU_HOST}: 91 % of the time is on the device (0.020 ms); replayed as one CUDA graph; "
        "2 nodes that compute sizes run on the processor.",
        f"tensorrt-fp16@{BOARD}: 91 % of the time is on the device (0.010 ms); not replayed as one CUDA graph: capture "
        "failed: operation not permitted; no energy: there is no sensor of it; its median is ",
        "4.1 mJ a request, the module at 7.2 W; its median is ",
        f"Not drawn: what was measured on {GPU_HOST} and {BOARD}, whose samples are not in this host&#39;s measurement.",
    ):
        assert told in section
    latency = (away.build / "charts" / "passes-latency.svg").read_text()
    assert GPU_HOST not in latency and "onnxruntime-cpu-fp32" in latency
    for chart in ("passes-accuracy", "tradeoff"):
        svg = (away.build / "charts" / f"{chart}.svg").read_text()
        assert all(name in svg for name in (GPU_HOST, BOARD))
    assert len(list((away.build / "charts").iterdir())) == 2 * (2 * 2 + 1)


PRECISIONS = ("fp32", "fp16", "int8")


def test_what_only_another_host_measured_is_shown_without_this_hosts_charts(away: Project, tmp_path: Path) -> None:
    shutil.copytree(away.build, tmp_path, symlinks=True, dirs_exist_ok=True)
    alone = dataclasses.replace(away, root=tmp_path, build=tmp_path, recipes={"passes": away.recipe("passes")})
    (tmp_path / "measure" / "passes.json").unlink()
    verify(alone)
    report(alone)
    html = (tmp_path / "report.html").read_text()
    whole(html)
    assert f"tensorrt-fp32@{BOARD}" in html and "Not shown: the measurement." in html


def test_a_long_name_breaks_after_its_at_alone() -> None:
    assert broken("a-fp32") == '<span class="name">a-fp32</span>'
    assert broken("a-fp32@<b>") == '<span class="name">a-fp32@</span><wbr><span class="name">&lt;b&gt;</span>'


def test_what_a_gpu_told_of_itself_is_one_line_a_target() -> None:
    none = dict.fromkeys(ROW)
    rows = {
        "a": none,
        "b": none | {"no_graph": "", "on_cpu": []},
        "c": none | {"device_share": 0.5, "no_graph": "sizes are free", "on_cpu": ["x"]},
        "d": none | {"energy_mj": 12.34, "power_w": 7.0, "power_reason": "", "p50_ms": 0.5},
    }
    assert _on_device(rows, {"p50_ms": 2.0}) == [
        "b: replayed as one CUDA graph",
        "c: 50 % of the time is on the device; not replayed as one CUDA graph: sizes are free; 1 node that computes "
        "sizes runs on the processor",
        "d: 12.3 mJ a request, the module at 7.0 W; its median is 0.25 of the trained network's here",
    ]


def test_code_in_prose_is_code_and_tags_are_text() -> None:
    assert prose("run `dvc repro` <b>") == "run <code>dvc repro</code> &lt;b&gt;"


def test_the_run_ends_with_the_matrix_and_the_page(shown: Project, capsys: pytest.CaptureFixture) -> None:
    passing = dataclasses.replace(shown, recipes={"passes": shown.recipe("passes")})
    with pytest.raises(Refused, match=r"(?s)rows stop it:.*loses on onnxruntime-cpu-int8: FAIL: drop"):
        gate(shown)
    told = capsys.readouterr().out
    assert "onnxruntime-cpu" in told and "FAIL" in told and f"The page: {shown.build / 'report.html'}" in told
    verify(passing)
    gate(passing)
    with pytest.raises(Refused, match="15 of 18 rows stop it"):
        gate(passing, strict=True)
    verify(shown)


def test_metrics_are_what_dvc_shows(shown: Project) -> None:
    metrics = read_json(shown.build / "metrics.json")
    assert list(metrics) == list(shown.recipes)
    for row in (row for rows in metrics.values() for row in rows.values()):
        assert tuple(row) == verify_stage.METRICS


def test_the_readmes_tables_are_those_of_results() -> None:
    assert list((ROOT / "results").glob("*.json")), "no committed results"
    for path, text in pages(ROOT).items():
        assert path.read_text() == text, f"{path.name} is stale: `make results`"


def test_the_picture_of_the_first_screen_is_that_of_results() -> None:
    for path in [*(ROOT / "results").glob("*.json"), *(ROOT / "results" / "paper").glob("*.json")]:
        assert path.with_suffix(".svg").read_text() == picture(read_json(path)), "stale: `make results`"


def test_results_that_an_older_version_kept_cost_a_line(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "results", tmp_path / "results")
    here = next((ROOT / "results").glob("*.json"))
    old = read_json(here)
    del old["format"]
    write_json(tmp_path / "results" / "board.json", old)
    told = f"kept by another version of Plumbline (format 1, expected {FORMAT}). `make results` on that host"
    readme = with_tables((ROOT / "README.md").read_text(), tmp_path / "results")
    assert told in readme and f"results/{here.stem}.svg" in readme
    assert told in every_number(tmp_path / "results")


def test_the_first_screen_is_sentence_table_picture_and_two_commands() -> None:
    first = (ROOT / "README.md").read_text().split("\n## ")[0]
    at = [
        first.index(part)
        for part in ("**Yes, where it was measured", "| recipe | trained |", "![", "make repro", "make test")
    ]
    assert at == sorted(at)


def test_a_readme_without_its_block_is_refused() -> None:
    with pytest.raises(Refused, match="begin and end its block of results are missing"):
        with_tables("# no block\n", ROOT / "results")


def test_committed_results_name_no_machine_of_ours() -> None:
    for path in (ROOT / "results").rglob("*.json"):
        assert not any(f"/{root}/" in json.dumps(read_json(path)) for root in ("home", "root", "tmp", "work"))


def test_what_stays_in_float32_and_what_was_tried_is_told() -> None:
    tried = {"weights": "uint8", "calibration": "min-max", "score": 1.0, "float_layers": 0, "error_mean": 0.1}
    failed = {"weights": "uint8", "calibration": "99.9 %", "reason": "why"}
    quantized = {
        "fp16": {"network": {"float32": ["Mul a"]}, "step": {"float32": []}},
        "int8-cpu": {"network": {"candidates": [tried, failed]}},
        "int8-tensorrt": {"reason": "no"},
    }
    assert _kept_float(quantized) == {"fp16: network": ["Mul a"]}
    assert _made(quantized) == [tried | {"precision": "int8-cpu", "graph": "network", "chosen": True}]
