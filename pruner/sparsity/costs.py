"""What it costs to keep units, and the cost that a sparsity leaves."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from pruner.sparsity.budget import total_cost
from pruner.sparsity.units.base import Units


class Costs:
    """What masks [n] over units cost in one budget, `params` or `macs`."""

    def __init__(self, units: Units, budget: str):
        self.cost = units.cost(budget)
        self.total = round(total_cost(self.cost, torch.zeros(units.n, device=units.device)))

    def of(self, mask: Tensor) -> float:
        """The cost of a mask, soft or hard."""
        if callable(self.cost):
            return float(self.cost(mask.detach().double()))
        kept = mask.detach() if self.cost is None else mask.detach() * self.cost
        return float(kept.sum(dtype=torch.float64))

    def target(self, sparsity: float) -> int:
        """The cost that may stay: floor(total * (1 - sparsity)), with the sparsity taken as the decimal typed."""
        return int(self.total * kept_share(sparsity))


def kept_share(sparsity: float) -> Fraction:
    """1 - sparsity, exactly, with the sparsity taken as the decimal typed."""
    return 1 - Fraction(repr(float(sparsity)))
