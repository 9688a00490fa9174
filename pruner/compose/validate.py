"""What would fail only after work has begun, refused before it: combinations, folders, names, devices.

Nothing here imports torch. `check` sees a Config whose single values are already in range.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from pruner.checks import ConfigError, convert, hint, one_of, require
from pruner.compose.choices import choices, conf_folder
from pruner.config import OPEN_GROUPS, Choice, Config, expand
from pruner.data.paths import check_folder
from pruner.methods import check_combination, read_options
from pruner.models import BUILTIN, WITHOUT_FILTERS, check_arch, torchvision_names

LAUNCHER = "hydra/launcher"
# The launchers that come as extras of this package.
EXTRAS = {"submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray"}
DEVICES = ("auto", "cpu", "cuda", "cuda:N")
OWNERS = {"block": "granularity=block", "nm": "granularity=nm", "ratios": "scope=custom"}  # of keys that come with them
# The drivers that torch reaches as "cuda", with their calls for starting (None: not needed) and for counting.
DRIVERS = (
    ("libcuda.so.1", "cuInit", "cuDeviceGetCount"),
    ("nvcuda.dll", "cuInit", "cuDeviceGetCount"),
    ("libamdhip64.so", None, "hipGetDeviceCount"),
)


def check(config: Config) -> None:
    """Raises ConfigError, one line that names the key and what can be used instead, if `config` cannot run."""
    for group in OPEN_GROUPS:
        check_options(group, getattr(config, group))
    check_score(config.method)
    check_combination(config.method, config.granularity, config.scope)
    if ":" not in config.method.name:  # a user's own may import torch
        read_options(config.method)
    check_model(config.model, config.granularity)
    if config.dataset.name == "imagefolder":
        check_folder(str(config.dataset.options.get("root", "")))
    if config.model.name == "torchvision":
        check_arch(config.model.options.get("arch"))
    check_expected(config.model.options)
    check_device(config.device)
    check_place("output_dir", config.output_dir)


def check_expected(options: Mapping[str, Any]) -> None:
    """Raises ConfigError for an accuracy that is no percentage, or that nothing is said to have."""
    given, key = options.get("expected_accuracy"), "model.expected_accuracy"
    if given is not None:
        expected = convert(given, float, key)
        require(1 < expected <= 100, key, given, "in percent, above 1 and at most 100, as in 76.1")
        require(options.get("weights") is not None, key, given, "only with model.weights, which it is of")


def check_options(group: str, choice: Choice) -> None:
    """Raises ConfigError where a choice of ours has another class, or a class of ours an option that it does not take.

    The files in conf/ spell out all that a class takes, and of which types; ranges are its own business. A user's own
    class is asked when it is there.
    """
    if ":" in choice.name:
        return
    files = _spelled_out(group)
    one_of(f"{group}.name", choice.name, dict.fromkeys(name for name, _ in files.values()))
    label, _ = files.get(choice.label, (choice.name, {}))
    if label != choice.name:  # tables would call it by what it is not
        use = " or ".join(f"{group}={other}" for other, (name, _) in files.items() if name == choice.name)
        raise ConfigError(f"{group}.name={choice.name}: not with {group}={choice.label}, which is {label}; use {use}")
    known = next(options for name, options in files.values() if name == choice.name)
    for name, value in choice.options.items():
        if name not in known:
            takes = f"{choice.label} takes {', '.join(known) or 'no options'}"
            raise ConfigError(f"{group}.{name}={value}: no such key; {takes}{hint(name, known, f'{group}.')}")
        if known[name] in (int, float, bool, str):  # the class itself has the others
            convert(value, known[name], f"{group}.{name}")


@functools.cache
def _spelled_out(group: str) -> dict[str, tuple[str, dict[str, type]]]:
    """Of each choice of ours the name of its class, and its options with the types of their values."""
    found = {}
    for label, path in choices([conf_folder()], group).items():
        options = yaml.safe_load(path.read_text(encoding="utf-8"))
        found[label] = options.pop("name"), {name: type(value) for name, value in options.items()}
    return found


def check_score(method: Choice) -> None:
    """Raises ConfigError when a method's score has a list or a mapping for its name."""
    score: Any = method.options.get("score")
    name = score.get("name") if isinstance(score, Mapping) else score
    fits = not isinstance(name, list | Mapping)
    require(fits, "method.score", score, "give its name, as in method.score.name=magnitude")


def check_place(key: str, given: str) -> None:
    """Raises ConfigError where there can be no folder `given`: a file is in the way, or a name is too long."""
    path = Path(expand(given))
    try:
        nearest = next((folder for folder in (path, *path.parents) if _there(folder)), path)
        for part in path.parts:  # of those that are not there yet too
            _there(nearest / part)
    except OSError as error:
        raise ConfigError(f"{key}={given}: {error.strerror}") from error
    require(nearest.is_dir(), key, given, f"{nearest} is not a folder")


def _there(path: Path) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def check_model(model: Choice, granularity: str) -> None:
    """Raises ConfigError when a model of ours or of torchvision is known not to have such units."""
    transformer = model.name == "vit" or str(model.options.get("arch", "")).startswith("vit_")
    if granularity == "filter" and (model.name in WITHOUT_FILTERS or transformer):
        use = "head or weight" if transformer else "weight"
        raise ConfigError(f"granularity=filter: model={model.label} has no filters to remove; use granularity={use}")
    if granularity == "head" and model.name in BUILTIN and not transformer:
        has_none = f"model={model.label} has no nn.MultiheadAttention"
        raise ConfigError(f"granularity=head: {has_none}; use granularity=filter or weight")


def check_device(device: str) -> None:
    """Raises ConfigError unless `device` is one of DEVICES and present on this machine."""
    cuda = re.fullmatch(r"cuda(?::([0-9]+))?", device)
    if cuda:
        count = cuda_devices()
        require(count > 0, "device", device, "no CUDA device is present; use auto or cpu")
        last = "" if count == 1 else f" to cuda:{count - 1}"
        require(int(cuda[1] or 0) < count, "device", device, f"not present; there is cuda:0{last}")
    else:
        require(device != "cuda:N", "device", device, "give the device's number, as in cuda:0")
        require(device != "mps", "device", device, "has no float64, which exact budgets need; use auto or cpu")
        one_of("device", device, DEVICES)


def cuda_devices() -> int:
    """How many devices the driver shows to this process; it follows CUDA_VISIBLE_DEVICES by itself."""
    for library, start, count in DRIVERS:
        try:
            driver = ctypes.CDLL(library)
        except OSError:
            continue  # not installed
        found = ctypes.c_int(0)
        started = start is None or getattr(driver, start)(0) == 0
        if started and getattr(driver, count)(ctypes.byref(found)) == 0 and found.value > 0:
            return found.value
    return 0


def check_launcher(launcher: str) -> None:
    """Raises ConfigError that names the extra, if `launcher` is one that an extra brings."""
    if extra := EXTRAS.get(launcher):
        raise ConfigError(f"{LAUNCHER}: {launcher} is not installed; it comes with pip install 'pruner[{extra}]'")


def unknown_choice(group: str, choice: str, options: Iterable[str]) -> ConfigError:
    """The refusal of group=choice, with what there is; torchvision's many models are not listed one by one."""
    names = list(options)
    many = set(torchvision_names()) - BUILTIN.keys() if group == "model" else set()
    shown = [name for name in names if name not in many]
    allowed = f"choose one of {', '.join(shown)}"
    if choice in many:
        return ConfigError(f"model={choice}: {allowed}; torchvision's is model=torchvision model.arch={choice}")
    if group == "model":
        allowed += ", or a classification model of torchvision (see pruner --help)"
    near = hint(choice, names)
    own = "" if near or group not in OPEN_GROUPS else "; one of your own is found with --config-dir DIR"
    return ConfigError(f"{group}={choice}: {allowed}{near or own}")


def not_understood(word: str) -> ConfigError:
    """The refusal of a word of the command line that Hydra's grammar does not have."""
    key, equals, value = word.partition("=")
    if equals and not value.isascii() and not set(value) & set("\"'"):
        quoted = f"letters beyond a to z and other special characters need quotes, as in '{key}=\"{value}\"'"
        return ConfigError(f"'{word}': not understood; {quoted}")
    allowed = "write key=value; lists as key=[1,2]; special characters in quotes, as in 'key=\"a b\"'"
    return ConfigError(f"'{word}': not understood; {allowed}; see pruner --help")


def check_not_ignored(key: str, word: str) -> None:
    """Raises ConfigError, quoting the `word` that sets it, for a `key` of Hydra's that nothing here reads."""
    if key in ("hydra.run", "hydra.run.dir"):
        raise ConfigError(f"{word}: not used; runs land below output_dir, as in output_dir=FOLDER")


def check_key(key: str, word: str, known: Any) -> None:
    """Raises ConfigError, quoting the `word` that sets it, unless the dotted `key` is in the nested dicts `known`."""
    if (top := key.partition(".")[0]) in OWNERS:  # those that are there are known
        require(top in known, word.partition("=")[0], word.partition("=")[2], f"only with {OWNERS[top]}")
    owner = ""
    for part in key.split("."):
        if not isinstance(known, dict):
            raise ConfigError(f"{word}: no such key; {owner} is a single value")
        if part not in known:
            names = [name for name in known if name != "hydra"]
            raise ConfigError(
                f"{word}: no such key; {owner or 'the config'} takes {', '.join(names)}"
                + hint(part, names, f"{owner}." if owner else "")
            )
        owner, known = f"{owner}.{part}".lstrip("."), known[part]
