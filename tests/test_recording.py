"""The double of TensorRT: it builds and runs as the real one would, and refuses what the real one would not serve."""

import contextlib
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recording
from host_cuda import HostRuntime
from recording import RTX, VERSIONS, Engine, Input, OutOfOrder, Output, api, double

from deploy import trt as trt_module
from deploy.builder import build_engine
from deploy.cuda import Cuda
from deploy.engine import open_engine
from deploy.errors import Refused


@pytest.fixture(autouse=True)
def one_log_a_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is kept a process and module name; here every version has the same name."""
    monkeypatch.setattr(trt_module, "_LOGGERS", {})


PROFILE = ((1, 2), (8, 2), (64, 2))
INPUTS = [{"name": "x", "dtype": "float32", "shape": ["batch", 2]}]


def doubling(**more: Any) -> Engine:
    tensors = [Input("x", "FLOAT", PROFILE), Output("y", "FLOAT", "x")]
    return Engine(tensors, layers=[("conv1", "CONVOLUTION", "FLOAT")], **more)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_engine_is_built_and_runs_on_every_version(version: str, tmp_path: Path) -> None:
    device = HostRuntime()
    trt = double(version, doubling(device=device))
    (tmp_path / "g.onnx").write_bytes(b"graph")
    built = build_engine(trt, tmp_path / "g.onnx", INPUTS, {"batch": (1, 8, 64)}, "8.6" if version == RTX else None)
    assert built.plan == recording.plan(version, doubling())
    assert [layer.get("name", layer.get("Name")) for layer in built.layers["layers"]] == ["conv1"]
    cleared = [call for call in trt.calls if call.name == "IBuilderConfig.clear_flag"]
    assert cleared[0].arguments == {"flag": trt.BuilderFlag.TF32}
    flags = [call.arguments["flag"].name for call in trt.calls if call.name == "IBuilderConfig.set_flag"]
    assert flags == (["REQUIRE_USER_ALLOCATION"] if version == RTX else [])
    (tmp_path / "e.engine").write_bytes(built.plan)
    run = open_engine(trt, tmp_path / "e.engine", Cuda(device))
    for batch in (3, 1, 64, 2, 3, 3):
        x = np.random.default_rng(batch).normal(size=(batch, 2)).astype(np.float32)
        np.testing.assert_array_equal(run({"x": x})["y"], 2 * x)
    assert "cudaGraphLaunch" in device.calls  # a shape that comes again is captured
    del run
    gc.collect()
    assert device.held() == 0 and not device.refused  # all is given back, once


@pytest.mark.parametrize("version", VERSIONS)
def test_what_the_real_one_refuses_is_told(version: str, tmp_path: Path) -> None:
    (tmp_path / "g.onnx").write_bytes(b"graph")
    trt = double(version, doubling(refused=[("unpool", "MaxUnpool", "no importer")]))
    with pytest.raises(Refused, match=r"cannot parse this graph: node 'unpool' \(MaxUnpool\): no importer"):
        build_engine(trt, tmp_path / "g.onnx", INPUTS, {"batch": (1, 8, 64)})
    trt_module._LOGGERS.clear()
    trt = double(version, doubling(unbuildable="out of memory"))
    with pytest.raises(Refused, match="cannot build this graph: out of memory"):
        build_engine(trt, tmp_path / "g.onnx", INPUTS, {"batch": (1, 8, 64)})


@pytest.mark.parametrize("damage", ["cut", "other version"])
def test_an_engine_that_is_not_of_this_version_is_refused(damage: str, tmp_path: Path) -> None:
    cuda = Cuda(HostRuntime())
    data = recording.plan(VERSIONS[0], doubling())
    (tmp_path / "e.engine").write_bytes(data[:-9] if damage == "cut" else data)
    trt = double(VERSIONS[0] if damage == "cut" else RTX, doubling())
    with pytest.raises(Refused, match="damaged" if damage == "cut" else "built by 10.3.0"):
        open_engine(trt, tmp_path / "e.engine", cuda)


def opened(version: str, engine: Engine) -> tuple[Any, Any]:
    trt = double(version, engine)
    loaded = trt.Runtime(trt.Logger()).deserialize_cuda_engine(recording.plan(version, engine))
    return trt, loaded.create_execution_context()


@contextlib.contextmanager
def refused(kind: type[Exception], said: str, version: str) -> Iterator[None]:
    with pytest.raises(kind, match=said) as caught:
        yield
    assert kind is OutOfOrder or version in str(caught.value)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_double_has_the_real_members_and_no_others(version: str) -> None:
    trt = double(version, doubling())
    for name, told in api(version)["classes"].items():
        if name not in api(version)["enums"]:
            for member, (kind, *_) in told["members"].items():
                held = member == "__del__" or (member == "__init__" and told["members"][member] == ["method"])
                assert held or member in vars(getattr(trt, name)), (name, member, kind)
    builder = trt.Builder(trt.Logger())
    config = builder.create_builder_config()
    for what in (
        lambda: trt.UffParser,
        lambda: builder.build_engine,
        lambda: trt.BuilderFlag.STRICT_TYPES,
        lambda: trt.ILogger.FATAL,
        lambda: setattr(config, "max_workspace_size", 1),
        lambda: trt.BuilderFlag.TF32.flag,
    ):
        with refused(AttributeError, "has no attribute", version):
            what()
    if not version.startswith("10."):
        with refused(AttributeError, "BuilderFlag of .* has no attribute 'FP16'", version):
            _ = trt.BuilderFlag.FP16


@pytest.mark.parametrize("version", VERSIONS)
def test_the_double_holds_arguments(version: str) -> None:
    trt = double(version, doubling())
    log = trt.Logger()
    builder = trt.Builder(log)
    network, config = builder.create_network(0), builder.create_builder_config()
    for what in (
        lambda: builder.create_network("strong"),
        lambda: builder.create_network(0, 1),
        lambda: builder.create_network(flag=0),
        lambda: config.set_flag(4),
        lambda: config.set_flag(trt.DataType.FLOAT),
        lambda: setattr(config, "profiling_verbosity", 2),
        lambda: builder.build_serialized_network(config, network),
        lambda: builder.build_serialized_network(None, config),
        lambda: trt.Builder(),
        lambda: trt.OnnxParser(network, log).parse("graph.onnx"),
        lambda: trt.BuilderFlag(4),
        lambda: trt.BuilderFlag.TF32 == 6,
    ):
        with refused(TypeError, "takes|is made from|is compared with", version):
            what()
    with pytest.raises(TypeError, match="No constructor defined"):
        trt.ICudaEngine()
    with pytest.raises(TypeError, match=r"ILogger.__init__\(\) must be called"):
        type("Log", (trt.ILogger,), {"__init__": lambda self: None})()
    with pytest.raises(AttributeError):
        network.num_layers = 3
    with pytest.raises(OutOfOrder, match="before the parser"):
        builder.build_serialized_network(network, config)
    with pytest.raises(OutOfOrder, match="bits of no"):
        builder.create_network(1 << 30)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_double_holds_the_order(version: str) -> None:
    device = HostRuntime()
    cuda = Cuda(device)
    trt, context = opened(version, doubling(device=device))
    x, y, stream = cuda.malloc(24), cuda.malloc(24), cuda.stream()
    with refused(OutOfOrder, "before the shape of 'x'", version):
        context.get_tensor_shape("y")
    with refused(OutOfOrder, "before the shape of x", version):
        context.execute_async_v3(stream)
    assert not context.set_input_shape("x", (65, 2))
    assert context.set_input_shape("x", (3, 2))
    assert tuple(context.get_tensor_shape("y")) == (3, 2)
    context.set_tensor_address("x", x)
    with refused(OutOfOrder, "before the address of y", version):
        context.execute_async_v3(stream)
    context.set_tensor_address("y", y)
    assert context.execute_async_v3(stream)
    cuda.synchronize(stream)
    cuda.free(y)
    with refused(OutOfOrder, "address of y that was freed", version):
        context.execute_async_v3(stream)
        cuda.synchronize(stream)
    cuda.free_stream(stream)
    with refused(OutOfOrder, "which is no stream, or no more", version):
        context.execute_async_v3(stream)
    with refused(OutOfOrder, "no tensor 'z'", version):
        context.set_tensor_address("z", x)
    names = [call.name for call in trt.calls]
    assert names.index("Runtime.__init__") < names.index("IExecutionContext.set_input_shape")


def test_numbers_of_enums_differ_between_versions() -> None:
    numbers = {int(double(version, doubling()).BuilderFlag.TF32) for version in VERSIONS}
    assert len(numbers) > 1


def test_memory_of_the_double_is_a_buffer_and_no_more() -> None:
    memory = double(RTX, doubling())._memory(b"plan")
    assert bytes(memory) == b"plan" and memory.nbytes == 4 and memory
    with pytest.raises(TypeError, match="no len"):
        len(memory)
    with pytest.raises(AttributeError, match="tobytes"):
        memory.tobytes()
