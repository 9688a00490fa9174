"""Pruning methods: what score a unit gets, and how soft scores become hard. One file each; none knows another.

Importing this package imports no torch: a method's own file is loaded when a run needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pruner.checks import require
from pruner.config import Choice
from pruner.options import bind, resolve

if TYPE_CHECKING:
    from pruner.methods.base import Method, Setup

BUILTIN = {
    "acdc": "pruner.methods.acdc:ACDC",
    "dpp": "pruner.methods.dpp:DPP",
    "dsa": "pruner.methods.dsa:DSA",
    "dtp": "pruner.methods.dtp:DTP",
    "gmp": "pruner.methods.gmp:GMP",
    "one_shot": "pruner.methods.one_shot:OneShot",
    "pdp": "pruner.methods.pdp:PDP",
    "smart": "pruner.methods.smart:Smart",
    "spartan": "pruner.methods.spartan:Spartan",
}


def find(choice: Choice) -> type[Method]:
    """The class that `choice` names, built in or a user's. Raises ConfigError when it is not there, or no Method."""
    from pruner.methods.base import Method  # here, so that help and wrong input are answered without torch

    found = resolve("method", choice.name, BUILTIN)
    fits = isinstance(found, type) and issubclass(found, Method)
    require(fits, "method.name", choice.name, "not a class that inherits from pruner.methods.base.Method")
    return found


def create(choice: Choice, setup: Setup) -> Method:
    """The method that `choice` names, with its options checked against its constructor.

    Raises ConfigError for a name that is not there and for options that the method does not take.
    """
    cls = find(choice)
    return cls(setup=setup, **bind("method", choice.label, cls, choice.options, ("setup",)))
