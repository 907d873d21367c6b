"""Many small text files as one: a tar that is the same, bit for bit, wherever the same files are."""

import io
import tarfile
from fnmatch import fnmatchcase
from pathlib import Path

from deploy.errors import Refused


def pack_files(folder: Path, pattern: str, without: tuple[str, ...]) -> bytes:
    """An uncompressed USTAR archive of the text files in ``folder`` that match, sorted by path.

    No file's time, owner or rights are in it, and every line ends in a line feed: Windows wheels end theirs in CR LF.

    Args:
        pattern: as ``Path.glob`` takes it, such as ``**/*.py``.
        without: paths to leave out, as ``fnmatch`` takes them; ``*`` also spans folders.

    Raises:
        Refused: nothing matches.
    """
    matched = {path.relative_to(folder).as_posix(): path for path in folder.glob(pattern) if path.is_file()}
    kept = sorted(name for name in matched if not any(fnmatchcase(name, other) for other in without))
    if not kept:
        raise Refused(
            f"{folder}: no file matches {pattern!r}, less {', '.join(without) or 'nothing'}. Mend the pattern."
        )
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in kept:
            data = matched[name].read_bytes().replace(b"\r\n", b"\n")
            entry = tarfile.TarInfo(name)  # time 0, mode 0644, owner and group 0 and nameless
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return archive.getvalue()
