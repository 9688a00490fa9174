"""The training loop: learning rates, means over examples, what stops it, and going on from a saved state."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruner.config import Config, Phase, Recipe
from pruner.data.imageset import tensor_data
from pruner.methods.base import Method, Setup
from pruner.run.experiment import prepare
from pruner.runtime.seeds import derive, generator
from pruner.sparsity.allocation import Allocation
from pruner.sparsity.masked import MaskedModel
from pruner.sparsity.units.make import make_units
from pruner.training.checkpoint import Checkpoint
from pruner.training.optimizer import learning_rate, make_optimizer
from pruner.training.trainer import Trainer, evaluate
from tests.toy_training import Constant, trainer_of


@pytest.mark.parametrize(
    ("schedule", "warmup", "progress", "expected"),
    [
        ("constant", 0.0, 0.0, 1.0),
        ("constant", 0.0, 0.99, 1.0),
        ("linear", 0.0, 0.0, 1.0),
        ("linear", 0.0, 0.25, 0.75),
        ("linear", 0.0, 1.0, 0.0),
        ("cosine", 0.0, 0.0, 1.0),
        ("cosine", 0.0, 1 / 3, 0.75),
        ("cosine", 0.0, 0.5, 0.5),
        ("cosine", 0.0, 1.0, 0.0),
        ("cosine", 0.2, 0.0, 0.0),  # a warm-up of two epochs in ten, and the cosine in the other eight
        ("cosine", 0.2, 0.1, 0.5),
        ("cosine", 0.2, 0.2, 1.0),
        ("cosine", 0.2, 0.6, 0.5),
        ("linear", 0.5, 0.75, 0.5),
        ("step", 0.0, 0.0, 1.0),
        ("step", 0.0, 0.399, 1.0),
        ("step", 0.0, 0.4, 0.1),  # milestones at epochs 4 and 8 of ten
        ("step", 0.0, 0.8, 0.01),
        ("step", 0.2, 0.1, 0.5),
        ("step", 0.2, 0.3, 1.0),
    ],
)
def test_learning_rates(schedule: str, warmup: float, progress: float, expected: float) -> None:
    phase = Phase(epochs=10, lr=0.3, schedule=schedule, warmup=warmup, milestones=(4, 8))
    assert learning_rate(phase, progress) == pytest.approx(0.3 * expected, abs=1e-12)


def test_the_rate_of_a_phase_follows_its_steps(tiny_config: Callable[..., Config]) -> None:
    """Three steps an epoch: the last of an epoch is the one in its line."""
    experiment = prepare(tiny_config(recipe={"dense_epochs": 2, "dense_schedule": "linear", "dense_lr": 0.6}))
    lines: list[dict[str, Any]] = []
    trainer = Trainer(
        MaskedModel(experiment.model, experiment.allocation.units),
        experiment.data.train,
        experiment.config.recipe,
        "dense",
        0,
    )
    trainer.run(lines.append)
    assert [line["lr"] for line in lines] == pytest.approx([0.6 * (1 - 2 / 6), 0.6 * (1 - 5 / 6)])
    assert [(line["phase"], line["epoch"]) for line in lines] == [("dense", 1), ("dense", 2)]


def test_optimizers() -> None:
    model = nn.Linear(2, 2)
    sgd = make_optimizer(model, Recipe("r", 2, momentum=0.8, weight_decay=0.01), 0.3)
    assert isinstance(sgd, torch.optim.SGD)
    group = sgd.param_groups[0]
    assert (group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]) == (0.3, 0.8, True, 0.01)
    plain = make_optimizer(model, Recipe("r", 2, momentum=0.0), 0.3)  # torch refuses nesterov without momentum
    assert not plain.param_groups[0]["nesterov"]
    heavy = make_optimizer(model, Recipe("r", 2, momentum=0.8, nesterov=False), 0.3)
    assert (heavy.param_groups[0]["momentum"], heavy.param_groups[0]["nesterov"]) == (0.8, False)
    adam = make_optimizer(model, Recipe("r", 2, optimizer="adam", weight_decay=0.01), 0.3)
    for optimizer in (sgd, adam):  # every parameter decays, biases and normalisation too
        (group,) = optimizer.param_groups
        assert list(map(id, group["params"])) == list(map(id, model.parameters()))
    assert isinstance(adam, torch.optim.Adam) and adam.param_groups[0]["weight_decay"] == 0.01


def test_accuracy_is_a_mean_over_examples() -> None:
    """Nine images in batches of four: the single one in the last batch counts as much as the others."""
    labels = torch.tensor([0, 1, 1, 1, 1, 1, 1, 1, 0])
    part = {"images": torch.zeros(9, 1, 1, 1, dtype=torch.uint8), "labels": labels}
    tensors = {f"{name}_{key}": value for name in ("train", "test") for key, value in part.items()}
    test = tensor_data("x", ("a", "b", "c"), tensors, torch.device("cpu"), False, 0).test
    model = Constant(3).train()
    found = evaluate(model, test, 4, "float32")
    assert found.top1 == pytest.approx(100 * 2 / 9)
    assert found.top5 == 100  # of three classes
    assert not model.training


def test_top5_counts_the_five_best() -> None:
    labels = torch.arange(8)
    part = {"images": torch.zeros(8, 1, 1, 1, dtype=torch.uint8), "labels": labels}
    tensors = {f"{name}_{key}": value for name in ("train", "test") for key, value in part.items()}
    test = tensor_data("x", tuple("abcdefgh"), tensors, torch.device("cpu"), False, 0).test
    model = Constant(8)
    with torch.no_grad():
        model.logits.copy_(torch.arange(8.0))
    assert evaluate(model, test, 3, "float32") == evaluate(model, test, 8, "float32")
    assert (evaluate(model, test, 3, "float32").top1, evaluate(model, test, 3, "float32").top5) == (12.5, 62.5)


def test_loss_is_a_mean_over_examples() -> None:
    lines: list[dict[str, Any]] = []
    recipe = Recipe("r", 3, dense_epochs=1, dense_lr=1e-30)  # so small that nothing moves
    trainer_of(Constant(2, logit=1.0), recipe).run(lines.append)
    right, wrong = math.log(1 + math.exp(-1)), math.log(1 + math.exp(1))
    assert lines[0]["loss"] == pytest.approx((3 * right + wrong) / 4, rel=1e-6)
    assert lines[0]["train_accuracy"] == 75


def test_smoothed_labels_by_hand() -> None:
    """A smoothing of 0.2 takes a tenth of every label to the other of two classes."""
    lines: list[dict[str, Any]] = []
    recipe = Recipe("r", 3, dense_epochs=1, dense_lr=1e-30, label_smoothing=0.2)
    trainer_of(Constant(2, logit=1.0), recipe).run(lines.append)
    right, wrong = math.log(1 + math.exp(-1)), math.log(1 + math.exp(1))
    smooth = [0.9 * right + 0.1 * wrong, 0.9 * wrong + 0.1 * right]
    assert lines[0]["loss"] == pytest.approx((3 * smooth[0] + smooth[1]) / 4, rel=1e-6)


class Pushed(Method):
    """Pays twice its own parameter, whatever the network does; the weights forget before the third step."""

    def __init__(self, setup: Setup, options: Any = None) -> None:
        super().__init__(setup, options)
        self.own = nn.Parameter(torch.tensor(1.0))
        self.seen: list[float] = []

    def mask(self, step: int) -> Tensor:
        return torch.tensor([0.0, 0.5])

    def scores(self) -> Tensor:
        return torch.zeros(2)

    def penalty(self) -> Tensor:
        return 2 * self.own

    def resets_momentum(self, step: int) -> bool:
        return step == 2

    def optimizer(self, lr: float) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.own], lr=0.5, momentum=0.5)

    def update(self, step: int) -> None:
        self.seen.append(float(self.own.detach()))


def test_steps_of_a_methods_own_parameter_by_hand() -> None:
    """Down a slope of 2 at half speed, with velocities 2, 3, 3.5 and 3.75, and `update` sees where each step led.

    The weights' rate falls meanwhile, and their momentum is dropped: neither is the method's business.
    """
    units = make_units(nn.Sequential(nn.Flatten(), nn.Linear(1, 2)), (1, 1, 1), "weight")
    method = Pushed(Setup(nn.Linear(1, 2), Allocation(units, "params", "global", 0.0), 4, generator(0, "method")))
    lines: list[dict[str, Any]] = []
    recipe = Recipe("r", 3, dense_epochs=2, dense_lr=0.1, dense_schedule="linear")
    trainer_of(Constant(2), recipe, method).run(lines.append)
    assert method.seen == [0.0, -1.5, -3.25, -5.125]
    assert [line["lr"] for line in lines] == pytest.approx([0.1 * 3 / 4, 0.1 * 1 / 4])
    assert [(line["sparsity"], line["undecided"]) for line in lines] == [(0.75, 0.5)] * 2


class Drawing(Constant):
    """Draws from torch's own generator in every step, as dropout does."""

    drawn: list[float]  # set by the test

    def forward(self, images: Tensor) -> Tensor:
        self.drawn.append(float(torch.rand(())))
        return super().forward(images)


def test_what_steps_draw_is_of_the_seed_the_phase_and_the_epoch() -> None:
    """Whatever was drawn before: other phases and runs, or the batches."""
    model = Drawing(2)
    model.drawn = []
    torch.manual_seed(12345)
    trainer_of(model, Recipe("r", 3, dense_epochs=2)).run(lambda numbers: None)
    expected = []
    for epoch in range(2):
        torch.manual_seed(derive(0, "dense", epoch))
        expected += [float(torch.rand(())) for _ in range(2)]
    assert model.drawn == expected and len(set(expected)) == 4


def pieces(config: Config) -> tuple[Trainer, nn.Module, Method]:
    """A pruning phase from freshly made parts, as another process would make them."""
    experiment = prepare(config)
    method, images = experiment.method()
    network = MaskedModel(experiment.model, experiment.allocation.units)
    return Trainer(network, images, config.recipe, "prune", config.seed, method), experiment.model, method


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("method", ["dtp", "gmp"])
def test_resumes_to_equality(optimizer: str, method: str, tmp_path: Path, tiny_config: Callable[..., Config]) -> None:
    """Stopped after one epoch of three and continued from what a checkpoint holds: the same to the last bit."""
    config = tiny_config(method, recipe={"optimizer": optimizer, "prune_epochs": 3})
    whole, whole_model, whole_method = pieces(config)
    checkpoint = Checkpoint(tmp_path)
    lines: list[dict[str, Any]] = []

    def finished(numbers: dict[str, Any]) -> None:
        lines.append(numbers)
        if len(lines) == 1:
            states: dict[str, nn.Module | Trainer] = {"model": whole_model, "method": whole_method, "trainer": whole}
            checkpoint.save({name: thing.state_dict() for name, thing in states.items()})

    whole.run(finished)

    torch.manual_seed(12345)  # what happened before in the process makes no difference
    later, later_model, later_method = pieces(config)
    state = checkpoint.load()
    later_model.load_state_dict(state["model"])
    later_method.load_state_dict(state["method"])
    later.load_state_dict(state["trainer"])
    resumed: list[dict[str, Any]] = []
    later.run(resumed.append)

    for one, other in ((whole_model, later_model), (whole_method, later_method)):
        expected, found = one.state_dict(), other.state_dict()
        assert list(expected) == list(found)
        assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert [{**line, "seconds": 0} for line in resumed] == [{**line, "seconds": 0} for line in lines[1:]]
