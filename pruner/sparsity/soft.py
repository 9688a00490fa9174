"""The root-find behind `soft_mask`, and its implicit gradient.

Newton steps on mu inside a bracket. The first ones look at a sample only, so that about three passes over all units
are left: two that fill the mask at a mu, and one that corrects it in place by the last step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pruner.sparsity.hard import hard_mask, threshold_near
from pruner.sparsity.passes import Cost, added, close_sum, fit, pieces, prices, room_for, total_cost

_MANY = 1 << 16  # units from which on a sample saves more time than it takes
_STRIDE = 16  # units for each one in the sample at least
_SAMPLE = 1 << 17  # units in the sample at most
_PASSES = 200  # far above what is needed (about 3; bisection alone would take 60): reaching it means bad scores


class Problem(NamedTuple):
    """Which mu gives cost(sigmoid((scores - centre) / temperature + mu)) == budget?

    The centre lies near the threshold, where differences of close floats are exact.
    """

    scores: Tensor
    budget: float
    cost: Cost
    temperature: float
    centre: float

    def fill(self, mask: Tensor, room: Tensor, mu: float) -> tuple[float, float]:
        """Fills the mask [n] with the values at mu; gives cost(mask) and its derivative in mu."""
        start = torch.tensor(mu, dtype=mask.dtype)
        sharpness = _sharpness(self.temperature, mask)
        linear = None if callable(self.cost) else self.cost
        values, slopes = [], []
        for part, scores, price in zip(pieces(mask), pieces(self.scores), prices(linear), strict=False):
            torch.sub(scores, self.centre, out=part)
            torch.add(start, part, alpha=sharpness, out=part)  # mu + (score - centre) / temperature in one operator
            torch.sigmoid(part, out=part)
            if not callable(self.cost):
                values.append(close_sum(part if price is None else torch.mul(part, price, out=fit(room, part))))
                v = undecided(part, room)
                slopes.append(close_sum(v if price is None else v.mul_(price)))
        if callable(self.cost):
            value, c = marginal(self.cost, mask)
            return float(value), float((c * undecided(mask, room)).sum())
        return float(added(values)), float(added(slopes))

    def start(self, total: float) -> float:
        """A mu to begin with: that of a strided sample of many units with a linear cost."""
        n = self.scores.numel()
        if callable(self.cost) or n < _MANY:
            return 0.0
        every = slice(None, None, max(_STRIDE, n // _SAMPLE))
        scores, cost = self.scores[every].contiguous(), None if self.cost is None else self.cost[every].contiguous()
        budget = self.budget / total * total_cost(cost, scores)
        sample = Problem(scores, budget, cost, self.temperature, self.centre)
        root = sample.root(torch.empty_like(scores), 0.0, 0.01)
        return root.mu if root.met else 0.0  # a sample may hold too many infinite scores

    def root(self, mask: Tensor, mu: float, tolerance: float) -> Root:
        """Newton steps from mu; leaves the mask at the last of them.

        Met when |gap / slope| <= tolerance, or the gap itself is below the floats' resolution.
        """
        eps = torch.finfo(mask.dtype).eps
        room = room_for(mask)
        low, high, reach = -math.inf, math.inf, 1.0
        for _ in range(_PASSES):
            value, slope = self.fill(mask, room, mu)
            gap = value - self.budget
            met = abs(gap) <= eps * self.budget or abs(gap) <= tolerance * slope
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
        return Root(mu, gap, slope, met)


class Root(NamedTuple):
    """Where a root-find ended: mu, cost(mask) - budget, its derivative in mu, and whether that is close enough."""

    mu: float
    gap: float
    slope: float
    met: bool


def solve(scores: Tensor, budget: float, cost: Cost, total: float, temperature: float) -> Tensor:
    """The mask [n] at the mu where cost(mask) == budget, which lies between 0 and the total cost."""
    mask = torch.empty_like(scores)
    problem = Problem(scores, budget, cost, temperature, threshold_near(scores, budget, cost, total))
    tolerance = math.sqrt(torch.finfo(mask.dtype).eps)  # the step that is then left is exact to second order
    root = problem.root(mask, problem.start(total), tolerance)
    if not root.met:  # gaps far above the temperature: only the very unit on which the budget runs out will do
        centre = float(scores[hard_mask(scores, budget, cost) == 0].max())
        problem = problem._replace(centre=centre)
        root = problem.root(mask, problem.start(total), tolerance)
    if not root.met:
        raise ValueError(f"no soft mask meets the budget {budget:g}: too many scores are infinite")
    if abs(root.gap) < root.slope:
        room = room_for(mask)
        for part in pieces(mask):
            part.sub_(undecided(part, room), alpha=root.gap / root.slope)
    return mask


def gradient(mask: Tensor, grad: Tensor, cost: Cost, temperature: float) -> Tensor:
    """dL/ds [n] from dL/dy: v (g - c share) / temperature with share = sum(v g) / sum(c v); zeros where all v are.

    The share stays on the device, so that nothing waits for it.
    """
    c = marginal(cost, mask)[1].to(mask.dtype) if callable(cost) else cost
    room = room_for(mask)
    tops, bottoms = [], []
    for y, g, price in zip(pieces(mask), pieces(grad), prices(c), strict=False):
        v = undecided(y, room)
        bottoms.append(close_sum(v if price is None else v.mul_(price)))
        tops.append(close_sum(_times_undecided(g, y, fit(room, y))))
    share = added(tops) / added(bottoms).clamp(min=torch.finfo(torch.float64).tiny)
    sharpness = _sharpness(temperature, mask)
    result = torch.empty_like(mask)
    for part, y, g, price in zip(pieces(result), pieces(mask), pieces(grad), prices(c), strict=False):
        taken = -sharpness * share if price is None else torch.mul(price, -sharpness * share, out=fit(room, y))
        torch.add(taken, g, alpha=sharpness, out=part)  # (g - c share) / temperature in one operator
        _times_undecided(part, y, part)
    return result


def _sharpness(temperature: float, mask: Tensor) -> float:
    """1 / temperature, as far as the mask's type reaches."""
    return min(1 / temperature, torch.finfo(mask.dtype).max)


def undecided(mask: Tensor, room: Tensor) -> Tensor:
    """v = y (1 - y), the derivative of a sigmoid at its value y, for a piece of a mask; written into `room`."""
    return _times_undecided(mask.new_ones(()), mask, fit(room, mask))


def _times_undecided(values: Tensor, mask: Tensor, out: Tensor) -> Tensor:
    """values y (1 - y) by the operator that torch itself has for it: one operator in the place of three."""
    return torch.ops.aten.sigmoid_backward.grad_input(values, mask, grad_input=out)


def marginal(cost: Callable[[Tensor], Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
    """The coupled cost [] of a mask, and d cost / d mask [n] there, both in float64."""
    with torch.enable_grad():
        point = mask.detach().double().requires_grad_()
        value = cost(point)
        (c,) = torch.autograd.grad(value, point)
    return value.detach(), c
