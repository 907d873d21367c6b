"""The few calls of the CUDA runtime that running an engine takes, through ctypes: no further package on a board.

Sources: CUDA Runtime API, sections Stream, Event, Memory and Graph Management. ``cudaGraphInstantiate`` itself changed
its arguments between CUDA 11 and 12; ``cudaGraphInstantiateWithFlags`` (from 11.4 on) did not, so no version is asked.
"""

import contextlib
import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from deploy.errors import Refused

NAMES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so")
HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2
NON_BLOCKING = 1  # cudaStreamNonBlocking: the default stream, which others use, does not wait for ours nor ours for it
THREAD_LOCAL = 1  # cudaStreamCaptureModeThreadLocal: what other threads do meanwhile does not spoil a capture
OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation

_HANDLE, _SIZE = ctypes.c_void_p, ctypes.c_size_t
_NEW, _COUNT = ctypes.POINTER(_HANDLE), ctypes.POINTER(_SIZE)
SIGNATURES: dict[str, tuple[Any, ...]] = {  # each returns a status, 0 where all is well
    "cudaGetLastError": (),
    "cudaStreamCreateWithFlags": (_NEW, ctypes.c_uint),
    "cudaStreamSynchronize": (_HANDLE,),
    "cudaStreamDestroy": (_HANDLE,),
    "cudaStreamBeginCapture": (_HANDLE, ctypes.c_int),
    "cudaStreamEndCapture": (_HANDLE, _NEW),
    "cudaGraphInstantiateWithFlags": (_NEW, _HANDLE, ctypes.c_ulonglong),
    "cudaGraphDestroy": (_HANDLE,),
    "cudaGraphLaunch": (_HANDLE, _HANDLE),
    "cudaGraphExecDestroy": (_HANDLE,),
    "cudaEventCreate": (_NEW,),
    "cudaEventRecord": (_HANDLE, _HANDLE),
    "cudaEventElapsedTime": (ctypes.POINTER(ctypes.c_float), _HANDLE, _HANDLE),
    "cudaEventDestroy": (_HANDLE,),
    "cudaMalloc": (_NEW, _SIZE),
    "cudaFree": (_HANDLE,),
    "cudaHostAlloc": (_NEW, _SIZE, ctypes.c_uint),
    "cudaFreeHost": (_HANDLE,),
    "cudaMemGetInfo": (_COUNT, _COUNT),
    "cudaMemcpyAsync": (_HANDLE, _HANDLE, _SIZE, ctypes.c_int, _HANDLE),
}


class Cuda:
    """The CUDA runtime of this machine; streams, events, graphs and addresses are whole numbers.

    Args:
        library: the runtime, loaded; tests hand in a double.

    Raises:
        Refused: there is none, it lacks a call, or a call fails; the message carries CUDA's own words.
    """

    def __init__(self, library: Any = None) -> None:
        self._library = library or _load()
        try:
            for name, arguments in SIGNATURES.items():
                function = getattr(self._library, name)
                function.argtypes, function.restype = arguments, ctypes.c_int
            self._words = self._library.cudaGetErrorString
        except AttributeError as error:
            raise Refused(f"the CUDA runtime is too old: {error}. Install CUDA 12 or newer.") from None
        self._words.argtypes, self._words.restype = (ctypes.c_int,), ctypes.c_char_p

    def stream(self) -> int:
        """A new stream."""
        return self._new("cudaStreamCreateWithFlags", NON_BLOCKING)

    def free_stream(self, stream: int) -> None:
        """Give back what ``stream`` gave."""
        self._call("cudaStreamDestroy", stream)

    def synchronize(self, stream: int) -> None:
        """Wait until all that was put on ``stream`` is done."""
        self._call("cudaStreamSynchronize", stream)

    def malloc(self, size: int) -> int:
        """``size`` bytes on the device."""
        return self._new("cudaMalloc", size)

    def free(self, address: int) -> None:
        """Give back what ``malloc`` gave."""
        self._call("cudaFree", address)

    def pinned(self, size: int) -> int:
        """``size`` bytes of page-locked host memory, which the device copies from and to without the processor."""
        return self._new("cudaHostAlloc", size, 0)

    def free_pinned(self, address: int) -> None:
        """Give back what ``pinned`` gave."""
        self._call("cudaFreeHost", address)

    def memory(self) -> tuple[int, int]:
        """Bytes left on the device, and bytes that it has."""
        left, whole = _SIZE(), _SIZE()
        self._call("cudaMemGetInfo", ctypes.byref(left), ctypes.byref(whole))
        return left.value, whole.value

    def to_device(self, address: int, array: np.ndarray, stream: int) -> None:
        """Put on ``stream``: copy a contiguous host array to the device."""
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, HOST_TO_DEVICE, stream)

    def to_host(self, array: np.ndarray, address: int, stream: int) -> None:
        """Put on ``stream``: copy from the device into a contiguous host array."""
        self._call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, DEVICE_TO_HOST, stream)

    def event(self) -> int:
        """A new event."""
        return self._new("cudaEventCreate")

    def free_event(self, event: int) -> None:
        """Give back what ``event`` gave."""
        self._call("cudaEventDestroy", event)

    def record(self, event: int, stream: int) -> None:
        """Put ``event`` on ``stream``: the device notes the time when it comes to it."""
        self._call("cudaEventRecord", event, stream)

    def seconds(self, start: int, end: int) -> float:
        """The device's time between two events that it has come to."""
        milliseconds = ctypes.c_float()
        self._call("cudaEventElapsedTime", ctypes.byref(milliseconds), start, end)
        return milliseconds.value * 1e-3

    def capture(self, stream: int, put: Callable[[], None]) -> int:
        """All that ``put`` puts on ``stream``, as a graph to ``launch``; nothing of it runs now.

        Raises:
            Refused: it cannot be captured; ``stream`` serves on. What ``put`` raises is raised on.
        """
        self._call("cudaStreamBeginCapture", stream, THREAD_LOCAL)
        graph = _HANDLE()
        try:
            put()
        except BaseException:
            self._library.cudaStreamEndCapture(stream, ctypes.byref(graph))  # whatever it says: the first error counts
            self._library.cudaGetLastError()
            if graph.value:
                self._call("cudaGraphDestroy", graph.value)
            raise
        self._call("cudaStreamEndCapture", stream, ctypes.byref(graph))
        try:
            return self._new("cudaGraphInstantiateWithFlags", graph.value, 0)
        finally:
            self._call("cudaGraphDestroy", graph.value)

    def launch(self, graph: int, stream: int) -> None:
        """Put all that was captured on ``stream``, in one call."""
        self._call("cudaGraphLaunch", graph, stream)

    def free_graph(self, graph: int) -> None:
        """Give back what ``capture`` gave."""
        self._call("cudaGraphExecDestroy", graph)

    def _new(self, call: str, *arguments: Any) -> int:
        made = _HANDLE()
        self._call(call, ctypes.byref(made), *arguments)
        return made.value or 0

    def _call(self, call: str, *arguments: Any) -> None:
        status = getattr(self._library, call)(*arguments)
        if not status:
            return
        self._library.cudaGetLastError()  # else the next to ask, TensorRT for one, takes this error for its own
        said = f"{call} failed: {self._words(status).decode()} (CUDA error {status})"
        if status == OUT_OF_MEMORY and call in ("cudaMalloc", "cudaHostAlloc"):
            said += f": {arguments[1]:,} bytes asked for{self._left() if call == 'cudaMalloc' else ''}"
        raise Refused(said)

    def _left(self) -> str:
        try:
            left, whole = self.memory()
        except Refused:
            return ""
        return f", {left:,} of {whole:,} left on the GPU"


def _load() -> Any:
    for name in NAMES:
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name)
    raise Refused(f"none of {', '.join(NAMES)} can be loaded: install the CUDA runtime, or run on a GPU host")
