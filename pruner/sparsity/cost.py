"""What it costs to keep units: linear costs are tensors [n]; the cost of channels is a product, and a class here."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pruner.sparsity.base import Group, Units
from pruner.sparsity.budget import total_cost
from pruner.sparsity.layers import Layer


class Costs:
    """What masks [n] over units cost in one budget, `params` or `macs`."""

    def __init__(self, units: Units, budget: str):
        self.cost = units.cost(budget)
        self.total = round(total_cost(self.cost, torch.zeros(units.n, device=units.device)))

    def of(self, mask: Tensor) -> float:
        """The cost of a mask, soft or hard."""
        if callable(self.cost):
            return float(self.cost(mask.detach().double()))
        kept = mask.detach() if self.cost is None else mask.detach() * self.cost
        return float(kept.sum(dtype=torch.float64))

    def target(self, sparsity: float) -> int:
        """The cost that may stay: floor(total * (1 - sparsity)), with the sparsity taken as the decimal typed."""
        return int(self.total * kept_share(sparsity))


def kept_share(sparsity: float) -> Fraction:
    """1 - sparsity, exactly, with the sparsity taken as the decimal typed."""
    return 1 - Fraction(repr(float(sparsity)))


class ChannelCost:
    """The weights (or multiply-adds) of layers whose input and output channels come and go: a function of the mask.

        cost(mask) = sum over layers of  worth * (kept output channels) * (kept input channels)

    It grows with every channel kept and is differentiable in the mask [n]; both counts may be fractional. In a
    depthwise convolution the one input channel of each output channel is not counted a second time.
    """

    def __init__(
        self,
        layers: list[Layer],
        ins: dict[str, Tensor],
        outs: dict[str, Tensor],
        groups: list[Group],
        budget: str,
        device: torch.device,
    ):
        """`ins` and `outs` give the unit of every channel of a layer, n where it always stays.

        The `groups` cover the units 0..n-1 in order. Layers use all units of a group alike, so that it is enough to
        know how much of each group is kept.
        """
        n = groups[-1].stop
        spans = [torch.arange(group.start, group.stop) for group in groups] + [torch.tensor([n])]
        # The units of each group in a row, filled up with n + 1, where the padded mask has a zero.
        self.members = pad_sequence(spans, batch_first=True, padding_value=n + 1).to(device)
        firsts = torch.stack([span[0] for span in spans])  # of each group, and at the end what always stays
        shape = (len(layers), len(spans))
        out_counts, in_counts = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
        worth = []
        for row, layer in enumerate(layers):
            unit_cost = layer.positions if budget == "macs" else 1
            worth.append(unit_cost * layer.size / (layer.shape[0] * layer.shape[1]))
            out_counts[row] = torch.bincount(outs[layer.name].cpu(), minlength=n + 1)[firsts]
            if layer.shape[1] == 1 and layer.groups > 1:
                in_counts[row, -1] = 1
            else:
                in_counts[row] = torch.bincount(ins[layer.name].cpu(), minlength=n + 1)[firsts]
                worth[-1] /= layer.groups
        self.out_counts, self.in_counts = out_counts.to(device), in_counts.to(device)
        self.worth = torch.tensor(worth, dtype=torch.float64, device=device)

    def __call__(self, mask: Tensor) -> Tensor:
        """The cost, a float64 scalar, of a mask [n] in float64."""
        padded = torch.cat([mask, mask.new_tensor([1, 0])])
        kept = padded[self.members].sum(1)  # of each group
        return (self.worth * (self.out_counts @ kept) * (self.in_counts @ kept)).sum()
