"""Budgets shared out among the groups of units beforehand, by a rule: the same ratio, ERK, or the user's ratios."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache

import torch
from torch import Tensor

from pruner.checks import ConfigError
from pruner.sparsity.budget import hard_mask, soft_mask
from pruner.sparsity.costs import Costs
from pruner.sparsity.scopes import Scope
from pruner.sparsity.units.base import Units

_ROUNDING = 1e-9  # far above the error of the sums here, far below one unit

# The keep ratio of every group at a level that rises with the budget; at level 0 as little is kept as may be.
Rule = Callable[[float], list[float]]


def uniform(units: Units, ratios: Mapping[str, float]) -> Rule:
    """scope=layer: the same ratio in every group."""
    return lambda level: [level] * len(units.groups)


def erdos_renyi(units: Units, ratios: Mapping[str, float]) -> Rule:
    """scope=erk: ratios in proportion to (out + in + kernel) / (out * in * kernel) of the layer that makes the units.

    The Erdos-Renyi kernel rule of Evci et al. 2020 (RigL, arXiv 1911.11134) [known]: small layers stay denser, and
    what would exceed 1 stays whole.
    """
    shapes = {layer.name: layer.shape for layer in units.layers}
    density = [sum(shapes[group.name]) / math.prod(shapes[group.name]) for group in units.groups]
    return lambda level: [level * one / min(density) for one in density]


def custom(units: Units, ratios: Mapping[str, float]) -> Rule:
    """scope=custom: the keep ratios given, by name or pattern; the groups not named share what is left evenly.

    Raises ConfigError for a pattern that fits no group, and when every group is named: one ratio must be free.
    """
    given: list[float | None] = [None] * len(units.groups)
    for pattern, ratio in ratios.items():
        fits = [i for i, group in enumerate(units.groups) if fnmatchcase(group.name, pattern)]
        if not fits:
            raise ConfigError(f"ratios.{pattern}={ratio}: fits none of {', '.join(g.name for g in units.groups)}")
        for i in fits:
            given[i] = ratio
    if None not in given:
        raise ConfigError(
            f"ratios={dict(ratios)}: name every group; leave out one or more, to take up what is left of the budget"
        )
    return lambda level: [level if ratio is None else ratio for ratio in given]


class Shares(Scope):
    """Units compete within their group, for a share of the budget that a rule sets.

    Each share is rounded down to whole units, then the groups that rounding cost most get one unit more while it
    fits, so that the whole misses the budget by less than one unit. Where tiles are cut off at the end of a layer,
    how many units fit depends on which they are: there hard masks add costs up, and soft masks take the real share.
    """

    def __init__(self, units: Units, costs: Costs, min_units: int, rule: Rule):
        self.units, self.costs, self.rule = units, costs, rule
        self.sizes = units.sizes
        linear = costs.cost if isinstance(costs.cost, Tensor) else None
        self.unit_costs = (
            [torch.ones(1).expand(size) for size in self.sizes] if linear is None else list(linear.split(self.sizes))
        )
        self.totals = [float(cost.sum(dtype=torch.float64)) for cost in self.unit_costs]
        self.largest = [float(cost.max()) for cost in self.unit_costs]  # of a unit, by group
        self.countable = all(float(cost.min()) == top for cost, top in zip(self.unit_costs, self.largest, strict=True))
        most = zip(self.largest, self.totals, strict=True)
        self.least = [min(1.0, min_units * top / total) for top, total in most]
        self.of = lru_cache(maxsize=None)(self._shares)
        self.counts = lru_cache(maxsize=None)(self._counts)

    def soft(self, scores: Tensor, temperature: float, sparsity: float) -> Tensor:
        parts = scores.split(self.sizes)
        if self.countable:
            counted = zip(parts, self.counts(sparsity), strict=True)
            return torch.cat([soft_mask(part, count, None, temperature) for part, count in counted])
        # What the hard mask spends in each group, so that no unit that it keeps is already at zero here.
        hard = self.hard(scores.detach(), sparsity).split(self.sizes)
        spent = self._spent(hard)
        each = zip(parts, spent, self.unit_costs, strict=True)
        return torch.cat([soft_mask(part, budget, cost, temperature) for part, budget, cost in each])

    def hard(self, scores: Tensor, sparsity: float) -> Tensor:
        parts = scores.split(self.sizes)
        if self.countable:
            return torch.cat([hard_mask(part, n) for part, n in zip(parts, self.counts(sparsity), strict=True)])
        budgets = [share * total for share, total in zip(self.of(sparsity), self.totals, strict=True)]
        each = zip(parts, budgets, self.unit_costs, strict=True)
        masks = [hard_mask(part, budget + _ROUNDING, cost) for part, budget, cost in each]
        spent = self._spent(masks)
        best = [int(part.masked_fill(mask > 0, -torch.inf).argmax()) for part, mask in zip(parts, masks, strict=True)]

        def cost_with(extra: list[int]) -> float:
            if masks[extra[-1]].all():
                return math.inf
            return sum(spent) + sum(float(self.unit_costs[i][best[i]]) for i in extra)

        for i in self._hand_out(budgets, spent, sparsity, cost_with):
            masks[i][best[i]] = 1
        return torch.cat(masks)

    def _spent(self, masks: Iterable[Tensor]) -> list[float]:
        """The cost of each group's part of a mask."""
        each = zip(masks, self.unit_costs, strict=True)
        return [float((mask * cost).sum(dtype=torch.float64)) for mask, cost in each]

    def split(self, values: Tensor) -> list[Tensor]:
        return [part.unsqueeze(0) for part in values.split(self.sizes)]

    def join(self, parts: list[Tensor]) -> Tensor:
        return torch.cat([part.squeeze(0) for part in parts])

    def kept(self, sparsity: float) -> list[int] | None:
        return self.counts(sparsity) if self.countable else None

    def _counts(self, sparsity: float) -> list[int]:
        """How many units each group keeps; which ones makes no difference to the cost."""
        budgets = [share * size for share, size in zip(self.of(sparsity), self.sizes, strict=True)]
        counts = [int(budget + _ROUNDING) for budget in budgets]

        def cost_with(extra: list[int]) -> float:
            if counts[extra[-1]] == self.sizes[extra[-1]]:
                return math.inf
            return self._cost([(n + (i in extra)) / self.sizes[i] for i, n in enumerate(counts)])

        spent = [n * top for n, top in zip(counts, self.largest, strict=True)]
        asked = [budget * top for budget, top in zip(budgets, self.largest, strict=True)]
        for i in self._hand_out(asked, spent, sparsity, cost_with):
            counts[i] += 1
        return counts

    def _hand_out(
        self, asked: list[float], spent: list[float], sparsity: float, cost_with: Callable[[list[int]], float]
    ) -> list[int]:
        """The groups that get one unit more. One each, or groups of small units would take all that rounding left."""
        lost = [(a - s) / top for a, s, top in zip(asked, spent, self.largest, strict=True)]  # by rounding, in units
        extra: list[int] = []
        for i in sorted(range(len(lost)), key=lambda i: -lost[i]):
            if cost_with([*extra, i]) <= self.costs.target(sparsity) + _ROUNDING:
                extra.append(i)
        return extra

    def check(self, sparsity: float) -> None:
        """Raises ConfigError when no shares meet the budget of a sparsity."""
        target = self.costs.target(sparsity)
        least, most = self._cost(self._at(0.0)), self._cost(self._at(1.0))
        if not least - _ROUNDING <= target <= most + _ROUNDING:
            bound = f"{least:.0f} at least" if target < least else f"{most:.0f} at most"
            raise ConfigError(f"sparsity={sparsity}: keeps {target}, but the ratios of the config keep {bound}")

    def _shares(self, sparsity: float) -> list[float]:
        """The keep ratio of each group, with which the whole meets the budget."""
        target = self.costs.target(sparsity)
        low, high = 0.0, 2.0
        if self._cost(self._at(high)) <= target:
            return self._at(high)
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self._cost(self._at(middle)) <= target else (low, middle)
        return self._at(low)

    def _at(self, level: float) -> list[float]:
        """The ratios at a level; above 1, where a budget on its way down is, they rise from the rule's last to all."""
        rule = zip(self.least, self.rule(min(level, 1.0)), strict=True)
        shares = [min(1.0, max(least, ratio)) for least, ratio in rule]
        return [share + (1 - share) * max(0.0, level - 1) for share in shares]

    def _cost(self, shares: list[float]) -> float:
        """The cost when each group keeps such a share of its units."""
        if callable(self.costs.cost):
            each = zip(shares, self.sizes, strict=True)
            mask = torch.cat([torch.full((size,), share, dtype=torch.float64) for share, size in each])
            return self.costs.of(mask.to(self.units.device))
        return sum(share * total for share, total in zip(shares, self.totals, strict=True))
