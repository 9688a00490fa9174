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
undecided: with nearly all of them halfway the network loses nothing yet, whatever is pruned, so that m learns the price
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

from pruner.checks import one_of, require
from pruner.methods.base import Method, Setup
from pruner.methods.groupwise import GroupwiseAdam
from pruner.methods.schedules import cubic, fall, reheated


class Smart(Method):
    """One trainable mask parameter for each unit, hardened by a falling temperature.

    tau0, tau1: temperatures of the first and the last step, tau0 >= tau1 > 0, in standard deviations of the initial m.
    undecided: the largest share of units with a mask from 0.05 to 0.95, under the final budget, that tau0 may leave at
    the start, above 0; it is lowered where there are more, not below tau1; 1 takes tau0 as it is. schedule: how it
    falls, `exponential`, `linear`, `cosine`, or `reheating`: an exponential fall that starts again `reheats` times
    (see `pruner.methods.schedules`).
    score_lr: rate of m, in the same units; 0 keeps m as it starts.
    ramp: share of the phase over which the budget comes down, in [0, 1]; 0 asks for all at once.
    """

    def __init__(
        self,
        setup: Setup,
        tau0: float = 1.0,
        tau1: float = 0.3,
        undecided: float = 0.25,
        schedule: str = "exponential",
        reheats: int = 2,
        score_lr: float = 0.02,
        ramp: float = 0.3,
    ):
        require(tau0 > 0, "method.tau0", tau0, "above 0")
        require(0 < tau1 <= tau0, "method.tau1", tau1, f"above 0, and at most method.tau0={tau0}")
        require(0 < undecided <= 1, "method.undecided", undecided, "above 0, to 1")
        one_of("method.schedule", schedule, ("exponential", "linear", "cosine", "reheating"))
        require(reheats >= 0, "method.reheats", reheats, "0 or more")
        require(score_lr >= 0, "method.score_lr", score_lr, "0 or more")
        require(0 <= ramp <= 1, "method.ramp", ramp, "from 0 to 1")
        super().__init__(setup)
        self.tau1, self.schedule, self.reheats = tau1, schedule, reheats
        self.score_lr, self.ramp = score_lr, ramp
        magnitudes = setup.magnitudes().detach()
        centred = magnitudes - magnitudes.mean()
        self.latent = nn.Parameter(centred / centred.square().mean().sqrt().clamp(min=1e-12))
        self.tau0 = self._start(tau0, undecided)

    @torch.no_grad()
    def _start(self, tau0: float, most: float) -> float:
        """The highest temperature of tau0 to tau1 that leaves at most the share `most` of units undecided; else tau1.

        By bisection, to a thousandth; under tiny budgets there may be higher ones as well, where all masks are small.
        """

        def undecided(tau: float) -> float:
            mask = self.allocation.soft(self.latent, tau)
            return float(((mask > 0.05) & (mask < 0.95)).double().mean())

        low, high = self.tau1, tau0
        if undecided(high) <= most:
            return high
        while high > 1.001 * low:
            middle = (low * high) ** 0.5
            low, high = (middle, high) if undecided(middle) <= most else (low, middle)
        return low

    def temperature(self, progress: float) -> float:
        """tau at `progress` in [0, 1] of the phase."""
        if self.schedule == "reheating":
            return reheated(self.tau0, self.tau1, progress, self.reheats)
        return fall(self.tau0, self.tau1, progress, self.schedule)

    def mask(self, step: int) -> Tensor:
        # The last step is at the end of the schedules, so that the network is trained at the mask it ends with.
        progress = step / max(self.setup.steps - 1, 1)
        sparsity = cubic(self.allocation.sparsity, progress, self.ramp)
        return self.allocation.soft(self.latent, self.temperature(progress), sparsity)

    def optimizer(self, lr: float) -> torch.optim.Optimizer:
        return GroupwiseAdam(self.latent, self.setup.units.sizes, self.score_lr)

    def scores(self) -> Tensor:
        return self.latent.detach()

    def final_mask(self) -> Tensor:
        return self.allocation.soft(self.scores(), self.temperature(1.0))
