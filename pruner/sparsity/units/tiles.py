"""Units that are tiles of a weight tensor: single weights, kernels, blocks, and the weights of an n:m pattern."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from pruner.config import Pattern
from pruner.sparsity.budget import Cost
from pruner.sparsity.units.base import Group, Parameters, Units
from pruner.sparsity.units.layers import Layer


class TileUnits(Units):
    """Every weight [out, in, *kernel], as layers order it, is cut into tiles of one shape, and each tile is a unit.

    Units are in the order of the layers and, within a layer, of the grid of its tiles. At the far ends of a tensor
    tiles may be cut off; such a tile costs what is there of it.
    """

    def __init__(self, layers: list[Layer], device: torch.device, tile: Callable[[Layer], tuple[int, ...]]):
        """`tile` gives the shape of a layer's tiles, in as many dimensions as its weight has."""
        self.layers = layers
        self.device = device
        self.groups = []
        self.n = 0
        self._prunable = [layer for layer in layers if layer.prunable]
        self._tiles: dict[str, tuple[int, ...]] = {}
        self._grids: dict[str, tuple[int, ...]] = {}
        for layer in self._prunable:
            self._tiles[layer.name] = tile(layer)
            grid = tuple(-(-size // t) for size, t in zip(layer.shape, self._tiles[layer.name], strict=True))
            self._grids[layer.name] = grid
            self.groups.append(Group(layer.name, self.n, self.n + math.prod(grid)))
            self.n = self.groups[-1].stop
        self._slices = {group.name: slice(group.start, group.stop) for group in self.groups}

    def cost(self, budget: str) -> Cost:
        costs = {
            layer.weight: layer.native(
                torch.full(layer.shape, layer.positions if budget == "macs" else 1, device=self.device)
            )
            for layer in self._prunable
        }
        return self.sum_over(costs).float()

    def sum_over(self, values: Parameters) -> Tensor:
        ordered = ((layer, layer.ordered(values[layer.weight])) for layer in self._prunable)
        return torch.cat([self._sum(layer, weight).flatten() for layer, weight in ordered])

    def gates(self, mask: Tensor) -> dict[str, Tensor]:
        return {layer.weight: layer.native(spread) for layer, spread in self._spreads(mask)}

    def zeros(self, mask: Tensor) -> dict[str, Tensor]:
        return {layer.weight: layer.native(spread.expand(layer.shape)) for layer, spread in self._spreads(mask)}

    def layer_mask(self, layer: Layer, mask: Tensor) -> Tensor:
        return mask[self._slices[layer.name]]

    def rows(self, layer: Layer, values: Tensor) -> Tensor:
        return self.layer_mask(layer, values).view(self._grids[layer.name][0], -1)

    def index_rows(self, layer: Layer, values: Tensor) -> list[Tensor]:
        return [self.rows(layer, values)]

    def tile(self, layer: Layer) -> tuple[tuple[int, ...], int] | None:
        return self._tiles[layer.name], 0

    def split_rows(self, values: Tensor) -> list[Tensor]:
        return [self.rows(layer, values) for layer in self._prunable]

    def _spreads(self, mask: Tensor) -> list[tuple[Layer, Tensor]]:
        """A mask [n] over the weight of every prunable layer, in the order of its `shape`, to which it broadcasts."""
        # One split, whose gradient is one concatenation: slices would each make a gradient of full length.
        parts = mask.split(self.sizes)
        return [(layer, self._spread(layer, part)) for layer, part in zip(self._prunable, parts, strict=True)]

    def _sum(self, layer: Layer, values: Tensor) -> Tensor:
        """A tensor of a layer's shape, summed over each tile: [grid]."""
        for dim, (tile, count) in enumerate(zip(self._tiles[layer.name], self._grids[layer.name], strict=True)):
            if tile > 1:
                missing = count * tile - values.shape[dim]
                padded = F.pad(values, (0, 0) * (values.dim() - 1 - dim) + (0, missing)) if missing else values
                values = padded.unflatten(dim, (count, tile)).sum(dim + 1)
        return values

    def _spread(self, layer: Layer, part: Tensor) -> Tensor:
        """A layer's part of a mask over its weight: a tensor that broadcasts to the layer's shape."""
        spread = part.view(self._grids[layer.name])
        for dim, (tile, size) in enumerate(zip(self._tiles[layer.name], layer.shape, strict=True)):
            if 1 < tile < size:  # a tile that spans all of a dimension broadcasts by itself
                spread = spread.repeat_interleave(tile, dim).narrow(dim, 0, size)
        return spread


class WeightUnits(TileUnits):
    """Every weight of every prunable layer is a unit.

    Within a layer units are in the order [out, *kernel, in], in which channels_last keeps weights and their gradients:
    in any other order each step would copy the masks of all 3 x 3 convolutions, there and back.
    """

    def __init__(self, layers: list[Layer], device: torch.device):
        super().__init__(layers, device, lambda layer: (1,) * len(layer.shape))

    def cost(self, budget: str) -> Cost:
        return None if budget == "params" else super().cost(budget)

    def magnitudes(self, parameters: Parameters) -> Tensor:
        # Weight by weight, so that what the gradient needs are the weights themselves and not a copy of all.
        return self.sum_over({layer.weight: parameters[layer.weight].abs() for layer in self._prunable})

    def index_rows(self, layer: Layer, values: Tensor) -> list[Tensor]:
        return [self._spread(layer, self.layer_mask(layer, values)).flatten(1)]

    def _sum(self, layer: Layer, values: Tensor) -> Tensor:
        return values.movedim(1, -1)

    def _spread(self, layer: Layer, part: Tensor) -> Tensor:
        return part.view(self._ordered(layer)).movedim(-1, 1)

    def _ordered(self, layer: Layer) -> tuple[int, ...]:
        """The shape of a layer with its input channels last."""
        outs, ins, *kernel = layer.shape
        return outs, *kernel, ins


class PatternUnits(WeightUnits):
    """Single weights that compete in groups of m neighbouring input channels, as sparse tensor cores want them.

    Where m does not divide the number of input channels, the rest is a smaller group.
    """

    def __init__(self, layers: list[Layer], device: torch.device, pattern: Pattern):
        super().__init__(layers, device)
        self.pattern = pattern

    def tile(self, layer: Layer) -> tuple[tuple[int, ...], int] | None:
        return self._tiles[layer.name], self.pattern.m

    def index_rows(self, layer: Layer, values: Tensor) -> list[Tensor]:
        along = self.layer_mask(layer, values).view(self._ordered(layer))
        whole, rest = self._whole(layer), layer.shape[1] - self._whole(layer)
        parts = [(along[..., :whole], self.pattern.m), (along[..., whole:], rest)]
        return [part.reshape(-1, size) for part, size in parts if part.numel()]

    def split_rows(self, values: Tensor) -> list[Tensor]:
        return [part for layer in self._prunable for part in self.index_rows(layer, values)]

    def join_rows(self, parts: list[Tensor]) -> Tensor:
        joined, rest = [], iter(parts)
        for layer in self._prunable:
            whole, outer = self._whole(layer), self._ordered(layer)[:-1]
            sizes = [size for size in (whole, layer.shape[1] - whole) if size]
            along = torch.cat([next(rest).reshape(*outer, size) for size in sizes], dim=-1)
            joined.append(along.flatten())
        return torch.cat(joined)

    def _whole(self, layer: Layer) -> int:
        """How many of a layer's input channels are in groups of m."""
        return layer.shape[1] // self.pattern.m * self.pattern.m
