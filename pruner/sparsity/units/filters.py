"""Filters: every group of tied output channels of convolutions is a unit, with all that it feeds."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pruner.checks import ConfigError
from pruner.sparsity.budget import Cost
from pruner.sparsity.units.base import Group, Left, Parameters, Units
from pruner.sparsity.units.channel_cost import ChannelCost
from pruner.sparsity.units.channels import Channels
from pruner.sparsity.units.layers import Layer

# What a gate multiplies with in the place of 0. Nothing of it is left in a sum with other channels (2^-50 is 1e-15 of
# them, where float32 sees 6e-8), yet signs and the order of values survive it.
HIDDEN = 2.0**-50


class FilterUnits(Units):
    """Every group of tied output channels of convolutions is a unit.

    A soft mask gates the batch norm after a convolution (gamma and beta together: a scale on the filter itself
    would be undone by the normalisation), or weight and bias where no batch norm follows. A hard mask also takes
    the filters, and the weights that read dead channels.

    A mask of 0 is a gate of HIDDEN, with the same gradient. The papers' masks stand behind the activation, where the
    derivative of a dropped filter's mask is relu(bn(x)), what it would give if it came back; ours stand before it,
    where a ReLU at exactly 0 passes nothing, and a dropped filter would never get a gradient again. At HIDDEN every
    ReLU, maximum and residual sum of it takes the side that it would come back on, so that the gradient is the
    derivative from the right, through whatever stands between the gate and the next layer [derived].
    """

    def __init__(self, layers: list[Layer], channels: Channels, parameters: Parameters):
        if not channels.count:
            most = channels.left_alone.most_common(1)
            stay = "".join(f" ({number} stay, of {layer}: {reason})" for (layer, reason), number in most)
            raise ConfigError(
                f"granularity=filter: this model has no convolution whose filters can be removed{stay}; use "
                "granularity=weight"
            )
        self.layers = layers
        self.left_alone, self.sized = channels.left_alone, channels.sized
        self.n = channels.count
        self.device = next(iter(parameters.values())).device
        order = self._order(layers, channels)
        # The unit of every channel; n, where gates find a constant 1, for channels that always stay.
        self._ins = {layer.name: order[channels.into(layer)] for layer in layers}
        self._outs = {layer.name: order[channels.out_of(layer)] for layer in layers}
        self._norms = {name: order[units] for name, units in channels.norms.items()}
        normalised = {unit for units in self._norms.values() for unit in units.tolist()} | {self.n}
        # A filter is gated itself only if no batch norm feels its channel.
        self._bare = [layer for layer in layers if not normalised.issuperset(self._outs[layer.name].tolist())]

    def _order(self, layers: list[Layer], channels: Channels) -> Tensor:
        """The new number of every unit, such that groups are contiguous, and at the end n for -1; sets the groups.

        Units form a group when the same layers make them and the same layers read them.
        """
        touched: dict[int, list[tuple[str, str, int]]] = {}
        for layer in layers:
            for side, units in (("out", channels.out_of(layer)), ("in", channels.into(layer))):
                counts = torch.bincount(units[units >= 0], minlength=self.n)
                for unit in counts.nonzero().flatten().tolist():
                    touched.setdefault(unit, []).append((layer.name, side, int(counts[unit])))
        members: dict[tuple[tuple[str, str, int], ...], list[int]] = {}
        for unit in range(self.n):
            members.setdefault(tuple(touched[unit]), []).append(unit)
        order = torch.full((self.n + 1,), self.n)
        self.groups = []
        start = 0
        for signature, together in members.items():
            order[torch.tensor(together)] = torch.arange(start, start + len(together))
            name = next(layer for layer, side, _ in signature if side == "out")
            self.groups.append(Group(name, start, start + len(together)))
            start += len(together)
        return order.to(self.device)

    def norms(self) -> Mapping[str, Tensor]:
        return self._norms

    def cost(self, budget: str) -> Cost:
        prunable = [layer for layer in self.layers if layer.prunable]
        return ChannelCost(prunable, self._ins, self._outs, self.groups, budget, self.device)

    def sum_over(self, values: Parameters) -> Tensor:
        total = torch.zeros(self.n + 1, device=self.device)
        for layer in self.layers:
            if layer.prunable:
                filters = layer.ordered(values[layer.weight]).flatten(1)
                total.index_add_(0, self._outs[layer.name], filters.sum(1, dtype=total.dtype))
        return total[: self.n]

    def gates(self, mask: Tensor) -> dict[str, Tensor]:
        padded = _padded(mask + HIDDEN * (mask == 0))  # not torch.where, which would stop the gradient
        gates = {}
        for name, units in self._norms.items():
            gates[f"{name}.weight"] = gates[f"{name}.bias"] = padded[units]
        for layer in self._bare:
            gate = padded[self._outs[layer.name]]
            gates[layer.weight] = layer.native(gate.view(-1, *[1] * (len(layer.shape) - 1)))
            if layer.bias:
                gates[layer.bias] = gate
        return gates

    def zeros(self, mask: Tensor) -> dict[str, Tensor]:
        padded = _padded(mask)
        zeros = {}
        for layer in self.layers:
            keep_out, keep_in = padded[self._outs[layer.name]], padded[self._ins[layer.name]]
            if layer.groups > 1:  # groups are tied, so that each reads the same channels of its own; depthwise: one
                keep_in = keep_in[: layer.shape[1]] if layer.shape[1] > 1 else keep_in.new_ones(1)
            kernel = [1] * (len(layer.shape) - 2)
            kept = keep_out.view(-1, 1, *kernel) * keep_in.view(1, -1, *kernel)
            zeros[layer.weight] = layer.native(kept.expand(layer.shape))
            if layer.bias:
                zeros[layer.bias] = keep_out
        for name, units in self._norms.items():
            zeros[f"{name}.weight"] = zeros[f"{name}.bias"] = padded[units]
        return zeros

    def left(self, mask: Tensor) -> dict[str, Left]:
        padded = _padded(mask)

        def kept(units: Tensor) -> tuple[int, ...] | None:
            stay = padded[units] != 0
            return None if bool(stay.all()) else tuple(stay.nonzero().flatten().tolist())

        parts = {layer.name: Left(kept(self._outs[layer.name]), kept(self._ins[layer.name])) for layer in self.layers}
        parts |= {name: Left(kept(units)) for name, units in self._norms.items()}
        return {name: part for name, part in parts.items() if part != Left()}

    def layer_mask(self, layer: Layer, mask: Tensor) -> Tensor:
        units = self._outs[layer.name]
        return mask[units[units < self.n]]


def _padded(mask: Tensor) -> Tensor:
    """The mask with a 1 behind its end, for channels that always stay."""
    return torch.cat([mask, mask.new_ones(1)])
