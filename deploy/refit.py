"""New weights into an engine that is already built: no search for tactics, seconds in place of minutes."""

from pathlib import Path
from types import ModuleType
from typing import Any

from deploy.cuda import Cuda
from deploy.engine import load_engine
from deploy.errors import Refused
from deploy.onnx_weights import weights_apart
from deploy.trt import in_words, logger

BUILD = "Build the engine again."


def refit_engine(
    trt: ModuleType, engine: Path, built_from: tuple[str, dict[str, str]], graph: Path, cuda: Cuda | None = None
) -> bytes:
    """``engine`` with the weights of ``graph``; the file itself is not touched.

    ``OnnxParserRefitter`` goes by the weights' names: it would take another network with the same names, and pass over
    a weight that the engine has folded into another. So what the engine was built from is needed: nothing but weights
    may differ from it, and every weight that differs must be one that this engine lets be exchanged.

    Args:
        built_from: what ``weights_apart`` told of the graph that ``engine`` was built from.
        graph: the same network with other weights.
        cuda: the CUDA runtime; tests hand in a double.

    Returns:
        The engine to be kept; it can be refitted again.

    Raises:
        Refused: not built with ``BuilderFlag.REFIT``, another structure, a weight that cannot be exchanged, or TensorRT
            refuses, in its words.
    """
    changed = _changed(engine, built_from, graph)
    log = logger(trt)
    with in_words(trt, engine):
        loaded = load_engine(trt, engine, cuda or Cuda())
        if not loaded.refittable:
            raise Refused(f"{engine}: was not built to be refitted, expected BuilderFlag.REFIT. {BUILD}")
        refitter = trt.Refitter(loaded, log)
        if fixed := sorted(changed - set(refitter.get_all_weights())):
            raise Refused(f"{engine}: holds no weights of the name {_few(fixed)}, which differ in {graph}. {BUILD}")
        parser = trt.OnnxParserRefitter(refitter, log)
        if not parser.refit_from_bytes(graph.read_bytes()):
            said = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
            raise Refused(f"{graph}: its weights do not fit {engine}: {said or log.last()}. {BUILD}")
        if missing := sorted(refitter.get_missing_weights()):
            raise Refused(f"{graph}: lacks the weights {_few(missing)} of {engine}. {BUILD}")
        if not refitter.refit_cuda_engine():
            raise Refused(f"{engine}: TensorRT did not take the weights of {graph} ({log.last()}). {BUILD}")
        return bytes(_serialised(trt, loaded))


def _changed(engine: Path, built_from: tuple[str, dict[str, str]], graph: Path) -> set[str]:
    """The names of the weights that differ.

    Raises:
        Refused: something else differs too.
    """
    (before, old), (after, new) = built_from, weights_apart(graph)
    if before != after:
        raise Refused(
            f"{graph}: differs in more than weights from what {engine} was built from, expected the same layers, names "
            f"and shapes. {BUILD}"
        )
    return {name for name in new if new[name] != old.get(name)}


def _serialised(trt: ModuleType, loaded: Any) -> Any:
    config = loaded.create_serialization_config()
    if hasattr(trt.SerializationFlag, "INCLUDE_REFIT"):  # 10.13 and before lack it: an engine stays refittable
        config.set_flag(trt.SerializationFlag.INCLUDE_REFIT)
    return loaded.serialize_with_config(config)


def _few(names: list[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
