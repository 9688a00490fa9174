"""AC/DC: compressed and decompressed training in turn, with hard masks.

Peste, Iofinova, Vladu, Alistarh, "AC/DC: Alternating Compressed/DeCompressed Training of Deep Neural Networks",
NeurIPS 2021, arXiv 2106.12379.

    dense and sparse stages in turn, ending sparse                                              [known]
    each compression keeps the largest |w| under one threshold for the whole network            [known]
    each decompression brings the pruned weights back as zeros, and momentum is cleared         [known]
    ResNet-50, 100 epochs: dense to 10, then 5 sparse and 5 dense in turn, dense from 75 to 85, sparse to 100 [known]

[chosen]: the schedule in shares of the phase, after the program's own dense phase. The scope says which units compete
(scope=global is the paper's). What is zeroed at decompression is what the mask gates: for filters gamma and beta of
the batch norm, not the filter as well, since a unit that is zero on two sides gets no gradient. Those are left at
2^-50 of what they were, with their sign (see `FilterUnits`), not at 0, where the ReLU behind would pass no gradient and
no filter would come back. For units larger than a weight |w| stands for `Units.magnitudes`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pruner.methods import scores
from pruner.methods.base import Method, Setup
from pruner.methods.options import ACDCOptions
from pruner.methods.schedules import alternating


class ACDC(Method):
    """Hard masks that come and go. For its options see `ACDCOptions`."""

    Options = ACDCOptions
    options: ACDCOptions

    def __init__(self, setup: Setup, options: ACDCOptions | None = None):
        super().__init__(setup, options)
        self.score = scores.create(self.options.score, setup)
        # The scores at the latest compression, and the mask made of them.
        self.register_buffer("ranking", torch.zeros(setup.units.n, device=setup.units.device))
        self.register_buffer("kept", torch.ones_like(self.ranking))
        self._decompressed = -1  # the latest step that did so

    ranking: Tensor
    kept: Tensor

    def begin(self) -> None:
        self._compress()  # what a phase of no steps ends with

    def mask(self, step: int) -> Tensor:
        before, now = self._stage(step - 1), self._stage(step)
        if self.resets_momentum(step) and self._decompressed != step:  # a step may have several forward passes
            self._decompress()
            self._decompressed = step
        if now is None:
            return torch.ones_like(self.kept)
        if now != before:
            self._compress()
        return self.kept

    def resets_momentum(self, step: int) -> bool:
        before = self._stage(step - 1)
        return before is not None and before != self._stage(step)

    def scores(self) -> Tensor:
        return self.ranking

    def _stage(self, step: int) -> int | None:
        """Which sparse stage a step is in; None for dense. The last step is sparse however short the phase."""
        if step < 0:
            return None
        progress = 1.0 if step == self.setup.steps - 1 else step / self.setup.steps
        options = self.options
        return alternating(progress, options.warmup, options.period, options.last_dense, options.last_sparse)

    def _compress(self) -> None:
        self.ranking = self.score()
        self.kept = self.allocation.hard(self.ranking)

    @torch.no_grad()
    def _decompress(self) -> None:
        """Writes what the mask left of the weights that it hid: momentum and weight decay may have moved them."""
        parameters = dict(self.setup.model.named_parameters())
        for name, gate in self.setup.units.gates(self.kept).items():
            parameters[name].mul_(gate)
