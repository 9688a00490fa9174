"""PDP against numbers worked out by hand: the threshold, the mask around it, and its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import pytest
import torch
from torch import nn

from pruner.checks import ConfigError
from pruner.config import Config
from pruner.methods.base import Setup
from pruner.methods.pdp import PDP, midway, soft_around
from pruner.runtime.seeds import generator
from pruner.sparsity.allocation import Allocation
from pruner.sparsity.units.make import make_units
from pruner.store.folders import RunFolder

INF = math.inf


def weights(
    *values: float, sparsity: float = 0.5, steps: int = 10, scope: str = "global", min_units: int = 1
) -> tuple[nn.Linear, Setup]:
    """One linear layer of so many weights, each a unit, and the setup of a method on it."""
    layer = nn.Linear(len(values), 1, bias=False)
    set_weights(layer, *values)
    model = nn.Sequential(nn.Flatten(), layer)
    units = make_units(model, (1, 1, len(values)), "weight")
    return layer, Setup(model, Allocation(units, "params", scope, sparsity, min_units), steps, generator(0, "method"))


def set_weights(layer: nn.Linear, *values: float) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([values]))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_the_threshold_is_midway() -> None:
    magnitudes = torch.tensor([[4.0, 3, 2, 1], [1, 9, 5, 6]])
    kept = torch.tensor([[1.0, 1, 0, 0], [0, 1, 0, 0]])
    assert midway(magnitudes, kept).tolist() == [[2.5], [7.5]]


def test_units_that_are_kept_whatever_their_size_do_not_move_the_threshold() -> None:
    magnitudes = torch.tensor([[4.0, 3, 2, 1]])
    assert midway(magnitudes, torch.tensor([[1.0, 0, 0, 1]])).item() == 3.5
    assert midway(magnitudes, torch.tensor([[0.0, 0, 0, 1]])).item() == INF
    assert midway(magnitudes, torch.tensor([[0.0, 0, 0, 0]])).item() == INF
    assert midway(magnitudes, torch.tensor([[1.0, 1, 1, 1]])).item() == -INF


def test_the_mask_by_hand() -> None:
    """Mean square 7.5 and threshold 2.5: at tau 0.4 the mask is sigmoid((w^2 - 6.25) / 3)."""
    soft = soft_around(torch.tensor([[4.0, 3, 2, 1]]), torch.tensor([[1.0, 1, 0, 0]]), tau=0.4)
    assert soft.tolist()[0] == pytest.approx([sigmoid((w * w - 6.25) / 3) for w in (4, 3, 2, 1)])


def test_what_is_kept_below_the_threshold_gets_one() -> None:
    magnitudes = torch.tensor([[4.0, 3, 2, 1]], requires_grad=True)
    soft = soft_around(magnitudes, torch.tensor([[1.0, 0, 0, 1]]), tau=0.4)
    assert soft.tolist()[0] == pytest.approx([sigmoid((w * w - 12.25) / 3) for w in (4, 3, 2)] + [1])


@pytest.mark.parametrize(("kept", "expected"), [(1.0, 1.0), (0.0, 0.0)])
def test_with_all_kept_or_dropped_the_mask_is_decided(kept: float, expected: float) -> None:
    magnitudes = torch.tensor([[4.0, 0, 2]], requires_grad=True)
    soft = soft_around(magnitudes, torch.full((1, 3), kept), tau=0.1)
    assert soft.tolist() == [[expected] * 3]
    soft.sum().backward()
    assert magnitudes.grad is not None and magnitudes.grad.tolist() == [[0.0] * 3]  # not NaN


def test_a_layer_of_zeros_is_undecided() -> None:
    soft = soft_around(torch.zeros(1, 4), torch.tensor([[1.0, 1, 0, 0]]), tau=0.1)
    assert soft.tolist() == [[0.5] * 4]


def test_the_gradient() -> None:
    """gradcheck cannot see what is held constant, so the formula: dm/dw = 2 w m (1 - m) / (tau mean(w^2))."""
    magnitudes = torch.tensor([[4.0, 3, 2, 1]], dtype=torch.float64, requires_grad=True)
    soft = soft_around(magnitudes, torch.tensor([[1.0, 1, 0, 0]]), tau=0.4)
    g = torch.tensor([[0.3, -1.0, 0.7, 2.0]], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(soft, magnitudes, g)
    torch.testing.assert_close(gradient, (g * 2 * magnitudes * soft * (1 - soft) / 3).detach())


def test_the_undecided_share_follows_from_tau() -> None:
    """The docstring's figure, from normal quantiles; a scale on the weights makes no difference."""
    n = 100_000
    quantiles = torch.linspace(0.5 / n, 1 - 0.5 / n, n, dtype=torch.float64)
    magnitudes = (2**0.5 * torch.erfinv(2 * quantiles - 1)).abs()[None]
    normal, logit = NormalDist(), math.log(0.95 / 0.05)
    t = normal.inv_cdf(0.95)
    low, high = (t * t - 0.05 * logit) ** 0.5, (t * t + 0.05 * logit) ** 0.5
    expected = 2 * (normal.cdf(high) - normal.cdf(low))
    assert expected == pytest.approx(0.018, abs=0.0005)
    for scale in (1.0, 0.03):
        kept = (magnitudes > t).double()
        soft = soft_around(scale * magnitudes, kept, tau=0.05)
        undecided = ((soft > 0.05) & (soft < 0.95)).double().mean()
        assert float(undecided) == pytest.approx(expected, abs=1e-3)


def test_the_budget_comes_down_linearly_over_the_weights_as_they_are() -> None:
    """Half of four weights is due after five of ten steps: 0.4 to go at step 1, 0.8 at 2, 1.2 at 3, 1.6 at 4."""
    layer, setup = weights(4, -3, 2, -1, sparsity=0.5)
    method = PDP(setup, PDP.Options(tau=1e-3, ramp=0.5))
    masks = [[round(m, 6) for m in method.mask(step).tolist()] for step in range(10)]
    assert masks[0] == [1, 1, 1, 1]
    assert masks[1:5] == [[1, 1, 1, 0]] * 2 + [[1, 1, 0, 0]] * 2
    assert masks[5:] == [[1, 1, 0, 0]] * 5
    set_weights(layer, 0.1, -3, 2, -5)
    assert setup.allocation.hard(method.scores()).tolist() == [0, 1, 0, 1]
    assert method.final_mask().tolist() == pytest.approx([0, 1, 0, 1])
    assert method.mask(0).tolist() == [1, 1, 1, 1]


def test_the_weights_get_a_gradient_through_the_mask() -> None:
    layer, setup = weights(4, -3, 2, -1, sparsity=0.5)
    PDP(setup, PDP.Options(tau=0.4, ramp=0)).mask(0).sum().backward()
    m = [sigmoid((w * w - 6.25) / 3) for w in (4, 3, 2, 1)]
    expected = [2 * w * y * (1 - y) / 3 for w, y in zip((4, -3, 2, -1), m, strict=True)]
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad.flatten(), torch.tensor(expected))


def test_each_competition_has_its_own_threshold() -> None:
    """scope=layer: a second layer with weights a hundred times smaller keeps its half, with its own tau."""
    first, second = nn.Linear(4, 1, bias=False), nn.Linear(1, 4, bias=False)
    model = nn.Sequential(nn.Flatten(), first, second)
    set_weights(first, 4, -3, 2, -1)
    with torch.no_grad():
        second.weight.copy_(torch.tensor([[0.01], [0.02], [0.03], [0.04]]))
    setups = {}
    for scope in ("global", "layer"):
        allocation = Allocation(make_units(model, (1, 2, 2), "weight"), "params", scope, 0.5)
        setups[scope] = Setup(model, allocation, 10, generator(0, "method"))
    by_hand = [sigmoid((w * w - 6.25) / 3) for w in (4, 3, 2, 1)]
    apart = PDP(setups["layer"], PDP.Options(tau=0.4, ramp=0)).mask(0).tolist()
    assert apart == pytest.approx(by_hand + by_hand[::-1], rel=1e-5)
    together = PDP(setups["global"], PDP.Options(tau=1e-3, ramp=0)).mask(0).tolist()
    # Four of eight: one of the second layer is kept by min_units, so the first gives up its smallest.
    assert together == pytest.approx([1, 1, 1, 0, 0, 0, 0, 1])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"tau": 0.0}, "method.tau=0.0: above 0"), ({"ramp": -0.1}, "method.ramp=-0.1: from 0 to 1")],
)
def test_options_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        PDP(weights(1, 2)[1], PDP.Options(**options))
    assert str(refusal.value) == message


@pytest.mark.parametrize("granularity", ["weight", "filter"])
def test_a_run(granularity: str, tiny_config: Callable[..., Config], finish: Callable[[Config], RunFolder]) -> None:
    row = finish(tiny_config("pdp", granularity=granularity, recipe={"prune_epochs": 3})).finished()
    assert row is not None
    assert 0.5 <= row["achieved_sparsity"] < 0.6
    if granularity == "weight":
        assert row["prunable_params_kept"] == row["prunable_params_total"] // 2
