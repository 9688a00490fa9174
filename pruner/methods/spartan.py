"""Spartan: |w| through the soft projection onto the budget, of which the forward pass shows only the best units.

Tai, Tian, Lim, "Spartan: Differentiable Sparsity via Regularized Transportation", NeurIPS 2022, arXiv 2205.14107.

    y = sigmoid(beta u + mu),  mu such that y meets the budget; u = |w|                    [known]: `soft_mask`
    weights used: w y 1[unit in the hard top-k]; the indicator is straight-through, y is differentiated    [known]
    dL/du_i = beta v_i (g_i - c_i sum(v g) / sum(c v)),  g = dL/dy, v = y (1 - y)          [known] for equal costs c

Schedules [known]: the keep ratio falls from 1 to its target over the first 20% of the steps, beta rises from 1 over
80%, and the masks stay as they are for the last 20%. Both change linearly [chosen]. Beta ends at 10 for
ResNet-50 and at 20 for ViT-B/16 [known].

Straight-through, units of an output of which nothing is shown have gradients too [known], which is revive=true. It
can go wrong behind a batch norm, which passes back to a channel of zeros 1 / sqrt(eps) = 316 times what comes; the
term c_i sum(v g) hands it to all units. revive=false [chosen] gives the units of such an output y = 0 and g = 0. The
masks of filters sit behind the norm, where nothing is amplified; g of a hidden filter is its derivative on the side
on which it would come back (see `FilterUnits`).
Fragile: kernels want revive=false, 81.48 in the place of 76.06 (outputs/tables/tune-kernel.csv).

[chosen]: u is divided by its standard deviation, which counts as a constant, because beta is not free of scale: with
weights of deviation 0.01 and beta 10 the mask is nearly flat. So the paper's values of beta do not carry over, and
its factor sqrt(block size) on beta for blocks [known] is not needed: the deviation already takes it out. A unit
larger than a weight has the value `Units.magnitudes`. Beta ends at 4, and the keep ratio falls over 30% of the steps,
as the searches for weights and for filters found best (outputs/tables/tune-weight.csv, tune-filter.csv); for blocks
beta ends at 8 and revive is false as well (outputs/tables/tune-block.csv).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pruner.methods.base import Method, Setup
from pruner.methods.options import SpartanOptions
from pruner.methods.schedules import linear
from pruner.sparsity.units.make import Units


def deviation(magnitudes: Tensor) -> float:
    """The standard deviation of magnitudes [n], a constant to the gradient; of equal ones 1e-12."""
    values = magnitudes.detach()  # by two sums, as torch.std takes five times as long on millions
    square = float(torch.linalg.vector_norm(values)) ** 2 / len(values)
    spread: float = max(0.0, square - float(values.mean()) ** 2) ** 0.5
    return max(1e-12, spread)


def in_live_outputs(units: Units, shown: Tensor) -> Tensor:
    """Of a 0/1 tensor [n] of what is shown: 1 for all units of an output of which any unit is shown, 0 for the others.

    Filters and heads, which are whole outputs, count as one output a layer; an n:m pattern shows some of every group.
    """
    return units.join_rows([row.amax(1, keepdim=True).expand_as(row) for row in units.split_rows(shown)])


class Spartan(Method):
    """Soft masks of magnitude whose forward pass is hard. For its options see `SpartanOptions`."""

    Options = SpartanOptions
    options: SpartanOptions

    def __init__(self, setup: Setup, options: SpartanOptions | None = None):
        super().__init__(setup, options)
        # The step whose mask stays; the last one at the latest, so that every phase ends with the target.
        self.last = min(math.ceil(self.options.freeze * setup.steps), setup.steps - 1)
        # The magnitudes that the latest mask was made of, its soft and its hard form.
        self.register_buffer("ranking", torch.zeros(setup.units.n, device=setup.units.device))
        self.register_buffer("soft", torch.ones_like(self.ranking))
        self.register_buffer("top", torch.ones_like(self.ranking))

    ranking: Tensor
    soft: Tensor
    top: Tensor

    def begin(self) -> None:
        self._project(1.0)  # what a phase of no steps ends with

    def mask(self, step: int) -> Tensor:
        if step < self.last:
            return self._project(step / self.setup.steps)
        if step == self.last:
            self._project(1.0)
        return self.soft

    def visible(self) -> Tensor:
        return self.top

    def scores(self) -> Tensor:
        return self.ranking  # of the frozen mask: what training changed since then does not count

    def final_mask(self) -> Tensor:
        return self.soft * self.top

    def _project(self, progress: float) -> Tensor:
        """The differentiable soft mask [n] at this progress of the phase; keeps a copy and the hard one beside it."""
        values = self.setup.magnitudes()
        options = self.options
        sparsity = linear(self.allocation.sparsity, progress, options.ramp)
        beta = options.beta_start + linear(options.beta_end - options.beta_start, progress, options.freeze)
        soft, hard = self.allocation.both(values, deviation(values) / beta, sparsity)
        if not options.revive:
            soft = soft * in_live_outputs(self.setup.units, hard)
        self.ranking, self.soft, self.top = values.detach(), soft.detach(), hard
        return soft
