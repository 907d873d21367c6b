"""Weights that somebody brings: read, and held against the network tensor by tensor.

A ``.pt`` is read with ``weights_only=True``: nothing in it runs.
"""

from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from deploy.errors import Refused
from models.scaled import Scaled
from pipeline.network import misfits
from pipeline.recipe import Scale, Weights

WRAPPERS = ("state_dict", "model_state_dict", "model")  # where training scripts keep it within a checkpoint
PREFIXES = ("module.", "_orig_mod.", "model.")  # what DataParallel, torch.compile and Lightning put before each name
MOST_TOLD = 20


def take_weights(given: Weights, network: nn.Module) -> dict[str, Tensor]:
    """The state of ``network``, whole, from a file: its own names, or where it is scaled those of the network within.

    Floating tensors of any width become float32.

    Raises:
        Refused: no such file, or damaged, or one that holds code; a scale that is missing, or one too many; tensors
            that are not this network's, each one told.
    """
    tensors = _read(given)
    where = f"train: weights: {given.weights}"
    expected, own = network.state_dict(), network
    if isinstance(network, Scaled) and not {"mean", "deviation"} <= set(tensors):
        if given.scale is None:
            raise Refused(
                f"{where}: how was the input scaled that these weights were trained with? Say so beside them, such as "
                f"`scale: {{divide_by: 255, mean: [0.5], deviation: [0.5]}}`; `{{mean: [0], deviation: [1]}}` if not."
            )
        own = network.network
        expected = own.state_dict()
    elif given.scale is not None:
        raise Refused(f"{where}: scale came, but these weights, or the data set's input, need none. Take it out.")
    counters = {name: tensor for name, tensor in expected.items() if name.endswith("num_batches_tracked")}
    tensors = counters | tensors  # PyTorch before 0.4.1 did not save them, and an answer does not depend on them
    if wrong := misfits(expected, tensors):
        told = "".join(f"\n  {tensor}" for tensor in wrong[:MOST_TOLD])
        more = f"\n  and {len(wrong) - MOST_TOLD} more" if len(wrong) > MOST_TOLD else ""
        raise Refused(
            f"{where}: {len(wrong)} tensors are not those of {type(own).__name__}:{told}{more}\n"
            f"Name the network that they are of, with its arguments; the number of classes is the data set's."
        )
    if own is network or given.scale is None:
        return tensors
    mean, deviation = raw_scale(given.scale, network.get_buffer("mean").shape, where)
    return {f"network.{name}": tensor for name, tensor in tensors.items()} | {"mean": mean, "deviation": deviation}


def raw_scale(scale: Scale, shape: torch.Size | tuple[int, ...], where: str) -> tuple[Tensor, Tensor]:
    """``scale`` as a mean and a deviation in the raw input's unit, both of ``shape`` (channels first)."""
    both = []
    for name, values in (("mean", scale.mean), ("deviation", scale.deviation)):
        if len(values) not in (1, shape[0]):
            raise Refused(
                f"{where}: scale: {name}: {len(values)} numbers came, 1 or {shape[0]} were expected, one a channel"
            )
        raw = torch.tensor(values, dtype=torch.float64) * scale.divide_by
        both.append(raw.reshape(-1, *(1 for _ in shape[1:])).expand(shape).to(torch.float32).contiguous())
    return both[0], both[1]


def _read(given: Weights) -> dict[str, Tensor]:
    path = given.weights
    if not path.is_file():
        raise Refused(f"train: weights: {path}: no such file; a path is taken from the folder of params.yaml")
    try:
        found: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # what safetensors, pickle or zipfile raised
        kept = "" if isinstance(error, SafetensorError) else " If it holds a whole model, that is code, and is not run:"
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise Refused(
            f"train: weights: {path}: damaged, or no state dict ({why}).{kept} save the weights alone, with "
            f"torch.save(model.state_dict(), PATH) or safetensors."
        ) from None
    for wrapper in WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    if not (isinstance(found, dict) and found and all(isinstance(tensor, Tensor) for tensor in found.values())):
        came = (
            f"a dict with {', '.join(map(str, list(found)[:5]))}" if isinstance(found, dict) else type(found).__name__
        )
        raise Refused(f"train: weights: {path}: {came} came, a state dict of tensors was expected")
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in found.items()}
