#!/usr/bin/env python3
"""How many cells of a sweep an hour: one after the other, or several at once, as is the default.

    python scripts/bench_sweep.py [--cells 8] [--rounds 2] [--output FILE.csv] [key=value ...]

The cells are seeds of one setting, by default of dtp at weight 0.9 on digits, each with a dense network of its own.
Every sweep is a process as a user starts it, in a folder of its own; the ways take turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from benching import write

from pruner.store.commit import commit_of
from pruner.store.row import read_rows

WAYS = {
    "one after the other": ["hydra/launcher=basic"],
    "several at once": [],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="key=value")
    parser.add_argument("--cells", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", default="outputs/tables/experiment-sweep-cpu.csv")
    given = parser.parse_args()
    words = ["method=dtp", "sparsity=0.9", *given.words, "seed=" + ",".join(map(str, range(given.cells)))]
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    threads = {}
    for number in range(given.rounds):
        for way, launcher in WAYS.items():
            seconds, threads[way] = swept([*words, *launcher], given.cells)
            times[way].append(seconds)
            print(f"round {number + 1}, {way}: {seconds:.1f} s", flush=True)
    first = statistics.median(times["one after the other"])
    rows = [
        {
            "way": way,
            "cells": given.cells,
            "seconds": round(statistics.median(own), 1),
            "all_seconds": " ".join(f"{seconds:.1f}" for seconds in own),
            "cells_per_hour": round(3600 * given.cells / statistics.median(own), 1),
            "throughput": round(first / statistics.median(own), 2),
            "threads_per_cell": threads[way],
            "cores": os.cpu_count(),
            "words": " ".join(words),
            "torch_version": torch.__version__,
            "commit": commit_of(),
        }
        for way, own in times.items()
    ]
    write(given.output, rows)
    print("\n".join("{way}: {cells_per_hour} cells an hour, {throughput}x".format(**row) for row in rows))


def swept(words: list[str], cells: int) -> tuple[float, int]:
    """The seconds that a sweep took from its command to its end, and the threads of each cell."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = [sys.executable, "-m", "pruner", "-m", *words, f"output_dir={folder}"]
        environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}  # all threads
        subprocess.run(command, check=True, capture_output=True, env=environment)
        seconds = time.perf_counter() - start
        (results,) = Path(folder).glob("sweeps/*/results.csv")
        rows = read_rows(results)
        if len(rows) != cells:
            sys.exit(f"bench_sweep: {len(rows)} of {cells} cells have a row")
        return seconds, rows[0]["threads"]


if __name__ == "__main__":
    main()
