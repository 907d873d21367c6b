"""The law of imports, by reading and by running with PyTorch blocked."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from deploy.contract import Bundle

OURS = {"models", "pipeline", "deploy"}
RUNTIMES = {"onnxruntime", "tensorrt", "tensorrt_rtx"}
ALLOWED = {
    "models": {"torch", "models"},
    "deploy": {"numpy", "deploy"} | RUNTIMES,
    "deploy/server": {"numpy", "deploy", "google", "grpc", "prometheus_client", "starlette", "uvicorn"},
    "pipeline": None,  # stands on both
}


def imported(file: Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add(str(node.module).split(".")[0])
    return found


@pytest.mark.parametrize("folder", ["models", "deploy"])
def test_the_law_as_written(folder: str) -> None:
    for file in (ROOT / folder).rglob("*.py"):
        nearest = "deploy/server" if (ROOT / "deploy/server") in file.parents else folder
        alien = imported(file) - set(sys.stdlib_module_names) - ALLOWED[nearest]
        assert not alien, f"{file.relative_to(ROOT)} imports {alien}"


def test_no_module_is_outside_the_three_folders() -> None:
    top = {path.name for path in ROOT.iterdir() if path.is_dir() and list(path.glob("*.py"))}
    assert top <= OURS | {"tests", "benchmarks"}


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {'torch', 'onnx', 'scipy', 'sklearn', 'pipeline', 'models', 'tqdm', 'yaml', 'safetensors'}:
            raise ImportError(name + ' is blocked')
sys.meta_path.insert(0, Block())
"""


def test_deploy_measures_a_bundle_where_pytorch_is_not(bundle: Bundle) -> None:
    code = (
        BLOCKED
        + f"""
import importlib, pathlib, pkgutil
import deploy, deploy.tasks
for package in (deploy, deploy.tasks):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + '.'):
        importlib.import_module(module.name)
from deploy.contract import open_bundle
from deploy.host import describe
from deploy.measure import measure
from deploy.targets import targets
bundle = open_bundle(pathlib.Path({str(bundle.folder)!r}))
host = describe() | {{'gpus': [], 'gpu_error': 'blocked'}}
facts = measure(bundle, targets(bundle, host, pathlib.Path('none'), {{}}), host)
rows = facts['targets']
assert [name for name, row in rows.items() if not row['reason']] == ['onnxruntime-cpu-fp32', 'onnxruntime-cpu-fp16', 'onnxruntime-cpu-int8'], rows
assert len(rows['onnxruntime-cpu-int8']['statistics']) == 900
assert 'torch' not in sys.modules
print('measured')
"""
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "measured", done.stderr


def test_no_stage_loads_pytorch_that_does_not_train_export_or_measure() -> None:
    for stage in ("check", "host", "download", "prepare", "quantize", "bundle", "build", "verify", "report", "gate"):
        code = f"import sys, pipeline.{stage}; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0, stage


# JetPack 6 has Python 3.10, and numpy 1.21 or newer


@pytest.mark.parametrize("file", sorted((ROOT / "deploy").rglob("*.py")), ids=lambda file: str(file.relative_to(ROOT)))
def test_a_board_can_read_every_file_and_its_numpy_has_every_name(file: Path) -> None:
    known = json.loads((ROOT / "tests" / "numpy_1_21.json").read_text())  # `dir` of numpy 1.21.6's own modules
    tree = ast.parse(file.read_text(), feature_version=(3, 10))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        place = ast.unparse(node.value)
        modules = {"np": "numpy", "np.random": "random", "np.lib": "lib", "np.ndarray": "ndarray"}
        if place in modules:
            assert node.attr in known[modules[place]], (
                f"{file.name}:{node.lineno}: numpy 1.21 has no {place}.{node.attr}"
            )


def test_a_name_that_numpy_1_21_lacks_is_caught() -> None:
    known = json.loads((ROOT / "tests" / "numpy_1_21.json").read_text())
    assert known["version"] == "1.21.6"
    assert "concat" not in known["numpy"] and "bool_" in known["numpy"] and "default_rng" in known["random"]
