"""Texts cut into passages, and the splits of a language model"""

import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from texts import lines

from deploy.errors import Refused
from deploy.tasks import language_model as task
from pipeline.passages import LEAST, WINDOW, passages, prepare_text, stack
from pipeline.splits import check_splits

TEXT = st.text(st.sampled_from(["\n", "\n", " ", "a", "é", "€", "😀", "\r", "\t"]), max_size=400) | st.text(
    max_size=400
)


def speeches(count: int, words: int = 60, seed: int = 0) -> str:
    """Paragraphs of words of several bytes a character, no two alike."""
    random = np.random.default_rng(seed)
    paragraphs = [
        f"Número {i}:\n" + " ".join(random.choice(["wörd", "naïve", "x", "€", "the"], words)) + "\n\n"
        for i in range(count)
    ]
    return "".join(paragraphs)


@given(text=TEXT, about=st.integers(2, 60))
@example(text="a\n\n" * 50, about=10)
@example(text="\n" * 500, about=7)
@example(text="x" * 1000, about=9)
@example(text="a" + "b" * 19 + "\n\n" + "c" * 20, about=10)
def test_joined_passages_are_the_text_and_their_lengths_are_bounded(text: str, about: int) -> None:
    found = passages(text, about)
    assert "".join(found) == text
    assert len(found) == 0 if not text else found
    assert all(len(passage) < 3 * about for passage in found)
    if len(found) > 1:
        assert all(2 * len(passage) >= about for passage in found)


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=60),
    blank=st.sampled_from(["\n\n", "\n \t\n\n", "\r\n\r\n"]),
)
def test_short_paragraphs_are_never_cut(sizes: list[int], blank: str) -> None:
    text = blank.join("p" * size for size in sizes)
    found = passages(text, 25)
    assert [len(word) for passage in found for word in re.findall("p+", passage)] == sizes
    assert all(passage.endswith(blank) for passage in found[:-1])


def test_a_long_paragraph_is_cut_at_lines_a_long_line_at_blanks_and_a_long_word_anywhere() -> None:
    by_line = passages("".join(f"line {i}\n" for i in range(40)), 50)
    assert len(by_line) > 3 and all(passage.endswith("\n") for passage in by_line)
    by_blank = passages("word " * 60, 50)
    assert len(by_blank) > 3 and all(passage.endswith(" ") for passage in by_blank)
    anywhere = passages("😀" * 300, 50)
    assert [len(passage) for passage in anywhere] == [50] * 6
    assert [passage.encode().decode() for passage in anywhere] == anywhere


def test_a_passage_is_as_near_as_can_be_to_what_is_asked() -> None:
    # Of paragraphs of 400: two are 800, three are 1,200, as near; of 300: three are 900, and four would be 1,200.
    assert {len(p) for p in passages(("x" * 298 + "\n\n") * 30, 1000)} == {900}
    assert {len(p) for p in passages(("x" * 448 + "\n\n") * 30, 1000)} == {900}
    assert {len(p) for p in passages(("x" * 538 + "\n\n") * 30, 1000)} == {1080}


@given(count=st.integers(80, 300), words=st.integers(20, 120), seed=st.integers(0, 9))
def test_the_splits_are_the_text_in_its_order(count: int, words: int, seed: int) -> None:
    data = speeches(count, words, seed).encode()
    if len(passages(data.decode(), 1000)) < LEAST:
        with pytest.raises(Refused, match="Bring more text"):
            prepare_text(data)
        return
    splits = prepare_text(data)
    check_splits("speeches", splits)
    train = splits["train"]["text"].tobytes()
    rest = "".join(line for split in ("calib", "select", "test") for line in lines(splits[split]["text"])).encode()
    assert data.startswith(train) and data.endswith(rest)
    assert 0 <= len(data) - len(train) - len(rest) < WINDOW
    assert splits["train"]["text"].shape[1] == WINDOW
    test = sum(map(len, lines(splits["test"]["text"]))) / len(data.decode())
    assert abs(test - 0.1) < 1 / LEAST
    assert all(((splits[split]["text"] != 0).sum(axis=1) > task.WARM).all() for split in ("calib", "select", "test"))


def test_what_stands_twice_is_kept_once_and_the_last_one_of_it() -> None:
    unlike = speeches(60, words=230)
    again = passages(unlike, 1000)[3]
    assert again.count("\n\n") == 1, "a paragraph as long as a passage is one"
    splits = prepare_text((unlike + again).encode())
    check_splits("speeches", splits)
    assert "".join(lines(splits["test"]["text"])).endswith(again)
    assert again.encode() not in splits["train"]["text"].tobytes()
    one_line = b"the same line of 32 characters.\n" * 3000
    with pytest.raises(
        Refused, match=r"the text: \d passages of about 1,000 characters that differ, expected at least 20"
    ):
        prepare_text(one_line)
    begins_alike = prepare_text(b"the same line of 32 characters.\n" * 100 + unlike.encode())
    rows = begins_alike["train"]["text"]
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    data = speeches(100).encode()
    marked = prepare_text(b"\xef\xbb\xbf" + data)
    for split, arrays in prepare_text(data).items():
        np.testing.assert_array_equal(arrays["text"], marked[split]["text"])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b"abc\xff" * 9,
            r"^notes\.txt: byte 3 is 0xff \(invalid start byte\), UTF-8 was expected\. Save it as UTF-8\.$",
        ),
        ("é".encode("utf-16"), r"^notes\.txt: byte 0 is 0xff .*Save it as UTF-8"),
        (b"abc" + "é".encode()[:1], r"^notes\.txt: byte 3 is 0xc3 \(unexpected end of data\)"),
        (b"ab\0c", r"^notes\.txt: byte 2 is 0, text was expected; 0 is padding, after the text\. Take it out\.$"),
        (b"", r"^notes\.txt: 0 passages .*expected at least 20\. Bring more text\.$"),
        (
            speeches(5).encode(),
            r"^notes\.txt: [12] passages of about 1,000 characters that differ, expected at least 20",
        ),
    ],
)
def test_a_text_that_cannot_be_used_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(Refused, match=message):
        prepare_text(data, "notes.txt")


@given(
    texts=st.lists(st.text(st.characters(min_codepoint=1, codec="utf-8")).filter(bool), min_size=1),
    longest=st.integers(0, 20),
)
def test_rows_are_the_texts_padded_at_the_end(texts: list[str], longest: int) -> None:
    rows = stack([text.encode() for text in texts], longest)
    assert rows.dtype == np.uint8
    assert rows.shape == (len(texts), max(longest, *(len(text.encode()) for text in texts)))
    assert lines(rows) == texts
