"""The cells of a sweep: the runs that its words, and its experiment's, stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pruner.checks import ConfigError, require
from pruner.compose.composing import Composer
from pruner.compose.hydra_internals import BasicSweeper
from pruner.config import Config, expand
from pruner.store import fingerprint
from pruner.store.folders import DenseStore, RunFolder


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: all its `words`, those that set it apart from other cells, and the config they make."""

    number: int
    total: int
    words: tuple[str, ...]
    different: tuple[str, ...]
    config: Config

    @property
    def name(self) -> str:
        """As in `[2/6] method=gmp seed=1`."""
        return " ".join([f"[{self.number}/{self.total}]", *self.different])

    @property
    def folder(self) -> RunFolder:
        return RunFolder(Path(expand(self.config.output_dir)) / self.config.run_id, self.config.run_id)

    @property
    def dense(self) -> DenseStore:
        return DenseStore(Path(expand(self.config.output_dir)) / self.config.dense_id)

    @property
    def state(self) -> str:
        """As its folder has it now: done, failed, running (a process works on it), unfinished, or to do."""
        if self.folder.finished():
            return "done"
        if self.folder.held():
            return "running"
        if self.folder.row():
            return "failed"
        return "unfinished" if self.folder.config.exists() else "to do"


def general(hydra: Composer, words: Sequence[str]) -> list[str]:
    """Those of `words` that hold for every cell alike: the experiment's name, and what sets Hydra's own keys."""
    parsed = hydra.parse(words)
    for word in parsed:
        if word.key_or_group == "experiment" and word.is_sweep_override():
            raise ConfigError(f"{word.input_line}: one experiment at a time")
    return [str(word.input_line) for word in parsed if word.is_hydra_override() or word.key_or_group == "experiment"]


def product(
    hydra: Composer,
    params: Mapping[str, Any],
    grids: Sequence[Mapping[str, Any]],
    words: Sequence[str],
) -> list[list[str]]:
    """The words of every cell: a product of `params` and `words`, once for each of the `grids`.

    Where `words` has a key of `params` or of a grid the word counts. Raises ConfigError.
    """
    mine = [word for word in hydra.parse(words) if not word.is_hydra_override()]
    given = {word.key_or_group for word in mine}
    cells: list[list[str]] = []
    for grid in grids or [{}]:
        preset = [f"{key}={value}" for key, value in {**params, **grid}.items() if key.lstrip("+") not in given]
        with hydra.translated(words):
            cells += BasicSweeper.split_arguments(hydra.parse(preset) + mine, None)[0]
    return cells


def cells_of(hydra: Composer, head: DictConfig, words: Sequence[str]) -> tuple[DictConfig, list[Cell]]:
    """All cells of a sweep, checked, equal ones once; and its master, the config that a launcher is set up with.

    `head` is the master that `general(words)` make. Raises ConfigError for the first cell that cannot run, and as
    `check_folders` does.
    """
    sweeper = OmegaConf.to_container(head.hydra.sweeper, resolve=True)
    assert isinstance(sweeper, dict)
    found = product(hydra, sweeper.get("params") or {}, sweeper.get("grids") or [], words)
    # Not of all words: those that belong to one method are wrong with the method that a master falls back to.
    master = hydra.master([*(word for word in general(hydra, words) if word not in found[0]), *found[0]])
    configs: dict[tuple[str, str], tuple[list[str], Config]] = {}
    for cell in found:
        config = hydra.cell(master, cell)
        _, twin = configs.setdefault((config.output_dir, config.run_id), (cell, config))
        same = config.data_dir == twin.data_dir or fingerprint.alike(config, twin)
        other = f"holds other data than {twin.data_dir}, for the same run; give each its own output_dir"
        require(same, "data_dir", config.data_dir, other)
    everywhere = set.intersection(*(set(cell) for cell, _ in configs.values()))
    cells = [
        Cell(number, len(configs), tuple(cell), tuple(word for word in cell if word not in everywhere), config)
        for number, (cell, config) in enumerate(configs.values(), start=1)
    ]
    check_folders(cells)
    return master, cells


def check_folders(cells: Sequence[Cell]) -> None:
    """Raises ConfigError where what is there of a cell was made with other data, weights or code than it names now."""
    fingerprint.check((cell.config, cell.folder.finished() is not None) for cell in cells)
