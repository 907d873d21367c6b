"""What the server says of itself and of its models, as the Open Inference Protocol has it."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from deploy.server.model import Model
from deploy.server.protocol import TYPES

EXTENSIONS = [
    "binary_tensor_data",
    "classification",
    "generate",
    "model_repository",
    "sequence",
]
PLATFORM = "onnx_onnxv1"


def model_metadata(model: Model) -> dict[str, Any]:
    """The model metadata; an axis that is free is -1."""
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": PLATFORM,
        "inputs": [_described(tensor) for tensor in model.inputs],
        "outputs": [_described(tensor) for tensor in model.outputs],
    }


def server_metadata() -> dict[str, Any]:
    """The server metadata; without a version where Plumbline was copied and not installed."""
    try:
        release = version("plumbline")
    except PackageNotFoundError:
        release = ""
    return {"name": "plumbline", "version": release, "extensions": EXTENSIONS}


def _described(tensor: dict[str, Any]) -> dict[str, Any]:
    shape = [size if isinstance(size, int) else -1 for size in tensor["shape"]]
    return {"name": tensor["name"], "datatype": TYPES[tensor["dtype"]][0], "shape": shape}
