"""The float64 oracle of a graph, against PyTorch's float64"""

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

from deploy.errors import Refused
from deploy.runtimes import open_onnxruntime
from pipeline.exact import open_exact


def one_node(kind: str, shape: list[int], **attributes: object) -> onnx.ModelProto:
    node = helper.make_node(kind, ["x"], ["y"], **attributes)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    return helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=[helper.make_opsetid("", 18)])


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["MaxPool", "AveragePool"]),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padded=st.booleans(),
    counted=st.booleans(),
    sizes=st.tuples(st.integers(4, 9), st.integers(4, 9)),
)
def test_pools_are_pytorchs(
    kind: str, kernel: tuple, strides: tuple, padded: bool, counted: bool, sizes: tuple
) -> None:
    pads = [k // 2 if padded else 0 for k in kernel]
    extra = {"count_include_pad": int(counted)} if kind == "AveragePool" else {}
    model = one_node(kind, [2, *sizes], kernel_shape=kernel, strides=strides, pads=[*pads, *pads], **extra)
    x = np.random.default_rng(0).normal(size=(3, 2, *sizes))
    if kind == "MaxPool":
        expected = functional.max_pool2d(torch.from_numpy(x), kernel, strides, tuple(pads))
    else:
        expected = functional.avg_pool2d(torch.from_numpy(x), kernel, strides, tuple(pads), count_include_pad=counted)
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


def test_a_rare_pool_and_an_unknown_operator_are_refused() -> None:
    x = {"x": np.zeros((1, 1, 5, 5), np.float32)}
    with pytest.raises(Refused, match="float64: NotImplementedError: a pool with ceil_mode or dilations"):
        open_exact(one_node("MaxPool", [1, 5, 5], kernel_shape=[2, 2], ceil_mode=1))(x)
    model = one_node("Nothing", [1, 5, 5])
    with pytest.raises(Refused, match="float64: "):
        open_exact(model)(x)


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
