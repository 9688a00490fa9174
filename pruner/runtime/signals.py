"""Signals that end a run wait for the end of a training step, so that its work is saved and not lost."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from pruner.runtime import distributed

# What asks a process to end: a terminal that closes, kill, time limits of clusters.
ENDINGS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
# submitit asks with one of these to save and be queued again; Ctrl-C is SIGINT.
HELD_BACK = (signal.SIGINT, *ENDINGS, *(getattr(signal, n) for n in ("SIGUSR1", "SIGUSR2") if hasattr(signal, n)))


@contextmanager
def endings_raise() -> Iterator[None]:
    """ENDINGS raise SystemExit, as Ctrl-C raises KeyboardInterrupt: files are closed, and the exit status is 128 + n.

    A signal that has a handler already, a launcher's or one that ignores it, keeps that.
    """

    def end(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    ours = [n for n in ENDINGS if _in_main_thread() and signal.getsignal(n) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


class Signals:
    """Within it, signals that have a Python handler are noted, and handled when `let_through` is called, or at the end.

    A second Ctrl-C is handled at once.
    """

    def __init__(self) -> None:
        self.came: list[int] = []
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}

    def __enter__(self) -> Signals:
        if _in_main_thread():  # in another thread no signal arrives
            for number in HELD_BACK:
                handler = signal.getsignal(number)
                if callable(handler):  # neither ignored nor the system's own
                    self._handlers[number] = handler
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *failed: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self.let_through(tuple(self.came))

    def of_all(self, due: bool) -> list[int]:
        """What came to any process of the run, and a 0, which is no signal, where something is `due` on any."""
        return distributed.union([*self.came, *([0] if due else [])])

    def let_through(self, numbers: Sequence[int]) -> None:
        """Calls the handlers of these signals, which as a rule raise; training goes on where they do not."""
        for number in numbers:
            if number in self.came:
                self.came.remove(number)
            if number in self._handlers:
                self._handlers[number](number, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in self.came:
            self._handlers[number](number, frame)
        elif number not in self.came:
            self.came.append(number)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
