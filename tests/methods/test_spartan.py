"""Spartan against numbers worked out by hand: its schedules, what the forward pass shows, and its gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruner.checks import ConfigError
from pruner.config import Block, Config
from pruner.methods.base import Setup
from pruner.methods.schedules import linear
from pruner.methods.spartan import Spartan, deviation, in_live_outputs
from pruner.runtime.seeds import generator
from pruner.sparsity.allocation import Allocation
from pruner.sparsity.budget import soft_mask
from pruner.sparsity.masked import MaskedModel
from pruner.sparsity.units.make import make_units
from pruner.store.folders import RunFolder


def weights(*values: float, sparsity: float = 0.5, steps: int = 10) -> tuple[nn.Linear, Setup]:
    """One linear layer of so many weights, each a unit (none is kept by min_units), and the setup of a method on it."""
    layer = nn.Linear(len(values), 1, bias=False)
    set_weights(layer, *values)
    model = nn.Sequential(nn.Flatten(), layer)
    allocation = Allocation(make_units(model, (1, 1, len(values)), "weight"), "params", "global", sparsity, 0)
    return layer, Setup(model, allocation, steps, generator(0, "method"))


def set_weights(layer: nn.Linear, *values: float) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([values]))


def test_the_linear_schedule() -> None:
    assert [linear(0.8, progress, 0.5) for progress in (0, 0.25, 0.5, 1)] == [0, 0.4, 0.8, 0.8]
    assert linear(0.8, 0.0, 0.0) == 0.8  # no ramp: all at once


def test_the_soft_mask_is_a_sigmoid_of_standardised_magnitudes() -> None:
    """Of |w| = 1, 3 the deviation is 1, so y = sigmoid(beta u + mu); one of two to keep puts mu between them."""
    _, setup = weights(-1, 3)
    assert deviation(setup.magnitudes()) == pytest.approx(1)
    method = Spartan(setup, Spartan.Options(beta_start=2, beta_end=2, ramp=0))
    assert method.mask(0).tolist() == pytest.approx([1 / (1 + math.exp(2)), 1 / (1 + math.exp(-2))])
    assert method.visible().tolist() == [0, 1]
    for scale in (1e-3, 1e3):  # beta is per deviation, so the weights' scale makes no difference
        _, scaled = weights(-scale, 3 * scale)
        assert Spartan(scaled, Spartan.Options(2, 2, ramp=0)).mask(0).tolist() == pytest.approx(
            method.soft.tolist(), rel=1e-5
        )


def test_equal_magnitudes_share_the_budget() -> None:
    _, setup = weights(2, -2, 2, -2)
    assert Spartan(setup, Spartan.Options(ramp=0)).mask(0).tolist() == pytest.approx([0.5] * 4)


def test_the_schedules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten steps: sparsity 0, 0.45, 0.9, ...; beta 1, 1 + 19/8, ..., 20 at the step after which nothing changes."""
    _, setup = weights(*range(1, 21), sparsity=0.9)
    asked: list[tuple[float, float]] = []
    both = Allocation.both

    def recorded(self: Allocation, scores: Tensor, temperature: float, sparsity: float) -> tuple[Tensor, Tensor]:
        asked.append((sparsity, deviation(scores) / temperature))
        return both(self, scores, temperature, sparsity)

    monkeypatch.setattr(Allocation, "both", recorded)
    method = Spartan(setup, Spartan.Options(beta_end=20, ramp=0.2))
    kept = []
    for step in range(10):
        method.mask(step)
        kept.append(int(method.visible().sum()))
    sparsities, betas = zip(*asked, strict=True)
    assert sparsities == pytest.approx([0, 0.45] + [0.9] * 7)  # steps 0 to 8: the tenth step makes no mask
    assert betas == pytest.approx([1 + 19 * step / 8 for step in range(9)])
    assert kept == [20, 11, 2, 2, 2, 2, 2, 2, 2, 2]


def test_the_forward_pass_has_exactly_the_best_units() -> None:
    layer, setup = weights(4, -3, 2, -1, sparsity=0.5)
    method, network = Spartan(setup, Spartan.Options(beta_end=3)), MaskedModel(setup.model, setup.units)
    network.gate(method.mask(5), method.visible())
    used = [network(torch.eye(4)[i].view(1, 1, 1, 4)).item() for i in range(4)]
    expected = layer.weight.flatten() * method.soft * torch.tensor([1.0, 1, 0, 0])
    assert used == pytest.approx(expected.tolist())
    assert used[2:] == [0, 0]
    assert method.final_mask().tolist() == pytest.approx((method.soft * method.top).tolist())


def test_a_hidden_weight_gets_the_gradient_of_a_shown_one() -> None:
    """The indicator is straight-through and y differentiated: dL/dw = y g + sign(w) (beta / std) v (w g - mean)."""
    layer, setup = weights(4, -3, 2, -1, sparsity=0.5)
    method, network = (
        Spartan(setup, Spartan.Options(beta_start=3, beta_end=3, ramp=0)),
        MaskedModel(setup.model, setup.units),
    )
    network.gate(method.mask(5), method.visible())
    x = torch.tensor([0.3, -1.0, 0.7, 2.0])
    network(x.view(1, 1, 1, 4)).sum().backward()
    w, y = layer.weight.detach().flatten(), method.soft
    torch.testing.assert_close(y, soft_mask(w.abs() / 1.25**0.5, 2, temperature=1 / 3))
    v, g = y * (1 - y), w * x
    through_mask = 3 / (1.25**0.5) * v * (g - (v * g).sum() / v.sum()) * w.sign()
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad.flatten(), y * x + through_mask)
    assert bool((layer.weight.grad != 0).all())  # the two hidden weights too


@pytest.mark.parametrize("revive", [True, False])
def test_an_output_that_is_hidden_altogether_is_revived_or_not(revive: bool) -> None:
    """As in the test before; where not, the second output has y = 0 and g = 0: the budget's push is left."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    w = torch.tensor([[4.0, -3], [2, -1]])
    model[1].weight = nn.Parameter(w.clone())
    allocation = Allocation(make_units(model, (1, 1, 2), "weight"), "params", "global", 0.5, 0)
    setup = Setup(model, allocation, 10, generator(0, "method"))
    method = Spartan(setup, Spartan.Options(beta_start=3, beta_end=3, ramp=0, revive=revive))
    network = MaskedModel(model, setup.units)
    network.gate(method.mask(5), method.visible())
    x = torch.tensor([0.3, -1.0])
    network(x.view(1, 1, 1, 2)).sum().backward()
    live = torch.tensor([[1.0, 1], [revive, revive]])
    y = soft_mask(w.abs().flatten() / 1.25**0.5, 2, temperature=1 / 3).view(2, 2)
    v, g = y * (1 - y), w * x * live
    through_mask = 3 / (1.25**0.5) * v * (g - (v * g).sum() / v.sum()) * w.sign()
    torch.testing.assert_close(model[1].weight.grad, y * live * x + through_mask)
    torch.testing.assert_close(method.soft.view(2, 2), y * live)


def test_behind_a_batch_norm_a_silent_channel_has_gradients_of_another_size() -> None:
    """Of a channel of zeros a batch norm passes back 1 / sqrt(eps), 316, times what comes: why there is `revive`.

    Through the budget that the units share, the channels that are heard get of it as well.
    """
    largest = {}
    for revive in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
        units = make_units(model, (1, 3, 3), "kernel", exclude=("last",))
        setup = Setup(model, Allocation(units, "params", "global", 0.5, 0), 10, generator(0, "method"))
        method, network = Spartan(setup, Spartan.Options(ramp=0, revive=revive)), MaskedModel(model, units)
        network.gate(method.mask(5), method.visible())
        nn.functional.cross_entropy(network(torch.randn(16, 1, 3, 3)), torch.arange(16) % 2).backward()
        assert method.visible().tolist() == [0, 0, 1, 1]
        (grad,) = (p.grad for name, p in model.named_parameters() if name == "0.weight")
        assert grad is not None
        largest[revive] = grad.flatten(1).norm(dim=1)
    assert float(largest[True].max()) > 30 * float(largest[False].max())


@pytest.mark.parametrize("granularity", ["weight", "kernel", "block"])
def test_units_of_live_outputs(granularity: str) -> None:
    """Against the weights themselves: an output is live when any of its weights is shown."""
    model = nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), nn.Flatten(), nn.Linear(6, 4))
    units = make_units(model, (4, 3, 3), granularity, block=Block((1, 2)))
    shown = (torch.rand(units.n, generator=generator(1, "method")) < 0.15).float()
    live = in_live_outputs(units, shown)
    assert 0 < int(live.sum()) < units.n
    for name, weight in units.zeros(shown).items():
        some = weight.flatten(1).amax(1, keepdim=True).expand_as(weight.flatten(1))
        assert torch.equal(units.zeros(live)[name].flatten(1), some)


@pytest.mark.parametrize("granularity", ["nm", "filter"])
def test_what_is_shown_is_in_a_live_output(granularity: str) -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), nn.Flatten(), nn.Linear(6, 4))
    units = make_units(model, (4, 3, 3), granularity)
    shown = (torch.rand(units.n, generator=generator(1, "method")) < 0.15).float()
    assert shown.any()
    assert bool((in_live_outputs(units, shown) >= shown).all())


def test_the_mask_stays_for_the_last_part() -> None:
    layer, setup = weights(4, -3, 2, -1, sparsity=0.5)
    method = Spartan(setup)
    assert all(method.mask(step).requires_grad for step in range(8))
    frozen = method.mask(8)
    set_weights(layer, 0.1, 0.1, 9, 9)
    assert torch.equal(method.mask(9), frozen)
    assert not frozen.requires_grad
    assert method.visible().tolist() == setup.allocation.hard(method.scores()).tolist() == [1, 1, 0, 0]
    assert torch.equal(method.final_mask(), frozen * torch.tensor([1.0, 1, 0, 0]))


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_a_short_phase_ends_with_the_target(steps: int) -> None:
    _, setup = weights(4, -3, 2, -1, sparsity=0.75, steps=steps)
    method = Spartan(setup)
    method.begin()
    for step in range(steps):
        method.mask(step)
    assert method.visible().tolist() == setup.allocation.hard(method.scores()).tolist() == [1, 0, 0, 0]
    assert float(method.soft.sum()) == pytest.approx(1)


def test_the_frozen_mask_is_in_checkpoints() -> None:
    _, setup = weights(4, -3, 2, -1)
    method = Spartan(setup)
    method.mask(8)
    _, later = weights(0.1, 0.1, 9, 9)
    resumed = Spartan(later)
    resumed.load_state_dict(method.state_dict())
    assert torch.equal(resumed.mask(9), method.mask(9))
    assert torch.equal(resumed.visible(), method.visible())
    assert torch.equal(resumed.scores(), method.scores())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta_start": 0.0}, "method.beta_start=0.0: above 0"),
        ({"beta_end": 0.5}, "method.beta_end=0.5: method.beta_start=1.0 or more"),
        ({"ramp": 1.5}, "method.ramp=1.5: from 0 to 1"),
        ({"freeze": 0.0}, "method.freeze=0.0: above 0 and at most 1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        Spartan(weights(1, 2)[1], Spartan.Options(**options))
    assert str(refusal.value) == message


@pytest.mark.parametrize("granularity", ["weight", "filter"])
def test_a_run(granularity: str, tiny_config: Callable[..., Config], finish: Callable[[Config], RunFolder]) -> None:
    row = finish(tiny_config("spartan", granularity=granularity, recipe={"prune_epochs": 3})).finished()
    assert row is not None
    assert row["soft_accuracy"] == row["hard_accuracy"]  # the forward pass is hard from the start
    if granularity == "weight":
        assert row["prunable_params_kept"] == row["prunable_params_total"] // 2
