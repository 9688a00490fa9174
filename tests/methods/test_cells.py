"""Every method at every granularity and scope: asked is what you get, counted in the saved files."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import pruner.data
from pruner.compose.combinations import allowed, builtin_methods
from pruner.config import BUDGETS, GRANULARITIES, Choice, Config
from pruner.export import latency
from pruner.export.networks import load_model
from pruner.run import phases
from pruner.run.experiment import Experiment
from pruner.run.progress import Progress
from pruner.sparsity.masked import MaskedModel
from pruner.store.folders import RunFolder
from pruner.store.row import LAYER_COLUMNS, Row, read_rows
from pruner.training.trainer import evaluate
from tests import tiny_network as tiny


def amounts(turn: int, granularity: str, scope: str) -> list[tuple[str, float]]:
    """Budgets and sparsities: both budgets where they share out the layers differently, else one of them in turn.

    Within a layer all units cost the same, so that where each layer's share is given a budget changes only the counts.
    """
    sparsities = [0.5, 0.9] if granularity == "weight" else [0.5]
    taking_turns = [(budget, sparsity) for sparsity in sparsities for budget in BUDGETS]
    shared_out = scope in ("global", "erk") and granularity != "nm"
    return [taking_turns[(turn + more) % len(taking_turns)] for more in range(1 + shared_out)]


CELLS = [
    (method.label, granularity, scope, budget, sparsity)
    for turn, method in enumerate(builtin_methods())
    for granularity in GRANULARITIES
    for scope in allowed(method, granularity)
    for budget, sparsity in amounts(turn, granularity, scope)
]
IMAGES = {"classes": 6, "image_size": 8, "train_size": 64, "test_size": 48, "noise": 0.2}
# Momentum and weight decay would bring pruned weights back.
RECIPE = {"dense_epochs": 20, "momentum": 0.9, "weight_decay": 0.01, "finetune_lr": 0.05}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all cells, so that they share the dense network."""
    return tmp_path_factory.mktemp("cells")


@pytest.fixture(scope="module")
def test_images() -> pruner.data.ImageSet:
    return pruner.data.load(Choice("synthetic", "synthetic", IMAGES), "", "cpu").test


@torch.no_grad()
def logits(network: nn.Module, images: pruner.data.ImageSet) -> Tensor:
    return torch.cat([network.eval()(x) for x, _ in images.batches(len(images))])


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, test_images: pruner.data.ImageSet) -> dict[str, Any]:
    """What finetuning starts from and leaves. For speed, files are not synced to the disk and latencies are rough."""
    seen: dict[str, Any] = {}
    finetune = phases.finetune

    def zeros(model: nn.Module) -> dict[str, Tensor]:
        return {name: parameter == 0 for name, parameter in model.named_parameters()}

    def watched(experiment: Experiment, network: MaskedModel, progress: Progress) -> None:
        train = progress.train

        def trained(*arguments: Any) -> None:  # the weights are as training left them underneath the masks
            train(*arguments)
            seen.update(after=zeros(experiment.model), masked=logits(network, test_images))

        monkeypatch.setattr(progress, "train", trained)
        seen.update(model=experiment.model, before=zeros(experiment.model))
        finetune(experiment, network, progress)

    monkeypatch.setattr(phases, "finetune", watched)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setattr(latency, "in_turns", partial(latency.in_turns, most=latency.LEAST))
    return seen


def ratios(granularity: str, sparsity: float) -> dict[str, float]:
    """What scope=custom keeps of two kinds of layers, by pattern; of one where only two have units."""
    keep = 1 - sparsity
    if granularity == "head":
        return {"attention1.*": keep}
    return {"st?m": 1.5 * keep, "pointwise" if granularity == "filter" else "attention*": keep}


def kept_of_row(sparsity: float, candidates: int) -> int:
    """How many of a row's candidates the fixed patterns keep."""
    return max(1, int((1 - Fraction(str(sparsity))) * candidates))


@pytest.mark.parametrize(("method", "granularity", "scope", "budget", "sparsity"), CELLS)
def test_asked_is_what_is_in_the_saved_file(
    method: str,
    granularity: str,
    scope: str,
    budget: str,
    sparsity: float,
    shared: Path,
    test_images: pruner.data.ImageSet,
    seen: dict[str, Any],
    tiny_config: Callable[..., Config],
    finish: Callable[[Config], RunFolder],
) -> None:
    config = tiny_config(
        method,
        granularity=granularity,
        scope=scope,
        budget=budget,
        sparsity=sparsity,
        block={"shape": tiny.BLOCK} if granularity == "block" else None,
        nm=dict(zip("nm", tiny.PATTERN, strict=True)) if granularity == "nm" else None,
        ratios=ratios(granularity, sparsity) if scope == "custom" else None,
        dataset={"label": "synthetic", "name": "synthetic", "options": IMAGES},
        model={"label": "tiny", "name": f"{tiny.__name__}:TinyNetwork", "options": {}},
        recipe=RECIPE,
        output_dir=str(shared),
    )
    folder = finish(config)
    row = folder.finished()
    assert row is not None
    tensors = load_file(folder.model)
    weights = tiny.weights_of(tensors)

    check_counts(weights, granularity, row, read_rows(folder.layers, LAYER_COLUMNS), seen["model"])
    if scope == "row" or granularity == "nm":
        check_rows(weights, granularity, sparsity)
    else:  # the budget is met, and missed by less than a unit
        kept, total = row[f"prunable_{budget}_kept"], row[f"prunable_{budget}_total"]
        target = total * (1 - Fraction(str(sparsity)))
        assert kept <= target < kept + tiny.dearest_dropped(weights, granularity, budget)
    if scope == "custom":
        check_ratios(weights, granularity, ratios(granularity, sparsity))

    # Finetuning revived nothing, not even underneath the masks.
    for name, before in seen["before"].items():
        assert torch.equal(before, seen["after"][name])
        assert torch.equal(before, tensors[name] == 0)
    # What was trained under masks, what was tested and what is saved answer alike, to the last bit.
    model = load_model(folder.path, own_code=True)[0]
    model = model.to(memory_format=torch.channels_last)  # the layout decides how sums are rounded
    answers = logits(model, test_images)
    assert torch.equal(answers, seen["masked"])
    assert torch.equal(answers, logits(seen["model"], test_images))
    found = evaluate(model, test_images, 500, "float32")
    assert (found.top1, found.top5) == (row["accuracy"], row["accuracy_top5"])
    for accuracy in ("dense_accuracy", "soft_accuracy", "hard_accuracy"):
        assert 0 <= row[accuracy] <= 100


def check_counts(weights: dict[str, Tensor], granularity: str, row: Row, layers: list[Row], model: nn.Module) -> None:
    """The counts in the files are those of the saved weights; no layer is empty."""
    nonzero = {layer: int((weight != 0).sum()) for layer, weight in weights.items()}
    assert all(nonzero.values())
    counted = {layer: weight for layer, weight in weights.items() if granularity != "head" or "attention" in layer}
    left = tiny.units_left(weights, granularity)
    assert [layer["layer"] for layer in layers] == list(counted)
    for layer in layers:
        name = layer["layer"]
        assert [layer["units_kept"], layer["units_total"]] == left.get(name, [0, 0])
        assert [layer["params_kept"], layer["params_total"]] == [nonzero[name], weights[name].numel()]
    for budget in BUDGETS:
        kept = sum(nonzero[layer] * tiny.worth(layer, budget) for layer in counted)
        total = sum(weight.numel() * tiny.worth(layer, budget) for layer, weight in counted.items())
        assert (row[f"prunable_{budget}_kept"], row[f"prunable_{budget}_total"]) == (kept, total)
        if budget == row["budget"]:
            assert row["achieved_sparsity"] == pytest.approx(1 - kept / total, abs=1e-12)
    whole = sum(parameter.numel() for parameter in model.parameters())
    gone = sum(weight.numel() - nonzero[layer] for layer, weight in weights.items())
    gone += tiny.small_parameters_dropped(weights, granularity)
    assert (row["params_kept"], row["params_total"]) == (whole - gone, whole)
    in_layers = sum(nonzero[layer] * tiny.worth(layer, "macs") for layer in weights)
    assert row["macs_kept"] == in_layers + tiny.macs_between_tokens(weights, granularity)


def check_rows(weights: dict[str, Tensor], granularity: str, sparsity: float) -> None:
    """Every row of a layer keeps the same number of units, which the pattern sets; n of m are along input channels."""
    for weight in weights.values():
        rows = [tiny.tiles(weight, granularity) > 0]
        if granularity == "nm":
            rows = [part.movedim(1, -1) for part in (weight != 0).split(tiny.PATTERN[1], dim=1)]
        for part in rows:
            assert set(part.sum(-1).flatten().tolist()) == {kept_of_row(sparsity, part.shape[-1])}


def check_ratios(weights: dict[str, Tensor], granularity: str, asked: dict[str, float]) -> None:
    """Each layer that the config names keeps its share, within a unit."""
    left = tiny.units_left(weights, granularity)
    named = {layer: ratio for layer in left for pattern, ratio in asked.items() if fnmatchcase(layer, pattern)}
    assert named
    for layer, ratio in named.items():
        kept, total = left[layer]
        assert abs(kept - ratio * total) <= 1
