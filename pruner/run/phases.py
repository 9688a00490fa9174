"""One run, in order: dense, prune, harden, finetune, evaluate, row."""

from __future__ import annotations

import logging
from dataclasses import asdict
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from pruner.checks import ConfigError
from pruner.export.latency import latencies
from pruner.export.networks import save_model
from pruner.methods.base import Method
from pruner.models.ties import ties_of
from pruner.models.versions import versions_of
from pruner.run.dense import dense_network
from pruner.run.experiment import Experiment, prepare
from pruner.run.progress import Progress
from pruner.run.report import description, identity_columns, seconds, warn_undecided
from pruner.run.threads import threads_restored
from pruner.runtime.device import device_name
from pruner.runtime.distributed import of_first, part
from pruner.sparsity.counts import count, revived
from pruner.sparsity.masked import MaskedModel
from pruner.sparsity.size import network_bytes
from pruner.sparsity.surgery import without
from pruner.sparsity.trial import say_what_stays
from pruner.store import fingerprint
from pruner.store.commit import commit_of
from pruner.store.folders import RunFolder
from pruner.store.row import Row
from pruner.training.trainer import Accuracy, Epoch, Trainer, TrainingError, accuracy_over

__all__ = ["Experiment", "prepare", "run"]

log = logging.getLogger(__name__)

BINS = 20  # of the histogram of soft masks
GAP_BATCHES = 2  # of 500 training images, on which the gap between soft and hard masks is watched


@threads_restored()
def run(experiment: Experiment, folder: RunFolder) -> Row:
    """Takes the experiment's untrained model through all phases; leaves the run's files in its folder, gives its row.

    A run that was interrupted goes on from the state that was saved last, with as many threads as it began with.
    """
    fingerprint.keep(folder, experiment.fingerprint, folder.begun())
    progress = Progress(experiment, folder, experiment.config.to_dict())
    say_what_stays(experiment.model, experiment.allocation.units)  # here, where run.log hears it too
    dense = dense_network(experiment)
    network = experiment.network()
    if progress.phase != "finetune":
        method = prune(experiment, network, progress)
        progress.measured = harden(experiment, network, method)
    finetune(experiment, network, progress)
    final = experiment.evaluate(experiment.model)  # the plain model as it is saved
    row = evaluated(experiment, network.mask, progress.measured, final, folder)
    row |= {**timing(progress.tables["epochs"], dense), **made_with(progress.checkpoint.versions)}
    folder.write_result(row)
    folder.tidy(done=True)
    return row


class Drawing:
    """A method with the random numbers that it draws, as checkpoints have them."""

    def __init__(self, method: Method):
        self.method, self.generator = method, method.setup.generator

    def state_dict(self) -> dict[str, Any]:
        return {"method": self.method.state_dict(), "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.method.load_state_dict(state["method"])
        self.generator.set_state(state["generator"])


class Fixed:
    """The hard mask of a network, as checkpoints have it."""

    def __init__(self, network: MaskedModel):
        self.network = network

    def state_dict(self) -> dict[str, Any]:
        return {"hard": self.network.mask}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.fix(state["hard"].to(next(self.network.parameters()).device))


def prune(experiment: Experiment, network: MaskedModel, progress: Progress) -> Method:
    """Trains weights and soft masks together while the method drives the masks to the budget; gives the method."""
    method, images = experiment.method()
    trainer = Trainer(network, images, experiment.config.recipe, "prune", experiment.config.seed, method)
    if progress.phase != "prune":
        method.begin()

    def watch(numbers: Epoch) -> Epoch:
        groups = zip(experiment.allocation.units.groups, method.keep_ratios().tolist(), strict=True)
        progress.tables["ratios"].extend(
            {"epoch": numbers["epoch"], "group": group.name, "keep": ratio} for group, ratio in groups
        )
        progress.tables["masks"].extend({"epoch": numbers["epoch"], **bar} for bar in histogram(network.mask))
        return {**numbers, "gap": gap(experiment, network, method)}

    progress.train(trainer, Drawing(method), watch)
    return method


def harden(experiment: Experiment, network: MaskedModel, method: Method) -> dict[str, Any]:
    """Exact 0/1 masks that meet the budget; nothing is trained. Gives what was measured before it and after."""
    soft = method.final_mask().detach()
    network.gate(soft)
    soft_accuracy = experiment.evaluate(network).top1
    hard = experiment.allocation.hard(method.scores())
    warn_undecided(soft, hard, experiment.config.recipe.finetune_epochs > 0)
    network.harden(hard, soft)
    hard_accuracy = experiment.evaluate(network).top1
    return {"soft_accuracy": soft_accuracy, "hard_accuracy": hard_accuracy, "layers": method.measures()}


def finetune(experiment: Experiment, network: MaskedModel, progress: Progress) -> None:
    """Trains the weights that are left, under the fixed masks. Raises TrainingError if a pruned weight comes back."""
    trainer = Trainer(network, experiment.data.train, experiment.config.recipe, "finetune", experiment.config.seed)
    progress.train(trainer, Fixed(network))
    network.bake()
    if leaks := revived(experiment.model, experiment.allocation.units, network.mask):
        raise TrainingError(f"pruned weights came back to life in {', '.join(leaks)}")


@of_first
def evaluated(
    experiment: Experiment, hard: Tensor, measured: dict[str, Any], final: Accuracy, folder: RunFolder
) -> Row:
    """Counts what the mask `hard` [n] leaves of the model, whose accuracy is `final`, and writes its files; gives their
    columns."""
    config, model, units = experiment.config, experiment.model, experiment.allocation.units
    folder.check()
    counts, layers = count(model, experiment.data.shape, units, hard)
    folder.write_layers(
        {**row, "granularity": config.granularity, **measured["layers"].get(row["layer"], {})} for row in layers
    )
    modules = {"versions": versions_of(model), "ties": ties_of(model)}
    save_model(folder.path, model.state_dict(), {**description(config, experiment.data, units, hard), **modules})
    return {
        **identity_columns(config),
        "status": "done",
        "achieved_sparsity": 1 - experiment.allocation.cost_of(hard) / experiment.allocation.total,
        **asdict(counts),
        "soft_accuracy": measured["soft_accuracy"],
        "hard_accuracy": measured["hard_accuracy"],
        "accuracy": final.top1,
        "accuracy_top5": final.top5 if experiment.data.classes > 5 else None,
        "size_bytes": network_bytes(model, units, hard, config.quantization.bits),
        **speed(experiment, hard),
        "device": device_name(experiment.device),
        "threads": torch.get_num_threads(),
        "commit": commit_of(),
    }


def speed(experiment: Experiment, hard: Tensor) -> Row:
    """The latency of the dense network and of what ships; empty where no structure goes: zeros alone give no speed."""
    left = experiment.allocation.units.left(hard)
    if not left:
        return {}
    try:
        networks = experiment.model, without(experiment.model, left)
    except ConfigError as error:  # with budget.min_units=0 a layer may be empty
        log.warning("no latency: %s", error)
        return {}
    dense, shipped = latencies(networks, experiment.config.latency_batch, experiment.data.shape)
    return {"latency_ms": shipped, "dense_latency_ms": dense}


def histogram(mask: Tensor) -> list[dict[str, float]]:
    """How many units of a mask [n] are in each of BINS parts of [0, 1], with its lower end; the last with both."""
    counts = (mask * BINS).long().clamp(0, BINS - 1).bincount(minlength=BINS).tolist()
    return [{"bin_low": i / BINS, "bin_high": (i + 1) / BINS, "count": n} for i, n in enumerate(counts)]


def timing(epochs: list[Epoch], dense: Row) -> Row:
    """The columns of the dense network, and of the time that each phase took."""
    return {
        "dense_accuracy": dense["accuracy"],
        "dense_seconds": dense["seconds"],
        "prune_seconds": seconds(epochs, "prune"),
        "finetune_seconds": seconds(epochs, "finetune"),
    }


def made_with(versions: dict[str, str]) -> Row:
    """The columns of versions; of several where the run went on under another one."""
    return {f"{name}_version": version for name, version in versions.items()}


def gap(experiment: Experiment, network: MaskedModel, method: Method) -> float:
    """What hardening would cost now: the accuracy under the last step's mask less that after hardening, in points.

    Measured on the same few training images every time.
    """
    hardened = experiment.allocation.hard(method.scores()) * method.final_mask().detach()
    accuracies = []
    for mask in (network.mask, hardened):
        network.gate(mask)
        batches = islice(experiment.data.train.batches(500, seed=0, part=part()), GAP_BATCHES)
        accuracies.append(accuracy_over(network, batches, experiment.config.recipe.precision).top1)
    return accuracies[0] - accuracies[1]
