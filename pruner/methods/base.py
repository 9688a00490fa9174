"""What every method is: a score for each unit, and a mask for each training step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruner.methods import options
from pruner.methods.examples import Examples, Shuffled
from pruner.runtime.device import autocast
from pruner.runtime.seeds import derive
from pruner.sparsity.allocation import Allocation
from pruner.sparsity.masked import MaskedModel
from pruner.sparsity.units.base import Units

Loss = Callable[[Any, Any], Tensor]  # of the network's answer and the targets: a mean over the examples


@dataclass(frozen=True)
class Setup:
    """What a method is given: the model, the units and their budget, and the length of its phase in steps.

    `generator` (on the CPU) depends on the run's seed alone; what is drawn in a step comes from `draws`. `examples` are
    those that train the weights, or those that the method asked to keep from that (`held_out`). `shape` is that of one
    of them; `loss` compares answers with targets. `batch_size` is that of the weights' steps; `precision` and `bits`
    (of quantised weights, 0: not) are those of forward passes.
    """

    model: nn.Module
    allocation: Allocation
    steps: int
    generator: torch.Generator
    examples: Examples | Shuffled | None = None
    shape: tuple[int, ...] = ()
    loss: Loss = F.cross_entropy
    batch_size: int = 128
    precision: str = "float32"
    bits: int = 0

    @property
    def units(self) -> Units:
        """The units that masks [n] are over."""
        return self.allocation.units

    def zeros(self) -> Tensor:
        """Zeros [n] on the units' device, of the weights' type: what trainable scores are allocated as."""
        weight = self.model.get_parameter(next(layer.weight for layer in self.units.layers if layer.prunable))
        return torch.zeros(self.units.n, dtype=weight.dtype, device=self.units.device)

    def magnitudes(self) -> Tensor:
        """Per unit [n], the magnitude of the model's weights as they are now (see `Units.magnitudes`).

        Differentiable in the weights; a method that must not train them through it detaches.
        """
        return self.units.magnitudes(dict(self.model.named_parameters()))

    def draws(self, step: int) -> torch.Generator:
        """A generator on the units' device for what is random in a step: the same whatever happened before it.

        So all processes of a run draw the same masks, and a run that goes on draws what it would have drawn.
        """
        seed = derive(self.generator.initial_seed(), "step", step)
        return torch.Generator(self.units.device).manual_seed(seed)

    def logits(self, mask: Tensor, images: Tensor) -> Tensor:
        """The model's answer [batch, classes], float32, to images under a mask [n], computed as the run computes.

        Differentiable in the mask and the weights; the model is in the mode (training or not) that it is in.
        """
        network = MaskedModel(self.model, self.units, self.bits)
        network.gate(mask)
        with autocast(images.device, self.precision):
            answer: Tensor = network(images)
            return answer.float()


class Method(nn.Module, ABC):
    """A pruning method. Subclass it, implement `mask` and `scores`, and name the class in a YAML file.

    `Options` is a frozen dataclass, whose fields are the keys of the YAML file and which checks itself (see
    `pruner.methods.options`); the constructor finds its instance in `self.options`. Trainable tensors that are
    assigned as `nn.Parameter` are trained beside the weights (see `optimizer`); tensors registered as buffers are part
    of checkpoints. The model stays in `setup`: as an attribute of the method its weights would be taken for the
    method's own.

    The constructor makes tensors and reads no weights: it runs before any work, on a model that may be untrained, and
    again where a run goes on. `begin` reads them.
    """

    Options: ClassVar[type[options.Options]] = options.Options
    held_out: ClassVar[float] = 0.0  # share of the training set that it wants kept from the weights, in `setup`

    def __init__(self, setup: Setup, options: Any = None):
        """`options` is an instance of `Options`; None: its defaults."""
        super().__init__()
        self.setup = setup
        self.options: Any = self.Options() if options is None else options

    @property
    def allocation(self) -> Allocation:
        """The door to `soft` and `hard`, the two projections onto the budget."""
        return self.setup.allocation

    def begin(self) -> None:
        """Called once, before the first step, when the model is trained; not when a run goes on. Reads the weights."""

    @abstractmethod
    def mask(self, step: int) -> Tensor:
        """The mask [n] in [0, 1] for the forward pass of this step (0 <= step < setup.steps).

        Called before a forward pass, of which a step has several where gradients are accumulated; gradients of the
        loss flow back through it.
        """

    @abstractmethod
    def scores(self) -> Tensor:
        """The final scores [n]: hardening keeps the best units that the budget allows."""

    def final_mask(self) -> Tensor:
        """The soft mask [n] that the network ends the phase with; it is folded into the weights that stay."""
        return self.allocation.hard(self.scores())

    def visible(self) -> Tensor | None:
        """A 0/1 tensor [n] of the units that this step's forward pass shows; None: all that the mask lets through.

        The backward pass runs as if all were visible, so that weights that are hidden for now are trained on.
        """
        return None

    def resets_momentum(self, step: int) -> bool:
        """Whether the weights' optimizer drops its momentum before this step; asked right before it."""
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
