"""Scores that probe networks with activations of mobile networks, which saturate or have no second derivative."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from pruner.checks import ConfigError
from pruner.config import Config
from pruner.methods.base import Setup
from pruner.methods.scores.grasp import gradient_flow
from pruner.run.experiment import prepare
from pruner.sparsity.units.make import make_units
from tests.methods.test_scores import flow_of, image_set, linear, score, setup_of


class Hard(nn.Module):
    """Such activations, in place and not."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 6, 2), nn.Conv2d(6, 6, 2), nn.Conv2d(6, 6, 1)
        self.swish, self.gate, self.cut = nn.Hardswish(inplace=True), nn.Hardsigmoid(), nn.Hardtanh(-0.5, 0.5)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.swish(self.a(3 * x)) + self.cut(self.a(x)), inplace=True)
        x = self.b(x) * F.hardsigmoid(3 * self.c(x.mean((2, 3), keepdim=True)), inplace=True)
        return self.head((self.gate(x) * x).mean((2, 3)))


def test_grasp_of_activations_without_a_second_derivative() -> None:
    """H g by a central difference of first derivatives, which are torch's own."""
    torch.manual_seed(4)
    model = Hard()
    units = make_units(model, (1, 4, 4), "weight")
    model.double()
    x, y = torch.randn(9, 1, 4, 4, dtype=torch.float64), torch.tensor([0, 1, 2] * 3)
    weights = {layer.weight: model.get_parameter(layer.weight) for layer in units.layers}

    def gradients() -> tuple[Tensor, ...]:
        return torch.autograd.grad(F.cross_entropy(model(x) / 2, y), list(weights.values()))

    def moved(by: float) -> tuple[Tensor, ...]:
        before = [weight.detach().clone() for weight in weights.values()]
        with torch.no_grad():
            for weight, direction in zip(weights.values(), slope, strict=True):
                weight.add_(direction, alpha=by)
        found = gradients()
        with torch.no_grad():
            for weight, value in zip(weights.values(), before, strict=True):
                weight.copy_(value)
        return found

    slope = gradients()
    step = 1e-5
    differences = zip(weights.items(), moved(step), moved(-step), strict=True)
    expected = units.sum_over({name: w.detach() * (a - b) / (2 * step) for (name, w), a, b in differences})
    found = gradient_flow(model, units, [(x, y)], 2.0)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-10)
    assert float(found.abs().max()) > 1e-4


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return slope


class Lacking(nn.Module):
    """A network with an operation that has one derivative and no second one."""

    def __init__(self, shape: tuple[int, int, int], classes: int, operation: str):
        super().__init__()
        self.conv, self.head = nn.Conv2d(shape[0], 4, 3), nn.Linear(4, classes)
        self.operation = Once.apply if operation == "once" else torch.ops.aten.hardsigmoid

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.operation(self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize("operation", ["once", "hardsigmoid_backward"])
def test_grasp_refuses_what_has_no_second_derivative_before_any_work(
    operation: str, tiny_config: Callable[..., Config]
) -> None:
    model = {"label": "lacking", "name": f"{__name__}:Lacking", "options": {"operation": operation}}
    said = rf"^method\.score\.name=grasp: takes second derivatives, .*{operation}.*; use another method$"
    with pytest.raises(ConfigError, match=said):
        prepare(tiny_config("grasp", model=model))
    prepare(tiny_config("snip", model=model))


def through(activation: nn.Module, scale: float = 1.0) -> Setup:
    """|W1| (1, 1) = (3, 3) `scale`, the activation, and the sum of 2 and 1 times what it gives."""
    layers = linear([scale, -2 * scale], [3 * scale, 0]), activation, linear([2, -1])
    return setup_of(nn.Sequential(nn.Flatten(), *layers), image_set(torch.zeros(1, 1, 1, 2), [0]))


@pytest.mark.parametrize(
    "activation", [nn.ReLU6(), nn.ReLU6(inplace=True), nn.Hardtanh(0, 1, inplace=True), nn.Hardtanh()]
)
def test_synflow_knows_no_ceiling(activation: nn.Module) -> None:
    """R = 2 * 30 + 1 * 30, which is shared by the units of both layers."""
    found = flow_of(through(activation, 10), torch.ones(6))
    assert found.tolist() == pytest.approx([20, 40, 30, 0, 60, 30])


def test_synflow_keeps_the_lower_end() -> None:
    """What is below it does not flow: only the second output, 3, is above 5/2."""
    setup = through(nn.Hardtanh(2.5, 10))
    mask = torch.tensor([1.0, 0, 1, 1, 1, 1])
    assert flow_of(setup, mask).tolist() == pytest.approx([0, 0, 3, 0, 5, 3])


def test_synflow_names_layers_without_flow(caplog: pytest.LogCaptureFixture) -> None:
    """From 3 on a hardsigmoid is 1, whatever comes before it."""
    score(through(nn.ReLU6()), "synflow", rounds=2)
    assert caplog.messages == []
    score(through(nn.Hardsigmoid()), "synflow", rounds=2)
    assert caplog.messages == ["synflow: no flow passes 1 of 2 layers, which score 0: 1"]
