"""What one epoch leaves for the next, so that a training that is killed goes on after it."""

import io
from pathlib import Path
from typing import Any

import torch

from deploy.files import write_bytes


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state``: tensors, numbers, words, and containers of these."""
    data = io.BytesIO()
    torch.save(state, data)
    write_bytes(path, data.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """What ``save_checkpoint`` wrote; ``None`` where there is nothing, or something else that a damaged disk left."""
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
    except Exception as error:  # torch raises what zipfile or its unpickler raised
        print(f"{path}: damaged ({error}); training starts anew")
        return None
    return state
