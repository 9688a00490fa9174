"""Which tiles of a weight are left, read off its zeros, and the index that tells it in few bits.

A tile is gone when all its weights are zero. The index of `pruner.sparsity.size.cheapest_index` is written here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from pruner.checks import ConfigError, one_of, require
from pruner.export.bitstream import BitReader, to_bits
from pruner.sparsity.size import Index, cheapest_index, list_widths
from pruner.sparsity.units.layers import swapped


@dataclass(frozen=True)
class Tile:
    """The tiles that a weight [out, in, *kernel] is cut into, one behind the other; at its far ends they are cut off.

    shape: of a tile, in as many dimensions as the weight has. group: so many neighbouring input channels share a row
    of the index, as in an n:m pattern; 0: all the tiles that begin at the same output channel do. transposed: the
    groups of a transposed convolution, which keeps its weight as [in, out / groups, *kernel]; 0: it is none.
    """

    shape: tuple[int, ...]
    group: int = 0
    transposed: int = 0

    def __post_init__(self) -> None:
        require(all(size >= 1 for size in self.shape), "tile.shape", list(self.shape), "1 or more each")
        require(self.group >= 0, "tile.group", self.group, "0 or more")
        require(self.transposed >= 0, "tile.transposed", self.transposed, "0 or more")


def turned(name: str, weight: Tensor, tile: Tile) -> Tensor:
    """A weight in the order [out, in, *kernel] of its tiles, or one in that order as the network keeps it.

    Raises ConfigError where it does not have so many groups.
    """
    if not tile.transposed:
        return weight
    fits = weight.dim() >= 2 and len(weight) % tile.transposed == 0
    require(fits, f"{name}.tile.transposed", tile.transposed, f"does not fit a weight of {list(weight.shape)}")
    return swapped(weight, tile.transposed)


def grid_shape(name: str, shape: Sequence[int], tile: Tile) -> tuple[int, ...]:
    """How many tiles a weight has in each dimension. Raises ConfigError when they have other dimensions than it."""
    fits = len(tile.shape) == len(shape) >= (2 if tile.group else 1)
    require(fits, f"{name}.tile", list(tile.shape), f"does not fit a weight of {list(shape)}")
    return tuple(-(-size // side) for size, side in zip(shape, tile.shape, strict=True))


def tiles_left(weight: Tensor, tile: Tile) -> Tensor:
    """Which tiles of a weight are left: bool [grid]."""
    left = (weight != 0).contiguous()
    for dim, (side, size) in enumerate(zip(tile.shape, weight.shape, strict=True)):
        side = min(side, size)
        if side > 1:
            missing = -size % side
            left = F.pad(left, (0, 0) * (left.dim() - 1 - dim) + (0, missing)).unflatten(dim, (-1, side)).any(dim + 1)
    return left


def spread(left: Tensor, shape: Sequence[int], tile: Tile) -> Tensor:
    """A bool [grid] over its weight: bool of the weight's shape."""
    for dim, (side, size) in enumerate(zip(tile.shape, shape, strict=True)):
        side = min(side, size)
        if side > 1:
            left = left.repeat_interleave(side, dim).narrow(dim, 0, size)
    return left


def index_rows(grid: Tensor, tile: Tile) -> list[Tensor]:
    """The parts of a [grid] that an index tells of, as views [..., candidates]: each of them has rows of one length.

    The second, if any, is of the input channels that do not fill a group.
    """
    parts = [grid.view(grid.shape[0], math.prod(grid.shape[1:]))]
    if tile.group:
        along = grid.movedim(1, -1)  # input channels last
        group = min(tile.group, max(along.shape[-1], 1))
        whole = along.shape[-1] // group * group
        parts = [along[..., :whole].unflatten(-1, (whole // group, group)), along[..., whole:]]
    return [part for part in parts if part.numel()]


def write_index(left: Tensor, tile: Tile) -> tuple[tuple[Index, ...], list[Tensor]]:
    """The kind of index of each part of `left`, bool [grid], and the bits of them all, for `to_bytes`."""
    kinds: list[Index] = []
    bits: list[Tensor] = []
    for part in index_rows(left, tile):
        mask = part.reshape(-1, part.shape[-1])
        kinds.append(cheapest_index(mask)[0])
        bits += _written(mask, kinds[-1])
    return tuple(kinds), bits


def read_index(grid: Sequence[int], tile: Tile, kinds: Sequence[str], reader: BitReader) -> Tensor:
    """Which tiles are left: what `write_index` was given, bool [grid].

    No memory is taken but in proportion to the grid and to what the reader has. Raises ConfigError when the kinds and
    the bits are no index of such a grid.
    """
    left = torch.ones(tuple(grid), dtype=torch.bool)
    parts = index_rows(left, tile)
    require(len(kinds) == len(parts), "index", list(kinds), f"expected {len(parts)}")
    for part, kind in zip(parts, kinds, strict=True):
        one_of("index", kind, get_args(Index))
        rows = part.numel() // part.shape[-1]
        if kind == "bitmap":
            part.copy_(reader.take(part.numel(), 1).view(part.shape))
        elif kind != "none":
            part.copy_(_read(reader, rows, part.shape[-1], equal=kind == "equal rows").view(part.shape))
    return left


def _written(mask: Tensor, kind: Index) -> Iterator[Tensor]:
    """The bits of an index of a mask [rows, candidates]."""
    if kind == "bitmap":
        yield to_bits(mask.flatten(), 1)
    elif kind != "none":
        count_width, place_width = list_widths(mask.shape[1])
        counts = mask.sum(1)
        yield to_bits(counts if kind == "rows" else counts[:1], count_width)
        yield to_bits(mask.nonzero()[:, 1], place_width)


def _read(reader: BitReader, rows: int, candidates: int, equal: bool) -> Tensor:
    """A mask [rows, candidates] from its lists."""
    count_width, place_width = list_widths(candidates)
    counts = reader.take(1 if equal else rows, count_width).expand(rows)
    if bool((counts > candidates).any()):
        raise ConfigError(f"the index has {int(counts.max())} places in a row of {candidates}")
    places = reader.take(int(counts.sum()), place_width)
    if bool((places >= candidates).any()):
        raise ConfigError(f"the index has the place {int(places.max())} in a row of {candidates}")
    at = torch.arange(rows).repeat_interleave(counts) * candidates + places
    if bool((at.diff() <= 0).any()):
        raise ConfigError("the index has places out of order")
    mask = torch.zeros(rows * candidates, dtype=torch.bool)
    mask[at] = True
    return mask.view(rows, candidates)
