"""Where runs and dense networks live on disk: files that name themselves, and locks.

A folder's last file is its done marker: `result.csv` of a run, `dense.json` of a dense network. Both are written
atomically after everything else, so a folder with a marker is complete. torch is imported only where tensors are
written or read.
"""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from filelock import FileLock, Timeout

from pruner.checks import ConfigError
from pruner.results.row import (
    EPOCH_COLUMNS,
    LAYER_COLUMNS,
    MASK_COLUMNS,
    RATIO_COLUMNS,
    Row,
    one_line,
    read_rows,
    write_atomically,
    write_row,
    write_table,
)
from pruner.results.tensors import read_json, read_tensors, write_json, write_tensors

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)
PACKAGE = Path(__file__).resolve().parents[1]


class Held(Exception):
    """Another process works on a folder."""


class Folder:
    """What the folders of runs and of dense networks have in common; made when something is first written."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.epochs = self.path / "epochs.csv"
        self.model = self.path / "model.safetensors"
        self._lock_file = self.path.with_name(f".{self.path.name}.lock")

    @contextmanager
    def lock(self, wait: bool = True) -> Iterator[None]:
        """Waits until no other process works on this folder, then keeps others out. Without `wait` raises Held.

        The operating system releases the lock when its holder ends, however it ends. The (empty) lock file
        lies beside the folder, hidden, and stays. Not reentrant.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._lock_file)
        try:
            lock.acquire(timeout=0)
        except Timeout as held:
            if not wait:
                raise Held(str(self.path)) from held
            log.info("waiting for the process that works on %s", self.path)
            lock.acquire(poll_interval=0.2)
        try:
            yield
        finally:
            lock.release()

    def held(self) -> bool:
        """Whether a process works on this folder now. Writes nothing."""
        if not self._lock_file.exists():
            return False
        try:
            with self.lock(wait=False):
                return False
        except Held:
            return True

    def write_config(self, values: Mapping[str, Any]) -> None:
        """Writes plain values (numbers, text, lists, dicts) as YAML, in their order."""
        write_atomically(self.config, yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True).encode())

    def read_config(self) -> dict[str, Any]:
        """What `write_config` wrote. Raises ConfigError that names the file when it is not a YAML mapping."""
        try:
            values = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(one_line(f"{self.config}: cannot be read ({error})")) from error
        if not isinstance(values, dict):
            raise ConfigError(f"{self.config}: not a YAML mapping")
        return values

    def write_epochs(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes all epochs so far (EPOCH_COLUMNS); call it after each one with the growing list."""
        write_table(self.epochs, EPOCH_COLUMNS, rows)

    def read_epochs(self) -> list[Row]:
        """The epochs so far, none when there is no file. Raises ConfigError on a file that cannot be read."""
        return read_rows(self.epochs, EPOCH_COLUMNS) if self.epochs.exists() else []


class RunFolder(Folder):
    """One run's folder. `result` is its done marker."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.result = self.path / "result.csv"
        self.layers = self.path / "layers.csv"
        self.ratios = self.path / "ratios.csv"
        self.masks = self.path / "masks.csv"
        self.log = self.path / "run.log"
        self.checkpoint = self.path / "checkpoint"

    def finished(self) -> Row | None:
        """The run's row when it is done; None when it failed, is under way, or was never started.

        A result.csv that cannot be read counts as not there: the run is done again.
        """
        row = self.row()
        return row if row is not None and row["status"] == "done" else None

    def row(self) -> Row | None:
        """The run's row, done or failed; None where there is none that can be read."""
        try:
            rows = read_rows(self.result)
        except FileNotFoundError:
            return None
        except ConfigError as error:
            log.warning("%s; running again", error)
            return None
        return rows[0] if len(rows) == 1 else None

    def write_layers(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes one row for each prunable layer (LAYER_COLUMNS)."""
        write_table(self.layers, LAYER_COLUMNS, rows)

    def write_ratios(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes one row for each epoch of pruning and group of units (RATIO_COLUMNS)."""
        write_table(self.ratios, RATIO_COLUMNS, rows)

    def write_masks(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes one row for each epoch of pruning and bin of the histogram of soft masks (MASK_COLUMNS)."""
        write_table(self.masks, MASK_COLUMNS, rows)

    def write_result(self, values: Mapping[str, Any]) -> None:
        """Writes the run's row (COLUMNS): the last thing a run does."""
        write_row(self.result, values)


class DenseStore(Folder):
    """One dense network's folder. `info` (dense.json) is its done marker.

    Whoever needs the network takes the lock, and trains it only if it is still not there:

        with store.lock():
            found = store.load()
            if found is None:
                ...; store.save(state, info)
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.info = self.path / "dense.json"

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The trained network's tensors (on the CPU) and its info, or None when it is not trained yet.

        Raises ConfigError that says which file to delete when one is damaged; nothing is overwritten.
        """
        if not self.info.exists():
            return None
        remedy = f"delete {self.info} to train the dense network again"
        try:
            return read_tensors(self.model), read_json(self.info)
        except ConfigError as error:
            raise ConfigError(f"{error}; {remedy}") from error

    def save(self, state: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
        """Keeps a trained network: its state dict, then the plain values `info` (accuracy, seconds, ...)."""
        write_tensors(self.model, state)
        write_json(self.info, info)


def commit_of(package: str | Path = PACKAGE) -> str:
    """The git commit of the source tree that holds the `package` folder, with `-dirty` when its code differs.

    Empty when there is no such tree, no git, or the package is merely installed somewhere inside another
    repository. Code is the package and the conf folder beside it; results that changed do not count. Never raises.
    """
    package = Path(package).resolve()
    tree = package.parent
    top, _, commit = (_git(tree, "rev-parse", "--show-toplevel", "HEAD") or "").partition("\n")
    if not commit or Path(top).resolve() != tree:
        return ""
    clean = _git(tree, "status", "--porcelain", "--", package.name, "conf") == ""
    return commit if clean else f"{commit}-dirty"


def _git(tree: Path, *arguments: str) -> str | None:
    """What git prints, None when it fails or takes too long."""
    # Inside a git hook these variables point at whatever repository the hook runs for.
    environment = {k: v for k, v in os.environ.items() if k not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")}
    command = ["git", "--no-optional-locks", "-C", str(tree), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, env=environment)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError) as error:
        log.debug("no commit: %s", error)
        return None
    return done.stdout.strip() if done.returncode == 0 else None
