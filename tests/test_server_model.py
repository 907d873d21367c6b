"""How a graph is served: what is tried out of it decides whether requests are joined, and where they are run"""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from conftest import NAME
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served import drawn, labels_bundle, reader_bundle, turner_bundle, write_graphs

from deploy.contract import Bundle, load_examples, open_bundle
from deploy.errors import Refused
from deploy.server.batching import INLINE_S, Batcher
from deploy.server.metrics import Counts
from deploy.server.model import PROBED, Model, open_models

RANDOM = np.random.default_rng(1)
WEIGHTS = RANDOM.standard_normal((6, 3))


def opened(folder: Path, form: str, nodes: str, ranges: dict | None = None, **constants: np.ndarray) -> Model:
    """A graph that somebody drew, as a bundle is opened."""
    examples = {"x": RANDOM.standard_normal((20, 6)).astype(np.float32), "label": np.arange(20) % 3}
    graph = {"network": drawn(form, nodes, **constants)}
    folder = write_graphs(folder / "drawn", "drawn", "classification", graph, examples, ranges or {})
    (model,) = open_models(open_bundle(folder), "cpu", "fp32")
    return model


ROWS = "(float[batch,6] x) => (float[batch,3] logits)"


@pytest.mark.parametrize(
    "nodes",
    [
        "logits = MatMul(x, w)",
        "flat = Softmax(x) logits = MatMul(flat, w)",
        "sum = ReduceSum(x, one) apart = Sub(x, sum) logits = MatMul(apart, w)",
    ],
)
def test_rows_that_know_nothing_of_each_other_are_joined(tmp_path: Path, nodes: str) -> None:
    model = opened(tmp_path, ROWS, nodes, w=WEIGHTS, one=np.array([1]))
    assert model.joined and model.rows == 64


@pytest.mark.parametrize(
    "nodes",
    [
        "mean = ReduceMean(x, zero) apart = Sub(x, mean) logits = MatMul(apart, w)",
        "most = ReduceMax(x, zero) part = Div(x, most) logits = MatMul(part, w)",
        "q, s, z = DynamicQuantizeLinear(x) back = DequantizeLinear(q, s, z) logits = MatMul(back, w)",
        # As large as rounding, 300 times over: another row's answer leaks in.
        "mean = ReduceMean(x, zero) little = Mul(mean, tiny) more = Add(x, little) logits = MatMul(more, w)",
        "order = CumSum(x, start) logits = MatMul(order, w)",
    ],
)
def test_rows_that_change_each_others_answers_are_not_joined(tmp_path: Path, nodes: str) -> None:
    tiny = np.array(300 * np.finfo(np.float32).eps)
    model = opened(tmp_path, ROWS, nodes, w=WEIGHTS, zero=np.array([0]), start=np.array(0), tiny=tiny)
    assert not model.joined and model.rows == 64  # one client's own batch is its own affair
    x = {"x": RANDOM.standard_normal((PROBED, 6)).astype(np.float32)}
    together = model.run(x)["logits"]
    assert not all(np.array_equal(model.run({"x": x["x"][i : i + 1]})["logits"][0], together[i]) for i in range(PROBED))


def test_of_the_starters_networks_fp32_and_fp16_are_joined(bundle: Bundle) -> None:
    models = {precision: open_models(bundle, "cpu", precision)[0] for precision in ("fp32", "fp16", "int8")}
    assert models["fp32"].joined and models["fp16"].joined
    for precision, model in models.items():
        image = load_examples(bundle, "test")["image"][:PROBED]
        together = model.run({"image": image})["logits"]
        alone = np.concatenate([model.run({"image": image[i : i + 1]})["logits"] for i in range(PROBED)])
        assert not model.joined or np.abs(together - alone).max() < (1e-2 if precision == "fp16" else 1e-4)
        assert (model.name, model.recipe, model.precision) == (f"{NAME}-{precision}", NAME, precision)
        assert model.version == bundle.sha256[:12] and model.classes == bundle.classes
        assert model.largest == {"image": 16.0} and model.states == ()


def test_where_the_first_axis_is_no_batch_a_call_is_one_request(tmp_path: Path) -> None:
    model = opened(tmp_path, "(float[6] x) => (float[3] logits)", "logits = MatMul(x, w)", w=WEIGHTS)
    assert (model.rows, model.joined, model.seconds_row) == (1, False, 0.0)
    x = np.arange(6, dtype=np.float32)
    np.testing.assert_allclose(model.run({"x": x})["logits"], x @ WEIGHTS.astype(np.float32), rtol=1e-5)


def test_where_one_input_has_no_batch_nothing_is_joined(tmp_path: Path) -> None:
    form = "(float[batch,6] x, float[3] shift) => (float[batch,3] logits)"
    model = opened(tmp_path, form, "plain = MatMul(x, w) logits = Add(plain, shift)", w=WEIGHTS)
    assert (model.rows, model.joined) == (1, False)


def test_a_state_may_be_left_out_and_is_zeros_then(tmp_path: Path) -> None:
    (model,) = open_models(open_bundle(reader_bundle(tmp_path / "reader")), "cpu", "fp32")
    assert model.states == ("state",) and model.form.optional == {"state"} and model.joined
    text = np.frombuffer(b"for name", np.uint8)[None]
    left_out, given = (
        model.run(i) for i in ({"text": text}, {"text": text, "state": np.zeros((1, 1, 16), np.float32)})
    )
    assert all(left_out[name].tobytes() == given[name].tobytes() for name in ("logits", "next_state"))


def test_two_graphs_are_three_models(tmp_path: Path) -> None:
    folder = turner_bundle(tmp_path / "turner")
    whole, encoder, step = open_models(open_bundle(folder), "cpu", "fp32")
    assert [m.name for m in (whole, encoder, step)] == ["turner-fp32", "turner-fp32-encoder", "turner-fp32-step"]
    assert whole.states == encoder.states == () and step.states == ("state",)
    assert whole.version == encoder.version == step.version
    assert set(whole.sha256) == {"encoder", "step"}
    for wrong in (b"a\0b", b"x" * 129):
        with pytest.raises(Refused, match="source: line 0 has"):
            whole.check({"source": np.frombuffer(wrong, np.uint8)[None]})
    assert encoder.check is None and step.check is None  # what padding is to them is their caller's affair


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.integers(1, 64), time=st.integers(1, 64))
def test_a_call_costs_as_much_as_its_rows_and_its_length_say(tmp_path_factory, rows: int, time: int) -> None:
    model = replace(reader(tmp_path_factory), seconds=3e-6, seconds_row=1e-6, stretches=(("text", 1, 4),))
    text = {"text": np.zeros((rows, time), np.uint8)}
    assert model.cost(text, rows) == pytest.approx((3e-6 + 1e-6 * (rows - 1)) * time / 4)


MADE: list[Model] = []


def reader(tmp_path_factory: pytest.TempPathFactory) -> Model:
    if not MADE:
        MADE.extend(open_models(open_bundle(reader_bundle(tmp_path_factory.mktemp("r") / "reader")), "cpu", "fp32"))
    return MADE[0]


def test_what_is_timed_is_about_what_it_takes(tmp_path: Path) -> None:
    """A network a thousand times as large costs several times as much, and its rows cost something."""
    small, large = (
        open_models(open_bundle(reader_bundle(tmp_path / f"{units}", units=units)), "cpu", "fp32")[0]
        for units in (8, 512)
    )
    assert 0 < small.seconds < INLINE_S and large.seconds > 2 * small.seconds
    assert large.seconds_row > 0 and small.stretches == large.stretches == (("text", 1, 1),)


@pytest.mark.parametrize("time, apart", [(1, False), (2, False), (3, True), (64, True)])
def test_where_it_runs_is_chosen_by_what_it_costs(
    tmp_path_factory: pytest.TempPathFactory, time: int, apart: bool
) -> None:
    plain, names = reader(tmp_path_factory), []

    def run(inputs: dict) -> dict:
        names.append(threading.current_thread().name)
        return dict(plain.run(inputs))

    async def ask() -> None:
        with ThreadPoolExecutor(1, thread_name_prefix="apart") as threads:
            batcher = Batcher(replace(plain, run=run, seconds=0.45 * INLINE_S, seconds_row=0.0), threads, 9, Counts())
            await batcher.submit({"text": np.ones((1, time), np.uint8)}, 9.0)

    asyncio.run(ask())
    assert [name.startswith("apart") for name in names] == [apart]


def test_what_cannot_be_opened_says_why(tmp_path: Path, bundle: Bundle) -> None:
    labels = open_bundle(labels_bundle(tmp_path / "labels"))
    with pytest.raises(Refused, match=r"labels: int8-cpu: the recipe does not ask for int8-cpu"):
        open_models(labels, "cpu", "int8")
    labels.path("graphs/fp32/network.onnx").write_bytes(b"no graph")  # after its hash was held
    with pytest.raises(Refused, match=r"network\.onnx: onnxruntime cannot open this graph"):
        open_models(labels, "cpu", "fp32")


def test_a_graph_that_cannot_be_run_is_not_served(tmp_path: Path) -> None:
    nodes = "three = Reshape(x, shape) logits = MatMul(three, w)"  # for two rows and no other number
    with pytest.raises(Refused, match=r"network\.onnx: got x: float32 \[1, 6\]; expected x: tensor\(float\)"):
        opened(tmp_path, ROWS, nodes, w=WEIGHTS, shape=np.array([2, 6]))


def test_answers_are_onnxruntimes(tmp_path: Path) -> None:
    (model,) = open_models(open_bundle(labels_bundle(tmp_path / "labels")), "cpu", "fp32")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(tmp_path / "labels/graphs/fp32/network.onnx", options)
    image = RANDOM.integers(0, 256, (7, 1, 4, 4), np.uint8)
    assert model.run({"image": image})["logits"].tobytes() == session.run(None, {"image": image})[0].tobytes()
