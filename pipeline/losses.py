"""What training minimises: one function a task, of the name of the task."""

import torch
from torch import Tensor
from torch.nn import functional


def classification(logits: Tensor, examples: dict[str, Tensor]) -> Tensor:
    """Mean cross-entropy in nats; ``logits`` ``(batch, classes)``, ``examples["label"]`` ``(batch,)``."""
    return functional.cross_entropy(logits.to(torch.float32), examples["label"])
