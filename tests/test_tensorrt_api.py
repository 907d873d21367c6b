"""Every name, argument and enum that our code asks of TensorRT, held to the real API of each version.

No version of TensorRT runs here, so the code is read: which type each expression has follows from the signatures of the
version, through assignments, calls, closures and classes of all files that name ``trt``. What cannot be followed is a
finding too, never a pass. ``if hasattr(trt.X, "Y")`` and ``trt.__name__ ==`` are decided as that version would.
"""

import ast
import contextlib
import gc
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recording
from conftest import ROOT
from recording import VERSIONS, Device, Engine, Input, OutOfOrder, Output, api, double, lookup, parameters, returned
from tensorrt_api.introspect import describe, introspect

from deploy import trt as trt_module
from deploy.builder import build_engine
from deploy.cuda import Cuda
from deploy.engine import open_engine
from deploy.errors import Refused
from deploy.targets import RTX_COMPUTE_CAPABILITIES

RTX = next(version for version in VERSIONS if version.startswith("rtx"))
WHEELS = {  # version -> what pip calls its bindings
    version: f"{api(version)['wheel'].split('-')[0].replace('_', '-')}=={api(version)['version']}"
    for version in VERSIONS
}
RTX_ALONE = {  # asked for where a compute capability is given, which only RTX builds for
    "trt.ComputeCapability",
    "IBuilderConfig.num_compute_capabilities",
    "IBuilderConfig.set_compute_capability",
}
COMPOSED = {"ComputeCapability"}  # the name is put together; `test_every_card_has_a_name` holds the result
WITHOUT_TYPE = {"nptype", "volume"}  # written in Python, they say no type: a numpy type, an int
BITS = {"flags", "tactic_sources", "allowed_formats", "quantization_flags", "tempfile_control_flags"}
TAKEN_AS_SHAPE = {"Dims", "Permutation", "Weights"}  # pybind11 makes them from sequences and arrays
KINDS = {"int": {"int", "bool"}, "float": {"int", "float", "bool"}, "bool": {"bool"}, "str": {"str"}}
STORING = {"append", "add", "insert", "setdefault", "extend"}
PASSING = {"list", "tuple", "sorted", "set", "frozenset", "reversed", "iter", "next", "max", "min", "dict", "enumerate"}

Type = tuple[Any, ...]
Types = frozenset[Type]
NOTHING: Types = frozenset()
PLAIN: Types = frozenset({("plain", "")})


def plain(kind: str = "") -> Types:
    return frozenset({("plain", kind)})


def many(of: Types) -> Types:
    """A container; from the third level on all that is further inside counts as on one level, or types never settle."""
    return frozenset({("many", leaves(of) if deep(of) > 2 else of)})


def deep(types: Types) -> int:
    return max((1 + deep(t[1]) for t in types if t[0] == "many"), default=0)


def leaves(types: Types) -> Types:
    return frozenset().union(*(leaves(t[1]) if t[0] == "many" else {t} for t in types))


def of_many(types: Types) -> Types:
    """What is inside."""
    inside = [t[1] if t[0] == "many" else frozenset({t}) for t in types if t[0] in ("many", "plain")]
    return frozenset().union(*inside)


class Scope:
    """The names of a module, class or function -> their types; ``self`` of a class is what its objects hold."""

    def __init__(self, node: ast.AST, parent: "Scope | None", file: str) -> None:
        self.node, self.parent, self.file = node, parent, file
        self.names: dict[str, Types] = {}
        self.returns: Types = NOTHING
        self.yields: Types = NOTHING
        self.bases: Types = NOTHING  # of a class

    def find(self, name: str) -> "Scope | None":
        if name in self.names and not (isinstance(self.node, ast.ClassDef)):
            return self
        return self.parent.find(name) if self.parent else None

    def parameters(self) -> list[ast.arg]:
        assert isinstance(self.node, ast.FunctionDef | ast.Lambda)
        told = self.node.args
        return [*told.posonlyargs, *told.args, *told.kwonlyargs]


class Reader:
    """Reads files against one version; ``findings`` are ``file:line: what``."""

    def __init__(self, version: str, sources: dict[str, str]) -> None:
        self.version, self.data = version, api(version)
        self.used: set[str] = set()  # names of TensorRT that were held
        self.scopes: dict[ast.AST, Scope] = {}
        self.modules: dict[str, Scope] = {}
        trees = {file: ast.parse(source) for file, source in sources.items()}
        for file, tree in trees.items():
            scope = self.scopes[tree] = Scope(tree, None, file)
            self.modules[file.removesuffix(".py").replace("/", ".")] = scope
        before: Any = None
        for _ in range(30):
            self.findings: dict[str, None] = {}
            for tree in trees.values():
                self.block(tree.body, self.scopes[tree])
            after = {id(s): (dict(s.names), s.returns, s.yields) for s in self.scopes.values()}
            if after == before:
                break
            before = after
        else:
            self.findings["types do not settle"] = None

    def found(self, node: ast.AST, scope: Scope, what: str) -> None:
        self.findings[f"{scope.file}:{node.lineno}: {what} [{self.version}]"] = None  # type: ignore[attr-defined]

    # statements

    def block(self, body: list[ast.stmt], scope: Scope) -> bool:
        """Whether the block leaves: return, raise, continue or break."""
        return any(self.statement(line, scope) for line in body)

    def statement(self, line: ast.stmt, scope: Scope) -> bool:
        match line:
            case ast.FunctionDef():
                self.function(line, scope)
            case ast.ClassDef():
                self.local_class(line, scope)
            case ast.Return(value):
                if value:
                    scope.returns |= self.type(value, scope)
                return True
            case ast.Assign(targets, value):
                types = self.type(value, scope)
                for target in targets:
                    self.assign(target, types, scope, value)
            case ast.AnnAssign(target, annotation, value):
                types = self.type(value, scope) if value else NOTHING
                self.assign(target, types | (PLAIN if "Any" not in ast.unparse(annotation) else NOTHING), scope, value)
            case ast.AugAssign(target, _, value):
                self.assign(target, self.type(value, scope), scope, value)
            case ast.For(target, iterable, body, orelse):
                self.assign(target, self.items(iterable, scope), scope)
                self.block(body, scope)
                self.block(orelse, scope)
            case ast.While(test, body, orelse):
                self.type(test, scope)
                self.block(body, scope)
                self.block(orelse, scope)
            case ast.If(test, body, orelse):
                truth = self.truth(test, scope)
                left = truth is not False and self.block(body, scope)
                right = truth is not True and self.block(orelse, scope)
                return left if truth else right if truth is False else left and right
            case ast.With(items, body):
                for item in items:
                    types = self.type(item.context_expr, scope)
                    if item.optional_vars:
                        self.assign(item.optional_vars, types, scope)
                return self.block(body, scope)
            case ast.Try(body, handlers, orelse, final):
                left = self.block(body, scope)
                for handler in handlers:
                    if handler.name:
                        scope.names[handler.name] = PLAIN
                    left = self.block(handler.body, scope) and left
                self.block(orelse, scope)
                return self.block(final, scope) or left
            case ast.Import(names):
                for name in names:
                    scope.names[(name.asname or name.name).partition(".")[0]] = PLAIN
            case ast.ImportFrom(module, names):
                for name in names:
                    source = self.modules.get(module or "")
                    inner = self.modules.get(f"{module}.{name.name}")
                    held = frozenset({("local module", inner)}) if inner else PLAIN
                    scope.names[name.asname or name.name] = source.names.get(name.name, NOTHING) if source else held
            case ast.Raise(error, cause):
                for part in (error, cause):
                    if part:
                        self.type(part, scope)
                return True
            case ast.Continue() | ast.Break():
                return True
            case ast.Expr(value):
                self.type(value, scope)
            case _:
                for part in ast.iter_child_nodes(line):
                    if isinstance(part, ast.expr):
                        self.type(part, scope)
        return False

    def function(self, node: ast.FunctionDef | ast.Lambda, scope: Scope) -> Types:
        inner = self.scopes.setdefault(node, Scope(node, scope, scope.file))
        told = node.args
        for argument in inner.parameters():
            known = argument.annotation and ast.unparse(argument.annotation) != "Any"
            types = frozenset({("module",)}) if argument.arg == "trt" else PLAIN if known else NOTHING
            inner.names[argument.arg] = inner.names.get(argument.arg, NOTHING) | types
        for extra in (told.vararg, told.kwarg):
            if extra:
                inner.names.setdefault(extra.arg, PLAIN)
        for default in [*told.defaults, *filter(None, told.kw_defaults)]:
            self.type(default, scope)
        if isinstance(node, ast.Lambda):
            inner.returns |= self.type(node.body, inner)
            return frozenset({("function", inner)})
        if isinstance(scope.node, ast.ClassDef):
            self.override(node, inner, scope)
        self.block(node.body, inner)
        made: Types = frozenset({("property" if self.decorated(node, "property") else "function", inner)})
        scope.names[node.name] = scope.names.get(node.name, NOTHING) | made
        return made

    @staticmethod
    def decorated(node: ast.FunctionDef, name: str) -> bool:
        return any(ast.unparse(decorator).endswith(name) for decorator in node.decorator_list)

    def override(self, node: ast.FunctionDef, inner: Scope, scope: Scope) -> None:
        """A method of our class: ``self``, and what TensorRT hands to a method that it calls."""
        first, *rest = inner.parameters()
        inner.names[first.arg] = frozenset({("local object", scope)})
        for base in scope.bases:
            told = lookup(self.data, base[1], node.name) if base[0] == "class" else None
            if told and told[0] == "method" and node.name != "__init__":
                wanted = parameters(told[1])
                if len(wanted) != len(rest):
                    self.found(node, scope, f"{base[1]}.{node.name} is called with {told[1]}")
                for mine, theirs in zip(rest, wanted):
                    inner.names[mine.arg] = inner.names[mine.arg] | self.named(theirs.type)

    def local_class(self, node: ast.ClassDef, scope: Scope) -> None:
        inner = self.scopes.setdefault(node, Scope(node, scope, scope.file))
        inner.bases = frozenset().union(*(self.type(base, scope) for base in node.bases))
        self.block(node.body, inner)
        scope.names[node.name] = frozenset({("local class", inner)})

    def assign(self, target: ast.expr, types: Types, scope: Scope, value: ast.expr | None = None) -> None:
        match target:
            case ast.Name("trt"):
                scope.names["trt"] = frozenset({("module",)})
            case ast.Name(name):
                scope.names[name] = scope.names.get(name, NOTHING) | types
            case ast.Tuple(parts) | ast.List(parts):
                for i, part in enumerate(parts):
                    if isinstance(value, ast.Tuple) and len(value.elts) == len(parts):
                        self.assign(part, self.type(value.elts[i], scope), scope, value.elts[i])
                    else:
                        self.assign(part, of_many(types), scope)
            case ast.Starred(part):
                self.assign(part, many(of_many(types)), scope)
            case ast.Subscript(base, index):
                self.type(index, scope)
                if self.type(base, scope):
                    self.put_in(base, many(types), scope)
            case ast.Attribute(base, name):
                for t in self.type(base, scope):
                    if t[0] == "local object":
                        t[1].names[name] = t[1].names.get(name, NOTHING) | types
                    elif t[0] == "object":
                        self.set_property(target, t[1], name, types, value, scope)
                if not self.type(base, scope):
                    self.found(target, scope, f"cannot tell what `{ast.unparse(base)}` is, for its `{name}`")

    def put_in(self, base: ast.expr, types: Types, scope: Scope) -> None:
        """Into the container that ``base`` names, wherever that name lives."""
        if isinstance(base, ast.Name) and (owner := scope.find(base.id)):
            owner.names[base.id] |= types
        elif isinstance(base, ast.Attribute):
            for t in self.type(base.value, scope):
                if t[0] == "local object":
                    t[1].names[base.attr] = t[1].names.get(base.attr, NOTHING) | types

    def set_property(
        self, node: ast.expr, cls: str, name: str, types: Types, value: ast.expr | None, scope: Scope
    ) -> None:
        told = self.told(node, cls, name, scope)
        if told is None:
            return
        if told[0] not in ("property", "write-only"):
            self.found(node, scope, f"{cls}.{name} is {told[0]}: it cannot be set")
        elif value is not None:
            self.fits(node, f"{cls}.{name}", name, told[-1], value, types - {("none",)} or plain("none"), scope)

    def truth(self, test: ast.expr, scope: Scope) -> bool | None:
        """What this version makes of a test; ``None`` where that is not known from the version alone."""
        match test:
            case ast.Call(ast.Name("hasattr"), [owner, ast.Constant(str() as name)]):
                types = [t for t in self.type(owner, scope) if t[0] in ("module", "class", "object")]
                return any(self.has(t, name) for t in types) if types else None
            case ast.Compare(ast.Attribute(owner, "__name__"), [ast.Eq() | ast.NotEq() as sign], [other]):
                word = other.value if isinstance(other, ast.Constant) else self.constant(other, scope)
                if ("module",) in self.type(owner, scope) and isinstance(word, str):
                    return (self.data["module"] == word) == isinstance(sign, ast.Eq)
            case ast.UnaryOp(ast.Not(), inner):
                held = self.truth(inner, scope)
                return None if held is None else not held
            case ast.BoolOp(sign, parts):
                stop = isinstance(sign, ast.Or)
                truths = []
                for part in parts:
                    truths.append(self.truth(part, scope))
                    if truths[-1] is stop:
                        return stop
                return None if None in truths else not stop
        self.type(test, scope)
        return None

    def constant(self, name: ast.expr, scope: Scope) -> Any:
        if isinstance(name, ast.Name):
            for module in self.modules.values():
                for line in module.node.body:  # type: ignore[attr-defined]
                    if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == name.id:
                        with contextlib.suppress(ValueError):
                            return ast.literal_eval(line.value)
        return None

    def has(self, owner: Type, name: str) -> bool:
        if owner[0] == "module":
            return any(name in self.data[kind] for kind in ("classes", "enums", "functions", "values"))
        return lookup(self.data, owner[1], name) is not None

    # expressions

    def items(self, expression: ast.expr, scope: Scope) -> Types:
        """What a loop over ``expression`` gives."""
        types = self.type(expression, scope)
        inside = of_many(types)
        for t in types:
            if t[0] == "object" and (told := lookup(self.data, t[1], "__getitem__")):
                inside |= self.named(returned(told[1]))
        return inside

    def type(self, node: ast.expr, scope: Scope) -> Types:
        match node:
            case ast.Constant(value):
                return frozenset({("none",)}) if value is None else plain(type(value).__name__)
            case ast.Name("trt"):
                return frozenset({("module",)})
            case ast.Name(name):
                owner = scope.find(name)
                return owner.names[name] if owner else PLAIN
            case ast.Attribute(base, name):
                types = self.type(base, scope)
                if not types:
                    self.found(node, scope, f"cannot tell what `{ast.unparse(base)}` is, for its `{name}`")
                return frozenset().union(*(self.member(node, t, name, scope) for t in types))
            case ast.Call():
                return self.call(node, scope)
            case ast.IfExp(test, body, orelse):
                truth = self.truth(test, scope)
                left = NOTHING if truth is False else self.type(body, scope)
                return left | (NOTHING if truth is True else self.type(orelse, scope))
            case ast.BoolOp(_, parts):
                truth = self.truth(node, scope)
                if truth is not None:
                    return plain("bool")
                return frozenset().union(*(self.type(part, scope) for part in parts))
            case ast.Compare(left, _, others):
                sides = [left, *others]
                enums = [
                    t[1] for s in sides for t in self.type(s, scope) if t[0] == "object" and t[1] in self.data["enums"]
                ]
                numbers = [s for s in sides if isinstance(s, ast.Constant) and type(s.value) is int]
                numbers += [n for s in sides if isinstance(s, ast.Tuple) for n in s.elts if isinstance(n, ast.Constant)]
                if enums and numbers:
                    self.found(node, scope, f"{enums[0]} is compared with a number: name its value")
                return plain("bool")
            case ast.BinOp(left, _, right):
                return (
                    frozenset(t for t in self.type(left, scope) | self.type(right, scope) if t[0] != "object") or PLAIN
                )
            case ast.List(parts) | ast.Tuple(parts) | ast.Set(parts):
                return many(frozenset().union(*(self.type(part, scope) for part in parts)))
            case ast.Dict(keys, values):
                for key in filter(None, keys):
                    self.type(key, scope)
                return many(frozenset().union(*(self.type(value, scope) for value in values)))
            case ast.ListComp(element, loops) | ast.SetComp(element, loops) | ast.GeneratorExp(element, loops):
                scope = self.loops(node, loops, scope)
                return many(self.type(element, scope))
            case ast.DictComp(key, value, loops):
                scope = self.loops(node, loops, scope)
                self.type(key, scope)
                return many(self.type(value, scope))
            case ast.Subscript(base, index):
                types, _ = self.type(base, scope), self.type(index, scope)
                inside = of_many(types)
                for t in types:
                    if t[0] == "object" and (told := self.told(node, t[1], "__getitem__", scope)):
                        inside |= self.named(returned(told[1]))
                return inside | (types if isinstance(index, ast.Slice) else NOTHING)
            case ast.Starred(inner):
                return of_many(self.type(inner, scope))
            case ast.NamedExpr(target, value):
                types = self.type(value, scope)
                self.assign(target, types, scope)
                return types
            case ast.Lambda():
                return self.function(node, scope)
            case ast.Yield(value):
                scope.yields |= self.type(value, scope) if value else plain("none")
                return PLAIN
            case _:
                for part in ast.iter_child_nodes(node):
                    if isinstance(part, ast.expr):
                        self.type(part, scope)
                return plain("str") if isinstance(node, ast.JoinedStr) else PLAIN

    def loops(self, node: ast.AST, loops: list[ast.comprehension], scope: Scope) -> Scope:
        """The scope of a comprehension: its names are its own."""
        inner = self.scopes.setdefault(node, Scope(node, scope, scope.file))
        for loop in loops:
            self.assign(loop.target, self.items(loop.iter, inner), inner)
            for test in loop.ifs:
                self.type(test, inner)
        return inner

    def named(self, told: str) -> Types:
        """The type that a signature writes."""
        told = told.replace("typing_extensions.", "").replace("typing.", "").replace("collections.abc.", "")
        outer, _, inner = told.removesuffix("]").partition("[")
        if told in self.data["classes"] or told in self.data["enums"]:
            return frozenset({("object", told)})
        if outer in ("list", "List", "Sequence", "Optional"):
            return many(self.named(inner)) if outer != "Optional" else self.named(inner)
        if told in ("", "object"):
            return NOTHING
        return plain(
            {"SupportsInt": "int", "SupportsFloat": "float"}.get(told, "" if outer in ("tuple", "Tuple") else told)
        )

    def told(self, node: ast.AST, cls: str, name: str, scope: Scope) -> list[str] | None:
        """A member of TensorRT's class in this version, or a finding."""
        path = f"{cls}.{name}"
        self.used.add(path)
        told = lookup(self.data, cls, name)
        if told is None and not (path in RTX_ALONE and self.version != RTX):
            self.found(node, scope, f"there is no {path} in {self.version}")
        return told

    def member(self, node: ast.Attribute, owner: Type, name: str, scope: Scope) -> Types:
        match owner:
            case ("module",):
                return self.of_module(node, name, scope)
            case ("class", cls):
                if name.startswith("__") and name != "__init__":
                    return PLAIN
                told = self.told(node, cls, name, scope)
                if told is None:
                    return PLAIN
                if told[0] in ("value", "class"):
                    return frozenset({("object" if told[0] == "value" else "class", told[1])})
                return frozenset({("static" if told[0] == "static" else "unbound", cls, name)})
            case ("object", cls):
                if cls in self.data["enums"] and name in ("name", "value"):
                    return plain("str" if name == "name" else "int")
                told = self.told(node, cls, name, scope)
                if told is None or told[0] in ("value", "class"):
                    return PLAIN if told is None else frozenset({("object", told[1])})
                if told[0] == "write-only":
                    self.found(node, scope, f"{cls}.{name} can only be set")
                if told[0] in ("property", "read-only") and isinstance(node.ctx, ast.Load):
                    return self.named(told[1])
                return frozenset({("method", cls, name)})
            case ("local object" | "local class" as kind, cls):
                types = cls.names.get(name, NOTHING)
                bound = frozenset(
                    ("bound", t[1], cls) if t[0] == "function" and kind == "local object" else t for t in types
                )
                gotten = frozenset().union(*(t[1].returns for t in types if t[0] == "property"))
                bases = [b for b in cls.bases if b[0] in ("class", "local class")]
                if not types and bases:
                    kinds = {"class": "object", "local class": "local object"}
                    return frozenset().union(*(self.member(node, (kinds[b[0]], b[1]), name, scope) for b in bases))
                return frozenset(t for t in bound if t[0] != "property") | gotten
            case ("local module", module):
                return module.names.get(name, NOTHING)
            case ("many", _):
                return PLAIN
            case ("plain", _):
                return PLAIN
        return NOTHING if owner[0] == "none" else PLAIN

    def of_module(self, node: ast.AST, name: str, scope: Scope) -> Types:
        if name in ("__name__", "__version__"):
            return plain("str")
        self.used.add(f"trt.{name}")
        if name in self.data["values"]:
            return frozenset({("object", self.data["values"][name].rpartition(".")[0])})
        if name in self.data["functions"]:
            return frozenset({("of module", name)})
        if name in self.data["classes"] or name in self.data["enums"]:
            return frozenset({("class", name)})
        if not (f"trt.{name}" in RTX_ALONE and self.version != RTX):
            self.found(node, scope, f"there is no trt.{name} in {self.version}")
        return PLAIN

    # calls

    def call(self, node: ast.Call, scope: Scope) -> Types:
        given = [(part, self.type(part, scope)) for part in node.args]
        named = [(part.arg, part.value, self.type(part.value, scope)) for part in node.keywords]
        if isinstance(node.func, ast.Attribute) and node.func.attr in STORING:
            for _, types in given:
                self.put_in(node.func.value, types if node.func.attr == "extend" else many(types), scope)
        if isinstance(node.func, ast.Attribute):
            inside = of_many(frozenset(t for t in self.type(node.func.value, scope) if t[0] == "many"))
            if inside and node.func.attr == "items":
                return many(many(inside | PLAIN))
            if inside:
                return inside | many(inside)
        if isinstance(node.func, ast.Name) and not scope.find(node.func.id):
            return self.builtin(node, node.func.id, given, scope)
        callees = self.type(node.func, scope)
        return frozenset().union(*(self.called(node, callee, given, named, scope) for callee in callees))

    def called(self, node: ast.Call, callee: Type, given: list[Any], named: list[Any], scope: Scope) -> Types:
        match callee:
            case ("class", cls) if cls in self.data["enums"]:
                self.found(node, scope, f"{cls} is made from a number: name its value")
                return frozenset({("object", cls)})
            case ("class", cls):
                self.arguments(node, cls, "__init__", given, named, scope)
                return frozenset({("object", cls)})
            case ("method" | "static", cls, name):
                return self.arguments(node, cls, name, given, named, scope)
            case ("unbound", cls, name):
                return self.arguments(node, cls, name, given[1:], named, scope)
            case ("of module", name):
                types = self.checked(node, f"trt.{name}", self.data["functions"][name], given, named, scope)
                return PLAIN if name in WITHOUT_TYPE else types
            case ("function", inner):
                return self.flow(inner, inner.parameters(), given, named)
            case ("bound", inner, _):
                return self.flow(inner, inner.parameters()[1:], given, named)
            case ("local class", cls):
                for t in cls.names.get("__init__", NOTHING):
                    self.flow(t[1], t[1].parameters()[1:], given, named)
                if "__init__" not in cls.names:  # a dataclass or a NamedTuple
                    fields = [line.target.id for line in cls.node.body if isinstance(line, ast.AnnAssign)]
                    for name, types in [*zip(fields, (t for _, t in given)), *((n, t) for n, _, t in named)]:
                        cls.names[name] = cls.names.get(name, NOTHING) | types
                return frozenset({("local object", cls)})
        return self.elsewhere(node, given, named, scope)

    def elsewhere(self, node: ast.Call, given: list[Any], named: list[Any], scope: Scope) -> Types:
        """A function that is not ours: called with a function it calls that; what comes of an object is not known."""
        kinds = {"function", "bound", "method", "static", "of module", "local class"}
        for i, (_, types) in enumerate(given):
            if callables := [t for t in types if t[0] in kinds]:
                rest = given[i + 1 :]
                return many(frozenset().union(*(self.called(node, t, rest, named, scope) for t in callables)))
        ours = [types for _, types in given] + [types for _, _, types in named]
        return NOTHING if any(t[0] in ("object", "local object") for types in ours for t in types) else PLAIN

    def builtin(self, node: ast.Call, name: str, given: list[Any], scope: Scope) -> Types:
        if name == "getattr":
            return self.get(node, given, scope)
        if name in ("zip", "enumerate"):
            return many(many(frozenset().union(PLAIN, *(self.items(part, scope) for part, _ in given))))
        if name in PASSING and given:
            inside = frozenset().union(*(self.items(part, scope) for part, _ in given))
            return inside | many(inside) if name in ("next", "max", "min") else many(inside)
        return plain(name if name in ("int", "str", "bool", "float", "bytes") else "")

    def get(self, node: ast.Call, given: list[Any], scope: Scope) -> Types:
        (_, owners), (name, _), *default = given
        types: Types = frozenset().union(*(t for _, t in default))
        for owner in owners:
            if owner[0] not in ("module", "class", "object"):
                types |= PLAIN
            elif isinstance(name, ast.Constant):
                if not default or self.has(owner, name.value):
                    read = ast.copy_location(ast.Attribute(node.args[0], name.value, ast.Load()), node)
                    types |= self.member(read, owner, name.value, scope)
            elif owner[0] == "class" and owner[1] in COMPOSED:
                types |= {("object", owner[1])}
            else:
                self.found(node, scope, f"cannot tell which name of `{ast.unparse(node.args[0])}` is asked for")
        return types

    def flow(self, inner: Scope, wanted: list[ast.arg], given: list[Any], named: list[Any]) -> Types:
        """Arguments into one of our functions, and what it returns."""
        for parameter, (_, types) in zip(wanted, given):
            inner.names[parameter.arg] = inner.names.get(parameter.arg, NOTHING) | types
        for name, _, types in named:
            if name in inner.names:
                inner.names[name] |= types
        if inner.yields:
            manager = isinstance(inner.node, ast.FunctionDef) and self.decorated(inner.node, "contextmanager")
            return inner.yields if manager else many(inner.yields)
        return inner.returns

    def arguments(self, node: ast.Call, cls: str, name: str, given: list[Any], named: list[Any], scope: Scope) -> Types:
        told = lookup(self.data, cls, name) or ["method"]
        if len(told) == 1:
            self.found(node, scope, f"{cls}.{name} cannot be called")
            return NOTHING
        return self.checked(node, f"{cls}.{name}", told[1:], given, named, scope)

    def checked(
        self, node: ast.Call, path: str, signatures: list[str], given: list[Any], named: list[Any], scope: Scope
    ) -> Types:
        """The overload that takes these arguments, or the findings against the one that is nearest."""
        tried = []
        for signature in signatures:
            mine, before = self.findings, dict(self.findings)
            self.findings = {}
            self.overload(node, path, signature, given, named, scope)
            tried.append(self.findings)
            self.findings = mine
            assert mine == before
            if not tried[-1]:
                return self.named(returned(signature))
        self.findings |= min(tried, key=len)
        return self.named(returned(signatures[0]))

    def overload(
        self, node: ast.Call, path: str, signature: str, given: list[Any], named: list[Any], scope: Scope
    ) -> None:
        wanted = parameters(signature)
        pairs = []
        for part, types in given:
            if isinstance(part, ast.Starred):
                count = self.length(part.value, scope)
                if count is None:
                    self.found(node, scope, f"{path}{signature}: cannot tell how many `{ast.unparse(part)}` are")
                pairs += [(part.value, types)] * (count or 0)
            else:
                pairs.append((part, types))
        by_name = {name: (part, types) for name, part, types in named}
        free = {p.name for p in wanted[len(pairs) :] if not p.positional}
        for name in by_name:
            if name not in free:
                self.found(node, scope, f"{path}{signature} takes no `{name}=`")
        if len(pairs) > len(wanted):
            self.found(node, scope, f"{path}{signature} is called with {len(pairs)} arguments")
        for i, parameter in enumerate(wanted):
            came = pairs[i] if i < len(pairs) else by_name.get(parameter.name)
            if came:
                optional = parameter.default == "None"
                types = came[1] - {("none",)} if optional else came[1]
                if types or not optional:
                    self.fits(node, f"{path}{signature}", parameter.name, parameter.type, came[0], types, scope)
            elif parameter.default is None:
                self.found(node, scope, f"{path}{signature} is called without `{parameter.name}`")

    def length(self, node: ast.expr, scope: Scope) -> int | None:
        match node:
            case ast.Tuple(parts) | ast.List(parts) if not any(isinstance(part, ast.Starred) for part in parts):
                return len(parts)
            case ast.GeneratorExp(_, [loop]) | ast.ListComp(_, [loop]) if not loop.ifs:
                return self.length(loop.iter, scope)
            case ast.Call(ast.Name("zip"), parts) if None not in (sizes := [self.length(p, scope) for p in parts]):
                return min(size for size in sizes if size is not None)
            case ast.Call(ast.Name("range"), [ast.Constant(int() as count)]):
                return count
            case ast.Name():
                held = self.constant(node, scope)
                return len(held) if isinstance(held, tuple | list) else None
        return None

    def fits(
        self, node: ast.AST, path: str, name: str, wanted: str, value: ast.expr, types: Types, scope: Scope
    ) -> None:
        """Whether ``types`` may stand where a signature says ``wanted``."""
        wanted = wanted.replace("typing_extensions.", "").replace("typing.", "").replace("collections.abc.", "")
        said = f"{path}: `{name}` wants {wanted}; `{ast.unparse(value)}`"
        if name in BITS and self.numbers(value):
            self.found(node, scope, f"{said} is a number: write 1 << int(...) of the enum's name")
        if wanted in self.data["enums"] or (wanted in self.data["classes"] and wanted not in TAKEN_AS_SHAPE):
            if not types:
                self.found(node, scope, f"{said} cannot be told")
            right = any(self.derives(own, wanted) for t in types for own in self.classes(t))
            for t in types:
                if t == ("none",) or (t == ("plain", "") and right):  # where one name holds both, one by one is held
                    continue
                if t == ("plain", "none") and wanted not in self.data["enums"]:
                    continue
                if not any(self.derives(own, wanted) for own in self.classes(t)):
                    word = "a number, or no" if wanted in self.data["enums"] else "no"
                    self.found(node, scope, f"{said} is {word} {wanted}")
            return
        kind = {"SupportsInt": "int", "SupportsFloat": "float"}.get(wanted, wanted)
        for t in types:
            if t[0] == "object" and (kind in KINDS or kind in ("tuple", "list", "bytes")):
                self.found(node, scope, f"{said} is a {t[1]}")
            if t[0] == "plain" and kind in KINDS and t[1] in {*KINDS, "bytes"} - KINDS[kind]:
                self.found(node, scope, f"{said} is of type {t[1]}")

    def classes(self, t: Type) -> set[str]:
        if t[0] == "local object":
            return {cls for base in t[1].bases if base[0] == "class" for cls in [base[1]]}
        return {t[1]} if t[0] == "object" else set()

    def derives(self, cls: str, wanted: str) -> bool:
        bases = self.data["classes"].get(cls, {"bases": []})["bases"]
        return cls == wanted or any(self.derives(base, wanted) for base in bases)

    @staticmethod
    def numbers(value: ast.expr) -> bool:
        """A bit that is written as a number; 0 is no bit, and ``1 << int(name)`` is right."""
        allowed = {
            id(n.left) for n in ast.walk(value) if isinstance(n, ast.BinOp) and not isinstance(n.right, ast.Constant)
        }
        constants = [n for n in ast.walk(value) if isinstance(n, ast.Constant) and type(n.value) is int and n.value]
        return any(not (constant.value == 1 and id(constant) in allowed) for constant in constants)


def sources() -> dict[str, str]:
    """Every file of ours that names ``trt``."""
    files = {}
    for path in sorted([*ROOT.glob("deploy/**/*.py"), *ROOT.glob("pipeline/**/*.py")]):
        names = {getattr(node, "id", getattr(node, "arg", None)) for node in ast.walk(ast.parse(path.read_text()))}
        if "trt" in names:
            files[path.relative_to(ROOT).as_posix()] = path.read_text()
    return files


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


@pytest.mark.slow
def test_no_name_of_our_code_escapes_the_reader() -> None:
    """Each name that can only be TensorRT's (it has an underscore or a capital) is misspelt in turn, and is missed."""
    files, told = sources(), api(RTX)
    of_tensorrt = {name for entry in told["classes"].values() for name in entry["members"]}
    of_tensorrt |= {name for names in told["enums"].values() for name in names}
    of_tensorrt |= {*told["classes"], *told["enums"], *told["functions"]}
    assert not Reader(RTX, files).findings
    escaped, misspelt = [], 0
    for file, source in files.items():
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.Attribute) or node.attr not in of_tensorrt or node.attr.startswith("__"):
                continue
            if "_" not in node.attr and node.attr[0].islower():
                continue
            lines = source.encode().split(b"\n")
            line, end = lines[node.end_lineno - 1], node.end_col_offset
            lines[node.end_lineno - 1] = line[:end] + b"_gone" + line[end:]
            misspelt += 1
            if not Reader(RTX, files | {file: b"\n".join(lines).decode()}).findings:
                escaped.append(f"{file}:{node.lineno}: {ast.unparse(node)}")
    assert not escaped and misspelt > 60


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


# the double


@pytest.fixture(autouse=True)
def one_log_a_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is kept a process and module name; here every version has the same name."""
    monkeypatch.setattr(trt_module, "_LOGGERS", {})


PROFILE = ((1, 2), (8, 2), (64, 2))
INPUTS = [{"name": "x", "dtype": "float32", "shape": ["batch", 2]}]


def doubling(**more: Any) -> Engine:
    tensors = [Input("x", "FLOAT", PROFILE), Output("y", "FLOAT", "x")]
    return Engine(tensors, layers=[("conv1", "CONVOLUTION", "FLOAT")], **more)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_engine_is_built_and_runs_on_every_version(version: str, tmp_path: Path) -> None:
    device = Device()
    trt = double(version, doubling(device=device))
    (tmp_path / "g.onnx").write_bytes(b"graph")
    built = build_engine(trt, tmp_path / "g.onnx", INPUTS, {"batch": (1, 8, 64)}, "8.6" if version == RTX else None)
    assert built.plan == recording.plan(version, doubling())
    assert [layer.get("name", layer.get("Name")) for layer in built.layers["layers"]] == ["conv1"]
    cleared = [call for call in trt.calls if call.name == "IBuilderConfig.clear_flag"]
    assert cleared[0].arguments == {"flag": trt.BuilderFlag.TF32}
    assert [call.name for call in trt.calls if call.name.startswith("IBuilderConfig.set_flag")] == []
    (tmp_path / "e.engine").write_bytes(built.plan)
    run = open_engine(trt, tmp_path / "e.engine", Cuda(device.library))
    for batch in (3, 1, 64, 2, 3, 3):
        x = np.random.default_rng(batch).normal(size=(batch, 2)).astype(np.float32)
        np.testing.assert_array_equal(run({"x": x})["y"], 2 * x)
    assert device.replays  # a shape that comes again is captured
    del run
    gc.collect()
    assert not device.blocks and not device.pinned and not device.handles  # all is given back


@pytest.mark.parametrize("version", VERSIONS)
def test_what_the_real_one_refuses_is_told(version: str, tmp_path: Path) -> None:
    (tmp_path / "g.onnx").write_bytes(b"graph")
    trt = double(version, doubling(refused=[("unpool", "MaxUnpool", "no importer")]))
    with pytest.raises(Refused, match=r"cannot parse this graph: node 'unpool' \(MaxUnpool\): no importer"):
        build_engine(trt, tmp_path / "g.onnx", INPUTS, {"batch": (1, 8, 64)})
    trt_module._LOGGERS.clear()
    trt = double(version, doubling(unbuildable="out of memory"))
    with pytest.raises(Refused, match="cannot build this graph: out of memory"):
        build_engine(trt, tmp_path / "g.onnx", INPUTS, {"batch": (1, 8, 64)})


@pytest.mark.parametrize("damage", ["cut", "other version"])
def test_an_engine_that_is_not_of_this_version_is_refused(damage: str, tmp_path: Path) -> None:
    cuda = Cuda(Device().library)
    data = recording.plan(VERSIONS[0], doubling())
    (tmp_path / "e.engine").write_bytes(data[:-9] if damage == "cut" else data)
    trt = double(VERSIONS[0] if damage == "cut" else RTX, doubling())
    with pytest.raises(Refused, match="damaged" if damage == "cut" else "built by 10.3.0"):
        open_engine(trt, tmp_path / "e.engine", cuda)


def opened(version: str, engine: Engine) -> tuple[Any, Any]:
    trt = double(version, engine)
    loaded = trt.Runtime(trt.Logger()).deserialize_cuda_engine(recording.plan(version, engine))
    return trt, loaded.create_execution_context()


@contextlib.contextmanager
def refused(kind: type[Exception], said: str, version: str) -> Iterator[None]:
    with pytest.raises(kind, match=said) as caught:
        yield
    assert kind is OutOfOrder or version in str(caught.value)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_double_has_the_real_members_and_no_others(version: str) -> None:
    trt = double(version, doubling())
    for name, told in api(version)["classes"].items():
        if name not in api(version)["enums"]:
            for member, (kind, *_) in told["members"].items():
                held = member == "__del__" or (member == "__init__" and told["members"][member] == ["method"])
                assert held or member in vars(getattr(trt, name)), (name, member, kind)
    builder = trt.Builder(trt.Logger())
    config = builder.create_builder_config()
    for what in (
        lambda: trt.UffParser,
        lambda: builder.build_engine,
        lambda: trt.BuilderFlag.STRICT_TYPES,
        lambda: trt.ILogger.FATAL,
        lambda: setattr(config, "max_workspace_size", 1),
        lambda: trt.BuilderFlag.TF32.flag,
    ):
        with refused(AttributeError, "has no attribute", version):
            what()
    if version in OF_11:
        with refused(AttributeError, "BuilderFlag of .* has no attribute 'FP16'", version):
            _ = trt.BuilderFlag.FP16


@pytest.mark.parametrize("version", VERSIONS)
def test_the_double_holds_arguments(version: str) -> None:
    trt = double(version, doubling())
    log = trt.Logger()
    builder = trt.Builder(log)
    network, config = builder.create_network(0), builder.create_builder_config()
    for what in (
        lambda: builder.create_network("strong"),
        lambda: builder.create_network(0, 1),
        lambda: builder.create_network(flag=0),
        lambda: config.set_flag(4),
        lambda: config.set_flag(trt.DataType.FLOAT),
        lambda: setattr(config, "profiling_verbosity", 2),
        lambda: builder.build_serialized_network(config, network),
        lambda: builder.build_serialized_network(None, config),
        lambda: trt.Builder(),
        lambda: trt.OnnxParser(network, log).parse("graph.onnx"),
        lambda: trt.BuilderFlag(4),
        lambda: trt.BuilderFlag.TF32 == 6,
    ):
        with refused(TypeError, "takes|is made from|is compared with", version):
            what()
    with pytest.raises(TypeError, match="No constructor defined"):
        trt.ICudaEngine()
    with pytest.raises(TypeError, match=r"ILogger.__init__\(\) must be called"):
        type("Log", (trt.ILogger,), {"__init__": lambda self: None})()
    with pytest.raises(AttributeError):
        network.num_layers = 3
    with pytest.raises(OutOfOrder, match="before the parser"):
        builder.build_serialized_network(network, config)
    with pytest.raises(OutOfOrder, match="bits of no"):
        builder.create_network(1 << 30)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_double_holds_the_order(version: str) -> None:
    device = Device()
    cuda = Cuda(device.library)
    trt, context = opened(version, doubling(device=device))
    x, y, stream = cuda.malloc(24), cuda.malloc(24), cuda.stream()
    with refused(OutOfOrder, "before the shape of 'x'", version):
        context.get_tensor_shape("y")
    with refused(OutOfOrder, "before the shape of x", version):
        context.execute_async_v3(stream)
    assert not context.set_input_shape("x", (65, 2))
    assert context.set_input_shape("x", (3, 2))
    assert tuple(context.get_tensor_shape("y")) == (3, 2)
    context.set_tensor_address("x", x)
    with refused(OutOfOrder, "before the address of y", version):
        context.execute_async_v3(stream)
    context.set_tensor_address("y", y)
    assert context.execute_async_v3(stream)
    cuda.synchronize(stream)
    cuda.free(y)
    with refused(OutOfOrder, "address of y that was freed", version):
        context.execute_async_v3(stream)
        cuda.synchronize(stream)
    with refused(OutOfOrder, "no tensor 'z'", version):
        context.set_tensor_address("z", x)
    names = [call.name for call in trt.calls]
    assert names.index("Runtime.__init__") < names.index("IExecutionContext.set_input_shape")


def test_numbers_of_enums_differ_between_versions() -> None:
    numbers = {int(double(version, doubling()).BuilderFlag.TF32) for version in VERSIONS}
    assert len(numbers) > 1


def test_memory_of_the_double_is_a_buffer_and_no_more() -> None:
    memory = double(RTX, doubling())._memory(b"plan")
    assert bytes(memory) == b"plan" and memory.nbytes == 4 and memory
    with pytest.raises(TypeError, match="no len"):
        len(memory)
    with pytest.raises(AttributeError, match="tobytes"):
        memory.tobytes()
