"""Movement pruning (Sanh, Wolf and Rush 2020, arXiv 2005.07683): keep what the loss moves away from zero."""

from dataclasses import dataclass

from torch import Tensor, nn

from pruner.methods.base import Method, Setup
from pruner.methods.options import Options
from pruner.methods.schedules import cubic


@dataclass(frozen=True)
class MovementOptions(Options):
    """ramp: share of the phase over which the budget comes down."""

    ramp: float = 0.5

    def __post_init__(self) -> None:
        self.check_shares("ramp")


class Movement(Method):
    """Hard masks by learned scores, which get the mask's gradient as if they were the mask."""

    Options = MovementOptions
    options: MovementOptions

    def __init__(self, setup: Setup, options: MovementOptions | None = None):
        super().__init__(setup, options)
        self.learned = nn.Parameter(setup.zeros())  # trained beside the weights

    def mask(self, step: int) -> Tensor:
        sparsity = cubic(self.allocation.sparsity, step / self.setup.steps, self.options.ramp)
        return self.allocation.hard(self.learned, sparsity) + (self.learned - self.learned.detach())

    def scores(self) -> Tensor:
        return self.learned.detach()
