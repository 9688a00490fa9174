"""A filter that is dropped for now learns what it would be worth: gradients against one-sided finite differences.

The loss bends where a filter comes back, at every ReLU behind its gate. What is right there is the derivative on the
side of masks above 0, which is what gates behind the activations, as the papers have them, would give.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruner.data import ImageSet
from pruner.methods.acdc import ACDC
from pruner.methods.base import Method, Setup
from pruner.methods.dpp import DPP
from pruner.methods.dsa import DSA, draw
from pruner.methods.spartan import Spartan
from pruner.sparsity.allocation import Allocation
from pruner.sparsity.masked import MaskedModel
from pruner.sparsity.units.make import make_units

SHAPE, CLASSES = (3, 8, 8), 5


def conv(ins: int, outs: int, kernel: int = 3, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(ins, outs, kernel, padding=kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outs)
    )


class Plain(nn.Module):
    """A batch norm and a pool, then a convolution without a norm; max pooling has to see what it would take."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv(3, 6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 5, 3, padding=1), nn.ReLU6(), nn.MaxPool2d(2)
        )
        self.classifier = nn.Linear(20, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


class Residual(nn.Module):
    """A stream of three sums of tied filters, each of which a ReLU follows; the last sum is read without one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 6)
        self.inner = nn.ModuleList(conv(6, 5) for _ in range(3))
        self.outer = nn.ModuleList(conv(5, 6) for _ in range(3))
        self.classifier = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        for number, (inner, outer) in enumerate(zip(self.inner, self.outer, strict=True)):
            x = x + outer(inner(x).relu())
            x = x.relu() if number < 2 else x
        return self.classifier(x.mean((2, 3)))


class Depthwise(nn.Module):
    """An inverted residual with an attention on channels: a gate before, and one behind, a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.expand = conv(3, 4), conv(4, 8, 1)
        self.depthwise, self.project = conv(8, 8, groups=8), conv(8, 4, 1)
        self.squeeze, self.excite = nn.Conv2d(8, 3, 1), nn.Conv2d(3, 8, 1)
        self.classifier = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.stem(x))
        inner = F.relu6(self.depthwise(F.relu6(self.expand(x))))
        inner = inner * self.excite(self.squeeze(inner.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return self.classifier((x + self.project(inner)).mean((2, 3)))


NETWORKS = pytest.mark.parametrize("network", [Plain, Residual, Depthwise])
METHODS = pytest.mark.parametrize("make", [DPP, DSA, Spartan])


def setup_of(network: type[nn.Module], images: ImageSet | None = None) -> Setup:
    """A trained-looking network in float64: norms and biases of any sign, so that ReLUs see both."""
    torch.manual_seed(0)
    model = network()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.5)
    allocation = Allocation(make_units(model, SHAPE, "filter"), "params", "global", 0.6)
    return Setup(model.double(), allocation, 20, torch.Generator().manual_seed(0), images, batch_size=16)


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(16, *SHAPE, generator=generator).double(), torch.arange(16) % CLASSES


def loss_under(setup: Setup, mask: Tensor, shown: Tensor | None = None) -> Tensor:
    x, y = batch()
    masked = MaskedModel(setup.model, setup.units).train()
    masked.gate(mask, shown)
    return F.cross_entropy(masked(x), y)


def derivatives_from_the_right(setup: Setup, mask: Tensor, units: Tensor) -> Tensor:
    """dL/dm of some units, by moving each of them up from where it is."""
    step = 1e-8  # gates on both sides of a depthwise convolution make a square of it
    slopes = []
    with torch.no_grad():
        start = loss_under(setup, mask)
        for unit in units.tolist():
            moved = mask.clone()
            moved[unit] += step
            slopes.append((loss_under(setup, moved) - start) / step)
    return torch.stack(slopes)


def mask_with_gradient(method: Method) -> tuple[Tensor, Tensor | None, Tensor]:
    """What the method's step puts on the network: its mask, with what it shows of it; and the mask as it is seen."""
    method.begin()
    if isinstance(method, DSA):  # the weights' masks carry no gradient; those of the keep ratios' steps do
        method.mask(0)
        method.theta.data.fill_(0.0)
        method.p = method.probabilities(step=19).double()
        chances = method.p.clone()
        mask, shown = draw(method.p.requires_grad_(), chances, method.setup.draws(19)), None
    else:
        mask, shown = method.mask(10), method.visible()
    return mask, shown, (mask.detach() * (1.0 if shown is None else shown)).double()


@NETWORKS
@METHODS
def test_the_gradient_of_hidden_filters_is_the_derivative_on_the_side_where_they_come_back(
    network: type[nn.Module], make: type[Method]
) -> None:
    setup = setup_of(network)
    mask, shown, seen = mask_with_gradient(make(setup))
    hidden = (seen == 0).nonzero().flatten()
    assert 3 <= len(hidden) < len(seen)
    mask.retain_grad()
    loss_under(setup, mask, shown).backward()
    assert mask.grad is not None
    expected = derivatives_from_the_right(setup, seen, hidden)
    torch.testing.assert_close(mask.grad[hidden].double(), expected, rtol=1e-4, atol=1e-7)
    assert float(expected.abs().max()) > 1e-3  # and they are worth something


@NETWORKS
def test_what_is_hidden_is_as_good_as_gone(network: type[nn.Module]) -> None:
    setup = setup_of(network)
    setup.model.float()
    mask = setup.allocation.hard(torch.rand(setup.units.n, generator=torch.Generator().manual_seed(2)))
    masked, x = MaskedModel(setup.model, setup.units).train(), batch()[0].float()
    masked.gate(mask)
    hidden = masked(x)
    masked.fix(mask)  # exact zeros
    torch.testing.assert_close(hidden, masked(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("network", [Plain, Residual])
def test_filters_that_acdc_brings_back_are_trained_on(network: type[nn.Module]) -> None:
    setup = setup_of(network)
    method = ACDC(setup, ACDC.Options(warmup=0, period=0.5, last_dense=0.5, last_sparse=0.8))
    method.begin()
    dense_again = next(step for step in range(setup.steps) if bool((method.mask(step) == 1).all()))
    assert dense_again > 0 and bool((method.kept == 0).any())
    mask = torch.ones(setup.units.n, dtype=torch.float64, requires_grad=True)
    loss_under(setup, mask).backward()
    parameters = dict(setup.model.named_parameters())
    number = torch.arange(setup.units.n).double() + 1
    slope = torch.zeros(setup.units.n + 1, dtype=torch.float64)
    for name, numbers in setup.units.gates(number).items():
        if name.endswith("bias"):  # it says on which side of its ReLU a filter comes back
            bias, channels = parameters[name], numbers.long()  # where what stays has number 1 too
            dropped = setup.units.gates(method.kept)[name] < 1
            assert bias.grad is not None and bool((bias[dropped].abs() < 1e-12).all())
            slope.index_add_(0, channels, torch.where(dropped, bias.grad.abs(), 0.0))
    assert bool((slope[1:][method.kept == 0] > 1e-9).all())
