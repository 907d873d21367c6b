"""Training images changed by chance, a whole batch at a time: one grid an image says where each pixel comes from."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from deploy.errors import Refused
from pipeline.recipe import Augment


def augmented(images: Tensor, how: Augment) -> Tensor:
    """``(batch, channels, height, width)`` of any number type to as many in float32; PyTorch's generator draws.

    An image is mirrored, cropped, scaled and turned, and what that gives is shifted; what comes from outside of it is
    0. Noise comes last, and is not cut off at the ends of the raw input's range.

    Raises:
        Refused: these are no images.
    """
    if images.ndim != 4:
        raise Refused(
            f"augment: inputs {list(images.shape[1:])} came, images of [channels, height, width] were expected. Take "
            f"`augment` out of the recipe's `train`."
        )
    images = images.to(torch.float32)
    if how.shift or how.rotate or how.scale or how.crop or how.flip:
        grid = functional.affine_grid(_sources(how, images), list(images.shape), align_corners=False)
        images = functional.grid_sample(images, grid, align_corners=False)
    if how.noise:
        images = images + how.noise * torch.randn_like(images)
    return images


def _sources(how: Augment, images: Tensor) -> Tensor:
    """``(batch, 2, 3)``: from a place in the changed image to its place in the image that came, both from -1 to 1."""
    n, _, height, width = images.shape
    angle = math.radians(how.rotate) * _within(n)
    size = (1 + how.scale * _within(n)) / (1 - how.crop * torch.rand(n))  # of the changed one, told in the other's
    mirror = 1 - 2 * torch.randint(2, (n,)) if how.flip else torch.ones(n)
    right, down = 2 * how.shift / width * _within(n), 2 * how.shift / height * _within(n)
    # What a crop may move by: its outermost pixels' centres stay within those of the image, between which it is read.
    room = (1 - 1 / size.clamp(min=1)) * float(how.crop > 0)
    left, top = room * (1 - 1 / width) * _within(n), room * (1 - 1 / height) * _within(n)
    # A pixel is as high as it is wide, so that a turned image of unequal sides is turned and not sheared.
    cos, sin = torch.cos(angle) / size, torch.sin(angle) / size
    across, along = -sin * height / width, sin * width / height
    x = torch.stack([mirror * cos, mirror * across, mirror * (left - cos * right - across * down)], 1)
    y = torch.stack([along, cos, top - along * right - cos * down], 1)
    return torch.stack([x, y], 1)


def _within(n: int) -> Tensor:
    """``(n,)`` uniform from -1 to 1."""
    return 2 * torch.rand(n) - 1
