"""Files that are written whole or not at all, and the hashes that show damage.

A hash shows damage and staleness. It is no signature: who can change a file can change its hash.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deploy.errors import Refused


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` beside ``path`` first and rename, so that a crash or a full disk leaves the old file.

    Raises:
        Refused: the disk is full, or the folder cannot be written; what stood at ``path`` is untouched.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise Refused(
            f"{path}: {len(data):,} bytes could not be written ({error.strerror}); nothing there was changed. "
            f"Free some space on that disk, or mend its permissions, and run the same command again."
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON, keys in order given; NaN is no JSON and is refused with ``ValueError``."""
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        Refused: the file is missing, truncated or not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise Refused(f"{path}: not found. The stage that writes it has not run: `dvc repro` runs it.") from None
    except ValueError as error:
        raise Refused(f"{path}: damaged, not JSON ({error}). Remove it and run `dvc repro` again.") from None


def kept_json(path: Path, make: Callable[[], Any]) -> Any:
    """The JSON that stands at ``path``; where there is none, or a damaged one, what ``make`` gives, written there."""
    if path.is_file():
        with contextlib.suppress(Refused):
            return read_json(path)
    value = make()
    write_json(path, value)
    return value


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
