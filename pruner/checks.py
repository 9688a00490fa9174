"""Checks of values against what is allowed and annotated: one line for whatever is wrong. Imports no torch."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar

T = TypeVar("T")


class ConfigError(ValueError):
    """The configuration cannot be run; the message is one line: key, value, what is allowed."""


def require(condition: bool, key: str, value: object, allowed: str) -> None:
    """Raises ConfigError `key=value: allowed` unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{key}={value}: {allowed}")


def one_of(key: str, value: str, choices: Iterable[str]) -> None:
    """Raises ConfigError unless `value` is among `choices`, naming the nearest one."""
    names = list(choices)
    if value not in names:
        near = difflib.get_close_matches(str(value), names, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ConfigError(f"{key}={value}: choose one of {', '.join(names)}{hint}")


def convert(value: Any, kind: Any, key: str) -> Any:
    """`value` as the annotated type `kind`; raises ConfigError that says what is expected."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return convert(value, next(a for a in arguments if a is not type(None)), key)
    if is_dataclass(kind):
        return build(typing.cast(type, kind), value, key)
    if origin is tuple:
        require(isinstance(value, list | tuple), key, value, "expected a list, such as [1,2]")
        return tuple(convert(item, arguments[0], key) for item in value)
    if origin is dict or kind is dict:
        require(isinstance(value, Mapping), key, value, "expected a mapping")
        return dict(value)
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        require(number and abs(value) < float("inf"), key, value, "expected a finite number")
        return float(value)
    words = {int: "a whole number", bool: "true or false", str: "a word"}
    right = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    require(right, key, value, f"expected {words[kind]}")
    return value


def build(cls: Callable[..., T], values: Any, key: str = "") -> T:
    """A dataclass `cls` from a mapping, with types converted and unknown or missing keys refused.

    The class checks its own ranges in `__post_init__`. Raises ConfigError; `key` prefixes the names in it.
    """
    require(isinstance(values, Mapping), key, values, "expected a mapping")
    prefix = f"{key}." if key else ""
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in fields(typing.cast(Any, cls))}
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            raise ConfigError(
                f"{prefix}{name}={values[name]}: no such key; {key or 'the config'} takes {', '.join(known)}"
                + (f" (did you mean {prefix}{near[0]}?)" if near else "")
            )
    converted = {}
    for name, declared in known.items():
        if name in values:
            converted[name] = convert(values[name], hints[name], f"{prefix}{name}")
        elif declared.default is MISSING and declared.default_factory is MISSING:
            raise ConfigError(f"{prefix}{name}: missing; give it a value")
    return cls(**converted)
