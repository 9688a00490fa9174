"""Scores: how much a network as it is now needs each unit. One file each; none knows a schedule.

A score is a class. Its constructor takes the options and checks them, before any work; its instances are called with
a Setup whenever a schedule makes a mask, `__call__(self, setup) -> Tensor [n]`, larger for units that should stay. A
method `check(self, setup)`, where there is one, is called before any work too, and refuses networks by a ConfigError;
`needs_examples = True` says that it looks at the setup's examples. A plain function is no score. Which one a schedule
uses is the `score` of its YAML file: a name and options, built in or a user's `package.module:Class`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pruner.checks import ConfigError, require
from pruner.config import GRANULARITIES
from pruner.methods.limits import Limits
from pruner.options import bind, resolve

if TYPE_CHECKING:
    from torch import Tensor

    from pruner.methods.base import Setup

BUILTIN = {
    "fpgm": "pruner.methods.scores.fpgm:FPGM",
    "grasp": "pruner.methods.scores.grasp:Grasp",
    "l1": "pruner.methods.scores.l1:L1",
    "magnitude": "pruner.methods.scores.magnitude:Magnitude",
    "random": "pruner.methods.scores.random:Random",
    "snip": "pruner.methods.scores.snip:Snip",
    "synflow": "pruner.methods.scores.synflow:Synflow",
}

LIMITS = {
    "fpgm": Limits("it compares the filters of a layer", granularities=("filter",)),
    "l1": Limits(
        "of a single weight it is the magnitude",
        granularities=tuple(name for name in GRANULARITIES if name not in ("weight", "nm")),
    ),
}


def create(score: str | Mapping[str, Any], setup: Setup) -> Callable[[], Tensor]:
    """The scores [n] of the setup's model, computed anew at every call and without gradients.

    `score` is a name, or a mapping of `name` and the options of its class. Raises ConfigError for a name that is not
    there or no score, for options that the class does not take, and as the score's `check` does.
    """
    options = {"name": score} if isinstance(score, str) else dict(score)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(f"method.score={score}: give its name, as in method.score.name=magnitude")
    cls = resolve("method.score.name", name, BUILTIN)
    is_score = isinstance(cls, type) and "__call__" in dir(cls)  # which leaves out what calls the class itself
    require(is_score, "method.score.name", name, "expected a class with __call__(self, setup) -> Tensor [n]")
    built = cls(**bind("method.score", name, cls, options, ()))
    if getattr(built, "needs_examples", False) and setup.examples is None:
        raise ConfigError(f"method.score.name={name}: looks at examples, and there are none; give some")
    if hasattr(built, "check"):
        built.check(setup)
    return lambda: built(setup).detach()
