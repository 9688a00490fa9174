"""What is printed: a console that is closed, full or gone harms no run, and never ends in a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO


class Lenient:
    """A text stream without errors: after the first one, `lost`, all goes nowhere, of this process's children too."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, call: Callable[[], object]) -> None:
        try:
            call()
        except OSError as error:
            self.lost = self.lost or error
            with suppress(OSError), open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())  # what is in its buffer must find its way at the end


@contextmanager
def lenient(program: str) -> Iterator[None]:
    """Within it stdout and stderr are Lenient. A reader of stdout that goes, such as `head`, has had what it wanted; of
    any other error one line on stderr tells, in the name of `program`.
    """
    if isinstance(sys.stdout, Lenient):
        yield
        return
    _open_closed()
    before = sys.stdout, sys.stderr
    for stream in before:
        if getattr(stream, "errors", "") == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # what its encoding lacks
    sys.stdout, sys.stderr = out, err = Lenient(sys.stdout), Lenient(sys.stderr)
    try:
        yield
    finally:
        out.flush()
        if out.lost and not isinstance(out.lost, BrokenPipeError):
            print(f"{program}: standard output: cannot be written ({out.lost.strerror})", file=err)
        err.flush()
        sys.stdout, sys.stderr = before


def status() -> int:
    """The exit status of a command that only prints: 1 where that was in vain, and not for want of a reader."""
    sys.stdout.flush()
    lost = getattr(sys.stdout, "lost", None)
    return int(lost is not None and not isinstance(lost, BrokenPipeError))


def _open_closed() -> None:
    """Streams that were closed when this process started lead nowhere, lest files that it opens take their numbers."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is not None:
            continue
        nowhere = os.open(os.devnull, os.O_RDWR)
        if nowhere != number:
            os.dup2(nowhere, number)
            os.close(nowhere)
        os.set_inheritable(number, True)  # cells in other processes need them too
        setattr(sys, name, os.fdopen(number, mode, encoding="utf-8"))
