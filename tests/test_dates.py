"""The dates: what they mean, and their splits"""

import re
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from texts import lines

from deploy.tasks import translation as task
from pipeline.datasets import dates

MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


@pytest.fixture(scope="module")
def splits() -> dict[str, dict[str, np.ndarray]]:
    return dates.prepare(Path())


def read(line: str) -> set[date]:
    """All dates that a line may mean, from the words and figures in it and not from the ways of writing."""
    text = line.lower()
    year = re.search(r"(?<!\d)(\d{4})(?!\d)|'(\d\d)", text)
    compact = re.fullmatch(r"\s*(\d{4})(\d\d)(\d\d)\s*", text)
    if compact:
        return {date(*map(int, compact.groups()))}
    century = year[1] or next(y for y in map(str, range(1950, 2050)) if y.endswith(year[2]))
    rest = text[: year.start()] + " " + text[year.end() :]
    figures = [int(n) for n in re.findall(r"\d+", rest)]
    named = [i + 1 for i, name in enumerate(MONTHS) if re.search(rf"\b{name}", rest)]
    if named:
        (day,), (month,) = figures, named
        meant = {(month, day)}
    else:
        meant = {(figures[1], figures[0])} if "." in text else {(figures[0], figures[1])}
        assert ("." in text) != text.strip().startswith(century), "figures alone: day first with dots, or year first"
    return {date(int(century), month, day) for month, day in meant}


def test_every_line_means_its_target_and_nothing_else(splits) -> None:
    for arrays in splits.values():
        for line, target in zip(lines(arrays["source"]), lines(arrays["target"])):
            assert read(line) == {date.fromisoformat(target)}, line
            weekday = [i for i, name in enumerate(DAYS) if re.search(rf"\b{name}", line.lower())]
            assert weekday in ([], [date.fromisoformat(target).weekday()]), line


def test_no_date_is_written_twice_and_the_splits_have_their_sizes(splits) -> None:
    seen = [target for arrays in splits.values() for target in lines(arrays["target"])]
    assert len(set(seen)) == len(seen) == sum(dates.SPLITS.values())
    assert {split: len(arrays["source"]) for split, arrays in splits.items()} == dates.SPLITS
    assert dates.FIRST + timedelta(days=dates.DAYS - 1) == date(2049, 12, 31)
    assert "1950-01-01" <= min(seen) <= max(seen) <= "2049-12-31"


def test_the_same_every_time_and_bytes_with_padding_at_the_end(splits) -> None:
    again = dates.prepare(Path())
    for split, arrays in splits.items():
        for name, array in arrays.items():
            assert array.dtype == np.uint8
            np.testing.assert_array_equal(array, again[split][name])
            assert not ((array[:, :-1] == 0) & (array[:, 1:] != 0)).any()
        assert arrays["target"].shape[1] == 10
        assert arrays["source"].shape[1] == splits["train"]["source"].shape[1] <= task.LONGEST_SOURCE


def test_calib_select_and_test_hold_no_byte_that_training_lacks(splits) -> None:
    known = set(splits["train"]["source"].ravel().tolist())
    assert all(set(arrays["source"].ravel().tolist()) <= known for arrays in splits.values())


@pytest.mark.parametrize(
    ("day", "ending"), [(1, "st"), (2, "nd"), (3, "rd"), (4, "th"), (11, "th"), (12, "th"), (13, "th"), (21, "st"), (22, "nd"), (23, "rd"), (30, "th"), (31, "st")]
)  # fmt: skip
def test_endings(day: int, ending: str) -> None:
    assert dates._ending(day) == ending
