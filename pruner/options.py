"""Options of a choice: the class or function that they go to, which of them make another run, what follows from others.

Imports no torch.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

from pruner.checks import ConfigError, convert, hint, one_of, require

PLAIN = (int, float, bool, str, Mapping)
# Keys that a run may do without: unused, they stay out of its identity.
OPTIONAL = ("block", "nm", "ratios", "quantization")
# Keys that cannot change a result: they stay out of a run's identity.
INCIDENTAL = (
    "device", "data_dir", "output_dir", "threads", "compile", "latency_batch", "checkpoint_minutes",
    "dataset.options.workers", "model.options.expected_accuracy",
)  # fmt: skip
# Options of built-in choices that are younger than runs still compared, with the values that those runs had without
# naming them: so said or not said, it is the same run. By group and name.
LATER: dict[str, dict[str, dict[str, Any]]] = {
    "dataset": {
        **{
            name: {"mean": None, "std": None}
            for name in ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "synthetic")
        },
        "imagefolder": {"mean": None, "std": None, "crop_scale": None},
    },
    "model": {"torchvision": {"expected_accuracy": None}},
    "method": {"spartan": {"revive": True}},
}


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
        there = vars(importlib.import_module(module))
        raise ConfigError(f"{key}={name}: {module} has no {attribute}{hint(attribute, there)}") from error
    require(callable(found), key, name, "expected a class or a function")
    return found


def bind(
    key: str, label: str, factory: Callable[..., Any], options: Mapping[str, Any], given: Collection[str]
) -> dict[str, Any]:
    """The `options` as keyword arguments for `factory`, which also takes the arguments `given` by the program.

    Options are converted to the plain types (int, float, bool, str, a Mapping, or None) that the factory's annotations
    ask for; other annotations are its owner's business. Raises ConfigError that names `key`.option when the factory
    does not take one, lacks one that it needs, or one has the wrong type.
    """
    try:
        parameters = inspect.signature(factory).parameters
        of_fields = "__dataclass_fields__" in vars(factory) if inspect.isclass(factory) else True
        owner = factory if of_fields else factory.__init__
        hints = typing.get_type_hints(owner)  # of a dataclass each field in the module that declares it
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


def what_counts(values: dict[str, Any]) -> dict[str, Any]:
    """A config's plain values, in place, without INCIDENTAL keys, and without LATER ones at their value."""
    for path in INCIDENTAL:
        *parents, last = path.split(".")
        inner = values
        for parent in parents:
            inner = inner[parent]
        inner.pop(last, None)
    for group, choices in LATER.items():
        options = values[group]["options"]
        for option, before in choices.get(values[group]["name"], {}).items():
            if options.get(option, before) == before:
                options.pop(option, None)
    return values


def hash8(values: Mapping[str, Any]) -> str:
    """Eight hex digits that tell identities apart."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def shorter_side(image_size: int) -> int:
    """To what test images are scaled before their middle is cut out, where nothing else is said: ImageNet's 256 of 224.

    A fixed 256 would show a network of small images only the middle of each.
    """
    return (16 * image_size + 7) // 14  # to the nearest, of any size


def with_resize(options: Any) -> Any:
    """The options of an image folder with `resize` as a number.

    Options of 224 that never name it stay as they are: it was 256 in older runs of that identity, and is.
    """
    if not isinstance(options, Mapping) or options.get("resize") is not None:
        return options
    size = options.get("image_size", 224)
    same = size == 224 and "resize" not in options
    return options if same or type(size) is not int else {**options, "resize": shorter_side(size)}
