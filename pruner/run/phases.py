"""One run, in order: dense, prune, harden, finetune, evaluate, row."""

from __future__ import annotations

import logging
from itertools import islice

import torch
from torch import Tensor

from pruner.checks import ConfigError
from pruner.export.latency import latencies
from pruner.export.networks import save_model
from pruner.models.ties import ties_of
from pruner.models.versions import versions_of
from pruner.run.dense import dense_network
from pruner.run.experiment import Experiment, prepare
from pruner.run.progress import Progress
from pruner.run.report import description, identity_columns, seconds, warn_undecided
from pruner.run.threads import threads_restored
from pruner.runtime.device import device_name
from pruner.runtime.distributed import of_first, part
from pruner.sparsity.surgery import without
from pruner.sparsity.trial import say_what_stays
from pruner.store import fingerprint
from pruner.store.commit import commit_of
from pruner.store.folders import RunFolder
from pruner.store.row import Row
from pruner.training.trainer import Accuracy, Epoch, Trainer, accuracy_over

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
    if progress.phase != "finetune":
        prune(experiment, progress)
        progress.measured = harden(experiment)
    finetune(experiment, progress)
    final = experiment.evaluate(experiment.pruning.finish())  # the plain model as it is saved
    row = evaluated(experiment, progress.measured, final, folder)
    row |= {**timing(progress.tables["epochs"], dense), **made_with(progress.checkpoint.versions)}
    folder.write_result(row)
    folder.tidy(done=True)
    return row


def prune(experiment: Experiment, progress: Progress) -> None:
    """Trains weights and soft masks together while the method drives the masks to the budget."""
    pruning, config = experiment.pruning, experiment.config

    def watch(numbers: Epoch) -> Epoch:
        epoch = {"epoch": numbers["epoch"]}
        groups = zip(pruning.units.groups, pruning.method.keep_ratios().tolist(), strict=True)
        progress.tables["ratios"].extend({**epoch, "group": group.name, "keep": ratio} for group, ratio in groups)
        progress.tables["masks"].extend({**epoch, **bar} for bar in histogram(pruning.mask))
        return {**numbers, "gap": gap(experiment)}

    progress.train(Trainer(pruning, experiment.images, config.recipe, "prune", config.seed), watch)


def harden(experiment: Experiment) -> dict[str, float]:
    """Exact 0/1 masks that meet the budget; nothing is trained. Gives the accuracy before and after it."""
    pruning = experiment.pruning
    pruning.begin()  # for a phase of no steps
    soft = pruning.method.final_mask().detach()
    pruning.gate(soft)
    soft_accuracy = experiment.evaluate(pruning).top1
    hard = pruning.harden()
    warn_undecided(soft, hard, experiment.config.recipe.finetune_epochs > 0)
    return {"soft_accuracy": soft_accuracy, "hard_accuracy": experiment.evaluate(pruning).top1}


def finetune(experiment: Experiment, progress: Progress) -> None:
    """Trains the weights that are left, under the fixed masks."""
    recipe, seed = experiment.config.recipe, experiment.config.seed
    progress.train(Trainer(experiment.pruning, experiment.data.train, recipe, "finetune", seed))


@of_first
def evaluated(experiment: Experiment, measured: dict[str, float], final: Accuracy, folder: RunFolder) -> Row:
    """Counts what is left of the model, whose accuracy is `final`, and writes its files; gives their columns."""
    config, pruning, model = experiment.config, experiment.pruning, experiment.model
    hard = pruning.hard
    assert hard is not None
    folder.check()
    folder.write_layers({**row, "granularity": config.granularity} for row in pruning.layers())
    modules = {"versions": versions_of(model), "ties": ties_of(model)}
    about = description(config, experiment.data, pruning.units, hard)
    save_model(folder.path, model.state_dict(), {**about, **modules})
    return {
        **identity_columns(config),
        "status": "done",
        **pruning.report(),
        **measured,
        "accuracy": final.top1,
        "accuracy_top5": final.top5 if experiment.data.classes > 5 else None,
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


def gap(experiment: Experiment) -> float:
    """What hardening would cost now: the accuracy under the last step's mask less that after hardening, in points.

    Measured on the same few training images every time.
    """
    pruning = experiment.pruning
    hardened = pruning.allocation.hard(pruning.method.scores()) * pruning.method.final_mask().detach()
    accuracies = []
    for mask in (pruning.mask, hardened):
        pruning.gate(mask)
        batches = islice(experiment.data.train.batches(500, seed=0, part=part()), GAP_BATCHES)
        accuracies.append(accuracy_over(pruning, batches, experiment.config.recipe.precision).top1)
    return accuracies[0] - accuracies[1]
