"""TensorRT and TensorRT-RTX as modules: imported, their log, and what they raise in words.

The Python API of TensorRT 10.3 to 11 and of TensorRT-RTX is the same where this project names it.
"""

import contextlib
import importlib
import platform
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from deploy.errors import Refused

EXTRAS = {"tensorrt": "tensorrt", "tensorrt_rtx": "rtx"}


def load_tensorrt(module: str) -> ModuleType:
    """Import ``tensorrt`` or ``tensorrt_rtx``.

    Raises:
        Refused: it is not installed, or it cannot be loaded here; the message names the extra.
    """
    again = f"pip install -c constraints.txt -e '.[{EXTRAS[module]}]'"
    if platform.machine() == "aarch64":  # a Jetson has it of JetPack, for the system's own Python
        again = "sudo apt install nvidia-jetpack, and use /usr/bin/python3"
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == module:
            raise Refused(f"{module} is not installed: {again}") from None
        raise Refused(f"{module} is installed but cannot be loaded here ({error}). Install it again: {again}") from None


@contextlib.contextmanager
def in_words(trt: ModuleType, file: Path) -> Iterator[None]:
    """Turn what the bindings raise (a driver that is too old, a missing enum) into a refusal in TensorRT's words."""
    log = logger(trt)
    log.said.clear()
    try:
        yield
    except Refused:
        raise
    except (TypeError, AttributeError, RuntimeError, ValueError) as error:
        raise Refused(
            f"{file}: {trt.__name__} {trt.__version__} does not work on this machine: {error} ({log.last()}). "
            f"Update the GPU's driver (on a Jetson: JetPack), or install the TensorRT that goes with it."
        ) from error


_LOGGERS: dict[str, Any] = {}  # TensorRT takes one logger a process and ignores the next


def logger(trt: ModuleType) -> Any:
    """The one log of ``trt`` in this process; ``last()`` is the last error that it told."""
    if not isinstance(_LOGGERS.get(trt.__name__), trt.ILogger):

        class Log(trt.ILogger):  # type: ignore[name-defined,misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)
                self.said: list[str] = []

            def log(self, severity: Any, message: str) -> None:
                if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                    self.said.append(message)

            def last(self) -> str:
                return self.said[-1] if self.said else "it gave no reason"

        _LOGGERS[trt.__name__] = Log()
    return _LOGGERS[trt.__name__]
