"""`pruner-compare`: the rows of many runs as tables, pictures and a page; mean ± standard deviation over seeds."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pruner.checks import ConfigError, one_line
from pruner.compare.apart import write_gathered
from pruner.compare.comparison import Comparison, compare
from pruner.compare.references import read_references
from pruner.compare.tables import Layout
from pruner.runtime import streams
from pruner.store.row import write_atomically


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
            for line in comparison.warnings():
                print(f"pruner-compare: {line}", file=sys.stderr)
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
    references = read_references(given.references) if given.references else []
    return compare(given.dirs, layout, given.filter, given.baseline, references)


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
