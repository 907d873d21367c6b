"""The server's page in a real browser: drawn on, written with, asked for a token, and with the server gone"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright
from served import text_bundle

from deploy.contract import load_examples, open_bundle
from deploy.files import read_json
from deploy.runtimes import open_onnxruntime

pytestmark = pytest.mark.slow

BUNDLES = ROOT / "build" / "bundle"
NAMES = ("gorner_digits", "lstm_digits", "gru_python", "dates_attention", "tagger_python")
REFUSED = ("gru_python", "dates_attention")  # in int8: their GRUs are small
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
Strokes = list[list[tuple[float, float]]]  # of points (x, y), 0 to 1 from the upper left


def arc(x: float, y: float, wide: float, high: float, begin: float, end: float) -> list[tuple[float, float]]:
    """Part of an ellipse in degrees, clockwise as it is seen from the right."""
    angles = np.radians(np.linspace(begin, end, 24))
    return [(x + wide * float(np.cos(a)), y + high * float(np.sin(a))) for a in angles]


DIGITS: dict[str, Strokes] = {
    "0": [arc(0.5, 0.5, 0.24, 0.36, -90, 270)],
    "1": [[(0.4, 0.3), (0.52, 0.14), (0.52, 0.86)]],
    "2": [[*arc(0.5, 0.33, 0.2, 0.18, -170, 30), (0.3, 0.84), (0.72, 0.84)]],
    "3": [arc(0.47, 0.32, 0.2, 0.17, -150, 80) + arc(0.47, 0.66, 0.23, 0.19, -80, 150)],
    "5": [[(0.68, 0.15), (0.36, 0.15), (0.33, 0.45), *arc(0.48, 0.64, 0.22, 0.2, -120, 140)]],
    "7": [[(0.28, 0.17), (0.72, 0.17), (0.45, 0.86)]],
}


@contextmanager
def served(*bundles: Path, token: str = "") -> Iterator[tuple[str, int]]:
    """The server's address and its process id, once it is ready."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        port, grpc = (each.getsockname()[1] for each in (one, other))
    asked = ["--port", str(port), "--grpc-port", str(grpc), "--verdicts", str(ROOT / "build" / "verdicts.json")]
    command = [sys.executable, "-m", "deploy.server", *map(str, bundles), *asked]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PLUMBLINE_TOKEN": token})
    root = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert process.poll() is None, "the server ended"
            try:
                urllib.request.urlopen(f"{root}/v2/health/ready", timeout=10).close()
                break
            except urllib.error.URLError:
                time.sleep(0.05)
        else:
            pytest.fail("not ready after 30 s")
        yield root, process.pid
    finally:
        process.terminate()
        try:
            process.wait(10)
        finally:
            process.kill()
            process.wait()


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
def root() -> Iterator[str]:
    with served(*(BUNDLES / name for name in NAMES)) as (root, _):
        yield root


@pytest.fixture
def page(browser: Browser, root: str) -> Iterator[Page]:
    """The page as it is served, which says nothing and asks nobody else."""
    page = made(browser)
    page.goto(root)
    expect(page.locator("#state")).to_contain_text("models of 5 recipes")
    yield page
    assert page.said == []
    assert all(url.startswith(root) for url in page.asked)
    page.context.close()


def made(browser: Browser, viewport: dict = DESK, **of: object) -> Page:
    """A page, with what it said and asked for in ``page.said`` and ``page.asked``."""
    page = browser.new_context(viewport=viewport, **of).new_page()
    page.said, page.asked = [], []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    return page


def draw(page: Page, strokes: Strokes) -> None:
    page.get_by_role("button", name="Clear").click()
    box = page.locator("#paper").bounding_box()
    for stroke in strokes:
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
        page.mouse.move(*places[0])
        page.mouse.down()
        for place in places[1:]:
            page.mouse.move(*place, steps=5)
        page.mouse.up()


@pytest.mark.parametrize("digit", DIGITS)
def test_a_drawn_digit_is_recognised_by_every_precision(page: Page, digit: str) -> None:
    draw(page, DIGITS[digit])
    expect(page.locator(".shares thead strong")).to_have_text([digit] * 3)
    expect(page.locator("#draw [role=status]")).to_have_text(f"fp32: {digit}, fp16: {digit}, int8: {digit}")
    assert page.locator(".shares thead th span").all_inner_texts() == ["fp32", "fp16", "int8"]
    shares = page.locator(".shares tbody td").evaluate_all(
        """all => all.map((cell) => [parseFloat(cell.querySelector(".share").textContent) / 100,
             cell.querySelector(".bar").getBoundingClientRect().width / cell.getBoundingClientRect().width])"""
    )
    told, drawn = np.array(shares).reshape(10, 3, 2).transpose(2, 0, 1)
    np.testing.assert_allclose(told.sum(axis=0), 1, atol=0.006)
    np.testing.assert_allclose(told, drawn, atol=0.01)
    assert (told.argmax(axis=0) == int(digit)).all()
    queue, compute, trip = np.array(page.locator(".shares tfoot td").all_inner_texts(), float).reshape(3, 3)
    assert (queue >= 0).all() and (compute > 0).all() and (queue + compute < trip).all() and (trip < 1000).all()


def test_what_is_shown_is_what_the_graph_answers(page: Page) -> None:
    draw(page, DIGITS["7"])
    expect(page.locator("#draw [role=status]")).to_have_text("fp32: 7, fp16: 7, int8: 7")
    with page.expect_request(re.compile("gorner_digits-fp32/infer")) as asked:
        page.evaluate("drawn()")
    image = np.array(asked.value.post_data_json["inputs"][0]["data"], np.uint8).reshape(1, 1, 8, 8)
    run = open_onnxruntime(BUNDLES / "gorner_digits/graphs/fp32/network.onnx")
    assert image.max() == 16
    logits = run({"image": image})["logits"][0].astype(float)
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    expect(page.locator(".shares tbody td:nth-child(2) .share")).to_have_text([f"{100 * s:.1f} %" for s in shares])
    seen = page.evaluate(
        """() => { const small = document.querySelector("#draw figure canvas");
          return [...small.getContext("2d").getImageData(0, 0, 8, 8).data].filter((_, i) => i % 4 === 0); }"""
    )
    np.testing.assert_allclose(np.array(seen) * 16 / 255, image.ravel(), atol=0.04)


@pytest.mark.parametrize("size", [0.3, 1.0])
@pytest.mark.parametrize("place", [(0.0, 0.0), (0.6, 0.5)])
def test_where_and_how_big_a_digit_is_drawn_does_not_matter(page: Page, size: float, place: tuple) -> None:
    move = place if size < 1 else (0.0, 0.0)
    strokes = [[(move[0] + size * x, move[1] + size * y) for x, y in stroke] for stroke in DIGITS["5"]]
    small, whole = page.evaluate("both => both.map((one) => [...look(one, 8, 8, 16)])", [strokes, DIGITS["5"]])
    assert np.abs(np.array(small) - whole).max() <= 1


def test_the_small_image_has_the_look_of_the_data(page: Page) -> None:
    """Against the digits of the bundle: their ink, how much of the height they fill, and where their middle is."""
    images = load_examples(open_bundle(BUNDLES / "gorner_digits"), "test")["image"][:, 0] / 16
    drawn = np.array(page.evaluate("all => all.map((one) => [...look(one, 8, 8, 16)])", list(DIGITS.values())))
    drawn = drawn.reshape(-1, 8, 8) / 16
    least, most = np.quantile(images.mean(axis=(1, 2)), [0.001, 0.999])
    assert (least <= drawn.mean(axis=(1, 2))).all() and (drawn.mean(axis=(1, 2)) <= most).all()
    assert (drawn[:, [0, -1]].max(axis=2) > 0.2).all()  # top and bottom
    middle = (drawn * np.arange(8)).sum(axis=(1, 2)) / drawn.sum(axis=(1, 2))
    truth = (images * np.arange(8)).sum(axis=(1, 2)) / images.sum(axis=(1, 2))
    assert (np.quantile(truth, 0.001) <= middle).all() and (middle <= np.quantile(truth, 0.999)).all()


def test_a_larger_image_is_as_mnist_has_them(page: Page) -> None:
    """20 of 28 pixels the longer side, the centre of mass in the middle, half-covered pixels grey."""
    for strokes in DIGITS.values():
        image = np.array(page.evaluate("one => [...look(one, 28, 28, 255)]", strokes)).reshape(28, 28)
        rows, columns = np.flatnonzero(image.max(axis=1)), np.flatnonzero(image.max(axis=0))
        longest = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
        assert 20 <= longest <= 21
        middle = [(image.sum(axis=axis) * (np.arange(28) + 0.5)).sum() / image.sum() for axis in (0, 1)]
        np.testing.assert_allclose(middle, 14, atol=0.1)
        assert image.max() == 255 and len(np.unique(image)) > 10
        assert 0.05 < image.mean() / 255 < 0.2  # 0.13 in the data


def test_a_recipe_is_chosen_and_a_free_side_is_as_long_as_the_other(page: Page) -> None:
    draw(page, DIGITS["7"])
    page.locator("#draw").get_by_label("recipe").select_option("lstm_digits")
    with page.expect_response(re.compile("lstm_digits-int8/infer")) as response:
        draw(page, DIGITS["0"])
    assert response.value.request.post_data_json["inputs"][0]["shape"] == [1, 1, 8, 8]
    expect(page.locator(".shares thead strong")).to_have_text(["0"] * 3)


def test_only_the_newest_drawing_waits(browser: Browser, root: str) -> None:
    """Answers of 50 ms each, and a hundred moves meanwhile."""
    page = made(browser)
    page.add_init_script(
        """const real = window.fetch; let underWay = 0; window.most = 0;
        window.fetch = async (path, ...rest) => {
          if (!path.includes("gorner_digits")) return real(path, ...rest);
          most = Math.max(most, ++underWay);
          const response = await real(path, ...rest);
          await new Promise((done) => setTimeout(done, 50));
          underWay--;
          return response;
        };"""
    )
    page.goto(root)
    draw(page, DIGITS["0"])
    expect(page.locator("#draw [role=status]")).to_have_text("fp32: 0, fp16: 0, int8: 0", timeout=10_000)
    assert page.evaluate("most") == 1
    assert 3 <= sum("gorner_digits" in url for url in page.asked) <= 90  # and 120 moves, of three precisions each
    page.context.close()


def test_clear_wipes_all_and_a_digit_is_drawn_by_keyboard(page: Page) -> None:
    draw(page, DIGITS["1"])
    expect(page.locator(".shares thead strong")).to_have_text(["1"] * 3)
    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".shares thead strong")).to_have_text(["–"] * 3)
    assert set(page.locator(".share").all_inner_texts()) == {""}
    page.locator("#paper").focus()
    for keys, count in (("ArrowUp", 9), (" ", 1), ("ArrowDown", 18), (" ", 1), ("ArrowLeft", 3)):
        for _ in range(count):
            page.keyboard.press(keys)
    expect(page.locator(".shares thead strong")).to_have_text(["1"] * 3)
    page.keyboard.press("Delete")
    expect(page.locator(".shares thead strong")).to_have_text(["–"] * 3)


def test_a_finger_draws_and_does_not_scroll(browser: Browser, root: str) -> None:
    page = made(browser, PHONE, has_touch=True, is_mobile=True)
    page.goto(root)
    paper = page.locator("#paper")
    paper.scroll_into_view_if_needed()
    before = page.evaluate("scrollY")
    box = paper.bounding_box()
    session = page.context.new_cdp_session(page)
    for i, (x, y) in enumerate([(0.5, 0.9 - 0.04 * step) for step in range(20)]):
        point = [{"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]}]
        session.send("Input.dispatchTouchEvent", {"type": "touchMove" if i else "touchStart", "touchPoints": point})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    expect(page.locator(".shares thead strong")).to_have_text(["1"] * 3)
    assert page.evaluate("scrollY") == before and page.said == []
    page.context.close()


def test_the_language_model_writes_what_a_direct_loop_writes(page: Page) -> None:
    run = open_onnxruntime(BUNDLES / "gru_python/graphs/fp32/network.onnx")
    state, text, wanted = np.zeros((1, 3, 96), np.float32), np.frombuffer(b"def fit(", np.uint8)[None], b""
    for _ in range(120):
        said = run({"text": text, "state": state})
        state, byte = said["next_state"], int(said["logits"][0, -1].argmax())
        wanted, text = wanted + bytes([byte]), np.array([[byte]], np.uint8)
    section = page.locator("#write")
    section.get_by_label("prompt").fill("def fit(")
    section.get_by_label("model").select_option("gru_python-fp32")
    section.get_by_label("temperature").fill("0")
    section.get_by_label("characters").fill("120")
    section.get_by_role("button").click()
    told = section.locator(".told")
    expect(told).to_contain_text("120 characters: ")
    assert section.locator("pre").text_content() == "def fit(" + wanted.decode()
    assert int(re.search(r"([\d,]+) a second", told.inner_text())[1].replace(",", "")) > 100
    section.get_by_label("temperature").fill("1.2")
    written = set()
    for _ in range(2):
        section.get_by_role("button").click()
        expect(told).to_contain_text("120 characters: ")
        written.add(section.locator("pre").text_content())
    assert len(written) == 2  # another seed each time


def test_stop_stops(page: Page) -> None:
    section = page.locator("#write")
    section.get_by_label("characters").fill("100000")
    with page.expect_event("requestfailed") as failed:
        section.get_by_role("button", name="Write").click()
        expect(section.locator("pre")).to_contain_text(re.compile(r"def [\s\S]{20}"))
        section.get_by_role("button", name="Stop").click()
    assert failed.value.failure == "net::ERR_ABORTED"
    expect(section.locator(".told")).to_contain_text(", stopped: ")
    expect(section.get_by_role("button")).to_have_text("Write")
    written = section.locator("pre").text_content()
    count = int(section.locator(".told").inner_text().split()[0].replace(",", ""))
    assert len(written) == len("def ") + count < 100_000
    page.wait_for_timeout(200)
    assert section.locator("pre").text_content() == written


def test_a_line_is_translated_by_each_precision(page: Page) -> None:
    section = page.locator("#translate")
    section.get_by_label("line").fill("Tuesday, 3rd of March 1987")
    expect(section.locator("tbody td:nth-child(2)")).to_have_text(["1987-03-03"] * 2)
    assert section.locator("tbody th").all_inner_texts() == ["fp32", "fp16"]
    for time_ in section.locator("tbody td:nth-child(3)").all_inner_texts():
        assert re.fullmatch(r"[\d.]+ ms computed, [\d.]+ ms in all", time_)
    section.get_by_label("line").fill("")
    expect(section.locator("tbody td:nth-child(2)")).to_have_text([""] * 2)


def test_a_text_is_judged_by_the_graph_alone(browser: Browser, tmp_path: Path) -> None:
    """Bytes go in and a class comes out: the words are told apart inside the graph."""
    text_bundle(tmp_path / "reviews")
    bundle = open_bundle(tmp_path / "reviews")
    run = open_onnxruntime(bundle.path(bundle.graphs["fp32"]["network"]))
    page = made(browser)
    with served(tmp_path / "reviews") as (root, _):
        page.goto(root)
        for text in ("a good film", "a bad, bad film", "größer", "good " * 400):
            page.locator("#judge").get_by_label("text").fill(text)
            logits = run({"text": np.frombuffer(text.encode(), np.uint8)[None]})["logits"][0].astype(np.float64)
            shares = np.exp(logits) / np.exp(logits).sum()
            told = f"{bundle.classes[shares.argmax()]}, {100 * shares.max():.1f} %"
            expect(page.locator("#judge tbody td:nth-child(2)")).to_have_text([told])
        page.locator("#judge").get_by_label("text").fill("")
        expect(page.locator("#judge tbody td:nth-child(2)")).to_have_text([""])
        assert page.said == []
    page.context.close()


def test_no_answer_is_told_and_what_differs_is_marked(browser: Browser, root: str) -> None:
    page = made(browser)

    def other(route: Route) -> None:
        answer = {"name": "greedy", "shape": [1, 4], "datatype": "UINT8", "data": [255] * 4}
        route.fulfill(json={"outputs": [answer]})

    page.route("**/dates_attention-fp16/infer", other)
    page.goto(root)
    page.locator("#translate").get_by_label("line").fill("3 May 2001")
    lines = page.locator("#translate tbody td:nth-child(2)")
    expect(lines).to_have_text(["2001-05-03", "no answer: the network gave no number differs"])
    page.context.close()


def test_a_text_is_coloured_by_the_graphs_classes(page: Page) -> None:
    contract = open_bundle(BUNDLES / "tagger_python")
    text = 'def größe(x):\n    return "ß" + str(x)  # 2'
    page.locator("#tag").get_by_label("text").fill(text)
    expect(page.locator("#tag pre").first).to_have_text(text)
    expect(page.locator("#tag pre").last).to_have_text(text)
    assert tuple(page.locator(".legend li").all_inner_texts()) == contract.classes
    raw = text.encode()
    starts = [len(text[:i].encode()) for i in range(len(text))]
    for place, precision in zip(page.locator("#tag pre").all(), ("fp32", "fp16", "int8-cpu")):
        run = open_onnxruntime(contract.path(contract.graphs[precision]["network"]))
        kinds = run({"text": np.frombuffer(raw, np.uint8)[None]})["logits"][0].argmax(axis=1)[starts]
        runs = place.locator("span").evaluate_all("all => all.map((run) => [run.textContent, run.title])")
        assert [title for run_, title in runs for _ in run_] == [contract.classes[kind] for kind in kinds]
        if precision == "fp32":
            first = kinds
        apart = place.locator("span.differs").evaluate_all("all => all.map((run) => run.textContent).join('')")
        assert apart == "".join(c for c, kind, was in zip(text, kinds, first) if kind != was)


def test_the_verdicts_are_those_of_the_gate(page: Page) -> None:
    verdicts = read_json(ROOT / "build" / "verdicts.json")
    rows = {row.locator("th").inner_text().split("\n")[0]: row for row in page.locator(".models tbody tr").all()}
    for name in NAMES:
        for precision in ("fp32", "fp16", "int8"):
            if precision == "int8" and name in REFUSED:
                assert f"{name}-int8" not in rows
                continue
            told = rows[f"{name}-{precision}"].text_content()
            truth = verdicts[name]["targets"][f"onnxruntime-cpu-{precision}"]
            metric, unit = truth["metric"].split(", ")
            for word in (truth["verdict"], truth["reason"], metric, unit, truth["host"], truth["date"]):
                assert word in told
            for number in (truth["trained"], truth["deployed"]):
                assert f"{number:.{2 if unit == '%' else 4}f}" in told
            assert f"{truth['latency_ratio']:.2f}" in told
    for name, given in (
        ("gorner_digits-fp32", "logits float32 [batch, 10]"),
        ("dates_attention-fp16-step", "next_state"),
    ):
        rows[name].locator("summary").click()
        assert given in rows[name].inner_text()


def test_a_model_of_another_task_is_listed_alone_and_no_text_becomes_markup(browser: Browser, root: str) -> None:
    page = made(browser)
    bad = "<b>bold</b><img src=x onerror=alert(1)>"

    def changed(route: Route) -> None:
        models = route.fetch().json()
        ours = [model for model in models if model["recipe"] == "gorner_digits"]
        for model in ours:
            model["classes"][7], model["verdict"] = bad, None
        other = {**ours[0], "model": "detector-fp32", "recipe": bad, "task": "detection"}
        route.fulfill(json=[*ours, other])

    page.route("**/served", changed)
    page.goto(root)
    draw(page, DIGITS["7"])
    expect(page.locator(".shares thead strong")).to_have_text([bad] * 3)
    expect(page.locator(".models tbody tr").last).to_contain_text("detector-fp32")
    expect(page.locator(".models tbody tr").last).to_contain_text("not judged")
    assert page.locator("#draw").get_by_label("recipe").locator("option").all_inner_texts() == ["gorner_digits"]
    assert page.locator("main b, main img").count() == 0
    for name in ("judge", "write", "translate", "tag"):
        expect(page.locator(f"#{name}")).to_be_hidden()
    assert page.said == []
    page.context.close()


def test_the_page_is_there_before_the_server_has_said_anything(browser: Browser, root: str) -> None:
    page = made(browser)
    page.route("**/served", lambda _: None)  # never answered
    page.goto(root)
    expect(page.locator("#state")).to_have_text("Asking the server what it serves…")
    page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length")
    page.context.close()


def test_a_model_that_was_replaced_is_told(browser: Browser, root: str) -> None:
    page = made(browser)

    def older(route: Route) -> None:
        route.fulfill(json=[model | {"version": "0" * 12} for model in route.fetch().json()])

    page.route("**/served", older)
    page.goto(root)
    draw(page, DIGITS["1"])
    expect(page.locator("#state")).to_contain_text("was replaced since this page asked. Reload it")
    page.context.close()


def test_errors_are_told_where_they_arose(browser: Browser, root: str) -> None:
    page = made(browser)
    page.goto(root)
    expect(page.locator("#draw")).to_be_visible()
    full = "gorner_digits-fp16: 64 requests wait, and it takes no more. Ask again after a second."
    page.route("**/gorner_digits-fp16/infer", lambda route: route.fulfill(status=503, json={"error": full}))
    draw(page, DIGITS["7"])
    expect(page.locator("#draw .error")).to_have_text(f"fp16: {full}")
    expect(page.locator(".shares thead strong")).to_have_text(["7", "–", "7"])
    page.unroute("**/gorner_digits-fp16/infer")
    page.evaluate("drawn()")
    expect(page.locator("#draw .error")).to_have_text("")
    page.locator("#write").get_by_label("prompt").fill("")
    page.route("**/generate_stream", lambda route: route.fulfill(status=400, json={"error": "text_input: empty"}))
    page.locator("#write").get_by_role("button").click()
    expect(page.locator("#write .error")).to_have_text("text_input: empty")
    page.unroute("**/generate_stream")
    events = 'data: {"text_output": "ab"}\n\ndata: {"error": "logits: not finite"}\n\n'
    page.route("**/generate_stream", lambda route: route.fulfill(content_type="text/event-stream", body=events))
    page.locator("#write").get_by_role("button").click()
    expect(page.locator("#write .error")).to_have_text("logits: not finite")
    expect(page.locator("#write pre")).to_have_text("ab")
    page.context.close()


def test_a_token_is_asked_for_and_kept_in_the_tab(browser: Browser) -> None:
    page = made(browser)
    with served(BUNDLES / "gorner_digits", token="open sesame") as (root, _):
        page.goto(root)
        field = page.get_by_label("bearer token")
        expect(field).to_be_focused()
        expect(page.locator("#state")).to_have_class("error")
        expect(page.locator("#draw")).to_be_hidden()
        field.fill("wrong")
        page.keyboard.press("Enter")
        expect(field).to_have_value("")
        expect(field).to_be_visible()
        field.fill("open sesame")
        page.keyboard.press("Enter")
        expect(field).to_be_hidden()
        draw(page, DIGITS["0"])
        expect(page.locator(".shares thead strong")).to_have_text(["0"] * 3)
        page.reload()
        expect(page.locator("#draw")).to_be_visible()
        expect(field).to_be_hidden()
        assert page.evaluate("[localStorage.length, document.cookie, location.search]") == [0, "", ""]
        assert not any("sesame" in url for url in page.asked)
    page.context.close()


def test_a_server_that_is_gone_is_told_and_one_that_is_back_is_used(browser: Browser) -> None:
    page = made(browser)
    with served(BUNDLES / "gorner_digits", BUNDLES / "gru_python") as (root, pid):
        page.goto(root)
        draw(page, DIGITS["7"])
        expect(page.locator(".shares thead strong")).to_have_text(["7"] * 3)
        write = page.locator("#write")
        write.get_by_label("characters").fill("100000")
        write.get_by_role("button").click()
        expect(write.locator("pre")).to_contain_text(re.compile(r"def [\s\S]{20}"))
        os.kill(pid, signal.SIGKILL)
        expect(write.locator(".error")).to_contain_text("The server does not answer.")
        expect(write.get_by_role("button")).to_have_text("Write")
        assert len(write.locator("pre").text_content()) > 20  # what came is kept
        draw(page, DIGITS["1"])
        expect(page.locator("#draw .error")).to_contain_text("The server does not answer.")
        expect(page.locator(".shares thead strong")).to_have_text(["–"] * 3)
    page.route("**/served", lambda route: route.abort())
    page.route(f"{root}/", lambda route: route.fulfill(path=ROOT / "deploy/server/page.html"))
    page.route("**/page.*", lambda route: route.fulfill(path=ROOT / "deploy/server" / route.request.url.split("/")[-1]))
    page.goto(root)
    expect(page.locator("#state")).to_have_text("The server does not answer. Is it still running?")
    page.unroute("**/served")
    page.route("**/served", lambda route: route.fulfill(json=[]))
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#state")).to_contain_text("Nothing is served.")
    expect(page.get_by_role("button", name="Try again")).to_be_hidden()
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESK, PHONE])
def test_it_keeps_to_the_window_stands_still_and_can_be_read(
    browser: Browser, root: str, viewport: dict, scheme: str
) -> None:
    page = made(browser, viewport, color_scheme=scheme)
    page.add_init_script(
        """window.moved = 0; new PerformanceObserver((list) => {
          for (const one of list.getEntries()) moved += one.value; }).observe({type: "layout-shift", buffered: true})"""
    )
    response = page.goto(root)
    assert "default-src 'self'" in response.headers["content-security-policy"]
    assert "unsafe" not in response.headers["content-security-policy"]
    draw(page, DIGITS["7"])
    expect(page.locator(".shares thead strong")).to_have_text(["7"] * 3)
    page.locator("#translate").get_by_label("line").fill("3 May 2001")
    expect(page.locator("#translate tbody td:nth-child(2)").last).to_have_text("2001-05-03")
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    assert page.evaluate("moved") < 0.02
    assert page.evaluate(CONTRAST) == []
    unnamed = page.evaluate(
        """[...document.querySelectorAll("input, select, textarea, button, canvas")].filter((one) =>
          !(one.labels?.length || one.getAttribute("aria-label") || one.textContent.trim())).map((one) => one.outerHTML)"""
    )
    assert unnamed == [] and page.said == []
    page.context.close()


# Text of less than 4.5 : 1 against what is behind it (WCAG 2.2, 1.4.3), by the relative luminance of sRGB.
CONTRAST = """(() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const bad = [];
  for (const element of document.querySelectorAll("body *")) {
    const text = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!text || !element.checkVisibility()) continue;
    const bar = element.classList.contains("share") && element.parentElement.querySelector(".bar");
    const grounds = [behind(element), ...(bar ? [parse(getComputedStyle(bar).backgroundColor)] : [])];
    for (const ground of grounds) {
      const [a, b] = [luminance(parse(getComputedStyle(element).color)), luminance(ground)].sort((x, y) => y - x);
      if ((a + 0.05) / (b + 0.05) < 4.5) bad.push([element.outerHTML.slice(0, 80), (a + 0.05) / (b + 0.05)]);
    }
  }
  return bad;
})()"""
