"""Sweeps: which cells there are, what is run and what is not, what is left at the end."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from pruner.cli.main import main
from pruner.compose.cells import Cell, cells_of, general
from pruner.compose.choices import conf_folder
from pruner.compose.composing import Composer, composer
from pruner.config import Config
from pruner.run import phases
from pruner.run.job import LATER, execute
from pruner.store.folders import RunFolder
from pruner.sweep import sweep
from tests.sweeping import ONE_BY_ONE, QUICK, command, environment, gathered, own_folder, pruner, started

TWELVE = ["-m", *QUICK, "threads=1", "method=gmp,magnitude", "sparsity=0.5,0.7,0.9", "seed=0,1"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))  # --config-dir adds to both
    monkeypatch.setenv("PYTHONPATH", str(conf_folder().parent))


@pytest.fixture
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return own_folder(tmp_path_factory.mktemp("mine") / "conf")


@contextlib.contextmanager
def hydra(*folders: Path) -> Iterator[Composer]:
    with composer([conf_folder(), *folders], "config") as made:
        yield made


def cells(words: list[str], *folders: Path) -> list[Cell]:
    with hydra(*folders) as made:
        return cells_of(made, made.master(general(made, words)), words)[1]


def written(folder: Path, grids: str, params: str = "{}") -> Path:
    """A folder with the experiment `mine`."""
    (folder / "experiment").mkdir()
    body = f"hydra:\n  mode: MULTIRUN\n  sweeper:\n    params: {params}\n    grids: {grids}\n"
    (folder / "experiment" / "mine.yaml").write_text(f"# @package _global_\n# a trial\n{body}")
    return folder


def shown(found: list[Cell]) -> list[tuple[Any, ...]]:
    return [(c.config.method.label, c.config.model.label, c.config.sparsity, c.config.seed) for c in found]


# ---------------------------------------------------------------- cells


def test_grids_are_a_union_of_products(tmp_path: Path) -> None:
    grids = '[{model: vgg16, sparsity: "0.7,0.95"}, {model: "resnet20,resnet32", sparsity: 0.5, method: gmp}]'
    found = cells(["experiment=mine"], written(tmp_path, grids, '{seed: "0,1"}'))
    assert shown(found) == [
        ("dtp", "vgg16", 0.7, 0),
        ("dtp", "vgg16", 0.95, 0),
        ("dtp", "vgg16", 0.7, 1),
        ("dtp", "vgg16", 0.95, 1),
        ("gmp", "resnet20", 0.5, 0),
        ("gmp", "resnet32", 0.5, 0),
        ("gmp", "resnet20", 0.5, 1),
        ("gmp", "resnet32", 0.5, 1),
    ]
    assert [cell.number for cell in found] == list(range(1, 9))
    assert found[0].name == "[1/8] seed=0 model=vgg16 sparsity=0.7"


def test_words_win_and_equal_cells_run_once(tmp_path: Path) -> None:
    folder = written(tmp_path, '[{model: vgg16, sparsity: "0.7,0.95"}, {model: resnet20, sparsity: 0.7}]', "{seed: 3}")
    assert shown(cells(["experiment=mine", "model=resnet56", "seed=1,2"], folder)) == [
        ("dtp", "resnet56", 0.7, 1),
        ("dtp", "resnet56", 0.7, 2),
        ("dtp", "resnet56", 0.95, 1),
        ("dtp", "resnet56", 0.95, 2),
    ]
    assert len(cells(["experiment=mine", "model=resnet56", "sparsity=0.5"], folder)) == 1


def test_a_sweep_without_an_experiment_is_a_product_of_its_words() -> None:
    found = cells(["method=gmp,random", "sparsity=0.5", "seed=range(0,2)"])
    assert shown(found) == [(method, "resnet20", 0.5, seed) for method in ("gmp", "random") for seed in (0, 1)]
    assert found[3].name == "[4/4] method=random seed=1"


def test_a_key_that_the_default_method_lacks_can_be_swept() -> None:
    found = cells(["method=gmp,acdc", "method.score.name=snip"])
    assert [cell.config.method.options["score"] for cell in found] == [{"name": "snip"}] * 2


def test_one_run_of_an_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """hydra.mode=RUN is Hydra's own way to say so; the experiment's choices hold, its params and grids do not."""
    folder = written(tmp_path, "[{model: vgg16}]")
    got: list[Config] = []

    def execute(config: Config) -> int:
        got.append(config)
        return 0

    monkeypatch.setattr("pruner.run.job.execute", execute)
    assert main(["--config-dir", str(folder), "experiment=mine", "hydra.mode=RUN"]) == 0
    assert [config.model.label for config in got] == ["resnet20"]


# ---------------------------------------------------------------- running


def test_a_sweep_ends_with_its_table_and_rows_and_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-m", *QUICK, ONE_BY_ONE, "threads=1", "method=gmp,magnitude", "seed=0,1", "output_dir=out"]
    assert main(words) == 0
    said = capsys.readouterr().out
    rows = gathered(tmp_path / "out")
    assert [(row["status"], row["method"], row["seed"]) for row in rows] == [
        ("done", "gmp", 0),
        ("done", "gmp", 1),
        ("done", "magnitude", 0),
        ("done", "magnitude", 1),
    ]
    (results,) = (tmp_path / "out").glob("sweeps/*/results.csv")
    assert said.endswith(f"4 cells: 4 done\nresults: {results}\n")
    assert "synthetic lenet_300_100" in said and "±" in said

    def refuse(config: Config) -> None:
        raise AssertionError("nothing is prepared")

    monkeypatch.setattr(phases, "prepare", refuse)
    assert main([*words[:-2], "seed=0", "output_dir=out"]) == 0
    again = capsys.readouterr()
    accuracy = f"{rows[0]['accuracy']:.2f}"
    assert f"[1/2] method=gmp: already done, accuracy {accuracy}\n" in again.out and again.err == ""
    assert "2 cells: 2 done\n" in again.out


def test_a_failed_cell_leaves_its_row_and_log_and_is_tried_again(
    mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config-dir", str(mine), "experiment=broken", ONE_BY_ONE, "threads=1", "output_dir=out"]
    assert main(words) == 1
    said = capsys.readouterr().out
    (log,) = (tmp_path / "out").glob("*/breaks-*/run.log")
    shown = log.relative_to(tmp_path)
    error = "RuntimeError: this method is broken"
    assert f"7 cells: 6 done, 1 failed\nfailed: [7/7] method=breaks seed=0: {error}; see {shown}\n" in said
    assert "Traceback (most recent call last)" in log.read_text() and error in log.read_text()
    rows = gathered(tmp_path / "out")
    assert [row["status"] for row in rows] == ["done"] * 6 + ["failed"]
    assert rows[6]["error"] == error
    sys.modules.pop("breaks_always")
    (mine / "breaks_always.py").write_text("from pruner.methods.one_shot import OneShot as Breaks\n")
    assert main(words) == 0
    assert "already done" in capsys.readouterr().out
    assert [row["status"] for row in gathered(tmp_path / "out")] == ["done"] * 7


def test_an_interrupted_sweep_says_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare, prepared = phases.prepare, []

    def once(config: Config) -> Any:
        prepared.append(config)
        if len(prepared) == 2:
            raise KeyboardInterrupt
        return prepare(config)

    monkeypatch.setattr(phases, "prepare", once)
    words = ["-m", *QUICK, ONE_BY_ONE, "threads=1", "method=magnitude", "seed=0,1,2", "output_dir=out"]
    assert main(words) == 130
    said = capsys.readouterr()
    assert "3 cells: 1 done, 2 not run\nresults: " in said.out and said.err.endswith("pruner: interrupted\n")
    assert [row["seed"] for row in gathered(tmp_path / "out")] == [0]


def test_what_fails_before_the_first_epoch_leaves_a_row_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(config: Config) -> None:
        raise MemoryError("no room for the images")

    monkeypatch.setattr(phases, "prepare", fail)
    assert main(["-m", *QUICK, ONE_BY_ONE, "seed=0,1"]) == 1
    assert "2 cells: 0 done, 2 failed\n" in capsys.readouterr().out
    assert [row["error"] for row in gathered(tmp_path / "outputs")] == ["MemoryError: no room for the images"] * 2
    assert all("Traceback" in log.read_text() for log in started(tmp_path / "outputs"))


def test_where_cells_run_at_once_dense_networks_are_trained_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*QUICK, "seed=0,1,2", "method=gmp,magnitude", f"output_dir={tmp_path}"]
    orders = []

    def launch(hydra: Composer, master: Any, batch: list[Cell], *_: Any) -> list[tuple[int, str]]:
        orders.append([cell.number for cell in batch])
        return [(0, "")] * len(batch)

    monkeypatch.setattr(sweep, "_launch", launch)
    at_once = "hydra.launcher.n_jobs=2"
    assert main(["-m", *words, at_once]) == main(["-m", *words, ONE_BY_ONE]) == 0
    seed_0 = cells(words)[0].dense
    seed_0.path.mkdir(parents=True)
    seed_0.info.touch()
    assert main(["-m", *words, at_once]) == 0
    assert orders == [[1, 3, 5, 2, 4, 6], [1, 2, 3, 4, 5, 6], [3, 5, 1, 2, 4, 6]]


class Seen(Launcher):
    """Runs nothing: says what config it was made with, or set up with later."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        return [JobReturn(status=JobStatus.COMPLETED, _return_value=(1, "seen")) for _ in job_overrides]


def test_cells_are_composed_under_the_launcher_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another one runs them: Hydra 1.4 refuses a cell whose launcher is not that of its sweep."""
    launcher = Seen()

    def instantiate(plugins: Plugins, **given: Any) -> Launcher:
        launcher.setup(**given)
        return launcher

    monkeypatch.setattr(Plugins, "instantiate_launcher", instantiate)
    assert main(["-m", *QUICK, "device=cpu", "hydra.launcher.n_jobs=4"]) == 1
    with hydra() as made:
        made.cell(launcher.config, ["device=cpu"])
        assert HydraConfig.get().launcher == launcher.config.hydra.launcher
    assert launcher.config.hydra.launcher.n_jobs == 4


def test_sweeps_that_begin_in_one_second_have_a_folder_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "_launched", lambda *_: iter([]))
    words = ["-m", *QUICK, "seed=0,1", f"output_dir={tmp_path}"]
    by_the_year = r"hydra.sweep.dir='${output_dir}/sweeps/${now:%Y}'"
    for _ in range(3):
        assert main([*words, by_the_year]) == 0
        assert main([*words, "hydra.sweep.dir=mine"]) == 0
    year = time.strftime("%Y")
    assert sorted(path.name for path in (tmp_path / "sweeps").iterdir()) == [year, f"{year}-2", f"{year}-3"]
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/sweep.yaml")] == ["mine/sweep.yaml"]


def test_a_run_that_another_process_holds_is_left_for_later(tiny_config: Any) -> None:
    config = tiny_config()
    folder = RunFolder(Path(config.output_dir) / config.run_id)
    assert not folder.held()
    with folder.lock():
        assert folder.held()
        assert execute(config, "[1/1]", wait=False) == LATER
    assert not folder.held() and not folder.path.exists()


# ---------------------------------------------------------------- several processes


@pytest.mark.slow
@pytest.mark.long  # its parts: test_workers_end_with_their_sweep, and a killed sweep in test_threads
def test_a_sweep_that_was_killed_goes_on(tmp_path: Path) -> None:
    words = command(*TWELVE, f"output_dir={tmp_path}")
    with subprocess.Popen(
        words, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as first:
        while len(list(tmp_path.glob("synthetic-*/*/result.csv"))) < 5:
            assert first.poll() is None, first.communicate()[1]
            time.sleep(0.01)
        first.send_signal(signal.SIGKILL)
    assert first.returncode == -signal.SIGKILL and list(tmp_path.glob("sweeps/*/results.csv")) == []
    second = pruner(*TWELVE, f"output_dir={tmp_path}", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("already done") >= 5
    rows = gathered(tmp_path)
    assert len({row["run_id"] for row in rows}) == len(rows) == 12
    assert {row["status"] for row in rows} == {"done"}


@pytest.mark.long
def test_two_shells_do_no_cell_twice(tmp_path: Path) -> None:
    words = command(*TWELVE, f"output_dir={tmp_path}")
    shells = [
        subprocess.Popen(
            words, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = [shell.communicate(timeout=600) for shell in shells]
    assert [shell.returncode for shell in shells] == [0, 0], said
    rows = gathered(tmp_path)
    assert len({row["run_id"] for row in rows}) == len(rows) == 12
    counts = started(tmp_path)
    assert len(counts) == 12 and set(counts.values()) == {1}
    assert sum(out.count(": done, accuracy") for out, _ in said) == 12
    assert all("12 cells: 12 done\n" in out for out, _ in said)


@pytest.mark.slow
def test_what_another_process_holds_is_done_last(tmp_path: Path) -> None:
    """The other process is this one: it holds the first cell until the sweep has nothing else left."""
    words = ["-m", *QUICK, "threads=1", "method=gmp,magnitude", "seed=0,1", f"output_dir={tmp_path}"]
    first = cells([word for word in words if word != "-m"])[0]
    with first.folder.lock():
        sweep = subprocess.Popen(
            command(*words), cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        while len(list(tmp_path.glob("synthetic-*/*/result.csv"))) < 3:
            assert sweep.poll() is None, sweep.communicate()[1]
            time.sleep(0.05)
        assert not first.folder.path.exists() and first.state == "running"
    out, err = sweep.communicate(timeout=600)
    assert sweep.returncode == 0, err
    assert "4 cells: 4 done\n" in out and first.state == "done"
    done = [line[:5] for line in out.splitlines() if ": done, accuracy" in line]
    assert sorted(done[:3]) == ["[2/4]", "[3/4]", "[4/4]"] and done[3:] == ["[1/4]"]
