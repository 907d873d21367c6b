"""Start your own application here: each frame of a camera or a folder through a bundle's network, and its class shown.

    python3 example.py bundles/gorner_digits                    the bundle's own test images
    python3 example.py bundles/gorner_digits --frames FOLDER    or --camera 0 (USB), or --csi

The engine that `run.py` built and measured here is what answers; where there is none, ONNX Runtime on the processor.
"""

import argparse
import itertools
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from deploy.contract import Bundle, load_examples, open_bundle
from deploy.errors import Refused
from deploy.files import read_json
from deploy.host import describe
from deploy.jetson.board import describe_board
from deploy.jetson.frames import camera_frames, folder_frames
from deploy.jetson.kit import on_board
from deploy.run import Run
from deploy.targets import Target, dla_targets, engine_targets, targets
from deploy.tasks import load_task

OUT = Path("measured")  # where `run.py` writes, unless it is told otherwise
BEST = ("tensorrt-fp16", "tensorrt-fp32", "onnxruntime-cpu-fp32")  # int8 by `--engine`, once the host has judged it
LAST = 100  # frames that the readings are of
WARM_UP = 3  # calls before the first frame: an engine prepares itself in them
GREY = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green, blue: ITU-R BT.601

Classify = Callable[[np.ndarray], tuple[str, float]]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Show what a bundle's network makes of frames.")
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="a folder with a contract.json")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--frames", metavar="FOLDER", type=Path, help="images, in the order of their names")
    source.add_argument("--camera", metavar="N", type=int, help="a USB camera, N of /dev/videoN")
    source.add_argument("--csi", action="store_true", help="the CSI camera")
    parser.add_argument("--engine", metavar="FILE", type=Path, help="one that run.py built (the best in its folder)")
    parser.add_argument("--out", metavar="FOLDER", type=Path, default=OUT, help="as it was given to run.py (measured)")
    parser.add_argument("--count", metavar="N", type=int, help="end after so many frames")
    asked = parser.parse_args()
    try:
        bundle = open_bundle(asked.bundle)
        image = image_input(bundle)
        if asked.frames:
            frames = folder_frames(asked.frames)
        elif asked.csi or asked.camera is not None:
            frames = camera_frames(asked.camera)
        else:
            frames = test_frames(bundle, image["name"])
        classify = classifier(bundle, image, open_network(bundle, asked.engine, asked.out))
        show(classify, itertools.islice(frames, asked.count))
    except Refused as refused:
        sys.exit(f"example: {refused}")
    except KeyboardInterrupt:
        pass  # the summary stands above


def show(classify: Classify, frames: Iterable[tuple[str, np.ndarray]]) -> None:
    """Print a line for each frame, and a summary however they end.

    Latency is from the frame in memory to its class; frames a second also count the waiting for the next frame.
    """
    latency_ms: deque[float] = deque(maxlen=LAST)
    ended = deque([time.perf_counter()], maxlen=LAST + 1)
    begun, count, reading = ended[0], 0, ""
    try:
        for name, frame in frames:
            start = time.perf_counter()
            try:
                label, score = classify(frame)
            except Refused as refused:
                print(f"left out: {name}: {refused}", file=sys.stderr)
                continue
            ended.append(time.perf_counter())
            latency_ms.append(1e3 * (ended[-1] - start))
            count += 1
            rate = (len(ended) - 1) / (ended[-1] - ended[0])
            p50, p99 = np.percentile(latency_ms, [50, 99])
            reading = f"{rate:.1f} frames a second, p50 {p50:.2f} ms, p99 {p99:.2f} ms"
            print(f"{name}: {label} {score:.0%}, {latency_ms[-1]:.2f} ms | {reading}")
    finally:
        seconds = time.perf_counter() - begun
        print(f"\nframes: {count} in {seconds:.1f} s; of the last {len(latency_ms)}: {reading or 'nothing to tell'}")


def classifier(bundle: Bundle, image: dict[str, Any], network: Run) -> Classify:
    """A function: a frame ``(height, width, channels)`` to its class and the class's share of the softmax, 0 to 1.

    Args:
        image: the network's input, as the contract has it.
    """
    name, dtype, task = image["name"], np.dtype(image["dtype"]), load_task(bundle.task)
    channels, height, width = (bundle.ranges[n][1] if isinstance(n, str) else n for n in image["shape"][1:])
    shape = channels, height, width
    greatest = load_examples(bundle, "calib")[name].max()
    told = False
    for _ in range(WARM_UP):
        network({name: np.zeros((1, *shape), dtype)})

    def classify(frame: np.ndarray) -> tuple[str, float]:
        nonlocal told
        x = fit(frame, shape, dtype)
        if x.max() > 2.0 * greatest and not told:
            print(f"values to {x.max()}, and the network knows {greatest} as its greatest: scale them in `fit`")
            told = True
        answers = network({name: x[None]})
        (decoded,) = task.decode(answers)
        if decoded < 0:
            raise Refused("the network's answer is not finite")
        logits = answers["logits"][0].astype(np.float64)
        softmax = np.exp(logits - logits.max())
        return bundle.classes[decoded], float(softmax[decoded] / softmax.sum())

    return classify


def fit(frame: np.ndarray, shape: tuple[int, int, int], dtype: "np.dtype[Any]") -> np.ndarray:
    """``frame`` ``(height, width, channels)`` as the network takes it: ``shape``, ``(channels, height, width)``.

    As a folder of images is made ready for training: it is resized to cover the input, bilinear over all pixels, and
    the centre cut out; colour becomes grey, or grey is repeated. Values are not scaled: the network does that itself.

    Raises:
        Refused: other channels, or values that ``dtype`` cannot hold.
    """
    channels, height, width = shape
    old_height, old_width, colours = frame.shape
    if colours != channels and {colours, channels} != {1, 3}:
        raise Refused(f"{colours} channels, expected {channels}. Bring frames that have them.")
    if height * old_width >= width * old_height:  # the height decides
        whole = (height, old_width * height // old_height)
    else:
        whole = (old_height * width // old_width, width)
    rows, row_weights = resized(old_height, whole[0], height)
    columns, column_weights = resized(old_width, whole[1], width)
    x = frame[rows, columns]
    holds = np.iinfo(dtype) if dtype.kind in "ui" else np.finfo(dtype)
    if not (holds.min <= x.min() and x.max() <= holds.max):
        raise Refused(f"values {x.min()} to {x.max()}, expected {dtype}. Scale them.")
    x = x.astype(np.float32)
    if colours > channels:
        x = x @ GREY[:, None]
    x = np.tensordot(row_weights, x, (1, 0))  # (height, old width, colours)
    x = np.tensordot(x, column_weights, (1, 1)).transpose(1, 0, 2)  # (colours, height, width)
    x = np.rint(x) if dtype.kind in "ui" else x
    return np.broadcast_to(x, shape).astype(dtype)


@lru_cache
def resized(old: int, whole: int, cut: int) -> tuple[slice, np.ndarray]:
    """``old`` pixels resized to ``whole``, the middle ``cut`` kept: which it takes, and weights ``(cut, taken)``."""
    scale = old / whole
    centres = scale * (np.arange(cut) + round((whole - cut) / 2) + 0.5)
    away = np.abs(np.arange(old) + 0.5 - centres[:, None])
    weights = np.maximum(0, 1 - away / max(1, scale))
    used = np.flatnonzero(weights.any(axis=0))
    taken = slice(int(used[0]), int(used[-1]) + 1)
    return taken, (weights[:, taken] / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def image_input(bundle: Bundle) -> dict[str, Any]:
    """The contract's input ``(batch, channels, height, width)`` of a network that classifies images.

    Raises:
        Refused: the network takes something else.
    """
    inputs = bundle.io.get("network", next(iter(bundle.io.values())))["inputs"]
    if bundle.task == "classification" and len(inputs) == 1 and len(inputs[0]["shape"]) == 4:
        return inputs[0]
    takes = ", ".join(
        f"{tensor['name']} {tensor['dtype']} ({', '.join(map(str, tensor['shape']))})" for tensor in inputs
    )
    raise Refused(
        f"{bundle.recipe}: a {bundle.task} network that takes {takes}; this example is for classification of images, "
        f"(batch, channels, height, width). Name a bundle of one."
    )


def test_frames(bundle: Bundle, name: str) -> Iterator[tuple[str, np.ndarray]]:
    """The bundle's own test images, each named with its label."""
    examples = load_examples(bundle, "test")
    for i, (image, label) in enumerate(zip(examples[name], examples["label"])):
        yield f"test {i} ({bundle.classes[label]})", image.transpose(1, 2, 0)


def open_network(bundle: Bundle, engine: Path | None, out: Path = OUT) -> Run:
    """The best that is here, opened; what is passed over is told with its reason.

    Args:
        engine: this one and no other.
        out: where `run.py` wrote; the engines of a recipe are in a folder of it.

    Raises:
        Refused: there is none that can be opened.
    """
    folder = engine.parent if engine else out / "engines" / bundle.recipe
    built = read_json(folder / "build.json") if (folder / "build.json").is_file() else {}
    if not built:
        print(f"no engines in {folder}: `python3 run.py` builds them", file=sys.stderr)
    wanted = [target for target in (*engine_targets(), *dla_targets()) if target.name in built]
    host = on_board(describe(), describe_board())
    rows = {row.name: row for row in targets(bundle, host, folder, built, wanted)}
    named = [name for name, row in rows.items() if engine in row.files.values()]
    for name in named if engine else [name for name in BEST if name in rows]:
        network, reason = opened(rows[name])
        if network:
            print(f"{bundle.recipe} by {name}: {rows[name].files['network']}")
            return network
        print(f"not {name}: {reason}", file=sys.stderr)
    raise Refused(f"{engine or bundle.recipe}: nothing that can run it here. `python3 run.py` builds engines here.")


def opened(target: Target) -> tuple[Run | None, str]:
    """The network, or why it cannot be opened."""
    if target.reason:
        return None, target.reason
    try:
        return target.open()["network"], ""
    except (Refused, ImportError) as error:
        return None, str(error)


if __name__ == "__main__":
    main()
