"""A budget over the units of a model: the door through which methods reach the two projections."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pruner.checks import ConfigError
from pruner.sparsity.budget import Cost
from pruner.sparsity.costs import Costs
from pruner.sparsity.per_group import Shares, custom, erdos_renyi, uniform
from pruner.sparsity.scopes import Everyone, Rows, Scope, keep_best
from pruner.sparsity.units.base import Units
from pruner.sparsity.units.tiles import PatternUnits


class Allocation:
    """Masks [n] over the units that meet a budget, with a scope that says which units compete for it.

    global: all units. layer, erk, custom: the units of a group, for its share of the budget (see `per_group.Shares`).
    row, and any n:m pattern: the units of a row, of which every row of a layer keeps the same number (see
    `scopes.Rows`). At least `min_units` units of every group survive hardening.
    """

    def __init__(
        self,
        units: Units,
        budget: str,
        scope: str,
        sparsity: float,
        min_units: int = 1,
        ratios: Mapping[str, float] | None = None,
    ):
        """`ratios` are the keep ratios of scope=custom, by group name or pattern.

        Raises ConfigError when the budget is smaller than what `min_units` needs, or ratios do not fit it.
        """
        self.units, self.budget, self.sparsity = units, budget, sparsity
        self.costs = Costs(units, budget)
        self._scope = self._make_scope(scope, min_units, ratios or {})

    def _make_scope(self, scope: str, min_units: int, ratios: Mapping[str, float]) -> Scope:
        if scope == "row" or isinstance(self.units, PatternUnits):
            return Rows(self.units)
        least = self.cost_of(keep_best(torch.zeros(self.units.n, device=self.units.device), self.units, min_units) > 0)
        if least > self.target(self.sparsity):
            raise ConfigError(
                f"sparsity={self.sparsity}: keeps {self.target(self.sparsity)} of {self.total} {self.budget}, but "
                f"{least:.0f} are needed for budget.min_units={min_units} in every layer; the most is "
                f"{1 - least / self.total:.6g}"
            )
        if scope == "global":
            return Everyone(self.units, self.costs, min_units)
        rule = {"layer": uniform, "erk": erdos_renyi, "custom": custom}[scope](self.units, ratios)
        shares = Shares(self.units, self.costs, min_units, rule)
        shares.check(self.sparsity)  # refuses what the ratios cannot meet
        return shares

    @property
    def cost(self) -> Cost:
        """What units cost: None (one each), a tensor [n], or a function of the mask."""
        return self.costs.cost

    @property
    def total(self) -> int:
        """The cost of all units."""
        return self.costs.total

    def target(self, sparsity: float) -> int:
        """The cost that may stay at a sparsity."""
        return self.costs.target(sparsity)

    def cost_of(self, mask: Tensor) -> float:
        """The cost of a mask [n], soft or hard."""
        return self.costs.of(mask)

    def soft(self, scores: Tensor, temperature: float = 1.0, sparsity: float | None = None) -> Tensor:
        """The soft mask [n] of scores [n] that meets the budget (see `soft_mask`), at the final or another sparsity.

        Where the hard mask of the same scores cannot spend the whole budget, because its units are few and large, the
        soft mask spends what the hard one does, so that it can harden into it.
        """
        return self._scope.soft(scores, temperature, self.sparsity if sparsity is None else sparsity)

    def hard(self, scores: Tensor, sparsity: float | None = None) -> Tensor:
        """The 0/1 mask [n] of scores [n] that keeps at most the budget and misses it by less than one unit.

        Rows of fixed patterns keep max(1, floor(share * candidates)) each, whatever that misses.
        """
        return self._scope.hard(scores.detach(), self.sparsity if sparsity is None else sparsity)

    def both(self, scores: Tensor, temperature: float, sparsity: float) -> tuple[Tensor, Tensor]:
        """What `soft` and `hard` give for the same scores, in less time than both take."""
        return self._scope.both(scores, temperature, sparsity)

    def split(self, values: Tensor) -> list[Tensor]:
        """`values` [n] as tensors [rows, candidates]: the units of a row compete with each other."""
        return self._scope.split(values)

    def join(self, parts: list[Tensor]) -> Tensor:
        """[n] from what `split` gave."""
        return self._scope.join(parts)

    def kept(self, sparsity: float | None = None) -> list[int] | None:
        """How many units each row of each part of `split` keeps; None where the cost decides, not the number."""
        return self._scope.kept(self.sparsity if sparsity is None else sparsity)
