"""The few calls of the CUDA runtime that running an engine takes, through ctypes: no further package on a board."""

import ctypes

import numpy as np

from deploy.errors import Refused

NAMES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so")
HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2


class Cuda:
    """The CUDA runtime of this machine.

    Raises:
        Refused: there is none, or a call fails; the message carries CUDA's own words.
    """

    def __init__(self) -> None:
        for name in NAMES:
            try:
                self._library = ctypes.CDLL(name)
                break
            except OSError:
                continue
        else:
            raise Refused(f"none of {', '.join(NAMES)} can be loaded: install the CUDA runtime, or run on a GPU host")
        self._library.cudaGetErrorString.restype = ctypes.c_char_p

    def stream(self) -> int:
        """A new stream."""
        stream = ctypes.c_void_p()
        self._check(self._library.cudaStreamCreate(ctypes.byref(stream)), "cudaStreamCreate")
        return stream.value or 0

    def malloc(self, size: int) -> int:
        """``size`` bytes on the device."""
        address = ctypes.c_void_p()
        self._check(self._library.cudaMalloc(ctypes.byref(address), ctypes.c_size_t(size)), f"cudaMalloc({size:,})")
        return address.value or 0

    def free(self, address: int) -> None:
        """Give back what ``malloc`` gave."""
        self._check(self._library.cudaFree(ctypes.c_void_p(address)), "cudaFree")

    def free_bytes(self) -> int:
        """How much memory the device has left."""
        left, whole = ctypes.c_size_t(), ctypes.c_size_t()
        self._check(self._library.cudaMemGetInfo(ctypes.byref(left), ctypes.byref(whole)), "cudaMemGetInfo")
        return left.value

    def to_device(self, address: int, array: np.ndarray, stream: int) -> None:
        """Copy a contiguous host array to the device."""
        self._copy(address, array.ctypes.data, array.nbytes, HOST_TO_DEVICE, stream)

    def to_host(self, array: np.ndarray, address: int, stream: int) -> None:
        """Copy from the device into a contiguous host array."""
        self._copy(array.ctypes.data, address, array.nbytes, DEVICE_TO_HOST, stream)

    def synchronize(self, stream: int) -> None:
        """Wait until all that was put on ``stream`` is done."""
        self._check(self._library.cudaStreamSynchronize(ctypes.c_void_p(stream)), "cudaStreamSynchronize")

    def _copy(self, to: int, source: int, size: int, kind: int, stream: int) -> None:
        status = self._library.cudaMemcpyAsync(
            ctypes.c_void_p(to), ctypes.c_void_p(source), ctypes.c_size_t(size), kind, ctypes.c_void_p(stream)
        )
        self._check(status, "cudaMemcpyAsync")

    def _check(self, status: int, call: str) -> None:
        if status:
            raise Refused(f"{call} failed: {self._library.cudaGetErrorString(status).decode()} (CUDA error {status})")
