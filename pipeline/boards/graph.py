"""A graph and its subgraphs, read flat: what a check of operators asks of them."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx.inliner
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

from deploy.errors import Refused


@dataclass
class View:
    """A graph and all its subgraphs, flat: names are unique across them."""

    nodes: list[NodeProto]
    types: dict[str, str]  # value -> its type
    shapes: dict[str, list[int | str]]  # value -> its shape, where the rank is known; a free axis is a name
    values: dict[str, list[Any]]  # constant -> its elements
    constant: set[str]  # values that are known before the build
    inputs: list[str]
    opset: int


def key(node: NodeProto) -> str:
    """The operator as the data files name it."""
    return f"{node.domain}:{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type


def type_name(code: int) -> str:
    """ONNX's number of a type as numpy's word."""
    name = str(TensorProto.DataType.Name(code)).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def read_graph(file: Path) -> View:
    """Read a graph; weights beside it are not read.

    Raises:
        Refused: missing, truncated, empty, or another kind of file.
    """
    again = "Make it again with `dvc repro`, or copy it again from where it was made."
    try:
        model = onnx.load(file, load_external_data=False)
        if not model.graph.node:
            raise Refused(f"{file}: no ONNX graph, or one without nodes. {again}")
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        model = onnx.shape_inference.infer_shapes(model)
        opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    except FileNotFoundError:
        raise Refused(f"{file}: not found. {again}") from None
    except StopIteration:
        raise Refused(f"{file}: names no opset of ONNX. {again}") from None
    except Refused:
        raise
    except Exception as error:  # onnx raises what protobuf or its own C++ raised
        first = (str(error).splitlines() or [""])[0]
        raise Refused(f"{file}: damaged, or no ONNX graph ({type(error).__name__}: {first}). {again}") from None
    view = View([], {}, {}, {}, set(), [value.name for value in model.graph.input], opset)
    for graph in _graphs(model.graph):
        _read(graph, view)
    return view


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """``graph``, and the bodies of its Loop, If and Scan nodes, at any depth."""
    yield graph
    attributes = itertools.chain.from_iterable(node.attribute for node in graph.node)
    for body in (item.g for item in attributes if item.type == AttributeProto.GRAPH):
        yield from _graphs(body)


def _read(graph: onnx.GraphProto, view: View) -> None:
    for value in itertools.chain(graph.input, graph.value_info, graph.output):
        tensor = value.type.tensor_type
        if tensor.elem_type:
            view.types[value.name] = type_name(tensor.elem_type)
        if tensor.HasField("shape"):
            view.shapes[value.name] = [
                dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim
            ]
    for tensor in graph.initializer:
        _keep(tensor.name, tensor, view)
    for node in graph.node:
        view.nodes.append(node)
        if node.op_type == "Constant":
            _constant(node, view)
        elif node.input and set(filter(None, node.input)) <= view.constant:
            view.constant |= set(node.output)
            if node.op_type == "Identity" and node.input[0] in view.values:
                view.values[node.output[0]] = view.values[node.input[0]]


def _constant(node: NodeProto, view: View) -> None:
    value = helper.get_attribute_value(node.attribute[0]) if node.attribute else None
    view.constant.add(node.output[0])
    if isinstance(value, TensorProto):
        _keep(node.output[0], value, view)
    elif isinstance(value, int | float | list):
        view.values[node.output[0]] = value if isinstance(value, list) else [value]


def _keep(name: str, tensor: TensorProto, view: View) -> None:
    view.constant.add(name)
    view.types[name], view.shapes[name] = type_name(tensor.data_type), list(tensor.dims)
    if tensor.data_location != TensorProto.EXTERNAL and tensor.data_type != TensorProto.STRING:
        view.values[name] = numpy_helper.to_array(tensor).ravel().tolist()
