"""Kills sweeps with the default launcher at random moments and starts them again: they end in the same bytes.

    PYTHONPATH=. python scripts/kill_sweep.py [MOMENTS]

Ten moments as a rule, some minutes on two cores. Four cells train LeNet-5 on scikit-learn's digits at 16x16, where a
step on two threads has other last bits than one on one thread, of which the script makes sure.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from pruner.store.folders import RunFolder
from pruner.sweep.launchers import cores_here
from tests.images import write_digits
from tests.killing import same
from tests.sweeping import command

TRAINING = ["model=lenet5", "method=magnitude", "device=cpu", "recipe=smoke", "recipe.batch_size=128"]
EPOCHS = ["recipe.dense_epochs=2", "recipe.prune_epochs=2", "recipe.finetune_epochs=2", "checkpoint_minutes=0.001"]
CELLS = ["-m", "seed=0,1,2,3"]


def start(words: Sequence[str], outputs: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command(*words, f"output_dir='{outputs}'"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def to_the_end(words: Sequence[str], outputs: Path) -> float:
    """Runs what is left; gives the seconds that it took."""
    begun = time.monotonic()
    status = start(words, outputs).wait()
    assert status == 0, f"{outputs}: exit status {status}"
    return time.monotonic() - begun


def killed(words: Sequence[str], outputs: Path, done: int, after: float) -> bool:
    """Starts the sweep and kills it, with its workers, so long after so many cells are done; False: it had ended."""
    sweep = start(words, outputs)
    while len(runs(outputs)) < done and sweep.poll() is None:
        time.sleep(0.01)
    try:
        sweep.wait(after)
        return False
    except subprocess.TimeoutExpired:
        os.killpg(sweep.pid, signal.SIGKILL)
        sweep.wait()
        return True


def runs(outputs: Path) -> dict[str, RunFolder]:
    return {path.parent.name: RunFolder(path.parent) for path in outputs.glob("imagefolder-*/*/result.csv")}


def compared(outputs: Path, expected: dict[str, RunFolder]) -> None:
    """Raises AssertionError where a run or a dense network below `outputs` is not as `expected`."""
    found = runs(outputs)
    assert found.keys() == expected.keys(), outputs
    for name, run in found.items():
        same(run, expected[name])
    for path in outputs.glob("dense/*/model.safetensors"):
        (other,) = next(iter(expected.values())).path.parents[1].glob(f"dense/{path.parent.name}/model.safetensors")
        assert path.read_bytes() == other.read_bytes(), path


def main(moments: int) -> None:
    if cores_here() < 2:
        sys.exit("kill_sweep.py: needs two cores: on one, all cells have one thread anyway")
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        words = [*write_digits(folder / "images", 900), *TRAINING, *EPOCHS]
        seconds = to_the_end([*words, *CELLS], folder / "alone")
        expected = runs(folder / "alone")
        threads = sorted({run.finished()["threads"] for run in expected.values()})  # type: ignore[index]  # they are finished
        with_them = f"threads={','.join(map(str, threads))}"
        print(f"undisturbed: {len(expected)} cells, {with_them}, in {seconds:.0f} s", flush=True)
        to_the_end([*words, "-m", "seed=3", f"threads={max(threads) + 1}"], folder / "threads")
        ((name, other),) = runs(folder / "threads").items()
        assert other.model.read_bytes() != expected[name].model.read_bytes(), "threads make no difference here"
        for number in range(moments):
            outputs, after = folder / f"killed-{number}", chance.uniform(0, 0.4) * seconds
            while not killed([*words, *CELLS], outputs, number % 4, after):
                shutil.rmtree(outputs)
                after /= 2
            print(f"killed {after:.1f} s after {number % 4} cells were done", end="", flush=True)
            to_the_end([*words, *CELLS], outputs)
            compared(outputs, expected)
            print(": the same bytes", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
