"""Means, sample standard deviations and paired differences with their 95% interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """Some runs' values in numbers; `std` is the sample standard deviation, None of one run."""

    n: int
    mean: float
    std: float | None
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """Ours minus the baseline's, seed by seed: the mean over `n` common seeds and the bounds of its interval.

    The bounds are None with one common seed. `mean - low` is t(n - 1) * std / sqrt(n).
    """

    n: int
    mean: float
    low: float | None
    high: float | None


def spread(values: Sequence[float]) -> Spread | None:
    """The spread of `values`, None when there are none."""
    if not values:
        return None
    std = statistics.stdev(values) if len(values) > 1 else None
    return Spread(len(values), statistics.fmean(values), std, min(values), max(values))


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference | None:
    """The mean difference over the seeds that both have, with its 95% t interval; None where they share none."""
    found = spread([value - theirs[seed] for seed, value in ours.items() if seed in theirs])
    if found is None:
        return None
    if found.std is None:
        return Difference(1, found.mean, None, None)
    from scipy.special import stdtrit  # here, because it takes long to import and most tables do not need it

    half = float(stdtrit(found.n - 1, (1 + CONFIDENCE) / 2)) * found.std / math.sqrt(found.n)
    return Difference(found.n, found.mean, found.mean - half, found.mean + half)
