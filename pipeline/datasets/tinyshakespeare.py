"""1,115,394 characters of Shakespeare's plays, a speech a paragraph.

Karpathy's char-rnn, "The Unreasonable Effectiveness of Recurrent Neural Networks" (2015).
Unit: a passage of about 1,000 characters, whole speeches, read from a state of zeros; 109 in `test`, 54 in `select` and
22 in `calib`, in the order of the text, whose beginning is `train`. No passage occurs twice, and no piece of `train`.
"""

from pathlib import Path

import numpy as np

from pipeline.passages import prepare_text

MIRROR = "tinyshakespeare"
KARPATHY = "https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e"
SOURCES = {
    "input.txt": {
        "urls": [f"{KARPATHY}/data/tinyshakespeare/input.txt"],
        "sha256": "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        "bytes": 1_115_394,
    }
}
LICENCE = "public domain (the plays)"
CLASSES = ()
NETWORK: dict[str, object] = {}
SCALED = False


def prepare(raw: Path) -> dict[str, dict[str, np.ndarray]]:
    """Split -> ``text`` ``(n, longest)`` uint8 of ASCII bytes, 0 after the end; of `train` 256 bytes a row."""
    path = raw / "input.txt"
    return prepare_text(path.read_bytes(), str(path))
