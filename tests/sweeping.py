"""Small sweeps for tests: LeNet-300-100 on made-up images, one epoch a phase, and an experiment with a broken cell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pruner.compose.choices import conf_folder
from pruner.store.row import Row, read_rows

QUICK = ["dataset=synthetic", "model=lenet_300_100", "recipe=smoke", "device=cpu"]
ONE_BY_ONE = "hydra/launcher=basic"  # cells in this very process, in order, where what a test has patched holds
TIMES = ("dense_seconds", "prune_seconds", "finetune_seconds", "latency_ms", "dense_latency_ms")

# Six cells that can be done, and a seventh whose method raises an error in its first step.
EXPERIMENT = """\
# @package _global_
# six runs and one that fails
defaults:
  - override /dataset: synthetic
  - override /model: lenet_300_100
  - override /recipe: smoke
hydra:
  mode: MULTIRUN
  sweeper:
    params: {sparsity: "0.9"}
    grids:
      - {method: "gmp,magnitude", seed: "0,1,2"}
      - {method: breaks, seed: "0"}
"""
BREAKS = """\
from pruner.methods.one_shot import OneShot


class Breaks(OneShot):
    def mask(self, step):
        raise RuntimeError("this method is broken")
"""


def own_folder(folder: Path) -> Path:
    """A --config-dir with the experiment `broken`, its method, and the method's module."""
    for group in ("experiment", "method"):
        (folder / group).mkdir(parents=True)
    (folder / "experiment" / "broken.yaml").write_text(EXPERIMENT)
    (folder / "method" / "breaks.yaml").write_text("# always fails\nname: breaks_always:Breaks\n")
    (folder / "breaks_always.py").write_text(BREAKS)
    return folder


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "pruner", *words]


def environment() -> dict[str, str]:
    hidden = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "", "PYTHONUTF8": "1", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **hidden, "PYTHONPATH": str(conf_folder().parent)}


def pruner(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command as a user gives it, to its end."""
    return subprocess.run(
        command(*words), cwd=cwd, env=environment(), capture_output=True, text=True, encoding="utf-8", timeout=600
    )


def gathered(outputs: Path) -> list[Row]:
    """The rows that the sweeps below `outputs` gathered; of several sweeps the last one's."""
    return read_rows(sorted(outputs.glob("sweeps/*/results.csv"))[-1])


def without_times(rows: list[Row]) -> list[Row]:
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def started(outputs: Path) -> dict[Path, int]:
    """How often each run below `outputs` was started: lines of its run.log that begin with the time and name it."""
    counts = {}
    for log in outputs.glob("synthetic-*/*/run.log"):
        lines = log.read_text(encoding="utf-8").splitlines()
        counts[log] = sum(line[:2] == "20" and line.endswith(f" {log.parent}") for line in lines)
    return counts
