"""As many threads as it began with: what is kept for that, and when it counts."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pruner.checks import ConfigError
from pruner.cli.main import main
from pruner.compose.cells import Cell
from pruner.compose.composing import Composer
from pruner.config import Config
from pruner.run import threads
from pruner.run.job import execute
from pruner.run.threads import settle_threads, threads_restored
from pruner.store.folders import RunFolder
from pruner.sweep import sweep
from pruner.sweep.launchers import Share
from pruner.training import checkpoint
from pruner.training.checkpoint import Checkpoint
from pruner.training.trainer import Trainer
from tests import killing
from tests.images import write_digits
from tests.run.test_resume import RECIPE, Killed, die, killed
from tests.sweeping import QUICK


@pytest.fixture
def torch_has(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many threads torch was told to take, of which none is started here; it has the last one."""
    said = [1]
    monkeypatch.setattr(torch, "get_num_threads", lambda: said[-1])
    monkeypatch.setattr(torch, "set_num_threads", said.append)
    return said


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def test_what_began_goes_on_with_as_many(
    torch_has: list[int], folder: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    """From its first moment on, where it is left open; whatever is asked for, once something is saved."""
    caplog.set_level("INFO")
    settle_threads(folder, 0)
    for saved, asked in ((False, 0), (True, 0), (True, 4)):
        if saved:
            folder.checkpoint.mkdir(exist_ok=True)
        torch_has.append(4)
        settle_threads(folder, asked)
        assert torch_has[-1] == 1
    assert (
        caplog.messages == ["goes on with as many threads as it began with: 1, not 4 (others change the last bits)"] * 3
    )
    folder.tidy(done=True)
    assert list(folder.path.iterdir()) == []


def test_what_is_asked_for_counts_where_nothing_is_saved_yet(torch_has: list[int], folder: RunFolder) -> None:
    settle_threads(folder, 0)
    torch_has.append(4)
    settle_threads(folder, 4)
    torch_has.append(2)
    settle_threads(folder, 0)
    assert torch_has[-1] == 4


def test_another_number_of_processes_has_threads_of_its_own(
    torch_has: list[int], folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.checkpoint.mkdir()
    settle_threads(folder, 0)
    monkeypatch.setattr(threads, "world", lambda: 8)
    torch_has.append(4)
    settle_threads(folder, 0)
    assert torch_has[-1] == 4


def test_what_an_older_version_began_has_the_threads_of_now(torch_has: list[int], folder: RunFolder) -> None:
    folder.checkpoint.mkdir()
    torch_has.append(4)
    settle_threads(folder, 0)
    assert torch_has[-1] == 4


def test_a_damaged_file_is_named(folder: RunFolder) -> None:
    folder.threads.write_text('{"threads": "many", "processes": 1}')
    with pytest.raises(ConfigError, match=r"threads\.json\.threads=many: expected a whole number"):
        settle_threads(folder, 0)


def test_threads_are_as_before_afterwards(torch_has: list[int]) -> None:
    with pytest.raises(KeyError), threads_restored():
        torch_has.append(4)
        raise KeyError
    assert torch_has[-1] == 1


def test_a_dense_network_goes_on_with_its_own_threads(
    torch_has: list[int], tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run, with other threads, ends what the first one began, and then does its own work with its own."""
    monkeypatch.setattr(checkpoint, "SHARE", float("inf"))
    with monkeypatch.context() as patch:
        die(patch, Checkpoint, "save", at=1, after=True)
        killed(tiny_config(recipe=RECIPE))
    step, had = Trainer._step, []

    def noted(self: Trainer, number: int, x: Tensor, y: Tensor) -> Tensor:
        had.append((self.name, torch_has[-1]))
        return step(self, number, x, y)

    monkeypatch.setattr(Trainer, "_step", noted)
    assert execute(tiny_config("gmp", recipe=RECIPE, threads=4)) == 0
    assert list(dict.fromkeys(had)) == [("dense", 1), ("prune", 4), ("finetune", 4)]


@pytest.mark.parametrize(
    ("words", "each"),
    [
        ([], 2),  # four cells on eight cores
        (["hydra.sweeper.max_batch_size=2"], 4),
        (["hydra.launcher.n_jobs=3"], 2),
        (["hydra.launcher.n_jobs=1"], 0),  # one after the other: all threads
        (["threads=3"], 3),
    ],
)
@pytest.mark.parametrize("done", [[], pytest.param([0], marks=pytest.mark.long), [0, 1, 2]])
def test_a_cell_has_as_many_threads_whichever_are_left(
    done: list[int], words: list[str], each: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[int, int] = {}

    def launch(hydra: Composer, master: Any, batch: list[Cell], task: Any, part: Share) -> list[tuple[int, str]]:
        given.update({cell.number - 1: cell.config.threads or part.threads for cell in batch})
        return [(0, "")] * len(batch)

    def finished(self: RunFolder) -> dict[str, Any] | None:
        seed = next(seed for seed in range(4) if f"-s{seed}-" in self.path.name)
        return {"status": "done", "accuracy": 50.0} if seed in done else None

    monkeypatch.setattr(sweep, "_launch", launch)
    monkeypatch.setattr(sweep, "cores_here", lambda: 8)
    monkeypatch.setattr(RunFolder, "finished", finished)
    assert main(["-m", *QUICK, "seed=0,1,2,3", f"output_dir={tmp_path}", *words]) == 0
    assert given == {seed: each for seed in range(4) if seed not in done}


def test_a_sweep_that_was_killed_ends_in_the_bytes_of_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cell that is left alone has the threads that it had beside the other, on real images, where that shows.

    scripts/kill_sweep.py has launchers, processes and kills for real.
    """
    images = write_digits(tmp_path / "images", 240)
    words = ["-m", *images, "model=lenet5", "method=magnitude", "recipe=smoke", "device=cpu", "seed=0,1"]
    begun = itertools.count(1)

    def launch(hydra: Any, master: Any, cells: list[Cell], task: Any, part: Share) -> list[tuple[int, str]]:
        for cell in cells:
            if next(begun) == 4:
                raise Killed
            execute(replace(cell.config, threads=part.threads or 2))  # torch would take all cores
        return [(0, "")] * len(cells)

    monkeypatch.setattr(sweep, "cores_here", lambda: 2)
    monkeypatch.setattr(sweep, "_launch", launch)
    statuses = [main([*words, f"output_dir={tmp_path / name}"]) for name in ("alone", "killed", "killed")]
    assert statuses == [0, 130, 0] and next(begun) == 6
    found, expected = (sorted((tmp_path / name).glob("imagefolder-*/*/result.csv")) for name in ("killed", "alone"))
    for one, other in zip(found, expected, strict=True):
        killing.same(RunFolder(one.parent), RunFolder(other.parent))
