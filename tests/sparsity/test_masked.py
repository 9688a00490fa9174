"""A pruned weight stays pruned, folding is exact, and the plain model is what ran under the masks."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruner.sparsity.counts import revived
from pruner.sparsity.masked import MaskedModel
from pruner.sparsity.units.make import Units, make_units

SHAPE = (3, 8, 8)
GRANULARITIES = pytest.mark.parametrize("granularity", ["weight", "filter"])


def make(granularity: str) -> tuple[nn.Sequential, Units, MaskedModel]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip
    units = make_units(model, SHAPE, granularity)
    return model, units, MaskedModel(model, units)


def train(masked: MaskedModel, optimizer: torch.optim.Optimizer, steps: int = 5) -> None:
    masked.train()
    for _ in range(steps):
        loss = F.cross_entropy(masked(torch.randn(16, *SHAPE)), torch.randint(5, (16,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.05)


def random_mask(n: int) -> Tensor:
    mask = (torch.rand(n, generator=torch.Generator().manual_seed(5)) < 0.5).float()
    assert 0 < mask.sum() < n
    return mask


@GRANULARITIES
def test_pruned_weights_stay_zero_through_momentum_and_weight_decay(granularity: str) -> None:
    model, units, masked = make(granularity)
    optimizer = sgd(model)
    train(masked, optimizer)  # fills the momentum of all weights
    hard = random_mask(units.n)
    masked.harden(hard, hard)
    assert not revived(model, units, hard)
    train(masked, optimizer)
    assert revived(model, units, hard)  # momentum did move the parameters underneath
    images = torch.randn(4, *SHAPE)
    under_masks = masked.eval()(images)
    masked.clear()
    assert not revived(model, units, hard)
    assert torch.equal(model(images), under_masks) and torch.equal(masked(images), under_masks)
    for name, zero in units.zeros(hard).items():
        values = dict(model.named_parameters())[name]
        assert bool((values[zero == 0] == 0).all()) and bool((values[zero == 1] != 0).all())


@GRANULARITIES
def test_a_fixed_mask_forgets_what_was_shown(granularity: str) -> None:
    _, units, masked = make(granularity)
    hard, shown, images = random_mask(units.n), torch.zeros(units.n), torch.randn(4, *SHAPE)
    masked.eval().fix(hard)
    expected = masked(images)
    masked.gate(torch.ones(units.n), shown)
    assert torch.equal(masked.mask, shown) and not torch.equal(masked(images), expected)
    masked.fix(hard)
    assert torch.equal(masked.mask, hard) and torch.equal(masked(images), expected)


@GRANULARITIES
def test_fixed_masks_hide_dead_weights_from_loss_and_gradient(granularity: str) -> None:
    model, units, masked = make(granularity)
    hard = random_mask(units.n)
    masked.fix(hard)
    images = torch.randn(8, *SHAPE)
    with torch.no_grad():
        before = masked(images)
        for name, zero in units.zeros(hard).items():
            dict(model.named_parameters())[name][zero == 0] = 100.0
        assert torch.equal(masked(images), before)
    masked(images).square().sum().backward()
    for name, zero in units.zeros(hard).items():
        gradient = dict(model.named_parameters())[name].grad
        assert gradient is not None and bool((gradient[zero == 0] == 0).all())


@GRANULARITIES
@pytest.mark.parametrize("training", [True, False])
def test_folding_gives_the_network_that_the_soft_mask_gave(granularity: str, training: bool) -> None:
    _, units, masked = make(granularity)
    hard = random_mask(units.n)
    soft = hard * torch.linspace(0.2, 1.0, units.n)
    images = torch.randn(8, *SHAPE)
    masked.gate(soft)
    expected = masked.train(training)(images)
    masked.harden(hard, soft)
    assert torch.allclose(masked(images), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(masked.mask, hard)


def test_folding_multiplies_weights_once() -> None:
    model, units, masked = make("weight")
    parameters = dict(model.named_parameters())
    before = units.sum_over(parameters).detach().clone()
    hard, soft = random_mask(units.n), torch.rand(units.n)
    masked.harden(hard, soft)
    assert torch.equal(units.sum_over(parameters), before * (hard * soft))


def test_filters_are_folded_where_they_were_gated() -> None:
    model, _, masked = make("filter")
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    hard = torch.tensor([1.0, 0, 1, 1, 0, 1, 1, 1, 0, 1])  # six filters behind batch norm, four with a bias
    soft = torch.full((10,), 0.5)
    masked.harden(hard, soft)
    first, second = hard[:6], hard[6:]
    after = dict(model.named_parameters())
    assert torch.equal(after["0.weight"], before["0.weight"] * first.view(-1, 1, 1, 1))
    assert torch.equal(after["1.weight"], before["1.weight"] * first / 2)
    assert torch.equal(after["1.bias"], before["1.bias"] * first / 2)
    reads = second.view(-1, 1, 1, 1) * first.view(1, -1, 1, 1)
    assert torch.equal(after["3.weight"], before["3.weight"] * reads / 2)
    assert torch.equal(after["3.bias"], before["3.bias"] * second / 2)
    assert torch.equal(after["7.weight"], before["7.weight"] * second.repeat_interleave(4))
    assert torch.equal(after["7.bias"], before["7.bias"])


def test_a_gate_multiplies_gamma_and_beta_and_leaves_the_parameters_alone() -> None:
    model, _, masked = make("filter")
    with torch.no_grad():
        model.get_parameter("1.bias").uniform_(0.5, 1)
    before = {name: value.detach().clone() for name, value in model.state_dict().items()}
    features = model[:2]
    images = torch.randn(4, *SHAPE)
    mask = torch.cat([torch.linspace(0, 1, 6), torch.ones(4)])
    seen: list[Tensor] = []
    hook = model[1].register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    masked.eval()
    masked.gate(mask)
    masked(images)
    hook.remove()
    assert torch.allclose(seen[0], features(images) * mask[:6].view(1, -1, 1, 1), atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@GRANULARITIES
def test_gradients_reach_the_mask_and_the_weights(granularity: str) -> None:
    model, units, masked = make(granularity)
    scores = torch.zeros(units.n, requires_grad=True)
    masked.gate(scores.sigmoid())
    assert not masked.mask.requires_grad and torch.equal(masked.mask, torch.full((units.n,), 0.5))
    F.cross_entropy(masked(torch.randn(16, *SHAPE)), torch.randint(5, (16,))).backward()
    assert scores.grad is not None and float((scores.grad != 0).double().mean()) > 0.9
    assert all(parameter.grad is not None for parameter in model.parameters())


@GRANULARITIES
def test_a_mask_of_ones_and_no_mask_change_nothing(granularity: str) -> None:
    model, units, masked = make(granularity)
    images = torch.randn(4, *SHAPE)
    plain = model.eval()(images)
    assert torch.equal(masked(images), plain)
    for apply in (masked.gate, masked.fix):
        apply(torch.ones(units.n))
        assert torch.equal(masked(images), plain)


def test_batch_norm_keeps_its_statistics_under_a_mask() -> None:
    model, units, masked = make("filter")
    masked.gate(torch.full((units.n,), 0.5))
    masked.train()(torch.randn(32, *SHAPE))
    assert int(model.get_buffer("1.num_batches_tracked")) == 1
    assert bool((model.get_buffer("1.running_mean") != 0).all())


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of gates, at which dynamo looks
@GRANULARITIES
def test_a_compiled_network_trains_as_the_plain_one_does(granularity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(module: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., Any]:
        calls.append(len(example))
        return module.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counted))
    trained = []
    for compiled in (False, True):
        model, units, _ = make(granularity)
        masked = MaskedModel(model, units, compiled=compiled)
        mask = (0.2 + 0.6 * torch.rand(units.n, generator=torch.Generator().manual_seed(5))).requires_grad_()
        masked.gate(mask)
        torch.manual_seed(1)
        masked.train()
        for _ in range(3):
            masked.gate(mask * 0.9)
            train(masked, sgd(model), steps=1)
        assert bool(calls) == compiled
        trained.append({**model.state_dict(), "mask": mask.grad})
    for name, value in trained[0].items():
        torch.testing.assert_close(trained[1][name], value)


def test_what_cannot_be_compiled_runs_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(module: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., Any]:
        raise RuntimeError("no compiler\nof any kind")

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=broken))
    model, units, plain = make("weight")
    masked = MaskedModel(model, units, compiled=True)
    images = torch.randn(4, *SHAPE)
    for _ in range(2):
        torch.testing.assert_close(masked.train()(images), plain.train()(images))
    (warning,) = (record.getMessage() for record in caplog.records if record.name == "pruner.sparsity.masked")
    assert warning.startswith("compile: goes on without (BackendCompilerFailed: ")
