"""A sweep from its words to its table: what is missing is run, what is there is gathered.

What a cell came to is read from its folder, so it does not matter which process ran it, here or elsewhere.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, redirect_stderr, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from pruner.checks import ConfigError, one_line, require
from pruner.compose.cells import Cell, cells_of, general
from pruner.compose.choices import user_folder
from pruner.compose.composing import Composer, checked
from pruner.compose.hydra_internals import BasicSweeper, Callbacks
from pruner.compose.validate import LAUNCHER, check_place
from pruner.config import expand
from pruner.run.job import LATER
from pruner.run.summary import closing, in_one_line
from pruner.runtime import streams
from pruner.runtime.signals import endings_raise
from pruner.store.row import FURTHER, write_atomically
from pruner.sweep import plan
from pruner.sweep.gpus import own_gpu, room
from pruner.sweep.launchers import Share, cores_here, share
from pruner.sweep.workers import WORKER, Labelled, with_workers


@dataclass(frozen=True)
class Task:
    """What a launcher calls with a cell's composed config, perhaps in another process or on another machine.

    `names` are the cells' names by run_id; `gpu_slots` is of `gpus.own_gpu`; `wait` is of `job.execute`; `folder` is
    where the command was given, `user` its --config-dir; `sweep` is the process that keeps workers, where one does.
    """

    names: dict[str, str]
    gpu_slots: int
    wait: bool
    folder: str
    user: str | None
    sweep: int | None = None

    def __call__(self, composed: DictConfig) -> tuple[int, str]:
        """The cell's exit status, or job.LATER; and what was wrong where it was refused or stopped."""
        with streams.lenient("pruner"):
            if self.sweep is None:
                return self._run(composed)
            return WORKER.run(self.sweep, partial(self._run, composed))

    def _run(self, composed: DictConfig) -> tuple[int, str]:
        from pruner.run.job import execute

        os.chdir(self.folder)
        if self.user is not None:
            user_folder(self.user)
        try:
            config = checked(composed)
            name = self.names.get(config.run_id) or f"[{HydraConfig.get().job.num + 1}]"
            print(name, flush=True)
            apart = self.sweep is not None
            said = redirect_stderr(Labelled(sys.stderr, name.partition(" ")[0])) if apart else nullcontext()
            with said, own_gpu(config.device, self.gpu_slots) as device:
                return execute(replace(config, device=device), name, self.wait), ""
        except ConfigError as error:
            print(f"pruner: {one_line(error)}", file=sys.stderr, flush=True)
            return 2, one_line(error)


def start(hydra: Composer, words: Sequence[str], user: str | None, only_plan: bool) -> int:
    """Runs what is missing of the sweep that `words` ask for; gives its exit status. Raises ConfigError.

    Every cell is checked before the first one starts. 2: a cell was refused after all; 1: one failed.
    """
    head = hydra.master(general(hydra, words))
    require(head.hydra.launcher.get("n_jobs") != 0, "hydra.launcher.n_jobs", 0, "1 or more, or -1 for all cores")
    target = head.hydra.sweeper.get("_target_", "")
    if target and not target.endswith(f".{BasicSweeper.__name__}"):
        return _by_another_sweeper(hydra, words, user, only_plan)
    for key in ("cells_per_gpu", "max_batch_size"):
        value = head.hydra.sweeper.get(key)
        require(value is None or (isinstance(value, int) and value >= 1), f"hydra.sweeper.{key}", value, "1 or more")
    master, cells = cells_of(hydra, head, words)
    check_place("hydra.sweep.dir", str(master.hydra.sweep.dir))
    if only_plan:
        print(plan.text(cells))
        return streams.status()
    text = {"words": list(words), "cells": {cell.name: str(cell.folder.path) for cell in cells}}
    try:
        folder = _own_folder(master)
        write_atomically(folder / "sweep.yaml", yaml.safe_dump(text, sort_keys=False, allow_unicode=True).encode())
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be written ({error.strerror})") from error
    quoted = str(folder).replace("'", "\\'")
    OmegaConf.set_readonly(master.hydra, False)
    master.hydra.sweep.dir = str(folder)
    master.hydra.overrides.hydra.append(f"hydra.sweep.dir='{quoted}'")  # for processes that start elsewhere
    outcomes: dict[int, tuple[int, str]] = {}
    gathered = 0
    with endings_raise():
        try:
            for cell, outcome in _launched(hydra, master, cells, user):
                outcomes[cell.number] = outcome
        finally:
            gathered = _close(cells, {number: error for number, (_, error) in outcomes.items() if error}, folder)
    return max((gathered, *(status for status, _ in outcomes.values())))


def _own_folder(master: DictConfig) -> Path:
    """Where the sweep's own files go. Where it is called by the time, sweeps that begin in one second have one each."""
    folder = own = Path(expand(str(master.hydra.sweep.dir))).absolute()
    asked = OmegaConf.to_yaml(master.hydra.sweep)  # before ${...} is resolved
    if "${now:" not in asked:  # as it was asked for, also where another sweep left its files
        return folder
    number = 1
    while True:
        with suppress(FileExistsError):
            own.mkdir(parents=True)
            return own
        number += 1
        own = folder.with_name(f"{folder.name}-{number}")


def _launched(
    hydra: Composer, master: DictConfig, cells: Sequence[Cell], user: str | None
) -> Iterator[tuple[Cell, tuple[int, str]]]:
    """Hands the cells that are not done to the launcher; gives each with what its Task gave, when it has ended.

    Where several run at once, one cell of each dense network that is missing comes first: the others would wait for
    it. What other processes work on is left to the end, when nothing else is left to do. How many threads a cell has
    comes from all cells: whichever are left, it ends in the same bytes.
    """
    left = []
    for cell in cells:
        if row := cell.folder.finished():
            cell.folder.tidy_if_left()
            print(in_one_line(cell.name, row, before=True), flush=True)
        else:
            left.append(cell)
    sweeper = master.hydra.sweeper
    launcher = {str(key): value for key, value in master.hydra.launcher.items()}
    each = sweeper.get("cells_per_gpu") or 1
    most = sweeper.get("max_batch_size") or len(cells)
    names = {cell.config.run_id: cell.name for cell in cells}
    gpu_slots = room([cell.config.device for cell in cells], each)
    threads = max(cell.config.threads for cell in cells)
    whole = share(launcher, min(most, len(cells)), cores_here(), gpu_slots, threads)
    for wait in (False, True):
        part = whole.among(len(left))
        if not part.one_by_one:
            left = _dense_first(left)
        keeper = os.getpid() if part.workers else None
        task = Task(names, each if part.finds_gpu else 0, wait, os.getcwd(), user, keeper)
        size = min(filter(None, [part.batch, most]), default=1)
        batches = [left[start : start + size] for start in range(0, len(left), size)]
        left = []
        for batch in batches:
            for cell, outcome in zip(batch, _launch(hydra, master, batch, task, part), strict=True):
                if outcome[0] == LATER:
                    left.append(cell)
                    continue
                if not part.heard and (row := cell.folder.row()):
                    print(in_one_line(cell.name, row, before=False), flush=True)
                yield cell, outcome


def _dense_first(cells: Sequence[Cell]) -> list[Cell]:
    """Those cells that will train a dense network, then all others."""
    missing = [cell for cell in cells if not cell.dense.info.exists()]
    trains = {cell.dense.path: cell for cell in reversed(missing)}
    return sorted(cells, key=lambda cell: trains.get(cell.dense.path) is not cell)


def _launch(
    hydra: Composer, master: DictConfig, cells: Sequence[Cell], task: Task, part: Share
) -> list[tuple[int, str]]:
    """What the task gave for each of `cells`; the threads of `part` are for those that leave them open."""
    words = [[*cell.words, *([] if cell.config.threads else [f"threads={part.threads}"])] for cell in cells]
    context = HydraContext(config_loader=hydra.engine.config_loader, callbacks=Callbacks(master))
    told = master.copy()
    OmegaConf.update(told, "hydra.launcher", part.launcher, merge=False)
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=told)
    # Cells are composed under the launcher that was asked for: of another one Hydra 1.4 says that a cell changed it.
    launcher.setup(hydra_context=context, task_function=task, config=master)
    first = cells[0].number - 1
    try:
        jobs = launcher.launch(words, first) if task.sweep is None else with_workers(launcher, words, first)
        return [_outcome(job) for job in jobs]
    except Exception as error:  # a worker that was killed, a cluster that is not there: each engine has its own
        said = f"{type(launcher).__name__}: {type(error).__name__}: {error}"
        return [(1, one_line(said))] * len(cells)


def _outcome(job: JobReturn) -> tuple[int, str]:
    try:
        outcome: tuple[int, str] = job.return_value
        return outcome
    except Exception as error:  # Hydra hands on whatever the cell's process raised
        return 1, one_line(f"{type(error).__name__}: {error}")


def _close(cells: Sequence[Cell], errors: dict[int, str], folder: Path) -> int:
    """Gathers the rows that are there into results.csv; prints their tables, and what went wrong. 1: no results.csv."""
    from pruner.compare.apart import keep_apart, say_in_full, write_gathered
    from pruner.compare.settings import flat
    from pruner.compare.tables import Layout

    rows = {cell.number: row | dict.fromkeys(FURTHER) for cell in cells if (row := cell.folder.row())}
    configs = {row["run_id"]: cell.config.to_dict() for cell in cells if (row := rows.get(cell.number))}
    say_in_full(rows.values(), configs)
    settings = {run_id: flat(config) for run_id, config in configs.items()}
    keep_apart(list(rows.values()), settings, Layout())
    results: Path | None = folder / "results.csv" if rows else None
    if results:
        try:
            write_gathered(results, list(rows.values()))
        except OSError as error:
            print(f"pruner: {results}: cannot be written ({error.strerror})", file=sys.stderr, flush=True)
            results = None
        print()
        _print_tables([str(cell.folder.result) for cell in cells if cell.number in rows])
        print()
    wrong = []
    for cell in cells:
        row = rows.get(cell.number)
        if row and row["status"] == "failed":
            wrong.append(f"failed: {cell.name}: {row['error']}; see {cell.folder.log}")
        elif not row and cell.number in errors:
            wrong.append(f"failed: {cell.name}: {errors[cell.number]}")
    done = sum(row["status"] == "done" for row in rows.values())
    print(closing(len(cells), done, wrong, results), flush=True)
    return int(bool(rows) and results is None)


def _print_tables(results: Sequence[str]) -> None:
    """The tables that `pruner-compare` makes of these result.csv files."""
    from pruner.compare.comparison import compare

    try:
        comparison = compare(results)
    except ConfigError as error:  # the runs are done all the same
        print(f"pruner: {one_line(error)}", file=sys.stderr)
        return
    if comparison.tables:
        print(comparison.written("text"), end="")
    for line in comparison.warnings():
        print(f"pruner: {line}", file=sys.stderr)


def _by_another_sweeper(hydra: Composer, words: Sequence[str], user: str | None, only_plan: bool) -> int:
    """A sweep whose cells are decided as it goes, by a sweeper that is not ours; gives the worst exit status."""
    if only_plan:
        raise ConfigError("--plan: not with a sweeper that decides on cells as it goes; leave out hydra/sweeper")
    if not any(word.startswith(f"{LAUNCHER}=") for word in words):
        # It may want to see what a cell came to before it decides on the next one.
        words = [*words, f"{LAUNCHER}=basic"]
    hydra.master(words)
    task = Task({}, 1, True, os.getcwd(), user)
    batches = hydra.engine.multirun(hydra.name, partial(_status, task), list(words))
    return max((job.return_value for batch in batches or () for job in batch), default=0)


def _status(task: Task, composed: DictConfig) -> int:
    return task(composed)[0]
