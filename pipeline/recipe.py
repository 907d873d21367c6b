"""The typed view of ``params.yaml``: what a recipe may say, checked at the door."""

import dataclasses
import difflib
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any

import yaml

from deploy.errors import Refused

PRECISIONS = ("fp32", "fp16", "int8-cpu", "int8-tensorrt")
PARAMS = Path("params.yaml")
TEXT = (".txt", ".text", ".md")  # endings of a text that somebody brings


@dataclass(frozen=True)
class Network:
    """``class_`` (written ``class:``) of ``models/<file>.py``, and its constructor's arguments.

    A recipe that brings an ONNX file has no network of ``models/``: ``file`` is ``__init__``.
    """

    file: str
    class_: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Augment:
    """How training images are changed, each anew in each epoch: all but ``noise`` and ``flip`` at most this far."""

    shift: float = 0.0  # pixels, along either side
    rotate: float = 0.0  # degrees, either way
    scale: float = 0.0  # share of the size, smaller or larger
    crop: float = 0.0  # share of each side that is cut away; what is left fills the image
    flip: bool = False  # left and right change places in every second image
    noise: float = 0.0  # deviation of the Gaussian noise on each pixel, in the raw input's unit


@dataclass(frozen=True)
class Training:
    """How the weights are found. ``bf16`` and ``channels_last`` are the fast mode.

    ``optimiser``, ``schedule``, ``loss`` and ``initialiser`` are functions of ``pipeline/optimisers.py`` and so on.
    """

    epochs: int  # 0: the weights stay as they start
    batch: int  # items a step: 1 for stochastic gradient descent, all of `train` or more for batch gradient descent
    rate: float  # the optimiser's, at its highest
    patience: int  # epochs without a better loss on `select` before training stops
    seed: int
    bf16: bool = False
    channels_last: bool = False
    optimiser: str = "adam"
    schedule: str = "constant"
    loss: str = "cross_entropy"
    initialiser: str = ""  # else the network's own
    scaling: str = "z_score"  # of the input, or `min_max`
    weight_decay: float = 0.0
    l1: float = 0.0  # times the sum of all weights' magnitudes, added to the loss
    augment: Augment = Augment()


@dataclass(frozen=True)
class Scale:
    """What was made of the raw input where brought weights were trained: ``(raw / divide_by - mean) / deviation``.

    ``mean`` and ``deviation`` are one number, or one a channel (of a table: a column).
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    divide_by: float = 1.0


@dataclass(frozen=True)
class Weights:
    """Weights that were found elsewhere: safetensors, or a state dict that ``torch.save`` wrote."""

    weights: Path
    scale: Scale | None = None


@dataclass(frozen=True)
class Graph:
    """A network that was trained and exported elsewhere: the ONNX file itself is the reference."""

    onnx: Path
    scale: Scale | None = None


@dataclass(frozen=True)
class Own:
    """Data that somebody brings: a folder of images by class, a ``.csv``, an ``.npz``, or a text file."""

    path: Path
    size: tuple[int, ...] | None = None  # of images, height and width: resized to cover it, and the centre cut out
    label: str = "label"  # the column or array of labels
    input: str | None = None  # the network's name for it; `image` for images, `features` for the columns of a CSV


@dataclass(frozen=True)
class Budget:
    """``drop``: what may be lost, in the metric's unit. ``latency_ratio``: target -> deployed / trained, at most."""

    drop: float
    latency_ratio: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Published:
    """What others reached with this network on these data: ``score`` in the metric's unit, ``source`` says where."""

    score: float
    source: str


@dataclass(frozen=True)
class Recipe:
    """One stanza of ``recipes:``."""

    network: Network
    data: str
    task: str
    train: Training | Weights | Graph
    precisions: tuple[str, ...]
    floor: float
    budget: Budget
    published: Published | None = None


@dataclass(frozen=True)
class Engines:
    """How TensorRT builds; what is absent is as TensorRT itself would have it.

    ``workspace_mib``: memory that an engine may work in, beside its weights, else all that the GPU has; ``level``: how
    hard TensorRT searches for the fastest engine, 0 to 5, else 3 (TensorRT-RTX 1.7 builds alike at any); ``refit``:
    build so that new weights can be put in without building again, which TensorRT pays for with some speed.
    """

    workspace_mib: int | None = None
    level: int | None = None
    refit: bool = False


@dataclass(frozen=True)
class Project:
    """``params.yaml``, whole. ``usual`` is what its recipes share by YAML's ``<<: *usual``."""

    root: Path
    build: Path
    datasets: tuple[str, ...]
    recipes: dict[str, Recipe]
    own: dict[str, Own] = field(default_factory=dict)
    usual: dict[str, Any] = field(default_factory=dict)
    engines: Engines = field(default_factory=Engines)

    def recipe(self, name: str) -> Recipe:
        """The recipe called ``name``."""
        if name not in self.recipes:
            raise Refused(f"{PARAMS}: no recipe {name!r}{nearest(name, self.recipes)}")
        return self.recipes[name]


def load_project(params: Path = PARAMS) -> Project:
    """Read and type ``params.yaml`` of the working folder.

    Raises:
        Refused: no file, no YAML, an unknown or missing key (the nearest right word is named), a wrong type.
    """
    try:
        value = yaml.load(params.read_text(), Loader=_Once)  # noqa: S506  # a SafeLoader
    except FileNotFoundError:
        raise Refused(f"{params}: not found in {Path.cwd()}. Run this from the folder that holds it.") from None
    except yaml.YAMLError as error:
        raise Refused(f"{params}: not YAML ({error})") from None
    if value is None:
        raise Refused(
            f"{params}: empty, expected root, build, datasets and recipes; the repository's own is an example"
        )
    return typed(Project, value, str(params))


class _Once(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error: DVC takes it for one, in ten lines of its own."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = [key.value for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            line = node.start_mark.line + 1
            raise Refused(
                f"params.yaml: the key {twice[0]!r} stands twice in the map that begins at line {line}; take one out"
            )
        return node


def typed(expected: Any, value: Any, where: str) -> Any:
    """``value`` as ``expected``: a frozen dataclass, a container of such, a plain type, or one of several.

    Of several dataclasses it is the last one whose first field ``value`` has, else the first.

    ``where`` is the path of the value that an error names. A whole number passes as a ``float``, nothing else converts.
    """
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if dataclasses.is_dataclass(expected):
        return _dataclass(expected, value, where)
    if origin is UnionType:
        if value is None and type(None) in arguments:
            return None
        chosen = [kind for kind in arguments if isinstance(value, dict) and _first(kind) in value]
        return typed(chosen[-1] if chosen else arguments[0], value, where)
    if origin is dict:
        _expect(isinstance(value, dict), where, value, "a map")
        return {key: typed(arguments[1], item, f"{where}: {key}") for key, item in value.items()}
    if origin is tuple:
        _expect(isinstance(value, list), where, value, "a list")
        return tuple(typed(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if expected is Any:
        return value
    if expected is Path:
        _expect(isinstance(value, str), where, value, "a path")
        return Path(value)
    if expected is float:
        _expect(
            isinstance(value, int | float) and not isinstance(value, bool),
            where,
            value,
            "a number (as 0.003 or 3.0e-3)",
        )
        return float(value)
    _expect(type(value) is expected, where, value, _NAMES[expected])
    return value


def nearest(word: object, words: Iterable[str]) -> str:
    """``; did you mean 'right'? It may be: ...``, for the end of an error."""
    words = sorted(words)
    close = difflib.get_close_matches(str(word), words, n=1, cutoff=0.5)
    return (f"; did you mean {close[0]!r}?" if close else ".") + f" It may be: {', '.join(words)}"


def _first(kind: Any) -> str | None:
    return dataclasses.fields(kind)[0].name if dataclasses.is_dataclass(kind) else None


_NAMES: dict[Any, str] = {str: "a word", int: "a whole number", bool: "true or false"}


def _dataclass(expected: Any, value: Any, where: str) -> Any:
    _expect(isinstance(value, dict), where, value, "a map")
    fields = {field.name.rstrip("_"): field for field in dataclasses.fields(expected)}
    for key in value:
        if key not in fields:
            raise Refused(f"{where}: unknown key {key!r}{nearest(key, fields)}")
    for key, needed in fields.items():
        if key not in value and needed.default is needed.default_factory is dataclasses.MISSING:
            raise Refused(f"{where}: {key!r} is missing. Expected: {', '.join(fields)}")
    hints = typing.get_type_hints(expected)
    return expected(
        **{fields[key].name: typed(hints[fields[key].name], item, f"{where}: {key}") for key, item in value.items()}
    )


def _expect(right: bool, where: str, value: object, expected: str) -> None:
    if not right:
        raise Refused(f"{where}: {value!r} ({type(value).__name__}) came, {expected} was expected")
