"""The float64 oracle of a graph, against PyTorch's float64"""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch.nn import functional

from deploy.errors import Refused
from deploy.runtimes import open_onnxruntime
from pipeline.exact import open_exact


def one_node(kind: str, shape: list[int], opset: int = 18, **attributes: object) -> onnx.ModelProto:
    node = helper.make_node(kind, ["x"], ["y"], **attributes)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["MaxPool", "AveragePool"]),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padded=st.booleans(),
    counted=st.booleans(),
    ceil=st.booleans(),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    sizes=st.tuples(st.integers(7, 9), st.integers(7, 9)),
)
def test_pools_are_pytorchs(
    kind: str, kernel: tuple, strides: tuple, padded: bool, counted: bool, ceil: bool, dilations: tuple, sizes: tuple
) -> None:
    pads = [k // 2 if padded else 0 for k in kernel]
    extra = {"count_include_pad": int(counted)} if kind == "AveragePool" else {"dilations": dilations}
    extra |= {"kernel_shape": kernel, "strides": strides, "pads": [*pads, *pads], "ceil_mode": int(ceil)}
    model = one_node(kind, [2, *sizes], **extra)
    x = np.random.default_rng(0).normal(size=(3, 2, *sizes))
    if kind == "MaxPool":
        expected = functional.max_pool2d(torch.from_numpy(x), kernel, strides, tuple(pads), dilations, ceil)
    else:
        expected = functional.avg_pool2d(torch.from_numpy(x), kernel, strides, tuple(pads), ceil, counted)
    np.testing.assert_allclose(open_exact(model)({"x": x})["y"], expected.numpy(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("size", [5, 6, 7])
@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool"])
def test_padding_by_name_is_onnxruntimes(auto: str, size: int, kind: str) -> None:
    """ONNX's own evaluator gives 2 x 2 for SAME_LOWER on 5 x 5 by strides of 2; the standard says ceil(5 / 2)."""
    model = one_node(kind, [1, size, size], kernel_shape=[3, 2], strides=[2, 2], auto_pad=auto)
    model.ir_version = 10
    x = np.random.default_rng(0).normal(size=(2, 1, size, size)).astype(np.float32)
    expected = open_onnxruntime(model.SerializeToString())({"x": x})["y"]
    np.testing.assert_allclose(open_exact(model)({"x": x})["y"], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("counted", [0, 1])
@pytest.mark.parametrize("auto", ["NOTSET", "VALID"])
def test_averages_of_dilated_windows_are_onnxruntimes(auto: str, counted: int) -> None:
    """PyTorch has none. With ``ceil_mode``."""
    extra = {"pads": [1, 0, 1, 1]} if auto == "NOTSET" else {"auto_pad": auto}
    extra |= {"kernel_shape": [2, 3], "strides": [2, 3], "dilations": [2, 1]}
    model = one_node("AveragePool", [2, 8, 8], 19, ceil_mode=1, count_include_pad=counted, **extra)
    x = np.random.default_rng(0).normal(size=(2, 2, 8, 8)).astype(np.float32)
    expected = open_onnxruntime(model.SerializeToString())({"x": x})["y"]
    np.testing.assert_allclose(open_exact(model)({"x": x})["y"], expected, rtol=0, atol=1e-6)


def test_what_cannot_be_had_in_float64_is_refused() -> None:
    x = {"x": np.zeros((1, 1, 5, 5), np.float32)}
    indices = one_node("MaxPool", [1, 5, 5], kernel_shape=[2, 2])
    indices.graph.node[0].output.append("i")
    with pytest.raises(Refused, match="float64: NotImplementedError: MaxPool with indices"):
        open_exact(indices)(x)
    dilated = one_node("MaxPool", [1, 5, 5], kernel_shape=[2, 2], dilations=[2, 2], auto_pad="SAME_UPPER")
    with pytest.raises(Refused, match="float64: NotImplementedError: auto_pad SAME with dilations"):
        open_exact(dilated)(x)
    with pytest.raises(Refused, match="float64: "):
        open_exact(one_node("Nothing", [1, 5, 5]))(x)
    with pytest.raises(Refused, match="float64: GridSample: ONNX's evaluator computes it in float32"):
        open_exact(one_node("GridSample", [1, 5, 5]))


def group_norm(x: torch.Tensor) -> torch.Tensor:
    scale, bias = torch.arange(4, dtype=torch.float64) / 3, torch.arange(4, dtype=torch.float64) / 7
    return functional.group_norm(x, 2, scale, bias, eps=2.0**-17)


@pytest.mark.parametrize(
    ("kind", "expected", "attributes"),
    [
        ("Erf", torch.erf, {}),
        ("Gelu", functional.gelu, {}),
        ("Gelu", lambda x: functional.gelu(x, approximate="tanh"), {"approximate": "tanh"}),
        ("HardSwish", functional.hardswish, {}),
        ("Mish", functional.mish, {}),
        ("LogSoftmax", lambda x: functional.log_softmax(x, -1), {}),
        ("Softplus", functional.softplus, {}),
        ("GroupNormalization", group_norm, {"num_groups": 2, "epsilon": 2.0**-17}),
    ],
)
def test_operators_are_pytorchs_in_float64(kind: str, expected: Callable, attributes: dict) -> None:
    """Some of the evaluator's own go through float32 without a word."""
    model = one_node(kind, [4, 6], 22, **attributes)
    if kind == "GroupNormalization":
        model.graph.node[0].input.extend(["scale", "bias"])
        for name, by in (("scale", 3), ("bias", 7)):
            model.graph.initializer.append(numpy_helper.from_array(np.arange(4) / by, name))
    x = np.random.default_rng(0).normal(size=(3, 4, 6))
    came = open_exact(model)({"x": x})["y"]
    np.testing.assert_allclose(came, expected(torch.from_numpy(x)).numpy(), rtol=0, atol=1e-14)
    assert (came.astype(np.float32) != came).any()


def test_a_group_s_scale_before_opset_21() -> None:
    model = one_node("GroupNormalization", [4, 6], 18, num_groups=2, epsilon=2.0**-17)
    model.graph.node[0].input.extend(["scale", "bias"])
    model.graph.initializer.append(numpy_helper.from_array(np.array([0.3, 0.7]), "scale"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([0.1, 0.2]), "bias"))
    x = np.random.default_rng(0).normal(size=(3, 4, 6))
    scale, bias = torch.tensor([[0.3, 0.3, 0.7, 0.7], [0.1, 0.1, 0.2, 0.2]], dtype=torch.float64)
    expected = functional.group_norm(torch.from_numpy(x), 2, scale, bias, eps=2.0**-17)
    np.testing.assert_allclose(open_exact(model)({"x": x})["y"], expected.numpy(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("constant", ["value_float", "value_floats", "shape"])
def test_constants_without_a_tensor_are_float64_too(constant: str) -> None:
    """A third, which float32 cannot hold, and a constant of the file."""
    model = one_node("Add", [1])
    if constant == "shape":
        made = helper.make_node("ConstantOfShape", ["one"], ["c"])
        model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "one"))
    else:
        made = helper.make_node("Constant", [], ["c"], **{constant: 0.5 if constant == "value_float" else [0.5]})
    model.graph.node[0].input.append("c")
    model.graph.node.insert(0, made)
    model.graph.output.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, None))
    came = open_exact(model)({"x": np.array([[1 / 3]])})
    assert came["c"].dtype == came["y"].dtype == np.float64
    assert came["y"].item() == 1 / 3 + (0.0 if constant == "shape" else 0.5)


def test_many_items_go_through_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """And come out in their order."""
    rows = []
    evaluate = ReferenceEvaluator.run

    def counted(self: ReferenceEvaluator, names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        rows.append(len(feed["x"]))
        return evaluate(self, names, feed)

    monkeypatch.setattr(ReferenceEvaluator, "run", counted)
    x = np.random.default_rng(0).normal(size=(19, 3))
    np.testing.assert_array_equal(open_exact(one_node("Neg", [3]))({"x": x})["y"], -x)
    assert rows == [8, 8, 3]
    assert open_exact(one_node("Neg", [3]))({"x": x[:0]})["y"].shape == (0, 3)


def test_every_float32_is_widened_also_within_a_loop() -> None:
    """0.1 of float32, added three times in a loop's body, whose constant and cast are float32 in the file."""
    step = numpy_helper.from_array(np.array([0.1], np.float32), "step")
    body = helper.make_graph(
        [
            helper.make_node("Cast", ["i"], ["_"], to=TensorProto.FLOAT),
            helper.make_node("Constant", [], ["c"], value=step),
            helper.make_node("Add", ["s", "c"], ["s2"]),
            helper.make_node("Identity", ["go"], ["go2"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("s", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go2", TensorProto.BOOL, []),
            helper.make_tensor_value_info("s2", TensorProto.FLOAT, None),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["times", "whether", "x"], ["y"], body=body)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch"])],
        [numpy_helper.from_array(np.array(3), "times"), numpy_helper.from_array(np.array(True), "whether")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    came = open_exact(model)({"x": np.array([1.0], np.float32)})["y"]
    assert came.dtype == np.float64
    assert abs(came[0] - 1.0 - 3 * float(np.float32(0.1))) < 1e-15
