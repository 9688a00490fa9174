"""Checks of values against what is allowed and annotated: one line for whatever is wrong. Imports no torch."""

from __future__ import annotations

import re
import sys
import types
import typing
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar

T = TypeVar("T")
FAR = 0.4  # mistakes for each letter, from which on two names have nothing to do with one another
LONGEST = 100  # letters of a name that is looked at
LARGEST = (2 - 2**-23) * 2.0**127  # of 32-bit floats, which networks compute with


class ConfigError(ValueError):
    """The configuration cannot be run, or a file not be used; the message is one line: key, value, what is allowed.

    Whatever it was made of: names, values and other programs' words may have line ends and a terminal's commands.
    """

    def __init__(self, message: object) -> None:
        super().__init__(one_line(message))


def printable(text: object) -> str:
    """`text` with a blank for every character that is not seen but acts: line ends, a terminal's commands, signs that
    turn the direction of text, halves of characters. All that can be seen stays as it is.
    """
    return "".join(c if c.isprintable() else " " for c in str(text))


def one_line(text: object) -> str:
    """`text` on one line, without control characters and runs of blanks."""
    return " ".join(printable(text).split())


def require(condition: bool, key: str, value: object, allowed: str) -> None:
    """Raises ConfigError `key=value: allowed` unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{key}={value}: {allowed}")


def one_of(key: str, value: str, choices: Iterable[str]) -> None:
    """Raises ConfigError unless `value` is among `choices`, naming the nearest one."""
    names = list(choices)
    if value not in names:
        raise ConfigError(f"{key}={value}: choose one of {', '.join(names)}{hint(value, names)}")


def convert(value: Any, kind: Any, key: str) -> Any:
    """`value` as the annotated type `kind`; raises ConfigError that says what is expected."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        kinds = [one for one in arguments if one is not type(None)]
        fitting = (one for one in kinds if isinstance(value, typing.get_origin(one) or one))
        return convert(value, next(fitting, kinds[0]), key)
    if is_dataclass(kind):
        return build(typing.cast(type, kind), value, key)
    if origin is tuple:
        require(isinstance(value, list | tuple), key, value, "expected a list, such as [1,2]")
        return tuple(convert(item, arguments[0], key) for item in value)
    if (origin or kind) in (dict, Mapping):
        require(isinstance(value, Mapping), key, value, "expected a mapping")
        return dict(value)
    if kind is float:
        require(isinstance(value, int | float) and not isinstance(value, bool), key, value, "expected a number")
        require(abs(value) <= LARGEST, key, value, "expected a finite number, of 32 bits")
        return float(value) + 0.0  # -0.0 is 0.0: two ways to write one run
    words = {int: "a whole number", bool: "true or false", str: "a word"}
    right = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    require(right, key, value, f"expected {words[kind]}")
    require(kind is not int or abs(value) < 2**63, key, value, "expected a whole number of 64 bits")
    return value


def plain(value: Any, key: str) -> Any:
    """`value` as a JSON file holds it: numbers, text, lists, and mappings whose keys are text.

    Raises ConfigError for anything else, and for text that no file can hold.
    """
    if isinstance(value, Mapping):
        return {plain(str(name), key): plain(inner, f"{key}.{name}") for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, key) for item in value]
    if isinstance(value, str):
        writable = "\0" not in value and not any("\ud800" <= letter <= "\udfff" for letter in value)
        require(writable, key, ascii(value), "has characters that no file can hold")
    else:
        require(value is None or isinstance(value, bool | int | float), key, value, "expected a number or text")
        if isinstance(value, int) and abs(value) > sys.float_info.max:  # of which Python cannot even say all digits
            raise ConfigError(f"{key}: a whole number that is larger than any float")
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
            raise ConfigError(
                f"{prefix}{name}={values[name]}: no such key; {key or 'the config'} takes {', '.join(known)}"
                + hint(name, known, prefix)
            )
    converted = {}
    for name, declared in known.items():
        if name in values:
            converted[name] = convert(values[name], hints[name], f"{prefix}{name}")
        elif declared.default is MISSING and declared.default_factory is MISSING:
            raise ConfigError(f"{prefix}{name}: missing; give it a value")
    return cls(**converted)


def hint(name: object, names: Iterable[str], prefix: str = "") -> str:
    """As in ` (did you mean dtp?)`, with the `prefix` before the name; empty where none of `names` is near."""
    near = nearest(str(name), names)
    return f" (did you mean {prefix}{near[0]}?)" if near else ""


def nearest(name: str, names: Iterable[str], most: int = 1) -> list[str]:
    """Those of `names` that `name` is likely to stand for, the likeliest first, so many at `most`.

    Of several with as few mistakes, the one whose number is nearest, and then the one of the same letters.
    """
    if len(name) > LONGEST:
        return []
    found = []
    for other in names:
        count = mistakes(name.lower(), other.lower())
        if count <= FAR * max(len(name), len(other)):
            letters = Counter(name), Counter(other)
            apart = sum(((letters[0] - letters[1]) + (letters[1] - letters[0])).values())
            found.append((count, abs(_number(name) - _number(other)), apart, other))
    return [other for *_, other in sorted(found)[:most]]


def mistakes(name: str, other: str) -> int:
    """How many letters are wrong, too many, missing, or swapped with their neighbour (Damerau and Levenshtein)."""
    # rows[i + 1][j + 1]: between the first i + 1 letters of the one and the first j + 1 of the other
    rows = [list(range(len(other) + 1))]
    for i, letter in enumerate(name):
        row = [i + 1]
        for j, wanted in enumerate(other):
            best = min(rows[i][j] + (letter != wanted), rows[i][j + 1] + 1, row[j] + 1)
            if i and j and (letter, name[i - 1]) == (other[j - 1], wanted):
                best = min(best, rows[i - 1][j - 1] + 1)
            row.append(best)
        rows.append(row)
    return rows[-1][-1]


def _number(name: str) -> int:
    return int("".join(re.findall("[0-9]", name)) or 0)
