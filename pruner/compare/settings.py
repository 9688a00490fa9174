"""A run's whole settings, from the config.yaml beside its row: where runs differ, and the command that repeats one."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from pruner.checks import ConfigError
from pruner.compose.choices import choices, conf_folder
from pruner.config import PLACES, from_dict
from pruner.options import INCIDENTAL, LATER

OPEN = ("dataset", "model", "method")  # config.Choice: label, name and options
CLOSED = ("granularity", "scope", "budget", "quantization", "recipe")
HELD_OUT = "held out)"  # how the name of a dataset ends whose accuracies are not of test images
Settings = dict[str, Any]


def flat(config: Mapping[str, Any]) -> Settings:
    """The values of a run's config.yaml by the keys of the command line, as in method.score.name or seed.

    Keys that are younger than the run have the values that it had without them.
    """
    with suppress(ConfigError):  # of another version, or another's: as it stands
        config = from_dict(config).to_dict()
    found: Settings = {}
    for key, value in config.items():
        if key in OPEN and isinstance(value, Mapping):
            later = LATER[key].get(str(value.get("name")), {})
            value = {"name": value.get("name"), **later, **_mapping(value.get("options"))}
        found |= {key: value} if key == "ratios" else _flat(key, value)  # its keys are patterns, not words
    return found


def _mapping(value: Any) -> Mapping[str, Any]:
    """A part of a config.yaml of any version, or of anyone's."""
    return value if isinstance(value, Mapping) else {}


def granularity_in_full(granularity: str, config: Mapping[str, Any]) -> str:
    """A run's granularity with what its name leaves open, as in `block 16x8` and `nm 2:4`."""
    block, pattern = _mapping(config.get("block")), _mapping(config.get("nm"))
    if granularity == "block" and isinstance(block.get("shape"), list):
        return f"block {'x'.join(map(str, block['shape']))}"
    if granularity == "nm" and pattern:
        return f"nm {pattern.get('n')}:{pattern.get('m')}"
    return granularity


def dataset_in_full(dataset: str, config: Mapping[str, Any]) -> str:
    """A run's dataset, as in `cifar10 (10% held out)` where training images stood in for the test images."""
    share = flat(config).get("dataset.validation")
    return f"{dataset} ({100 * share:g}% {HELD_OUT}" if isinstance(share, int | float) and share else dataset


def differences(runs: Iterable[Settings], known: Iterable[str]) -> dict[str, list[str]]:
    """The keys in which `runs` differ with their values as text, without those that can change no result and `known`.

    A known group hides all of its keys, as `method` does `method.lr`.
    """
    hidden = (*known, *(path.replace(".options", "") for path in INCIDENTAL))
    runs = list(runs)
    found = {}
    for key in sorted({key for run in runs for key in run}):
        if not any(key == name or key.startswith(f"{name}.") for name in hidden):
            values = sorted({as_word(run.get(key)) for run in runs})
            if len(values) > 1:
                found[key] = values
    return found


def of_method(run: Settings) -> Settings:
    """A run's options of its method, by their keys."""
    return {key: value for key, value in run.items() if key.startswith("method.") and key != "method.name"}


def options(runs: Iterable[Settings]) -> list[str]:
    """Of runs of one method, the options in which they differ, as in `every=10 ramp=0.5`."""
    own = [of_method(run) for run in runs]
    keys = differences(own, [])
    return [said({key.removeprefix("method."): run.get(key) for key in keys}) for run in own]


def said(values: Settings) -> str:
    """Keys with their values, as in `model.width=8 recipe.batch_size=64`."""
    return " ".join(f"{key}={as_word(value)}" for key, value in values.items())


def command(config: Mapping[str, Any]) -> str:
    """The `pruner key=value ...` that gives the run of `config` again: its choices, and what differs from their files.

    Places are left to whoever repeats it. A choice that is a user's own stands with `--config-dir DIR`, where DIR is a
    folder that only the user knows.
    """
    top = _file(conf_folder() / "config.yaml")
    standard = {group: choice for entry in top["defaults"] for group, choice in _entry(entry)}
    defaults = _flat("", {key: value for key, value in top.items() if key not in ("hydra", "defaults")})
    words, own = [], False
    for group in OPEN + CLOSED:
        choice, values = _choice(group, config[group])
        path = choices([conf_folder()], group).get(choice)
        if path is None and group in CLOSED:  # renamed: every value that differs from the standard one is spelled out
            choice, path = standard[group], conf_folder() / group / f"{standard[group]}.yaml"
        own = own or (path is None and not values)
        if path is not None:
            whole = "# @package _global_" in path.read_text(encoding="utf-8")
            values = _flat("" if whole else group, _file(path))
        defaults |= values
        if choice != standard.get(group):
            words.append(f"{group}={as_word(choice)}")
    defaults |= _tuned(config)
    given = {key: value for key, value in flat(config).items() if key not in PLACES}
    words += [f"~{key}" for key in defaults if key.partition(".")[0] in OPEN and key not in given]
    for key, value in given.items():
        if key not in defaults and value is not None:
            words.append(f"{'++' if own else '+'}{key}={as_word(value)}")
        elif key in defaults and _differ(key, defaults[key], value):
            words.append(f"{key}={as_word(value)}")
    return shlex.join(["pruner", *(["--config-dir", "DIR"] if own else []), *words])


def _differ(key: str, default: Any, value: Any) -> bool:
    """Whether a value must be said: in open groups, which have no types, 5 and 5.0 are of two runs."""
    numbers = key.partition(".")[0] in OPEN and isinstance(value, int | float)
    return bool(default != value) or (numbers and type(default) is not type(value))


def _choice(group: str, value: Any) -> tuple[str, Settings]:
    """The word that chooses `value`, and the values that this word sets where no file of ours does."""
    if isinstance(value, str):
        return value, {}
    if group == "model" and value["name"] == "torchvision":
        arch = str(value["options"].get("arch"))
        if not arch.startswith(("vgg16", "vgg19")):
            node = {"name": "torchvision", "arch": arch, "weights": None, "expected_accuracy": None}
            return arch, _flat("model", node)
        return "torchvision", {}
    return str(value.get("label", value["name"])), {}


def _tuned(config: Mapping[str, Any]) -> Settings:
    """What conf/tuned/ sets for this run's method at its granularity, which goes before the method's own file."""
    method, _ = _choice("method", config["method"])
    path = choices([conf_folder()], f"tuned/{config['granularity']}").get(method)
    return _flat("method", _file(path)) if path is not None else {}


def _entry(entry: Any) -> list[tuple[str, str]]:
    """The group and the choice of one of Hydra's defaults, none of `_self_` and of Hydra's own groups."""
    return [(str(key), str(value)) for key, value in entry.items()] if isinstance(entry, Mapping) else []


@cache
def _file(path: Path) -> Mapping[str, Any]:
    from omegaconf import OmegaConf  # reads 5e-4 as the number that a run sees; PyYAML has it as text

    values = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    return {str(key): value for key, value in values.items()} if isinstance(values, dict) else {}


def _flat(prefix: str, value: Any) -> Settings:
    if not isinstance(value, Mapping) or (not value and prefix):
        return {prefix: value}
    found: Settings = {}
    for key, inner in value.items():
        found |= _flat(f"{prefix}.{key}" if prefix else str(key), inner)
    return found


def as_word(value: Any) -> str:
    """A value as Hydra's command line has it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(as_word, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{k}:{as_word(v)}' for k, v in value.items())}}}"
    text = str(value)
    if re.fullmatch(r"[A-Za-z_][\w./-]*", text) and text.lower() not in ("null", "true", "false", "nan", "inf"):
        return text
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
