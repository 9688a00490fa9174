"""The SHA-256 digests of a run's files, in digests.json: how one that is not as it was written is noticed.

They are of the settings and tables that were there when the run was done, and are written last but one, before the row.
The network has its own in the JSON beside it (see `tensors`). Runs of before there were digests have none.
"""

from __future__ import annotations

from pathlib import Path

from pruner.checks import ConfigError
from pruner.store.reading import read_json
from pruner.store.tensors import digest, write_json

KINDS = (".csv", ".json", ".yaml")
NOT_KEPT = ("digests.json", "threads.json")  # this file itself, and what goes when a run is done


class Digests:
    """Those of the folder in which `result`, the row, is written last."""

    def __init__(self, result: Path) -> None:
        self.result = result
        self.path = result.with_name("digests.json")

    def write(self, row: bytes, done: bool) -> None:
        """Before `row` is written. Only when the run is `done` are the other files what they will stay."""
        found = {}
        if done:
            files = (path for path in sorted(self.path.parent.glob("*.*")) if path.suffix in KINDS)
            found = {path.name: digest(path.read_bytes()) for path in files if path.name not in NOT_KEPT}
        write_json(self.path, {**found, self.result.name: digest(row)})

    def check(self, path: Path) -> bool:
        """Whether there are digests. Raises ConfigError, one line, where the one of `path` is another; OSError.

        While the row is not the one that they were written for, the run is under way again, and its other files change.
        """
        if not self.path.exists():
            return False
        expected = read_json(self.path)
        done = self.result.exists() and digest(self.result.read_bytes()) == expected.get(self.result.name)
        if path == self.result:
            intact = done
        else:
            intact = not done or path.name not in expected or digest(path.read_bytes()) == expected[path.name]
        if not intact:
            raise ConfigError(f"{path}: not as it was written (another SHA-256 digest than in {self.path.name})")
        return True
