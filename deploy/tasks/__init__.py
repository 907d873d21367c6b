"""One task a file: what an answer is, when it is right, and how a score is made of it. numpy only.

    metric                          name, unit, direction, bounds
    outputs                         the names of the graph's outputs
    answer(runs, examples)          -> answers, arrays by name: all that the network says to the examples
    decode(answers)                 -> one readable answer a unit, for people
    observe(answers, examples)      -> statistics ``(units, k)``, sufficient for the score
    score(statistics)               -> the score
    requests(runs, examples)        -> one call a unit, for the latency run

A unit is what is independent: an image, a sentence, a file; never a token of a sentence.
"""

import importlib
from pathlib import Path
from types import ModuleType

from deploy.errors import Refused


def load_task(name: str) -> ModuleType:
    """The module ``deploy.tasks.<name>``.

    Raises:
        Refused: there is none of that name.
    """
    known = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in ("__init__", "metric"))
    if name not in known:
        raise Refused(f"no task {name!r}; this version of Plumbline knows {', '.join(known)}")
    return importlib.import_module(f"deploy.tasks.{name}")
