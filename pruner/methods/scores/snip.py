"""SNIP: a unit's score is how much the loss depends on its gate.

Lee, Ajanthan, Torr, "SNIP: single-shot network pruning based on connection sensitivity", ICLR 2019, arXiv 1810.02340.

    score_j = |dL/dc_j| at c = 1, where c_j multiplies unit j; for a weight this is |w_j dL/dw_j|     [known]
    L is the loss on a batch per class, once; all units compete                                       [known]

The paper divides by the sum of all scores [known], which changes no order and is left out. It prunes a network before
training [known]; here the network is the dense one. [chosen]: a batch of 10 images a class; evaluation mode, for the
running statistics are part of what the dense network has learnt. (Batch statistics as in training were level at low
sparsities and fell behind at 0.97 of a ResNet-20's weights, 87.5% to 98.1% on digits after finetuning, one seed.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruner.checks import require
from pruner.methods.base import Setup
from pruner.methods.scores.probing import balanced_sample, probing


@dataclass(frozen=True)
class Snip:
    """The sensitivity of the loss to the units' gates. per_class: training images of every class, 1 or more."""

    needs_examples: ClassVar[bool] = True
    per_class: int = 10

    def __post_init__(self) -> None:
        require(self.per_class >= 1, "method.score.per_class", self.per_class, "1 or more")

    def __call__(self, setup: Setup) -> Tensor:
        """Per unit [n], the sensitivity to its gate. Raises ValueError when the setup has no images."""
        gates = torch.ones(setup.units.n, device=setup.units.device, requires_grad=True)
        slope = torch.zeros_like(gates)
        batches = balanced_sample(setup, self.per_class)
        count = sum(len(labels) for _, labels in batches)
        with probing(setup.model):
            for images, labels in batches:
                loss = setup.loss(setup.logits(gates, images), labels) * (len(labels) / count)
                slope = slope + torch.autograd.grad(loss, gates)[0]
        return slope.detach().abs()
