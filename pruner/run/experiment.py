"""What a run works with, made once before any work."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

import pruner.data
import pruner.methods
import pruner.models
from pruner.checks import ConfigError
from pruner.config import Config
from pruner.data import ImageData, ImageSet
from pruner.pruning import Pruning
from pruner.runtime.device import pick_device
from pruner.runtime.distributed import check_batch
from pruner.runtime.seeds import derive
from pruner.sparsity.allocation import Allocation
from pruner.sparsity.intake import accept
from pruner.sparsity.trial import find_units
from pruner.sparsity.units.base import Units
from pruner.store.fingerprint import Fingerprint
from pruner.training.trainer import Accuracy, evaluate


@dataclass(frozen=True)
class Experiment:
    """What every phase of a run works with. The model starts untrained and is trained, pruned and saved in place.

    `images` are those that train the weights while they are pruned: all, or without those that the method holds out.
    """

    config: Config
    data: ImageData
    device: torch.device
    pruning: Pruning
    images: ImageSet
    fingerprint: Fingerprint = field(default_factory=dict)

    @property
    def model(self) -> nn.Module:
        """The network itself."""
        return self.pruning.model

    @property
    def allocation(self) -> Allocation:
        """The budget over its units."""
        return self.pruning.allocation

    def evaluate(self, network: nn.Module, images: ImageSet | None = None) -> Accuracy:
        """Accuracy on the test images, or others, in float32, as networks ship, whatever they were trained in."""
        return evaluate(network, images or self.data.test, max(self.config.recipe.batch_size, 500), "float32")


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
    units = find_units(model, data.shape, config.granularity, config.budget.exclude, config.block, config.nm)
    return budgeted(config, data, device, model, units)


def budgeted(config: Config, data: ImageData, device: torch.device, model: nn.Module, units: Units) -> Experiment:
    """What a run works with whose network has these units, with its budget and its method. Raises ConfigError."""
    recipe, images = config.recipe, data.train
    examples = images
    if share := pruner.methods.find(config.method).held_out:
        try:
            images, examples = images.split(share, derive(config.seed, "held-out"))
        except ValueError as error:
            raise ConfigError(f"method={config.method.label}: needs held-out images: {error}") from error
    check_batch(recipe.batch_size, len(images))
    pruning = Pruning(
        model,
        config.method,
        example=torch.zeros(1, *data.shape),
        steps=images.steps(recipe.batch_size) * recipe.prune_epochs,
        sparsity=config.sparsity,
        granularity=config.granularity,
        scope=config.scope,
        budget=config.budget.name,
        examples=examples,
        lr=recipe.prune_lr,
        seed=config.seed,
        min_units=config.budget.min_units,
        ratios=config.ratios,
        bits=config.quantization.bits,
        batch_size=recipe.batch_size,
        precision=recipe.precision,
        compiled=config.compile,
        units=units,
    )
    return Experiment(config, data, device, pruning, images)
