"""Every method under every granularity, scope and budget: asked is what you get, counted in the saved files."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import pruner.data
from pruner.config import BUDGETS, SCOPES, Config
from pruner.methods import BUILTIN
from pruner.results.row import LAYER_COLUMNS, read_rows
from pruner.results.store import RunFolder, load_model
from pruner.training import evaluate

CELLS = [
    (method, *rest)
    for method in BUILTIN
    for rest in (
        *itertools.product(["weight"], SCOPES, BUDGETS, [0.5, 0.9]),
        *itertools.product(["filter"], SCOPES, BUDGETS, [0.5]),
    )
]
POSITIONS = {"conv1": 64, "layer1": 64, "layer2": 16, "layer3": 4, "fc": 1}  # output pixels, by stage of the network


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all cells, so that they share the dense network."""
    return tmp_path_factory.mktemp("cells")


def worth(name: str, budget: str) -> int:
    """What one weight of the parameter `name` costs."""
    return POSITIONS[name.partition(".")[0]] if budget == "macs" else 1


def alive(weight: Tensor) -> Tensor:
    """Which output channels of a weight have anything left."""
    return (weight != 0).flatten(1).any(1)


def counts_of(weights: dict[str, Tensor]) -> dict[str, int]:
    """How many channels are left in each of the twelve groups of tied channels of a ResNet-20, read off the zeros."""
    groups = {f"layer{s}.{b}": alive(weights[f"layer{s}.{b}.conv1.weight"]) for s in (1, 2, 3) for b in (0, 1, 2)}
    for s in (1, 2, 3):
        stage = alive(weights[f"layer{s}.0.conv2.weight"])
        tied = [weights[f"layer{s}.{b}.conv2.weight"] for b in (1, 2)]
        tied.append(weights["conv1.weight" if s == 1 else f"layer{s}.0.shortcut.0.weight"])
        assert all(torch.equal(alive(weight), stage) for weight in tied)  # channels that are added live together
        groups[f"layer{s}"] = stage
    return {name: int(channels.sum()) for name, channels in groups.items()}


def resnet_cost(kept: dict[str, int], budget: str, classes: int) -> int:
    """The prunable cost of a ResNet-20 with so many channels, written out by hand."""
    cost = 3 * kept["layer1"] * 9 * worth("conv1", budget) + kept["layer3"] * classes
    for s, b in itertools.product((1, 2, 3), (0, 1, 2)):
        before = kept[f"layer{s - 1}"] if s > 1 and b == 0 else kept[f"layer{s}"]
        inner, after = kept[f"layer{s}.{b}"], kept[f"layer{s}"]
        shortcut = before * after if s > 1 and b == 0 else 0
        cost += (9 * before * inner + 9 * inner * after + shortcut) * worth(f"layer{s}", budget)
    return cost


def largest_unit(weights: dict[str, Tensor], budget: str, granularity: str) -> int:
    """The cost of the dearest unit that could be added to what is left."""
    if granularity == "weight":
        return max(worth(name, budget) for name in weights)
    kept, classes = counts_of(weights), len(weights["fc.weight"])
    full = {name: 4 * 2 ** (int(name[5]) - 1) for name in kept}
    now = resnet_cost(kept, budget, classes)
    assert now == sum(int((w != 0).sum()) * worth(name, budget) for name, w in weights.items())
    return max(resnet_cost({**kept, g: kept[g] + 1}, budget, classes) - now for g in kept if kept[g] < full[g])


@pytest.mark.parametrize(("method", "granularity", "scope", "budget", "sparsity"), CELLS)
def test_asked_is_what_is_in_the_saved_file(
    method: str,
    granularity: str,
    scope: str,
    budget: str,
    sparsity: float,
    shared: Path,
    tiny_config: Callable[..., Config],
    finish: Callable[[Config], RunFolder],
) -> None:
    config = tiny_config(
        method, granularity=granularity, scope=scope, budget=budget, sparsity=sparsity, output_dir=str(shared)
    )
    folder = finish(config)
    row = folder.finished()
    assert row is not None

    tensors = load_file(folder.model)
    weights = {name: tensor for name, tensor in tensors.items() if tensor.dim() > 1}
    nonzero = {name: int((weight != 0).sum()) for name, weight in weights.items()}

    # The counts in the files are those of the saved tensors.
    assert row["prunable_params_kept"] == sum(nonzero.values())
    assert row["prunable_params_total"] == sum(weight.numel() for weight in weights.values())
    assert row["prunable_macs_kept"] == sum(count * worth(name, "macs") for name, count in nonzero.items())
    layers = read_rows(folder.layers, LAYER_COLUMNS)
    assert {f"{layer['layer']}.weight": layer["params_kept"] for layer in layers} == nonzero
    others = sum(t.numel() for n, t in tensors.items() if n not in weights and n.endswith((".weight", ".bias")))
    if granularity == "filter":  # the two parameters of the batch norm of a dead channel are gone
        others -= 2 * sum(int((~alive(weight)).sum()) for name, weight in weights.items() if name != "fc.weight")
    assert row["params_kept"] == sum(nonzero.values()) + others

    # The budget is met, and missed by less than a unit.
    total, kept = row[f"prunable_{budget}_total"], row[f"prunable_{budget}_kept"]
    target = total * (1 - Fraction(str(sparsity)))
    assert kept <= target < kept + largest_unit(weights, budget, granularity)
    assert row["achieved_sparsity"] == pytest.approx(1 - kept / total, abs=1e-12)
    assert all(nonzero.values())  # no layer collapsed

    # The saved network is the one that the row speaks of.
    model, _ = load_model(folder.path)
    test = pruner.data.load(config.dataset, config.data_dir, "cpu").test
    found = evaluate(model, test, 500, "float32")
    assert (found.top1, found.top5) == (row["accuracy"], row["accuracy_top5"])
    for accuracy in ("dense_accuracy", "soft_accuracy", "hard_accuracy", "accuracy", "accuracy_top5"):
        assert 0 <= row[accuracy] <= 100
    assert row["accuracy"] <= row["accuracy_top5"]


@pytest.mark.parametrize("method", BUILTIN)
@pytest.mark.parametrize("granularity", ["weight", "filter"])
def test_finetuning_revives_nothing(
    method: str, granularity: str, tiny_config: Callable[..., Config], finish: Callable[[Config], RunFolder]
) -> None:
    """Momentum and weight decay would bring pruned weights back; the zeros after finetuning are those before."""
    zeros = []
    for epochs in (0, 2):
        recipe = {"finetune_epochs": epochs, "weight_decay": 0.1, "finetune_lr": 0.1}
        tensors = load_file(finish(tiny_config(method, granularity=granularity, recipe=recipe)).model)
        zeros.append({name: tensor == 0 for name, tensor in tensors.items() if tensor.dim() > 1})
        assert any(bool(zero.any()) for zero in zeros[-1].values())
    assert all(torch.equal(zeros[0][name], zeros[1][name]) for name in zeros[0])
