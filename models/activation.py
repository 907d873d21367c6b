"""Activations by name: PyTorch's own, each with PyTorch's own constants."""

from torch import nn

ACTIVATIONS = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,  # Maas, Hannun & Ng 2013; slope 0.01
    "prelu": nn.PReLU,  # He et al. 2015, arXiv:1502.01852; one learned slope a layer, from 0.25
    "elu": nn.ELU,  # Clevert, Unterthiner & Hochreiter 2015, arXiv:1511.07289
    "selu": nn.SELU,  # Klambauer et al. 2017, arXiv:1706.02515
    "gelu": nn.GELU,  # Hendrycks & Gimpel 2016, arXiv:1606.08415; by erf, exactly
    "swish": nn.SiLU,  # Ramachandran, Zoph & Le 2017, arXiv:1710.05941; beta 1
}


def activation(name: str) -> nn.Module:
    """A new one of that name, for one place: PReLU has a slope to learn.

    Raises:
        ValueError: no such name; it says which there are.
    """
    if name == "softmax":
        return nn.Softmax(dim=1)  # over the units of a layer, or the channels of an image
    if name not in ACTIVATIONS:
        raise ValueError(f"no activation {name!r}; there are {', '.join(sorted([*ACTIVATIONS, 'softmax']))}")
    return ACTIVATIONS[name]()
