"""One run, in order: dense, prune, harden, finetune, evaluate, row."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from itertools import islice

import torch
from torch import Tensor

from pruner.checks import ConfigError
from pruner.config import PLACES, Config
from pruner.export.latency import latencies
from pruner.export.networks import save_model
from pruner.methods.base import Method
from pruner.models.ties import ties_of
from pruner.models.versions import versions_of
from pruner.run.experiment import Experiment, check_loaded, dense_network, prepare
from pruner.run.progress import Progress
from pruner.run.report import description, identity_columns, seconds, warn_undecided
from pruner.run.threads import settle_threads, threads_restored
from pruner.runtime.device import device_name
from pruner.runtime.distributed import first, part
from pruner.sparsity.counts import count, revived
from pruner.sparsity.masked import MaskedModel
from pruner.sparsity.size import network_bytes
from pruner.sparsity.surgery import without
from pruner.sparsity.trial import say_what_stays
from pruner.store import fingerprint
from pruner.store.folders import RunFolder, commit_of
from pruner.store.row import Row
from pruner.training.trainer import Accuracy, Epoch, Trainer, TrainingError, accuracy_over

__all__ = ["Experiment", "prepare", "run"]

log = logging.getLogger(__name__)

BINS = 20  # of the histogram of soft masks
GAP_BATCHES = 2  # of 500 training images, on which the gap between soft and hard masks is watched


@dataclass
class Pruned:
    """What the prune phase leaves beside the network: the hard mask [n], and what it measured."""

    hard: Tensor
    soft_accuracy: float
    hard_accuracy: float
    measures: dict[str, dict[str, float]]


@threads_restored()
def run(experiment: Experiment, folder: RunFolder) -> Row:
    """Takes the experiment's untrained model through all phases; leaves the run's files in its folder, gives its row.

    A run that was interrupted goes on from the state that was saved last, with as many threads as it began with.
    """
    first(lambda: fingerprint.keep(folder, experiment.fingerprint, begun=folder.checkpoint.exists()))
    first(lambda: folder.tidy(done=False))
    first(lambda: write_config(folder, experiment.config))
    settle_threads(folder, experiment.config.threads)
    say_what_stays(experiment.model, experiment.allocation.units)  # here, where run.log hears it too
    dense = dense_network(experiment)
    check_loaded(experiment, dense["accuracy"])
    progress = Progress(experiment, folder)
    network = experiment.network()
    pruned = None if progress.phase == "finetune" else prune(experiment, network, progress)
    pruned = finetune(experiment, network, pruned, progress)
    first(folder.check)
    final = experiment.evaluate(experiment.model)  # the plain model as it is saved
    row = first(lambda: evaluated(experiment, folder, pruned, final))
    row |= {**timing(progress.epochs, dense), **made_with(progress.checkpoint.versions)}
    first(lambda: folder.write_result(row))
    first(lambda: folder.tidy(done=True))
    return row


def write_config(folder: RunFolder, config: Config) -> None:
    """Writes config.yaml, but where it says the same already, of a run that goes on in a folder that was moved too."""
    values = config.to_dict()
    try:
        kept = folder.read_config()
    except ConfigError:  # there is none, or a damaged one
        kept = {}
    if kept | {key: values[key] for key in PLACES} != values:
        folder.write_config(values)


def prune(experiment: Experiment, network: MaskedModel, progress: Progress) -> Pruned:
    """Trains weights and soft masks together while the method drives the masks to the budget; then hardens them."""
    method, images = experiment.method()
    trainer = Trainer(network, images, experiment.config.recipe, "prune", experiment.config.seed, method)
    if progress.phase == "prune":
        with progress.checkpoint.put_in_place():
            progress.restore(trainer)
            method.load_state_dict(progress.state["method"])
            method.setup.generator.set_state(progress.state["generator"])
    else:
        method.begin()

    def watch(numbers: Epoch) -> Epoch:
        groups = zip(experiment.allocation.units.groups, method.keep_ratios().tolist(), strict=True)
        progress.ratios.extend(
            {"epoch": numbers["epoch"], "group": group.name, "keep": ratio} for group, ratio in groups
        )
        progress.masks.extend({"epoch": numbers["epoch"], **bar} for bar in histogram(network.mask))
        return {**numbers, "gap": gap(experiment, network, method)}

    progress.train(
        trainer, lambda: {"method": method.state_dict(), "generator": method.setup.generator.get_state()}, watch
    )
    soft = method.final_mask().detach()
    network.gate(soft)
    soft_accuracy = experiment.evaluate(network).top1
    hard = experiment.allocation.hard(method.scores())
    warn_undecided(soft, hard, experiment.config.recipe.finetune_epochs > 0)
    # Harden: exact 0/1 masks that meet the budget; nothing is trained.
    network.harden(hard, soft)
    return Pruned(hard, soft_accuracy, experiment.evaluate(network).top1, method.measures())


def finetune(experiment: Experiment, network: MaskedModel, pruned: Pruned | None, progress: Progress) -> Pruned:
    """Trains the weights that are left, under the fixed masks; gives `pruned`, or what the progress has of it.

    Raises TrainingError if a pruned weight comes back.
    """
    trainer = Trainer(network, experiment.data.train, experiment.config.recipe, "finetune", experiment.config.seed)
    if pruned is None:
        with progress.checkpoint.put_in_place():
            progress.restore(trainer)
            pruned = Pruned(
                **{**progress.state["pruned"], "hard": progress.state["pruned"]["hard"].to(experiment.device)}
            )
            network.fix(pruned.hard)
    kept = vars(pruned)
    progress.train(trainer, lambda: {"pruned": kept})
    network.bake()
    if leaks := revived(experiment.model, experiment.allocation.units, pruned.hard):
        raise TrainingError(f"pruned weights came back to life in {', '.join(leaks)}")
    return pruned


def evaluated(experiment: Experiment, folder: RunFolder, pruned: Pruned, final: Accuracy) -> Row:
    """Counts what is left of the model, whose accuracy is `final`, and writes its files; gives their columns."""
    config, model, units, hard = experiment.config, experiment.model, experiment.allocation.units, pruned.hard
    counts, layers = count(model, experiment.data.shape, units, hard)
    folder.write_layers(
        {**row, "granularity": config.granularity, **pruned.measures.get(row["layer"], {})} for row in layers
    )
    modules = {"versions": versions_of(model), "ties": ties_of(model)}
    save_model(folder.path, model.state_dict(), {**description(config, experiment.data, units, hard), **modules})
    return {
        **identity_columns(config),
        "status": "done",
        "achieved_sparsity": 1 - experiment.allocation.cost_of(hard) / experiment.allocation.total,
        **asdict(counts),
        "soft_accuracy": pruned.soft_accuracy,
        "hard_accuracy": pruned.hard_accuracy,
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
