"""ONNX Runtime: a graph opened to a ``run``.

Reduced arithmetic of a runtime's own is off: an fp32 graph is computed in fp32.
"""

from pathlib import Path

import numpy as np

from deploy.errors import Refused
from deploy.run import Run

THREADS = 1  # inside one operator; the trained network is timed with as many

PROVIDERS = {
    "cpu": ("CPUExecutionProvider", {}),
    "cuda": ("CUDAExecutionProvider", {"use_tf32": "0"}),
}


def open_onnxruntime(graph: Path | bytes, device: str = "cpu", optimise: bool = True) -> Run:
    """Open an ONNX file with ONNX Runtime.

    Args:
        graph: a file, or a graph's bytes.
        device: ``"cpu"`` or ``"cuda"``.
        optimise: False stops at basic graph rewrites, where every processor computes an int8 graph alike.

    Raises:
        Refused: the graph cannot be read, or the session fell back from the device that was asked for.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_ENABLE_BASIC
    # Several runtimes are timed in one process: none may spin while another runs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    provider, settings = PROVIDERS[device]
    name = "the graph" if isinstance(graph, bytes) else str(graph)
    if device == "cuda":
        onnxruntime.preload_dlls()  # CUDA and cuDNN from packages, where they are
    try:
        model = graph if isinstance(graph, bytes) else str(graph)
        session = onnxruntime.InferenceSession(model, options, providers=[(provider, settings)])
    except Exception as error:  # onnxruntime raises a dozen classes of its own
        raise Refused(f"{name}: onnxruntime cannot open this graph: {error}. Make it again: `dvc repro`.") from None
    if provider not in session.get_providers():
        raise Refused(
            f"{name}: onnxruntime was asked for {provider} and fell back to {', '.join(session.get_providers())}. "
            f"Install the CUDA and cuDNN that onnxruntime-gpu {onnxruntime.__version__} was built with."
        )
    names = [output.name for output in session.get_outputs()]
    expected = ", ".join(f"{i.name}: {i.type} {i.shape}" for i in session.get_inputs())

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            return dict(zip(names, session.run(names, inputs)))
        except Exception as error:
            came = ", ".join(f"{name}: {array.dtype} {list(array.shape)}" for name, array in inputs.items())
            raise Refused(f"{name}: got {came}; expected {expected} ({error})") from None

    return run
