"""Where runs and dense networks live on disk: files that name themselves, and locks.

A folder's last file is its done marker: `result.csv` of a run, `dense.json` of a dense network. Both are written
atomically after everything else, so a folder with a marker is complete. torch is imported only where tensors are
written or read.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pruner.checks import LARGEST, ConfigError, require
from pruner.store.digests import Digests
from pruner.store.locking import Held, locked
from pruner.store.reading import read_yaml
from pruner.store.row import (
    COLUMNS,
    EPOCH_COLUMNS,
    HALF_WRITTEN,
    LAYER_COLUMNS,
    MASK_COLUMNS,
    RATIO_COLUMNS,
    Row,
    as_csv,
    check_result,
    one_line,
    read_rows,
    write_atomically,
    write_table,
)
from pruner.store.tensors import check_fit, read_sealed, read_tensors, write_sealed, write_tensors

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)
PACKAGE = Path(__file__).resolve().parents[1]


FORMAT = 1  # of a dense network's two files: raised when what was saved before would be misread


class Folder:
    """What the folders of runs and of dense networks have in common; made when something is first written."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.epochs = self.path / "epochs.csv"
        self.model = self.path / "model.safetensors"
        self.checkpoint = self.path / "checkpoint"
        self.threads = (
            self.path / "threads.json"
        )  # see `pruner.run.threads`; as the checkpoint only while it is not done
        whole = Path(os.path.abspath(path))  # `.` has no name
        self._lock_file = whole.parent / f".{whole.name}.lock"

    def lock(self, wait: bool = True) -> AbstractContextManager[None]:
        """Waits until no other process works on this folder, then keeps others out. Without `wait` raises Held.

        The (empty) lock file lies beside the folder, hidden, and stays. See `locking`. Raises ConfigError.
        """
        return locked(self.path, self._lock_file, wait)

    def held(self) -> bool:
        """Whether a process works on this folder now. Writes nothing."""
        if not self._lock_file.exists():
            return False
        try:
            with self.lock(wait=False):
                return False
        except Held:
            return True

    def tidy(self, done: bool) -> None:
        """Removes half-written files of killed processes, and what only goes on of what is `done`. Needs the lock."""
        if done and self.checkpoint.exists():
            shutil.rmtree(self.checkpoint)
        if done:
            self.threads.unlink(missing_ok=True)
        for folder in (self.path, self.checkpoint):
            for left in folder.glob(f".*{HALF_WRITTEN}"):
                left.unlink()

    def tidy_if_left(self) -> None:
        """Removes what only goes on of what is done, if its process was killed before it could."""
        if self.checkpoint.exists() or self.threads.exists():
            # It does no harm where it cannot be removed, on a disk that is read-only, or is being removed right now.
            with suppress(Held, ConfigError, OSError), self.lock(wait=False):
                self.tidy(done=True)

    def check(self) -> None:
        """Raises FileNotFoundError when the folder is gone, and its lock perhaps with it: nothing may make it anew."""
        if not self.config.exists():
            raise FileNotFoundError(errno.ENOENT, "the folder is gone, or was emptied", str(self.path))

    def write_config(self, values: Mapping[str, Any]) -> None:
        """Writes plain values (numbers, text, lists, dicts) as YAML, in their order."""
        write_atomically(self.config, yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True).encode())

    def read_config(self) -> dict[str, Any]:
        """What `write_config` wrote. Raises ConfigError that names the file when it is not a YAML mapping."""
        return read_yaml(self.config)

    def write_epochs(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes all epochs so far (EPOCH_COLUMNS); call it after each one with the growing list."""
        write_table(self.epochs, EPOCH_COLUMNS, rows)

    def read_epochs(self) -> list[Row]:
        """The epochs so far, none when there is no file. Raises ConfigError on a file that cannot be read."""
        return read_rows(self.epochs, EPOCH_COLUMNS) if self.epochs.exists() else []


class RunFolder(Folder):
    """One run's folder. `result` is its done marker.

    run_id: whose row it is to have; None where any run's will do, as in a folder that was moved.
    """

    def __init__(self, path: str | Path, run_id: str | None = None) -> None:
        super().__init__(path)
        self.run_id = run_id
        self.result = self.path / "result.csv"
        self.digests = Digests(self.result)
        self.layers = self.path / "layers.csv"
        self.ratios = self.path / "ratios.csv"
        self.masks = self.path / "masks.csv"
        self.log = self.path / "run.log"

    def finished(self) -> Row | None:
        """The run's row when it is done; None when it failed, is under way, or was never started.

        A result.csv that is damaged counts as not there: the run is done again. Raises ConfigError as `row` does.
        """
        row = self.row()
        return row if row is not None and row["status"] == "done" else None

    def row(self) -> Row | None:
        """The run's row, done or failed; None where there is none or a damaged one.

        Raises ConfigError where it is out of reach, or of another run.
        """
        try:
            rows = read_rows(self.result)
            if len(rows) != 1:
                raise ConfigError(f"{self.result}: has {len(rows)} rows, not one")
            check_result(self.result, rows[0])
            self.digests.check(self.result)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise ConfigError(f"{self.result}: cannot be read ({error.strerror})") from error
        except ConfigError as error:
            log.warning("%s; running again", error)
            return None
        found = rows[0]["run_id"]
        if self.run_id is not None and found != self.run_id:
            raise ConfigError(f"{self.result}: is of the run {found}, not of {self.run_id}; delete it to run this one")
        return rows[0]

    def read_config(self) -> dict[str, Any]:
        """As of any folder; a finished run's must be as it was written."""
        values = super().read_config()
        self.digests.check(self.config)
        return values

    def read_table(self, path: Path, columns: Sequence[str]) -> list[Row]:
        """The rows of one of the run's tables. Raises ConfigError on a file that cannot be read or was changed."""
        rows = read_rows(path, columns)
        self.digests.check(path)
        return rows

    def read_epochs(self) -> list[Row]:
        return self.read_table(self.epochs, EPOCH_COLUMNS) if self.epochs.exists() else []

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
        """Writes the run's row (COLUMNS): the last thing a run does, after the digests of its files."""
        row = as_csv(COLUMNS, [values])
        self.digests.write(row, done=values.get("status") == "done")
        write_atomically(self.result, row)


class DenseStore(Folder):
    """One dense network's folder. `info` (dense.json) is its done marker.

    Whoever needs the network takes the lock, and trains it only if it is still not there:

        with store.lock():
            found = store.load(like)
            if found is None:
                ...; store.save(state, info)
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.info = self.path / "dense.json"

    def begun(self) -> bool:
        """Whether there is a trained network, or what its training goes on from."""
        return self.info.exists() or self.checkpoint.exists()

    def load(self, like: Mapping[str, Tensor] | None = None) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The trained network's tensors (on the CPU) and its info, or None when it is not trained yet.

        `like`: a state dict that the tensors must fit. Raises ConfigError that says which file to delete when one is
        damaged, does not fit, or is of another format than FORMAT; nothing is overwritten.
        """
        if not self.info.exists():
            return None
        remedy = f"delete {self.info} to train the dense network again"
        try:
            info, digests = read_sealed(self.info)
            if info.get("format", FORMAT) != FORMAT:
                raise ConfigError(f"{self.info}: of format {info['format']}, and this pruner reads format {FORMAT}")
            name = info.pop("of", self.path.name)
            if name != self.path.name:
                raise ConfigError(f"{self.info}: is of {name}, not of {self.path.name}")
            for key, most, allowed in (("accuracy", 100, "from 0 to 100"), ("seconds", LARGEST, "from 0 on")):
                value = info.get(key)
                number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most
                require(number, f"{self.info}: {key}", value, f"expected a number {allowed}")
            tensors = read_tensors(self.model, digests)
            try:
                check_fit(tensors, tensors if like is None else like)
            except ConfigError as error:
                raise ConfigError(f"{self.model}: does not fit the network ({error})") from error
            return tensors, info
        except ConfigError as error:
            raise ConfigError(one_line(f"{error}; {remedy}")) from error

    def save(self, state: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
        """Keeps a trained network: its state dict, then the plain values `info` (accuracy, seconds, ...)."""
        digests = write_tensors(self.model, state)
        write_sealed(self.info, {**info, "of": self.path.name}, digests)


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
