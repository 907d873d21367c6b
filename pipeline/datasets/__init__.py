"""One data set a file: where it comes from, and what it becomes.

SOURCES      file -> where it is found, and its SHA-256: ``urls`` in the order in which they are tried, and its size in
             ``bytes``; or the ``package`` that carries it; none where the data are computed
MIRROR       the folder that holds the files in a mirror; only where there are ``urls``
LICENCE      under which terms
CLASSES      names of the classes, in the order of their indices; empty where there are none
NETWORK      arguments for a network's constructor, which is given those that it takes
SCALED       is the network's first input scaled by a z-score inside the graph?
prepare(raw) -> split -> arrays by name, first axis = unit: the network's inputs, and the truth (``label`` where each
                unit is of one class; ``pipeline.splits.TRUTHS`` has all such names). No unit is in two splits, none
                occurs twice. Published test units stay in ``test``, published validation units in ``select``.
"""

import importlib
from pathlib import Path
from types import ModuleType

from deploy.errors import Refused
from pipeline.recipe import nearest


def load_dataset(name: str) -> ModuleType:
    """The module ``pipeline.datasets.<name>``.

    Raises:
        Refused: there is none of that name.
    """
    known = {path.stem for path in Path(__file__).parent.glob("*.py")} - {"__init__"}
    if name not in known:
        raise Refused(f"no data set {name!r}{nearest(name, known)}")
    return importlib.import_module(f"pipeline.datasets.{name}")
