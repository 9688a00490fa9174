"""Several processes on one sweep and one store, some of which die: every cell once, as if one had done it alone."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from pruner.store.folders import RunFolder
from pruner.store.row import Row, read_rows
from tests.killing import Nursery, same
from tests.sweeping import ONE_BY_ONE, QUICK, gathered, started, without_times

TWELVE = ["-m", *QUICK, ONE_BY_ONE, "threads=1", "method=gmp,dtp", "sparsity=0.5,0.7,0.9", "seed=0,1"]
LONG = 0.5  # seconds after its first run began in which a process dies: some runs take, where all share two cores


def rows_by_id(outputs: Path) -> dict[str, Row]:
    """The rows of a sweep's runs, each in a folder of its own."""
    rows = [row for path in outputs.glob("synthetic-*/*/result.csv") for row in read_rows(path)]
    assert len({row["run_id"] for row in rows}) == len(rows)
    return {row["run_id"]: row for row in without_times(rows)}


@pytest.mark.slow
@pytest.mark.parametrize(("together", "killed"), [(4, 1), pytest.param(8, 2, marks=pytest.mark.long)])
def test_processes_share_a_sweep_and_some_of_them_die(
    together: int, killed: int, processes: Nursery, tmp_path: Path
) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    (serial,) = processes.sweep([*TWELVE, f"output_dir={alone}"], [None])
    assert serial.status == 0, serial.said
    moments = random.Random(0)
    deaths = [moments.uniform(0, LONG) for _ in range(killed)]
    others = [None] * (together - killed)
    outcomes = processes.sweep([*TWELVE, f"output_dir={shared}"], [*deaths, *others], since="/synthetic-")

    assert [one.status for one in outcomes[:killed]] == [-signal.SIGKILL] * killed, outcomes[0].said
    for one in outcomes[killed:]:
        assert one.status == 0 and "12 cells: 12 done\n" in one.said, one.said
        assert "Traceback" not in one.said
    expected = rows_by_id(alone)
    assert len(expected) == 12
    assert rows_by_id(shared) == expected
    assert {row["run_id"]: row for row in without_times(gathered(shared))} == expected
    for run_id in expected:
        same(RunFolder(shared / run_id), RunFolder(alone / run_id))
    starts = started(shared)
    assert len(starts) == 12 and sum(starts.values()) <= 12 + killed  # a cell is begun again only where its holder died
    assert sum(one.said.count(": done, accuracy") for one in outcomes) <= 12
    assert len(list(shared.glob("dense/*/dense.json"))) == len(list(alone.glob("dense/*/dense.json"))) == 2
    assert sum("dense 1/1" in log.read_text() for log in starts) <= 2 + killed  # and so with dense networks


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_sweep_that_is_asked_to_stop_says_what_there_is(
    number: signal.Signals, processes: Nursery, tmp_path: Path
) -> None:
    words = ["-m", *QUICK, ONE_BY_ONE, "threads=1", "method=magnitude", f"output_dir={tmp_path}"]
    words.append("recipe.dense_epochs=1,100000")
    (stopped,) = processes.sweep(words, [0.3], since="dense 2/100000", with_signal=number)
    assert stopped.status == 128 + number, stopped.said
    assert "stopped; the same command goes on from what is saved\n" in stopped.said
    assert "2 cells: 1 done, 1 not run\nresults: " in stopped.said
    assert [row["dense_epochs"] for row in gathered(tmp_path)] == [1]
    assert list(tmp_path.glob("dense/*/checkpoint/state.pt"))
