"""SMART: separate, dynamic and differentiable pruning.

Ding, Ye, Zhong, Li, Shao, arXiv 2403.19969. No public code; what follows is read from the abstract and from
reviews, or derived, and marked so.

Importance lives in mask parameters m of its own, apart from the weights [known]; one vector over all units, so that
the ranking is within layers and across them [second]. The mask meets the budget exactly [known]:

    f_i = sigmoid(m_i / tau + t),  t such that the mask meets the budget              [second]: `soft_mask`
    min over w and m of L(w * f_tau(m)), weights and m stepping together              [second]
    dL/dm_j = v_j (g_j - c_j sum(v g) / sum(c v)) / tau,  v = f (1 - f)               [derived], with unit costs c

g_j, the inner product of dL/dW_j and W_j over the unit, is weight times output error times input activation: the
"weight and activation information" of the paper [derived].

The temperature tau changes in training, to escape local minima that are not sparse [known]. At a fixed tau a point
that is stationary in w is stationary in m too, with fractional masks; moving tau moves f and reopens the gradient,
and only saturated masks stay where they are [derived]. As tau goes to 0 the mask goes to the hard top k [second].

[chosen]: m starts at the standardised magnitudes of the dense network, so that tau and the rate of m are in units of
their standard deviation; it steps by `GroupwiseAdam`, without weight decay. tau falls from tau0 in the first step to
tau1 in the last one, exponentially by default. tau0 is lowered until no more than a given share of units starts
undecided: with nearly all of them halfway the network loses nothing yet, whatever is pruned, so that m learns the cost
of a unit alone, and a tenth of the MACs left the residual streams of a ResNet with one channel in eight. The budget
comes down over the first part of the phase. The kept weights are folded with f at tau1 when they are hardened. The
search for weights found tau1 = 0.3 best (outputs/tables/tune-weight.csv), which is far from 0, although hardening cost
two points: finetuning mended more. Without finetuning take 0.1 or less, which cost none.

Fragile: filters and blocks want other values, tau1 = 0.001 and a score_lr of 0.1 (conf/tuned/filter, conf/tuned/block,
outputs/tables/tune-filter.csv, tune-block.csv). On filters at a tau1 of 0.03 and 0.1 hardening leaves 17 and 13% of the
images right, and finetuning ends 2.4 and 6.0 points below 0.001; on blocks at 0.3 it leaves 10 to 14%. Kernels
want 0.03 (conf/tuned/kernel, outputs/tables/tune-kernel.csv), level with 0.3 after finetuning, but lose nothing before.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pruner.methods.base import Method, Setup
from pruner.methods.groupwise import GroupwiseAdam
from pruner.methods.options import SmartOptions
from pruner.methods.schedules import cubic, fall, reheated


class Smart(Method):
    """One trainable mask parameter for each unit, hardened by a falling temperature. Options: `SmartOptions`."""

    Options = SmartOptions
    options: SmartOptions

    def __init__(self, setup: Setup, options: SmartOptions | None = None):
        super().__init__(setup, options)
        self.latent = nn.Parameter(setup.zeros())
        self.register_buffer("tau0", torch.tensor(self.options.tau0, dtype=torch.float64))  # lowered in `begin`

    tau0: Tensor

    @torch.no_grad()
    def begin(self) -> None:
        magnitudes = self.setup.magnitudes()
        centred = magnitudes - magnitudes.mean()
        self.latent.copy_(centred / centred.square().mean().sqrt().clamp(min=1e-12))
        self.tau0.fill_(self._start(self.options.tau0, self.options.undecided))

    def _start(self, tau0: float, most: float) -> float:
        """The highest temperature of tau0 to tau1 that leaves at most the share `most` of units undecided; else tau1.

        By bisection, to a thousandth; under tiny budgets there may be higher ones as well, where all masks are small.
        """

        def undecided(tau: float) -> float:
            mask = self.allocation.soft(self.latent, tau)
            return float(((mask > 0.05) & (mask < 0.95)).double().mean())

        low, high = self.options.tau1, tau0
        if undecided(high) <= most:
            return high
        while high > 1.001 * low:
            middle = (low * high) ** 0.5
            low, high = (middle, high) if undecided(middle) <= most else (low, middle)
        return low

    def temperature(self, progress: float) -> float:
        """tau at `progress` in [0, 1] of the phase."""
        tau0, options = float(self.tau0), self.options
        if options.schedule == "reheating":
            return reheated(tau0, options.tau1, progress, options.reheats)
        return fall(tau0, options.tau1, progress, options.schedule)

    def mask(self, step: int) -> Tensor:
        # The last step is at the end of the schedules, so that the network is trained at the mask it ends with.
        progress = step / max(self.setup.steps - 1, 1)
        sparsity = cubic(self.allocation.sparsity, progress, self.options.ramp)
        return self.allocation.soft(self.latent, self.temperature(progress), sparsity)

    def optimizer(self, lr: float) -> torch.optim.Optimizer:
        return GroupwiseAdam(self.latent, self.setup.units.sizes, self.options.score_lr)

    def scores(self) -> Tensor:
        return self.latent.detach()

    def final_mask(self) -> Tensor:
        return self.allocation.soft(self.scores(), self.temperature(1.0))
