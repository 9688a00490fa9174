"""What Hydra's launchers need to be told: how many cells at once, with how many threads, and which extra they are.

Pure functions of the machine's numbers; the presets are in conf/hydra/launcher/.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pruner.checks import ConfigError

GROUP = "hydra/launcher"
# The launchers that come as extras of this package.
EXTRAS = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray"}


@dataclass(frozen=True)
class Share:
    """What each cell gets: `threads` (0: torch decides), and what the launcher is to be told beside its own config.

    `batch` is how many cells the launcher gets at a time (0: all of them), `finds_gpu` whether cells that use a GPU
    must find a free one for themselves, `heard` whether what they print appears on this console.
    """

    threads: int = 0
    batch: int = 0
    finds_gpu: bool = True
    heard: bool = True
    settings: dict[str, Any] = field(default_factory=dict)


def check_installed(launcher: str) -> None:
    """Raises ConfigError that names the extra, if `launcher` is one that an extra brings."""
    if extra := EXTRAS.get(launcher):
        raise ConfigError(f"{GROUP}: {launcher} is not installed; it comes with pip install 'pruner[{extra}]'")


def share(launcher: Mapping[str, Any], cores: int, gpu_slots: int) -> Share:
    """Divides a machine of `cores` among the cells that `launcher` (its config) runs at once.

    `gpu_slots` is how many cells this machine's GPUs take at once, 0 where cells use none.
    """
    kind = str(launcher["_target_"]).rpartition(".")[2]
    slots = gpu_slots or cores
    if kind == "JoblibLauncher":
        asked = int(launcher["n_jobs"])
        at_once = max(1, min(asked if asked > 0 else cores + 1 + asked, slots))
        return Share(max(1, cores // at_once), settings={"n_jobs": at_once})
    if kind == "LocalLauncher":  # it starts all it is given at once
        each = int(launcher["cpus_per_task"] or 1)
        return Share(each, max(1, min(cores // each, slots)), heard=False)
    if kind == "SlurmLauncher":
        return Share(int(launcher["cpus_per_task"] or 1), finds_gpu=False, heard=False)
    if kind == "RayLauncher":
        remote = dict(launcher["ray"]["remote"])
        if remote.get("num_gpus") is None:
            remote["num_gpus"] = 1 if gpu_slots else 0
        threads = max(1, int(remote.get("num_cpus") or 1))
        return Share(threads, finds_gpu=False, heard=False, settings={"ray": {"remote": remote}})
    return Share()


def cores_here() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
