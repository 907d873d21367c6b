"""The example application, on the real network: what it shows is what the network answers."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import NAME, ROOT
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from played import play

from deploy.contract import Bundle, load_answers, load_examples
from deploy.engines import build_engines
from deploy.errors import Refused
from deploy.jetson import example
from deploy.jetson.example import classifier, fit, image_input, open_network, show
from deploy.runtimes import open_onnxruntime
from deploy.targets import engine_targets
from pipeline.own_images import _pixels

UINT8 = np.dtype(np.uint8)
BLOCKED = """
import runpy, sys
for name in ("torch", "onnx", "dvc", "tqdm", "yaml", "scipy", "PIL", "cv2", "pipeline", "models"):
    sys.modules[name] = None
sys.path.insert(0, "")  # as for `python3 example.py`
runpy.run_path("example.py", run_name="__main__")
"""
HOST = {"gpus": [{"name": "Orin", "compute_capability": "8.7", "driver": "1"}], "gpu_error": ""}
NO_GPU = {"gpus": [], "gpu_error": "there is no nvidia-smi"}
LINE = r"(.+): (\d) \d+%, [\d.]+ ms \| [\d.]+ frames a second, p50 [\d.]+ ms, p99 [\d.]+ ms"


@pytest.fixture(scope="module")
def digits(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle's own test digits as .pgm, and a torn one among them."""
    folder = tmp_path_factory.mktemp("digits")
    for i, image in enumerate(load_examples(bundle, "test")["image"]):
        (folder / f"{i:03}.pgm").write_bytes(b"P5 8 8 16\n" + image.tobytes())
    (folder / "100-torn.pgm").write_bytes(b"P5 8 8 16\n123")
    return folder


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Runs the program in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(example, "describe", lambda: NO_GPU)

    def run(*words: object) -> None:
        monkeypatch.setattr(sys, "argv", ["example.py", *map(str, words)])
        example.main()

    yield run


def shown(out: str) -> dict[str, int]:
    """Frame -> the class that its line says."""
    return {found[1]: int(found[2]) for line in out.splitlines() if (found := re.fullmatch(LINE, line))}


def test_the_classes_shown_are_the_networks_in_a_folder_of_its_own(
    bundle: Bundle, digits: Path, tmp_path: Path
) -> None:
    """Laid out as the kit is, with numpy and a runtime alone."""
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "deploy" / "jetson" / "example.py", tmp_path)
    words = [str(bundle.folder.resolve()), "--frames", str(digits)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", BLOCKED, *words],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = load_answers(bundle, "float32")["logits"].argmax(1)
    assert shown(done.stdout) == {f"{i:03}.pgm": answer for i, answer in enumerate(answers)}
    assert f"{NAME} by onnxruntime-cpu-fp32: " in done.stdout
    assert re.search(r"^frames: 900 in [\d.]+ s; of the last 100: .* p99 ", done.stdout, re.MULTILINE)
    assert "100-torn.pgm: cannot be read" in done.stderr
    assert "no engines in measured/engines/gorner_digits: `python3 run.py` builds them" in done.stderr


def test_without_a_source_it_shows_the_bundles_own_test_images(bundle: Bundle, asked: Any, capsys: Any) -> None:
    asked(bundle.folder, "--count", 20)
    answers = load_answers(bundle, "float32")["logits"].argmax(1)
    labels = load_examples(bundle, "test")["label"]
    out = capsys.readouterr().out
    assert shown(out) == {f"test {i} ({labels[i]})": answers[i] for i in range(20)}
    assert "frames: 20 in " in out and "of the last 20: " in out


def test_the_score_is_the_softmax_of_the_networks_answer(bundle: Bundle) -> None:
    run = open_onnxruntime(bundle.path(bundle.graphs["fp32"]["network"]))
    classify = classifier(bundle, image_input(bundle), run)
    for image in load_examples(bundle, "test")["image"][:30]:
        shares = np.exp(run({"image": image[None]})["logits"][0].astype(np.float64))
        shares /= shares.sum()
        label, score = classify(image.transpose(1, 2, 0))
        assert label == str(shares.argmax()) and score == pytest.approx(shares.max(), abs=1e-12)


def test_an_answer_that_is_not_finite_has_no_class(bundle: Bundle) -> None:
    classify = classifier(bundle, image_input(bundle), lambda _: {"logits": np.array([[1.0, np.nan]])})
    with pytest.raises(Refused, match="the network's answer is not finite"):
        classify(np.zeros((8, 8, 1), np.uint8))


def test_values_that_the_network_does_not_know_are_told_once(bundle: Bundle, capsys: Any) -> None:
    classify = classifier(bundle, image_input(bundle), lambda _: {"logits": np.eye(10)[:1]})
    for value in (16, 30, 255, 255):
        classify(np.full((8, 8, 1), value, np.uint8))
    assert capsys.readouterr().out == ("values to 255, and the network knows 16 as its greatest: scale them in `fit`\n")


sizes = st.integers(1, 60)


@given(sizes, sizes, st.integers(1, 24), st.integers(1, 24), st.sampled_from([1, 3]), st.integers(0, 99))
def test_a_frame_is_made_ready_as_images_are_for_training(
    tmp_path_factory: pytest.TempPathFactory, h: int, w: int, height: int, width: int, colours: int, seed: int
) -> None:
    """Pillow rounds to whole values between its steps: once for grey, once a direction."""
    frame = np.random.default_rng(seed).integers(0, 256, (h, w, colours), dtype=np.uint8)
    file = tmp_path_factory.getbasetemp() / "trained.png"
    Image.fromarray(frame[:, :, 0] if colours == 1 else frame).save(file)
    for channels in (1, 3):
        trained = _pixels(file, channels == 1, (height, width)).astype(int)
        ready = fit(frame, (channels, height, width), UINT8)
        assert ready.shape == (channels, height, width) and ready.dtype == np.uint8
        np.testing.assert_allclose(ready, trained, rtol=0, atol=2)


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3, 5]), st.integers(0, 9))
def test_a_frame_of_the_right_size_is_taken_as_it_is(h: int, w: int, channels: int, seed: int) -> None:
    frame = np.random.default_rng(seed).integers(0, 256, (h, w, channels), dtype=np.uint8)
    np.testing.assert_array_equal(fit(frame, (channels, h, w), UINT8), frame.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("frame", "dtype", "said"),
    [
        (np.zeros((8, 8, 4)), "uint8", "4 channels, expected 1. Bring frames that have them."),
        (np.full((8, 8, 1), 256), "uint8", "values 256 to 256, expected uint8. Scale them."),
        (np.full((8, 8, 1), -1), "uint8", "values -1 to -1, expected uint8"),
        (np.full((8, 8, 1), np.nan), "uint8", "values nan to nan, expected uint8"),
        (np.full((8, 8, 1), np.inf), "float32", "values inf to inf, expected float32. Scale them."),
        (np.full((8, 8, 1), 1e5), "float16", "values 100000.0 to 100000.0, expected float16. Scale them."),
    ],
)
def test_a_frame_that_cannot_fit_is_left_out_and_the_next_served(
    bundle: Bundle, capsys: Any, frame: np.ndarray, dtype: str, said: str
) -> None:
    image = image_input(bundle) | {"dtype": dtype}
    classify = classifier(bundle, image, lambda _: {"logits": np.eye(10)[:1]})
    show(classify, iter([("odd", frame), ("good", np.zeros((8, 8, 1)))]))
    out, err = capsys.readouterr()
    assert f"left out: odd: {said}" in err and "\nframes: 1 in " in out and out.startswith("good: 0 ")


def test_ctrl_c_and_a_camera_that_stops_leave_a_summary(
    bundle: Bundle, asked: Any, monkeypatch: Any, capsys: Any
) -> None:
    def ends(error: BaseException) -> Any:
        yield "camera 0", np.zeros((480, 640, 3), np.uint8)
        raise error

    monkeypatch.setattr(example, "camera_frames", lambda number: ends(KeyboardInterrupt()))
    asked(bundle.folder, "--camera", 0)
    assert "\nframes: 1 in " in capsys.readouterr().out
    monkeypatch.setattr(example, "camera_frames", lambda number: ends(Refused("camera 0: gives no more frames.")))
    with pytest.raises(SystemExit, match=r"^example: camera 0: gives no more frames\.$"):
        asked(bundle.folder, "--csi")
    assert "\nframes: 1 in " in capsys.readouterr().out


def test_readings_are_of_the_last_hundred_frames(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """By a clock of our own: a wait of 8 s, then 1 s of work; at frame 200 the work becomes 2 s."""
    now = [0.0]
    monkeypatch.setattr(example.time, "perf_counter", lambda: now[0])

    def frames() -> Any:
        for i in range(300):
            now[0] += 8
            yield f"{i}", np.array(1 if i < 200 else 2)

    def classify(work: np.ndarray) -> tuple[str, float]:
        now[0] += float(work)
        return "7", 1.0

    show(classify, frames())
    lines = capsys.readouterr().out.splitlines()
    assert lines[199].endswith("7 100%, 1000.00 ms | 0.1 frames a second, p50 1000.00 ms, p99 1000.00 ms")
    assert lines[249].endswith("p50 1500.00 ms, p99 2000.00 ms")
    assert lines[299].endswith("p50 2000.00 ms, p99 2000.00 ms")
    assert lines[301] == "frames: 300 in 2800.0 s; of the last 100: " + lines[299].partition(" | ")[2]


def test_a_network_that_takes_no_image_is_refused_by_name(bundle: Bundle) -> None:
    text = [{"name": "text", "dtype": "uint8", "shape": ["batch", "time"]}]
    with pytest.raises(
        Refused, match=rf"{NAME}: a language_model network that takes text uint8 \(batch, time\); .* Name a bundle of"
    ):
        image_input(replace(bundle, task="language_model", io={"network": {"inputs": text, "outputs": []}}))
    for inputs in (text, [*image_inputs(bundle), *text]):
        with pytest.raises(Refused, match="a classification network that takes "):
            image_input(replace(bundle, io={"network": {"inputs": inputs, "outputs": []}}))
    assert image_input(bundle)["name"] == "image"


def image_inputs(bundle: Bundle) -> list[dict[str, Any]]:
    return bundle.io["network"]["inputs"]


def test_free_rows_are_those_that_are_served_best(bundle: Bundle) -> None:
    taken: list[tuple[int, ...]] = []

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        taken.append(inputs["image"].shape)
        return {"logits": np.eye(10)[:1]}

    free = image_input(bundle) | {"shape": ["batch", 1, "time", 8]}
    classifier(replace(bundle, ranges={"time": (1, 6, 1024)}), free, run)(np.zeros((5, 9, 3)))
    assert set(taken) == {(1, 1, 6, 8)}


class Board:
    """Engines that answer as the fp32 graph does, built as ``run.py`` builds them."""

    def __init__(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.bundle, self.folder = bundle, folder / "measured" / "engines" / NAME
        self.trt, self.runtime, self.answered = play(bundle, monkeypatch)
        monkeypatch.setattr(example, "describe", lambda: HOST)
        monkeypatch.chdir(folder)

    def build(self) -> None:
        wanted = [target for target in engine_targets() if target.module == "tensorrt"]
        options = {"level": None, "workspace_mib": None, "refit": False}
        build_engines(self.bundle, HOST, wanted, options, self.folder, self.folder.parent.parent / "kept")

    def classes(self) -> list[str]:
        classify = classifier(self.bundle, image_input(self.bundle), open_network(self.bundle, None))
        return [classify(i.transpose(1, 2, 0))[0] for i in load_examples(self.bundle, "test")["image"][:40]]


@pytest.fixture
def board(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Board:
    return Board(bundle, monkeypatch, tmp_path)


def test_the_kept_engine_answers_where_there_is_one(board: Board, capsys: Any) -> None:
    board.build()
    capsys.readouterr()
    answers = load_answers(board.bundle, "float32")["logits"][:40].argmax(1)
    assert board.classes() == [str(answer) for answer in answers]
    assert capsys.readouterr() == (
        f"{NAME} by tensorrt-fp16: measured/engines/{NAME}/tensorrt-fp16.network.engine\n",
        "",
    )
    assert len(board.answered) >= 40 and not board.runtime.refused


def test_engines_are_found_where_run_py_was_told_to_write(
    board: Board, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    board.build()
    board.folder.parent.parent.rename("elsewhere")
    words = ["example.py", str(board.bundle.folder.resolve()), "--count", "1", "--out", "elsewhere"]
    monkeypatch.setattr(sys, "argv", words)
    example.main()
    assert f"by tensorrt-fp16: elsewhere/engines/{NAME}/tensorrt-fp16.network.engine" in capsys.readouterr().out


def test_what_cannot_be_opened_is_passed_over_with_its_reason(board: Board, capsys: Any) -> None:
    board.build()
    (board.folder / "tensorrt-fp16.network.engine").write_bytes(b"torn")
    board.classes()
    out, err = capsys.readouterr()
    assert "by tensorrt-fp32: " in out and "not tensorrt-fp16: " in err and "changed since it was built" in err
    board.trt.__version__ = "10.7.0"
    runs = len(board.answered)
    board.classes()
    out, err = capsys.readouterr()
    assert "by onnxruntime-cpu-fp32: " in out and "not tensorrt-fp32: " in err and "reads its own engines only" in err
    assert len(board.answered) == runs


def test_an_engine_that_is_named_is_the_one_or_none(board: Board, capsys: Any) -> None:
    board.build()
    capsys.readouterr()
    int8 = Path("measured/engines") / NAME / "tensorrt-int8.network.engine"
    open_network(board.bundle, int8)
    assert capsys.readouterr().out == f"{NAME} by tensorrt-int8: {int8}\n"
    int8.write_bytes(b"")
    with pytest.raises(Refused, match=rf"^{int8}: nothing that can run it here\. `python3 run\.py` builds engines"):
        open_network(board.bundle, int8)
    assert "not tensorrt-int8: " in capsys.readouterr().err
    with pytest.raises(Refused, match="other.engine: nothing that can run it here"):
        open_network(board.bundle, int8.with_name("other.engine"))


def test_without_any_runtime_it_says_what_is_missing(
    bundle: Bundle, asked: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SystemExit, match=f"^example: {NAME}: nothing that can run it here"):
        asked(bundle.folder)
    assert "not onnxruntime-cpu-fp32: " in capsys.readouterr().err
