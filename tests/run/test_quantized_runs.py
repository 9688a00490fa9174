"""Whole runs with quantised weights: few levels in the saved file, zeros from the mask alone, a LeNet-5 that trains."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from safetensors.torch import load_file

import pruner.data
from pruner.config import Config
from pruner.export.networks import load_model
from pruner.store.folders import RunFolder
from pruner.training.trainer import evaluate


@pytest.mark.parametrize(
    ("method", "granularity", "bits"), [("dpp", "weight", 1), ("smart", "filter", 3), ("gmp", "kernel", 1)]
)
def test_the_saved_weights_are_on_few_levels(
    method: str,
    granularity: str,
    bits: int,
    tiny_config: Callable[..., Config],
    finish: Callable[[Config], RunFolder],
) -> None:
    config = tiny_config(method, granularity=granularity, quantization={"name": "some", "bits": bits})
    folder = finish(config)
    row = folder.finished()
    assert row is not None and row["quant_bits"] == bits
    weights = {name: tensor for name, tensor in load_file(folder.model).items() if tensor.dim() > 1}
    for weight in weights.values():
        levels = weight[weight != 0].unique()
        assert 1 <= len(levels) <= 2**bits
        assert levels.abs().max() == -levels.min() or len(levels) < 2**bits  # symmetric
    assert row["prunable_params_kept"] == sum(int((weight != 0).sum()) for weight in weights.values())
    test = pruner.data.load(config.dataset, config.data_dir, "cpu").test
    assert evaluate(load_model(folder.path)[0], test, 500, "float32").top1 == row["accuracy"]
    plain = finish(tiny_config(method, granularity=granularity)).finished()
    assert plain is not None and plain["quant_bits"] is None
    assert plain["size_bytes"] > row["size_bytes"] > plain["prunable_params_kept"] * bits / 8


def test_a_3_bit_lenet_5_trains(tiny_config: Callable[..., Config], finish: Callable[[Config], RunFolder]) -> None:
    """Check 4 of DPP's card: k of n in every row, quantised jointly, learns what chance would not."""
    images = {"classes": 6, "image_size": 16, "train_size": 192, "test_size": 96, "noise": 0.2}
    config = tiny_config(
        "dpp",
        scope="row",
        sparsity=0.8,
        model={"label": "lenet5", "name": "lenet5", "options": {}},
        dataset={"label": "synthetic", "name": "synthetic", "options": images},
        quantization={"name": "int3", "bits": 3},
        recipe={"dense_epochs": 8, "prune_epochs": 6, "finetune_epochs": 2, "dense_lr": 0.05},
    )
    folder = finish(config)
    row = folder.finished()
    assert row is not None and row["accuracy"] > 60  # chance is 17
    losses = [epoch["loss"] for epoch in folder.read_epochs()]
    assert losses[-1] < min(0.2, losses[1] / 2)  # from when the budget was met for the first time
