"""What a command answered, and whether that is how it has to answer."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pruner.checks import ConfigError
from pruner.cli.main import main

# A run of a third of a second.
WORDS = [
    "dataset=synthetic",
    "recipe=smoke",
    "model=resnet20",
    "model.width=1",
    "method=gmp",
    "device=cpu",
    "threads=1",
]
OUTPUTS = "output_dir=outputs"


@dataclass(frozen=True)
class Answer:
    """A command's exit status, and what it said on both streams."""

    status: int
    out: str
    err: str

    @property
    def refuses_in_one_line(self) -> bool:
        """Exit status 2, nothing on stdout, and one line that says by whom."""
        by_whom = self.err.startswith(("pruner: ", "pruner-compare: "))
        return self.status == 2 and not self.out and by_whom and self.err.count("\n") == 1 and self.err[-1] == "\n"


def ask(words: Sequence[str], command: Callable[[Sequence[str]], int] = main) -> Answer:
    """The answer of `pruner`, or another command of ours, in this process; what it raises goes through."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = command(list(words))
    if "torch" in sys.modules:  # what a run sets for its process makes hypothesis' floats refuse to work
        sys.modules["torch"].set_flush_denormal(False)
    return Answer(status, out.getvalue(), err.getvalue())


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` with its bytes; locks, which are empty and stay, are left out."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def only_refused(attempt: Callable[[], object], path: Path) -> bool:
    """Whether `attempt` comes to an end, or raises one line that names the file, and leaves it as it is."""
    before = path.read_bytes()
    try:
        attempt()
    except ConfigError as error:
        assert path.name in str(error) and "\n" not in str(error)
    return path.read_bytes() == before
