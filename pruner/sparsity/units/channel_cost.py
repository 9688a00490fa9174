"""The cost of channels, which is a product of those that a layer reads and those that it makes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pruner.sparsity.units.base import Group
from pruner.sparsity.units.layers import Layer


class ChannelCost:
    """The weights (or multiply-adds) of layers whose input and output channels come and go: a function of the mask.

        cost(mask) = sum over layers of  each * (kept output channels) * (kept input channels)

    where `each` is what one input channel costs in one output channel. The cost grows with every channel kept and is
    differentiable in the mask [n]; both counts may be fractional. In a depthwise convolution the one input channel of
    each output channel is not counted a second time.
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
        each = []
        for row, layer in enumerate(layers):
            weight_cost = layer.positions if budget == "macs" else 1
            each.append(weight_cost * layer.size / (layer.shape[0] * layer.shape[1]))
            out_counts[row] = torch.bincount(outs[layer.name].cpu(), minlength=n + 1)[firsts]
            if layer.shape[1] == 1 and layer.groups > 1:
                in_counts[row, -1] = 1
            else:
                in_counts[row] = torch.bincount(ins[layer.name].cpu(), minlength=n + 1)[firsts]
                each[-1] /= layer.groups
        self.out_counts, self.in_counts = out_counts.to(device), in_counts.to(device)
        self.each = torch.tensor(each, dtype=torch.float64, device=device)

    def __call__(self, mask: Tensor) -> Tensor:
        """The cost, a float64 scalar, of a mask [n] in float64."""
        padded = torch.cat([mask, mask.new_tensor([1, 0])])
        kept = padded[self.members].sum(1)  # of each group
        return (self.each * (self.out_counts @ kept) * (self.in_counts @ kept)).sum()
