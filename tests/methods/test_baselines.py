"""gmp, magnitude and random against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pruner.methods.base import Setup
from pruner.methods.gmp import GMP
from pruner.methods.one_shot import OneShot
from pruner.methods.schedules import cubic
from pruner.runtime.seeds import generator
from pruner.sparsity.allocation import Allocation
from pruner.sparsity.units.make import make_units


def weights(*values: float, sparsity: float = 0.5, steps: int = 10, seed: int = 0) -> tuple[nn.Linear, Setup]:
    """One linear layer of so many weights, each a unit, and the setup of a method on it."""
    layer = nn.Linear(len(values), 1, bias=False)
    set_weights(layer, *values)
    model = nn.Sequential(nn.Flatten(), layer)
    allocation = Allocation(make_units(model, (1, 1, len(values)), "weight"), "params", "global", sparsity)
    return layer, Setup(model, allocation, steps, generator(seed, "method"))


def set_weights(layer: nn.Linear, *values: float) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([values]))


def test_cubic_ramp() -> None:
    """Zhu and Gupta's equation 1, from nothing to 0.8 over half of the phase."""
    assert cubic(0.8, 0.0, 0.5) == 0
    assert cubic(0.8, 0.1, 0.5) == pytest.approx(0.8 * (1 - 0.8**3))  # 0.3904
    assert cubic(0.8, 0.25, 0.5) == pytest.approx(0.7)  # 0.8 * 7/8
    assert cubic(0.8, 0.5, 0.5) == cubic(0.8, 1.0, 0.5) == 0.8
    assert cubic(0.8, 0.0, 0.0) == 0.8  # no ramp: all at once


def test_gmp_follows_the_cubic_and_the_weights_underneath() -> None:
    """Sparsity 0.75 of four weights is due after 8 steps: 0, 0.99, 1.73 and 2.27 are to go in steps 0 to 3."""
    layer, setup = weights(4, -3, 2, -1, sparsity=0.75)
    method = GMP(setup, GMP.Options(ramp=0.8, every=1))
    assert method.mask(0).tolist() == [1, 1, 1, 1]
    assert method.mask(1).tolist() == [1, 1, 1, 0]
    assert method.mask(2).tolist() == [1, 1, 0, 0]
    set_weights(layer, 0.1, -3, 2, -5)  # a weight that grew underneath its mask comes back
    assert method.mask(2).tolist() == [0, 1, 0, 1]
    assert method.mask(3).tolist() == [0, 0, 0, 1]


def test_gmp_freezes_after_the_ramp() -> None:
    layer, setup = weights(4, -3, 2, -1, sparsity=0.5)
    method = GMP(setup, GMP.Options(ramp=0.8, every=1))
    masks = [method.mask(step).tolist() for step in range(8)]
    assert masks[7] == [1, 1, 0, 0]
    set_weights(layer, 0.1, -3, 2, -1)
    assert method.mask(8).tolist() == [0, 1, 1, 0]  # the ramp ends here, at the full sparsity
    set_weights(layer, 9, 0.1, 0.2, 9)
    assert method.mask(9).tolist() == [0, 1, 1, 0]
    assert setup.allocation.hard(method.scores()).tolist() == [0, 1, 1, 0]


def test_gmp_makes_a_mask_every_few_steps() -> None:
    _, setup = weights(4, -3, 2, -1, sparsity=0.75)
    method = GMP(setup, GMP.Options(ramp=0.8, every=4))
    assert [sum(method.mask(step).tolist()) for step in range(10)] == [4, 4, 4, 4, 1, 1, 1, 1, 1, 1]


def test_magnitude_keeps_the_largest_of_the_dense_network() -> None:
    layer, setup = weights(3, -1, 2, -4)
    method = OneShot(setup, OneShot.Options("magnitude"))
    method.begin()
    set_weights(layer, 0, 9, 9, 0)  # what training does later makes no difference
    assert method.mask(0).tolist() == method.mask(9).tolist() == [1, 0, 0, 1]
    assert setup.allocation.hard(method.scores()).tolist() == [1, 0, 0, 1]


def test_the_share_of_each_group_that_is_kept() -> None:
    """Of four and four weights the best four: three of the first layer and one of the second."""
    first, second = nn.Linear(4, 1, bias=False), nn.Linear(1, 4, bias=False)
    set_weights(first, 9, -8, 7, 0.1)
    with torch.no_grad():
        second.weight.copy_(torch.tensor([[0.2], [-6.0], [0.3], [0.4]]))
    model = nn.Sequential(nn.Flatten(), first, second)
    allocation = Allocation(make_units(model, (1, 2, 2), "weight"), "params", "global", 0.5)
    method = OneShot(Setup(model, allocation, 1, generator(0)))
    method.begin()
    assert method.keep_ratios().tolist() == [0.75, 0.25]


def test_random_depends_on_the_seed_alone() -> None:
    masks = []
    for seed, fill in ((0, 1.0), (0, -7.0), (1, 1.0)):
        torch.manual_seed(int(fill) + 50)
        _, setup = weights(*[fill] * 64, seed=seed)
        method = OneShot(setup, OneShot.Options({"name": "random"}))
        method.begin()
        masks.append(method.mask(0))
        assert int(masks[-1].sum()) == 32
        assert torch.equal(setup.allocation.hard(method.scores()), masks[-1])
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_filters_score_by_root_mean_square() -> None:
    """The norm over the square root of the size, in units of the layer's: a filter twice as large scores the same."""
    first, second = nn.Conv2d(1, 2, 2), nn.Conv2d(2, 1, 1)
    model = nn.Sequential(first, second, nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[[[3.0, 4.0], [0.0, 0.0]]], [[[1.0, -1.0], [1.0, -1.0]]]]))
        second.weight.copy_(torch.tensor([[[[1.0]], [[-7.0]]]]))
    allocation = Allocation(make_units(model, (1, 2, 2), "filter"), "params", "global", 0.2)
    setup = Setup(model, allocation, 1, generator(0))
    expected = [(25 / 4 / (29 / 8)) ** 0.5, (4 / 4 / (29 / 8)) ** 0.5, 1.0]
    assert setup.magnitudes().tolist() == pytest.approx(expected)
    with torch.no_grad():
        first.weight.mul_(10)  # what a batch norm would undo
    assert setup.magnitudes().tolist() == pytest.approx(expected)


def test_gmp_without_steps_keeps_the_largest() -> None:
    _, setup = weights(1, -3, 2, -4, steps=0)
    method = GMP(setup)
    method.begin()
    assert setup.allocation.hard(method.scores()).tolist() == [0, 1, 0, 1]
