"""GraSP: a unit's score is what the flow of gradients would lose with it.

Wang, Zhang, Grosse, "Picking winning tickets before training by preserving gradient flow", ICLR 2020, arXiv 2002.07376.

    the paper's score is -w (H g), and the largest are dropped; here the largest stay, so score = w (H g)   [known]
    g and H are the loss's gradient and Hessian in the prunable weights, logits over T = 200                [known]

Removing unit j changes |g|^2 by -2 w_j (H g)_j to first order, so kept are the units whose loss would weaken it.
With z(c) = g(c) . g(1), where c are gates over units and g(c) is the gradient in the gated weights,

    dz/dc_j = w_j (H g)_j      summed over the weights of unit j                                            [derived]

which also serves units that are gated elsewhere, such as filters at their batch norm. The paper prunes a network before
training [known]; here the network is the dense one.

[chosen]: 10 images a class; the precision of the weights whatever the run's, for a second derivative has no digits to
spare; batch norm by the statistics of the batch, as in the training that is to come. By running statistics, which do
not follow a weight, the gradient grows with every weight that makes activations larger, and these are kept: a network
that does not train (digits, ResNet-20, 0.9 of the weights pruned: 19% after finetuning, and 97% this way).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruner.checks import ConfigError, one_line, require
from pruner.methods.base import Loss, Setup
from pruner.methods.scores.probing import Instead, balanced_sample, given, probing
from pruner.sparsity.units.calling import call_with
from pruner.sparsity.units.make import Units

TWICE = ("derivative for", "differentiate twice", "double backward")  # in what torch's errors say of operations


@dataclass(frozen=True)
class Grasp:
    """w (H g) of the loss. per_class: training images of every class, 1 or more. temperature: of the logits, > 0."""

    needs_examples: ClassVar[bool] = True
    per_class: int = 10
    temperature: float = 200.0

    def __post_init__(self) -> None:
        require(self.per_class >= 1, "method.score.per_class", self.per_class, "1 or more")
        require(self.temperature > 0, "method.score.temperature", self.temperature, "above 0")

    def check(self, setup: Setup) -> None:
        """Raises ConfigError, which names the operation, where a part of the network cannot be differentiated twice."""
        if not setup.shape:
            return
        images = torch.zeros(2, *setup.shape, device=setup.units.device)
        try:
            with probing(setup.model, batch_statistics=True):
                gradient_flow(setup.model, setup.units, [(images, images.new_zeros(2).long())], self.temperature)
        except RuntimeError as error:
            said = str(error).partition("\n")[0]
            if any(words in said.lower() for words in TWICE):
                why = f"takes second derivatives, which this network lacks ({said})"
                raise ConfigError(one_line(f"method.score.name=grasp: {why}; use another method")) from error
            raise

    def __call__(self, setup: Setup) -> Tensor:
        """Per unit [n], what the flow of gradients would lose. Raises ValueError when the setup has no images."""
        batches = balanced_sample(setup, self.per_class)
        with probing(setup.model, batch_statistics=True):
            return gradient_flow(setup.model, setup.units, batches, self.temperature, setup.loss)


def gradient_flow(
    model: nn.Module,
    units: Units,
    batches: list[tuple[Tensor, Tensor]],
    temperature: float,
    loss: Loss = F.cross_entropy,
) -> Tensor:
    """Per unit [n], w (H g) of the mean loss over all the images, in the type of the model's parameters."""
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    like = next(iter(parameters.values()))
    gates = torch.ones(units.n, device=like.device, dtype=like.dtype, requires_grad=True)
    prunable = [layer for layer in units.layers if layer.prunable]
    count = sum(len(labels) for _, labels in batches)

    def gradient(images: Tensor, labels: Tensor, create_graph: bool) -> tuple[Tensor, ...]:
        """This batch's share of g, a tensor for each prunable weight; in the gated weights, not those underneath."""
        multipliers = units.gates(gates)
        gated = {
            name: parameter * multipliers[name] if name in multipliers else parameter.detach().requires_grad_()
            for name, parameter in parameters.items()
        }
        with Instead({F.hardsigmoid: hardsigmoid}):
            logits = call_with(model, gated, (images,)) / temperature
        share = loss(logits, labels) * (len(labels) / count)
        return torch.autograd.grad(share, [gated[layer.weight] for layer in prunable], create_graph=create_graph)

    total = [torch.zeros_like(parameters[layer.weight]) for layer in prunable]
    for images, labels in batches:
        total = [g + share for g, share in zip(total, gradient(images, labels, create_graph=False), strict=True)]
    gates.grad = torch.zeros_like(gates)
    for images, labels in batches:
        shares = gradient(images, labels, create_graph=True)
        # All the way back: on the way to the gates alone, a function that is differentiable once would be passed by.
        torch.stack([(share * g).sum() for share, g in zip(shares, total, strict=True)]).sum().backward()
    return gates.grad


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """torch's, with its derivative (0 at both corners), and a second one: 0."""
    return given(F.relu6(input + 3) / 6, input, inplace)
