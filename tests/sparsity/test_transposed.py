"""Transposed convolutions, whose weights are kept as [in, out / groups, *kernel], are pruned as others are."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from pruner.checks import ConfigError
from pruner.config import Block, Config, Pattern
from pruner.export.formats import write_safetensors
from pruner.export.indexing import Tile
from pruner.export.packing import pack, payload_bytes, unpack
from pruner.export.shipped import shipped
from pruner.methods.base import Setup
from pruner.methods.scores.fpgm import FPGM
from pruner.sparsity.allocation import Allocation
from pruner.sparsity.budget import total_cost
from pruner.sparsity.counts import count
from pruner.sparsity.masked import MaskedModel
from pruner.sparsity.size import network_bytes
from pruner.sparsity.units.layers import count_macs, find_layers, left_out, swapped
from pruner.sparsity.units.make import Units, make_units
from pruner.store.folders import RunFolder
from tests.odd_networks import CLASSES, SHAPE, Decoder, TiedDecoder

GRANULARITIES = ("weight", "kernel", "block", "nm", "filter")
BLOCK, PATTERN = (4, 3), (2, 4)


def units_of(model: nn.Module, shape: tuple[int, ...], granularity: str) -> Units:
    return make_units(model, shape, granularity, block=Block(BLOCK), nm=Pattern(*PATTERN))


# What they cost


@pytest.mark.parametrize(
    ("layer", "image", "shape", "positions"),
    [
        (nn.ConvTranspose1d(4, 6, 3), (4, 5), (6, 4, 3), 5),
        (nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1), (4, 5), (6, 4, 3), 5),
        (nn.ConvTranspose2d(4, 6, (3, 2)), (4, 5, 3), (6, 4, 3, 2), 15),
        (nn.ConvTranspose2d(4, 6, (3, 2), 2, 1, output_padding=1), (4, 5, 3), (6, 4, 3, 2), 15),
        (nn.ConvTranspose2d(4, 6, 3, 2, dilation=2), (4, 5, 3), (6, 4, 3, 3), 15),
        (nn.ConvTranspose2d(4, 6, 2, 2, groups=2), (4, 5, 3), (6, 2, 2, 2), 15),
        (nn.ConvTranspose2d(4, 8, 4, 2, 1, groups=4), (4, 5, 3), (8, 1, 4, 4), 15),
        (nn.ConvTranspose3d(2, 3, 2), (2, 2, 3, 4), (3, 2, 2, 2, 2), 24),
        (nn.ConvTranspose3d(2, 3, 2, stride=2, output_padding=1), (2, 2, 3, 4), (3, 2, 2, 2, 2), 24),
    ],
)
def test_every_weight_meets_every_pixel_of_the_input_once(
    layer: nn.Module, image: tuple[int, ...], shape: tuple[int, ...], positions: int
) -> None:
    model = nn.Sequential(layer)
    (found,) = find_layers(model, image)
    assert (found.name, found.weight, found.bias) == ("0", "0.weight", "0.bias")
    assert (found.shape, found.positions, found.is_conv, found.transposed) == (shape, positions, True, True)
    assert count_macs(model, image) == positions * math.prod(shape)
    assert left_out(model, [found]) == {}


def test_a_weight_that_is_used_both_ways_is_one_layer_with_the_multiply_adds_of_both() -> None:
    model = TiedDecoder()
    found = {layer.name: layer for layer in find_layers(model, SHAPE)}
    assert found["there"].positions == 64 + 64 and "back" not in found
    assert sum(layer.size * layer.positions for layer in found.values()) == count_macs(model, SHAPE)


def test_the_cost_of_filters_by_hand() -> None:
    """Of an image of 8x8 the first convolution makes 4x4, which the transposed one reads and makes 8x8 of again."""
    model = Decoder(normalised=False)
    units = make_units(model, SHAPE, "filter")
    assert [(group.name, group.size) for group in units.groups] == [("down.0", 8), ("up", 6), ("last", 4)]
    mask = torch.cat([torch.arange(8) < 5, torch.arange(6) < 2, torch.arange(4) < 3]).double()
    for budget, (first, up, last, fc) in {"params": (1, 1, 1, 1), "macs": (16, 16, 64, 1)}.items():
        cost = units.cost(budget)
        assert callable(cost)
        assert float(cost(mask)) == 3 * 5 * 9 * first + 5 * 2 * 9 * up + 2 * 3 * 9 * last + 3 * 5 * fc
    counts, rows = count(model, SHAPE, units, mask.float())
    assert [row["params_kept"] for row in rows] == [3 * 5 * 9, 5 * 2 * 9, 2 * 3 * 9, 3 * 5]
    assert counts.params_kept == (135 + 2 * 5) + (90 + 2) + (54 + 3) + (15 + 5)  # batch norm and biases
    assert counts.macs_total == 8 * 3 * 9 * 16 + 8 * 6 * 9 * 16 + 6 * 4 * 9 * 64 + 4 * 5


# Masks over them


def pair(groups: int, outs: int) -> tuple[nn.Sequential, nn.Sequential]:
    """A network whose middle layer is a convolution of 4 to `outs` channels, and one where it is transposed instead."""
    around = [nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(outs, 3, 1)]
    middle = nn.Conv2d(4, outs, 3, padding=1, groups=groups)
    other = nn.ConvTranspose2d(4, outs, 3, padding=1, groups=groups)
    with torch.no_grad():
        other.weight.copy_(swapped(middle.weight, groups))
    return nn.Sequential(around[0], middle, around[1]), nn.Sequential(around[0], other, around[1])


@pytest.mark.parametrize(("groups", "outs"), [(1, 6), (2, 6), (4, 8)])
def test_a_swapped_weight_turns_a_transposed_convolution_into_a_convolution(groups: int, outs: int) -> None:
    weight, images = torch.randn(outs, 4 // groups, 3, 3), torch.randn(2, 4, 5, 5)
    expected = F.conv2d(images, weight, padding=1, groups=groups)
    native = swapped(weight.flip(2, 3), groups)
    assert native.shape == nn.ConvTranspose2d(4, outs, 3, groups=groups).weight.shape
    torch.testing.assert_close(F.conv_transpose2d(images, native, padding=1, groups=groups), expected)
    assert torch.equal(swapped(native, groups), weight.flip(2, 3))


@pytest.mark.parametrize(("groups", "outs"), [(1, 6), (2, 6), (4, 8)])
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_units_are_those_of_the_convolution_with_the_same_weight(granularity: str, groups: int, outs: int) -> None:
    torch.manual_seed(0)
    plain, transposed = pair(groups, outs)
    expected, found = (units_of(model, SHAPE, granularity) for model in (plain, transposed))
    assert (found.n, found.groups) == (expected.n, expected.groups)
    values = torch.rand(found.n)
    mask = (values > 0.4).float()
    for budget in ("params", "macs"):
        ours, theirs = found.cost(budget), expected.cost(budget)
        assert total_cost(ours, values) == total_cost(theirs, values)
        if isinstance(ours, Tensor) and isinstance(theirs, Tensor):
            assert torch.equal(ours, theirs)
    parameters = [dict(model.named_parameters()) for model in (plain, transposed)]
    torch.testing.assert_close(found.magnitudes(parameters[1]), expected.magnitudes(parameters[0]))
    if granularity == "filter":
        scores = []
        for model, units in ((plain, expected), (transposed, found)):
            scores.append(FPGM()(Setup(model, Allocation(units, "params", "global", 0.5), 1, torch.Generator())))
        torch.testing.assert_close(scores[1], scores[0])
        assert found.left(mask) == expected.left(mask)

    native = parameters[1]["1.weight"].shape
    for spread in ("gates", "zeros"):
        gates, others = (getattr(units, spread)(mask) for units in (found, expected))
        assert gates.keys() == others.keys()
        for name, gate in gates.items():
            if name == "1.weight":
                whole = others[name].expand(parameters[0][name].shape)
                assert torch.equal(gate.expand(native), swapped(whole, groups))
            else:
                assert torch.equal(gate, others[name])
    for layer, other in zip(found.layers, expected.layers, strict=True):
        assert torch.equal(found.rows(layer, values), expected.rows(other, values))
        assert all(map(torch.equal, found.index_rows(layer, mask), expected.index_rows(other, mask)))
        assert found.tile(layer) == expected.tile(other)


def test_the_gradient_of_a_gate_is_that_of_its_weights() -> None:
    _, model = pair(groups=1, outs=6)
    units = units_of(model, SHAPE, "kernel")
    mask = torch.ones(units.n, requires_grad=True)
    values = torch.randn(4, 6, 3, 3)
    (gates := units.gates(mask))["1.weight"].mul(values).sum().backward()
    assert gates["1.weight"].shape == (4, 6, 3, 3) and mask.grad is not None
    torch.testing.assert_close(units.layer_mask(units.layers[1], mask.grad).view(6, 4), values.sum((2, 3)).T)


# How they are stored


@pytest.mark.parametrize(("groups", "outs"), [(1, 6), (2, 6), (4, 8)])
@pytest.mark.parametrize("bits", [0, 3])
@pytest.mark.parametrize("granularity", ["weight", "kernel", "block", "nm"])
def test_a_packed_one_takes_the_bytes_that_are_counted_and_comes_back(
    granularity: str, bits: int, groups: int, outs: int
) -> None:
    torch.manual_seed(0)
    _, model = pair(groups, outs)
    units = units_of(model, SHAPE, granularity)
    tiles: dict[str, Tile | None] = {}
    for layer in units.layers:
        shape, group = units.tile(layer) or ((), 0)
        tiles[layer.weight] = Tile(shape, group, layer.groups if layer.transposed else 0)
    others = sum(parameter.numel() for name, parameter in model.named_parameters() if name not in tiles)
    for share in (0.5, 0.1):
        mask = (torch.rand(units.n) < share).float()
        masked = MaskedModel(copy.deepcopy(model), units, bits)
        masked.fix(mask)
        masked.bake()
        pruned = masked.model.state_dict()
        tensors, description = pack(pruned, tiles, bits)
        assert payload_bytes(description, others) == network_bytes(model, units, mask, bits)
        told = {name: how["tile"].get("transposed") for name, how in description["weights"].items()}
        assert told == {"0.weight": None, "1.weight": groups, "2.weight": None}  # other files stay as they were
        like = {name: tensor.to("meta") for name, tensor in pruned.items()}
        back = unpack(tensors, description, like)
        assert all(torch.equal(back[name], tensor) and back[name].is_contiguous() for name, tensor in pruned.items())


@pytest.mark.parametrize(
    ("transposed", "message"),
    [
        (3, r"^w.tile.transposed=3: does not fit a weight of \[4, 6\]"),
        (10**18, r"^w.tile.transposed=1000.*: does not fit"),
        (-1, "tile.transposed=-1: 0 or more"),
    ],
)
def test_groups_that_do_not_fit(transposed: int, message: str) -> None:
    weight = torch.eye(6)[:4].contiguous()
    tensors, description = pack({"w": weight}, {"w": Tile((1, 1), 0, 1)})
    description["weights"]["w"]["tile"]["transposed"] = transposed
    with pytest.raises(ConfigError, match=message):
        unpack(tensors, description, {"w": weight})


# Runs


def kept_by(granularity: str, weight: Tensor) -> int:
    """How many weights are in the units that are left of a weight [out, in, ...], read off its zeros."""
    left = (weight != 0).reshape(*weight.shape[:2], -1)
    if granularity == "kernel":
        return int(left.any(2).sum()) * left.shape[2]
    if granularity == "block":
        blocks = [b for band in left.split(BLOCK[0]) for block in band.split(BLOCK[1], 1) for b in block.unbind(2)]
        return sum(block.numel() for block in blocks if bool(block.any()))
    return int(left.sum())


def decoder(shape: tuple[int, int, int], classes: int) -> nn.Module:
    assert (shape, classes) == (SHAPE, CLASSES)
    return Decoder(normalised=True)


@pytest.mark.parametrize(
    ("granularity", "scope"), [*((name, "global") for name in GRANULARITIES), ("weight", "row"), ("kernel", "row")]
)
def test_a_run_saves_the_zeros_that_it_counts_and_ships(
    granularity: str,
    scope: str,
    tiny_config: Callable[..., Config],
    finish: Callable[[Config], RunFolder],
    tmp_path: Path,
) -> None:
    images = {"classes": CLASSES, "image_size": SHAPE[1], "train_size": 64, "test_size": 32, "noise": 0.2}
    extra: dict[str, Any] = {"block": {"shape": list(BLOCK)}} if granularity == "block" else {}
    folder = finish(
        tiny_config(
            granularity=granularity,
            scope=scope,
            dataset={"label": "synthetic", "name": "synthetic", "options": images},
            model={"label": "decoder", "name": "tests.sparsity.test_transposed:decoder"},
            **extra,
        )
    )
    row = folder.finished()
    assert row is not None
    saved = load_file(folder.path / "model.safetensors")
    assert saved["up.weight"].shape == (8, 6, 3, 3)
    weights = {"up": saved["up.weight"].transpose(0, 1)}  # its rows are output channels as well
    weights |= {name: saved[f"{name}.weight"] for name in ("down.0", "last", "fc")}
    kept = {name: kept_by(granularity, weight) for name, weight in weights.items()}
    assert sum(kept.values()) == row["prunable_params_kept"] < row["prunable_params_total"]
    assert kept["up"] < weights["up"].numel()
    if granularity == "nm":
        for four in weights["up"].split(PATTERN[1], 1):  # of neighbouring inputs
            assert bool(((four != 0).sum(1) == PATTERN[0]).all())
    elif scope == "row":
        assert len({kept_by(granularity, output) for output in weights["up"].split(1)}) == 1
    else:
        assert row["achieved_sparsity"] >= 0.5
    network = shipped(folder.path, own_code=True)  # fails where it answers otherwise than the run's network
    (tmp_path / "ships").mkdir()
    written = write_safetensors(network, tmp_path / "ships")  # fails where it is not read back as it was written
    assert f"of which {row['size_bytes']:,} are weights" in written.size
