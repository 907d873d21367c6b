"""5,690 messages of people on the net, and the names in them that are new: persons, places, products and the like.

Derczynski, Nichols, van Erp & Limsopatham, "Results of the WNUT2017 Shared Task on Novel and Emerging Entity
Recognition" (W-NUT 2017).
Unit: a message. The published parts hold 3,394, 1,009 and 1,287; of messages that stand twice in a part the first is
kept: 103, 3 and 7 are left out, of which 13, 1 and 1 have other tags. No message stands in two parts. `calib` is 100 of
the first part.
Words are joined by one blank, so that a word begins at the start and after each blank.
"""

from pathlib import Path

import numpy as np

from deploy.errors import Refused
from pipeline.passages import stack
from pipeline.splits import cut_calib, without_repeats

MIRROR = "wnut17"
LEONDZ = "https://raw.githubusercontent.com/leondz/emerging_entities_17/e52a2d2a71ac1a051ca2d532eef28653c5c02603"
SOURCES = {
    "wnut17train.conll": {
        "urls": [f"{LEONDZ}/wnut17train.conll"],
        "sha256": "731820e13f71af324c6b55a1575ec2ce59fbaa2a0806f8f0400b98d56cd6a7a5",
        "bytes": 493_781,
    },
    "emerging.dev.conll": {
        "urls": [f"{LEONDZ}/emerging.dev.conll"],
        "sha256": "e053b752b8155113ca66e7db08af5f2f5f43ab993694e4774f1ec5bad42312d8",
        "bytes": 114_749,
    },
    "emerging.test.annotated": {
        "urls": [f"{LEONDZ}/emerging.test.annotated"],
        "sha256": "2aa79b764e56ec9264a1b30fdd9b70195bd00ff400b62edd8f399d5f13c178f0",
        "bytes": 192_425,
    },
}
LICENCE = "CC BY 4.0 (W-NUT 2017 shared task)"
CLASSES = (  # B: the first word of a name, I: a further one, O: none of any
    "O",
    "B-corporation",
    "I-corporation",
    "B-creative-work",
    "I-creative-work",
    "B-group",
    "I-group",
    "B-location",
    "I-location",
    "B-person",
    "I-person",
    "B-product",
    "I-product",
)
NETWORK = {"classes": 13}
SCALED = False

CALIB = 100  # messages
FILES = {"test": "emerging.test.annotated", "select": "emerging.dev.conll", "train": "wnut17train.conll"}
INDEX = {name: i for i, name in enumerate(CLASSES)}

Message = tuple[bytes, bytes]  # its text, and the class of each byte


def prepare(raw: Path) -> dict[str, dict[str, np.ndarray]]:
    """Split -> ``text`` uint8 of UTF-8 bytes and ``token`` uint8 of classes; both ``(n, longest)``, 0 after the end.

    Every byte of a word has its word's class; a blank between words is of class 0, "O".
    """
    published = {split: _read(raw / file) for split, file in FILES.items()}
    kept = without_repeats({split: [text for text, _ in messages] for split, messages in published.items()})
    part = {split: [published[split][i] for i in index] for split, index in kept.items()}
    whole = part["train"]
    part |= {split: [whole[i] for i in index] for split, index in cut_calib(len(whole), CALIB).items()}
    return {split: _stack(part[split]) for split in ("train", "calib", "select", "test")}


def _stack(messages: list[Message]) -> dict[str, np.ndarray]:
    text = stack([text for text, _ in messages])
    return {"text": text, "token": stack([token for _, token in messages], text.shape[1])}


def _read(path: Path) -> list[Message]:
    """A line a word: the word, a tab, its tag; a line of nothing but white space ends a message.

    Raises:
        Refused: not UTF-8, a word that is empty or holds white space (its end could not be told), or an unknown tag.
    """
    try:
        lines = path.read_bytes().decode().split("\n")
    except UnicodeDecodeError as error:
        raise Refused(f"{path}: byte {error.start:,} is no UTF-8 ({error.reason}). {_again(path)}") from None
    messages: list[Message] = []
    words: list[tuple[bytes, bytes]] = []
    for number, line in enumerate([*lines, ""], 1):
        if line.strip():
            word, _, tag = line.partition("\t")
            if word.split() != [word] or tag not in INDEX:
                raise Refused(
                    f"{path}:{number}: {line!r} came, a word without white space, a tab and one of "
                    f"{', '.join(CLASSES)} were expected. {_again(path)}"
                )
            words.append((word.encode(), bytes([INDEX[tag]]) * len(word.encode())))
        elif words:
            messages.append((b" ".join(word for word, _ in words), b"\0".join(classes for _, classes in words)))
            words = []
    return messages


def _again(path: Path) -> str:
    return f"Bring the file back: `dvc checkout --force {path}`."
