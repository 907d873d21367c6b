"""An ONNX graph to a TensorRT engine.

One path for TensorRT 10.3 to 11 and TensorRT-RTX: the precision is in the graph, the network is strongly typed, the
builder gets no precision flag and TF32 is off.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from deploy.errors import Refused
from deploy.progress import compile_network
from deploy.trt import in_words, logger

RTX = "tensorrt_rtx"
ONLY_RTX_REFUSES = ("RoiAlign", "NonZero", "NonMaxSuppression")  # ONNX operators that TensorRT itself takes
REDUCTION = "Unsupported reduction type"  # all that TensorRT-RTX 1.7 says of a ScatterElements that adds


@dataclass(frozen=True)
class Built:
    """An engine.

    ``layers`` has ``told_by`` (``engine inspector``, or ``parsed network`` where no GPU is here that could load the
    engine) and ``layers``, in order. ``timing`` is the timing cache with what this build added, empty where none came.
    ``notes`` are what somebody should be told, a line each.
    """

    plan: bytes
    layers: dict[str, Any]
    timing: bytes
    notes: tuple[str, ...]


def build_engine(
    trt: ModuleType,
    graph: Path,
    inputs: Sequence[dict[str, Any]],
    ranges: Mapping[str, Sequence[int]],
    compute_capability: str | None = None,
    *,
    dla: int | None = None,
    workspace_mib: int | None = None,
    level: int | None = None,
    refit: bool = False,
    timing: bytes | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> Built:
    """Parse ``graph`` and build it.

    Args:
        trt: the module that ``load_tensorrt`` gave.
        inputs: the graph's inputs as the contract has them; a dimension that is a name is free.
        ranges: free axis -> least, best served and greatest size, as the contract has them.
        compute_capability: ``"8.6"``: build for that GPU, which need not be here (TensorRT-RTX only);
            ``None``: for the GPU of this machine.
        dla: build for this DLA core, static and at batch 1; a layer that it cannot run is the GPU's, and told.
        workspace_mib: what the engine may work in, beside its weights; ``None``: as much as the GPU has.
        level: how hard TensorRT searches, 0 to 5; ``None``: as TensorRT has it, 3. TensorRT-RTX builds alike at any.
        refit: build so that ``deploy.refit`` can put in new weights; TensorRT fuses less then, and TensorRT-RTX 1.7
            cannot where it builds for a GPU that is not here.
        timing: a timing cache that TensorRT wrote, ``b""`` for a new one; ``None``: none. TensorRT-RTX has none: its
            calls for one do nothing.
        progress: is told from 0 to 1 how far the build is, and the phase it is in, from another thread.

    Raises:
        Refused: the parser or the builder refuses; the message names the node and the reason.
        KeyboardInterrupt: after the compiler has stopped.
    """
    log = logger(trt)
    with in_words(trt, graph):
        builder = trt.Builder(log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        _parse(trt, network, graph, dla)
        config = builder.create_builder_config()
        _configure(trt, config, compute_capability, workspace_mib, level, refit)
        if dla is not None:
            _fix_shapes(network, inputs, {**ranges, "batch": (1, 1, 1)})
        else:
            profile = builder.create_optimization_profile()
            for tensor in inputs:
                profile.set_shape(tensor["name"], *(_shape(tensor["shape"], ranges, i) for i in range(3)))
            config.add_optimization_profile(profile)
        notes = [] if dla is None else _use_dla(trt, builder, network, config, dla, graph)
        notes += [] if timing is None else _use_timing(trt, config, timing)
        plan = compile_network(trt, builder, network, config, progress)
        if plan is None:
            raise Refused(_cannot_build(trt, network, graph, log.last(), workspace_mib))
        cache = b"" if timing is None else bytes(config.get_timing_cache().serialize())
        return Built(bytes(plan), _layers(trt, network, plan), cache, tuple(notes))


def _configure(
    trt: ModuleType,
    config: Any,
    compute_capability: str | None,
    workspace_mib: int | None,
    level: int | None,
    refit: bool,
) -> None:
    config.clear_flag(trt.BuilderFlag.TF32)
    if refit:
        config.set_flag(trt.BuilderFlag.REFIT)
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):  # TensorRT-RTX: else no CUDA graph can be captured
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if compute_capability is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, "SM" + compute_capability.replace(".", "")), 0)
    if workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib << 20)
    if level is not None:
        config.builder_optimization_level = level


def _parse(trt: ModuleType, network: Any, graph: Path, dla: int | None) -> None:
    log = logger(trt)
    parser = trt.OnnxParser(network, log)
    if dla is not None and hasattr(trt.OnnxParserFlag, "ADJUST_FOR_DLA"):  # from 10.16 on; a help, no need
        parser.set_flag(trt.OnnxParserFlag.ADJUST_FOR_DLA)
    parsed = parser.parse(graph.read_bytes())
    if parsed and network.num_outputs:
        return
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    nodes = [error for error in errors if error.node_operator()]
    said = "; ".join(f"node {e.node_name()!r} ({e.node_operator()}): {e.desc()}" for e in nodes)
    said = said or "; ".join(error.desc() for error in errors) or (log.last() if not parsed else "it has no output")
    operators = {error.node_operator() for error in nodes}
    if trt.__name__ == RTX and REDUCTION in said:
        fix = _limit_of_rtx({"ScatterElements with a reduction"})
    elif not nodes:
        fix = "The file is damaged, or no ONNX: bring it back with `dvc checkout --force`, or copy it again."
    elif trt.__name__ == RTX and operators <= set(ONLY_RTX_REFUSES):
        fix = _limit_of_rtx(operators)
    else:
        fix = "Write the network without that operator, or deploy it with ONNX Runtime."
    raise Refused(f"{graph}: {trt.__name__} {trt.__version__} cannot parse this graph: {said}. {fix}")


def _cannot_build(trt: ModuleType, network: Any, graph: Path, said: str, workspace_mib: int | None) -> str:
    """TensorRT's own words, and what helps against what they tell."""
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    suppression = any(layer.type == trt.LayerType.NMS and layer.name in said for layer in layers)
    if trt.__name__ == RTX and suppression:
        fix = _limit_of_rtx({"NonMaxSuppression"})
    elif re.search("workspace|memory", said, re.IGNORECASE) and workspace_mib is not None:
        fix = f"Raise `workspace_mib` under `engines:` in params.yaml, now {workspace_mib}, or free memory on the GPU."
    elif re.search("workspace|memory", said, re.IGNORECASE):
        fix = "Free memory on the GPU: end what else runs there."
    else:
        fix = "Write the network without the layer it names, or deploy it with ONNX Runtime."
    return f"{graph}: {trt.__name__} {trt.__version__} cannot build this graph: {said}. {fix}"


def _limit_of_rtx(operators: set[str]) -> str:
    return (
        f"TensorRT itself takes {', '.join(sorted(operators))}; this is a limit of TensorRT-RTX. "
        f"Build it with TensorRT, on the machine that will run it, or deploy it with ONNX Runtime."
    )


def _shape(shape: Sequence[int | str], ranges: Mapping[str, Sequence[int]], i: int) -> tuple[int, ...]:
    return tuple(n if isinstance(n, int) else ranges[n][i] for n in shape)


def _fix_shapes(network: Any, inputs: Sequence[dict[str, Any]], ranges: Mapping[str, Sequence[int]]) -> None:
    """Every axis at the size that is served best."""
    shapes = {tensor["name"]: _shape(tensor["shape"], ranges, 1) for tensor in inputs}
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        tensor.shape = shapes[tensor.name]


def _use_dla(trt: ModuleType, builder: Any, network: Any, config: Any, dla: int, graph: Path) -> list[str]:
    """Every layer that can be on the DLA, which ones cannot; a constant is part of the layer that takes it."""
    if not 0 <= dla < builder.num_DLA_cores:
        raise Refused(
            f"{graph}: DLA core {dla} was asked for, and {trt.__name__} {trt.__version__} finds "
            f"{builder.num_DLA_cores} here. Build it for the GPU, or on a board that has that core."
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = dla
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    layers = [layer for layer in layers if layer.type != trt.LayerType.CONSTANT]
    unfit = [layer for layer in layers if not config.can_run_on_DLA(layer)]
    if len(unfit) == len(layers):
        raise Refused(f"{graph}: the DLA can run none of its {len(layers)} layers. Build it for the GPU.")
    named = ", ".join(f"{layer.name} ({layer.type.name})" for layer in unfit)
    return [f"{len(unfit)} of {len(layers)} layers run on the GPU, not on the DLA: {named}"] if unfit else []


def _use_timing(trt: ModuleType, config: Any, timing: bytes) -> list[str]:
    """Set the timing cache on ``config``; one that TensorRT does not take is replaced by a new one, and told."""
    log = logger(trt)
    before = len(log.said)
    cache = config.create_timing_cache(timing)
    if cache is not None and config.set_timing_cache(cache, False) and len(log.said) == before:
        return []
    why = log.said[-1] if len(log.said) > before else "it is of another GPU or version"
    config.set_timing_cache(config.create_timing_cache(b""), False)
    return [
        f"the timing cache was thrown away and begun anew: {trt.__name__} {trt.__version__} does not take it ({why})"
    ]


def _layers(trt: ModuleType, network: Any, plan: Any) -> dict[str, Any]:
    told = _inspect(trt, plan)
    if told is not None:
        return {"told_by": "engine inspector", "layers": told}
    return {"told_by": "parsed network", "layers": [_layer(network.get_layer(i)) for i in range(network.num_layers)]}


def _inspect(trt: ModuleType, plan: Any) -> list[Any] | None:
    """The engine's own layers; ``None`` where it cannot be loaded: no driver, or a GPU of another kind."""
    try:
        runtime = trt.Runtime(logger(trt))
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            return None
        inspector = engine.create_engine_inspector()
        told: list[Any] = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))["Layers"]
    except (TypeError, RuntimeError, ValueError, KeyError):  # no driver; words that are no JSON
        return None
    return told


def _layer(layer: Any) -> dict[str, Any]:
    """``dtype`` and ``shape`` (-1: free) of the first output, and the ``inputs``' dtypes in order."""
    output = layer.get_output(0) if layer.num_outputs else None
    tensors = [layer.get_input(i) for i in range(layer.num_inputs)]
    return {
        "name": layer.name,
        "type": layer.type.name,
        "dtype": output.dtype.name if output else "",
        "shape": list(output.shape) if output else [],
        "inputs": [tensor.dtype.name for tensor in tensors if tensor],
    }
