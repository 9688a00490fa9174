"""What every method is: a score for each unit, and a mask for each training step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pruner.data import ImageSet
from pruner.sparsity.allocation import Allocation
from pruner.sparsity.units import Units


@dataclass(frozen=True)
class Setup:
    """What a method is given: the dense model, the units and their budget, and the length of its phase in steps.

    A method draws its random numbers from `generator` (on the CPU), which depends on the run's seed alone.
    `held_out` holds the images that it asked to keep from the weights' training.
    """

    model: nn.Module
    allocation: Allocation
    steps: int
    generator: torch.Generator
    held_out: ImageSet | None = None

    @property
    def units(self) -> Units:
        """The units that masks [n] are over."""
        return self.allocation.units

    def magnitudes(self) -> Tensor:
        """Per unit [n], the magnitude of the model's weights as they are now (see `Units.magnitudes`)."""
        return self.units.magnitudes(dict(self.model.named_parameters()))


class Method(nn.Module, ABC):
    """A pruning method. Subclass it, implement `mask` and `scores`, and name the class in a YAML file.

    Keyword arguments of the constructor are the keys of the YAML file; their annotations are checked. Trainable
    tensors that are assigned as `nn.Parameter` are trained beside the weights (see `optimizer`); tensors
    registered as buffers are part of checkpoints. The dense model stays in `setup`: as an attribute of the method
    its weights would be taken for the method's own.
    """

    held_out = 0.0  # share of the training set that the method wants as `setup.held_out`, kept from the weights

    def __init__(self, setup: Setup):
        super().__init__()
        self.setup = setup

    @property
    def allocation(self) -> Allocation:
        """The door to `soft` and `hard`, the two projections onto the budget."""
        return self.setup.allocation

    @abstractmethod
    def mask(self, step: int) -> Tensor:
        """The mask [n] in [0, 1] for the forward pass of this step (0 <= step < setup.steps).

        Called once a step, before the forward pass; gradients of the loss flow back through it.
        """

    @abstractmethod
    def scores(self) -> Tensor:
        """The final scores [n]: hardening keeps the best units that the budget allows."""

    def final_mask(self) -> Tensor:
        """The soft mask [n] that the network ends the phase with; it is folded into the weights that stay."""
        return self.allocation.hard(self.scores())

    def optimizer(self, lr: float) -> torch.optim.Optimizer | None:
        """The optimizer of the method's own parameters, given the weights' peak rate; None when it has none.

        It makes one step with each step of the weights. Its rate is its own: the weights' schedule leaves it alone.
        """
        own = list(self.parameters())
        return torch.optim.SGD(own, lr=lr, momentum=0.9) if own else None

    def penalty(self) -> Tensor | float:
        """A term added to the loss."""
        return 0.0

    def update(self, step: int) -> None:
        """Called after the optimizer's step."""


class OneShot(Method):
    """One hard mask for the whole phase, made before it begins, from whatever scores [n] rank the units."""

    def __init__(self, setup: Setup, ranking: Tensor):
        super().__init__(setup)
        self.register_buffer("ranking", ranking)
        self.register_buffer("fixed", self.allocation.hard(ranking))

    ranking: Tensor
    fixed: Tensor

    def mask(self, step: int) -> Tensor:
        return self.fixed

    def scores(self) -> Tensor:
        return self.ranking
