"""A tensor that several names of a network share is stored once, and all have it again when the network is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pruner.config import Config
from pruner.export.formats import FORMATS
from pruner.export.networks import load_model, save_model
from pruner.export.shipped import shipped
from pruner.models.ties import ties_of
from pruner.store.folders import RunFolder
from pruner.store.tensors import read_sealed
from tests.odd_networks import CLASSES, SHAPE, SharedWeight, TwoBlocks, TwoNames

SHARED = {"b.weight": "a.weight", "both.0.weight": "a.weight", "both.1.weight": "a.weight"}
ARCHITECTURE = {
    "label": "odd",
    "name": "tests.odd_networks:odd",
    "options": {"name": "a weight that two share"},
    "shape": list(SHAPE),
    "classes": CLASSES,
}


def test_ties_are_by_the_first_name() -> None:
    assert ties_of(SharedWeight()) == SHARED
    assert ties_of(TwoNames()) == {"body.0.weight": "conv.weight", "body.0.bias": "conv.bias"}
    block = ["0.weight", *(f"1.{name}" for name in ("weight", "bias", "running_mean", "running_var"))]
    assert ties_of(TwoBlocks()) == {f"blocks.0.{name}": f"block.{name}" for name in [*block, "1.num_batches_tracked"]}


@pytest.mark.parametrize(
    ("name", "granularity", "bits"),
    [
        ("a weight that two share", "weight", 0),
        ("a weight that two share", "weight", 3),
        ("a block with two names", "filter", 0),
    ],
)
def test_what_is_shared_is_stored_once(
    name: str, granularity: str, bits: int, tiny_config: Callable[..., Config], finish: Callable[[Config], RunFolder]
) -> None:
    images = {"classes": CLASSES, "image_size": SHAPE[1], "train_size": 64, "test_size": 32, "noise": 0.2}
    config = tiny_config(
        granularity=granularity,
        dataset={"label": "synthetic", "name": "synthetic", "options": images},
        model={"label": "odd", "name": "tests.odd_networks:odd", "options": {"name": name}},
        quantization={"name": "some", "bits": bits},
    )
    run = finish(config)
    row = run.finished()
    network = shipped(run.path, own_code=True)
    written = FORMATS["safetensors"](network, run.path / "export")
    assert row is not None and f"of which {row['size_bytes']:,} are weights" in written.size
    for folder, model in ((run.path, network.whole), (run.path / "export", network.model)):
        about, _ = read_sealed(folder / "model.json")
        stored = {part.partition(":")[0] for part in load_file(folder / "model.safetensors")}
        assert about["ties"] == ties_of(model) and about["ties"]
        assert stored | about["ties"].keys() == model.state_dict().keys()
        assert stored.isdisjoint(about["ties"])
        loaded, _ = load_model(folder, own_code=True)
        assert ties_of(loaded) == about["ties"]
        assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in loaded.state_dict().items())


def test_files_of_before_ties_have_every_name_and_are_loaded(tmp_path: Path) -> None:
    model = SharedWeight()
    save_model(tmp_path, model.state_dict(), ARCHITECTURE)
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()
    loaded, _ = load_model(tmp_path, own_code=True)
    assert ties_of(loaded) == SHARED and torch.equal(loaded.get_parameter("b.weight"), model.a.weight)
