"""How weights start: one function a way, of the name that a recipe's ``initialiser`` has; PyTorch's own.

Each fills the weight of one layer in place. Without a name a network starts as its own file says.
"""

import torch
from torch import Tensor, nn

DEVIATION = 0.01  # of `gaussian`
REACH = 0.05  # of `uniform`, either way


def initialise(network: nn.Module, name: str) -> None:
    """Start all convolutions, dense and recurrent layers of ``network`` so, in place, and their biases at 0.

    A weight that is exactly 0 among others is a connection that the network has not (LeNet's table), and stays so.
    """
    for layer in network.modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear | nn.RNNBase):
            continue
        for parameter, tensor in layer.named_parameters(recurse=False):
            with torch.no_grad():
                if parameter.startswith("bias"):
                    tensor.zero_()
                elif tensor.ndim > 1:
                    present = (tensor != 0) | ~tensor.any()
                    globals()[name](tensor)
                    tensor.mul_(present)


def gaussian(weight: Tensor) -> None:
    """Of deviation 0.01, whatever the layer: AlexNet's."""
    nn.init.normal_(weight, std=DEVIATION)


def uniform(weight: Tensor) -> None:
    """Within 0.05 of 0, whatever the layer."""
    nn.init.uniform_(weight, -REACH, REACH)


def xavier(weight: Tensor) -> None:
    """Uniform, of deviation ``sqrt(2 / (fan-in + fan-out))``: Glorot & Bengio 2010, equation 16."""
    nn.init.xavier_uniform_(weight)


def he(weight: Tensor) -> None:
    """Gaussian of deviation ``sqrt(2 / fan-in)``: He et al. 2015, arXiv:1502.01852, equation 10."""
    nn.init.kaiming_normal_(weight, nonlinearity="relu")


def orthogonal(weight: Tensor) -> None:
    """Rows, or columns, of length 1 at right angles: Saxe, McClelland & Ganguli 2014, arXiv:1312.6120."""
    nn.init.orthogonal_(weight)
