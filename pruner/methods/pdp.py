"""PDP: a soft mask from the weights themselves, with no parameter of its own.

Cho, Adya, Naik, "PDP: Parameter-free Differentiable Pruning is All You Need", NeurIPS 2023, arXiv 2305.11203.

    m = sigmoid((w^2 - t^2) / tau)                                                       [second]
    t midway between the smallest kept and the largest dropped |w| of the layer          [second]
    the ratio grows by .015 an epoch after 16 dense ones, tau = 1e-4                     [second]

[chosen]: t is taken among the units that compete for a budget, which the scope decides (scope=layer is the
paper's), and is a constant to the gradient. tau is in units of the mean square of the competing magnitudes, so
that it does not depend on the weights' scale: for normal weights at 90% sparsity, a tau of 0.05 leaves 1.8% of the
units between 0.05 and 0.95 [derived], and 1e-4 for weights of deviation 0.045 is that tau; the search for
weights found ten times as much best (outputs/tables/tune-weight.csv). The budget comes down
linearly over a share of the phase, since phases are short here and the dense epochs come before. For units larger
than a weight |w| stands for `Units.magnitudes`.

The soft mask meets the budget only about: as many units lie above t as are kept, but the undecided need not balance.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pruner.methods.base import Method
from pruner.methods.options import PDPOptions
from pruner.methods.schedules import linear


def midway(magnitudes: Tensor, kept: Tensor) -> Tensor:
    """The threshold [rows, 1] midway between the smallest kept and the largest dropped of each row.

    magnitudes, kept (0/1): [rows, candidates]. Units kept although larger ones are dropped, which `budget.min_units`
    does, do not count. -inf where nothing is dropped, inf where nothing else is kept.
    """
    dropped = magnitudes.masked_fill(kept > 0, -torch.inf).amax(1, keepdim=True)
    smallest = magnitudes.masked_fill((kept == 0) | (magnitudes < dropped), torch.inf).amin(1, keepdim=True)
    return (smallest + dropped) / 2


def soft_around(magnitudes: Tensor, kept: Tensor, tau: float) -> Tensor:
    """The soft mask [rows, candidates] around each row's threshold; differentiable in the magnitudes.

    magnitudes, kept (0/1): [rows, candidates]; tau in units of the row's mean square. What is kept below the
    threshold (see `midway`) gets 1, as in the other methods' soft masks.
    """
    fixed = magnitudes.detach()
    threshold = midway(fixed, kept)
    scale = fixed.square().mean(1, keepdim=True).clamp(min=1e-30)
    distance = magnitudes.square() - threshold * threshold.abs()  # a threshold of -inf keeps its sign
    soft = torch.sigmoid(distance / (tau * scale))
    return torch.where((kept > 0) & (fixed < threshold), 1.0, soft)


class PDP(Method):
    """Soft masks from magnitudes around a threshold. For its options see `PDPOptions`."""

    Options = PDPOptions
    options: PDPOptions

    def mask(self, step: int) -> Tensor:
        return self._soft(linear(self.allocation.sparsity, step / self.setup.steps, self.options.ramp))

    def scores(self) -> Tensor:
        return self.setup.magnitudes().detach()

    def final_mask(self) -> Tensor:
        return self._soft(self.allocation.sparsity).detach()

    def _soft(self, sparsity: float) -> Tensor:
        """The soft mask [n] of the weights as they are now."""
        magnitudes = self.setup.magnitudes()
        kept = self.allocation.hard(magnitudes, sparsity)
        parts = zip(self.allocation.split(magnitudes), self.allocation.split(kept), strict=True)
        return self.allocation.join([soft_around(values, part, self.options.tau) for values, part in parts])
