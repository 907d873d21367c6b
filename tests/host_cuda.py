"""A double of the CUDA runtime's library on the host's memory, called as ctypes would call it.

Addresses are real, so that a double of TensorRT can compute at them. Streams are real in effect: what is put on one
happens when somebody waits for it, so that an answer which is read too early is wrong; a captured sequence does not
happen, and is repeated on the same addresses by a launch. It refuses calls that it does not know, argument types that
are not declared as the header has them, handles and addresses that were freed or never given, pageable memory, and what
no capture may hold; errors are the numbers that CUDA gives. It keeps them, as code that cleans up passes over them.
"""

import ctypes
from collections.abc import Callable
from typing import Any

C_TYPES = {
    "void **": ctypes.POINTER(ctypes.c_void_p),
    "void *": ctypes.c_void_p,
    "size_t *": ctypes.POINTER(ctypes.c_size_t),
    "size_t": ctypes.c_size_t,
    "float *": ctypes.POINTER(ctypes.c_float),
    "int": ctypes.c_int,
    "unsigned int": ctypes.c_uint,
    "unsigned long long": ctypes.c_ulonglong,
}
PROTOTYPES = {  # cuda_runtime_api.h of CUDA 13; handles and addresses are "void *", enums "int"
    "cudaGetLastError": (),
    "cudaGetErrorString": ("int",),
    "cudaStreamCreateWithFlags": ("void **", "unsigned int"),
    "cudaStreamSynchronize": ("void *",),
    "cudaStreamDestroy": ("void *",),
    "cudaStreamBeginCapture": ("void *", "int"),
    "cudaStreamEndCapture": ("void *", "void **"),
    "cudaGraphInstantiateWithFlags": ("void **", "void *", "unsigned long long"),
    "cudaGraphDestroy": ("void *",),
    "cudaGraphLaunch": ("void *", "void *"),
    "cudaGraphExecDestroy": ("void *",),
    "cudaEventCreate": ("void **",),
    "cudaEventRecord": ("void *", "void *"),
    "cudaEventElapsedTime": ("float *", "void *", "void *"),
    "cudaEventDestroy": ("void *",),
    "cudaMalloc": ("void **", "size_t"),
    "cudaFree": ("void *",),
    "cudaHostAlloc": ("void **", "size_t", "unsigned int"),
    "cudaFreeHost": ("void *",),
    "cudaMemGetInfo": ("size_t *", "size_t *"),
    "cudaMemcpyAsync": ("void *", "void *", "size_t", "int", "void *"),
}
INVALID_VALUE, OUT_OF_MEMORY, INVALID_HANDLE, NOT_READY = 1, 2, 400, 600
CAPTURE_UNSUPPORTED, CAPTURE_INVALIDATED = 900, 901
WORDS = {
    INVALID_VALUE: b"invalid argument",
    OUT_OF_MEMORY: b"out of memory",
    INVALID_HANDLE: b"invalid resource handle",
    NOT_READY: b"device not ready",
    CAPTURE_UNSUPPORTED: b"operation not permitted when stream is capturing",
    CAPTURE_INVALIDATED: b"operation failed due to a previous error during capture",
}
Work = Callable[[], None]


class _Function:
    """One exported function, as ctypes has it: it takes what its declared types take."""

    def __init__(self, library: "HostRuntime", name: str) -> None:
        self.library, self.name = library, name
        self.argtypes: Any = None
        self.restype: Any = None

    def __call__(self, *arguments: Any) -> Any:
        expected = tuple(C_TYPES[kind] for kind in PROTOTYPES[self.name])
        assert tuple(self.argtypes) == expected, f"{self.name}: declared as {self.argtypes}"
        assert self.restype is (ctypes.c_char_p if self.name == "cudaGetErrorString" else ctypes.c_int), self.name
        assert len(arguments) == len(expected), f"{self.name}: {len(arguments)} arguments"
        for argument, kind in zip(arguments, expected):
            kind.from_param(argument)  # raises what ctypes would
            assert hasattr(argument, "_obj") or type(argument) is int, f"{self.name}: {argument!r}"
            assert hasattr(argument, "_obj") or argument >= 0, f"{self.name}: {argument!r}"
        values = [getattr(argument, "_obj", argument) for argument in arguments]
        self.library.calls.append(self.name)
        if self.name in self.library.fail:
            return self.library.fail[self.name]
        answer = getattr(self.library, f"_{self.name}")(*values) or 0
        if type(answer) is int and answer:
            self.library.refused.append(f"{self.name}: {WORDS[answer].decode()}")
        return answer


class HostRuntime:
    """``fail``: call -> the error that it gives from now on. ``left``: bytes that the device still has.

    ``refused``: each call that it refused beside those, with the reason.
    """

    def __init__(self, left: int = 1 << 30) -> None:
        self.calls: list[str] = []
        self.refused: list[str] = []
        self.fail: dict[str, int] = {}
        self.left = self.whole = left
        self.blocks: dict[int, Any] = {}  # address -> memory
        self.pinned: dict[int, Any] = {}
        self.streams: dict[int, list[Work]] = {}
        self.events: dict[int, float | None] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.executables: dict[int, list[Work]] = {}
        self.capturing: dict[int, list[Work]] = {}
        self.spoiled = False
        self.now = 0.0  # milliseconds: each piece of work takes one
        self._functions: dict[str, _Function] = {}
        self._handles = iter(range(0x1000, 0x100000, 8))

    def __getattr__(self, name: str) -> _Function:
        if name not in PROTOTYPES:
            raise AttributeError(f"undefined symbol: {name}")
        return self._functions.setdefault(name, _Function(self, name))

    def put(self, stream: int, work: Work) -> int:
        """What a kernel's launch does."""
        if stream not in self.streams:
            return INVALID_HANDLE
        (self.capturing.get(stream, self.streams[stream])).append(work)
        return 0

    def held(self) -> int:
        """How much has been given and not been given back."""
        things = self.blocks, self.pinned, self.streams, self.events, self.graphs, self.executables
        return sum(map(len, things))

    def _made(self, into: Any, kept: dict[int, Any], value: Any) -> None:
        into.value = next(self._handles)
        kept[into.value] = value

    def _gone(self, kept: dict[int, Any], handle: int) -> int:
        return 0 if kept.pop(handle, self) is not self else INVALID_HANDLE

    def _blocked(self) -> bool:
        """A call that no capture may hold, and that spoils one."""
        self.spoiled = self.spoiled or bool(self.capturing)
        return bool(self.capturing)

    def _cudaGetLastError(self) -> None: ...

    def _cudaGetErrorString(self, status: int) -> bytes:
        return WORDS[status]

    def _cudaStreamCreateWithFlags(self, into: Any, flags: int) -> int:
        if flags != 1:
            return INVALID_VALUE
        self._made(into, self.streams, [])
        return 0

    def _cudaStreamSynchronize(self, stream: int) -> int:
        if stream not in self.streams:
            return INVALID_HANDLE
        if self._blocked():
            return CAPTURE_UNSUPPORTED
        work, self.streams[stream] = self.streams[stream], []
        for piece in work:
            self.now += 1
            piece()
        return 0

    def _cudaStreamDestroy(self, stream: int) -> int:
        return self._gone(self.streams, stream)

    def _cudaStreamBeginCapture(self, stream: int, mode: int) -> int:
        if stream not in self.streams or stream in self.capturing:
            return INVALID_HANDLE
        if mode not in (0, 1, 2):
            return INVALID_VALUE
        self.capturing[stream], self.spoiled = [], False
        return 0

    def _cudaStreamEndCapture(self, stream: int, into: Any) -> int:
        if stream not in self.capturing:
            return INVALID_VALUE
        work = self.capturing.pop(stream)
        if self.spoiled:
            return CAPTURE_INVALIDATED
        self._made(into, self.graphs, work)
        return 0

    def _cudaGraphInstantiateWithFlags(self, into: Any, graph: int, flags: int) -> int:
        if graph not in self.graphs or flags:
            return INVALID_VALUE
        self._made(into, self.executables, list(self.graphs[graph]))
        return 0

    def _cudaGraphDestroy(self, graph: int) -> int:
        return self._gone(self.graphs, graph)

    def _cudaGraphLaunch(self, executable: int, stream: int) -> int:
        if executable not in self.executables:
            return INVALID_HANDLE
        work = self.executables[executable]
        return self.put(stream, lambda: [piece() for piece in work])  # type: ignore[func-returns-value]

    def _cudaGraphExecDestroy(self, executable: int) -> int:
        return self._gone(self.executables, executable)

    def _cudaEventCreate(self, into: Any) -> None:
        self._made(into, self.events, None)

    def _cudaEventRecord(self, event: int, stream: int) -> int:
        if event not in self.events:
            return INVALID_HANDLE
        self.events[event] = None
        return self.put(stream, lambda: self.events.update({event: self.now}))

    def _cudaEventElapsedTime(self, into: Any, start: int, end: int) -> int:
        if start not in self.events or end not in self.events:
            return INVALID_HANDLE
        begun, done = self.events[start], self.events[end]
        if begun is None or done is None:
            return NOT_READY
        into.value = done - begun
        return 0

    def _cudaEventDestroy(self, event: int) -> int:
        return self._gone(self.events, event)

    def _cudaMalloc(self, into: Any, size: int) -> int:
        if self._blocked():
            return CAPTURE_UNSUPPORTED
        if not size or size > self.left:
            return OUT_OF_MEMORY
        self.left -= size
        return self._allocate(into, size, self.blocks)

    def _cudaHostAlloc(self, into: Any, size: int, flags: int) -> int:
        if self._blocked():
            return CAPTURE_UNSUPPORTED
        return INVALID_VALUE if flags or not size else self._allocate(into, size, self.pinned)

    def _allocate(self, into: Any, size: int, kept: dict[int, Any]) -> int:
        block = (ctypes.c_char * size)(*([b"\xee"] * min(size, 64)))  # not zeros: what nobody wrote shows
        into.value = ctypes.addressof(block)
        kept[into.value] = block
        return 0

    def _cudaFree(self, address: int) -> int:
        if self._blocked():
            return CAPTURE_UNSUPPORTED
        if address not in self.blocks:
            return INVALID_VALUE
        for stream in self.streams:  # it waits, as the real one does
            self._cudaStreamSynchronize(stream)
        self.left += len(self.blocks.pop(address))
        return 0

    def _cudaFreeHost(self, address: int) -> int:
        if self._blocked():
            return CAPTURE_UNSUPPORTED
        return 0 if self.pinned.pop(address, None) is not None else INVALID_VALUE

    def _cudaMemGetInfo(self, left: Any, whole: Any) -> None:
        left.value, whole.value = self.left, self.whole

    def _cudaMemcpyAsync(self, to: int, source: int, size: int, kind: int, stream: int) -> int:
        blocks = {1: (self.blocks, self.pinned), 2: (self.pinned, self.blocks)}.get(kind)
        if blocks is None:
            return INVALID_VALUE
        for kept, address in zip(blocks, (to, source)):
            if address not in kept or size > len(kept[address]):
                return INVALID_VALUE
        owners = [kept[address] for kept, address in zip(blocks, (to, source))]

        def copy() -> None:
            for kept, address, owner in zip(blocks, (to, source), owners):
                assert kept.get(address) is owner, "a copy to or from memory that was given back"
            ctypes.memmove(to, source, size)

        return self.put(stream, copy)
