"""Measure bundles on a machine that has no pipeline: numpy, a runtime and this folder are all it takes.

``python -m deploy.measure BUNDLE ...`` builds the engines that this machine can run, measures every target that is
here, and writes one file for ``python -m pipeline.verify --from FILE`` where the bundles were made. Run again after it
was stopped, it goes on. With ``--server URL`` it measures what is served there, by Plumbline or by Triton, in turn with
the same fp32 graph here.
"""

import argparse
import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any

import deploy
from deploy.contract import Bundle, open_bundle
from deploy.engines import build_engines
from deploy.errors import Refused
from deploy.files import read_json, sha256, write_json
from deploy.host import describe, slug
from deploy.latency import Requests
from deploy.measure import measure
from deploy.measurement import FORMAT, TIMED, read_returned
from deploy.remote import UNASKED, Wait, host_of
from deploy.rounds import BLOCK
from deploy.served import Server, noting, open_server, remote_targets
from deploy.targets import EngineTarget, Target, engine_targets, targets

RUNTIMES = ("onnxruntime", "tensorrt", "tensorrt_rtx")
OPTIONS = {"level": None, "workspace_mib": None, "refit": False}  # as TensorRT itself would have it

TOKEN = "PLUMBLINE_TOKEN"  # noqa: S105  # the variable's name, as the server has it
SERVERS_OWN = {  # what would be measured here is the memory of the process that asks
    "memory_bytes": None,
    "device_memory_bytes": None,
    "memory_reason": "it is the server's, which does not tell",
}

UNTOLD = "its server does not tell queue and compute: they are in the latency, with the way there"

VARIES = ("memory_bytes", "untold")  # of a board: what it has left of its memory, and words, from start to start

Measured = tuple[dict[str, Any], list[Target], Path]
Blocks = Callable[[Path, Iterable[int]], Iterable[int]]  # is also given the folder that keeps what is measured


def main() -> None:
    """The command line of ``python -m deploy.measure``."""
    parser = argparse.ArgumentParser(prog="python -m deploy.measure", description=__doc__.partition("\n")[0])
    parser.add_argument("bundles", metavar="BUNDLE", nargs="+", type=Path, help="a folder with a contract.json")
    parser.add_argument("--out", metavar="FOLDER", type=Path, default=Path("measured"), help="(measured)")
    parser.add_argument("--server", metavar="URL", help=f"measure what is served there; its token is in ${TOKEN}")
    asked = parser.parse_args()
    if asked.server is None:
        with_words("measure", lambda: measure_bundles(asked.bundles, asked.out))
    else:
        with_words("measure", lambda: measure_served(asked.bundles, asked.out, asked.server, os.environ.get(TOKEN, "")))


def with_words(program: str, work: Callable[[], object]) -> None:
    """Run ``work``, and say in one line what is wrong."""
    try:
        work()
    except (Refused, OSError, MemoryError) as error:
        sys.exit(f"{program}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{program}: stopped. What was measured is kept: the same command goes on.")


def measure_bundles(folders: Sequence[Path], out: Path) -> Path:
    """Measure each bundle; the file that holds it all.

    Args:
        out: gets ``<host>.json``, the engines, and while it runs what has been measured so far.

    Raises:
        Refused: a damaged bundle, two of one recipe, no runtime, nothing that can be measured, a full disk, another
            run in ``out``.
    """
    bundles, here, host = open_bundles(folders), runtimes(), describe()
    gpus = ", ".join(gpu["name"] for gpu in host["gpus"]) or f"no GPU ({host['gpu_error']})"
    print(f"{host['name']}: {', '.join(here)}; {gpus}")
    wanted = [engine for engine in engine_targets() if can_run(engine, host, here)]
    return _measure_each(bundles, out, lambda bundle: measure_bundle(bundle, host, here, wanted, out)[0])


def measure_served(folders: Sequence[Path], out: Path, url: str, token: str = "") -> Path:
    """Measure each bundle as the server at ``url`` serves it; the file that holds it all.

    Beside what is served the same runtime's fp32 graph is timed in this process, where it is installed: a served
    target's latency is told against it, which is what serving costs, and the way there. The file is of a host of its
    own name, ``<host>-asking-<server>``, so that neither it nor the rows of this host take the other's place.

    Args:
        out: as ``measure_bundles``.
        token: that the server wants; empty: none.

    Raises:
        Refused: as ``measure_bundles``; nothing of Plumbline's is served at ``url``. A server that is gone meanwhile is
            told in the rows that it leaves unmeasured.
    """
    bundles, here, server = open_bundles(folders), describe(), open_server(url, token)
    host = here | {
        "name": f"{here['name']}-asking-{slug(host_of(url))}",
        "server": {"url": url, "name": server.name},
    }
    devices = ", ".join(sorted({model.device for model in server.models.values()}))
    print(f"{here['name']} asks {host_of(url)}: {server.name}, {len(server.models)} models on {devices}")
    return _measure_each(bundles, out, lambda bundle: _measure_served(bundle, host, server, out))


def _measure_each(bundles: Sequence[Bundle], out: Path, measure_one: Callable[[Bundle], dict[str, Any]]) -> Path:
    measurements = []
    with alone_in(out):
        for bundle in bundles:
            measurement = measure_one(bundle)
            say_rows(measurement["recipe"], measurement["targets"])
            measurements.append(measurement)
        return write_return(measurements, out)


@contextlib.contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Hold ``out`` for one run: two at once spoil each other's times, and one ends with the other's files removed.

    Raises:
        Refused: another run holds it, or what lies in it cannot be used.
    """
    import fcntl  # which Windows lacks; nothing else here needs it

    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = os.open(out / "lock", os.O_WRONLY | os.O_CREAT, 0o666)
    except OSError as error:
        raise _unusable(out, error) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise Refused(
            f"{out}: another run is measuring there, expected one at a time on a machine. Wait until it has ended."
        ) from None
    except (PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        raise _unusable(out, error) from error
    finally:
        os.close(lock)


def _unusable(out: Path, error: OSError) -> Refused:
    return Refused(
        f"{error.filename or out}: cannot be used ({error.strerror}), expected a folder and files of yours. If it is "
        f"another user's (root's, after sudo): `sudo chown -R $USER {out}`; else mend or remove it, or name another "
        f"folder: `--out FOLDER`."
    )


def open_bundles(folders: Sequence[Path]) -> list[Bundle]:
    """Each bundle, held against its hashes.

    Raises:
        Refused: one is damaged, or two are of one recipe.
    """
    bundles = [open_bundle(folder) for folder in folders]
    names = [bundle.recipe for bundle in bundles]
    if twice := {name for name in names if names.count(name) > 1}:
        raise Refused(f"{', '.join(sorted(twice))}: asked for twice, expected each recipe once. Name one bundle of it.")
    return bundles


def runtimes() -> list[str]:
    """The modules of the runtimes that are installed here.

    Raises:
        Refused: there is none.
    """
    here = [name for name in RUNTIMES if importlib.util.find_spec(name)]
    if not here:
        raise Refused(
            f"none of {', '.join(RUNTIMES)} is installed here: nothing can be measured. Install one of them (on a "
            f"Jetson: `sudo apt install nvidia-jetpack`, and use /usr/bin/python3)."
        )
    return here


def can_run(engine: EngineTarget, host: Mapping[str, Any], here: Sequence[str]) -> bool:
    """Whether the engine's runtime is installed, and the GPU that it is for is here."""
    capabilities = [gpu["compute_capability"] for gpu in host["gpus"]]
    return engine.module in here and (engine.compute_capability or (capabilities or [""])[0]) in capabilities


def measure_bundle(
    bundle: Bundle,
    host: Mapping[str, Any],
    here: Sequence[str],
    wanted: Sequence[EngineTarget],
    out: Path,
    blocks: Blocks | None = None,
    units: int | None = None,
) -> Measured:
    """Build the engines that are ``wanted`` and measure every target of a bundle that is here.

    Args:
        here: the runtimes.
        blocks: wraps the blocks of timed rounds.
        units: measure the first so many test units alone.

    Returns:
        The measurement, its targets, and the folder that keeps what was measured until ``write_return``.

    Raises:
        Refused: there is no target at all; a full disk.
    """
    name, engines = bundle.recipe, out / "engines" / bundle.recipe
    told = partial(_told, f"{name}: engines", max(1, len(wanted)))
    built = build_engines(bundle, host, wanted, OPTIONS, engines, out / "kept" / name, told)
    rows = [row for row in targets(bundle, host, engines, built, wanted) if _is_here(row, host, here)]
    if not rows:
        raise Refused(
            f"{name}: nothing can be measured here: of the runtimes there is {', '.join(here)}, and no GPU that it "
            f"works on ({host['gpu_error']}). Mend that, or install onnxruntime."
        )
    cache = _cache(bundle, host, built, out, units)

    def progress(rounds: Iterable[int]) -> Iterable[int]:
        counted = _counted(f"{name}: rounds", rounds)
        return blocks(cache, counted) if blocks else counted

    return measure(bundle, rows, dict(host), progress=progress, cache=cache, units=units), rows, cache


def _measure_served(bundle: Bundle, host: Mapping[str, Any], server: Server, out: Path) -> dict[str, Any]:
    """The measurement of what is served of a bundle; ``beside``: the target that it was timed beside, if any."""
    served = remote_targets(bundle, server)
    devices = {target.device for target in served if not target.reason}
    name = f"onnxruntime-{devices.pop()}-fp32" if len(devices) == 1 else ""
    here = ["onnxruntime"] if importlib.util.find_spec("onnxruntime") else []
    rows: list[Target] = [row for row in targets(bundle, host, out, {}, []) if row.name == name]
    rows = [row for row in rows if _is_here(row, host, here)] + [*served]
    cache = _cache(bundle, host, {model: astuple(facts) for model, facts in server.models.items()}, out, None)
    for target in rows:
        write_json(cache / f"memory {target.name}.json", SERVERS_OWN)
    waits = {target.name: target.waits for target in served}
    noted: dict[str, list[Wait | None]] = {target.name: [] for target in served}

    def around(name: str, requests: Requests) -> Requests:
        return noting(requests, waits[name], noted[name]) if name in waits else requests

    def progress(rounds: Iterable[int]) -> Iterable[int]:
        return _keep_noted(cache, noted, _counted(f"{bundle.recipe}: rounds", rounds))

    measurement = measure(bundle, rows, dict(host), progress=progress, cache=cache, around=around)
    told, rounds = measurement["targets"], measurement["latency"]["rounds"]
    beside = told.pop(name, {})
    if "latency_s" in beside:
        measurement["beside"] = {"target": name} | {key: beside[key] for key in TIMED}
    for target in served:
        row = told[target.name]
        if UNASKED in row.get("failed", ""):
            told[target.name] = {key: row[key] for key in ("precision", "device")} | {"reason": row["failed"]}
        elif "latency_s" in row:
            row |= (parts := _noted_of(cache, target.name, rounds))
            row["notes"] += [] if parts else [UNTOLD]
    return measurement


def _keep_noted(cache: Path, noted: Mapping[str, list[Wait | None]], blocks: Iterable[int]) -> Iterator[int]:
    """``blocks``, and after each one that is timed now, not read from ``cache``, what was noted of its rounds."""
    for first in blocks:
        for of in noted.values():
            of.clear()
        yield first
        if any(noted.values()):
            write_json(cache / f"noted from {first}.json", {name: of[-BLOCK:] for name, of in noted.items()})


def _noted_of(cache: Path, name: str, rounds: int) -> dict[str, list[float]]:
    """Where the seconds of each timed request of ``name`` went; nothing where some do not tell."""
    noted: list[list[float] | None] = []
    for first in range(0, rounds, BLOCK):
        file = cache / f"noted from {first}.json"
        noted += read_json(file)[name][-min(BLOCK, rounds - first) :] if file.is_file() else []
    if len(noted) != rounds or None in noted:
        return {}
    return {part: [float(f"{s:.4g}") for s in seconds] for part, seconds in zip(Wait._fields, zip(*noted))}


def _cache(bundle: Bundle, host: Mapping[str, Any], made: Mapping[str, Any], out: Path, units: int | None) -> Path:
    """Where is kept what is measured of ``bundle``; ``made``: of what, beside it."""
    made_from = json.dumps([FORMAT, bundle.sha256, _lasting(host), made, units, _code()], sort_keys=True)
    return _measuring(out, units) / bundle.recipe / hashlib.sha256(made_from.encode()).hexdigest()[:16]


def say_rows(recipe: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """A line a target: that it was measured, or why not."""
    for target, row in rows.items():
        print(f"{recipe}: {target}: {row['reason'] or row.get('failed', 'measured')}")


def write_return(measurements: list[dict[str, Any]], out: Path, units: int | None = None) -> Path:
    """The one file to bring back, and what to do with it; what was kept to go on from is then of no more use.

    It keeps what it had of recipes that were not measured now. A trial, of the first ``units``, is a file of its own.
    """
    host = measurements[0]["host"]
    file = out / f"{host['name']}{'-trial' if units else ''}.json"
    before = [] if units else _measured_before(file, measurements)
    write_json(file, {"format": FORMAT, "measurements": before + measurements})
    shutil.rmtree(_measuring(out, units), ignore_errors=True)
    if units:
        print(f"{file}: a trial of the first {units} units, which is not judged. Without `--units` all are measured.")
    else:
        print(f"Bring {file} back, and run there: python -m pipeline.verify --from {file.name}")
    return file


def _measuring(out: Path, units: int | None) -> Path:
    """A trial must not end with what a stopped measurement goes on from."""
    return out / ("measuring-trial" if units else "measuring")


def _measured_before(file: Path, measurements: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What ``file`` has of other recipes, as far as it was measured on this machine as it is now."""
    if not file.is_file():
        return []
    now, host = {measurement["recipe"] for measurement in measurements}, _lasting(measurements[0]["host"])
    try:
        others = [measurement for measurement in read_returned(file) if measurement["recipe"] not in now]
    except Refused as refused:
        print(f"what was measured before is left out: {refused}")
        return []
    for other in others:
        if _lasting(other["host"]) != host:
            print(f"{other['recipe']}: measured before this machine was changed, and left out: measure it again")
    return [other for other in others if _lasting(other["host"]) == host]


def _lasting(host: Mapping[str, Any]) -> dict[str, Any]:
    """``host`` without what varies and means nothing."""
    if "board" not in host:
        return dict(host)
    return {**host, "board": {name: fact for name, fact in host["board"].items() if name not in VARIES}}


def _code() -> list[str]:
    """The SHA-256 of all code that measures; what serves does not."""
    files = sorted(Path(deploy.__path__[0]).rglob("*.py"))
    return [sha256(file) for file in files if "server" not in file.parent.name]


def _is_here(row: Target, host: Mapping[str, Any], here: Sequence[str]) -> bool:
    """Whether this machine is one that the target is for; one that is, and fails, stays in the table."""
    if row.module == "onnxruntime":
        return "onnxruntime" in here and (row.device == "cpu" or bool(host["gpus"]))
    return True


def _told(what: str, of: int, done: float, now: str) -> None:
    """One line that is written over, where somebody looks on."""
    if sys.stderr.isatty():
        print(f"\r{what}: {done:.1f} of {of}, {now}\x1b[K", end="" if done < of else "\n", file=sys.stderr, flush=True)


def _counted(what: str, blocks: Iterable[int]) -> Iterator[int]:
    """``blocks``, with how far they are and about how long the rest takes."""
    every = list(blocks)
    start = time.monotonic()
    for done, block in enumerate(every):
        left = (time.monotonic() - start) / done * (len(every) - done) if done else None
        _told(what, len(every), done, "" if left is None else f"about {left:.0f} s left")
        yield block
    _told(what, len(every), len(every), f"{time.monotonic() - start:.0f} s")
