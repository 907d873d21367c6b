"""How far answers are from the float64 network's: the origin of every numeric tolerance."""

import numpy as np


def error_max(answers: dict[str, np.ndarray], exact: dict[str, np.ndarray]) -> float:
    """Largest absolute difference of floating answers from ``exact``; ``inf`` where one is not finite."""
    worst = 0.0
    for name, truth in exact.items():
        if np.issubdtype(truth.dtype, np.floating) and truth.size:
            difference = np.abs(answers[name].astype(np.float64) - truth)
            worst = max(worst, float(np.max(np.where(np.isfinite(difference), difference, np.inf))))
    return worst


def rounding(exact: dict[str, np.ndarray]) -> float:
    """Half a unit in the last place of the largest answer in float32: what rounding alone costs."""
    floats = [array for array in exact.values() if np.issubdtype(array.dtype, np.floating) and array.size]
    largest = max((float(np.abs(array).max()) for array in floats), default=0.0)
    return float(np.spacing(np.float32(largest))) / 2


def growth(answers: np.ndarray, exact: np.ndarray) -> dict[str, list[float]]:
    """How the error grows along one long run: ``error``, the largest up to each of ``step``, evenly spaced in log.

    Args:
        answers, exact: one number a step ``(steps,)``.
    """
    error = np.maximum.accumulate(np.abs(answers.astype(np.float64) - exact))
    step = np.unique(np.geomspace(1, len(exact), 60).astype(int))
    return {"step": step.tolist(), "error": [float(f"{value:.3g}") for value in error[step - 1]]}


def all_finite(answers: dict[str, np.ndarray]) -> bool:
    """Is every floating answer a number?"""
    return all(bool(np.isfinite(a).all()) for a in answers.values() if np.issubdtype(a.dtype, np.floating))
