"""Layers and batch norms as the functions that they are, seen while a network is traced (see `tracer`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from pruner.sparsity.units.layers import CONVOLUTIONS, CONVOLVING, TRANSPOSED, TRANSPOSING
from pruner.sparsity.units.tracer import Tracer


class LayerFunctions(TorchFunctionMode):
    """Sees layers and batch norms as the functions that they are, also where no module calls them."""

    def __init__(self, tracer: Tracer):
        super().__init__()
        self.tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        rule = self._rule(func, args, kwargs)
        if rule is None or self.tracer.inside:
            return func(*args, **kwargs)
        tracer = self.tracer
        tracer.inside = True  # neither what the function calls nor the label arithmetic is to be traced
        try:
            output = func(*args, **kwargs)
            tracer.labels.why = tracer.where(func.__name__)
            tracer.set(output, rule(output))
        finally:
            tracer.inside = False
        return output

    def _rule(self, func: Any, args: Any, kwargs: Any) -> Callable[[Tensor], Tensor] | None:
        """From the function's output to its labels; None where the function is not one of layers and batch norms."""
        tracer = self.tracer
        if func in CONVOLVING or func in TRANSPOSING:
            x, weight = _first_two(*args, **kwargs)
            name = tracer.name_of(weight, TRANSPOSED if func in TRANSPOSING else CONVOLUTIONS)
            if name is None or x.dim() != weight.dim():
                return None
            return partial(self._convolution, name, x, weight, func in TRANSPOSING)
        if func is F.linear:
            x, weight = _first_two(*args, **kwargs)
            name = tracer.name_of(weight, (nn.Linear,))
            return None if name is None else partial(self._linear, name, x)
        if func is F.batch_norm:
            given = dict(zip(("input", "running_mean", "running_var", "weight", "bias"), args, strict=False)) | kwargs
            x = given["input"]
            name = tracer.name_of(given.get("weight"), (_BatchNorm,))
            return lambda output: tracer.norm(name, tracer.get(x)[0])  # its own gate silences what leaks
        if func is F.pad and (args[2] if len(args) > 2 else kwargs.get("mode")) == "circular":  # pads space alone
            x = args[0] if args else kwargs["input"]
            return lambda output: tracer.pooled(x, output)
        return None

    def _convolution(self, name: str, x: Tensor, weight: Tensor, transposed: bool, output: Tensor) -> Tensor:
        groups = (output if transposed else x).shape[1] // weight.shape[1]
        return self.tracer.convolution(name, groups, self._read(x), output)

    def _linear(self, name: str, x: Tensor, output: Tensor) -> Tensor:
        return self.tracer.linear(name, self._read(x), output)

    def _read(self, x: Tensor) -> Tensor:
        labels, leaks = self.tracer.get(x)
        if leaks:
            self.tracer.labels.fix(labels)
        return labels


def _first_two(input: Tensor, weight: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    """What layers' functions are called with, in order or by name."""
    return input, weight
