"""Runs that differ in more than their seed are never of one cell: what no column says of them, their settings do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pruner.compare.settings import Settings, dataset_in_full, differences, granularity_in_full, options, said
from pruner.compare.tables import Layout, grouped
from pruner.store.row import COLUMNS, FURTHER, IN_FULL, Row, write_table

SAME = ("seed", "recipe.name", "quantization.name")  # what may differ in a cell: seeds, and what others call its values


def keep_apart(rows: Sequence[Row], settings: Mapping[str, Settings], layout: Layout) -> Layout:
    """The layout with what it takes to tell runs apart that would be of one cell; puts the texts that do into the rows.

    Options of a method, where those of its runs differ, go where the methods are, as `options`; all other keys make
    tables of their own, as `settings`. The argument has those of the runs whose config.yaml was found, by run_id; of
    others nothing is known but what their rows already say.
    """
    known = [row for row in rows if row["run_id"] in settings]
    if "options" in layout.keys:
        _say_options(known, settings)
    own = False
    for table in grouped(known, layout.split).values():
        done = grouped((row for row in table if row["status"] == "done"), layout.keys)
        keys = {key for cell in done.values() for key in differences((settings[row["run_id"]] for row in cell), SAME)}
        others = sorted(key for key in keys if not key.startswith("method.") or key == "method.name")
        own = own or len(others) < len(keys)
        for row in table:
            values = settings[row["run_id"]]
            row["settings"] = said({key: values.get(key) for key in others}) or None
    if own:
        _say_options(known, settings)
    if any(row["settings"] for row in rows) and "settings" not in layout.keys:
        layout = replace(layout, more=(*layout.more, "settings"))
    if any(row["options"] for row in rows) and "options" not in layout.keys:
        if "method" in layout.rows:
            layout = replace(layout, rows=(*layout.rows, "options"))
        elif "method" in layout.cols:
            layout = replace(layout, cols=(*layout.cols, "options"))
        else:
            layout = replace(layout, more=(*layout.more, "options"))
    return layout


def say_in_full(rows: Iterable[Row], configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Puts into the columns of IN_FULL what the rows' own columns leave open, None where that is nothing: runs of
    other shapes of units, or of other images, are of different tables. `configs` are the config.yaml by run_id; a row
    without one keeps what it says already.
    """
    for row in rows:
        if (config := configs.get(row["run_id"])) is not None:
            for column, in_full in (("dataset", dataset_in_full), ("granularity", granularity_in_full)):
                name = in_full(row[column], config)
                row[IN_FULL[column]] = name if name != row[column] else None


def write_gathered(path: str | Path, rows: Sequence[Row]) -> None:
    """Writes rows of many runs as `write_table` does, with those of FURTHER in which any says something."""
    columns = (*COLUMNS, *(name for name in FURTHER if any(row[name] for row in rows)))
    write_table(path, columns, [{name: row[name] for name in columns} for row in rows])


def _say_options(rows: Iterable[Row], settings: Mapping[str, Settings]) -> None:
    for same in grouped(rows, ["method"]).values():
        for row, text in zip(same, options(settings[row["run_id"]] for row in same), strict=True):
            row["options"] = text or None
