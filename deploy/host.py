"""What this machine is, as far as it bears on a measurement."""

import ctypes
import importlib
import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = ("numpy", "onnx", "onnxruntime-gpu", "onnxruntime", "tensorrt", "tensorrt_rtx", "torch")
CUDA_LIBRARIES = ("libcudart.so.12", "libcudart.so.13", "libcublasLt.so.12", "libcublasLt.so.13", "libcudnn.so.9")


def describe() -> dict[str, Any]:
    """Processor, instruction set, GPUs and versions; the same on every call on an unchanged machine.

    Returns:
        ``name`` (safe as a file name), ``system``, ``machine``, ``processor``, ``cores``, ``memory_gib``,
        ``instruction_set``, ``gpus`` (each ``name``, ``compute_capability``, ``driver``), ``gpu_error`` (why there are
        none), ``cuda_libraries``, ``python``, ``packages``.
    """
    processor = _processor()
    cores = os.cpu_count() or 1
    gpus, gpu_error = _gpus()
    parts = [processor, f"{cores}-cores", *(gpu["name"] for gpu in gpus)]
    return {
        "name": slug(" ".join(parts)),
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": processor,
        "cores": cores,
        "memory_gib": _memory_gib(),
        "instruction_set": instruction_set(),
        "gpus": gpus,
        "gpu_error": gpu_error,
        "cuda_libraries": _cuda_libraries() if gpus else {},
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))} | _nvidia_packages(),
    }


def slug(words: str) -> str:
    """``words`` as a name that is safe for a file."""
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


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


def _gpus() -> tuple[list[dict[str, str]], str]:
    """What nvidia-smi names, or why it names none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return [], "there is no nvidia-smi"
    query = [tool, "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [], f"nvidia-smi: {error}"
    if answer.returncode:
        return [], f"nvidia-smi: {(answer.stdout + answer.stderr).strip() or f'status {answer.returncode}'}"
    rows = [line.rsplit(",", 2) for line in answer.stdout.splitlines() if line.count(",") >= 2]
    gpus = [{"name": row[0].strip(), "compute_capability": row[1].strip(), "driver": row[2].strip()} for row in rows]
    return gpus, "" if gpus else f"nvidia-smi names none: {answer.stdout.strip()!r}"


def _cuda_libraries() -> dict[str, bool]:
    """Which of CUDA's libraries can be loaded: installing one must change the host, so that its rows are measured."""

    def loads(name: str) -> bool:
        try:
            ctypes.CDLL(name)
        except OSError:
            return False
        return True

    return {name: loads(name) for name in CUDA_LIBRARIES}


def _nvidia_packages() -> dict[str, str]:
    """CUDA's libraries as packages, which a runtime may load instead of the system's."""
    names = {str(package.metadata["Name"]) for package in distributions()}
    return {name: version(name) for name in sorted(names) if name.startswith("nvidia-")}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
