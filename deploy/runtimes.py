"""ONNX Runtime: a graph opened to a ``run``.

Reduced arithmetic of a runtime's own is off: an fp32 graph is computed in fp32.
"""

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.errors import Refused
from deploy.run import Run

if TYPE_CHECKING:
    from deploy.told import Told

THREADS = 1  # inside one operator; the trained network is timed with as many

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
CUDA = {"use_tf32": "0"}
CAPTURE = {"enable_cuda_graph": "1"}


def open_onnxruntime(
    graph: Path | bytes, device: str = "cpu", optimise: bool = True, told: "Told | None" = None
) -> Run:
    """Open an ONNX file with ONNX Runtime.

    On ``"cuda"`` inputs and outputs are bound, and a shape that comes again is replayed as one CUDA graph.

    Args:
        graph: a file, or a graph's bytes.
        device: ``"cpu"`` or ``"cuda"``.
        optimise: False stops at basic graph rewrites, where every processor computes an int8 graph alike.
        told: on ``"cuda"``: is filled with how the calls were carried out; ``device_s`` stays empty.

    Raises:
        Refused: the graph cannot be read, or the session fell back from the device that was asked for, whole or with
            nodes that do more than compute sizes.
    """
    import onnxruntime

    name = "the graph" if isinstance(graph, bytes) else str(graph)
    model = graph if isinstance(graph, bytes) else str(graph)
    if device == "cuda":
        onnxruntime.preload_dlls()  # CUDA and cuDNN from packages, where they are
    try:
        session, hindered = _session(onnxruntime, model, device, _options(onnxruntime, device, optimise))
    except Exception as error:  # onnxruntime raises a dozen classes of its own
        raise Refused(
            f"{name}: onnxruntime cannot open this graph: {error}. Make it again: `dvc repro`; elsewhere copy it again."
        ) from None
    if PROVIDERS[device] not in session.get_providers():
        raise Refused(
            f"{name}: onnxruntime was asked for {PROVIDERS[device]} and fell back to "
            f"{', '.join(session.get_providers())}. "
            f"Install the CUDA and cuDNN that onnxruntime-gpu {onnxruntime.__version__} was built with."
        )
    expected = ", ".join(f"{i.name}: {i.type} {i.shape}" for i in session.get_inputs())
    axes = [(i.name, axis, n) for i in session.get_inputs() for axis, n in enumerate(i.shape) if isinstance(n, str)]
    answer = _on_cuda(onnxruntime, session, name, hindered, told) if device == "cuda" else _on_cpu(session)

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            _check_sizes(inputs, axes)
            return answer(inputs)
        except Exception as error:
            came = ", ".join(f"{name}: {array.dtype} {list(array.shape)}" for name, array in inputs.items())
            raise Refused(f"{name}: got {came}; expected {expected} ({error})") from None

    return run


def _check_sizes(inputs: dict[str, np.ndarray], axes: list[tuple[str, int, str]]) -> None:
    """Raise where an axis is empty, or one name has two sizes: onnxruntime 1.31 checks neither.

    Its LSTM and RNN forget their state over no steps, its GRU ends the process; and a state of another batch is
    broadcast wherever a cell is a loop.
    """
    sizes: dict[str, int] = {}
    for name, axis, called in axes:
        if name in inputs and axis < inputs[name].ndim:
            came = inputs[name].shape[axis]
            if not came:
                raise ValueError(f"{called} of {name} is 0, 1 or more was expected; leave the call out")
            if sizes.setdefault(called, came) != came:
                raise ValueError(f"{called} of {name} is {came}, that of another input {sizes[called]}; make them one")


def _options(onnxruntime: ModuleType, device: str, optimise: bool) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_ENABLE_BASIC
    # Several runtimes are timed in one process: none may spin while another runs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if device == "cuda":
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def _session(onnxruntime: ModuleType, model: bytes | str, device: str, options: Any) -> tuple[Any, str]:
    """A session, and why it can capture no CUDA graph; empty if it can.

    Onnxruntime decides that when it opens a graph, and refuses the whole session where it finds a node that cannot be
    captured; it is opened again without then. Its own falling back to the processor, which hides that, is off.
    """
    settings, hindered = dict(CUDA if device == "cuda" else {}), "it runs on the processor"
    if device == "cuda":
        try:
            providers = [(PROVIDERS[device], settings | CAPTURE)]
            return onnxruntime.InferenceSession(model, options, providers=providers, enable_fallback=0), ""
        except Exception as error:
            if "graph capture" not in str(error):
                raise
            hindered = str(error)
    providers = [(PROVIDERS[device], settings)]
    return onnxruntime.InferenceSession(model, options, providers=providers, enable_fallback=0), hindered


def _on_cpu(session: Any) -> Run:
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs)))


def _on_cuda(onnxruntime: ModuleType, session: Any, graph: str, hindered: str, told: "Told | None") -> Run:
    # Imported here: the stages that run on the processor alone do not depend on what is done for a GPU.
    from deploy.session_calls import bound, placed
    from deploy.told import Told

    told = told or Told()
    told.plain = hindered
    told.on_cpu = placed(session, PROVIDERS["cuda"], graph)
    return bound(onnxruntime, session, told)
