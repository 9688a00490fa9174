"""Magnitude: a weight is worth |w|; a larger unit the norm of its weights divided by sqrt(size) [common].

Units larger than a weight are measured in units of their layer's scale as well [chosen], so that layers compare
(see `Units.magnitudes`).
"""

from __future__ import annotations

from torch import Tensor

from pruner.methods.base import Setup


def magnitude(setup: Setup) -> Tensor:
    """Per unit [n], its magnitude in the model as it is now."""
    return setup.magnitudes()
