"""The report in a real browser: nothing from elsewhere, every chart drawn, the table sorted, filtered and typed to"""

import dataclasses
import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from judged import BOARD, GPU_HOST, memoised, returned
from judged import shown as make_shown
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from deploy.files import read_json, write_json
from pipeline.recipe import Project
from pipeline.report import report
from pipeline.verify import verify

found = importlib.util.spec_from_file_location("page", ROOT / "benchmarks" / "page.py")  # no package is installed of it
timing = importlib.util.module_from_spec(found)
found.loader.exec_module(timing)

DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module", autouse=True)
def drawn_once() -> Iterator[None]:
    with memoised():
        yield


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if not path and os.environ.get("CI"):
        pytest.fail("no chromium: CI installs it")
    if not path:
        pytest.skip("no chromium: `apt install chromium`, or Google Chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def shown(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_shown(project, tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def away(shown: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """With what came back from a host with a GPU (6 rows of each recipe) and from a board."""
    build = tmp_path_factory.mktemp("away")
    shutil.copytree(shown.build, build, symlinks=True, dirs_exist_ok=True)
    made = dataclasses.replace(shown, root=build, build=build, recipes={"passes": shown.recipe("passes")})
    for gpu in (True, False):
        returned(made, "passes", gpu)
    verify(made)
    report(made)
    return made


def opened(browser: Browser, path: Path, viewport: dict = DESK, scheme: str = "light", script: bool = True) -> Page:
    """The page, with what it said and asked for in ``page.said`` and ``page.asked``."""
    context = browser.new_context(viewport=viewport, color_scheme=scheme, java_script_enabled=script)
    page = context.new_page()
    page.said, page.asked = [], []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(path.as_uri())
    return page


@pytest.mark.parametrize(("viewport", "scheme"), list(product((DESK, PHONE), ("light", "dark"))))
def test_it_asks_for_nothing_says_nothing_and_draws_every_chart(
    browser: Browser, shown: Project, viewport: dict, scheme: str
) -> None:
    page = opened(browser, shown.build / "report.html", viewport, scheme)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    boxes = page.evaluate(
        """[...document.querySelectorAll("figure")].map((figure) => {
          const svg = figure.querySelector("svg"), [outer, inner] = [figure, svg].map((e) => e.getBoundingClientRect());
          const marks = [...svg.querySelectorAll("[aria-label]")].filter((m) => m.getBoundingClientRect().width > 0);
          return {inside: inner.left >= outer.left && inner.right <= outer.right + 1, width: inner.width,
                  height: inner.height, marks: marks.length, ink: getComputedStyle(svg.querySelector("text")).fill};
        })"""
    )
    verdicts = read_json(shown.build / "verdicts.json")
    measured = [name for name, recipe in verdicts.items() if recipe["trained"]["score"] is not None]
    assert len(boxes) == 7 * len(measured) + 3 + 1  # halfway: ranges and training alone; one panel
    for box in boxes:
        assert box["inside"] and box["width"] > 250 and box["height"] > 60 and box["marks"] > 0, box
    assert {box["ink"] for box in boxes} == {"rgb(231, 234, 236)" if scheme == "dark" else "rgb(29, 35, 39)"}
    assert page.said == [] and page.asked == [(shown.build / "report.html").as_uri()]


@pytest.mark.parametrize("viewport", [DESK, PHONE])
def test_targets_of_other_hosts_are_found_and_keep_to_the_window(
    browser: Browser, away: Project, viewport: dict
) -> None:
    page = opened(browser, away.build / "report.html", viewport)
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    cells = page.locator(".matrix tbody tr").first.locator("td[data-target]")
    assert cells.count() == 3 + 6 + 2 + 1
    page.get_by_label("recipe or target").fill(f"fp16 {BOARD}")
    left = cells.evaluate_all(
        "all => all.filter(c => !c.classList.contains('apart')).map(c => c.dataset.target.trim())"
    )
    assert [target for target in left if " " not in target] == [f"tensorrt-fp16@{BOARD}"]
    page.get_by_label("recipe or target").fill("")
    if viewport == DESK:
        head = page.locator(".matrix thead th", has_text=f"tensorrt-int8@{GPU_HOST}")
        name, host = (part.bounding_box() for part in head.locator(".name").all())
        assert name["y"] + name["height"] <= host["y"] + 1  # the host stands below
        head.locator("button").click()
        expect(head).to_have_attribute("aria-sort", "ascending")
    assert page.said == []


def recipes(page: Page) -> list[str]:
    return [row.strip() for row in page.locator(".matrix tbody tr:visible th a").all_inner_texts()]


def test_the_matrix_sorts_by_mouse_and_by_keyboard(browser: Browser, shown: Project) -> None:
    page = opened(browser, shown.build / "report.html")
    assert recipes(page) == ["passes", "loses", "untrained", "halfway"]
    heads = page.locator(".matrix thead th")
    heads.nth(0).locator("button").click()
    assert recipes(page) == ["halfway", "loses", "passes", "untrained"]
    expect(heads.nth(0)).to_have_attribute("aria-sort", "ascending")
    heads.nth(0).locator("button").focus()
    page.keyboard.press("Enter")
    assert recipes(page) == ["untrained", "passes", "loses", "halfway"]
    expect(heads.nth(0)).to_have_attribute("aria-sort", "descending")

    int8 = page.locator(".matrix thead button", has_text="onnxruntime-cpu-int8")
    int8.click()
    assert recipes(page)[2:] == ["loses", "halfway"]  # the largest drop, and what has none last
    int8.click()
    assert recipes(page)[0] == "loses" and recipes(page)[-1] == "halfway"


def test_every_number_sorts_by_its_value(browser: Browser, shown: Project) -> None:
    page = opened(browser, shown.build / "report.html")
    table = page.locator("section[aria-labelledby=numbers] table")
    page.locator("section[aria-labelledby=numbers] thead button", has_text="size").click()
    sizes = [float(text.split()[0]) for text in table.locator("tbody td:nth-child(11)").all_inner_texts()]
    assert sizes == sorted(sizes) and len(set(sizes)) > 2


def test_words_and_verdicts_filter_the_whole_page(browser: Browser, shown: Project) -> None:
    page = opened(browser, shown.build / "report.html")
    told = page.locator(".find output")
    expect(told).to_have_text("4 of 4 recipes shown")
    page.get_by_label("recipe or target").fill("LOSES")
    assert recipes(page) == ["loses"]
    assert page.locator("details.recipe:visible").count() == 1
    expect(told).to_have_text("1 of 4 recipes shown")
    page.get_by_label("recipe or target").fill("")
    page.locator(".find select").select_option("INCONCLUSIVE")
    assert recipes(page) == ["loses"]
    page.locator(".find select").select_option("FAIL")
    assert recipes(page) == ["loses", "untrained"]
    assert page.locator("section[aria-labelledby=why] li:visible").count() >= 2
    page.get_by_label("recipe or target").fill("nothing has this name")
    expect(told).to_have_text("nothing matches: empty the field, and choose all")
    page.get_by_label("recipe or target").fill("")
    page.locator(".find select").select_option("all")
    assert len(recipes(page)) == 4
    page.get_by_label("recipe or target").fill("cpu-int8")
    apart = page.locator(".matrix tbody tr").first.locator("td").evaluate_all("cells => cells.map(c => c.className)")
    assert ["apart" in names for names in apart] == [True, True, False, True]


@pytest.mark.parametrize("viewport", [DESK, PHONE])
def test_a_link_leads_to_its_place(browser: Browser, shown: Project, viewport: dict) -> None:
    page = opened(browser, shown.build / "report.html", viewport)
    for name in ("recipe-untrained", "not-measured"):
        page.locator(f".matrix a[href='#{name}'], header a[href='#{name}']").first.click()
        page.wait_for_timeout(300)
        bottom = page.evaluate("document.documentElement.scrollHeight - innerHeight - scrollY")
        at = page.locator(f"#{name}").evaluate("one => one.getBoundingClientRect().top")
        assert 0 <= at < 40 or bottom < 2, (name, at)


def test_on_a_phone_what_is_proved_is_folded_and_opens_by_its_link(browser: Browser, shown: Project) -> None:
    page = opened(browser, shown.build / "report.html", PHONE)
    assert page.locator("details.recipe[open]").evaluate_all("all => all.map(one => one.id)") == [
        "recipe-loses",
        "recipe-untrained",
    ]
    page.locator(".matrix a", has_text="passes").click()
    expect(page.locator("#recipe-passes")).to_have_attribute("open", "")


def test_on_a_phone_every_verdict_is_in_the_window(browser: Browser, shown: Project) -> None:
    page = opened(browser, shown.build / "report.html", PHONE)
    for cell in page.locator(".matrix td").all():
        box = cell.bounding_box()
        assert box and box["x"] >= 16 and box["x"] + box["width"] <= PHONE["width"]


def test_it_can_be_walked_by_keyboard(browser: Browser, shown: Project) -> None:
    page = opened(browser, shown.build / "report.html", PHONE)
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    expect(page.locator(".skip")).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("#verdicts$"))
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.tagName + '.' + document.activeElement.className"))
    assert {"INPUT.", "SELECT.", "DIV.scroll", "BUTTON.", "A.", "SUMMARY."} <= reached


def test_a_screen_reader_is_told_what_the_eye_sees(browser: Browser, shown: Project) -> None:
    page = opened(browser, shown.build / "report.html")
    assert page.locator("html").get_attribute("lang") == "en"
    for chart in page.locator("figure div[role=img]").all():
        assert len(chart.get_attribute("aria-label") or "") > 20
    assert page.locator("figure svg").count() == page.locator("figure div[role=img] svg").count()
    assert page.locator("img:not([alt])").count() == 0
    assert page.locator(".scroll:not([aria-label])").count() == 0
    levels = [int(head.evaluate("head => head.tagName[1]")) for head in page.locator("h1, h2, h3, h4").all()]
    assert levels[0] == 1 and all(later - earlier <= 1 for earlier, later in pairwise(levels))
    for verdict in page.locator("td .verdict").all():  # a word, not a colour alone
        assert re.fullmatch(r"PASS|FAIL|INCONCLUSIVE|NOT MEASURED", verdict.text_content() or "")


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(text: Locator) -> float:
    """WCAG 2.2's contrast of a text with the nearest ground behind it"""
    ink, ground = text.evaluate(
        """(e) => { let at = e; while (getComputedStyle(at).backgroundColor === "rgba(0, 0, 0, 0)") at = at.parentElement;
        return [getComputedStyle(e).color, getComputedStyle(at).backgroundColor]; }"""
    )
    dark, light = sorted((luminance(ink), luminance(ground)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_by_night_and_by_day(browser: Browser, shown: Project, scheme: str) -> None:
    page = opened(browser, shown.build / "report.html", DESK, scheme)
    looked = [
        ".counts .verdict",
        ".matrix .verdict",
        ".matrix td span",
        ".soft",
        "figcaption",
        ".why p",
        "a",
        "thead th",
    ]
    for selector in looked:
        for text in page.locator(f"{selector}:visible").all()[:12]:
            assert contrast(text) >= 4.5, (selector, text.inner_text())


def test_a_mark_says_in_words_what_it_shows(browser: Browser, shown: Project) -> None:
    page = opened(browser, shown.build / "report.html")
    mark = page.locator("#recipe-passes figure svg [aria-label^='onnxruntime-cpu-int8: lost']").last
    mark.hover(force=True)
    expect(page.locator("#tip")).to_be_visible()
    expect(page.locator("#tip")).to_have_text(re.compile(r"onnxruntime-cpu-int8: lost .* points"))
    page.mouse.move(5, 5)
    expect(page.locator("#tip")).to_be_hidden()


def test_without_a_script_it_says_the_same(browser: Browser, shown: Project) -> None:
    page = opened(browser, shown.build / "report.html", script=False)
    expect(page.locator(".answer")).to_contain_text("No: ")
    assert page.locator(".find:visible").count() == 0
    assert page.locator(".matrix tbody tr:visible").count() == 4
    assert page.locator("#recipe-passes figure svg:visible").count() == 7


def test_a_link_opens_what_it_leads_to(browser: Browser, shown: Project) -> None:
    page = opened(browser, shown.build / "report.html")
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = false })")
    page.locator(".matrix a", has_text="passes").click()
    expect(page.locator("#recipe-passes")).to_have_attribute("open", "")


def test_the_benchmark_times_each_load_and_what_came_over_the_wire(browser: Browser, shown: Project) -> None:
    with timing.served(shown.build) as address:
        ready_ms, transferred = timing.loads(browser, f"{address}/report.html", 3)
    size = (shown.build / "report.html").stat().st_size
    assert len(ready_ms) == 3 and (ready_ms > 1).all() and size < transferred < size + 1000
    head, _, line = timing.table("a page", np.array([100.0, 300.0, 200.0]), 1_234_567).split("\n")
    assert "median of 3" in head and line == "| a page | 200 (100–300) | 100–300 | 1.23 MB |"


def test_without_chromium_the_benchmark_says_so_in_one_line_and_keeps_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(timing, "keep_benchmark", lambda *_: pytest.fail("kept"))
    timing.main()
    assert re.fullmatch(r"page: skipped, there is no chromium: .*\n", capsys.readouterr().out)


def test_the_benchmark_without_a_report_says_how_to_make_one(monkeypatch: pytest.MonkeyPatch, shown: Project) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: "chromium")
    gone = dataclasses.replace(shown, build=shown.build / "gone")
    monkeypatch.setattr(timing, "load_project", lambda: gone)
    with pytest.raises(SystemExit, match="report.html: not found, expected the report. Make it: `make repro`"):
        timing.main()


def test_tags_in_names_are_text(browser: Browser, shown: Project, tmp_path: Path) -> None:
    verdicts = read_json(shown.build / "verdicts.json")
    kept = (shown.build / "verdicts.json").read_bytes()
    evil = '</script><img src=x onerror="window.taken=1">\'"&'
    row = verdicts["passes"]["targets"]["onnxruntime-cpu-fp32"]
    verdicts["passes"]["targets"] = {evil: row | {"reason": evil}, **verdicts["passes"]["targets"]}
    verdicts["passes"]["metric"]["name"] = evil
    verdicts["halfway"]["targets"]["tensorrt-fp16"]["reason"] = evil
    write_json(shown.build / "verdicts.json", verdicts)
    try:
        report(shown)
        page = opened(browser, shown.build / "report.html")
        assert page.evaluate("window.taken") is None
        assert page.locator("img[src=x]").count() == 0
        expect(page.locator(".matrix thead th").nth(1)).to_contain_text(evil)
        assert page.said == [] and len(page.asked) == 1
    finally:
        (shown.build / "verdicts.json").write_bytes(kept)
        report(shown)
