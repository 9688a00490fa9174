"""Where an unfinished run goes on: its state, saved from time to time, in the run's folder until the run is done."""

from __future__ import annotations

import io
import logging
import pickle
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pruner import __version__
from pruner.checks import ConfigError, one_line
from pruner.runtime.distributed import of_first
from pruner.store.row import write_atomically

log = logging.getLogger(__name__)

FORMAT = 2  # of a state: raised when what was saved before would be misread
SHARE = 0.02  # of the time that saving may take
REMEDY = "delete it to start this run again"


def versions() -> dict[str, str]:
    """What computes now: the versions of pruner and torch."""
    return {"pruner": __version__, "torch": str(torch.__version__)}


class Checkpoint:
    """One file that is there whole or not at all. Reading it executes nothing (weights_only). Of several processes the
    first alone reads and writes it.

    A state of another format is refused. One of another version of pruner or torch goes on, with a warning: days of
    work count for more than equal bits, and `versions`, which go into the row, name all that had a part in it.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.path = folder / "state.pt"
        self._of = folder.parent.name  # of the run or the dense network
        self.versions = versions()  # each of one version, or of several: "2.6.0, 2.7.1"

    @of_first
    def save(self, state: dict[str, Any]) -> None:
        """Keeps `state`: tensors, numbers, text, and lists and dicts of them.

        Raises OSError when that fails, also when the run's own folder is gone; what was saved before is still there.
        """
        stream = io.BytesIO()
        torch.save({**state, "format": FORMAT, "versions": self.versions, "of": self._of}, stream)
        self.folder.mkdir(exist_ok=True)
        write_atomically(self.path, stream.getvalue())

    def load(self) -> dict[str, Any]:
        """The state that was saved last, to the bit, tensors on the CPU; empty when there is none.

        Raises ConfigError that names the file when it is damaged, of another format, or of another run.
        """
        state = self._read()
        if state is None:
            return {}
        found, before = state.pop("format", None), state.pop("versions", {})
        if found != FORMAT:
            raise ConfigError(
                f"{self.path}: of format {found}, and pruner {__version__} reads format {FORMAT}; "
                f"go on with the pruner that wrote it, or {REMEDY}"
            )
        if (of := state.pop("of", self._of)) != self._of:
            raise ConfigError(one_line(f"{self.path}: is of {of}, not of {self._of}; {REMEDY}"))
        for name, now in versions().items():
            earlier = before[name].split(", ")
            if earlier[-1] != now:
                log.warning("%s %s goes on with what %s %s began", name, now, name, before[name])
            self.versions[name] = ", ".join(dict.fromkeys([*earlier, now]))
        return state

    @of_first
    def _read(self) -> dict[str, Any] | None:
        """What is in the file; None where there is none."""
        if not self.path.exists():
            return None
        try:
            with zipfile.ZipFile(self.path) as archive:
                damaged = archive.testzip()  # torch writes checksums, but does not look at them
            if damaged:
                raise zipfile.BadZipFile(f"{damaged} is not as it was written")
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            if not isinstance(state, dict):
                raise TypeError(f"a {type(state).__name__}, not a state")
            return state
        except pickle.UnpicklingError as error:  # torch's advice is to run what is in it
            raise ConfigError(f"{self.path}: cannot be read (holds more than tensors and numbers); {REMEDY}") from error
        except Exception as error:  # torch.load has no type of its own for a damaged file
            raise ConfigError(one_line(f"{self.path}: cannot be read ({error}); {REMEDY}")) from error

    @contextmanager
    def put_in_place(self) -> Iterator[None]:
        """Whoever puts a state in place does it within: what does not fit is a ConfigError that names the file."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ConfigError(one_line(f"{self.path}: does not fit this run ({error}); {REMEDY}")) from error


class Saver:
    """Saves what `state` gives, when it is worth its time: at most SHARE of all the time goes into it.

    So epochs of a second share a save, and one of an hour has several: one every so many `minutes`.
    """

    def __init__(self, checkpoint: Checkpoint, state: Callable[[], dict[str, Any]], minutes: float):
        self._checkpoint, self._state, self._seconds = checkpoint, state, 60 * minutes
        self._saved, self._took = time.monotonic(), 0.0

    def due(self, within: bool) -> bool:
        """Whether it is time to save; `within` an epoch, or between two."""
        ago = time.monotonic() - self._saved
        return ago >= self._took / SHARE and (ago >= self._seconds or not within)

    def save(self) -> None:
        """Saves now. Raises OSError."""
        start = time.monotonic()
        self._checkpoint.save(self._state())
        self._saved = time.monotonic()
        self._took = self._saved - start
