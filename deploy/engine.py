"""A TensorRT engine to a ``run``, on this machine's GPU."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from deploy.cuda import Cuda
from deploy.engine_calls import EngineCalls, Tensor
from deploy.errors import Refused
from deploy.run import Run
from deploy.told import Told
from deploy.trt import in_words, logger


def open_engine(trt: ModuleType, engine: Path, cuda: Cuda | None = None, told: Told | None = None) -> Run:
    """Open an engine on this machine's GPU.

    A call copies its inputs into page-locked memory; the device fetches them, runs, and brings the outputs back, all on
    one stream. A shape that comes again is replayed as one CUDA graph. The arrays that a call gives are the caller's
    own. Several threads may call; they are served one after another.

    Args:
        cuda: the CUDA runtime; tests hand in a double.
        told: is filled with how the calls are carried out.

    Raises:
        Refused: no CUDA, an engine of another TensorRT or GPU, a damaged file, too little memory; and from ``run``, an
            input of another name, type or shape.
    """
    cuda = cuda or Cuda()
    with in_words(trt, engine):
        loaded = load_engine(trt, engine, cuda)
        tensors = _tensors(trt, engine, loaded)
        calls = EngineCalls(trt, engine, loaded, tensors, cuda, told)
    into = {tensor.name: tensor for tensor in tensors if tensor.given}

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        fits = sorted(inputs) == sorted(into) and all(into[name].fits(array) for name, array in inputs.items())
        if not fits:
            came = ", ".join(f"{name}: {array.dtype} {array.shape}" for name, array in inputs.items())
            expected = ", ".join(f"{t.name}: {t.dtype} {t.least} to {t.greatest}" for t in into.values())
            raise Refused(
                f"{engine}: got {came}; expected {expected}. "
                f"Cut or convert the input, or build an engine with a wider profile."
            )
        return calls.run({name: inputs[name] for name in into})

    return run


def load_engine(trt: ModuleType, engine: Path, cuda: Cuda) -> Any:
    """The deserialised engine.

    Raises:
        Refused: no such file, a damaged one, or one that this TensorRT or GPU does not take.
    """
    try:
        plan = engine.read_bytes()
    except OSError as error:
        raise Refused(f"{engine}: cannot be read ({error.strerror}). Build it again here.") from None
    log = logger(trt)
    loaded = trt.Runtime(log).deserialize_cuda_engine(plan) if plan else None
    if loaded is None:
        left, whole = cuda.memory()
        raise Refused(
            f"{engine}: {trt.__name__} {trt.__version__} cannot load this engine on this GPU ({log.last()}; "
            f"the file has {len(plan):,} bytes, the GPU {left:,} of {whole:,} left). Engines are tied to the GPU and "
            f"the version that built them: build it again here; or free memory on the GPU."
        )
    return loaded


def _tensors(trt: ModuleType, engine: Path, loaded: Any) -> list[Tensor]:
    tensors = []
    for name in (loaded.get_tensor_name(i) for i in range(loaded.num_io_tensors)):
        if loaded.get_tensor_location(name) != trt.TensorLocation.DEVICE:
            raise Refused(
                f"{engine}: tensor {name!r} is a shape that TensorRT reads on the host, expected arrays on the device. "
                f"Export the network with its sizes taken from its inputs' shapes."
            )
        given = loaded.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        dtype = np.dtype(trt.nptype(loaded.get_tensor_dtype(name)))
        least = greatest = tuple(loaded.get_tensor_shape(name))
        if given and min(least, default=0) < 0:
            least, _, greatest = (tuple(shape) for shape in loaded.get_tensor_profile_shape(name, 0))
        tensors.append(Tensor(name, given, dtype, least, greatest))
    return tensors
