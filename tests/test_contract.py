import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.contract import Bundle, open_bundle
from deploy.errors import Refused
from deploy.run import Run
from deploy.state import from_zero
from deploy.tasks import answer_all, load_task
from pipeline.bundle import served_ranges


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle.folder, tmp_path / "gorner_digits"))


def edit(folder: Path, **changes: object) -> None:
    file = folder / "contract.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_the_bundle_has_all_that_a_target_reads(bundle: Bundle) -> None:
    assert bundle.task == "classification"
    assert bundle.classes == tuple("0123456789")
    assert sorted(bundle.graphs) == ["fp16", "fp32", "int8-cpu", "int8-tensorrt"]
    assert bundle.refused == {}
    contract = json.loads((bundle.folder / "contract.json").read_text())
    for link in (contract["data"]["sha256"], contract["weights"]["sha256"], *bundle.graph_sha256("fp32").values()):
        assert len(link) == 64
    listed = {bundle.folder / file for file in bundle.files} | {bundle.folder / "contract.json"}
    assert {path for path in bundle.folder.rglob("*") if path.is_file()} == listed
    sizes = [bundle.files[bundle.graphs[p]["network"]]["bytes"] for p in ("int8-cpu", "fp16", "fp32")]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize(
    "file", ["graphs/fp32/network.onnx", "graphs/int8-cpu/network.onnx", "examples/test.npz", "answers/float64.npz"]
)
def test_a_tampered_file_is_named(copy: Path, file: str) -> None:
    data = bytearray((copy / file).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / file).write_bytes(data)
    with pytest.raises(
        Refused, match=rf"{file}: changed since the bundle was made: SHA-256 .*dvc checkout --force .*gorner_digits"
    ):
        open_bundle(copy)


def test_a_missing_file_is_named(copy: Path) -> None:
    (copy / "ranges.json").unlink()
    with pytest.raises(Refused, match=r"ranges\.json: missing, though contract\.json lists it"):
        open_bundle(copy)


def test_a_contract_of_another_format_is_refused(copy: Path) -> None:
    for other in (1, 3):
        edit(copy, format=other)
        with pytest.raises(
            Refused,
            match=rf"format {other}, but this version of Plumbline reads format 2\. Make the bundle again with `dvc repro`",
        ):
            open_bundle(copy)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 2}', '{"format": 2, "files": 3}'])
def test_a_damaged_contract_is_refused(copy: Path, content: str) -> None:
    (copy / "contract.json").write_text(content)
    with pytest.raises(Refused, match=r"contract\.json: (damaged|incomplete|format)"):
        open_bundle(copy)


@pytest.mark.parametrize(
    "ranges", [{}, {"batch": [1, 8]}, {"batch": [1, 0, 8]}, {"batch": [0, 8, 64]}, {"batch": 8}, None]
)
def test_an_axis_without_a_range_is_refused(copy: Path, ranges: object) -> None:
    edit(copy, ranges=ranges)
    with pytest.raises(Refused, match=r"contract\.json: incomplete or damaged .*dvc checkout --force"):
        open_bundle(copy)


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "graphs/../../outside"])
def test_a_path_cannot_leave_the_bundle(copy: Path, path: str) -> None:
    (copy.parent / "outside").write_text("x")
    contract = json.loads((copy / "contract.json").read_text())
    edit(copy, files=contract["files"] | {path: {"sha256": "0" * 64, "bytes": 1}})
    with pytest.raises(Refused, match="leaves the bundle"):
        open_bundle(copy)


def test_a_link_out_of_the_bundle_is_refused(copy: Path) -> None:
    file = copy / "ranges.json"
    shutil.move(file, copy.parent / "ranges.json")
    file.symlink_to(copy.parent / "ranges.json")
    with pytest.raises(Refused, match="leaves the bundle"):
        open_bundle(copy)


@pytest.mark.parametrize("name", ["graphs/fp16/network.onnx", "answers/float64.npz", "examples/test.npz"])
def test_a_file_without_a_hash_is_refused(copy: Path, name: str) -> None:
    contract = json.loads((copy / "contract.json").read_text())
    edit(copy, files={file: entry for file, entry in contract["files"].items() if file != name})
    with pytest.raises(Refused, match=f"lists no hash for {name}"):
        open_bundle(copy)


def tensor(name: str, dtype: str, *shape: int | str) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": list(shape)}


LANGUAGE = {
    "network": {
        "inputs": [tensor("text", "uint8", "batch", "time"), tensor("state", "float32", "batch", 2)],
        "outputs": [tensor("logits", "float32", "batch", "time", 256), tensor("next_state", "float32", "batch", 2)],
    }
}
SOURCE = tensor("source", "uint8", "batch", "time")
STATE, MEMORY = tensor("state", "float32", "batch", 2), tensor("memory", "float32", "batch", "time", 3)
TRANSLATION = {
    "encoder": {"inputs": [SOURCE], "outputs": [MEMORY, STATE]},
    "step": {
        "inputs": [tensor("character", "uint8", "batch"), MEMORY, SOURCE, STATE],
        "outputs": [tensor("logits", "float32", "batch", 256), tensor("next_state", "float32", "batch", 2)],
    },
}
TAGGING = {
    "network": {
        "inputs": [tensor("text", "uint8", "batch", "time")],
        "outputs": [tensor("logits", "float32", "batch", "time", 3)],
    }
}


def texts(lengths: list[int]) -> np.ndarray:
    """Texts ``(n, longest)`` of those lengths, 0 after the end."""
    return (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.uint8) * 65


def examples(task: str, lengths: list[int]) -> dict[str, np.ndarray]:
    if task == "translation":
        return {"source": texts(lengths), "target": texts([4] * len(lengths))}
    text = texts(lengths)
    return {"text": text} if task == "language_model" else {"text": text, "token": np.zeros_like(text)}


def refusing(io: dict[str, Any], ranges: dict[str, list[int]]) -> Run:
    """A graph that answers noise, and fails on a size that its engine would not take."""

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        sizes = {}
        for told in io["inputs"]:
            for axis, size in zip(told["shape"], inputs[told["name"]].shape):
                if isinstance(axis, str):
                    assert ranges[axis][0] <= size <= ranges[axis][2], (axis, size)
                    sizes[axis] = size
        noise = np.random.default_rng(len(sizes))
        return {
            told["name"]: noise.normal(size=[sizes.get(n, n) for n in told["shape"]]).astype(told["dtype"])
            for told in io["outputs"]
        }

    return run


@settings(max_examples=15, deadline=None)
@given(
    name=st.sampled_from(["language_model", "tagging", "translation"]),
    calib=st.lists(st.integers(18, 120), min_size=1, max_size=4),
    test=st.lists(st.integers(18, 120), min_size=1, max_size=70),
)
def test_every_call_of_a_task_is_inside_the_ranges(name: str, calib: list[int], test: list[int]) -> None:
    io = {"language_model": LANGUAGE, "tagging": TAGGING, "translation": TRANSLATION}[name]
    task, told = load_task(name), examples(name, test)
    ranges = served_ranges(task, io, examples(name, calib), told)
    assert ranges["batch"] == [1, 8, 64]
    served = 1 if name == "language_model" else sorted(test)[len(test) // 2]
    assert ranges["time"] == [1, served, 1024]
    runs = {graph: from_zero(refusing(tensors, ranges), tensors) for graph, tensors in io.items()}
    task.answer(runs, examples(name, calib))
    answer_all(task, runs, told)
    for request in task.requests(runs, told):
        request()


def test_a_long_text_and_an_axis_of_another_name_widen_the_range() -> None:
    told = examples("tagging", [2000, 30])
    assert served_ranges(load_task("tagging"), TAGGING, told, told)["time"] == [1, 2000, 2000]
    image = {"image": np.zeros((3, 1, 6, 9), np.uint8), "label": np.zeros(3, np.int64)}
    io = {
        "network": {
            "inputs": [tensor("image", "uint8", "batch", 1, "height", 9)],
            "outputs": [tensor("logits", "float32", "batch", 10)],
        }
    }
    assert served_ranges(load_task("classification"), io, image, image) == {"batch": [1, 8, 64], "height": [6, 6, 6]}
