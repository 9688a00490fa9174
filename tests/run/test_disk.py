"""A disk that is full, read-only or gone: one line, what was complete stays valid, and a later start goes on.

Where this process may mount a file system, a small one in memory is the disk; elsewhere faults are put in at the calls
that write.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pruner.checks import ConfigError
from pruner.cli.main import main
from pruner.config import Config
from pruner.export.networks import load_model
from pruner.run.job import execute
from pruner.store.folders import DenseStore, RunFolder
from pruner.store.row import read_rows
from pruner.training import checkpoint
from pruner.training.trainer import Trainer
from tests import killing
from tests.disks import Disk, Faulty, Mounted, size
from tests.sweeping import QUICK


@pytest.fixture(params=["mounted", pytest.param("faulty", marks=pytest.mark.long)])
def disk(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """Both kinds where mounting is permitted; else the faulty one twice, since a skipped test tests nothing."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "mounted":
        try:
            mounted = Mounted(folder)
        except (OSError, subprocess.CalledProcessError):
            yield Faulty(folder, monkeypatch)
        else:
            yield mounted
            mounted.close()
    else:
        yield Faulty(folder, monkeypatch)


@pytest.fixture(autouse=True)
def saved_after_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SHARE", float("inf"))


def folder_of(config: Config) -> RunFolder:
    return RunFolder(Path(config.output_dir) / config.run_id)


def one_line_of_failure(said: str) -> str:
    """The one line of stderr that says how the run failed."""
    (line,) = [line for line in said.splitlines() if line.startswith("the run failed: ")]
    assert "Traceback" not in said and "Logging error" not in said
    return line


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_disk_that_fills_up(
    share: float, disk: Disk, tiny_config: Callable[..., Config], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """There is room for a share of what the run needs: it ends in the dense phase or later, and goes on later."""
    config = tiny_config("dtp", recipe={"finetune_epochs": 2})
    needed = needs(config)
    full = replace(config, output_dir=str(disk.folder / "outputs"))
    disk.resize(int(share * needed))
    capfd.readouterr()
    assert execute(full) == 1
    line = one_line_of_failure(capfd.readouterr().err)
    assert "No space left on device" in line and str(disk.folder) in line
    assert not [path for path in disk.folder.rglob("*") if path.suffix == ".tmp"]
    assert folder_of(full).finished() is None
    DenseStore(Path(full.output_dir) / full.dense_id).load()  # whole or not there
    for state in disk.folder.rglob("state.pt"):
        assert checkpoint.Checkpoint(state.parent).load()

    disk.resize(1 << 30)
    assert execute(full) == 0
    killing.same(folder_of(full), folder_of(config))


def needs(config: Config) -> int:
    """What the files of a run take at most, all at once: it is executed for that, where there is room."""
    sizes = []
    with pytest.MonkeyPatch.context() as patch:
        replaced = os.replace

        def watched(source: Any, target: Any) -> None:
            sizes.append(size(Path(config.output_dir)))
            replaced(source, target)

        patch.setattr(os, "replace", watched)
        assert execute(config) == 0
    return max(sizes)


def test_a_full_disk_leaves_finished_runs_as_they_are(
    disk: Disk, tiny_config: Callable[..., Config], capfd: pytest.CaptureFixture[str]
) -> None:
    done = tiny_config(output_dir=str(disk.folder / "outputs"))
    assert execute(done) == 0
    before = {path: path.read_bytes() for path in folder_of(done).path.iterdir()}
    disk.resize(disk.used + 4096)
    capfd.readouterr()
    assert execute(replace(done, seed=1)) == 1
    one_line_of_failure(capfd.readouterr().err)
    assert execute(done) == 0 and "already done" in capfd.readouterr().out
    assert {path: path.read_bytes() for path in folder_of(done).path.iterdir()} == before
    load_model(folder_of(done).path)


def test_a_folder_that_cannot_be_written_is_refused(
    disk: Disk, tiny_config: Callable[..., Config], capfd: pytest.CaptureFixture[str]
) -> None:
    done = tiny_config(output_dir=str(disk.folder / "outputs"))
    assert execute(done) == 0
    disk.read_only()
    assert execute(done) == 0  # nothing is written for that
    with pytest.raises(ConfigError, match="Read-only file system") as refusal:
        execute(replace(done, seed=1))
    assert str(disk.folder) in str(refusal.value) and "\n" not in str(refusal.value)
    capfd.readouterr()
    words = [*QUICK, "threads=1", "method=magnitude", f"output_dir={disk.folder / 'outputs'}"]
    for more in ([], ["-m", "seed=0,1"]):
        assert main([*words, *more]) == 2
        said = capfd.readouterr().err
        assert said.startswith("pruner: ") and said.count("\n") == 1 and "Read-only file system" in said
    disk.resize(1 << 30)
    assert execute(replace(done, seed=1)) == 0


@pytest.mark.parametrize("epoch", [1, 4])
@pytest.mark.parametrize("what", ["run", "outputs"])
def test_a_folder_that_vanishes(
    what: str,
    epoch: int,
    tiny_config: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """It is not made anew without its lock; a later start begins again."""
    config = tiny_config("dtp", recipe={"finetune_epochs": 2})
    gone = Path(config.output_dir) if what == "outputs" else folder_of(config).path
    with monkeypatch.context() as patch:
        numbers, calls = Trainer._numbers, iter(range(1, 100))

        def vanish(self: Trainer) -> dict[str, Any]:
            if next(calls) == epoch:
                shutil.rmtree(gone)
            return numbers(self)

        patch.setattr(Trainer, "_numbers", vanish)
        assert execute(config) == 1
    line = one_line_of_failure(capfd.readouterr().err)
    assert "the folder is gone" in line and str(gone) in line
    assert not gone.exists()
    assert execute(config) == 0
    row = folder_of(config).finished()
    assert row is not None and folder_of(config).config.exists()


def test_a_sweep_on_a_full_disk_ends_with_what_there_is(
    disk: Disk, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = disk.folder / "outputs"
    words = [*QUICK, "threads=1", "method=magnitude", f"output_dir={outputs}"]
    assert main([*words, "seed=0"]) == 0
    disk.resize(disk.used + 32 * 4096)
    capfd.readouterr()
    assert main(["-m", *words, "seed=0,1"]) == 1
    said = capfd.readouterr()
    assert "2 cells: 1 done, 1 " in said.out and "Traceback" not in said.err
    disk.resize(1 << 30)
    assert main(["-m", *words, "seed=0,1"]) == 0
    assert {row["status"] for path in outputs.glob("synthetic-*/*/result.csv") for row in read_rows(path)} == {"done"}
