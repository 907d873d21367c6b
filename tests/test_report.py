import dataclasses
import re
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from conftest import NAME, ROOT
from PIL import Image

from deploy.contract import pack_arrays
from deploy.errors import Refused
from deploy.files import read_json, write_bytes, write_json
from pipeline import report as report_stage
from pipeline.measure import measure
from pipeline.recipe import Budget, Project
from pipeline.report import answer, cells, measured, not_measured, picture, report
from pipeline.results import with_tables
from pipeline.verdicts import FAIL, INCONCLUSIVE, NOT_MEASURED, PASS
from pipeline.verify import verify


@pytest.fixture(scope="module")
def judged(project: Project) -> Project:
    """The project, measured, judged and reported; the few epochs of the tests are given a floor of their own."""
    recipe = dataclasses.replace(project.recipe(NAME), floor=80.0)
    project = dataclasses.replace(project, recipes={NAME: recipe})
    if not (project.build / "measure" / f"{NAME}.json").exists():
        measure(project, NAME)
    verify(project)
    report(project)
    return project


class Page(HTMLParser):
    """Tags that open and close in order, and every address that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        self.fetched += [value for key, value in attrs if key in ("src", "data") or (key == "href" and tag == "link")]
        if tag not in ("meta", "img", "br", "path", "rect", "line"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()


def test_the_page_is_whole_and_fetches_nothing(judged: Project) -> None:
    html = (judged.build / "report.html").read_text()
    page = Page()
    page.feed(html)
    assert page.open == []
    assert "script" not in page.tags
    assert all(address.startswith("data:image/png;base64,") for address in page.fetched)
    assert "url(http" not in html and "@import" not in html
    assert page.tags.count("svg") == 3
    assert len(html) < 3_000_000


def test_the_page_has_every_row_with_its_verdict_or_its_reason(judged: Project) -> None:
    html = (judged.build / "report.html").read_text()
    verdicts = read_json(judged.build / "verdicts.json")
    for target, row in verdicts[NAME]["targets"].items():
        assert target in html
        if row["verdict"] == NOT_MEASURED:
            assert report_stage.prose(row["reason"]) in html
    text = (judged.build / "report.md").read_text()
    assert text.count("| PASS |") == html.count('class="verdict PASS">PASS</td>') >= 2


def test_metrics_are_what_dvc_shows(judged: Project) -> None:
    metrics = read_json(judged.build / "metrics.json")
    assert list(metrics) == [NAME]
    for row in metrics[NAME].values():
        assert list(row) == [
            "verdict", "reason", "metric", "trained", "deployed", "drop_upper95", "n", "latency_ratio", "p50_ms",
            "size_bytes", "graph_sha256",
        ]  # fmt: skip


def test_a_failed_recipe_is_told_first(judged: Project, tmp_path) -> None:
    recipe = dataclasses.replace(judged.recipe(NAME), floor=99.99, budget=Budget(1.0, {"onnxruntime-cpu-fp32": 1e-6}))
    failed = dataclasses.replace(judged, recipes={NAME: recipe})
    verify(failed)
    verdicts = read_json(judged.build / "verdicts.json")
    assert answer(verdicts).startswith("No: 18 of 18 deployments failed")
    assert "0 of 18 deployments are proved" in answer(verdicts)
    report(failed)
    html = (judged.build / "report.html").read_text()
    assert "not trained:" in html and 'class="verdict FAIL">FAIL</td>' in html
    assert 'class="verdict FAIL">FAIL</span>: not trained' in html  # the rows that were not measured fail too
    verify(judged)
    report(judged)


def test_the_answer_is_never_yes_where_nothing_is_proved() -> None:
    def verdicts(*words: str) -> dict:
        rows = {str(i): {"verdict": w, "deployed": None if w == NOT_MEASURED else 1.0} for i, w in enumerate(words)}
        return {"r": {"targets": rows}}

    assert answer(verdicts(PASS, NOT_MEASURED)).startswith("Yes, where it was measured; 1 of 2")
    assert answer(verdicts(NOT_MEASURED)).startswith("Not yet: nothing is proved")
    assert answer(verdicts(PASS, INCONCLUSIVE)).startswith("In part: 1 could not be decided")
    assert answer(verdicts(PASS, FAIL, INCONCLUSIVE)).startswith("No: 1 of 3")


def test_a_target_that_failed_unmeasured_is_still_told(judged: Project) -> None:
    rows = {"deployed": None, "verdict": FAIL, "reason": "not trained"}
    verdicts = {"r": {"targets": {"t": rows}, "budget": {"drop": 1.0}, "metric": {}}}
    assert not_measured(verdicts) == {(FAIL, "not trained"): ["r: t"]}
    assert measured(verdicts) == []


def test_a_row_without_latency_is_told_without(judged: Project) -> None:
    row = measured(read_json(judged.build / "verdicts.json"))[0]
    bare = cells(row | {"latency_ratio": None, "drop_upper95": None})
    assert "–" in bare and f"{row['drop']:.2f} (–)" in bare


def test_text_from_params_is_escaped(judged: Project, tmp_path) -> None:
    verdicts = read_json(judged.build / "verdicts.json")
    evil = "<script>alert(1)</script>"
    verdicts[NAME]["targets"]["tensorrt-fp16"]["reason"] = evil
    kept = (judged.build / "verdicts.json").read_bytes()
    write_json(judged.build / "verdicts.json", verdicts)
    report(judged)
    html = (judged.build / "report.html").read_text()
    (judged.build / "verdicts.json").write_bytes(kept)
    assert evil not in html and "&lt;script&gt;" in html


def decoded(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(b64decode(picture(image).partition(",")[2]))))


def test_a_grey_picture_is_ink_on_paper_and_one_in_colour_is_itself_and_small() -> None:
    image = np.arange(64, dtype=np.uint8).reshape(1, 8, 8) % 17
    np.testing.assert_array_equal(decoded(image), 255 - (255.0 * image[0] / 16).astype(np.uint8))
    colour = np.random.default_rng(0).integers(0, 256, (3, 9, 7)).astype(np.uint8)
    np.testing.assert_array_equal(decoded(colour), colour.transpose(1, 2, 0))
    assert decoded(np.zeros((3, 224, 448), np.uint8)).shape == (32, 64, 3)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int16, np.int64])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_of_other_numbers_has_their_whole_range(kind: type, channels: int) -> None:
    """A least of 0 and a greatest of 255 make a byte of each; any other origin and unit show the same picture."""
    image = np.random.default_rng(0).integers(0, 256, (channels, 9, 7)).astype(np.uint8)
    image[0, 0, :2] = 0, 255
    np.testing.assert_array_equal(decoded(20 * image.astype(kind) - 2500), decoded(image))
    if np.issubdtype(kind, np.floating):
        np.testing.assert_array_equal(decoded(image.astype(kind) / 255), decoded(image))
    white = decoded(np.full((1, 4, 4), 7, kind))
    assert white.dtype == np.uint8 and (white == 255).all()
    least, greatest = (np.finfo if np.issubdtype(kind, np.floating) else np.iinfo)(kind).min, 0
    np.testing.assert_array_equal(decoded(np.array([[[least, greatest]]], kind)), [[255, 0]])


@pytest.mark.parametrize(
    ("shape", "kind", "shown"),
    [
        ((1, 6, 5), np.float32, True),
        ((3, 6, 5), np.int64, True),
        ((3, 6, 5), np.uint8, True),
        ((1, 1, 3000), np.float32, True),
        ((6, 5, 3), np.uint8, False),
        ((2, 6, 5), np.float32, False),
        ((6, 5), np.uint8, False),
        ((30,), np.float32, False),
        ((1, 2, 6, 5), np.float32, False),
    ],
)
def test_only_images_are_shown_whatever_an_array_is_called(
    judged: Project, shape: tuple, kind: type, shown: bool
) -> None:
    folder = judged.build / "prepare" / "brought"
    image = np.random.default_rng(0).integers(0, 256, (3, *shape)).astype(kind)
    write_bytes(folder / "test.npz", pack_arrays({"image": image, "label": np.array([0, 1, 1])}))
    write_json(folder / "data.json", {"classes": ["a", "b"]})
    answered = {"trained": {"predicted": [1, 1, 1]}, "targets": {"t": {"predicted": [0, 1, -1]}}}
    wrong = report_stage._wrong(judged, dataclasses.replace(judged.recipe(NAME), data="brought"), answered)
    if shown:
        assert [item["index"] for item in wrong["items"]] == [0, 2]
        assert [item["image"] for item in wrong["items"]] == [picture(image[0]), picture(image[2])]
    else:
        assert wrong is None


def test_the_readmes_tables_are_those_of_results() -> None:
    readme = (ROOT / "README.md").read_text()
    assert list((ROOT / "results").glob("*.json")), "no committed results"
    assert readme == with_tables(readme, ROOT / "results"), "stale: `make results`"


def test_a_readme_without_its_block_is_refused() -> None:
    with pytest.raises(Refused, match="begin and end its block of results are missing"):
        with_tables("# no block\n", ROOT / "results")


def test_committed_results_name_no_machine_of_ours() -> None:
    for path in (ROOT / "results").rglob("*.json"):
        text = path.read_text()
        assert not re.search(r"/(home|root|tmp|work)/", text)


def test_data_without_pictures_are_reported_without(judged: Project) -> None:
    text = judged.build / "prepare" / "text"
    write_bytes(text / "test.npz", pack_arrays({"tokens": np.zeros((3, 5), np.int64)}))
    write_json(text / "data.json", {"classes": []})
    answered = {"trained": {"predicted": ["", "", ""]}, "targets": {}}
    assert report_stage._wrong(judged, dataclasses.replace(judged.recipe(NAME), data="text"), answered) is None


def test_two_graphs_are_two_hashes_in_the_table() -> None:
    assert report_stage._short("0123456789") == "`01234567`"
    assert report_stage._short({"encoder": "0123456789", "step": "abcdefghij"}) == "`01234567` `abcdefgh`"


def test_lines_are_shown_as_text_disagreements_first(judged: Project) -> None:
    def rows(*lines: str) -> np.ndarray:
        return np.array([list(line.encode().ljust(12, b"\0")) for line in lines], np.uint8)

    folder = judged.build / "prepare" / "lines"
    write_bytes(
        folder / "test.npz", pack_arrays({"source": rows("one", "two", "three"), "target": rows("1", "2", "3")})
    )
    write_json(folder / "data.json", {"classes": []})
    answered = {"trained": {"predicted": ["0", "2", "3"]}, "targets": {"t": {"predicted": ["0", "2", None]}, "u": {}}}
    wrong = report_stage._wrong(judged, dataclasses.replace(judged.recipe(NAME), data="lines"), answered)
    assert wrong["all"] == 2 and wrong["differ"] == 1
    first = {"text": "three", "index": 2, "truth": "3", "trained": "3", "others": {"t": "nothing finite"}}
    assert wrong["items"] == [first, {"text": "one", "index": 0, "truth": "1", "trained": "0", "others": {}}]


def test_what_stays_in_float32_and_what_was_tried_is_told() -> None:
    tried = {"weights": "uint8", "calibration": "min-max", "score": 1.0, "float_layers": 0, "error_mean": 0.1}
    failed = {"weights": "uint8", "calibration": "99.9 %", "reason": "why"}
    quantized = {
        "fp16": {"network": {"float32": []}},
        "int8-cpu": {"network": {"candidates": [tried, failed], "float32": ["GRU a"]}},
        "int8-tensorrt": {"reason": "no"},
    }
    assert report_stage._kept_float(quantized) == {"int8-cpu: network": ["GRU a"]}
    assert report_stage._made(quantized) == [tried | {"precision": "int8-cpu", "graph": "network", "chosen": True}]
