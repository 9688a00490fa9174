"""One-shot pruning: one hard mask from the dense network's scores, at once, and training goes on under it [common].

With scores by magnitude it is the oldest baseline; random, snip, grasp and synflow are this schedule with other
scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pruner.methods import scores
from pruner.methods.base import Method, Setup


class OneShot(Method):
    """One hard mask for the whole phase. score: what a unit is worth (see `pruner.methods.scores`)."""

    def __init__(self, setup: Setup, score: str | Mapping[str, Any] = "magnitude"):
        super().__init__(setup)
        self.score = scores.create(score, setup)
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
