"""TensorRT: build an engine from an ONNX graph, and open it to a ``run``.

One path for TensorRT 10.3 to 11 and TensorRT-RTX, whose Python API is the same: the precision is in the graph, the
network is strongly typed, the builder gets no precision flag and TF32 is off.
"""

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from deploy.cuda import Cuda
from deploy.errors import Refused
from deploy.run import Run

EXTRAS = {"tensorrt": "tensorrt", "tensorrt_rtx": "rtx"}
BATCH = (1, 8, 64)  # smallest, best served and largest of the optimisation profile
LENGTH = (1, 64, 1024)  # the same of every other free axis


def load_tensorrt(module: str) -> ModuleType:
    """Import ``tensorrt`` or ``tensorrt_rtx``.

    Raises:
        Refused: it is not installed, or it cannot be loaded here; the message names the extra.
    """
    again = f"pip install -c constraints.txt -e '.[{EXTRAS[module]}]'"
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == module:
            raise Refused(f"{module} is not installed: {again}") from None
        raise Refused(f"{module} is installed but cannot be loaded here ({error}). Install it again: {again}") from None


def build_engine(
    trt: ModuleType, graph: Path, inputs: Sequence[dict[str, Any]], compute_capability: str | None = None
) -> tuple[bytes, list[dict[str, str]]]:
    """Parse ``graph`` and build it.

    Args:
        trt: the module that ``load_tensorrt`` gave.
        inputs: the graph's inputs as the contract has them; a dimension that is a name is free.
        compute_capability: ``"8.6"``: build for that GPU, which need not be here (TensorRT-RTX only);
            ``None``: for the GPU of this machine.

    Returns:
        The engine, and the parsed network's layers in order: ``name``, ``type``, and ``dtype`` of the first output.

    Raises:
        Refused: the parser or the builder refuses; the message names the node and the reason.
    """
    log = _logger(trt)
    with _told(trt, graph):
        builder = trt.Builder(log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)
        if not parser.parse(graph.read_bytes()):
            errors = [parser.get_error(i) for i in range(parser.num_errors)]
            said = "; ".join(f"node {e.node_name()!r} ({e.node_operator()}): {e.desc()}" for e in errors)
            raise Refused(
                f"{graph}: {trt.__name__} {trt.__version__} cannot parse this graph: {said or log.last()}. "
                f"Write the network without that operator, or deploy it with ONNX Runtime."
            )
        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)
        if compute_capability is not None:
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(trt.ComputeCapability, "SM" + compute_capability.replace(".", "")), 0)
        profile = builder.create_optimization_profile()
        for tensor in inputs:
            profile.set_shape(tensor["name"], *(_shape(tensor["shape"], *sizes) for sizes in zip(BATCH, LENGTH)))
        config.add_optimization_profile(profile)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise Refused(
                f"{graph}: {trt.__name__} {trt.__version__} cannot build this graph: {log.last()}. "
                f"Free memory on the GPU, or write the network without the layer it names."
            )
        return bytes(plan), [_layer(network.get_layer(i)) for i in range(network.num_layers)]


def open_engine(trt: ModuleType, engine: Path, cuda: Cuda | None = None) -> Run:
    """Open an engine on this machine's GPU.

    Each call copies the inputs to the device, runs, copies the outputs back and waits for them.

    Args:
        cuda: the CUDA runtime; tests hand in a double.

    Raises:
        Refused: no CUDA, an engine of another TensorRT or GPU, a damaged file, too little memory; and from ``run``, an
            input of another name, type or shape.
    """
    cuda = cuda or Cuda()
    log = _logger(trt)
    with _told(trt, engine):
        runtime = trt.Runtime(log)
        loaded = runtime.deserialize_cuda_engine(engine.read_bytes())
        context = loaded.create_execution_context() if loaded else None
        if context is None:
            raise Refused(
                f"{engine}: {trt.__name__} {trt.__version__} cannot load this engine on this GPU ({log.last()}). "
                f"Engines are tied to the GPU and the version that built them: build it here with `dvc repro`."
            )
        names = [loaded.get_tensor_name(i) for i in range(loaded.num_io_tensors)]
        into = [name for name in names if loaded.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        dtypes = {name: np.dtype(trt.nptype(loaded.get_tensor_dtype(name))) for name in names}
        profiles = {name: [tuple(shape) for shape in loaded.get_tensor_profile_shape(name, 0)] for name in into}
    stream = cuda.stream()
    buffers: dict[str, tuple[int, int]] = {}  # name -> (device address, bytes)

    def address(name: str, size: int) -> int:
        if name not in buffers or buffers[name][1] < size:
            if name in buffers:
                cuda.free(buffers.pop(name)[0])
            buffers[name] = (cuda.malloc(size), size)
        context.set_tensor_address(name, buffers[name][0])
        return buffers[name][0]

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        right = sorted(inputs) == sorted(into) and all(inputs[name].dtype == dtypes[name] for name in into)
        arrays = {name: np.ascontiguousarray(inputs[name]) for name in into if right}
        if not right or not all(context.set_input_shape(name, array.shape) for name, array in arrays.items()):
            came = ", ".join(f"{name}: {array.dtype} {array.shape}" for name, array in inputs.items())
            expected = ", ".join(f"{n}: {dtypes[n]} {profiles[n][0]} to {profiles[n][2]}" for n in into)
            raise Refused(f"{engine}: got {came}; expected {expected}")
        for name, array in arrays.items():
            cuda.to_device(address(name, array.nbytes), array, stream)
        outputs = {
            name: np.empty(tuple(context.get_tensor_shape(name)), dtypes[name]) for name in names if name not in into
        }
        places = {name: address(name, array.nbytes) for name, array in outputs.items()}
        if not context.execute_async_v3(stream):
            raise Refused(f"{engine}: the engine failed while running ({log.last()}). Build it again: `dvc repro`.")
        for name, array in outputs.items():
            cuda.to_host(array, places[name], stream)
        cuda.synchronize(stream)
        return outputs

    return run


@contextlib.contextmanager
def _told(trt: ModuleType, file: Path) -> Iterator[None]:
    """Turn what the bindings raise (a driver that is too old, a missing enum) into a refusal in TensorRT's words."""
    log = _logger(trt)
    log.said.clear()
    try:
        yield
    except Refused:
        raise
    except (TypeError, AttributeError, RuntimeError, ValueError) as error:
        raise Refused(
            f"{file}: {trt.__name__} {trt.__version__} does not work on this machine: {error} ({log.last()}). "
            f"Update the GPU's driver, or install the TensorRT that goes with it."
        ) from error


def _shape(shape: Sequence[int | str], batch: int, length: int) -> tuple[int, ...]:
    return tuple(n if isinstance(n, int) else batch if n == "batch" else length for n in shape)


def _layer(layer: Any) -> dict[str, str]:
    dtype = layer.get_output(0).dtype.name if layer.num_outputs else ""
    return {"name": layer.name, "type": layer.type.name, "dtype": dtype}


_LOGGERS: dict[str, Any] = {}  # TensorRT takes one logger a process and ignores the next


def _logger(trt: ModuleType) -> Any:
    if trt.__name__ not in _LOGGERS:

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
