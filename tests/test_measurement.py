import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.errors import Refused
from deploy.files import write_json
from deploy.measurement import ANSWERED, FORMAT, ROW, TIMED, TRAINED, WHOLE, read_measurement

ANSWERS: dict[str, Any] = {"statistics": [[1.0]], "finite": True, "error_max": 0.0, "graph_sha256": {"network": "0"}}
LATENCY: dict[str, Any] = {"latency_s": [0.1], "alone_s": None}
GOOD: dict[str, Any] = {
    "format": FORMAT,
    "task": "classification",
    "contract_sha256": "0",
    "host": {"name": "here"},
    "date": "2026-01-01",
    "trained": {"statistics": [[1.0]], "error_max": 0.0, "rounding": 0.0, "exact": "float64"}
    | {"latency": {"cpu": LATENCY}},
    "targets": {
        "measured": {"precision": "fp32", "device": "cpu", "reason": "", "size_bytes": 1} | ANSWERS | LATENCY,
        "absent": {"precision": "fp32", "device": "cuda", "reason": "no GPU"},
        "failed": {"precision": "fp32", "device": "cpu", "reason": "", "failed": "out of memory"},
    },
}


def refusal(path: Path) -> str:
    with pytest.raises(Refused) as refused:
        read_measurement(path)
    told = str(refused.value)
    assert told.startswith(str(path)) and "`dvc repro measure@digits`" in told and "\n" not in told
    return told


def test_what_is_whole_is_read_as_it_is(tmp_path: Path) -> None:
    write_json(tmp_path / "digits.json", GOOD)
    assert read_measurement(tmp_path / "digits.json") == GOOD


def test_a_file_that_is_not_there_was_not_measured(tmp_path: Path) -> None:
    assert "not found: this recipe was not measured" in refusal(tmp_path / "digits.json")


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "digits.json").mkdir()
    assert "cannot be read (Is a directory)" in refusal(tmp_path / "digits.json")


@pytest.mark.parametrize("text", [b"", b"\xff\xfe", json.dumps(GOOD).encode()[:-30]], ids=["empty", "bytes", "cut"])
def test_what_is_not_json_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "digits.json").write_bytes(text)
    assert "damaged, not JSON" in refusal(tmp_path / "digits.json")


@pytest.mark.parametrize(("value", "came"), [([], "list"), (None, "NoneType"), ("no", "str"), (2, "int")])
def test_what_is_no_object_is_refused(tmp_path: Path, value: object, came: str) -> None:
    write_json(tmp_path / "digits.json", value)
    assert f"holds a {came}, expected an object" in refusal(tmp_path / "digits.json")


@pytest.mark.parametrize(
    ("format_", "told"),
    [
        (None, "measured by an older version of Plumbline (format 1,"),
        (1, "measured by an older version of Plumbline (format 1,"),
        (FORMAT + 1, f"measured by a newer version of Plumbline (format {FORMAT + 1},"),
        (str(FORMAT), f"of a format that no version of Plumbline writes ('{FORMAT}',"),
        ([FORMAT], f"of a format that no version of Plumbline writes ([{FORMAT}],"),
    ],
)
def test_another_format_is_told_from_which_side(tmp_path: Path, format_: object, told: str) -> None:
    facts = {key: value for key, value in GOOD.items() if key != "format"}
    write_json(tmp_path / "digits.json", facts if format_ is None else facts | {"format": format_})
    said = refusal(tmp_path / "digits.json")
    assert f"{told} expected {FORMAT})" in said
    assert ("or use the version that wrote it" in said) == (format_ == FORMAT + 1)


NEEDED = (
    [(key,) for key in WHOLE]
    + [("host", "name")]
    + [("trained", key) for key in TRAINED]
    + [("trained", "latency", "cpu", key) for key in TIMED]
    + [("targets", "measured", key) for key in ROW + ANSWERED]
    + [("targets", name, key) for name in ("absent", "failed") for key in ("precision", "device")]
)


@pytest.mark.parametrize("place", NEEDED, ids=".".join)
def test_a_key_that_judging_needs_is_missed_by_its_name(tmp_path: Path, place: tuple[str, ...]) -> None:
    facts = copy.deepcopy(GOOD)
    part = facts
    for key in place[:-1]:
        part = part[key]
    del part[place[-1]]
    write_json(tmp_path / "digits.json", facts)
    assert ".".join(place) in refusal(tmp_path / "digits.json")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(place=st.sampled_from(["host", "trained", "targets"]), key=st.text(max_size=3), value=json_values)
def test_whatever_stands_where_an_object_was_expected_it_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, place: str, key: str, value: object
) -> None:
    path = tmp_path_factory.mktemp("any") / "digits.json"
    for changed in (GOOD | {place: value}, GOOD | {place: GOOD[place] | {key: value}}):
        write_json(path, changed)
        try:
            assert read_measurement(path) == changed
        except Refused as error:
            assert f"incomplete: lacks {place}" in str(error)
