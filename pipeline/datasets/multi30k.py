"""31,014 descriptions of photographs in English, each translated into German by people.

Elliott, Frank, Sima'an & Specia, "Multi30K: Multilingual English-German Image Descriptions" (2016, arXiv:1605.00459),
task 1, raw; the test part of 2016.
Unit: a line. The published parts hold 29,000, 1,014 and 1,000; lines of over 128 bytes of English, which the task
`translation` refuses, are left out: 185, 7 and 15. Of equal English lines the first is kept, with its translation: 9 of
the first part are left out, and 1 more that stands in the second. `calib` is 200 of the first part.
"""

import gzip
import zlib
from pathlib import Path

import numpy as np

from deploy.errors import Refused
from pipeline.passages import stack
from pipeline.splits import cut_calib, without_repeats

MIRROR = "multi30k"
MULTI30K = "https://raw.githubusercontent.com/multi30k/dataset/a3d2e0d26b56f3846f66a952536ffed4e401d05a/data/task1/raw"
SOURCES = {
    "data/task1/raw/train.en.gz": {
        "urls": [f"{MULTI30K}/train.en.gz"],
        "sha256": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
        "bytes": 568_929,
    },
    "data/task1/raw/train.de.gz": {
        "urls": [f"{MULTI30K}/train.de.gz"],
        "sha256": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
        "bytes": 637_044,
    },
    "data/task1/raw/val.en.gz": {
        "urls": [f"{MULTI30K}/val.en.gz"],
        "sha256": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
        "bytes": 21_650,
    },
    "data/task1/raw/val.de.gz": {
        "urls": [f"{MULTI30K}/val.de.gz"],
        "sha256": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
        "bytes": 24_681,
    },
    "data/task1/raw/test_2016_flickr.en.gz": {
        "urls": [f"{MULTI30K}/test_2016_flickr.en.gz"],
        "sha256": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
        "bytes": 21_077,
    },
    "data/task1/raw/test_2016_flickr.de.gz": {
        "urls": [f"{MULTI30K}/test_2016_flickr.de.gz"],
        "sha256": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
        "bytes": 22_890,
    },
}
LICENCE = "for research (the descriptions; the photographs of Flickr30k are not needed)"
CLASSES = ()
NETWORK: dict[str, object] = {}
SCALED = False

CALIB = 200  # lines
LONGEST = 128  # bytes of an English line
PARTS = {"test": "test_2016_flickr", "select": "val", "train": "train"}

Pair = tuple[bytes, bytes]


def prepare(raw: Path) -> dict[str, dict[str, np.ndarray]]:
    """Split -> ``source`` English and ``target`` German, ``(n, longest)`` uint8 of UTF-8 bytes, 0 after the end."""
    published = {split: _read(raw / "data" / "task1" / "raw", part) for split, part in PARTS.items()}
    short = {split: [pair for pair in pairs if len(pair[0]) <= LONGEST] for split, pairs in published.items()}
    kept = without_repeats({split: [source for source, _ in pairs] for split, pairs in short.items()})
    part = {split: [short[split][i] for i in index] for split, index in kept.items()}
    whole = part["train"]
    part |= {split: [whole[i] for i in index] for split, index in cut_calib(len(whole), CALIB).items()}
    return {
        split: {
            "source": stack([source for source, _ in part[split]]),
            "target": stack([target for _, target in part[split]]),
        }
        for split in ("train", "calib", "select", "test")
    }


def _read(folder: Path, part: str) -> list[Pair]:
    """The lines of two files, pair by pair."""
    sources, targets = (_lines(folder / f"{part}.{language}.gz") for language in ("en", "de"))
    if len(sources) != len(targets):
        raise Refused(
            f"{folder}/{part}: {len(sources)} English and {len(targets)} German lines came, as many of each were "
            f"expected. Bring the files back: `dvc checkout --force {folder}`."
        )
    return list(zip(sources, targets))


def _lines(path: Path) -> list[bytes]:
    try:
        data = gzip.decompress(path.read_bytes())
        data.decode()
    except (gzip.BadGzipFile, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise Refused(
            f"{path}: damaged ({error}), gzip of UTF-8 was expected. Bring it back: `dvc checkout --force {path}`."
        ) from None
    return data.removesuffix(b"\n").split(b"\n")
