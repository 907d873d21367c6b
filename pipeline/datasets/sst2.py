"""9,613 sentences of film reviews, each for or against the film.

Socher, Perelygin, Wu, Chuang, Manning, Ng & Potts, "Recursive Deep Models for Semantic Compositionality Over a
Sentiment Treebank" (EMNLP 2013), in two classes, whole sentences alone: small letters, words parted by blanks, ASCII.
Unit: a sentence. The published parts hold 6,920, 872 and 1,821. Of the first, 3 that stand in the test part too are
left out, and 8 that stand before in the same part, each of the same class there. `calib` is 200 of the first part.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from deploy.errors import Refused
from pipeline.passages import stack
from pipeline.splits import split_by_class, without_repeats

MIRROR = "sst2"
CLAIRETT = (
    "https://raw.githubusercontent.com/clairett/pytorch-sentiment-classification"
    "/457ffd83de90a9d6d472d8ffc31bbffe40a8b236/data/SST2"
)
SOURCES = {
    "train.tsv": {
        "urls": [f"{CLAIRETT}/train.tsv"],
        "sha256": "ec192f833a64da08f475488a77b0d0b47db47acd0f458bd18433fc793b569920",
        "bytes": 720_259,
    },
    "dev.tsv": {
        "urls": [f"{CLAIRETT}/dev.tsv"],
        "sha256": "eddea6b39e601dd4e7a672b53cc40fdf6019fa80522f351206c24340ca5d9359",
        "bytes": 92_057,
    },
    "test.tsv": {
        "urls": [f"{CLAIRETT}/test.tsv"],
        "sha256": "831169c7e2e429d6026e1bdbb542f33b636e3e596caad9602ebc953c205928b7",
        "bytes": 188_749,
    },
}
LICENCE = "for research (Stanford Sentiment Treebank; no licence is stated)"
CLASSES = ("negative", "positive")
NETWORK = {"classes": 2}
SCALED = False

CALIB = 200  # sentences
FILES = {"test": "test.tsv", "select": "dev.tsv", "train": "train.tsv"}


class Sentences(NamedTuple):
    """Sentences as bytes, and the class of each ``(n,)`` int64."""

    text: list[bytes]
    label: np.ndarray


def prepare(raw: Path) -> dict[str, dict[str, np.ndarray]]:
    """Split -> ``text`` ``(n, longest)`` uint8, 0 after the end, ``label`` ``(n,)`` int64 of 0 and 1."""
    published = {split: _read(raw / file) for split, file in FILES.items()}
    kept = without_repeats({split: sentences.text for split, sentences in published.items()})
    part = {split: _take(sentences, kept[split]) for split, sentences in published.items()}
    whole = part["train"]
    index = split_by_class(whole.label, {"train": len(whole.label) - CALIB, "calib": CALIB})
    part |= {split: _take(whole, i.tolist()) for split, i in index.items()}
    return {
        split: {"text": stack(part[split].text), "label": part[split].label}
        for split in ("train", "calib", "select", "test")
    }


def _read(path: Path) -> Sentences:
    """A line a sentence: the sentence, a tab, its class."""
    text, label = [], []
    for number, line in enumerate(path.read_bytes().removesuffix(b"\n").split(b"\n"), 1):
        sentence, _, its_class = line.partition(b"\t")
        if not sentence or its_class not in (b"0", b"1"):
            raise Refused(
                f"{path}:{number}: {line[:60]!r} came, a sentence, a tab and 0 or 1 were expected. "
                f"Bring the file back: `dvc checkout --force {path}`."
            )
        text.append(sentence)
        label.append(int(its_class))
    return Sentences(text, np.array(label, np.int64))


def _take(sentences: Sentences, index: list[int]) -> Sentences:
    return Sentences([sentences.text[i] for i in index], sentences.label[index])
