"""SynFlow: a unit's score is the flow through it, measured anew a hundred times on the way to the budget.

Tanaka, Kunin, Yamins, Ganguli, "Pruning neural networks without any data by iteratively conserving synaptic flow",
NeurIPS 2020, arXiv 2006.05467.

    R = sum of the outputs for an input of ones, with all weights replaced by their absolute value      [known]
    score_j = |w_j dR/dw_j|; with a gate c_j on every unit, |c_j dR/dc_j|                               [known]
    n = 100 rounds; round e keeps the share rho^(e/n), rho being the share to keep in the end           [known]

Without biases the scores of every layer that all of the flow passes sum to R, so the last unit of such a layer scores
as much as all of another's: rounds that measure anew never empty it [known]. A residual branch, which the flow can pass
by, can end up empty (but for `budget.min_units`).

[chosen]: biases and the running means of batch norms count as zero, as a batch norm's do at initialisation, where the
paper prunes. A trained network's means would take flow away, and its biases add flow of their own halfway, against
which the layers before score next to nothing and are emptied. Everything is in float64, for R grows with every layer,
and in evaluation mode, for a batch of one constant image has no statistics.

The paper's activations let any flow through, as ReLU does [known]. Those with a ceiling, ReLU6 and hardtanh, count
without it [chosen], as the flow is beyond it and would end there: of a MobileNetV2 all but the last layer would
score 0. A gate, such as a hardsigmoid that scales channels, is wide open instead, whatever the layers before it say,
which score 0. Layers that no flow passes are named in a warning.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruner.checks import require
from pruner.methods.base import Setup
from pruner.methods.scores.probing import Instead, given, probing
from pruner.sparsity.units.calling import call_with
from pruner.sparsity.units.make import Units

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Synflow:
    """The order in which rounds of pruning by flow drop the units. rounds: how many on the way to the budget, >= 1."""

    rounds: int = 100

    def __post_init__(self) -> None:
        require(self.rounds >= 1, "method.score.rounds", self.rounds, "1 or more")

    def __call__(self, setup: Setup) -> Tensor:
        """Per unit [n], in how many rounds it survived, and as a fraction below 1/2 its place among those that tie.

        With the setup's budget these scores give the mask of the last round again; what that mask leaves of the budget
        goes to the units that were dropped last. Raises ValueError when the setup has no shape.
        """
        if not setup.shape:
            raise ValueError("synflow needs the shape of an example, and the setup has none")
        units, allocation = setup.units, setup.allocation
        state = absolute(setup.model)
        image = torch.ones(1, *setup.shape, dtype=torch.float64, device=units.device)
        mask = torch.ones(units.n, device=units.device)
        survived = torch.zeros_like(mask)
        score = torch.zeros_like(mask, dtype=torch.float64)  # from the last round that the unit took part in
        with probing(setup.model):
            for done in range(1, self.rounds + 1):
                score = torch.where(mask > 0, flow(setup.model, state, units, image, mask), score)
                if done == 1:
                    warn_of_dry(units, score)
                share = (1 - allocation.sparsity) ** (done / self.rounds)
                sparsity = None if done == self.rounds else 1 - share  # None: the very budget, not rounded by a power
                mask = mask * allocation.hard(torch.where(mask > 0, score, -1.0), sparsity).to(mask.dtype)
                survived += mask
        # Not the flow itself: its range is beyond float32's, which is what checkpoints keep.
        order = torch.argsort(score, descending=True, stable=True)
        order = order[torch.argsort(survived[order], descending=True, stable=True)]
        places = torch.empty_like(survived)
        places[order] = torch.linspace(0.5, 0, units.n, device=units.device)
        return survived + places


def absolute(model: nn.Module) -> dict[str, Tensor]:
    """The model's parameters and buffers in float64: weights by absolute value, biases and running means zero."""
    state = {}
    for name, parameter in model.named_parameters():
        state[name] = parameter.detach().double().abs() * (not name.endswith("bias"))
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            state[name] = buffer.double() * (not name.endswith("running_mean"))
    return state


def flow(model: nn.Module, state: dict[str, Tensor], units: Units, image: Tensor, mask: Tensor) -> Tensor:
    """Per unit [n], |c dR/dc| in float64 at the gates c = mask [n], for an image [1, ...] in float64."""
    gates = mask.detach().double().requires_grad_()
    gated = {name: state[name] * gate for name, gate in units.gates(gates).items()}
    with Instead({F.hardtanh: without_ceiling, F.relu6: F.relu}):
        total = call_with(model, {**state, **gated}, (image,)).sum()
    return (gates * torch.autograd.grad(total, gates)[0]).detach().abs()


def without_ceiling(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """torch's hardtanh, of which ReLU6 is one, but for its upper end."""
    return given(torch.where(input > min_val, input, min_val), input, inplace)


def warn_of_dry(units: Units, flow: Tensor) -> None:
    """Names the groups of units, whose flow is `flow` [n], that none passes: their units go first, in any order."""
    dry = [group.name for group in units.groups if not bool(flow[group.start : group.stop].any())]
    if dry:
        named = ", ".join(dry[:3]) + (", ..." if len(dry) > 3 else "")
        counts = len(dry), len(units.groups)
        log.warning("synflow: no flow passes %d of %d layers, which score 0: %s", *counts, named)
