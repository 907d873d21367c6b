"""What a board's own sensors tell: power, temperatures, throttling, clocks, free memory; at once and over a period.

Read by hand between timed parts (`sample`), or by a thread at a rate that the caller states (`sampling`); `period` sums
either up. Sources: the kernel's ``Documentation/hwmon/ina3221.rst`` (mV and mA), NVIDIA's Jetson Linux Developer Guide
(rails, over-current events, throttle alerts), and boards as recorded in ``tests/boards/README.md``.
"""

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from deploy.jetson.board import Run, Untold, gpu_clocks, read_memory, read_number, read_text, run_command

MODULE_RAILS = (  # the rails that are together the whole module, of one family each
    ("VDD_IN",),  # Orin Nano and NX
    # AGX Orin; VDDQ_VDD2_1V8AO is fed by VIN_SYS_5V0: it would count twice.
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),  # Thor; VIN is the carrier board's input, and more than the module
)
POWERED_DOWN_C = -256.0  # what Tegra tells of a zone whose part is off, in place of a temperature
OVER_CURRENT = {"oc1": "under-voltage", "oc2": "average over-current", "oc3": "instantaneous over-current"}
TEGRASTATS = ["tegrastats", "--interval", "100"]
TEGRASTATS_SECONDS = 0.5  # it prints until it is ended; its first line comes after its interval
MISSING = 0.05  # share of a period's readings that may be untold; beyond it the others do not stand for the period
PATIENCE = 5.0  # seconds that the thread may take to end
THROTTLE = "-throttle-alert"  # how the name of a cooling device ends that tells of lowered clocks
HOT_SURFACE = "hot-surface-alert"  # a warning not to touch the board: its clocks stay


@dataclass(frozen=True)
class Sample:
    """What the sensors told at ``at_s`` (`time.monotonic`, when the power had been read); what they did not is ``None``
    or empty, with its reason.

    ``power_w`` is the whole module's, the sum of the rails ``power_of``; ``rails_w`` are all that were told, a rail's
    small negative offset among them. ``temperatures_c``: by zone. ``alerts``: throttle alert -> its state, 0 for none.
    ``hot_surface``: the state of that warning. ``over_current``: events since the board started. ``cpu_khz``,
    ``gpu_hz``: by core and by clock; both are what is asked for, which a short over-current event undercuts unseen.
    ``untold``: name of the field -> why.
    """

    at_s: float
    power_w: float | None = None
    power_of: tuple[str, ...] = ()
    rails_w: dict[str, float] = field(default_factory=dict)
    temperatures_c: dict[str, float] = field(default_factory=dict)
    alerts: dict[str, int] = field(default_factory=dict)
    hot_surface: int | None = None
    over_current: dict[str, int] = field(default_factory=dict)
    cpu_khz: dict[str, int] = field(default_factory=dict)
    gpu_hz: dict[str, int] = field(default_factory=dict)
    memory_available_bytes: int | None = None
    untold: dict[str, str] = field(default_factory=dict)


def sample(root: Path = Path("/"), run: Run = run_command) -> Sample:
    """Read every sensor once; raises nothing.

    Power and temperatures come of `tegrastats` where the system's files do not tell them, which takes
    ``TEGRASTATS_SECONDS``.
    """
    untold: dict[str, str] = {}

    def read(name: str, found: dict[str, Any], reasons: list[str]) -> dict[str, Any]:
        if not found:
            untold[name] = reasons[0] if reasons else "there is no sensor of it"
        return found

    rails, unread = _rails(root)
    read("rails_w", rails, unread)
    temperatures = read("temperatures_c", *_temperatures(root))
    if not rails or not temperatures:
        line, reason = _tegrastats(run)
        for name, found in (("rails_w", rails), ("temperatures_c", temperatures)):
            if not found and line[name]:
                found |= line[name]
                del untold[name]
            elif not found:
                untold[name] += f"; {reason or '`tegrastats` tells none either'}"
    at_s = time.monotonic()
    power_w: float | None = None
    power_of: tuple[str, ...] = ()
    try:
        power_w, power_of = module_power(rails)
    except Untold as reason:
        untold["power_w"] = untold.get("rails_w") or "; ".join([str(reason), *unread[:1]])
    memory: int | None = None
    try:
        memory = read_memory(root, "MemAvailable")
    except Untold as reason:
        untold["memory_available_bytes"] = str(reason)
    return Sample(
        at_s=at_s,
        power_w=power_w,
        power_of=power_of,
        rails_w=rails,
        temperatures_c=temperatures,
        alerts=read("alerts", *_alerts(root, THROTTLE)),
        hot_surface=read("hot_surface", *_alerts(root, HOT_SURFACE)).get(HOT_SURFACE),
        over_current=read("over_current", *_over_current(root)),
        cpu_khz=read("cpu_khz", *_cpu_khz(root)),
        gpu_hz=read("gpu_hz", *_gpu_hz(root)),
        memory_available_bytes=memory,
        untold=untold,
    )


@contextlib.contextmanager
def sampling(interval_s: float, take: Callable[[], Sample] = sample) -> Iterator[list[Sample]]:
    """Sample in a thread while the body runs, ``interval_s`` seconds after the last sample was done.

    The list that the body is given holds one sample from before it, and, when it is left, one from after it. It takes
    some processor time from the body: time nothing in it that must be exact.
    """
    samples = [take()]
    stop = threading.Event()

    def go_on() -> None:
        while not stop.wait(interval_s):
            samples.append(take())

    thread = threading.Thread(target=go_on, name="sensors", daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join(PATIENCE)
        samples.append(take())


def period(samples: list[Sample], seconds: float) -> dict[str, Any]:
    """What ``samples``, in the order of time, tell of a period that took ``seconds``.

    Returns:
        ``seconds``, ``samples`` (their number), ``interval_s`` (the mean time between two).
        ``power_w``: ``mean``, ``sd`` (over the readings, each of which the sensor has averaged already; ``None`` of
        one alone), ``least``, ``most``, ``of`` (the rails), ``readings``. ``energy_j``: mean power x ``seconds``.
        ``temperature_c``: the highest, and its ``zone``. ``throttled``: alert -> seconds after the first sample when
        it was first seen raised, 0 if it was from the start; empty if none was. ``hot_surface``: whether that warning
        was seen raised, which is no throttling. ``over_current``: events in between by
        counter. ``cpu_khz``, ``gpu_hz``: ``least`` and ``most``. ``memory_available_bytes``: the least.
        ``untold``: the name of each of these that is ``None`` -> why.
    """
    untold: dict[str, str] = {}

    def told(name: str, make: Callable[[list[Sample]], Any]) -> Any:
        try:
            if not samples:
                raise Untold("there was no sample")
            return make(samples)
        except Untold as reason:
            untold[name] = str(reason)
            return None

    power = told("power_w", _power)
    if power is None:
        untold["energy_j"] = untold["power_w"]
    return {
        "seconds": seconds,
        "samples": len(samples),
        "interval_s": (samples[-1].at_s - samples[0].at_s) / (len(samples) - 1) if len(samples) > 1 else None,
        "power_w": power,
        "energy_j": None if power is None else power["mean"] * seconds,
        "temperature_c": told("temperature_c", _hottest),
        "throttled": told("throttled", _throttled),
        "hot_surface": told("hot_surface", _hot_surface),
        "over_current": told("over_current", _events),
        "cpu_khz": told("cpu_khz", partial(_bounds, name="cpu_khz")),
        "gpu_hz": told("gpu_hz", partial(_bounds, name="gpu_hz")),
        "memory_available_bytes": told("memory_available_bytes", _least_memory),
        "untold": untold,
    }


def module_power(rails_w: dict[str, float]) -> tuple[float, tuple[str, ...]]:
    """The power of the whole module in W, and the rails that it is the sum of.

    Raises:
        Untold: the rails are not those of a known module, or one of them is missing.
    """
    for names in MODULE_RAILS:
        if set(names) <= set(rails_w):
            return sum(rails_w[name] for name in names), names
    raise Untold(f"the rails told ({', '.join(rails_w) or 'none'}) are not known to be a whole module together")


def parse_tegrastats(line: str) -> dict[str, dict[str, float]]:
    """``rails_w`` and ``temperatures_c`` of a line of `tegrastats` of JetPack 5 and newer; empty where it has none.

    ``VDD_IN 4761mW/4778mW`` is now and the mean since it started; JetPack 7.2 adds the highest, and to
    ``cpu@48.4C/49.1C`` as well.
    """
    number = r"-?[0-9]{1,9}(?:\.[0-9]{1,6})?"
    rails = re.findall(rf"(?<!\S)([A-Z][A-Z0-9_]{{1,40}}) ({number})mW(?:/{number}mW)*(?!\S)", line)
    zones = re.findall(rf"(?<!\S)([A-Za-z][A-Za-z0-9_-]{{0,40}})@({number})C(?:/{number}C)*(?!\S)", line)
    return {
        "rails_w": {name: float(milliwatts) / 1000 for name, milliwatts in rails if name != "NC"},
        "temperatures_c": {name: float(celsius) for name, celsius in zones if float(celsius) != POWERED_DOWN_C},
    }


def _tegrastats(run: Run) -> tuple[dict[str, dict[str, float]], str]:
    """What its last line tells, and why it tells nothing; the first line's mean may be of an older run."""
    try:
        lines = run(TEGRASTATS, TEGRASTATS_SECONDS).strip().splitlines()
    except Untold as reason:
        return parse_tegrastats(""), str(reason)
    return parse_tegrastats(lines[-1] if lines else ""), ""


def _rails(root: Path) -> tuple[dict[str, float], list[str]]:
    """The rails of every INA3221 and INA238 in W."""
    rails: dict[str, float] = {}
    reasons: list[str] = []
    for monitor in _monitors(root):
        for label in sorted(monitor.glob("in[1-3]_label")):  # in7 is a sum of shunt voltages, and no rail
            channel = label.name[2]
            with _reason(reasons):
                name = read_text(label)
                if name and name != "NC":  # not connected
                    millivolts = read_number(monitor / f"in{channel}_input")
                    rails[name] = millivolts * read_number(monitor / f"curr{channel}_input") / 1e6
        for label in monitor.glob("label"):  # INA238: one channel, whose power it tells itself, in microwatts
            with _reason(reasons):
                rails[read_text(label)] = read_number(monitor / "power1_input") / 1e6
    return rails, reasons


def _monitors(root: Path) -> list[Path]:
    """Folders of the power monitors: by their driver, and by their name, which reach the same one by two ways."""
    found = [*sorted((root / "sys/bus/i2c/drivers/ina3221").glob("*/hwmon/hwmon*")), *_named(root, "ina3221", "ina238")]
    return list({folder.resolve(): folder for folder in found}.values())


def _named(root: Path, *names: str) -> list[Path]:
    """Folders of ``/sys/class/hwmon`` with such a name: their numbers change from one start to the next."""
    found = []
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        with contextlib.suppress(Untold):
            if read_text(folder / "name") in names:
                found.append(folder)
    return found


def _temperatures(root: Path) -> tuple[dict[str, float], list[str]]:
    zones: dict[str, float] = {}
    reasons: list[str] = []
    for folder in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        with _reason(reasons):
            celsius = read_number(folder / "temp") / 1000
            if celsius == POWERED_DOWN_C:
                raise Untold(f"{folder}: its part is powered down")
            zones[read_text(folder / "type")] = celsius
    return zones, reasons


def _alerts(root: Path, ending: str) -> tuple[dict[str, int], list[str]]:
    """Cooling devices that exist to tell of something; a fan or a lower clock may be at work without any."""
    states: dict[str, int] = {}
    reasons: list[str] = []
    for folder in sorted((root / "sys/class/thermal").glob("cooling_device*")):
        with _reason(reasons):
            name = read_text(folder / "type")
            if name.endswith(ending):
                states[name] = read_number(folder / "cur_state")
    return states, reasons


def _over_current(root: Path) -> tuple[dict[str, int], list[str]]:
    counts: dict[str, int] = {}
    reasons: list[str] = []
    for folder in _named(root, "soctherm_oc"):
        for counter, what in OVER_CURRENT.items():
            with _reason(reasons):
                counts[what] = read_number(folder / f"{counter}_event_cnt")
    return counts, reasons


def _cpu_khz(root: Path) -> tuple[dict[str, int], list[str]]:
    clocks: dict[str, int] = {}
    reasons: list[str] = []
    for file in sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")):
        with _reason(reasons):
            clocks[file.parent.parent.name] = read_number(file)
    return clocks, reasons


def _gpu_hz(root: Path) -> tuple[dict[str, int], list[str]]:
    clocks: dict[str, int] = {}
    reasons: list[str] = []
    for folder in gpu_clocks(root):
        with _reason(reasons):
            clocks[folder.name] = read_number(folder / "cur_freq")
    return clocks, reasons


@contextlib.contextmanager
def _reason(reasons: list[str]) -> Iterator[None]:
    """Keep why one of several sensors is untold: the others still count."""
    try:
        yield
    except Untold as reason:
        reasons.append(str(reason))


def _each(samples: list[Sample], name: str) -> list[Any]:
    """The values of a field of those samples that told it.

    Raises:
        Untold: more than ``MISSING`` of them did not.
    """
    values = [value for one in samples if (value := getattr(one, name)) not in (None, {})]
    if len(values) < (1 - MISSING) * len(samples):
        reason = next(one.untold.get(name, "") for one in samples if getattr(one, name) in (None, {}))
        raise Untold(f"{len(samples) - len(values)} of {len(samples)} readings are missing: {reason}")
    return values


def _power(samples: list[Sample]) -> dict[str, Any]:
    watts = np.array(_each(samples, "power_w"))
    rails = {one.power_of for one in samples if one.power_of}
    if len(rails) > 1:
        raise Untold(f"the rails changed in between: {' then '.join(' + '.join(names) for names in sorted(rails))}")
    return {
        "mean": float(watts.mean()),
        "sd": float(watts.std(ddof=1)) if len(watts) > 1 else None,
        "least": float(watts.min()),
        "most": float(watts.max()),
        "of": list(*rails),
        "readings": len(watts),
    }


def _hottest(samples: list[Sample]) -> dict[str, Any]:
    zones = [(celsius, zone) for told in _each(samples, "temperatures_c") for zone, celsius in told.items()]
    celsius, zone = max(zones)
    return {"highest": celsius, "zone": zone}


def raised(samples: list[Sample]) -> dict[str, float]:
    """Throttle alert -> seconds after the first sample when it was first seen raised."""
    first: dict[str, float] = {}
    for one in samples:
        for name, state in one.alerts.items():
            if state > 0:
                first.setdefault(name, one.at_s - samples[0].at_s)
    return first


def _throttled(samples: list[Sample]) -> dict[str, float]:
    """An alert that was seen raised is told even if other readings are missing: that it was is certain."""
    seen = raised(samples)
    if not seen:
        _each(samples, "alerts")
    return seen


def _hot_surface(samples: list[Sample]) -> bool:
    return any(one.hot_surface for one in samples) or any(_each(samples, "hot_surface"))


def _events(samples: list[Sample]) -> dict[str, int]:
    """Between the first sample and the last: the counters miss nothing in between."""
    first, last = samples[0], samples[-1]
    for one in (first, last):
        if not one.over_current:
            raise Untold(one.untold.get("over_current", "there is no sensor of it"))
    before, after = first.over_current, last.over_current
    if set(before) != set(after) or any(after[name] < before[name] for name in after):
        raise Untold(f"the counters are not of one run of the board: {before} then {after}")
    return {name: after[name] - before[name] for name in after}


def _least_memory(samples: list[Sample]) -> int:
    return min(_each(samples, "memory_available_bytes"))


def _bounds(samples: list[Sample], name: str) -> dict[str, int]:
    clocks = [clock for told in _each(samples, name) for clock in told.values()]
    return {"least": min(clocks), "most": max(clocks)}
