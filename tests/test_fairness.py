"""What a comparison rests on: what is of a seed alone, and test images that nothing but the accuracies is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruner.config import Config
from pruner.data import ImageSet
from pruner.data.imageset import TensorSet
from pruner.run import experiment
from pruner.run.dense import dense_network
from pruner.run.experiment import prepare
from pruner.store.folders import RunFolder
from pruner.training.trainer import Accuracy, evaluate


def test_every_seed_has_a_dense_network_of_its_own(tiny_config: Callable[..., Config]) -> None:
    """It starts from other weights, and neither its folder nor what tells folders apart is another seed's."""
    one, other = (tiny_config(seed=seed) for seed in (0, 1))
    assert one.dense_identity() != other.dense_identity() and one.dense_id != other.dense_id
    hashes = [config.dense_id.rpartition("-")[2] for config in (one, other)]
    assert hashes[0] != hashes[1]
    weights = [prepare(config).model.get_parameter("fc.weight") for config in (one, one, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_a_dense_network_knows_nothing_of_what_will_be_done_to_it(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    """Whoever trains it: a method that holds images out, or a run whose weights are to be quantised."""
    short = {"dense_epochs": 1}
    configs = [
        tiny_config(recipe=short),
        tiny_config("dsa", granularity="filter", budget="macs", sparsity=0.3, recipe=short),
        tiny_config(quantization={"name": "binary", "bits": 1}, recipe={**short, "prune_epochs": 7}),
    ]
    assert len({config.dense_id for config in configs}) == 1
    networks = []
    for number, config in enumerate(configs):
        made = prepare(replace(config, output_dir=str(tmp_path / str(number))))
        dense_network(made)
        networks.append(made.model.state_dict())
    for name, values in networks[0].items():
        assert all(torch.equal(other[name], values) for other in networks[1:]), name


def test_every_seed_holds_out_other_images(tiny_config: Callable[..., Config]) -> None:
    """The same for the same seed; and what else a method draws is of the seed as well."""
    held_out, seeds = [], []
    for seed in (0, 0, 1):
        setup = prepare(tiny_config("dsa", seed=seed)).pruning.method.setup
        assert isinstance(setup.examples, TensorSet) and setup.examples.chosen is not None
        held_out.append(setup.examples.chosen.tolist())
        seeds.append(setup.generator.initial_seed())
    assert held_out[0] == held_out[1] != held_out[2]
    assert seeds[0] == seeds[1] != seeds[2]


def test_the_test_images_are_looked_at_four_times(
    tiny_config: Callable[..., Config], finish: Callable[[Config], RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dense network, soft masks, hard ones and the end, in float32 whatever training is in; never in between."""
    passes: list[int] = []
    precisions: list[str] = []
    found: list[Accuracy] = []
    batches = TensorSet.batches

    def recorded(self: TensorSet, batch_size: int, **how: Any) -> Iterator[tuple[Tensor, Tensor]]:
        passes.append(len(self))
        return batches(self, batch_size, **how)

    def evaluated(network: nn.Module, images: ImageSet, batch_size: int, precision: str) -> Accuracy:
        precisions.append(precision)
        found.append(evaluate(network, images, batch_size, precision))
        return found[-1]

    monkeypatch.setattr(TensorSet, "batches", recorded)
    monkeypatch.setattr(experiment, "evaluate", evaluated)
    row = finish(tiny_config("dsa", recipe={"precision": "bfloat16"})).finished()
    assert passes.count(48) == 4 and passes[-1] == 48
    assert precisions == ["float32"] * 4
    assert row is not None
    accuracies = [row[name] for name in ("dense_accuracy", "soft_accuracy", "hard_accuracy", "accuracy")]
    assert accuracies == [accuracy.top1 for accuracy in found] and row["accuracy_top5"] == found[-1].top5
