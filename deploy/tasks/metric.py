"""What a task's score is called and which way is better."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """What a task's score is called, and how it is judged.

    ``lowest`` and ``highest`` bound the score, ``None`` where there is no such bound. ``right_or_wrong``: the first
    statistic of a unit is 1 where it is right and 0 where it is wrong, and the score grows or falls evenly with their
    share.
    """

    name: str
    unit: str
    higher_is_better: bool
    lowest: float | None
    highest: float | None
    right_or_wrong: bool

    @property
    def drop_unit(self) -> str:
        """A drop of a percentage is told in points."""
        return "points" if self.unit == "%" else self.unit

    @property
    def places(self) -> int:
        """Decimal places that tell one unit's worth of it."""
        return 2 if self.unit == "%" else 4

    def drop(self, trained: float, deployed: float) -> float:
        """How much worse ``deployed`` is than ``trained``, in ``unit``; negative where it is better."""
        return trained - deployed if self.higher_is_better else deployed - trained
