"""One run, in order: dense, prune, harden, finetune, evaluate, row."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import pruner.data
import pruner.methods
import pruner.models
from pruner import __version__
from pruner.checkpoint import Checkpoint
from pruner.config import Config, ConfigError, expand
from pruner.data import ImageData, ImageSet
from pruner.device import pick_device
from pruner.methods.base import Method, Setup
from pruner.results.row import Row
from pruner.results.store import DenseStore, RunFolder, commit_of, save_model
from pruner.seeds import derive, generator
from pruner.sparsity.allocation import Allocation
from pruner.sparsity.counts import count, revived
from pruner.sparsity.masked import MaskedModel
from pruner.sparsity.units import make_units
from pruner.training import Accuracy, Epoch, Trainer, TrainingError, evaluate

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bench:
    """What every phase of a run works with. `model` starts untrained and is trained, pruned and saved in place."""

    config: Config
    data: ImageData
    device: torch.device
    model: nn.Module
    allocation: Allocation

    def evaluate(self, network: nn.Module) -> Accuracy:
        """Accuracy on the test images."""
        recipe = self.config.recipe
        return evaluate(network, self.data.test, max(recipe.batch_size, 500), recipe.precision)

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
        setup = Setup(self.model, self.allocation, steps, generator(config.seed, "method"), held_out)
        return pruner.methods.create(config.method, setup), images


def prepare(config: Config) -> Bench:
    """Everything that can be refused is made once before any work: data, model, units, budget, method.

    Raises ConfigError.
    """
    device = pick_device(config.device, config.threads)
    data = pruner.data.load(config.dataset, config.data_dir, device)
    torch.manual_seed(derive(config.seed, "model"))
    model = pruner.models.build(config.model, data.shape, data.classes)
    model.to(device).to(memory_format=torch.channels_last)
    units = make_units(model, data.shape, config.granularity, config.budget.exclude)
    budget = config.budget
    allocation = Allocation(units, budget.name, config.scope, config.sparsity, budget.min_units)
    bench = Bench(config, data, device, model, allocation)
    bench.method()  # a rehearsal: wrong options are refused now, not after the dense phase
    return bench


def run(bench: Bench, folder: RunFolder) -> Row:
    """Takes the bench's untrained model through all phases; leaves the run's files in its folder, gives its row.

    A run that was interrupted goes on after its last whole epoch.
    """
    config, recipe, model = bench.config, bench.config.recipe, bench.model
    folder.write_config(config.to_dict())
    dense = dense_network(bench)

    checkpoint = Checkpoint(folder.checkpoint)
    state = checkpoint.load()
    epochs: list[Epoch] = state.get("epochs", [])
    method, images = bench.method()
    network = MaskedModel(model, bench.allocation.units)

    def keep(trainer: Trainer, **more: Any) -> Callable[[Epoch], None]:
        def finished(numbers: Epoch) -> None:
            epochs.append(report(numbers, trainer))
            folder.write_epochs(epochs)
            saved = {"phase": trainer.name, "epochs": epochs, "model": model.state_dict()}
            checkpoint.save({**saved, "method": method.state_dict(), "trainer": trainer.state_dict(), **more})

        return finished

    # Prune: weights and soft masks together, while the method drives the masks to the budget.
    if state.get("phase") != "finetune":
        trainer = Trainer(network, images, recipe, "prune", config.seed, method)
        if state:
            model.load_state_dict(state["model"])
            method.load_state_dict(state["method"])
            trainer.load_state_dict(state["trainer"])
        trainer.run(keep(trainer))
        soft = method.final_mask().detach()
        network.gate(soft)
        hard = bench.allocation.hard(method.scores())
        soft_accuracy = bench.evaluate(network).top1
        warn_undecided(soft, hard)
        # Harden: exact 0/1 masks that meet the budget; nothing is trained.
        network.harden(hard, soft)
        hard_accuracy = bench.evaluate(network).top1
    else:
        model.load_state_dict(state["model"])
        hard = state["hard"].to(bench.device)
        network.fix(hard)
        soft_accuracy, hard_accuracy = state["soft_accuracy"], state["hard_accuracy"]

    # Finetune: the weights that are left, under the fixed masks.
    trainer = Trainer(network, bench.data.train, recipe, "finetune", config.seed)
    if state.get("phase") == "finetune":
        trainer.load_state_dict(state["trainer"])
    trainer.run(keep(trainer, hard=hard, soft_accuracy=soft_accuracy, hard_accuracy=hard_accuracy))
    network.clear()
    if leaks := revived(model, bench.allocation.units, hard):
        raise TrainingError(f"pruned weights came back to life in {', '.join(leaks)}")

    # Evaluate: on the plain model, as it is saved.
    final = bench.evaluate(model)
    counts, layers = count(model, bench.data.shape, bench.allocation.units, hard)
    folder.write_layers({**row, "granularity": config.granularity} for row in layers)
    save_model(folder.path, model.state_dict(), description(bench))
    row = {
        **identity_columns(config),
        "status": "done",
        "achieved_sparsity": 1 - bench.allocation.cost_of(hard) / bench.allocation.total,
        **asdict(counts),
        "dense_accuracy": dense["accuracy"],
        "soft_accuracy": soft_accuracy,
        "hard_accuracy": hard_accuracy,
        "accuracy": final.top1,
        "accuracy_top5": final.top5 if bench.data.classes > 5 else None,
        "dense_seconds": dense["seconds"],
        "prune_seconds": seconds(epochs, "prune"),
        "finetune_seconds": seconds(epochs, "finetune"),
        "device": torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else bench.device.type,
        "threads": torch.get_num_threads(),
        "torch_version": torch.__version__,
        "commit": commit_of(),
    }
    folder.write_result(row)
    checkpoint.remove()
    return row


def dense_network(bench: Bench) -> Row:
    """Trains the dense network into the bench's model, or loads it from the dense store; gives its numbers.

    Runs that ask for the same network at the same time wait for the first one.
    """
    config, model = bench.config, bench.model
    store = DenseStore(Path(expand(config.output_dir)) / config.dense_id)
    with store.lock():
        found = store.load()
        if found:
            model.load_state_dict(found[0])
            log.info("dense network loaded from %s: accuracy %.2f", store.path, found[1]["accuracy"])
            return found[1]
        store.write_config(config.dense_identity())
        checkpoint = Checkpoint(store.path / "checkpoint")
        trainer = Trainer(
            MaskedModel(model, bench.allocation.units), bench.data.train, config.recipe, "dense", config.seed
        )
        state = checkpoint.load()
        if state:
            model.load_state_dict(state["model"])
            trainer.load_state_dict(state["trainer"])
        epochs: list[Epoch] = state.get("epochs", [])

        def finished(numbers: Epoch) -> None:
            epochs.append(report(numbers, trainer))
            store.write_epochs(epochs)
            checkpoint.save({"epochs": epochs, "model": model.state_dict(), "trainer": trainer.state_dict()})

        trainer.run(finished)
        accuracy = bench.evaluate(model)
        info = {"accuracy": accuracy.top1, "accuracy_top5": accuracy.top5, "seconds": seconds(epochs, "dense")}
        store.save(model.state_dict(), info)
        checkpoint.remove()
        return info


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
        "precision": config.recipe.precision,
        "pruner_version": __version__,
        "run_id": config.run_id,
    }


def description(bench: Bench) -> dict[str, Any]:
    """What model.json says: how to build the network, how to feed it, and what was done to it."""
    choice, data = bench.config.model, bench.data
    return {
        "label": choice.label,
        "name": choice.name,
        # Pretrained weights are not fetched again to be overwritten.
        "options": {key: value for key, value in choice.options.items() if key != "weights"},
        "shape": list(data.shape),
        "classes": data.classes,
        "labels": list(data.labels),
        "mean": list(data.mean),
        "std": list(data.std),
        "masks": "the zeros of the weights",
        "run": identity_columns(bench.config),
    }


def report(numbers: Epoch, trainer: Trainer) -> Epoch:
    """Logs an epoch in one line and gives its numbers back."""
    line = "{phase} {epoch}/{epochs}  loss {loss:.4f}  train {train_accuracy:.2f}%  {seconds:.1f}s"
    if "sparsity" in numbers:
        line += "  sparsity {sparsity:.4f}  undecided {undecided:.4f}"
    log.info(line.format(**numbers, epochs=trainer.settings.epochs))
    return numbers


def warn_undecided(soft: torch.Tensor, hard: torch.Tensor) -> None:
    """Says so when hardening decides over many units that training left undecided."""
    undecided, kept = int(((soft > 0.05) & (soft < 0.95)).sum()), int((hard != 0).sum())
    if undecided > kept / 10:
        log.warning("%d units are undecided at hardening, against %d kept: expect a loss there", undecided, kept)


def seconds(epochs: list[Epoch], phase: str) -> float:
    """The time that a phase's epochs took."""
    return sum(epoch["seconds"] for epoch in epochs if epoch["phase"] == phase)
