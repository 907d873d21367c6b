"""What a task's score is called and which way is better."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """``lowest`` and ``highest`` bound the score; ``None`` where the metric has no such bound."""

    name: str
    unit: str
    higher_is_better: bool
    lowest: float | None
    highest: float | None

    @property
    def drop_unit(self) -> str:
        """A drop of a percentage is told in points."""
        return "points" if self.unit == "%" else self.unit

    def drop(self, trained: float, deployed: float) -> float:
        """How much worse ``deployed`` is than ``trained``, in ``unit``; negative where it is better."""
        return trained - deployed if self.higher_is_better else deployed - trained
