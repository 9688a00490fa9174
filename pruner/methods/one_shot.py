"""One-shot pruning: one hard mask from the dense network's scores, at once, and training goes on under it [common].

With scores by magnitude it is the oldest baseline; random, snip, grasp and synflow are this schedule with other
scores.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pruner.methods import scores
from pruner.methods.base import Method, Setup
from pruner.methods.options import OneShotOptions


class OneShot(Method):
    """One hard mask for the whole phase. For its option see `OneShotOptions`."""

    Options = OneShotOptions
    options: OneShotOptions

    def __init__(self, setup: Setup, options: OneShotOptions | None = None):
        super().__init__(setup, options)
        self.score = scores.create(self.options.score, setup)
        self.register_buffer("ranking", torch.zeros(setup.units.n, device=setup.units.device))
        self.register_buffer("fixed", torch.ones(setup.units.n, device=setup.units.device))

    ranking: Tensor
    fixed: Tensor

    def begin(self) -> None:
        self.ranking = self.score()
        self.fixed = self.allocation.hard(self.ranking)

    def mask(self, step: int) -> Tensor:
        return self.fixed

    def scores(self) -> Tensor:
        return self.ranking
