"""Budgets at the edges: nothing, one unit, all but one, layers of one unit, scores that are equal or infinite."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

from pruner.checks import ConfigError
from pruner.sparsity.allocation import Allocation
from pruner.sparsity.budget import hard_mask, soft_mask
from pruner.sparsity.units.make import make_units
from tests.fuzz.amount import tries

VALUES = st.sampled_from((0.0, -0.0, 1.0, -1.0, 1e-38, 1e38, -1e38, math.inf, -math.inf)) | st.floats(-3, 3, width=16)
SCORES = st.lists(VALUES, min_size=1, max_size=12) | st.tuples(VALUES, st.integers(1, 12)).map(lambda t: [t[0]] * t[1])
# Of every share of the units: none, one, all but one, all, and numbers of them that are not whole.
AT = st.sampled_from((-1.0, 0.0, 0.5, 1.0, 1.5, -2.0, -3.0))


def budget_of(at: float, count: int) -> float:
    """`at` units; below -1.5 counted from all of them, where -2 is all but one and -3 all."""
    return {-2.0: count - 1.0, -3.0: float(count)}.get(at, at)


@given(scores=SCORES, at=AT, costs=st.lists(st.integers(1, 9), min_size=12, max_size=12) | st.none())
@tries(60, 1000)
@example(scores=[math.inf, math.inf, 0.0], at=1.0, costs=None)
@example(scores=[-math.inf], at=0.5, costs=None)
def test_hard_masks_keep_what_the_budget_allows(scores: list[float], at: float, costs: list[int] | None) -> None:
    values = torch.tensor(scores)
    cost = None if costs is None else torch.tensor(costs[: len(scores)], dtype=torch.float32)
    each = torch.ones(len(scores)) if cost is None else cost
    budget = budget_of(at, len(scores)) if cost is None else budget_of(at, int(each.sum()))
    mask = hard_mask(values, budget, cost)
    assert set(mask.tolist()) <= {0.0, 1.0}
    assert float(mask @ each) <= max(budget, 0)
    order = torch.sort(values, descending=True, stable=True).indices
    kept = int(mask.sum())
    assert bool(mask[order[:kept]].all())  # the best ones, and of equal ones the first
    assert kept == len(scores) or float(mask @ each) + float(each[order[kept]]) > budget


@given(scores=SCORES, at=AT, temperature=st.sampled_from((1e-3, 1.0, 100.0)))
@tries(60, 1000)
@example(scores=[math.inf, math.inf, 0.0], at=1.0, temperature=1.0)
@example(scores=[-math.inf, -math.inf, 0.0], at=-2.0, temperature=1.0)
@example(scores=[0.0] * 12, at=0.5, temperature=1e-3)
def test_soft_masks_spend_the_budget_or_are_refused(scores: list[float], at: float, temperature: float) -> None:
    values = torch.tensor(scores, requires_grad=True)
    count = len(scores)
    budget = budget_of(at, count)
    least, most = (sum(score == end for score in scores) for end in (math.inf, -math.inf))
    try:
        mask = soft_mask(values, budget, None, temperature)
    except ValueError as error:  # infinite scores are decided, whatever the budget
        assert "infinite" in str(error) and not least < budget < count - most
        return
    assert bool(((mask >= 0) & (mask <= 1)).all())
    assert float(mask.detach().sum()) == pytest.approx(min(max(budget, 0), count), rel=1e-4, abs=1e-4)
    mask.sum().backward()
    assert values.grad is not None and bool(torch.isfinite(values.grad).all())


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        hard_mask(torch.tensor([0.0, math.nan]), 1)
    with pytest.raises(ValueError):
        soft_mask(torch.tensor([0.0, math.nan]), 1)


def narrow(channels: list[int]) -> nn.Module:
    """A chain of convolutions, some of one channel, and a classifier of one class."""
    pairs = zip([1, *channels], channels, strict=False)
    layers = [nn.Conv2d(before, after, 1, bias=False) for before, after in pairs]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1], 1))


@given(
    channels=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    granularity=st.sampled_from(("weight", "kernel", "filter")),
    scope=st.sampled_from(("global", "layer", "erk")),
    budget=st.sampled_from(("params", "macs")),
    units_left=st.sampled_from((0, 1, -1, None)),
    min_units=st.sampled_from((0, 1, 10**9)),
    value=VALUES,
)
@tries(60, 1000)
@example(channels=[1], granularity="weight", scope="layer", budget="params", units_left=1, min_units=0, value=math.inf)
def test_networks_keep_what_the_budget_allows_or_are_refused(
    channels: list[int],
    granularity: str,
    scope: str,
    budget: str,
    units_left: int | None,
    min_units: int,
    value: float,
) -> None:
    units = make_units(narrow(channels), (1, 1, 1), granularity)
    left = {None: units.n, -1: units.n - 1}.get(units_left, units_left)
    assert left is not None
    sparsity = min(1 - left / units.n, math.nextafter(1.0, 0.0))
    try:
        allocation = Allocation(units, budget, scope, sparsity, min_units)
    except ConfigError as error:
        assert min_units > 0 and "budget.min_units" in str(error)
        return
    target = allocation.target(sparsity)
    scores: Tensor = torch.full((units.n,), value)
    mask = allocation.hard(scores)
    cost = allocation.cost_of(mask)
    assert set(mask.tolist()) <= {0.0, 1.0} and cost <= target
    one_more = [allocation.cost_of(mask.index_fill(0, unit, 1)) - cost for unit in (mask == 0).nonzero()]
    assert target == cost or target - cost < max(one_more)
    assert all(int(mask[group.start : group.stop].sum()) >= min(min_units, group.size) for group in units.groups)
