"""Reads our source for every name, argument and enum that it asks of TensorRT, as one version of it would take them.

No version of TensorRT runs here, so the code is read: which type each expression has follows from the signatures of the
version, through assignments, calls, closures and classes of all files that name ``trt``. What cannot be followed is a
finding too, never a pass. ``if hasattr(trt.X, "Y")`` and ``trt.__name__ ==`` are decided as that version would.
"""

import ast
import contextlib
from typing import Any

from conftest import ROOT
from recording import RTX, api, lookup, parameters, returned

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
        self.trees = {file: ast.parse(source) for file, source in sources.items()}
        for file, tree in self.trees.items():
            scope = self.scopes[tree] = Scope(tree, None, file)
            self.modules[file.removesuffix(".py").replace("/", ".")] = scope
        before: Any = None
        for _ in range(30):
            self.read(*self.trees)
            after = self.known()
            if after == before:
                break
            before = after
        else:
            self.findings["types do not settle"] = None

    def read(self, *files: str) -> None:
        """Read ``files`` once more, with the types that are known by now; ``findings`` are of this time alone."""
        self.findings: dict[str, None] = {}
        for file in files:
            self.block(self.trees[file].body, self.scopes[self.trees[file]])

    def known(self) -> dict[Scope, Any]:
        """The types of each scope."""
        return {scope: (dict(scope.names), scope.returns, scope.yields) for scope in self.scopes.values()}

    def know(self, known: dict[Scope, Any]) -> None:
        """Have the types that ``known`` gave, and no others."""
        self.scopes = {node: scope for node, scope in self.scopes.items() if scope in known}
        for scope, (names, returns, yields) in known.items():
            scope.names, scope.returns, scope.yields = dict(names), returns, yields

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
