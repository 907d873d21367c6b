import gc
import re
import sys
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recording
from host_cuda import HostRuntime
from hypothesis import given, settings
from hypothesis import strategies as st
from recording import RTX, VERSIONS, Engine, Input, Output, double, plan

from deploy import targets as targets_module
from deploy import trt as trt_module
from deploy.builder import build_engine
from deploy.contract import Bundle, load_examples
from deploy.cuda import Cuda
from deploy.engine import open_engine
from deploy.engine_calls import GRAPHS
from deploy.errors import Refused
from deploy.files import sha256
from deploy.run import Run
from deploy.runtimes import open_onnxruntime
from deploy.targets import targets
from deploy.told import Told
from deploy.trt import load_tensorrt

INPUTS = [{"name": "image", "dtype": "uint8", "shape": ["batch", 1, 8, 8]}]


def test_an_extra_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)

    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(trt_module.importlib, "import_module", absent)
    with pytest.raises(Refused, match=r"tensorrt_rtx is not installed: pip install -c constraints\.txt -e '\.\[rtx\]'"):
        load_tensorrt("tensorrt_rtx")


PROFILE = ((1, 2), (2, 2), (4, 2))
VERSION = "11.4.0.106"
DOUBLED = dict(recording.BEHAVIOUR)


class Opened:
    """A double of TensorRT on a double of CUDA, both of which refuse what the real ones do, and an engine's file.

    Beside that: a context is not touched any more once a graph was captured from it, and computes on the memory that it
    was given.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, version: str = VERSION, **more: Any) -> None:
        self.runtime = HostRuntime(more.pop("left", 1 << 30))
        self.cuda, self.told = Cuda(self.runtime), Told()
        tensors = [Input("x", "FLOAT", more.pop("profile", PROFILE)), Output("y", "FLOAT", "x")]
        self.trt = double(version, Engine(tensors, device=self.runtime, **more))
        self.file = folder / "e.engine"
        self.file.write_bytes(plan(version, self.trt._engine))
        run, memory = (DOUBLED[f"IExecutionContext.{name}"] for name in ("execute_async_v3", "set_device_memory"))

        def execute(trt: Any, context: Any, stream: int) -> bool:
            def untouched() -> None:
                assert (dict(context._state["shapes"]), dict(context._state["addresses"])) == then
                assert context._state["memory"] in self.runtime.blocks

            then = dict(context._state["shapes"]), dict(context._state["addresses"])
            assert self.runtime.put(int(stream), untouched) == 0
            return run(trt, context, stream)

        def set_memory(trt: Any, context: Any, address: int, size: int) -> None:
            assert size >= 512 and len(self.runtime.blocks[address]) >= size
            context._state["memory"] = address
            memory(trt, context, address, size)

        self.set = lambda name, does: monkeypatch.setitem(recording.BEHAVIOUR, name, does)
        self.set("IExecutionContext.execute_async_v3", execute)
        self.set("IExecutionContext.set_device_memory", set_memory)
        self.set("ICudaEngine.device_memory_size_v2", lambda trt, engine: 512)
        monkeypatch.setattr(trt_module, "_LOGGERS", {})

    def open(self) -> Run:
        return open_engine(self.trt, self.file, self.cuda, self.told)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Opened]:
    return partial(Opened, monkeypatch, tmp_path)


def normal(batch: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([batch, seed]).normal(size=(batch, 2)).astype(np.float32)


def right(run: Run, batch: int, seed: int = 0) -> None:
    x = normal(batch, seed)
    np.testing.assert_array_equal(run({"x": x})["y"], 2 * x)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_engine_runs_at_any_batch_of_its_profile(made: Callable[..., Opened], version: str) -> None:
    engine = made(version)
    run = engine.open()
    for seed, batch in enumerate((3, 1, 4, 2, 3, 1, 4, 2, 3, 1, 4, 2)):
        right(run, batch, seed)
    assert (engine.told.plain, engine.told.replays) == ("", 4)
    wrong = ({"x": normal(5)}, {"z": normal(1)}, {"x": normal(2).astype(np.float64)}, {"x": normal(1), "z": normal(1)})
    for inputs in (*wrong, {}, {"x": normal(2)[0]}, {"x": normal(2)[:0]}):
        with pytest.raises(Refused, match=r"e\.engine: got .*; expected x: float32 \(1, 2\) to \(4, 2\)\. Cut or"):
            run(inputs)
    right(run, 4)  # and it serves on
    del run
    assert engine.runtime.held() == 0 and not engine.runtime.refused


def test_graphs_are_made_from_the_second_call_on_and_anew_when_a_buffer_moves(made: Callable[..., Opened]) -> None:
    """Counted by another rule: the buffers as large as the largest so far, all graphs gone when that grows."""
    engine = made(profile=((1, 2), (2, 2), (12, 2)))

    @settings(deadline=None)
    @given(batches=st.lists(st.integers(1, 12), max_size=30))
    def holds(batches: list[int]) -> None:
        engine.told = Told()
        run = engine.open()
        replays, largest, seen, graphs = 0, 0, set(), set()
        for seed, batch in enumerate(batches):
            right(run, batch, seed)
            if batch > largest:
                graphs, largest = set(), batch
            replays += batch in graphs
            if batch in seen and len(graphs) < GRAPHS:
                graphs.add(batch)
            seen.add(batch)
        assert (engine.told.plain, engine.told.replays) == ("", replays)
        assert len(engine.runtime.executables) == len(graphs)
        assert len(engine.runtime.blocks) == 1 + (2 if batches else 0)  # what grows gives back what it had
        del run
        assert engine.runtime.held() == 0 and not engine.runtime.refused

    holds()


def test_what_is_handed_out_stays_as_it_is(made: Callable[..., Opened]) -> None:
    run = made().open()
    answers = [run({"x": normal(2, seed)})["y"] for seed in range(5)]
    for seed, answer in enumerate(answers):
        np.testing.assert_array_equal(answer, 2 * normal(2, seed))
        answer[:] = 0  # the caller's own
    assert not any(np.shares_memory(a, b) for a in answers for b in answers if a is not b)


def test_strided_inputs_are_taken(made: Callable[..., Opened]) -> None:
    run, x = made().open(), np.arange(16, dtype=np.float32).reshape(4, 4)[::2, ::2]
    for _ in range(3):
        np.testing.assert_array_equal(run({"x": x})["y"], 2 * x)


def test_a_shape_that_is_fixed_has_its_graph_from_the_first_call_on(made: Callable[..., Opened]) -> None:
    engine = made(profile=((2, 2),) * 3)
    run = engine.open()
    for seed in range(3):
        right(run, 2, seed)
    assert engine.told.replays == 2
    with pytest.raises(Refused, match=r"expected x: float32 \(2, 2\) to \(2, 2\)"):
        run({"x": normal(1)})


def test_only_so_many_shapes_have_a_graph(made: Callable[..., Opened]) -> None:
    engine = made(profile=((1, 2), (2, 2), (GRAPHS + 2, 2)))
    run = engine.open()
    for seed in range(3):
        for batch in range(GRAPHS + 2, 0, -1):
            right(run, batch, seed)
    assert engine.told.replays == GRAPHS == len(engine.runtime.executables)


def test_the_devices_share_of_a_call_is_told_to_who_asks(made: Callable[..., Opened]) -> None:
    engine = made()
    run = engine.open()
    right(run, 1, 9)
    assert engine.told.device_s == []
    engine.told.timing = True
    for seed in range(4):
        right(run, 2, seed)
    plain, graph = 1e-3 * (1 + 1 + 2 + 1), 1e-3 * (1 + 1)  # a millisecond a piece: copies, check and run; the end
    assert engine.told.device_s == pytest.approx([plain, plain, graph, graph])
    assert open_engine(engine.trt, engine.file, engine.cuda) and len(engine.runtime.events) == 2  # nobody asked: none


@pytest.mark.parametrize(
    ("fail", "said"),
    [
        ("cudaStreamBeginCapture", "cudaStreamBeginCapture failed: invalid argument"),
        ("cudaGraphInstantiateWithFlags", "cudaGraphInstantiateWithFlags failed: invalid argument"),
    ],
)
def test_where_cuda_captures_nothing_calls_go_on_and_the_reason_is_told(
    made: Callable[..., Opened], fail: str, said: str
) -> None:
    engine = made()
    engine.runtime.fail[fail] = 1
    run = engine.open()
    for seed in range(5):
        right(run, 2, seed)
    assert engine.told.plain.startswith(said) and engine.told.replays == 0
    assert engine.runtime.calls.count(fail) == 1  # not tried again
    assert not engine.runtime.executables and not engine.runtime.graphs


def test_an_engine_that_waits_while_it_is_captured_spoils_the_graph_alone(made: Callable[..., Opened]) -> None:
    engine = made()
    run_it = recording.BEHAVIOUR["IExecutionContext.execute_async_v3"]

    def waits(trt: Any, context: Any, stream: int) -> bool:
        done = run_it(trt, context, stream)
        return done and engine.runtime._cudaStreamSynchronize(stream) == 0

    engine.set("IExecutionContext.execute_async_v3", waits)
    run = engine.open()
    for seed in range(5):
        right(run, 2, seed)
    assert "" in engine.told.plain and "the engine failed while running" in engine.told.plain
    assert not engine.runtime.capturing and engine.told.replays == 0


def test_a_graph_that_computes_nothing_is_found_out(made: Callable[..., Opened]) -> None:
    """Part of the engine runs beside the stream: the captured copies alone would bring back what lies there."""
    engine = made()
    run_it = recording.BEHAVIOUR["IExecutionContext.execute_async_v3"]
    engine.set(
        "IExecutionContext.execute_async_v3",
        lambda trt, context, stream: bool(engine.runtime.capturing) or run_it(trt, context, stream),
    )
    run = engine.open()
    for seed in range(5):
        right(run, 2, seed)
    assert engine.told.plain == "the replay gave other values of 'y' than the plain call"
    assert not engine.runtime.executables


@pytest.mark.parametrize("can", [True, False])
def test_rtx_compiles_before_it_is_captured_and_may_say_no(made: Callable[..., Opened], can: bool) -> None:
    engine = made(RTX)
    engine.set("IExecutionContext.is_stream_capturable", lambda trt, context, stream: can)
    run = engine.open()
    for seed in range(4):
        right(run, 2, seed)
    assert engine.told.replays == (2 if can else 0)
    assert engine.told.plain == ("" if can else "TensorRT-RTX cannot have this engine captured")
    name = "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy ="
    (eager,) = [call.arguments for call in engine.trt.calls if call.name == name]
    assert [value.name for value in eager.values()] == ["EAGER"]


def test_a_run_that_fails_is_told_and_the_next_is_served(made: Callable[..., Opened]) -> None:
    engine = made()
    run_it = recording.BEHAVIOUR["IExecutionContext.execute_async_v3"]
    run = engine.open()
    engine.set("IExecutionContext.execute_async_v3", lambda trt, context, stream: False)
    with pytest.raises(Refused, match=r"e\.engine: the engine failed while running \(it gave no reason\)\. Build"):
        run({"x": normal(2)})
    assert not any(engine.runtime.streams.values())  # nothing is left that would write into the next call's memory
    engine.set("IExecutionContext.execute_async_v3", run_it)
    for seed in range(3):
        right(run, 2, seed)


def test_too_little_memory_is_told_with_the_sizes_and_a_smaller_batch_served(made: Callable[..., Opened]) -> None:
    engine = made(left=512 + 100_000, profile=((1, 2), (2, 2), (1 << 20, 2)))
    run = engine.open()
    right(run, 2)
    with pytest.raises(
        Refused,
        match=r"e\.engine: no memory for tensor 'x': cudaMalloc failed: out of memory \(CUDA error 2\): "
        r"160,000 bytes asked for, [\d,]+ of 100,512 left on the GPU\. Send a smaller batch, or free memory",
    ):
        run({"x": normal(20_000)})
    for seed in range(4):
        right(run, 3, seed)
    full = made(left=100)
    with pytest.raises(Refused, match=r"no memory for its intermediate results: .*512 bytes asked for, 100 of 100"):
        full.open()
    gc.collect()
    assert full.runtime.held() == 0


def test_several_threads_are_served_one_after_another(made: Callable[..., Opened]) -> None:
    run = made().open()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: right(run, 1 + i % 4, i), range(200)))


def test_an_engine_of_another_version_or_gpu_is_refused_with_the_fix(made: Callable[..., Opened]) -> None:
    engine = made()
    engine.file.write_bytes(plan("10.3.0", engine.trt._engine))
    with pytest.raises(
        Refused,
        match=r"e\.engine: \S+ 11\.4\S* cannot load this engine on this GPU \(.*built by 10\.3\.0.*"
        r"the file has [\d,]+ bytes, the GPU [\d,]+ of [\d,]+ left\)\. .*: build it again here",
    ):
        engine.open()


@pytest.mark.parametrize("size", [0, 3, -7])
def test_a_truncated_engine_is_refused(made: Callable[..., Opened], size: int) -> None:
    engine = made()
    engine.file.write_bytes(engine.file.read_bytes()[:size])
    with pytest.raises(Refused, match=r"e\.engine: .* cannot load this engine.*build it again here"):
        engine.open()
    engine.file.unlink()
    with pytest.raises(Refused, match=r"e\.engine: cannot be read \(No such file or directory\)\. Build it again here"):
        engine.open()


def test_a_driver_that_is_too_old_is_a_reason(made: Callable[..., Opened]) -> None:
    """pybind's way of saying it: the factory gives nothing."""

    def too_old(*given: object) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    engine = made()
    engine.set("Runtime.__init__", too_old)
    with pytest.raises(Refused, match="does not work on this machine: .*nullptr.*Update the GPU's driver"):
        engine.open()


def test_what_this_runner_does_not_take_is_refused(made: Callable[..., Opened]) -> None:
    engine = made()
    engine.set("IExecutionContext.get_tensor_shape", lambda trt, context, name: trt._dims((-1, 2)))
    run = engine.open()
    with pytest.raises(Refused, match=r"the size of output 'y' depends on the values that come in, \(-1, 2\) came"):
        run({"x": normal(2)})
    engine = made()
    engine.set("ICudaEngine.get_tensor_location", lambda trt, engine, name: trt.TensorLocation.HOST)
    with pytest.raises(Refused, match="tensor 'x' is a shape that TensorRT reads on the host"):
        engine.open()


HOST = {"gpus": [{"name": "NVIDIA L4", "compute_capability": "8.9", "driver": "1"}], "gpu_error": ""}
OTHER = {"name": "NVIDIA A10", "compute_capability": "8.6", "driver": "1"}


def built(bundle: Bundle, folder: Path, **more: Any) -> dict[str, Any]:
    (folder / "e.engine").write_bytes(b"engine")
    files = {"network": {"file": "e.engine", "sha256": sha256(folder / "e.engine"), "bytes": 6}}
    facts = {"builder": "fake 1", "gpu": "NVIDIA L4", "compute_capability": "8.9"}
    return facts | {"files": files, "graph_sha256": bundle.graph_sha256("fp32")} | more


@pytest.mark.parametrize(
    ("host", "more", "reason"),
    [
        (HOST, {}, ""),
        (HOST | {"gpus": [OTHER, *HOST["gpus"]]}, {}, ""),
        (
            HOST,
            {"gpu": "NVIDIA A10"},
            r"built on NVIDIA A10 \(8\.9\), and here is NVIDIA L4 .*build it again here",
        ),
        (
            HOST | {"gpus": [OTHER]},
            {},
            r"built on NVIDIA L4 \(8\.9\), and here is NVIDIA A10 \(8\.6\): engines are tied",
        ),
        ({"gpus": [], "gpu_error": "none"}, {}, r"built, not run: no NVIDIA GPU that works on this host \(none\)"),
        (HOST, {"graph_sha256": {"network": "0"}}, "stale: the engine was built from another graph"),
    ],
)
def test_an_engine_is_held_against_the_gpu_here(
    bundle: Bundle, tmp_path: Path, host: dict[str, Any], more: dict[str, Any], reason: str
) -> None:
    entry = built(bundle, tmp_path, **more)
    rows = {row.name: row for row in targets(bundle, host, tmp_path, {"tensorrt-fp32": entry})}
    assert bool(rows["tensorrt-fp32"].reason) == bool(reason)
    assert re.search(reason, rows["tensorrt-fp32"].reason)


def test_an_engine_is_held_against_its_hash_and_the_version_here(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets_module, "load_tensorrt", lambda module: types.SimpleNamespace(__version__="11.4"))
    entry = built(bundle, tmp_path, builder="tensorrt 10.3.0")
    rows = {row.name: row for row in targets(bundle, HOST, tmp_path, {"tensorrt-fp32": entry})}
    with pytest.raises(Refused, match=r"e\.engine: built by tensorrt 10\.3\.0, and here is tensorrt 11\.4, which"):
        rows["tensorrt-fp32"].open()
    (tmp_path / "e.engine").write_bytes(b"engin")
    with pytest.raises(Refused, match=r"e\.engine: missing or changed since it was built"):
        rows["tensorrt-fp32"].open()


@pytest.fixture
def real(bundle: Bundle, tmp_path: Path) -> tuple[Any, Path]:
    trt = load_tensorrt("tensorrt")
    graph = bundle.path(bundle.graphs["fp32"]["network"])
    (tmp_path / "e.engine").write_bytes(build_engine(trt, graph, INPUTS, bundle.ranges).plan)
    return trt, tmp_path / "e.engine"


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8-tensorrt"])
def test_a_real_engine_answers_as_onnxruntime(bundle: Bundle, precision: str, tmp_path: Path) -> None:
    trt = load_tensorrt("tensorrt")
    graph = bundle.path(bundle.graphs[precision]["network"])
    (tmp_path / "e.engine").write_bytes(build_engine(trt, graph, INPUTS, bundle.ranges).plan)
    run = open_engine(trt, tmp_path / "e.engine")
    image = load_examples(bundle, "test")["image"][:64]
    truth = open_onnxruntime(graph, optimise=False)({"image": image})["logits"]
    for _ in range(3):  # step by step, then as a graph
        assert (run({"image": image})["logits"].argmax(1) == truth.argmax(1)).mean() > 0.95


@pytest.mark.gpu
def test_a_real_engine_is_replayed_with_the_plain_calls_answers(real: tuple[Any, Path], bundle: Bundle) -> None:
    told = Told()
    run = open_engine(*real, told=told)
    images = load_examples(bundle, "test")["image"]
    first = {batch: run({"image": images[:batch]})["logits"] for batch in (1, 8, 64, 3)}
    for _ in range(5):
        for batch, expected in first.items():
            np.testing.assert_array_equal(run({"image": images[:batch]})["logits"], expected)
    assert told.plain == "" and told.replays == 16
    assert len(told.device_s) == 24 and all(0 < seconds < 1 for seconds in told.device_s)


@pytest.mark.gpu
def test_a_truncated_real_engine_is_refused(real: tuple[Any, Path]) -> None:
    trt, file = real
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(Refused, match=r"e\.engine: .* cannot load this engine on this GPU"):
        open_engine(trt, file)
