"""Pruning methods: what score a unit gets, and how soft scores become hard. One file each; none knows another.

Importing this package imports no torch: what a method can be told and what it is limited to is in `options`, its own
file is loaded when it is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml

from pruner.checks import one_of, require
from pruner.config import Choice, conf_folder
from pruner.methods import options, scores
from pruner.methods.limits import Limits, check_scope
from pruner.options import bind, resolve

if TYPE_CHECKING:
    from pruner.methods.base import Method

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


def choice(method: str | type[Method] | Choice, given: Mapping[str, Any], granularity: str) -> Choice:
    """The choice of a name of the command line's, such as `dtp` or `snip`, of `package.module:Class`, or of a class.

    By name a method has the settings that it has there, also those that were found for a granularity (conf/tuned/),
    unless others are `given`. Raises ConfigError for a name that is none of these.
    """
    if isinstance(method, Choice):
        return method
    if isinstance(method, type):
        return Choice(method.__name__, f"{method.__module__}:{method.__qualname__}", dict(given))
    if method in scores.BUILTIN:  # one mask at once, by this score
        return Choice(method, "one_shot", {"score": {"name": method, **given}})
    if ":" not in method:
        one_of("method", method, [*(name for name in BUILTIN if name != "one_shot"), *scores.BUILTIN])
    tuned = conf_folder() / "tuned" / granularity / f"{method}.yaml"
    found = yaml.safe_load(tuned.read_text(encoding="utf-8")) if method in BUILTIN and tuned.exists() else {}
    return Choice(method, method, {**found, **given})


def find(choice: Choice) -> type[Method]:
    """The class that `choice` names, built in or a user's. Raises ConfigError when it is not there, or no Method."""
    from pruner.methods.base import Method  # here, so that help and wrong input are answered without torch

    found = resolve("method", choice.name, BUILTIN)
    fits = isinstance(found, type) and issubclass(found, Method)
    require(fits, "method.name", choice.name, "not a class that inherits from pruner.methods.base.Method")
    method: type[Method] = found
    return method


def read_options(choice: Choice, method: type[Method] | None = None) -> options.Options:
    """The options of a choice, checked by the dataclass of its method. Raises ConfigError. Built in: without torch."""
    cls = method.Options if method else options.BUILTIN.get(choice.name) or find(choice).Options
    read: options.Options = cls(**bind("method", choice.label, cls, choice.options, ()))
    return read


def check_combination(choice: Choice, granularity: str, scope: str) -> None:
    """Raises ConfigError, with what can be used instead, when the three do not go together.

    Of a user's own class, which would have to be imported, nothing is known here: see `Limits.check`.
    """
    for limits in _limits(choice):
        limits.check(f"method={choice.label}", granularity, scope)
    check_scope(granularity, scope)


def _limits(choice: Choice) -> list[Limits]:
    score: Any = choice.options.get("score")
    name = score.get("name") if isinstance(score, Mapping) else score
    own = options.BUILTIN.get(choice.name)
    return [*([own.limits] if own else []), *([scores.LIMITS[name]] if name in scores.LIMITS else [])]
