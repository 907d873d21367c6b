"""One task a file: what an answer is, when it is right, and how a score is made of it. numpy only.

    metric                          name, unit, direction, bounds
    needs                           names of the arrays that its examples must have, beside the network's inputs
    outputs                         graph -> the names of its outputs; ``network`` is the whole network
    answer(runs, examples)          -> answers, arrays by name: all that the network says to the examples
    decode(answers)                 -> one readable answer a unit, for people
    observe(answers, examples)      -> statistics ``(units, k)``, sufficient for the score
    score(statistics)               -> the score
    details(statistics)             -> further readings of the same statistics by name: shown, never judged
    requests(runs, examples)        -> one call a unit, for the latency run
    drift(runs, examples)           -> one number a step ``(steps,)`` of one long run; only where there is a state
    counted(text)                   -> at which bytes an answer counts ``(n, longest)``; only where ``token`` is needed

A unit is what is independent: an image, a sentence, a file; never a token of a sentence. An answer that is not finite
is never right.
"""

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np

from deploy.errors import Refused
from deploy.run import Run


def load_task(name: str) -> ModuleType:
    """The module ``deploy.tasks.<name>``.

    Raises:
        Refused: there is none of that name.
    """
    known = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in ("__init__", "metric"))
    if name not in known:
        raise Refused(f"no task {name!r}; this version of Plumbline knows {', '.join(known)}")
    return importlib.import_module(f"deploy.tasks.{name}")


def answer_all(task: ModuleType, runs: dict[str, Run], examples: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The task's answers, and ``drift`` where it has one: what is recorded of the trained network and compared."""
    answers: dict[str, np.ndarray] = task.answer(runs, examples)
    return answers | {"drift": task.drift(runs, examples)} if hasattr(task, "drift") else answers
