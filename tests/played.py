"""TensorRT and CUDA played by their doubles, with engines that answer as a bundle's fp32 graph does."""

from typing import Any, NamedTuple

import numpy as np
import pytest
from host_cuda import HostRuntime
from recording import Engine, Input, Output, double

from deploy import engine as engine_module
from deploy import engines as engines_module
from deploy import targets as targets_module
from deploy import trt as trt_module
from deploy.contract import Bundle
from deploy.cuda import Cuda
from deploy.runtimes import open_onnxruntime

DTYPES = {"uint8": "UINT8", "float32": "FLOAT"}


class Played(NamedTuple):
    trt: Any
    runtime: HostRuntime
    answered: list[int]  # how many units each call had


def play(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, version: str = "10.3.0", **more: Any) -> Played:
    """Every ``load_tensorrt`` and ``Cuda`` of the code that builds and runs engines is a double from now on.

    Args:
        bundle: of one graph, whose only free axis is the batch.
        more: of ``Engine``.
    """
    runtime, answered = HostRuntime(), []
    network = open_onnxruntime(bundle.path(bundle.graphs["fp32"]["network"]))

    def answer(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        answered.append(len(next(iter(given.values()))))
        return network(given)

    io = bundle.io["network"]
    sizes = [(size, *io["inputs"][0]["shape"][1:]) for size in bundle.ranges["batch"]]
    given = [Input(t["name"], DTYPES[t["dtype"]], tuple(sizes)) for t in io["inputs"]]
    outputs = [Output(t["name"], DTYPES[t["dtype"]], given[0].name, tuple(t["shape"][1:])) for t in io["outputs"]]
    trt = double(version, Engine([*given, *outputs], answer=answer, device=runtime, **more))
    monkeypatch.setattr(trt_module, "_LOGGERS", {})
    monkeypatch.setattr(engine_module, "Cuda", lambda: Cuda(runtime))
    for module in (engines_module, targets_module):
        monkeypatch.setattr(module, "load_tensorrt", lambda name: trt)
    return Played(trt, runtime, answered)
