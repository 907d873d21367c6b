"""What every stage's command line does: read the project, run one function, print an error without a traceback."""

import sys
from collections.abc import Callable

from deploy.errors import Refused
from pipeline.recipe import Project, load_project


def run(stage: Callable[[Project], None]) -> None:
    """Run a stage that works on the whole project: ``python -m pipeline.VERB``."""
    _run(lambda project, _: stage(project), names=0)


def run_named(stage: Callable[[Project, str], None]) -> None:
    """Run a stage that works on one recipe or data set: ``python -m pipeline.VERB NAME``."""
    _run(lambda project, words: stage(project, words[0]), names=1)


def _run(stage: Callable[[Project, list[str]], None], names: int) -> None:
    words = sys.argv[1:]
    verb = sys.modules["__main__"].__spec__.name if sys.modules["__main__"].__spec__ else sys.argv[0]
    if len(words) != names:
        sys.exit(f"usage: python -m {verb}{' NAME' * names}")
    try:
        stage(load_project(), words)
    except (Refused, OSError, MemoryError) as error:
        sys.exit(f"{verb.rpartition('.')[2]}{''.join('@' + word for word in words)}: {error}")
