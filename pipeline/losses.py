"""What training minimises: one function a task, of the name of the task."""

import torch
from torch import Tensor
from torch.nn import functional


def classification(logits: Tensor, examples: dict[str, Tensor]) -> Tensor:
    """Mean cross-entropy in nats; ``logits`` ``(batch, classes)``, ``examples["label"]`` ``(batch,)``."""
    return functional.cross_entropy(logits.to(torch.float32), examples["label"])


def language_model(output: tuple[Tensor, Tensor], examples: dict[str, Tensor]) -> Tensor:
    """Mean cross-entropy in nats of each byte after the first; ``output`` logits ``(batch, time, 256)`` and a state."""
    logits, text = output[0][:, :-1], examples["text"][:, 1:].long()
    return functional.cross_entropy(logits.flatten(0, 1).to(torch.float32), text.flatten(), ignore_index=0)
