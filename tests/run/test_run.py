"""A whole run: the same seed gives the same row, whatever happened before, and held-out images stay out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruner.config import Config
from pruner.data.imageset import TensorSet
from pruner.export.networks import load_model
from pruner.methods.base import Method, Setup
from pruner.methods.one_shot import OneShot
from pruner.run import phases
from pruner.run.dense import dense_network
from pruner.run.experiment import Experiment, prepare
from pruner.run.progress import Progress
from pruner.run.report import warn_undecided
from pruner.sparsity.counts import count
from pruner.sparsity.masked import MaskedModel
from pruner.store.folders import DenseStore, RunFolder
from pruner.store.row import LAYER_COLUMNS, MASK_COLUMNS, read_rows
from pruner.training.trainer import Accuracy


def row_of(folder: RunFolder) -> dict[str, Any]:
    """A finished run's row without its times."""
    row = folder.finished()
    assert row is not None
    return {name: value for name, value in row.items() if not name.endswith(("_seconds", "latency_ms"))}


@pytest.mark.parametrize("method", ["dtp", "random"])
def test_a_seed_gives_one_result(
    method: str, tmp_path: Path, tiny_config: Callable[..., Config], finish: Callable[[Config], RunFolder]
) -> None:
    config = tiny_config(method, sparsity=0.9)
    first = finish(config)
    torch.manual_seed(999)
    torch.rand(7)
    second = finish(replace(config, output_dir=str(tmp_path / "elsewhere")))
    other = finish(replace(config, seed=1))

    assert first.path != second.path
    assert row_of(first) == row_of(second)
    for name in ("model.safetensors", "model.json", "layers.csv"):
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes()

    assert first.model.read_bytes() != other.model.read_bytes()
    results = ("dense_accuracy", "soft_accuracy", "hard_accuracy", "accuracy", "accuracy_top5")
    assert [row_of(first)[name] for name in results] != [row_of(other)[name] for name in results]


def test_every_epoch_of_every_phase_has_an_order_of_its_own(
    tiny_config: Callable[..., Config], finish: Callable[[Config], RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    first_labels: list[list[int]] = []
    batches = TensorSet.batches

    def recorded(self: TensorSet, batch_size: int, **how: Any) -> Iterator[tuple[Tensor, Tensor]]:
        for number, (images, labels) in enumerate(batches(self, batch_size, **how)):
            if how.get("augment") and number == 0:  # training
                first_labels.append(labels.tolist())
            yield images, labels

    monkeypatch.setattr(TensorSet, "batches", recorded)
    for seed in (0, 1):
        finish(tiny_config(seed=seed))
    assert len(first_labels) == len({tuple(labels) for labels in first_labels}) == 2 * 5


def test_training_or_loading_the_dense_network_makes_no_difference(
    tmp_path: Path, tiny_config: Callable[..., Config], finish: Callable[[Config], RunFolder]
) -> None:
    config = tiny_config("dtp")
    trained = finish(config)
    elsewhere = str(tmp_path / "elsewhere")
    finish(replace(config, method=tiny_config("random").method, output_dir=elsewhere))
    loaded = finish(replace(config, output_dir=elsewhere))
    assert "dense network loaded" in loaded.log.read_text()
    assert "dense network loaded" not in trained.log.read_text()
    assert row_of(trained) == row_of(loaded)
    assert trained.model.read_bytes() == loaded.model.read_bytes()


@pytest.mark.parametrize("granularity", ["weight", "filter"])
def test_the_saved_network_is_the_one_in_memory(granularity: str, tiny_config: Callable[..., Config]) -> None:
    config = tiny_config("dtp", granularity=granularity)
    experiment = prepare(config)
    folder = RunFolder(Path(config.output_dir) / config.run_id)
    phases.run(experiment, folder)
    loaded, description = load_model(folder.path)
    (images, _), *_ = experiment.data.test.batches(100)
    with torch.no_grad():
        expected = experiment.model.eval()(images)
        found = loaded.to(memory_format=torch.channels_last)(images)  # another layout sums in another order
    assert torch.equal(expected, found)
    assert description["run"]["run_id"] == config.run_id


def test_a_runs_folder_holds_what_the_contract_says(
    tiny_config: Callable[..., Config], finish: Callable[[Config], RunFolder]
) -> None:
    config = tiny_config("dtp", recipe={"dense_epochs": 1, "prune_epochs": 3, "finetune_epochs": 2})
    folder = finish(config)
    files = {path.name for path in folder.path.iterdir()}
    assert files == {
        "config.yaml", "result.csv", "epochs.csv", "layers.csv", "ratios.csv", "masks.csv",
        "model.safetensors", "model.json", "digests.json", "run.log",
    }  # fmt: skip
    assert folder.read_config() == config.to_dict()
    epochs = folder.read_epochs()
    assert [(e["phase"], e["epoch"]) for e in epochs] == [
        ("prune", 1), ("prune", 2), ("prune", 3), ("finetune", 1), ("finetune", 2)
    ]  # fmt: skip
    assert epochs[2]["sparsity"] == pytest.approx(0.5, abs=1e-3) and epochs[4]["sparsity"] is None
    masks, units = (
        read_rows(folder.masks, MASK_COLUMNS),
        sum(r["units_total"] for r in read_rows(folder.layers, LAYER_COLUMNS)),
    )
    assert [sum(m["count"] for m in masks if m["epoch"] == epoch) for epoch in (1, 2, 3)] == [units] * 3
    row = folder.finished()
    assert row is not None
    assert (row["dense_epochs"], row["prune_epochs"], row["finetune_epochs"]) == (1, 3, 2)
    dense = DenseStore(Path(config.output_dir) / config.dense_id)
    assert {path.name for path in dense.path.iterdir()} == {
        "config.yaml", "dense.json", "epochs.csv", "model.safetensors"
    }  # fmt: skip
    epochs += dense.read_epochs()
    for phase in ("dense", "prune", "finetune"):
        seconds = sum(e["seconds"] for e in epochs if e["phase"] == phase)
        assert row[f"{phase}_seconds"] == pytest.approx(seconds, abs=0.01)


def test_histogram_by_hand() -> None:
    bins = phases.histogram(torch.tensor([0.0, 0.04, 0.05, 0.5, 0.999, 1.0, 1.0]))
    found = {(b["bin_low"], b["bin_high"]): b["count"] for b in bins if b["count"]}
    assert len(bins) == 20
    assert found == {(0, 0.05): 2, (0.05, 0.1): 1, (0.5, 0.55): 1, (0.95, 1): 3}


class Watcher(OneShot):
    """A method that wants a fifth of the training images, and shows the setups that it was given."""

    held_out = 0.2
    setups: list[Setup]  # set by the test

    def __init__(self, setup: Setup, options: Any = None) -> None:
        super().__init__(setup, options)
        self.setups.append(setup)


def test_held_out_images_are_kept_from_the_weights(
    tiny_config: Callable[..., Config], finish: Callable[[Config], RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watcher, "setups", [], raising=False)
    trained: list[TensorSet] = []
    batches = TensorSet.batches

    def recorded(self: TensorSet, batch_size: int, **how: Any) -> Iterator[tuple[Tensor, Tensor]]:
        if how.get("augment"):  # training
            trained.append(self)
        return batches(self, batch_size, **how)

    monkeypatch.setattr(TensorSet, "batches", recorded)
    config = tiny_config("watcher", name=f"{__name__}:Watcher", recipe={"batch_size": 16, "prune_epochs": 1})
    finish(config)

    held_out = Watcher.setups[-1].examples
    assert isinstance(held_out, TensorSet) and len(held_out) == 19  # a fifth of 96
    dense, _, prune, finetune = trained
    assert (len(dense), len(prune), len(finetune)) == (96, 77, 96)
    assert Watcher.setups[-1].steps == 77 // 16
    rest = {image.numpy().tobytes() for image in prune.images[prune.chosen]}
    kept = {image.numpy().tobytes() for image in held_out.images[held_out.chosen]}
    assert not rest & kept
    assert rest | kept == {image.numpy().tobytes() for image in dense.images}


class Fading(OneShot):
    """Trains dense; the units that it scores best are those of which its final mask leaves least."""

    def mask(self, step: int) -> Tensor:
        return torch.ones(self.setup.units.n)

    def scores(self) -> Tensor:
        return torch.linspace(1, 0, self.setup.units.n)

    def final_mask(self) -> Tensor:
        return torch.linspace(0.2, 1, self.setup.units.n)


def test_hardening_keeps_the_best_scores_and_folds_the_final_mask(
    tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it is these two masks that soft and hard accuracy are of."""
    config = tiny_config("fading", name=f"{__name__}:Fading", sparsity=0.75, recipe={"prune_lr": 1e-30})
    experiment = prepare(config)
    units, network = experiment.allocation.units, experiment.network()
    before = units.sum_over(dict(experiment.model.named_parameters())).detach().clone()
    seen: list[Tensor] = []

    def evaluated(self: Experiment, network: MaskedModel) -> Accuracy:
        seen.append(network.mask)
        return Accuracy(len(seen), 0)

    monkeypatch.setattr(Experiment, "evaluate", evaluated)
    folder = RunFolder(Path(config.output_dir) / config.run_id)
    method = phases.prune(experiment, network, Progress(experiment, folder, config.to_dict()))
    measured = phases.harden(experiment, network, method)
    soft, best = torch.linspace(0.2, 1, units.n), experiment.allocation.hard(torch.linspace(1, 0, units.n))
    assert torch.equal(network.mask, best) and bool(best[: units.n // 5].all())
    assert torch.equal(seen[0], soft) and torch.equal(seen[1], best)
    assert (measured["soft_accuracy"], measured["hard_accuracy"]) == (1, 2)
    torch.testing.assert_close(units.sum_over(dict(experiment.model.named_parameters())), before * soft * best)


def test_latencies_are_of_the_dense_network_and_of_what_ships(
    tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that counts parameters, for as many images as the config says."""
    experiment = prepare(tiny_config(granularity="filter", latency_batch=7))
    units = experiment.allocation.units
    hard = experiment.allocation.hard(torch.rand(units.n))
    asked: list[tuple[int, tuple[int, ...]]] = []

    def counted(networks: Sequence[nn.Module], batch: int, shape: tuple[int, ...]) -> list[float]:
        asked.append((batch, shape))
        return [float(sum(parameter.numel() for parameter in network.parameters())) for network in networks]

    monkeypatch.setattr(phases, "latencies", counted)
    counts, _ = count(experiment.model, experiment.data.shape, units, hard)
    assert phases.speed(experiment, hard) == {"latency_ms": counts.params_kept, "dense_latency_ms": counts.params_total}
    assert asked == [(7, (3, 8, 8))]


def test_a_method_that_asks_for_nothing_gets_nothing_held_out(tiny_config: Callable[..., Config]) -> None:
    experiment = prepare(tiny_config())
    method, images = experiment.method()
    assert isinstance(method, Method)
    assert method.setup.examples is None and images is experiment.data.train


def test_undecided_units_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """More than a tenth of the kept: hardening will cost accuracy, and only finetuning can mend that."""
    caplog.set_level("INFO", "pruner")
    hard = torch.tensor([1.0] * 20 + [0.0] * 80)
    decided = hard.clone()
    decided[:2] = 0.5
    warn_undecided(decided, hard, finetuned=False)
    assert not caplog.messages
    decided[2] = 0.5
    warn_undecided(decided, hard, finetuned=False)
    warn_undecided(decided, hard, finetuned=True)
    said = "3 units are undecided at hardening, 20 kept: expect a loss there"
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", said),
        ("INFO", said + ", which finetuning is to mend"),
    ]


def test_the_gap_is_what_hardening_would_cost_the_network_as_it_trains(tiny_config: Callable[..., Config]) -> None:
    """Of a network that trains dense it is the loss of all that would go; of one under its last mask it is nothing."""
    experiment = prepare(tiny_config("acdc", sparsity=0.95, recipe={"dense_epochs": 8}))
    dense_network(experiment)
    method, _ = experiment.method()
    method.begin()
    network = experiment.network()
    network.gate(torch.ones(experiment.allocation.units.n))
    assert phases.gap(experiment, network, method) > 20
    network.gate(method.final_mask())
    assert phases.gap(experiment, network, method) == 0
