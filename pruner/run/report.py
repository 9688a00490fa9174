"""What a run reports: its row, its files' descriptions, its lines on the console."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

from torch import Tensor

from pruner import __version__
from pruner.config import Config
from pruner.data import ImageData
from pruner.sparsity.units.layers import Layer
from pruner.sparsity.units.make import Units
from pruner.store.row import Row
from pruner.training.trainer import Epoch

log = logging.getLogger(__name__)


def identity_columns(config: Config) -> Row:
    """The columns of a row that the config alone decides."""
    return {
        "method": config.method.label,
        "dataset": config.dataset.label,
        "model": config.model.label,
        "granularity": config.granularity,
        "scope": config.scope,
        "budget": config.budget.name,
        "sparsity": config.sparsity,
        "seed": config.seed,
        "dense_epochs": config.recipe.dense_epochs,
        "prune_epochs": config.recipe.prune_epochs,
        "finetune_epochs": config.recipe.finetune_epochs,
        "quant_bits": config.quantization.bits or None,
        "precision": config.recipe.precision,
        "pruner_version": __version__,
        "run_id": config.run_id,
    }


def description(config: Config, data: ImageData, units: Units, hard: Tensor) -> dict[str, Any]:
    """What model.json says: how to build the network, how to feed it, and what was done to it.

    Under `masks`: the channels (outs made, ins read; null: all) that are left of the modules which lose some, for
    what takes them out, and the tiles of zeros in the prunable weights, for what stores them in few bytes.
    """
    tiles = {layer.weight: _tile(units, layer) for layer in units.layers if layer.prunable}
    choice = config.model
    return {
        "label": choice.label,
        "name": choice.name,
        # Pretrained weights are not fetched again to be overwritten.
        "options": {key: value for key, value in choice.options.items() if key not in ("weights", "expected_accuracy")},
        "shape": list(data.shape),
        "classes": data.classes,
        "labels": list(data.labels),
        "mean": list(data.mean),
        "std": list(data.std),
        "masks": {
            "channels": {name: asdict(left) for name, left in units.left(hard).items()},
            "tiles": tiles,
        },
        "bits": config.quantization.bits,
        "run": identity_columns(config),
    }


def _tile(units: Units, layer: Layer) -> dict[str, Any] | None:
    """What `pruner.export.indexing.Tile` is made of; None where what is dead is taken out."""
    tile = units.tile(layer)
    turned = {"transposed": layer.groups} if layer.transposed else {}
    return None if tile is None else {"shape": list(tile[0]), "group": tile[1], **turned}


def report(numbers: Epoch, epochs: int) -> Epoch:
    """Logs an epoch, one of so many of its phase, in one line and gives its numbers back."""
    line = "{phase} {epoch}/{epochs}  loss {loss:.4f}  train {train_accuracy:.2f}%  {seconds:.1f}s"
    if "sparsity" in numbers:
        line += "  sparsity {sparsity:.4f}  undecided {undecided:.4f}"
    if "gap" in numbers:
        line += "  gap {gap:.2f}"
    log.info(line.format(**numbers, epochs=epochs))
    return numbers


def warn_undecided(soft: Tensor, hard: Tensor, finetuned: bool) -> None:
    """Says so when hardening decides over many units that training left undecided: a warning if nothing mends it."""
    undecided, kept = int(((soft > 0.05) & (soft < 0.95)).sum()), int((hard != 0).sum())
    if undecided > kept / 10:
        level, end = (logging.INFO, ", which finetuning is to mend") if finetuned else (logging.WARNING, "")
        log.log(level, "%d units are undecided at hardening, %d kept: expect a loss there%s", undecided, kept, end)


def seconds(epochs: list[Epoch], phase: str) -> float:
    """The time that a phase's epochs took."""
    total: float = sum(epoch["seconds"] for epoch in epochs if epoch["phase"] == phase)
    return total
