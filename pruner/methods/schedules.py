"""How a budget comes down over the pruning phase, apart from what scores decide who stays."""

from __future__ import annotations


def cubic(final: float, progress: float, ramp: float) -> float:
    """Sparsity at `progress` in [0, 1] of the phase: final (1 - (1 - progress / ramp)^3), `final` after the ramp.

    Zhu and Gupta 2017, equation 1, from an initial sparsity of 0. A ramp of 0 asks for all at once.
    """
    if progress >= ramp:
        return final
    return final * (1 - (1 - progress / ramp) ** 3)
