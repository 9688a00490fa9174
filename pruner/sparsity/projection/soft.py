"""The root-find behind `soft_mask`, and its implicit gradient.

Newton steps on mu inside a bracket. The first ones look at a sample only, so that about two passes over all units are
left: one that fills the mask at a mu near the root, where the derivatives of the cost say how far the root is, and one
that moves the mask there in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pruner.sparsity.projection.chunked import Cost, added, close_sum, cost_pieces, fit, pieces, room_for, total_cost
from pruner.sparsity.projection.hard import hard_mask, threshold_near

_MANY = 1 << 16  # units from which on a sample saves more time than it takes
_STRIDE = 16  # units for each one in the sample at least
_SAMPLE = 1 << 19  # units in the sample at most
_PASSES = 200  # far above what is needed (about 2; bisection alone would take 60): reaching it means bad scores


class Problem(NamedTuple):
    """Which mu gives cost(sigmoid((scores - centre) / temperature + mu)) == budget?

    The centre lies near the threshold, where differences of close floats are exact.
    """

    scores: Tensor
    budget: float
    cost: Cost
    temperature: float
    centre: float

    def fill(self, mask: Tensor, mu: float) -> tuple[float, ...]:
        """Fills the mask [n] with the values at mu; gives cost(mask) and its derivatives in mu.

        With v = y (1 - y) they are sum(c v), sum(c v (1 - 2 y)) and sum(c v (1 - 6 v)); of a coupled cost the first.
        """
        start = torch.tensor(mu, dtype=mask.dtype)
        sharpness = _sharpness(self.temperature, mask)
        linear = None if callable(self.cost) else self.cost
        room, spare = room_for(mask), room_for(mask if linear is not None else mask[:0])
        sums = []
        for part, scores, costs in zip(pieces(mask), pieces(self.scores), cost_pieces(linear), strict=False):
            torch.sub(scores, self.centre, out=part)
            torch.add(start, part, alpha=sharpness, out=part)  # mu + (score - centre) / temperature in one operator
            torch.sigmoid(part, out=part)
            if not callable(self.cost):
                value = close_sum(part if costs is None else torch.mul(part, costs, out=fit(room, part)))
                v = undecided(part, room)
                cv = v if costs is None else torch.mul(v, costs, out=fit(spare, part))
                times_y, times_v = torch.dot(cv, part).double(), torch.dot(cv, v).double()
                sums.append(torch.stack([value, close_sum(cv), times_y, times_v]))
        if callable(self.cost):
            cost, c = marginal(self.cost, mask)
            return float(cost), float((c * undecided(mask, room)).sum())
        value, slope, times_y, times_v = added(sums).tolist()
        return value, slope, slope - 2 * times_y, slope - 6 * times_v

    def start(self, total: float) -> float:
        """A mu to begin with: that of a strided sample of many units with a linear cost."""
        n = self.scores.numel()
        if callable(self.cost) or n < _MANY:
            return 0.0
        every = slice(None, None, max(_STRIDE, n // _SAMPLE))
        scores, cost = self.scores[every].contiguous(), None if self.cost is None else self.cost[every].contiguous()
        budget = self.budget / total * total_cost(cost, scores)
        sample = Problem(scores, budget, cost, self.temperature, self.centre)
        root = sample.root(torch.empty_like(scores), 0.0)
        return root.mu + root.left if root.met else 0.0  # a sample may hold too many infinite scores

    def root(self, mask: Tensor, mu: float) -> Root:
        """Newton steps from mu; leaves the mask at the last but one of them.

        Met when the derivatives tell the last step as well as the floats can, or the gap is below their resolution.
        """
        eps = torch.finfo(mask.dtype).eps
        low, high, reach = -math.inf, math.inf, 1.0
        for _ in range(_PASSES):
            value, *slopes = self.fill(mask, mu)
            gap, slope = value - self.budget, slopes[0]
            close = abs(gap) <= _told(len(slopes), eps) * slope
            met = close or abs(gap) <= eps * self.budget
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
        return Root(mu, _last_step(gap, slopes) if close and gap else 0.0, met)


class Root(NamedTuple):
    """Where a root-find ended: the mu of the mask, the small step that is left to the root, and whether it is one."""

    mu: float
    left: float
    met: bool


def _told(order: int, eps: float) -> float:
    """The longest step for which that many derivatives suffice: the first term left out is below the resolution.

    No derivative of a linear cost is larger than the first.
    """
    longest: float = (math.factorial(order + 1) * eps) ** (1 / (order + 1))
    return longest


def _last_step(gap: float, slopes: Sequence[float]) -> float:
    """The root, a small one, of gap + slopes[0] step + slopes[1] step^2 / 2 + ..., by Newton steps."""
    step = 0.0
    for _ in range(4):  # each squares an error that is 0.04 at the start
        value = gap + sum(slope * step**k / math.factorial(k) for k, slope in enumerate(slopes, 1))
        step -= value / sum(slope * step**k / math.factorial(k) for k, slope in enumerate(slopes))
    return step


def solve(scores: Tensor, budget: float, cost: Cost, total: float, temperature: float) -> Tensor:
    """The mask [n] at the mu where cost(mask) == budget, which lies between 0 and the total cost."""
    mask = torch.empty_like(scores)
    problem = Problem(scores, budget, cost, temperature, threshold_near(scores, budget, cost, total))
    root = problem.root(mask, problem.start(total))
    if not root.met:  # gaps far above the temperature: only the very unit on which the budget runs out will do
        centre = float(scores[hard_mask(scores, budget, cost) == 0].max())
        problem = problem._replace(centre=centre)
        root = problem.root(mask, problem.start(total))
    if not root.met:
        raise ValueError(f"no soft mask meets the budget {budget:g}: too many scores are infinite")
    if root.left:
        _move(mask, root.left)
    return mask


def _move(mask: Tensor, step: float) -> None:
    """Makes sigmoid(z) sigmoid(z + step), in place: y / (e + y (1 - e)) with e = exp(-step)."""
    e = torch.tensor(math.exp(-step), dtype=mask.dtype)
    rest = 1 - float(e)  # of the rounded e, so that a mask of 1 stays 1
    room = room_for(mask)
    for part in pieces(mask):
        part.div_(torch.add(e, part, alpha=rest, out=fit(room, part)))


def gradient(mask: Tensor, grad: Tensor, cost: Cost, temperature: float) -> Tensor:
    """dL/ds [n] from dL/dy: v (g - c share) / temperature with share = sum(v g) / sum(c v); zeros where all v are.

    The share stays on the device, so that nothing waits for it.
    """
    c = marginal(cost, mask)[1].to(mask.dtype) if callable(cost) else cost
    room = room_for(mask)
    tops, bottoms = [], []
    for y, g, costs in zip(pieces(mask), pieces(grad), cost_pieces(c), strict=False):
        v = undecided(y, room)
        bottoms.append(close_sum(v if costs is None else v.mul_(costs)))
        tops.append(close_sum(_times_undecided(g, y, fit(room, y))))
    share = added(tops) / added(bottoms).clamp(min=torch.finfo(torch.float64).tiny)
    sharpness = _sharpness(temperature, mask)
    result = torch.empty_like(mask)
    for part, y, g, costs in zip(pieces(result), pieces(mask), pieces(grad), cost_pieces(c), strict=False):
        taken = -sharpness * share if costs is None else torch.mul(costs, -sharpness * share, out=fit(room, y))
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
    product: Tensor = torch.ops.aten.sigmoid_backward.grad_input(values, mask, grad_input=out)
    return product


def marginal(cost: Callable[[Tensor], Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
    """The coupled cost [] of a mask, and d cost / d mask [n] there, both in float64."""
    with torch.enable_grad():
        point = mask.detach().double().requires_grad_()
        value = cost(point)
        (c,) = torch.autograd.grad(value, point)
    return value.detach(), c
