"""Packed networks: bytes by hand, the counted size to the bit, and everything back to the last bit."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from safetensors.torch import load, save
from torch import Tensor

from pruner.checks import ConfigError
from pruner.config import Block, Pattern
from pruner.export.indexing import Tile
from pruner.export.packing import pack, payload_bytes, unpack
from pruner.quantize import fake_quantize
from pruner.sparsity.masked import MaskedModel
from pruner.sparsity.size import FLOAT_BITS, network_bytes
from pruner.sparsity.units.layers import Layer
from pruner.sparsity.units.make import Units, make_units
from tests import tiny_network as tiny
from tests.packed import BESIDES, State, Tiles, packed_weights

SHAPE = (3, 8, 8)
BITS = (0, 1, 2, 3, 4, 8)


def restored(state: State, tensors: State, description: dict[str, Any]) -> State:
    """What comes back from both files, for a network of which no values are known."""
    like = {name: torch.empty_like(tensor, device="meta") for name, tensor in state.items()}
    return unpack(load(save(tensors)), json.loads(json.dumps(description)), like)


def assert_same(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and found[name].is_contiguous()
        assert torch.equal(found[name], tensor), name


# By hand


def test_quantised_weights_by_hand() -> None:
    weight = torch.zeros(2, 16)
    weight[0, 1], weight[0, 7], weight[1, 2], weight[1, 4] = -3, 1, 3, -1
    tensors, description = pack({"weight": weight, **BESIDES}, {"weight": Tile((1, 1))}, bits=2)
    assert tensors["weight"].tolist() == [0b00_10_11_01]  # of the levels -3, -1, 1, 3
    assert tensors["weight:limit"].tolist() == 3
    # 2 in every row, in five bits, and where in four bits each: 1, 7 and 2, 4
    assert tensors["weight:index"].tolist() == [0b00010_000, 0b1_0111_001, 0b0_0100_000]
    assert description == {
        "bits": 2,
        "weights": {
            "weight": {
                "shape": (2, 16),
                "kept": 4,
                "tile": {"shape": (1, 1), "group": 0},
                "index": ("equal rows",),
                "index_bits": 21,
            }
        },
    }
    assert tensors["bias"].tolist() == [0.5, -0.0] and len(tensors) == 5
    assert payload_bytes(description, others=2) * 8 == 4 * 2 + 32 + 21 + 2 * 32 + 3  # 3 bits fill the last byte
    assert_same(restored({"weight": weight, **BESIDES}, tensors, description), {"weight": weight, **BESIDES})


def test_floats_by_hand() -> None:
    kernels = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [3.0, 4.0]], [[5.0, 6.0], [0.0, 0.0]]])
    tensors, description = pack({"weight": kernels}, {"weight": Tile((1, 1, 2))})
    assert tensors["weight"].tolist() == [1, 0, 3, 4, 5, 6]  # zeros of a tile that is left are values like others
    assert tensors["weight:index"].tolist() == [0b01_0_1_0_000]  # one in every row, and which: 0, 1, 0
    assert tensors.keys() == {"weight", "weight:index"}
    assert payload_bytes(description, others=0) == 6 * 4 + 1
    assert_same(restored({"weight": kernels}, tensors, description), {"weight": kernels})


def test_values_of_every_kind() -> None:
    """Bit for bit, also what is not a number; only the sign of a zero is lost."""
    weight = torch.tensor([[float("nan"), float("inf"), -0.0, 1e-45, -1e-40, 0.0, -3.4e38]])
    for tile in (Tile((1, 1)), None):
        back = restored({"w": weight}, *pack({"w": weight}, {"w": tile}))["w"]
        assert back[0, 2] == 0
        others = [0, 1, 3, 4, 5, 6]
        assert torch.equal(back[:, others].view(torch.int32), weight[:, others].view(torch.int32))


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
@pytest.mark.parametrize("scale", [1e-38, 3e-31, 1.0, 1e38])
def test_levels_of_every_scale(bits: int, scale: float) -> None:
    """Also where the largest weight is below the least limit of levels, and so not on the outermost."""
    weight = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)).clamp(-3, 3) * scale
    mask = (torch.arange(150) % 3 > 0).float().view(3, 50)
    state = {"w": fake_quantize(weight, mask, bits)}
    assert_same(restored(state, *pack(state, {"w": Tile((1, 1))}, bits)), state)


# The counted size


def tile_of(granularity: str, layer: Layer) -> Tile | None:
    kernel = [1] * (len(layer.shape) - 2)
    if granularity in ("filter", "head"):
        return None
    if granularity == "nm":
        return Tile((1, 1, *kernel), group=tiny.PATTERN[1])
    if granularity == "kernel":
        return Tile((1, 1, *layer.shape[2:]))
    return Tile((*tiny.BLOCK, *kernel) if granularity == "block" else (1, 1, *kernel))


def masks(units: Units) -> list[Tensor]:
    """All left, hardly any, half, none at all, and as many in every row."""
    chance = torch.rand(units.n, generator=torch.Generator().manual_seed(0))
    found = [torch.ones(units.n), (chance < 0.04).float(), (chance < 0.5).float(), torch.zeros(units.n)]
    for k in (1, 2):
        rows = [part.argsort(1).argsort(1) < k for part in units.split_rows(chance)]
        found.append(units.join_rows([row.float() for row in rows]))
    return found


def network(granularity: str) -> tuple[tiny.TinyNetwork, Units]:
    """A network in eval mode without zeros, and its units."""
    torch.manual_seed(0)
    model = tiny.TinyNetwork(SHAPE, 6).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model, make_units(model, SHAPE, granularity, block=Block(tiny.BLOCK), nm=Pattern(*tiny.PATTERN))


def baked(model: tiny.TinyNetwork, units: Units, mask: Tensor, bits: int) -> State:
    """A copy of the network's state with the zeros of a mask and the levels of `bits` in it."""
    network = MaskedModel(copy.deepcopy(model), units, bits)
    network.fix(mask)
    network.bake()
    return network.model.state_dict()


def removed(tensor: Tensor, zeros: Tensor | None) -> Tensor:
    """A parameter without the rows and columns that a mask of filters or heads takes whole."""
    if zeros is None:
        return tensor
    for dim in range(tensor.dim()):
        alive = zeros.movedim(dim, 0).reshape(len(zeros.movedim(dim, 0)), -1).any(1)
        tensor = tensor.index_select(dim, alive.nonzero().flatten())
    return tensor


@pytest.mark.parametrize("granularity", ["weight", "kernel", "block", "nm", "filter", "head"])
def test_size_is_what_is_counted_and_all_comes_back(granularity: str) -> None:
    model, units = network(granularity)
    tiles = {layer.weight: tile_of(granularity, layer) for layer in units.layers if layer.prunable}
    seen = set()
    for mask in masks(units):
        gone = units.zeros(mask) if granularity in ("filter", "head") else {}
        for bits in BITS:
            state = {name: removed(tensor, gone.get(name)) for name, tensor in baked(model, units, mask, bits).items()}
            tensors, description = pack(state, tiles, bits)
            assert_same(restored(state, tensors, description), state)

            others = sum(state[name].numel() for name, _ in model.named_parameters() if name not in tiles)
            counted = network_bytes(model, units, mask, bits)
            assert payload_bytes(description, others) == counted
            parts = {name: tensor for name, tensor in tensors.items() if name.split(":")[0] in tiles}
            stored = sum(part.numel() * part.element_size() for part in parts.values()) + FLOAT_BITS // 8 * others
            assert 0 <= stored - counted < len(parts)  # less than a byte lost in each
            seen |= {kind for how in description["weights"].values() for kind in how["index"]}
    assert seen == (set() if gone else {"none", "bitmap", "equal rows", "rows"})


@pytest.mark.parametrize("bits", BITS)
def test_restored_network_predicts_the_same(bits: int) -> None:
    model, units = network("weight")
    model.load_state_dict(baked(model, units, masks(units)[2], bits))
    tiles = {layer.weight: tile_of("weight", layer) for layer in units.layers}
    tensors, description = pack(model.state_dict(), tiles, bits)
    with torch.device("meta"):
        like = tiny.TinyNetwork(SHAPE, 6).state_dict()
    fresh = tiny.TinyNetwork(SHAPE, 6).eval()
    fresh.load_state_dict(unpack(tensors, description, like))
    images = torch.randn(5, *SHAPE)
    with torch.no_grad():
        assert torch.equal(fresh(images), model(images))


# Any weight, any tiles, any mask


@settings(deadline=None)
@given(packed_weights())
def test_everything_comes_back(packed: tuple[State, Tiles, int]) -> None:
    state, tiles, bits = packed
    tensors, description = pack(state, tiles, bits)
    assert_same(restored(state, tensors, description), state)
    for name in tiles:
        assert description["weights"][name]["kept"] == int((state[name] != 0).sum())


def test_nothing_to_store() -> None:
    """A layer that lost its inputs, and one of which no weight is left."""
    state = {"narrow": torch.empty(4, 0, 3, 3), "dead": torch.zeros(3, 64), "gone": torch.empty(0, 5)}
    for bits in BITS:
        for tiles in ({"narrow": Tile((1, 2, 1, 1), 4), "dead": Tile((1, 1)), "gone": Tile((2, 2))}, {"gone": None}):
            assert_same(restored(state, *pack(state, tiles, bits)), state)


def test_strided_weights_on_which_a_gradient_is_recorded() -> None:
    weight = torch.nn.Parameter(torch.randn(4, 6, 3, 3).to(memory_format=torch.channels_last))
    tensors, description = pack({"w": weight}, {"w": Tile((1, 1, 1, 1))})
    assert not tensors["w"].requires_grad
    assert_same(restored({"w": weight.detach()}, tensors, description), {"w": weight.detach()})


# What cannot be packed


@pytest.mark.parametrize(
    ("weight", "tile", "bits", "message"),
    [
        (torch.tensor([[1.0, 0.5]]), None, 2, "^w: what is left of it is not on 4 levels"),
        (torch.tensor([[3.0, torch.tensor(1.0).nextafter(torch.tensor(2.0))]]), None, 2, "^w: .* not on 4 levels"),
        (torch.tensor([[1.0, 0.0]]), None, 1, "^w: .* not on 2 levels"),  # no level is zero
        (torch.tensor([[1.0, float("nan")]]), None, 1, "^w: .* not on 2 levels"),
        (torch.tensor([[1.0, float("inf")]]), None, 1, "^w: .* not on 2 levels"),
        (torch.ones(2, 2), None, 9, "^bits=9: from 1 to 8"),
        (torch.ones(2, 2, dtype=torch.float64), None, 0, "^w=torch.float64: only torch.float32"),
        (torch.ones(2, 2), Tile((1, 1, 1)), 0, r"^w.tile=\[1, 1, 1\]: does not fit a weight of \[2, 2\]"),
        (torch.ones(2), Tile((1,), 4), 0, r"^w.tile=\[1\]: does not fit"),
        (torch.tensor(1.0), Tile(()), 0, r"^w.tile=\[\]: does not fit"),
    ],
)
def test_what_cannot_be_packed(weight: Tensor, tile: Tile | None, bits: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pack({"w": weight}, {"w": tile}, bits)


def test_names_that_are_taken_or_missing() -> None:
    with pytest.raises(ConfigError, match=r"^w:index: this name belongs to a part of w"):
        pack({"w": torch.eye(3), "w:index": torch.ones(3)}, {"w": Tile((1, 1))})
    with pytest.raises(ConfigError, match=r"^tiles=v: not a tensor"):
        pack({"w": torch.eye(3)}, {"v": None})
