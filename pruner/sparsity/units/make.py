"""The units of a model at each granularity."""

from __future__ import annotations

from collections.abc import Container

from torch import nn

from pruner.config import Block, Pattern
from pruner.sparsity.units.base import Group, Units
from pruner.sparsity.units.channels import Channels
from pruner.sparsity.units.filters import FilterUnits
from pruner.sparsity.units.heads import HeadUnits
from pruner.sparsity.units.layers import find_layers
from pruner.sparsity.units.tiles import PatternUnits, TileUnits, WeightUnits

__all__ = ["Group", "Units", "make_units"]


def make_units(
    model: nn.Module,
    shape: tuple[int, ...],
    granularity: str,
    exclude: tuple[str, ...] = (),
    block: Block | None = None,
    nm: Pattern | None = None,
    constant: Container[int] = (),
) -> Units:
    """The units of a model that takes images [1, *shape]; `block` and `nm` belong to the granularities of that name.

    `constant` is of granularity=filter: the operations whose sizes do not follow the channels (see `Tracer`).
    Raises ConfigError when the model has none.
    """
    layers = find_layers(model, shape, exclude)
    parameters = dict(model.named_parameters())
    device = next(iter(parameters.values())).device
    if granularity == "filter":
        channels = Channels(model, shape, [layer.name for layer in layers if not layer.prunable], constant)
        return FilterUnits(layers, channels, parameters)
    if granularity == "head":
        return HeadUnits(layers, model)
    if granularity == "kernel":
        return TileUnits(layers, device, lambda layer: (1, 1, *layer.shape[2:]))
    if granularity == "block":
        rows, columns = (block or Block()).shape
        return TileUnits(layers, device, lambda layer: (rows, columns, *[1] * len(layer.shape[2:])))
    if granularity == "nm":
        return PatternUnits(layers, device, nm or Pattern())
    return WeightUnits(layers, device)
