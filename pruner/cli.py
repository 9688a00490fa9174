"""The command line: Hydra in, a checked Config out, and one line on stderr for whatever is wrong.

With launcher glue this is the only file that imports Hydra. It uses the class below `hydra.main`, because
that decorator keeps the jobs' return values to itself, and exit statuses come from them. Nothing here imports
torch before the config has been checked.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import hydra.version
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pruner import __version__, manual, refusals
from pruner.checks import ConfigError, require
from pruner.config import Config, from_dict
from pruner.folders import choices, conf_folder, user_folder
from pruner.models import torchvision_names

OPEN_GROUPS = ("dataset", "model", "method")  # a user's own class can stand here; see config.Choice
REFUSED_FLAGS = ("config_path", "experimental_rerun")  # a second conf folder, and unpickling


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (default: sys.argv) and gives its exit status: 0, 1 or 2 as in the manual."""
    try:
        return _answer(sys.argv[1:] if argv is None else list(argv))
    except ConfigError as error:
        return _complain(error)
    except KeyboardInterrupt:
        print("pruner: interrupted", file=sys.stderr)
        return 130


def _answer(argv: list[str]) -> int:
    if "--version" in argv:
        print(f"pruner {__version__}")
        return 0
    parser = get_args_parser()
    flags = _parse_flags(parser, argv)
    folders = [conf_folder()]
    if flags.config_dir is not None:
        folders.append(user_folder(flags.config_dir))
    if flags.help:
        print(manual.render(folders, _torchvision_choices(folders)), end="")
        return 0
    name, given = flags.config_name or "config", flags.overrides
    with _hydra(folders) as engine:
        if flags.multirun:
            return _sweep(engine, name, given)
        if flags.shell_completion:
            with _translated(engine, name, []):
                engine.shell_completion(name, given)
        elif flags.hydra_help:
            engine.hydra_help(name, parser, flags)
        else:
            composed = _compose(engine, name, given)
            if flags.info:
                engine.show_info(flags.info, name, given)
            elif flags.cfg:
                engine.show_cfg(name, given, flags.cfg, flags.package, flags.resolve)
            else:
                return _execute(_checked(composed))
    return 0


def _parse_flags(parser: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """Hydra's flags and the key=value words, in any order."""

    def refuse(message: str) -> NoReturn:
        dashes = "keys take no dashes, as in seed=1; " if message.startswith("unrecognized") else ""
        raise ConfigError(f"{message}; {dashes}see pruner --help")

    parser.error = refuse  # type: ignore[method-assign]
    flags = parser.parse_intermixed_args(argv)
    for flag in REFUSED_FLAGS:
        if getattr(flags, flag) is not None:
            raise ConfigError(f"--{flag.replace('_', '-')}: not supported; add choices of your own with --config-dir")
    if flags.multirun and (flags.cfg or flags.info):
        raise ConfigError("--multirun: runs a sweep; leave out --cfg and --info, or leave out -m")
    return flags


def _torchvision_choices(folders: Sequence[Path]) -> list[str]:
    """torchvision's models that can be given as model=NAME; a YAML file of that name goes first.

    Its VGG-16/19 need model=torchvision model.arch=NAME: vgg16_bn beside our vgg16 would be taken for the same.
    """
    files = choices(folders, "model")
    return [name for name in torchvision_names() if name not in files and not name.startswith(("vgg16", "vgg19"))]


@contextmanager
def _hydra(folders: Sequence[Path]) -> Iterator[Hydra]:
    """Hydra with our conf/, torchvision's models as choices, and the user's folder, where there is one."""
    hydra.version.setbase("1.3")
    path = create_config_search_path(str(folders[0]))
    for folder in folders[1:]:
        path.prepend("command-line", f"file://{folder}", anchor=SearchPathQuery(provider="schema"))
    store = ConfigStore.instance()
    store.repo.pop("model", None)  # what an earlier call in this process had stored
    for arch in _torchvision_choices(folders):
        node = {"name": "torchvision", "arch": arch, "weights": None}
        store.store(name=arch, node=node, group="model", provider="pruner")
    try:
        yield Hydra.create_main_hydra2("pruner", path)
    finally:
        GlobalHydra.instance().clear()


def _compose(engine: Hydra, name: str, words: list[str], mode: RunMode = RunMode.RUN) -> DictConfig:
    """The config that the key=value `words` make, with its `hydra` node. Raises ConfigError."""
    with _translated(engine, name, words):
        for word in OverridesParser.create().parse_overrides(words):
            if mode is RunMode.RUN and word.is_sweep_override():
                raise ConfigError(f"{word.input_line}: several values; use -m to run each of them, or [a,b] for a list")
        composed = engine.compose_config(name, words, mode)
    HydraConfig.instance().set_config(composed)
    return composed


def _checked(composed: DictConfig) -> Config:
    """`composed`, the config that Hydra has just set, as one that can run. Raises ConfigError."""
    chosen = HydraConfig.get().runtime.choices
    ours = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    try:
        for key in sorted(OmegaConf.missing_keys(ours)):
            group = key.partition(".")[0]
            raise ConfigError(f"{key}: missing; {group}={chosen.get(group)} needs it, as in {key}=VALUE")
        values = OmegaConf.to_container(ours, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error)) from error
    assert isinstance(values, dict)
    plain = {str(key): value for key, value in values.items()}
    for group in OPEN_GROUPS:
        if isinstance(plain.get(group), dict):
            options, label = dict(plain[group]), chosen.get(group)
            require(isinstance(label, str), group, label, "choose exactly one")
            if label == "torchvision":  # one door to many networks, which tables must not mix
                label = options.get("arch") or label
            name = {"name": options.pop("name")} if "name" in options else {}
            plain[group] = {"label": label, **name, "options": options}
    config = from_dict(plain)
    refusals.check(config)
    return config


def _execute(config: Config) -> int:
    from pruner.job import execute  # here, because what it needs takes long to import

    return execute(config)


def _sweep(engine: Hydra, name: str, words: list[str]) -> int:
    """Runs every cell of a sweep, after all of them have been checked; gives the worst exit status."""
    master = _compose(engine, name, words, RunMode.MULTIRUN)
    with _translated(engine, name, words):
        cells, swept = _cells(engine, master)
    for cell in cells:
        with _translated(engine, name, cell):
            composed = engine.config_loader.load_sweep_config(master, cell)
        HydraConfig.instance().set_config(composed)
        _checked(composed)
    batches = engine.multirun(name, partial(_run_cell, len(cells), swept), words)
    return max((job.return_value for batch in batches or () for job in batch), default=0)


def _cells(engine: Hydra, master: DictConfig) -> tuple[list[list[str]], frozenset[str]]:
    """The words of every cell and the keys that differ; none where another sweeper decides as it goes."""
    sweeper = master.hydra.sweeper
    if not str(sweeper._target_).endswith(f".{BasicSweeper.__name__}"):
        return [], frozenset()
    words = [f"{key}={value}" for key, value in (sweeper.params or {}).items()] + _task_words(master.hydra)
    parsed = OverridesParser.create(engine.config_loader).parse_overrides(words)
    swept = frozenset(word.get_key_element() for word in parsed if word.is_sweep_override())
    return BasicSweeper.split_arguments(parsed, None)[0], swept


def _run_cell(total: int, swept: frozenset[str], composed: DictConfig) -> int:
    """One cell of a sweep, called by Hydra's launcher, perhaps in a process of its own; gives its exit status."""
    cell = HydraConfig.get()
    number = f"{cell.job.num + 1}/{total}" if total else f"{cell.job.num + 1}"
    print(f"[{number}]", *(word for word in _task_words(cell) if word.partition("=")[0] in swept), flush=True)
    try:
        return _execute(_checked(composed))
    except ConfigError as error:
        return _complain(error)


def _task_words(hydra_node: Any) -> list[str]:
    """The key=value words that Hydra has noted, apart from those that set Hydra's own keys; nothing interpolated."""
    words = OmegaConf.to_container(hydra_node.overrides.task, resolve=False)
    assert isinstance(words, list)
    return words


def _complain(error: ConfigError) -> int:
    print(f"pruner: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    return 2


@contextmanager
def _translated(engine: Hydra, name: str, words: list[str]) -> Iterator[None]:
    """Turns what Hydra says of `words` into a ConfigError that names the key, the value and what is allowed."""
    try:
        yield
    except ConfigError:
        raise
    except OverrideParseException as error:
        allowed = """write key=value; lists as key=[1,2]; special characters in quotes, as in 'key="a b"'"""
        raise ConfigError(f"'{error.override}': not understood; {allowed}") from error
    except MissingConfigException as error:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        if not group:
            raise ConfigError(f"--config-name={choice}: no such file in conf/ or the --config-dir folder") from error
        raise refusals.unknown_choice(group, choice, engine.config_loader.get_group_options(group)) from error
    except Exception as error:  # Hydra's, OmegaConf's and the YAML parser's have no common ancestor
        _find_wrong_word(engine, name, words)
        said = [str(error)] + ([str(error.__cause__)] if error.__cause__ else [])
        raise ConfigError("; ".join(part for part in said if part)) from error


def _find_wrong_word(engine: Hydra, name: str, words: list[str]) -> None:
    """Raises ConfigError for the first of `words` with a key that is not there, or a choice that is no name."""
    parsed = [word for word in OverridesParser.create().parse_overrides(words) if not word.is_sweep_override()]
    groups = engine.config_loader.list_groups("")
    chosen = [word for word in parsed if word.key_or_group in groups and word.package is None]
    for word in chosen:
        if not isinstance(word.value(), str):
            options = engine.config_loader.get_group_options(word.key_or_group)
            raise refusals.unknown_choice(word.key_or_group, word.get_value_element_as_str(), options)
    try:
        composed = engine.compose_config(name, [str(word.input_line) for word in chosen], RunMode.RUN)
    except Exception:
        return  # a chosen file is at fault, not a word; the caller has Hydra's own complaint
    known = OmegaConf.to_container(composed)
    for word in parsed:
        if word not in chosen and word.package is None and not word.is_add():
            refusals.check_key(word.key_or_group, str(word.input_line), known)
