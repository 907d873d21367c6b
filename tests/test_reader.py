"""The reader of our source: right code passes, and each planted mistake is found with the version that it breaks."""

import ast

import pytest
from reader import Reader, sources
from recording import RTX, VERSIONS, api

RIGHT = """
from typing import Any

def build(trt: ModuleType, data: bytes) -> bytes:
    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            print(severity.name)

    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    parser.parse(data)
    config = builder.create_builder_config()
    config.set_flag(trt.BuilderFlag.REFIT)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    held = {"config": config}
    if hasattr(trt.BuilderFlag, "FP16"):
        config.clear_flag(trt.BuilderFlag.FP16)
    for layer in [network.get_layer(i) for i in range(network.num_layers)]:
        told(layer)
    return bytes(builder.build_serialized_network(network, held["config"]))


def told(layer: Any) -> str:
    return layer.get_output(0).dtype.name
"""
STRONG = "1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)"
OF_10 = tuple(version for version in VERSIONS if version.startswith("10."))
OF_11 = tuple(version for version in VERSIONS if version not in OF_10)
ALL = tuple(VERSIONS)


def test_right_code_passes() -> None:
    for version in VERSIONS:
        assert not list(Reader(version, {"a.py": RIGHT}).findings)


@pytest.mark.parametrize(
    ("right", "wrong", "versions", "said"),
    [
        ("trt.BuilderFlag.REFIT", "trt.BuilderFlag.FP16", OF_11, "no BuilderFlag.FP16"),
        ("STRONGLY_TYPED", "EXPLICIT_BATCH", OF_11, "no NetworkDefinitionCreationFlag.EXPLICIT_BATCH"),
        ("builder.build_serialized_network(", "builder.build_engine(", ALL, "no Builder.build_engine"),
        ("config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED", "config.max_workspace_size = 1", ALL,
         "no IBuilderConfig.max_workspace_size"),
        ("if hasattr(trt.BuilderFlag, \"FP16\")", "if data", OF_11, "no BuilderFlag.FP16"),
        ("dtype.name", "dynamic_range", OF_11, "no ITensor.dynamic_range"),
        ("trt.OnnxParser(", "trt.UffParser(", ALL, "no trt.UffParser"),
        (STRONG, "1", ALL, "`flags` wants int; `1` is a number|`flags` wants SupportsInt; `1` is a number"),
        (STRONG, "1 << 0", ALL, "is a number: write 1 << int"),
        (STRONG, "trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED", ALL, "is a NetworkDefinitionCreationFlag"),
        ("set_flag(trt.BuilderFlag.REFIT)", "set_flag(4)", ALL, "wants BuilderFlag; `4` is a number"),
        ("set_flag(trt.BuilderFlag.REFIT)", "set_flag(trt.BuilderFlag(4))", ALL, "BuilderFlag is made from a number"),
        ("set_flag(trt.BuilderFlag.REFIT)", "set_flag(getattr(trt.BuilderFlag, data))", ALL, "cannot tell which name"),
        ("= trt.ProfilingVerbosity.DETAILED", "= 2", ALL, "wants ProfilingVerbosity; `2` is a number"),
        ("print(severity.name)", "print(severity == 1)", ALL, "is compared with a number"),
        ("print(severity.name)", "print(severity.title)", ALL, "no ILogger.Severity.title"),
        ("def log(self, severity: Any, message: str)", "def log(self, severity: Any)", ALL, "log is called with"),
        ("parser.parse(data)", "parser.parse()", ALL, "called without `model`"),
        ("parser.parse(data)", "parser.parse(data, None, 3)", ALL, "called with 3 arguments"),
        ("parser.parse(data)", "parser.parse(data, file=None)", ALL, "takes no `file=`"),
        ("parser.parse(data)", "parser.parse(*data)", ALL, "cannot tell how many"),
        ("trt.OnnxParser(network, log)", "trt.OnnxParser(log, network)", ALL, "`network` wants INetworkDefinition"),
        ("network.num_layers)", "network.num_stages)", ALL, "no INetworkDefinition.num_stages"),
        ("parser.parse(data)", "network.num_layers = 3", ALL, "num_layers is read-only"),
        ("told(layer)", "print(layer)", ALL, "cannot tell what `layer` is"),
        ("held[\"config\"]", "held[\"config\"].flag", ALL, "no IBuilderConfig.flag"),
    ],
)  # fmt: skip
def test_wrong_code_is_caught_with_the_version(right: str, wrong: str, versions: tuple[str, ...], said: str) -> None:
    assert right in RIGHT
    for version in VERSIONS:
        findings = list(Reader(version, {"a.py": RIGHT.replace(right, wrong)}).findings)
        caught = [line for line in findings if any(part in line for part in said.split("|"))]
        assert bool(caught) == (version in versions), (version, findings)
        assert all(line.startswith("a.py:") and line.endswith(f"[{version}]") for line in caught)


def test_no_name_of_our_code_escapes_the_reader() -> None:
    """Each name that can only be TensorRT's (it has an underscore or a capital) is misspelt in turn, and is missed.

    Only its file is read again, once: what a name belongs to follows from what stands before it, which is as it was.
    """
    reader, told = Reader(RTX, sources()), api(RTX)
    of_tensorrt = {name for entry in told["classes"].values() for name in entry["members"]}
    of_tensorrt |= {name for names in told["enums"].values() for name in names}
    of_tensorrt |= {*told["classes"], *told["enums"], *told["functions"]}
    assert not reader.findings
    right, escaped, misspelt = reader.known(), [], 0
    for file, tree in reader.trees.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute) or node.attr not in of_tensorrt or node.attr.startswith("__"):
                continue
            if "_" not in node.attr and node.attr[0].islower():
                continue
            node.attr += "_gone"
            reader.read(file)
            misspelt += 1
            if not any(node.attr in finding for finding in reader.findings):
                escaped.append(f"{file}:{node.lineno}: {ast.unparse(node)}")
            node.attr = node.attr.removesuffix("_gone")
            reader.know(right)
        reader.read(file)
        assert not reader.findings
    assert not escaped and misspelt > 60
