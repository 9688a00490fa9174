"""The one soft projection onto a budget and the one hard selection under it; every method calls these two.

Both are exact and fast for 10^8 units: sums run in float64, no full sort is needed for linear costs, and the root-find
starts from a sample, so that a few passes over the units suffice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pruner.sparsity.projection.chunked import Cost, total_cost
from pruner.sparsity.projection.hard import hard_mask
from pruner.sparsity.projection.soft import gradient, solve

__all__ = ["Cost", "hard_mask", "soft_mask", "total_cost"]


def soft_mask(scores: Tensor, budget: float, cost: Cost = None, temperature: float = 1.0) -> Tensor:
    """The soft mask y = sigmoid(scores / temperature + mu) with one scalar mu such that cost(y) == budget.

    scores [n], float32 or float64; the result [n] has the same type and lies in [0, 1]. `budget` is in the unit
    of `cost`: a tensor [n] of positive costs (ones by default), or a function of the mask that grows with each
    unit. A budget of 0 or less gives zeros; one of the total cost or more gives ones.

    Differentiable in the scores by the implicit function theorem. With v = y (1 - y), g = dL/dy and
    c = d cost / d mask:

        dL/ds_j = v_j (g_j - c_j sum(v g) / sum(c v)) / temperature

    With two anchors this is the entropy-regularised transport plan onto (keep, drop): DTP, SMART and Spartan use the
    same operator (docs/methods/dtp.md, smart.md, spartan.md). Raises ValueError when no mu exists (NaN scores, or more
    infinite scores than the budget can hold).
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    mask: Tensor = _SoftMask.apply(scores, float(budget), cost, float(temperature))
    return mask


class _SoftMask(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, budget: float, cost: Cost, temperature: float) -> Tensor:
        total = total_cost(cost, scores)
        if budget <= 0:
            mask = torch.zeros_like(scores)
        elif budget >= total:
            mask = torch.ones_like(scores)
        else:
            mask = solve(scores, budget, cost, total, temperature)
        ctx.save_for_backward(mask)
        ctx.cost, ctx.temperature = cost, temperature
        return mask

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (mask,) = ctx.saved_tensors
        return gradient(mask, grads[0], ctx.cost, ctx.temperature), None, None, None
