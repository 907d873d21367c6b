"""What a wrong answer costs: one function a way, of the name that a recipe's ``loss`` has; PyTorch's own where it is.

Each takes logits ``(n, classes)``, float32, and labels ``(n,)``, and gives the mean over the n. But for the first two
each class is asked for itself and the costs of all classes are summed: the right one's code is 1, the others' 0, for
the margins of the last four -1, and a margin is code times logit. 0-1 loss, which has no slope, is what the metric
counts: 100 % less accuracy.
"""

import torch
from torch import Tensor
from torch.nn import functional

GAMMA = 2.0  # of the focal loss: the paper's best


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Categorical cross-entropy of the softmax, in nats."""
    return functional.cross_entropy(logits, label)


def focal(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy times ``(1 - p)^2``, p of the right class: Lin et al. 2017, arXiv:1708.02002, equation 4."""
    told = functional.log_softmax(logits, 1).gather(1, label[:, None])[:, 0]
    return -((1 - told.exp()) ** GAMMA * told).mean()


def binary_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Of each class's sigmoid, in nats."""
    code = _one_hot(logits, label)
    return functional.binary_cross_entropy_with_logits(logits, code, reduction="sum") / len(label)


def squared(logits: Tensor, label: Tensor) -> Tensor:
    """``(logit - code)^2``: least squares."""
    return functional.mse_loss(logits, _one_hot(logits, label), reduction="sum") / len(label)


def absolute(logits: Tensor, label: Tensor) -> Tensor:
    """``|logit - code|``."""
    return functional.l1_loss(logits, _one_hot(logits, label), reduction="sum") / len(label)


def huber(logits: Tensor, label: Tensor) -> Tensor:
    """Half the square up to a distance of 1 from the code, from there on a line: Huber 1964."""
    return functional.huber_loss(logits, _one_hot(logits, label), reduction="sum") / len(label)


def hinge(logits: Tensor, label: Tensor) -> Tensor:
    """``max(0, 1 - margin)``: a support vector machine's."""
    return torch.relu(1 - _margin(logits, label)).sum() / len(label)


def perceptron(logits: Tensor, label: Tensor) -> Tensor:
    """``max(0, -margin)``: Rosenblatt's rule is a step against its slope."""
    return torch.relu(-_margin(logits, label)).sum() / len(label)


def logarithmic(logits: Tensor, label: Tensor) -> Tensor:
    """``log(1 + exp(-margin))``, in nats: binary cross-entropy, told by margins.

    By softplus: PyTorch's own ``soft_margin_loss`` is infinite where a margin is below -88.
    """
    return functional.softplus(-_margin(logits, label)).sum() / len(label)


def exponential(logits: Tensor, label: Tensor) -> Tensor:
    """``exp(-margin)``: AdaBoost's, Freund & Schapire 1997."""
    return torch.exp(-_margin(logits, label)).sum() / len(label)


def _one_hot(logits: Tensor, label: Tensor) -> Tensor:
    return functional.one_hot(label, logits.shape[1]).to(logits.dtype)


def _margin(logits: Tensor, label: Tensor) -> Tensor:
    return (2 * _one_hot(logits, label) - 1) * logits
