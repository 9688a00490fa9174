"""The one soft projection onto a budget and the one hard selection under it; every method calls these two.

Both are exact for 10^8 units: sums run in float64 (float32 stops counting at 2^24), no full sort is needed for
linear costs, and the root-find starts from a sample, so that a few passes over the units suffice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# A linear cost is a tensor [n] (None: one for every unit). A coupled cost, such as the MACs of filters, is a
# differentiable function mask [n] -> scalar that grows with every unit kept.
Cost = Tensor | Callable[[Tensor], Tensor] | None

_SAMPLE = 1 << 14  # units looked at for the first guess of the threshold
_PASSES = 200  # far above what is needed (about 4; bisection alone would take 60): reaching it means bad scores


def soft_mask(scores: Tensor, budget: float, cost: Cost = None, temperature: float = 1.0) -> Tensor:
    """The soft mask y = sigmoid(scores / temperature + mu) with one scalar mu such that cost(y) == budget.

    scores [n], float32 or float64; the result [n] has the same type and lies in [0, 1]. `budget` is in the unit
    of `cost`: a tensor [n] of positive costs (ones by default), or a function of the mask that grows with each
    unit. A budget of 0 or less gives zeros; one of the total cost or more gives ones.

    Differentiable in the scores by the implicit function theorem. With v = y (1 - y), g = dL/dy and
    c = d cost / d mask:

        dL/ds_j = v_j (g_j - c_j sum(v g) / sum(c v)) / temperature

    With two anchors this is the entropy-regularised transport plan onto (keep, drop): the cards of DTP, SMART and
    Spartan derive the same operator. Raises ValueError when no mu exists (NaN scores, or more infinite scores
    than the budget can hold).
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    return _SoftMask.apply(scores, float(budget), cost, float(temperature))


def hard_mask(scores: Tensor, budget: float, cost: Cost = None) -> Tensor:
    """The 0/1 mask [n] of the units in falling order of score, as long as the cost kept stays within the budget.

    Stops at the first unit that does not fit, so the cost misses the budget by less than that unit's. Equal
    scores are taken in order of index. Same shapes and types as `soft_mask`; raises ValueError on NaN scores.
    """
    if bool(torch.isnan(scores).any()):
        raise ValueError("scores contain NaN")
    if budget >= total_cost(cost, scores):
        return torch.ones_like(scores)
    if callable(cost):
        return _prefix(scores, _affordable(scores, budget, cost)[0])
    threshold = _guess_threshold(scores, budget, cost)
    for margin in (0.02, 0.2, 1.0):  # a band of ranks around the guess; wider when the sample misled
        high, low = _band(scores, cost, threshold, margin)
        sure = scores > high
        spent = _linear(sure, cost)
        band = ((scores <= high) & (scores >= low)).nonzero().squeeze(1)
        if spent <= budget and spent + _linear(None, _at(cost, band), band.numel()) > budget:
            break
    order = band[torch.sort(scores[band], descending=True, stable=True).indices]
    costs = torch.ones_like(order, dtype=torch.float64) if cost is None else cost[order].double()
    fits = spent + torch.cumsum(costs, 0) <= budget
    mask = sure.to(scores.dtype)
    mask[order[: int(fits.sum())]] = 1
    return mask


def total_cost(cost: Cost, like: Tensor) -> float:
    """The cost of keeping every one of the units [n] that `like` holds a value for."""
    if callable(cost):
        return float(cost(torch.ones_like(like, dtype=torch.float64)))
    return _linear(None, cost, like.numel())


class _SoftMask(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, budget: float, cost: Cost, temperature: float) -> Tensor:
        if budget <= 0:
            mask = torch.zeros_like(scores)
        elif budget >= total_cost(cost, scores):
            mask = torch.ones_like(scores)
        else:
            mask = _solve(scores, budget, cost, temperature)
        ctx.save_for_backward(mask)
        ctx.cost, ctx.temperature = cost, temperature
        return mask

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (mask,) = ctx.saved_tensors
        (grad,) = grads
        v = mask * (1 - mask)
        c = _marginal(ctx.cost, mask)
        vg = v * grad
        cv = v if c is None else v * c
        denominator = float(cv.sum(dtype=torch.float64))
        if denominator == 0:  # every unit is decided
            return torch.zeros_like(mask), None, None, None
        share = float(vg.sum(dtype=torch.float64)) / denominator
        return vg.sub_(cv, alpha=share).div_(ctx.temperature), None, None, None


class _Root(NamedTuple):
    """Where a root-find ended: the mask at mu, cost(mask) - budget, its derivative in mu, and whether that is close."""

    mask: Tensor
    mu: float
    gap: float
    slope: float
    met: bool


def _solve(scores: Tensor, budget: float, cost: Cost, temperature: float) -> Tensor:
    """The mask at the mu where cost(mask) == budget: Newton steps inside a bracket."""
    root = _root_around(_guess_threshold(scores, budget, cost), scores, budget, cost, temperature)
    if not root.met:  # gaps far above the temperature: only the very unit on which the budget runs out will do
        centre = float(scores[hard_mask(scores, budget, cost) == 0].max())
        root = _root_around(centre, scores, budget, cost, temperature)
    if not root.met:
        raise ValueError(f"no soft mask meets the budget {budget:g}: too many scores are infinite")
    if abs(root.gap) < root.slope:  # the last Newton step, taken on the mask: exact to second order
        return root.mask - (root.gap / root.slope) * (root.mask * (1 - root.mask))
    return root.mask


def _root_around(centre: float, scores: Tensor, budget: float, cost: Cost, temperature: float) -> _Root:
    """The root for scores centred near the threshold, where differences of close floats are exact."""
    z = (scores - centre) / temperature
    mu = 0.0
    if not callable(cost) and z.numel() > 2 * _SAMPLE:
        stride = z.numel() // _SAMPLE
        sample, sampled_cost = z[::stride].contiguous(), None if cost is None else cost[::stride].contiguous()
        scale = total_cost(sampled_cost, sample) / total_cost(cost, scores)
        guess = _root(sample, budget * scale, sampled_cost, 0.0, 0.01)
        mu = guess.mu if guess.met else 0.0  # a sample may hold too many infinite scores
    return _root(z, budget, cost, mu, math.sqrt(torch.finfo(z.dtype).eps))


def _root(z: Tensor, budget: float, cost: Cost, mu: float, tolerance: float) -> _Root:
    """Met when |gap / slope| <= tolerance, or the gap itself is below the floats' resolution."""
    eps = torch.finfo(z.dtype).eps
    low, high, reach = -math.inf, math.inf, 1.0
    for _ in range(_PASSES):
        mask = torch.sigmoid(z + mu)
        value, slope = _value_and_slope(mask, cost)
        gap = value - budget
        met = abs(gap) <= eps * budget or abs(gap) <= tolerance * slope
        if met or math.isnan(gap):
            break
        low, high = (low, mu) if gap > 0 else (mu, high)
        step = -gap / slope if slope > 0 else -math.copysign(math.inf, gap)
        if math.isinf(high - low):  # one side is open yet: go no further than `reach`
            step = math.copysign(min(abs(step), reach), step)
            reach *= 4
        elif not low < mu + step < high:
            step = (low + high) / 2 - mu
        if abs(step) <= eps * abs(mu) or high - low <= eps * max(1.0, abs(mu)):  # z + mu stays the same
            break
        mu += step
    return _Root(mask, mu, gap, slope, met)


def _value_and_slope(mask: Tensor, cost: Cost) -> tuple[float, float]:
    """cost(mask), and its derivative in mu."""
    v = mask * (1 - mask)
    if callable(cost):
        c = _marginal(cost, mask)
        assert c is not None
        return float(cost(mask.double())), float((c * v).sum(dtype=torch.float64))
    if cost is None:
        return float(mask.sum(dtype=torch.float64)), float(v.sum(dtype=torch.float64))
    return float((cost * mask).sum(dtype=torch.float64)), float((cost * v).sum(dtype=torch.float64))


def _marginal(cost: Cost, mask: Tensor) -> Tensor | None:
    """d cost / d mask [n] at the mask; None stands for ones."""
    if not callable(cost):
        return cost
    with torch.enable_grad():
        at = mask.detach().double().requires_grad_()
        (gradient,) = torch.autograd.grad(cost(at), at)
    return gradient.to(mask.dtype)


def _linear(mask: Tensor | None, cost: Tensor | None, count: int = 0) -> float:
    """The linear cost of a boolean mask (None: of all `count` units), summed in float64."""
    if cost is None:
        return float(count if mask is None else mask.sum())
    return float((cost if mask is None else cost * mask).sum(dtype=torch.float64))


def _at(cost: Tensor | None, index: Tensor) -> Tensor | None:
    return None if cost is None else cost[index]


def _sample(scores: Tensor, cost: Tensor | None) -> tuple[Tensor, Tensor]:
    """A strided sample of the scores in falling order, and the share of its cost spent up to each."""
    stride = max(1, scores.numel() // _SAMPLE)
    values, order = torch.sort(scores[::stride], descending=True)
    costs = torch.ones_like(values, dtype=torch.float64) if cost is None else cost[::stride][order].double()
    spent = torch.cumsum(costs, 0)
    return values, spent / spent[-1]


def _guess_threshold(scores: Tensor, budget: float, cost: Cost) -> float:
    """A score near which units go from kept to dropped; exact for few units or coupled costs."""
    if callable(cost):
        kept, values = _affordable(scores, budget, cost)
    else:
        values, spent = _sample(scores.detach(), cost)
        share = budget / total_cost(cost, scores)
        kept = int((spent <= share * (1 + 1e-12)).sum())
    above = float(values[max(kept - 1, 0)])
    below = float(values[min(kept, len(values) - 1)])
    middle = above + (below - above) / 2
    # infinite scores have no middle: lean on the finite neighbour
    return next((x for x in (middle, above, below) if math.isfinite(x)), 0.0)


def _band(scores: Tensor, cost: Tensor | None, threshold: float, margin: float) -> tuple[float, float]:
    """Scores (high, low) between which the threshold lies, unless the sample misled by more than `margin`."""
    values, _ = _sample(scores, cost)
    if margin >= 1 or len(values) == len(scores):
        return math.inf, -math.inf
    at = int((values > threshold).sum())
    width = int(margin * len(values))
    high = float(values[at - width]) if at - width > 0 else math.inf
    low = float(values[at + width]) if at + width < len(values) else -math.inf
    return high, low


def _affordable(scores: Tensor, budget: float, cost: Callable[[Tensor], Tensor]) -> tuple[int, Tensor]:
    """(how many of the best units a coupled cost allows, the scores in falling order)."""
    values, order = torch.sort(scores.detach(), descending=True, stable=True)
    low, high = 0, len(order)  # `low` units fit; more than `high` never do
    while low < high:
        middle = (low + high + 1) // 2
        mask = torch.zeros_like(scores, dtype=torch.float64)
        mask[order[:middle]] = 1
        low, high = (middle, high) if float(cost(mask)) <= budget else (low, middle - 1)
    return low, values


def _prefix(scores: Tensor, count: int) -> Tensor:
    mask = torch.zeros_like(scores)
    mask[torch.sort(scores, descending=True, stable=True).indices[:count]] = 1
    return mask
