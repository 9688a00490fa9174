"""What units are: the things that a mask keeps or drops, and how a mask [n] over them sits on a model's parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from pruner.sparsity.budget import Cost
from pruner.sparsity.units.layers import Layer

Parameters = Mapping[str, Tensor]


@dataclass(frozen=True)
class Group:
    """Units start..stop-1 of the mask, which one layer makes; they compete with each other under scope=layer."""

    name: str
    start: int
    stop: int

    @property
    def size(self) -> int:
        """The number of units."""
        return self.stop - self.start


@dataclass(frozen=True)
class Left:
    """The channels of a module that are left, by number, in order; None: all.

    outs: those that it makes (a batch norm's channels, an attention's heads). ins: those that it reads.
    """

    outs: tuple[int, ...] | None = None
    ins: tuple[int, ...] | None = None


class Units(ABC):
    """The units of a model at one granularity; masks and scores over them are tensors [n]."""

    layers: list[Layer]
    groups: list[Group]
    n: int
    device: torch.device
    left_alone: Mapping[tuple[str, str], int] = MappingProxyType({})  # by (layer, reason): channels that are no units
    sized: Sequence[int] = ()  # operations of the network that are told sizes of channels (see `Tracer`)

    @property
    def sizes(self) -> list[int]:
        """How many units each group has, in order: what splits a tensor [n] into the groups' parts."""
        return [group.size for group in self.groups]

    @abstractmethod
    def cost(self, budget: str) -> Cost:
        """What the units cost in prunable `params` or `macs`: a tensor [n], or a function of the mask."""

    @abstractmethod
    def sum_over(self, values: Parameters) -> Tensor:
        """Per unit [n], the sum of `values`, which has a tensor for every prunable weight, of its shape."""

    @abstractmethod
    def gates(self, mask: Tensor) -> dict[str, Tensor]:
        """Multipliers, by parameter name, that apply a soft mask [n] where it is felt; differentiable."""

    @abstractmethod
    def zeros(self, mask: Tensor) -> dict[str, Tensor]:
        """0/1 tensors, by parameter name, of all that a hard mask [n] leaves: ones stay, zeros are gone."""

    @abstractmethod
    def layer_mask(self, layer: Layer, mask: Tensor) -> Tensor:
        """The part of a mask [n] that belongs to one layer: a value for each of its units."""

    def rows(self, layer: Layer, values: Tensor) -> Tensor:
        """The part of `values` [n] that belongs to one layer as [rows, candidates], a row for each of its outputs.

        Units that are whole outputs make one row.
        """
        return self.layer_mask(layer, values).unsqueeze(0)

    def left(self, mask: Tensor) -> dict[str, Left]:
        """What a hard mask [n] leaves of the modules, by name, from which it takes whole channels or heads.

        Empty where it makes no more than zeros inside of weights.
        """
        return {}

    def tile(self, layer: Layer) -> tuple[tuple[int, ...], int] | None:
        """The tiles that a layer's weight is cut into: their shape, and how many neighbouring input channels compete
        in a fixed pattern (0: there is none). None where units are no tiles.
        """
        return None

    def extra_macs_gone(self, mask: Tensor) -> int:
        """Multiply-adds that a hard mask [n] saves outside of layers, such as between attention's queries and keys."""
        return 0

    def norms(self) -> Mapping[str, Tensor]:
        """By the name of each batch norm, the unit of each of its channels [channels], n where a channel always stays.

        Empty where units are no channels.
        """
        return {}

    def index_rows(self, layer: Layer, values: Tensor) -> list[Tensor]:
        """The part of `values` [n] that belongs to one layer as a stored index has it: tensors [rows, candidates],
        where of a hard mask the index tells which candidates of each row are left.

        Empty where a hard mask takes whole channels or heads: tensors are then smaller, and no index is needed.
        """
        return []

    def split_rows(self, values: Tensor) -> list[Tensor]:
        """`values` [n] as tensors [rows, candidates]: in a fixed pattern the units of a row compete with each other."""
        return [part.unsqueeze(0) for part in values.split(self.sizes)]

    def join_rows(self, parts: list[Tensor]) -> Tensor:
        """[n] from what `split_rows` gave."""
        return torch.cat([part.flatten() for part in parts])

    def magnitudes(self, parameters: Parameters) -> Tensor:
        """Per unit [n], the root mean square of its weights, each in units of its layer's root mean square.

        The norm divided by sqrt(size) [common] makes units of different sizes compare; the layer's own scale is
        taken out as well [chosen], because a batch norm undoes it: with it in, filters ranked across layers
        empty whole layers (docs/log.md). Differentiable, through the layer's scale too: as if that were constant, a
        soft mask would push whole layers to grow or to shrink. Single weights keep their scale.
        """
        squares = {layer.weight: parameters[layer.weight].square() for layer in self.layers if layer.prunable}
        scaled = self.sum_over({name: square / square.mean().clamp(min=1e-30) for name, square in squares.items()})
        sizes = self.sum_over({name: torch.ones_like(square) for name, square in squares.items()})
        return (scaled / sizes).clamp(min=1e-30).sqrt()  # the gradient at 0 is 0, not infinite
