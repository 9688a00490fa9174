"""The dense network that many runs share: trained by the first of them, then loaded; and a check of what it can do."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from pruner.checks import require
from pruner.config import expand
from pruner.models.versions import load, versions_of
from pruner.run.experiment import Experiment
from pruner.run.progress import Progress
from pruner.run.report import seconds
from pruner.run.threads import threads_restored
from pruner.sparsity.masked import MaskedModel
from pruner.store import fingerprint
from pruner.store.folders import FORMAT, DenseStore
from pruner.store.row import Row
from pruner.training.trainer import Trainer

log = logging.getLogger(__name__)

# How far the accuracy of weights in a file may fall short of what they are said to reach, in percentage points beside
# what chance makes of the test images: another decoder or resampling costs tenths, another normalisation several.
REMARKED, REFUSED = 1.0, 5.0
NEAR_CHANCE = 0.1  # of the way from guessing to all images right


@threads_restored()
def dense_network(experiment: Experiment) -> Row:
    """Trains the dense network into the experiment's model, or loads it from the dense store; gives its numbers.

    Runs that ask for the same network at the same time wait for the first one. Raises ConfigError, also as
    `check_loaded` does.
    """
    config = experiment.config
    store = DenseStore(Path(expand(config.output_dir)) / config.dense_id)
    with store.lock():
        fingerprint.keep(store, fingerprint.of_dense(experiment.fingerprint), store.begun())
        numbers = _loaded(experiment, store) or _trained(experiment, store)
        store.tidy(done=True)
    check_loaded(experiment, numbers["accuracy"])
    return numbers


def _loaded(experiment: Experiment, store: DenseStore) -> Row | None:
    """None where it is not trained yet."""
    found = store.load(experiment.model.state_dict())
    if found is None:
        return None
    tensors, info = found
    load(experiment.model, tensors, info.get("versions"))
    log.info("dense network loaded from %s: accuracy %.2f", store.path, info["accuracy"])
    return info


def _trained(experiment: Experiment, store: DenseStore) -> Row:
    config, model = experiment.config, experiment.model
    progress = Progress(experiment, store, config.dense_identity())
    network = MaskedModel(model, experiment.allocation.units, compiled=config.compile)
    progress.train(Trainer(network, experiment.data.train, config.recipe, "dense", config.seed))
    accuracy = experiment.evaluate(model)
    info: dict[str, Any] = {"accuracy": accuracy.top1, "accuracy_top5": accuracy.top5}
    info["seconds"] = seconds(progress.tables["epochs"], "dense")
    store.check()
    made_with = {"format": FORMAT, "versions": versions_of(model), **progress.checkpoint.versions}
    store.save(model.state_dict(), {**info, **made_with})
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
