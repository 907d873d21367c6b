"""The kit on its board: check, build, measure what is kept, and write one file to bring back.

Accuracy and latency are measured by the same code as on a host. What a board adds is what it is, how much power it
takes, and whether it was throttled meanwhile. No sensor is read inside the timed parts.
"""

import argparse
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from deploy.contract import Bundle, load_examples
from deploy.errors import Refused, words
from deploy.files import kept_json, read_json, sha256, write_json
from deploy.host import describe, slug
from deploy.jetson.board import Run, describe_board, refuse, run_command
from deploy.jetson.sensors import Sample, period, raised, sample, sampling
from deploy.measurement import NAME
from deploy.memory import peak_bytes
from deploy.rounds import WARM_UP
from deploy.standalone import (
    alone_in,
    can_run,
    measure_bundle,
    open_bundles,
    runtimes,
    say_rows,
    with_words,
    write_return,
)
from deploy.targets import EngineTarget, Target, dla_targets, engine_targets
from deploy.tasks import load_task
from deploy.trt import load_tensorrt, logger

HASHES = "hashes.json"  # of every file of the kit
MEMORY_BYTES = 1 << 30  # that must be free: TensorRT's builder, its libraries and a small network
DISK_BYTES = 1 << 30  # for engines, timings and results
CAPABILITIES = {"tegra234": "8.7", "tegra264": "11.0"}  # Orin, Thor: where nvidia-smi does not tell
ENERGY_S = 3.0  # seconds that a target works while its power is read
INTERVAL_S = 0.1  # between two readings of it
SETTINGS = ("power_mode", "clocks", "clocks_fixed")  # of a board, which nobody may change while it is measured
AGAIN = "cool the board and run again"
TOO_HOT = "cool it, or take a lower power mode (`sudo nvpmodel -m`), and run the same command again"


def main(begun: float) -> None:
    """The command line of ``run.py``, which was started at ``begun`` (`time.monotonic`)."""
    parser = argparse.ArgumentParser(prog="run.py", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", metavar="FOLDER", type=Path, default=Path("measured"), help="(measured)")
    parser.add_argument("--units", metavar="N", type=int, help="the first N test units alone, to try it out")
    parser.add_argument("--name", metavar="NAME", help="of this board, where there are two of one model")
    asked = parser.parse_args()
    folder = Path(__file__).resolve().parents[2]
    with_words("run", lambda: run_kit(folder, asked.out, asked.units, name=asked.name, begun=begun))


def run_kit(
    folder: Path,
    out: Path,
    units: int | None = None,
    root: Path = Path("/"),
    run: Run = run_command,
    name: str | None = None,
    begun: float | None = None,
) -> Path:
    """Measure every bundle of the kit that lies in ``folder``; the file to bring back.

    Args:
        out: gets that file, the engines, and while it runs what has been measured so far.
        units: measure the first so many test units alone.
        root: of the system's own files, and ``run``, for its commands: tests hand in a recorded board's.
        name: of the board, in place of its model.
        begun: when the command was given (`time.monotonic`); now, where nobody says.

    Raises:
        Refused: a damaged kit, a board that does not do, no runtime, a full disk, another run in ``out``.
    """
    begun = time.monotonic() if begun is None else begun
    if units is not None and units < 1:
        raise Refused(f"--units: {units}, expected at least 1. Leave it away to measure all.")
    if name is not None and not NAME.fullmatch(name):
        raise Refused(f"--name: {name!r}, expected letters, digits, - and _. Call the board otherwise.")
    check_hashes(folder)
    with alone_in(out):
        board = describe_board(root, run)
        refuse(board, out, MEMORY_BYTES, DISK_BYTES)
        bundles, here = open_bundles(sorted(path.parent for path in folder.glob("bundles/*/contract.json"))), runtimes()
        host = on_board(describe(), board, name)
        _say(host, here)
        wanted = _wanted(host, here)
        start = _start(begun)
        take = partial(sample, root, run)
        measurements = [_measured(bundle, host, here, wanted, out, units, take) | start for bundle in bundles]
        changed = _changed(host["board"], _steady(describe_board(root, run)))
        for measurement in measurements:
            if changed:
                _take_back(measurement["targets"], changed)
        _say_end(measurements, changed)
        return write_return(measurements, out, units)


def check_hashes(folder: Path) -> None:
    """Hold every file of the kit against the list that it came with.

    Raises:
        Refused: the list, or a file, is missing, damaged or changed.
    """
    again = "Unpack the archive again, or copy it again from where it was made"
    try:
        hashes = json.loads((folder / HASHES).read_bytes())
        wrong = [name for name, digest in hashes.items() if not _is(folder / name, digest)]
    except OSError as error:
        raise Refused(f"{folder}: not a whole kit: {HASHES}, its last file: {error.strerror}. {again}.") from None
    except (ValueError, AttributeError) as error:
        raise Refused(f"{folder / HASHES}: damaged, no list of files ({error}). {again}.") from None
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise Refused(f"{folder}: missing or changed since the kit was made: {', '.join(wrong[:3])}{more}. {again}.")


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest


def on_board(host: dict[str, Any], board: dict[str, Any], name: str | None = None) -> dict[str, Any]:
    """The host's description with the board's in it.

    What varies from one start to the next (free memory, a clock's present rate) stays out: what was measured before a
    power cut still holds. A board is called by its model, or by ``name``, and its power mode: another mode is another
    row of the report. Where nvidia-smi names no GPU, as on JetPack 6, the chip tells which it is.
    """
    if not board["jetson"]:
        return host | ({"name": name} if name else {}) | {"board": _steady(board)}
    mode = (board["power_mode"] or {"name": ""})["name"]
    called = "-".join(filter(None, [name or slug(board["model"] or board["soc"] or host["name"]), slug(mode)]))
    gpus = [gpu for gpu in host["gpus"] if re.fullmatch(r"\d+\.\d+", gpu["compute_capability"])]
    if not gpus and board["soc"] in CAPABILITIES:
        driver = f"L4T {board['l4t']}"
        gpus = [{"name": board["soc"], "compute_capability": CAPABILITIES[board["soc"]], "driver": driver}]
    return host | {"name": called, "gpus": gpus, "board": _steady(board)}


def _steady(board: Mapping[str, Any]) -> dict[str, Any]:
    steady = {name: fact for name, fact in board.items() if name != "memory_available_bytes"}
    clocks = board["clocks"]
    return steady | {"clocks": clocks and {part: _without_now(told) for part, told in clocks.items()}}


def _without_now(told: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: rate for name, rate in (told or {}).items() if name != "now_hz"}


def _say(host: Mapping[str, Any], here: list[str]) -> None:
    board = host["board"]
    print(f"{host['name']}: {', '.join(here)}; {', '.join(gpu['name'] for gpu in host['gpus']) or host['gpu_error']}")
    if not board["jetson"]:
        print("This is no Jetson: the kit runs with what is here.")
        return
    mode = board["power_mode"]
    print(f"JetPack {board['jetpack']}, power mode {mode['name'] if mode else 'untold'}")
    if board["clocks_fixed"] is False:
        print("The clocks may vary, so that times vary too: `sudo jetson_clocks` fixes them.")


def _wanted(host: Mapping[str, Any], here: list[str]) -> list[EngineTarget]:
    """What is built here. On a Jetson TensorRT's always: where that is not possible, the row says why."""
    jetson = host["board"]["jetson"]
    engines = [e for e in engine_targets() if can_run(e, host, here) or (jetson and e.module == "tensorrt")]
    dla = [engine for engine in dla_targets() if can_run(engine, host, here)]
    return engines + (dla if dla and _dla_cores(jetson) else [])


def _dla_cores(jetson: bool) -> int:
    try:
        trt = load_tensorrt("tensorrt")
        return int(trt.Builder(logger(trt)).num_DLA_cores)
    except Exception as error:  # TensorRT raises what it likes
        asked = " Is this user in the groups `video` and `render`?" if jetson else ""
        print(f"TensorRT does not tell whether there is a DLA, so none is built for: {words(error)}.{asked}")
        return 0


def _start(begun: float) -> dict[str, Any]:
    """What it took to come as far as the first engine: ``seconds``, and the most memory that this process has had."""
    try:
        peak: int | None = peak_bytes()
    except Refused:
        peak = None
    return {"start": {"seconds": round(time.monotonic() - begun, 3), "memory_bytes": peak}}


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Why nothing holds that was measured in between; empty if the board is set as it was."""
    other = [name.replace("_", " ") for name in SETTINGS if before[name] != after[name]]
    if not other:
        return ""
    return (
        f"{', '.join(other)}: changed on the board while it was measured; leave it as it is, and run the same command "
        f"again"
    )


def _take_back(rows: dict[str, dict[str, Any]], reason: str) -> None:
    """Make rows that were measured ``NOT MEASURED``."""
    for target, row in rows.items():
        if not row["reason"]:
            rows[target] = {key: row[key] for key in ("precision", "device")} | {"reason": reason}


def _say_end(measurements: list[dict[str, Any]], changed: str) -> None:
    """What a person must know who looked at the last lines alone."""
    if changed:
        print(f"not measured: {changed}")
    throttled = [each["recipe"] for each in measurements if each["rounds_watched"]["throttled"]]
    if throttled:
        print(f"throttled, and not measured: {', '.join(throttled)}; {AGAIN}")


def _measured(
    bundle: Bundle,
    host: Mapping[str, Any],
    here: list[str],
    wanted: list[EngineTarget],
    out: Path,
    units: int | None,
    take: Callable[[], Sample],
) -> dict[str, Any]:
    """The measurement with ``power`` in each row, ``rounds_watched``, and rows that were throttled taken back."""
    samples: list[Sample] = []
    blocks = partial(_watched, samples, take)
    measurement, targets, cache = measure_bundle(bundle, host, here, wanted, out, blocks, units)
    samples.append(take())  # what is timed alone is timed after the last block
    alerts = _keep_alerts(cache, samples)
    watched = measurement["rounds_watched"] = _of_rounds(samples, alerts)
    rows = measurement["targets"]
    if alerts:
        _take_back(
            rows, f"throttled: the board lowered its own clocks while it was timed ({', '.join(alerts)}); {TOO_HOT}"
        )
        print(f"{bundle.recipe}: throttled: {', '.join(alerts)}; {AGAIN}")
    elif watched["throttled"] is None:
        print(f"{bundle.recipe}: whether the board throttled is not told: {watched['untold']['throttled']}")
    say_rows(bundle.recipe, {name: row for name, row in rows.items() if not row["reason"].startswith("throttled: ")})
    for target in targets:
        row = rows[target.name]
        if not row["reason"] and "failed" not in row:
            row["power"] = kept_json(cache / f"power {target.name}.json", partial(_power_told, target, bundle, take))
    return measurement


def _watched(samples: list[Sample], take: Callable[[], Sample], cache: Path, blocks: Iterable[int]) -> Iterator[int]:
    """``blocks``, with a sample before the first and after each: between the timed parts, and never in one."""
    samples.append(take())
    _keep_alerts(cache, samples)
    for block in blocks:
        yield block
        samples.append(take())
        _keep_alerts(cache, samples)


def _keep_alerts(cache: Path, samples: list[Sample]) -> dict[str, float]:
    """The throttle alerts of these rounds, as ``raised`` tells them: kept once they are seen, for after a power cut."""
    file = cache / "throttled.json"
    kept: dict[str, float] = read_json(file) if file.is_file() else {}
    alerts = raised(samples) | kept
    if alerts.keys() != kept.keys():
        write_json(file, alerts)
    return alerts


def _of_rounds(samples: list[Sample], alerts: dict[str, float]) -> dict[str, Any]:
    """The period of the timed rounds; without energy, for no sensor was read in them."""
    watched = period(samples, samples[-1].at_s - samples[0].at_s)
    del watched["energy_j"]
    watched["untold"].pop("energy_j", None)
    if alerts:
        watched["throttled"] = alerts
        watched["untold"].pop("throttled", None)
    return watched


def _power_told(target: Target, bundle: Bundle, take: Callable[[], Sample]) -> dict[str, Any]:
    """``_power``; where it fails, why: what was measured of accuracy and latency stands."""
    try:
        return _power(target, bundle, take)
    except Exception as error:  # a runtime raises what it likes
        facts = period([], 0.0)
        return facts | {"requests": 0, "untold": dict.fromkeys(facts["untold"], words(error))}


def _power(target: Target, bundle: Bundle, take: Callable[[], Sample]) -> dict[str, Any]:
    """What the board's sensors tell while ``target`` works back to back, as ``period`` says it, and the ``requests``.

    ``energy_j`` is then of one request; ``None`` where no sensor tells of power, or the board throttled.
    """
    before = take()
    if before.power_w is None:
        return period([before], 0.0) | {"requests": 0, "energy_j": None}
    requests = load_task(bundle.task).requests(target.open(), load_examples(bundle, "test"))
    for request in requests[:WARM_UP]:
        request()
    done = 0
    with sampling(INTERVAL_S, take) as samples:
        start = time.monotonic()
        while time.monotonic() - start < ENERGY_S:
            requests[done % len(requests)]()
            done += 1
        end = time.monotonic()
    facts = period([one for one in samples if start <= one.at_s <= end], end - start) | {"requests": done}
    if alerts := raised(samples):
        reason = f"throttled: the board lowered its own clocks meanwhile ({', '.join(alerts)})"
        untold = {name: why for name, why in facts["untold"].items() if name != "throttled"} | {"energy_j": reason}
        return facts | {"throttled": alerts, "energy_j": None, "untold": untold}
    return facts | {"energy_j": facts["energy_j"] and facts["energy_j"] / done}
