"""How the rate goes over a training: one function a way, of the name that a recipe's ``schedule`` has; PyTorch's own.

Each takes the optimiser, whose rate is the highest, and the number of steps that the whole training takes; it steps
with every batch.
"""

from math import ceil

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    SequentialLR,
    StepLR,
)

LAST = 1 / 30  # of the highest rate, at the end of `exponential`: Görner 2016 goes from 0.003 to 0.0001
FIRST = 1 / 100  # of the highest rate, at the start of `warm_up`
WARM_UP = 0.1  # share of the steps


def constant(optimiser: Optimizer, steps: int) -> LRScheduler:  # noqa: ARG001  # all schedules are asked alike
    """The rate itself, all the time."""
    return ConstantLR(optimiser, factor=1.0)


def step(optimiser: Optimizer, steps: int) -> LRScheduler:
    """A tenth of the rate after each third of the steps."""
    return StepLR(optimiser, ceil(steps / 3), gamma=0.1)


def exponential(optimiser: Optimizer, steps: int) -> LRScheduler:
    """The same share less with each step, down to a thirtieth of the rate."""
    return ExponentialLR(optimiser, LAST ** (1 / steps))


def cosine(optimiser: Optimizer, steps: int) -> LRScheduler:
    """Along half a cosine down to 0: Loshchilov & Hutter 2017, arXiv:1608.03983, without restarts."""
    return CosineAnnealingLR(optimiser, steps)


def warm_up(optimiser: Optimizer, steps: int) -> LRScheduler:
    """In a line up from a hundredth of the rate for a tenth of the steps, then as ``cosine``."""
    rising = ceil(WARM_UP * steps)
    up, down = LinearLR(optimiser, FIRST, total_iters=rising), CosineAnnealingLR(optimiser, max(1, steps - rising))
    return SequentialLR(optimiser, [up, down], [rising])


def one_cycle(optimiser: Optimizer, steps: int) -> LRScheduler:
    """Up from 1/25 for three tenths of the steps, then down to nearly nothing: Smith & Topin 2017, arXiv:1708.07120."""
    highest = [group["lr"] for group in optimiser.param_groups]
    return OneCycleLR(optimiser, highest, total_steps=steps + 1, cycle_momentum=False)
