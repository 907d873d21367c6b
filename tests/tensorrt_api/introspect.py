"""The Python API of a TensorRT that cannot run here, read from its bindings wheel.

``python introspect.py WHEEL`` prints JSON: every class with its members, every enum with its names (never its numbers,
which move between versions), every function. The bindings hold the whole API and need of TensorRT itself nine C symbols
to be imported, so they are imported over stub libraries, in a process of their own.

A member is ``[kind, ...]``: ``["method", signature, ...]`` and ``["static", signature, ...]`` with one signature an
overload, without ``self``; ``["property", type, type to set where it differs]``, ``["read-only", type]``,
``["write-only", type]``, ``["value", type]``. Signatures are what pybind11 writes into docstrings, made into valid Python.
"""

import ast
import datetime
import hashlib
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

SYMBOLS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getBuilderPluginRegistry",
    "getPluginRegistry",
    "getNvOnnxParserVersion",
    "initLibNvInferPlugins",
)
LIBRARIES = re.compile(rb"lib(?:nvinfer|nvonnxparser|nvinfer_plugin|tensorrt)\w*\.so\.\d+")
OF_EVERY_ENUM = {"__init__", "name", "value"}
PYTHON_OWN = re.compile(r"__(?!init__|len__|getitem__|setitem__|iter__|call__|enter__|exit__|del__)|_(?!_)")
CPLUSPLUS = {"IParserError": "ParserError"}  # C++ name that a docstring lets through -> name in Python


def introspect(wheel: Path) -> dict[str, Any]:
    """The API in ``wheel``, which must be for this Python and machine.

    Raises:
        subprocess.CalledProcessError: there is no C compiler, or the bindings do not load.
    """
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        binary = next(Path(folder).glob("*_bindings/*.so"))
        source = Path(folder, "stub.c")
        source.write_text("".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in SYMBOLS))
        for library in {name.decode() for name in LIBRARIES.findall(binary.read_bytes())}:
            options = ("-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", str(Path(folder, library)))
            subprocess.run(["cc", *options, str(source)], check=True, capture_output=True, text=True)
        child = subprocess.run(  # isolated and without site-packages: no installed TensorRT comes in its way
            [sys.executable, "-I", "-S", str(Path(__file__)), "--import", folder, binary.parent.name],
            env=os.environ | {"LD_LIBRARY_PATH": folder},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    source_of = {"wheel": wheel.name, "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest()}
    return source_of | {"read": datetime.datetime.now(datetime.UTC).date().isoformat()} | json.loads(child.stdout)


def describe(module: ModuleType) -> dict[str, Any]:
    """The API of an imported module: ``module``, ``version``, ``classes``, ``enums``, ``functions``, ``values``."""
    classes, enums, functions, values = {}, {}, {}, {}
    for name, thing in sorted(vars(module).items()):
        if name.startswith("_") or inspect.ismodule(thing):
            continue
        if isinstance(thing, type):
            _class(thing, classes, enums)
        elif callable(thing):
            functions[name] = _signatures(thing)
        elif _is_enum(type(thing)) and name != "value":  # the loop of the module's own code left `value` behind
            values[name] = f"{type(thing).__qualname__}.{thing.name}"
    return {
        "module": module.__name__.replace("_bindings", ""),
        "version": module.__version__,
        "classes": dict(sorted(classes.items())),
        "enums": dict(sorted(enums.items())),
        "functions": functions,
        "values": values,
    }


def _class(cls: type, classes: dict[str, Any], enums: dict[str, Any]) -> None:
    for member in vars(cls).values():
        if isinstance(member, type) and member.__qualname__.startswith(cls.__qualname__ + "."):
            _class(member, classes, enums)
    if _is_enum(cls):
        enums[cls.__qualname__] = names = list(cls.__members__)  # type: ignore[attr-defined]
        own = {name: member for name, member in vars(cls).items() if _is_told(name)}
        if more := {name: _member(own[name]) for name in own if name not in {*OF_EVERY_ENUM, *names}}:
            classes[cls.__qualname__] = {"bases": [], "members": more}
        return
    members = {name: _member(member) for name, member in sorted(vars(cls).items()) if _is_told(name)}
    bases = [base.__qualname__ for base in cls.__bases__ if base.__module__ not in ("builtins", "pybind11_builtins")]
    classes[cls.__qualname__] = {"bases": bases, "members": members}


def _is_told(name: str) -> bool:
    return not PYTHON_OWN.match(name)


def _is_enum(cls: type) -> bool:
    return hasattr(cls, "__members__")


def _member(member: Any) -> list[str]:
    if isinstance(member, property):
        if member.fget is None:
            return ["write-only", _taken(member.fset)]
        got = _returned(member.fget)
        if member.fset is None:
            return ["read-only", got]
        taken = _taken(member.fset)
        return ["property", got] if taken == got else ["property", got, taken]
    if isinstance(member, type):
        return ["class", member.__qualname__]
    if _is_enum(type(member)):
        return ["value", type(member).__qualname__]
    if isinstance(member, staticmethod):
        return ["static", *_signatures(member.__func__)]
    if callable(member):
        return ["method", *_signatures(member, bound=True)]
    if type(member).__name__ == "pybind11_static_property":
        return ["static property", _returned(member.fget)]
    return ["value", type(member).__name__]


def _signatures(function: Any, bound: bool = False) -> list[str]:
    """One signature an overload, as valid Python: ``(flags: int=0) -> INetworkDefinition``; ``bound``: less ``self``."""
    if inspect.isfunction(function):
        told = [str(inspect.signature(function))]
    else:
        lines = (function.__doc__ or "").splitlines()
        overloads = [line for line in lines if re.match(r"\d+\. \w+\(", line)] or lines[:1]
        told = [re.sub(r"^(\d+\. )?\w*(?=\()", "", line) for line in overloads if re.match(r"(\d+\. )?\w*\(", line)]
    return [_python(signature, bound) for signature in told]


def _python(signature: str, bound: bool) -> str:
    signature = re.sub(r"\b\w+_bindings\.\w+\.", "", signature)
    signature = re.sub(r"<((?:\w+\.)+\w+): -?\d+>", r"\1", signature)  # an enum's default, without its number
    signature = re.sub(r"<(?:\w+\.)*(\w+) object at 0x[0-9a-f]+>", r"\1()", signature)
    signature = re.sub(r"\w+::accessor<.*>$", "object", signature)
    signature = re.sub(r"(?:\w+::)+(\w+)", lambda found: CPLUSPLUS.get(found[1], found[1]), signature)
    signature = re.sub(r"(?<=[(,] )in:|(?<=\()in:", "in_:", signature)
    try:
        function = ast.parse(f"def f{signature}: ...").body[0]
    except SyntaxError:  # pybind11 lets an argument without a default follow one with
        function = ast.parse(f"def f{signature.replace(' = None', '')}: ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    if bound:
        del (function.args.posonlyargs or function.args.args)[0]
    returned = f" -> {ast.unparse(function.returns)}" if function.returns else ""
    return f"({ast.unparse(function.args)}){returned}"


def _returned(getter: Any) -> str:
    return "".join(_signatures(getter)).partition(" -> ")[2] or "object"


def _taken(setter: Any) -> str:
    return (
        "".join(_signatures(setter, bound=True)).partition(" -> ")[0].partition(": ")[2].removesuffix(")") or "object"
    )


def compact(api: dict[str, Any]) -> str:
    """JSON with one member a line, to be read in a diff."""
    line = re.compile(r"\[\s+([^\[\]{}]*?)\s+\]")
    text = line.sub(lambda found: "[" + re.sub(r",\n\s+", ", ", found[1]) + "]", json.dumps(api, indent=1))
    return text + "\n"


if __name__ == "__main__":
    if sys.argv[1] == "--import":
        sys.path.insert(0, sys.argv[2])
        print(json.dumps(describe(__import__(sys.argv[3]))))
    else:
        print(compact(introspect(Path(sys.argv[1]))), end="")
