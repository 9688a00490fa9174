"""The checks of DPP's card: the draws, the sum of softmaxes, where gradients go, and the measures by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruner.checks import ConfigError
from pruner.config import Config
from pruner.methods.base import Setup
from pruner.methods.dpp import DPP, confidence, diversity, successive_softmax
from pruner.run.phases import prepare
from pruner.runtime.seeds import generator
from pruner.sparsity.allocation import Allocation
from pruner.sparsity.masked import MaskedModel
from pruner.sparsity.units.make import make_units
from pruner.store.folders import RunFolder
from tests.toy_training import begun


def make_dpp(
    weights: list[list[float]], sparsity: float, scope: str = "row", steps: int = 10, **options: Any
) -> tuple[DPP, nn.Linear]:
    """DPP on one linear layer, without a ramp of the budget unless it is asked for."""
    layer = nn.Linear(len(weights[0]), len(weights), bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weights))
    model = nn.Sequential(nn.Flatten(), layer)
    allocation = Allocation(make_units(model, (1, 1, len(weights[0])), "weight"), "params", scope, sparsity)
    method = DPP(Setup(model, allocation, steps, generator(0, "method")), DPP.Options(**{"ramp": 0.0, **options}))
    return begun(method), layer


def softmaxes_in_turn(z: Tensor, k: int, temperature: float) -> Tensor:
    """The sum as the paper's sampler writes it: k softmaxes, each without the largest so far."""
    order = z.argsort(dim=1, descending=True)
    return torch.stack(
        [(z.scatter(1, order[:, :r], -torch.inf) / temperature).softmax(1) for r in range(k)],
    ).sum(0)


@pytest.mark.parametrize("temperature", [5.0, 0.5, 0.05])
@pytest.mark.parametrize("k", [1, 2, 7, 31])
def test_s_is_the_sum_of_k_softmaxes(k: int, temperature: float) -> None:
    """Value and gradient of the sum in closed form are those of the softmaxes taken one by one; rows sum to k."""
    draw = torch.Generator().manual_seed(k)
    z = 3 * torch.randn(5, 32, dtype=torch.float64, generator=draw)
    weight = torch.randn(5, 32, dtype=torch.float64, generator=draw)
    found, expected = z.clone().requires_grad_(), z.clone().requires_grad_()
    s = successive_softmax(found, k, temperature)
    oracle = softmaxes_in_turn(expected, k, temperature)
    torch.testing.assert_close(s, oracle, rtol=0, atol=1e-11)
    torch.testing.assert_close(s.sum(1), torch.full((5,), float(k), dtype=torch.float64), rtol=0, atol=1e-11)
    (s * weight).sum().backward()
    (oracle * weight).sum().backward()
    assert found.grad is not None and expected.grad is not None
    torch.testing.assert_close(found.grad, expected.grad, rtol=0, atol=1e-9)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_s_has_the_gradient_of_finite_differences(k: int) -> None:
    z = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: successive_softmax(z, k, 0.7), z)


def test_s_by_hand() -> None:
    """Weights 4, 1, 2, 1 at T = 1, three kept: shares of 8, then of 4 without the 4, then of 2 without the 2.

    The second pick is the 2, which stands third: picks go by score, not by index.
    """
    z = torch.tensor([[4.0, 1.0, 2.0, 1.0]], dtype=torch.float64).log()
    assert successive_softmax(z, 1, 1.0)[0].tolist() == pytest.approx([1 / 2, 1 / 8, 1 / 4, 1 / 8])
    assert successive_softmax(z, 2, 1.0)[0].tolist() == pytest.approx([1 / 2, 1 / 8 + 1 / 4, 1 / 4 + 1 / 2, 3 / 8])
    assert successive_softmax(z, 3, 1.0)[0].tolist() == pytest.approx([1 / 2, 7 / 8, 3 / 4, 7 / 8])
    assert successive_softmax(z, 4, 1.0).tolist() == [[1, 1, 1, 1]]
    assert successive_softmax(z, 0, 1.0).tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_s_becomes_m_as_the_temperature_falls(dtype: torch.dtype) -> None:
    """Check 1 of the card; and gradients stay finite where exp(z / T) overflows."""
    generator = torch.Generator().manual_seed(3)
    z = torch.stack([torch.randperm(20, generator=generator).to(dtype) for _ in range(4)]).requires_grad_()
    s = successive_softmax(z, 6, 0.01)
    torch.testing.assert_close(s.detach(), (z >= 14).to(dtype), rtol=0, atol=1e-30)
    s.square().sum().backward()
    assert z.grad is not None and bool(z.grad.isfinite().all())


@pytest.mark.parametrize("temperature", [5.0, 0.5])
def test_s_sums_to_k_in_single_precision(temperature: float) -> None:
    """Check 1 of the card, on rows as large as those of a wide layer."""
    z = 2 * torch.randn(64, 4608, generator=torch.Generator().manual_seed(0))
    for k in (1, 8, 32):
        sums = successive_softmax(z, k, temperature).sum(1, dtype=torch.float64)
        torch.testing.assert_close(sums, torch.full_like(sums, k), rtol=1e-5, atol=0)


@pytest.mark.parametrize("softmaxes", [0, 32])
@pytest.mark.parametrize("scope", ["row", "layer", "global"])
def test_masks_are_hard_and_keep_exactly_k(scope: str, softmaxes: int) -> None:
    """Check 1 of the card: 0 and 1 to the last bit, k in every row, fresh draws, top-k of phi at the end."""
    torch.manual_seed(0)
    method, _ = make_dpp(torch.randn(6, 10).tolist(), 0.7, scope, softmaxes=softmaxes, sigma=1.0, sigma_end=1.0)
    masks = [method.mask(step).detach() for step in range(10)]
    for mask in masks:
        assert set(mask.tolist()) == {0.0, 1.0}
        assert [int(part.sum()) for part in method.allocation.split(mask)] == [18]
        if scope == "row":
            assert mask.view(6, 10).sum(1).tolist() == [3.0] * 6
    assert len({tuple(mask.tolist()) for mask in masks}) > 5
    best = method.phi.detach().view(6, 10) if scope == "row" else method.phi.detach().view(1, 60)
    kept = torch.zeros_like(best).scatter(1, best.topk(best.shape[1] * 3 // 10, dim=1).indices, 1.0)
    assert torch.equal(method.final_mask(), kept.flatten())


def test_the_gradient_is_that_of_s_at_this_step(tiny_config: Callable[..., Config]) -> None:
    """Backward the mask is S of the draw at the step's temperature; in rows that keep more, the soft mask's."""
    options = {"sigma": 0.0, "sigma_end": 0.0, "ramp": 0.0, "softmaxes": 8}
    method, _ = prepare(tiny_config("dpp", scope="row", sparsity=0.8, options=options)).method()
    assert isinstance(method, DPP) and method.setup.steps == 6
    weight = torch.randn(method.setup.units.n, generator=torch.Generator().manual_seed(1))
    (method.mask(2) * weight).sum().backward()
    assert method.phi.grad is not None
    temperature = 5 - 4.5 * 2 / 5
    z = method.phi.detach().clone().requires_grad_()
    (method.allocation.soft(z, temperature) * weight).sum().backward()
    assert z.grad is not None
    kept = method.allocation.kept()
    assert kept is not None and min(kept) <= 8 < max(kept)
    parts = [method.allocation.split(values) for values in (method.phi.grad, z.grad, z.detach(), weight)]
    for found, expected, rows, factors, k in zip(*parts, kept, strict=True):
        if k <= 8:
            rows = rows.clone().requires_grad_()
            (successive_softmax(rows, k, temperature) * factors).sum().backward()
            assert isinstance(rows.grad, Tensor)
            expected = rows.grad
        assert bool((expected != 0).any())
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_frequencies_of_the_draws() -> None:
    """Check 2 of the card: with sigma = 1 and k = 1, 10^5 draws have the frequencies softmax(phi)."""
    method, _ = make_dpp([[1.0] * 5], 0.8, softmaxes=0, sigma=1.0)
    draws, phi = 100_000, torch.tensor([0.5, -1.0, 2.0, 0.0, 1.0])
    method.phi.data.copy_(phi)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        z = torch.stack([method.draw(0.0, generator) for _ in range(draws)])
        drawn = method.draw(0.0, method.setup.draws(0))  # which is what the step's mask is made of
    assert torch.equal(method.mask(0), (drawn == drawn.max()).float())
    p = phi.softmax(0)
    frequencies = z.argmax(1).bincount(minlength=5) / draws
    standard_errors = (p * (1 - p) / draws).sqrt()
    assert bool(((frequencies - p).abs() <= 3 * standard_errors).all())


def test_the_noise_falls_on_a_line_to_its_end_in_the_last_step() -> None:
    method, _ = make_dpp(torch.ones(6, 10).tolist(), 0.8, sigma=2.0, sigma_end=0.5)
    method.phi.data.zero_()

    def noise(progress: float) -> Tensor:
        return method.draw(progress, torch.Generator().manual_seed(0)).detach()

    torch.testing.assert_close(noise(0.5), 1.25 / 2 * noise(0.0))
    torch.testing.assert_close(noise(1.0), 0.5 / 2 * noise(0.0))
    method, _ = make_dpp(torch.randn(6, 10).tolist(), 0.8, sigma=1000.0, sigma_end=0.0)
    assert torch.equal(method.mask(9), method.final_mask())
    assert not torch.equal(method.mask(8), method.final_mask())


def test_the_budget_comes_down_along_the_cubic() -> None:
    """Of eight units (1 - p / 0.5)^3 of the half that goes: 8 (1 - 0.244) = 6.05 and 8 (1 - 0.392) = 4.86."""
    method, _ = make_dpp([[float(i) for i in range(1, 9)]], 0.5, "global", ramp=0.5)
    assert [int(method.mask(step).sum()) for step in range(10)] == [8, 6, *[4] * 8]


def test_a_first_step_of_the_logits_by_hand() -> None:
    """Adam's is by the sign of the gradient, at the logits' own rate and not the weights'."""
    method, _ = make_dpp([[1.0, -2.0, 4.0, 8.0]], 0.5, score_lr=0.25)
    start, optimizer = method.phi.detach().clone(), method.optimizer(lr=7.0)
    assert optimizer is not None
    method.phi.grad = torch.tensor([3.0, 4, 0, -2])
    optimizer.step()
    torch.testing.assert_close(method.phi.detach(), start - 0.25 * torch.tensor([1.0, 1, 0, -1]))


def test_a_dropped_weight_gets_no_gradient_and_can_return() -> None:
    """Check 3 of the card: phi learns through S, w through A; a unit outside this draw has its logit trained on."""
    method, layer = make_dpp([[1.0, -2.0, 3.0, 0.5]], 0.5, sigma=0.0, sigma_end=0.0, spread=0.7, steps=40)
    network = MaskedModel(method.setup.model, method.setup.units)
    optimizer = method.optimizer(0.1)
    assert optimizer is not None
    x = torch.tensor([[[[1.0, 1.0, 1.0, 1.0]]]])
    assert method.mask(0).tolist() == [0, 1, 1, 0]
    for step in range(40):
        mask = method.mask(step)
        network.gate(mask)
        loss = (network(x) - 4).square().sum()  # asks for 1 and 3, the first and the third
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            assert isinstance(layer.weight.grad, Tensor) and isinstance(method.phi.grad, Tensor)
            assert (layer.weight.grad[0] != 0).tolist() == [False, True, True, False]
            assert bool((method.phi.grad != 0).all())
        optimizer.step()
    assert method.mask(39).tolist() == [1, 0, 1, 0]


def test_confidence_and_diversity_by_hand() -> None:
    """Check 5 of the card, on three rows of four candidates.

    Rows (1/2, 1/2, 0, 0), (0, 0, 1/2, 1/2) and (1/4, 1/4, 1/4, 1/4): entropies log 2, log 2 and log 4, so 4/3 log 2 on
    average; the mean row is even, with log 4 = 2 log 2. With k = 1: 1 - (4/3 log 2 - 0) / log 4 = 1/3. With k = 2:
    1 - (4/3 - 1) log 2 / (2 - 1) log 2 = 2/3. Diversity: (2 - 4/3) log 2.
    """
    never = -200.0
    logits = torch.tensor([[0.0, 0.0, never, never], [never, never, 5.0, 5.0], [1.0, 1.0, 1.0, 1.0]])
    assert confidence(logits, 1) == pytest.approx(1 / 3)
    assert confidence(logits, 2) == pytest.approx(2 / 3)
    assert diversity(logits) == pytest.approx(2 / 3 * math.log(2))


def test_ends_of_the_measures() -> None:
    decided = 200 * torch.eye(3)
    assert confidence(decided, 1) == pytest.approx(1)
    assert diversity(decided) == pytest.approx(math.log(3))  # each row another input
    assert diversity(decided[[0, 0, 0]]) == pytest.approx(0, abs=1e-6)
    assert not str(diversity(200 * torch.ones(1, 4))).startswith("-")  # rounding shows no -0.0 in tables
    even = torch.zeros(3, 5)
    assert confidence(even, 2) == confidence(even, 0) == confidence(even, 5) == pytest.approx(0, abs=1e-6)
    assert confidence(decided, 2) == 1  # more decided than k asks for
    assert confidence(torch.zeros(3, 1), 1) == 1


def test_measures_of_each_layer() -> None:
    """A row per output: the logits of the rows, and the k that the final mask keeps."""
    method, _ = make_dpp(torch.ones(3, 4).tolist(), 0.5)
    method.phi.data.copy_(torch.tensor([[0.0, 0, -200, -200], [-200, -200, 5, 5], [1, 1, 1, 1]]).flatten())
    assert method.measures() == {
        "1": {"confidence": pytest.approx(2 / 3), "diversity": pytest.approx(2 / 3 * math.log(2))}
    }


def test_penalty_by_hand() -> None:
    """lambda times the sum over rows of the entropy: log 4, and log 2 for the row (1/2, 1/2, 0, 0)."""
    method, _ = make_dpp(torch.ones(2, 4).tolist(), 0.5, entropy=0.1)
    method.phi.data.copy_(torch.tensor([3.0, 3, 3, 3, 0, 0, -200, -200]))
    penalty = method.penalty()
    assert isinstance(penalty, Tensor)
    assert float(penalty.detach()) == pytest.approx(0.1 * 3 * math.log(2))
    method.phi.data.copy_(torch.tensor([3.0, 2, 3, 3, 0, 1, -200, -200]))
    penalty = method.penalty()
    assert isinstance(penalty, Tensor)
    penalty.backward()
    assert method.phi.grad is not None
    falls, rises = method.phi.grad[[1, 4]], method.phi.grad[[0, 2, 3, 5]]
    assert bool((falls > 0).all()) and bool((rises < 0).all())  # descent sharpens the rows


@pytest.mark.parametrize("scope", ["row", "global"])
def test_the_entropy_does_not_swamp_the_loss(scope: str, tiny_config: Callable[..., Config]) -> None:
    """The sum over rows grows with the network: on a full ResNet-20 it stays below a twentieth of a fresh loss."""
    config = tiny_config("dpp", scope=scope, model={"label": "resnet20", "name": "resnet20", "options": {}})
    method, _ = prepare(config).method()
    penalty = method.penalty()
    assert isinstance(penalty, Tensor)
    assert 0 < float(penalty.detach()) < math.log(6) / 20


def test_logits_start_at_the_log_magnitudes() -> None:
    """Standardised: logs of 1, 2, 4 and 8 have a deviation of log 2 sqrt(5) / 2. A zero has a chance too."""
    step = 2 * 3 / math.sqrt(5)
    for scale in (1.0, 1e-4):
        method, _ = make_dpp([[scale, -2 * scale, 4 * scale, 8 * scale]], 0.5, spread=3.0)
        assert method.phi.detach().tolist() == pytest.approx([-1.5 * step, -step / 2, step / 2, 1.5 * step], rel=1e-5)
    method, _ = make_dpp([[1.0, -2.0, 4.0, 0.0]], 0.5)
    assert bool(method.phi.isfinite().all())
    method, _ = make_dpp([[1.0, 1.0]], 0.5)
    assert method.phi.tolist() == [0, 0]
    random, _ = make_dpp(torch.ones(40, 100).tolist(), 0.5, init="random", spread=0.5)
    assert float(random.phi.detach().std()) == pytest.approx(0.5, abs=0.02)
    again, _ = make_dpp(torch.zeros(40, 100).tolist(), 0.5, init="random", spread=0.5)
    assert torch.equal(random.phi, again.phi)


@pytest.mark.parametrize(
    ("option", "value"),
    [("sigma", -1.0), ("temperature_end", 0.0), ("spread", 0.0), ("ramp", 2.0), ("init", "zero"), ("softmaxes", -1)],
)
def test_wrong_options_are_refused(option: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"method.{option}={value}"):
        make_dpp([[1.0, 2.0]], 0.5, **{option: value})


@pytest.mark.parametrize(("granularity", "scope"), [("weight", "row"), ("weight", "global"), ("filter", "layer")])
def test_a_run(
    granularity: str, scope: str, tiny_config: Callable[..., Config], finish: Callable[[Config], RunFolder]
) -> None:
    row = finish(tiny_config("dpp", granularity=granularity, scope=scope, sparsity=0.5)).finished()
    assert row is not None and row["status"] == "done"
    assert row["soft_accuracy"] == row["hard_accuracy"]  # the final mask is hard: hardening changes nothing
