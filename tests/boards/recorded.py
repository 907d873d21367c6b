"""A folder that stands for ``/``, and a double of the commands, from a recorded board."""

from pathlib import Path

from deploy.jetson.board import Run, Untold

FOLDER = Path(__file__).parent
BOARDS = ("orin-nano", "orin-nx", "agx-orin", "thor", "nano")


def board(name: str, root: Path) -> tuple[Path, Run]:
    """Write what ``name`` has into ``root``."""
    printed: dict[str, str] = {}
    for section in (FOLDER / f"{name}.txt").read_text().removeprefix("== ").split("\n== "):
        head, _, body = section.partition("\n")
        kind, *what, origin = head.split(" ")
        assert origin in {"excerpt", "composed"}, head
        if kind == "values":
            for line in body.splitlines():
                path, value = line.split(": ", 1)
                put(root, path, value)
        elif kind == "file":
            put(root, what[0], body)
        else:
            printed[what[0]] = body

    def run(command: list[str], seconds: float) -> str:
        assert seconds > 0
        if command[0] not in printed:
            raise Untold(f"`{' '.join(command)}` could not be started (No such file or directory)")
        return printed[command[0]]

    return root, run


def put(root: Path, path: str, value: str) -> Path:
    """As the kernel shows it: strings of the device tree end with a zero byte, others with a new line."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    if value == "!unreadable":
        file.mkdir()  # which is an OSError to whoever reads it, root or not
        return file
    tree = path.startswith("proc/device-tree")
    written = file.with_name(f".{file.name}")  # a thread that reads it meanwhile must not find it empty
    written.write_bytes((value.replace("\\0", "\0") + "\0" if tree else value + "\n").encode())
    return written.replace(file)


def nothing(command: list[str], seconds: float) -> str:
    """A machine that has none of the commands."""
    raise Untold(f"`{' '.join(command)}` could not be started (No such file or directory)")
