"""What every method is: a score for each unit, and a mask for each training step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pruner.data import ImageSet
from pruner.runtime.device import autocast
from pruner.sparsity.allocation import Allocation
from pruner.sparsity.masked import MaskedModel
from pruner.sparsity.units.make import Units


@dataclass(frozen=True)
class Setup:
    """What a method is given: the dense model, the units and their budget, and the length of its phase in steps.

    A method draws its random numbers from `generator` (on the CPU), which depends on the run's seed alone. `images`
    are those that train the weights; `held_out` are those that the method asked to keep from that. `batch_size`
    is that of the weights' steps; `precision` and `bits` (of quantised weights, 0: not) are those of forward passes.
    """

    model: nn.Module
    allocation: Allocation
    steps: int
    generator: torch.Generator
    images: ImageSet | None = None
    held_out: ImageSet | None = None
    batch_size: int = 128
    precision: str = "float32"
    bits: int = 0

    @property
    def units(self) -> Units:
        """The units that masks [n] are over."""
        return self.allocation.units

    def magnitudes(self) -> Tensor:
        """Per unit [n], the magnitude of the model's weights as they are now (see `Units.magnitudes`).

        Differentiable in the weights; a method that must not train them through it detaches.
        """
        return self.units.magnitudes(dict(self.model.named_parameters()))

    def logits(self, mask: Tensor, images: Tensor) -> Tensor:
        """The model's answer [batch, classes], float32, to images under a mask [n], computed as the run computes.

        Differentiable in the mask and the weights; the model is in the mode (training or not) that it is in.
        """
        network = MaskedModel(self.model, self.units, self.bits)
        network.gate(mask)
        with autocast(images.device, self.precision):
            return network(images).float()


class Method(nn.Module, ABC):
    """A pruning method. Subclass it, implement `mask` and `scores`, and name the class in a YAML file.

    Keyword arguments of the constructor are the keys of the YAML file; their annotations are checked. Trainable
    tensors that are assigned as `nn.Parameter` are trained beside the weights (see `optimizer`); tensors
    registered as buffers are part of checkpoints. The dense model stays in `setup`: as an attribute of the method
    its weights would be taken for the method's own.

    The constructor is called once more before any work, on the untrained model, to check the options: what takes
    long belongs in `begin`.
    """

    held_out = 0.0  # share of the training set that the method wants as `setup.held_out`, kept from the weights

    def __init__(self, setup: Setup):
        super().__init__()
        self.setup = setup

    @property
    def allocation(self) -> Allocation:
        """The door to `soft` and `hard`, the two projections onto the budget."""
        return self.setup.allocation

    def begin(self) -> None:
        """Called once, with the trained dense model, before the first step; not when a run goes on."""

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

    def shown(self) -> Tensor | None:
        """A 0/1 tensor [n] of the units that this step's forward pass shows; None: all that the mask lets through.

        The backward pass runs as if all were shown, so that weights that are hidden for now are trained on.
        """
        return None

    def resets_momentum(self, step: int) -> bool:
        """Whether the weights' optimizer drops its momentum before this step; asked after `mask`."""
        return False

    def optimizer(self, lr: float) -> torch.optim.Optimizer | None:
        """The optimizer of the method's own parameters, given the weights' peak rate; None when it has none.

        It makes one step with each step of the weights, for the parameters that got a gradient. Its rate is its own:
        the weights' schedule leaves it alone.
        """
        own = list(self.parameters())
        return torch.optim.SGD(own, lr=lr, momentum=0.9, fused=True) if own else None

    def penalty(self) -> Tensor | float:
        """A term added to the loss."""
        return 0.0

    def update(self, step: int) -> None:
        """Called after the optimizer's step."""

    def keep_ratios(self) -> Tensor:
        """The share [groups] of each group's units that the method would keep now; logged every epoch."""
        mask = self.final_mask().detach()
        return torch.stack([mask[group.start : group.stop].mean() for group in self.setup.units.groups])

    def measures(self) -> dict[str, dict[str, float]]:
        """By layer name, the columns of layers.csv that the method fills, such as `confidence`."""
        return {}
