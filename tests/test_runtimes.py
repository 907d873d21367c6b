import sys
import types
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from deploy.contract import Bundle
from deploy.errors import Refused
from deploy.run import Run
from deploy.runtimes import open_onnxruntime
from deploy.session_calls import GRAPHS, bound, placed
from deploy.told import Told

IMAGE = np.zeros((2, 1, 8, 8), np.uint8)


@pytest.fixture
def graph(bundle: Bundle) -> Path:
    return bundle.path(bundle.graphs["fp32"]["network"])


@pytest.mark.parametrize(
    ("inputs", "came"),
    [
        ({"image": IMAGE.astype(np.float64)}, r"image: float64 \[2, 1, 8, 8\]"),
        ({"image": IMAGE[:, :, :5]}, r"image: uint8 \[2, 1, 5, 8\]"),
        ({"picture": IMAGE}, r"picture: uint8"),
    ],
)
def test_a_wrong_input_is_told_with_what_was_expected(graph: Path, inputs: dict, came: str) -> None:
    run = open_onnxruntime(graph)
    with pytest.raises(
        Refused, match=rf"network\.onnx: got {came}.*expected image: tensor\(uint8\) \['batch', 1, 8, 8\]"
    ):
        run(inputs)
    assert run({"image": IMAGE})["logits"].shape == (2, 10)  # and it serves on


def test_a_damaged_graph_is_named(graph: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.onnx").write_bytes(graph.read_bytes()[:500])
    with pytest.raises(Refused, match=r"cut\.onnx: onnxruntime cannot open this graph"):
        open_onnxruntime(tmp_path / "cut.onnx")


@pytest.mark.skipif("CUDAExecutionProvider" not in onnxruntime.get_available_providers(), reason="no CUDA build here")
def test_a_session_that_fell_back_does_not_call_itself_cuda(graph: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from deploy.host import describe

    if describe()["gpus"]:
        pytest.skip("there is a GPU")
    with pytest.raises(Refused, match="asked for CUDAExecutionProvider and fell back to CPUExecutionProvider"):
        open_onnxruntime(graph, "cuda")


class Nodes(NamedTuple):
    ep_name: str
    nodes: tuple[tuple[str, str], ...]  # operator, name

    def get_nodes(self) -> list[Any]:
        return [types.SimpleNamespace(op_type=operator, name=name, domain="") for operator, name in self.nodes]


class Place:
    """A double of ``OrtValue`` on the GPU: a real one on the processor, that no host call may be bound to."""

    def __init__(self, real: Any) -> None:
        self.real = real
        self.update_inplace = real.update_inplace

    @classmethod
    def ortvalue_from_numpy(cls, array: np.ndarray, device: str, number: int) -> "Place":
        assert (device, number) == ("cuda", 0) and array.flags.c_contiguous
        return cls(onnxruntime.OrtValue.ortvalue_from_numpy(array.copy()))

    @classmethod
    def ortvalue_from_shape_and_type(cls, shape: Any, kind: type, device: str, number: int) -> "Place":
        assert (device, number) == ("cuda", 0)
        return cls(onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, kind))


class Binding:
    def __init__(self, real: Any) -> None:
        self.real, self.places, self.host = real, {}, False

    def bind_cpu_input(self, name: str, array: np.ndarray) -> None:
        self.host = True
        self.real.bind_cpu_input(name, array)

    def bind_output(self, name: str, device: str) -> None:
        assert device == "cpu"
        self.host = True
        self.real.bind_output(name, device)

    def bind_ortvalue_input(self, name: str, place: Place) -> None:
        self.places[name] = place
        self.real.bind_ortvalue_input(name, place.real)

    def bind_ortvalue_output(self, name: str, place: Place) -> None:
        self.places[name] = place
        self.real.bind_ortvalue_output(name, place.real)

    def copy_outputs_to_cpu(self) -> list[np.ndarray]:
        return self.real.copy_outputs_to_cpu()


class Gpu:
    """A double of the module ``onnxruntime`` on a host with a GPU; what computes is a real session on the processor.

    A run with a graph's number refuses host memory and, once that number is captured, any other place, as a replay
    would read and write where it was captured. ``placed``: where nodes went; ``hinders``: why there can be no graph.
    """

    def __init__(self, placed: tuple[Nodes, ...] = (), hinders: str = "", fails: str = "", lies: bool = False) -> None:
        self.placed, self.hinders, self.fails, self.lies = placed, hinders, fails, lies
        self.SessionOptions, self.RunOptions = onnxruntime.SessionOptions, onnxruntime.RunOptions
        self.GraphOptimizationLevel, self.__version__ = onnxruntime.GraphOptimizationLevel, onnxruntime.__version__
        self.OrtValue = Place
        self.opened: list[dict[str, str]] = []
        self.numbers: list[int] = []
        self.captured: dict[int, dict[str, Place]] = {}
        self.preloaded = False

    def preload_dlls(self) -> None:
        self.preloaded = True

    def InferenceSession(self, model: Any, options: Any, providers: Any, enable_fallback: int) -> "Gpu":
        ((provider, settings),) = providers
        assert provider == "CUDAExecutionProvider" and settings["use_tf32"] == "0" and enable_fallback == 0
        assert self.preloaded and set(settings) <= {"use_tf32", "enable_cuda_graph"}
        assert options.get_session_config_entry("session.record_ep_graph_assignment_info") == "1"
        self.opened.append(settings)
        if self.hinders and "enable_cuda_graph" in settings:
            raise RuntimeError(self.hinders)
        self.real = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.get_inputs, self.get_outputs = self.real.get_inputs, self.real.get_outputs
        return self

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def get_provider_graph_assignment_info(self) -> tuple[Nodes, ...]:
        return self.placed

    def io_binding(self) -> Binding:
        return Binding(self.real.io_binding())

    def run_with_iobinding(self, binding: Binding, options: Any) -> None:
        number = int(options.get_run_config_entry("gpu_graph_id"))
        assert number == -1 or number > 0, "0 is onnxruntime's own"
        self.numbers.append(number)
        if number > 0:
            assert "enable_cuda_graph" in self.opened[-1] and not binding.host
            assert self.captured.setdefault(number, dict(binding.places)) == binding.places
            if self.fails:
                raise RuntimeError(self.fails)
        if not (number > 0 and self.lies and self.numbers.count(number) > 1):
            self.real.run_with_iobinding(binding.real, options)
        else:
            for output in self.get_outputs():
                place = binding.places[output.name]
                place.update_inplace(np.full_like(place.real.numpy(), 3))


CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


def opened(monkeypatch: pytest.MonkeyPatch, graph: Path, gpu: Gpu) -> tuple[Run, Told]:
    told = Told()
    monkeypatch.setitem(sys.modules, "onnxruntime", gpu)
    return open_onnxruntime(graph, "cuda", told=told), told


def images(batch: int, seed: int) -> np.ndarray:
    return np.random.default_rng([batch, seed]).integers(0, 17, (batch, 1, 8, 8)).astype(np.uint8)


def answers_right(run: Run, cpu: Run, batches: Iterable[int]) -> None:
    given = [(run({"image": images(batch, i)})["logits"], batch, i) for i, batch in enumerate(batches)]
    for logits, batch, i in given:  # at the end: nothing handed out was overwritten
        np.testing.assert_array_equal(logits, cpu({"image": images(batch, i)})["logits"])


def test_on_cuda_a_shape_that_comes_again_is_one_graph(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = open_onnxruntime(graph), Gpu()
    run, told = opened(monkeypatch, graph, gpu)
    answers_right(run, cpu, (1, 2, 1, 1, 2, 2, 1, 3))
    assert gpu.opened == [{"use_tf32": "0", "enable_cuda_graph": "1"}]
    assert gpu.numbers == [-1, -1, -1, 1, 1, 1, -1, 2, 2, 2, 1, -1]  # a capture is tried twice before it serves
    assert (told.replays, told.plain, told.on_cpu) == (3, "", ())
    for inputs in ({"image": IMAGE.astype(np.float64)}, {"image": IMAGE[:, :, :5]}, {"picture": IMAGE}, {}):
        with pytest.raises(Refused, match=r"got .*expected image: tensor\(uint8\) \['batch', 1, 8, 8\]"):
            run(inputs)
    answers_right(run, cpu, (1, 2, 3))


def test_only_so_many_shapes_have_a_graph(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = open_onnxruntime(graph), Gpu()
    run, told = opened(monkeypatch, graph, gpu)
    answers_right(run, cpu, 3 * tuple(range(1, GRAPHS + 3)))
    assert len(gpu.captured) == GRAPHS == told.replays


def test_no_items_are_refused_and_one_name_has_one_size(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"got image: uint8 \[0, 1, 8, 8\].*batch of image is 0, 1 or more was expected"):
        open_onnxruntime(graph)({"image": images(0, 0)})
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in "xyz"]
    made = helper.make_graph([helper.make_node("Add", ["x", "y"], ["z"])], "sum", ends[:2], ends[2:])
    run = open_onnxruntime(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
    one, four = np.ones((1, 2), np.float32), np.ones((4, 2), np.float32)
    assert run({"x": four, "y": four})["z"].shape == (4, 2)
    with pytest.raises(Refused, match="batch of y is 4, that of another input 1; make them one"):
        run({"x": one, "y": four})  # onnxruntime would broadcast


@pytest.mark.parametrize(
    ("gpu", "said", "opens"),
    [
        (Gpu(hinders="This session cannot use the graph capture feature: control flow"), "control flow", 2),
        (Gpu(fails="CUDA error 900: not permitted"), "CUDA error 900", 1),
        (Gpu(lies=True), "the replay gave other values than the plain call", 1),
    ],
)
def test_where_no_graph_can_be_calls_are_plain_and_that_is_told(
    graph: Path, monkeypatch: pytest.MonkeyPatch, gpu: Gpu, said: str, opens: int
) -> None:
    cpu = open_onnxruntime(graph)
    run, told = opened(monkeypatch, graph, gpu)
    answers_right(run, cpu, (1, 1, 1, 2, 2))
    assert said in told.plain and told.replays == 0
    assert len(gpu.opened) == opens and len(gpu.captured) <= 1


def test_what_else_hinders_a_session_is_no_reason_to_open_it_again(
    graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu(hinders="CUDA failure 2: out of memory")
    with pytest.raises(
        Refused, match=r"network\.onnx: onnxruntime cannot open this graph: CUDA failure 2: out of memory"
    ):
        opened(monkeypatch, graph, gpu)
    assert len(gpu.opened) == 1


def test_a_size_that_follows_from_no_input_gives_no_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = helper.make_tensor_value_info
    nodes = [helper.make_node("NonZero", ["x"], ["places"], "count")]
    graph = helper.make_graph(
        nodes, "g", [tensor("x", TensorProto.FLOAT, ["batch"])], [tensor("places", TensorProto.INT64, [1, "found"])]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "g.onnx")
    run, told = opened(monkeypatch, tmp_path / "g.onnx", Gpu())
    for x in ([1, 0, 2], [0, 0, 2], [0, 0, 0], [1, 1, 1]):  # one shape, another size each time
        places = run({"x": np.array(x, np.float32)})["places"]
        np.testing.assert_array_equal(places, [np.flatnonzero(x)])
    assert told.plain == "the sizes found of the outputs do not follow from the inputs'"


def test_nodes_that_compute_sizes_on_the_cpu_are_told_and_others_refused(
    graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = Nodes(CPU, (("Shape", "s"), ("Gather", "g")))
    whole = Nodes(CUDA, (("Conv", "c"), ("Relu", "r")))
    assert opened(monkeypatch, graph, Gpu((whole, sizes)))[1].on_cpu == ("Shape 's'", "Gather 'g'")
    fell = Nodes(CPU, (("Conv", "c2"), *((("LSTM", f"l{i}")) for i in range(4))))
    with pytest.raises(
        Refused,
        match=r"network\.onnx: onnxruntime placed Conv 'c2' on CPUExecutionProvider, LSTM 'l0' on CPUExecutionProvider, "
        r"LSTM 'l1' on CPUExecutionProvider and 2 more, expected all on CUDAExecutionProvider: .*deploy it on the CPU",
    ):
        opened(monkeypatch, graph, Gpu((whole, sizes, fell)))


def test_an_onnxruntime_that_does_not_tell_where_nodes_are_is_taken_as_that(
    graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Gpu, "get_provider_graph_assignment_info")
    assert opened(monkeypatch, graph, Gpu())[1].on_cpu is None


def test_the_real_onnxruntime_tells_where_nodes_are(graph: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(graph, options, providers=[CPU])
    assert placed(session, CPU, "g") == ()
    with pytest.raises(Refused, match=rf"g: onnxruntime placed \w+ '.*' on {CPU}.*, expected all on {CUDA}"):
        placed(session, CUDA, "g")


def test_the_real_bindings_give_the_caller_arrays_of_his_own(graph: Path) -> None:
    """All but the capture itself is onnxruntime's own here: on the processor a graph's number has no meaning."""
    told = Told()
    session = onnxruntime.InferenceSession(graph, providers=[CPU])
    answers_right(bound(onnxruntime, session, told, device="cpu"), open_onnxruntime(graph), (2, 2, 2, 2, 1, 1, 1))
    assert (told.replays, told.plain) == (3, "")


def test_several_threads_share_a_graph(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = open_onnxruntime(graph)
    run, _ = opened(monkeypatch, graph, Gpu())
    with ThreadPoolExecutor(8) as pool:
        logits = list(pool.map(lambda i: run({"image": images(1 + i % 3, i)})["logits"], range(60)))
    for i, row in enumerate(logits):
        np.testing.assert_array_equal(row, cpu({"image": images(1 + i % 3, i)})["logits"])


@pytest.mark.gpu
def test_cuda_answers_as_the_cpu(graph: Path) -> None:
    told = Told()
    cpu, cuda = open_onnxruntime(graph), open_onnxruntime(graph, "cuda", told=told)
    for i, batch in enumerate((9, 1, 9, 1, 9, 1, 4)):  # step by step, then as graphs by turns
        expected = cpu({"image": images(batch, i)})["logits"]
        np.testing.assert_allclose(cuda({"image": images(batch, i)})["logits"], expected, atol=1e-4)
    assert (told.plain, told.replays) == ("", 2)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp16", "int8-tensorrt"])
def test_cuda_runs_every_precision(bundle: Bundle, precision: str) -> None:
    told = Told()
    graph = bundle.path(bundle.graphs[precision]["network"])
    cpu, cuda = open_onnxruntime(graph, optimise=False), open_onnxruntime(graph, "cuda", told=told)
    image = images(64, 0)
    for _ in range(3):
        agree = cuda({"image": image})["logits"].argmax(1) == cpu({"image": image})["logits"].argmax(1)
        assert agree.mean() > 0.95
    assert told.on_cpu is not None
