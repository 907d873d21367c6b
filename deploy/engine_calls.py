"""The calls of one opened engine: one stream, memory that stays, and a CUDA graph for each shape that comes again.

A captured graph holds the state of the execution context that it was captured from, and the addresses: "modifying the
context from which the graph was captured will result in undefined behavior" (TensorRT's developer guide, CUDA Graphs).
So each graph has a context of its own that nothing touches any more, all share one piece of device memory, and all are
thrown away where a buffer moves.
"""

import contextlib
import ctypes
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from deploy.buffers import ROOM, Buffers
from deploy.cuda import Cuda
from deploy.errors import Refused, words
from deploy.told import Told
from deploy.trt import logger

GRAPHS = 8  # shapes with a CUDA graph; further ones are launched step by step

Shapes = tuple[tuple[int, ...], ...]  # one for each input, in the engine's order


@dataclass(frozen=True)
class Tensor:
    """An input (``given``) or output of an engine; ``least`` and ``greatest`` are an input's shapes in the profile."""

    name: str
    given: bool
    dtype: np.dtype
    least: tuple[int, ...]
    greatest: tuple[int, ...]

    def fits(self, array: np.ndarray) -> bool:
        """Whether ``array`` is of this type and inside the profile."""
        sizes = zip(self.least, array.shape, self.greatest)
        return array.dtype == self.dtype and array.ndim == len(self.least) and all(a <= b <= c for a, b, c in sizes)

    def bytes(self, shape: tuple[int, ...]) -> int:
        """What an array of ``shape`` takes; CUDA gives no address for nothing, so at least 1."""
        return max(1, self.dtype.itemsize * int(np.prod(shape)))


@dataclass
class Ready:
    """A context that is set for a shape, the host's memory for it, and its graph: 0 is none."""

    context: Any
    given: dict[str, np.ndarray]
    answers: dict[str, np.ndarray]
    graph: int = 0


class EngineCalls:
    """What ``open_engine`` opens. The device's memory is given back when this is no longer referred to."""

    def __init__(
        self, trt: ModuleType, engine: Path, loaded: Any, tensors: list[Tensor], cuda: Cuda, told: Told | None
    ) -> None:
        self._trt, self._engine, self._loaded, self._cuda = trt, engine, loaded, cuda
        self._into = [tensor for tensor in tensors if tensor.given]
        self._out = [tensor for tensor in tensors if not tensor.given]
        self._fixed = all(tensor.least == tensor.greatest for tensor in self._into)
        self._told = told or Told()
        self._lock = threading.Lock()
        self._seen: set[Shapes] = set()
        self._graphs: dict[Shapes, Ready] = {}
        self._buffers = Buffers(cuda, engine)
        held = contextlib.ExitStack()
        weakref.finalize(self, held.close)
        self._stream = _held(held, cuda.stream(), cuda.free_stream)
        self._events = [_held(held, cuda.event(), cuda.free_event) for _ in range(2)] if told else []
        self._memory = _held(held, self._room(max(1, loaded.device_memory_size_v2)), cuda.free)
        held.callback(self._buffers.release)
        held.callback(_free_graphs, cuda, self._graphs)
        self._context = self._new_context(settled=False)

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Answer ``inputs``, which fit.

        Raises:
            Refused: too little memory for this shape, an output whose size is not known beforehand, or a failing run.
        """
        with self._lock:
            shapes = tuple(inputs[tensor.name].shape for tensor in self._into)
            ready = self._graphs.get(shapes)
            if ready is None:
                ready = self._prepared(self._context, shapes)
            self._answer(ready, inputs)
            answers = {name: array.copy() for name, array in ready.answers.items()}
            self._told.calls += 1
            self._told.replays += bool(ready.graph)
            again = self._fixed or shapes in self._seen
            self._seen.add(shapes)
            if again and not ready.graph and not self._told.plain and len(self._graphs) < GRAPHS:
                self._capture(shapes, inputs, answers)
            return answers

    def _prepared(self, context: Any, shapes: Shapes) -> Ready:
        for tensor, shape in zip(self._into, shapes):
            if not context.set_input_shape(tensor.name, shape):
                self._fail(f"input {tensor.name!r} of shape {shape} is not taken")
        sizes = {tensor: tuple(context.get_tensor_shape(tensor.name)) for tensor in self._out}
        for tensor, shape in sizes.items():
            if min(shape, default=0) < 0:
                raise Refused(
                    f"{self._engine}: the size of output {tensor.name!r} depends on the values that come in, "
                    f"{shape} came, expected sizes that follow from the inputs' shapes. Run this graph with "
                    f"ONNX Runtime, or end it before the operator that counts."
                )
        sizes = dict(zip(self._into, shapes)) | sizes
        wanted = {tensor.name: tensor.bytes(shape) for tensor, shape in sizes.items()}
        if self._buffers.short(wanted):
            _free_graphs(self._cuda, self._graphs)  # they hold the addresses that now move
            self._buffers.grow(wanted)
        for tensor in sizes:
            if not context.set_tensor_address(tensor.name, self._buffers.device[tensor.name]):
                self._fail(f"the address of {tensor.name!r} is not taken")
        host = {tensor.name: self._buffers.host(tensor.name, shape, tensor.dtype) for tensor, shape in sizes.items()}
        return Ready(context, {t.name: host[t.name] for t in self._into}, {t.name: host[t.name] for t in self._out})

    def _answer(self, ready: Ready, inputs: dict[str, np.ndarray]) -> None:
        """Fill the inputs, run, and wait until the outputs are in the host's memory."""
        for name, array in ready.given.items():
            np.copyto(array, inputs[name])
        timing = self._told.timing
        try:
            if timing:
                self._cuda.record(self._events[0], self._stream)
            self._put(ready)
            if timing:
                self._cuda.record(self._events[1], self._stream)
        finally:
            self._cuda.synchronize(self._stream)  # the next call writes into the same memory, whatever this one did
        if timing:
            self._told.device_s.append(self._cuda.seconds(*self._events))

    def _put(self, ready: Ready) -> None:
        if ready.graph:
            self._cuda.launch(ready.graph, self._stream)
        else:
            self._put_steps(ready)

    def _put_steps(self, ready: Ready) -> None:
        for name, array in ready.given.items():
            self._cuda.to_device(self._buffers.device[name], array, self._stream)
        if not ready.context.execute_async_v3(self._stream):
            self._fail("the engine failed while running")
        for name, array in ready.answers.items():
            self._cuda.to_host(array, self._buffers.device[name], self._stream)

    def _capture(self, shapes: Shapes, inputs: dict[str, np.ndarray], answers: dict[str, np.ndarray]) -> None:
        """Make the graph of ``shapes``; where that cannot be, keep the reason and go on without.

        The graph serves only once it has given the very answers that the plain call gave.
        """
        ready = None
        try:
            ready = self._prepared(self._new_context(settled=True), shapes)
            for name, array in ready.given.items():
                np.copyto(array, inputs[name])
            self._run_once(lambda: self._put_steps(ready))  # the first run at a shape prepares what no graph may hold
            capturable = getattr(ready.context, "is_stream_capturable", None)  # TensorRT-RTX alone has it
            if capturable is not None and not capturable(self._stream):
                raise Refused("TensorRT-RTX cannot have this engine captured")
            ready.graph = self._cuda.capture(self._stream, lambda: self._put_steps(ready))
            for name, array in ready.answers.items():  # what the replay does not compute then shows
                ctypes.memset(array.ctypes.data, 0xA5, array.nbytes)
                self._cuda.to_device(self._buffers.device[name], array, self._stream)
            self._run_once(lambda: self._put(ready))
            for name, array in ready.answers.items():
                if array.tobytes() != answers[name].tobytes():
                    raise Refused(f"the replay gave other values of {name!r} than the plain call")
        except (Refused, RuntimeError, TypeError) as error:
            self._told.plain = words(error)
            if ready is not None:
                _free_graphs(self._cuda, {shapes: ready})
            return
        self._graphs[shapes] = ready

    def _run_once(self, put: Callable[[], None]) -> None:
        try:
            put()
        finally:
            self._cuda.synchronize(self._stream)

    def _new_context(self, settled: bool) -> Any:
        """A context on the shared memory; ``settled``: for one shape that stays.

        TensorRT-RTX compiles for a new shape in the background and runs something slower meanwhile; a graph would keep
        that for good, so a settled context has it compile first.
        """
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if settled and hasattr(self._trt, "DynamicShapesKernelSpecializationStrategy"):
            config = self._loaded.create_runtime_config()
            config.set_execution_context_allocation_strategy(strategy)
            eager = self._trt.DynamicShapesKernelSpecializationStrategy.EAGER
            config.dynamic_shapes_kernel_specialization_strategy = eager
            context = self._loaded.create_execution_context(config)
        else:
            context = self._loaded.create_execution_context(strategy)
        if context is None:
            self._fail("no execution context could be made")
        context.set_device_memory(self._memory, max(1, self._loaded.device_memory_size_v2))
        return context

    def _room(self, size: int) -> int:
        try:
            return self._cuda.malloc(size)
        except Refused as error:
            raise Refused(f"{self._engine}: no memory for its intermediate results: {error}. {ROOM}") from None

    def _fail(self, what: str) -> None:
        raise Refused(f"{self._engine}: {what} ({logger(self._trt).last()}). Build the engine again.")


def _held(stack: contextlib.ExitStack, made: int, free: Callable[[int], None]) -> int:
    """``made``, to be freed with ``stack``."""

    def release() -> None:
        with contextlib.suppress(Refused):  # a device that failed took it along
            free(made)

    stack.callback(release)
    return made


def _free_graphs(cuda: Cuda, graphs: dict[Shapes, Ready]) -> None:
    for ready in graphs.values():
        if ready.graph:
            with contextlib.suppress(Refused):
                cuda.free_graph(ready.graph)
    graphs.clear()
