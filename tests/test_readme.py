"""The README's four pages on what people bring, done exactly as they say, in a temporary copy"""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from copied import copy_project, repro
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images
from torch.nn import functional

from deploy.files import read_json
from models.resnet import ResNet18

PAGES = ("Your own data", "Your own weights", "Your own ONNX", "Your own network")
README = (ROOT / "README.md").read_text()
IMAGENET = [torch.tensor(values)[:, None, None] for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
CROPS = 620  # of each photograph: a quarter of both is 310, and a budget of one point takes 301
DIARY = 700_000  # characters: a tenth of the passages of 1,000 are some 65, and a budget in bits takes 50


def page(title: str) -> str:
    return README.partition(f"\n### {title}\n")[2].partition("\n##")[0].strip()


def blocks(title: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page(title), re.DOTALL)


@pytest.mark.parametrize("title", PAGES)
def test_a_page_has_at_most_fifteen_lines(title: str) -> None:
    assert 3 < len(page(title).splitlines()) <= 15
    assert blocks(title, "yaml")


def photographs(folder: Path) -> None:
    """Pieces of two photographs, of all sizes."""
    random = np.random.default_rng(0)
    for name, whole in zip(("china", "flower"), load_sample_images().images, strict=True):
        (folder / name).mkdir(parents=True)
        for i in range(CROPS):
            side = int(random.integers(64, 160))
            y, x = (int(random.integers(0, size - side)) for size in whole.shape[:2])
            Image.fromarray(whole[y : y + side, x : x + side]).save(folder / name / f"{i:03}.jpg")


def resnet18(photos: Path, file: Path) -> None:
    """Weights as somebody trains them elsewhere: torchvision's transform, torchvision's names."""
    torch.manual_seed(0)
    files = sorted(photos.glob("*/*.jpg"))
    pixels = np.stack([np.array(Image.open(file).resize((32, 32))).transpose(2, 0, 1) for file in files])
    images = (torch.from_numpy(pixels) / 255 - IMAGENET[0]) / IMAGENET[1]
    label = torch.tensor([file.parent.name == "flower" for file in files]).long()
    network = ResNet18((3, 32, 32), 2)
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(40):
        index = torch.randint(len(label), (16,))
        loss = functional.cross_entropy(network(images[index]), label[index])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    torch.save(network.state_dict(), file)


def table(file: Path) -> None:
    digits = load_digits()
    rows = [",".join(map(str, [*map(int, row), kind])) for row, kind in zip(digits.data, digits.target, strict=True)]
    file.write_text("\n".join([",".join([*(f"pixel_{i}" for i in range(64)), "kind"]), *rows]) + "\n")


def with_pages(params: str) -> str:
    """``params.yaml`` as the pages say: ``own:`` in the place of its ``{}``, recipes at the end; ours are left out."""
    own, recipes = "", ""
    for title in PAGES:
        for block in blocks(title, "yaml"):
            before, _, after = block.rpartition("recipes:\n")
            own += before.removeprefix("own:\n")
            recipes += after
    params, ours, _ = params.partition("recipes:\n")
    assert ours and "\nown: {}" in params
    params = re.sub(r"datasets: .*", "datasets: [digits]", params)
    return re.sub(r"\nown: \{\}.*\n", f"\nown:\n{own}", params) + ours + recipes


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, with what the pages tell to bring beside it and to write into it; run."""
    folder = tmp_path_factory.mktemp("brought") / "plumbline"
    copy_project(folder, "tests/from_keras")
    photographs(folder / "../photos")
    resnet18(folder / "../photos", folder / "../resnet18.pt")
    table(folder / "../table.csv")
    random = np.random.default_rng(0)
    kind = np.repeat(["dark", "light"], 40)
    bright = random.integers(0, 100, (80, 1, 5, 5)) + 100 * (kind == "light")[:, None, None, None]
    np.savez(folder / "../scans.npz", image=bright.astype(np.uint8), kind=kind)
    pages = sorted(path for part in ("pipeline", "deploy", "models", "tests") for path in (ROOT / part).rglob("*.py"))
    diary = "\n\n".join(path.read_text() for path in pages)
    (folder / "../diary.txt").write_text(diary[:DIARY])
    for code in blocks("Your own network", "python"):
        (folder / re.match(r"# (models/\w+\.py)\n", code)[1]).write_text(code)
    (folder / "params.yaml").write_text(with_pages((ROOT / "params.yaml").read_text()))
    subprocess.run([sys.executable, "-m", "pipeline.check"], cwd=folder, check=True)
    repro(folder)
    return folder


@pytest.mark.slow
def test_what_the_pages_bring_has_a_report_with_verdicts(brought: Path) -> None:
    verdicts = read_json(brought / "build" / "verdicts.json")
    assert set(verdicts) == {"my_table", "my_diary", "my_photos", "my_keras", "mine"}
    for name, recipe in verdicts.items():
        here = {target: row for target, row in recipe["targets"].items() if row["deployed"] is not None}
        wanted = {"onnxruntime-cpu-fp32", "onnxruntime-cpu-fp16"}
        if name != "my_diary":  # its GRU is small: int8 is refused
            wanted.add("onnxruntime-cpu-int8")
        assert set(here) == wanted
        assert here["onnxruntime-cpu-fp32"]["verdict"] == "PASS", name
    html = (brought / "build" / "report.html").read_text()
    assert "Its weights were brought, not trained here." in html and "Its graph was brought, not trained here." in html
    assert "trained (the ONNX file, onnxruntime, cpu)" in html and "licence: your own" in html
    assert "if it has seen some of these data, what it reaches is told too well" in html


@pytest.mark.slow
def test_what_was_brought_is_what_was_judged(brought: Path) -> None:
    """Keras says 98.56 % of its own file; the weights that were found elsewhere answer as they do elsewhere."""
    verdicts = read_json(brought / "build" / "verdicts.json")
    assert verdicts["my_keras"]["trained"]["score"] == pytest.approx(100 * 887 / 900)
    test = np.load(brought / "build" / "prepare" / "photos" / "test.npz")
    network = ResNet18((3, 32, 32), 2).eval()
    network.load_state_dict(torch.load(brought.parent / "resnet18.pt", weights_only=True))
    with torch.inference_mode():
        said = network((torch.from_numpy(test["image"]) / 255 - IMAGENET[0]) / IMAGENET[1]).argmax(1).numpy()
    right = 100 * float((said == test["label"]).mean())
    assert verdicts["my_photos"]["trained"]["score"] == pytest.approx(right)


@pytest.mark.slow
def test_each_kind_of_data_was_read(brought: Path) -> None:
    facts = {
        name: read_json(brought / "build" / "prepare" / name / "data.json")
        for name in ("photos", "table", "scans", "diary")
    }
    assert facts["photos"]["classes"] == ["china", "flower"] and facts["photos"]["network"]["shape"] == [3, 32, 32]
    assert facts["table"]["classes"] == list("0123456789") and facts["table"]["network"]["shape"] == [64]
    assert facts["scans"]["classes"] == ["dark", "light"] and facts["scans"]["network"]["shape"] == [1, 5, 5]
    assert facts["diary"]["splits"]["test"]["n"] >= 50
    assert facts["photos"]["splits"]["test"]["n"] == 310


@pytest.mark.slow
def test_data_that_change_are_read_again(brought: Path) -> None:
    scans = dict(np.load(brought.parent / "scans.npz"))
    scans["image"][0] += 1
    np.savez(brought.parent / "scans.npz", **scans)
    ran = repro(brought)
    assert "own@scans" in ran and not any(stage.startswith(("own@photos", "train", "measure")) for stage in ran)


@pytest.mark.slow
def test_other_weights_are_taken_and_the_same_are_not_taken_again(brought: Path) -> None:
    assert repro(brought) == ["host", "gate"]
    weights = brought.parent / "resnet18.pt"
    state = torch.load(weights, weights_only=True)
    kept = weights.read_bytes()
    torch.save({"epoch": 3, "state_dict": state}, weights)  # the same weights in another file
    assert set(repro(brought)) == {"host", "train@my_photos", "gate"}
    weights.write_bytes(kept)
