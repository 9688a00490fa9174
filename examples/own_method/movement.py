"""Movement pruning (Sanh, Wolf and Rush 2020, arXiv 2005.07683): keep what the loss moves away from zero."""

import torch
from torch import Tensor, nn

from pruner.checks import require
from pruner.methods.base import Method, Setup
from pruner.methods.schedules import cubic


class Movement(Method):
    """Hard masks by learned scores, which get the mask's gradient as if they were the mask."""

    def __init__(self, setup: Setup, ramp: float = 0.5):
        require(0 <= ramp <= 1, "method.ramp", ramp, "from 0 to 1")
        super().__init__(setup)
        self.ramp = ramp
        self.learned = nn.Parameter(torch.zeros_like(setup.magnitudes()))  # trained beside the weights

    def mask(self, step: int) -> Tensor:
        sparsity = cubic(self.allocation.sparsity, step / self.setup.steps, self.ramp)
        return self.allocation.hard(self.learned, sparsity) + (self.learned - self.learned.detach())

    def scores(self) -> Tensor:
        return self.learned.detach()
