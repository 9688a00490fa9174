"""Gradual magnitude pruning: the budget comes down along a cubic, and magnitude decides.

Zhu and Gupta, "To prune, or not to prune", 2017, arXiv 1710.01878.

    sparsity(t) = final (1 - (1 - t / ramp)^3)                                       [known] equation 1
    the mask is recomputed every few steps from |w| of the weights underneath        [known]
    once the final sparsity is reached the mask stays                                [known]

[chosen]: the ramp spans the first 30% of the phase, and masks are five steps apart, as the search for weights found
best (outputs/tables/tune-weight.csv). For filters |w| stands for `Units.magnitudes`, and the ramp spans 15%
(outputs/tables/tune-filter.csv).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pruner.methods import scores
from pruner.methods.base import Method, Setup
from pruner.methods.options import GMPOptions
from pruner.methods.schedules import cubic


class GMP(Method):
    """Hard masks under a budget that falls with the cube of time. For its options see `GMPOptions`."""

    Options = GMPOptions
    options: GMPOptions

    def __init__(self, setup: Setup, options: GMPOptions | None = None):
        super().__init__(setup, options)
        self.score = scores.create(self.options.score, setup)
        # The scores that the last mask was made of, and that mask.
        self.register_buffer("ranking", torch.zeros(setup.units.n, device=setup.units.device))
        self.register_buffer("current", torch.ones_like(self.ranking))

    ranking: Tensor
    current: Tensor

    def begin(self) -> None:
        self.ranking = self.score()  # what a phase of no steps ends with

    def mask(self, step: int) -> Tensor:
        ramp_end = math.ceil(self.options.ramp * self.setup.steps)
        if step == ramp_end or (step < ramp_end and step % self.options.every == 0):
            sparsity = cubic(self.allocation.sparsity, step / self.setup.steps, self.options.ramp)
            self.ranking = self.score()
            self.current = self.allocation.hard(self.ranking, sparsity)
        return self.current

    def scores(self) -> Tensor:
        return self.ranking  # not as they are now: what was pruned is not brought back at the end
