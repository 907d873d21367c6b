"""What our code asks of TensorRT, held to the real API of each version, and that API's data to NVIDIA's wheels."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import recording
from reader import RTX_ALONE, Reader, sources
from recording import RTX, VERSIONS, api, lookup, parameters
from tensorrt_api.introspect import describe, introspect

from deploy.targets import RTX_COMPUTE_CAPABILITIES

WHEELS = {  # version -> what pip calls its bindings
    version: f"{api(version)['wheel'].split('-')[0].replace('_', '-')}=={api(version)['version']}"
    for version in VERSIONS
}


@pytest.mark.parametrize("version", VERSIONS)
def test_our_code_names_only_what_this_version_has(version: str) -> None:
    assert not list(Reader(version, sources()).findings)


def test_what_is_held_is_what_we_use() -> None:
    """The reader has seen the whole path: its files, and the names without which nothing is built or run."""
    assert {"deploy/builder.py", "deploy/engine.py", "deploy/trt.py"} <= set(sources())
    reader = Reader(VERSIONS[0], sources())
    assert {
        "trt.Builder", "NetworkDefinitionCreationFlag.STRONGLY_TYPED", "OnnxParser.parse", "ParserError.desc",
        "BuilderFlag.TF32", "IOptimizationProfile.set_shape", "Builder.build_serialized_network", "LayerType.CONSTANT",
        "Runtime.deserialize_cuda_engine", "ICudaEngine.get_tensor_mode", "IExecutionContext.set_tensor_address",
        "IExecutionContext.execute_async_v3", "ITensor.dtype", "ILogger.ERROR",
    } <= reader.used  # fmt: skip


def test_what_is_excused_is_asked_for_and_missing() -> None:
    """A name that is no longer used, or that every version has, needs no excuse."""
    used = Reader(RTX, sources()).used
    assert used >= RTX_ALONE
    for version in set(VERSIONS) - {RTX}:
        for path in RTX_ALONE:
            owner, _, name = path.rpartition(".")
            assert name not in api(version)["enums"] and lookup(api(version), owner, name) is None, (version, path)


def test_every_card_has_a_name() -> None:
    for capability in RTX_COMPUTE_CAPABILITIES:
        assert "SM" + capability.replace(".", "") in api(RTX)["enums"]["ComputeCapability"]


def test_the_data_say_where_they_are_from() -> None:
    for version in VERSIONS:
        told = api(version)
        assert len(told["sha256"]) == 64 and told["version"] in told["wheel"] and told["read"] >= "2026-11-21"
        assert not any(character.isdigit() for name in told["enums"]["BuilderFlag"] for character in name[:1])
        for cls in told["classes"].values():
            for member in cls["members"].values():
                if member[0] in ("method", "static"):
                    assert all(isinstance(parameters(signature), tuple) for signature in member[1:])
    text = (recording.FOLDER / "11.4.0.106.json").read_text()
    assert "nvinfer1" not in text and "0x" not in text and "/" not in text.replace("tensorrt_api/", "")


def test_the_installed_rtx_is_the_one_that_is_held() -> None:
    rtx = pytest.importorskip("tensorrt_rtx")
    bindings = sys.modules[rtx.Builder.__module__.partition(".")[0]]
    told = {key: value for key, value in api(RTX).items() if key not in ("wheel", "sha256", "read")}
    assert rtx.__version__ == told["version"], "read the new version: tests/tensorrt_api/introspect.py WHEEL"
    assert json.loads(json.dumps(describe(bindings))) == told


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_the_data_are_those_of_the_wheel(version: str, tmp_path: Path) -> None:
    if sys.platform != "linux" or not shutil.which("cc"):
        pytest.skip("the stub libraries are for Linux, and are made by its C compiler `cc`")
    fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(tmp_path)]
    fetched = subprocess.run([*fetch, WHEELS[version]], capture_output=True, text=True, timeout=300)
    if fetched.returncode:
        pytest.skip(f"pip cannot fetch {WHEELS[version]} here: {fetched.stderr.strip()[-200:]}")
    (wheel,) = tmp_path.glob("*.whl")
    told, again = dict(api(version)), introspect(wheel)
    if wheel.name != told["wheel"]:  # another Python or processor: another file, the same API
        again |= {"wheel": told["wheel"], "sha256": told["sha256"]}
    assert again | {"read": told["read"]} == told
