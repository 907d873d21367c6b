import ctypes
import dataclasses
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import NAME
from onnx import TensorProto, helper

from deploy import trt as trt_module
from deploy.builder import build_engine
from deploy.contract import Bundle, load_examples
from deploy.cuda import Cuda
from deploy.engine import open_engine
from deploy.errors import Refused
from deploy.files import read_json, sha256
from deploy.runtimes import open_onnxruntime
from deploy.targets import RTX_COMPUTE_CAPABILITIES, engine_targets
from deploy.trt import load_tensorrt
from pipeline import build as build_stage
from pipeline.recipe import Project

INPUTS = [{"name": "image", "dtype": "uint8", "shape": ["batch", 1, 8, 8]}]


def test_every_engine_target_has_an_engine_or_a_reason(project: Project) -> None:
    folder = project.build / "engines" / NAME
    built = read_json(folder / "build.json")
    assert list(built) == [target.name for target in engine_targets()]
    assert len(built) == 3 + 3 * len(RTX_COMPUTE_CAPABILITIES)
    for name, entry in built.items():
        if "reason" in entry:
            assert len(entry["reason"]) > 20, name
            continue
        for file in entry["files"].values():
            assert sha256(folder / file["file"]) == file["sha256"]


@pytest.mark.skipif(sys.platform != "linux", reason="TensorRT-RTX has no wheel here")
def test_rtx_builds_every_precision_for_every_card(project: Project) -> None:
    """`make test` installs TensorRT-RTX on x86-64 Linux; elsewhere the reason is what is tested."""
    pytest.importorskip("tensorrt_rtx")
    built = read_json(project.build / "engines" / NAME / "build.json")
    rows = {name: entry for name, entry in built.items() if name.startswith("tensorrt-rtx")}
    assert all("reason" not in entry for entry in rows.values()), rows
    layers = rows["tensorrt-rtx-sm86-int8"]["layers"]["network"]
    assert sum(layer["type"] == "CONVOLUTION" for layer in layers) == 3
    assert any(layer["dtype"] == "INT8" for layer in layers)
    half = rows["tensorrt-rtx-sm86-fp16"]["layers"]["network"]
    assert {layer["dtype"] for layer in half if layer["type"] == "CONVOLUTION"} == {"HALF"}


def test_an_extra_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)

    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(trt_module.importlib, "import_module", absent)
    with pytest.raises(Refused, match=r"tensorrt_rtx is not installed: pip install -c constraints\.txt -e '\.\[rtx\]'"):
        load_tensorrt("tensorrt_rtx")


def test_a_node_that_the_compiler_refuses_is_named(tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    tensor = helper.make_tensor_value_info
    node = helper.make_node("MaxUnpool", ["x", "i"], ["y"], "unpool", kernel_shape=[2, 2], strides=[2, 2])
    graph = helper.make_graph(
        [node],
        "unpool",
        [tensor("x", TensorProto.FLOAT, ["batch", 1, 4, 4]), tensor("i", TensorProto.INT64, ["batch", 1, 4, 4])],
        [tensor("y", TensorProto.FLOAT, ["batch", 1, 8, 8])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "g.onnx")
    inputs = [{"name": name, "shape": ["batch", 1, 4, 4]} for name in "xi"]
    with pytest.raises(Refused, match=r"g\.onnx: tensorrt_rtx .* cannot parse this graph: .*MaxUnpool"):
        build_engine(trt, tmp_path / "g.onnx", inputs, "8.6")


def test_a_truncated_graph_is_named(bundle: Bundle, tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    (tmp_path / "cut.onnx").write_bytes(bundle.path(bundle.graphs["fp32"]["network"]).read_bytes()[:900])
    with pytest.raises(Refused, match=r"cut\.onnx: tensorrt_rtx .* cannot parse this graph"):
        build_engine(trt, tmp_path / "cut.onnx", INPUTS, "8.6")


class HostCuda(Cuda):
    """The device's memory is the host's: copies and addresses are real, and each is recorded."""

    def __init__(self) -> None:
        self.blocks: dict[int, Any] = {}
        self.copies = 0

    def stream(self) -> int:
        return 7

    def malloc(self, size: int) -> int:
        block = (ctypes.c_char * size)()
        self.blocks[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def free(self, address: int) -> None:
        del self.blocks[address]

    def synchronize(self, stream: int) -> None:
        assert stream == 7

    def _copy(self, to: int, source: int, size: int, kind: int, stream: int) -> None:
        ctypes.memmove(to, source, size)
        self.copies += 1


class FakeEngine:
    """Doubles its input, float32 ``(batch, 2)``, batch 1 to 4; calls out of order fail."""

    num_io_tensors = 2

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}

    def get_tensor_name(self, i: int) -> str:
        return ("x", "y")[i]

    def get_tensor_mode(self, name: str) -> str:
        return {"x": "input", "y": "output"}[name]

    def get_tensor_dtype(self, name: str) -> str:
        return "float32"

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, int]]:
        return [(1, 2), (2, 2), (4, 2)]

    def create_execution_context(self) -> "FakeEngine":
        return self

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = tuple(shape)
        return 1 <= shape[0] <= 4

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert self.shape, "the input's shape comes first"
        return self.shape

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        count = int(np.prod(self.shape))
        x, y = ((ctypes.c_float * count).from_address(self.addresses[name]) for name in "xy")
        for i in range(count):
            y[i] = 2 * x[i]
        return True


def fake_tensorrt(loaded: Any) -> types.SimpleNamespace:
    class ILogger:
        INTERNAL_ERROR, ERROR = 0, 1

        def __init__(self) -> None: ...

    runtime = types.SimpleNamespace(deserialize_cuda_engine=lambda data: loaded)
    return types.SimpleNamespace(
        __name__="fake",
        __version__="0",
        ILogger=ILogger,
        Runtime=lambda log: runtime,
        TensorIOMode=types.SimpleNamespace(INPUT="input"),
        nptype=lambda dtype: np.dtype(dtype),
    )


def test_an_engine_runs_through_copies_at_any_batch_of_its_profile(tmp_path: Path) -> None:
    (tmp_path / "e.engine").write_bytes(b"engine")
    cuda = HostCuda()
    run = open_engine(fake_tensorrt(FakeEngine()), tmp_path / "e.engine", cuda)
    for batch in (3, 1, 4, 2):
        x = np.random.default_rng(batch).normal(size=(batch, 2)).astype(np.float32)
        np.testing.assert_array_equal(run({"x": x})["y"], 2 * x)
    assert len(cuda.blocks) == 2  # buffers grow and are given back
    assert cuda.copies == 8
    wrong = ({"x": np.zeros((5, 2), np.float32)}, {"z": x}, {"x": x.astype(np.float64)}, {"x": x, "z": x})
    for inputs in wrong:
        with pytest.raises(Refused, match=r"e\.engine: got .*; expected x: float32 \(1, 2\) to \(4, 2\)"):
            run(inputs)
    np.testing.assert_array_equal(run({"x": x})["y"], 2 * x)  # and it serves on


def test_an_engine_of_another_gpu_is_refused_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "e.engine").write_bytes(b"engine")
    with pytest.raises(Refused, match=r"e\.engine: fake 0 cannot load this engine on this GPU.*build it here"):
        open_engine(fake_tensorrt(None), tmp_path / "e.engine", HostCuda())


def test_a_driver_that_is_too_old_is_a_reason(tmp_path: Path) -> None:
    """pybind's way of saying it: the factory gives nothing."""

    def too_old(log: object) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    trt = fake_tensorrt(None)
    trt.Builder = trt.Runtime = too_old
    (tmp_path / "e.engine").write_bytes(b"engine")
    with pytest.raises(Refused, match="fake 0 does not work on this machine: .*nullptr.*Update the GPU's driver"):
        open_engine(trt, tmp_path / "e.engine", HostCuda())
    with pytest.raises(Refused, match="fake 0 does not work on this machine"):
        build_engine(trt, tmp_path / "g.onnx", INPUTS)


def test_a_full_disk_is_the_stages_error_and_no_reason(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else DVC would keep rows without engines, and nothing would build them once there is room."""
    pytest.importorskip("tensorrt_rtx")

    def full(path: Path, data: bytes) -> None:
        raise Refused(f"{path}: could not be written")

    copied = dataclasses.replace(project, build=tmp_path)
    for part in ("bundle", "host.json"):
        (tmp_path / part).symlink_to(project.build / part)
    monkeypatch.setattr(build_stage, "write_bytes", full)
    with pytest.raises(Refused, match=r"\.engine: could not be written"):
        build_stage.build(copied, NAME)


def test_where_cuda_is_missing_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", absent)
    with pytest.raises(Refused, match=r"none of libcudart\.so\.13, .* can be loaded: install the CUDA runtime"):
        Cuda()


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8-tensorrt"])
def test_a_real_engine_answers_as_onnxruntime(bundle: Bundle, precision: str, tmp_path: Path) -> None:
    trt = load_tensorrt("tensorrt")
    graph = bundle.path(bundle.graphs[precision]["network"])
    (tmp_path / "e.engine").write_bytes(build_engine(trt, graph, INPUTS)[0])
    run = open_engine(trt, tmp_path / "e.engine")
    image = load_examples(bundle, "test")["image"][:64]
    truth = open_onnxruntime(graph, optimise=False)({"image": image})["logits"]
    assert (run({"image": image})["logits"].argmax(1) == truth.argmax(1)).mean() > 0.95
