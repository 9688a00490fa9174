"""DSA: differentiable sparsity allocation; the share that each layer keeps is learned by gradient under one budget.

Ning, Zhao, Li, Lei, Wang, Yang, ECCV 2020, arXiv 2004.02164. The authors published the forward pass, the groups and
the cost model, not their trainer. Per group of C units:

    b_i      importance without gradients: |gamma| of the group's batch norm                                   [known]
    alpha    keep ratio sigmoid(theta); theta starts at 5                                                      [known]
    p_i = sigmoid(beta (log b_i - log b0)), log b0 such that mean p = alpha; beta rises from 1                 [known]
    m_i ~ Bernoulli(p_i), hard; straight through, dL/dp := dL/dm                                               [known]
    p has a floor of 0.01 in the released code, so that no channel dies for good                               [known]
    dp_i/dalpha = C f_i / sum_j f_j, f = p (1 - p); nothing flows to b                                         [known]

theta minimises the loss on a tenth of the training images, held out [known], subject to F(sigmoid(theta)) = F*, where F
is the cost of keeping the share alpha of each group. How is "ADMM-inspired" [known]; the rest is [chosen]:

    theta step  by Adam against g - lambda, every few steps of the weights; then a share of the way to z - u
                g_i = (dL/dalpha_i) / (dF/dalpha_i); lambda its mean, weighted with dF/dtheta
    z step      the point nearest to theta + u with F(sigmoid(z)) = F*, see `nearest_within`
    u step      u += theta - z, a few times in the phase; at the end theta := z

[chosen]: the floor is a hundredth of alpha, for where 5% of the weights are kept 1% more would be drawn at random. b
is the magnitude where there is no batch norm (the paper's is the filter's L1 norm [known]), and the mean |gamma| where
channels are tied (the paper's: of the first of the convolutions [known]). g is what a unit changes of the loss for
its cost, which is alike in all groups where the budget is spent best, and lambda its mean, so that steps along g -
lambda keep F; dL/dtheta itself is largest for large layers, and gave them what small ones needed. Adam, because a few
small layers (the first, the last, shortcuts) have a g a hundred times that of others, which then hardly moved. Its
rate falls to 0 over the phase, so that settings mean the same for any length, and the masks hold still at the end. F*
comes down over the first part of the phase. F* is met from below as well: hardening spends the whole budget, and units
that were not trained under the masks would come to life. log b is rescaled within its group, since the gammas of a
short training lie within a few percent, where no beta up to 100 decides, and at a beta of 1 even weights would be
drawn nearly at random. Held-out batches are normalised by their own statistics, as in training, and leave no trace in
the running ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pruner.methods.base import Method, Setup
from pruner.methods.examples import Batch, endless
from pruner.methods.options import DSAOptions
from pruner.methods.ratios import along_budget, group_cost, nearest_within
from pruner.methods.schedules import cubic, fall
from pruner.runtime.distributed import average
from pruner.sparsity.budget import soft_mask

MANY = 1 << 16  # units, evenly spaced, of which a large group's median is taken [chosen]
FLOOR = 4.6  # log 100: how far below its group's median log b may lie; or one dead unit would set the scale [chosen]


def keep_probabilities(log_b: Tensor, alpha: Tensor, beta: float) -> Tensor:
    """p = sigmoid(beta (log_b - log b0)) [C] of one group, with log b0 such that mean p = alpha, a scalar.

    Differentiable in alpha alone: dp_i/dalpha = C f_i / sum_j f_j, f = p (1 - p), by the implicit function theorem; 0
    once every unit is decided. Raises ValueError as `soft_mask` does.
    """
    with torch.no_grad():
        p = soft_mask(log_b, float(alpha) * log_b.numel(), temperature=1 / beta)
    return moved_by(alpha, p)


def moved_by(alpha: Tensor, p: Tensor) -> Tensor:
    """The probabilities p [C] of one group, whose mean is alpha, a scalar: with the gradient that alpha has by them."""
    moved: Tensor = _MovedBy.apply(alpha, p)
    return moved


class _MovedBy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, alpha: Tensor, p: Tensor) -> Tensor:
        ctx.save_for_backward(p)
        return p.view_as(p)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (p,) = ctx.saved_tensors
        f = (p * (1 - p)).double()
        return ((grads[0] * f).sum() * p.numel() / f.sum().clamp(min=1e-300)).to(p.dtype), None


def importance(setup: Setup) -> Tensor:
    """b [n], above 0: |gamma|, averaged over the batch norms that a filter goes through; else the magnitude."""
    b = setup.magnitudes().detach()
    norms = setup.units.norms()
    if norms:
        parameters = dict(setup.model.named_parameters())
        total = b.new_zeros(len(b) + 1)
        for name, units in norms.items():  # one by one: added up in one go, their order would be the device's business
            total.index_add_(0, units, parameters[f"{name}.weight"].detach().abs().to(total.dtype))
        total = total[:-1]
        number = torch.bincount(torch.cat(list(norms.values())), minlength=len(b) + 1)[:-1]
        b = torch.where(number > 0, total / number.clamp(min=1), b)
    return b.clamp(min=1e-12)


def draw(p: Tensor, chances: Tensor, generator: torch.Generator) -> Tensor:
    """A hard mask [n] drawn with these chances [n], which are p [n] with a floor; straight through to p."""
    return torch.bernoulli(chances, generator=generator) + (p - p.detach())


class DSA(Method):
    """Keep ratios per group, learned on held-out images; units are drawn by importance. Options: `DSAOptions`."""

    Options = DSAOptions
    options: DSAOptions
    held_out = 0.1

    def __init__(self, setup: Setup, options: DSAOptions | None = None):
        super().__init__(setup, options)
        self.sizes = setup.units.sizes
        self.batch_size = max(2, round(self.options.batch_share * setup.batch_size))  # batch norm needs two
        theta_steps = max(1, setup.steps // self.options.every)
        self.dual_every = max(1, theta_steps // self.options.duals)
        self.cost = group_cost(self.allocation)
        self.theta = nn.Parameter(torch.full((len(self.sizes),), self.options.start, device=setup.units.device))
        self.register_buffer("z", self.theta.detach().clone())
        self.register_buffer("u", torch.zeros_like(self.z))
        self.register_buffer("p", torch.ones(setup.units.n, device=setup.units.device))
        self.rate = self.options.rate / theta_steps  # of a step
        self._chances: Tensor | None = None
        self._generator = setup.draws(0)  # of the step under way: its mask, and then that of theta's own step
        self._adam = torch.optim.Adam([self.theta], betas=(0.9, 0.99))
        self._batches: Iterator[Batch] = iter(())  # held-out ones
        self._next = -1  # the number of the batch that comes next

    z: Tensor
    u: Tensor
    p: Tensor  # of the latest mask

    def mask(self, step: int) -> Tensor:
        if step % self.options.every == 0:
            self.p, self._chances = self.probabilities(step), None
        self._generator = self.setup.draws(step)
        return torch.bernoulli(self.chances(), generator=self._generator)

    def probabilities(self, step: int) -> Tensor:
        """p [n] at this step, before its floor."""
        beta = fall(1.0, self.options.beta, step / max(1, self.setup.steps - 1))
        logs = [self._rescaled(log_b) for log_b in importance(self.setup).log().split(self.sizes)]
        shares = zip(logs, self.keep_ratios(), strict=True)
        return torch.cat([keep_probabilities(log_b, share, beta) for log_b, share in shares])

    def _rescaled(self, log_b: Tensor) -> Tensor:
        if not self.options.spread:
            return log_b
        some = log_b[:: max(1, len(log_b) // MANY)]  # the median of millions takes seconds
        log_b = log_b.clamp(min=float(some.median()) - FLOOR)
        return (log_b - log_b.mean()) * (self.options.spread / log_b.std(correction=0).clamp(min=1e-6))

    def chances(self) -> Tensor:
        """p [n] with its floor, a share of its group's alpha: the chance with which a unit is drawn."""
        if self._chances is None:
            parts = zip(self.p.split(self.sizes), (self.options.floor * self.keep_ratios()).tolist(), strict=True)
            self._chances = torch.cat([part.clamp(min=floor) for part, floor in parts])
        return self._chances

    def optimizer(self, lr: float) -> torch.optim.Optimizer | None:
        return self._adam  # finds no gradient on theta beside the weights; `update` makes theta's own steps

    def update(self, step: int) -> None:
        number, rest = divmod(step + 1, self.options.every)
        last = step + 1 == self.setup.steps
        if not rest:
            self._theta_step(number - 1, step)
        if rest and not last:
            return
        final = self.allocation.sparsity
        sparsity = cubic(final, (step + 1) / self.setup.steps, self.options.ramp)
        with torch.no_grad():
            self.z = nearest_within(self.theta + self.u, self.cost, self.allocation.target(sparsity))
            if last:
                self.theta.copy_(self.z)
                return
            self.theta.lerp_(self.z - self.u, self.options.pull)
            if number % self.dual_every == 0 and sparsity == final:  # a multiplier is of one budget
                self.u = self.u + self.theta - self.z

    def _theta_step(self, number: int, step: int) -> None:
        """Step `number` of theta, after this step of the weights; neither weights nor running statistics change."""
        held_out, seed = self.setup.examples, self.setup.generator.initial_seed()
        if held_out is None:
            raise ValueError("dsa needs held-out batches, and the setup has none")
        if self._next != number:
            self._batches = endless(held_out, self.batch_size, seed, number)
        (images, labels), self._next = next(self._batches), number + 1
        before = [buffer.clone() for buffer in self.setup.model.buffers()]
        alpha = self.keep_ratios().requires_grad_()
        parts = zip(alpha, self.p.split(self.sizes), strict=True)
        mask = draw(torch.cat([moved_by(share, part) for share, part in parts]), self.chances(), self._generator)
        loss = self.setup.loss(self.setup.logits(mask, images), labels)
        (slope,) = torch.autograd.grad(loss, alpha)
        average([slope])  # where several processes work on a run, theirs may differ in the last bit
        cost_slope = torch.autograd.functional.jacobian(self.cost, alpha.detach().double().cpu())
        with torch.no_grad():
            for buffer, saved in zip(self.setup.model.buffers(), before, strict=True):
                buffer.copy_(saved)
            self.theta.grad = along_budget(slope.double().cpu(), alpha.double().cpu(), cost_slope).to(slope)
        self._adam.param_groups[0]["lr"] = 2 * (1 - step / self.setup.steps) * self.rate  # `rate` on average
        self._adam.step()
        self.theta.grad = None

    def scores(self) -> Tensor:
        """alpha - (rank + 1/2) / C: at 0 lies what keeps the best round(alpha C) of every group."""
        parts = []
        for log_b, alpha in zip(importance(self.setup).split(self.sizes), self.keep_ratios(), strict=True):
            rank = torch.empty_like(log_b)
            rank[log_b.argsort(descending=True, stable=True)] = torch.arange(len(log_b), device=rank.device).to(rank)
            parts.append(alpha - (rank + 0.5) / len(log_b))
        return torch.cat(parts)

    def keep_ratios(self) -> Tensor:
        return torch.sigmoid(self.theta.detach())
