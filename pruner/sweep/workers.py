"""Cells in worker processes of this machine: whatever ends their sweep ends them too, with their states saved.

A launcher kills its workers where it is interrupted, and leaves them where it is killed. So the sweep holds a signal
back, asks its workers to stop, and waits as before; they save what they have and answer, and then the signal does
what it does. A worker that finds its sweep gone stops likewise.
"""

from __future__ import annotations

import io
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType
from typing import TextIO

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher

from pruner.runtime.signals import ENDINGS, Signals

POLL = 0.5  # seconds between a worker's looks for its sweep
STOPPED = (1, "stopped")  # what a cell comes to whose worker was asked to stop


class Asking(Signals):
    """Within it, what ends this process waits, and its children are asked to stop. A second Ctrl-C does not wait."""

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number in (signal.SIGINT, *ENDINGS) and number not in self.came:
            for child in multiprocessing.active_children():
                child.terminate()  # which is SIGTERM: see Worker
        super()._note(number, frame)


class Cells(list[list[str]]):
    """Words of cells, of which a launcher gets no more once a signal has come."""

    def __init__(self, words: Iterable[list[str]], signals: Signals) -> None:
        super().__init__(words)
        self._signals = signals

    def __iter__(self) -> Iterator[list[str]]:
        return itertools.takewhile(lambda _: not self._signals.came, super().__iter__())


def with_workers(launcher: Launcher, words: Iterable[list[str]], first: int) -> Sequence[JobReturn]:
    """What `launcher.launch` gives for the cells of these `words`, in processes that this one keeps."""
    asking = Asking()
    with warnings.catch_warnings(), asking:
        # joblib replaces a worker whose memory has grown
        warnings.filterwarnings("ignore", "A worker stopped while some jobs were given", UserWarning)
        return launcher.launch(Cells(words, asking), first)


class Worker:
    """This process, where it is a worker: SIGTERM ends the cell that runs and all that come after, which joblib may
    hold ready; Ctrl-C is the sweep's."""

    def __init__(self) -> None:
        self._sweep = 0  # its process
        self._asked = self._busy = False

    def run(self, sweep: int, cell: Callable[[], tuple[int, str]]) -> tuple[int, str]:
        """What `cell` gives, or STOPPED; `sweep` is the process that started this one."""
        if not self._sweep:
            self._sweep = sweep
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            for number in ENDINGS:
                signal.signal(number, self._stop)
            threading.Thread(target=self._watch, daemon=True).start()
        try:
            self._busy = True
            return STOPPED if self._asked else cell()
        except SystemExit:
            return STOPPED
        finally:
            self._busy = False
            if os.getppid() != sweep:
                os._exit(1)  # nobody is there to answer

    def _stop(self, number: int, frame: FrameType | None) -> None:
        first, self._asked = not self._asked, True
        if first and self._busy:
            sys.exit(128 + number)

    def _watch(self) -> None:
        while os.getppid() == self._sweep:
            time.sleep(POLL)
        if not self._busy:
            os._exit(1)
        os.kill(os.getpid(), signal.SIGTERM)


WORKER = Worker()


class Labelled(io.TextIOBase):
    """A console that several cells write to: every line says whose it is, and there is no room for progress bars."""

    def __init__(self, console: TextIO, label: str) -> None:
        self._console, self._label = console, label

    def write(self, text: str) -> int:
        for line in text.splitlines(keepends=True):
            named = line.isspace() or line.startswith(self._label)
            self._console.write(line if named else f"{self._label} {line}")
        return len(text)

    def flush(self) -> None:
        self._console.flush()
