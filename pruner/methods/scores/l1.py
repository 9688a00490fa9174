"""L1: a filter's score is the sum of |w| over its weights.

Li, Kadav, Durdanovic, Samet, Graf, "Pruning filters for efficient ConvNets", ICLR 2017, arXiv 1608.08710.

    score of a filter = sum |w|; the smallest of each layer are dropped       [known]

Any other unit is scored alike [chosen]. So that layers compare, it is the mean of |w| over the unit, each in units of
its layer's mean, just as `Units.magnitudes` does with squares [chosen]: within a layer that is the paper's order.
Single weights keep their scale there and here, which makes this magnitude pruning.
"""

from __future__ import annotations

from torch import Tensor

from pruner.methods.base import Setup


class L1:
    """The mean of |w| over a unit, in units of its layer's."""

    def __call__(self, setup: Setup) -> Tensor:
        """Per unit [n], the score in the model as it is now."""
        # `magnitudes` is the root of a mean of squares: of the roots of |w| that is the root of the mean of |w|.
        roots = {name: parameter.detach().abs().sqrt() for name, parameter in setup.model.named_parameters()}
        return setup.units.magnitudes(roots).square()
