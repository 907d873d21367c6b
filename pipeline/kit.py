"""``make kit``: one archive that is carried to a Jetson: bundles, ``deploy/``, a page to follow, and the hash of each.

Not a stage: what it packs, the stages have written.
"""

import gzip
import io
import json
import sys
import tarfile
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import deploy
from deploy.contract import open_bundle
from deploy.files import write_bytes
from deploy.jetson.kit import HASHES
from pipeline import stage
from pipeline.recipe import Project

TOP = "plumbline-kit"  # the folder that the archive unpacks to
ON_TOP = ("run.py", "example.py", "README.md")  # of deploy/jetson: what a person looks for
LEFT_OUT = ("server", "__pycache__")  # a board serves nothing


def kit(project: Project, names: Sequence[str]) -> None:
    """Write the archive of some recipes, or of all where none is named: the same bundles give the same bytes.

    Raises:
        Refused: an unknown recipe, or a bundle that is missing or damaged; an archive that is there stays.
    """
    folders = [project.build / "bundle" / name for name in names or project.recipes if project.recipe(name)]
    files = dict(_files(folders))
    hashes = {name: sha256(data).hexdigest() for name, data in files.items()}
    files[HASHES] = (json.dumps(hashes, indent=1) + "\n").encode()
    archive = project.build / "kit" / f"{'-'.join(names) if 0 < len(names) < 3 else TOP}.tar.gz"
    write_bytes(archive, _packed(files))
    print(f"{archive}: {len(files)} files of {len(folders)} recipes, {archive.stat().st_size / 1e6:.1f} MB")
    print(f"To the board: scp {archive} BOARD:")
    print(f"On the board: tar xzf {archive.name} && cd {TOP} && python3 run.py")


def _files(folders: Sequence[Path]) -> Iterator[tuple[str, bytes]]:
    """Each file's name in the kit, and its bytes."""
    code = Path(deploy.__path__[0])
    for path in sorted(code.rglob("*.py")):
        if not set(path.relative_to(code).parts) & set(LEFT_OUT):
            yield f"deploy/{path.relative_to(code).as_posix()}", path.read_bytes()
    for name in ON_TOP:
        yield name, (code / "jetson" / name).read_bytes()
    for folder in folders:
        bundle = open_bundle(folder)
        for file in ["contract.json", *bundle.files]:
            yield f"bundles/{bundle.recipe}/{file}", (folder / file).read_bytes()


def _packed(files: dict[str, bytes]) -> bytes:
    """A ``.tar.gz`` without times and owners."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as zipped, tarfile.open(fileobj=zipped, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"{TOP}/{name}")
            entry.size, entry.mode = len(data), 0o755 if name in ON_TOP and name.endswith(".py") else 0o644
            archive.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


if __name__ == "__main__":
    names = sys.argv[1:]
    sys.argv = sys.argv[:1]
    stage.run(lambda project: kit(project, names))
