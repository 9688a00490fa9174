"""Configs out of words: what Hydra composes, checked, as plain dataclasses; what Hydra complains of, in one line.

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pruner.checks import ConfigError, plain, require
from pruner.compose import validate
from pruner.compose.choices import choices
from pruner.compose.hydra_internals import Hydra, create_config_search_path, take_newest_defaults
from pruner.config import OPEN_GROUPS, Config, absolute, from_dict, path_options
from pruner.models import torchvision_names


@dataclass(frozen=True)
class Composer:
    """Hydra, and the name of the config that it composes."""

    engine: Hydra
    name: str

    def parse(self, words: Sequence[str]) -> list[Override]:
        """The key=value `words`, understood. Raises ConfigError."""
        parser = OverridesParser.create(self.engine.config_loader)
        return [self._parsed(parser, word) for word in words]

    def _parsed(self, parser: OverridesParser, word: str) -> Override:
        with self.translated([word]):
            try:
                parsed = parser.parse_overrides([word])[0]
            except ValueError as error:  # a number of thousands of digits
                raise ConfigError(f"{word.partition('=')[0]}: {error}") from error
        validate.check_not_ignored(parsed.key_or_group, word)
        return parsed

    def compose(self, words: Sequence[str]) -> DictConfig:
        """The config that one run's `words` make, with its `hydra` node. Raises ConfigError."""
        for word in self.parse(words):
            if word.is_sweep_override():
                raise ConfigError(f"{word.input_line}: several values; use -m to run each of them, or [a,b] for a list")
        return self._held(words, RunMode.RUN)

    def master(self, words: Sequence[str]) -> DictConfig:
        """As `compose`, but for what holds for a whole sweep: its launcher, its folder. Raises ConfigError."""
        composed = self._held(words, RunMode.MULTIRUN)
        _check_master(composed.hydra)
        return composed

    def cell(self, master: DictConfig, words: Sequence[str]) -> Config:
        """One run of a sweep, checked; times and the words for Hydra are those of its master. Raises ConfigError."""
        with self.translated(words):
            composed = self.engine.config_loader.load_sweep_config(master, list(words))
        HydraConfig.instance().set_config(composed)
        return checked(composed)

    def _held(self, words: Sequence[str], mode: RunMode) -> DictConfig:
        with self.translated(words):
            composed = self.engine.compose_config(self.name, list(words), mode)
        HydraConfig.instance().set_config(composed)
        return composed

    @contextmanager
    def translated(self, words: Sequence[str]) -> Iterator[None]:
        """Turns what Hydra says of `words` into a ConfigError that names the key, the value and what is allowed."""
        try:
            yield
        except ConfigError:
            raise
        except OverrideParseException as error:
            raise validate.not_understood(str(error.override)) from error
        except MissingConfigException as error:
            file = str(error.missing_cfg_file)
            end = file.find("/", len("hydra/") if file.startswith("hydra/") else 0)  # a choice may have slashes too
            group, choice = file[: max(end, 0)], file[end + 1 :]
            if group == validate.LAUNCHER:
                validate.check_launcher(choice)
            options = self.engine.config_loader.get_group_options(group) if group else []
            if not options:
                given = file if group else f"--config-name={choice}"
                raise ConfigError(f"{given}: no such file in conf/ or the --config-dir folder") from error
            raise validate.unknown_choice(group, choice, options) from error
        except Exception as error:  # Hydra's, OmegaConf's and the YAML parser's have no common ancestor
            self._find_wrong_word(words)
            said = [str(error)] + ([str(error.__cause__)] if error.__cause__ else [])
            raise ConfigError("; ".join(part for part in said if part)) from error

    def _find_wrong_word(self, words: Sequence[str]) -> None:
        """Raises ConfigError for the first of `words` with a key that is not there, or a choice that is no name."""
        parsed = OverridesParser.create().parse_overrides(list(words))
        parsed = [word for word in parsed if not word.is_sweep_override()]
        groups = self.engine.config_loader.list_groups("")
        chosen = [word for word in parsed if word.key_or_group in groups and word.package is None]
        for word in chosen:
            value = word.value()
            if not isinstance(value, str) or ".." in value.split("/"):  # neither names a file of the group
                options = self.engine.config_loader.get_group_options(word.key_or_group)
                raise validate.unknown_choice(word.key_or_group, word.get_value_element_as_str(), options)
        try:
            composed = self.engine.compose_config(self.name, [str(word.input_line) for word in chosen], RunMode.RUN)
        except Exception:  # Hydra's, OmegaConf's and the YAML parser's have no common ancestor
            return  # a chosen file is at fault, not a word; the caller has Hydra's own complaint
        known = OmegaConf.to_container(composed)
        for word in parsed:
            is_key = word not in chosen and word.package is None and "/" not in word.key_or_group
            if is_key and not word.is_add():
                validate.check_key(word.key_or_group, str(word.input_line), known)


def _check_master(node: DictConfig) -> None:
    """Raises ConfigError where what a sweep reads of Hydra's `node` is missing, or of another kind."""
    for key in sorted(OmegaConf.missing_keys(node)):
        needed = key == "hydra.launcher" or key.startswith(("hydra.mode", "hydra.sweep"))
        require(not needed, key, "???", "missing; give it a value")
    for group in ("launcher", "sweeper"):
        given = node[group]
        require(isinstance(given, DictConfig), f"hydra.{group}", given, f"choose one, as in hydra/{group}=basic")
    params, grids = (node.sweeper.get(key) for key in ("params", "grids"))
    fits = params is None or isinstance(params, DictConfig)
    require(fits, "hydra.sweeper.params", params, "expected keys with their values, as in {seed:'0,1'}")
    fits = grids is None or (isinstance(grids, ListConfig) and all(isinstance(grid, DictConfig) for grid in grids))
    require(fits, "hydra.sweeper.grids", grids, "expected a list of keys with their values, as in [{seed:'0,1'}]")


@contextmanager
def composer(folders: Sequence[Path], name: str) -> Iterator[Composer]:
    """Hydra with our conf/, torchvision's models as choices, and the user's folder, where there is one."""
    take_newest_defaults()
    path = create_config_search_path(str(folders[0]))
    for folder in folders[1:]:
        path.prepend("command-line", f"file://{folder}", anchor=SearchPathQuery(provider="schema"))
    store = ConfigStore.instance()
    store.repo.pop("model", None)  # what an earlier call in this process had stored
    for arch in torchvision_choices(folders):
        node = {"name": "torchvision", "arch": arch, "weights": None, "expected_accuracy": None}
        store.store(name=arch, node=node, group="model", provider="pruner")
    try:
        yield Composer(Hydra.create_main_hydra2("pruner", path), name)
    finally:
        GlobalHydra.instance().clear()


def torchvision_choices(folders: Sequence[Path]) -> list[str]:
    """torchvision's models that can be given as model=NAME; a YAML file of that name goes first.

    Its VGG-16/19 need model=torchvision model.arch=NAME: vgg16_bn beside our vgg16 would be taken for the same.
    """
    files = choices(folders, "model")
    return [name for name in torchvision_names() if name not in files and not name.startswith(("vgg16", "vgg19"))]


def checked(composed: DictConfig) -> Config:
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
    parts = {str(key): plain(value, str(key)) for key, value in values.items()}
    for group in OPEN_GROUPS:
        if isinstance(parts.get(group), dict):
            options, label = dict(parts[group]), chosen.get(group)
            require(isinstance(label, str), group, label, "choose exactly one")
            # the label is part of a folder's name
            require(not {".", ".."} & {*str(label).split("/")}, group, label, "expected a name, without . and ..")
            if label == "torchvision":  # one door to many networks, which tables must not mix
                label = str(options.get("arch") or label)
            name = {"name": options.pop("name")} if "name" in options else {}
            parts[group] = {"label": label, **name, "options": options}
    config = from_dict(parts)
    validate.check(config)
    return located(config)


def located(config: Config) -> Config:
    """`config` with absolute paths in its options, so that it is another run where they lead elsewhere."""
    for group in OPEN_GROUPS:
        choice = getattr(config, group)
        if paths := path_options(group, choice):
            options = choice.options | {option: absolute(path) for option, path in paths.items()}
            config = replace(config, **{group: replace(choice, options=options)})
    return config
