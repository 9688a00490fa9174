"""DPP: dynamic probabilistic pruning, k-out-of-n sampling that is trained end to end.

Gonzalez-Carabarin, Huijben, Veeling, Schmid, van Sloun, arXiv 2105.12686; IEEE TNNLS, DOI 10.1109/TNNLS.2022.3176809.
The equations are those of the first author's published layers and of the sampler that they inherit. For one row of n
candidates of which k stay, at every training step

    z = phi + sigma Gumbel(0, 1)              phi: trainable logits; a fresh draw every mini-batch           [known]
    M = the k largest of z                    k draws without replacement from softmax(phi) when sigma = 1   [known]
    S = sum_{r=1..k} softmax(z_r / T)         z_r: z without its r - 1 largest; by falling z; S sums to k    [known]
    A = stopgrad(M - S) + S                   hard forward, soft backward; the network sees A w              [known]
    loss + lambda sum over rows H(softmax(phi))                                                              [known]

T falls linearly from 5 to 0.5 [known as coded]. After training the k largest phi stay, without noise [known for one
released model]. sigma is 1 in theory, 0.001 to 1 in released code [known]. lambda is 5e-3 for fully connected layers
and feature maps, 5e-5 for weights of convolutions, 1e-5 for kernels [known].

[chosen]: rows are what the scope says: with scope=global the whole network is one row. S of a row that keeps more than
`softmaxes` units is the soft mask of z at temperature T, which sums to k as well; so it is where the budget is no count
of units. The paper's phi starts at random [known], as its networks do; ours are trained before they are pruned, and
phi = log|w|, rescaled to a standard deviation of `spread`, makes a unit's chances a power of |w|: a random start
throws the dense network away, and one power for all granularities leaves filters, whose log|w| lie within a sixth of
each other, to chance. The noise falls to 0, because weights that have only seen noisy masks do badly under the fixed
one, and starts at 0.03: the search for weights found little noise best, and none nearly as good
(outputs/tables/tune-weight.csv); for blocks it starts at 0.3, which was hardly better (outputs/tables/tune-block.csv).
One lambda, the smallest, for all layers: the sum over rows grows with the network. phi is trained by Adam; the budget
comes down along a cubic.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pruner.methods.base import Method, Setup
from pruner.methods.options import DPPOptions
from pruner.methods.schedules import cubic, fall


def successive_softmax(z: Tensor, k: int, temperature: float) -> Tensor:
    """S [rows, n] of scores z [rows, n]: k softmaxes, each without the largest taken before it; rows sum to k.

    With D_r the sum of exp(z / T) over what is left at the r-th softmax, the j-th largest has
    S = exp(z / T) sum_{r <= min(j, k)} 1 / D_r [derived]: linear time and memory, in logarithms for small T.
    With k = n, where nothing is left to choose, it is all ones.
    """
    n = z.shape[1]
    if not 0 < k < n:
        return torch.full_like(z, float(k > 0))
    logits = z / temperature
    logits = logits - logits.detach().amax(1, keepdim=True)
    top, indices = logits.topk(k, dim=1)  # by falling score, not by index
    rest = logits.scatter(1, indices, -torch.inf).logsumexp(1, keepdim=True)
    left = torch.cat([rest, top.flip(1)], 1).logcumsumexp(1)[:, 1:].flip(1)  # log D_r
    shares = (-left).logcumsumexp(1)
    return (logits + shares[:, -1:].expand_as(z).scatter(1, indices, shares)).exp()


def entropy(logits: Tensor) -> Tensor:
    """H(softmax(row)) of each row of logits [rows, n], in nats: [rows]."""
    logs = logits.log_softmax(1)
    return -(logs.exp() * logs).sum(1)


def confidence(logits: Tensor, k: float) -> float:
    """How decided rows of logits [rows, n] are, of which k stay: from 0, when all are alike, to 1. Our reading.

    1 - (mean H - log k) / (log n - log k), clipped to [0, 1]; k is brought into [1, n - 1]; 1 if n is 1. The paper's
    exact formula was not read.
    """
    n = logits.shape[1]
    if n == 1:
        return 1.0
    k = min(max(k, 1), n - 1)
    undecided = (float(entropy(logits).mean()) - math.log(k)) / (math.log(n) - math.log(k))
    return min(1.0, max(0.0, 1 - undecided))


def diversity(logits: Tensor) -> float:
    """How differently rows of logits [rows, n] choose: from 0, all alike, to log min(rows, n). Our reading.

    The generalised Jensen-Shannon divergence H(mean p) - mean H(p) of p = softmax(row), in nats; the paper's exact
    formula was not read.
    """
    together = logits.softmax(1).mean(0, keepdim=True).clamp(min=1e-30).log()
    return max(0.0, float(entropy(together) - entropy(logits).mean()))  # rounding may fall below


class DPP(Method):
    """Hard masks drawn by trainable logits. For its options see `DPPOptions`."""

    Options = DPPOptions
    options: DPPOptions

    def __init__(self, setup: Setup, options: DPPOptions | None = None):
        super().__init__(setup, options)
        self.phi = nn.Parameter(setup.zeros())

    @torch.no_grad()
    def begin(self) -> None:
        start = self._magnitudes() if self.options.init == "magnitude" else self._noise()
        self.phi.copy_(self.options.spread * start)

    def _magnitudes(self) -> Tensor:
        """The units' log-magnitudes [n], standardised, with a floor that lets even a zero come back."""
        magnitudes = self.setup.magnitudes()
        logs = (magnitudes / magnitudes.mean().clamp(min=1e-30)).clamp(min=1e-3).log()
        return (logs - logs.mean()) / logs.std(correction=0).clamp(min=1e-6)

    def _noise(self) -> Tensor:
        """A normal draw [n] that depends on the run's seed alone."""
        return torch.randn(self.setup.units.n, generator=self.setup.generator).to(self.setup.units.device)

    def mask(self, step: int) -> Tensor:
        progress = step / max(self.setup.steps - 1, 1)
        sparsity = cubic(self.allocation.sparsity, step / self.setup.steps, self.options.ramp)
        z = self.draw(progress, self.setup.draws(step))
        temperature = fall(self.options.temperature, self.options.temperature_end, progress, "linear")
        soft = self._soft(z, temperature, sparsity)
        return self.allocation.hard(z, sparsity) + (soft - soft.detach())  # 0 and 1 to the last bit, unlike M - S + S

    def draw(self, progress: float, generator: torch.Generator) -> Tensor:
        """The logits [n] with fresh noise, at `progress` in [0, 1] of the phase."""
        gumbel = -torch.empty_like(self.phi).exponential_(generator=generator).log()
        return self.phi + fall(self.options.sigma, self.options.sigma_end, progress, "linear") * gumbel

    def _soft(self, z: Tensor, temperature: float, sparsity: float) -> Tensor:
        """S [n]: what the gradient sees of the draw z [n]."""
        kept = self.allocation.kept(sparsity)
        if kept is None or min(kept) > self.options.softmaxes:
            return self.allocation.soft(z, temperature, sparsity)
        drawn = soft = self.allocation.split(z)
        if max(kept) > self.options.softmaxes:
            soft = self.allocation.split(self.allocation.soft(z, temperature, sparsity))
        parts = [
            successive_softmax(rows, k, temperature) if k <= self.options.softmaxes else relaxed
            for rows, relaxed, k in zip(drawn, soft, kept, strict=True)
        ]
        return self.allocation.join(parts)

    def penalty(self) -> Tensor | float:
        if self.options.entropy == 0:
            return 0.0
        return (
            self.options.entropy * torch.stack([entropy(rows).sum() for rows in self.allocation.split(self.phi)]).sum()
        )

    def optimizer(self, lr: float) -> torch.optim.Optimizer | None:
        return torch.optim.Adam([self.phi], lr=self.options.score_lr, fused=True)

    def scores(self) -> Tensor:
        return self.phi.detach()

    @torch.no_grad()
    def measures(self) -> dict[str, dict[str, float]]:
        """Confidence and diversity (our reading, see the functions) of each layer's logits, a row per output."""
        units, hard, measures = self.setup.units, self.final_mask(), {}
        for layer in units.layers:
            if layer.prunable and units.layer_mask(layer, hard).numel():  # nothing is chosen where all outputs stay
                # Rows are those that compete in fixed patterns; a rest that the pattern does not divide is left out.
                rows = [units.index_rows(layer, values) or [units.rows(layer, values)] for values in (self.phi, hard)]
                (logits, *_), (kept_rows, *_) = rows
                kept = float(kept_rows.sum(1).mean())
                measures[layer.name] = {"confidence": confidence(logits, kept), "diversity": diversity(logits)}
        return measures
