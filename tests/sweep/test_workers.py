"""Cells in worker processes: they end with their sweep, and one can tell on the console which is which."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pruner.runtime.signals import Signals
from pruner.sweep.workers import Cells, Labelled
from tests.sweeping import QUICK, command, environment, started

# Ctrl-C is not ignored, as it is by what a shell starts in the background; then becomes the command.
AS_IN_A_TERMINAL = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_every_line_says_once_whose_it_is() -> None:
    console = io.StringIO()
    labelled = Labelled(console, "[3/8]")
    for text in ("dense 1/2\nprune 1/2\n", "[3/8] seed=0: another process works on it\n", "\n"):
        print(text, end="", file=labelled, flush=True)
    assert console.getvalue() == "[3/8] dense 1/2\n[3/8] prune 1/2\n[3/8] seed=0: another process works on it\n\n"
    assert not labelled.isatty()  # so that there are no progress bars


def test_no_cell_is_begun_once_a_signal_has_come() -> None:
    signals = Signals()
    cells = Cells([["seed=0"], ["seed=1"], ["seed=2"]], signals)
    assert len(list(cells)) == len(cells) == 3
    begun = iter(cells)
    assert next(begun) == ["seed=0"]
    signals.came.append(signal.SIGTERM)
    assert list(begun) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "to_all"),
    [(signal.SIGINT, True), pytest.param(signal.SIGTERM, False, marks=pytest.mark.long), (signal.SIGKILL, False)],
)
def test_workers_end_with_their_sweep(number: signal.Signals, to_all: bool, tmp_path: Path) -> None:
    """They save what they have, whoever got the signal; `communicate` returns when the last one is gone."""
    words = ["-m", *QUICK, "threads=1", "method=magnitude", "seed=0,1,2", "recipe.dense_epochs=100000"]
    sweep = subprocess.Popen(
        [sys.executable, "-c", AS_IN_A_TERMINAL, *command(*words, "hydra.launcher.n_jobs=2", f"output_dir={tmp_path}")],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while sum("dense 2/" in log.read_text(encoding="utf-8") for log in started(tmp_path)) < 2:
        assert sweep.poll() is None, sweep.communicate()
        time.sleep(0.05)
    (os.killpg if to_all else os.kill)(sweep.pid, number)
    out, err = sweep.communicate(timeout=300)
    assert "Traceback" not in out + err
    assert len(list(tmp_path.glob("dense/*/checkpoint/state.pt"))) == 2
    logs = [log.read_text(encoding="utf-8") for log in started(tmp_path)]
    assert len(logs) == 2 and all("stopped; the same command goes on from what is saved\n" in log for log in logs)
    if number == signal.SIGKILL:
        assert sweep.returncode == -number
    else:
        assert sweep.returncode == 128 + number
        assert out.endswith("3 cells: 0 done, 3 not run\n")
        assert err.endswith("pruner: interrupted\n" if number == signal.SIGINT else "from what is saved\n")


@pytest.mark.slow
def test_cells_that_joblib_holds_ready_are_not_begun_either(tmp_path: Path) -> None:
    """When the short cell ends, joblib asks for two more, of which one waits for the next worker that is free."""
    grids = "{recipe.dense_epochs:1,seed:'0'},{recipe.dense_epochs:100000,seed:'1,2,3'}"
    words = ["-m", *QUICK, "threads=1", "method=magnitude", f"hydra.sweeper.grids=[{grids}]", "hydra.launcher.n_jobs=2"]
    sweep = subprocess.Popen(
        command(*words, f"output_dir={tmp_path}"), cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True
    )
    while sum("dense 2/" in log.read_text(encoding="utf-8") for log in started(tmp_path)) < 2:
        assert sweep.poll() is None, sweep.communicate()
        time.sleep(0.05)
    sweep.terminate()
    try:
        out, _ = sweep.communicate(timeout=300)
    finally:
        sweep.kill()
    assert sweep.returncode == 128 + signal.SIGTERM
    assert "4 cells: 1 done, 3 not run\n" in out
    assert len(started(tmp_path)) == 3
