"""How a step follows the gradient: one function a way, of the name that a recipe's ``optimiser`` has; PyTorch's own.

Each takes the parameters, the rate and the weight decay: a share of each weight that is added to its gradient (Adam's,
Adagrad's and RMSprop's steps then divide it as they divide the gradient), but for ``adamw``, which takes it off the
weight itself. What else an optimiser could be told is as PyTorch has it, and momentum is 0.9.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

MOMENTUM = 0.9

Parameters = Iterable[Tensor]


def gradient_descent(parameters: Parameters, rate: float, weight_decay: float) -> Optimizer:
    """Against the gradient of the batch. The recipe's ``batch`` makes it batch, stochastic or mini-batch."""
    return SGD(parameters, lr=rate, weight_decay=weight_decay, fused=True)


def momentum(parameters: Parameters, rate: float, weight_decay: float) -> Optimizer:
    """Polyak 1964: against the sum of all gradients so far, each counting 0.9 of the next."""
    return SGD(parameters, lr=rate, momentum=MOMENTUM, weight_decay=weight_decay, fused=True)


def nesterov(parameters: Parameters, rate: float, weight_decay: float) -> Optimizer:
    """Nesterov 1983, as Sutskever et al. 2013 write it: the gradient is taken where momentum is about to lead."""
    return SGD(parameters, lr=rate, momentum=MOMENTUM, nesterov=True, weight_decay=weight_decay, fused=True)


def adagrad(parameters: Parameters, rate: float, weight_decay: float) -> Optimizer:
    """Duchi, Hazan & Singer 2011: the gradient over the root of the sum of all its squares."""
    return torch.optim.Adagrad(parameters, lr=rate, weight_decay=weight_decay, fused=True)


def adadelta(parameters: Parameters, rate: float, weight_decay: float) -> Optimizer:
    """Zeiler 2012, arXiv:1212.5701: as RMSprop, in the unit of the weights; the paper has the rate 1."""
    return torch.optim.Adadelta(parameters, lr=rate, weight_decay=weight_decay)


def rmsprop(parameters: Parameters, rate: float, weight_decay: float) -> Optimizer:
    """Tieleman & Hinton 2012, lecture 6.5: the gradient over the root of the running mean of its squares."""
    return torch.optim.RMSprop(parameters, lr=rate, weight_decay=weight_decay)


def adam(parameters: Parameters, rate: float, weight_decay: float) -> Optimizer:
    """Kingma & Ba 2015, arXiv:1412.6980: running mean over the root of that of its squares, both corrected."""
    return torch.optim.Adam(parameters, lr=rate, weight_decay=weight_decay, fused=True)


def adamw(parameters: Parameters, rate: float, weight_decay: float) -> Optimizer:
    """Loshchilov & Hutter 2019, arXiv:1711.05101: Adam, with the decay apart from the gradient."""
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=weight_decay, fused=True)
