"""A run seen from outside: done already, failed with a row, refused with nothing written, two at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pruner.checks import ConfigError
from pruner.config import Config
from pruner.methods.one_shot import OneShot
from pruner.methods.options import OneShotOptions
from pruner.run import phases
from pruner.run.job import execute
from pruner.store.folders import RunFolder
from pruner.store.row import read_rows

REPOSITORY = Path(phases.__file__).parents[2]


def folder_of(config: Config) -> RunFolder:
    return RunFolder(Path(config.output_dir) / config.run_id)


def test_a_finished_run_is_not_run_again(
    tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config()
    assert execute(config) == 0
    assert "already done" not in capsys.readouterr().out
    before = {path: path.read_bytes() for path in folder_of(config).path.iterdir()}

    def refuse(config: Config) -> None:
        raise AssertionError("nothing is prepared")

    monkeypatch.setattr(phases, "prepare", refuse)
    assert execute(config) == 0
    said = capsys.readouterr()
    assert said.out.startswith("already done") and str(folder_of(config).path) in said.out
    assert said.err == ""
    assert {path: path.read_bytes() for path in folder_of(config).path.iterdir()} == before


def test_results_go_to_stdout_and_progress_to_stderr_and_run_log(
    tiny_config: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config()
    assert execute(config) == 0
    said, log = capsys.readouterr(), folder_of(config).log.read_text()
    for line in ("dense 2/2", "prune 1/2", "finetune 1/1"):
        assert line in said.err and line in log and line not in said.out
    assert "achieved 0.500000" in said.out and said.out in log


@dataclass(frozen=True)
class How(OneShotOptions):
    how: str = "raise"


class Fails(OneShot):
    """Raises an error of two lines in its second step, or asks for a mask that is not a number."""

    healed = False

    Options = How
    options: How

    def mask(self, step: int) -> Tensor:
        if self.healed or step == 0:
            return self.fixed
        if self.options.how == "raise":
            raise RuntimeError("the first line\nand the second")
        return self.fixed * torch.nan


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("raise", "RuntimeError: the first line and the second"),
        ("nan", "TrainingError: the loss is nan in phase prune, epoch 1, step 2"),
    ],
)
def test_a_failed_run_leaves_a_row_and_runs_again(
    how: str,
    error: str,
    tiny_config: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tiny_config("fails", name=f"{__name__}:Fails", options={"how": how})
    folder = folder_of(config)
    assert execute(config) == 1
    (row,) = read_rows(folder.result)
    assert (row["status"], row["error"]) == ("failed", error)
    assert (row["method"], row["sparsity"], row["seed"]) == ("fails", 0.5, 0)
    assert row["run_id"] == config.run_id and row["accuracy"] is None
    log = folder.log.read_text()
    assert "Traceback (most recent call last)" in log and error.partition(": ")[0] in log
    assert capsys.readouterr().out == ""
    assert folder.finished() is None

    assert execute(config) == 1  # a failed run is not done: it is tried again, and fails again
    monkeypatch.setattr(Fails, "healed", True)
    assert execute(config) == 0
    row_now = folder.finished()
    assert row_now is not None and row_now["error"] is None
    assert not folder.checkpoint.exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "gmp", "options": {"ramp": 1.5}}, r"method\.ramp=1\.5: from 0 to 1"),
        ({"method": "gmp", "options": {"every": 2.5}}, r"method\.every=2\.5: expected a whole number"),
        ({"method": "gmp", "options": {"rampp": 0.5}}, r"method\.rampp=0\.5: no such key; gmp takes ramp, every"),
        ({"method": "magnitude", "options": {"ramp": 0.5}}, r"method\.ramp=0\.5: no such key; magnitude takes"),
        ({"method": "gpm", "name": "gpm"}, r"method=gpm: .*did you mean gmp"),
        ({"name": "no_such_module:Mine"}, r"method=no_such_module:Mine: no module named no_such_module"),
        ({"name": f"{__name__}:Mine"}, r"method=.*:Mine: .* has no Mine"),
        ({"granularity": "filter", "sparsity": 0.999}, r"sparsity=0\.999: .*budget\.min_units=1"),
        ({"model": {"label": "resnet20", "name": "resnet20", "options": {"width": 0}}}, r"model\.width=0"),
        ({"device": "cuda:99"}, r"device=cuda:99: torch cannot use it"),
        ({"device": "no_such_device"}, r"device=no_such_device: torch cannot use it"),
    ],
)
def test_what_is_refused_writes_nothing(
    changes: dict[str, Any], said: str, tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said) as refusal:
        execute(tiny_config(**changes))
    assert "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_the_dense_network_is_trained_once(
    tiny_config: Callable[..., Config], finish: Callable[[Config], RunFolder]
) -> None:
    """Runs that differ in what comes after it share it; another seed needs another."""
    finish(tiny_config())
    (marker,) = Path(tiny_config().output_dir).glob("dense/*/dense.json")
    written = marker.stat().st_mtime_ns
    for changes in ({"method": "dtp"}, {"granularity": "filter", "budget": "macs"}, {"recipe": {"finetune_lr": 0.5}}):
        log = finish(tiny_config(**changes)).log.read_text()
        assert "dense 1/2" not in log and "dense network loaded" in log
    assert marker.stat().st_mtime_ns == written
    finish(tiny_config(seed=1))
    assert len(list(Path(tiny_config().output_dir).glob("dense/*/dense.json"))) == 2


# Two processes that have imported everything start together: each leaves a file and waits for the other's.
TOGETHER = """
import json, sys, time
from pathlib import Path
import pruner.run.phases
from pruner.config import from_dict
from pruner.run.job import execute
Path(sys.argv[1]).touch()
while not Path(sys.argv[2]).exists():
    time.sleep(0.001)
sys.exit(execute(from_dict(json.loads(sys.stdin.read()))))
"""


def both(first: Config, second: Config, folder: Path) -> list[str]:
    """Executes two runs at the same time; what each said on stdout and stderr together."""
    names = [str(folder / "first"), str(folder / "second")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    processes = []
    for config, marks in ((first, names), (second, names[::-1])):
        command = [sys.executable, "-c", TOGETHER, *marks]
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(config.to_dict()))
        process.stdin.close()
        processes.append(process)
    said = []
    for process in processes:
        with process:
            assert process.stdout is not None
            said.append(process.stdout.read())
        assert process.returncode == 0, said[-1]
    return said


@pytest.mark.slow
def test_two_processes_share_one_dense_network(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    recipe = {"dense_epochs": 20}  # a second, so that the two meet
    first, second = (tiny_config(method, recipe=recipe) for method in ("magnitude", "random"))
    said = both(first, second, tmp_path)
    assert sorted(text.count("dense 1/20") for text in said) == [0, 1]
    assert sorted(text.count("dense network loaded") for text in said) == [0, 1]
    rows = [folder_of(config).finished() for config in (first, second)]
    assert rows[0] is not None and rows[1] is not None
    assert rows[0]["dense_accuracy"] == rows[1]["dense_accuracy"]


@pytest.mark.slow
def test_two_processes_with_one_run_do_it_once(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny_config(recipe={"dense_epochs": 20})
    said = both(config, config, tmp_path)
    assert sorted(text.count("already done") for text in said) == [0, 1]
    assert sorted(text.count("prune 1/2") for text in said) == [0, 1]
