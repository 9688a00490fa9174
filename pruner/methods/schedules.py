"""How a budget or a temperature comes down over the pruning phase, apart from what scores decide who stays."""

from __future__ import annotations

import math


def cubic(final: float, progress: float, ramp: float) -> float:
    """Sparsity at `progress` in [0, 1] of the phase: final (1 - (1 - progress / ramp)^3), `final` after the ramp.

    Zhu and Gupta 2017, equation 1, from an initial sparsity of 0. A ramp of 0 asks for all at once.
    """
    if progress >= ramp:
        return final
    return final * (1 - (1 - progress / ramp) ** 3)


def linear(final: float, progress: float, ramp: float) -> float:
    """A value that rises from 0 to `final` over the first `ramp` of the phase, linearly; `final` after that."""
    return final if progress >= ramp else final * progress / ramp


def fall(first: float, last: float, progress: float, shape: str = "exponential") -> float:
    """A value that falls from `first` to `last` (above 0 where it falls exponentially), as `progress` goes from 0 to 1.

    exponential: first (last / first)^progress; linear: in equal steps; cosine: slow, fast, slow.
    """
    if shape == "exponential":
        fallen: float = first * (last / first) ** progress
        return fallen
    share = 1 - progress if shape == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return last + (first - last) * share


def reheated(first: float, last: float, progress: float, times: int) -> float:
    """An exponential fall from `first` to `last` that starts again `times` times, each time from a lower peak.

    The phase has times + 1 equal parts. Each falls exponentially to `last`, from the value that a fall without
    re-heating has where the part begins; so `times` of 0 is that fall [chosen].
    """
    parts = times + 1
    part = min(int(progress * parts), times)
    return fall(fall(first, last, part / parts), last, progress * parts - part)


def alternating(progress: float, warmup: float, period: float, last_dense: float, last_sparse: float) -> int | None:
    """The number, from 0, of the sparse stage at `progress` in [0, 1] of the phase; None in a dense stage.

    Dense up to `warmup`; then sparse and dense in turn, each for half a period; dense from `last_dense`, sparse from
    `last_sparse`. Stages include their first moment. AC/DC, Peste et al. 2021.
    """
    rounding = 1e-9  # 0.3 - 0.1 is a little less than two times 0.1
    if progress + rounding >= last_sparse:
        return math.ceil((last_dense - warmup) / period - rounding)
    half = math.floor((progress - warmup) / (period / 2) + rounding)
    dense = progress + rounding >= last_dense or half < 0 or half % 2 == 1
    return None if dense else half // 2
