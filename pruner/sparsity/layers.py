"""The prunable layers of a network: convolutions and linear layers, in the order in which they run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pruner.config import ConfigError, one_of

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Layer:
    """One convolution or linear layer. `positions` counts the outputs of each output channel at batch 1."""

    name: str
    shape: tuple[int, ...]
    positions: int
    is_conv: bool
    groups: int
    prunable: bool

    @property
    def weight(self) -> str:
        """The name of the weight among the model's parameters."""
        return f"{self.name}.weight"

    @property
    def size(self) -> int:
        """The number of weights; each is worth `positions` multiply-adds."""
        return int(torch.Size(self.shape).numel())


def find_layers(model: nn.Module, shape: tuple[int, ...], exclude: tuple[str, ...] = ()) -> list[Layer]:
    """The layers that one image [1, *shape] runs through, in order.

    Layers named in `exclude` (`first` and `last` stand for those) are marked as not prunable. Raises ConfigError
    when an excluded layer is not there or nothing is left to prune.
    """
    positions: dict[str, int] = {}
    modules = {name: module for name, module in model.named_modules() if isinstance(module, (*CONVOLUTIONS, nn.Linear))}

    def count(name: str, module: Any, output: Tensor) -> None:
        positions[name] = positions.get(name, 0) + output.numel() // module.weight.shape[0]

    hooks = [
        module.register_forward_hook(lambda module, _, output, name=name: count(name, module, output))
        for name, module in modules.items()
    ]
    try:
        _forward_one(model, shape)
    finally:
        for hook in hooks:
            hook.remove()

    names = list(positions)
    ends = {"first": names[:1], "last": names[-1:]}
    for name in exclude:
        one_of("budget.exclude", name, [*ends, *names])
    excluded = {layer for name in exclude for layer in ends.get(name, [name])}
    if excluded >= set(names):
        raise ConfigError(f"budget.exclude={list(exclude)}: leaves no convolution or linear layer to prune")
    return [
        Layer(
            name=name,
            shape=tuple(modules[name].weight.shape),
            positions=positions[name],
            is_conv=isinstance(modules[name], CONVOLUTIONS),
            groups=getattr(modules[name], "groups", 1),
            prunable=name not in excluded,
        )
        for name in names
    ]


def count_macs(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-adds of the whole model for one image [1, *shape], by torch's flop counter (which counts two each)."""
    with FlopCounterMode(display=False) as counter:
        _forward_one(model, shape)
    return counter.get_total_flops() // 2


def _forward_one(model: nn.Module, shape: tuple[int, ...]) -> None:
    """One image of zeros through the model in evaluation mode, which is left as it was."""
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(torch.zeros(1, *shape, device=device))
    finally:
        model.train(training)
