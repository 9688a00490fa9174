"""A live model under masks: its parameters are multiplied in the forward pass, and never changed behind its back."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from pruner.quantize import fake_quantize
from pruner.sparsity.units.base import Units
from pruner.sparsity.units.calling import call_with

log = logging.getLogger(__name__)


class MaskedModel(nn.Module):
    """Runs `model` with each masked parameter multiplied by its gate.

    Masking in the forward pass, and not only in the gradient, keeps pruned weights at zero whatever momentum and
    weight decay do. The model's own parameters stay plain parameters, so saving and counting need no unwrapping.
    """

    def __init__(self, model: nn.Module, units: Units, bits: int = 0, compiled: bool = False):
        """`bits`: the forward pass quantises the prunable weights to so many (see `pruner.quantize`); 0: not at all.

        `compiled`: training runs what torch.compile makes of the model, or the model itself where that fails.
        """
        super().__init__()
        self._compiled = torch.compile(self._run) if compiled else None
        self.model = model
        self.units = units
        self._bits = {layer.weight: bits for layer in units.layers if layer.prunable and bits}
        self._mask: Tensor = torch.ones(units.n)
        self._seen: Tensor | None = None
        self._gates: dict[str, Tensor] = {}
        self._hiding: dict[str, Tensor] = {}

    @property
    def mask(self) -> Tensor:
        """The last mask [n] applied, without gradients; 0 for what is hidden."""
        return self._mask if self._seen is None else self._mask * self._seen

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        masked = self._masked()
        if self._compiled and self.training:  # evaluation has batches of other sizes, each to be compiled anew
            try:
                return self._compiled(masked, *inputs, **keywords)
            except RuntimeError as error:  # no compiler here, or none for this; what else was wrong will be so again
                log.warning("compile: goes on without (%s: %s)", type(error).__name__, str(error).partition("\n")[0])
                self._compiled = None
        return self._run(masked, *inputs, **keywords)

    def _run(self, masked: dict[str, Tensor], *inputs: Any, **keywords: Any) -> Any:
        return call_with(self.model, masked, inputs, keywords)

    def _masked(self) -> dict[str, Tensor]:
        """What the forward pass uses in the place of parameters."""
        parameters = dict(self.model.named_parameters())
        names = self._gates.keys() | self._bits.keys()
        masked = {
            name: fake_quantize(parameter, self._gates.get(name), self._bits.get(name, 0))
            for name, parameter in parameters.items()
            if name in names
        }
        for name, visible in self._hiding.items():
            masked[name] = _Hidden.apply(masked[name], visible)
        return masked

    def gate(self, mask: Tensor, visible: Tensor | None = None) -> None:
        """From now on the forward pass applies the mask [n], which may carry gradients to scores.

        Units where the 0/1 tensor `visible` [n] is 0 are zero in the forward pass; gradients flow as if they were not.
        """
        self._mask, self._seen = mask.detach(), visible
        self._gates = self.units.gates(mask)
        self._hiding = {} if visible is None else self.units.gates(visible)

    def let_go(self) -> None:
        """Keeps the mask, and lets go of what it was computed from: of a backward pass that is over."""
        self._gates = {name: gate.detach() for name, gate in self._gates.items()}

    @torch.no_grad()
    def harden(self, hard: Tensor, soft: Tensor) -> None:
        """Fixes the 0/1 mask `hard` [n], and folds `soft` [n] into the parameters of the units that stay.

        Folding (w <- w m) rather than rounding m up to 1 avoids a jump where a unit is not decided yet.
        """
        parameters = dict(self.model.named_parameters())
        for name, gate in self.units.gates(hard * soft).items():
            parameters[name].mul_(gate)
        self.fix(hard)
        self.clear()

    def fix(self, hard: Tensor) -> None:
        """From now on the forward pass sees exact zeros wherever the 0/1 mask `hard` [n] leaves nothing."""
        self._mask, self._seen = hard, None
        self._hiding = {}
        self._gates = {name: zero for name, zero in self.units.zeros(hard).items() if not bool(zero.all())}

    @torch.no_grad()
    def clear(self) -> None:
        """Writes the zeros of the fixed mask into the parameters, which training may have moved underneath."""
        parameters = dict(self.model.named_parameters())
        for name, zero in self._gates.items():
            parameters[name].mul_(zero)

    @torch.no_grad()
    def bake(self) -> None:
        """Writes what the forward pass sees, zeros and quantised weights, into the parameters."""
        parameters = dict(self.model.named_parameters())
        for name, value in self._masked().items():
            parameters[name].copy_(value)


class _Hidden(torch.autograd.Function):
    """weight * visible, whose gradient is that of the weight alone."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, visible: Tensor) -> Tensor:
        return weight * visible

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None
