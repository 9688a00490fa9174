"""What a run works with, made once before any work, and the dense network that many runs share."""

from __future__ import annotations

import logging
import math
from collections.abc import Container
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import pruner.data
import pruner.methods
import pruner.models
from pruner.checks import ConfigError, require
from pruner.config import Config, expand
from pruner.data import ImageData, ImageSet
from pruner.methods.base import Method, Setup
from pruner.models.versions import load, versions_of
from pruner.run.report import report, seconds
from pruner.run.threads import settle_threads, threads_restored
from pruner.runtime.device import pick_device
from pruner.runtime.distributed import check_batch, first
from pruner.runtime.seeds import derive, generator
from pruner.sparsity.allocation import Allocation
from pruner.sparsity.intake import accept
from pruner.sparsity.masked import MaskedModel
from pruner.sparsity.trial import units_that_can_go
from pruner.sparsity.units.make import Units, make_units
from pruner.store import fingerprint
from pruner.store.fingerprint import Fingerprint
from pruner.store.folders import FORMAT, DenseStore
from pruner.store.row import Row
from pruner.training.checkpoint import Checkpoint, Saver
from pruner.training.trainer import Accuracy, Epoch, Trainer, evaluate

log = logging.getLogger(__name__)

# How far the accuracy of weights in a file may fall short of what they are said to reach, in percentage points beside
# what chance makes of the test images: another decoder or resampling costs tenths, another normalisation several.
REMARKED, REFUSED = 1.0, 5.0
NEAR_CHANCE = 0.1  # of the way from guessing to all images right


@dataclass(frozen=True)
class Experiment:
    """What every phase of a run works with. `model` starts untrained and is trained, pruned and saved in place."""

    config: Config
    data: ImageData
    device: torch.device
    model: nn.Module
    allocation: Allocation
    fingerprint: Fingerprint = field(default_factory=dict)

    def evaluate(self, network: nn.Module, images: ImageSet | None = None) -> Accuracy:
        """Accuracy on the test images, or others, in float32, as networks ship, whatever they were trained in."""
        return evaluate(network, images or self.data.test, max(self.config.recipe.batch_size, 500), "float32")

    def network(self) -> MaskedModel:
        """The model under masks, with its weights quantised where the config asks for it."""
        return MaskedModel(self.model, self.allocation.units, self.config.quantization.bits, self.config.compile)

    def method(self) -> tuple[Method, ImageSet]:
        """The run's method, set up from the model as it is now, and the images left for training the weights."""
        config, images = self.config, self.data.train
        cls = pruner.methods.find(config.method)
        held_out = None
        if cls.held_out:
            try:
                images, held_out = images.split(cls.held_out, derive(config.seed, "held-out"))
            except ValueError as error:
                raise ConfigError(f"method={config.method.label}: needs held-out images: {error}") from error
        steps = images.steps(config.recipe.batch_size) * config.recipe.prune_epochs
        setup = Setup(self.model, self.allocation, steps, generator(config.seed, "method"))
        setup = replace(
            setup,
            examples=images if held_out is None else held_out,
            shape=self.data.shape,
            batch_size=config.recipe.batch_size,
            precision=config.recipe.precision,
            bits=config.quantization.bits,
        )
        return pruner.methods.create(config.method, setup), images


def prepare(config: Config, data: ImageData | None = None) -> Experiment:
    """Everything that can be refused is made once before any work: data (if not given), model, units, budget, method.

    Raises ConfigError.
    """
    device = pick_device(config.device, config.threads)
    data = data or pruner.data.load(config.dataset, config.data_dir, device)
    torch.manual_seed(derive(config.seed, "model"))
    model = pruner.models.build(config.model, data.shape, data.classes)
    model.to(device)
    accept(model, data.shape, data.classes)
    kind = config.granularity, config.budget.exclude, config.block, config.nm

    def units_of(constant: Container[int]) -> Units:
        return make_units(model, data.shape, *kind, constant)

    units = units_that_can_go(units_of, model, data.shape)
    return budgeted(config, data, device, model, units)


def budgeted(config: Config, data: ImageData, device: torch.device, model: nn.Module, units: Units) -> Experiment:
    """What a run works with whose network has these units, with its budget and its method. Raises ConfigError."""
    budget = config.budget
    allocation = Allocation(units, budget.name, config.scope, config.sparsity, budget.min_units, config.ratios)
    experiment = Experiment(config, data, device, model, allocation)
    _, images = experiment.method()  # a rehearsal: wrong options are refused now, not after the dense phase
    check_batch(config.recipe.batch_size, len(images))
    return experiment


@threads_restored()
def dense_network(experiment: Experiment) -> Row:
    """Trains the dense network into the experiment's model, or loads it from the dense store; gives its numbers.

    Runs that ask for the same network at the same time wait for the first one.
    """
    config, model = experiment.config, experiment.model
    store = DenseStore(Path(expand(config.output_dir)) / config.dense_id)
    with store.lock():
        first(lambda: fingerprint.keep(store, fingerprint.of_dense(experiment.fingerprint), store.begun()))
        found = first(lambda: store.load(model.state_dict()))
        if found:
            load(model, found[0], found[1].get("versions"))
            first(lambda: store.tidy(done=True))
            log.info("dense network loaded from %s: accuracy %.2f", store.path, found[1]["accuracy"])
            return found[1]
        first(lambda: store.tidy(done=False))
        first(lambda: store.write_config(config.dense_identity()))
        settle_threads(store, config.threads)
        checkpoint = Checkpoint(store.checkpoint)
        network = MaskedModel(model, experiment.allocation.units, compiled=config.compile)
        trainer = Trainer(network, experiment.data.train, config.recipe, "dense", config.seed)
        epochs: list[Epoch] = []
        if state := checkpoint.load():
            with checkpoint.put_in_place():
                model.load_state_dict(state["model"])
                trainer.load_state_dict(state["trainer"])
                epochs = state["epochs"]

        def finished(numbers: Epoch) -> None:
            first(store.check)
            epochs.append(report(numbers, trainer.settings.epochs))
            first(lambda: store.write_epochs(epochs))

        def now() -> dict[str, Any]:
            return {"epochs": epochs, "model": model.state_dict(), "trainer": trainer.state_dict()}

        trainer.run(finished, Saver(checkpoint, now, config.checkpoint_minutes))
        accuracy: Accuracy = experiment.evaluate(model)
        info: dict[str, Any] = {"accuracy": accuracy.top1, "accuracy_top5": accuracy.top5}
        info["seconds"] = seconds(epochs, "dense")
        first(store.check)
        first(
            lambda: store.save(
                model.state_dict(), {**info, "format": FORMAT, "versions": versions_of(model), **checkpoint.versions}
            )
        )
        first(lambda: store.tidy(done=True))
        return info


def check_loaded(experiment: Experiment, accuracy: float) -> None:
    """Warns where weights from a file do not do, in percent, what they can: most likely they are fed in another way.

    Raises ConfigError where they miss `model.expected_accuracy` by far, for what is pruned then is not what was meant.
    """
    options = experiment.config.model.options
    if options.get("weights") is None:
        return
    key, expected = "model.expected_accuracy", options.get("expected_accuracy")
    look = "look at dataset.mean and std, the image size, the order of the labels, and residual shortcuts"
    if expected is not None:
        short = expected - accuracy - _noise(expected, len(experiment.data.test))
        found = f"the dense network reaches {accuracy:.2f}%; {look}"
        require(short <= REFUSED, key, expected, found)
        if short > REMARKED:
            log.warning("%s=%s: %s", key, expected, found)
    chance = 100 / experiment.data.classes
    if accuracy <= chance + NEAR_CHANCE * (100 - chance) + _noise(chance, len(experiment.data.test)):
        weights = options["weights"]
        log.warning("model.weights=%s: %.2f%% is near chance, which is %.2f%%; %s", weights, accuracy, chance, look)


def _noise(percent: float, images: int) -> float:
    """By how much an accuracy measured on so many images may be off by chance: three standard errors."""
    return 3 * math.sqrt(percent * (100 - percent) / images)
