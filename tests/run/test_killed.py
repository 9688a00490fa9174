"""Runs that are killed for good (SIGKILL) at random moments, of every method, end as if nothing had happened.

`KILLS` in the environment says at how many moments in all, 45 as a rule: 3 of each method. scripts/kill_runs.sh asks
for 600.
"""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pruner.compose.combinations import builtin_methods
from pruner.config import Config
from pruner.store.folders import DenseStore, RunFolder
from pruner.training.checkpoint import Checkpoint
from tests.killing import Nursery, same

METHODS = [method.label for method in builtin_methods()]
QUICK = {"dtp", "dsa", "acdc"}  # learned scores; a learned budget too; masks that come and go. The rest: make long
KILLS = -(-int(os.environ.get("KILLS", "45")) // len(METHODS))  # of each method
RECIPE = {"dense_epochs": 1, "prune_epochs": 2, "finetune_epochs": 1}  # three steps an epoch
STARTS = 60  # for one kill, at most: a start that is killed before it got anywhere counts, but brings nothing nearer


@pytest.fixture(scope="module")
def processes(processes: Nursery) -> Nursery:
    return processes.eager()


@pytest.fixture(scope="module")
def phases() -> Iterator[Counter[str]]:
    """In which phases runs were killed; said at the end (pytest -s)."""
    counts: Counter[str] = Counter()
    yield counts
    print(f"\nkilled {counts.total()} times: {dict(counts)}")


def phase_of(config: Config) -> str:
    """How far a run got, by what is saved."""
    outputs = Path(config.output_dir)
    if not DenseStore(outputs / config.dense_id).info.exists():
        return "dense"
    folder = RunFolder(outputs / config.run_id)
    if folder.result.exists():
        return "after the row"
    return str(Checkpoint(folder.checkpoint).load().get("phase", "prune"))


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.long) for name in METHODS]
)
def test_killed_at_random_moments(
    method: str, processes: Nursery, phases: Counter[str], tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    """The same run again and again, each start killed a random time later, until it has got to its end."""
    granularity = "filter" if method in ("l1", "fpgm") else "weight"
    config = tiny_config(method, granularity=granularity, recipe=RECIPE, checkpoint_minutes=1e-9)
    alone = replace(config, output_dir=str(tmp_path / "alone"))
    undisturbed = processes.run(alone)
    assert undisturbed.status == 0, undisturbed.said
    moments, kills = random.Random(method), 0
    for attempt in range(STARTS * KILLS):
        if kills >= KILLS:
            break
        killed = replace(config, output_dir=str(tmp_path / str(attempt)))
        while True:
            moment = moments.uniform(0, 0.8 * undisturbed.seconds) if kills < KILLS else None
            outcome = processes.run(killed, after=moment)
            if outcome.status == 0:
                break
            assert outcome.status == -signal.SIGKILL, outcome.said
            phases[phase_of(killed)] += 1
            kills += 1
        same(RunFolder(tmp_path / str(attempt) / killed.run_id), RunFolder(tmp_path / "alone" / alone.run_id))
        one, other = (DenseStore(Path(run.output_dir) / run.dense_id) for run in (killed, alone))
        assert one.model.read_bytes() == other.model.read_bytes()
        assert {path.name for path in one.path.iterdir()} == {path.name for path in other.path.iterdir()}
    assert kills >= KILLS


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_asked_to_stop(
    number: signal.Signals, processes: Nursery, tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    """The run says how it goes on, with the exit status that is usual for the signal; and goes on."""
    config = tiny_config(recipe={**RECIPE, "dense_epochs": 2000})
    outcome = processes.run(config, after=0.3, since="dense 1/2000", with_signal=number)
    assert outcome.status == 128 + number
    assert outcome.said.splitlines()[-1] == "stopped; the same command goes on from what is saved"
    store = DenseStore(Path(config.output_dir) / config.dense_id)
    (saved,) = (store.path / "checkpoint").iterdir()  # nothing half written
    assert Checkpoint(saved.parent).load()["trainer"]["epoch"] > 0
    again = processes.run(config, after=0.3, since="/2000", with_signal=number)
    assert again.status == 128 + number
    epochs = [row["epoch"] for row in store.read_epochs()]
    assert epochs == list(range(1, len(epochs) + 1))
    assert f"dense {epochs[-1]}/2000" in again.said and "dense 1/2000" not in again.said
