#!/usr/bin/env python3
"""How much faster networks are without their dead parts, against the multiply-adds removed.

    python scripts/bench_export.py RUN [RUN ...] [--data-dir DIR] [--threads N] [--output FILE.csv]

Each run's whole network and what ships of it take turns, with torch (float32, channels_last) and with onnxruntime, for
one image and for 32. With --data-dir the test images are predicted with all three files, and how many are right is
compared with the run's row. Makes outputs/tables/export-cpu.csv from the runs of scripts/cifar10_export.sh.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import onnxruntime
import torch
from benching import processor, quartiles, write

from pruner.checks import ConfigError
from pruner.config import from_dict
from pruner.data import load
from pruner.export.accuracy import right
from pruner.export.formats import FORMATS
from pruner.export.latency import in_turns, noise
from pruner.export.shipped import Shipped, shipped
from pruner.runtime.device import pick_device
from pruner.store.commit import commit_of
from pruner.store.folders import RunFolder

BATCHES = (1, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--data-dir", help="where the image sets are; without it no test images are predicted")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch decides)")
    parser.add_argument("--output", default="outputs/tables/export-cpu.csv")
    given = parser.parse_args()
    pick_device("cpu", given.threads)
    try:
        rows = [row for run in given.runs for row in measured(run, given.data_dir)]
    except ConfigError as error:
        sys.exit(f"bench_export: {error}")
    write(given.output, rows)


def measured(run: str, data_dir: str | None) -> list[dict[str, object]]:
    """A row for each engine and batch."""
    network = shipped(run)
    dense = replace(network, model=network.whole)
    about = network.provenance()
    accuracy = checked(run, network, data_dir) if data_dir else {}
    rows = []
    for engine, of in (("torch", in_torch), ("onnxruntime", in_onnxruntime)):
        for batch in BATCHES:
            images = noise(batch, network.shape)
            calls = [partial(of(one), images) for one in (dense, network)]
            with torch.inference_mode():
                before, after = ([1000 * t for t in times] for times in in_turns(calls))
            fewer = network.row["macs_total"] / about["macs"]
            faster = statistics.median(before) / statistics.median(after)
            row = {
                "model": network.row["model"],
                "method": network.row["method"],
                "granularity": network.row["granularity"],
                "sparsity": network.row["sparsity"],
                "engine": engine,
                "batch": batch,
                "macs_total": network.row["macs_total"],
                "macs_kept": network.row["macs_kept"],
                "macs_in_file": about["macs"],
                "params_kept": network.row["params_kept"],
                "params_in_file": about["params"],
                "dense_ms": middle(before),
                "dense_quartiles": quartiles(before),
                "shipped_ms": middle(after),
                "shipped_quartiles": quartiles(after),
                "rounds": len(before),
                "macs_ratio": round(fewer, 3),
                "speedup": round(faster, 3),
                "share": round(faster / fewer, 3),
                "accuracy": network.row["accuracy"],
                **accuracy,
                "threads": torch.get_num_threads(),
                "hardware": processor(),
                "torch_version": torch.__version__,
                "onnxruntime_version": onnxruntime.__version__,
                "commit": commit_of(),
                "run_id": network.row["run_id"],
            }
            rows.append(row)
            print("{model} {sparsity} {engine} batch {batch}: {dense_ms} -> {shipped_ms} ms, {speedup}x for "
                  "{macs_ratio}x fewer multiply-adds".format(**row), flush=True)  # fmt: skip
    return rows


def in_torch(network: Shipped) -> Callable[[torch.Tensor], torch.Tensor]:
    return network.model.to(memory_format=torch.channels_last)


def in_onnxruntime(network: Shipped) -> Callable[[torch.Tensor], torch.Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        return FORMATS["onnx"](network, Path(folder)).predict


def checked(run: str, network: Shipped, data_dir: str) -> dict[str, object]:
    """How many test images the run's row has right, and each exported file."""
    test = load(from_dict(RunFolder(run).read_config()).dataset, data_dir, "cpu").test
    counts: dict[str, object] = {"right_in_run": round(network.row["accuracy"] / 100 * len(test))}
    with tempfile.TemporaryDirectory() as folder:
        for form, write in FORMATS.items():
            counts[f"right_{form}"] = right(write(network, Path(folder)).predict, test)
    return counts


def middle(times: list[float]) -> float:
    return round(statistics.median(times), 3)


if __name__ == "__main__":
    main()
