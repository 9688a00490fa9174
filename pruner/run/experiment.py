"""What a run works with, made once before any work."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field, replace

import torch
from torch import nn

import pruner.data
import pruner.methods
import pruner.models
from pruner.checks import ConfigError
from pruner.config import Config
from pruner.data import ImageData, ImageSet
from pruner.methods.base import Method, Setup
from pruner.runtime.device import pick_device
from pruner.runtime.distributed import check_batch
from pruner.runtime.seeds import derive, generator
from pruner.sparsity.allocation import Allocation
from pruner.sparsity.intake import accept
from pruner.sparsity.masked import MaskedModel
from pruner.sparsity.trial import units_that_can_go
from pruner.sparsity.units.make import Units, make_units
from pruner.store.fingerprint import Fingerprint
from pruner.training.trainer import Accuracy, evaluate


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
