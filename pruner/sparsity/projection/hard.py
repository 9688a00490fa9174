"""The selection of units in falling order of score, without sorting all of them where the cost is linear."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pruner.sparsity.projection.chunked import Cost, added, close_sum, cost_pieces, exact_sum, pieces, total_cost

_SAMPLE = 1 << 12  # units sorted for a first guess of the threshold
_FEW = 1 << 14  # units that are sorted at once
_GUESSES, _ROUGHLY = 4, 0.02  # how often a coupled cost is asked for a first guess, unless one is as close as this
_MARGINS = (0.03, 0.3)  # of ranks around that guess; a sample of so many errs by 0.03 once in 10,000 times


def hard_mask(scores: Tensor, budget: float, cost: Cost = None) -> Tensor:
    """The 0/1 mask [n] of the units in falling order of score, as long as the cost kept stays within the budget.

    Stops at the first unit that does not fit, so the cost misses the budget by less than that unit's. Equal
    scores are taken in order of index. Same shapes and types as `soft_mask`; raises ValueError on NaN scores.
    """
    scores = scores.detach()
    if scores.numel() and bool(scores.amax().isnan()):  # NaN counts as the highest; `isnan` is three times slower
        raise ValueError("scores contain NaN")
    total = total_cost(cost, scores)
    if budget >= total:
        return torch.ones_like(scores)
    if callable(cost):
        order = torch.sort(scores, descending=True, stable=True).indices
        return _first(order, _affordable(order, budget, cost), scores.dtype)
    return _select(scores, budget, cost, total)


def threshold_near(scores: Tensor, budget: float, cost: Cost, total: float) -> float:
    """A score near which units go from kept to dropped; exact for few units of a linear cost."""
    if callable(cost):
        values, order = torch.sort(scores.detach(), descending=True)
        kept = _interpolated(order, budget, cost, total)
    else:
        kept, values = _sample(scores.detach(), budget / total, cost)
    above = float(values[max(kept - 1, 0)])
    below = float(values[min(kept, len(values) - 1)])
    middle = above + (below - above) / 2
    # infinite scores have no middle: lean on the finite neighbour
    return next((x for x in (middle, above, below) if math.isfinite(x)), 0.0)


def _select(scores: Tensor, budget: float, cost: Tensor | None, total: float) -> Tensor:
    """The mask where the cost is linear: a comparison decides but for a band around the threshold, a smaller case."""
    if scores.numel() > _FEW:
        kept, values = _sample(scores, budget / total, cost)
        for margin in _MARGINS:
            width = int(margin * len(values))
            high = float(values[kept - width]) if kept > width else math.inf
            low = float(values[kept + width]) if kept + width < len(values) else -math.inf
            mask, band, left = _cut(scores, budget, cost, high, low)
            in_band = None if cost is None else cost[band]
            whole = total_cost(in_band, band)
            if 0 <= left < whole and 2 * len(band) <= len(scores):  # the sample did not mislead, and it is less work
                mask[band] = _select(scores[band], left, in_band, whole)
                return mask
    order = torch.sort(scores, descending=True, stable=True).indices
    fits = int(budget) if cost is None else int((torch.cumsum(cost[order], 0, dtype=torch.float64) <= budget).sum())
    return _first(order, max(0, fits), scores.dtype)


def _cut(scores: Tensor, budget: float, cost: Tensor | None, high: float, low: float) -> tuple[Tensor, Tensor, float]:
    """(the mask of the scores above `high`, the index of those from `low` to `high`, what is left of the budget)."""
    mask = torch.empty_like(scores)
    band, spent, start = [], [], 0
    for part, kept, costs in zip(pieces(scores), pieces(mask), cost_pieces(cost), strict=False):
        kept.copy_(part > high)
        spent.append(close_sum(kept) if costs is None else exact_sum(costs * kept))  # counts are exact either way
        band.append(((part <= high) & (part >= low)).nonzero().squeeze(1) + start)
        start += len(part)
    return mask, torch.cat(band), budget - float(added(spent))


def _sample(scores: Tensor, share: float, cost: Tensor | None) -> tuple[int, Tensor]:
    """(how many of a strided sample a share of its cost would hold, its scores in falling order)."""
    every = slice(None, None, max(1, scores.numel() // _SAMPLE))
    values, order = torch.sort(scores[every], descending=True)
    share *= 1 + 1e-12  # whole units, whatever the rounding of the share
    if cost is None:
        return int(share * len(values)), values
    spent = torch.cumsum(cost[every][order], 0, dtype=torch.float64)
    return int((spent <= share * spent[-1]).sum()), values


def _interpolated(order: Tensor, budget: float, cost: Callable[[Tensor], Tensor], total: float) -> int:
    """About how many units, in this order, a coupled cost allows; the root of the cost is taken for a line.

    It nearly is one where the cost is a product of two counts.
    """
    low, at_low, high, at_high, aim = 0, 0.0, len(order), math.sqrt(total), math.sqrt(budget)
    middle = low
    for _ in range(_GUESSES):
        middle = low + round((high - low) * (aim - at_low) / (at_high - at_low))
        value = math.sqrt(float(cost(_first(order, middle))))
        if abs(value - aim) <= _ROUGHLY * aim or not at_low < value < at_high:
            break
        low, at_low, high, at_high = (middle, value, high, at_high) if value < aim else (low, at_low, middle, value)
    return middle


def _affordable(order: Tensor, budget: float, cost: Callable[[Tensor], Tensor]) -> int:
    """How many units, in this order, a coupled cost allows."""
    low, high = 0, len(order)  # `low` units fit; more than `high` never do
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if float(cost(_first(order, middle))) <= budget else (low, middle - 1)
    return low


def _first(order: Tensor, count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """The mask [n] of the first `count` units in this order."""
    return torch.zeros(len(order), dtype=dtype, device=order.device).index_fill_(0, order[:count], 1)
