"""Stage ``gate``: what every run ends with: the matrix, where the page is, and an error on any ``FAIL``.

It runs every time and writes nothing, so that it fails again until that is mended. ``python -m pipeline.gate --strict``
fails on anything but ``PASS``.
"""

import sys

from deploy.errors import Refused
from deploy.files import read_json
from pipeline import stage
from pipeline.matrix import answer, terminal
from pipeline.recipe import Project
from pipeline.verdicts import FAIL, PASS


def gate(project: Project, strict: bool = False) -> None:
    """Print the matrix, and raise on the rows that stop it.

    Raises:
        Refused: each row that failed, with its reason.
    """
    verdicts = read_json(project.build / "verdicts.json")
    print(f"\n{terminal(verdicts)}\n\n{answer(verdicts)}\nThe page: {project.build / 'report.html'}")
    rows = [(name, target, row) for name, recipe in verdicts.items() for target, row in recipe["targets"].items()]
    stopped = [row for row in rows if (row[2]["verdict"] != PASS if strict else row[2]["verdict"] == FAIL)]
    if stopped:
        reasons: dict[str, list[str]] = {}
        for name, target, row in stopped:
            reasons.setdefault(f"{row['verdict']}: {row['reason']}", []).append(f"{name} on {target}")
        lines = [f"  {', '.join(places)}: {reason}" for reason, places in reasons.items()]
        raise Refused(f"{len(stopped)} of {len(rows)} rows stop it:\n" + "\n".join(lines))


if __name__ == "__main__":
    strict = "--strict" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--strict"]
    stage.run(lambda project: gate(project, strict))
