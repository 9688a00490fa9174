"""The checks of DTP's equations: the plan's log-odds, its gradient, its budget. The soft mask has its own tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pruner.config import Config
from pruner.methods.base import Setup
from pruner.methods.dtp import DTP
from pruner.run.experiment import Experiment, prepare
from pruner.runtime.seeds import generator
from pruner.sparsity.allocation import Allocation
from pruner.sparsity.budget import soft_mask
from pruner.sparsity.units.make import make_units
from pruner.store.folders import RunFolder
from tests.toy_training import begun


def dtp_of(experiment: Experiment) -> DTP:
    method, _ = experiment.method()
    assert isinstance(method, DTP)
    return method


def dtp_on(*weights: float, steps: int, **options: Any) -> DTP:
    """On one linear layer with these weights, each a unit, of which half may stay; none is protected."""
    layer = nn.Linear(len(weights), 1, bias=False)
    layer.weight.data.copy_(torch.tensor([weights]))
    model = nn.Sequential(nn.Flatten(), layer)
    units = make_units(model, (1, 1, len(weights)), "weight")
    allocation = Allocation(units, "params", "global", 0.5, min_units=0)
    method = DTP(Setup(model, allocation, steps, generator(0, "method")), DTP.Options(**options))
    return begun(method)


def slope(y: Tensor, x: Tensor) -> float:
    return float(np.polyfit(x.detach().double().numpy(), y.detach().double().numpy(), 1)[0])


@pytest.mark.parametrize("eps", [0.01, 0.5, 3.0])
def test_the_temperature_after_t_steps_is_eps_over_t(eps: float) -> None:
    """Check 2 of the card: with constant scores the log-odds grow by (2s - 1) / eps a step, up to a constant."""
    scores = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    path = torch.zeros_like(scores)
    for step in range(1, 201):
        path = path + scores
        assert slope(path * 2 / eps, (2 * scores - 1) / eps) == pytest.approx(step, rel=1e-6)
    one_step_at_eps_over_t = soft_mask(2 * scores / (eps / 200), 15)
    torch.testing.assert_close(soft_mask(path, 15, temperature=eps / 2), one_step_at_eps_over_t, rtol=0, atol=1e-9)


def test_the_method_accumulates_the_scores_of_its_steps(tiny_config: Callable[..., Config]) -> None:
    method = begun(dtp_of(prepare(tiny_config("dtp"))))
    before = method.scores().clone()
    for step in range(method.setup.steps):
        method.mask(step)
        method.update(step)
    assert method.setup.steps == 6
    assert slope(method.scores() - before, method.latent) == pytest.approx(6, rel=1e-5)


def test_the_sharpness_is_reached_in_the_last_step_of_the_phase() -> None:
    """Of 1, 2, 3 and 6 the mean is 3 and the variance 3.5; log-odds grow to 2 x s after T steps of s, here x = 3.

    What is folded looks one step ahead, with the scores as they are.
    """
    method = dtp_on(1, -2, 3, -6, steps=4, sharpness=3.0, ramp=0.0)
    s = torch.tensor([-2.0, -1, 0, 3]) / 3.5**0.5
    torch.testing.assert_close(method.latent.detach(), s)
    for step in range(4):
        torch.testing.assert_close(method.mask(step).detach(), soft_mask(2 * 3 * s * (step + 1) / 4, 2))
        method.update(step)
    torch.testing.assert_close(method.final_mask(), soft_mask(2 * 3 * s * 5 / 4, 2))


def test_the_budget_comes_down_along_the_cubic() -> None:
    """Of eight units (1 - p / 0.5)^3 of the half that goes: 8 (1 - 0.244) = 6.05 and 8 (1 - 0.392) = 4.86."""
    method = dtp_on(*range(1, 9), steps=10, ramp=0.5)
    assert [float(method.mask(step).detach().sum()) for step in range(10)] == pytest.approx([8, 6, *[4] * 8])


def test_a_step_of_the_scores_by_hand() -> None:
    """By the gradient over its root mean square, without momentum, at the scores' own rate and not the weights'."""
    method = dtp_on(1, -2, 3, -6, steps=4, score_lr=0.5)
    start, rms = method.latent.detach().clone(), (29 / 4) ** 0.5
    optimizer = method.optimizer(lr=7.0)
    assert optimizer is not None
    for _ in range(2):
        method.latent.grad = torch.tensor([3.0, 4, 0, -2])
        optimizer.step()
    torch.testing.assert_close(method.latent.detach(), start - 2 * 0.5 * torch.tensor([3.0, 4, 0, -2]) / rms)


def test_a_step_that_is_not_updated_leaves_the_plan_alone(tiny_config: Callable[..., Config]) -> None:
    """The mask may be asked for twice; only `update` takes the step."""
    method = begun(dtp_of(prepare(tiny_config("dtp"))))
    before = method.scores().clone()
    assert torch.equal(method.mask(5), method.mask(5))
    assert torch.equal(method.scores(), before)


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_the_mask_is_the_sigmoid_of_the_next_log_odds(scope: str, tiny_config: Callable[..., Config]) -> None:
    """Within a group, log(m / (1 - m)) and the log-odds after this step differ by one constant, the multiplier."""
    method = dtp_of(prepare(tiny_config("dtp", scope=scope)))
    method.eps = 2.0  # soft enough for units that are not decided
    for step in range(4):
        mask = method.mask(step)
        path = method.scores().clone()
        method.update(step)
    assert torch.equal(method.path, path)
    plan = path * 2 / method.eps
    groups = [slice(g.start, g.stop) for g in method.setup.units.groups] if scope == "layer" else [slice(None)]
    for group in groups:
        difference = torch.logit(mask[group].detach().double()) - plan[group]
        difference = difference[(mask[group] > 0.01) & (mask[group] < 0.99)]
        assert len(difference) > 1
        torch.testing.assert_close(difference, difference.mean().expand_as(difference), rtol=0, atol=1e-4)


def last_step(scores: Tensor, path: Tensor, eps: float, budget: float, cost: Tensor | None) -> Tensor:
    return soft_mask(path + scores, budget, cost, eps / 2)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_gradient_of_the_last_step(weighted: bool) -> None:
    """Check 3 of the card: gradcheck in float64, and the formula written out."""
    draw = torch.Generator().manual_seed(1)
    scores = torch.randn(12, dtype=torch.float64, generator=draw, requires_grad=True)
    path = torch.randn(12, dtype=torch.float64, generator=draw)
    cost = 1 + torch.rand(12, dtype=torch.float64, generator=draw) if weighted else None
    eps, budget = 1.7, 5.0
    assert torch.autograd.gradcheck(lambda s: last_step(s, path, eps, budget, cost), scores)

    mask = last_step(scores, path, eps, budget, cost)
    g = torch.randn(12, dtype=torch.float64, generator=draw)
    (gradient,) = torch.autograd.grad(mask, scores, g)
    v = (mask * (1 - mask)).detach()
    c = torch.ones_like(v) if cost is None else cost
    torch.testing.assert_close(gradient, 2 / eps * v * (g - c * (v * g).sum() / (c * v).sum()))


def test_decided_units_freeze_and_the_past_carries_no_gradient(tiny_config: Callable[..., Config]) -> None:
    """As m goes to 0 or 1 the gradient vanishes; and the plan of earlier steps is a constant to the last one."""
    scores = torch.linspace(-1, 1, 20, dtype=torch.float64, requires_grad=True)
    mask = last_step(scores, torch.zeros(20, dtype=torch.float64), 0.001, 10, None)
    (gradient,) = torch.autograd.grad(mask[0], scores)
    assert float(gradient.abs().max()) < 1e-9

    method = dtp_of(prepare(tiny_config("dtp")))
    method.mask(0)
    method.update(0)
    assert not method.scores().requires_grad
    method.mask(1).square().sum().backward()
    assert method.latent.grad is not None and bool((method.latent.grad != 0).any())


def test_every_step_of_a_run_meets_its_budget(
    tiny_config: Callable[..., Config], finish: Callable[[Config], RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check 5 of the card: sum m = k to 1e-6 at every step, k never grows, and hardening keeps exactly the last k."""
    asked: list[int] = []
    met: list[float] = []
    soft = Allocation.soft

    def recorded(self: Allocation, scores: Tensor, temperature: float = 1.0, sparsity: float | None = None) -> Tensor:
        mask = soft(self, scores, temperature, sparsity)
        if sparsity is not None:  # a training step; what is logged after an epoch looks ahead to the end
            asked.append(self.target(sparsity))
            met.append(float(mask.detach().sum(dtype=torch.float64)))
        return mask

    monkeypatch.setattr(Allocation, "soft", recorded)
    row = finish(tiny_config("dtp", sparsity=0.9, recipe={"prune_epochs": 5})).finished()
    assert row is not None
    assert len(asked) >= 5 * 3  # every step of the pruning phase
    assert met == pytest.approx(asked, rel=1e-6)
    assert asked == sorted(asked, reverse=True)
    assert row["prunable_params_kept"] == asked[-1] == row["prunable_params_total"] // 10
