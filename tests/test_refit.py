"""Refitting against the double of every TensorRT's API; no GPU has ever run it."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import recording
from host_cuda import HostRuntime
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from recording import VERSIONS, Engine, Input, Output, double, plan

from deploy import trt as trt_module
from deploy.builder import build_engine
from deploy.contract import Bundle
from deploy.cuda import Cuda
from deploy.engine import open_engine
from deploy.errors import Refused
from deploy.onnx_weights import weights_apart
from deploy.refit import refit_engine
from deploy.runtimes import open_onnxruntime
from deploy.trt import load_tensorrt


def network(path: Path, scale: float = 1.0, operator: str = "Relu", bias: bool = True, **more: Any) -> Path:
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(2, 3)).astype(np.float32) * scale, "b": np.ones(3, np.float32)}
    weights["sizes"] = np.array([-1, 3])
    weights |= more
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "dense"),
        helper.make_node("Add", ["h", "b" if bias else "h"], ["a"], "add"),
        helper.make_node(operator, ["a"], ["r"], "act"),
        helper.make_node("Reshape", ["r", "sizes"], ["y"], "shape"),
    ]
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [tensor("x", TensorProto.FLOAT, ["batch", 2])],
        [tensor("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def test_weights_are_told_apart_from_structure_as_onnx_reads_them(bundle: Bundle, tmp_path: Path) -> None:
    for graphs in bundle.graphs.values():
        file = bundle.path(graphs["network"])
        model = onnx.load(file)
        floating = {TensorProto.FLOAT, TensorProto.FLOAT16}
        names = {tensor.name for tensor in model.graph.initializer if tensor.data_type in floating}
        structure, weights = weights_apart(file)
        assert set(weights) == names and names
        for name in names:  # each alone: it is the one that differs, and nothing else does
            again = onnx.load(file)
            tensor = next(tensor for tensor in again.graph.initializer if tensor.name == name)
            array = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(array + np.ones_like(array), name))
            onnx.save(again, tmp_path / "again.onnx")
            other, changed = weights_apart(tmp_path / "again.onnx")
            assert other == structure
            assert {key for key in weights if weights[key] != changed[key]} == {name}


@pytest.mark.parametrize(
    "more", [{"operator": "Tanh"}, {"bias": False}, {"sizes": np.array([3, -1])}, {"extra": np.zeros(2, np.float32)}]
)
def test_anything_but_weights_is_structure(tmp_path: Path, more: dict[str, Any]) -> None:
    before, after = network(tmp_path / "a.onnx"), network(tmp_path / "b.onnx", **more)
    assert weights_apart(before)[0] != weights_apart(after)[0]
    assert weights_apart(before)[0] == weights_apart(network(tmp_path / "c.onnx", scale=2))[0]


def test_a_damaged_file_is_refused_or_read_and_raises_nothing_else(tmp_path: Path) -> None:
    file = network(tmp_path / "g.onnx")
    whole = file.read_bytes()
    places = st.integers(0, len(whole) - 1)

    @settings(deadline=None)
    @given(st.integers(0, len(whole)), st.dictionaries(places, st.integers(0, 255), max_size=4))
    def holds(cut: int, other: dict[int, int]) -> None:
        file.write_bytes(bytes(other.get(i, byte) for i, byte in enumerate(whole))[:cut])
        with contextlib.suppress(Refused):
            structure, weights = weights_apart(file)
            assert all(len(digest) == 64 for digest in (structure, *weights.values()))

    holds()
    file.write_bytes(whole[:-3])
    with pytest.raises(Refused, match=r"g\.onnx: damaged, or no ONNX file \(it ends at byte \d+ inside a field\)"):
        weights_apart(file)


@pytest.fixture(autouse=True)
def prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_module, "_LOGGERS", {})


@pytest.fixture
def refit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[Any, bytes]]:
    """Refit on a double of which ``does`` says how its members answer otherwise."""

    def run(version: str = VERSIONS[0], does: dict[str, Any] | None = None, **more: Any) -> tuple[Any, bytes]:
        tensors = [Input("x", "FLOAT", ((1, 2), (2, 2), (4, 2))), Output("y", "FLOAT", "x")]
        trt = double(version, Engine(tensors))
        monkeypatch.setattr(trt_module, "_LOGGERS", {})
        all_weights = {"Refitter.get_all_weights": lambda trt, refitter: ["b", "w"]}
        for name, answer in (all_weights | (does or {})).items():
            monkeypatch.setitem(recording.BEHAVIOUR, name, answer)
        engine = tmp_path / "e.engine"
        engine.write_bytes(plan(version, trt._engine))
        before, after = network(tmp_path / "old.onnx"), network(tmp_path / "new.onnx", **{"scale": 2.0} | more)
        return trt, refit_engine(trt, engine, weights_apart(before), after, Cuda(HostRuntime()))

    return run


@pytest.mark.parametrize("version", VERSIONS)
def test_new_weights_go_in_and_the_engine_stays_refittable(
    refit: Callable[..., tuple[Any, bytes]], version: str
) -> None:
    kept: list[str] = []

    def serialise(trt: Any, engine: Any, config: Any) -> Any:
        kept.extend(call.arguments["flag"].name for call in trt.calls if call.name == "ISerializationConfig.set_flag")
        return trt._memory(b"refitted")

    trt, made = refit(version, {"ICudaEngine.serialize_with_config": serialise})
    assert made == b"refitted"
    assert kept == (["INCLUDE_REFIT"] if hasattr(trt.SerializationFlag, "INCLUDE_REFIT") else [])
    names = [call.name for call in trt.calls]
    assert names.index("OnnxParserRefitter.refit_from_bytes") < names.index("Refitter.refit_cuda_engine")


@pytest.mark.parametrize(
    ("does", "more", "said"),
    [
        ({"ICudaEngine.refittable": lambda trt, engine: False}, {}, r"e\.engine: was not built to be refitted"),
        ({}, {"operator": "Tanh"}, r"new\.onnx: differs in more than weights from what .*e\.engine was built from"),
        ({"Refitter.get_all_weights": lambda trt, r: ["b"]}, {}, r"holds no weights of the name 'w', which differ in"),
        ({"OnnxParserRefitter.refit_from_bytes": lambda trt, p, *m: False}, {}, r"new\.onnx: its weights do not fit"),
        (
            {"Refitter.get_missing_weights": lambda trt, r: ["k"]},
            {},
            r"new\.onnx: lacks the weights 'k' of .*e\.engine",
        ),
        ({"Refitter.refit_cuda_engine": lambda trt, r: False}, {}, r"TensorRT did not take the weights of .*new\.onnx"),
    ],
)
def test_what_cannot_be_refitted_is_refused_with_the_fix(
    refit: Callable[..., tuple[Any, bytes]], does: dict[str, Any], more: dict[str, Any], said: str
) -> None:
    with pytest.raises(Refused, match=rf"{said}.*Build the engine again\."):
        refit(does=does, **more)


def test_external_weights_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = network(tmp_path / "g.onnx")
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="g.data", size_threshold=0)
    with pytest.raises(Refused, match=r"g\.onnx: initializer '\w+' is kept in another file"):
        weights_apart(path)
    with pytest.raises(Refused, match=r"none\.onnx: cannot be read"):
        weights_apart(tmp_path / "none.onnx")


@pytest.mark.gpu
def test_a_real_engine_takes_new_weights(tmp_path: Path) -> None:
    trt = load_tensorrt("tensorrt")
    before, after = network(tmp_path / "old.onnx"), network(tmp_path / "new.onnx", scale=3.0)
    inputs = [{"name": "x", "dtype": "float32", "shape": ["batch", 2]}]
    ranges = {"batch": (1, 2, 4)}
    (tmp_path / "e.engine").write_bytes(build_engine(trt, before, inputs, ranges).plan)
    with pytest.raises(Refused, match="was not built to be refitted"):
        refit_engine(trt, tmp_path / "e.engine", weights_apart(before), after)
    (tmp_path / "e.engine").write_bytes(build_engine(trt, before, inputs, ranges, refit=True).plan)
    (tmp_path / "new.engine").write_bytes(refit_engine(trt, tmp_path / "e.engine", weights_apart(before), after))
    x = np.random.default_rng(1).normal(size=(3, 2)).astype(np.float32)
    for file, graph in (("e.engine", before), ("new.engine", after)):
        truth = open_onnxruntime(graph)({"x": x})["y"]
        np.testing.assert_allclose(open_engine(trt, tmp_path / file)({"x": x})["y"], truth, atol=1e-5)
