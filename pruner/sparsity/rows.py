"""The two projections for fixed patterns: the same number of units in every row, for many rows at once.

They are `soft_mask` and `hard_mask` with one multiplier for each row; thousands of rows cannot be solved one by one.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_SHORT = 16  # candidates, up to which a row is short
_PASSES = 200  # bisection alone takes about 60: reaching it means bad scores


def soft_rows(scores: Tensor, keep: int, temperature: float = 1.0) -> Tensor:
    """The soft mask sigmoid(scores / temperature + mu), with one mu for each row so that each row sums to `keep`.

    scores [rows, n], float32 or float64; the result has the same shape and type. Differentiable in the scores, row by
    row, as `soft_mask` is. Raises ValueError on a temperature of 0 or less and on NaN scores.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    if keep >= scores.shape[1]:
        return torch.ones_like(scores)
    mask: Tensor = _SoftRows.apply(scores, int(keep), float(temperature))
    return mask


def hard_rows(scores: Tensor, keep: int) -> Tensor:
    """The 0/1 mask [rows, n] of the `keep` largest scores of each row; equal scores are taken in order of index.

    Raises ValueError on NaN scores.
    """
    if bool(scores.isnan().any()):
        raise ValueError("scores contain NaN")
    if keep >= scores.shape[1]:
        return torch.ones_like(scores)
    last = scores.kthvalue(scores.shape[1] - keep + 1, dim=1, keepdim=True).values  # a third of a sort's time
    above, level = scores > last, scores == last
    missing = keep - above.sum(1, keepdim=True)
    return (above | (level & (level.cumsum(1) <= missing))).to(scores.dtype)


class _SoftRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, keep: int, temperature: float) -> Tensor:
        # A sum over four neighbours takes eight times that of four whole vectors: short rows are turned into columns.
        ctx.dim, ctx.temperature = int(scores.shape[1] > _SHORT), temperature
        mask = _solve(_laid(scores, ctx.dim), keep, temperature, ctx.dim)
        ctx.save_for_backward(mask)
        return mask if ctx.dim else mask.t()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (mask,) = ctx.saved_tensors
        v = mask * (1 - mask)
        vg = v * _laid(grads[0], ctx.dim)
        total = v.sum(ctx.dim, keepdim=True, dtype=torch.float64)
        share = vg.sum(ctx.dim, keepdim=True, dtype=torch.float64) / total.clamp(min=torch.finfo(torch.float64).tiny)
        grad = (vg - v * share.to(v.dtype)) / ctx.temperature
        return grad if ctx.dim else grad.t(), None, None


def _laid(rows: Tensor, dim: int) -> Tensor:
    """Values [rows, n] with the candidates of a row along `dim`."""
    return rows if dim else rows.t().contiguous()


def _solve(scores: Tensor, keep: int, temperature: float, dim: int) -> Tensor:
    """Newton steps inside a bracket, for all rows that need more, on scores centred where the budget runs out."""
    z = (scores - _threshold(scores, keep, dim)) / temperature
    even = math.log(keep / (scores.shape[dim] - keep))  # the mu of equal scores
    low, high = (even - z.amax(dim, keepdim=True)).double(), (even - z.amin(dim, keepdim=True)).double()
    mu = torch.zeros_like(low).clamp(low, high)
    eps = torch.finfo(scores.dtype).eps
    solved = torch.empty_like(z)
    rows = torch.arange(z.shape[1 - dim], device=z.device)  # those that are not solved yet
    for _ in range(_PASSES):
        mask = torch.sigmoid(z + mu.to(z.dtype))
        v = mask * (1 - mask)
        gap = mask.sum(dim, keepdim=True).double() - keep  # rows are short: no need to add up in float64
        slope = v.sum(dim, keepdim=True).double()
        close = gap.abs() <= math.sqrt(eps) * slope
        done = (close | (gap.abs() <= eps * keep)).squeeze(dim)
        count = int(done.sum())
        if 2 * count >= len(rows):  # a few rows take many passes: most are done with after four or five
            last = torch.where(close, gap / slope.clamp(min=1e-300), 0).to(z.dtype)
            mask -= last * v  # the last step, on the mask: exact to second order
            if count == solved.shape[1 - dim]:
                return mask
            some, left = done.nonzero().squeeze(1), (~done).nonzero().squeeze(1)
            solved.index_copy_(1 - dim, rows[some], mask.index_select(1 - dim, some))
            if count == len(rows):
                return solved
            z, mu, low, high, gap, slope = (part.index_select(1 - dim, left) for part in (z, mu, low, high, gap, slope))
            rows = rows[left]
        low, high = torch.where(gap < 0, mu, low), torch.where(gap > 0, mu, high)
        step = mu - gap / slope
        mu = torch.where((step > low) & (step < high), step, (low + high) / 2)
    raise ValueError(f"no soft mask keeps {keep} units of each row: scores are infinite or NaN")


def _threshold(scores: Tensor, keep: int, dim: int) -> Tensor:
    """Between the last unit kept and the first dropped: differences of close floats are exact."""
    if dim:
        best = scores.topk(keep + 1, dim=1).values
        return (best[:, -1:] + best[:, -2:-1]) / 2
    ranked: list[Tensor] = list(scores)
    for first in range(keep + 1):  # a step of a bubble sort brings the best of the rest to the front
        for at in range(len(ranked) - 1, first, -1):
            pair = ranked[at - 1], ranked[at]
            ranked[at - 1], ranked[at] = torch.maximum(*pair), torch.minimum(*pair)
    return ((ranked[keep] + ranked[keep - 1]) / 2).unsqueeze(0)
