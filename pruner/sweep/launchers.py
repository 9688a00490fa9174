"""What Hydra's launchers need to be told: how many cells at once, with how many threads, and which extra they are.

Pure functions of the machine's numbers; the presets are in conf/hydra/launcher/.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pruner.compose.hydra_internals import BasicLauncher

# One cell after the other, in this process.
BASIC = {"_target_": f"{BasicLauncher.__module__}.{BasicLauncher.__qualname__}"}
ALL = -1  # n_jobs: as many cells at once as the machine takes


@dataclass(frozen=True)
class Share:
    """What each cell gets: `threads` (0: torch decides), and what its launcher is to know.

    `launcher` is the launcher's config, `batch` how many cells it gets at a time (0: all of them), `finds_gpu` whether
    cells that use a GPU must find a free one for themselves, `heard` whether what they print appears on this console,
    `workers` whether they run in processes that this one starts, keeps and ends.
    """

    launcher: Mapping[str, Any]
    threads: int = 0
    batch: int = 0
    finds_gpu: bool = True
    heard: bool = True
    workers: bool = False

    def among(self, left: int) -> Share:
        """The same for the cells of it that are `left`: no more processes than they need, as many threads for each."""
        if not self.workers or left >= self.launcher["n_jobs"]:
            return self
        if left <= 1:  # this process can do it, and need not start another one
            return Share(BASIC, self.threads)
        return replace(self, launcher={**self.launcher, "n_jobs": left})

    @property
    def one_by_one(self) -> bool:
        """Whether no two cells run at once."""
        return bool(self.launcher["_target_"] == BASIC["_target_"])


def share(launcher: Mapping[str, Any], cells: int, cores: int, gpu_slots: int, threads: int = 0) -> Share:
    """Divides a machine of `cores` among as many of a sweep's `cells` as `launcher` (its config) runs at once.

    Of all its cells, not of those that are left: with other threads a cell would end in another network. `gpu_slots` is
    how many cells this machine's GPUs take at once, 0 where cells use none; `threads` is the most that a cell asks for,
    0 where they leave it open.
    """
    kind = str(launcher["_target_"]).rpartition(".")[2]
    slots = gpu_slots or max(1, cores // max(1, threads))
    if kind == "JoblibLauncher":
        asked = int(launcher["n_jobs"])
        at_once = min(cells, slots if asked == ALL else asked if asked > 0 else max(1, cores + 1 + asked))
        if at_once <= 1:
            return Share(BASIC)
        return Share({**launcher, "n_jobs": at_once}, max(1, cores // at_once), workers=True)
    if kind == "LocalLauncher":  # it starts all it is given at once
        each = int(launcher["cpus_per_task"] or 1)
        return Share(launcher, each, max(1, min(cores // each, slots)), heard=False)
    if kind == "SlurmLauncher":
        return Share(launcher, int(launcher["cpus_per_task"] or 1), finds_gpu=False, heard=False)
    if kind == "RayLauncher":
        remote = dict(launcher["ray"]["remote"])
        if remote.get("num_gpus") is None:
            remote["num_gpus"] = 1 if gpu_slots else 0
        each = max(1, int(remote.get("num_cpus") or 1))
        config = {**launcher, "ray": {**launcher["ray"], "remote": remote}}
        return Share(config, each, finds_gpu=False, heard=False)
    return Share(launcher)


def cores_here() -> int:
    """The cores that this process may use, within a container's quota."""
    from joblib import cpu_count  # nothing that a single run needs

    return int(cpu_count())
