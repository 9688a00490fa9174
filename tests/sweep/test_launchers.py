"""Sweeps on more than one process: each launcher gives the rows of a serial sweep, and shares the machine fairly."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import pytest

from pruner.checks import ConfigError
from pruner.compose.validate import check_launcher
from pruner.store.row import Row
from pruner.sweep import gpus
from pruner.sweep.gpus import own_gpu
from pruner.sweep.launchers import BASIC, Share, share
from tests.sweeping import (
    ONE_BY_ONE,
    QUICK,
    gathered,
    own_folder,
    pruner,
    started,
    without_times,
)

JOBLIB = {"_target_": "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher", "n_jobs": -1}
LOCAL = {"_target_": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher", "cpus_per_task": 2}
SLURM = {"_target_": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher", "cpus_per_task": 4}


def ray(cpus: float | None, gpu: float | None) -> dict[str, Any]:
    remote = {"num_cpus": cpus, "num_gpus": gpu}
    return {
        "_target_": "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher",
        "ray": {"init": {}, "remote": remote},
    }


# ---------------------------------------------------------------- the machine's share


@pytest.mark.parametrize(
    ("n_jobs", "cells", "cores", "gpu_slots", "threads", "at_once", "each"),
    [
        (-1, 99, 8, 0, 0, 8, 1),
        (-1, 2, 16, 0, 0, 2, 8),  # as many as there are cells to run
        (-1, 3, 16, 0, 0, 3, 5),
        (-1, 99, 32, 4, 0, 4, 8),  # no more cells than there are GPUs for
        (-1, 99, 4, 8, 0, 8, 1),
        (-1, 99, 16, 0, 4, 4, 4),  # nor than threads that they ask for
        (-1, 99, 16, 4, 8, 4, 4),
        (3, 99, 8, 0, 0, 3, 2),  # what is asked for is what is done
        (16, 99, 8, 0, 0, 16, 1),
        (3, 99, 8, 1, 8, 3, 2),
        (-2, 99, 8, 0, 0, 7, 1),
    ],
)
def test_cells_at_once_and_their_threads(
    n_jobs: int, cells: int, cores: int, gpu_slots: int, threads: int, at_once: int, each: int
) -> None:
    launcher = {**JOBLIB, "n_jobs": n_jobs}
    expected = Share({**JOBLIB, "n_jobs": at_once}, each, workers=True)
    assert share(launcher, cells, cores, gpu_slots, threads) == expected


@pytest.mark.parametrize(
    ("n_jobs", "cells", "cores", "gpu_slots", "threads"),
    [
        (-1, 1, 16, 0, 0),
        (4, 1, 16, 0, 0),
        (-1, 9, 1, 0, 0),
        (-1, 9, 16, 1, 0),
        (-1, 9, 8, 0, 8),
        (1, 9, 8, 0, 0),
        (-9, 9, 8, 0, 0),
        (-1, 0, 8, 0, 0),
    ],
)
def test_cells_that_run_alone_have_this_process_and_all_its_threads(
    n_jobs: int, cells: int, cores: int, gpu_slots: int, threads: int
) -> None:
    assert share({**JOBLIB, "n_jobs": n_jobs}, cells, cores, gpu_slots, threads) == Share(BASIC)


def test_cells_that_are_left_have_the_threads_that_all_of_them_had() -> None:
    whole = share(JOBLIB, 4, 8, 0)
    assert whole == Share({**JOBLIB, "n_jobs": 4}, 2, workers=True)
    assert whole.among(9) == whole.among(4) == whole
    assert whole.among(3) == Share({**JOBLIB, "n_jobs": 3}, 2, workers=True)
    assert whole.among(1) == whole.among(0) == Share(BASIC, 2)
    for other in (Share(BASIC), Share(SLURM, 4, heard=False), Share(LOCAL, 2, 4, heard=False)):
        assert other.among(1) == other


@pytest.mark.parametrize(
    ("launcher", "cores", "gpu_slots", "expected"),
    [
        (BASIC, 16, 0, Share(BASIC)),
        (BASIC, 16, 4, Share(BASIC)),
        (LOCAL, 8, 0, Share(LOCAL, 2, 4, heard=False)),
        (LOCAL, 8, 2, Share(LOCAL, 2, 2, heard=False)),
        (LOCAL, 1, 0, Share(LOCAL, 2, 1, heard=False)),
        (SLURM, 8, 0, Share(SLURM, 4, finds_gpu=False, heard=False)),
        (ray(1, None), 8, 0, Share(ray(1, 0), 1, finds_gpu=False, heard=False)),
        (ray(2, None), 8, 4, Share(ray(2, 1), 2, finds_gpu=False, heard=False)),
        (ray(0.5, 0.25), 8, 4, Share(ray(0.5, 0.25), 1, finds_gpu=False, heard=False)),
    ],
)
def test_what_cells_of_the_other_launchers_get(
    launcher: dict[str, Any], cores: int, gpu_slots: int, expected: Share
) -> None:
    assert share(launcher, 99, cores, gpu_slots) == expected


def test_a_launcher_that_is_not_installed_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"submitit_slurm is not installed; .* pip install 'pruner\[submitit\]'"):
        check_launcher("submitit_slurm")
    check_launcher("basic")


@pytest.mark.parametrize(
    ("devices", "slots"),
    [
        (["auto", "cuda", "cpu"], 6),
        (["cpu"], 0),
        ([], 0),
        (["cuda:1"], 3),
        (["cuda:0", "cuda:1", "auto"], 3),
    ],
)
def test_how_many_cells_the_gpus_take(two_gpus: None, devices: list[str], slots: int) -> None:
    assert gpus.room(devices, 3) == slots


@pytest.mark.parametrize(
    ("count", "visible", "names"),
    [(0, None, []), (2, None, ["0", "1"]), (2, "3,5", ["3", "5"]), (1, "GPU-8a3f, 7", ["GPU-8a3f"]), (1, "", ["0"])],
)
def test_gpus_are_called_as_on_the_machine(count: int, visible: str | None, names: list[str]) -> None:
    assert gpus.names(count, visible) == names


def test_every_gpu_is_taken_once_before_one_is_taken_twice() -> None:
    assert gpus.slots(["3", "5"], 2) == [(0, "3-0"), (1, "5-0"), (0, "3-1"), (1, "5-1")]


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "cuda_devices", lambda: 2)
    monkeypatch.setattr("pruner.sweep.gpus.tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_no_two_cells_land_on_one_gpu(two_gpus: None) -> None:
    waiting, got = threading.Event(), []

    def third() -> None:
        waiting.set()
        with own_gpu("auto", 1) as device:
            got.append(device)

    with own_gpu("auto", 1) as first:
        with own_gpu("cuda", 1) as second:
            assert (first, second) == ("cuda:0", "cuda:1")
            thread = threading.Thread(target=third)
            thread.start()
            assert waiting.wait(10)
            thread.join(2 * gpus.POLL)
            assert thread.is_alive() and got == []
        thread.join(60)
        assert got == ["cuda:1"]  # the one that was free, while the first cell still has the other


def test_cells_share_a_gpu_where_that_is_asked_for(two_gpus: None) -> None:
    with own_gpu("auto", 2) as a, own_gpu("auto", 2) as b, own_gpu("auto", 2) as c:
        assert [a, b, c] == ["cuda:0", "cuda:1", "cuda:0"]


@pytest.mark.parametrize(("device", "each"), [("cpu", 1), ("cuda:1", 1), ("auto", 0)])
def test_a_device_that_is_named_is_left_alone(two_gpus: None, tmp_path: Path, device: str, each: int) -> None:
    with own_gpu(device, each) as given:
        assert given == device
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- the presets, for real


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return own_folder(tmp_path_factory.mktemp("mine") / "conf")


@pytest.fixture(scope="module")
def serial(mine: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """The rows of six runs that are done and of one that fails, run one after the other."""
    folder = tmp_path_factory.mktemp("serial")
    done = pruner("--config-dir", str(mine), "experiment=broken", ONE_BY_ONE, "threads=1", cwd=folder)
    assert done.returncode == 1, done.stderr
    rows = without_times(gathered(folder / "outputs"))
    assert [row["status"] for row in rows] == ["done"] * 6 + ["failed"]
    return rows


def gives_the_same(words: list[str], serial: list[Row], mine: Path, folder: Path) -> None:
    done = pruner("--config-dir", str(mine), "experiment=broken", *words, cwd=folder)
    assert done.returncode == 1, done.stderr
    assert without_times(gathered(folder / "outputs")) == serial
    said = "7 cells: 6 done, 1 failed\nfailed: [7/7] method=breaks seed=0: RuntimeError: this method is broken; see "
    assert said in done.stdout
    assert done.stdout.count(": done, accuracy") == 6 and done.stdout.count("method=breaks seed=0: failed: ") == 1
    assert [path.name for path in folder.iterdir()] == ["outputs"]


@pytest.mark.slow
def test_cells_at_once_give_the_rows_of_a_serial_sweep(serial: list[Row], mine: Path, tmp_path: Path) -> None:
    gives_the_same(["hydra.launcher.n_jobs=2", "threads=1"], serial, mine, tmp_path)


@pytest.mark.engines
@pytest.mark.parametrize("launcher", ["slurm_local", "ray_cluster"])
def test_a_launcher_gives_the_rows_of_a_serial_sweep(
    launcher: str, serial: list[Row], mine: Path, tmp_path: Path
) -> None:
    gives_the_same([f"hydra/launcher={launcher}"], serial, mine, tmp_path)


@pytest.mark.slow
@pytest.mark.long  # the order that makes it so: test_where_cells_run_at_once_dense_networks_are_trained_first
def test_cells_at_once_train_their_dense_network_once(tmp_path: Path) -> None:
    words = ["method=gmp,magnitude", "sparsity=0.3,0.5,0.7", "hydra.launcher.n_jobs=2"]
    done = pruner("-m", *QUICK, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    logs = [log.read_text(encoding="utf-8") for log in started(tmp_path / "outputs")]
    assert len(logs) == len(gathered(tmp_path / "outputs")) == 6
    assert sum(log.count(" dense 1/1") for log in logs) == 1
    assert sum(log.count("dense network loaded from") for log in logs) == 5
    mixed = [line for line in done.stderr.splitlines() if not re.match(r"\[[1-6]/6\] \S", line)]
    assert mixed == []
