"""Networks as people write them are traced right, run and ship, or are refused before any work in one line."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from pruner.checks import ConfigError
from pruner.config import Config
from pruner.export.shipped import shipped
from pruner.models.versions import load, versions_of
from pruner.run.experiment import prepare
from pruner.sparsity.intake import accept
from pruner.sparsity.trial import say_what_stays, units_that_can_go
from pruner.sparsity.units.make import Units, make_units
from pruner.store.folders import RunFolder
from tests.odd_networks import CLASSES, SHAPE, Flattened, Net, Recurrent, TwoNames, conv, normed
from tests.odd_zoo import REFUSED, TAKEN

IMAGES = {"classes": CLASSES, "image_size": SHAPE[1], "train_size": 64, "test_size": 32, "noise": 0.2}


def filters_of(model: nn.Module) -> Units:
    return units_that_can_go(lambda constant: make_units(model, SHAPE, "filter", constant=constant), model, SHAPE)


@pytest.fixture
def config_of(tiny_config: Callable[..., Config], tmp_path: Path) -> Callable[..., Config]:
    """A config of a run of one of the odd networks."""

    def make(name: str, granularity: str, **more: object) -> Config:
        return tiny_config(
            "gmp",
            granularity=granularity,
            sparsity=0.5,
            dataset={"label": "synthetic", "name": "synthetic", "options": IMAGES},
            model={"label": "odd", "name": "tests.odd_zoo:odd", "options": {"name": name}},
            recipe={"dense_epochs": 1, "prune_epochs": 1},
            output_dir=str(tmp_path),
            **more,
        )

    return make


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", TAKEN)
def test_the_filters_that_can_go_are_found_in_every_layout(name: str, layout: torch.memory_format) -> None:
    make, count = TAKEN[name]
    model = make()
    if layout is torch.channels_last:
        accept(model, SHAPE, CLASSES)
    assert filters_of(model).n == count


# Those whose single weights are another matter than in any network: of weights with two names or uses.
WEIGHTS = {
    "a convolution with two names",
    "a block with two names",
    "a weight that two share",
    "one layer on two scales",
}
WEIGHTS |= {"a parameter for each channel", "a functional call", "a decoder", "parameters in a list", "hooks"}
RUNS = [
    pytest.param(name, granularity, marks=[] if granularity == "filter" or name in WEIGHTS else pytest.mark.long)
    for name in TAKEN
    for granularity in ("filter", "weight")
]


@pytest.mark.parametrize(("name", "granularity"), RUNS)
def test_they_run_and_ship(
    name: str, granularity: str, config_of: Callable[..., Config], finish: Callable[[Config], RunFolder]
) -> None:
    folder = finish(config_of(name, granularity))
    row = folder.finished()
    assert row is not None and row["achieved_sparsity"] >= 0.5
    ships = shipped(folder.path, own_code=True)  # fails where it answers otherwise than the run's network
    assert sum(parameter.numel() for parameter in ships.model.parameters()) <= row["params_total"]
    if granularity == "filter":
        assert sum(parameter.numel() for parameter in ships.model.parameters()) == row["params_kept"]


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_pruned_is_refused_before_any_work(
    name: str, config_of: Callable[..., Config], tmp_path: Path
) -> None:
    _, granularity, said = REFUSED[name]
    with pytest.raises(ConfigError) as refused:
        prepare(config_of(name, granularity))
    line = str(refused.value)
    assert "\n" not in line and all(words in line for words in said), line
    assert not list(tmp_path.iterdir())


def test_what_stays_is_said_with_the_operation_that_keeps_it(caplog: pytest.LogCaptureFixture) -> None:
    model = Net(lambda n, x: n.b(n.norm(n.a(x))), 6, a=conv(3, 8), norm=nn.GroupNorm(2, 8), b=normed(8, 6))
    units = filters_of(model)
    assert units.n == 6
    with caplog.at_level(logging.INFO, logger="pruner.sparsity.trial"):
        say_what_stays(model, units)
    assert caplog.messages == ["8 filters stay, of a: native_group_norm in norm"]


def test_a_number_in_the_code_is_said_as_well(caplog: pytest.LogCaptureFixture) -> None:
    model = Flattened(lambda x: x.reshape(-1, 64))
    with caplog.at_level(logging.INFO, logger="pruner.sparsity.trial"):
        say_what_stays(model, filters_of(model))
    assert caplog.messages == ["16 filters stay, of b.0: view in the network itself"]


def test_of_several_sizes_only_the_number_keeps_channels() -> None:
    """The first two are told the channels that there are, the last a number: it alone keeps what it meets."""
    features = lambda n, x: n.b(n.a(x).flatten(2).unflatten(2, (8, 8))).view(-1, 6, 64)  # noqa: E731 (a line of the network)
    assert filters_of(Net(features, 6, a=normed(3, 8), b=conv(8, 6))).n == 8


def test_weights_that_no_layer_has_are_named_with_their_share(caplog: pytest.LogCaptureFixture) -> None:
    model = Recurrent()
    with caplog.at_level(logging.INFO, logger="pruner.sparsity.trial"):
        say_what_stays(model, make_units(model, SHAPE, "weight"))
    (record,) = caplog.records
    weights = 4 * 40 * (24 + 40)
    share = 100 * weights / sum(parameter.numel() for parameter in model.parameters())
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        f"{share:.1f}% of the parameters are in no layer that can be pruned: rows (LSTM) {weights}"
    )


def test_the_trial_leaves_the_model_as_it_was() -> None:
    model = TwoNames().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    accept(model, SHAPE, CLASSES)
    filters_of(model)
    assert model.training and torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_network_that_reads_older_files_otherwise_runs_twice_and_ships(
    tiny_config: Callable[..., Config], finish: Callable[[Config], RunFolder], tmp_path: Path
) -> None:
    """A MNASNet takes tensors without its version for those of an older one, of other widths."""
    options = {"arch": "mnasnet0_5"}
    model = {"label": "mnasnet0_5", "name": "torchvision", "options": options}
    images = {"label": "synthetic", "name": "synthetic", "options": {**IMAGES, "channels": 3, "image_size": 32}}
    rates = {f"{phase}_lr": 1e-4 for phase in ("dense", "prune", "finetune")}
    for method in ("gmp", "magnitude"):  # the second finds the first one's dense network
        config = tiny_config(
            method,
            granularity="filter",
            sparsity=0.5,
            dataset=images,
            model=model,
            recipe=rates,
            output_dir=str(tmp_path),
        )
        shipped(finish(config).path)  # fails where it answers otherwise than the run's network


def test_versions_are_told_to_the_module_that_asks_for_them() -> None:
    class Newer(nn.Linear):
        _version = 3

        def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest) -> None:
            asked.append(local_metadata.get("version"))
            super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)

    asked: list[int | None] = []
    model = nn.Sequential(Newer(2, 2))
    assert versions_of(model) == {Newer.__qualname__: 3}
    load(model, model.state_dict())
    load(model, dict(model.state_dict()), versions_of(model))
    load(model, dict(model.state_dict()), {Newer.__qualname__: 2})
    load(model, dict(model.state_dict()), {})
    assert asked == [3, 3, 2, 1]


def test_a_runs_log_says_what_stays(config_of: Callable[..., Config], finish: Callable[[Config], RunFolder]) -> None:
    folder = finish(config_of("reshape to a number", "filter"))
    assert re.search(r"16 filters stay, of b.0: \w*view in the network itself", folder.log.read_text())
