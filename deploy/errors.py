"""The one exception that people are meant to read."""


class Refused(Exception):
    """Something that cannot be used: a file, a value, a graph, a machine.

    The message names the thing, what came, what was expected, and the fix.
    Stages print it alone, without a traceback.
    """


def words(error: Exception) -> str:
    """What failed, for people; of an error that nobody foresaw its class too."""
    return str(error) if isinstance(error, Refused) else f"{type(error).__name__}: {error}"
