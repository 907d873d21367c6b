from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from deploy.contract import Bundle
from deploy.errors import Refused
from deploy.runtimes import open_onnxruntime

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


@pytest.mark.gpu
def test_cuda_answers_as_the_cpu(graph: Path) -> None:
    image = np.random.default_rng(0).integers(0, 17, (9, 1, 8, 8)).astype(np.uint8)
    answers = [open_onnxruntime(graph, device)({"image": image})["logits"] for device in ("cpu", "cuda")]
    np.testing.assert_allclose(answers[1], answers[0], atol=1e-4)
