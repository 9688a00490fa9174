"""FPGM: a filter near the middle of its layer can be replaced by the others, so it goes first.

He, Liu, Wang, Hu, Yang, "Filter pruning via geometric median for deep convolutional neural networks acceleration",
CVPR 2019, arXiv 1811.00250.

    score of a filter = sum of its Euclidean distances to the other filters of its layer; the smallest go      [known]

So that layers compare, the scores of a layer are in units of their mean [chosen]. A channel that is tied over several
layers (by a residual add, say) has a filter in each of them, and the sum of their scores [chosen]: under scope=global
such channels outlast those of a single layer, as they have more to lose.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pruner.checks import require
from pruner.methods.base import Setup
from pruner.sparsity.units.filters import FilterUnits


class FPGM:
    """How far a filter is from the others of its layer."""

    def __call__(self, setup: Setup) -> Tensor:
        """Per filter [n], its distances summed. Raises ConfigError for units that are no filters."""
        units = setup.units
        require(isinstance(units, FilterUnits), "method.score.name", "fpgm", "compares filters; use granularity=filter")
        parameters = dict(setup.model.named_parameters())
        values = {}
        for layer in units.layers:
            weight = layer.ordered(parameters[layer.weight].detach())
            # Linear layers have no units here. Spread evenly over its filter, a score is what `sum_over` adds up again.
            far = distances(weight) if layer.is_conv else weight.new_zeros(len(weight))
            share = far * (len(weight) / weight.numel())
            values[layer.weight] = layer.native(share.view(-1, *[1] * (weight.dim() - 1)).expand_as(weight))
        return units.sum_over(values)


def distances(weight: Tensor) -> Tensor:
    """Per filter [filters] of a weight [filters, ...], the sum of distances to the others, over the layer's mean."""
    flat = weight.flatten(1)
    # The exact mode: the fast one, by products, is off by more than the distance of filters that are close.
    total = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").sum(1)
    return total / total.mean().clamp(min=1e-30)
