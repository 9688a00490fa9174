"""Who competes with whom for the budget: all units with one another, or the units of a row."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from pruner.sparsity.base import Units
from pruner.sparsity.budget import hard_mask, soft_mask
from pruner.sparsity.cost import Costs, kept_share
from pruner.sparsity.rows import hard_rows, soft_rows


class Scope(ABC):
    """One way to share a budget; what the functions do is said in `Allocation`."""

    @abstractmethod
    def soft(self, scores: Tensor, temperature: float, sparsity: float) -> Tensor:
        """The soft mask [n]."""

    @abstractmethod
    def hard(self, scores: Tensor, sparsity: float) -> Tensor:
        """The 0/1 mask [n]."""

    @abstractmethod
    def split(self, values: Tensor) -> list[Tensor]:
        """Tensors [rows, candidates]."""

    @abstractmethod
    def join(self, parts: list[Tensor]) -> Tensor:
        """[n]."""

    @abstractmethod
    def kept(self, sparsity: float) -> list[int] | None:
        """One number for each part."""


class Everyone(Scope):
    """All units compete with one another."""

    def __init__(self, units: Units, costs: Costs, min_units: int):
        self.units, self.costs, self.min_units = units, costs, min_units
        cost = costs.cost
        # Whether the budget can run out within a unit that matters, such as a filter or a head.
        self.coarse = callable(cost) or (cost is not None and float(cost.max()) > 1e-4 * costs.total)

    def soft(self, scores: Tensor, temperature: float, sparsity: float) -> Tensor:
        protected = keep_best(scores, self.units, self.min_units)
        budget: float = self.costs.target(sparsity)
        if self.coarse:
            # Spending all of it would leave one unit half open to the end, and hardening would drop it (docs/log.md).
            budget = self.costs.of(self.hard(scores.detach(), sparsity))
        return soft_mask(protected, budget, self.costs.cost, temperature)

    def hard(self, scores: Tensor, sparsity: float) -> Tensor:
        protected = keep_best(scores, self.units, self.min_units)
        return hard_mask(protected, self.costs.target(sparsity), self.costs.cost)

    def split(self, values: Tensor) -> list[Tensor]:
        return [values.unsqueeze(0)]

    def join(self, parts: list[Tensor]) -> Tensor:
        return parts[0].squeeze(0)

    def kept(self, sparsity: float) -> list[int] | None:
        return [self.costs.target(sparsity)] if self.costs.cost is None else None


class Rows(Scope):
    """Every row of a layer keeps the same number of its units: k = max(1, floor((1 - sparsity) n)).

    What the floor misses is not made up for elsewhere: the pattern is the point.
    """

    def __init__(self, units: Units):
        self.units = units
        self.candidates = [part.shape[1] for part in units.split_rows(torch.zeros(units.n))]

    def soft(self, scores: Tensor, temperature: float, sparsity: float) -> Tensor:
        parts = zip(self.split(scores), self.kept(sparsity), strict=True)
        return self.join([soft_rows(part, keep, temperature) for part, keep in parts])

    def hard(self, scores: Tensor, sparsity: float) -> Tensor:
        parts = zip(self.split(scores), self.kept(sparsity), strict=True)
        return self.join([hard_rows(part, keep) for part, keep in parts])

    def split(self, values: Tensor) -> list[Tensor]:
        return self.units.split_rows(values)

    def join(self, parts: list[Tensor]) -> Tensor:
        return self.units.join_rows(parts)

    def kept(self, sparsity: float) -> list[int]:
        # A sparsity that stands for a ratio such as 1 - 1/3 has been rounded: its floor must not fall short by one.
        share = float(kept_share(sparsity)) + 1e-9
        return [max(1, int(share * count)) for count in self.candidates]


def keep_best(scores: Tensor, units: Units, count: int) -> Tensor:
    """The scores [n] with the best `count` units of every group raised above all others: infinite."""
    if bool(scores.isnan().any()):  # topk takes NaN for the best, which would hide it from `hard_mask`
        raise ValueError("scores contain NaN")
    if not count:
        return scores
    best = [
        group.start + scores[group.start : group.stop].detach().topk(min(count, group.size)).indices
        for group in units.groups
    ]
    return scores.index_fill(0, torch.cat(best), torch.inf)
