"""AC/DC: compressed and decompressed training in turn, with hard masks.

Peste, Iofinova, Vladu, Alistarh, "AC/DC: Alternating Compressed/DeCompressed Training of Deep Neural Networks",
NeurIPS 2021, arXiv 2106.12379.

    dense and sparse stages in turn, ending sparse                                              [known]
    each compression keeps the largest |w| under one threshold for the whole network            [known]
    each decompression brings the pruned weights back as zeros, and momentum is cleared         [known]
    ResNet-50, 100 epochs: dense to 10, then 5 sparse and 5 dense in turn, dense from 75 to 85, sparse to 100 [known]

[chosen]: the schedule in shares of the phase, after the program's own dense phase. The scope decides who competes
(scope=global is the paper's). What is zeroed at decompression is what the mask gates: for filters gamma and beta of
the batch norm, not the filter as well, since a unit that is zero on two sides gets no gradient. Those are left at
2^-50 of what they were, with their sign (see `FilterUnits`), not at 0, where the ReLU behind would pass no gradient and
no filter would come back. For units larger than a weight |w| stands for `Units.magnitudes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pruner.checks import require
from pruner.methods import scores
from pruner.methods.base import Method, Setup
from pruner.methods.schedules import alternating


class ACDC(Method):
    """Hard masks that come and go.

    In shares of the phase: warmup, dense at first; period, of one sparse and one dense stage of equal length;
    last_dense and last_sparse, where the last dense and the last sparse stage begin. 0 <= warmup <= last_dense <=
    last_sparse < 1, period above 0. score: what a unit is worth (see `pruner.methods.scores`); the paper's: magnitude.
    """

    def __init__(
        self,
        setup: Setup,
        warmup: float = 0.1,
        period: float = 0.1,
        last_dense: float = 0.75,
        last_sparse: float = 0.85,
        score: str | Mapping[str, Any] = "magnitude",
    ):
        require(warmup >= 0, "method.warmup", warmup, "0 or more")
        require(period > 0, "method.period", period, "above 0")
        require(last_dense >= warmup, "method.last_dense", last_dense, f"method.warmup={warmup} or more")
        allowed = f"method.last_dense={last_dense} or more, and below 1"
        require(last_dense <= last_sparse < 1, "method.last_sparse", last_sparse, allowed)
        super().__init__(setup)
        self.warmup, self.period, self.last_dense, self.last_sparse = warmup, period, last_dense, last_sparse
        self.score = scores.create(score, setup)
        # The scores at the latest compression, and the mask made of them.
        self.register_buffer("ranking", torch.zeros(setup.units.n, device=setup.units.device))
        self.register_buffer("kept", torch.ones_like(self.ranking))

    ranking: Tensor
    kept: Tensor

    def begin(self) -> None:
        self._compress()  # what a phase of no steps ends with

    def mask(self, step: int) -> Tensor:
        before, now = self._stage(step - 1), self._stage(step)
        if self.resets_momentum(step):
            self._decompress()
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
        return alternating(progress, self.warmup, self.period, self.last_dense, self.last_sparse)

    def _compress(self) -> None:
        self.ranking = self.score()
        self.kept = self.allocation.hard(self.ranking)

    @torch.no_grad()
    def _decompress(self) -> None:
        """Writes what the mask left of the weights that it hid: momentum and weight decay may have moved them."""
        parameters = dict(self.setup.model.named_parameters())
        for name, gate in self.setup.units.gates(self.kept).items():
            parameters[name].mul_(gate)
