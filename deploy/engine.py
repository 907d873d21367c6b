"""TensorRT: build an engine from an ONNX graph, and open it to a ``run``.

One path for TensorRT 10.3 to 11 and TensorRT-RTX, whose Python API is the same: the precision is in the graph, the
network is strongly typed, the builder gets no precision flag and TF32 is off.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from deploy.cuda import Cuda
from deploy.errors import Refused
from deploy.files import write_bytes
from deploy.run import Run

EXTRAS = {"tensorrt": "tensorrt", "tensorrt_rtx": "rtx"}
BATCHES = (1, 8, 64)  # smallest, best served and largest batch of the optimisation profile


def load_tensorrt(module: str) -> ModuleType:
    """Import ``tensorrt`` or ``tensorrt_rtx``.

    Raises:
        Refused: it is not installed, or it cannot be loaded here; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise Refused(f"{module} is not installed: pip install -c constraints.txt -e '.[{EXTRAS[module]}]'") from None
    except (ImportError, OSError) as error:
        raise Refused(f"{module} is installed but cannot be loaded here: {error}") from None


def build_engine(
    trt: ModuleType,
    graph: Path,
    engine: Path,
    inputs: Sequence[dict[str, Any]],
    compute_capability: str | None = None,
) -> list[dict[str, str]]:
    """Parse ``graph``, build it and write ``engine``.

    Args:
        trt: the module that ``load_tensorrt`` gave.
        inputs: the graph's inputs as the contract has them; a dimension that is a name is the batch.
        compute_capability: ``"8.6"``: build for that GPU, which need not be here (TensorRT-RTX only);
            ``None``: for the GPU of this machine.

    Returns:
        The parsed network's layers in order: ``name``, ``type`` and ``dtype`` of the first output.

    Raises:
        Refused: the parser or the builder refuses; the message names the node and the reason.
    """
    log = _logger(trt)
    log.said.clear()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(graph.read_bytes()):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        said = "; ".join(f"node {e.node_name()!r} ({e.node_operator()}): {e.desc()}" for e in errors)
        raise Refused(f"{graph}: {trt.__name__} {trt.__version__} cannot parse this graph: {said or log.last()}")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    if compute_capability is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, "SM" + compute_capability.replace(".", "")), 0)
    profile = builder.create_optimization_profile()
    for tensor in inputs:
        profile.set_shape(tensor["name"], *(_shape(tensor["shape"], batch) for batch in BATCHES))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise Refused(f"{graph}: {trt.__name__} {trt.__version__} cannot build this graph: {log.last()}")
    write_bytes(engine, bytes(plan))
    return [_layer(network.get_layer(i)) for i in range(network.num_layers)]


def open_engine(trt: ModuleType, engine: Path, cuda: Cuda | None = None) -> Run:
    """Open an engine on this machine's GPU.

    Each call copies the inputs to the device, runs, copies the outputs back and waits for them.

    Args:
        cuda: the CUDA runtime; tests hand in a double.

    Raises:
        Refused: no CUDA, an engine of another TensorRT or GPU, a damaged file.
    """
    cuda = cuda or Cuda()
    log = _logger(trt)
    log.said.clear()
    runtime = trt.Runtime(log)
    loaded = runtime.deserialize_cuda_engine(engine.read_bytes())
    if loaded is None:
        raise Refused(
            f"{engine}: {trt.__name__} {trt.__version__} cannot load this engine on this GPU ({log.last()}). "
            f"Engines are tied to the GPU and the version that built them: build it here with `dvc repro`."
        )
    context = loaded.create_execution_context()
    stream = cuda.stream()
    names = [loaded.get_tensor_name(i) for i in range(loaded.num_io_tensors)]
    is_input = {name: loaded.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
    dtypes = {name: np.dtype(trt.nptype(loaded.get_tensor_dtype(name))) for name in names}
    buffers: dict[str, tuple[int, int]] = {}  # name -> (device address, bytes)

    def address(name: str, size: int) -> int:
        held, room = buffers.get(name, (0, 0))
        if room < size:
            if held:
                cuda.free(held)
            buffers[name] = (cuda.malloc(size), size)
        return buffers[name][0]

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = {}
        for name in names:
            if is_input[name]:
                if name not in inputs:
                    raise Refused(f"{engine}: got inputs {sorted(inputs)}; expected {name!r} among them")
                array = np.ascontiguousarray(inputs[name], dtypes[name])
                if not context.set_input_shape(name, array.shape):
                    expected = [tuple(s) for s in loaded.get_tensor_profile_shape(name, 0)]
                    raise Refused(
                        f"{engine}: {name} came with shape {array.shape}; "
                        f"expected between {expected[0]} and {expected[2]}"
                    )
                at = address(name, array.nbytes)
                cuda.to_device(at, array, stream)
                context.set_tensor_address(name, at)
        for name in names:
            if not is_input[name]:
                outputs[name] = np.empty(tuple(context.get_tensor_shape(name)), dtypes[name])
                context.set_tensor_address(name, address(name, outputs[name].nbytes))
        if not context.execute_async_v3(stream):
            raise Refused(f"{engine}: the engine failed while running ({log.last()})")
        for name, array in outputs.items():
            cuda.to_host(array, buffers[name][0], stream)
        cuda.synchronize(stream)
        return outputs

    return run


def _shape(shape: Sequence[int | str], batch: int) -> tuple[int, ...]:
    return tuple(batch if isinstance(n, str) else n for n in shape)


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
