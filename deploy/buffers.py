"""Memory for an engine's tensors: page-locked on the host and its twin on the device, kept between calls."""

import contextlib
import ctypes
from pathlib import Path

import numpy as np

from deploy.cuda import Cuda
from deploy.errors import Refused

ROOM = "Send a smaller batch, or free memory on the GPU: `nvidia-smi` names what else holds it."


class Buffers:
    """The buffers of ``engine``, by tensor; an address stays until ``grow`` finds it too small."""

    def __init__(self, cuda: Cuda, engine: Path) -> None:
        self._cuda, self._engine = cuda, engine
        self._sizes: dict[str, int] = {}
        self._host: dict[str, int] = {}
        self.device: dict[str, int] = {}

    def short(self, sizes: dict[str, int]) -> bool:
        """Whether a buffer is smaller than the bytes that ``sizes`` wants."""
        return any(self._sizes.get(name, 0) < size for name, size in sizes.items())

    def grow(self, sizes: dict[str, int]) -> None:
        """Have at least as many bytes as ``sizes`` wants; what grows gets another address.

        Raises:
            Refused: the device or the host has not so much; buffers that did not have to grow stay.
        """
        for name, size in sizes.items():
            if self._sizes.get(name, 0) >= size:
                continue
            self._free(name)
            try:
                self.device[name] = self._cuda.malloc(size)
                self._host[name] = self._cuda.pinned(size)
            except Refused as error:
                raise Refused(f"{self._engine}: no memory for tensor {name!r}: {error}. {ROOM}") from None
            self._sizes[name] = size

    def host(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """The page-locked memory of ``name`` as an array; it is overwritten by every call."""
        memory = (ctypes.c_char * self._sizes[name]).from_address(self._host[name])
        return np.ndarray(shape, dtype, memory)

    def release(self) -> None:
        """Give all back."""
        for name in list(self.device):
            with contextlib.suppress(Refused):  # a device that failed took its memory with it
                self._free(name)

    def _free(self, name: str) -> None:
        self._sizes.pop(name, None)
        if name in self._host:
            self._cuda.free_pinned(self._host.pop(name))
        if name in self.device:
            self._cuda.free(self.device.pop(name))
