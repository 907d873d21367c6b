"""Sensors against files of real boards' formats, and periods against sums done by hand."""

import dataclasses
import errno
import json
import math
import shutil
import statistics
import threading
import time
from pathlib import Path
from typing import NoReturn

import pytest
from boards.recorded import BOARDS, board, nothing, put
from hypothesis import given
from hypothesis import strategies as st

from deploy.jetson import sensors
from deploy.jetson.board import Untold
from deploy.jetson.sensors import Sample, module_power, parse_tegrastats, period, sample, sampling

WORDS = st.text() | st.binary().map(lambda data: data.decode(errors="replace"))
WATTS = st.floats(-1, 200, allow_nan=False)
RAIL = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1"


def taken(name: str, root: Path) -> Sample:
    return sample(*board(name, root))


def powers(*watts: float | None) -> list[Sample]:
    """A sample a second."""
    return [
        Sample(at_s=float(i), power_w=w, power_of=("VDD_IN",))
        if w is not None
        else Sample(at_s=float(i), untold={"power_w": "gone"})
        for i, w in enumerate(watts)
    ]


@pytest.mark.parametrize(
    ("name", "watts", "rails", "others"),
    [
        ("orin-nano", 4.984 * 1.856, ("VDD_IN",), {"VDD_CPU_GPU_CV", "VDD_SOC"}),
        ("orin-nx", 7.28, ("VDD_IN",), set()),  # by tegrastats
        ("agx-orin", 19.064 * (0.168 + 0.752) + 4.968, ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), {"VDDQ_VDD2_1V8AO"}),
        ("thor", 19.864 * 0.02 + 19.856 * 0.3 + 5.088 * 0.99, ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"), {"VIN"}),
    ],
)  # fmt: skip
def test_the_power_of_the_module(
    name: str, watts: float, rails: tuple[str, ...], others: set[str], tmp_path: Path
) -> None:
    told = taken(name, tmp_path)
    assert told.power_w == pytest.approx(watts, rel=1e-9) and told.power_of == rails
    assert set(told.rails_w) == set(rails) | others  # no sum of shunt voltages, nothing that is not connected


def test_thor_tells_the_carrier_boards_input_beside(tmp_path: Path) -> None:
    assert taken("thor", tmp_path).rails_w["VIN"] == 20.986


def test_temperatures_leave_out_parts_that_are_off(tmp_path: Path) -> None:
    told = taken("orin-nano", tmp_path).temperatures_c
    assert told == {
        "cpu-thermal": 48.625, "gpu-thermal": 48.593, "soc0-thermal": 48.0, "soc1-thermal": 49.218,
        "soc2-thermal": 47.468, "tj-thermal": 49.218,
    }  # fmt: skip
    assert period([Sample(0.0, temperatures_c=told)], 1)["temperature_c"]["highest"] == 49.218


def test_alerts_are_not_the_fan_and_events_are_counted(tmp_path: Path) -> None:
    told = taken("orin-nano", tmp_path)
    assert told.alerts == {"cpu-throttle-alert": 0, "gpu-throttle-alert": 0} and told.hot_surface == 0
    assert told.over_current == {"under-voltage": 0, "average over-current": 0, "instantaneous over-current": 27390}
    assert told.cpu_khz == {"cpu0": 1728000, "cpu4": 1728000} and told.gpu_hz == {"17000000.gpu": 1020000000}
    assert told.memory_available_bytes == 6291456 * 1024


def test_a_board_that_throttles_already(tmp_path: Path) -> None:
    told = taken("thor", tmp_path)
    assert told.gpu_hz == {"gpu-gpc-0": 315000000}
    assert period([told, dataclasses.replace(told, at_s=told.at_s + 1)], 1)["throttled"] == {"gpu-throttle-alert": 0}


@pytest.mark.parametrize("name", BOARDS)
def test_what_is_absent_has_a_reason_and_only_that(name: str, tmp_path: Path) -> None:
    told = taken(name, tmp_path)
    facts = dataclasses.asdict(told)
    untold = facts.pop("untold")
    facts.pop("power_of")
    assert {field for field, value in facts.items() if value in (None, {})} == set(untold)
    summed = period([told, told], 1.0)
    assert {field for field, value in summed.items() if value is None} == set(summed["untold"])
    json.dumps(summed, allow_nan=False)


def test_a_nano_of_jetpack_4_has_no_rail_that_is_read(tmp_path: Path) -> None:
    told = taken("nano", tmp_path)
    assert told.power_w is None and "tells none either" in told.untold["power_w"]
    assert told.temperatures_c["CPU"] == 40.5  # by tegrastats


def test_the_newest_line_of_tegrastats_counts(tmp_path: Path) -> None:
    told = sample(tmp_path, lambda command, seconds: "VDD_IN 9000mW/9000mW\nVDD_IN 5000mW/7000mW\n")
    assert told.power_w == 5.0 and "power_w" not in told.untold and "temperatures_c" in told.untold


def test_no_sensor_at_all_is_never_zero(tmp_path: Path) -> None:
    told = sample(tmp_path, nothing)
    facts = dataclasses.asdict(told)
    assert all(facts[name] in (None, {}, ()) for name in facts if name not in ("at_s", "untold"))
    assert "no sensor" in told.untold["power_w"] and "tegrastats" in told.untold["power_w"]
    summed = period([told, told, told], 2.0)
    for name in (
        "power_w",
        "energy_j",
        "temperature_c",
        "throttled",
        "hot_surface",
        "over_current",
        "cpu_khz",
        "gpu_hz",
    ):
        assert summed[name] is None and summed["untold"][name], name


def test_files_that_may_not_be_read_are_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, _ = board("orin-nano", tmp_path)

    def denied(path: Path) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    told = sample(root, nothing)
    for name in ("power_w", "rails_w", "temperatures_c", "alerts", "cpu_khz", "gpu_hz", "memory_available_bytes"):
        assert "Permission denied" in told.untold[name], name


def test_a_rail_that_vanishes_takes_the_power_with_it_and_says_which(tmp_path: Path) -> None:
    root, run = board("agx-orin", tmp_path)
    (root / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/curr2_input").unlink()
    told = sample(root, run)
    assert told.power_w is None and "VDD_GPU_SOC" in told.rails_w
    assert "not known to be a whole module" in told.untold["power_w"] and "curr2_input" in told.untold["power_w"]


def test_a_monitor_that_two_paths_reach_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, run = board("orin-nano", tmp_path)
    put(root, f"{RAIL}/name", "ina3221")
    (root / "sys/class/hwmon/hwmon1").symlink_to(root / RAIL)
    read: list[Path] = []
    plain = sensors.read_number
    monkeypatch.setattr(sensors, "read_number", lambda path: read.append(path) or plain(path))
    assert sample(root, run).power_w == pytest.approx(4.984 * 1.856)
    assert len([path for path in read if path.name == "curr1_input"]) == 1
    shutil.rmtree(root / "sys/bus")
    assert sample(root, nothing).power_w is None  # the link leads nowhere now


def test_a_negative_offset_is_kept(tmp_path: Path) -> None:
    root, run = board("thor", tmp_path)
    put(root, "sys/class/hwmon/hwmon5/curr1_input", "-20")
    assert sample(root, run).rails_w["VDD_GPU"] == pytest.approx(-19.864 * 0.02)


@given(line=WORDS)
def test_garbage_in_the_line_raises_nothing(line: str) -> None:
    assert set(parse_tegrastats(line)) == {"rails_w", "temperatures_c"}


@given(
    rails=st.dictionaries(st.from_regex(r"V[A-Z0-9_]{1,20}", fullmatch=True), st.integers(-999, 10**6)),
    zones=st.dictionaries(st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True), st.integers(-40, 125)),
    means=st.integers(0, 2),
)
def test_a_line_is_read_back(rails: dict[str, int], zones: dict[str, int], means: int) -> None:
    words = ["10-01-2026 20:36:32 RAM 974/7546MB (lfb 6x4MB) SWAP 0/5821MB (cached 0MB) CPU [0%@729,off] GR3D_FREQ 12%"]
    words += [f"{name}@{celsius}.5C" + f"/{celsius + 1}C" * means for name, celsius in zones.items()]
    words += [f"{name} {milliwatts}mW" + "/99999mW" * means for name, milliwatts in rails.items()]
    told = parse_tegrastats(" ".join([*words, "NC 0mW/0mW CV0@-256C"]))
    assert told["rails_w"] == {name: milliwatts / 1000 for name, milliwatts in rails.items()}
    assert told["temperatures_c"] == {name: float(f"{celsius}.5") for name, celsius in zones.items()}


@given(text=WORDS, at=st.sampled_from(["in1_label", "in1_input", "curr1_input"]))
def test_garbage_in_a_file_raises_nothing(text: str, at: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.getbasetemp() / "garbage-in-a-rail"
    for name, value in {"in1_label": "VDD_IN", "in1_input": "5000", "curr1_input": "1000"}.items():
        put(root, f"{RAIL}/{name}", value)
    (root / RAIL / at).write_bytes(text.encode(errors="replace"))
    told = sample(root, nothing)
    assert (told.power_w is None) == ("power_w" in told.untold)


@given(
    st.dictionaries(
        st.text(max_size=5) | st.sampled_from(["VDD_IN", "VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"]), WATTS
    )
)
def test_part_of_a_module_is_no_module(rails: dict[str, float]) -> None:
    whole = {"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"}
    try:
        watts, names = module_power(rails)
    except Untold:
        assert "VDD_IN" not in rails and not whole <= set(rails)
    else:
        assert set(names) in ({"VDD_IN"}, whole) and watts == pytest.approx(math.fsum(rails[name] for name in names))


@given(watts=st.lists(WATTS, min_size=1, max_size=50), seconds=st.floats(0.1, 1e4))
def test_a_period_against_the_standard_library(watts: list[float], seconds: float) -> None:
    told = period(powers(*watts), seconds)
    power = told["power_w"]
    assert power["mean"] == pytest.approx(statistics.fmean(watts), abs=1e-9)
    assert told["energy_j"] == pytest.approx(statistics.fmean(watts) * seconds, abs=1e-6)
    assert (power["least"], power["most"], power["readings"]) == (min(watts), max(watts), len(watts))
    assert power["of"] == ["VDD_IN"]
    if len(watts) == 1:
        assert power["sd"] is None and told["interval_s"] is None
    else:
        assert power["sd"] == pytest.approx(statistics.stdev(watts), abs=1e-7) and told["interval_s"] == 1


def test_a_sensor_that_vanishes_in_between_leaves_no_mean() -> None:
    told = period(powers(5.0, 5.0, None, None), 3.0)
    assert told["power_w"] is None and told["energy_j"] is None
    assert told["untold"]["power_w"] == "2 of 4 readings are missing: gone"
    once = period(powers(*[6.0] * 19, None), 10.0)  # one of twenty may be
    assert once["energy_j"] == 60.0 and once["power_w"]["readings"] == 19
    changed = [*powers(5.0), Sample(1.0, power_w=9.0, power_of=("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"))]
    assert "the rails changed in between" in period(changed, 1.0)["untold"]["power_w"]


def alert(at_s: float, **states: int) -> Sample:
    return Sample(at_s, alerts={f"{name}-throttle-alert": state for name, state in states.items()})


def test_when_throttling_began() -> None:
    calm, hot = alert(10.0, cpu=0, gpu=0), alert(12.5, cpu=0, gpu=1)
    assert period([calm, calm], 1)["throttled"] == {}
    assert period([calm, hot, calm], 1)["throttled"] == {"gpu-throttle-alert": 2.5}
    assert period([hot, calm], 1)["throttled"] == {"gpu-throttle-alert": 0.0}
    assert period([hot, Sample(13.0)], 1)["throttled"] == {"gpu-throttle-alert": 0.0}
    unseen = period([calm, Sample(13.0, untold={"alerts": "gone"})], 1)
    assert unseen["throttled"] is None and "gone" in unseen["untold"]["throttled"]


def test_a_hot_surface_is_a_warning_and_no_throttling(tmp_path: Path) -> None:
    root, run = board("orin-nano", tmp_path)
    cool = sample(root, run)
    put(root, "sys/class/thermal/cooling_device3/cur_state", "1")
    hot = sample(root, run)
    assert hot.hot_surface == 1 and set(hot.alerts.values()) == {0}
    for samples, warned in (([cool, cool], False), ([cool, hot, cool], True)):
        told = period(samples, 1.0)
        assert told["hot_surface"] is warned and told["throttled"] == {}


def test_events_between_the_first_sample_and_the_last() -> None:
    def events(*counts: int) -> object:
        return period([Sample(float(i), over_current={"average over-current": n}) for i, n in enumerate(counts)], 1)

    assert events(15, 20, 22)["over_current"] == {"average over-current": 7}
    assert "not of one run" in events(15, 2)["untold"]["over_current"]
    other = [Sample(0.0, over_current={"a": 1}), Sample(1.0, over_current={"b": 1})]
    assert "not of one run" in period(other, 1)["untold"]["over_current"]
    assert period([other[0], Sample(1.0, untold={"over_current": "gone"})], 1)["untold"]["over_current"] == "gone"


def test_the_extremes_of_a_period() -> None:
    one = Sample(
        0.0,
        temperatures_c={"cpu": 50.0, "gpu": 61.5},
        cpu_khz={"cpu0": 7, "cpu1": 9},
        gpu_hz={"gpu": 3},
        memory_available_bytes=70,
    )
    two = Sample(
        1.0,
        temperatures_c={"cpu": 60.0, "gpu": 55.0},
        cpu_khz={"cpu0": 8, "cpu1": 8},
        gpu_hz={"gpu": 5},
        memory_available_bytes=60,
    )
    told = period([one, two], 1.0)
    assert told["temperature_c"] == {"highest": 61.5, "zone": "gpu"}
    assert told["cpu_khz"] == {"least": 7, "most": 9} and told["gpu_hz"] == {"least": 3, "most": 5}
    assert told["memory_available_bytes"] == 60


def test_no_sample_is_a_reason() -> None:
    told = period([], 1.0)
    assert told["power_w"] is None and told["untold"]["power_w"] == "there was no sample"


def until(samples: list[Sample], number: int) -> None:
    """Wait for the thread, however busy the machine is."""
    end = time.monotonic() + 30
    while len(samples) < number and time.monotonic() < end:
        time.sleep(0.005)
    assert len(samples) >= number


def test_the_thread_samples_at_its_rate_and_ends(tmp_path: Path) -> None:
    root, run = board("orin-nano", tmp_path)
    before, start = threading.active_count(), time.monotonic()
    with sampling(0.02, lambda: sample(root, run)) as samples:
        assert len(samples) == 1 and threading.active_count() == before + 1
        until(samples, 3)
        put(root, f"{RAIL}/curr1_input", "4000")
        put(root, "sys/class/thermal/cooling_device2/cur_state", "1")
        put(root, "sys/class/hwmon/hwmon3/oc2_event_cnt", "3")
        until(samples, len(samples) + 3)
    seconds = time.monotonic() - start
    assert threading.active_count() == before
    number = len(samples)
    assert 7 <= number <= seconds / 0.02 + 2
    told = period(samples, seconds)
    assert told["samples"] == number and told["interval_s"] == pytest.approx(
        (samples[-1].at_s - samples[0].at_s) / (number - 1)
    )
    assert told["power_w"]["least"] == pytest.approx(4.984 * 1.856)
    assert told["power_w"]["most"] == pytest.approx(4.984 * 4)
    assert 0 < told["throttled"]["gpu-throttle-alert"] < seconds
    assert told["over_current"]["average over-current"] == 3
    time.sleep(0.05)
    assert len(samples) == number


def test_a_sensor_removed_while_the_thread_reads(tmp_path: Path) -> None:
    root, _ = board("orin-nano", tmp_path)
    with sampling(0.005, lambda: sample(root, nothing)) as samples:
        until(samples, 2)
        shutil.rmtree(root / "sys")
        until(samples, 2 * len(samples))
    told = period(samples, 0.15)
    assert samples[0].power_w is not None and samples[-1].power_w is None
    assert told["power_w"] is None and told["throttled"] is None and told["over_current"] is None


def test_what_the_body_raises_comes_out_and_the_thread_ends() -> None:
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt), sampling(0.01, lambda: Sample(time.monotonic())):
        raise KeyboardInterrupt
    assert threading.active_count() == before
