import resource
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from deploy.errors import Refused
from deploy.files import read_json, write_bytes, write_json


def test_writes_whole_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_bytes(tmp_path / "new" / "a", b"1")
    write_bytes(tmp_path / "new" / "a", b"2")
    assert (tmp_path / "new" / "a").read_bytes() == b"2"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a"]


def test_a_full_disk_costs_nothing_already_made(tmp_path: Path) -> None:
    """A real failing write, in a process whose files may not grow beyond 1 kB."""
    (tmp_path / "weights").write_bytes(b"made earlier")
    code = f"import pathlib; from deploy.files import write_bytes; write_bytes(pathlib.Path({str(tmp_path)!r}) / 'weights', bytes(10_000))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000)),
    )
    assert done.returncode
    assert (
        "weights: 10,000 bytes could not be written (File too large); nothing there was changed. Free some space"
        in done.stderr
    )
    assert (tmp_path / "weights").read_bytes() == b"made earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]


def test_no_space_left_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(Refused, match=r"No space left on device.*Free some space on that disk"):
        write_bytes(tmp_path / "a", b"1")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Refused, match=r"file/a: 1 bytes could not be written \((Not a directory|File exists)\)"):
        write_bytes(tmp_path / "file" / "a", b"1")


def test_json_that_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"a\.json: not found.*dvc repro"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"a": 1')
    with pytest.raises(Refused, match=r"a\.json: damaged, not JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
