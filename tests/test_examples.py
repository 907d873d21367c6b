"""The test items that the page shows: counted a second time from the answers, and looked at."""

import types
from base64 import b64decode
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deploy.tasks import classification, language_model, tagging, translation
from deploy.tasks.metric import Metric
from pipeline.examples import LOST, OTHER, SAME, WON, examples, picture
from pipeline.judge import judge_accuracy

NOTHING = "nothing finite"
CHANGED = {LOST: True, WON: True, OTHER: True, SAME: False}


def measurement(trained: tuple[Any, list], **targets: tuple[Any, list]) -> dict[str, Any]:
    """Statistics and what is said, of the trained network and of each target; and two targets that have none."""

    def row(statistics: Any, predicted: list) -> dict[str, Any]:
        return {"statistics": np.asarray(statistics, float).tolist(), "predicted": predicted}

    none = {"failed": {"reason": "", "failed": "of memory"}, "absent": {"reason": "no GPU"}}
    return {"trained": row(*trained), "targets": {name: row(*of) for name, of in targets.items()} | none}


def classified(truth: list[int], *said: list[int]) -> dict[str, Any]:
    """The trained network's answers and those of ``t0``, ``t1`` …, right where they are the truth."""
    rows = [([[float(a == b)] for a, b in zip(of, truth)], of) for of in said]
    return measurement(rows[0], **{f"t{i}": of for i, of in enumerate(rows[1:])})


def lines(*texts: str, longest: int = 200) -> np.ndarray:
    return np.array([list(text.encode().ljust(longest, b"\0")) for text in texts], np.uint8)


@st.composite
def answers(draw: st.DrawFn, targets: int, most: int = 60) -> list[list[int]]:
    """The truth, and what the trained network and each target say: mostly the truth, -1 is nothing finite."""
    n = draw(st.integers(1, most))
    truth = draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    said = st.lists(st.integers(-1, 5), min_size=n, max_size=n)
    return [truth, *([t if s > 2 else s for s, t in zip(draw(said), truth)] for _ in range(targets + 1))]


@pytest.mark.parametrize("n", [1, 7, 60])
def test_the_flips_shown_are_the_flips_judged(n: int) -> None:
    rng = np.random.default_rng(n)
    truth, trained, deployed = rng.integers(0, 3, n), *rng.integers(-1, 3, (2, n))
    test = {"image": np.zeros((n, 1, 1, 1), np.uint8), "label": truth}
    came = classified(truth.tolist(), trained.tolist(), deployed.tolist())
    groups = {group["title"]: group["all"] for group in examples(test, list("abc"), came, classification)}
    before, after = (np.array(row["statistics"]) for row in (came["trained"], came["targets"]["t0"]))
    flips = judge_accuracy(before, after, classification, 1.0).facts["flips"]
    assert {"lost": groups.get(LOST, 0), "won": groups.get(WON, 0)} == flips


@settings(deadline=None)
@given(answers(3))
def test_every_item_is_in_the_first_group_that_it_fits(drawn: list[list[int]]) -> None:
    truth, trained, *deployed = drawn
    kinds: dict[str, list[int]] = {LOST: [], WON: [], OTHER: [], SAME: []}
    for i, right in enumerate(truth):
        said = [of[i] for of in deployed]
        if trained[i] == right:
            if set(said) != {right}:
                kinds[LOST].append(i)
        elif right in said:
            kinds[WON].append(i)
        else:
            kinds[SAME if set(said) == {trained[i]} else OTHER].append(i)
    test = {"features": np.arange(len(truth))[:, None], "label": np.array(truth)}
    groups = examples(test, list("abc"), classified(*drawn), classification)
    assert [(g["title"], g["all"]) for g in groups] == [(kind, len(of)) for kind, of in kinds.items() if of]
    word = {0: "a", 1: "b", 2: "c", -1: NOTHING}
    for group in groups:
        assert group["changed"] == CHANGED[group["title"]]
        assert [item["index"] for item in group["items"]] == kinds[group["title"]][:24]
        for item in group["items"]:
            i = item["index"]
            others = {f"t{k}": word[of[i]] for k, of in enumerate(deployed) if of[i] != trained[i]}
            assert item == {
                "index": i, "numbers": f"features: {i}", "truth": word[truth[i]], "trained": word[trained[i]],
                "others": others,
            }  # fmt: skip


def test_of_more_items_than_are_shown_all_are_counted() -> None:
    truth = [0] * 100
    test = {"features": np.zeros((100, 2)), "label": np.array(truth)}
    (group,) = examples(test, ["a", "b"], classified(truth, truth, [1] * 100), classification)
    assert (group["title"], group["all"], len(group["items"])) == (LOST, 100, 24)


def test_where_no_target_answered_only_what_was_wrong_before_is_shown() -> None:
    test = {"features": np.zeros((3, 2)), "label": np.array([0, 1, 0])}
    (group,) = examples(test, ["a", "b"], classified([0, 1, 0], [0, 0, -1]), classification)
    assert (group["title"], group["changed"], group["all"]) == (SAME, False, 2)
    assert [item["trained"] for item in group["items"]] == ["a", NOTHING]
    assert examples(test, ["a", "b"], classified([0, 1, 0], [0, 1, 0]), classification) == []
    text = {"text": lines("one", "two")}
    said = [[100.0, 50.0], [90.0, 50.0]], ["", ""]
    assert examples(text, [], measurement(said), language_model) == []
    tagged = text | {"token": np.zeros((2, 200), np.uint8)}
    assert examples(tagged, ["a"], measurement(([[1, 0, 0]] * 2, ["000", "000"])), tagging) == []


def shown(test: dict[str, np.ndarray]) -> dict[str, Any]:
    """The first of two items, which the trained network tells wrongly, without what is said of it."""
    whole = test | {"label": np.array([0, 1])}
    (group,) = examples(whole, ["a", "b"], classified([0, 1], [1, 1], [1, 1]), classification)
    (item,) = group["items"]
    assert {key: item.pop(key) for key in ("truth", "trained", "others")} == {
        "truth": "a",
        "trained": "b",
        "others": {},
    }
    return item


@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64, np.int64])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_shown_as_a_picture(channels: int, kind: type) -> None:
    image = np.random.default_rng(0).integers(0, 256, (2, channels, 6, 5)).astype(kind)
    assert shown({"image": image}) == {"index": 0, "image": picture(image[0])}


@pytest.mark.parametrize("shape", [(6, 5, 3), (2, 6, 5), (6, 5), (30,), (1, 2, 6, 5)])
def test_only_images_are_pictures_whatever_an_array_is_called(shape: tuple[int, ...]) -> None:
    image = np.arange(2 * np.prod(shape), dtype=np.float32).reshape(2, *shape)
    assert shown({"image": image}) == {"index": 0, "numbers": "image: 0 1 2 3 4 5 6 7 …"}


def test_a_text_is_shown_as_text_and_a_long_one_cut() -> None:
    assert shown({"text": lines("naïve €", "b")}) == {"index": 0, "text": "naïve €"}
    assert shown({"text": lines("é" * 100, "b")}) == {"index": 0, "text": "é" * 100}
    assert shown({"text": lines("x" * 161, "b")}) == {"index": 0, "text": "x" * 160 + "…"}
    assert shown({"text": lines("x" * 160, "b")}) == {"index": 0, "text": "x" * 160}
    torn = lines("ab", "b")
    torn[0, 1] = 0xFF
    assert shown({"text": torn}) == {"index": 0, "text": "a\N{REPLACEMENT CHARACTER}"}


@pytest.mark.parametrize("name", ["text", "source"])
@pytest.mark.parametrize("kind", [np.float32, np.int64])
def test_only_bytes_are_text_whatever_an_array_is_called(name: str, kind: type) -> None:
    assert shown({name: np.array([[65, 66], [1, 2]], kind)}) == {"index": 0, "numbers": f"{name}: 65 66"}


def test_a_row_of_a_table_is_shown_by_its_numbers() -> None:
    features = np.array([[0.123456, -2.0, 1e-7, 3e9, 0, 0, 0, 0], [0] * 8])
    told = "features: 0.1235 -2 1e-07 3e+09 0 0 0 0"
    assert shown({"features": features}) == {"index": 0, "numbers": told}
    assert shown({"features": np.hstack([features, features])}) == {"index": 0, "numbers": f"{told} …"}


def test_lines_are_shown_with_what_each_network_makes_of_them() -> None:
    test = {"source": lines("one", "two", "three", "four"), "target": lines("1", "2", "3", "4")}
    truth = ["1", "2", "3", "4"]
    said = {"trained": ["0", "2", "3", ""], "t": ["0", "2", None, "4"], "u": ["0", "2", "3", "4"]}
    rows = {name: ([[a == b, a == b] for a, b in zip(of, truth)], of) for name, of in said.items()}
    lost, won, same = examples(test, [], measurement(rows["trained"], t=rows["t"], u=rows["u"]), translation)
    assert (lost["title"], won["title"], same["title"]) == (LOST, WON, SAME)
    assert lost["items"] == [{"index": 2, "text": "three", "truth": "3", "trained": "3", "others": {"t": NOTHING}}]
    others = {"t": "4", "u": "4"}
    assert won["items"] == [{"index": 3, "text": "four", "truth": "4", "trained": "", "others": others}]
    assert same["items"] == [{"index": 0, "text": "one", "truth": "1", "trained": "0", "others": {}}]


@settings(deadline=None)
@given(st.lists(st.text("aé€😀 \n", min_size=1, max_size=40), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_a_taggers_places_are_a_second_count_of_its_characters(texts: list[str], seed: int) -> None:
    """Bytes that go on with a character have labels too, which none sees, and which no score counts."""
    rng, classes = np.random.default_rng(seed), ["name", "number", "other"]
    text = lines(*texts)
    test = {"text": text, "token": (rng.integers(0, 3, text.shape) * (text != 0)).astype(np.uint8)}
    said, rows = {}, {}
    for name in ("trained", "t", "u"):
        logits = rng.integers(1, 4, (*text.shape, 3)).astype(float)
        logits[rng.random(text.shape) < 0.1] = np.nan
        logits[text == 0] = 0
        said[name] = tagging.decode({"logits": logits})
        rows[name] = tagging.observe({"logits": logits}, test), said[name]

    word = dict(zip("012?", [*classes, NOTHING]))
    expected: dict[str, list[dict[str, Any]]] = {LOST: [], WON: [], OTHER: []}
    for i, whole in enumerate(texts):
        for k, character in enumerate(whole):
            at = len(whole[:k].encode())
            truth, was = classes[test["token"][i, at]], word[said["trained"][i][at]]
            others = {name: now for name in ("t", "u") if (now := word[said[name][i][at]]) != was}
            if others:
                kind = LOST if was == truth else WON if truth in others.values() else OTHER
                around = {"before": whole[:k][-24:], "changed": character, "after": whole[k + 1 :][:24]}
                expected[kind].append(around | {"others": others, "index": i, "truth": truth, "trained": was})
    groups = examples(test, classes, measurement(rows["trained"], t=rows["t"], u=rows["u"]), tagging)
    assert [(g["title"], g["all"]) for g in groups] == [(kind, len(of)) for kind, of in expected.items() if of]
    for group in groups:
        assert group["changed"] and group["items"] == expected[group["title"]][:12]


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(100, 140)] * 3, st.integers(20, 25)), min_size=1, max_size=20))
def test_the_greatest_losses_and_gains_of_a_language_model_come_first(rows: list[tuple[int, int, int, int]]) -> None:
    test = {"text": lines(*(f"text {i}" for i in range(len(rows))))}
    statistics = [[[row[k], row[3]] for row in rows] for k in range(3)]
    said = [(of, [f"{nats} nats" for nats, _ in of]) for of in statistics]
    groups = examples(test, [], measurement(said[0], t=said[1], u=said[2]), language_model)
    bits = [[nats / characters / np.log(2) for nats, characters in of] for of in statistics]
    expected = []
    for title, worst in (("Lost most by deploying", max), ("Gained most by deploying", min)):
        change = {i: worst(bits[1][i], bits[2][i]) - bits[0][i] for i in range(len(rows))}
        sign = 1 if worst is max else -1
        order = sorted((i for i in change if sign * change[i] > 1e-3), key=lambda i: -sign * change[i])
        if order:
            expected.append((title, len(order), [round(change[i], 9) for i in order[:6]]))
            (group,) = (g for g in groups if g["title"] == title)
            for item in group["items"]:
                i = item.pop("index")
                told = [f"{of[i]:.4f} bits" for of in bits]
                assert item == {
                    "text": f"text {i}", "truth": "", "trained": told[0], "others": {"t": told[1], "u": told[2]}
                }  # fmt: skip
                item["change"] = round(change[i], 9)
    assert [(g["title"], g["all"], [item["change"] for item in g["items"]]) for g in groups] == expected
    assert all(group["changed"] for group in groups)


def test_a_score_that_grows_is_lost_where_it_falls() -> None:
    """The direction is the metric's: here more is better."""
    task = types.SimpleNamespace(
        metric=Metric("overlap", "%", True, 0.0, 100.0, right_or_wrong=False), needs=(), score=lambda s: float(s.mean())
    )
    test = {"features": np.zeros((3, 1))}
    both = measurement(([[50.0], [50.0], [50.0]], [""] * 3), t=([[40.0], [50.001], [70.0]], [""] * 3))
    lost, gained = examples(test, [], both, task)
    assert [item["index"] for item in lost["items"]] == [0] and [item["index"] for item in gained["items"]] == [2]
    assert (lost["items"][0]["trained"], lost["items"][0]["others"]) == ("50.00 %", {"t": "40.00 %"})


def decoded(image: np.ndarray) -> np.ndarray:
    start, _, data = picture(image).partition(",")
    assert start == "data:image/png;base64"
    return np.asarray(Image.open(BytesIO(b64decode(data))))


def test_a_grey_picture_is_ink_on_paper_and_one_in_colour_is_itself_and_small() -> None:
    image = np.arange(64, dtype=np.uint8).reshape(1, 8, 8) % 17
    np.testing.assert_array_equal(decoded(image), 255 - (255.0 * image[0] / 16).astype(np.uint8))
    colour = np.random.default_rng(0).integers(0, 256, (3, 9, 7)).astype(np.uint8)
    np.testing.assert_array_equal(decoded(colour), colour.transpose(1, 2, 0))
    assert decoded(np.zeros((3, 224, 448), np.uint8)).shape == (32, 64, 3)
    assert decoded(np.zeros((1, 1, 3000), np.uint8)).shape == (1, 64)


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
