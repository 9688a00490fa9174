"""A run's own log: what the console says, and tracebacks."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from pruner.checks import ConfigError, one_line


class RunLog(logging.FileHandler):
    """A file for which there is room, or the run stops."""

    def handleError(self, record: logging.LogRecord) -> None:
        raise  # what failed: logging calls this where it has caught it

    def close(self) -> None:
        with suppress(OSError):  # raised already, when the message came for which there was no room
            super().close()


def opened(path: Path) -> RunLog:
    """The log at `path`, to be added to; makes folders. Raises ConfigError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return RunLog(path, encoding="utf-8")
    except OSError as error:
        raise ConfigError(one_line(f"{path}: cannot be written ({error.strerror})")) from error
