"""Where runs and dense networks live on disk: files that name themselves, and locks.

A folder's last file is its done marker: `result.csv` of a run, `dense.json` of a dense network. Both are written
atomically after everything else, so a folder with a marker is complete. Where several processes share a run the first
one alone reads and writes (`of_first`), and the others hear of it. torch is imported only where tensors are.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import yaml

from pruner.checks import LARGEST, ConfigError, one_line, require
from pruner.config import PLACES
from pruner.runtime.distributed import kept_by_first, of_first
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
    read_rows,
    write_atomically,
    write_table,
)
from pruner.store.run_log import opened
from pruner.store.tensors import check_fit, read_sealed, read_tensors, write_sealed, write_tensors

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

FORMAT = 1  # of a dense network's two files: raised when what was saved before would be misread


class Folder:
    """What the folders of runs and of dense networks have in common; made when something is first written."""

    tables: ClassVar[dict[str, Sequence[str]]] = {"epochs": EPOCH_COLUMNS}  # that grow epoch by epoch, by their names

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.epochs = self.path / "epochs.csv"
        self.model = self.path / "model.safetensors"
        self.checkpoint = self.path / "checkpoint"
        self.threads = self.path / "threads.json"  # as the checkpoint only while it is not done (see `Computing`)
        whole = Path(os.path.abspath(path))  # `.` has no name
        self._lock_file = whole.parent / f".{whole.name}.lock"

    def lock(self, wait: bool = True) -> AbstractContextManager[None]:
        """Waits until no other process works on this folder, then keeps others out. Without `wait` raises Held.

        The (empty) lock file lies beside the folder, hidden, and stays. See `locking`. Raises ConfigError.
        """
        return locked(self.path, self._lock_file, wait)

    @of_first
    def begun(self) -> bool:
        """Whether something is there that a later start goes on from."""
        return self.checkpoint.exists()

    @of_first
    def held(self) -> bool:
        """Whether a process works on this folder now. Writes nothing."""
        if not self._lock_file.exists():
            return False
        try:
            with self.lock(wait=False):
                return False
        except Held:
            return True

    @of_first
    def tidy(self, done: bool) -> None:
        """Removes half-written files of killed processes, and what only goes on of what is `done`. Needs the lock."""
        if done and self.checkpoint.exists():
            shutil.rmtree(self.checkpoint)
        if done:
            self.threads.unlink(missing_ok=True)
        for folder in (self.path, self.checkpoint):
            for left in folder.glob(f".*{HALF_WRITTEN}"):
                left.unlink()

    @of_first
    def tidy_if_left(self) -> None:
        """Removes what only goes on of what is done, if its process was killed before it could."""
        if self.checkpoint.exists() or self.threads.exists():
            # It does no harm where it cannot be removed, on a disk that is read-only, or is being removed right now.
            with suppress(Held, ConfigError, OSError), self.lock(wait=False):
                self.tidy(done=True)

    @of_first
    def check(self) -> None:
        """Raises FileNotFoundError when the folder is gone, and its lock perhaps with it: nothing may make it anew."""
        if not self.config.exists():
            raise FileNotFoundError(errno.ENOENT, "the folder is gone, or was emptied", str(self.path))

    @of_first
    def write_config(self, values: Mapping[str, Any]) -> None:
        """Writes plain values (numbers, text, lists, dicts) as YAML, in their order."""
        write_atomically(self.config, yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True).encode())

    @of_first
    def keep_config(self, values: Mapping[str, Any]) -> None:
        """As `write_config`, but where it says the same already, of what goes on in a folder that was moved too."""
        places = {key: values[key] for key in PLACES if key in values}
        try:
            same = self.read_config() | places == values
        except ConfigError:  # there is none, or a damaged one
            same = False
        if not same:
            self.write_config(values)

    @of_first
    def read_config(self) -> dict[str, Any]:
        """What `write_config` wrote. Raises ConfigError that names the file when it is not a YAML mapping."""
        return read_yaml(self.config)

    @of_first
    def write_tables(self, rows: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
        """Writes those of its `tables` that are given, with all rows so far; call it after each epoch."""
        for name, so_far in rows.items():
            write_table(self.path / f"{name}.csv", self.tables[name], so_far)

    @of_first
    def read_epochs(self) -> list[Row]:
        """The epochs so far, none when there is no file. Raises ConfigError on a file that cannot be read."""
        return read_rows(self.epochs, EPOCH_COLUMNS) if self.epochs.exists() else []


class RunFolder(Folder):
    """One run's folder. `result` is its done marker.

    run_id: whose row it is to have; None where any run's will do, as in a folder that was moved. Its other tables have,
    of each epoch of pruning, the share of each group that it would keep, and the histogram of its soft masks.
    """

    tables: ClassVar[dict[str, Sequence[str]]] = {**Folder.tables, "ratios": RATIO_COLUMNS, "masks": MASK_COLUMNS}

    def __init__(self, path: str | Path, run_id: str | None = None) -> None:
        super().__init__(path)
        self.run_id = run_id
        self.result = self.path / "result.csv"
        self.digests = Digests(self.result)
        self.layers = self.path / "layers.csv"
        self.ratios = self.path / "ratios.csv"
        self.masks = self.path / "masks.csv"
        self.log = self.path / "run.log"

    @of_first
    def finished(self) -> Row | None:
        """The run's row when it is done; None when it failed, is under way, or was never started.

        A result.csv that is damaged counts as not there: the run is done again. Raises ConfigError as `row` does.
        """
        row = self.row()
        return row if row is not None and row["status"] == "done" else None

    @of_first
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

    @of_first
    def read_config(self) -> dict[str, Any]:
        """As of any folder; a finished run's must be as it was written."""
        values = super().read_config()
        self.digests.check(self.config)
        return values

    @of_first
    def read_table(self, path: Path, columns: Sequence[str]) -> list[Row]:
        """The rows of one of the run's tables. Raises ConfigError on a file that cannot be read or was changed."""
        rows = read_rows(path, columns)
        self.digests.check(path)
        return rows

    @of_first
    def read_epochs(self) -> list[Row]:
        return self.read_table(self.epochs, EPOCH_COLUMNS) if self.epochs.exists() else []

    @of_first
    def write_layers(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes one row for each prunable layer (LAYER_COLUMNS)."""
        write_table(self.layers, LAYER_COLUMNS, rows)

    @of_first
    def write_result(self, values: Mapping[str, Any]) -> None:
        """Writes the run's row (COLUMNS): the last thing a run does, after the digests of its files."""
        row = as_csv(COLUMNS, [values])
        self.digests.write(row, done=values.get("status") == "done")
        write_atomically(self.result, row)

    @of_first
    def append_to_log(self, text: str) -> None:
        """Adds what is said after the log was closed. Where it cannot be written there is a warning."""
        try:
            with self.log.open("a", encoding="utf-8") as stream:
                stream.write(f"{text}\n")
        except OSError as error:  # the row is there, and that is what counts
            log.warning("the summary is not in run.log: %s", one_line(error))

    def open_log(self) -> logging.Handler:
        """What takes messages to run.log, on the first process; elsewhere nowhere. Raises ConfigError."""
        return next(iter(kept_by_first(lambda: opened(self.log))), logging.NullHandler())


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

    @of_first
    def begun(self) -> bool:
        """Also where there is a trained network."""
        return self.info.exists() or super().begun()

    @of_first
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

    @of_first
    def save(self, state: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
        """Keeps a trained network: its state dict, then the plain values `info` (accuracy, seconds, ...)."""
        digests = write_tensors(self.model, state)
        write_sealed(self.info, {**info, "of": self.path.name}, digests)
