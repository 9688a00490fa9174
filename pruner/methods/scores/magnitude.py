"""Magnitude: a weight's score is |w|, a larger unit's the norm of its weights divided by sqrt(size) [common].

Units larger than a weight are measured in units of their layer's scale as well [chosen], so that layers compare
(see `Units.magnitudes`).
"""

from __future__ import annotations

from torch import Tensor

from pruner.methods.base import Setup


class Magnitude:
    """The magnitudes of the model's units as they are now."""

    def __call__(self, setup: Setup) -> Tensor:
        """Per unit [n], its magnitude."""
        return setup.magnitudes()
