#!/usr/bin/env python3
"""A dense epoch of ResNet-20 on CIFAR-10: pruner (recipe short) against a plain script (scripts/yardstick.py).

    python scripts/bench_epoch.py [--data-dir DIR] [--epochs 5] [--seeds 0,1,2] [--threads N] [--output FILE.csv]

Both train the same number of epochs with the same rates, one after the other, seed by seed; pruner as a user runs it,
`pruner recipe=short`, whose dense phase is what counts. A row for each of them and seed: seconds of every epoch, test
accuracy. Prints the ratio of their median epochs, by seed, and the difference in accuracy with its paired 95% interval.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from benching import write

from pruner.compare.spread import paired
from pruner.store.commit import commit_of
from pruner.store.row import EPOCH_COLUMNS, read_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", default="outputs/tables/experiment-epoch-cpu.csv")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for seed in given.seeds.split(","):
        for name, trained in (("yardstick", yardstick), ("pruner", pruner)):
            seconds, accuracy = trained(given.data_dir, given.epochs, seed, given.threads)
            rows.append({
                "what": name, "seed": seed, "epochs": given.epochs,
                "epoch_seconds": round(statistics.median(seconds), 2),
                "all_seconds": " ".join(f"{s:.1f}" for s in seconds), "accuracy": accuracy, "threads": given.threads,
                "torch_version": torch.__version__, "commit": commit_of(),
            })  # fmt: skip
            print("{what}, seed {seed}: {epoch_seconds} s an epoch, {accuracy:.2f}%".format(**rows[-1]), flush=True)
    write(given.output, rows)
    plain, ours = ({int(row["seed"]): row for row in rows if row["what"] == name} for name in ("yardstick", "pruner"))
    ratios = [plain[seed]["epoch_seconds"] / ours[seed]["epoch_seconds"] for seed in ours]
    apart = paired(*({seed: row["accuracy"] for seed, row in of.items()} for of in (ours, plain)))
    assert apart is not None  # both have the same seeds
    interval = "" if apart.low is None else f" [{apart.low:+.2f}, {apart.high:+.2f}]"
    by_seed = f"{min(ratios):.2f} to {max(ratios):.2f} by seed"
    print(f"{statistics.median(ratios):.2f}x faster ({by_seed})")
    print(f"accuracy less the yardstick's, n={apart.n}: {apart.mean:+.2f}{interval}")


def yardstick(data_dir: str, epochs: int, seed: str, threads: int) -> tuple[list[float], float]:
    script = Path(__file__).with_name("yardstick.py")
    words = [sys.executable, str(script), "--data-dir", data_dir, "--epochs", str(epochs), "--seed", seed]
    said = subprocess.run(words, check=True, capture_output=True, text=True, env=environment(threads)).stdout
    result = json.loads(said.splitlines()[-1])
    return result["seconds"], result["accuracy"]


def pruner(data_dir: str, epochs: int, seed: str, threads: int) -> tuple[list[float], float]:
    """The dense phase of a run that then prunes nothing."""
    with tempfile.TemporaryDirectory() as folder:
        words = f"dataset=cifar10 model=resnet20 method=magnitude recipe=short recipe.dense_epochs={epochs}".split()
        words += ["recipe.prune_epochs=0", "recipe.finetune_epochs=0", "sparsity=0", f"seed={seed}"]
        words += [f"threads={threads}", f"data_dir={Path(data_dir).resolve()}", f"output_dir={folder}"]
        subprocess.run([sys.executable, "-m", "pruner", *words], check=True, capture_output=True)
        (log,) = Path(folder).glob("dense/*/epochs.csv")
        (result,) = Path(folder).glob("cifar10-resnet20/*/result.csv")
        return [row["seconds"] for row in read_rows(log, EPOCH_COLUMNS)], read_rows(result)[0]["dense_accuracy"]


def environment(threads: int) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(threads)}


if __name__ == "__main__":
    main()
