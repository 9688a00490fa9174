"""The checks of DSA's equations: probabilities and their gradient, the budget over keep ratios, what theta learns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

import pruner.data
from pruner.compare.spread import paired
from pruner.config import BUDGETS, Choice, Config
from pruner.data import ImageSet
from pruner.data.imageset import TensorSet
from pruner.methods.base import Setup
from pruner.methods.dsa import DSA, draw, importance, keep_probabilities
from pruner.methods.examples import endless
from pruner.methods.ratios import along_budget, group_cost, nearest_within
from pruner.run.experiment import Experiment, prepare
from pruner.run.job import execute
from pruner.runtime.seeds import generator
from pruner.sparsity.allocation import Allocation
from pruner.sparsity.units.make import make_units
from pruner.store.folders import RunFolder
from pruner.store.row import LAYER_COLUMNS, read_rows
from pruner.training.checkpoint import Checkpoint
from tests.tiny_network import TinyNetwork

FILTERS: dict[str, Any] = {"granularity": "filter", "budget": "macs"}


def dsa_of(experiment: Experiment) -> DSA:
    method = experiment.pruning.method
    assert isinstance(method, DSA)
    return method


def log_importances(count: int) -> Tensor:
    return torch.randn(count, dtype=torch.float64, generator=torch.Generator().manual_seed(count))


def images(count: int = 96) -> ImageSet:
    options = {"classes": 4, "image_size": 8, "train_size": count, "test_size": 8, "noise": 0.2}
    return pruner.data.load(Choice("synthetic", "synthetic", options), "", "cpu").train


@pytest.mark.parametrize("beta", [1.0, 5.0, 100.0])
@pytest.mark.parametrize("alpha", [0.01, 0.5, 0.9933])
def test_probabilities_are_sigmoids_with_the_mean_alpha(alpha: float, beta: float) -> None:
    log_b = log_importances(40)
    p = keep_probabilities(log_b, torch.tensor(alpha, dtype=torch.float64), beta)
    assert float(p.mean()) == pytest.approx(alpha, abs=1e-9)
    threshold = torch.logit(p) / beta - log_b
    threshold = threshold[(p > 1e-6) & (p < 1 - 1e-6)]
    torch.testing.assert_close(threshold, threshold.mean().expand_as(threshold), rtol=0, atol=1e-7)


def test_mean_p_is_alpha_in_every_group_at_every_step(
    tiny_config: Callable[..., Config], finish: Callable[[Config], RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check 1 of the card, to 1e-5, in the probabilities before their floor."""
    gaps: list[float] = []
    mask = DSA.mask

    def watched(self: DSA, step: int) -> Tensor:
        drawn = mask(self, step)
        means = torch.stack([part.double().mean() for part in self.p.split(self.sizes)])
        gaps.append(float((means - self.keep_ratios().double()).abs().max()))
        return drawn

    monkeypatch.setattr(DSA, "mask", watched)
    finish(tiny_config("dsa", options={"every": 3}, recipe={"prune_epochs": 4}, **FILTERS))
    assert len(gaps) == 4 * 2
    assert max(gaps) < 1e-5


@pytest.mark.parametrize("beta", [1.0, 2.5, 5.0])
def test_gradient_to_alpha_against_finite_differences(beta: float) -> None:
    """Check 2 of the card: dp_i/dalpha = C f_i / sum f, and none to b."""
    log_b = log_importances(7)
    alpha = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    p = keep_probabilities(log_b, alpha, beta)
    assert torch.autograd.gradcheck(lambda a: keep_probabilities(log_b, a, beta), alpha, atol=1e-7, rtol=1e-6)
    assert not keep_probabilities(log_b.requires_grad_(), alpha.detach(), beta).requires_grad
    f = (p * (1 - p)).detach()
    for i in range(7):
        (to_alpha,) = torch.autograd.grad(p[i], alpha, retain_graph=True)
        assert float(to_alpha) == pytest.approx(float(7 * f[i] / f.sum()))


def test_the_gradient_vanishes_when_every_unit_is_decided() -> None:
    log_b, alpha = torch.tensor([0.0, 100.0]), torch.tensor(0.5, requires_grad=True)
    p = keep_probabilities(log_b, alpha, 100.0)
    assert p.tolist() == [0, 1]
    (gradient,) = torch.autograd.grad(p.sum(), alpha)
    assert float(gradient) == 0


def test_draws_are_hard_have_a_floor_and_pass_the_gradient_straight_through() -> None:
    p = torch.tensor([0.0, 0.6, 1.0]).repeat_interleave(40_000).requires_grad_()
    torch.manual_seed(0)
    mask = draw(p, p.detach().clamp(min=0.25), torch.Generator().manual_seed(0))
    assert set(mask.tolist()) == {0, 1}
    means = mask.detach().view(3, -1).mean(1).tolist()
    assert means == pytest.approx([0.25, 0.6, 1.0], abs=0.01)  # four standard deviations
    upstream = torch.randn_like(p)
    (gradient,) = torch.autograd.grad(mask, p, upstream)
    assert torch.equal(gradient, upstream)


def test_the_floor_is_a_share_of_what_the_group_keeps(tiny_config: Callable[..., Config]) -> None:
    method = dsa_of(prepare(tiny_config("dsa", options={"floor": 0.5, "start": 0.0})))  # alpha = 1/2 everywhere
    method.p = torch.linspace(0, 1, method.setup.units.n)
    torch.testing.assert_close(method.chances(), method.p.clamp(min=0.25))


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("granularity", ["weight", "kernel", "block", "filter", "head"])
def test_group_cost_is_the_cost_of_the_expanded_ratios(granularity: str, budget: str) -> None:
    allocation = Allocation(make_units(TinyNetwork((3, 8, 8), 6), (3, 8, 8), granularity), budget, "global", 0.2)
    cost, sizes = group_cost(allocation), torch.tensor(allocation.units.sizes)
    for seed in range(3):
        alpha = torch.rand(len(sizes), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        assert float(cost(alpha)) == pytest.approx(allocation.cost_of(alpha.repeat_interleave(sizes)), rel=1e-12)
    assert float(cost(torch.ones(len(sizes), dtype=torch.float64))) == allocation.total


@pytest.mark.parametrize(("budget", "pixels"), [("params", 1), ("macs", 64)])
def test_group_cost_of_two_convolutions_by_hand(budget: str, pixels: int) -> None:
    """3 to 4 channels, to 5 channels, to 6 classes."""
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 6)]
    cost = group_cost(Allocation(make_units(nn.Sequential(*layers), (3, 8, 8), "filter"), budget, "global", 0.2))
    a, b = 0.3, 0.9
    by_hand = pixels * (27 * 4 * a + 20 * a * b) + 30 * b
    assert float(cost(torch.tensor([a, b], dtype=torch.float64))) == pytest.approx(by_hand, rel=1e-12)


def linear(alpha: Tensor) -> Tensor:
    return alpha @ torch.tensor([1.0, 5.0, 20.0], dtype=torch.float64)


def coupled(alpha: Tensor) -> Tensor:
    """As filters: three layers in a chain, and an input that stays."""
    return 3 * alpha[0] + 8 * alpha[0] * alpha[1] + 15 * alpha[1] * alpha[2]


@pytest.mark.filterwarnings("ignore:Values in x were outside bounds:RuntimeWarning")  # the solver's, of scipy 1.15
@pytest.mark.parametrize("cost", [linear, coupled])
@pytest.mark.parametrize("budget", [2.0, 9.0, 22.0])  # the last is more than what theta asks for
def test_projection_is_feasible_and_nearest(cost: Callable[[Tensor], Tensor], budget: float) -> None:
    """Against a general solver: min sum c KL(alpha || start) on the tangent of F, c = dF/dalpha, at the solution.

    For a linear cost the tangent is F = F* itself.
    """
    theta = torch.tensor([2.0, 0.3, 1.1], dtype=torch.float64)
    alpha = torch.sigmoid(nearest_within(theta, cost, budget))
    assert budget * (1 - 1e-9) <= float(cost(alpha)) <= budget
    c = torch.autograd.functional.jacobian(cost, alpha)
    start = torch.sigmoid(theta)

    def distance(values: Any) -> float:
        a = torch.as_tensor(values)
        return float((c * (a * (a / start).log() + (1 - a) * ((1 - a) / (1 - start)).log())).sum())

    found = minimize(
        distance,
        [0.4, 0.4, 0.4],
        method="SLSQP",
        bounds=[(1e-6, 1 - 1e-6)] * 3,
        constraints=[{"type": "eq", "fun": lambda values: float((torch.as_tensor(values) - alpha) @ c)}],
        options={"ftol": 1e-13, "maxiter": 500},
    )
    assert found.success
    assert found.x.tolist() == pytest.approx(alpha.tolist(), abs=1e-5)
    assert distance(alpha) <= found.fun + 1e-9


def test_theta_goes_along_the_budget_to_what_gains_most_for_its_cost() -> None:
    """By hand: slopes for the cost of -2, -2 and -8 at weights dF/dtheta of 1, 2 and 1 have the mean -14/4; then for a coupled cost."""
    alpha, cost_slope = torch.full((3,), 0.5, dtype=torch.float64), torch.tensor([4.0, 8.0, 4.0], dtype=torch.float64)
    found = along_budget(torch.tensor([-8.0, -16.0, -32.0], dtype=torch.float64), alpha, cost_slope)
    by_hand = torch.tensor([1.5, 1.5, -4.5], dtype=torch.float64)
    torch.testing.assert_close(found, by_hand / by_hand.square().mean().sqrt())
    theta = torch.tensor([2.0, 0.3, -3.1], dtype=torch.float64)
    alpha = torch.sigmoid(theta)
    cost_slope = torch.autograd.functional.jacobian(coupled, alpha)
    step = 1e-6 * along_budget(torch.tensor([-1.0, -7.0, -2.0], dtype=torch.float64), alpha, cost_slope)
    moved = float(coupled(torch.sigmoid(theta - step)) - coupled(alpha))
    assert abs(moved) < 1e-5 * float((cost_slope * alpha * (1 - alpha) * step.abs()).sum())


def test_importance_of_filters_is_the_mean_gamma_of_their_norms() -> None:
    model = TinyNetwork((3, 8, 8), 6)
    with torch.no_grad():
        model.stem_norm.weight.copy_(torch.arange(8.0))
        model.conv2_norm.weight.fill_(-2)
        model.depthwise_norm.weight.fill_(3)
        model.conv1_norm.weight.copy_(-torch.arange(1.0, 11))
    allocation = Allocation(make_units(model, (3, 8, 8), "filter"), "macs", "global", 0.2)
    setup = Setup(model, allocation, 1, generator(0, "method"))
    found = dict(zip([g.name for g in allocation.units.groups], importance(setup).split([8, 10, 8]), strict=True))
    torch.testing.assert_close(found["stem"], (torch.arange(8.0) + 5) / 3)
    torch.testing.assert_close(found["conv1"], torch.arange(1.0, 11))
    pointwise = model.pointwise.weight.flatten(1).square().mean(1).sqrt()  # no batch norm
    torch.testing.assert_close(found["pointwise"], (pointwise / pointwise.square().mean().sqrt()).detach())


def test_importance_of_weights_is_their_magnitude() -> None:
    model = TinyNetwork((3, 8, 8), 6)
    with torch.no_grad():
        model.hidden.weight.zero_()
    setup = Setup(
        model,
        Allocation(make_units(model, (3, 8, 8), "weight"), "params", "global", 0.5),
        1,
        generator(0, "method"),
    )
    b = importance(setup)
    assert not b.requires_grad
    assert bool((b > 0).all())  # a logarithm is taken
    torch.testing.assert_close(b, setup.magnitudes().detach(), rtol=0, atol=1e-12)


def test_scores_keep_the_best_of_each_group_by_its_ratio(tiny_config: Callable[..., Config]) -> None:
    method = dsa_of(prepare(tiny_config("dsa", **FILTERS)))
    with torch.no_grad():
        method.theta.copy_(torch.linspace(-2, 2, len(method.sizes)))
    b, scores = importance(method.setup).split(method.sizes), method.scores().split(method.sizes)
    for log_b, score, alpha, size in zip(b, scores, method.keep_ratios().tolist(), method.sizes, strict=True):
        assert int((score > 0).sum()) == round(alpha * size)
        assert torch.equal(score.argsort(descending=True), log_b.argsort(descending=True, stable=True))


def test_batches_go_on_where_they_stopped() -> None:
    held_out = images()
    labels = [y.tolist() for _, y in islice(endless(held_out, 40, 7, 0), 6)]  # two in a pass
    for first in range(5):
        assert [y.tolist() for _, y in islice(endless(held_out, 40, 7, first), 6 - first)] == labels[first:]
    assert labels[0] != labels[2]


class Branches(nn.Module):
    """Two branches of eight channels each, of which the classifier reads the first alone."""

    def __init__(self) -> None:
        super().__init__()
        self.useful, self.useless = nn.Conv2d(1, 8, 3), nn.Conv2d(1, 8, 3)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8)])
        self.classifier = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        features = [norm(branch(x)) for norm, branch in zip(self.norms, (self.useful, self.useless), strict=True)]
        return self.classifier(torch.cat(features, 1).relu().mean((2, 3)))


@pytest.fixture
def branches() -> Setup:
    return trained_branches(0)


def trained_branches(seed: int) -> Setup:
    """A trained network whose second branch does nothing."""
    torch.manual_seed(seed)
    model, held_out = Branches(), images()
    shape = held_out.shape
    model.useful, model.useless = nn.Conv2d(shape[0], 8, 3), nn.Conv2d(shape[0], 8, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for x, y in islice(endless(held_out, 96, 0, 0), 60):
        with torch.no_grad():
            model.classifier.weight[:, 8:] = 0
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        model.classifier.weight[:, 8:] = 0
    model.zero_grad()
    allocation = Allocation(make_units(model, shape, "filter"), "macs", "global", 0.5)
    return Setup(model, allocation, 60, generator(seed, "method"), examples=held_out)


def test_theta_learns_which_layer_matters_and_touches_nothing_else(branches: Setup) -> None:
    """The budget is met at the end, the useless branch pays for it, and the network is as it was."""
    before = {name: tensor.clone() for name, tensor in branches.model.state_dict().items()}
    gains = []
    for seed in range(5):
        torch.manual_seed(seed)
        method = DSA(branches, DSA.Options(every=1))
        for step in range(branches.steps):
            method.mask(step)
            method.update(step)
        useful, useless = method.keep_ratios().tolist()
        gains.append(useful - useless)
        assert float(method.cost(torch.sigmoid(method.theta.detach().double()))) == pytest.approx(
            branches.allocation.target(0.5), rel=1e-5
        )
        assert torch.equal(method.theta.detach(), method.z)
        assert method.theta.grad is None
    assert min(gains) > 0 and sum(gains) / len(gains) > 0.2
    for name, tensor in branches.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in branches.model.parameters())


def final_loss(method: DSA, seed: int) -> float:
    """The held-out loss under the final mask; the weights stay as they are."""
    torch.manual_seed(seed)
    for step in range(method.setup.steps):
        method.mask(step)
        method.update(step)
    mask = method.final_mask()
    assert method.allocation.cost_of(mask) <= method.allocation.target(method.allocation.sparsity)
    held_out = method.setup.examples
    assert isinstance(held_out, TensorSet)
    method.setup.model.eval()
    ((x, y),) = held_out.batches(len(held_out))
    with torch.no_grad():
        return float(nn.functional.cross_entropy(method.setup.logits(mask, x), y))


def test_learned_ratios_beat_the_uniform_one_at_the_same_macs() -> None:
    """Check 6 of the card, where it is known which layer matters: over eight seeds, by more than the 95% interval."""
    learned: dict[int, float] = {}
    uniform: dict[int, float] = {}
    for seed in range(8):
        for found, rate in ((learned, 4.0), (uniform, 0.0)):
            setup = trained_branches(seed)
            allocation = Allocation(setup.allocation.units, "macs", "global", 0.55)
            found[seed] = final_loss(
                DSA(
                    replace(setup, allocation=allocation), DSA.Options(every=1, batch_share=0.5, rate=rate, spread=2.0)
                ),
                seed,
            )
    gain = paired(uniform, learned)
    assert gain is not None and gain.low is not None
    assert gain.low > 0.1


def test_the_budget_comes_down_from_all_to_the_target(branches: Setup) -> None:
    method = DSA(branches, DSA.Options(every=1, ramp=0.5))
    spent = []
    for step in range(branches.steps):
        method.mask(step)
        method.update(step)
        spent.append(float(method.cost(torch.sigmoid(method.z.double()))) / branches.allocation.total)
    assert spent[0] > 0.95
    assert all(now <= before + 1e-6 for before, now in pairwise(spent))
    assert spent[30:] == pytest.approx([0.5] * 30, abs=0.002)  # a target is a whole number


@pytest.mark.parametrize("ratio", [{"every": 1}, {"every": 4}, {"every": 100}])
@pytest.mark.parametrize("granularity", ["filter", "weight"])
def test_the_final_mask_meets_the_budget_however_short_the_phase(
    branches: Setup, granularity: str, ratio: dict[str, int]
) -> None:
    """Check 4 of the card: F <= F* after the phase, and hardening keeps every group's round(alpha C) within a unit."""
    units = make_units(branches.model, images().shape, granularity)
    allocation = Allocation(units, "params", "global", 0.6)
    method = DSA(replace(branches, allocation=allocation, steps=6), DSA.Options(**ratio))
    for step in range(6):
        method.mask(step)
        method.update(step)
    target = allocation.target(0.6)
    assert float(method.cost(torch.sigmoid(method.theta.detach().double()))) <= target * (1 + 1e-6)
    mask = method.final_mask()
    kept = allocation.cost_of(mask)
    for alpha, part in zip(method.keep_ratios().tolist(), mask.split(method.sizes), strict=True):
        assert abs(int(part.sum()) - round(alpha * part.numel())) <= 1
    added = [torch.where(torch.arange(units.n) == i, 1.0, mask) for i in (mask == 0).nonzero().flatten().tolist()]
    assert kept <= target < max(allocation.cost_of(more) for more in added)


@pytest.mark.parametrize("dense_epochs", [0, 2])
def test_a_run_ends_with_shares_that_differ(
    dense_epochs: int, tiny_config: Callable[..., Config], finish: Callable[[Config], RunFolder]
) -> None:
    """Checks 5 and 6 of the card: from scratch as well, other layers keep other shares of their filters."""
    recipe = {"dense_epochs": dense_epochs, "prune_epochs": 4}
    folder = finish(tiny_config("dsa", options={"every": 1, "rate": 10.0}, recipe=recipe, **FILTERS))
    row, layers = folder.finished(), read_rows(folder.layers, LAYER_COLUMNS)
    assert row is not None
    assert row["prunable_macs_kept"] <= row["prunable_macs_total"] // 2
    shares = [layer["units_kept"] / layer["units_total"] for layer in layers if layer["units_total"]]
    assert max(shares) - min(shares) > 0.3  # rounding alone makes an eighth


def test_ratios_of_a_run_differ_between_layers(tiny_config: Callable[..., Config]) -> None:
    """Check 6 of the card, on the weights and the held-out images of a run."""
    method = dsa_of(prepare(tiny_config("dsa", options={"every": 1, "rate": 10.0}, **FILTERS)))
    torch.manual_seed(0)
    for step in range(method.setup.steps):
        method.mask(step)
        method.update(step)
    ratios = method.keep_ratios()
    assert len(ratios) == 12
    assert float(ratios.max() - ratios.min()) > 0.2


class Killed(KeyboardInterrupt):
    """What a test throws into a run."""


def test_a_run_that_was_killed_ends_in_the_same_bytes(
    tiny_config: Callable[..., Config],
    finish: Callable[[Config], RunFolder],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Killed in the middle of the phase, of a pass over the held-out images, and of the multiplier's steps."""
    options = {"every": 1, "duals": 100, "ramp": 0.2, "batch_share": 0.1}
    config = tiny_config("dsa", options=options, recipe={"dense_epochs": 1, "prune_epochs": 3}, **FILTERS)
    whole = finish(replace(config, output_dir=str(tmp_path / "whole")))
    saves: list[str] = []
    save = Checkpoint.save

    def killing(self: Checkpoint, state: dict[str, Any]) -> None:
        save(self, state)
        saves.append(state.get("phase", "dense"))
        if saves == ["dense", "prune"]:
            assert bool((state["network"]["method.u"] != 0).any())
            raise Killed

    monkeypatch.setattr("pruner.training.checkpoint.SHARE", math.inf)  # a save after each epoch, whatever it takes
    monkeypatch.setattr(Checkpoint, "save", killing)
    with pytest.raises(Killed):
        execute(config)
    again = finish(config)
    assert saves.count("prune") == 3  # no epoch twice
    for name in ("model.safetensors", "layers.csv"):
        assert (again.path / name).read_bytes() == (whole.path / name).read_bytes()
