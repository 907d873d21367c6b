"""What a board tells of itself, and why one cannot be used: JetPack, power mode, clocks, CUDA, TensorRT, memory.

A fact that the board does not tell is ``None`` and its reason stands in ``untold``: never 0, never a guess. The files
and commands read here, each as it was recorded on a board, are told in ``tests/boards/README.md``.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from deploy.errors import Refused

Run = Callable[[list[str], float], str]  # is given a command and the seconds it may take; raises ``Untold``

COMMAND_SECONDS = 10.0  # `jetson_clocks --show` reads some hundred files; a dead daemon must not hold the kit up
LEAST_JETPACK = "6.1"
LEAST_L4T = (36, 4)  # which is JetPack 6.1
LEAST_TENSORRT = (10, 3)
LEAST_PYTHON = (3, 10)
JETPACKS = {  # L4T -> JetPack, of NVIDIA's JetPack archive, for boards whose package `nvidia-jetpack` is not installed
    "32.6.1": "4.6", "32.7.1": "4.6.1", "32.7.2": "4.6.2", "32.7.3": "4.6.3", "32.7.4": "4.6.4", "32.7.5": "4.6.5",
    "32.7.6": "4.6.6",
    "35.1.0": "5.0.2", "35.2.1": "5.1", "35.3.1": "5.1.1", "35.4.1": "5.1.2", "35.5.0": "5.1.3", "35.6.0": "5.1.4",
    "35.6.1": "5.1.5", "35.6.2": "5.1.5",
    "36.3.0": "6.0", "36.4.0": "6.1", "36.4.2": "6.1.1", "36.4.3": "6.2", "36.4.4": "6.2.1", "36.4.7": "6.2.1",
    "36.5.0": "6.2.2", "36.5.2": "6.2.3",
    "38.2.0": "7.0", "38.2.1": "7.0", "38.2.2": "7.0", "38.4.0": "7.1",
    "39.2.0": "7.2", "39.2.1": "7.2.1",
}  # fmt: skip
UPGRADES = {  # the chip, as the device tree names it -> what its owner can do
    "tegra210": "Nano and TX1 end at JetPack 4: run ONNX Runtime there, or take a board of the Orin or Thor series.",
    "tegra186": "TX2 ends at JetPack 4: run ONNX Runtime there, or take a board of the Orin or Thor series.",
    "tegra194": "Xavier ends at JetPack 5: run ONNX Runtime there, or take a board of the Orin or Thor series.",
    "tegra234": "This is an Orin: install JetPack 6.1 or newer on it (NVIDIA's SDK Manager, or an SD card's image).",
}
ELSEWHERE = "name another folder: `--out FOLDER`"
UPGRADE = (
    "Boards of the Orin series can be upgraded to JetPack 6.1 or newer; Nano, TX1 and TX2 end at JetPack 4, Xavier at "
    "JetPack 5: run ONNX Runtime there."
)


class Untold(Exception):
    """A fact that the machine does not tell; the message is the reason, without a full stop."""


def run_command(command: list[str], seconds: float) -> str:
    """What ``command`` printed, errors last; one that goes on is ended after ``seconds`` and gives what it had printed.

    The exit status is not looked at: `nvpmodel -q` answers, then complains that it is not root.

    Raises:
        Untold: it could not be started, or printed nothing.
    """
    try:
        ended = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=seconds, env=os.environ | {"LC_ALL": "C"}
        )
        printed = ended.stdout + b"\n" + ended.stderr
    except subprocess.TimeoutExpired as late:
        printed = (late.stdout or b"") + b"\n" + (late.stderr or b"")
    except OSError as error:
        raise Untold(f"`{' '.join(command)}` could not be started ({error.strerror})") from None
    text = printed.decode(errors="replace").strip()
    if not text:
        raise Untold(f"`{' '.join(command)}` printed nothing within {seconds:g} s")
    return text


def read_text(path: Path) -> str:
    """A small file of the system, without the zero byte that ends a device tree's strings.

    Raises:
        Untold: it cannot be read.
    """
    try:
        return path.read_bytes().decode(errors="replace").strip("\0 \n\t")
    except OSError as error:
        raise Untold(f"{path}: {error.strerror}") from None


def read_number(path: Path) -> int:
    """The whole number that a file of the system holds.

    Raises:
        Untold: it cannot be read, or holds something else.
    """
    text = read_text(path)
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise Untold(f"{path}: {text[:40]!r}, expected a whole number")
    return int(text)


def describe_board(
    root: Path = Path("/"), run: Run = run_command, installed: Callable[[str], str] = version
) -> dict[str, Any]:
    """All that bears on a measurement and can be told without being root and without importing a runtime.

    Args:
        root: the folder that stands for ``/``.
        run: runs a command.
        installed: the version of a Python package, or ``PackageNotFoundError``.

    Returns:
        ``jetson`` (whether this is one; no other machine is an error), ``model``, ``soc`` (tegra234 is Orin), ``l4t``,
        ``jetpack``, ``power_mode`` (``name`` and ``number``), ``clocks`` (as `jetson_clocks --show` tells them to
        root: ``cpu``, ``gpu`` and ``emc``, in kHz and Hz as there), ``clocks_fixed`` (whether no clock of processor
        and GPU may vary, as after `jetson_clocks`), ``cuda``, ``tensorrt``, ``python``, ``memory_bytes``,
        ``memory_available_bytes``; and ``untold``: the name of each fact that is ``None`` -> why.
    """
    untold: dict[str, str] = {}

    def told(name: str, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except Untold as reason:
            untold[name] = str(reason)
            return None

    packages = _packages(run)
    board: dict[str, Any] = {
        "jetson": is_jetson(root),
        "model": told("model", lambda: read_text(root / "proc/device-tree/model")),
        "soc": told("soc", lambda: parse_compatible(read_text(root / "proc/device-tree/compatible"))),
        "l4t": told("l4t", lambda: _l4t(root, packages)),
    }
    board |= {
        "jetpack": told("jetpack", lambda: _jetpack(board["l4t"], packages)),
        "power_mode": told("power_mode", lambda: parse_nvpmodel(run(["nvpmodel", "-q"], COMMAND_SECONDS))),
        "clocks": told("clocks", lambda: parse_jetson_clocks(run(["jetson_clocks", "--show"], COMMAND_SECONDS))),
        "clocks_fixed": told("clocks_fixed", lambda: clocks_fixed(root)),
        "cuda": told("cuda", lambda: _cuda(root)),
        "tensorrt": told("tensorrt", lambda: _tensorrt(packages, installed)),
        "python": platform.python_version(),
        "memory_bytes": told("memory_bytes", lambda: read_memory(root, "MemTotal")),
        "memory_available_bytes": told("memory_available_bytes", lambda: read_memory(root, "MemAvailable")),
    }
    return board | {"untold": untold}


def refuse(board: dict[str, Any], folder: Path, memory_bytes: int, disk_bytes: int) -> None:
    """Hold what ``describe_board`` told against what the kit needs; what is untold hinders nobody.

    Args:
        folder: where the kit writes; made if it is not there.
        memory_bytes: that must be available.
        disk_bytes: that must be free in ``folder``.

    Raises:
        Refused: one line for each thing that does not do.
    """
    lines = [
        *_old_jetpack(board),
        *_older("TensorRT", board["tensorrt"], LEAST_TENSORRT, "JetPack 6.1 and newer bring one that is new enough."),
        *_older("Python", board["python"], LEAST_PYTHON, "JetPack 6 brings 3.10 as `python3`: run the kit with it."),
        *_short_of_memory(board["memory_available_bytes"], memory_bytes),
        *_unfit_folder(folder, disk_bytes),
    ]
    if lines:
        raise Refused("\n".join(lines))


def is_jetson(root: Path) -> bool:
    """Whether the device tree names a Tegra chip, or NVIDIA's release file is there (a container may hide either)."""
    try:
        return "nvidia,tegra" in read_text(root / "proc/device-tree/compatible")
    except Untold:
        return bool(list((root / "etc").glob("nv_tegra_release")))


def clocks_fixed(root: Path) -> bool:
    """Whether every processor core and GPU that tells its bounds has the least clock equal to the most.

    Raises:
        Untold: no clock tells its bounds.
    """
    cores = [
        (file, file.with_name("scaling_max_freq"))
        for file in sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_min_freq"))
    ]
    gpus = [(folder / "min_freq", folder / "max_freq") for folder in gpu_clocks(root)]
    if not cores + gpus:
        raise Untold(f"{root / 'sys'}: no clock tells its bounds")
    return all(read_number(least) == read_number(most) for least, most in cores + gpus)


def gpu_clocks(root: Path) -> list[Path]:
    """The folders of the GPU's clocks: ``17000000.gpu`` on Orin, ``gpu-gpc-0`` on Thor."""
    devices = root / "sys/class/devfreq"
    return sorted([*devices.glob("*.gpu"), *devices.glob("gpu-gpc-[0-9]*")])


def read_memory(root: Path, field: str) -> int:
    """A line of ``/proc/meminfo`` in bytes.

    Raises:
        Untold: the file cannot be read or has no such line.
    """
    path = root / "proc/meminfo"
    found = re.search(rf"^{field}: +([0-9]{{1,15}}) kB$", read_text(path), re.MULTILINE)
    if not found:
        raise Untold(f"{path}: no {field}")
    return 1024 * int(found[1])


def parse_compatible(text: str) -> str:
    """The chip that a device tree's ``compatible`` names, e.g. ``tegra234``.

    Raises:
        Untold: it names none of NVIDIA's.
    """
    found = re.search(r"nvidia,(tegra[0-9]{3})(?![0-9])", text)
    if not found:
        raise Untold("the device tree names no Tegra chip")
    return found[1]


def parse_release(text: str) -> str:
    """L4T of ``/etc/nv_tegra_release``, whose first line begins ``# R36 (release), REVISION: 4.3,``: ``36.4.3``.

    Raises:
        Untold: there is no such line.
    """
    found = re.search(r"R([0-9]{1,3}) \(release\), REVISION: ([0-9]{1,3}(?:\.[0-9]{1,3}){0,2})", text)
    if not found:
        raise Untold(f"{text[:40]!r}, expected `# R36 (release), REVISION: 4.3`")
    return f"{found[1]}.{found[2]}"


PACKAGES_ASKED = [
    "dpkg-query", "-W", "-f=${Package} ${Version}\n", "nvidia-jetpack", "nvidia-l4t-core", "libnvinfer[0-9]*",
]  # fmt: skip


def parse_packages(text: str) -> dict[str, str]:
    """Installed packages -> the numbers that their version begins with: ``6.2.1+b38`` and ``10.3.0.30-1+cuda12.5``."""
    rows = re.findall(r"^([a-z][a-z0-9.+-]*) ([0-9]{1,9}(?:\.[0-9]{1,9})*)(?:[-+~].*)?$", text, re.MULTILINE)
    return dict(rows)


def parse_nvpmodel(text: str) -> dict[str, Any]:
    """The power mode that `nvpmodel -q` tells: ``name`` and ``number``.

    Raises:
        Untold: it told something else.
    """
    found = re.search(r"NV Power Mode: *(\S[^\n]*?)\s*\n\s*([0-9]{1,4})\s*(?:\n|$)", text)
    if not found:
        raise Untold(f"`nvpmodel -q`: {_last_line(text)}")
    return {"name": found[1], "number": int(found[2])}


def parse_jetson_clocks(text: str) -> dict[str, Any]:
    """The clocks that `jetson_clocks --show` tells.

    Returns:
        ``cpu``: core -> ``online``, ``governor``, ``least_khz``, ``most_khz``. ``gpu`` and ``emc`` (the memory):
        ``least_hz``, ``most_hz``, ``now_hz``, and of the memory ``fixed``; ``None`` where its line is not there.

    Raises:
        Untold: it told no core, as when it is not run by root.
    """
    core = r"^(cpu[0-9]{1,3}): Online=([01]) Governor=(\S+) MinFreq=([0-9]{1,12}) MaxFreq=([0-9]{1,12})\b"
    cores = {
        name: {"online": online == "1", "governor": governor, "least_khz": int(least), "most_khz": int(most)}
        for name, online, governor, least, most in re.findall(core, text, re.MULTILINE)
    }
    if not cores:
        sudo = "; it needs root: `sudo`" if "root" in text else ""
        raise Untold(f"`jetson_clocks --show`: {_last_line(text)}{sudo}")
    clocks: dict[str, Any] = {"cpu": cores, "gpu": None, "emc": None}
    bounds = r"MinFreq=([0-9]{1,12}) MaxFreq=([0-9]{1,12}) CurrentFreq=([0-9]{1,12})"
    if gpu := re.search(rf"^GPU {bounds}", text, re.MULTILINE):
        clocks["gpu"] = {"least_hz": int(gpu[1]), "most_hz": int(gpu[2]), "now_hz": int(gpu[3])}
    if emc := re.search(rf"^EMC {bounds} FreqOverride=([01])", text, re.MULTILINE):
        bounded = {"least_hz": int(emc[1]), "most_hz": int(emc[2]), "now_hz": int(emc[3])}
        clocks["emc"] = bounded | {"fixed": emc[4] == "1"}
    return clocks


def _packages(run: Run) -> dict[str, str]:
    """Empty where there is no dpkg: each fact that would come from it has its own reason."""
    try:
        return parse_packages(run(PACKAGES_ASKED, COMMAND_SECONDS))
    except Untold:
        return {}


def _l4t(root: Path, packages: dict[str, str]) -> str:
    """Of NVIDIA's release file, or of the package that writes it."""
    path = root / "etc/nv_tegra_release"
    try:
        return parse_release(read_text(path))
    except Untold as reason:
        if "nvidia-l4t-core" in packages:
            return packages["nvidia-l4t-core"]
        where = "" if str(path) in str(reason) else f"{path}: "
        raise Untold(f"{where}{reason}, and dpkg tells of no package nvidia-l4t-core") from None


def _jetpack(l4t: str | None, packages: dict[str, str]) -> str:
    if "nvidia-jetpack" in packages:
        return packages["nvidia-jetpack"]
    if l4t in JETPACKS:
        return JETPACKS[l4t]
    which = f"L4T {l4t} is not in the list of known ones" if l4t else "L4T is untold"
    raise Untold(f"dpkg tells of no package nvidia-jetpack, and {which}")


def _cuda(root: Path) -> str:
    path = root / "usr/local/cuda/version.json"
    try:
        found = json.loads(read_text(path))["cuda"]["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        found = None
    if not isinstance(found, str) or not _numbers(found):
        raise Untold(f"{path}: no version of CUDA in it")
    return found


def _tensorrt(packages: dict[str, str], installed: Callable[[str], str]) -> str:
    """Of the package that this Python would import; where it would find none, of the newest library."""
    try:
        return installed("tensorrt")
    except PackageNotFoundError:
        libraries = [found for name, found in packages.items() if name.startswith("libnvinfer")]
        if libraries:
            return max(libraries, key=_numbers)
        raise Untold("this Python finds no TensorRT, and dpkg tells of no package libnvinfer") from None


def _old_jetpack(board: dict[str, Any]) -> list[str]:
    """L4T decides, being what runs; the package ``nvidia-jetpack`` may be older than the system or missing."""
    l4t, jetpack = board["l4t"], board["jetpack"]
    if l4t and _numbers(l4t) >= LEAST_L4T:
        return []
    if not l4t and (not jetpack or _numbers(jetpack) >= _numbers(LEAST_JETPACK)):
        return []
    came = f"JetPack {jetpack or 'of no known version'} (L4T {l4t or 'untold'})"
    fix = UPGRADES.get(board["soc"], UPGRADE)
    return [f"{board['model'] or 'this board'}: {came}, expected {LEAST_JETPACK} or newer. {fix}"]


def _older(name: str, came: str | None, least: tuple[int, ...], fix: str) -> list[str]:
    if came is None or not _numbers(came) or _numbers(came) >= least:
        return []
    return [f"{name}: {came}, expected {'.'.join(map(str, least))} or newer. {fix}"]


def _short_of_memory(available: int | None, needed: int) -> list[str]:
    if available is None or available >= needed:
        return []
    return [
        f"memory: {_mib(available)} available, expected {_mib(needed)}. End other programs, or the desktop "
        f"(`sudo systemctl isolate multi-user.target`), and run the same command again."
    ]


def _unfit_folder(folder: Path, disk_bytes: int) -> list[str]:
    """Written to, and not only asked: a disk that is mounted read-only still has its permissions."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        fix = f"Mend its permissions, free some space, or {ELSEWHERE}."
        return [f"{folder}: cannot be written ({error.strerror}), expected a folder of yours. {fix}"]
    if free >= disk_bytes:
        return []
    return [f"{folder}: {_mib(free)} free, expected {_mib(disk_bytes)}. Free some space, or {ELSEWHERE}."]


def _numbers(text: str) -> tuple[int, ...]:
    """``10.3.0.30`` -> ``(10, 3, 0, 30)``: as far as there are numbers."""
    leading = re.match(r"[0-9]{1,9}(?:\.[0-9]{1,9})*", text)
    return tuple(map(int, leading[0].split("."))) if leading else ()


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["printed nothing"])[-1].strip()[:200]
