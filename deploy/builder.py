"""An ONNX graph to a TensorRT engine.

One path for TensorRT 10.3 to 11 and TensorRT-RTX: the precision is in the graph, the network is strongly typed, the
builder gets no precision flag and TF32 is off.
"""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from deploy.errors import Refused
from deploy.trt import in_words, logger

BATCH = (1, 8, 64)  # smallest, best served and largest of the optimisation profile
LENGTH = (1, 64, 1024)  # the same of every other free axis


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
    log = logger(trt)
    with in_words(trt, graph):
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


def _shape(shape: Sequence[int | str], batch: int, length: int) -> tuple[int, ...]:
    return tuple(n if isinstance(n, int) else batch if n == "batch" else length for n in shape)


def _layer(layer: Any) -> dict[str, str]:
    dtype = layer.get_output(0).dtype.name if layer.num_outputs else ""
    return {"name": layer.name, "type": layer.type.name, "dtype": dtype}
