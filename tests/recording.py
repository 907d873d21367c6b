"""A double of the TensorRT module, generated from the real API of a version (``tensorrt_api/``).

Its classes have the members of the real ones and no others, and hold the number, names and types of arguments. Enum
values are numbers of its own, so that code which writes a number where a name belongs breaks. Every call is recorded.
It refuses what the real one refuses, and also what the real one answers with ``False`` or nonsense that nobody looks
at: running before every shape and address is set, an output's shape before the inputs', an address that was freed.

Its engine doubles: output = 2 x the input that it names, in the memory that the addresses point to; or it answers as it
is told to.
"""

import array
import ast
import ctypes
import functools
import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from host_cuda import HostRuntime

FOLDER = Path(__file__).parent / "tensorrt_api"
VERSIONS = sorted(
    (path.stem for path in FOLDER.glob("*.json")),
    key=lambda name: [int(n) if n.isdigit() else 99 for n in name.split(".")],
)
RTX = next(version for version in VERSIONS if version.startswith("rtx"))
PLAN = b"PLAN"


class OutOfOrder(AssertionError):
    """A call that the real one would not have served yet, or no more."""


class Call(NamedTuple):
    name: str  # ``Builder.create_network``, ``IBuilderConfig.progress_monitor =``
    arguments: dict[str, Any]


class Input(NamedTuple):
    name: str
    dtype: str  # of ``DataType``
    profile: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]  # smallest, best served, largest shape


class Output(NamedTuple):
    name: str
    dtype: str
    of: str  # the input that it doubles
    tail: tuple[int, ...] | None = None  # its shape after the input's first axis; ``None``: the input's own


@dataclass
class Engine:
    """What the parser reads, the builder builds and the context runs."""

    tensors: Sequence[Input | Output]
    layers: Sequence[tuple[str, str, str]] = ()  # name, ``LayerType``, ``DataType`` of its output
    refused: Sequence[tuple[str, str, str]] = ()  # node, operator, reason: the parser refuses
    unbuildable: str = ""  # the reason: the builder refuses
    dla_cores: int = 0
    only_gpu: Sequence[str] = ()  # layers that no DLA can run
    answer: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] | None = None  # ``None``: it doubles
    device: HostRuntime | None = None  # whose memory and streams it runs on; ``None``: at once, on any memory


@functools.cache
def api(version: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{version}.json").read_text())


class Parameter(NamedTuple):
    name: str
    type: str
    default: str | None
    positional: bool  # by position alone: pybind11 writes ``arg0`` for an argument without a name


@functools.cache
def parameters(signature: str) -> tuple[Parameter, ...]:
    """The arguments of one signature of the data."""
    function = ast.parse(f"def f{signature}: ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    names = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
    defaults = [None] * (len(names) - len(function.args.defaults)) + list(function.args.defaults)
    return tuple(
        Parameter(
            name.arg,
            ast.unparse(name.annotation) if name.annotation else "object",
            ast.unparse(default) if default else None,
            name.arg.startswith("arg") and name.arg[3:].isdigit(),
        )
        for name, default in zip(names, defaults)
    )


def returned(signature: str) -> str:
    """The type that a signature returns; empty where it does not say."""
    return signature.rpartition(" -> ")[2] if " -> " in signature else ""


def lookup(data: dict[str, Any], cls: str, name: str) -> list[str] | None:
    """A member of a class or of what it derives from: ``[kind, ...]``."""
    if name in data["enums"].get(cls, ()):
        return ["value", cls]
    entry = data["classes"].get(cls, {"bases": [], "members": {}})
    if name in entry["members"]:
        return entry["members"][name]
    return next((found for base in entry["bases"] if (found := lookup(data, base, name))), None)


def plan(version: str, engine: Engine) -> bytes:
    """The bytes of a built engine: tied to the version, and damage shows."""
    body = json.dumps([api(version)["module"], version, engine.tensors, engine.layers]).encode()
    return PLAN + hashlib.sha256(body).digest() + body


def double(version: str, engine: Engine) -> Any:
    """A module-like object of ``version`` whose parser reads, builder builds and context runs ``engine``.

    ``double(...).calls`` holds every call in order.
    """
    return Double(version, engine)


class Double(ModuleType):
    def __init__(self, version: str, engine: Engine) -> None:
        data = api(version)
        super().__init__(data["module"])
        self.__version__ = data["version"]
        self._data, self._version, self._engine = data, version, engine
        self._enums = {name: _enum(version, name, members) for name, members in data["enums"].items()}
        self.calls: list[Call] = []
        for name, enum in self._enums.items():
            if "." not in name:
                setattr(self, name, enum)
        for name in data["classes"]:
            if name not in self._enums:
                self._class(name)
        for name, value in data["values"].items():
            owner, _, member = value.rpartition(".")
            setattr(self, name, getattr(self._enums[owner], member))
        self.nptype = self._nptype
        self.volume = lambda iterable: int(np.prod(list(iterable)))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"module {self.__name__!r} of {self._version} has no attribute {name!r}")

    def _class(self, name: str) -> Any:
        if name not in self.__dict__:
            told = self._data["classes"][name]
            root = {"Dims": _Dims, "IHostMemory": _Buffer}.get(name, _Object)
            bases = tuple(self._class(base) for base in told["bases"]) or (root,)
            members = {
                member: self._member(name, member, *kind)
                for member, kind in told["members"].items()
                if kind != ["method"] and member != "__del__"  # one cannot be constructed; the other does nothing
            }
            setattr(self, name, _Class(name, bases, members | {"_of": self, "_name": name}))
        return self.__dict__[name]

    def _member(self, cls: str, name: str, kind: str, *types: str) -> Any:
        if kind == "value":
            return getattr(self._enums[types[0]], name)
        if kind == "class":
            return self._enums[types[0]]
        if kind in ("property", "read-only", "write-only"):
            return _property(f"{cls}.{name}", name, kind, types)
        method = _method(f"{cls}.{name}", name, types)
        return staticmethod(functools.partial(method, self)) if kind == "static" else method

    def _nptype(self, trt_type: Any) -> type:
        known = {"FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8, "INT32": np.int32, "INT64": np.int64}
        known |= {"BOOL": np.bool_, "UINT8": np.uint8}
        if type(trt_type) is not self._enums["DataType"] or trt_type.name not in known:
            raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
        return known[trt_type.name]

    def _new(self, cls: str, **state: Any) -> Any:
        """An object that only TensorRT makes."""
        new = object.__new__(self._class(cls))
        object.__setattr__(new, "_state", state)
        return new

    def _dims(self, shape: Sequence[int]) -> Any:
        return self._new("Dims", shape=list(shape))

    def _memory(self, data: bytes) -> Any:
        return self._class("IHostMemory")("B", data)

    def _error(self, logger: Any, message: str) -> None:
        logger.log(self._enums["ILogger.Severity"].ERROR, message)


class _Class(type):
    """Says the version where a class has no such name, and holds a class that derives from it to its ``__init__``."""

    def __getattr__(cls, name: str) -> Any:
        if name == "_of":
            raise AttributeError(name)
        raise AttributeError(f"{cls.__name__} of {cls._of._version} has no attribute {name!r}")

    def __call__(cls, *arguments: Any, **named: Any) -> Any:
        made = super().__call__(*arguments, **named)
        if isinstance(made, _Object) and "_state" not in made.__dict__:
            raise TypeError(f"{made._name}.__init__() must be called when overriding __init__")
        return made


class _Object(metaclass=_Class):
    """What every class of the double has: state of its own, and no attribute that the real one lacks."""

    _of: Any
    _name: str
    _state: dict[str, Any]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        raise TypeError(f"{self._name}: No constructor defined!")

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{self._name} of {self._of._version} has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        own = self._of.__dict__.get(self._name) is type(self)  # a class that derives from it keeps what it likes
        if own and lookup(self._of._data, self._name, name) is None:
            raise AttributeError(f"{self._name} of {self._of._version} has no attribute {name!r}")
        object.__setattr__(self, name, value)


class _Dims(_Object):
    def __repr__(self) -> str:
        return repr(tuple(self._state["shape"]))


class _Buffer(array.array, metaclass=_Class):
    """Memory of TensorRT: read through the buffer protocol, and without a length."""

    _of: Any
    _name: str

    def __init__(self, *arguments: Any) -> None: ...

    def __getattribute__(self, name: str) -> Any:
        cls = type(self)
        if name.startswith("_") or lookup(cls._of._data, cls._name, name):
            return super().__getattribute__(name)
        raise AttributeError(f"{cls._name} of {cls._of._version} has no attribute {name!r}")

    def __len__(self) -> int:
        raise TypeError("object of type 'IHostMemory' has no len()")

    def __bool__(self) -> bool:
        return True


def _enum(version: str, name: str, names: Sequence[str]) -> Any:
    """pybind11's kind of enum: names, and numbers that differ from version to version."""
    members: dict[str, Any] = {}

    class Meta(type):
        def __getattr__(cls, member: str) -> Any:
            raise AttributeError(f"{name} of {version} has no attribute {member!r}")

    class Value(metaclass=Meta):
        def __init__(self, value: Any) -> None:
            raise TypeError(f"{name} of {version} is made from {value!r}; name its value: numbers move")

        def __index__(self) -> int:
            return self.value

        __int__ = __index__

        def __eq__(self, other: object) -> bool:
            if isinstance(other, int):
                raise TypeError(f"{name}.{self.name} of {version} is compared with the number {other}")
            return self is other

        def __hash__(self) -> int:
            return hash(self.name)

        def __repr__(self) -> str:
            return f"<{name}.{self.name}>"

        def __getattr__(self, member: str) -> Any:
            raise AttributeError(f"{name} of {version} has no attribute {member!r}")

    Value.__name__ = Value.__qualname__ = name
    shift = sum(map(ord, version + name)) % 5 + 1
    for i, member in enumerate(names):
        value = object.__new__(Value)
        value.name, value.value = member, i + shift
        members[member] = value
        setattr(Value, member, value)
    Value.__members__ = members
    return Value


def fits(trt: Any, value: Any, wanted: str) -> bool:
    """Whether pybind11 would take ``value`` where a signature says ``wanted``."""
    wanted = wanted.replace("typing_extensions.", "").replace("typing.", "").replace("collections.abc.", "")
    plain = {"bool": (bool, np.bool_), "str": str, "bytes": bytes, "tuple": tuple, "list": list, "slice": slice}
    outer, _, inner = wanted.removesuffix("]").partition("[")
    if wanted in trt._enums:
        return type(value) is trt._enums[wanted]
    if wanted in plain:
        return isinstance(value, plain[wanted])
    if wanted in ("int", "SupportsInt"):
        return hasattr(value, "__index__")
    if wanted in ("float", "SupportsFloat"):
        return isinstance(value, int | float | np.number)
    if outer == "Optional":
        return value is None or fits(trt, value, inner)
    if wanted in ("Dims", "Permutation") and isinstance(value, Sequence) and not isinstance(value, str):
        return all(hasattr(size, "__index__") for size in value)
    if outer in ("List", "list", "Sequence"):
        return isinstance(value, Sequence) and not isinstance(value, str) and all(fits(trt, v, inner) for v in value)
    if wanted in ("buffer", "Buffer"):
        try:
            return bool(memoryview(value).nbytes + 1)
        except TypeError:
            return False
    if wanted == "Weights" and isinstance(value, np.ndarray):
        return True
    return isinstance(value, trt._class(wanted)) if wanted in trt._data["classes"] else True


def _bound(trt: Any, signature: str, given: Sequence[Any], named: dict[str, Any]) -> dict[str, Any] | None:
    """Argument name -> value; ``None`` where pybind11 would not take this overload."""
    told = parameters(signature)
    if len(given) > len(told):
        return None
    values = dict(zip((parameter.name for parameter in told), given))
    open_names = {parameter.name for parameter in told[len(given) :] if not parameter.positional}
    if not set(named) <= open_names:
        return None
    values |= named
    for parameter in told:
        if parameter.name not in values:
            if parameter.default is None:
                return None
        elif values[parameter.name] is None:
            if parameter.default != "None" and parameter.type != "object":
                return None
        elif not fits(trt, values[parameter.name], parameter.type):
            return None
    return values


def _method(path: str, name: str, signatures: Sequence[str]) -> Callable[..., Any]:
    def method(self: Any, *given: Any, **named: Any) -> Any:
        trt = self if isinstance(self, Double) else self._of
        values = next((v for s in signatures if (v := _bound(trt, s, given, named)) is not None), None)
        if values is None:
            came = ", ".join([*map(repr, given), *(f"{key}={value!r}" for key, value in named.items())])
            raise TypeError(f"{path}() of {trt._version} takes {' or '.join(signatures)}; got ({came})")
        if name in ("__enter__", "__exit__"):
            warnings.warn("Context managers for TensorRT types are deprecated.", DeprecationWarning, stacklevel=2)
            return self if name == "__enter__" else None
        if name == "__init__":
            object.__setattr__(self, "_state", dict(values))
        if not name.startswith("__") or name == "__init__":
            trt.calls.append(Call(path, values))
        if path in BEHAVIOUR:
            return BEHAVIOUR[path](trt, self, *values.values())
        return _nothing(trt, returned(signatures[0]))

    method.__name__ = name
    return method


def _property(path: str, name: str, kind: str, types: Sequence[str]) -> property:
    def get(self: Any) -> Any:
        if path in BEHAVIOUR:
            return BEHAVIOUR[path](self._of, self)
        return self._state[name] if name in self._state else _nothing(self._of, types[0])

    def put(self: Any, value: Any) -> None:
        if value is not None and not fits(self._of, value, types[-1]):
            raise TypeError(f"{path} of {self._of._version} takes {types[-1]}; got {value!r}")
        self._of.calls.append(Call(f"{path} =", {name: value}))
        self._state[name] = value

    return property(None if kind == "write-only" else get, None if kind == "read-only" else put)


def _nothing(trt: Any, kind: str) -> Any:
    """What a member gives that the double does not play: a value of the right type."""
    plain = {"bool": True, "int": 0, "float": 0.0, "str": "", "tuple": ()}
    if kind in plain:
        return plain[kind]
    if kind.startswith(("list", "List")):
        return []
    if kind in trt._enums:
        return next(iter(trt._enums[kind].__members__.values()))
    return trt._new(kind) if kind in trt._data["classes"] and kind not in ("Dims", "IHostMemory") else None


def _tensor(trt: Any, name: str) -> Input | Output:
    for tensor in trt._engine.tensors:
        if tensor.name == name:
            return tensor
    raise OutOfOrder(f"the engine has no tensor {name!r}")


def _inputs(trt: Any) -> list[Input]:
    return [tensor for tensor in trt._engine.tensors if isinstance(tensor, Input)]


def _create_network(trt: Any, builder: Any, flags: int = 0) -> Any:
    bits = {1 << int(flag) for flag in trt.NetworkDefinitionCreationFlag.__members__.values()}
    if flags & ~sum(bits):
        raise OutOfOrder(f"create_network({flags}): bits of no NetworkDefinitionCreationFlag of {trt._version}")
    tensors = [_network_tensor(trt, tensor) for tensor in trt._engine.tensors]
    return trt._new("INetworkDefinition", builder=builder, parsed=False, tensors=tensors)


def _network_tensor(trt: Any, tensor: Input | Output) -> Any:
    shape = trt._dims(_free_shape(trt, tensor.name))
    dtype = getattr(trt.DataType, tensor.dtype)
    return trt._new("ITensor", name=tensor.name, dtype=dtype, shape=shape, into=isinstance(tensor, Input))


def _network_tensors(trt: Any, network: Any, into: bool) -> list[Any]:
    return [t for t in network._state["tensors"] if t._state["into"] == into and network._state["parsed"]]


def _parse(trt: Any, parser: Any, *model: Any) -> bool:
    if trt._engine.refused:
        parser._state["errors"] = list(trt._engine.refused)
        return False
    parser._state["network"]._state["parsed"] = True
    return True


def _build(trt: Any, builder: Any, network: Any, config: Any, *rest: Any) -> Any:
    if not network._state["parsed"]:
        raise OutOfOrder("build_serialized_network before the parser filled the network")
    logger, profiles = builder._state["logger"], config._state["profiles"]
    for tensor in _network_tensors(trt, network, True):
        given = [profile._state["shapes"].get(tensor.name) for profile in profiles]
        if -1 in tuple(tensor.shape) and (not given or None in given):
            trt._error(logger, f"{tensor.name}: dynamic, but no optimization profile has been defined")
            return None
    if trt._engine.unbuildable:
        trt._error(logger, trt._engine.unbuildable)
        return None
    if monitor := config._state.get("progress_monitor"):
        monitor.phase_start("Build", None, 2)
        if not all(monitor.step_complete("Build", step) for step in range(2)):
            return None
        monitor.phase_finish("Build")
    return trt._memory(plan(trt._version, trt._engine))


def _set_shape(trt: Any, profile: Any, name: str, *sizes: Any) -> None:
    smallest, best, largest = (tuple(size) for size in sizes)
    if not len(smallest) == len(best) == len(largest) or not all(
        0 <= a <= b <= c for a, b, c in zip(smallest, best, largest)
    ):
        raise ValueError(f"Shape provided for min/opt/max is inconsistent: {name} {smallest} {best} {largest}")
    profile._state["shapes"][name] = (smallest, best, largest)


def _add_profile(trt: Any, config: Any, profile: Any) -> int:
    config._state["profiles"].append(profile)
    return len(config._state["profiles"]) - 1


def _set_compute_capability(trt: Any, config: Any, capability: Any, index: int) -> bool:
    if index >= config._state.get("num_compute_capabilities", 0):
        raise OutOfOrder("set_compute_capability before num_compute_capabilities")
    return True


def _deserialize(trt: Any, runtime: Any, data: Any) -> Any:
    logger = runtime._state["logger"]
    data = bytes(data)
    if data != plan(trt._version, trt._engine):
        whole = data[:4] == PLAN and data[4:36] == hashlib.sha256(data[36:]).digest()
        other = f"built by {json.loads(data[36:])[1]}" if whole else "damaged"
        trt._error(logger, f"the engine is {other}; this is {trt._version}")
        return None
    return trt._new("ICudaEngine", runtime=runtime, logger=logger)


def _free_shape(trt: Any, name: str) -> list[int]:
    tensor = _tensor(trt, name)
    source = tensor if isinstance(tensor, Input) else _tensor(trt, tensor.of)
    assert isinstance(source, Input)
    return [a if a == c else -1 for a, c in zip(source.profile[0], source.profile[2])]


def _profile_shape(trt: Any, engine: Any, name: str, index: int) -> list[Any]:
    tensor = _tensor(trt, name)
    if isinstance(tensor, Output) or index != 0:
        raise OutOfOrder(f"get_tensor_profile_shape({name!r}, {index}): no input, or no such profile")
    return [trt._dims(shape) for shape in tensor.profile]


def _context(trt: Any, engine: Any, *strategy: Any) -> Any:
    fixed = {tensor.name: tensor.profile[0] for tensor in _inputs(trt) if tensor.profile[0] == tensor.profile[2]}
    settings = strategy[0]._state if strategy and hasattr(strategy[0], "_state") else {}
    own = strategy[0] if strategy and not settings else settings.get("strategy", None)
    needs = own is not None and own.name == "USER_MANAGED"
    return trt._new("IExecutionContext", engine=engine, shapes=fixed, addresses={}, needs_memory=needs)


def _set_memory(trt: Any, context: Any, memory: int, *size: int) -> None:
    context._state["needs_memory"] = not memory


def _set_input_shape(trt: Any, context: Any, name: str, shape: Any) -> bool:
    tensor, sizes = _tensor(trt, name), tuple(int(size) for size in shape)
    if isinstance(tensor, Output):
        raise OutOfOrder(f"set_input_shape({name!r}): an output")
    smallest, _, largest = tensor.profile
    if len(sizes) != len(smallest) or not all(a <= n <= c for a, n, c in zip(smallest, sizes, largest)):
        trt._error(context._state["engine"]._state["logger"], f"{name}: {sizes} is outside the profile")
        return False
    context._state["shapes"][name] = sizes
    return True


def _missing_shapes(trt: Any, context: Any) -> list[str]:
    return [tensor.name for tensor in _inputs(trt) if tensor.name not in context._state["shapes"]]


def _context_shape(trt: Any, context: Any, name: str) -> Any:
    tensor = _tensor(trt, name)
    source = tensor.name if isinstance(tensor, Input) else tensor.of
    if source not in context._state["shapes"]:
        raise OutOfOrder(f"get_tensor_shape({name!r}) before the shape of {source!r} is set: sizes of -1")
    return trt._dims(_shape(tensor, context._state["shapes"]))


def _shape(tensor: Input | Output, shapes: dict[str, Any]) -> list[int]:
    if isinstance(tensor, Input):
        return list(shapes[tensor.name])
    return list(shapes[tensor.of]) if tensor.tail is None else [shapes[tensor.of][0], *tensor.tail]


def _set_address(trt: Any, context: Any, name: str, address: Any) -> bool:
    if not int(address):
        raise OutOfOrder(f"set_tensor_address({_tensor(trt, name).name!r}, 0)")
    context._state["addresses"][_tensor(trt, name).name] = int(address)
    return True


def _execute(trt: Any, context: Any, stream: Any) -> bool:
    shapes, addresses = context._state["shapes"], context._state["addresses"]
    if context._state["needs_memory"]:
        raise OutOfOrder("execute_async_v3 before set_device_memory, which USER_MANAGED asks for")
    if missing := _missing_shapes(trt, context):
        raise OutOfOrder(f"execute_async_v3 before the shape of {', '.join(missing)} is set")
    for tensor in trt._engine.tensors:
        if tensor.name not in addresses:
            raise OutOfOrder(f"execute_async_v3 before the address of {tensor.name} is set")
    device = trt._engine.device
    shapes, addresses = dict(shapes), dict(addresses)

    def work() -> None:
        for tensor in trt._engine.tensors:
            if device and addresses[tensor.name] not in device.blocks:
                raise OutOfOrder(f"execute_async_v3 with an address of {tensor.name} that was freed")
        given = {tensor.name: at(tensor) for tensor in _inputs(trt)}
        outputs = [tensor for tensor in trt._engine.tensors if isinstance(tensor, Output)]
        answers = (
            trt._engine.answer(given) if trt._engine.answer else {each.name: 2 * given[each.of] for each in outputs}
        )
        for output in outputs:
            at(output)[...] = answers[output.name]

    def at(tensor: Input | Output) -> np.ndarray:
        kind, shape = np.dtype(trt.nptype(getattr(trt.DataType, tensor.dtype))), _shape(tensor, shapes)
        size = int(np.prod(shape)) * kind.itemsize
        return np.frombuffer((ctypes.c_uint8 * size).from_address(addresses[tensor.name]), kind).reshape(shape)

    if not device:
        work()
    elif device.put(int(stream), work):
        raise OutOfOrder(f"execute_async_v3 on {int(stream)}, which is no stream, or no more")
    return True


def _refit(trt: Any, refitter: Any, *stream: Any) -> bool:
    if not refitter._state.get("given"):
        raise OutOfOrder("refit_cuda_engine before any weights are given")
    return True


def _give_weights(trt: Any, parser: Any, *model: Any) -> bool:
    parser._state["refitter"]._state["given"] = True
    return True


def _get_layer(trt: Any, network: Any, index: int) -> Any:
    layer, kind, dtype = trt._engine.layers[index]
    return trt._new("ILayer", name=layer, type=getattr(trt.LayerType, kind), dtype=dtype, network=network)


BEHAVIOUR: dict[str, Callable[..., Any]] = {
    "Dims.__init__": lambda trt, dims, shape=(): dims._state.update(shape=list(shape)),
    "Dims.__len__": lambda trt, dims: len(dims._state["shape"]),
    "Dims.__getitem__": lambda trt, dims, index: dims._state["shape"][index],
    "Dims.__setitem__": lambda trt, dims, index, value: dims._state["shape"].__setitem__(index, value),
    "IHostMemory.nbytes": lambda trt, memory: memoryview(memory).nbytes,
    "IHostMemory.dtype": lambda trt, memory: trt.DataType.INT8,
    "Builder.create_network": _create_network,
    "Builder.create_builder_config": lambda trt, builder: trt._new(
        "IBuilderConfig", flags={"TF32"}, profiles=[], pools={}, cache=None
    ),
    "Builder.create_optimization_profile": lambda trt, builder: trt._new("IOptimizationProfile", shapes={}),
    "Builder.build_serialized_network": _build,
    "INetworkDefinition.num_layers": lambda trt, network: len(trt._engine.layers) if network._state["parsed"] else 0,
    "INetworkDefinition.__len__": lambda trt, network: len(trt._engine.layers) if network._state["parsed"] else 0,
    "INetworkDefinition.get_layer": _get_layer,
    "INetworkDefinition.__getitem__": _get_layer,
    "INetworkDefinition.num_inputs": lambda trt, network: len(_network_tensors(trt, network, True)),
    "INetworkDefinition.num_outputs": lambda trt, network: len(_network_tensors(trt, network, False)),
    "INetworkDefinition.get_input": lambda trt, network, index: _network_tensors(trt, network, True)[index],
    "INetworkDefinition.get_output": lambda trt, network, index: _network_tensors(trt, network, False)[index],
    "ILayer.num_inputs": lambda trt, layer: 1,
    "ILayer.num_outputs": lambda trt, layer: 1,
    "ILayer.get_input": lambda trt, layer, index: layer._state["network"]._state["tensors"][0],
    "ILayer.get_output": lambda trt, layer, index: trt._new(
        "ITensor", dtype=getattr(trt.DataType, layer._state["dtype"]), shape=trt._dims([-1])
    ),
    "Builder.num_DLA_cores": lambda trt, builder: trt._engine.dla_cores,
    "IBuilderConfig.can_run_on_DLA": lambda trt, config, layer: layer.name not in trt._engine.only_gpu,
    "OnnxParser.parse": _parse,
    "OnnxParser.parse_from_file": _parse,
    "OnnxParser.num_errors": lambda trt, parser: len(parser._state.get("errors", ())),
    "OnnxParser.get_error": lambda trt, parser, index: trt._new("ParserError", error=parser._state["errors"][index]),
    "ParserError.node_name": lambda trt, error: error._state["error"][0],
    "ParserError.node_operator": lambda trt, error: error._state["error"][1],
    "ParserError.desc": lambda trt, error: error._state["error"][2],
    "IBuilderConfig.flags": lambda trt, config: sum(
        1 << int(getattr(trt.BuilderFlag, name)) for name in config._state["flags"]
    ),
    "IBuilderConfig.set_flag": lambda trt, config, flag: config._state["flags"].add(flag.name),
    "IBuilderConfig.clear_flag": lambda trt, config, flag: config._state["flags"].discard(flag.name),
    "IBuilderConfig.get_flag": lambda trt, config, flag: flag.name in config._state["flags"],
    "IBuilderConfig.set_memory_pool_limit": lambda trt, config, pool, size: config._state["pools"].update({pool: size}),
    "IBuilderConfig.get_memory_pool_limit": lambda trt, config, pool: config._state["pools"].get(pool, 0),
    "IBuilderConfig.add_optimization_profile": _add_profile,
    "IBuilderConfig.num_optimization_profiles": lambda trt, config: len(config._state["profiles"]),
    "IBuilderConfig.set_compute_capability": _set_compute_capability,
    "IBuilderConfig.create_timing_cache": lambda trt, config, data: trt._new("ITimingCache", data=bytes(data)),
    "IBuilderConfig.set_timing_cache": lambda trt, config, cache, ignore: bool(config._state.update(cache=cache) or 1),
    "IBuilderConfig.get_timing_cache": lambda trt, config: config._state["cache"],
    "ITimingCache.serialize": lambda trt, cache: trt._memory(cache._state["data"] or b"timings"),
    "IOptimizationProfile.set_shape": _set_shape,
    "IOptimizationProfile.get_shape": lambda trt, profile, name: [
        trt._dims(shape) for shape in profile._state["shapes"][name]
    ],
    "Runtime.deserialize_cuda_engine": _deserialize,
    "ICudaEngine.num_io_tensors": lambda trt, engine: len(trt._engine.tensors),
    "ICudaEngine.num_layers": lambda trt, engine: len(trt._engine.layers),
    "ICudaEngine.num_optimization_profiles": lambda trt, engine: 1,
    "ICudaEngine.get_tensor_name": lambda trt, engine, index: trt._engine.tensors[index].name,
    "ICudaEngine.get_tensor_mode": lambda trt, engine, name: getattr(
        trt.TensorIOMode, "INPUT" if isinstance(_tensor(trt, name), Input) else "OUTPUT"
    ),
    "ICudaEngine.get_tensor_dtype": lambda trt, engine, name: getattr(trt.DataType, _tensor(trt, name).dtype),
    "ICudaEngine.get_tensor_location": lambda trt, engine, name: trt.TensorLocation.DEVICE,
    "ICudaEngine.get_tensor_shape": lambda trt, engine, name: trt._dims(_free_shape(trt, name)),
    "ICudaEngine.get_tensor_profile_shape": _profile_shape,
    "ICudaEngine.create_execution_context": _context,
    "ICudaEngine.serialize": lambda trt, engine: trt._memory(plan(trt._version, trt._engine)),
    "EngineInspector.get_engine_information": lambda trt, inspector, kind: json.dumps(
        {"Layers": [{"Name": name, "LayerType": kind} for name, kind, _ in trt._engine.layers]}
    ),
    "IExecutionContext.set_input_shape": _set_input_shape,
    "IExecutionContext.infer_shapes": _missing_shapes,
    "IExecutionContext.all_binding_shapes_specified": lambda trt, context: not _missing_shapes(trt, context),
    "IExecutionContext.get_tensor_shape": _context_shape,
    "IExecutionContext.set_tensor_address": _set_address,
    "IExecutionContext.get_tensor_address": lambda trt, context, name: context._state["addresses"].get(name, 0),
    "IExecutionContext.execute_async_v3": _execute,
    "IExecutionContext.set_device_memory": _set_memory,
    "ICudaEngine.device_memory_size_v2": lambda trt, engine: 4096,
    "ICudaEngine.refittable": lambda trt, engine: True,
    "ICudaEngine.serialize_with_config": lambda trt, engine, config: trt._memory(plan(trt._version, trt._engine)),
    "IRuntimeConfig.set_execution_context_allocation_strategy": lambda trt, config, strategy: config._state.update(
        strategy=strategy
    ),
    "Refitter.refit_cuda_engine": _refit,
    "Refitter.refit_cuda_engine_async": _refit,
    "OnnxParserRefitter.refit_from_bytes": _give_weights,
    "OnnxParserRefitter.refit_from_file": _give_weights,
}
