"""Running a model with other tensors in the place of its own."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call


def call_with(
    model: nn.Module, tensors: Mapping[str, Tensor], inputs: tuple[Any, ...], keywords: Mapping[str, Any] | None = None
) -> Any:
    """What the model gives with these tensors, by the names of `named_parameters` and `named_buffers`.

    Each is put wherever its parameter is: into all modules that share it, and once into a module that has two names.
    (torch's own tying would put it there twice, and on the way out take the first one for the module's own.)
    """
    if not tensors:
        return model(*inputs, **(keywords or {}))
    everywhere: dict[str, Tensor] = {}
    names: dict[int, str] = {}  # of each tensor of the model the first, which is the one that tensors go by
    for prefix, module in model.named_modules():
        for attribute, own in chain(module._parameters.items(), module._buffers.items()):
            if own is not None:
                name = f"{prefix}.{attribute}" if prefix else attribute
                first = names.setdefault(id(own), name)
                if first in tensors:
                    everywhere[name] = tensors[first]
    return functional_call(model, everywhere, inputs, dict(keywords or {}), tie_weights=False)
