"""Attention heads: every head of a self-attention is a unit, with its rows and columns of the projections."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pruner.checks import ConfigError
from pruner.sparsity.budget import Cost
from pruner.sparsity.units.base import Group, Left, Parameters, Units
from pruner.sparsity.units.layers import Layer


@dataclass(frozen=True)
class _Attention:
    """The projections of one module, [3 * channels, channels] and [channels, channels], and where its units are."""

    inward: Layer
    outward: Layer
    heads: int
    units: slice

    @property
    def module(self) -> str:
        """The name of the attention, which is that of its output projection without the last part."""
        return self.outward.name.rpartition(".")[0]

    @property
    def width(self) -> int:
        """The channels of one head."""
        return self.outward.shape[1] // self.heads


class HeadUnits(Units):
    """Every head of every nn.MultiheadAttention that packs its projections and attends to its own input is a unit.

    A head of d of the D channels owns d rows of the query, the key and the value projection each and d columns of the
    output projection: 4 * d * D weights. Only these projections are prunable and counted in the budget [chosen]: the
    layers between them have no heads, and with them most budgets could not be met. Where one projection of a module is
    excluded, so is the other. A soft mask gates the columns of the output projection, that is the head's output, which
    no normalisation undoes; a hard mask takes the rows and their biases as well.
    """

    def __init__(self, layers: list[Layer], model: nn.Module):
        """`layers` are those of `model`. Raises ConfigError when no head can be pruned."""
        found = _projections(layers, model)
        if not found:
            raise ConfigError(f"granularity=head: {_none(model)}; use granularity=weight")
        self.groups, self._attentions = [], []
        self.n = 0
        for inward, outward, heads in found:
            if inward.prunable and outward.prunable:
                self.groups.append(Group(inward.name, self.n, self.n + heads))
                self._attentions.append(_Attention(inward, outward, heads, slice(self.n, self.n + heads)))
                self.n += heads
        if not self.n:
            raise ConfigError("granularity=head: budget.exclude leaves no head to prune")
        self.device = next(model.parameters()).device
        self._slices = {layer.name: a.units for a in self._attentions for layer in (a.inward, a.outward)}
        self.layers = [replace(layer, prunable=layer.name in self._slices) for layer in layers]

    def cost(self, budget: str) -> Cost:
        parts = []
        for a in self._attentions:
            cost = sum(layer.size * (layer.positions if budget == "macs" else 1) for layer in (a.inward, a.outward))
            parts.append(torch.full((a.heads,), float(cost // a.heads), device=self.device))
        return torch.cat(parts)

    def sum_over(self, values: Parameters) -> Tensor:
        parts = []
        for a in self._attentions:
            rows = values[a.inward.weight].reshape(3, a.heads, -1).sum((0, 2))
            columns = values[a.outward.weight].unflatten(1, (a.heads, a.width)).sum((0, 2))
            parts.append(rows + columns)
        return torch.cat(parts)

    def gates(self, mask: Tensor) -> dict[str, Tensor]:
        return {a.outward.weight: mask[a.units].repeat_interleave(a.width).unsqueeze(0) for a in self._attentions}

    def zeros(self, mask: Tensor) -> dict[str, Tensor]:
        zeros = {}
        for a in self._attentions:
            channels = mask[a.units].repeat_interleave(a.width)
            rows = channels.repeat(3)  # of queries, keys and values
            zeros[a.inward.weight] = rows.unsqueeze(1).expand(a.inward.shape)
            if a.inward.bias:
                zeros[a.inward.bias] = rows
            zeros[a.outward.weight] = channels.unsqueeze(0).expand(a.outward.shape)
        return zeros

    def left(self, mask: Tensor) -> dict[str, Left]:
        kept = {a.module: tuple(mask[a.units].nonzero().flatten().tolist()) for a in self._attentions}
        return {a.module: Left(kept[a.module]) for a in self._attentions if len(kept[a.module]) < a.heads}

    def layer_mask(self, layer: Layer, mask: Tensor) -> Tensor:
        return mask[self._slices[layer.name]]

    def extra_macs_gone(self, mask: Tensor) -> int:
        """Multiply-adds that a hard mask [n] saves outside of layers: a dead head compares and mixes no tokens.

        With d channels those are d for each pair of tokens in the product of queries and keys, and d in that of the
        weights and values.
        """
        return sum(2 * a.inward.pairs * a.width * int((mask[a.units] == 0).sum()) for a in self._attentions)


def _none(model: nn.Module) -> str:
    """Why there are no heads that can go."""
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            return f"{name} attends to other tokens than its own, or has projections apart from each other"
    return "this model has no nn.MultiheadAttention"


def _projections(layers: list[Layer], model: nn.Module) -> list[tuple[Layer, Layer, int]]:
    """(input projection, output projection, number of heads) of every module, in the order of the layers."""
    by_weight = {layer.weight: layer for layer in layers}
    found = []
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            prefix = f"{name}." if name else ""
            inward = by_weight.get(f"{prefix}in_proj_weight")
            outward = by_weight.get(f"{prefix}out_proj.weight")
            if inward and outward and inward.pairs:  # it ran, and attended to its own input
                found.append((inward, outward, module.num_heads))
    return sorted(found, key=lambda parts: layers.index(parts[0]))
