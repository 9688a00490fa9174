"""Tiny runs that every test file shares: a narrow ResNet-20 on made-up 8x8 images, a third of a second a run.

And configs without runs.
"""

from __future__ import annotations

import copy
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig, read_write

from pruner.compose.choices import conf_folder, user_folder
from pruner.config import Config, from_dict
from pruner.store.folders import RunFolder

RECIPE = {"name": "tiny", "batch_size": 32, "dense_epochs": 2, "prune_epochs": 2, "finetune_epochs": 1}
IMAGES = {"classes": 6, "image_size": 8, "train_size": 96, "test_size": 48, "noise": 0.4}


@pytest.fixture(autouse=True)
def _denormals_as_usual() -> Iterator[None]:
    """A run flushes denormal floats to zero for the rest of its process; tests of numbers want them back."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture(scope="session", autouse=True)
def _composed_once() -> Iterator[None]:
    """What no words make of our own files, which every command asks for and Hydra takes long to compose.

    Nor are the names of all of torchvision's models copied for each config.
    """
    from hydra.core.hydra_config import HydraConfig

    from pruner.compose.composing import Composer
    from pruner.compose.hydra_internals import ConfigLoaderImpl

    master = Composer.master
    known: dict[str, DictConfig] = {}

    def remembered(self: Composer, words: Sequence[str]) -> DictConfig:
        places = [place.provider for place in self.engine.config_loader.get_search_path().get_path()]
        if words or "command-line" in places:
            return master(self, words)
        if self.name not in known:
            known[self.name] = master(self, words)
        found = copy.deepcopy(known[self.name])
        with read_write(found.hydra.runtime):
            found.hydra.runtime.cwd = os.getcwd()
        HydraConfig.instance().set_config(found)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Composer, "master", remembered)
        repository = sys.modules[ConfigLoaderImpl.__module__].ConfigRepository
        patch.setattr(repository, "__deepcopy__", lambda self, memo: copy.copy(self), raising=False)
        yield


@pytest.fixture
def composed() -> Callable[..., Config]:
    """A function that gives the Config that words of the command line make, the --config-dir first, without a run."""
    from pruner.compose.composing import checked, composer  # hydra, which most tests need not wait for

    def compose(*words: str) -> Config:
        folders = [conf_folder()]
        if words[:1] == ("--config-dir",):
            folders.append(user_folder(words[1]))
            words = words[2:]
        with composer(folders, "config") as hydra:
            return checked(hydra.compose(words))

    return compose


@pytest.fixture
def tiny_config(tmp_path: Path) -> Callable[..., Config]:
    """As `tiny`, of this test's own folder."""
    return partial(tiny, tmp_path)


def tiny(
    folder: Path,
    method: str = "magnitude",
    name: str = "",
    options: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    budget: str = "params",
    **changes: Any,
) -> Config:
    """A small Config that leaves its files below `folder`; give it what should differ.

    `method` is a file of conf/method; `name` and `options` change what it says; `recipe` holds single keys.
    """
    chosen = conf_folder() / "method" / f"{method}.yaml"
    said = yaml.safe_load(chosen.read_text(encoding="utf-8")) if chosen.exists() and not name else {"name": name}
    values: dict[str, Any] = {
        "dataset": {"label": "synthetic", "name": "synthetic", "options": IMAGES},
        "model": {"label": "resnet20", "name": "resnet20", "options": {"width": 4}},
        "method": {"label": method, "name": said.pop("name"), "options": {**said, **(options or {})}},
        "granularity": "weight",
        "scope": "global",
        "budget": {"name": budget},
        "sparsity": 0.5,
        "recipe": {**RECIPE, **(recipe or {})},
        "threads": 1,
        "device": "cpu",
        "output_dir": str(folder / "outputs"),
    }
    return from_dict({**values, **changes})


@pytest.fixture
def finish(monkeypatch: pytest.MonkeyPatch) -> Callable[[Config], RunFolder]:
    """Executes a run, which must succeed, and gives its folder.

    For speed, files are not synced to the disk and latencies are rough.
    """
    from pruner.export import latency
    from pruner.run.job import execute

    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(latency, "in_turns", partial(latency.in_turns, most=latency.LEAST))

    def run(config: Config) -> RunFolder:
        assert execute(config) == 0
        return RunFolder(Path(config.output_dir) / config.run_id)

    return run


@pytest.fixture(scope="session")
def _kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def finished(finish: Callable[[Config], RunFolder], _kept: Path) -> Callable[[Config], RunFolder]:
    """A copy of a finished run's folder, for tests of what it holds: each run is trained once for all of them."""

    def copy(config: Config) -> RunFolder:
        kept = RunFolder(_kept / config.run_id)
        if not kept.result.exists():
            finish(replace(config, output_dir=str(_kept)))
        return RunFolder(shutil.copytree(kept.path, Path(config.output_dir) / config.run_id))

    return copy


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says for how many cells of method, granularity, scope, budget and sparsity the saved files were counted."""
    passed = [r for r in terminalreporter.getreports("passed") if "test_asked_is_what_is_in_the_saved_file" in r.nodeid]
    if passed:
        terminalreporter.write_line(f"budgets met and zeros counted in the saved files of {len(passed)} cells")
