"""Emulated processors, a 64-bit Arm and an x86 without VNNI: what is measured there is what is measured here

50 units of each recipe; those of the language model, which an emulator runs for minutes, are cut to their first 96
characters: what it says to these does not hang on the rest, and they are two chunks with a state between them.
"""

import dataclasses
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any, NoReturn

import emulated
import numpy as np
import onnx
import pytest
import yaml
from conftest import ROOT
from emulated import arm, debian, fetch_wheels, haswell, lacking, unpack
from onnx import TensorProto, helper

from deploy.contract import load_arrays, open_bundle, pack_arrays
from deploy.errors import Refused
from deploy.files import read_json, sha256, write_bytes, write_json
from deploy.measurement import read_returned
from pipeline.kit import TOP, kit
from pipeline.recipe import load_project

RECIPES = list(yaml.safe_load((ROOT / "params.yaml").read_text())["recipes"])
ON_ARM = ["gorner_digits", "gru_python", "dates_attention"]  # an image, a state, two graphs
IN_INT8 = [name for name in RECIPES if name not in ("gru_python", "dates_attention")]  # small GRUs are refused it
UNITS, LONGEST = 50, 96
# Of a sum of nats, which hangs on rounding: about ten times what was seen. What is counted is equal. In int8 a value between
# two steps may go to the other one; ONNX Runtime computes fp16 in fp32 on x86, in fp16 itself on Arm.
RELATIVE = {"fp32": 1e-6, "int8-cpu": 2e-4, "fp16": 1e-2}
FEW_ROUNDS = """
import runpy
from deploy import rounds
rounds.ROUNDS = rounds.ROUNDS_LEAST = 3
rounds.WARM_UP = 1
"""
PROGRAM = FEW_ROUNDS + 'runpy.run_module("deploy.measure", run_name="__main__", alter_sys=True)'
KIT = FEW_ROUNDS + 'runpy.run_path("run.py", run_name="__main__")'
ONES = """
import sys
import numpy as np
from deploy.runtimes import open_onnxruntime
print(open_onnxruntime(sys.argv[1])({"x": np.full((1, 64), 255, np.uint8)})["y"].ravel().tolist())
"""
Measured = dict[str, dict[str, Any]]  # recipe -> measurement

pytestmark = [pytest.mark.emulated, pytest.mark.slow]


def measure_on(machine: list[str], bundles: list[Path], out: Path) -> Measured:
    """Start the program on a machine as a person would, but for the rounds: an emulator's times tell nothing."""
    said = started(machine, PROGRAM, *map(str, bundles), "--out", str(out))
    (file,) = out.glob("*.json")
    assert file.name in said
    return {measurement["recipe"]: measurement for measurement in read_returned(file)}


def started(machine: list[str], program: str, *words: str, folder: Path = ROOT) -> str:
    bare = {"PATH": "", "OMP_NUM_THREADS": "1"}  # this machine's GPU is none of the other's
    asked = [*machine, "-B", "-c", program, *words]
    done = subprocess.run(
        asked, cwd=folder, env=bare, capture_output=True, text=True, timeout=900
    )  # minutes, on a slow host
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def absent(why: object) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"{why} (CI has it)", pytrace=False)
    pytest.skip(str(why))


def cut(bundle: Path, folder: Path) -> Path:
    """A copy of the first units, of texts their beginnings, of a language model without its long run: minutes here."""
    shutil.copytree(bundle, folder)
    contract = read_json(folder / "contract.json")
    longest = LONGEST if contract["task"] in ("language_model", "tagging") else None
    for file in ("examples/test.npz", "answers/float32.npz", "answers/float64.npz"):
        arrays = {name: array[:UNITS] for name, array in load_arrays(folder / file).items() if name != "drift"}
        shorter = {name: array[:, :longest] if array.ndim > 1 else array for name, array in arrays.items()}
        write_bytes(folder / file, pack_arrays(shorter))
        contract["files"][file] = {"sha256": sha256(folder / file), "bytes": (folder / file).stat().st_size}
    write_json(folder / "contract.json", contract)
    return folder


@pytest.fixture(scope="module", autouse=True)
def emulators() -> None:
    if why := lacking():
        absent(why)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The starter set's, as `make repro` made them, cut."""
    folder = tmp_path_factory.mktemp("bundles")
    try:
        return {name: cut(open_bundle(ROOT / "build" / "bundle" / name).folder, folder / name) for name in RECIPES}
    except Refused as refused:
        absent(refused)


@pytest.fixture(scope="module")
def here(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Measured:
    return measure_on([sys.executable], list(bundles.values()), tmp_path_factory.mktemp("here"))


@pytest.fixture(scope="module")
def an_arm() -> list[str]:
    try:
        return arm()
    except Refused as refused:
        absent(refused)


@pytest.fixture(scope="module")
def a_haswell() -> list[str]:
    try:
        return haswell()
    except Refused as refused:
        pytest.skip(str(refused))  # CI may run on an Arm


@pytest.fixture(scope="module")
def on_arm(an_arm: list[str], bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """The kit itself, as it is carried to a board: unpacked, and its ``run.py`` started."""
    folder = tmp_path_factory.mktemp("arm")
    (folder / "bundle").symlink_to(next(iter(bundles.values())).parent)
    kit(dataclasses.replace(load_project(ROOT / "params.yaml"), build=folder), ON_ARM)
    (archive,) = (folder / "kit").glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    said = started(an_arm, KIT, "--units", str(UNITS), folder=folder / TOP)
    assert "This is no Jetson: the kit runs with what is here." in said
    (file,) = (folder / TOP / "measured").glob("*-trial.json")
    return {measurement["recipe"]: measurement for measurement in read_returned(file)}


@pytest.fixture(scope="module")
def on_haswell(a_haswell: list[str], bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """Where int8 could saturate: an emulator takes minutes for the others, and nothing is asked of them there."""
    return measure_on(a_haswell, [bundles[name] for name in IN_INT8], tmp_path_factory.mktemp("haswell"))


def alike(there: dict[str, Any], here: dict[str, Any], target: str) -> None:
    """The statistics of each unit: counts are equal, a language model's nats but for rounding."""
    row, same = there["targets"][target], here["targets"][target]
    assert there["n"] == here["n"] == UNITS and row["sha256"] == same["sha256"] and row["finite"]
    allowed = RELATIVE[row["precision"]] if there["task"] == "language_model" else 0.0
    np.testing.assert_allclose(row["statistics"], same["statistics"], rtol=allowed, atol=0)


@pytest.mark.parametrize("recipe", ON_ARM)
def test_on_arm_the_scores_are_this_machines(on_arm: Measured, here: Measured, recipe: str) -> None:
    there = on_arm[recipe]
    assert there["targets"].keys() == here[recipe]["targets"].keys()
    measured = [target for target, row in there["targets"].items() if not row["reason"]]
    assert len(measured) == 2 + (recipe in IN_INT8)
    for target in measured:
        alike(there, here[recipe], target)


def test_an_arm_says_what_it_is(on_arm: Measured) -> None:
    assert list(on_arm) == sorted(ON_ARM)
    for measurement in on_arm.values():
        host = measurement["host"]
        assert host["board"]["jetson"] is False and measurement["start"]["seconds"] > 0
        assert host["machine"] == "aarch64" and {"ASIMD", "ASIMDDP"} <= {*host["instruction_set"]}
        assert {*host["packages"]} == {"numpy", "onnxruntime"} and host["gpus"] == []


def test_an_x86_says_that_it_has_no_vnni(on_haswell: Measured) -> None:
    for measurement in on_haswell.values():
        instructions = measurement["host"]["instruction_set"]
        assert "AVX2" in instructions
        assert not [name for name in instructions if "AVX512" in name or "VNNI" in name or "AMX" in name]


@pytest.mark.parametrize("recipe", IN_INT8)
def test_int8_scores_the_same_without_vnni(on_haswell: Measured, here: Measured, recipe: str) -> None:
    alike(on_haswell[recipe], here[recipe], "onnxruntime-cpu-int8")


@pytest.mark.parametrize("recipe", IN_INT8)
def test_int8_is_as_near_to_the_trained_network_without_vnni(on_haswell: Measured, here: Measured, recipe: str) -> None:
    """Sharper than 50 scores: a sum that saturates moves answers long before it moves a decision."""
    there, same = (of[recipe]["targets"]["onnxruntime-cpu-int8"]["error_max"] for of in (on_haswell, here))
    assert there == pytest.approx(same, rel=0.05)


def test_what_must_be_caught_is_there_to_be_caught(a_haswell: list[str], an_arm: list[str], tmp_path: Path) -> None:
    """int8 weights at 8 bits: of two products of 255 and 127 at a time, an x86 without VNNI keeps 16 bits."""
    weights = helper.make_tensor("w", TensorProto.INT8, [64, 1], [127] * 64)
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    ends = [
        helper.make_tensor_value_info(name, kind, [1, size])
        for name, kind, size in (("x", TensorProto.UINT8, 64), ("y", TensorProto.INT32, 1))
    ]
    graph = helper.make_graph([node], "ones", ends[:1], ends[1:], [weights])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "ones.onnx"
    )
    assert started(an_arm, ONES, str(tmp_path / "ones.onnx")) == f"[{64 * 255 * 127}]\n"
    assert started(a_haswell, ONES, str(tmp_path / "ones.onnx")) == f"[{32 * (2**15 - 1)}]\n"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert lacking().startswith("no debootstrap, qemu-user-static: `apt install debootstrap qemu-user-static`")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no debootstrap"):
        absent(lacking())
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no debootstrap"):
        absent(lacking())


def test_no_network_is_one_line_and_leaves_nothing_half_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    suite, _ = debian()
    monkeypatch.setattr(emulated, "debian", lambda: (suite, "http://127.0.0.1:9/debian"))
    with pytest.raises(Refused, match=r"^debootstrap: E: .*http://127\.0\.0\.1:9.*\. Look at the network.*again\.$"):
        arm(tmp_path)
    assert not list(tmp_path.glob(f"{suite}*"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(Refused, match=r"^pip: ERROR: .*numpy==0\.0\.1"):
        fetch_wheels(["numpy==0.0.1"], "3.11", tmp_path / "site")


def test_what_was_cut_off_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "whole" / "DEBIAN").mkdir(parents=True)
    (tmp_path / "whole" / "some").write_bytes(os.urandom(10_000))
    control = "Package: some\nVersion: 1\nArchitecture: arm64\nMaintainer: a\nDescription: a\n"
    (tmp_path / "whole" / "DEBIAN" / "control").write_text(control)
    package = tmp_path / "some.deb"
    subprocess.run(["dpkg-deb", "--build", tmp_path / "whole", package], check=True, capture_output=True)
    unpack(package, tmp_path / "made" / "root")
    assert (tmp_path / "made" / "root" / "some").stat().st_size == 10_000
    package.write_bytes(package.read_bytes()[:-3000])
    with pytest.raises(Refused, match=r"^some\.deb: damaged \(.*\)\. Download it again\.$"):
        unpack(package, tmp_path / "made" / "root")

    wheel = tmp_path / "wheels" / "some-1-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("some-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: some\nVersion: 1\n")
        file.writestr("some-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.write_bytes(wheel.read_bytes()[:-30])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    with pytest.raises(Refused, match=r"^pip: ERROR: .*some.*invalid"):
        fetch_wheels(["some==1"], "3.11", tmp_path / "site")
