"""Which units compete for the budget: all, or those of a row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from pruner.sparsity.budget import hard_mask, soft_mask
from pruner.sparsity.costs import Costs, kept_share
from pruner.sparsity.rows import hard_rows, soft_rows
from pruner.sparsity.units.base import Units

_ROW = 1024  # units of which the best is found at a time


class Scope(ABC):
    """One way to share a budget; `Allocation` says what the functions do."""

    @abstractmethod
    def soft(self, scores: Tensor, temperature: float, sparsity: float) -> Tensor:
        """The soft mask [n]."""

    @abstractmethod
    def hard(self, scores: Tensor, sparsity: float) -> Tensor:
        """The 0/1 mask [n]."""

    def both(self, scores: Tensor, temperature: float, sparsity: float) -> tuple[Tensor, Tensor]:
        """The soft mask [n] and the hard one of the same scores."""
        return self.soft(scores, temperature, sparsity), self.hard(scores.detach(), sparsity)

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
    """All units compete."""

    def __init__(self, units: Units, costs: Costs, min_units: int):
        self.units, self.costs, self.min_units = units, costs, min_units
        cost = costs.cost
        # Whether the budget can run out within a unit that matters, such as a filter or a head.
        self.coarse = callable(cost) or (cost is not None and float(cost.max()) > 1e-4 * costs.total)

    def soft(self, scores: Tensor, temperature: float, sparsity: float) -> Tensor:
        if self.coarse:
            return self.both(scores, temperature, sparsity)[0]
        protected = keep_best(scores, self.units, self.min_units)
        return soft_mask(protected, self.costs.target(sparsity), self.costs.cost, temperature)

    def hard(self, scores: Tensor, sparsity: float) -> Tensor:
        protected = keep_best(scores, self.units, self.min_units)
        return hard_mask(protected, self.costs.target(sparsity), self.costs.cost)

    def both(self, scores: Tensor, temperature: float, sparsity: float) -> tuple[Tensor, Tensor]:
        protected = keep_best(scores, self.units, self.min_units)
        hard = hard_mask(protected, self.costs.target(sparsity), self.costs.cost)
        # Spending all of it would leave one unit half open to the end, and hardening would drop it (docs/log.md).
        budget = self.costs.of(hard) if self.coarse else self.costs.target(sparsity)
        return soft_mask(protected, budget, self.costs.cost, temperature), hard

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
    """The scores [n] with the best `count` units of every group raised above all others: infinite.

    Their gradient is left as it comes: where a score is infinite it is zero. Raises ValueError on NaN scores.
    """
    if not count:
        if bool(scores.isnan().any()):
            raise ValueError("scores contain NaN")
        return scores
    values = scores.detach()
    best = torch.cat([group.start + _best(values[group.start : group.stop], count) for group in units.groups])
    if bool(values[best].isnan().any()):  # NaN counts as the best of all
        raise ValueError("scores contain NaN")
    raised: Tensor = _Raised.apply(scores, best)
    return raised


def _best(scores: Tensor, count: int) -> Tensor:
    """The indices of the best few scores of a group; NaN counts as the best."""
    if count > 1:
        return scores.topk(min(count, len(scores))).indices
    rest = len(scores) // _ROW * _ROW
    rows = scores[:rest].view(-1, _ROW)
    if not rest:
        return scores.max(0, keepdim=True).indices
    # The best row, and the best within: thirty times faster on millions than topk, and six times than max.
    row = rows.amax(1).max(0).indices
    best = row * _ROW + rows[row].max(0).indices
    if rest == len(scores):
        return best.view(1)
    tail = rest + scores[rest:].max(0).indices
    return torch.where((scores[tail] > scores[best]) | scores[tail].isnan(), tail, best).view(1)


class _Raised(torch.autograd.Function):
    """index_fill with infinity, without the copy that its backward pass makes of the whole gradient."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, index: Tensor) -> Tensor:
        return scores.clone().index_fill_(0, index, torch.inf)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None
