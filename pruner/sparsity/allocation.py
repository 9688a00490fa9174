"""Who competes with whom for the budget (the scope), and masks that meet it to the last unit."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import torch
from torch import Tensor

from pruner.config import ConfigError
from pruner.sparsity.budget import hard_mask, soft_mask, total_cost
from pruner.sparsity.units import Units


class Allocation:
    """A budget over the units of a model: the door through which methods reach the two projections.

    scope=global: all units compete. scope=layer: the same keep ratio in every group of units that cost the same,
    rounded down, and the units that still fit given to the groups that rounding cost most.
    At least `min_units` units of every group survive hardening.
    """

    def __init__(self, units: Units, budget: str, scope: str, sparsity: float, min_units: int = 1):
        """Raises ConfigError when the budget is smaller than what `min_units` needs."""
        self.units, self.scope, self.sparsity, self.min_units = units, scope, sparsity, min_units
        self.budget = budget
        self.cost = units.cost(budget)
        self._like = torch.zeros(units.n, device=units.device)
        self.total = round(total_cost(self.cost, self._like))
        least = self.cost_of(self._protected(self._like).isinf().to(self._like.dtype))
        if least > self.target(sparsity):
            raise ConfigError(
                f"sparsity={sparsity}: keeps {self.target(sparsity)} of {self.total} {budget}, but {least:.0f} are "
                f"needed for budget.min_units={min_units} in every layer; the most is {1 - least / self.total:.6g}"
            )
        self._counts = lru_cache(maxsize=None)(self._uniform_counts)

    def target(self, sparsity: float) -> int:
        """The cost that may stay: floor(total * (1 - sparsity)), with the sparsity taken as the decimal typed."""
        return int(self.total * (1 - Fraction(repr(float(sparsity)))))

    def cost_of(self, mask: Tensor) -> float:
        """The cost of a mask [n], soft or hard."""
        if callable(self.cost):
            return float(self.cost(mask.detach().double()))
        kept = mask.detach() if self.cost is None else mask.detach() * self.cost
        return float(kept.sum(dtype=torch.float64))

    def soft(self, scores: Tensor, temperature: float = 1.0, sparsity: float | None = None) -> Tensor:
        """The soft mask [n] of scores [n] that meets the budget (see `soft_mask`), at the final or another sparsity."""
        sparsity = self.sparsity if sparsity is None else sparsity
        if self.scope == "global":
            return soft_mask(self._protected(scores), self.target(sparsity), self.cost, temperature)
        parts = zip(self.units.groups, self._counts(sparsity), strict=True)
        return torch.cat([soft_mask(scores[g.start : g.stop], count, None, temperature) for g, count in parts])

    def hard(self, scores: Tensor, sparsity: float | None = None) -> Tensor:
        """The 0/1 mask [n] of scores [n] that keeps at most the budget and misses it by less than one unit."""
        sparsity = self.sparsity if sparsity is None else sparsity
        scores = scores.detach()
        if self.scope == "global":
            return hard_mask(self._protected(scores), self.target(sparsity), self.cost)
        parts = zip(self.units.groups, self._counts(sparsity), strict=True)
        return torch.cat([hard_mask(scores[g.start : g.stop], count) for g, count in parts])

    def _protected(self, scores: Tensor) -> Tensor:
        """The scores with the best `min_units` of every group raised above all others."""
        if not self.min_units:
            return scores
        if bool(scores.isnan().any()):  # topk takes NaN for the best, which would hide it from `hard_mask`
            raise ValueError("scores contain NaN")
        best = [
            group.start + scores[group.start : group.stop].detach().topk(min(self.min_units, group.size)).indices
            for group in self.units.groups
        ]
        return scores.index_fill(0, torch.cat(best), torch.inf)

    def _uniform_counts(self, sparsity: float) -> list[int]:
        """How many units each group keeps under scope=layer."""
        groups, target = self.units.groups, self.target(sparsity)
        floors = [min(self.min_units, group.size) for group in groups]

        def counts_at(ratio: float) -> list[int]:
            return [max(floor, int(ratio * group.size)) for floor, group in zip(floors, groups, strict=True)]

        low, high = 0.0, 1.0
        if self._cost_of_counts(counts_at(1.0)) <= target:
            low = 1.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if self._cost_of_counts(counts_at(middle)) <= target else (low, middle)
        counts = counts_at(low)
        # What rounding took, largest remainder first; one unit each, or cheap groups would fill up with the crumbs.
        for i in sorted(range(len(groups)), key=lambda i: counts[i] - low * groups[i].size):
            more = [count + (j == i) for j, count in enumerate(counts)]
            if counts[i] < groups[i].size and self._cost_of_counts(more) <= target:
                counts = more
        return counts

    def _cost_of_counts(self, counts: list[int]) -> float:
        """The cost when each group keeps so many units; which ones makes no difference."""
        if self.cost is None:
            return float(sum(counts))
        if isinstance(self.cost, Tensor):
            return sum(count * float(self.cost[g.start]) for g, count in zip(self.units.groups, counts, strict=True))
        mask = torch.zeros_like(self._like)
        for group, count in zip(self.units.groups, counts, strict=True):
            mask[group.start : group.start + count] = 1
        return self.cost_of(mask)
