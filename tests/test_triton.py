"""The Triton repository: what is in it, and a real Triton that loads it and answers as onnxruntime does"""

import dataclasses
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import onnx
import pytest
import tritonserver
from conftest import NAME, ROOT
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from served import Running, serving

from deploy.contract import FIXED, FORMAT, Bundle, load_examples, open_bundle
from deploy.errors import Refused
from deploy.files import read_json, sha256, write_bytes, write_json
from deploy.measurement import read_returned
from deploy.run import Run
from deploy.runtimes import open_onnxruntime
from deploy.standalone import UNTOLD
from deploy.state import carried, from_zero
from deploy.tasks.translation import translate
from pipeline import triton as triton_module
from pipeline.recipe import Project, load_project
from pipeline.triton import Word, pbtxt, triton
from pipeline.verdicts import PASS

SERVED = ["gorner_digits", "lstm_digits", "gru_python", "dates_attention"]
MEASURED = ["gorner_digits", "dates_attention"]  # also: all of their test units
UNITS = 9  # asked of each recipe
LONGEST, PIECE = 64, 16  # as tests/triton_client.py cuts texts
PRECISIONS = {"fp32": "fp32", "fp16": "fp16", "int8": "int8-cpu"}
FLOATS = ["fp32", "fp16"]  # of `gru_python` and `dates_attention`, whose GRUs are refused int8
CONFIGS = """
import json, pathlib, sys
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2
print(json.dumps({
    path.parent.name: json_format.MessageToDict(
        text_format.Parse(path.read_text(), model_config_pb2.ModelConfig()), preserving_proto_field_name=True
    )
    for path in pathlib.Path(sys.argv[1]).glob("*/config.pbtxt")
}))
"""


# As the command line does, but with a tenth of the rounds; with a server there is nothing to say of speed here.
MEASURE = """
import runpy
import deploy.rounds
deploy.rounds.ROUNDS = deploy.rounds.BLOCK
runpy.run_module("deploy.measure", run_name="__main__", alter_sys=True)
"""


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def with_build(project: Project, build: Path, **recipes: Any) -> Project:
    return dataclasses.replace(project, build=build, **({"recipes": recipes} if recipes else {}))


@pytest.fixture
def copied(project: Project, tmp_path: Path) -> Project:
    """A project with a bundle of its own, to be damaged."""
    shutil.copytree(project.build / "bundle" / NAME, tmp_path / "bundle" / NAME)
    return with_build(project, tmp_path)


def counter(path: Path) -> None:
    """``told`` is ``text`` and the sum of all that its state has seen."""
    nodes = [
        helper.make_node("Cast", ["text"], ["seen"], to=TensorProto.FLOAT),
        helper.make_node("Constant", [], ["one"], value=helper.make_tensor("one", TensorProto.INT64, [1], [1])),
        helper.make_node("Constant", [], ["zero"], value=helper.make_tensor("zero", TensorProto.INT64, [], [1])),
        helper.make_node("CumSum", ["seen", "zero"], ["sums"]),
        helper.make_node("Add", ["sums", "state"], ["told"]),
        helper.make_node("ReduceSum", ["seen", "one"], ["sum"]),
        helper.make_node("Add", ["sum", "state"], ["next_state"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "counter",
        [value("text", TensorProto.UINT8, ["batch", "time"]), value("state", TensorProto.FLOAT, ["batch", 1])],
        [value("told", TensorProto.FLOAT, ["batch", "time"]), value("next_state", TensorProto.FLOAT, ["batch", 1])],
    )
    write_bytes(
        path,
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString(),
    )


def quantized_as_it_comes(path: Path) -> None:
    """Quantizes its input with a scale of each call, inside a branch."""
    value = helper.make_tensor_value_info
    quantize = helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"])
    back = helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y1"])
    branch = helper.make_graph([quantize, back], "inside", [], [value("y1", TensorProto.FLOAT, ["batch", 2])])
    plain = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y2"])], "plain", [], [value("y2", TensorProto.FLOAT, ["batch", 2])]
    )
    yes = helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
    choose = helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=plain)
    graph = helper.make_graph(
        [yes, choose],
        "chosen",
        [value("x", TensorProto.FLOAT, ["batch", 2])],
        [value("y", TensorProto.FLOAT, ["batch", 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    write_bytes(path, model.SerializeToString())


def tensor(name: str, dtype: str, *shape: int | str) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": list(shape)}


COUNTER = {
    "network": {
        "inputs": [tensor("text", "uint8", "batch", "time"), tensor("state", "float32", "batch", 1)],
        "outputs": [tensor("told", "float32", "batch", "time"), tensor("next_state", "float32", "batch", 1)],
    }
}
PAIR = {"network": {"inputs": [tensor("x", "float32", "batch", 2)], "outputs": [tensor("y", "float32", "batch", 2)]}}
DATES = {
    "encoder": {
        "inputs": [tensor("source", "uint8", "batch", "time")],
        "outputs": [tensor("memory", "float32", "batch", "time", 4), tensor("state", "float32", "batch", 3)],
    },
    "step": {
        "inputs": [
            tensor("character", "uint8", "batch"),
            tensor("memory", "float32", "batch", "time", 4),
            tensor("source", "uint8", "batch", "time"),
            tensor("state", "float32", "batch", 3),
        ],
        "outputs": [tensor("logits", "float32", "batch", 256), tensor("next_state", "float32", "batch", 3)],
    },
}


def made_bundle(folder: Path, io: dict[str, Any], graphs: dict[str, Any], task: str = "language_model") -> Bundle:
    """A bundle of one precision; what a repository does not read is empty.

    Args:
        graphs: graph -> what writes it to a path.
    """
    for file in FIXED:
        write_bytes(folder / file, b"")
    for graph, write in graphs.items():
        write(folder / f"graphs/fp32/{graph}.onnx")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    write_json(
        folder / "contract.json",
        {
            "format": FORMAT,
            "recipe": folder.name,
            "task": task,
            "classes": ["no", "yes"],
            "io": io,
            "graphs": {"fp32": {graph: f"graphs/fp32/{graph}.onnx" for graph in graphs}},
            "ranges": {"batch": [1, 8, 64], "time": [1, 17, 1024]},
            "refused": {"int8-cpu": "a test wants none", "fp16": "a test wants none"},
            "files": {file.relative_to(folder).as_posix(): {"sha256": sha256(file)} for file in files},
        },
    )
    return open_bundle(folder)


def test_a_bundle_becomes_a_model_of_each_precision(copied: Project, bundle: Bundle) -> None:
    triton(copied, [NAME])
    files = tree(copied.build / "triton")
    models = {name.split("/")[1] for name in files if name.startswith("models/")}
    assert models == {f"{NAME}-{precision}" for precision in PRECISIONS}
    for precision, graph in PRECISIONS.items():
        model = f"models/{NAME}-{precision}"
        assert files[f"{model}/1/model.onnx"] == bundle.path(bundle.graphs[graph]["network"]).read_bytes()
        assert files[f"{model}/labels.txt"].decode().split() == list(bundle.classes)
        assert bundle.sha256 in files[f"{model}/config.pbtxt"].decode()
    assert not list(copied.build.glob(".triton*"))
    triton(copied, [])
    assert tree(copied.build / "triton") == files


def test_what_is_refused_leaves_the_repository_that_is_there(copied: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    triton(copied, [NAME])
    before = tree(copied.build / "triton")
    with pytest.raises(Refused, match=f"no recipe 'gorner'.*{NAME}"):
        triton(copied, ["gorner"])
    written = triton_module.write_bytes

    def full(path: Path, data: bytes) -> None:
        if path.name == "kserve.yaml":
            raise Refused(f"{path}: the disk is full")
        written(path, data)

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.triton.write_bytes", full)
        with pytest.raises(Refused, match=r"kserve\.yaml: the disk is full"):
            triton(copied, [NAME])
    graph = copied.build / "bundle" / NAME / "graphs" / "fp32" / "network.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    with pytest.raises(Refused, match=r"fp32/network\.onnx: changed since the bundle was made"):
        triton(copied, [NAME])
    assert tree(copied.build / "triton") == before and not list(copied.build.glob(".triton*"))


def test_the_command_says_in_a_line_what_is_wrong() -> None:
    words = [sys.executable, "-m", "pipeline.triton", "--storage-uri", "s3://bucket", "gorner"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 1 and done.stderr.startswith("triton: params.yaml: no recipe 'gorner'; did you mean")
    assert done.stderr.count("\n") == 1


def test_engines_of_tensorrt_are_served_where_they_were_built_from_these_graphs(
    copied: Project, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied.build / "engines" / NAME
    built: dict[str, Any] = {}
    for precision, graph in (("fp32", "fp32"), ("fp16", "fp16"), ("int8", "int8-tensorrt")):
        write_bytes(folder / f"{precision}.engine", precision.encode())
        file = {"file": f"{precision}.engine", "sha256": sha256(folder / f"{precision}.engine")}
        built[f"tensorrt-{precision}"] = {
            "builder": "tensorrt 10.3.0",
            "gpu": "NVIDIA L4",
            "graph_sha256": bundle.graph_sha256(graph),
            "files": {"network": file},
        }
    built["tensorrt-rtx-sm89-fp32"] = built["tensorrt-fp32"]
    built["tensorrt-fp16"]["graph_sha256"] = {"network": "another"}
    built["tensorrt-int8"] = {"reason": "no GPU"}
    write_json(folder / "build.json", built)
    triton(copied, [NAME])
    files = tree(copied.build / "triton")
    engines = [name for name in files if "tensorrt" in name]
    assert sorted(engines) == sorted(
        f"models/{NAME}-tensorrt-fp32/{name}" for name in ("config.pbtxt", "labels.txt", "1/model.plan")
    )
    assert files[f"models/{NAME}-tensorrt-fp32/1/model.plan"] == b"fp32"
    assert b"tensorrt 10.3.0" in files[f"models/{NAME}-tensorrt-fp32/config.pbtxt"]
    assert b"nvidia.com/gpu: '1'" in files["kserve.yaml"]
    assert f"{NAME}-tensorrt-fp16: left out: the engine was built from another graph" in capsys.readouterr().out
    triton(copied, [NAME], python_backend=True)
    assert not [name for name in tree(copied.build / "triton-python") if "tensorrt-" in name]
    (folder / "fp32.engine").write_bytes(b"else")
    with pytest.raises(Refused, match=r"fp32\.engine: missing or changed since it was built"):
        triton(copied, [NAME])
    assert tree(copied.build / "triton") == files


def test_requests_are_joined_only_where_that_changes_no_answer(project: Project, tmp_path: Path) -> None:
    recipe = project.recipe(NAME)
    made_bundle(tmp_path / "bundle" / "pair", PAIR, {"network": quantized_as_it_comes}, "classification")
    made_bundle(tmp_path / "bundle" / "counter", COUNTER, {"network": counter})
    triton(with_build(project, tmp_path, pair=recipe, counter=recipe), [])
    models = tmp_path / "triton" / "models"
    pair, counted = (models / f"{name}-fp32" / "config.pbtxt" for name in ("pair", "counter"))
    assert "dynamic_batching" not in pair.read_text() and "max_batch_size: 64" in pair.read_text()
    assert "sequence_batching" in counted.read_text() and "dynamic_batching" not in counted.read_text()
    apart = (models / "counter-fp32-network" / "config.pbtxt").read_text()
    assert "dynamic_batching" in apart and "sequence_batching" not in apart and '"next_state"' in apart


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries({"name": st.text(), "op_type": st.text(), "input": st.lists(st.text(), min_size=1)}),
    st.lists(st.tuples(st.text(), st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1)), min_size=1),
)
def test_what_is_written_is_protobufs_text(node: dict[str, Any], attributes: list[tuple[str, list[int]]]) -> None:
    message = {
        **node,
        "attribute": [{"name": name, "type": Word("INTS"), "ints": numbers} for name, numbers in attributes],
    }
    read = text_format.Parse(pbtxt(message), onnx.NodeProto())
    assert (read.name, read.op_type, list(read.input)) == (node["name"], node["op_type"], node["input"])
    assert [(one.name, list(one.ints)) for one in read.attribute] == attributes
    assert {one.type for one in read.attribute} == {onnx.AttributeProto.INTS}


# What Triton hands to a model, as far as `model.py` uses it.
FLAG_START, FLAG_END = 1, 2


def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("triton_python_backend_utils")
    module.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START = FLAG_START
    module.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END = FLAG_END
    module.Tensor = lambda name, array: (name, array)
    module.InferenceResponse = dict
    module.get_input_tensor_by_name = lambda request, name: SimpleNamespace(as_numpy=lambda: request.inputs[name])
    module.triton_string_to_numpy = lambda _: np.float32
    monkeypatch.setitem(sys.modules, module.__name__, module)


def request(sequence: int, flags: int, text: list[int]) -> Any:
    return SimpleNamespace(
        correlation_id=lambda: sequence, flags=lambda: flags, inputs={"text": np.array([text], np.uint8)}
    )


@pytest.fixture
def counting(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The emitted model of a counter, opened."""
    made_bundle(tmp_path / "bundle" / "counter", COUNTER, {"network": counter})
    triton(with_build(project, tmp_path, counter=project.recipe(NAME)), [], python_backend=True)
    folder = tmp_path / "triton-python" / "models" / "counter-fp32"
    stub(monkeypatch)
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("emitted_model", folder / "1" / "model.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    sequences = {
        "oldest": {"max_candidate_sequences": 3},
        "state": [{"input_name": "state", "output_name": "next_state", "data_type": "TYPE_FP32", "dims": ["1"]}],
    }
    config = {"input": [{"name": "text"}], "output": [{"name": "told"}], "sequence_batching": sequences}
    model.initialize({"model_config": json.dumps(config), "model_repository": str(folder), "model_version": "1"})
    return model


def test_sequences_that_are_joined_in_any_way_answer_as_each_alone(counting: Any) -> None:
    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        texts = {number: data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=6)) for number in (7, 8, 9)}
        told: dict[int, list[float]] = {number: [] for number in texts}
        while left := [number for number in texts if len(told[number]) < len(texts[number])]:
            now = data.draw(st.lists(st.sampled_from(left), min_size=1, unique=True))
            asked = []
            for number in now:
                at = len(told[number])
                flags = FLAG_START * (at == 0) | FLAG_END * (at + 1 == len(texts[number]))
                asked.append(request(number, flags, [texts[number][at]]))
            for number, answer in zip(now, counting.execute(asked)):
                assert list(answer) == ["told"]
                told[number] += answer["told"].ravel().tolist()
        assert told == {number: np.cumsum(text).tolist() for number, text in texts.items()}
        assert not counting.kept

    check()


def test_sequences_that_never_end_are_thrown_out_the_idle_first(counting: Any) -> None:
    for number in (1, 2, 3):
        counting.execute([request(number, FLAG_START, [number])])
    counting.execute([request(1, 0, [1])])
    counting.execute([request(4, FLAG_START, [4])])
    assert list(counting.kept) == [3, 1, 4]
    with pytest.raises(KeyError):
        counting.execute([request(2, 0, [1])])
    (answer,) = counting.execute([request(1, FLAG_START, [5])])  # begun anew: nothing of before is in it
    assert answer["told"].tolist() == [[5.0]]


def test_what_decodes_in_triton_needs_numpy_alone(project: Project, tmp_path: Path) -> None:
    graphs = {"encoder": counter, "step": counter}  # any graph; none is run
    made_bundle(tmp_path / "bundle" / "dates", DATES, graphs, "translation")
    triton(with_build(project, tmp_path, dates=project.recipe(NAME)), [])
    models = tmp_path / "triton" / "models"
    assert sorted(path.name for path in models.iterdir()) == ["dates-fp32", "dates-fp32-encoder", "dates-fp32-step"]
    assert not list((models / "dates-fp32").rglob("*.onnx"))
    step = (models / "dates-fp32-step" / "config.pbtxt").read_text()
    assert "max_batch_size: 0" in step and "dynamic_batching" not in step  # `character` has no axis but the batch
    program = f"""
import sys
for name in ("onnxruntime", "torch", "onnx", "pipeline", "models"):
    sys.modules[name] = None
sys.path.insert(0, {str(models / "dates-fp32" / "1")!r})
from deploy.tasks.translation import translate
print(sys.modules["deploy"].__path__[0])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == models / "dates-fp32" / "1" / "deploy"


# A real Triton.


def absent(why: object) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"{why} (CI has it)", pytrace=False)
    pytest.skip(str(why))


@pytest.fixture(scope="module")
def bundles() -> dict[str, Bundle]:
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip("the wheel with a tritonserver is for Linux on x86-64")
    try:
        tritonserver.python()
        return {name: open_bundle(ROOT / "build" / "bundle" / name) for name in SERVED}
    except Refused as refused:
        absent(refused)


@pytest.fixture(scope="module")
def starter(bundles: dict[str, Bundle], tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The bundles of ``make repro``, in a build folder of its own."""
    build = tmp_path_factory.mktemp("build")
    (build / "bundle").symlink_to(ROOT / "build" / "bundle")
    return dataclasses.replace(load_project(ROOT / "params.yaml"), build=build)


@pytest.fixture(scope="module")
def real(starter: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tritonserver.Triton]:
    triton(starter, SERVED, python_backend=True)
    log = tmp_path_factory.mktemp("triton") / "log"
    with tritonserver.tritonserver(starter.build / "triton-python" / "models", log) as server:
        yield server


@pytest.fixture(scope="module")
def ours(bundles: dict[str, Bundle], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Our server, on the same bundles."""
    folders = [bundle.folder for bundle in bundles.values()]
    with serving(tmp_path_factory.mktemp("ours") / "log", *folders, grpc=True) as server:
        yield server


@pytest.fixture(scope="module")
def answers(
    real: tritonserver.Triton, bundles: dict[str, Bundle], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, np.ndarray]]:
    """Recipe -> what tritonclient heard: ``<model> <way> <output>`` -> array."""
    return heard_by_tritonclient(real.http, real.grpc, bundles, tmp_path_factory.mktemp("answers"))


def heard_by_tritonclient(
    http: str, grpc: str, bundles: dict[str, Bundle], folder: Path
) -> dict[str, dict[str, np.ndarray]]:
    heard = {}
    for name, bundle in bundles.items():
        out = folder / f"{name}.npz"
        words = [str(tritonserver.CLIENT), http, grpc, str(bundle.folder), str(out), "--units", str(UNITS)]
        tritonserver.in_environment(*words)
        with np.load(out) as arrays:
            heard[name] = dict(arrays)
    return heard


def say_of(folder: Path, *words: object) -> str:
    """What a program of the project says that runs in ``folder``."""
    asked, paths = [sys.executable, *map(str, words)], os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(asked, cwd=folder, env=paths, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
    return done.stdout


def runs_of(bundle: Bundle, precision: str) -> dict[str, Run]:
    files = bundle.graphs[PRECISIONS[precision]]
    return {graph: from_zero(open_onnxruntime(bundle.path(file)), bundle.io[graph]) for graph, file in files.items()}


def texts_of(array: np.ndarray) -> list[np.ndarray]:
    """A unit each, cut as the client does."""
    return [row[None, : min(int((row != 0).sum()), LONGEST)] for row in array[:UNITS]]


def read_in_pieces(run: Run, text: np.ndarray) -> np.ndarray:
    state: dict[str, np.ndarray] = {}
    parts = []
    for at in range(0, text.shape[1], PIECE):
        said = run({"text": text[:, at : at + PIECE]} | state)
        state = carried(said)
        parts.append(said["logits"])
    return np.concatenate(parts, axis=1)


@pytest.mark.slow
def test_a_real_triton_has_every_model_ready(real: tritonserver.Triton, starter: Project) -> None:
    models = sorted(path.name for path in (starter.build / "triton-python" / "models").iterdir())
    assert len(models) == 3 + 3 + 4 + 6
    for model in models:
        tritonserver.ask(f"http://{real.http}/v2/models/{model}/ready")
        config = real.get(f"/v2/models/{model}/config")
        assert config["backend"] == "python" and "default_queue_policy" not in json.dumps(config)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("recipe", ["gorner_digits", "lstm_digits"])
def test_images_are_answered_as_by_onnxruntime_in_every_way(
    answers: dict[str, Any], bundles: dict[str, Bundle], recipe: str, precision: str
) -> None:
    bundle, heard = bundles[recipe], answers[recipe]
    model, image = f"{recipe}-{precision}", load_examples(bundle, "test")["image"][:UNITS]
    (run,) = runs_of(bundle, precision).values()
    alone = np.concatenate([run({"image": image[i : i + 1]})["logits"] for i in range(UNITS)])
    for way in ("http-binary", "http-json", "grpc", "joined"):
        np.testing.assert_array_equal(heard[f"{model} {way} logits"], alone, err_msg=way)
    batch = run({"image": image})["logits"]
    np.testing.assert_array_equal(heard[f"{model} batch logits"], batch)
    # Without this the rule that keeps requests apart would not be put to the test by `joined`.
    assert np.array_equal(batch, alone) == (model != "lstm_digits-int8")
    best = np.argsort(-alone, axis=1)[:, :3]
    for way in ("classes", "classes-grpc"):
        told = [[word.split(":")[1:] for word in row] for row in heard[f"{model} {way} logits"]]
        assert told == [[[str(place), bundle.classes[place]] for place in row] for row in best]


@pytest.mark.slow
@pytest.mark.parametrize("precision", FLOATS)
def test_two_sequences_in_turn_and_many_at_once_keep_each_its_state(
    answers: dict[str, Any], bundles: dict[str, Bundle], precision: str
) -> None:
    bundle, heard, model = bundles["gru_python"], answers["gru_python"], f"gru_python-{precision}"
    (run,) = runs_of(bundle, precision).values()
    alone = [read_in_pieces(run, text) for text in texts_of(load_examples(bundle, "test")["text"])]
    for way in ("sequence-http", "sequence-grpc", "carried"):
        np.testing.assert_array_equal(heard[f"{model} {way} logits"], np.concatenate(alone), err_msg=way)


@pytest.mark.slow
@pytest.mark.parametrize("precision", FLOATS)
def test_a_whole_decoding_is_one_call(answers: dict[str, Any], bundles: dict[str, Bundle], precision: str) -> None:
    bundle, heard, model = bundles["dates_attention"], answers["dates_attention"], f"dates_attention-{precision}"
    runs, lines = runs_of(bundle, precision), texts_of(load_examples(bundle, "test")["source"])
    alone = np.concatenate([translate(runs, line) for line in lines])
    for way in ("http-binary", "http-json", "grpc", "joined", "batch"):
        np.testing.assert_array_equal(heard[f"{model} {way} greedy"], alone, err_msg=way)
    assert len({row.tobytes() for row in alone}) > UNITS // 2  # dates, not the same word each time
    for unit, line in enumerate(lines):
        read = runs["encoder"]({"source": line})
        said = runs["step"]({"character": np.zeros(1, np.uint8), "source": line, **read})
        np.testing.assert_array_equal(heard[f"{model}-encoder http-binary state"][unit], read["state"][0])
        for way in ("http-binary", "grpc"):
            np.testing.assert_array_equal(heard[f"{model}-step {way} logits"][unit], said["logits"][0])


@pytest.mark.slow
def test_the_same_client_hears_the_same_from_our_server_to_the_last_bit(
    ours: Running, answers: dict[str, Any], bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    told = heard_by_tritonclient(f"127.0.0.1:{ours.port}", f"127.0.0.1:{ours.grpc_port}", bundles, tmp_path)
    for recipe, heard in answers.items():
        assert told[recipe].keys() == heard.keys()
        for way, array in heard.items():
            came = told[recipe][way]
            if " classes" in way:
                came = np.array([[rounded(word) for word in row] for row in came])
            assert came.dtype == array.dtype
            np.testing.assert_array_equal(came, array, err_msg=f"{recipe}: {way}")


def rounded(word: str) -> str:
    """A class as Triton says it, six places behind the point; our server says as many as float32 needs."""
    value, which = word.split(":", 1)
    return f"{np.float32(value):.6f}:{which}"


@pytest.mark.slow
def test_both_servers_get_the_same_verdict(
    real: tritonserver.Triton, ours: Running, bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    """By the command lines that people use, in a project of its own."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "bundle").symlink_to(ROOT / "build" / "bundle")
    folders = [bundles[name].folder for name in MEASURED]
    files, servers = {}, {"plumbline": f"127.0.0.1:{ours.port}", "triton": real.http}
    for name, host in servers.items():
        say_of(tmp_path, "-c", MEASURE, *folders, "--out", name, "--server", f"http://{host}")
        (files[name],) = (tmp_path / name).glob("*.json")
    say_of(tmp_path, "-m", "pipeline.verify", "--from", *files.values())
    say_of(tmp_path, "-m", "pipeline.verify")
    verdicts = read_json(tmp_path / "build" / "verdicts.json")
    measured = {name: {one["recipe"]: one for one in read_returned(file)} for name, file in files.items()}
    assert [of["host"]["server"]["name"].split()[0] for name in servers for of in measured[name].values()] == [
        name for name in servers for _ in MEASURED
    ]
    for recipe in MEASURED:
        both = [measured[name][recipe] for name in servers]
        precisions = [name for name, graphs in PRECISIONS.items() if graphs in bundles[recipe].graphs]
        done = [target for target, row in both[0]["targets"].items() if not row["reason"]]
        assert done == [f"remote-{precision}" for precision in precisions]
        for target in done:
            here, there = (of["targets"][target] for of in both)
            for fact in ("statistics", "predicted", "finite", "error_max", "drift", "graph_sha256", "sha256"):
                assert here.get(fact) == there.get(fact), f"{recipe}: {target}: {fact}"
            assert len(here["transport_s"]) == len(here["latency_s"]) and "transport_s" not in there
            rows = [verdicts[recipe]["targets"][f"{target}@{of['host']['name']}"] for of in both]
            assert rows[0]["verdict"] == rows[1]["verdict"] == PASS, [row["reason"] for row in rows]
            for fact in ("deployed", "drop", "drop_lower95", "drop_upper95", "n", "error_max", "causes"):
                assert rows[0].get(fact) == rows[1].get(fact), f"{recipe}: {target}: {fact}"
            assert rows[0]["transport_ms"] > 0 and rows[1]["transport_ms"] is None
            assert UNTOLD in rows[1]["notes"] and UNTOLD not in rows[0]["notes"]


@pytest.mark.slow
def test_triton_did_join_requests_and_only_those_that_it_may(
    real: tritonserver.Triton, answers: dict[str, Any]
) -> None:
    assert answers

    def sizes(model: str) -> set[int]:
        """Rows of the batches that were run; the client's own is of ``UNITS``."""
        (stats,) = real.get(f"/v2/models/{model}/stats")["model_stats"]  # type: ignore[misc]
        return {int(batch["batch_size"]) for batch in stats["batch_stats"]}

    assert sizes("gru_python-fp32") & set(range(2, UNITS + 1))
    assert not sizes("lstm_digits-int8") & set(range(2, UNITS))


@pytest.mark.slow
def test_a_bad_request_is_refused_and_the_server_goes_on(real: tritonserver.Triton) -> None:
    program = """
import sys
import numpy as np
import tritonclient.http as http
from tritonclient.utils import InferenceServerException
client = http.InferenceServerClient(sys.argv[1])
def ask(model, array, **of):
    tensor = http.InferInput(*array[:1], list(array[1].shape), array[2])
    tensor.set_data_from_numpy(array[1])
    try:
        client.infer(model, [tensor], **of)
    except InferenceServerException as error:
        print(error.status(), error.message()[:200])
    else:
        print("answered")
ask("gorner_digits-fp32", ("image", np.zeros((1, 1, 8, 9), np.uint8), "UINT8"))
ask("gorner_digits-fp32", ("image", np.zeros((65, 1, 8, 8), np.uint8), "UINT8"))
ask("gru_python-fp32", ("text", np.zeros((1, 4), np.uint8), "UINT8"))
ask("gru_python-fp32", ("text", np.zeros((1, 4), np.uint8), "UINT8"), sequence_id=99)
ask("gru_python-fp32", ("text", np.zeros((2, 4), np.uint8), "UINT8"), sequence_id=98, sequence_start=True)
ask("gorner_digits-fp32", ("image", np.zeros((1, 1, 8, 8), np.uint8), "UINT8"))
client.close()
"""
    said = tritonserver.in_environment("-c", program, real.http).splitlines()
    assert [line.split()[0] for line in said] == ["400", "400", "400", "400", "400", "answered"], said
    assert "[-1,1,8,8]" in said[0] and "<= 64" in said[1], said
    assert "non-zero or non-empty correlation ID" in said[2] and "START" in said[3] and "batch-size 1" in said[4], said


@pytest.mark.slow
def test_every_configuration_is_a_model_config(starter: Project, bundles: dict[str, Bundle]) -> None:
    """Of the form that no server here can load: ONNX Runtime's and TensorRT's."""
    engines = starter.build / "engines"
    for name in ("gru_python", "dates_attention"):
        bundle = bundles[name]
        files = {}
        for graph in bundle.io:
            write_bytes(engines / name / f"{graph}.engine", b"an engine")
            files[graph] = {"file": f"{graph}.engine", "sha256": sha256(engines / name / f"{graph}.engine")}
        entry = {"builder": "tensorrt 10.3.0", "graph_sha256": bundle.graph_sha256("fp16"), "files": files}
        write_json(engines / name / "build.json", {"tensorrt-fp16": entry})
    triton(starter, SERVED)
    configs = json.loads(tritonserver.in_environment("-c", CONFIGS, str(starter.build / "triton" / "models")))
    assert len(configs) == 3 + 3 + 4 + 6 + 2 + 3
    assert all(name == config["name"] for name, config in configs.items())
    digits = configs["gorner_digits-fp32"]
    assert digits["platform"] == "onnxruntime_onnx" and digits["max_batch_size"] == 64
    assert digits["input"] == [{"name": "image", "data_type": "TYPE_UINT8", "dims": ["1", "8", "8"]}]
    assert digits["output"][0]["label_filename"] == "labels.txt" and digits["dynamic_batching"] == {}
    assert digits["parameters"]["contract_sha256"]["string_value"] == bundles["gorner_digits"].sha256
    assert digits["parameters"]["precision"]["string_value"] == "fp32"
    assert configs["lstm_digits-int8"]["parameters"]["precision"]["string_value"] == "int8-cpu"
    assert configs["gru_python-fp16-network"]["parameters"]["precision"]["string_value"] == "fp16"
    assert digits["parameters"]["intra_op_thread_count"]["string_value"] == "1"
    assert [warm["batch_size"] for warm in digits["model_warmup"]] == [1, 64]
    assert "dynamic_batching" not in configs["lstm_digits-int8"] and "dynamic_batching" in configs["lstm_digits-fp16"]
    (state,) = configs["gru_python-tensorrt-fp16"]["sequence_batching"]["state"]
    assert state["dims"] == ["3", "96"] and state["initial_state"][0]["zero_data"] is True
    assert (state["input_name"], state["output_name"]) == ("state", "next_state")
    assert [one["name"] for one in configs["gru_python-fp16"]["input"]] == ["text"]
    assert [one["name"] for one in configs["gru_python-fp16"]["output"]] == ["logits"]
    assert configs["gru_python-tensorrt-fp16"]["instance_group"] == [{"count": 1, "kind": "KIND_GPU"}]
    assert configs["dates_attention-fp32"]["backend"] == "python"
    assert configs["dates_attention-tensorrt-fp16-step"]["platform"] == "tensorrt_plan"
    assert "max_batch_size" not in configs["dates_attention-fp32-step"]  # 0
