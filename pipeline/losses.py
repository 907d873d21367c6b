"""What training minimises: one function a task, of the name of the task; what an answer costs is the criterion's.

A criterion takes logits ``(n, classes)``, float32, and labels ``(n,)`` and gives their mean (``pipeline/criteria.py``).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from deploy.per_character import BLANK

Criterion = Callable[[Tensor, Tensor], Tensor]

AUXILIARY = 0.3  # share of each auxiliary head's loss: Szegedy et al. 2015 (arXiv:1409.4842), section 5


def classification(
    output: Tensor | tuple[Tensor, ...], examples: dict[str, Tensor], criterion: Criterion = functional.cross_entropy
) -> Tensor:
    """Of each item; ``output`` is logits ``(batch, classes)``, ``examples["label"]`` ``(batch,)``.

    Logits of auxiliary heads may stand after the network's own; ``AUXILIARY`` of their loss is added. Logits
    ``(batch, members, classes)`` are those of an ensemble, whose members learn each for itself.
    """
    own, *auxiliary = output if isinstance(output, tuple) else (output,)
    loss = _of_all(own, examples["label"], criterion)
    for head in auxiliary:
        loss = loss + AUXILIARY * _of_all(head, examples["label"], criterion)
    return loss


def language_model(
    output: tuple[Tensor, Tensor], examples: dict[str, Tensor], criterion: Criterion = functional.cross_entropy
) -> Tensor:
    """Of each byte after the first; ``output`` is logits ``(batch, time, 256)`` and a state."""
    text = examples["text"][:, 1:].long()
    told = text != 0
    return criterion(output[0][:, :-1][told].to(torch.float32), text[told])


def translation(logits: Tensor, examples: dict[str, Tensor], criterion: Criterion = functional.cross_entropy) -> Tensor:
    """Of each byte of the target and its end; ``logits`` ``(batch, longest + 1, 256)``."""
    target = examples["target"].long()
    wanted = functional.pad(target, (0, 1))
    told = functional.pad(target, (1, 0), value=1) != 0  # all up to the end, and nothing after it
    return criterion(logits[told].to(torch.float32), wanted[told])


def tagging(logits: Tensor, examples: dict[str, Tensor], criterion: Criterion = functional.cross_entropy) -> Tensor:
    """Of each character; ``logits`` ``(batch, time, classes)``, padding left out."""
    told = examples["text"] != 0
    return criterion(logits[told].to(torch.float32), examples["token"][told].long())


def entities(logits: Tensor, examples: dict[str, Tensor], criterion: Criterion = functional.cross_entropy) -> Tensor:
    """Of the first byte of each word, which alone the task reads; ``logits`` ``(batch, time, classes)``."""
    of_a_word = examples["text"] > BLANK
    told = of_a_word & ~functional.pad(of_a_word[:, :-1], (1, 0))
    return criterion(logits[told].to(torch.float32), examples["token"][told].long())


def _of_all(logits: Tensor, label: Tensor, criterion: Criterion) -> Tensor:
    if logits.ndim == 3:
        logits, label = logits.flatten(0, 1), label.repeat_interleave(logits.shape[1])
    return criterion(logits.to(torch.float32), label)
