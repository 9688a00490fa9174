"""Versions of modules: the record by which a module reads what an older one saved, and which safetensors files lack."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def versions_of(model: nn.Module) -> dict[str, int]:
    """The versions of a model's modules, by their class; of those that are not at torch's first, 1."""
    return {type(module).__qualname__: module._version for module in model.modules() if module._version != 1}


def load(model: nn.Module, tensors: Mapping[str, Tensor], versions: Any = None) -> None:
    """`model.load_state_dict` of tensors that modules of these versions saved; None: of those of today."""
    state = OrderedDict(tensors)
    known = versions if isinstance(versions, dict) else versions_of(model)
    record = {
        name: {"version": known.get(type(module).__qualname__, 1)}
        for name, module in model.named_modules(remove_duplicate=False)
    }
    state._metadata = record  # type: ignore[attr-defined]  # where load_state_dict looks for it
    model.load_state_dict(state)
