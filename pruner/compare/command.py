"""`pruner-compare`: the rows of many runs as tables, pictures and a page; mean ± standard deviation over seeds."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pruner.checks import ConfigError, one_line
from pruner.compare.apart import keep_apart, write_gathered
from pruner.compare.gather import Gathered, chosen, gather, result_files
from pruner.compare.notes import line_names, remarks
from pruner.compare.references import BUILT_IN, read_references
from pruner.compare.render import as_latex, as_markdown, as_text, csv_text, legend, long, long_columns
from pruner.compare.settings import dataset_in_full, flat, granularity_in_full
from pruner.compare.tables import Cell, Layout, Table, tables
from pruner.runtime import streams
from pruner.store.row import write_atomically

Form = Callable[[Table, str | None, Sequence[str]], str]
FORMS: dict[str, tuple[Form, str]] = {  # each form of text, and what it says of its mark
    "text": (as_text, "*: best mean of its column."),
    "markdown": (as_markdown, "Bold: best mean of its column."),
    "latex": (as_latex, "Bold: best mean of its column."),
}


@dataclass(frozen=True)
class Comparison:
    """All that is shown: the tables, the line or lines to know with each, and what the rows were found with."""

    layout: Layout
    baseline: str | None
    tables: list[Table]
    notes: list[list[str]]
    gathered: Gathered
    configs: dict[str, dict[str, Any]]

    @cached_property
    def _names(self) -> dict[tuple[Any, ...], str]:
        return line_names(self.tables, self.layout)

    @property
    def lines(self) -> list[str]:
        """The names of all lines in pictures."""
        return list(self._names.values())

    def line(self, cell: Cell) -> str:
        """The name of a cell's line in pictures."""
        return self._names[tuple(cell.keys[key] for key in self.layout.lines)]

    def written(self, form: str) -> str:
        """The tables as text, csv, markdown or latex."""
        if form == "csv":
            return csv_text(long_columns(self.layout), [row for t in self.tables for row in long(t, self.baseline)])
        render, mark = FORMS[form]
        parts = [render(table, self.baseline, notes) for table, notes in zip(self.tables, self.notes, strict=True)]
        comment = "% " if form == "latex" else ""
        explained = [f"{comment}{line}" for line in legend(self.layout, self.baseline, mark, self.tables)]
        return "\n\n".join([*parts, "\n".join(explained)]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Exit status: 0; 1 when a file could not be read (the others are used), or what it says could not be
    written; 2 on wrong arguments.
    """
    with streams.lenient("pruner-compare"):
        return _answer(arguments)


def _answer(arguments: Sequence[str] | None) -> int:
    given = _parser().parse_args(arguments)
    try:
        comparison = _compare(given)
        if comparison.tables:
            print(comparison.written(given.format), end="")
        try:
            _write(given, comparison)
        finally:
            for line in dict.fromkeys(map(one_line, comparison.gathered.unreadable)):  # what two need is said once
                print(f"pruner-compare: warning: {line}", file=sys.stderr)
            if old := comparison.gathered.unsealed:
                said = f"{old[0]}: no digests.json beside it, as older versions left it: damage goes unnoticed"
                more = f" (and {len(old) - 1} more)" if len(old) > 1 else ""
                print(f"pruner-compare: note: {said}{more}", file=sys.stderr)
    except ConfigError as error:
        print(f"pruner-compare: {one_line(error)}", file=sys.stderr)
        return 2
    return 1 if comparison.gathered.unreadable else streams.status()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pruner-compare",
        description="Gather the result.csv of every run below DIR into tables: by default methods by sparsities, "
        "accuracy as mean ± standard deviation over seeds.",
    )
    add = parser.add_argument
    add("dirs", metavar="DIR", nargs="*", default=["outputs"], help="a folder of runs, or a CSV file of gathered rows "
        "(default: outputs)")  # fmt: skip
    add("--rows", metavar="KEYS", default="method", help="columns of result.csv, with commas, whose values are the "
        "lines of a table, or `options`: those of a method that its runs differ in (default: method)")  # fmt: skip
    add("--cols", metavar="KEYS", default="sparsity", help="the same for the columns of a table; '' for one column "
        "(default: sparsity)")  # fmt: skip
    add("--value", metavar="COLUMN", default="accuracy", help="the column of result.csv in the cells "
        "(default: accuracy)")  # fmt: skip
    add("--filter", metavar="KEY=VALUE", nargs="+", action="extend", default=[], help="use only the runs with one of "
        "these values, as in method=dtp,gmp sparsity=0.9")  # fmt: skip
    add("--baseline", metavar="METHOD", help="also show the paired difference from this method over common seeds, "
        "with its 95%% t interval; or KEY=VALUE, from the runs that differ in this alone, as in "
        "scope=layer")  # fmt: skip
    add("--references", metavar="FILE", help="published numbers of your own to show beside the built-in ones: CSV "
        "with the columns method, model, dataset, granularity, budget, sparsity, accuracy, and, if you like, paper, "
        "arxiv, dense_accuracy, params_kept, macs_kept, source, mark, note")  # fmt: skip
    add("--format", choices=["text", "csv", "markdown", "latex"], default="text", help="of what is printed "
        "(default: text)")  # fmt: skip
    add("--output", metavar="PREFIX", help="also write PREFIX.csv (a line for each cell), PREFIX.md and PREFIX.tex "
        "(the tables) and PREFIX-rows.csv (all rows)")  # fmt: skip
    add("--pictures", metavar="FOLDER", help="also draw the tables, and what the runs did, as PNG and SVG")
    add("--html", metavar="FILE", help="also write one page that needs no network: sorting, filters, curves, runs")
    return parser


def _compare(given: argparse.Namespace) -> Comparison:
    """Reads and computes all that was asked for. Raises ConfigError."""
    layout = Layout(_keys(given.rows), _keys(given.cols), given.value)
    references = read_references(BUILT_IN) + (read_references(given.references) if given.references else [])
    files, closed = result_files(given.dirs)
    gathered = gather(files)
    gathered.unreadable += closed
    if not gathered.rows and not gathered.unreadable:
        raise ConfigError(f"no result.csv below {', '.join(given.dirs)}")
    left_out = [f"left out: {line}" for line in gathered.unreadable]  # of which table they are is not known
    found = len(gathered.rows)
    gathered.rows = chosen(gathered.rows, given.filter)
    if found and not gathered.rows:
        raise ConfigError(f"--filter {' '.join(given.filter)}: none of {found} rows is left")
    configs = gathered.configs()
    for row in gathered.rows:  # runs of different shapes, or of other images, are of different tables
        config = configs.get(row["run_id"], {})
        row["granularity"] = granularity_in_full(row["granularity"], config)
        row["dataset"] = dataset_in_full(row["dataset"], config)
    settings = {run_id: flat(config) for run_id, config in configs.items()}
    layout = keep_apart(gathered.rows, settings, layout)
    built = tables(gathered.rows, layout, given.baseline, references)
    notes = [remarks(table, settings) + left_out for table in built]
    return Comparison(layout, given.baseline, built, notes, gathered, configs)


def _write(given: argparse.Namespace, comparison: Comparison) -> None:
    """The files that were asked for. Raises ConfigError when one cannot be written."""
    asked = f"--output {given.output}"
    try:
        if given.output:
            for form, suffix in (("csv", "csv"), ("markdown", "md"), ("latex", "tex")):
                write_atomically(f"{given.output}.{suffix}", comparison.written(form).encode())
            write_gathered(f"{given.output}-rows.csv", comparison.gathered.rows)
        if given.html:
            from pruner.compare.page import page

            asked = f"--html {given.html}"
            write_atomically(given.html, page(comparison).encode())
        if given.pictures:
            from pruner.compare.figures import draw

            asked = f"--pictures {given.pictures}"
            draw(comparison, Path(given.pictures))
    except OSError as error:
        raise ConfigError(f"{asked}: {error}") from error


def _keys(text: str) -> tuple[str, ...]:
    return tuple(key.strip() for key in text.split(",") if key.strip())
