"""The calls of an ONNX Runtime session on CUDA: where its nodes run, bound memory, and CUDA graphs.

Sources: ONNX Runtime's pages "CUDA Execution Provider" (Using CUDA Graphs) and "I/O Binding", and the comment to
``gpu_graph_id`` in onnxruntime_run_options_config_keys.h: -1 is a run without a graph, 0 is kept for itself, and each
other number is a graph of its own, whose shapes and addresses may not change.
"""

import threading
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from deploy.errors import Refused, words
from deploy.run import Run
from deploy.told import Told

GRAPHS = 8  # shapes with a CUDA graph; onnxruntime cannot give one up again before the session ends

# What shapes are computed with. The GPU has a kernel for each; onnxruntime leaves a node to the processor only where
# it follows from a shape and a copy to the GPU and back would cost more.
SIZES = {
    "Add", "And", "Cast", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Expand", "Gather", "Greater",
    "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Range",
    "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "Shape", "Size", "Slice", "Split", "Squeeze", "Sub",
    "Unsqueeze", "Where",
}  # fmt: skip


def placed(session: Any, provider: str, graph: str) -> tuple[str, ...] | None:
    """The nodes that are not on ``provider``; ``None`` where this onnxruntime (before 1.24) does not tell.

    Raises:
        Refused: one of them does more than compute sizes.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    parts = session.get_provider_graph_assignment_info()
    away = [(node, part.ep_name) for part in parts if part.ep_name != provider for node in part.get_nodes()]
    wrong = [f"{node.op_type} {node.name!r} on {where}" for node, where in away if node.op_type not in SIZES]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise Refused(
            f"{graph}: onnxruntime placed {', '.join(wrong[:3])}{more}, expected all on {provider}: this would be "
            f"measured as a GPU and run elsewhere. Write the network without these operators, or deploy it on the CPU."
        )
    return tuple(f"{node.op_type} {node.name!r}" for node, _ in away)


@dataclass
class _Held:
    """Memory on the device for one shape: what is bound here stays bound."""

    binding: Any
    given: dict[str, Any]
    options: Any


def bound(onnxruntime: ModuleType, session: Any, told: Told, device: str = "cuda") -> Run:
    """The ``run`` of a session with its memory bound.

    A shape's first call lets onnxruntime bring the outputs to the host. From its second call on the inputs and outputs
    lie at fixed places on ``device`` and the call is one CUDA graph, unless ``told.plain`` has a reason against it or
    the outputs' sizes do not follow from the inputs'. The arrays that a call gives are the caller's own.
    """
    names = [output.name for output in session.get_outputs()]
    if not told.plain and (free := _free_sizes(session)):
        told.plain = f"the sizes {', '.join(free)} of the outputs do not follow from the inputs'"
    plain = _options(onnxruntime, -1)
    lock = threading.Lock()
    seen: set[Any] = set()
    graphs: dict[Any, _Held] = {}

    def replay(held: _Held, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        for name, value in held.given.items():
            value.update_inplace(np.ascontiguousarray(inputs[name]))
        session.run_with_iobinding(held.binding, held.options)
        return dict(zip(names, held.binding.copy_outputs_to_cpu()))

    def capture(shapes: Any, inputs: dict[str, np.ndarray], answers: dict[str, np.ndarray]) -> None:
        try:
            held = _held(onnxruntime, session, inputs, answers, device, 1 + len(graphs))
            first, again = replay(held, inputs), replay(held, inputs)
        except Exception as error:  # onnxruntime raises a dozen classes of its own
            told.plain = words(error)
            return
        if all(first[name].tobytes() == again[name].tobytes() == answers[name].tobytes() for name in names):
            graphs[shapes] = held
        else:
            told.plain = "the replay gave other values than the plain call"

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        shapes = frozenset((name, array.dtype.str, array.shape) for name, array in inputs.items())
        with lock:  # a graph's memory serves one call at a time
            told.calls += 1
            if shapes in graphs:
                told.replays += 1
                return replay(graphs[shapes], inputs)
            answers = _plain(session, names, inputs, plain)
            if shapes in seen and not told.plain and len(graphs) < GRAPHS:
                capture(shapes, inputs, answers)
            seen.add(shapes)
            return answers

    return run


def _plain(session: Any, names: list[str], inputs: dict[str, np.ndarray], options: Any) -> dict[str, np.ndarray]:
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_cpu_input(name, np.ascontiguousarray(array))
    for name in names:
        binding.bind_output(name, "cpu")
    session.run_with_iobinding(binding, options)
    return dict(zip(names, binding.copy_outputs_to_cpu()))


def _held(
    onnxruntime: ModuleType,
    session: Any,
    inputs: dict[str, np.ndarray],
    answers: dict[str, np.ndarray],
    device: str,
    number: int,
) -> _Held:
    value = onnxruntime.OrtValue
    binding = session.io_binding()
    given = {name: value.ortvalue_from_numpy(np.ascontiguousarray(a), device, 0) for name, a in inputs.items()}
    for name, place in given.items():
        binding.bind_ortvalue_input(name, place)
    for name, array in answers.items():
        place = value.ortvalue_from_shape_and_type(array.shape, array.dtype.type, device, 0)
        binding.bind_ortvalue_output(name, place)
    return _Held(binding, given, _options(onnxruntime, number))


def _options(onnxruntime: ModuleType, number: int) -> Any:
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(number))
    return options


def _free_sizes(session: Any) -> list[str]:
    """The named sizes of outputs that no input has; an output without any shape counts as its own name."""
    known = {size for tensor in session.get_inputs() for size in tensor.shape}
    return [
        str(size)
        for tensor in session.get_outputs()
        for size in (tensor.shape if tensor.shape is not None else [tensor.name])
        if not isinstance(size, int) and (size is None or size not in known)
    ]
