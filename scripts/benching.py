"""What the benchmarks beside this file share: a CSV file of their rows, and the names of things measured."""

from __future__ import annotations

import csv
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write(path: str, rows: Sequence[dict[str, Any]]) -> None:
    """Writes rows that have the same keys, makes missing folders, and says where."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as stream:
        table = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    print(f"wrote {path}")


def quartiles(values: list[float]) -> str:
    """The first and the third quartile."""
    low, _, high = statistics.quantiles(values, n=4)
    return f"{low:.3f} to {high:.3f}"


def processor() -> str:
    """The processor's name where Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
