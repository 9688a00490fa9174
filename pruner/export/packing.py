"""A pruned, quantised network in few bytes: no zeros, weights as codes of b bits, an index; and back, to the last bit.

    name          what is left of a weight, in its tiles' order: float32 [kept], or its codes as uint8 (`bitstream`)
    name:limit    of a quantised weight, a float32: the outermost of its 2^b levels; code 0 is its negative
    name:index    which tiles of the weight are left, as uint8 (`indexing`); missing when it takes no bits

What else a network has stays as it is. The sizes are those that `pruner.sparsity.size` counts, in whole bytes for each
tensor. The levels come from `pruner.quantize`: a code gives the very weight that the network was evaluated with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from pruner.checks import ConfigError, build, one_line, require
from pruner.export.bitstream import BitReader, to_bits, to_bytes
from pruner.export.indexing import Tile, grid_shape, read_index, spread, tiles_left, turned, write_index
from pruner.quantize import MAX_BITS, quantize
from pruner.sparsity.size import StoredLayer, compressed_bytes


@dataclass(frozen=True)
class PackedWeight:
    """How a weight is stored. kept: how much of it is left. index: its kind for each part that `index_rows` gives."""

    shape: tuple[int, ...]
    kept: int
    tile: Tile | None = None
    index: tuple[str, ...] = ()
    index_bits: int = 0


@dataclass(frozen=True)
class Packing:
    """How the prunable weights of a network are stored. bits: of a quantised weight, or 0. weights: `PackedWeight`s."""

    bits: int
    weights: dict[str, Any]

    def __post_init__(self) -> None:
        require(0 <= self.bits <= MAX_BITS, "bits", self.bits, f"from 1 to {MAX_BITS}, or 0 for floats")


def pack(
    state: Mapping[str, Tensor], tiles: Mapping[str, Tile | None], bits: int = 0
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors to store of a pruned network, on the CPU, and a description for `unpack`, which JSON can hold.

    state: its state dict, zeros in place. tiles: for every prunable weight, which must be float32, the tiles that were
    pruned, or None to store it whole, as where what is dead was removed. bits: these weights are on the 2^bits levels
    of `pruner.quantize`; 0: they are any floats.

    Raises ConfigError, one line that names the tensor, for a weight that is missing, of another type, or not on its
    levels to the last bit, and for a name that a part of a packed weight takes.
    """
    packing = Packing(bits, {})
    tensors = {name: tensor.detach().cpu() for name, tensor in state.items() if name not in tiles}
    for name, tile in tiles.items():
        require(name in state, "tiles", name, "not a tensor of the network")
        weight = state[name].detach().cpu()
        require(weight.dtype == torch.float32, name, weight.dtype, "only torch.float32 can be packed")
        parts, packing.weights[name] = _pack_weight(name, weight, tile, bits)
        for key in sorted(parts.keys() & tensors.keys()):
            raise ConfigError(f"{key}: this name belongs to a part of {name}, once that is packed")
        tensors |= parts
    return tensors, asdict(packing, dict_factory=_told)


def unpack(
    tensors: Mapping[str, Tensor], description: Mapping[str, Any], like: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The state dict that `pack` was given, on the CPU: equal to the last bit, but -0.0 may be 0.0.

    like: a state dict of the network that this is for. Only names, shapes and types are read from it, and the result
    has exactly those; tensors on the meta device will do. Memory is only taken in proportion to it and to `tensors`.

    Raises ConfigError, one line that names what is wrong, when the three do not fit each other.
    """
    try:
        bits, weights = _parse(description)
        for name in weights:
            require(name in like, "packing.weights", name, "not a tensor of the network")
        store = _Store(tensors)
        state = {
            name: _unpack_weight(name, weights[name], bits, store, model)
            if name in weights
            else store.take(name, model.dtype, tuple(model.shape))
            for name, model in like.items()
        }
        for name in sorted(tensors.keys() - store.taken):
            raise ConfigError(f"{name}: belongs to nothing in the network")
        return state
    except ConfigError as error:
        raise ConfigError(one_line(error)) from error


def payload_bytes(description: Mapping[str, Any], others: int) -> int:
    """The size of a packed network as `network_bytes` counts it: in bits, of all tensors together, rounded up once.

    others: how many parameters the network has that `pack` was given no tiles for. Raises ConfigError when the
    description is none.
    """
    bits, weights = _parse(description)
    return compressed_bytes((StoredLayer(weight.kept, weight.index_bits) for weight in weights.values()), others, bits)


class _Store:
    """The tensors of a packed network, each of which must be as expected, and which of them have been taken."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        self._tensors = tensors
        self.taken: set[str] = set()

    def take(self, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """The tensor of a name, on the CPU. Raises ConfigError unless it is there, of this type and shape."""
        if name not in self._tensors:
            raise ConfigError(f"{name}: missing")
        tensor = self._tensors[name]
        found = f"{list(tensor.shape)} of {tensor.dtype}"
        require(tensor.shape == shape and tensor.dtype == dtype, name, found, f"expected {list(shape)} of {dtype}")
        self.taken.add(name)
        return tensor.cpu()

    def bits(self, name: str, count: int) -> BitReader:
        """A reader of the tensor of a name, which must hold so many bits."""
        return BitReader(self.take(name, torch.uint8, (-(-count // 8),)))


def _parse(description: Mapping[str, Any]) -> tuple[int, dict[str, PackedWeight]]:
    """The bits of quantised weights, and how each weight is stored. Raises ConfigError for what is no description."""
    packing = build(Packing, description, "packing")
    return packing.bits, {k: build(PackedWeight, v, f"packing.weights.{k}") for k, v in packing.weights.items()}


def _told(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of a description; `transposed` only where it says something: all other files stay as they were."""
    return {key: value for key, value in items if value or key != "transposed"}


def _pack_weight(name: str, weight: Tensor, tile: Tile | None, bits: int) -> tuple[dict[str, Tensor], PackedWeight]:
    """The tensors of one weight, and how they store it."""
    shape = tuple(weight.shape)
    values = weight.flatten()
    kinds: tuple[str, ...] = ()
    index: list[Tensor] = []
    if tile:
        weight = turned(name, weight, tile)
        grid_shape(name, weight.shape, tile)  # raises where the tile does not fit
        left = tiles_left(weight, tile)
        values = weight[spread(left, weight.shape, tile)]
        kinds, index = write_index(left, tile)
    parts = _encode(name, values, bits) if bits else {name: values}
    index_bits = sum(len(part) for part in index)
    if index_bits:
        parts[f"{name}:index"] = to_bytes(index)
    return parts, PackedWeight(shape, len(values), tile, kinds, index_bits)


def _unpack_weight(name: str, how: PackedWeight, bits: int, store: _Store, model: Tensor) -> Tensor:
    """One weight, as `_pack_weight` was given it. `model` has the shape and type that it must have."""
    shape = tuple(model.shape)
    fits = how.shape == shape and model.dtype == torch.float32
    require(fits, f"{name}.shape", list(how.shape), f"the network has {list(shape)} of {model.dtype}")
    nothing = BitReader(torch.empty(0, dtype=torch.uint8))
    reader = store.bits(f"{name}:index", how.index_bits) if how.index_bits else nothing
    whole = torch.zeros(shape)
    left = torch.ones(shape, dtype=torch.bool)
    if how.tile:
        whole = turned(name, whole, how.tile)
        grid = grid_shape(name, whole.shape, how.tile)
        try:
            left = spread(read_index(grid, how.tile, how.index, reader), whole.shape, how.tile)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error
    require(reader.at == how.index_bits, f"{name}.index_bits", how.index_bits, f"the index has {reader.at}")
    kept = int(left.sum())
    require(kept == how.kept, f"{name}.kept", how.kept, f"the index leaves {kept}")
    values = _decode(name, store, kept, bits) if bits else store.take(name, torch.float32, (kept,))
    whole = whole.masked_scatter(left, values)
    return (turned(name, whole, how.tile) if how.tile else whole).contiguous()


def _outermost(limit: Tensor, bits: int) -> Tensor:
    """The level that the largest weights are clipped to: `limit`, a scalar, unless it is too small for levels."""
    return quantize(torch.tensor(torch.finfo(torch.float32).max), bits, limit)


def _levels(outermost: Tensor, bits: int) -> Tensor:
    """All 2^bits levels, rising."""
    return quantize(torch.linspace(-1, 1, 2**bits) * outermost, bits, outermost)


def _encode(name: str, values: Tensor, bits: int) -> dict[str, Tensor]:
    """Codes and limit of what is left of a weight, [kept]. Raises ConfigError unless they give it to the last bit."""
    # What was quantised has the limit that it was quantised with as its largest value, or one that counts as that.
    largest = values.abs().amax() if len(values) else torch.zeros(())
    limit = _outermost(largest, bits)
    levels = _levels(limit, bits)
    codes = torch.searchsorted(levels, values, out_int32=True).clamp_(max=len(levels) - 1)
    if not (bool(largest.isfinite()) and torch.equal(levels.index_select(0, codes), values)):
        raise ConfigError(f"{name}: what is left of it is not on {len(levels)} levels, as {bits} bits would have it")
    return {name: to_bytes([to_bits(codes, bits)]), f"{name}:limit": limit}


def _decode(name: str, store: _Store, kept: int, bits: int) -> Tensor:
    """What is left of a weight, [kept], from its codes and its limit."""
    limit = store.take(f"{name}:limit", torch.float32, ())
    usable = bool(limit.isfinite()) and torch.equal(_outermost(limit, bits), limit)
    require(usable, f"{name}:limit", float(limit), "not the outermost of any levels")
    return _levels(limit, bits).index_select(0, store.bits(name, kept * bits).take(kept, bits))
