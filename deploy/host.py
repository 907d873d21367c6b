"""What this machine is, as far as it bears on a measurement."""

import importlib
import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = ("numpy", "onnx", "onnxruntime-gpu", "onnxruntime", "tensorrt", "tensorrt_rtx", "torch")


def describe() -> dict[str, Any]:
    """Processor, instruction set, GPUs and versions; the same on every call on an unchanged machine.

    Returns:
        ``name`` (safe as a file name), ``system``, ``machine``, ``processor``, ``cores``, ``memory_gib``,
        ``instruction_set``, ``gpus`` (each ``name``, ``compute_capability``, ``driver``), ``python``, ``packages``.
    """
    processor = _processor()
    cores = os.cpu_count() or 1
    gpus = _gpus()
    parts = [processor, f"{cores}-cores", *(gpu["name"] for gpu in gpus)]
    return {
        "name": re.sub(r"[^a-z0-9]+", "-", " ".join(parts).lower()).strip("-"),
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": processor,
        "cores": cores,
        "memory_gib": _memory_gib(),
        "instruction_set": instruction_set(),
        "gpus": gpus,
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def instruction_set() -> list[str]:
    """Vector instructions that the processor really has, as numpy read them from it (cpuid on x86).

    ``/proc/cpuinfo`` is no substitute: under user-mode emulation it shows the real host.
    """
    core = "numpy._core" if hasattr(np, "_core") else "numpy.core"  # numpy 1.x, as on JetPack 6
    features = importlib.import_module(f"{core}._multiarray_umath").__cpu_features__
    return sorted(name for name, present in features.items() if present)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.lower().startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> int | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    except (ValueError, OSError):
        return None


def _gpus() -> list[dict[str, str]]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=60)
    if answer.returncode:
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in answer.stdout.splitlines() if line.strip()]
    return [{"name": row[0], "compute_capability": row[1], "driver": row[2]} for row in rows if len(row) == 3]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
