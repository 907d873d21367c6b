"""A TensorRT engine to a ``run``, on this machine's GPU."""

from pathlib import Path
from types import ModuleType

import numpy as np

from deploy.cuda import Cuda
from deploy.errors import Refused
from deploy.run import Run
from deploy.trt import in_words, logger


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
    log = logger(trt)
    with in_words(trt, engine):
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
