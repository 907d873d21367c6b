"""What boards tell, against files of real boards' formats; and what is refused."""

import errno
import json
import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any, NoReturn

import pytest
from boards.recorded import BOARDS, board, nothing, put
from hypothesis import given
from hypothesis import strategies as st

from deploy.errors import Refused
from deploy.jetson.board import (
    JETPACKS,
    Untold,
    clocks_fixed,
    describe_board,
    parse_compatible,
    parse_jetson_clocks,
    parse_nvpmodel,
    parse_packages,
    parse_release,
    read_number,
    read_text,
    refuse,
    run_command,
)

KIB = 1024
WORDS = st.text() | st.binary().map(lambda data: data.decode(errors="replace"))


def no_package(name: str) -> NoReturn:
    raise PackageNotFoundError(name)


def described(name: str, root: Path) -> dict[str, Any]:
    return describe_board(*board(name, root), installed=no_package)


def fit(**changed: Any) -> dict[str, Any]:
    """A board that nothing is wrong with, but what is ``changed``."""
    facts = {"model": "NVIDIA Jetson Orin", "soc": "tegra234", "l4t": "36.4.3", "jetpack": "6.2", "tensorrt": "10.3.0"}
    return facts | {"python": "3.10.12", "memory_available_bytes": 2**32} | changed


def refused(folder: Path, **changed: Any) -> str:
    with pytest.raises(Refused) as caught:
        refuse(fit(**changed), folder, 2**30, 2**20)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "model", "soc", "l4t", "jetpack", "mode", "tensorrt"),
    [
        ("orin-nano", "Orin Nano", "tegra234", "36.4.7", "6.2.1", ("MAXN_SUPER", 2), "10.3.0.30"),
        ("orin-nx", "Orin NX", "tegra234", "36.4.3", "6.2", ("25W", 3), None),
        ("agx-orin", "AGX Orin", "tegra234", "36.4.7", "6.2.1", ("MODE_40W", 3), None),
        ("thor", "AGX Thor", "tegra264", "38.2.2", "7.0", ("MAXN", 0), None),
        ("nano", "Nano", "tegra210", "32.7.1", "4.6.1", ("5W", 1), None),
    ],
)
def test_what_each_board_is(
    name: str, model: str, soc: str, l4t: str, jetpack: str, mode: tuple[str, int], tensorrt: str, tmp_path: Path
) -> None:
    facts = described(name, tmp_path)
    assert facts["jetson"] and model in facts["model"] and "\0" not in facts["model"]
    assert (facts["soc"], facts["l4t"], facts["jetpack"]) == (soc, l4t, jetpack)
    assert facts["power_mode"] == {"name": mode[0], "number": mode[1]}
    assert facts["tensorrt"] == tensorrt
    meminfo = dict(line.split(":") for line in (tmp_path / "proc/meminfo").read_text().strip().splitlines())
    assert facts["memory_available_bytes"] == KIB * int(meminfo["MemAvailable"].split()[0])
    assert facts["memory_bytes"] == KIB * int(meminfo["MemTotal"].split()[0])


@pytest.mark.parametrize("name", BOARDS)
def test_a_fact_is_none_just_where_it_has_a_reason(name: str, tmp_path: Path) -> None:
    facts = described(name, tmp_path)
    untold = facts.pop("untold")
    assert {fact for fact, value in facts.items() if value is None} == set(untold)
    assert all(untold.values())
    json.dumps(facts, allow_nan=False)


def test_the_clocks_that_root_is_told(tmp_path: Path) -> None:
    clocks = described("orin-nano", tmp_path)["clocks"]
    assert list(clocks["cpu"]) == [f"cpu{i}" for i in range(6)]
    assert clocks["cpu"]["cpu5"] == {
        "online": True, "governor": "schedutil", "least_khz": 1728000, "most_khz": 1728000,
    }  # fmt: skip
    assert clocks["gpu"] == {"least_hz": 1020000000, "most_hz": 1020000000, "now_hz": 1020000000}
    assert clocks["emc"] == {"least_hz": 204000000, "most_hz": 3199000000, "now_hz": 3199000000, "fixed": True}


def test_a_core_that_is_off_and_clocks_that_are_not_printed(tmp_path: Path) -> None:
    (tmp_path / "nano").mkdir()
    (tmp_path / "agx").mkdir()
    cores = described("nano", tmp_path / "nano")["clocks"]["cpu"]
    assert [core["online"] for core in cores.values()] == [True, True, False, False]
    clocks = described("agx-orin", tmp_path / "agx")["clocks"]
    assert clocks["cpu"]["cpu11"]["least_khz"] == 115200 and clocks["gpu"] is None and clocks["emc"] is None


def test_without_root_the_clocks_say_so_and_whether_they_are_fixed_is_told(tmp_path: Path) -> None:
    facts = described("thor", tmp_path)
    assert facts["clocks"] is None
    assert "as a root user; it needs root: `sudo`" in facts["untold"]["clocks"]
    assert facts["clocks_fixed"] is False
    put(tmp_path, "sys/class/devfreq/gpu-gpc-0/min_freq", "1575000000")
    assert clocks_fixed(tmp_path) is True


def test_clocks_are_fixed_only_if_all_are(tmp_path: Path) -> None:
    root, _ = board("orin-nano", tmp_path)
    assert clocks_fixed(root) is True
    put(root, "sys/devices/system/cpu/cpu4/cpufreq/scaling_min_freq", "729600")
    assert clocks_fixed(root) is False


def test_the_package_that_python_would_import_goes_before_the_library(tmp_path: Path) -> None:
    assert describe_board(*board("orin-nano", tmp_path), installed=lambda name: "10.7.0")["tensorrt"] == "10.7.0"


def test_of_two_libraries_the_newer_counts_by_number(tmp_path: Path) -> None:
    def run(command: list[str], seconds: float) -> str:
        return (
            "libnvinfer10 10.3.0.30-1+cuda12.5\nlibnvinfer8 8.6.2.3-1+cuda12.2\n" if command[0] == "dpkg-query" else "?"
        )

    assert describe_board(tmp_path, run, no_package)["tensorrt"] == "10.3.0.30"


def test_without_a_package_l4t_names_jetpack_and_cuda_is_read(tmp_path: Path) -> None:
    facts = described("orin-nano", tmp_path)
    assert facts["cuda"] == "12.6.11"
    put(tmp_path, "usr/local/cuda/version.json", "[1, 2")
    facts = describe_board(tmp_path, nothing, no_package)
    assert facts["jetpack"] == "6.2.1"
    assert facts["cuda"] is None and "no version of CUDA" in facts["untold"]["cuda"]


def test_l4t_of_the_package_where_a_container_hides_the_file(tmp_path: Path) -> None:
    root, run = board("orin-nx", tmp_path)
    (root / "etc/nv_tegra_release").unlink()
    assert describe_board(root, run, no_package)["l4t"] == "36.4.3"
    (root / "proc/device-tree/compatible").unlink()
    facts = describe_board(root, nothing, no_package)
    assert facts["l4t"] is None and "dpkg tells of no package" in facts["untold"]["l4t"]
    assert facts["jetpack"] is None and "L4T is untold" in facts["untold"]["jetpack"]


def test_an_l4t_newer_than_this_list_is_told_and_not_refused(tmp_path: Path) -> None:
    root, _ = board("orin-nx", tmp_path)
    put(root, "etc/nv_tegra_release", "# R41 (release), REVISION: 0.0, GCID: 1")
    facts = describe_board(root, nothing, no_package)
    assert facts["l4t"] == "41.0.0"
    assert "is not in the list of known ones" in facts["untold"]["jetpack"]
    refuse(facts, tmp_path / "out", 0, 0)


def test_the_list_of_jetpacks_agrees_with_the_l4t_that_decides() -> None:
    for l4t, jetpack in JETPACKS.items():
        new = tuple(map(int, jetpack.split("."))) >= (6, 1)
        assert (tuple(map(int, l4t.split("."))) >= (36, 4)) == new, l4t


def test_no_jetson_is_no_error(tmp_path: Path) -> None:
    put(tmp_path, "proc/meminfo", "MemTotal: 16000000 kB\nMemAvailable: 8000000 kB")
    facts = describe_board(tmp_path, nothing, no_package)
    assert facts["jetson"] is False and facts["model"] is None and facts["power_mode"] is None
    refuse(facts, tmp_path / "out", 2**30, 2**20)
    assert list((tmp_path / "out").iterdir()) == []


def test_this_machine_is_described_whole() -> None:
    facts = describe_board()
    assert facts["memory_bytes"] >= facts["memory_available_bytes"] > 0
    assert facts["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")


def test_files_that_may_not_be_read_are_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, _ = board("orin-nano", tmp_path)

    def denied(path: Path) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    facts = describe_board(root, nothing, no_package)
    assert facts["jetson"] is True  # its release file is there
    for name in ("model", "soc", "l4t", "memory_bytes", "clocks_fixed", "cuda"):
        assert facts[name] is None and "Permission denied" in facts["untold"][name], name


@given(WORDS)
def test_garbage_is_untold_or_true_to_itself(text: str) -> None:
    for parse in (parse_nvpmodel, parse_jetson_clocks, parse_release, parse_compatible):
        try:
            assert parse(text)
        except Untold as reason:
            assert str(reason)
    assert all(number[0].isdigit() for number in parse_packages(text).values())


@given(name=st.from_regex(r"[A-Z0-9][A-Z0-9_]{0,20}", fullmatch=True), number=st.integers(0, 9999), noise=WORDS)
def test_a_power_mode_is_found_before_any_noise(name: str, number: int, noise: str) -> None:
    told = f"NV Fan Mode:quiet\nNV Power Mode: {name}\n{number}\n{noise}"
    assert parse_nvpmodel(told) == {"name": name, "number": number}


@given(st.lists(st.integers(0, 999), min_size=2, max_size=4))
def test_a_release_is_read_back(numbers: list[int]) -> None:
    release, *revision = numbers
    line = f"# R{release} (release), REVISION: {'.'.join(map(str, revision))}, GCID: 1, BOARD: generic"
    assert parse_release(line) == ".".join(map(str, numbers))


@given(text=WORDS | st.integers().map(str))
def test_a_file_of_garbage_has_no_number_unless_it_is_one(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.getbasetemp() / "garbage"
    file.write_bytes(text.encode(errors="replace"))
    whole = read_text(file)
    if whole.isascii() and whole.removeprefix("-").isdigit() and len(whole.removeprefix("-")) <= 18:
        assert read_number(file) == int(whole)
    else:
        with pytest.raises(Untold, match="expected a whole number"):
            read_number(file)


def test_a_command_that_is_absent_silent_or_endless() -> None:
    with pytest.raises(Untold, match="`no-such-command -q` could not be started"):
        run_command(["no-such-command", "-q"], 1)
    with pytest.raises(Untold, match="printed nothing within 5 s"):
        run_command([sys.executable, "-c", ""], 5)
    assert run_command([sys.executable, "-uc", "import time; print('now'); time.sleep(60)"], 2) == "now"
    words = "import sys; print('answer'); print('complaint', file=sys.stderr); sys.exit(3)"
    assert run_command([sys.executable, "-c", words], 5).split() == ["answer", "complaint"]


def test_a_nano_is_refused_with_the_boards_that_are_not(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="Jetson Nano Developer Kit: JetPack 4.6.1.*expected 6.1.*Nano and TX1 end at"):
        refuse(described("nano", tmp_path), tmp_path, 0, 0)


@pytest.mark.parametrize(
    ("soc", "l4t", "jetpack", "told"),
    [
        ("tegra234", "36.3.0", "6.0", "This is an Orin: install JetPack 6.1 or newer"),
        ("tegra234", "35.6.0", None, "JetPack of no known version.*This is an Orin"),
        ("tegra234", None, "5.1.2", "JetPack 5.1.2 .L4T untold.*This is an Orin"),
        ("tegra194", "35.4.1", "5.1.2", "Xavier ends at JetPack 5"),
        ("tegra186", "32.7.1", "4.6.1", "TX2 ends at JetPack 4"),
        (None, "32.7.1", "4.6.1", "Boards of the Orin series can be upgraded"),
    ],
)
def test_an_old_jetpack(soc: str, l4t: str, jetpack: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=told):
        refuse(fit(soc=soc, l4t=l4t, jetpack=jetpack), tmp_path, 0, 0)


@pytest.mark.parametrize("name", [name for name in BOARDS if name != "nano"])
def test_the_other_boards_are_taken(name: str, tmp_path: Path) -> None:
    refuse(described(name, tmp_path), tmp_path / "out", 2**30, 2**20)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"tensorrt": "8.6.2.3"}, "TensorRT: 8.6.2.3, expected 10.3 or newer. JetPack 6.1"),
        ({"tensorrt": "10.2.99"}, "TensorRT: 10.2.99, expected 10.3 or newer"),
        ({"python": "3.8.10"}, "Python: 3.8.10, expected 3.10 or newer. JetPack 6 brings 3.10"),
        (
            {"memory_available_bytes": 2**29},
            "memory: 512 MiB available, expected 1,024 MiB. End other programs, or the desktop",
        ),
    ],
)
def test_one_thing_too_old_or_too_little(changed: dict[str, Any], told: str, tmp_path: Path) -> None:
    assert refused(tmp_path, **changed).startswith(told)


@pytest.mark.parametrize("name", ["tensorrt", "l4t", "memory_available_bytes", "model", "soc"])
def test_what_is_untold_hinders_nobody(name: str, tmp_path: Path) -> None:
    refuse(fit(**{name: None}), tmp_path, 2**30, 2**20)


def test_all_faults_are_told_at_once_a_line_each(tmp_path: Path) -> None:
    lines = refused(tmp_path, l4t="35.4.1", tensorrt="8.5", python="3.8", memory_available_bytes=0).splitlines()
    assert len(lines) == 4 and all(line.endswith(".") for line in lines)


def test_a_folder_that_cannot_be_written_and_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    told = refused(tmp_path / "file/out")
    assert "file/out: cannot be written (Not a directory), expected a folder of yours" in told
    assert told.endswith("or name another folder: `--out FOLDER`.")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=2**20 - 1))
    assert "1 MiB free, expected 1 MiB. Free some space, or name another folder: `--out FOLDER`." in refused(tmp_path)

    def read_only(**_: object) -> NoReturn:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    assert "cannot be written (Read-only file system)" in refused(tmp_path)
