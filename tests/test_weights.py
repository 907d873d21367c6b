"""Weights that somebody brings"""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deploy.errors import Refused
from models.resnet import ResNet18
from models.scaled import Scaled
from pipeline.recipe import Scale, Weights
from pipeline.weights import take_weights

IMAGENET = Scale(mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225), divide_by=255.0)
SHAPE = (3, 64, 64)


def torchvision_resnet18(classes: int) -> dict[str, list[int]]:
    """Names and shapes as torchvision's resnet18 has them, written down from its layout."""
    shapes: dict[str, list[int]] = {}

    def norm(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = [channels]
        shapes[f"{name}.num_batches_tracked"] = []

    shapes["conv1.weight"] = [64, 3, 7, 7]
    norm("bn1", 64)
    before = 64
    for layer, width in ((1, 64), (2, 128), (3, 256), (4, 512)):
        for block in (0, 1):
            name = f"layer{layer}.{block}"
            shapes[f"{name}.conv1.weight"] = [width, before, 3, 3]
            norm(f"{name}.bn1", width)
            shapes[f"{name}.conv2.weight"] = [width, width, 3, 3]
            norm(f"{name}.bn2", width)
            if layer > 1 and block == 0:
                shapes[f"{name}.downsample.0.weight"] = [width, before, 1, 1]
                norm(f"{name}.downsample.1", width)
            before = width
    return shapes | {"fc.weight": [classes, 512], "fc.bias": [classes]}


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """Random weights under torchvision's names, near enough to the start of a training to give finite answers."""
    random = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in torchvision_resnet18(5).items():
        if name.endswith("num_batches_tracked"):
            tensors[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            tensors[name] = 0.5 + torch.rand(shape, generator=random)
        else:
            tensors[name] = 0.05 * torch.randn(shape, generator=random)
    return tensors


def network(classes: int = 5) -> Scaled:
    return Scaled(ResNet18(SHAPE, classes), SHAPE)


def test_resnet18_has_torchvisions_names_and_shapes() -> None:
    ours = {name: list(tensor.shape) for name, tensor in ResNet18(SHAPE, 1000).state_dict().items()}
    assert ours == torchvision_resnet18(1000)
    assert sum(p.numel() for p in ResNet18(SHAPE, 1000).parameters()) == 11_689_512  # what torchvision publishes


def test_the_scale_is_that_of_totensor_and_normalize(state: dict, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "w.pt")
    scaled = network().eval()
    scaled.load_state_dict(take_weights(Weights(tmp_path / "w.pt", IMAGENET), scaled))
    image = torch.randint(0, 256, (4, *SHAPE), dtype=torch.uint8)
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (IMAGENET.mean, IMAGENET.deviation))
    bare = ResNet18(SHAPE, 5).eval()
    bare.load_state_dict(state)
    with torch.inference_mode():
        torch.testing.assert_close(scaled(image), bare((image.float() / 255 - mean) / deviation), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", ["plain", "state_dict", "model", "parallel", "compiled", "old", "half", "safetensors"])
def test_the_forms_in_which_weights_are_kept_load_alike(state: dict, tmp_path: Path, form: str) -> None:
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    if form == "safetensors":
        save_file(state, path)
    else:
        kept = {
            "plain": state,
            "state_dict": {"epoch": 3, "state_dict": state},
            "model": {"model": state, "optimizer": {}},
            "parallel": {f"module.{name}": tensor for name, tensor in state.items()},
            "compiled": {"model": {f"_orig_mod.{name}": tensor for name, tensor in state.items()}},
            "old": {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")},
            "half": {name: t.half() if t.is_floating_point() else t for name, t in state.items()},
        }[form]
        torch.save(kept, path)
    came = take_weights(Weights(path, IMAGENET), network())
    for name, tensor in state.items():
        if form == "old" and name.endswith("num_batches_tracked"):
            continue
        assert came[f"network.{name}"].dtype == tensor.dtype
        torch.testing.assert_close(came[f"network.{name}"], tensor, rtol=1e-3 if form == "half" else 0, atol=1e-4)


def test_weights_that_were_trained_here_bring_their_scale(tmp_path: Path) -> None:
    trained = network()
    trained.mean.fill_(3.0)
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    came = take_weights(Weights(tmp_path / "w.safetensors"), network())
    assert (came["mean"] == 3).all()
    with pytest.raises(Refused, match="scale came, but these weights, or the data set's input, need none. Take it out"):
        take_weights(Weights(tmp_path / "w.safetensors", IMAGENET), network())


def test_shapes_that_do_not_fit_are_told_tensor_by_tensor(state: dict, tmp_path: Path) -> None:
    wrong = dict(state) | {"fc.extra": torch.zeros(2)}
    del wrong["layer3.0.downsample.0.weight"]
    wrong["bn1.bias"] = torch.full((64,), float("nan"))
    torch.save(wrong, tmp_path / "w.pt")
    with pytest.raises(Refused) as refused:
        take_weights(Weights(tmp_path / "w.pt", IMAGENET), network(classes=3))
    told = str(refused.value).splitlines()
    assert told[0].endswith("w.pt: 5 tensors are not those of ResNet18:")
    assert told[1:6] == [
        "  layer3.0.downsample.0.weight: missing, expected [256, 128, 1, 1]",
        "  fc.extra: unknown, came [2]",
        "  fc.weight: came [5, 512] float32, expected [3, 512] float32",
        "  fc.bias: came [5] float32, expected [3] float32",
        "  bn1.bias: not finite",
    ]


def test_of_a_wholly_other_network_not_every_tensor_is_told(tmp_path: Path) -> None:
    torch.save({f"x{i}": torch.zeros(1) for i in range(50)}, tmp_path / "w.pt")
    with pytest.raises(Refused, match=r"152 tensors are not those(.|\n)*and 132 more") as refused:
        take_weights(Weights(tmp_path / "w.pt", IMAGENET), network())
    lines = str(refused.value).splitlines()
    assert len(lines) == 23
    assert lines[1:3] == ["  conv1.weight: missing, expected [64, 3, 7, 7]", "  x0: unknown, came [1]"]


def test_a_scale_must_be_stated(state: dict, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(
        Refused, match="how was the input scaled that these weights were trained with.*`scale: {divide_by: 255"
    ):
        take_weights(Weights(tmp_path / "w.pt"), network())
    with pytest.raises(Refused, match="scale: mean: 2 numbers came, 1 or 3 were expected, one a channel"):
        take_weights(Weights(tmp_path / "w.pt", Scale((0.5, 0.5), (0.5,))), network())


class Evil:
    def __reduce__(self) -> tuple:
        return (open, ("/tmp/plumbline-evil", "w"))  # would make a file


def test_a_file_that_holds_code_runs_nothing(tmp_path: Path) -> None:
    marker = Path("/tmp/plumbline-evil")
    marker.unlink(missing_ok=True)
    torch.save({"conv1.weight": Evil()}, tmp_path / "w.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Evil()))
    torch.save(torch.nn.Linear(1, 1), tmp_path / "model.pt")
    for name in ("w", "plain", "model"):
        with pytest.raises(
            Refused, match=r"damaged, or no state dict .*save the weights alone, with torch.save\(model.state_dict"
        ):
            take_weights(Weights(tmp_path / f"{name}.pt", IMAGENET), network())
    assert not marker.exists()


def test_what_is_no_state_dict_is_refused(state: dict, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:50_000])
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    (tmp_path / "empty.pt").write_bytes(b"")
    for name in ("cut.pt", "empty.pt", "cut.safetensors"):
        with pytest.raises(Refused, match=f"{name}: damaged, or no state dict"):
            take_weights(Weights(tmp_path / name, IMAGENET), network())
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    with pytest.raises(Refused, match="list came, a state dict of tensors was expected"):
        take_weights(Weights(tmp_path / "list.pt", IMAGENET), network())
    torch.save({"epoch": 3}, tmp_path / "epoch.pt")
    with pytest.raises(Refused, match="a dict with epoch came, a state dict of tensors was expected"):
        take_weights(Weights(tmp_path / "epoch.pt", IMAGENET), network())
    with pytest.raises(Refused, match="absent.pt: no such file; a path is taken from the folder of params.yaml"):
        take_weights(Weights(tmp_path / "absent.pt", IMAGENET), network())
