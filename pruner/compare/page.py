"""One HTML page with everything in it: no network, no library, and nothing from a file that the browser would run.

What comes from files is in one JSON block, which scripts put on the page as text, never as HTML. A content security
policy lets the browser run the page's own script, known by its hash, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruner import __version__
from pruner.checks import ConfigError, one_line
from pruner.compare.notes import caption
from pruner.compare.plot_styles import looks
from pruner.compare.render import best_lines, legend, long
from pruner.compare.settings import command
from pruner.compare.tables import Table, shown
from pruner.config import from_dict
from pruner.store.row import COLUMNS, EPOCH_COLUMNS, LABELS, Row

if TYPE_CHECKING:
    from pruner.compare.comparison import Comparison

WEB = Path(__file__).with_name("web")
DIGITS = 6  # significant digits of an epoch's numbers


def page(comparison: Comparison) -> str:
    """The page as text. Runs whose epochs.csv cannot be read are shown without."""
    style, script = (
        (WEB / "page.css").read_text(),
        "".join((WEB / name).read_text() for name in ("charts.js", "page.js")),
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    parts = {"style": style, "script": script, "digest": digest, "data": _json(_data(comparison))}
    parts["version"] = html.escape(__version__)
    template = (WEB / "page.html").read_text()
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)  # in one pass: data is not looked into


def _json(values: Any) -> str:
    """JSON that cannot end the block that it stands in, nor begin another."""
    return json.dumps(values, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _data(comparison: Comparison) -> dict[str, Any]:
    layout, found = comparison.layout, comparison.tables
    rows = comparison.gathered.rows
    mark = f"Bold: the best mean of cells that differ in {' and '.join(layout.rows)} alone."
    return {
        "value": layout.value,
        "baseline": comparison.baseline,
        "keys": list(layout.keys),
        "pictures": list(layout.pictures),
        "legend": legend(layout, comparison.baseline, mark, found),
        "looks": {str(name): asdict(look) for name, look in looks(comparison.lines).items()},
        "cells": [cell for table in found for cell in _cells(table, comparison)],
        "notes": [
            {"caption": caption(table), "lines": lines}
            for table, lines in zip(found, comparison.notes, strict=True)
            if lines
        ],
        "runs": [_run(comparison, row) for row in rows],
    }


def _cells(table: Table, comparison: Comparison) -> list[Row]:
    best, rows = set(), table.rows
    for col in table.cols:
        cells = [table.cells.get((row, col)) for row in rows]
        best |= {(rows[line], col) for line in best_lines([c.spread if c else None for c in cells], table.layout)}
    places = [place for place in product(rows, table.cols) if place in table.cells]
    return [
        values | {"line": comparison.line(table.cells[place]), "best": place in best}
        for values, place in zip(long(table, comparison.baseline), places, strict=True)
    ]


def _run(comparison: Comparison, row: Row) -> dict[str, Any]:
    """A run's row, the command that repeats it, and its epochs, where those are known."""
    config = comparison.configs.get(row["run_id"])
    folder = comparison.gathered.folders.get(row["run_id"])
    epochs: list[Row] = []
    if folder is not None:
        try:
            epochs = folder.read_epochs()
        except (ConfigError, OSError) as error:
            comparison.gathered.unreadable.append(one_line(error))
    told = {name: shown(row, name) for name in (*COLUMNS, *(label for label in LABELS if row[label] is not None))}
    return {"row": told, "command": _command(config, row["run_id"]), "epochs": [_epoch(epoch) for epoch in epochs]}


def _command(config: Mapping[str, Any] | None, run_id: str) -> str | None:
    """The command that gives the run `run_id` again; None where the settings are not known, or not in these words."""
    try:
        same = config is not None and from_dict(config).run_id == run_id
    except ConfigError:  # a file of another version
        return None
    return command(config) if config is not None and same else None


def _epoch(epoch: Row) -> Row:
    numbers = {name: epoch[name] for name in EPOCH_COLUMNS if name not in ("phase", "seconds")}
    finite = {name: v if v is not None and math.isfinite(v) else None for name, v in numbers.items()}  # JSON has no NaN
    short = {name: float(f"{v:.{DIGITS}g}") if isinstance(v, float) else v for name, v in finite.items()}
    return {"phase": epoch["phase"]} | short
