"""What a recipe says was published: checked at the door, taken along by ``verify``, and the page made of it."""

import copy
import dataclasses
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import NAME, ROOT
from hypothesis import given
from hypothesis import strategies as st
from measured import measurement, row, statistics
from scipy.stats import binomtest

from deploy.errors import Refused
from deploy.files import read_json, write_json
from pipeline.check import check
from pipeline.judge import judge, judge_unmeasured
from pipeline.published_page import against_published, deployed_bounds, published_page, published_picture
from pipeline.recipe import Budget, Project, Published, load_project
from pipeline.results import pages
from pipeline.verify import verify

PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text()) | {"root": str(ROOT)}
SAID = {"score": 99.0, "source": "Görner 2016, part 2"}
HOST = {"name": "here", "processor": "EPYC", "cores": 2}
METRIC = {"name": "accuracy", "unit": "%", "drop_unit": "points", "places": 2, "higher_is_better": True}
ENTROPY = METRIC | {"name": "entropy", "unit": "bits", "drop_unit": "bits", "places": 4, "higher_is_better": False}


def project_that_says(tmp_path: Path, published: Any, name: str = NAME) -> Project:
    params = copy.deepcopy(PARAMS) | {"build": str(tmp_path / "build")}
    params["recipes"][name]["published"] = published
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(params))
    return load_project(file)


def result(*wrong: int, published: Any = SAID, **targets: dict[str, Any]) -> dict[str, Any]:
    """What is kept of one recipe whose trained network has ``wrong`` units wrong, of 900."""
    facts = measurement(targets or {"onnxruntime-cpu-fp32": row(statistics=statistics(list(wrong)))})
    facts["trained"]["statistics"] = statistics(list(wrong))
    verdict = judge(facts, "now", 90.0, Budget(1.0, {})) | {"network": "Net", "data": "digits", "reference": "PyTorch"}
    return {"commit": "c0ffee", "host": HOST, "verdicts": {"net": verdict | {"published": published}}}


def lines(page: str) -> list[list[str]]:
    """The rows of the page's tables, without their heads."""
    table = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith(("| recipe", "| ---"))]
    return [[cell.strip() for cell in re.split(r" (?<!\\)\| ", line.strip("| "))] for line in table]


def test_what_was_published_is_read(tmp_path: Path) -> None:
    project = project_that_says(tmp_path, SAID)
    check(project)
    assert project.recipe(NAME).published == Published(99.0, "Görner 2016, part 2")
    assert project.recipe("softmax_digits").published is None


@pytest.mark.parametrize(
    ("published", "told"),
    [
        (SAID | {"score": float("nan")}, r"published: score: nan came, accuracy of 0 to 100 % was expected"),
        (SAID | {"score": float("inf")}, r"published: score: inf came"),
        (SAID | {"score": 100.1}, r"published: score: 100.1 came, accuracy of 0 to 100 %"),
        (SAID | {"score": -1}, r"published: score: -1.0 came"),
        (SAID | {"score": 0.989}, r"published: score: 0.989 came, per cent were expected: write 98.9"),
        (SAID | {"source": " \n"}, r"published: source: nothing came, where the score stands was expected"),
        ({"score": 99.0}, r"published: 'source' is missing. Expected: score, source"),
        (SAID | {"scores": 1}, r"published: unknown key 'scores'; did you mean 'score'\?"),
        (SAID | {"score": "98.9 %"}, r"published: score: '98.9 %' \(str\) came, a number"),
        (99.0, r"published: 99.0 \(float\) came, a map was expected"),
    ],
)
def test_what_cannot_have_been_published_is_refused(tmp_path: Path, published: Any, told: str) -> None:
    with pytest.raises(Refused, match=rf"params.yaml: recipes: {NAME}: {told}"):
        check(project_that_says(tmp_path, published))


def test_a_metric_without_a_highest_value_takes_any_finite_score(tmp_path: Path) -> None:
    check(project_that_says(tmp_path, SAID | {"score": 0.5}, "gru_python"))  # bits: no per cent, half a bit is possible
    with pytest.raises(Refused, match="published: score: inf came, entropy per character of 0 to inf bits"):
        check(project_that_says(tmp_path, SAID | {"score": float("inf")}, "gru_python"))


def test_verify_takes_it_along(project: Project, tmp_path: Path) -> None:
    """Also where nothing was measured; and a recipe that says nothing has none."""
    said = dataclasses.replace(project.recipe(NAME), published=Published(**SAID))
    recipes = {"said": said, "silent": project.recipe(NAME)}
    verify(dataclasses.replace(project, root=tmp_path, build=tmp_path, recipes=recipes))
    verdicts = read_json(tmp_path / "verdicts.json")
    assert verdicts["said"]["published"] == SAID and verdicts["silent"]["published"] is None
    assert verdicts["said"]["network"] == "GornerCNN"
    page = published_page({"here": {"commit": "c0ffee", "host": HOST, "verdicts": verdicts}})
    (_, *cells), (name, *silent) = lines(page)
    assert cells[3:8] == ["not measured"] * 5 and "not measured, commit `c0ffee`" in page
    assert name == "silent" and silent[2:8] == ["–", "not measured", "–", *["not measured"] * 3]


def test_the_page_of_a_made_up_result_is_this_table() -> None:
    wrong = list(range(9))  # 891 of 900 right: 99.00 %
    kept = result(
        *wrong,
        **{
            "onnxruntime-cpu-fp32": row(statistics=statistics(wrong)),
            "onnxruntime-cpu-fp16": row(precision="fp16", statistics=statistics(wrong)),
            "tensorrt-fp16": row(precision="fp16", statistics=statistics(wrong)),
            "onnxruntime-cuda-fp16": row(precision="fp16", statistics=statistics(wrong[:8])),
            "onnxruntime-cpu-int8": row(precision="int8-cpu", statistics=statistics(list(range(90)))),
            "tensorrt-int8": {"precision": "int8-tensorrt", "device": "cuda", "reason": "no GPU"},
            "onnxruntime-cuda-int8": {"precision": "int8", "device": "cuda", "reason": "", "failed": "a | b"},
        },
    )
    page = published_page({"paper/here": kept})
    ((*cells, n),) = lines(page)
    assert cells[:6] == [
        "net",
        "Net",
        "digits",
        "99 % accuracy (Görner 2016, part 2)",
        "99.00 % (98.11–99.54)",  # R: binom.test(891, 900)
        "within the interval",
    ]
    assert cells[6] == "99.00 % (98.11–99.54) PASS on onnxruntime-cpu"
    assert cells[7] == (
        "99.00 % (98.11–99.54) PASS on onnxruntime-cpu, tensorrt<br>99.11 % (98.26–99.62) PASS on onnxruntime-cuda"
    )
    assert cells[8].startswith("90.00 % (87.85–91.88) FAIL on onnxruntime-cpu<br>FAIL: it opened and then failed")
    assert cells[8].endswith("a \\| b on onnxruntime-cuda") and "tensorrt" not in cells[8]
    assert cells[9] == "90 %" and n == "900"
    assert "## paper/here\n" in page and "here: EPYC, 2 cores; 2026-01-01, commit `c0ffee`." in page


@given(st.integers(1, 3000), st.data())
def test_the_interval_of_a_deployed_score_is_scipys(n: int, data: st.DataObject) -> None:
    """Of an error rate too, whose right and wrong change places."""
    k = data.draw(st.integers(0, n))
    recipe = {"trained": {"bounds": [0.0, 1.0]}, "metric": METRIC}
    expected = binomtest(k, n).proportion_ci(0.95, "exact")
    assert deployed_bounds(recipe, {"n": n, "deployed": 100 * k / n}) == pytest.approx(
        (100 * expected.low, 100 * expected.high), abs=1e-9
    )
    wrong = deployed_bounds(recipe, {"n": n, "deployed": 100 - 100 * k / n})
    assert wrong == pytest.approx((100 - 100 * expected.high, 100 - 100 * expected.low), abs=1e-9)


@given(st.lists(st.floats(0, 100), min_size=3, max_size=3).map(sorted), st.floats(0, 100), st.booleans())
def test_reached_means_better_than_published_by_all_of_the_interval(
    bounds: list[float], published: float, upwards: bool
) -> None:
    """An oracle of its own: how much better each end is, and both ends on one side of nothing or not."""
    low, score, high = bounds
    recipe = {"metric": METRIC | {"higher_is_better": upwards}, "published": {"score": published}}
    recipe["trained"] = {"score": score, "bounds": [low, high]}
    better = [end - published if upwards else published - end for end in (low, high)]
    told = against_published(recipe)
    assert told.startswith("reached") == (min(better) > 0)
    assert told.startswith("not reached") == (max(better) < 0)
    assert ("within" in told) == (min(better) <= 0 <= max(better))


@pytest.mark.parametrize(("score", "upwards", "told"), [(2.2, False, "reached"), (2.21, False, "not"), (2.2, True, "reached"), (2.1, True, "not")])  # fmt: skip
def test_a_score_without_an_interval_is_compared_alone_and_says_so(score: float, upwards: bool, told: str) -> None:
    recipe = {"metric": METRIC | {"higher_is_better": upwards}, "published": {"score": 2.2}}
    came = against_published(recipe | {"trained": {"score": score, "bounds": None}})
    assert came.split()[0].rstrip(",") == told and "by the score alone: it has no interval" in came


def entropy(upper: float | None) -> dict[str, Any]:
    """Of a language model, whose score has no interval."""
    kept = result(1)
    net = kept["verdicts"]["net"]
    net |= {"metric": ENTROPY, "published": {"score": 2.2, "source": "Karpathy"}}
    net["trained"] |= {"score": 2.25, "bounds": None}
    net["targets"]["onnxruntime-cpu-fp32"] |= {"deployed": 2.2512, "drop_upper95": upper}
    return kept


def test_a_metric_that_is_no_share_has_the_bound_of_its_drop() -> None:
    ((*cells,),) = lines(published_page({"here": entropy(0.00123)}))
    assert cells[3:5] == ["2.2 bits entropy (Karpathy)", "2.2500 bits"] and cells[5].startswith("not reached, by the")
    assert cells[6].startswith("2.2512 bits (lost ≤ 0.0012) PASS on")
    assert "2.2512 bits (no bound) PASS" in published_page({"here": entropy(None)})


def test_what_an_older_version_kept_has_nothing_published_and_stands_beside_what_has() -> None:
    """The word is not in the file at all, or in one recipe's entry alone."""
    old, new = result(1), result(1)
    for key in ("published", "network"):
        del old["verdicts"]["net"][key]
    assert "Nothing that is kept says yet" in published_page({"old": old}) and published_picture({"old": old}) == ""
    page = published_page({"old": old, "new": new})
    assert "## new" in page and "## old" not in page
    new["verdicts"]["before"] = old["verdicts"]["net"]
    told, plain = lines(published_page({"new": new}))
    assert told[3].startswith("99 % accuracy") and told[5].startswith("reached")
    assert plain[3] == plain[5] == "–" and plain[4] == told[4] and plain[9] == "90 %"
    assert "before" not in published_picture({"new": new})


def test_a_recipe_that_was_not_measured_has_its_row(tmp_path: Path) -> None:
    kept = result(1)
    recipe = project_that_says(tmp_path, SAID).recipe(NAME)
    kept["verdicts"]["net"] |= judge_unmeasured("never run", recipe)
    ((*cells, n),) = lines(published_page({"here": kept}))
    assert cells[4:9] == ["not measured"] * 5 and n == "–"
    assert "published 99 %" in published_picture({"here": kept})


def test_a_graph_that_was_brought_says_what_it_is() -> None:
    kept = result(1)
    kept["verdicts"]["net"] |= {"network": "", "reference": "the ONNX file"}
    assert lines(published_page({"here": kept}))[0][1] == "the ONNX file"


def marks(svg: str) -> dict[str, float]:
    """What a mark says -> where its point, or its upright line, stands across."""
    found = {}
    for element in ET.fromstring(svg).iter():
        if element.get("aria-roledescription") in ("point", "tick"):
            at = re.match(r"translate\(([-\d.]+),", element.get("transform", ""))
            if at:
                found[element.attrib["aria-label"]] = float(at[1])
            else:  # a tick is drawn as a rectangle of two pixels
                found[element.attrib["aria-label"]] = float(re.match(r"M([-\d.]+),", element.attrib["d"])[1]) + 1
    return found


def test_the_picture_has_a_mark_for_each_score_on_its_side_of_what_was_published() -> None:
    wrong = list(range(9))
    targets = {
        "onnxruntime-cpu-fp32": row(statistics=statistics(wrong)),
        "onnxruntime-cpu-int8": row(precision="int8-cpu", statistics=statistics(wrong[:4])),
        "tensorrt-fp16": {"precision": "fp16", "device": "cuda", "reason": "", "failed": "no"},
    }
    drawn = marks(published_picture({"here": result(*wrong, published=SAID | {"score": 99.3}, **targets)}))
    assert len(drawn) == 4  # what failed has no score
    said = "net: published 99.3 % (Görner 2016, part 2)", "net, onnxruntime-cpu-int8: 99.56 % (98.87–99.88)"
    published, int8 = (drawn[word] for word in said)
    trained = drawn["net, trained: 99.00 % (98.11–99.54)"]
    assert trained == drawn["net, onnxruntime-cpu-fp32: 99.00 % (98.11–99.54)"] < published < int8
    assert (int8 - published) / (published - trained) == pytest.approx((99.5556 - 99.3) / (99.3 - 99.0), rel=0.05)


def test_in_the_picture_less_is_better_where_it_is() -> None:
    """2.25 bits are worse than 2.2, and stand on the left."""
    drawn = marks(published_picture({"here": entropy(0.001)}))
    assert drawn["net, trained: 2.2500 bits"] < drawn["net: published 2.2 bits (Karpathy)"]


def test_tags_in_a_source_are_text_in_the_picture() -> None:
    svg = published_picture({"here": result(1, published={"score": 99.0, "source": '<script>"&'})})
    assert "<script>" not in svg and any('<script>"&' in said for said in marks(svg))


def test_make_results_makes_the_page_and_its_picture(tmp_path: Path) -> None:
    """From what is committed, of which one recipe says what was published; results of another format cost nothing."""
    shutil.copytree(ROOT / "results", tmp_path / "results")
    shutil.copy(ROOT / "README.md", tmp_path)
    file = min((ROOT / "results" / "paper").glob("*.json"))
    kept = read_json(file)
    name, recipe = next((name, recipe) for name, recipe in kept["verdicts"].items() if recipe["trained"]["bounds"])
    score, (low, high) = recipe["trained"]["score"], recipe["trained"]["bounds"]
    recipe |= {"published": {"score": low - 0.1, "source": "my slides"}, "network": "Net"}
    write_json(tmp_path / "results" / "paper" / file.name, kept)
    write_json(tmp_path / "results" / "paper" / "old.json", kept | {"format": 1})
    made = pages(tmp_path)
    page, svg = (made[tmp_path / "results" / f"PUBLISHED.{kind}"] for kind in ("md", "svg"))
    (cells,) = [line for line in lines(page) if line[0] == name]
    assert cells[4:6] == [f"{score:.2f} % ({low:.2f}–{high:.2f})", "reached: published lies below the interval"]
    assert "PUBLISHED.svg" in page and "my slides" in svg and "paper/old" not in page


def test_the_picture_names_the_file_of_a_row_where_several_have_some() -> None:
    silent, two = result(1, published=None), {"paper/one": result(1), "paper/two": result(2)}
    assert "paper/one" not in published_picture({"starter": silent, "paper/one": result(1)})
    assert {"net, 99 %, paper/one", "net, 99 %, paper/two"} <= set(
        re.findall(r">([^<>]+)</text>", published_picture(two))
    )
