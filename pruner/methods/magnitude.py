"""Magnitude pruning in one shot: the largest weights of the dense network stay, and are trained on.

The oldest baseline [common]: top-k of |w|; for filters the norm divided by sqrt(size), and by the layer's scale
[chosen], so that layers compare (see `Units.magnitudes`).
"""

from __future__ import annotations

from pruner.methods.base import OneShot, Setup


class Magnitude(OneShot):
    """The units that are largest in the dense network stay."""

    def __init__(self, setup: Setup):
        super().__init__(setup, setup.magnitudes())
