"""From the names and options in a YAML file to the class or function that they call, built in or a user's."""

from __future__ import annotations

import importlib
import inspect
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

from pruner.checks import ConfigError, convert, one_of, require
from pruner.hints import hint

PLAIN = (int, float, bool, str, Mapping)


def resolve(key: str, name: str, builtin: Mapping[str, str]) -> Any:
    """The object that `name` stands for: a built-in's short name, or a user's `package.module:Attribute`.

    Raises ConfigError when the name is unknown or no name, or its module or attribute is not there.
    """
    if ":" not in name:
        one_of(key, name, builtin)
        name = builtin[name]
    module, _, attribute = name.partition(":")
    named = all(part.isidentifier() for part in (*module.split("."), attribute))
    require(named, key, name, "expected package.module:Class")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the user's module is there; something that it imports is not
        raise ConfigError(
            f"{key}={name}: no module named {error.name}; put it beside the YAML file, in the --config-dir folder"
        ) from error
    except AttributeError as error:
        raise ConfigError(f"{key}={name}: {module} has no {attribute}") from error
    require(callable(found), key, name, "expected a class or a function")
    return found


def bind(key: str, label: str, factory: Callable[..., Any], options: Mapping[str, Any], given: Collection[str]) -> dict:
    """The `options` as keyword arguments for `factory`, which also takes the arguments `given` by the program.

    Options are converted to the plain types (int, float, bool, str, a Mapping, or None) that the factory's annotations
    ask for; other annotations are its owner's business. Raises ConfigError that names `key`.option when the factory
    does not take one, lacks one that it needs, or one has the wrong type.
    """
    try:
        parameters = inspect.signature(factory).parameters
        hints = typing.get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    except (TypeError, ValueError, NameError) as error:  # not of Python, or annotated with what is not imported
        raise ConfigError(f"{key}={label}: its arguments cannot be told ({error})") from error
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in given:
        require(name in parameters or takes_any, key, label, f"its class must take the argument {name}")
    keywords = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    known = {name: p for name, p in parameters.items() if p.kind in keywords and name not in given}
    for name, value in options.items():
        if name in given or (name not in known and not takes_any):
            takes = ", ".join(known) or "no options"
            meant = hint(name, known, f"{key}.")
            raise ConfigError(f"{key}.{name}={value}: no such key; {label} takes {takes}{meant}")
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in options:
            raise ConfigError(f"{key}.{name}: missing; give it a value")
    return {
        name: convert(value, hints[name], f"{key}.{name}") if _is_plain(hints.get(name)) else value
        for name, value in options.items()
    }


def takes(factory: Callable[..., Any], name: str) -> bool:
    """Whether `factory` has an argument of that name; False where its arguments cannot be told."""
    try:
        return name in inspect.signature(factory).parameters
    except (TypeError, ValueError):  # `bind` says so
        return False


def _is_plain(kind: Any) -> bool:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return all(part is types.NoneType or _is_plain(part) for part in typing.get_args(kind))
    return (typing.get_origin(kind) or kind) in PLAIN
