"""The checks of SMART's card: its budget, its gradient, its temperatures, and what a fixed temperature cannot do."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruner.checks import ConfigError
from pruner.config import Config
from pruner.methods.base import Setup
from pruner.methods.schedules import fall, reheated
from pruner.methods.smart import Smart
from pruner.runtime.seeds import generator
from pruner.sparsity.allocation import Allocation
from pruner.sparsity.budget import soft_mask
from pruner.sparsity.masked import MaskedModel
from pruner.sparsity.units.make import make_units
from pruner.store.folders import RunFolder
from tests.toy_training import begun

SCHEDULES = ["exponential", "linear", "cosine", "reheating"]


def smart_on(weights: Tensor, sparsity: float = 0.5, steps: int = 10, **options: Any) -> tuple[nn.Module, Smart]:
    """One linear layer with these weights [inputs], each a unit, and the method on it; no unit is protected.

    It starts at tau0, whatever that leaves undecided.
    """
    options = {"undecided": 1.0} | options
    layer = nn.Linear(len(weights), 1, bias=False)
    layer.weight.data.copy_(weights[None])
    model = nn.Sequential(nn.Flatten(), layer)
    units = make_units(model, (1, 1, len(weights)), "weight")
    allocation = Allocation(units, "params", "global", sparsity, min_units=0)
    method = Smart(Setup(model, allocation, steps, generator(0, "method")), Smart.Options(**options))
    return model, begun(method)


def test_falls_by_hand() -> None:
    assert [fall(1, 0.01, p) for p in (0, 0.5, 1)] == pytest.approx([1, 0.1, 0.01])
    assert [fall(1, 0.2, p, "linear") for p in (0, 0.25, 1)] == pytest.approx([1, 0.8, 0.2])
    assert [fall(1, 0.2, p, "cosine") for p in (0, 0.25, 0.5, 1)] == pytest.approx([1, 0.6 + 0.4 * 0.5**0.5, 0.6, 0.2])


def test_reheating_by_hand() -> None:
    """Two re-heatings of 1 -> 0.001: peaks 1, 0.1 and 0.01 at thirds of the phase, each fallen half way at a sixth."""
    peaks = [reheated(1, 0.001, third / 3 + 1e-9, 2) for third in range(3)]
    assert peaks == pytest.approx([1, 0.1, 0.01], rel=1e-6)
    halves = [reheated(1, 0.001, middle, 2) for middle in (1 / 6, 3 / 6, 5 / 6)]
    assert halves == pytest.approx([0.001**0.5, 0.0001**0.5, 0.00001**0.5])
    ends = [reheated(1, 0.001, end, 2) for end in (1 / 3 - 1e-9, 2 / 3 - 1e-9, 1)]
    assert ends == pytest.approx([0.001] * 3, rel=1e-6)
    for progress in (0.0, 0.3, 1.0):
        assert reheated(1, 0.001, progress, 0) == pytest.approx(fall(1, 0.001, progress))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_phase_begins_at_tau0_and_ends_at_tau1(schedule: str) -> None:
    """The mask of each end is the projection at its temperature, and the last one is the one that is folded."""
    weights = torch.linspace(-1, 2, 12)
    _, method = smart_on(weights, schedule=schedule, tau0=2.0, tau1=0.05, ramp=0.0)
    m = (weights.abs() - weights.abs().mean()) / weights.abs().std(correction=0)
    torch.testing.assert_close(method.latent.detach(), m)
    torch.testing.assert_close(method.mask(0).detach(), soft_mask(m, 6, temperature=2.0))
    torch.testing.assert_close(method.mask(9).detach(), soft_mask(m, 6, temperature=0.05))
    assert torch.equal(method.mask(9), method.final_mask())


@pytest.mark.parametrize("most", [0.1, 0.25, 0.5])
def test_tau0_is_lowered_until_few_units_are_undecided(most: float) -> None:
    """Even scores of 4000 units, half of which stay: sigmoid(d / tau) is undecided for |d| < tau log 19."""
    weights = torch.linspace(1, 2, 4000)
    _, method = smart_on(weights, undecided=most, tau1=0.001)
    width = 2 * 3**0.5  # of an even law with a deviation of 1
    assert method.temperature(0.0) == pytest.approx(most * width / (2 * math.log(19)), rel=0.02)
    start = method.mask(9)  # after the ramp; at the start of the phase the budget is still to come down
    assert float(((start > 0.05) & (start < 0.95)).float().mean()) <= most
    _, same = smart_on(weights, undecided=most, tau0=0.01, tau1=0.001)
    assert same.temperature(0.0) == 0.01
    _, equal = smart_on(torch.ones(8), undecided=most)  # which no temperature decides
    assert equal.temperature(0.0) == pytest.approx(equal.options.tau1)


def test_the_mask_goes_to_the_hard_top_k() -> None:
    """Check 1 of the card: the sum stays k while tau goes to 0, and at the end exactly the k largest are left."""
    weights = torch.rand(40, generator=torch.Generator().manual_seed(3))
    distances = []
    for tau in (1.0, 0.1, 0.01, 1e-6):
        _, method = smart_on(weights, sparsity=0.75, tau0=tau, tau1=tau)
        mask = method.final_mask()
        assert float(mask.sum(dtype=torch.float64)) == pytest.approx(10, rel=1e-6)
        top = torch.zeros(40).index_fill(0, weights.topk(10).indices, 1.0)
        assert torch.equal(method.allocation.hard(method.scores()), top)
        distances.append(float((mask - top).abs().max()))
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-6


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_the_gradient(temperature: float, weighted: bool) -> None:
    """Check 2 of the card: the formula in float64, and finite differences."""
    draw = torch.Generator().manual_seed(1)
    m = torch.randn(12, dtype=torch.float64, generator=draw, requires_grad=True)
    cost = 1 + torch.rand(12, dtype=torch.float64, generator=draw) if weighted else None
    assert torch.autograd.gradcheck(lambda s: soft_mask(s, 5, cost, temperature), m)

    f = soft_mask(m, 5, cost, temperature)
    g = torch.randn(12, dtype=torch.float64, generator=draw)
    (gradient,) = torch.autograd.grad(f, m, g)
    v = (f * (1 - f)).detach()
    c = torch.ones_like(v) if cost is None else cost
    torch.testing.assert_close(gradient, v * (g - c * (v * g).sum() / (c * v).sum()) / temperature)


def test_a_mask_parameter_hears_weight_times_error_times_activation() -> None:
    """g_j = <dL/dW_j, W_j>, and the weights themselves are not trained through their magnitudes."""
    weights = torch.tensor([0.5, -1.0, 2.0, 1.5])
    model, method = smart_on(weights, ramp=0.0)
    network = MaskedModel(model, method.setup.units)
    mask = method.mask(0)
    mask.retain_grad()
    network.gate(mask)
    x = torch.tensor([[1.0, 2.0, -1.0, 0.5]])
    network(x.view(1, 1, 1, 4)).square().sum().backward()
    f = mask.detach()
    error = 2 * (weights * f * x[0]).sum()
    assert mask.grad is not None and method.latent.grad is not None
    torch.testing.assert_close(mask.grad, weights * error * x[0])
    torch.testing.assert_close(next(model.parameters()).grad, (f * error * x[0])[None])
    assert float(method.latent.grad.abs().min()) > 0


def test_the_budget_comes_down_along_the_cubic() -> None:
    """Of eight units (1 - p / 0.5)^3 of the half that goes: 8 (1 - 0.244) = 6.05 and 8 (1 - 0.392) = 4.86."""
    _, method = smart_on(torch.arange(1.0, 9), steps=11, ramp=0.5)
    assert [float(method.mask(step).detach().sum()) for step in range(11)] == pytest.approx([8, 6, *[4] * 9])


def test_a_first_step_of_the_mask_parameters_by_hand() -> None:
    """By the gradient over its root mean square, at their own rate and not the weights'."""
    _, method = smart_on(torch.tensor([1.0, -2, 3, -6]), score_lr=0.5)
    start, rms = method.latent.detach().clone(), (29 / 4) ** 0.5
    method.latent.grad = torch.tensor([3.0, 4, 0, -2])
    method.optimizer(lr=7.0).step()
    torch.testing.assert_close(method.latent.detach(), start - 0.5 * torch.tensor([3.0, 4, 0, -2]) / rms)


def trained_toy(seed: int = 0, **options: Any) -> tuple[float, float, int]:
    """(loss with soft masks, loss after hardening, fractional masks) of a regression on features that come twice.

    Eight of the sixteen weights may stay; one of each pair is enough, but using both copies is at zero loss as well.
    """
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(64, 8, generator=draw)
    x, y = torch.cat([features, features], 1), features @ torch.linspace(1, 2, 8)
    start = torch.linspace(1, 2, 8).repeat(2) / 2 + 0.1 * torch.randn(16, generator=draw)
    model, method = smart_on(start, steps=400, **options)
    network = MaskedModel(model, method.setup.units)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), method.optimizer(0.05)]

    def loss() -> Tensor:
        return (network(x.view(64, 1, 1, 16)).squeeze(1) - y).square().mean()

    for step in range(400):
        network.gate(method.mask(step))
        loss().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    soft = method.final_mask()
    network.gate(soft)
    soft_loss = loss().item()
    network.harden(method.allocation.hard(method.scores()), soft)
    return soft_loss, loss().item(), int(((soft > 0.05) & (soft < 0.95)).sum())


def test_a_fixed_temperature_gets_stuck_with_fractional_masks() -> None:
    """Check 3 of the card, first half: at tau = 1 nothing pushes masks to 0 or 1, and hardening destroys the fit."""
    soft_loss, hard_loss, undecided = trained_toy(tau0=1.0, tau1=1.0)
    assert undecided == 16
    assert soft_loss < 1e-6 and hard_loss > 1


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_falling_temperature_decides_every_mask(schedule: str) -> None:
    """Check 3 of the card, second half: any schedule that ends at 1e-3 leaves no fractional mask and no gap.

    Of three toys the one in the middle: in the chaos of 400 steps a rounding may leave a pair of one toy undecided.
    """
    toys = [trained_toy(seed, tau0=1.0, tau1=0.001, schedule=schedule, score_lr=0.3) for seed in range(3)]
    assert median(undecided for _, _, undecided in toys) == 0
    assert median(abs(hard - soft) for soft, hard, _ in toys) < 1e-4
    assert median(hard for _, hard, _ in toys) < 0.1


WRONG = [
    ("method.tau0", {"tau0": 0.0}),
    ("method.tau1", {"tau1": 0.0}),
    ("method.tau1", {"tau0": 0.1, "tau1": 0.2}),
    ("method.undecided", {"undecided": 0.0}),
    ("method.schedule", {"schedule": "exponentiel"}),
    ("method.reheats", {"reheats": -1}),
    ("method.score_lr", {"score_lr": -0.1}),
    ("method.ramp", {"ramp": 1.5}),
]


@pytest.mark.parametrize(("key", "options"), WRONG)
def test_wrong_options_are_refused(key: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"^{key}="):
        smart_on(torch.ones(4), **options)


def test_every_step_of_a_run_meets_its_budget(
    tiny_config: Callable[..., Config], finish: Callable[[Config], RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check 1 of the card: sum f = k at every step, k never grows, and hardening keeps exactly the last k."""
    asked: list[int] = []
    met: list[float] = []
    soft = Allocation.soft

    def recorded(self: Allocation, scores: Tensor, temperature: float = 1.0, sparsity: float | None = None) -> Tensor:
        mask = soft(self, scores, temperature, sparsity)
        if torch.is_grad_enabled():  # a step, not a look at how soft the masks are
            asked.append(self.target(self.sparsity if sparsity is None else sparsity))
            met.append(float(mask.detach().sum(dtype=torch.float64)))
        return mask

    monkeypatch.setattr(Allocation, "soft", recorded)
    config = tiny_config("smart", options={"schedule": "reheating"}, sparsity=0.9, recipe={"prune_epochs": 3})
    row = finish(config).finished()
    assert row is not None
    assert len(asked) >= 3 * 3  # every step of the pruning phase
    assert met == pytest.approx(asked, rel=1e-6)
    assert asked == sorted(asked, reverse=True)
    assert row["prunable_params_kept"] == asked[-1] == row["prunable_params_total"] // 10
