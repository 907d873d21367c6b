import json
import shutil
from pathlib import Path

import pytest

from deploy.contract import Bundle, open_bundle
from deploy.errors import Refused


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
    edit(copy, format=2)
    with pytest.raises(Refused, match="format 2, but this version of Plumbline reads format 1"):
        open_bundle(copy)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', '{"format": 1, "files": 3}'])
def test_a_damaged_contract_is_refused(copy: Path, content: str) -> None:
    (copy / "contract.json").write_text(content)
    with pytest.raises(Refused, match=r"contract\.json: (damaged|incomplete|format)"):
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
