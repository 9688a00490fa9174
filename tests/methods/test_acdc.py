"""AC/DC against numbers worked out by hand: its stages, what a compression keeps, and what comes back after one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pruner.checks import ConfigError
from pruner.config import Config
from pruner.methods.acdc import ACDC
from pruner.methods.base import Setup
from pruner.methods.schedules import alternating
from pruner.run.experiment import prepare
from pruner.run.job import execute
from pruner.runtime.seeds import generator
from pruner.sparsity.allocation import Allocation
from pruner.sparsity.masked import MaskedModel
from pruner.sparsity.units.make import make_units
from pruner.store.folders import RunFolder
from pruner.training.trainer import Trainer

RESNET50 = {"warmup": 0.1, "period": 0.1, "last_dense": 0.75, "last_sparse": 0.85}


def weights(*values: float, sparsity: float = 0.5, steps: int = 20) -> tuple[nn.Linear, Setup]:
    """One linear layer of so many weights, each a unit, and the setup of a method on it."""
    layer = nn.Linear(len(values), 1, bias=False)
    set_weights(layer, *values)
    model = nn.Sequential(nn.Flatten(), layer)
    allocation = Allocation(make_units(model, (1, 1, len(values)), "weight"), "params", "global", sparsity)
    return layer, Setup(model, allocation, steps, generator(0, "method"))


def set_weights(layer: nn.Linear, *values: float) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([values]))


@pytest.mark.parametrize("steps", [100, 700])
def test_the_stages_of_the_paper(steps: int) -> None:
    """ResNet-50 in 100 epochs: dense to 10, then 5 and 5 in turn to 75, dense to 85, sparse to the end."""
    stages = [alternating(step / steps, **RESNET50) for step in range(steps)]
    per_epoch = steps // 100
    expected: list[int | None] = [None] * 10
    for number in range(7):
        expected += [number] * 5 + [None] * (5 if number < 6 else 10)
    expected += [7] * 15
    assert stages == [stage for stage in expected for _ in range(per_epoch)]
    assert alternating(1.0, **RESNET50) == 7


def test_other_stages() -> None:
    always = {"warmup": 0.0, "period": 0.1, "last_dense": 0.0, "last_sparse": 0.0}
    assert [alternating(step / 4, **always) for step in range(5)] == [0] * 5
    two_halves = {"warmup": 0.5, "period": 0.1, "last_dense": 0.5, "last_sparse": 0.5}
    assert [alternating(step / 4, **two_halves) for step in range(5)] == [None, None, 0, 0, 0]
    whole = {"warmup": 0.0, "period": 0.5, "last_dense": 0.75, "last_sparse": 0.75}  # no last dense stage
    assert [alternating(step / 8, **whole) for step in range(8)] == [0, 0, None, None, 1, 1, 2, 2]


def test_a_mask_is_made_at_each_compression_and_kept_through_the_stage() -> None:
    """Of 40 steps, 4 and 5 are sparse, 6 and 7 dense, 8 and 9 sparse."""
    layer, setup = weights(4, -3, 2, -1, steps=40)
    method = ACDC(setup)
    assert [method.mask(step).tolist() for step in range(4)] == [[1, 1, 1, 1]] * 4
    assert method.mask(4).tolist() == [1, 1, 0, 0]
    set_weights(layer, 4, -3, 8, 9)  # what is hidden changes nothing until the next compression
    assert method.mask(5).tolist() == [1, 1, 0, 0]
    assert method.mask(6).tolist() == [1, 1, 1, 1]
    set_weights(layer, 1, -3, 0.5, 5)  # what has grown in the dense stage
    assert method.mask(7).tolist() == [1, 1, 1, 1]
    assert method.mask(8).tolist() == [0, 1, 0, 1]
    assert setup.allocation.hard(method.scores()).tolist() == method.final_mask().tolist() == [0, 1, 0, 1]


def test_pruned_weights_return_as_zeros() -> None:
    layer, setup = weights(4, -3, 2, -1, steps=40)
    method = ACDC(setup)
    method.mask(4)
    set_weights(layer, 4.5, -3.5, 2.5, -1.5)  # momentum moves what is hidden, too
    method.mask(5)
    assert layer.weight.tolist() == [[4.5, -3.5, 2.5, -1.5]]
    method.mask(6)
    assert layer.weight.tolist() == [[4.5, -3.5, 0, 0]]
    set_weights(layer, 4.5, -3.5, 1, 1)
    method.mask(7)
    assert layer.weight.tolist() == [[4.5, -3.5, 1, 1]]


def test_momentum_is_dropped_when_a_dense_stage_begins() -> None:
    """Of 100 steps, those at which the stages 10-15, 20-25, ... and 70-75 have ended."""
    method = ACDC(weights(1, 2, steps=100)[1])
    assert [step for step in range(100) if method.resets_momentum(step)] == [15, 25, 35, 45, 55, 65, 75]


@pytest.mark.parametrize("steps", range(8))
def test_a_short_phase_ends_sparse(steps: int) -> None:
    """Steps may skip whole stages; what was hidden is zero when it counts again."""
    layer, setup = weights(4, -3, 2, -1, steps=steps)
    method = ACDC(setup)
    method.begin()
    for step in range(steps):
        mask = method.mask(step)
        assert mask.sum() in (2, 4)
        set_weights(layer, 4, -3, 2, -1)  # momentum
    if steps:
        assert mask.tolist() == [1, 1, 0, 0]
    assert method.final_mask().tolist() == setup.allocation.hard(method.scores()).tolist() == [1, 1, 0, 0]


def test_a_skipped_dense_stage_brings_nothing_back() -> None:
    """Of six steps, 2 and 3 are in the sparse stages 2 and 4: a hidden weight that momentum moved was still zero."""
    layer, setup = weights(4, -3, 2, -1, steps=6)
    method = ACDC(setup)
    assert method.mask(2).tolist() == [1, 1, 0, 0]
    set_weights(layer, 4, -3, 9, -1)
    assert method.resets_momentum(3)
    assert method.mask(3).tolist() == [1, 1, 0, 0]
    assert layer.weight.tolist() == [[4, -3, 0, 0]]


def test_a_run_goes_on_in_the_middle_of_a_stage() -> None:
    _, setup = weights(4, -3, 2, -1, steps=40)
    method = ACDC(setup)
    method.mask(4)
    layer, later = weights(0.1, 0.1, 9, 9, steps=40)
    resumed = ACDC(later)
    resumed.load_state_dict(method.state_dict())
    assert resumed.mask(5).tolist() == [1, 1, 0, 0]
    resumed.mask(6)
    assert layer.weight.flatten().tolist() == pytest.approx([0.1, 0.1, 0, 0])


def test_a_filter_that_returns_is_as_good_as_zero_and_can_grow() -> None:
    """Its batch norm fades, not the filter: what is zero on both sides, or before a ReLU, would get no gradient."""
    norm = nn.BatchNorm2d(4)
    conv = nn.Conv2d(1, 4, 3, padding=1, bias=False)
    model = nn.Sequential(conv, norm, nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    units = make_units(model, (1, 4, 4), "filter")
    setup = Setup(model, Allocation(units, "params", "global", 0.5), 40, generator(0, "method"))
    method, network = ACDC(setup), MaskedModel(model, units)
    x = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    network.gate(method.mask(4))
    sparse = network(x)
    gone = method.kept == 0
    assert 0 < int(gone.sum()) < 4
    network.gate(method.mask(6))
    dense = network(x)
    torch.testing.assert_close(dense, sparse)  # as a zero
    dense.square().sum().backward()
    assert bool((norm.weight[gone].abs() < 1e-12).all()) and not norm.bias.any()
    assert norm.weight.grad is not None and bool((norm.weight.grad[gone] != 0).all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup": -0.1}, "method.warmup=-0.1: 0 or more"),
        ({"period": 0.0}, "method.period=0.0: above 0"),
        ({"last_dense": 0.05}, "method.last_dense=0.05: method.warmup=0.1 or more"),
        ({"last_sparse": 1.0}, "method.last_sparse=1.0: method.last_dense=0.75 or more, and below 1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        ACDC(weights(1, 2)[1], ACDC.Options(**options))
    assert str(refusal.value) == message


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_momentum_and_weights_in_training(optimizer: str, tiny_config: Callable[..., Config]) -> None:
    """At the first step of a dense stage the optimizer knows that step alone, and the weights come back from zero.

    Of 21 steps, 3 is sparse and 4 dense.
    """
    recipe = {"prune_epochs": 7, "optimizer": optimizer, "prune_lr": 0.01, "weight_decay": 0.0}
    experiment = prepare(tiny_config("acdc", recipe=recipe))
    method, images = experiment.method()
    network = MaskedModel(experiment.model, experiment.allocation.units)
    trainer = Trainer(network, images, experiment.config.recipe, "prune", 0, method)
    x, y = next(iter(images.batches(32)))
    for step in range(4):
        trainer._step(step, x, y)
    gone = method.final_mask() == 0
    assert int(gone.sum()) == -(-len(gone) // 2)
    assert method.resets_momentum(4) and not method.resets_momentum(3)
    weight = experiment.model.get_parameter("fc.weight")
    hidden = gone[-weight.numel() :].view_as(weight)
    assert bool(hidden.any())
    assert bool((weight[hidden] != 0).any())  # hidden, not yet zero
    trainer._step(4, x, y)
    state = trainer.optimizers[0].state[weight]
    if optimizer == "adam":
        assert state["step"] == 1
        assert float(weight.detach()[hidden].abs().max()) <= 0.0101  # one step of Adam from zero
    else:
        torch.testing.assert_close(state["momentum_buffer"], weight.grad)  # of a first step


def test_a_run_ends_sparse_and_goes_on_where_it_was_killed(
    tiny_config: Callable[..., Config],
    finish: Callable[[Config], RunFolder],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Nine steps of three an epoch; killed in the third epoch, which begins in a stage that an earlier epoch began."""
    recipe = {"prune_epochs": 3}
    options = {"warmup": 0.2, "period": 0.9, "last_dense": 0.8, "last_sparse": 0.88}  # sparse: 2 to 5, 8
    whole = finish(tiny_config("acdc", options=options, recipe=recipe, output_dir=str(tmp_path / "whole")))
    row = whole.finished()
    assert row is not None
    assert row["prunable_params_kept"] == row["prunable_params_total"] // 2
    assert row["soft_accuracy"] == row["hard_accuracy"]
    config = tiny_config("acdc", options=options, recipe=recipe)
    step = Trainer._step

    def killed(self: Trainer, number: int, *rest: torch.Tensor) -> torch.Tensor:
        if self.name == "prune" and number == 4:
            raise KeyboardInterrupt
        return step(self, number, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "_step", killed)
        execute(config)
    assert finish(config).model.read_bytes() == whole.model.read_bytes()
