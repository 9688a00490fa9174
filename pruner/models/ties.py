"""Tensors that several names of a network share: stored once, by the first name; the JSON beside them has the others.

Two modules may have one parameter, and one module two names: a state dict has such a tensor under every name.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from pruner.checks import ConfigError, require


def ties_of(model: nn.Module) -> dict[str, str]:
    """Of each parameter and buffer that has several names in the state dict, the later names, each with the first.

    The first is also the one that `named_parameters` gives.
    """
    names: dict[int, str] = {}
    ties = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        first = names.setdefault(id(tensor), name)
        if first != name:
            ties[name] = first
    return ties


def check_ties(ties: Any, model: nn.Module) -> dict[str, str]:
    """`ties`, as a file has them: those of the model, or some of them. Raises ConfigError, one line, for others."""
    if not isinstance(ties, dict):
        raise ConfigError(f"ties={ties}: expected names of tensors by other names")
    own = ties_of(model)
    for name, first in ties.items():
        require(name in own and own[name] == first, f"ties.{name}", first, "the network has no such tensor in common")
    return ties
