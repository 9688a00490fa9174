"""DSA's steps one by one: z, u and theta by hand, the rate, the importances that are drawn from, and the images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pruner.data
from pruner.config import Choice
from pruner.data.imageset import TensorSet
from pruner.methods.base import Setup
from pruner.methods.dsa import DSA, keep_probabilities
from pruner.methods.ratios import nearest_within
from pruner.runtime.seeds import generator
from pruner.sparsity.allocation import Allocation
from pruner.sparsity.units.make import make_units

STEPS = 20


@pytest.fixture
def setup() -> Setup:
    """Two layers of 48 and 16 weights, and images of which half are held out; the target is met by half of all."""
    torch.manual_seed(0)
    options = {"classes": 4, "image_size": 2, "train_size": 96, "test_size": 8}
    _, held_out = pruner.data.load(Choice("s", "synthetic", options), "", "cpu").train.split(0.5, 0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False))
    allocation = Allocation(make_units(model, (3, 2, 2), "weight"), "params", "global", 0.5)
    return Setup(model, allocation, STEPS, generator(0, "method"), examples=held_out, batch_size=40)


def dsa(setup: Setup, **options: Any) -> DSA:
    return DSA(setup, DSA.Options(**{"every": 1, "ramp": 0.0, **options}))


def test_z_is_near_theta_plus_u_and_theta_goes_towards_z_less_u(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scaled form of ADMM, without the loss; the multiplier moves in every second of 20 steps, 10 times in all."""
    monkeypatch.setattr(DSA, "_theta_step", lambda self, number, step: None)
    method = dsa(setup, pull=0.25, duals=10)
    theta, u = torch.tensor([1.0, -0.5]), torch.tensor([0.3, -0.2])
    method.theta.data.copy_(theta)
    method.u = u.clone()
    for step in range(2):
        method.update(step)
        z = nearest_within(theta + u, method.cost, 32)
        theta = 0.75 * theta + 0.25 * (z - u)
        torch.testing.assert_close(method.z, z)
        torch.testing.assert_close(method.theta.detach(), theta)
        u = u + theta - z if step == 1 else u
        torch.testing.assert_close(method.u, u)
    method.update(STEPS - 1)
    torch.testing.assert_close(method.theta.detach(), nearest_within(theta + u, method.cost, 32))


def test_the_rate_of_theta_falls_to_nothing_and_adds_up_to_what_was_asked(setup: Setup) -> None:
    method = dsa(setup, rate=3.0)
    rates = []
    for step in range(STEPS):
        method.mask(step)
        method.update(step)
        rates.append(method._adam.param_groups[0]["lr"])
    assert rates == pytest.approx([2 * 3 / STEPS * (1 - step / STEPS) for step in range(STEPS)])
    assert sum(rates) == pytest.approx(3 * (1 + 1 / STEPS))


def test_importances_are_rescaled_with_a_floor_under_their_median(setup: Setup) -> None:
    """Of logarithms 0, 0, 1 and -100 the last counts as -4.6: a mean of -0.9."""
    found = dsa(setup, spread=3.0)._rescaled(torch.tensor([0.0, 0.0, 1.0, -100.0]))
    floored = torch.tensor([0.9, 0.9, 1.9, -3.7])
    torch.testing.assert_close(found, 3 * floored / ((2 * 0.9**2 + 1.9**2 + 3.7**2) / 4) ** 0.5)
    assert dsa(setup, spread=0.0)._rescaled(torch.tensor([0.0, -100.0])).tolist() == [0, -100]


def test_beta_rises_from_one_exponentially_to_its_end(setup: Setup) -> None:
    method = dsa(replace(setup, steps=21), beta=100.0, start=0.0)
    logs = [method._rescaled(part.log()) for part in setup.magnitudes().detach().split(method.sizes)]
    for step, beta in ((0, 1.0), (10, 10.0), (20, 100.0)):
        expected = torch.cat([keep_probabilities(log_b, torch.tensor(0.5), beta) for log_b in logs])
        torch.testing.assert_close(method.probabilities(step), expected, rtol=1e-4, atol=1e-5)


def test_theta_sees_the_held_out_images_alone_a_share_of_a_batch_at_a_time(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, int]] = []
    batches = TensorSet.batches

    def recorded(self: TensorSet, batch_size: int, **how: Any) -> Iterator[tuple[Tensor, Tensor]]:
        seen.append((self is setup.examples, batch_size))
        return batches(self, batch_size, **how)

    monkeypatch.setattr(TensorSet, "batches", recorded)
    method = dsa(setup, batch_share=0.3)
    for step in range(STEPS):
        method.mask(step)
        method.update(step)
    assert set(seen) == {(True, 12)}  # 0.3 of 40
    assert len(seen) == STEPS // (48 // 12)
    assert dsa(setup, batch_share=0.001).batch_size == 2
