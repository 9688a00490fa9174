"""Scores: what a unit is worth to a network as it is now. One file each; none knows a schedule.

A score is a function `score(setup, **options) -> Tensor [n]`, larger for units that should stay. Which one a
schedule uses is the `score` of its YAML file: a name and options, built in or a user's `package.module:function`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from pruner.config import ConfigError
from pruner.options import bind, resolve

if TYPE_CHECKING:
    from torch import Tensor

    from pruner.methods.base import Setup

BUILTIN = {
    "fpgm": "pruner.methods.scores.fpgm:fpgm",
    "grasp": "pruner.methods.scores.grasp:grasp",
    "l1": "pruner.methods.scores.l1:l1",
    "magnitude": "pruner.methods.scores.magnitude:magnitude",
    "random": "pruner.methods.scores.random:random",
    "snip": "pruner.methods.scores.snip:snip",
    "synflow": "pruner.methods.scores.synflow:synflow",
}


def create(score: str | Mapping[str, Any], setup: Setup) -> Callable[[], Tensor]:
    """The scores [n] of the setup's model, computed anew at every call and without gradients.

    `score` is a name, or a mapping of `name` and the options of its function. Raises ConfigError for a name that is
    not there and for options that the function does not take.
    """
    options = {"name": score} if isinstance(score, str) else dict(score)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(f"method.score={score}: give its name, as in method.score.name=magnitude")
    function = resolve("method.score.name", name, BUILTIN)
    computed = partial(function, setup, **bind("method.score", name, function, options, ("setup",)))
    return lambda: computed().detach()
