"""A run as the outside sees it: done already, done now, failed with a row, or refused with nothing written."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pruner.checks import ConfigError
from pruner.config import Config, expand
from pruner.results.console import already_done, summary
from pruner.results.row import one_line
from pruner.results.store import RunFolder

log = logging.getLogger("pruner")


def execute(config: Config) -> int:
    """Runs `config` unless its row is there already. Gives 0, or 1 when the run failed and left a row saying so.

    Raises ConfigError, with nothing written, for what can be refused before any work.
    """
    folder = RunFolder(Path(expand(config.output_dir)) / config.run_id)
    if row := folder.finished():
        print(already_done(row, folder.path))
        return 0
    from pruner import report, run  # torch is not imported for what is done already

    with console_log():
        bench = run.prepare(config)
        with folder.lock():
            if row := folder.finished():  # by another process, while this one waited
                print(already_done(row, folder.path))
                return 0
            with file_log(folder.log):
                log.info("%s", folder.path)
                try:
                    row = run.run(bench, folder)
                except ConfigError:
                    raise
                except Exception as error:  # whatever went wrong belongs in the row and in run.log
                    log.exception("the run failed")
                    text = one_line(f"{type(error).__name__}: {error}")
                    folder.write_result({**report.identity_columns(config), "status": "failed", "error": text})
                    return 1
                text = summary(row, folder.path)
                with folder.log.open("a", encoding="utf-8") as stream:
                    stream.write(f"{text}\n")
    print(text)
    return 0


@contextmanager
def console_log() -> Iterator[None]:
    """What happens goes to stderr, line by line, so that stdout holds the results alone."""
    with handler(logging.StreamHandler(sys.stderr), "%(message)s"):
        yield


@contextmanager
def file_log(path: Path) -> Iterator[None]:
    """What the console says goes to `path` as well, with tracebacks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with handler(logging.FileHandler(path, encoding="utf-8"), "%(asctime)s %(message)s"):
        yield


@contextmanager
def handler(to: logging.Handler, form: str) -> Iterator[None]:
    """Sends the program's log to one more place."""
    to.setFormatter(logging.Formatter(form))
    log.addHandler(to)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(to)
        to.close()
