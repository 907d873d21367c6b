"""Training images changed by chance, against where each pixel comes from in numpy."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.ndimage import map_coordinates
from test_ingredients import DIGITS, MLP, USUAL, trained

from deploy.errors import Refused
from pipeline import augment, losses, supervised
from pipeline.augment import augmented
from pipeline.network import build_network
from pipeline.recipe import Augment
from pipeline.supervised import fit

Array = np.ndarray
PLACES = ("angle", "size", "right", "down", "left", "top")  # in the order in which they are drawn
EACH = [{"shift": 2}, {"rotate": 30}, {"scale": 0.3}, {"crop": 0.4}, {"noise": 3}]


def changed(images: Array, how: Augment, cut: float = 0.0, mirror: int = 0, **places: float) -> Array:
    """As ``augmented``, but with these in place of chance: places from -1 to 1, ``cut`` from 0 to 1."""
    drawn = iter([places.get(name, 0.0) for name in PLACES])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(augment, "_within", lambda n: torch.full((n,), next(drawn)))
        patch.setattr(torch, "rand", lambda n: torch.full((n,), cut))
        patch.setattr(torch, "randint", lambda high, shape: torch.full(shape, mirror))
        came = augmented(torch.from_numpy(images), how)
    assert next(drawn, None) is None
    return came.numpy()


def looked_up(image: Array, how: Augment, cut: float, mirror: int, p: dict[str, float]) -> Array:
    """``(height, width)``: from a pixel back through shift, turn, size, crop and mirror, in pixels and float64."""
    height, width = image.shape
    row, column = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    y = row - (height - 1) / 2 - how.shift * p["down"]
    x = column - (width - 1) / 2 - how.shift * p["right"]
    turn = np.exp(1j * math.radians(how.rotate) * p["angle"])
    size = (1 + how.scale * p["size"]) / (1 - how.crop * cut)
    place = (x + 1j * y) * turn / size
    if how.crop and size > 1:  # the window's own place among all that are inside
        left = p["left"] * (width - 1) / 2 * (1 - 1 / size)
        top = p["top"] * (height - 1) / 2 * (1 - 1 / size)
        place = place + left + 1j * top
    x = -place.real if how.flip and mirror else place.real
    at = np.stack([place.imag + (height - 1) / 2, x + (width - 1) / 2])
    return map_coordinates(image.astype(np.float64), at, order=1, mode="grid-constant")


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_every_pixel_comes_from_where_numpy_finds_it(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(2, 12), st.integers(2, 12)))
    images = np.random.default_rng(data.draw(st.integers(0, 99))).uniform(size=shape).astype(np.float32)
    some = st.sampled_from([0.0, 0.3, 0.7])
    how = Augment(
        shift=data.draw(st.sampled_from([0.0, 1.0, 2.6])),
        rotate=data.draw(st.sampled_from([0.0, 20.0, 90.0, 180.0])),
        scale=data.draw(some),
        crop=data.draw(some),
        flip=data.draw(st.booleans()),
    )
    places = {name: data.draw(st.floats(-1, 1)) for name in PLACES}
    cut, mirror = data.draw(st.floats(0, 1)), data.draw(st.integers(0, 1))
    if how == Augment():
        return
    came = changed(images, how, cut, mirror, **places)
    expected = [[looked_up(channel, how, cut, mirror, places) for channel in image] for image in images]
    np.testing.assert_allclose(came, np.array(expected), rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", [(8, 8), (5, 17), (9, 4)])
def test_whole_pixels_quarter_turns_and_mirrors_are_numpys(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).uniform(1, 2, (1, 2, *shape)).astype(np.float32)
    height, width = shape
    for right, down in [(1.0, 0.0), (-1.0, 0.5), (0.5, -1.0), (0.0, 1.0)]:
        dx, dy = int(2 * right), int(2 * down)
        expected = np.zeros_like(image)
        expected[..., max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)] = image[
            ..., max(0, -dy) : height + min(0, -dy), max(0, -dx) : width + min(0, -dx)
        ]
        came = changed(image, Augment(shift=2), right=right, down=down)
        np.testing.assert_allclose(came, expected, atol=2e-5)
    np.testing.assert_allclose(changed(image, Augment(flip=True), mirror=1), image[..., ::-1], atol=2e-5)
    np.testing.assert_allclose(changed(image, Augment(flip=True), mirror=0), image, atol=2e-5)
    half = changed(image, Augment(rotate=180), angle=1)
    np.testing.assert_allclose(half, image[..., ::-1, ::-1], atol=2e-5)
    if (height - width) % 2 == 0:  # else a quarter turn falls between pixels
        side = min(shape)
        top, left = (height - side) // 2, (width - side) // 2
        middle = np.s_[..., top : top + side, left : left + side]
        for angle, turns in ((1, 1), (-1, -1)):
            expected = np.zeros_like(image)  # of unequal sides: turned, and what lay beyond the other sides is gone
            expected[middle] = np.rot90(image[middle], turns, axes=(2, 3))
            came = changed(image, Augment(rotate=90), angle=angle)
            np.testing.assert_allclose(came, expected, atol=2e-5)


@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (5, 17)])
@pytest.mark.parametrize("crop", [0.05, 0.3, 0.9])
def test_a_crop_never_shows_what_lies_outside(shape: tuple[int, int], crop: float) -> None:
    torch.manual_seed(0)
    for how in (Augment(crop=crop), Augment(crop=crop, flip=True)):
        came = augmented(torch.ones(2000, 1, *shape), how)
        torch.testing.assert_close(came, torch.ones_like(came), rtol=0, atol=1e-5)
    # And reaches all that is inside: at its ends the window begins at the first pixel, or ends at the last.
    ramp = np.broadcast_to(np.arange(shape[1], dtype=np.float32), (1, 1, *shape)).copy()
    for left, expected in (
        (-1, np.arange(shape[1]) * (1 - crop)),
        (1, shape[1] - 1 - np.arange(shape[1])[::-1] * (1 - crop)),
    ):
        came = changed(ramp, Augment(crop=crop), cut=1, left=left)
        np.testing.assert_allclose(came[0, 0], np.broadcast_to(expected, shape), atol=1e-4)


@pytest.mark.parametrize("more", [{}, {"scale": 0.5}, {"rotate": 180}, {"scale": 0.5, "rotate": 45, "flip": True}])
def test_shift_is_in_pixels_of_the_changed_image(more: dict[str, Any]) -> None:
    """A spot at the centre is moved as far whatever its size and turn, and as far as was said."""
    torch.manual_seed(0)
    place = torch.arange(33.0) - 16
    spot = torch.exp(-(place**2) / 8)
    pixel = (place == 0).float()
    for shift in (0.0, 1.0, 4.0):
        how = Augment(shift=shift, noise=0.0, **more)
        came = augmented((spot[:, None] * spot).expand(500, 1, 33, 33), dataclasses.replace(how, noise=0))[:, 0]
        for axis in (1, 2):
            line = came.sum(axis)
            moved = (line * place).sum(1) / line.sum(1)
            assert moved.abs().max() <= shift + 0.05
            assert shift == 0 or (moved.max() > 0.95 * shift and moved.min() < -0.95 * shift)
        if "scale" not in more:  # which could take one pixel between two others
            one = augmented((pixel[:, None] * pixel).expand(500, 1, 33, 33), how)[:, 0]
            most = one.flatten(1).argmax(1)
            assert torch.stack([most // 33 - 16, most % 33 - 16]).abs().max() <= shift


def test_chance_is_even_between_the_ends_that_were_said() -> None:
    torch.manual_seed(1)
    n = 4000
    square = torch.zeros(n, 1, 21, 21)

    def even(values: torch.Tensor, low: float, high: float) -> None:
        assert low - 1e-4 <= float(values.min()) and float(values.max()) <= high + 1e-4
        assert stats.kstest(values.numpy(), stats.uniform(low, high - low).cdf).pvalue > 1e-3

    def parts(**how: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Degrees, size, and where from in pixels ``(n, 2)``, of what is looked up."""
        to = augment._sources(Augment(**how), square)
        return torch.rad2deg(torch.atan2(to[:, 1, 0], to[:, 1, 1])), to[:, :, :2].det().rsqrt(), 10.5 * to[:, :, 2]

    angle, size, place = parts(rotate=30.0)
    even(angle, -30, 30)
    torch.testing.assert_close(size, torch.ones(n))
    assert not place.any()
    even(parts(scale=0.4)[1], 0.6, 1.4)
    even(parts(crop=0.4)[1].reciprocal(), 0.6, 1)
    place = parts(shift=3.0)[2]
    even(place[:, 0], -3, 3)
    even(place[:, 1], -3, 3)
    assert abs(np.corrcoef(place.T.numpy())[0, 1]) < 4 / math.sqrt(n)
    _, size, place = parts(crop=0.4)
    even(place[:, 0] / (10 * (1 - 1 / size)), -1, 1)


def test_every_second_image_is_mirrored() -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, 6, 7)
    came = augmented(image.expand(1000, -1, -1, -1), Augment(flip=True))
    as_it_was, turned = (((came - one).abs().amax((1, 2, 3)) < 1e-5) for one in (image, image.flip(3)))
    assert (as_it_was ^ turned).all()
    assert abs(int(turned.sum()) - 500) < 4 * math.sqrt(250)


def test_noise_has_the_deviation_that_was_said_and_is_not_cut_off() -> None:
    torch.manual_seed(0)
    image = torch.randint(256, (20, 2, 30, 30), dtype=torch.uint8)
    noise = (augmented(image, Augment(noise=12.5)) - image).double().flatten().numpy()
    assert stats.kstest(noise, stats.norm(0, 12.5).cdf).pvalue > 1e-3
    assert noise.std() == pytest.approx(12.5, rel=4 / math.sqrt(2 * len(noise)))
    assert abs(np.corrcoef(noise[1:], noise[:-1])[0, 1]) < 4 / math.sqrt(len(noise))
    came = augmented(torch.tensor([0, 255], dtype=torch.uint8).expand(1, 1, 50, 2), Augment(noise=12.5))
    assert came.min() < 0 and came.max() > 255


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_nothing_changes_where_nothing_is_said_and_what_came_stays(dtype: torch.dtype) -> None:
    images = torch.randint(256, (3, 2, 5, 7)).to(dtype)
    before = images.clone()
    random = torch.get_rng_state()
    came = augmented(images, Augment())
    assert came.dtype == torch.float32 and torch.equal(came, before.float())
    assert torch.equal(torch.get_rng_state(), random)
    for how in [*EACH, {"flip": True}]:
        torch.manual_seed(7)
        came = augmented(images, Augment(**how))
        torch.manual_seed(7)
        assert torch.equal(came, augmented(before.float(), Augment(**how)))
        assert came.dtype == torch.float32 and came.shape == images.shape
        assert torch.equal(images, before) and images.dtype == dtype


@pytest.mark.parametrize("how", EACH)
def test_each_image_is_changed_in_its_own_way_and_anew(how: dict[str, float]) -> None:
    torch.manual_seed(0)
    images = torch.rand(1, 1, 9, 9).expand(16, -1, -1, -1)
    first, second = (augmented(images, Augment(**how)).flatten(1) for _ in range(2))
    apart = torch.cdist(both := torch.cat([first, second]), both) + 99 * torch.eye(32)
    assert apart.min() > 1e-4
    torch.manual_seed(0)
    torch.rand(1, 1, 9, 9)
    assert torch.equal(augmented(images, Augment(**how)).flatten(1), first)


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(
        Refused,
        match=r"^augment: inputs \[64\] came, images of \[channels, height, width\] were expected\. Take `augment` out of",
    ):
        augmented(torch.zeros(3, 64), Augment(noise=1))
    flat = {split: {"image": a["image"].reshape(-1, 64), "label": a["label"]} for split, a in DIGITS.items()}
    network = build_network(MLP, {"network": {"shape": [64], "classes": 10}, "scaled": True})
    with pytest.raises(Refused, match=r"augment: inputs \[64\] came"):
        fit(network, losses.classification, dataclasses.replace(USUAL, augment=Augment(shift=1)), flat, lambda: {}, "x")


def test_training_changes_the_images_of_train_anew_in_each_epoch_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def noted(images: torch.Tensor, how: Augment) -> torch.Tensor:
        seen.append(images)
        return augmented(images, how)

    monkeypatch.setattr(supervised, "augmented", noted)
    trained(epochs=2, batch=100)
    assert not seen
    trained(epochs=2, batch=100, augment=Augment(noise=1))
    assert [len(images) for images in seen] == 2 * [100, 100, 100, 100, 100, 100, 50]
    for epoch in (seen[:7], seen[7:]):  # each image once, as it came
        came = torch.cat(epoch).flatten(1).numpy()
        assert np.array_equal(np.unique(came, axis=0), np.unique(DIGITS["train"]["image"].reshape(-1, 64), axis=0))


@pytest.mark.parametrize(
    ("how", "floor"),
    [
        ({"shift": 1}, 78),
        ({"rotate": 15}, 86),
        ({"scale": 0.2}, 86),
        ({"crop": 0.2}, 86),
        ({"flip": True}, 80),
        ({"noise": 2}, 86),
    ],
)
def test_every_change_is_learned_from(how: dict[str, Any], floor: float) -> None:
    _, accuracy = trained(augment=Augment(**how), epochs=8)
    assert accuracy > floor
    again, _ = trained(augment=Augment(**how), epochs=1)
    plain, _ = trained(epochs=1)
    assert not torch.equal(again.network.output.weight, plain.network.output.weight)


def test_images_that_were_shifted_are_read_better_after_training_on_such() -> None:
    """What augmentation is for."""
    shifted = np.zeros_like(image := DIGITS["test"]["image"])
    shifted[..., 1:] = image[..., :-1]
    right = []
    for how in (Augment(), Augment(shift=1)):
        network, _ = trained(augment=how, epochs=12)
        with torch.inference_mode():
            answer = network(torch.from_numpy(shifted)).argmax(1).numpy()
        right.append(100 * float((answer == DIGITS["test"]["label"]).mean()))
    assert right[1] > right[0] + 15
