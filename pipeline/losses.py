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


def translation(logits: Tensor, examples: dict[str, Tensor]) -> Tensor:
    """Mean cross-entropy in nats of each byte of the target and its end; ``logits`` ``(batch, longest + 1, 256)``."""
    target = examples["target"].long()
    wanted = functional.pad(target, (0, 1))
    told = functional.pad(target, (1, 0), value=1) != 0  # all up to the end, and nothing after it
    return functional.cross_entropy(logits[told].to(torch.float32), wanted[told])


def tagging(logits: Tensor, examples: dict[str, Tensor]) -> Tensor:
    """Mean cross-entropy in nats of each character; ``logits`` ``(batch, time, classes)``, padding left out."""
    token = torch.where(examples["text"] == 0, -100, examples["token"].long())
    return functional.cross_entropy(logits.flatten(0, 1).to(torch.float32), token.flatten())
