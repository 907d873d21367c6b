"""The memory that a target takes, in a process of its own: on a board memory decides.

``measure_memory`` starts that process, which is this file run as a module. A process that already holds other targets
cannot tell: what they gave back to the allocator is taken again unseen.
"""

import importlib
import json
import os
import pickle  # between this process and its own child, over a pipe; nothing that a file or another machine holds
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from deploy.cuda import Cuda
from deploy.errors import Refused
from deploy.targets import Target
from deploy.tasks import load_task

READINGS = 3  # processes a target, whose median is told; they lie within 3 % of it
SECONDS = 1.0  # once so much is spent on a target, no further process is started: CUDA takes some in each
PATIENCE = 120.0  # seconds that one process may take


def measure_memory(target: Target, task: str, examples: dict[str, np.ndarray]) -> dict[str, Any]:
    """How much a process grows by opening ``target`` and answering the first of ``examples``.

    Args:
        task: its name.
        examples: arrays by name, first axis = unit.

    Returns:
        ``memory_bytes``: by how much peak resident memory grows over the same process with the runtime imported and
        nothing opened. ``device_memory_bytes``: how much less of the first GPU is free. Each is ``None`` where it
        cannot be told; ``memory_reason`` says why ``memory_bytes`` is, and is empty where it is not.
    """
    first = {name: array[:1] for name, array in examples.items()}
    try:
        handed = _packed(target, task, first)
        readings = [_read(handed)]
        end = time.monotonic() + SECONDS - readings[0]["seconds"]
        while len(readings) < READINGS and time.monotonic() < end:
            readings.append(_read(handed))
    except Refused as error:
        return {"memory_bytes": None, "device_memory_bytes": None, "memory_reason": str(error)}
    device = [reading["device_memory_bytes"] for reading in readings]
    return {
        "memory_bytes": int(np.median([reading["memory_bytes"] for reading in readings])),
        "device_memory_bytes": None if None in device else int(np.median(device)),
        "memory_reason": "",
    }


def _packed(*what: object) -> bytes:
    try:
        return pickle.dumps(what)
    except (pickle.PicklingError, AttributeError, TypeError) as error:  # it raises any of these
        raise Refused(f"it cannot be handed to the process that would measure it ({error})") from None


def _read(handed: bytes) -> dict[str, Any]:
    """What one process tells of itself, and how many ``seconds`` it took.

    Raises:
        Refused: it died or told nothing, with its last words, or it took longer than ``PATIENCE``.
    """
    start = time.monotonic()
    finds = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # the child imports what this process would
    try:
        child = subprocess.run(
            [sys.executable, "-m", "deploy.memory"], input=handed, capture_output=True, timeout=PATIENCE, env=finds
        )
    except subprocess.TimeoutExpired:
        raise Refused(f"the process that measures it was ended after {PATIENCE:g} s without an answer") from None
    except OSError as error:
        raise Refused(f"the process that measures it could not be started ({error})") from None
    if child.returncode:
        words = child.stderr.decode(errors="replace").strip().splitlines() or ["without a word"]
        raise Refused(f"the process that measures it ended with status {child.returncode}: {words[-1]}")
    told = json.loads(child.stdout.splitlines()[-1])  # a runtime may have printed before
    return told | {"seconds": time.monotonic() - start}


def _grown(target: Target, task: str, first: dict[str, np.ndarray]) -> dict[str, int | None]:
    """In the child: ``memory_bytes`` and ``device_memory_bytes`` of ``target``."""
    requests = load_task(task).requests
    runtime = importlib.import_module(target.module)
    if target.module == "onnxruntime" and target.device == "cuda":
        runtime.preload_dlls()  # else CUDA itself may not be found before a session is opened
    before = peak_bytes()
    free = _device_free() if target.device == "cuda" else None
    asked = requests(target.open(), first)  # held, so that the device's memory is too
    asked[0]()
    left = _device_free() if free is not None else None
    return {
        "memory_bytes": peak_bytes() - before,
        "device_memory_bytes": None if free is None or left is None else free - left,
    }


def peak_bytes() -> int:
    """The largest resident memory that this process has had.

    Raises:
        Refused: the system does not tell.
    """
    if sys.platform == "linux":
        # Linux hands a process's ru_maxrss on through exec: a child would begin with the peak of the large process
        # that started it. VmHWM belongs to the new program alone.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
        raise Refused("/proc/self/status: no VmHWM, expected one. This system does not tell a process's peak memory.")
    import resource  # Windows has none

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # macOS counts bytes, the BSDs KiB


def _device_free() -> int | None:
    """Bytes free on the first GPU; ``None`` where CUDA cannot tell."""
    try:
        return Cuda().memory()[0]
    except Refused:
        return None


if __name__ == "__main__":
    print(json.dumps(_grown(*pickle.load(sys.stdin.buffer))))  # noqa: S301 - its own parent wrote it
