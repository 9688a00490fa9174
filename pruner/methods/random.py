"""Random pruning: a random mask at the budget, the floor of every table [common]."""

from __future__ import annotations

import torch
from torch import Tensor

from pruner.methods.base import Method, Setup


class Random(Method):
    """One hard mask of random scores, drawn from the run's seed, for the whole phase."""

    def __init__(self, setup: Setup):
        super().__init__(setup)
        draw = torch.rand(setup.units.n, generator=setup.generator)
        self.register_buffer("draw", draw.to(setup.units.device))
        self.register_buffer("fixed", self.allocation.hard(self.draw))

    draw: Tensor
    fixed: Tensor

    def mask(self, step: int) -> Tensor:
        return self.fixed

    def scores(self) -> Tensor:
        return self.draw
