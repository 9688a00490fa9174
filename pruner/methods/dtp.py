"""DTP: differentiable transportation pruning.

Li, van Gemert, Hoefler, Moons, Eleftheriou, Verhoef, ICCV 2023, arXiv 2307.08483. No public code; the equations
below are read from the abstract and from reviews, or derived, and marked so.

Units have trainable latent scores s, free of the weights' magnitudes [known]. Mass 1/n on every score is carried to
a Bernoulli law with mass rho, the keep ratio, on "keep" [known]; the entropy-regularised plan is the soft mask
[known]. With cost C = (s - t)^2 and anchors t = (0, 1) [chosen] the plan is exactly

    m_i = sigmoid((2 s_i - 1) / eps + mu),   mu such that the mask meets the budget         [derived]: `soft_mask`

Weights and scores take one joint step a mini-batch; the plan takes one step of a Bregman (proximal point) scheme,
P_t = argmin <C, P> + eps KL(P || P_{t-1}) [second], which in log-odds l = log(P_keep / P_drop) reads

    l_t = l_{t-1} + (2 s_t - 1) / eps + const        so after t steps the temperature is eps / t   [derived]
        = (2 / eps) (s_1 + ... + s_t) + const        so the sum of the scores is all there is to keep

The gradient flows through the last step only: dL/ds_i = (2 / eps) v_i (dL/dm_i - c_i sum(v dL/dm) / sum(c v)),
v = m (1 - m) [derived]. As m goes to 0 or 1, v goes to 0 and the score freezes: exploration turns into
exploitation by itself [known], with no temperature schedule.

[chosen]: `sharpness` x = T std(s) / eps over the T steps of the phase stands for eps, because the share of undecided
units follows from x alone (x = 1 leaves 86% undecided, 10 10%, 50 2%). Scores start at the standardised magnitudes, or
all equal; each moves by its gradient over the root mean square of its layer's (`GroupwiseAdam` without momentum: the
path sums steps up as it is), at a rate in units of their initial standard deviation. The budget comes down over the
first part of the phase. The kept weights are folded with m at hardening. The search for weights found x = 5 best
(outputs/tables/tune-weight.csv), although a third as many units as are kept end undecided and hardening cost ten
points: finetuning mended more. Without finetuning take 10 or more, which cost none.

Fragile: filters want another value, x = 500 (conf/tuned/filter, outputs/tables/tune-filter.csv). At x = 5 more
than half of the units end undecided, which holds the network back so little (85.72 from 86.44) that nothing of it
outlives hardening (10.00, and no finetuning mends it). Kernels and blocks want x = 100 (conf/tuned/kernel,
conf/tuned/block, outputs/tables/tune-kernel.csv, tune-block.csv); 5 costs them 1.5 and 2.1 points.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pruner.methods.base import Method, Setup
from pruner.methods.groupwise import GroupwiseAdam
from pruner.methods.options import DTPOptions
from pruner.methods.schedules import cubic


class Walk(torch.autograd.Function):
    """The path [n] with one more step of the scores [n], taken in place: a copy is large; differentiable in them."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, path: Tensor, move: bool) -> Tensor:
        return path.add_(scores).view_as(path) if move else path.view_as(path)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0], None, None


class DTP(Method):
    """Latent scores carried in a transport plan that hardens by itself. For its options see `DTPOptions`."""

    Options = DTPOptions
    options: DTPOptions

    def __init__(self, setup: Setup, options: DTPOptions | None = None):
        super().__init__(setup, options)
        self.eps = max(setup.steps, 1) / self.options.sharpness  # of scores with unit deviation
        self.latent = nn.Parameter(setup.zeros())
        # The sum of the scores over the steps made so far, that which is under way among them.
        self.register_buffer("path", setup.zeros())
        self._under_way = False

    path: Tensor

    @torch.no_grad()
    def begin(self) -> None:
        if self.options.init == "magnitude":
            magnitudes = self.setup.magnitudes()
            start = magnitudes - magnitudes.mean()
            self.latent.copy_(start / start.std(correction=0).clamp(min=1e-12))

    def mask(self, step: int) -> Tensor:
        path = Walk.apply(self.latent, self.path, not self._under_way)
        self._under_way = True
        sparsity = cubic(self.allocation.sparsity, step / self.setup.steps, self.options.ramp)
        return self.allocation.soft(path, self.eps / 2, sparsity)

    def update(self, step: int) -> None:
        self._under_way = False

    def optimizer(self, lr: float) -> torch.optim.Optimizer | None:
        return GroupwiseAdam(self.latent, self.setup.units.sizes, self.options.score_lr, betas=(0.0, 0.999))

    def scores(self) -> Tensor:
        # With the scores as they are now.
        return self.path.clone() if self._under_way else self.path + self.latent.detach()

    def final_mask(self) -> Tensor:
        return self.allocation.soft(self.scores(), self.eps / 2)
