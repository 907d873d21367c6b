"""The file of a measurement, ``<recipe>.json``: what it holds, and how it is read.

    format            ``FORMAT``; a file that lacks it is of format 1
    recipe, task, contract_sha256, host, date
    n                 test units; ``units``: of a trial of the first so many, how many, else ``None``
    latency           how it was taken: ``batch``, ``threads``, ``rounds``, ``order``
    trained           the trained network, by its recorded answers: ``statistics`` ``(n, k)``, ``predicted``,
                      ``finite``, ``error_max``; ``rounding``, what float32 alone costs; ``exact``, the type of the
                      answers that errors are against; ``latency``: device -> ``latency_s`` ``(rounds,)`` and
                      ``alone_s``, and so of PyTorch's other ways to run it (``cuda fp16``), which are timed and no
                      more; ``failed``: of these, why one has no latency, where it failed in the rounds
    targets           name -> its row

A row has ``precision``, ``device`` and ``reason``: why it is not measured, empty where it is. One that opened and could
not answer, or not to the end, has ``failed`` (why) and no more. One that was measured has

    statistics, predicted, finite
    error_max         against the exact answers; ``None`` where an answer is not finite
    drift             the error's growth, where the task has one
    size_bytes, sha256, graph_sha256
    notes             what one must know of the engine, a line each
    memory_bytes, device_memory_bytes, memory_reason
                      see ``deploy.memory``
    latency_s         ``(rounds,)``, seconds; position = round
    alone_s           the median back to back; ``None`` of a slow target

and on a GPU (``device`` is ``cuda``) also

    device_s          the median of a request by the device's own clock; ``None`` where the runtime does not tell
    device_share      the device's seconds / the host's, 0 to 1
    no_graph          why calls are not replayed as one CUDA graph; empty where they are
    on_cpu            the nodes that the runtime placed on the processor, to compute sizes; ``None``: it does not tell

and on a board (``deploy.jetson.kit``) also ``power``, what its sensors told while the target worked back to back, as
``deploy.jetson.sensors.period`` says it, with ``requests`` and ``energy_j`` of one. The measurement then has
``rounds_watched``, the same of the timed rounds and without energy, and ``start``: ``seconds`` from the command to the
first engine, and ``memory_bytes``, the most that the process had by then; ``host`` has ``board``.

Of what is served (``deploy.measure --server``) the measurement has ``beside``: ``latency_s`` and ``alone_s`` of the
``target`` in this process that the rows were timed in turn with; not where its runtime or its device was not here, or
the rows are of several devices. ``host`` has ``server``, its ``url`` and its ``name``, with its version. A row also has

    queue_s, compute_s, transport_s
                      ``(rounds,)``, seconds; position = round, as in ``latency_s``: how long its calls waited at the
                      server, were computed there, and took beside these two; left out where the server does not
                      tell, and ``notes`` say so

What came back from another machine (``deploy.standalone``) is ``format`` and ``measurements``, a list of these.
"""

import json
import re
from pathlib import Path
from typing import Any

from deploy.errors import Refused

FORMAT = 3

WAYS = ("cuda", "cuda compiled", "cuda fp16", "cuda compiled fp16")  # in which PyTorch runs what was trained on a GPU

# What judging needs, and no more: a file that lacks any other key can still be judged.
WHOLE = ("task", "contract_sha256", "host", "date", "trained", "targets")
TRAINED = ("statistics", "error_max", "rounding", "exact", "latency")
ROW = ("precision", "device", "reason")
ANSWERED = ("statistics", "finite", "error_max", "size_bytes", "graph_sha256", "latency_s", "alone_s")
TIMED = ("latency_s", "alone_s")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")  # of a recipe or a host: it becomes that of a file


def read_measurement(path: Path) -> dict[str, Any]:
    """Read what ``deploy.measure`` measured of one recipe on this host.

    Raises:
        Refused: the file is missing, damaged, of another format, or lacks what judging needs.
    """
    again = f"`dvc repro measure@{path.stem}`"
    return _whole(path, _read(path, again), again)


def read_returned(path: Path) -> list[dict[str, Any]]:
    """Read what came back from another machine: the file that ``deploy.measure`` wrote there, or one recipe's alone.

    Raises:
        Refused: as ``read_measurement``; or a name in it that could be no recipe's or host's, or one recipe twice.
    """
    again = "measure on that machine and bring its file back"
    facts = _read(path, again)
    found = facts.get("measurements", [facts]) if isinstance(facts, dict) else [facts]
    if not isinstance(found, list) or not found:
        raise Refused(f"{path}: holds no measurements. To mend it, {again}.")
    whole = [_whole(path, each, again) for each in found]
    for each in whole:
        for what, name in (("recipe", each.get("recipe")), ("host", each["host"]["name"])):
            if not isinstance(name, str) or not NAME.fullmatch(name):
                raise Refused(f"{path}: its {what} is called {name!r}, expected letters, digits, - and _. {again}.")
    names = [each["recipe"] for each in whole]
    if twice := {name for name in names if names.count(name) > 1}:
        raise Refused(f"{path}: holds {', '.join(sorted(twice))} twice. To mend it, {again}.")
    return whole


def _read(path: Path, again: str) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise Refused(f"{path}: not found: this recipe was not measured. Measure it: {again}.") from None
    except OSError as error:
        raise Refused(f"{path}: cannot be read ({error.strerror}). Mend that, or measure again: {again}.") from None
    except (ValueError, RecursionError) as error:
        raise Refused(f"{path}: damaged, not JSON ({error}). Remove it and measure again: {again}.") from None


def _whole(path: Path, facts: Any, again: str) -> dict[str, Any]:
    if not isinstance(facts, dict):
        came = type(facts).__name__
        raise Refused(f"{path}: holds a {came}, expected an object. Remove it and measure again: {again}.")
    version = facts.get("format", 1)
    if version != FORMAT:
        fix = ", or use the version that wrote it" if isinstance(version, int) and version > FORMAT else ""
        raise Refused(f"{path}: {_other(version)}. Measure it again: {again}{fix}.")
    lack = _lack(facts)
    if lack:
        raise Refused(f"{path}: incomplete: lacks {lack}, which judging needs. Measure it again: {again}.")
    return facts


def _other(version: object) -> str:
    """What a file of another format than ``FORMAT`` is."""
    if not isinstance(version, int):
        return f"of a format that no version of Plumbline writes ({version!r}, expected {FORMAT})"
    age = "a newer" if version > FORMAT else "an older"
    return f"measured by {age} version of Plumbline (format {version}, expected {FORMAT})"


def _lack(facts: dict[str, Any]) -> str:
    """The first thing that judging would miss, as a path of keys; empty if there is none."""
    trained, targets = facts.get("trained"), facts.get("targets")
    parts: list[tuple[str, Any, tuple[str, ...]]] = [
        ("", facts, WHOLE),
        ("host", facts.get("host"), ("name",)),
        ("trained", trained, TRAINED),
        ("targets", targets, ()),
    ]
    if isinstance(trained, dict):
        latency = trained.get("latency")
        parts.append(("trained.latency", latency, ()))
        if isinstance(latency, dict):
            parts += [(f"trained.latency.{device}", timed, TIMED) for device, timed in latency.items()]
    for name, row in targets.items() if isinstance(targets, dict) else ():
        unmeasured = isinstance(row, dict) and (row.get("reason") or "failed" in row)
        parts.append((f"targets.{name}", row, ROW if unmeasured else ROW + ANSWERED))
    for place, part, keys in parts:
        if not isinstance(part, dict):
            return f"{place} as an object"
        for key in keys:
            if key not in part:
                return f"{place}.{key}".removeprefix(".")
    return ""
