"""Which pictures there are: what the tables hold against sparsity and MACs, and what the runs did on the way there."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruner.checks import LARGEST, ConfigError, one_line, require
from pruner.compare.plot_styles import Look, looks
from pruner.compare.plots import Axis, Histogram, Line, draw_histograms, draw_lines
from pruner.compare.spread import spread
from pruner.compare.tables import Cell, Key
from pruner.store.row import EPOCH_COLUMNS, LAYER_COLUMNS, MASK_COLUMNS, TEXT, Row

if TYPE_CHECKING:
    from pruner.compare.comparison import Comparison

Curve = list[tuple[float, float]]
NEEDED = {"layers": ("layer", "params_total", "params_kept"), "epochs": ("phase", "epoch"), "masks": MASK_COLUMNS}
MOST_LAYERS, MOST_BINS = 2000, 2_000_000  # that are drawn
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)  # percent, on a logarithmic axis


def draw(comparison: Comparison, folder: Path) -> None:
    """Draws all there is to draw into `folder`, as PNG and SVG: two pictures for each setting, and for each of its
    sparsities those of the runs whose files were found.

    A file that cannot be read goes to `comparison.gathered.unreadable`. Raises ConfigError without Matplotlib.
    """
    layout = comparison.layout
    others = layout.pictures
    styles = looks(comparison.lines)
    groups: dict[Key, list[Cell]] = {}
    for table in comparison.tables:
        for cell in table.ordered():
            groups.setdefault(tuple(cell.keys[key] for key in others), []).append(cell)
    for key, cells in groups.items():
        title, name = _words(others, key)
        _values(comparison, folder / name, title, cells, styles)
        for sparsity in sorted({cell.keys["sparsity"] for cell in cells}):
            same = sorted((c for c in cells if c.keys["sparsity"] == sparsity), key=comparison.line)
            at = f"{title}, sparsity {sparsity:g}"
            _runs(comparison, folder / f"{name}-{sparsity:g}", at, same, styles)


def _words(names: Sequence[str], key: Key) -> tuple[str, str]:
    """A setting as a picture's title, and as the beginning of its file's name."""
    numbered = {"quant_bits": "bits", "dense_epochs": "dense", "prune_epochs": "prune", "finetune_epochs": "finetune"}
    said = [
        f"{value} {numbered.get(name, name)}" if not isinstance(value, str) else value
        for name, value in zip(names, key, strict=True)
        if value is not None
    ]
    return ", ".join(said), re.sub(r"[^\w.-]+", "-", "-".join(str(value) for value in key if value is not None))


def _values(comparison: Comparison, path: Path, title: str, cells: list[Cell], styles: dict[object, Look]) -> None:
    """The value against sparsity, and against the MACs that are left."""
    value = comparison.layout.value
    y = Axis(f"{value.replace('_', ' ')}{', %' if 'accuracy' in value else ''}")
    measured = [cell for cell in cells if cell.spread]
    sparsities = sorted({cell.keys["sparsity"] for cell in measured})
    ticks = [(_kept(sparsity), f"{sparsity:g}") for sparsity in sparsities]
    x = Axis("sparsity (by the logarithm of what is kept)", ticks)
    lines = _lines(comparison, measured, lambda cell: _kept(cell.keys["sparsity"]), styles)
    if lines:
        draw_lines(path.with_name(f"{path.name}-sparsity"), title, lines, x, y)
    lines = _lines(comparison, measured, _macs_percent, styles)
    places = [place for line in lines for place in line.x]
    if places:
        ticks = [(tick, f"{tick:g}") for tick in TICKS if min(places) / 1.5 <= tick <= max(places) * 1.5]
        x = Axis("multiply-adds kept, % (logarithmic)", ticks, log=True)
        draw_lines(path.with_name(f"{path.name}-macs"), title, lines, x, y)


def _kept(sparsity: float) -> float:
    return -math.log10(1 - sparsity)


def _macs_percent(cell: Cell) -> float | None:
    shares = [100 * run["macs_kept"] / run["macs_total"] for run in cell.runs if run["macs_kept"] and run["macs_total"]]
    found = spread(shares)
    return found.mean if found else None


def _lines(
    comparison: Comparison, cells: Iterable[Cell], x: Callable[[Cell], float | None], styles: dict[object, Look]
) -> list[Line]:
    """The lines through the cells, from left to right; cells without an x are left out."""
    points: dict[str, list[tuple[float, float, float | None]]] = {}
    for cell in cells:
        place = x(cell)
        if place is not None and cell.spread is not None:
            points.setdefault(comparison.line(cell), []).append((place, cell.spread.mean, cell.spread.std))
    lines = []
    for name in sorted(points):
        across, up, spreads = zip(*sorted(points[name], key=lambda point: point[0]), strict=True)
        lines.append(Line(name, styles[name], across, up, spreads))
    return lines


def _runs(comparison: Comparison, path: Path, title: str, cells: list[Cell], styles: dict[object, Look]) -> None:
    """What the runs of one setting and sparsity did: means over the runs of each line's cell."""
    layers = {comparison.line(cell): _files(comparison, cell, "layers", LAYER_COLUMNS) for cell in cells}
    epochs = {comparison.line(cell): _files(comparison, cell, "epochs", EPOCH_COLUMNS) for cell in cells}
    masks = {comparison.line(cell): _files(comparison, cell, "masks", MASK_COLUMNS) for cell in cells}
    names = dict.fromkeys(row["layer"] for files in layers.values() for rows in files for row in rows)
    if len(names) > MOST_LAYERS:
        comparison.gathered.unreadable.append(f"{path.name}-layers: {len(names)} layers are too many for a picture")
    else:
        place = {name: number for number, name in enumerate(names)}
        kept: dict[str, list[Curve]] = {n: [_shares(rows, place) for rows in files] for n, files in layers.items()}
        x = Axis("", list(enumerate(names)), upright=True)
        _mean_lines(path, "layers", title, kept, x, "share of weights kept", styles)
    for column, y in (("undecided", "undecided share of units"), ("gap", "soft-to-hard gap, points of accuracy")):
        soft: dict[str, list[Curve]] = {n: [_course(rows, column) for rows in files] for n, files in epochs.items()}
        _mean_lines(path, column, title, soft, Axis("epoch of pruning", whole=True), y, styles)
    try:
        histograms = [_histogram(line, files[0]) for line, files in masks.items() if files]
    except ConfigError as error:
        comparison.gathered.unreadable.append(f"{path.name}-masks: {error}")
        histograms = []
    if histograms:
        draw_histograms(path.with_name(f"{path.name}-masks"), title, histograms)


def _shares(layers: Iterable[Row], place: Mapping[str, int]) -> Curve:
    """What each layer of a run keeps of its weights, by its place."""
    return [(place[r["layer"]], r["params_kept"] / r["params_total"]) for r in layers if r["params_total"]]


def _course(epochs: Iterable[Row], column: str) -> Curve:
    """A column of a run's epochs of pruning that have it, as a number that can be drawn."""
    return [(r["epoch"], r[column]) for r in epochs if r["phase"] == "prune" and _drawn(r[column])]


def _drawn(value: float | None) -> bool:
    return value is not None and abs(value) <= LARGEST


def _files(comparison: Comparison, cell: Cell, name: str, columns: tuple[str, ...]) -> list[list[Row]]:
    """The rows of NAME.csv of each of the cell's runs that has one with rows in it, all with what a picture needs."""
    found = []
    for run in cell.runs:
        folder = comparison.gathered.folders.get(run["run_id"])
        if folder is not None and (path := folder.path / f"{name}.csv").exists():
            try:
                rows = folder.read_table(path, columns)
                for column, value in ((column, row[column]) for row in rows for column in NEEDED[name]):
                    there = value if column in TEXT else _drawn(value)
                    require(bool(there), f"{path}: {column}", value, "expected a finite number, or a name")
                found.append(rows)
            except (ConfigError, OSError) as error:
                comparison.gathered.unreadable.append(one_line(error))
    return [rows for rows in found if rows]


def _mean_lines(
    path: Path, what: str, title: str, curves: dict[str, list[Curve]], x: Axis, y: str, styles: dict[object, Look]
) -> None:
    """Draws the mean over each line's curves, at the places that any of them has."""
    lines = []
    for name, found in curves.items():
        values: dict[float, list[float]] = {}
        for curve in found:
            for place, value in curve:
                values.setdefault(place, []).append(value)
        if values:
            places = sorted(values)
            means = [sum(values[place]) / len(values[place]) for place in places]
            lines.append(Line(name, styles[name], places, means))
    if lines:
        draw_lines(path.with_name(f"{path.name}-{what}"), title, lines, x, Axis(y))


def _histogram(name: str, rows: Sequence[Row]) -> Histogram:
    """A run's masks.csv as counts by epoch and bin. Raises ConfigError when there are too many to be drawn."""
    epochs = sorted({row["epoch"] for row in rows})
    lows = sorted({row["bin_low"] for row in rows})
    require(len(epochs) * len(lows) <= MOST_BINS, "bins", len(lows), f"too many for a picture of {len(epochs)} epochs")
    counts: dict[tuple[Any, Any], float] = {(row["epoch"], row["bin_low"]): row["count"] for row in rows}
    edges = [*lows, max(row["bin_high"] for row in rows)]
    return Histogram(name, epochs, edges, [[counts.get((epoch, low), 0) for low in lows] for epoch in epochs])
