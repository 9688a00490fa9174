"""A run as the outside sees it: done already, done now, failed with a row, or refused with nothing written."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pruner.checks import ConfigError, one_line
from pruner.config import Config, expand
from pruner.run.summary import already_done, in_one_line, summary
from pruner.runtime.distributed import apart, in_turn, leads, origin
from pruner.runtime.signals import endings_raise
from pruner.store import fingerprint
from pruner.store.folders import RunFolder
from pruner.store.locking import Held
from pruner.store.row import Row

log = logging.getLogger("pruner")

WITH_TIMES = logging.Formatter("%(asctime)s %(message)s")  # in run.log
LATER = -1  # in the place of an exit status: another process works on this run


def execute(config: Config, cell: str = "", wait: bool = True) -> int:
    """Runs `config` unless its row is there already. Gives 0, or 1 when the run failed and left a row saying so.

    Within a sweep `cell` is the run's name, and one line says how it ended in the place of a table. Without `wait` a
    run that another process works on is left alone: LATER.
    Raises ConfigError, with nothing written, for what can be refused before any work.
    """
    folder = RunFolder(Path(expand(config.output_dir)) / config.run_id, config.run_id)
    row = folder.finished()
    before = row is not None
    fingerprint.check([(config, before)])
    if row is not None:
        folder.tidy_if_left()
    else:
        with console_log(), endings_raise():
            try:
                row, before = _perform(config, folder, wait)
            except Held:
                log.info("%s: another process works on it", cell or folder.path)
                return LATER
    if cell:
        print(in_one_line(cell, row, before), flush=True)
    elif before:
        print(already_done(row, folder.path))
    elif row["status"] == "done":
        print(summary(row, folder.path))
    return int(row["status"] == "failed")


def _perform(config: Config, folder: RunFolder, wait: bool) -> tuple[Row, bool]:
    """The run's row, and whether another process left it while this one waited. Raises ConfigError, Held."""
    from pruner.run import phases  # torch is not imported for what is done already

    try:
        experiment = in_turn(lambda: phases.prepare(config))
        experiment = replace(experiment, fingerprint=fingerprint.of(config))  # of what was just read
    except ConfigError:
        raise
    except Exception as error:  # whatever it is belongs into the run's row and log
        with folder.lock(wait), handler(folder.open_log(), WITH_TIMES):
            return _failed(config, folder, error), False
    with folder.lock(wait):
        if found := folder.finished():
            fingerprint.keep(folder, experiment.fingerprint, begun=True)
            return found, True
        with handler(folder.open_log(), WITH_TIMES):
            try:
                log.info("%s", folder.path)
                row = phases.run(experiment, folder)
            except ConfigError:
                raise
            except (KeyboardInterrupt, SystemExit):
                log.info("stopped; the same command goes on from what is saved")
                raise
            except Exception as error:  # likewise
                return _failed(config, folder, error), False
        folder.append_to_log(summary(row, folder.path))
        return row, False


def _failed(config: Config, folder: RunFolder, error: Exception) -> Row:
    """The row of a run that `error` ended: whatever went wrong belongs there, and its traceback in run.log.

    Where the disk is what went wrong there may be no room for them, or no folder, which is not made anew.
    """
    from pruner.run import report

    text = origin(error, one_line(f"{type(error).__name__}: {error}"))
    row = {**report.identity_columns(config), "status": "failed", "error": text}
    if not leads():
        return row
    try:
        with apart():  # the others may be gone
            if folder.path.exists():
                folder.write_result(row)
        log.error("the run failed: %s", text, exc_info=error)
    except OSError as trouble:
        print(one_line(f"the run failed: {text}; this is not in its folder: {trouble}"), file=sys.stderr, flush=True)
    return row


@contextmanager
def console_log() -> Iterator[None]:
    """What happens goes to stderr, line by line, so that stdout holds the results alone."""
    with handler(logging.StreamHandler(sys.stderr) if leads() else logging.NullHandler(), Message()):
        yield


class Message(logging.Formatter):
    """One line for each message; tracebacks are for run.log."""

    def format(self, record: logging.LogRecord) -> str:
        return record.getMessage()


@contextmanager
def handler(to: logging.Handler, form: logging.Formatter) -> Iterator[None]:
    """Sends the program's log to one more place."""
    to.setFormatter(form)
    log.addHandler(to)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(to)
        to.close()
