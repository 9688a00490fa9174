"""Keep ratios of groups under one budget: what they cost, which way leads along the budget, and which meet it.

The cost model is that of DSA (arXiv 2004.02164); the rest is [chosen], see `pruner.methods.dsa`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pruner.sparsity.allocation import Allocation


def group_cost(allocation: Allocation) -> Callable[[Tensor], Tensor]:
    """F: the cost of keeping the share alpha [groups] of every group's units; float64 on the CPU.

    F(alpha) = constant + B alpha + alpha' A alpha [known]; A, from filters that read filters, is 0 for other units.
    """
    units, cost = allocation.units, allocation.cost
    sizes = units.sizes
    if not callable(cost):
        each = torch.ones(units.n) if cost is None else cost.cpu()
        linear = torch.stack([part.sum(dtype=torch.float64) for part in each.split(sizes)])
        return lambda alpha: alpha @ linear

    def of_units(alpha: Tensor) -> Tensor:
        return cost(torch.cat([share.expand(size) for share, size in zip(alpha, sizes, strict=True)]))

    nothing = torch.zeros(len(sizes), dtype=torch.float64, device=units.device)
    constant, linear = of_units(nothing).cpu(), torch.autograd.functional.jacobian(of_units, nothing).cpu()
    pairs = torch.autograd.functional.hessian(of_units, nothing).cpu() / 2
    return lambda alpha: constant + linear @ alpha + alpha @ pairs @ alpha


def along_budget(slope: Tensor, alpha: Tensor, cost_slope: Tensor) -> Tensor:
    """g - lambda [groups], with a root mean square of 1: what theta should go down, in log-odds [chosen].

    slope: dL/dalpha; cost_slope: dF/dalpha, above 0; g = slope / cost_slope, lambda its mean weighted with
    dF/dtheta = cost_slope alpha (1 - alpha), so that a small step leaves F as it is.
    """
    g, weights = slope / cost_slope, cost_slope * alpha * (1 - alpha)
    uphill = g - (g * weights).sum() / weights.sum().clamp(min=1e-300)
    return uphill / uphill.square().mean().sqrt().clamp(min=1e-300)


def nearest_within(theta: Tensor, cost: Callable[[Tensor], Tensor], budget: float) -> Tensor:
    """The log-odds z [groups] nearest to theta with cost(sigmoid(z)) = budget, to rounding below it [chosen].

    Near in D = sum_g c_g KL(sigmoid(z_g) || sigmoid(theta_g)), with c = dF/dalpha at z. As dKL/dalpha = z - theta, the
    condition dD/dalpha + lambda dF/dalpha = 0 reads z = theta - lambda: one shift for all groups, found by bisection.
    For a linear cost z is the one nearest point; for a coupled one, which is not convex, that on its tangent at z. The
    Euclidean distance moves groups in proportion to what they cost, and was seen to empty the costly ones.
    """
    start = theta.detach().double().cpu()
    low, high = -100.0, 100.0  # all is kept; nothing is
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (middle, high) if float(cost(torch.sigmoid(start - middle))) > budget else (low, middle)
    return theta - high
