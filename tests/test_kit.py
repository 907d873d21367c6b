"""The kit: made from bundles, carried as one archive, run where there is no board, and with a recorded one."""

import dataclasses
import json
import os
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import pytest
from boards.recorded import board, nothing, put
from conftest import NAME
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from played import play

from deploy.contract import Bundle
from deploy.errors import Refused
from deploy.files import read_json, sha256
from deploy.jetson import kit as kit_module
from deploy.jetson.kit import HASHES, check_hashes, on_board, run_kit
from deploy.jetson.sensors import Sample
from deploy.measure import measure
from deploy.measurement import read_returned
from deploy.rounds import BLOCK
from deploy.targets import dla_targets, targets
from pipeline.judge import judge
from pipeline.kit import TOP, kit
from pipeline.recipe import Budget, Project

BLOCKED = """
import runpy, sys
for name in ("torch", "onnx", "dvc", "tqdm", "yaml", "scipy", "pipeline", "models"):
    sys.modules[name] = None
sys.path = [place for place in sys.path if "plumbline" not in place]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(finder).lower()]
runpy.run_path("run.py", run_name="__main__")
"""


@pytest.fixture(scope="module")
def archive(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    build = tmp_path_factory.mktemp("build")
    (build / "bundle").symlink_to((project.build / "bundle").resolve())
    kit(dataclasses.replace(project, build=build), [NAME])
    return build / "kit" / f"{NAME}.tar.gz"


@pytest.fixture
def unpacked(archive: Path, tmp_path: Path) -> Path:
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    return tmp_path / TOP


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.rounds.ROUNDS", 2 * BLOCK)
    monkeypatch.setattr("deploy.jetson.kit.ENERGY_S", 0.3)


def test_the_archive_holds_a_bundle_the_code_and_a_page_and_no_more(archive: Path, bundle: Bundle) -> None:
    with tarfile.open(archive) as packed:
        names = {name.removeprefix(f"{TOP}/") for name in packed.getnames()}
        modes = {entry.name: entry.mode for entry in packed}
    assert {"run.py", "example.py", "README.md", HASHES, f"bundles/{NAME}/contract.json"} <= names
    assert {f"bundles/{NAME}/{file}" for file in bundle.files} <= names
    assert "deploy/engine.py" in names and "deploy/tasks/classification.py" in names
    assert not [
        name for name in names if name.startswith(("pipeline", "models", "deploy/server")) or "__pycache__" in name
    ]
    assert modes[f"{TOP}/run.py"] == 0o755


def test_the_same_bundles_give_the_same_archive(archive: Path, project: Project, tmp_path: Path) -> None:
    (tmp_path / "bundle").symlink_to((project.build / "bundle").resolve())
    kit(dataclasses.replace(project, build=tmp_path), [NAME])
    assert sha256(tmp_path / "kit" / archive.name) == sha256(archive)
    with pytest.raises(Refused, match="no recipe 'gorner_digit'.*gorner_digits"):
        kit(dataclasses.replace(project, build=tmp_path), ["gorner_digit"])


def test_it_runs_with_numpy_and_a_runtime_alone_and_its_scores_are_the_hosts(unpacked: Path, bundle: Bundle) -> None:
    words = [sys.executable, "-c", BLOCKED, "--units", "60"]
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(words, cwd=unpacked, capture_output=True, text=True, timeout=120, env=plain)
    assert done.returncode == 0, done.stderr
    assert "This is no Jetson: the kit runs with what is here." in done.stdout
    (file,) = (unpacked / "measured").glob("*.json")
    (there,) = read_returned(file)
    assert file.stem == f"{there['host']['name']}-trial" and f"{file.name}: a trial of the first 60" in done.stdout
    assert "Bring" not in done.stdout and "whether the board throttled is not told: " in done.stdout
    assert 0 < there["start"]["seconds"] < 60 and 1e7 < there["start"]["memory_bytes"] < 1e9
    assert there["n"] == 60 and there["contract_sha256"] == bundle.sha256 and there["host"]["board"]["jetson"] is False
    here = [row for row in targets(bundle, there["host"], unpacked, {}) if row.name in there["targets"]]
    stage = measure(bundle, [row for row in here if not row.reason], {"name": "here"}, units=60)["targets"]
    assert len(stage) >= 3
    for name, row in stage.items():
        assert there["targets"][name]["statistics"] == row["statistics"]
        power = there["targets"][name]["power"]
        assert (power["energy_j"] is None) == (power["power_w"] is None) and (power["energy_j"] or power["untold"])


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_file_that_is_missing_or_changed_is_named(unpacked: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(read_json(unpacked / HASHES))))
    whole = (unpacked / name).read_bytes()
    check_hashes(unpacked)
    if whole and data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(whole) - 1))
        (unpacked / name).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    else:
        (unpacked / name).unlink()
    with pytest.raises(Refused, match=f"missing or changed since the kit was made: {name}. Unpack the archive again"):
        run_kit(unpacked, unpacked / "measured")
    (unpacked / name).write_bytes(whole)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0.01, 0.99))
def test_a_truncated_archive_is_no_kit(archive: Path, tmp_path: Path, share: float) -> None:
    """What `tar` leaves of it lacks at least the list, which is the last file."""
    folder = tmp_path / f"{share}"
    folder.mkdir()
    (folder / "cut.tar.gz").write_bytes(archive.read_bytes()[: int(share * archive.stat().st_size)])
    tar = subprocess.run(["tar", "xzf", "cut.tar.gz"], cwd=folder, capture_output=True, text=True)
    assert tar.returncode
    with pytest.raises(Refused, match="not a whole kit: hashes.json, its last file: No such file or directory. Unpack"):
        check_hashes(folder / TOP)


def test_a_damaged_list_is_told(unpacked: Path) -> None:
    for text in ("{", "[1]"):
        (unpacked / HASHES).write_text(text)
        with pytest.raises(Refused, match=r"hashes\.json: damaged, no list of files"):
            check_hashes(unpacked)


# A recorded board


@pytest.fixture
def orin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """An Orin Nano's files and commands, on which ONNX Runtime answers on its processor."""
    root, run = board("orin-nano", tmp_path / "root")
    monkeypatch.setattr(kit_module, "CAPABILITIES", {})
    monkeypatch.setattr(kit_module, "engine_targets", lambda: [])
    return {"root": root, "run": run}


def test_a_board_is_told_by_its_model_and_its_gpu_by_its_chip(
    orin: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    facts = kit_module.describe_board(orin["root"], orin["run"])
    host = on_board({"name": "arm", "gpus": [], "gpu_error": "none"}, facts)
    assert host["name"] == "nvidia-jetson-orin-nano-engineering-reference-developer-kit-super-maxn-super"
    assert on_board({"name": "arm", "gpus": []}, facts, "left")["name"] == "left-maxn-super"
    assert on_board({"name": "arm", "gpus": []}, facts | {"power_mode": None}, "left")["name"] == "left"
    assert on_board({"name": "pc", "gpus": []}, facts | {"jetson": False}, "left")["name"] == "left"
    assert [gpu["compute_capability"] for gpu in host["gpus"]] == ["8.7"]
    assert "memory_available_bytes" not in host["board"] and "now_hz" not in json.dumps(host["board"])
    named = {"name": "Orin (nvgpu)", "compute_capability": "[N/A]", "driver": "540.4.0"}
    assert on_board({"name": "arm", "gpus": [named]}, facts)["gpus"] == host["gpus"]


def test_energy_is_read_apart_from_the_rounds_and_judged_rows_carry_it(
    unpacked: Path, orin: dict[str, Any], bundle: Bundle
) -> None:
    (there,) = read_returned(run_kit(unpacked, unpacked / "measured", 60, **orin))
    watched = there["rounds_watched"]
    assert there["host"]["board"]["power_mode"] and watched["throttled"] == {} and watched["hot_surface"] is False
    assert "energy_j" not in watched and "energy_j" not in watched["untold"] and watched["samples"] == 4
    row = there["targets"]["onnxruntime-cpu-int8"]
    power = row["power"]
    assert power["requests"] > 10
    np.testing.assert_allclose(
        power["energy_j"] * power["requests"], power["power_w"]["mean"] * power["seconds"], rtol=1e-6
    )
    judged = judge(there, bundle.sha256, 50.0, Budget(20.0, {}))["targets"]["onnxruntime-cpu-int8"]
    assert (
        judged["energy_mj"] == pytest.approx(1e3 * power["energy_j"]) and judged["power_w"] == power["power_w"]["mean"]
    )


def raises_alert(root: Path) -> None:
    put(root, "sys/class/thermal/cooling_device77/type", "gpu-throttle-alert")
    put(root, "sys/class/thermal/cooling_device77/cur_state", "1")


def test_what_was_throttled_is_not_measured_and_the_next_run_times_it_anew(
    unpacked: Path, orin: dict[str, Any], bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    whole, calls = kit_module.sample, [0]

    def heated(root: Path, run: Callable[..., str]) -> Any:
        calls[0] += 1
        if calls[0] == 3:
            raises_alert(root)
        return whole(root, run)

    monkeypatch.setattr(kit_module, "sample", heated)
    (there,) = read_returned(run_kit(unpacked, unpacked / "measured", 60, **orin))
    said = capsys.readouterr().out
    assert said.count(f"{NAME}: throttled: gpu-throttle-alert; cool the board and run again\n") == 1
    assert said.splitlines()[-2] == f"throttled, and not measured: {NAME}; cool the board and run again"
    assert ": measured" not in said
    for row in there["targets"].values():
        assert "throttled: the board lowered its own clocks while it was timed (gpu-throttle-alert)" in row["reason"]
        assert "latency_s" not in row
    judged = judge(there, bundle.sha256, 50.0, Budget(20.0, {}))["targets"]
    assert {row["verdict"] for row in judged.values()} == {"NOT MEASURED"}
    put(orin["root"], "sys/class/thermal/cooling_device77/cur_state", "0")
    (again,) = read_returned(run_kit(unpacked, unpacked / "measured", 60, **orin))
    assert not any(row["reason"] for row in again["targets"].values())


def test_throttling_before_a_power_cut_is_not_forgotten(
    unpacked: Path, orin: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    raises_alert(orin["root"])

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as until, pytest.raises(KeyboardInterrupt):
        until.setattr(kit_module, "write_return", cut)
        run_kit(unpacked, unpacked / "measured", 60, **orin)
    put(orin["root"], "sys/class/thermal/cooling_device77/cur_state", "0")
    (there,) = read_returned(run_kit(unpacked, unpacked / "measured", 60, **orin))
    assert all("throttled" in row["reason"] for row in there["targets"].values())


def test_throttling_that_was_seen_between_blocks_is_not_forgotten_when_the_next_is_cut_off(
    unpacked: Path, orin: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The alert is gone again when the kit goes on; what was kept before the cut was timed under it."""
    from deploy import rounds

    whole = rounds.interleaved

    def cut(*arguments: Any, first: int = 0, **named: Any) -> Any:
        if first:
            raise KeyboardInterrupt
        times = whole(*arguments, first=first, **named)
        if "seed" in named:  # no trial
            raises_alert(orin["root"])
        return times

    with monkeypatch.context() as until, pytest.raises(KeyboardInterrupt):
        until.setattr(rounds, "interleaved", cut)
        run_kit(unpacked, unpacked / "measured", 60, **orin)
    put(orin["root"], "sys/class/thermal/cooling_device77/cur_state", "0")
    (there,) = read_returned(run_kit(unpacked, unpacked / "measured", 60, **orin))
    assert all("throttled: " in row["reason"] for row in there["targets"].values())
    assert list(there["rounds_watched"]["throttled"]) == ["gpu-throttle-alert"]


def test_throttling_after_the_last_block_counts(
    unpacked: Path, orin: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = kit_module.measure_bundle

    def heated(*arguments: Any) -> Any:
        measured = whole(*arguments)
        raises_alert(orin["root"])
        return measured

    monkeypatch.setattr(kit_module, "measure_bundle", heated)
    (there,) = read_returned(run_kit(unpacked, unpacked / "measured", 60, **orin))
    assert all("throttled: " in row["reason"] for row in there["targets"].values())


def test_what_fails_while_power_is_read_costs_that_power_alone(
    unpacked: Path, orin: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = kit_module._power
    failures = {"onnxruntime-cpu-fp16": Refused("it was taken away"), "onnxruntime-cpu-int8": RuntimeError("lost")}

    def fails(target: Any, bundle: Bundle, take: Any) -> Any:
        def opened() -> NoReturn:
            raise failures[target.name]

        return whole(dataclasses.replace(target, open=opened) if target.name in failures else target, bundle, take)

    monkeypatch.setattr(kit_module, "_power", fails)
    rows = read_returned(run_kit(unpacked, unpacked / "measured", 60, **orin))[0]["targets"]
    assert rows["onnxruntime-cpu-fp32"]["power"]["energy_j"] > 0
    for name, told in (("onnxruntime-cpu-fp16", "it was taken away"), ("onnxruntime-cpu-int8", "RuntimeError: lost")):
        power = rows[name]["power"]
        assert power["energy_j"] is None and power["requests"] == 0 and rows[name]["latency_s"]
        assert power["untold"]["power_w"] == power["untold"]["energy_j"] == told


class Load:
    """A target that draws 10 W while it answers, and a meter that sees 2 W when it does not."""

    def __init__(self, bundle: Bundle, heats: bool = False) -> None:
        self.busy, self.calls, self.heats = threading.Event(), 0, heats
        self.target: Any = SimpleNamespace(open=lambda: {"network": self.answer})
        self.logits = np.zeros((1, len(bundle.classes)), np.float32)
        self.worked: list[float] = []

    def answer(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.calls += 1
        self.worked.append(time.monotonic())
        self.busy.set()
        time.sleep(0.005)
        self.worked.append(time.monotonic())
        self.busy.clear()
        return {"logits": self.logits}

    def take(self) -> Sample:
        watts = 10.0 if self.busy.wait(0.05) else 2.0  # the next request follows at once, or there is none
        alerts = {"gpu-throttle-alert": int(self.heats and watts == 10.0)}
        return Sample(time.monotonic(), power_w=watts, power_of=("VDD_IN",), alerts=alerts)


def test_energy_is_that_of_the_work_alone(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kit_module, "INTERVAL_S", 0.05)
    load = Load(bundle)
    power = kit_module._power(load.target, bundle, load.take)
    begun, ended = load.worked[2 * kit_module.WARM_UP], load.worked[-1]
    assert power["requests"] == load.calls - kit_module.WARM_UP and power["samples"] >= 3
    assert power["energy_j"] == pytest.approx(10.0 * (ended - begun) / power["requests"], rel=0.01)


def test_throttled_while_power_is_read_there_is_no_energy(bundle: Bundle) -> None:
    load = Load(bundle, heats=True)
    power = kit_module._power(load.target, bundle, load.take)
    assert power["energy_j"] is None and list(power["throttled"]) == ["gpu-throttle-alert"]
    assert power["untold"]["energy_j"].startswith("throttled: ") and "throttled" not in power["untold"]


def test_two_runs_in_one_folder_are_one_too_many(unpacked: Path, orin: dict[str, Any]) -> None:
    out = unpacked / "measured"
    hold = "import sys; from deploy.standalone import alone_in; from pathlib import Path\n"
    hold += f"with alone_in(Path({str(out)!r})): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold], cwd=unpacked, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout and first.stdout.readline() == "held\n"
        with pytest.raises(Refused, match=r"measured: another run is measuring there, expected one at a time"):
            run_kit(unpacked, out, 60, **orin)
        first.communicate()
    assert run_kit(unpacked, out, 60, **orin).is_file()


def test_a_trial_leaves_the_measurement_and_what_a_stopped_one_goes_on_from(
    unpacked: Path, orin: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    full = run_kit(unpacked, unpacked / "measured", **orin)
    assert f"Bring {full} back" in capsys.readouterr().out
    whole = full.read_bytes()

    def cut(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as until, pytest.raises(KeyboardInterrupt):
        until.setattr(kit_module, "_power_told", cut)
        run_kit(unpacked, unpacked / "measured", **orin)
    trial = run_kit(unpacked, unpacked / "measured", 60, **orin)
    assert trial.name == f"{full.stem}-trial.json" and full.read_bytes() == whole
    assert list((unpacked / "measured" / "measuring").rglob("rounds*from 0.json"))
    for units in (0, -3):
        with pytest.raises(Refused, match=f"--units: {units}, expected at least 1"):
            run_kit(unpacked, unpacked / "measured", units, **orin)
    with pytest.raises(Refused, match="--name: 'my board', expected letters, digits, - and _"):
        run_kit(unpacked, unpacked / "measured", 60, **orin, name="my board")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("NV Power Mode: 15W\n0", "power mode"),
        (("sys/class/devfreq/17000000.gpu/min_freq", "306000000"), "clocks fixed"),
    ],
)
def test_a_board_that_was_set_otherwise_meanwhile_is_not_measured(
    unpacked: Path, orin: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: Any, change: Any, told: str
) -> None:
    whole, run, done = kit_module._measured, orin["run"], []

    def changed(*arguments: Any) -> Any:
        measured = whole(*arguments)
        done.append(1)
        if not isinstance(change, str):
            put(orin["root"], *change)
        return measured

    def other(command: list[str], seconds: float) -> str:
        return change if done and command[0] == "nvpmodel" and isinstance(change, str) else run(command, seconds)

    monkeypatch.setattr(kit_module, "_measured", changed)
    (there,) = read_returned(run_kit(unpacked, unpacked / "measured", 60, orin["root"], other))
    for row in there["targets"].values():
        assert row["reason"].startswith(f"{told}: changed on the board while it was measured") and set(row) == {
            "precision", "device", "reason",
        }  # fmt: skip
    assert f"not measured: {told}: changed" in capsys.readouterr().out


def test_on_a_jetson_tensorrts_rows_are_there_with_their_reason(
    unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, run = board("orin-nano", tmp_path / "root")
    monkeypatch.setattr(kit_module, "runtimes", lambda: ["onnxruntime"])
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    rows = read_returned(run_kit(unpacked, unpacked / "measured", 60, root, run))[0]["targets"]
    for name in ("fp32", "fp16", "int8"):
        assert "tensorrt is" in rows[f"tensorrt-{name}"]["reason"], rows[f"tensorrt-{name}"]
    assert not [name for name in rows if "dla" in name]
    put(root, "proc/device-tree/compatible", "nvidia,p1\0nvidia,tegra999")
    rows = read_returned(run_kit(unpacked, unpacked / "measured", 60, root, run))[0]["targets"]
    assert "no NVIDIA GPU that works" in rows["tensorrt-fp16"]["reason"]


@pytest.mark.parametrize("error", [TypeError("pybind11::init(): factory function returned nullptr"), Refused("gone")])
def test_a_builder_that_cannot_be_made_is_no_dla_and_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def fails(module: str) -> NoReturn:
        raise error

    monkeypatch.setattr(kit_module, "load_tensorrt", fails)
    assert kit_module._dla_cores(True) == 0 == kit_module._dla_cores(False)
    first, second = capsys.readouterr().out.splitlines()
    assert str(error) in first and first.endswith("Is this user in the groups `video` and `render`?")
    assert str(error) in second and "groups" not in second


def test_a_file_where_a_folder_should_be_and_another_users_cache_are_one_line(
    unpacked: Path, orin: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = unpacked / "measured" / "kept"
    kept.parent.mkdir()
    (kept.parent / "measuring-trial").write_text("")
    with pytest.raises(Refused, match=r"measuring-trial/.*(File exists|Not a directory)"):
        run_kit(unpacked, unpacked / "measured", 60, **orin)
    (kept.parent / "measuring-trial").unlink()

    def denied(*_: object, **__: object) -> NoReturn:
        raise PermissionError(13, "Permission denied", str(kept))

    monkeypatch.setattr("deploy.standalone.build_engines", denied)
    with pytest.raises(Refused, match=r"kept: cannot be used \(Permission denied\).*`sudo chown -R \$USER .*measured`"):
        run_kit(unpacked, unpacked / "measured", 60, **orin)


def test_a_board_without_sensors_is_measured_and_says_why_there_is_no_energy(
    unpacked: Path, tmp_path: Path, capsys: Any
) -> None:
    (there,) = read_returned(run_kit(unpacked, unpacked / "measured", 60, root=tmp_path / "empty", run=nothing))
    assert there["rounds_watched"]["throttled"] is None and there["rounds_watched"]["untold"]["throttled"]
    assert f"{NAME}: whether the board throttled is not told: " in capsys.readouterr().out
    power = there["targets"]["onnxruntime-cpu-fp32"]["power"]
    assert power["energy_j"] is None and power["requests"] == 0 and power["untold"]["power_w"]


def test_an_old_board_is_refused_before_anything_is_read_of_the_bundles(unpacked: Path, tmp_path: Path) -> None:
    root, run = board("nano", tmp_path / "root")
    with pytest.raises(Refused, match=r"JetPack 4\.6.*expected 6\.1 or newer.*Nano and TX1 end at JetPack 4"):
        run_kit(unpacked, unpacked / "measured", root=root, run=run)
    assert not list((unpacked / "measured").glob("*.json"))


def test_a_disk_that_cannot_be_written_is_one_line(unpacked: Path, orin: dict[str, Any]) -> None:
    (unpacked / "measured").write_text("a file where a folder should be")
    with pytest.raises(
        Refused, match=r"measured: cannot be used \(File exists\), expected a folder.*`--out FOLDER`\.$"
    ):
        run_kit(unpacked, unpacked / "measured", **orin)


def test_on_an_orin_engines_are_built_kept_and_measured_and_its_dla_takes_one_unit_a_call(
    unpacked: Path, tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the double of TensorRT 10.3, whose engines answer as the fp32 graph does."""
    layers = [("conv", "CONVOLUTION", "HALF"), ("cast", "CAST", "HALF")]
    played = play(bundle, monkeypatch, layers=layers, dla_cores=2, only_gpu=("cast",))
    monkeypatch.setattr(kit_module, "runtimes", lambda: ["tensorrt"])
    monkeypatch.setattr(kit_module, "load_tensorrt", lambda module: played.trt)
    root, run = board("orin-nano", tmp_path / "root")
    (there,) = read_returned(run_kit(unpacked, unpacked / "measured", 60, root, run))
    rows = there["targets"]
    assert list(rows) == [
        *(f"tensorrt-{p}" for p in ("fp32", "fp16", "int8")),
        "tensorrt-dla-fp16",
        "tensorrt-dla-int8",
    ]
    built = read_json(unpacked / "measured" / "engines" / NAME / "build.json")
    for name, row in rows.items():
        assert not row["reason"] and "failed" not in row, row
        assert row["statistics"] == rows["tensorrt-fp32"]["statistics"] and row["power"]["energy_j"] > 0
        (file,) = built[name]["files"].values()
        assert row["sha256"]["network"] == file["sha256"]
        assert built[name]["gpu"] == "tegra234" and built[name]["builder"] == "tensorrt 10.3.0"
    assert built["tensorrt-dla-fp16"]["notes"] == ["1 of 2 layers run on the GPU, not on the DLA: cast (CAST)"]
    assert built["tensorrt-dla-fp16"]["dla"] == 0 and "dla" not in built["tensorrt-fp16"]
    assert {60, 1} == set(played.answered)  # the DLA's engines and the timed requests one by one
    assert not played.runtime.refused
    judged = judge(there, bundle.sha256, 50.0, Budget(20.0, {}))["targets"]
    assert {name: row["latency_against"] for name, row in judged.items() if name != "tensorrt-fp32"} == dict.fromkeys(
        [name for name in rows if name != "tensorrt-fp32"], "tensorrt-fp32"
    )


def test_a_dla_is_built_for_in_fp16_and_int8_alone() -> None:
    assert {target.name: target.precision for target in dla_targets()} == {
        "tensorrt-dla-fp16": "fp16",
        "tensorrt-dla-int8": "int8-tensorrt",
    }


def test_an_old_python_is_told_before_anything_is_imported(unpacked: Path) -> None:
    """`sys.version_info` is made old: the file must be read whole by a Python that knows no newer syntax."""
    source = (unpacked / "run.py").read_text()
    compile(source, "run.py", "exec")
    import ast

    ast.parse(source, feature_version=(3, 4))
    old = "import sys; sys.version_info = (3, 8, 10); exec(open('run.py').read())"
    done = subprocess.run([sys.executable, "-c", old], cwd=unpacked, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("run: Python 3.8 came, 3.10 or newer was expected")


def test_what_is_missing_to_start_is_one_line(unpacked: Path) -> None:
    def started(before: str) -> str:
        begin = f"import runpy, sys; {before}; runpy.run_path('run.py', run_name='__main__')"
        alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        asked = [sys.executable, "-c", begin]
        done = subprocess.run(asked, cwd=unpacked, capture_output=True, text=True, timeout=60, env=alone)
        assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    said = started("sys.modules['numpy'] = None")
    assert said.startswith("run: ") and "`sudo apt install python3-numpy`, and use /usr/bin/python3." in said
    (unpacked / "deploy" / "told.py").write_text("raise KeyboardInterrupt")
    assert started("0") == "run: stopped before anything was begun.\n"
    (unpacked / "deploy" / "told.py").unlink()
    hidden = "sys.meta_path[:] = [finder for finder in sys.meta_path if 'editable' not in str(finder).lower()]"
    assert "No module named 'deploy.told': not a whole kit. Unpack the archive again" in started(hidden)
