"""Building: NVIDIA's own compiler where its wheel is, and the double of every other TensorRT."""

import dataclasses
import io
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import recording
from conftest import NAME
from host_cuda import HostRuntime
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from recording import VERSIONS, Engine, Input, Output, double
from tqdm import tqdm

from deploy import engines
from deploy import trt as trt_module
from deploy.builder import Built, build_engine
from deploy.contract import Bundle, open_bundle
from deploy.cuda import Cuda
from deploy.errors import Refused
from deploy.files import read_json, sha256, write_json
from deploy.progress import _monitor
from deploy.targets import RTX_COMPUTE_CAPABILITIES, engine_targets
from pipeline import build as build_stage
from pipeline.recipe import Engines, Project

RANGES = {"batch": (1, 8, 64)}
INPUTS = [{"name": "image", "dtype": "uint8", "shape": ["batch", 1, 8, 8]}]
ENGINE = Engine(
    [Input("text", "UINT8", ((1, 1), (8, 5), (64, 99))), Output("y", "UINT8", "text")],
    layers=[("weights", "CONSTANT", "HALF"), ("conv", "CONVOLUTION", "HALF"), ("loop", "RECURRENCE", "HALF")],
)
TEXT = [{"name": "text", "dtype": "uint8", "shape": ["batch", "time"]}]
FREE = {"batch": (1, 8, 64), "time": (1, 5, 99)}


@pytest.fixture(autouse=True)
def one_log_a_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """The doubles of all versions have one name, and a log is of the module that it was made for."""
    rtx = {name: log for name, log in trt_module._LOGGERS.items() if name == "tensorrt_rtx"}
    monkeypatch.setattr(trt_module, "_LOGGERS", rtx)


@pytest.fixture(scope="module")
def rtx() -> Any:
    return pytest.importorskip("tensorrt_rtx")


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """What a double is given to parse: it reads its own table instead."""
    (tmp_path / "g.onnx").write_bytes(b"graph")
    return tmp_path / "g.onnx"


@pytest.fixture
def whole(bundle: Bundle) -> Path:
    return bundle.path(bundle.graphs["fp32"]["network"])


def written(path: Path, nodes: list[Any], inputs: dict[str, Any], outputs: dict[str, Any], **constants: Any) -> Path:
    """A graph of a few nodes; a tensor is ``(type, shape)``."""
    told = [[helper.make_tensor_value_info(name, *of) for name, of in side.items()] for side in (inputs, outputs)]
    values = [helper.make_tensor(name, kind, [len(value)], value) for name, (kind, value) in constants.items()]
    model = helper.make_graph(nodes, "g", *told, values)
    onnx.save(helper.make_model(model, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
BOX = {"r": (FLOAT, ["batch", 4]), "i": (INT64, ["batch"])}
ROI = helper.make_node("RoiAlign", ["x", "r", "i"], ["y"], "roi", output_height=2, output_width=2)
NONZERO = helper.make_node("NonZero", ["x"], ["y"], "nz")
NMS = helper.make_node("NonMaxSuppression", ["x", "s", "most", "iou", "least"], ["y"], "nms")
UNPOOL = helper.make_node("MaxUnpool", ["x", "i"], ["y"], "unpool", kernel_shape=[2, 2], strides=[2, 2])
SELECTED = {"most": (INT64, [5]), "iou": (FLOAT, [0.5]), "least": (FLOAT, [0.1])}
ODD = {
    "roi": (ROI, {"x": (FLOAT, ["batch", 1, 8, 8])} | BOX, {"y": (FLOAT, ["batch", 1, 2, 2])}, {}),
    "nz": (NONZERO, {"x": (FLOAT, ["batch", 8])}, {"y": (INT64, [2, "found"])}, {}),
    "scatter": (
        helper.make_node("ScatterElements", ["x", "i", "u"], ["y"], "scatter", axis=1, reduction="add"),
        {"x": (FLOAT, ["batch", 8]), "i": (INT64, ["batch", 2]), "u": (FLOAT, ["batch", 2])},
        {"y": (FLOAT, ["batch", 8])},
        {},
    ),
    "nms": (
        NMS,
        {"x": (FLOAT, ["batch", 6, 4]), "s": (FLOAT, ["batch", 1, 6])},
        {"y": (INT64, ["found", 3])},
        SELECTED,
    ),
    "unpool": (
        UNPOOL,
        {"x": (FLOAT, ["batch", 1, 4, 4]), "i": (INT64, ["batch", 1, 4, 4])},
        {"y": (FLOAT, ["batch", 1, 8, 8])},
        {},
    ),
}


def odd(name: str, folder: Path) -> tuple[Path, list[dict[str, Any]]]:
    node, inputs, outputs, constants = ODD[name]
    path = written(folder / f"{name}.onnx", [node], inputs, outputs, **constants)
    return path, [{"name": tensor, "shape": shape} for tensor, (_, shape) in inputs.items()]


def calls(trt: Any, name: str) -> list[dict[str, Any]]:
    return [call.arguments for call in trt.calls if call.name == name]


def shapes(trt: Any) -> list[tuple[int, ...]]:
    return [tuple(call["shape"]) for call in calls(trt, "ITensor.shape =")]


# Every TensorRT, as its Python API is


@pytest.mark.parametrize("version", VERSIONS)
def test_the_profile_is_the_contracts_and_the_options_are_set(version: str, graph: Path) -> None:
    trt = double(version, ENGINE)
    built = build_engine(
        trt, graph, TEXT, FREE, workspace_mib=256, level=4, timing=b"" if "rtx" not in version else None
    )
    (shape,) = calls(trt, "IOptimizationProfile.set_shape")
    assert [tuple(size) for name, size in shape.items() if name != "input"] == [(1, 1), (8, 5), (64, 99)]
    (pool,) = calls(trt, "IBuilderConfig.set_memory_pool_limit")
    assert [pool["pool"].name, pool["pool_size"]] == ["WORKSPACE", 256 * 2**20]
    assert calls(trt, "IBuilderConfig.builder_optimization_level =") == [{"builder_optimization_level": 4}]
    assert [call["flag"].name for call in calls(trt, "IBuilderConfig.clear_flag")] == ["TF32"]
    flags = [call["flag"].name for call in calls(trt, "IBuilderConfig.set_flag")]
    assert flags == (["REQUIRE_USER_ALLOCATION"] if "rtx" in version else [])
    (verbose,) = calls(trt, "IBuilderConfig.profiling_verbosity =")
    assert verbose["profiling_verbosity"].name == "DETAILED"
    assert built.plan.startswith(b"PLAN") and not built.notes
    assert built.layers["told_by"] == "engine inspector"
    assert [layer["Name"] for layer in built.layers["layers"]] == ["weights", "conv", "loop"]


@pytest.mark.parametrize("version", VERSIONS)
def test_what_no_option_names_is_left_to_tensorrt(version: str, graph: Path) -> None:
    trt = double(version, ENGINE)
    assert build_engine(trt, graph, TEXT, FREE).timing == b""
    for name in (
        "set_memory_pool_limit",
        "builder_optimization_level =",
        "create_timing_cache",
        "default_device_type =",
    ):
        assert not calls(trt, f"IBuilderConfig.{name}")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_dla_takes_what_it_can_and_the_gpu_the_layers_that_are_named(version: str, graph: Path) -> None:
    trt = double(version, dataclasses.replace(ENGINE, dla_cores=2))
    build_engine(trt, graph, TEXT, FREE, dla=1)
    assert shapes(trt) == [(1, 5)] and not calls(trt, "IBuilderConfig.add_optimization_profile")
    assert calls(trt, "IBuilderConfig.default_device_type =")[0]["default_device_type"].name == "DLA"
    assert calls(trt, "IBuilderConfig.DLA_core =") == [{"DLA_core": 1}]
    assert "GPU_FALLBACK" in [call["flag"].name for call in calls(trt, "IBuilderConfig.set_flag")]
    with pytest.raises(
        Refused, match=r"g\.onnx: DLA core 2 was asked for, and tensorrt\S* \S+ finds 2 here\. Build it for"
    ):
        build_engine(trt, graph, TEXT, FREE, dla=2)
    trt_module._LOGGERS.clear()
    trt = double(version, dataclasses.replace(ENGINE, dla_cores=1, only_gpu=("weights", "loop")))
    told = "1 of 2 layers run on the GPU, not on the DLA: loop (RECURRENCE)"
    assert build_engine(trt, graph, TEXT, FREE, dla=0).notes == (told,)
    trt_module._LOGGERS.clear()
    trt = double(version, dataclasses.replace(ENGINE, dla_cores=1, only_gpu=("weights", "conv", "loop")))
    with pytest.raises(Refused, match=r"g\.onnx: the DLA can run none of its 2 layers\. Build it for the GPU"):
        build_engine(trt, graph, TEXT, FREE, dla=0)


@pytest.mark.parametrize("version", [version for version in VERSIONS if "rtx" not in version])
def test_a_timing_cache_goes_in_and_comes_out(version: str, graph: Path) -> None:
    trt = double(version, ENGINE)
    assert build_engine(trt, graph, TEXT, FREE, timing=b"").timing == b"timings"
    assert build_engine(trt, graph, TEXT, FREE, timing=b"before").timing == b"before"
    assert [bytes(call["serialized_timing_cache"]) for call in calls(trt, "IBuilderConfig.create_timing_cache")] == [
        b"",
        b"before",
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_what_the_builder_says_is_told_with_what_helps(version: str, graph: Path) -> None:
    said = {
        (
            "no tactics within workspace limit",
            16,
        ): "Raise `workspace_mib` under `engines:` in params.yaml, now 16, or free",
        ("OutOfMemory (Requested size was 17506048 bytes.)", 16): "Raise `workspace_mib` under `engines:`",
        ("Cuda Runtime (out of memory)", None): "Free memory on the GPU",
        ("conv has no runners", 16): "Write the network without the layer it names",
    }
    for (words, mib), fix in said.items():
        trt_module._LOGGERS.clear()
        trt = double(version, dataclasses.replace(ENGINE, unbuildable=words))
        with pytest.raises(Refused) as refused:
            build_engine(trt, graph, TEXT, FREE, workspace_mib=mib)
        assert f"cannot build this graph: {words}. {fix}" in str(refused.value)


@pytest.mark.parametrize("version", VERSIONS)
def test_only_rtx_is_said_to_refuse_what_tensorrt_takes(version: str, graph: Path) -> None:
    trt = double(version, dataclasses.replace(ENGINE, refused=[("nz", "NonZero", "no plugin")]))
    with pytest.raises(Refused, match=r"cannot parse this graph: node 'nz' \(NonZero\): no plugin\. ") as refused:
        build_engine(trt, graph, TEXT, FREE)
    assert ("this is a limit of TensorRT-RTX" in str(refused.value)) == ("rtx" in version)


def test_a_driver_that_is_too_old_is_a_reason(graph: Path) -> None:
    """pybind's way of saying it: the factory gives nothing."""
    trt = double(VERSIONS[0], ENGINE)

    def too_old(log: object) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    trt.Builder = too_old
    with pytest.raises(Refused, match="does not work on this machine: .*nullptr.*Update the GPU's driver"):
        build_engine(trt, graph, TEXT, FREE)


def test_where_the_engine_cannot_be_loaded_the_parsed_network_is_listed(graph: Path) -> None:
    trt = double(VERSIONS[0], ENGINE)

    def no_driver(log: object) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    trt.Runtime = no_driver
    layers = build_engine(trt, graph, TEXT, FREE).layers
    assert layers["told_by"] == "parsed network"
    conv = {"name": "conv", "type": "CONVOLUTION", "dtype": "HALF", "shape": [-1], "inputs": ["UINT8"]}
    assert layers["layers"][1] == conv


# How far a build is

LATEST = double(VERSIONS[-1], ENGINE)


@settings(deadline=None)
@given(st.recursive(st.integers(1, 4), lambda inner: st.lists(inner, min_size=1, max_size=4), max_leaves=20))
def test_progress_grows_to_one_however_phases_nest(steps: Any) -> None:
    """A phase is a list of its steps; a step is a phase, or a phase of so many steps."""
    told: list[float] = []
    monitor = _monitor(LATEST, lambda share, phase: told.append(share), threading.Event(), [])

    def play(phase: Any, name: str, parent: str | None) -> None:
        inner = [None] * phase if isinstance(phase, int) else phase
        monitor.phase_start(name, parent, len(inner))
        for i, step in enumerate(inner):
            if step is not None:
                play(step, f"{name}.{i}", name)
            assert monitor.step_complete(name, i)
        monitor.phase_finish(name)

    play(steps, "Build", None)
    assert told == sorted(told) and told[0] > 0 and told[-1] == 1.0


# TensorRT-RTX itself


def test_rtx_tells_how_far_it_is(rtx: Any, whole: Path) -> None:
    told: list[tuple[float, str]] = []
    build_engine(rtx, whole, INPUTS, RANGES, "8.6", progress=lambda *said: told.append(said))
    shares = [share for share, _ in told]
    assert len(told) > 20 and shares == sorted(shares) and 0.8 < shares[-1] <= 1.0  # its last step is told by none
    assert any(phase.startswith("Timing graph nodes ") and "/" in phase for _, phase in told)


def test_ctrl_c_ends_a_build_and_the_next_one_works(rtx: Any, whole: Path) -> None:
    told: list[str] = []

    def interrupt(share: float, phase: str) -> None:
        told.append(phase)
        if len(told) == 5:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            build_engine(rtx, whole, INPUTS, RANGES, "8.6", progress=interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    stopped = len(told)
    told.clear()
    assert build_engine(rtx, whole, INPUTS, RANGES, "8.6", progress=lambda share, phase: told.append(phase)).plan
    assert stopped < len(told)


def test_what_the_progress_raises_is_not_lost_in_tensorrt(rtx: Any, whole: Path) -> None:
    def broken(share: float, phase: str) -> None:
        raise BrokenPipeError("no terminal any more")

    with pytest.raises(BrokenPipeError, match="no terminal any more"):
        build_engine(rtx, whole, INPUTS, RANGES, "8.6", progress=broken)


@pytest.mark.parametrize(
    ("name", "operator"),
    [
        ("roi", "RoiAlign"),
        ("nz", "NonZero"),
        ("nms", "NonMaxSuppression"),
        ("scatter", "ScatterElements with a reduction"),
    ],
)
def test_a_limit_of_rtx_is_marked_as_its_own(rtx: Any, tmp_path: Path, name: str, operator: str) -> None:
    path, inputs = odd(name, tmp_path)
    with pytest.raises(
        Refused,
        match=rf"{name}\.onnx: tensorrt_rtx .* cannot (parse|build) this graph: .*TensorRT itself takes {operator}; "
        rf"this is a limit of TensorRT-RTX\. Build it with TensorRT, on the machine that will run it",
    ):
        build_engine(rtx, path, inputs, RANGES, "8.6")


def test_an_operator_that_no_tensorrt_takes_is_named(rtx: Any, tmp_path: Path) -> None:
    path, inputs = odd("unpool", tmp_path)
    with pytest.raises(
        Refused, match=r"node 'unpool' \(MaxUnpool\): .* Write the network without that operator"
    ) as refused:
        build_engine(rtx, path, inputs, RANGES, "8.6")
    assert "limit of TensorRT-RTX" not in str(refused.value)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_graph_is_refused_wherever_it_ends(rtx: Any, whole: Path, tmp_path: Path, share: float) -> None:
    data = whole.read_bytes()
    (tmp_path / "cut.onnx").write_bytes(data[: int(share * len(data))])
    with pytest.raises(Refused, match=r"cut\.onnx: tensorrt_rtx .* cannot parse this graph: .*bring it back with `dvc"):
        build_engine(rtx, tmp_path / "cut.onnx", INPUTS, RANGES, "8.6")


def test_too_small_a_workspace_is_told_in_nvidias_words(rtx: Any, whole: Path) -> None:
    with pytest.raises(
        Refused, match=r"cannot build this graph: .*[Ww]orkspace.*Raise `workspace_mib` under `engines:` .* now 0"
    ):
        build_engine(rtx, whole, INPUTS, RANGES, "8.6", workspace_mib=0)


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX 1.2:DeprecationWarning")
def test_a_timing_cache_that_is_not_taken_is_told_and_the_engine_is_built(rtx: Any, whole: Path) -> None:
    """TensorRT-RTX has the calls still, and reads a cache as TensorRT does."""
    assert build_engine(rtx, whole, INPUTS, RANGES, "8.6", timing=b"").notes == ()
    built = build_engine(rtx, whole, INPUTS, RANGES, "8.6", timing=b"no cache")
    assert built.plan and built.timing
    (note,) = built.notes
    assert note.startswith("the timing cache was thrown away and begun anew: tensorrt_rtx ")


# The stage


@pytest.fixture
def copied(project: Project, tmp_path: Path) -> Project:
    """The project's bundle and host, in a folder where engines can be built anew."""
    for part in ("bundle", "host.json"):
        (tmp_path / "build" / part).parent.mkdir(exist_ok=True)
        (tmp_path / "build" / part).symlink_to(project.build / part)
    return dataclasses.replace(project, build=tmp_path / "build")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, rtx: Any) -> list[str]:
    """Three targets only, and the name of every graph that is built from now on."""
    monkeypatch.setattr(build_stage, "engine_targets", lambda: [t for t in engine_targets() if "sm86" in t.name])
    return counted(monkeypatch, build_engine)


def counted(monkeypatch: pytest.MonkeyPatch, build: Callable[..., Built]) -> list[str]:
    seen: list[str] = []

    def counting(trt: Any, graph: Path, *arguments: Any, **named: Any) -> Built:
        seen.append(graph.parent.name)
        return build(trt, graph, *arguments, **named)

    monkeypatch.setattr(engines, "build_engine", counting)
    return seen


ALL = ["fp32", "fp16", "int8-tensorrt"]


def files(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): sha256(path) for path in folder.rglob("*") if path.is_file()}


def test_every_engine_target_has_an_engine_or_a_reason(project: Project) -> None:
    folder = project.build / "engines" / NAME
    built = read_json(folder / "build.json")
    assert list(built) == [target.name for target in engine_targets()]
    assert len(built) == 3 + 3 * len(RTX_COMPUTE_CAPABILITIES)
    there = {"build.json"}
    for name, entry in built.items():
        if "reason" in entry:
            assert len(entry["reason"]) > 20, name
            continue
        for file in entry["files"].values():
            assert sha256(folder / file["file"]) == file["sha256"]
            assert (folder / file["file"]).stat().st_size == file["bytes"]
            there |= {file["file"], file["layers"]}
    assert {path.name for path in folder.iterdir()} == there


@pytest.mark.skipif(sys.platform != "linux", reason="TensorRT-RTX has no wheel here")
def test_rtx_builds_every_precision_for_every_card(rtx: Any, project: Project) -> None:
    folder = project.build / "engines" / NAME
    rows = {name: row for name, row in read_json(folder / "build.json").items() if name.startswith("tensorrt-rtx")}
    assert all("reason" not in row for row in rows.values()), rows
    assert {row["compute_capability"] for row in rows.values()} == set(RTX_COMPUTE_CAPABILITIES)
    told = {name: read_json(folder / f"tensorrt-rtx-sm86-{name}.network.layers.json") for name in ("int8", "fp16")}
    layers = told["int8"]["layers"]
    assert sum(layer["type"] == "CONVOLUTION" for layer in layers) == 3
    assert any(layer["dtype"] == "INT8" for layer in layers)
    half = [layer for layer in told["fp16"]["layers"] if layer["type"] == "CONVOLUTION"]
    assert {layer["dtype"] for layer in half} == {layer["inputs"][0] for layer in half} == {"HALF"}


def test_what_is_unchanged_is_not_built_again(copied: Project, few: list[str]) -> None:
    build_stage.build(copied, NAME)
    assert few == ALL
    first = files(copied.build / "engines")
    build_stage.build(copied, NAME)
    assert few == ALL and files(copied.build / "engines") == first
    build_stage.build(dataclasses.replace(copied, engines=Engines(level=1)), NAME)
    assert few == ALL * 2
    kept = list((copied.build / ".cache" / f"build@{NAME}").iterdir())
    assert len(kept) == 3  # what no target is made from any more has gone


def test_the_bar_names_the_engine_and_its_phase(
    copied: Project, few: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = io.StringIO()
    monkeypatch.setattr(
        build_stage, "tqdm", lambda **named: tqdm(**named | {"disable": False, "file": drawn, "mininterval": 0})
    )
    build_stage.build(copied, NAME)
    bars = drawn.getvalue().split("\r")
    assert re.search(
        r"build gorner_digits:  \d\d%\|.* 1\.\d of 3 targets \[.* left, tensorrt-rtx-sm86-fp16 network: \w[\w ]+ \d+/\d+\]",
        "\n".join(bars),
    )
    assert "100%" in bars[-1] and "3.0 of 3 targets" in bars[-1]
    shares = [float(of) for of in re.findall(r"(\d\.\d) of 3", drawn.getvalue())]
    assert shares == sorted(shares) and len(set(shares)) > 10


def test_a_kept_engine_that_is_damaged_is_built_again(copied: Project, few: list[str]) -> None:
    build_stage.build(copied, NAME)
    places = sorted((copied.build / ".cache" / f"build@{NAME}").iterdir())
    (places[0] / "engine").write_bytes(b"half")
    (places[1] / "built.json").write_text("{")
    build_stage.build(copied, NAME)
    assert len(few) == 5
    test_every_engine_is_what_its_row_says(copied)


def test_every_engine_is_what_its_row_says(project: Project) -> None:
    folder = project.build / "engines" / NAME
    rows = [row for row in read_json(folder / "build.json").values() if "files" in row]
    assert all(sha256(folder / file["file"]) == file["sha256"] for row in rows for file in row["files"].values())


def test_a_build_that_was_stopped_goes_on(copied: Project, few: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(trt: Any, graph: Path, *arguments: Any, **named: Any) -> Built:
        if graph.parent.name == "fp16":
            raise KeyboardInterrupt
        return build_engine(trt, graph, *arguments, **named)

    before = counted(monkeypatch, stopped)
    with pytest.raises(Refused, match=r"stopped\. Every engine that was whole is kept: the same command goes on\."):
        build_stage.build(copied, NAME)
    assert before == ["fp32", "fp16"]
    assert not (copied.build / "engines" / NAME / "build.json").exists()
    after = counted(monkeypatch, build_engine)
    build_stage.build(copied, NAME)
    assert after == ["fp16", "int8-tensorrt"]


def test_a_full_disk_is_the_stages_error_and_no_reason(
    copied: Project, few: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else DVC would keep rows without engines, and nothing would build them once there is room."""

    def full(path: Path, data: bytes) -> None:
        raise Refused(f"{path}: could not be written")

    monkeypatch.setattr(engines, "write_bytes", full)
    with pytest.raises(Refused, match=r"/engine: could not be written"):
        build_stage.build(copied, NAME)
    assert not (copied.build / "engines" / NAME / "build.json").exists()


def test_what_rtx_cannot_build_is_a_reason_and_the_rest_is_built(
    copied: Project, few: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = copied.build / "bundle"
    bundle = shutil.copytree(source / NAME, tmp_path / "other" / NAME)
    source.unlink()
    source.symlink_to(tmp_path / "other")
    path = bundle / "graphs" / "fp16" / "network.onnx"
    place = source / NAME / "graphs" / "fp16" / "network.onnx"
    odd("unpool", tmp_path)
    shutil.copy(tmp_path / "unpool.onnx", path)
    contract = read_json(bundle / "contract.json")
    contract["files"]["graphs/fp16/network.onnx"] = {"sha256": sha256(path), "bytes": path.stat().st_size}
    write_json(bundle / "contract.json", contract)
    build_stage.build(copied, NAME)
    built = read_json(copied.build / "engines" / NAME / "build.json")
    assert ["reason" in row for row in built.values()] == [False, True, False]
    assert "(MaxUnpool)" in built["tensorrt-rtx-sm86-fp16"]["reason"]
    assert f"{NAME}: 2 engines built\n  not built: {place}: tensorrt_rtx" in capsys.readouterr().out


def test_tensorrt_keeps_its_timings_for_all_recipes(
    copied: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image = Engine([Input("image", "UINT8", ((1, 1), (8, 1), (64, 1))), Output("logits", "UINT8", "image")])
    version = [version for version in VERSIONS if "rtx" not in version][-1]
    trt = double(version, image)
    monkeypatch.setattr(build_stage, "engine_targets", lambda: engine_targets()[:3])
    monkeypatch.setattr(engines, "load_tensorrt", lambda module: trt)
    host = read_json(copied.build / "host.json")
    (copied.build / "host.json").unlink()
    gpu = {"name": "NVIDIA RTX 4090", "compute_capability": "8.9", "driver": "610.1"}
    write_json(copied.build / "host.json", host | {"gpus": [gpu]})
    build_stage.build(copied, NAME)
    row = read_json(copied.build / "engines" / NAME / "build.json")["tensorrt-fp16"]
    assert (row["gpu"], row["compute_capability"]) == ("NVIDIA RTX 4090", "8.9")
    file = copied.build / ".cache" / "timing" / f"tensorrt-{version}-nvidia-rtx-4090.cache"
    assert file.read_bytes()[32:] == b"timings"
    given = [bytes(call["serialized_timing_cache"]) for call in calls(trt, "IBuilderConfig.create_timing_cache")]
    assert given == [b"", b"timings", b"timings"]
    shutil.rmtree(copied.build / ".cache" / f"build@{NAME}")
    file.write_bytes(file.read_bytes()[:-1])
    capsys.readouterr()
    build_stage.build(copied, NAME)
    assert capsys.readouterr().out.startswith(f"{file}: damaged, and thrown away")
    given = [bytes(call["serialized_timing_cache"]) for call in calls(trt, "IBuilderConfig.create_timing_cache")]
    assert given[3:] == [b"", b"timings", b"timings"]


def test_after_a_new_training_the_weights_are_put_into_the_engine_that_is_there(
    copied: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image = Engine([Input("image", "UINT8", ((1, 1), (8, 1), (64, 1))), Output("logits", "UINT8", "image")])
    trt = double([version for version in VERSIONS if "rtx" not in version][-1], image)
    monkeypatch.setattr(engines, "load_tensorrt", lambda module: trt)
    monkeypatch.setattr("deploy.refit.Cuda", lambda: Cuda(HostRuntime()))
    source = copied.build / "bundle"
    bundle = open_bundle(Path(shutil.copytree(source / NAME, copied.build / "retrained")))
    host = read_json(copied.build / "host.json") | {
        "gpus": [{"name": "RTX", "compute_capability": "8.9", "driver": "1"}]
    }
    out, cache = copied.build / "out", copied.build / "kept"
    options = {"level": None, "workspace_mib": None, "refit": True}
    wanted = engine_targets()[:1]

    def build() -> dict[str, Any]:
        return engines.build_engines(bundle, host, wanted, options, out, cache)["tensorrt-fp32"]

    before = build()
    assert "REFIT" in [call["flag"].name for call in calls(trt, "IBuilderConfig.set_flag")]
    file = bundle.folder / "graphs/fp32/network.onnx"
    names = change_weights(file)
    monkeypatch.setitem(recording.BEHAVIOUR, "Refitter.get_all_weights", lambda trt, refitter: names)
    bundle = retold(bundle, file)
    after = build()
    assert (
        len(calls(trt, "Builder.build_serialized_network")) == 1 and len(calls(trt, "Refitter.refit_cuda_engine")) == 1
    )
    assert after["graph_sha256"] == bundle.graph_sha256("fp32") != before["graph_sha256"]
    assert read_json(out / after["files"]["network"]["layers"]) and len(list(cache.iterdir())) == 1
    build()
    assert len(calls(trt, "Refitter.refit_cuda_engine")) == 1  # what is unchanged is not refitted again
    change_weights(file)
    bundle = retold(bundle, file)
    monkeypatch.setitem(recording.BEHAVIOUR, "Refitter.refit_cuda_engine", lambda trt, refitter: False)
    assert "files" in build() and len(calls(trt, "Builder.build_serialized_network")) == 2
    assert "built anew, not refitted: " in capsys.readouterr().out


def test_a_gpu_that_is_missing_for_once_costs_no_engine(copied: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Engine([Input("image", "UINT8", ((1, 1), (8, 1), (64, 1))), Output("logits", "UINT8", "image")])
    trt = double([version for version in VERSIONS if "rtx" not in version][-1], image)
    monkeypatch.setattr(engines, "load_tensorrt", lambda module: trt)
    bundle, options = (
        open_bundle(copied.build / "bundle" / NAME),
        {"level": None, "workspace_mib": None, "refit": False},
    )
    gpu = {"gpus": [{"name": "RTX", "compute_capability": "8.9", "driver": "1"}]}
    out, cache = copied.build / "out", copied.build / "kept"
    for host in (gpu, {"gpus": [], "gpu_error": "it timed out"}, gpu):
        built = engines.build_engines(bundle, host, engine_targets()[:3], options, out, cache)
        assert len(list(cache.iterdir())) == 3 and ("reason" in built["tensorrt-fp16"]) == (not host["gpus"])
    assert len(calls(trt, "Builder.build_serialized_network")) == 3
    engines.build_engines(bundle, gpu, engine_targets()[:3], options | {"level": 5}, out, cache)
    assert len(list(cache.iterdir())) == 3  # what is built anew replaces what was


def change_weights(file: Path) -> list[str]:
    """Every floating initializer of a graph a little greater; their names."""
    model = onnx.load(file)
    weights = [tensor for tensor in model.graph.initializer if tensor.data_type == FLOAT]
    for tensor in weights:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(0.01), tensor.name))
    onnx.save(model, file)
    return [tensor.name for tensor in weights]


def retold(bundle: Bundle, file: Path) -> Bundle:
    """A bundle whose contract holds the file as it is now."""
    contract = read_json(bundle.folder / "contract.json")
    name = file.relative_to(bundle.folder).as_posix()
    contract["files"][name] = {"sha256": sha256(file), "bytes": file.stat().st_size}
    write_json(bundle.folder / "contract.json", contract)
    return open_bundle(bundle.folder)
