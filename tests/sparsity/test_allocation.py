"""Masks meet the budget to the last unit, in every scope, at every granularity, in every currency."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pruner.checks import ConfigError
from pruner.sparsity.allocation import Allocation
from pruner.sparsity.scopes import _best
from pruner.sparsity.units.make import Units, make_units

SHAPE = (2, 8, 8)
SPARSITIES = st.integers(0, 98).map(lambda percent: percent / 100)


def network(channels: list[int], strides: list[int], groups: int = 1) -> nn.Module:
    """A chain of convolutions and a linear layer; all but the first convolution are grouped."""
    layers: list[nn.Module] = []
    before, apart = SHAPE[0], 1
    for after, stride in zip(channels, strides, strict=True):
        layers += [nn.Conv2d(before, after * groups, 3, stride, padding=1, groups=apart), nn.ReLU()]
        before, apart = after * groups, groups
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 3))


@st.composite
def tiny_units(draw: Any, granularity: str) -> Units:
    channels = draw(st.lists(st.integers(2, 7), min_size=1, max_size=3))
    strides = draw(st.lists(st.sampled_from([1, 2]), min_size=len(channels), max_size=len(channels)))
    return make_units(network(channels, strides, draw(st.sampled_from([1, 1, 3]))), SHAPE, granularity)


def kept_cost(units: Units, budget: str, mask: Tensor) -> int:
    """What is left of the prunable weights, or their multiply-adds, counted one by one in their tensors."""
    zeros = units.zeros(mask)
    layers = [layer for layer in units.layers if layer.prunable]
    return sum(int(zeros[layer.weight].sum()) * (layer.positions if budget == "macs" else 1) for layer in layers)


def next_unit(units: Units, budget: str, mask: Tensor) -> int:
    """The most that one more unit would cost; one of each group is as good as any other of it."""
    costs = [0]
    for group in units.groups:
        dropped = (mask[group.start : group.stop] == 0).nonzero()
        if len(dropped):
            more = mask.clone()
            more[group.start + int(dropped[0])] = 1
            costs.append(kept_cost(units, budget, more) - kept_cost(units, budget, mask))
    return max(costs)


def kept_of(units: Units, mask: Tensor) -> list[int]:
    return [int(mask[group.start : group.stop].sum()) for group in units.groups]


@pytest.mark.parametrize("granularity", ["weight", "filter"])
@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("budget", ["params", "macs"])
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_asked_is_what_you_get(granularity: str, scope: str, budget: str, data: Any) -> None:
    units = data.draw(tiny_units(granularity))
    sparsity, min_units = data.draw(SPARSITIES), data.draw(st.integers(0, 2))
    floors = [min(min_units, group.size) for group in units.groups]
    least = torch.zeros(units.n)
    for group, floor in zip(units.groups, floors, strict=True):
        least[group.start : group.start + floor] = 1
    total = kept_cost(units, budget, torch.ones(units.n))
    percent_kept = 100 - round(100 * sparsity)
    if kept_cost(units, budget, least) > total * percent_kept // 100:
        with pytest.raises(ConfigError, match=r"sparsity=.*budget\.min_units"):
            Allocation(units, budget, scope, sparsity, min_units)
        return
    allocation = Allocation(units, budget, scope, sparsity, min_units)
    assert allocation.total == total
    scores = torch.randn(units.n, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 9))))
    for asked in (None, sparsity * data.draw(st.sampled_from([0.0, 0.5, 0.875]))):
        target = allocation.target(sparsity if asked is None else asked)
        if asked is None:
            assert target == total * percent_kept // 100
        hard = allocation.hard(scores, asked)
        cost = kept_cost(units, budget, hard)
        assert set(hard.tolist()) <= {0.0, 1.0}
        assert allocation.cost_of(hard) == cost <= target
        assert target - cost < next_unit(units, budget, hard) or cost == total
        assert all(kept >= floor for kept, floor in zip(kept_of(units, hard), floors, strict=True))
        soft = allocation.soft(scores, 0.5, asked)
        assert bool((soft >= 0).all()) and bool((soft <= 1).all())
        if scope == "global" and granularity == "weight" and budget == "params":
            assert allocation.cost_of(soft) == pytest.approx(target, rel=1e-4)
        else:
            assert allocation.cost_of(soft) == pytest.approx(cost, rel=1e-4)  # units are dear: as the hard mask


@pytest.mark.parametrize("granularity", ["weight", "filter"])
@pytest.mark.parametrize("budget", ["params", "macs"])
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_layers_keep_the_same_ratio_within_a_unit(granularity: str, budget: str, data: Any) -> None:
    units = data.draw(tiny_units(granularity))
    sparsity = data.draw(st.integers(0, 60).map(lambda percent: percent / 100))
    kept = kept_of(units, Allocation(units, budget, "layer", sparsity, min_units=0).hard(torch.rand(units.n)))
    pairs = [(count, group.size) for count, group in zip(kept, units.groups, strict=True)]
    # Rounded down from one ratio, and one more for some.
    assert max((count - 1) / size for count, size in pairs) < min((count + 1) / size for count, size in pairs)


def test_crumbs_of_a_dear_layer_do_not_fill_up_a_cheap_one() -> None:
    """A weight of the convolution is worth 64 multiply-adds, one of the linear layer only one."""
    units = make_units(network([5], [1]), SHAPE, "weight")
    allocation = Allocation(units, "macs", "layer", 0.93)
    dear, cheap = kept_of(units, allocation.hard(torch.rand(units.n)))
    assert allocation.target(0.93) - 64 * dear - cheap < 64
    assert (dear, cheap) == (6, 2)  # 7% of 90 is 6.3, of 15 is 1.05


def test_what_rounding_took_goes_to_the_layers_that_lost_most() -> None:
    """46% of 15 + 10 + 10 weights are 16; just below half, 7 + 4 + 4 are kept, and the tens lost a whole one each."""
    linear = (nn.Linear(before, after, bias=False) for before, after in ((3, 5), (5, 2), (2, 5)))
    units = make_units(nn.Sequential(nn.Flatten(), *linear), (3, 1, 1), "weight")
    assert kept_of(units, Allocation(units, "params", "layer", 0.54).hard(torch.rand(35))) == [7, 5, 4]


@pytest.mark.parametrize(("sparsity", "kept"), [(0.75, [13, 23]), (0.25, [38, 70]), (0.125, [54, 72]), (0.0, [72, 72])])
def test_erk_by_hand(sparsity: float, kept: list[int]) -> None:
    """Of 72 weights each: (4 + 2 + 3 + 3) / 72 of the convolution, (18 + 4) / 72 of the linear layer, so 6 to 11.

    36 are shared out as 12.7 and 23.3, 108 as 38.1 and 69.9; of 126 the linear layer's part would be 81.5.
    """
    model = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.Flatten(), nn.Linear(4, 18, bias=False))
    units = make_units(model, (2, 3, 3), "weight")
    assert kept_of(units, Allocation(units, "params", "erk", sparsity).hard(torch.rand(144))) == kept


@pytest.mark.parametrize(("sparsity", "kept"), [(0.6, [5, 3]), (0.25, [5, 10]), (0.1, [8, 10]), (0.0, [10, 10])])
def test_custom_ratios_by_hand(sparsity: float, kept: list[int]) -> None:
    """Half of the first ten weights; the others take up the rest. A budget above that, on its way down, opens both."""
    linear = (nn.Linear(2, 5, bias=False), nn.Linear(5, 2, bias=False))
    units = make_units(nn.Sequential(nn.Flatten(), *linear), (2, 1, 1), "weight")
    allocation = Allocation(units, "params", "custom", 0.6, ratios={"1": 0.5})
    assert kept_of(units, allocation.hard(torch.rand(20), sparsity)) == kept
    assert allocation.kept(sparsity) == kept


@pytest.mark.parametrize(("sparsity", "kept"), [(1 - 1 / 6, 2), (1 / 3, 8), (0.4, 7), (0.95, 1), (0.0, 12)])
def test_rows_of_twelve_by_hand(sparsity: float, kept: int) -> None:
    """1 - 1/6 has been rounded up, and a sixth of twelve is two all the same; one stays however little is left."""
    units = make_units(nn.Sequential(nn.Flatten(), nn.Linear(12, 2, bias=False)), (12, 1, 1), "weight")
    allocation = Allocation(units, "params", "row", sparsity)
    assert allocation.kept() == [kept]
    assert allocation.hard(torch.rand(24)).view(2, 12).sum(1).tolist() == [kept, kept]


@pytest.mark.parametrize("percent", range(0, 100))
def test_typed_decimals_are_exact(percent: int) -> None:
    units = make_units(nn.Sequential(nn.Flatten(), nn.Linear(20, 5, bias=False)), (20, 1, 1), "weight")
    for scope in ("global", "layer"):
        allocation = Allocation(units, "params", scope, percent / 100)
        assert allocation.target(percent / 100) == 100 - percent
        assert int(allocation.hard(torch.rand(100)).sum()) == 100 - percent
        assert float(allocation.soft(torch.rand(100)).sum()) == pytest.approx(100 - percent, rel=1e-6)


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_counting_is_exact_beyond_the_whole_numbers_of_float32(scope: str) -> None:
    side = 4097
    units = make_units(nn.Sequential(nn.Flatten(), nn.Linear(side, side, bias=False)), (side, 1, 1), "weight")
    allocation = Allocation(units, "params", scope, 1e-7)
    assert allocation.total == allocation.cost_of(torch.ones(units.n)) == side**2  # odd, and above 2^24
    hard = allocation.hard(torch.rand(units.n))
    assert allocation.cost_of(hard) == int(hard.count_nonzero()) == allocation.target(1e-7) == side**2 - 2


@pytest.mark.parametrize("groups", [1, 3, 5, 7])
@pytest.mark.parametrize("granularity", ["weight", "filter"])
@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("budget", ["params", "macs"])
def test_sparsity_zero_keeps_everything(granularity: str, scope: str, budget: str, groups: int) -> None:
    units = make_units(network([3, 5, 2], [1, 2, 1], groups), SHAPE, granularity)
    allocation = Allocation(units, budget, scope, 0.0)
    ones, scores = torch.ones(units.n), torch.randn(units.n)
    assert allocation.total == allocation.target(0.0) == kept_cost(units, budget, ones)
    assert torch.equal(allocation.hard(scores), ones) and torch.equal(allocation.soft(scores), ones)


def test_the_best_unit_of_every_layer_survives() -> None:
    units = make_units(network([4, 4], [1, 1]), SHAPE, "filter")
    scores = torch.tensor([9.0, 8.0, 7.0, 6.0, 0.1, 0.2, 0.4, 0.3])
    for scope in ("global", "layer"):
        guarded = Allocation(units, "params", scope, 0.8, min_units=1).hard(scores)
        assert guarded[0] == 1 and guarded[6] == 1
    soft = Allocation(units, "params", "global", 0.8, min_units=1).soft(scores, 0.01)
    assert soft[0] == 1 and soft[6] == 1  # or the network would collapse before it is hardened
    bare = Allocation(units, "params", "global", 0.8, min_units=0)
    assert kept_of(units, bare.hard(scores)) == [2, 0]  # 43 of 228 weights: 18 a filter and the next layer's


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_scores_that_are_not_numbers_are_refused(scope: str) -> None:
    units = make_units(network([4, 4], [1, 1]), SHAPE, "weight")
    scores = torch.rand(units.n)
    scores[3] = torch.nan
    allocation = Allocation(units, "params", scope, 0.5)
    for project in (allocation.hard, allocation.soft):
        with pytest.raises(ValueError, match="NaN"):
            project(scores)


def test_soft_masks_carry_gradients_and_hard_ones_none() -> None:
    units = make_units(network([4, 4], [1, 1]), SHAPE, "filter")
    for scope in ("global", "layer"):
        allocation = Allocation(units, "macs", scope, 0.4)
        scores = torch.linspace(-1, 1, units.n).requires_grad_()
        (allocation.soft(scores) * torch.arange(units.n)).sum().backward()
        assert scores.grad is not None and bool((scores.grad != 0).any())
        assert not allocation.hard(scores).requires_grad


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("budget", ["params", "macs"])
def test_soft_masks_of_filters_harden_into_the_hard_mask(scope: str, budget: str) -> None:
    """No filter stays half open because the budget runs out within it."""
    units = make_units(network([6, 5, 7], [1, 2, 1]), SHAPE, "filter")
    for seed in range(5):
        allocation = Allocation(units, budget, scope, 0.37)
        scores = torch.randn(units.n, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(allocation.soft(scores, 1e-6), allocation.hard(scores), rtol=0, atol=1e-3)


@pytest.mark.parametrize("n", [1, 5, 1023, 1024, 1025, 5000])
def test_the_best_of_a_group_is_the_first_of_the_highest_and_nan_is_higher(n: int) -> None:
    draw = torch.Generator().manual_seed(n)
    for _ in range(20):
        scores = torch.randint(50, (n,), generator=draw).float()  # with ties
        assert int(_best(scores, 1)) == int(scores.max(0).indices)
        scores[int(torch.randint(n, (1,), generator=draw))] = torch.nan
        assert bool(scores[_best(scores, 1)].isnan())
