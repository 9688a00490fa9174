"""Networks of the zoo run from end to end, and what ships reads back equal in every format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pruner.checks import ConfigError
from pruner.config import Config
from pruner.export.formats import FORMATS
from pruner.export.shipped import shipped
from pruner.run.experiment import prepare
from pruner.sparsity.units.layers import count_macs
from pruner.store.folders import RunFolder
from tests.odd_networks import CLASSES, SHAPE
from tests.odd_zoo import TAKEN
from tests.zoo import NETWORKS, marked

Make = Callable[..., Config]
Finish = Callable[[Config], RunFolder]

ONE_BATCH = {"image by image"}  # their own code needs to know the number of images, and so do programs of them
SPARSITY = {("maxvit_t", "filter"): 0.2}  # where half is too much: its streams, which are most of it, stay


def config_of(make: Make, model: dict[str, Any], side: int, granularity: str, sparsity: float = 0.5) -> Config:
    """A config of a short run at a low rate, which no network makes infinite."""
    images = {"classes": CLASSES, "channels": 3, "image_size": side, "train_size": 16, "test_size": 8, "noise": 0.2}
    rates = {f"{phase}_lr": 1e-4 for phase in ("dense", "prune", "finetune")}
    recipe = {"batch_size": 8, "dense_epochs": 1, "prune_epochs": 1, "finetune_epochs": 1, **rates}
    dataset = {"label": "synthetic", "name": "synthetic", "options": images}
    return make("gmp", granularity=granularity, sparsity=sparsity, dataset=dataset, model=model, recipe=recipe)


def assert_ships(run: RunFolder, sparsity: float = 0.5, one_batch: bool = False) -> None:
    """In every format, for a batch of any size; where the code needs `one_batch`, as tensors alone."""
    row = run.finished()
    assert row is not None and row["achieved_sparsity"] >= sparsity
    network = shipped(run.path, own_code=True)
    if row["granularity"] == "filter":
        assert sum(parameter.numel() for parameter in network.model.parameters()) == row["params_kept"]
        assert count_macs(network.model, network.shape) == row["macs_kept"]  # torch's own counter
    images = network.probes()
    with torch.no_grad():
        expected = network.whole(images.clone())  # some change what they are given
    most = 1e-5 * max(1, float(expected.abs().max()))
    for form, write in FORMATS.items():
        if one_batch and form != "safetensors":
            with pytest.raises(ConfigError, match=f"^--format {form}: .*its code needs a batch of one size.*$"):
                write(network, run.path / form)
            assert not (run.path / form).exists()
            continue
        predict = write(network, run.path / form).predict
        assert network.difference(predict) <= 1e-5, form
        for batch in (1, 3):
            with torch.no_grad():
                found = predict(images[:batch].clone())
            assert float((found - expected[:batch]).abs().max()) <= most, (form, batch)


@pytest.mark.parametrize("name", marked(TAKEN, ["U-Net", "attention by channels and positions", "hooks"]))
def test_odd_networks_ship_in_every_format(name: str, tiny_config: Make, finish: Finish) -> None:
    model = {"label": "odd", "name": "tests.odd_zoo:odd", "options": {"name": name}}
    assert_ships(finish(config_of(tiny_config, model, SHAPE[1], "filter")), one_batch=name in ONE_BATCH)


@pytest.mark.zoo
@pytest.mark.parametrize("granularity", ["filter", "weight"])
@pytest.mark.parametrize("arch", NETWORKS)
def test_torchvisions_networks_run_and_ship_or_are_refused(
    arch: str, granularity: str, tiny_config: Make, finish: Finish, tmp_path: Path
) -> None:
    known = NETWORKS[arch]
    model = {"label": arch, "name": "torchvision", "options": {"arch": arch}}
    sparsity = SPARSITY.get((arch, granularity), 0.5)
    config = config_of(tiny_config, model, max(known.side, 8), granularity, sparsity)
    if granularity == "filter" and isinstance(known.filters, str):
        with pytest.raises(ConfigError, match=known.filters):
            prepare(config)
        assert not list(tmp_path.iterdir())
    else:
        assert_ships(finish(config), sparsity)
