"""Consoles that are closed, full or gone: what was to be done is done, and nothing ends in a traceback."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import DictConfig

from pruner.cli.main import main
from pruner.runtime import streams
from pruner.store.row import read_rows
from pruner.sweep.sweep import Task
from tests.sweeping import ONE_BY_ONE, QUICK, command, environment

LOST = "pruner: standard output: cannot be written (No space left on device)\n"


class Full(io.StringIO):
    """A console on which nothing arrives."""

    def __init__(self, number: int = errno.ENOSPC) -> None:
        super().__init__()
        self.number = number

    def write(self, text: str) -> int:
        raise OSError(self.number, os.strerror(self.number))


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("number", "status", "said"), [(errno.ENOSPC, 1, LOST), (errno.EPIPE, 0, "")])
@pytest.mark.parametrize(
    "words", [["--plan"], ["-m", "seed=0,1", "--plan"], ["--help"], ["--version"], ["--cfg", "job"]]
)
def test_what_only_prints_says_whether_it_could(
    words: list[str],
    number: int,
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A reader that has gone, as `head` does, has had what it wanted."""
    monkeypatch.setattr(sys, "stdout", Full(number))
    assert main(words) == status
    assert capsys.readouterr().err == said
    assert isinstance(sys.stdout, Full)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE])
def test_a_sweep_goes_on_without_a_console(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, Full(number))
    assert main(["-m", *QUICK, ONE_BY_ONE, "threads=1", "method=magnitude", "seed=0,1"]) == 0
    (results,) = Path("outputs").glob("sweeps/*/results.csv")
    assert [row["status"] for row in read_rows(results)] == ["done", "done"]


def test_a_cell_in_another_process_does_without_a_console_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: Task, composed: DictConfig) -> tuple[int, str]:
        print("[1/1]", flush=True)
        print("dense 1/1", file=sys.stderr, flush=True)
        return 0, ""

    monkeypatch.setattr(Task, "_run", run)
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, Full())
    assert Task({}, 0, True, ".", None)(DictConfig({})) == (0, "")


def test_a_process_without_stdout_and_stderr_leaves_its_row(tmp_path: Path) -> None:
    """Nor do files that it opens take their numbers, to which libraries write."""
    words = command(*QUICK, "threads=1", "method=magnitude")
    closed = subprocess.run(["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *words], cwd=tmp_path, env=environment())
    assert closed.returncode == 0
    (result,) = tmp_path.glob("outputs/synthetic-*/*/result.csv")
    assert read_rows(result)[0]["status"] == "done"


def test_streams_that_were_closed_are_open_in_child_processes_too() -> None:
    code = """
import os, subprocess, sys
from pruner.runtime.streams import lenient
with lenient("pruner"):
    child = "import sys; print(1); print(2, file=sys.stderr); sys.exit(sys.stdin.read() + '3' != '3')"
    sys.exit(subprocess.call([sys.executable, "-c", child]))
"""
    words = ["sh", "-c", '"$@" <&- >&- 2>&-', "sh", sys.executable, "-c", code]
    assert subprocess.run(words, env=environment()).returncode == 0


def test_a_real_process_whose_stdout_is_full_or_gone_ends_in_one_line_or_none() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(command("--plan"), env=environment(), stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, LOST)
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command("--plan"), env=environment(), stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_letters_that_a_console_lacks_are_spelled_out(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    with streams.lenient("pruner"):
        print("98.75 ± 0.59")
    assert written.getvalue() == b"98.75 \\xb1 0.59\n"
