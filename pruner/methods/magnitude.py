"""Magnitude pruning in one shot: the largest weights of the dense network stay, and are trained on.

The oldest baseline [common]: top-k of |w|; for filters the norm divided by sqrt(size), and by the layer's scale
[chosen], so that layers compare (see `Units.magnitudes`).
"""

from __future__ import annotations

from torch import Tensor

from pruner.methods.base import Method, Setup


class Magnitude(Method):
    """One hard mask, from the dense network's magnitudes, for the whole phase."""

    def __init__(self, setup: Setup):
        super().__init__(setup)
        self.register_buffer("magnitudes", setup.magnitudes())
        self.register_buffer("fixed", self.allocation.hard(self.magnitudes))

    magnitudes: Tensor
    fixed: Tensor

    def mask(self, step: int) -> Tensor:
        return self.fixed

    def scores(self) -> Tensor:
        return self.magnitudes
