"""Bounds and exact tests for paired answers, each with its paper. Units: proportions and seconds, not per cent.

b: units that the trained network had right and the deployed one wrong; c: the other way round; n: all units.
The drop is d = (b - c) / n, positive where the deployed network is worse.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

ALPHA = 0.05  # of each one-sided bound
SPENT = 0.001  # of ALPHA, spent on the confidence set of the nuisance parameter (Berger & Boos 1994)
BOOTSTRAPS = 4_999
BOOTSTRAP_LEAST = (
    50  # units: of skewed drops at the budget it passed 25 % with 5, 13 % with 10, 8 % with 30, 5 % with 50
)
BLOCK = 10  # rounds of a latency run that are resampled together


Counts = np.ndarray | np.float64


@dataclass(frozen=True)
class Interval:
    """One-sided bounds of level ``1 - ALPHA`` each: together a two-sided interval of ``1 - 2 ALPHA``."""

    lower: float
    upper: float


def tango_score(b: Counts, c: Counts, n: int, d0: float) -> np.ndarray:
    """The score statistic of Tango (1998), Statistics in Medicine 17:891-908, eq. 4, for H: d = d0.

    Increasing in b where b + c is fixed; 0 where numerator and variance are both 0. Arrays of one shape.
    """
    linear = -b - c + (2 * n - b + c) * d0
    constant = -c * d0 * (1 - d0)
    q = (np.sqrt(np.maximum(linear**2 - 8 * n * constant, 0)) - linear) / (
        4 * n
    )  # P(trained wrong, deployed right) under H
    variance = n * np.maximum(2 * q + d0 * (1 - d0), 0)
    difference = b - c - n * d0
    with np.errstate(divide="ignore", invalid="ignore"):
        score = difference / np.sqrt(variance)
    return np.where(np.abs(difference) < 1e-12 * n, 0.0, score)


def tango_interval(b: int, c: int, n: int, alpha: float = ALPHA) -> Interval:
    """Tango's score interval: shown beside the exact bounds, never judged by (its size exceeds ``alpha`` at some n)."""
    z = stats.norm.ppf(1 - alpha)

    def root(target: float) -> float:
        def excess(d0: float) -> float:
            return float(tango_score(np.float64(b), np.float64(c), n, d0)) - target

        low, high = -1 + 1e-12, 1 - 1e-12
        if excess(low) <= 0:
            return -1.0
        if excess(high) >= 0:
            return 1.0
        return float(optimize.brentq(excess, low, high, xtol=1e-10))

    return Interval(root(z), root(-z))


def p_not_worse(b: int, c: int, n: int, d0: float, spent: float = SPENT) -> float:
    """Exact unconditional p-value of H: d >= d0 against d < d0; small means proved.

    Tables are ordered by Tango's score (Sidik 2003, Statistics in Medicine 22:265-278; Berger & Sidik 2003, Statistical
    Methods in Medical Research 12:91-108). The nuisance parameter is the probability psi that a unit flips either way.
    Given b + c = m, b is binomial, and P(b small) falls as d grows, so that over d >= d0 the largest probability is at
    d0; over psi it is sought in a Clopper-Pearson set of level ``1 - spent``, and ``spent`` is added (Berger & Boos
    1994, JASA 89:1012-1016).
    """
    low, high = clopper_pearson(b + c, n, spent)
    low = max(low, d0, 1e-12)
    if low >= high:  # flips are so rare that a drop of d0 is outside the set
        return spent
    few = int(stats.binom.ppf(1e-13, n, low))
    many = int(stats.binom.isf(1e-13, n, high))
    flips = np.arange(few, many + 1)
    observed = float(tango_score(np.float64(b), np.float64(c), n, d0))
    most = _largest_b(flips, n, d0, observed)

    def tail(psi: float) -> float:
        share = max((1 + d0 / psi) / 2, 0.0)  # P(a flip is for the worse); 0 where psi itself keeps d above d0
        given = np.where(most >= 0, special.bdtr(np.maximum(most, 0), flips, share), 0.0)
        given = np.where(most >= flips, 1.0, given)
        return float(stats.binom.pmf(flips, n, psi) @ given)

    grid = np.linspace(low, high, 61)
    values = np.array([tail(psi) for psi in grid])
    best = values.max()
    step = grid[1] - grid[0]
    for i in np.argsort(values)[-3:]:  # the profile can have several peaks
        edges = (max(low, grid[i] - step), min(high, grid[i] + step))
        if edges[1] > edges[0]:
            found = optimize.minimize_scalar(lambda psi: -tail(psi), bounds=edges, method="bounded")
            best = max(best, -float(found.fun))
    return min(1.0, float(best) + spent + 2e-13)  # the last term: what the truncation of `flips` left out


def drop_interval(b: int, c: int, n: int, alpha: float = ALPHA) -> Interval:
    """Exact one-sided bounds of d: the values of d0 that ``p_not_worse`` (and its mirror image) cannot refuse."""
    return Interval(-_upper(c, b, n, alpha), _upper(b, c, n, alpha))


def clopper_pearson(k: int, n: int, alpha: float) -> tuple[float, float]:
    """Two-sided exact interval of level ``1 - alpha`` for a proportion (Clopper & Pearson 1934, Biometrika 26:404)."""
    low = 0.0 if k == 0 else float(stats.beta.ppf(alpha / 2, k, n - k + 1))
    high = 1.0 if k == n else float(stats.beta.ppf(1 - alpha / 2, k + 1, n - k))
    return low, high


def bootstrap_drop(drop: Callable[[np.ndarray], float], n: int, seed: int = 0) -> Interval | None:
    """BCa bounds (Efron 1987, JASA 82:171-185) of a corpus metric's drop, resampled by unit.

    Args:
        drop: indices of units ``(n,)`` -> the drop on those units.

    Returns:
        ``None`` where so few units differ that BCa is undefined.
    """
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # told by None
        result = stats.bootstrap(
            (np.arange(n),),
            lambda index: drop(index),
            confidence_level=1 - 2 * ALPHA,
            n_resamples=BOOTSTRAPS,
            method="BCa",
            vectorized=False,
            rng=np.random.default_rng(seed),
        )
    low, high = result.confidence_interval
    return Interval(float(low), float(high)) if math.isfinite(low) and math.isfinite(high) else None


def fraction_drop(changed: int, n: int, worst: float) -> Interval:
    """Bounds where BCa is undefined: the greatest fraction of units that may change, times the worst effect of one.

    Args:
        changed: units whose statistics differ.
        worst: the most by which the score could fall if every unit changed, in the metric's unit.
    """
    fraction = clopper_pearson(changed, n, 2 * ALPHA)[1]
    return Interval(-fraction * worst, fraction * worst)


def median_ratio(deployed_s: np.ndarray, trained_s: np.ndarray, seed: int = 0) -> tuple[float, Interval]:
    """Median of the rounds' ratios deployed / trained, with bootstrap bounds.

    Neighbouring rounds share the machine's mood, so blocks of rounds are resampled (Carlstein 1986, Annals of
    Statistics 14:1171-1179).

    Args:
        deployed_s, trained_s: latencies of the same rounds ``(rounds,)``, seconds.
    """
    ratios = np.asarray(deployed_s) / np.asarray(trained_s)
    size = min(BLOCK, max(1, len(ratios) // 8))
    blocks = ratios[: len(ratios) // size * size].reshape(-1, size)
    random = np.random.default_rng(seed)
    picks = random.integers(len(blocks), size=(2_000, len(blocks)))
    medians = np.median(blocks[picks].reshape(len(picks), -1), axis=1)
    low, high = np.quantile(medians, (ALPHA, 1 - ALPHA))
    return float(np.median(ratios)), Interval(float(low), float(high))


def percentile(latency_s: np.ndarray, share: float) -> float | None:
    """The ``share`` quantile of latencies, or ``None`` where there are too few to say.

    Enough are as many as let the second-largest sample be a 99 % upper bound of it: 64 for p90, 662 for p99.
    """
    n = len(latency_s)
    below = share**n + n * share ** (n - 1) * (1 - share)  # P(at most one sample lies above the quantile)
    return float(np.quantile(latency_s, share)) if below <= 0.01 else None


def units_to_decide(b: int, c: int, n: int, budget: float) -> int | None:
    """About how many units would decide, if flips keep coming at this rate; ``None`` where no number would."""
    d = (b - c) / n
    if d == budget:
        return None
    many, most = n, 1_000_000
    while many < most:
        many = math.ceil(many * 1.1)
        scaled = (round(b * many / n), round(c * many / n))
        score = float(tango_score(np.float64(scaled[0]), np.float64(scaled[1]), many, budget))
        if abs(score) > stats.norm.ppf(1 - ALPHA):
            decided = p_not_worse(*scaled, many, budget) if d < budget else p_not_worse(*scaled[::-1], many, -budget)
            if decided <= ALPHA:
                return many
    return None


def units_least(budget: float) -> int:
    """The fewest units on which a copy that flips none can be proved to lose less than ``budget``, a share."""
    low, high = 1, 2
    while p_not_worse(0, 0, high, budget) > ALPHA:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if p_not_worse(0, 0, middle, budget) > ALPHA else (low, middle)
    return high


def _upper(b: int, c: int, n: int, alpha: float) -> float:
    """The d0 above which H: d >= d0 is refused, by bisection to 1e-6."""
    low, high = (b - c) / n, 1.0
    if p_not_worse(b, c, n, high - 1e-9) > alpha:
        return 1.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        if p_not_worse(b, c, n, middle) > alpha:
            low = middle
        else:
            high = middle
    return high


def _largest_b(flips: np.ndarray, n: int, d0: float, observed: float) -> np.ndarray:
    """For each m of ``flips``: the largest b whose table (b, m - b) is no worse than the observed one; -1 if none."""
    low, high = np.full(len(flips), -1), flips.copy()  # invariant: `low` is as good or -1; above `high` none is
    while (low < high).any():
        middle = (low + high + 1) // 2
        good = tango_score(middle.astype(float), (flips - middle).astype(float), n, d0) <= observed + 1e-9
        low, high = np.where((low < high) & good, middle, low), np.where((low < high) & ~good, middle - 1, high)
    return low
