"""Runs in processes that are killed: forks of one that has imported everything, so that each costs no imports."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from tqdm import tqdm

from pruner.cli.main import main
from pruner.compose.choices import conf_folder
from pruner.compose.hydra_internals import ConfigLoaderImpl
from pruner.config import Config, from_dict
from pruner.run import job, phases
from pruner.runtime.signals import ENDINGS
from pruner.store.folders import RunFolder
from pruner.store.row import COLUMNS, EPOCH_COLUMNS, read_rows
from pruner.training import checkpoint
from tests.sweeping import environment

LIMIT = 300  # seconds after which something hangs


@dataclass(frozen=True)
class Outcome:
    """How a process ended: its exit status, or less the signal that ended it; how long it ran; what it said."""

    status: int
    seconds: float
    said: str


def without_times(path: Path) -> list[dict[str, Any]]:
    """The rows of a result.csv or epochs.csv, but for what a clock said, or the source tree, which may be worked on."""
    rows = read_rows(path, EPOCH_COLUMNS if path.name == "epochs.csv" else COLUMNS)
    left_out = ("seconds", "latency_ms", "commit")
    return [{key: value for key, value in row.items() if not key.endswith(left_out)} for row in rows]


def same(found: RunFolder, expected: RunFolder) -> None:
    """Asserts that two runs left the same files, to the byte but for times, and nothing else."""
    for name in ("result.csv", "epochs.csv"):
        rows = zip(without_times(found.path / name), without_times(expected.path / name), strict=True)
        other = [(key, row[key], value) for row, wanted in rows for key, value in wanted.items() if row[key] != value]
        assert not other, f"{found.path / name}: {other}"
    for name in ("model.safetensors", "model.json", "layers.csv", "ratios.csv", "masks.csv"):
        assert (found.path / name).read_bytes() == (expected.path / name).read_bytes(), found.path / name
    assert {path.name for path in found.path.iterdir()} == {path.name for path in expected.path.iterdir()}


class Nursery:
    """Starts processes, several at once, and sends them a signal after so many seconds.

    `eager` ones save after every step, however long that takes.
    """

    def __init__(self, process: subprocess.Popen[str], eager: bool = False) -> None:
        self._process, self._eager = process, eager

    def eager(self) -> Nursery:
        return Nursery(self._process, True)

    def run(
        self, config: Config, after: float | None = None, since: str = "", with_signal: int = signal.SIGKILL
    ) -> Outcome:
        """Executes `config`; the signal comes so many seconds `after` it has said `since`, if it is still under way."""
        how = {"signal": int(with_signal), "since": since}
        return self.together([{"config": config.to_dict(), "after": after, **how}])[0]

    def sweep(
        self,
        words: Sequence[str],
        after: Sequence[float | None],
        since: str = "",
        with_signal: int = signal.SIGKILL,
    ) -> list[Outcome]:
        """Gives the command line `words` to as many processes as `after` has times at which one gets the signal.

        The times count from when the process has said the text `since`. The processes that get none start once all the
        others have said it, lest they leave these nothing to do.
        """
        how = {"signal": int(with_signal), "since": since}
        return self.together([{"words": list(words), "after": when, **how} for when in after])

    def together(self, tasks: Sequence[Mapping[str, Any]]) -> list[Outcome]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([{**task, "eager": self._eager} for task in tasks]) + "\n")
        self._process.stdin.flush()
        return [Outcome(**one) for one in json.loads(self._process.stdout.readline())]


@contextmanager
def nursery() -> Iterator[Nursery]:
    command = [sys.executable, "-m", "tests.killing"]
    pipe, root = subprocess.PIPE, conf_folder().parent
    with subprocess.Popen(command, env=environment(), cwd=root, stdin=pipe, stdout=pipe, text=True) as process:
        yield Nursery(process)
        assert process.stdin is not None
        process.stdin.close()


def _work(task: Mapping[str, Any], said: Path) -> None:
    """What a fork does, to its end."""
    status = 70  # nothing of ours
    try:
        with said.open("w", encoding="utf-8") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        if task["eager"]:
            checkpoint.SHARE = float("inf")
        # As in a terminal, also where the tests were started in the background, with signals ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in ENDINGS:
            signal.signal(number, signal.SIG_DFL)
        status = main(task["words"]) if "words" in task else job.execute(from_dict(task["config"]))
    except SystemExit as end:
        status = int(end.code or 0)
    except KeyboardInterrupt:
        status = 130
    except BaseException:  # a fork must not run on into the test that made it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def _warm_up(folder: str) -> None:
    """Runs once, for torch imports half of itself in the first step of an optimizer."""
    words = ["dataset=synthetic", "model=resnet20", "model.width=1", "recipe=smoke", "device=cpu", "threads=1"]
    with quiet():
        assert main([*words, f"output_dir={folder}"]) == 0


@contextmanager
def quiet() -> Iterator[None]:
    with open(os.devnull, "w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
        yield


def _serve() -> None:
    """Answers each line of tasks on stdin with a line of outcomes, until there are no more."""
    patch = pytest.MonkeyPatch()
    # Forks would share the lock of the progress bars, which none that is killed lets go; and have no monitoring thread.
    tqdm.set_lock(threading.RLock())
    tqdm.monitor_interval = 0
    # The source tree may be committed to between two runs that are compared.
    patch.setattr(phases, "commit_of", lambda: "")
    patch.setattr(ConfigLoaderImpl, "load_sweep_config", _composing_once())
    with tempfile.TemporaryDirectory() as folder:
        _warm_up(folder)
        for line in sys.stdin:
            print(json.dumps(_together(json.loads(line), Path(folder))), flush=True)


def _composing_once() -> Callable[..., DictConfig]:
    """Hydra takes longer to compose a tiny run than that takes to train: forks find what this process has composed."""
    compose = ConfigLoaderImpl.load_sweep_config
    known: dict[tuple[str, ...], DictConfig] = {}

    def remembered(self: ConfigLoaderImpl, master: DictConfig, words: list[str]) -> DictConfig:
        key = tuple(words)
        if key not in known:
            known[key] = compose(self, master, words)
        return copy.deepcopy(known[key])

    return remembered


def _together(tasks: Sequence[Mapping[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """The tasks' outcomes, each in a process of its own, all at once."""
    for words in {tuple(task["words"]) for task in tasks if "words" in task}:
        with quiet():
            assert main(["--plan", *words]) == 0
    said = [folder / str(number) for number in range(len(tasks))]
    for path in said:
        path.write_text("")
    start = time.monotonic()
    to_start = sorted(range(len(tasks)), key=lambda number: tasks[number]["after"] is None)
    running: dict[int, int] = {}  # the tasks' numbers by their processes
    due: dict[int, float] = {}  # which of them get a signal, after how long
    counting: dict[int, float] = {}  # since when
    outcomes: list[dict[str, Any]] = [{} for _ in tasks]
    while running or to_start:
        while to_start and (tasks[to_start[0]]["after"] is not None or due.keys() <= counting.keys()):
            number = to_start.pop(0)
            pid = os.fork()
            if pid == 0:
                _work(tasks[number], said[number])
            running[pid] = number
            if tasks[number]["after"] is not None:
                due[pid] = tasks[number]["after"]
        time.sleep(0.0005)
        now = time.monotonic()
        if now - start > LIMIT:
            for pid in running:
                os.kill(pid, signal.SIGKILL)
            raise TimeoutError(f"still running after {LIMIT} seconds: {[tasks[number] for number in running.values()]}")
        ended, status = os.waitpid(-1, os.WNOHANG)
        if ended:
            number = running.pop(ended)
            due.pop(ended, None)
            text = said[number].read_text(encoding="utf-8")
            outcomes[number] = {"status": os.waitstatus_to_exitcode(status), "seconds": now - start, "said": text}
        for pid, after in list(due.items()):
            task = tasks[running[pid]]
            if pid not in counting and task.get("since", "") in said[running[pid]].read_text(encoding="utf-8"):
                counting[pid] = now
            if pid in counting and now - counting[pid] >= after:
                os.kill(pid, task["signal"])
                del due[pid]
    return outcomes


if __name__ == "__main__":
    _serve()
