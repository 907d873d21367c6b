"""From a recipe to its network, and from a network to a ``run``."""

import importlib
import inspect
import json
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from deploy.errors import Refused
from deploy.run import Run
from models.scaled import Scaled
from pipeline.recipe import Network

GRAPH = "network"  # the graph that is the whole network; one of another name is the part of that name


def build_network(network: Network, data: dict[str, Any]) -> nn.Module:
    """The untrained network of ``models/<file>.py``, with its input scaling where the data set wants one.

    Args:
        data: ``data.json``; the constructor is given what it takes of its ``network``, and the recipe's arguments.
    """
    constructor = getattr(importlib.import_module(f"models.{network.file}"), network.class_)
    takes = inspect.signature(constructor).parameters
    anything = any(argument.kind is argument.VAR_KEYWORD for argument in takes.values())
    given = {name: value for name, value in data["network"].items() if anything or name in takes}
    arguments = given | network.arguments
    try:
        built = constructor(**arguments)
    except Exception as error:
        told = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        raise Refused(
            f"models/{network.file}.py: {network.class_}({told}) failed: {error}. Mend one or the other."
        ) from error
    return Scaled(built, data["network"]["shape"]) if data["scaled"] else built


def load_network(network: Network, data: dict[str, Any], weights: Path) -> nn.Module:
    """The trained network, in evaluation mode.

    Raises:
        Refused: the file is damaged, or its tensors are not this network's (each one told).
    """
    try:
        tensors = load_file(weights)
    except FileNotFoundError:
        raise Refused(f"{weights}: not found. `dvc repro` trains it.") from None
    except (SafetensorError, json.JSONDecodeError, OSError, ValueError) as error:
        raise Refused(
            f"{weights}: damaged, or no safetensors file ({error}). Bring it back: `dvc checkout --force {weights}`."
        ) from None
    built = build_network(network, data)
    if wrong := misfits(built.state_dict(), tensors):
        raise Refused(
            f"{weights}: these are not the weights of {network.class_} (models/{network.file}.py): {'; '.join(wrong)}. "
            f"Bring them back: `dvc checkout --force {weights}`, or train again: `dvc repro`."
        )
    built.load_state_dict(tensors)
    return built.eval()


def misfits(expected: dict[str, Tensor], came: dict[str, Tensor]) -> list[str]:
    """Each tensor that is missing, unknown, of another shape or type, or not finite."""
    missing = [f"{name}: missing, expected {list(t.shape)}" for name, t in expected.items() if name not in came]
    unknown = [f"{name}: unknown, came {list(t.shape)}" for name, t in came.items() if name not in expected]
    wrong = [line for pair in zip_longest(missing, unknown) for line in pair if line]  # both seen, where few are told
    wrong += [
        f"{name}: came {_form(came[name])}, expected {_form(t)}"
        for name, t in expected.items()
        if name in came and _form(came[name]) != _form(t)
    ]
    wrong += [f"{name}: not finite" for name, t in came.items() if t.is_floating_point() and not t.isfinite().all()]
    return wrong


def _form(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def input_names(network: nn.Module) -> list[str]:
    """The arguments of ``forward``: the names of the graph's inputs. Scaling gives its own argument no name."""
    named = network.network if isinstance(network, Scaled) else network
    return list(inspect.signature(named.forward).parameters)


def call(network: nn.Module, inputs: dict[str, Tensor]) -> Any:
    """What ``forward`` makes of ``inputs``; one that is not given is its default: a state starts at zero."""
    first, *others = input_names(network)
    return network(inputs[first], **{name: inputs[name] for name in others if name in inputs})


def graphs(network: nn.Module, outputs: dict[str, tuple[str, ...]]) -> dict[str, nn.Module]:
    """What becomes a graph each: the network itself, or parts of it.

    Args:
        outputs: the task's, graph -> names of outputs.

    Raises:
        Refused: the network has no part of such a name.
    """
    parts = {}
    for graph in outputs:
        part = network if graph == GRAPH else getattr(network, graph, None)
        if not isinstance(part, nn.Module):
            raise Refused(
                f"{type(network).__name__}: no part {graph!r}, which the task runs as a graph of its own. "
                f"Its parts are {', '.join(name for name, _ in network.named_children())}."
            )
        parts[graph] = part
    return parts


def open_network(network: nn.Module, outputs: dict[str, tuple[str, ...]]) -> dict[str, Run]:
    """Every graph of a network as a ``run`` of PyTorch's, by name."""
    return {graph: open_pytorch(part, outputs[graph]) for graph, part in graphs(network, outputs).items()}


def open_pytorch(network: nn.Module, outputs: tuple[str, ...]) -> Run:
    """PyTorch eager as a ``run``, on the device and in the floating type that the network is on and in.

    Inputs come from the host and outputs are back on it when a call returns. An input that is not given is the default
    of ``forward``: a state starts at zero.

    Args:
        outputs: names for what ``forward`` returns, in order.
    """
    names = input_names(network)
    device = next((tensor.device for tensor in network.state_dict().values()), torch.device("cpu"))

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            given = {name: torch.from_numpy(inputs[name]).to(device) for name in names if name in inputs}
            result = call(network, given)
        tensors = result if isinstance(result, tuple) else (result,)
        return {name: tensor.cpu().numpy() for name, tensor in zip(outputs, tensors, strict=True)}

    return run
