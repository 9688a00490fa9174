"""`pruner-compare`: the rows of many runs as tables, methods by sparsities, mean ± standard deviation over seeds."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruner.checks import ConfigError
from pruner.results.row import COLUMNS, Row, names, one_line, read_rows, write_atomically, write_table

# Runs are compared within a table only: they agree in all of these.
GROUP = names("dataset model granularity scope budget quant_bits dense_epochs prune_epochs finetune_epochs")
MEANS = names("dense_accuracy soft_accuracy hard_accuracy achieved_sparsity params_kept macs_kept")
LONG_COLUMNS = (*GROUP, "method", "sparsity", "n", "mean", "std", "min", "max", *MEANS)
# Differences that a table does not show but its reader should know of.
VERSIONS = ("commit", "pruner_version", "torch_version", "precision")
LEGEND = "Test accuracy in percent: mean ± sample standard deviation over seeds (number of runs)."


@dataclass(frozen=True)
class Table:
    """The rows that agree in GROUP: `done` ones are averaged, `failed` ones only listed."""

    key: tuple[Any, ...]
    done: list[Row]
    failed: list[Row]

    @property
    def caption(self) -> str:
        dataset, model, granularity, scope, budget, bits, *epochs = ("-" if v is None else v for v in self.key)
        spelled = " + ".join(f"{n} {phase}" for n, phase in zip(epochs, ("dense", "prune", "finetune"), strict=True))
        quantised = "" if bits == "-" else f", {bits}-bit weights"
        return f"{dataset} {model}: {granularity}, {scope}, {budget}{quantised}; epochs {spelled}"

    @property
    def sparsities(self) -> list[float]:
        return sorted({row["sparsity"] for row in self.done})

    @property
    def methods(self) -> list[str]:
        """Best first: by mean accuracy at the highest sparsity, then the next; a method without a cell comes after."""

        def rank(method: str) -> tuple[Any, ...]:
            cells = [self.cell(method, sparsity) for sparsity in reversed(self.sparsities)]
            return (*(-_statistics(cell)["mean"] if cell else float("inf") for cell in cells), method)

        return sorted({row["method"] for row in self.done}, key=rank)

    def cell(self, method: str, sparsity: float) -> list[Row]:
        """The finished rows of one method at one sparsity: its seeds."""
        return [row for row in self.done if (row["method"], row["sparsity"]) == (method, sparsity)]

    def grid(self) -> list[list[str]]:
        """The table as text, header first."""
        lines = [["method", *(f"{sparsity:.12g}" for sparsity in self.sparsities)]]
        for method in self.methods:
            lines.append([method, *(_spread(self.cell(method, sparsity)) for sparsity in self.sparsities)])
        return lines

    def long(self) -> list[Row]:
        """One row for each cell that has runs (LONG_COLUMNS)."""
        cells = [(m, s, self.cell(m, s)) for m in self.methods for s in self.sparsities]
        return [
            dict(zip(GROUP, self.key, strict=True)) | {"method": method, "sparsity": sparsity} | _statistics(cell)
            for method, sparsity, cell in cells
            if cell
        ]

    def remarks(self) -> list[str]:
        """What the reader must know beside the numbers, one line each."""
        lines = []
        for column in VERSIONS:
            found = sorted({row[column] or "unknown" for row in self.done})
            if len(found) > 1:
                lines.append(f"note: runs of different {column}: {', '.join(found)}")
        for method in self.methods:
            for sparsity in self.sparsities:
                seeds = [row["seed"] for row in self.cell(method, sparsity)]
                if len(set(seeds)) < len(seeds):
                    lines.append(
                        f"note: {method} at {sparsity:.12g} has several runs of one seed, with settings that "
                        "are not in this table"
                    )
        for row in self.failed:
            lines.append(f"failed: {row['method']} at {row['sparsity']}, seed {row['seed']}: {row['error'] or '-'}")
        return lines


def tables(rows: Iterable[Row]) -> list[Table]:
    """The rows grouped by GROUP, in order of the group's values."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in GROUP), []).append(row)
    return [
        Table(key, [r for r in group if r["status"] == "done"], [r for r in group if r["status"] == "failed"])
        for key, group in sorted(groups.items(), key=lambda item: [(v is not None, v) for v in item[0]])
    ]


def text(table: Table) -> str:
    """One table for the console, its columns aligned."""
    grid = table.grid()
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    lines = [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in grid
    ]
    return "\n".join([table.caption, *(lines if table.done else ["no finished run"]), *table.remarks()])


def markdown(table: Table) -> str:
    """One table as Markdown, with its caption above and its remarks below."""
    header, *body = table.grid()
    lines = [f"**{table.caption}**", ""]
    if table.done:
        marks = ["---"] + ["---:"] * (len(header) - 1)
        lines += [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in (header, marks, *body)]
    else:
        lines += ["no finished run"]
    for remark in table.remarks():
        lines += ["", remark]
    return "\n".join(lines)


def gather(files: Iterable[Path]) -> tuple[list[Row], list[str]]:
    """The rows of all files, each run_id once, and one line about each file that cannot be read.

    Of one run's copies the first counts, but a done one before a failed one: the run was then repeated.
    """
    rows: dict[object, Row] = {}
    unreadable = []
    for path in files:
        try:
            found = read_rows(path)
            for row in found:
                _check(path, row)
        except (ConfigError, OSError) as error:
            unreadable.append(one_line(error))
            continue
        for number, row in enumerate(found):
            name = row["run_id"] or (path, number)
            if name not in rows or (rows[name]["status"], row["status"]) == ("failed", "done"):
                rows[name] = row
    return list(rows.values()), unreadable


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Exit status: 0; 1 when a file could not be read (the others are used); 2 on wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="pruner-compare",
        description="Gather the result.csv of every run below DIR into tables: methods by sparsities, "
        "accuracy as mean ± standard deviation over seeds.",
    )
    parser.add_argument("dirs", metavar="DIR", nargs="*", default=["outputs"], help="a folder of runs, or a CSV file "
                        "of gathered rows (default: outputs)")  # fmt: skip
    parser.add_argument("--output", metavar="PREFIX", help="also write PREFIX.csv (a line for each cell), PREFIX.md "
                        "(the tables) and PREFIX-rows.csv (all rows)")  # fmt: skip
    chosen = parser.parse_args(arguments)
    files: list[Path] = []
    for name in chosen.dirs:
        path = Path(name)
        if not path.exists():
            return _refuse(f"{name}: no such file or folder")
        files += [path] if path.is_file() else sorted(path.rglob("result.csv"))
    rows, unreadable = gather(dict.fromkeys(files))
    for line in unreadable:
        print(f"pruner-compare: warning: {line}", file=sys.stderr)
    if not rows and not unreadable:
        return _refuse(f"no result.csv below {', '.join(chosen.dirs)}")
    found = tables(rows)
    if found:
        print("\n\n".join([*map(text, found), LEGEND]))
    if chosen.output:
        try:
            _write(chosen.output, found, rows)
        except OSError as error:
            return _refuse(f"--output {chosen.output}: {error}")
    return 1 if unreadable else 0


def _write(prefix: str, found: list[Table], rows: list[Row]) -> None:
    write_table(f"{prefix}.csv", LONG_COLUMNS, [cell for table in found for cell in table.long()])
    write_table(f"{prefix}-rows.csv", COLUMNS, rows)
    write_atomically(f"{prefix}.md", ("\n\n".join([*map(markdown, found), LEGEND]) + "\n").encode())


def _check(path: Path, row: Row) -> None:
    """A row that would spoil a mean is refused with its file."""
    if row["status"] not in ("done", "failed"):
        raise ConfigError(f"{path}: status={row['status']}: expected done or failed")
    empty = [name for name in ("method", "sparsity", "accuracy") if row["status"] == "done" and row[name] is None]
    if empty:
        raise ConfigError(f"{path}: a run that is done has no {empty[0]}")


def _mean(rows: list[Row], column: str) -> float | None:
    values = [float(row[column]) for row in rows if row[column] is not None]
    return statistics.fmean(values) if values else None


def _statistics(cell: list[Row]) -> Row:
    accuracies = [float(row["accuracy"]) for row in cell]
    spread = statistics.stdev(accuracies) if len(cell) > 1 else None
    mean, low, high = statistics.fmean(accuracies), min(accuracies), max(accuracies)
    means = {name: _mean(cell, name) for name in MEANS}
    return {"n": len(cell), "mean": mean, "std": spread, "min": low, "max": high} | means


def _spread(cell: list[Row]) -> str:
    if not cell:
        return "-"
    found = _statistics(cell)
    plus_minus = "" if found["std"] is None else f" ± {found['std']:.2f}"
    return f"{found['mean']:.2f}{plus_minus} ({found['n']})"


def _refuse(message: str) -> int:
    print(f"pruner-compare: {one_line(message)}", file=sys.stderr)
    return 2
