"""The task of names, its loss, and the look-up that it is told beside"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from texts import to_bytes

from benchmarks import lookup
from deploy import per_character
from deploy.tasks import entities as task
from deploy.tasks import load_task, tagging
from pipeline import losses, plots
from pipeline.datasets import wnut17
from pipeline.examples import LOST, WON, examples

TYPES = ("person", "place", "thing")
TAGS = ("O", *(f"{mark}-{kind}" for kind in TYPES for mark in "BI"))  # class -> tag
NONE = "?"  # an answer that is not finite

Line = list[tuple[str, str, str]]  # a text: its words, each with its true tag and the one that is said


# An oracle: the rules of conlleval.pl, word by word


def chunks(tags: list[str]) -> set[tuple[int, int, str]]:
    """First word, last word and type of each name."""
    found, begin = set(), None
    before, kind_before = "O", ""
    for at, tag in enumerate([*tags, "O"]):
        mark, _, kind = tag.replace(NONE, "O").partition("-")
        ends = (before == "B" and mark in "BO") or (before == "I" and mark in "BO")
        ends |= before != "O" and kind != kind_before
        begins = mark == "B" or (before == "O" and mark == "I") or (mark != "O" and kind != kind_before)
        if ends:
            assert begin is not None
            found.add((begin, at - 1, kind_before))
        if begins:
            begin = at
        before, kind_before = mark, kind
    return found


def counts(texts: list[Line]) -> tuple[int, int, int]:
    """Names right, said and true; a word of no class is a name said."""
    right = said = true = 0
    for line in texts:
        truth, answer = chunks([tag for _, tag, _ in line]), chunks([tag for _, _, tag in line])
        right, true = right + len(truth & answer), true + len(truth)
        said += len(answer) + [tag for _, _, tag in line].count(NONE)
    return right, said, true


def made(texts: list[Line], longer: int = 0, seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Examples and answers; what nobody reads is drawn at random, in the answers NaN among it."""
    rng = np.random.default_rng(seed)
    text = to_bytes([" ".join(word for word, _, _ in line) for line in texts])
    text = np.pad(text, ((0, 0), (0, longer)))
    token, logits = np.zeros_like(text), rng.normal(size=(*text.shape, len(TAGS))).astype(np.float32)
    logits[rng.random(text.shape) < 0.2] = np.nan
    for i, line in enumerate(texts):
        at = 0
        for word, true, said in line:
            size = len(word.encode())
            token[i, at : at + size] = TAGS.index(true)
            logits[i, at] = rng.permutation([np.nan, *np.zeros(6)]) if said == NONE else np.eye(7)[TAGS.index(said)]
            at += size + 1
    logits[text == 0] = 0
    return {"text": text, "token": token}, {"logits": logits}


words = st.text("aB@é→😀-'\x7f\u00a0", min_size=1, max_size=4)
drawn = st.lists(
    st.lists(st.tuples(words, st.sampled_from(TAGS), st.sampled_from((*TAGS, NONE))), min_size=1, max_size=8),
    min_size=1,
    max_size=4,
)


@given(drawn, st.integers(0, 9), st.integers(0, 2**32 - 1))
def test_names_are_conllevals_and_nothing_but_first_bytes_is_read(texts: list[Line], longer: int, seed: int) -> None:
    example, answers = made(texts, longer, seed)
    statistics = task.observe(answers, example)
    assert statistics.shape == (len(texts), 3 * (1 + len(TYPES)))
    right, said, true = counts(texts)
    assert statistics.sum(axis=0).reshape(3, -1).sum(axis=1).tolist() == [right, said, true]
    for line, row in zip(texts, statistics):
        assert row.reshape(3, -1).sum(axis=1).tolist() == list(counts([line]))
    assert task.score(statistics) == pytest.approx(200 * right / (said + true) if said + true else 0)


@given(drawn)
def test_f1_of_a_type_is_that_of_texts_in_which_no_other_is(texts: list[Line]) -> None:
    details = task.details(task.observe(*reversed(made(texts))))
    expected = {}
    for i, kind in enumerate(TYPES):
        right = said = true = 0
        for line in texts:
            truth, answer = (
                {chunk for chunk in chunks([word[column] for word in line]) if chunk[2] == kind} for column in (1, 2)
            )
            right, said, true = right + len(truth & answer), said + len(answer), true + len(truth)
        if said + true:
            expected[f"F1 of names of class {1 + 2 * i}"] = 200 * right / (said + true)
    right, said, true = counts(texts)
    shares = {"precision": 100 * right / max(said, 1), "recall": 100 * right / max(true, 1)}
    assert details == pytest.approx(shares | expected)


@given(drawn)
def test_the_truth_scores_100_and_o_throughout_0(texts: list[Line]) -> None:
    truth = [[(word, tag, tag) for word, tag, _ in line] for line in texts]
    expected = 100 if counts(truth)[2] else 0  # of no names at all nothing is right
    assert task.score(task.observe(*reversed(made(truth)))) == expected
    nothing = [[(word, tag, "O") for word, tag, _ in line] for line in texts]
    assert task.score(task.observe(*reversed(made(nothing)))) == 0


HAND: list[Line] = [
    [
        ("Ada", "B-person", "B-person"),  # right
        ("Lovelace", "I-person", "I-person"),
        ("saw", "O", "O"),
        ("Köln", "B-place", "I-place"),  # right: conlleval lets "I" begin a name
        ("→", "O", "O"),
        ("Ada", "B-person", "B-person"),  # its last word is missed
        ("King", "I-person", "O"),
    ],
    [
        ("Bonn", "B-place", "B-person"),  # another type
        ("Trier", "B-place", "B-place"),  # right, though the one before it is none
        ("x", "O", "B-thing"),  # none is there
    ],
]


def test_an_example_by_hand() -> None:
    statistics = task.observe(*reversed(made(HAND)))
    told = task.details(statistics)
    assert told["precision"] == 50 and told["recall"] == pytest.approx(60)  # 3 right of 6 said, of 5 true
    assert task.score(statistics) == pytest.approx(600 / 11)
    assert told["F1 of names of class 1"] == 40  # person: 1 right, 3 said, 2 true
    assert told["F1 of names of class 3"] == pytest.approx(80)  # place: 2 right, 2 said, 3 true
    assert told["F1 of names of class 5"] == 0
    assert task.score(statistics[:1]) == pytest.approx(200 * 2 / 6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_answer_that_is_not_finite_is_never_right(value: float) -> None:
    truth = [[(word, tag, tag) for word, tag, _ in line] for line in HAND]
    example, answers = made(truth)
    whole = task.observe(answers, example)
    for text, place in zip(*np.nonzero(task.counted(example["text"]))):
        broken = answers["logits"].copy()
        broken[text, place, 2] = value  # one class of one word, be it of a name or not
        assert task.score(task.observe({"logits": broken}, example)) < task.score(whole) == 100
    broken = np.full_like(answers["logits"], value)
    assert task.score(task.observe({"logits": broken}, example)) == 0
    assert set(task.decode({"logits": broken})[0]) == {"?"}


def test_a_word_begins_after_white_space_or_at_the_start() -> None:
    text = to_bytes(["é b\tc\n d", " a", "a  é", "", " "])
    begins = [np.flatnonzero(row).tolist() for row in task.counted(text)]
    assert begins == [[0, 3, 5, 8], [1], [0, 3], [], []]
    characters = [np.flatnonzero(row).tolist() for row in tagging.counted(text)]
    assert characters == [[0, 2, 3, 4, 5, 6, 7, 8], [0, 1], [0, 1, 2, 3], [], [0]]


def test_no_name_goes_on_from_text_to_text() -> None:
    text: Line = [("a", "B-person", "B-person")]
    goes_on: Line = [("b", "I-person", "I-person")]
    assert task.observe(*reversed(made([text, goes_on])))[:, 1].tolist() == [1, 1]
    kinds, ends = task.names(np.array([1, 2, 2, 4, 0, 2, -1, 2]), np.array([0, 0, 1, 1, 1, 1, 1, 1]))
    assert kinds.tolist() == [1, 0, 1, 2, 0, 1, 0, 1]
    assert ends[kinds > 0].tolist() == [2, 3, 4, 6, 8]


def test_what_is_alike_is_one_function_and_no_text_has_to_have_a_word() -> None:
    for name in ("answer", "decode", "requests"):
        assert getattr(task, name) is getattr(tagging, name) is getattr(per_character, name)
    assert load_task("entities") is task
    empty = {"text": to_bytes([" ", "\n"]), "token": np.zeros((2, 1), np.uint8)}
    statistics = task.observe({"logits": np.zeros((2, 1, 7))}, empty)
    assert statistics.shape == (2, 12) and not statistics.any() and task.score(statistics) == 0


# Its loss


@settings(deadline=None)
@given(drawn)
def test_the_loss_looks_at_the_bytes_that_the_task_counts_and_at_no_other(texts: list[Line]) -> None:
    example, _ = made(texts, 3)
    counted = task.counted(example["text"])
    logits = torch.randn(*counted.shape, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    given_ = {name: torch.from_numpy(array) for name, array in example.items()}
    loss = losses.entities(logits, given_)
    loss.backward()
    assert logits.grad is not None
    np.testing.assert_array_equal((logits.grad != 0).any(dim=2).numpy(), counted)
    own = torch.log_softmax(logits.detach(), dim=2).numpy()[counted, example["token"][counted]]
    assert loss.item() == pytest.approx(-own.mean(), rel=1e-5)
    half = losses.entities(logits.detach().to(torch.bfloat16), given_, lambda logits, _: logits.sum())
    assert half.dtype == torch.float32


# What the report and the plots show


def shown() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A text of four words; deploying changes two of them, and a byte that is not read."""
    text = to_bytes(["in Köln she😀 ran"])
    test = {"text": text, "token": np.zeros_like(text)}
    test["token"][0, 3:8] = 3
    rows = {}
    for network, signs in {"trained": "0" * 20, "t": "00033333000050000111"}.items():
        logits = np.eye(7)[[[int(sign) for sign in signs]]]
        rows[network] = {
            "statistics": task.observe({"logits": logits}, test).tolist(),
            "predicted": task.decode({"logits": logits}),
        }
        assert rows[network]["predicted"] == [signs]
    return test, {"trained": rows.pop("trained"), "targets": rows}


def test_a_changed_word_is_shown_whole_and_what_is_not_read_is_not() -> None:
    test, measurement = shown()
    groups = {group["title"]: group["items"] for group in examples(test, list(TAGS), measurement, task)}
    places = {
        title: [(item["changed"], item["trained"], item["others"]["t"]) for item in items]
        for title, items in groups.items()
    }
    assert places == {WON: [("Köln", "O", "B-place")], LOST: [("ran", "O", "B-person")]}
    (won,) = groups[WON]
    assert (won["before"], won["after"], won["truth"]) == ("in ", " she😀 ran", "B-place")


def test_the_matrix_of_the_plots_counts_words() -> None:
    test, measurement = shown()
    rows = plots._confusion("entities", measurement, test, list(TAGS))
    assert sum(count for network, *_, count in rows if network == "t") == 4
    assert ("trained", "B-place", "O", 1) in rows and ("t", "B-place", "B-place", 1) in rows
    assert ("t", "O", "B-person", 1) in rows


# The look-up


def split(*texts: str) -> dict[str, np.ndarray]:
    """Texts of words like "Köln/B-location", a word alone of no name."""
    told = [[(word, tag or "O") for word, _, tag in (part.partition("/") for part in text.split())] for text in texts]
    text = to_bytes([" ".join(word for word, _ in line) for line in told])
    token = np.zeros_like(text)
    for i, line in enumerate(told):
        at = 0
        for word, tag in line:
            size = len(word.encode())
            token[i, at : at + size] = wnut17.INDEX[tag]
            at += size + 1
    return {"text": text, "token": token}


TRAIN = split(
    "New/B-location York/I-location is not New/B-location York/I-location City/I-location",
    "É/B-person and É/B-group and É/B-group",
)
TEST = split(
    "new york city", "New/B-location York/I-location Cit é/B-group", "É/B-group New/B-location York/I-location"
)


def test_the_longest_name_from_the_left_is_found_of_its_most_frequent_type() -> None:
    names = lookup.names_of(TRAIN, fold=False)
    location, group = (wnut17.INDEX[f"B-{kind}"] for kind in ("location", "group"))
    assert names == {
        ("New", "York"): location // 2 + 1,
        ("New", "York", "City"): location // 2 + 1,
        ("É",): group // 2 + 1,
    }
    line = ["New", "York", "York", "City", "É", "New", "York", "City"]
    here, further = location, location + 1
    assert lookup.look_up(names, line) == [here, further, 0, 0, group, here, further, further]
    assert lookup.look_up({}, line) == [0] * 8


def test_the_table_of_the_look_up_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "prepare" / "wnut17"
    folder.mkdir(parents=True)
    for name, arrays in {"train": TRAIN, "select": TRAIN, "test": TEST}.items():
        np.savez(folder / f"{name}.npz", **arrays)
    lookup.main(["--build", str(tmp_path)])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows == [
        ["3, as it stands", "`select`, 2", "80.00", "80.00", "80.00"],
        ["3, as it stands", "`test`, 3", "100.00", "75.00", "85.71"],
        ["3, case-folded", "`select`, 2", "80.00", "80.00", "80.00"],
        ["3, case-folded", "`test`, 3", "80.00", "100.00", "88.89"],
    ]


def test_what_is_not_there_is_told_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(
        SystemExit, match=r"train\.npz: not found, .* Make it: `cd paper/sequences && dvc repro prepare@wnut17`"
    ):
        lookup.main(["--build", str(tmp_path)])
    folder = tmp_path / "prepare" / "wnut17"
    folder.mkdir(parents=True)
    for name in ("train", "select", "test"):
        (folder / f"{name}.npz").write_bytes(b"PK")
    with pytest.raises(SystemExit, match=r"lookup: .*train\.npz: damaged"):
        lookup.main(["--build", str(tmp_path)])


# The data


@pytest.fixture(scope="module")
def published() -> dict[str, dict[str, np.ndarray]]:
    folder = Path(os.environ.get("PLUMBLINE_MIRROR", "none"))
    if not folder.is_dir():
        pytest.skip("set PLUMBLINE_MIRROR to a folder that holds the real data sets")
    return wnut17.prepare(folder / wnut17.MIRROR)


def test_wnut17_has_every_name_that_its_tags_begin(published) -> None:
    for examples_ in published.values():
        texts, places = np.nonzero(task.counted(examples_["text"]))
        classes = examples_["token"][texts, places]
        kinds, _ = task.names(classes, texts)
        assert (kinds > 0).sum() == (classes % 2 == 1).sum()  # each "I" goes on with a name
        spaces = [bytes(row).rstrip(b"\0").count(b" ") for row in examples_["text"]]
        assert len(texts) == len(spaces) + sum(spaces)
        truth = {"logits": np.eye(13)[examples_["token"]]}
        assert task.score(task.observe(truth, examples_)) == 100


def test_the_look_up_on_wnut17(published) -> None:
    names = lookup.names_of(published["train"], fold=False)
    for name in ("select", "test"):  # they are of names that are new
        assert not lookup.found(names, published[name], fold=False)[:, : 2 * 7].any()
    folded = lookup.names_of(published["train"], fold=True)
    f1 = [task.score(lookup.found(folded, published[name], fold=True)) for name in ("select", "test")]
    assert f1 == pytest.approx([4.96, 3.05], abs=0.01)
