"""Rows grouped into tables of cells: arithmetic on rows alone, no files and no formats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from pruner.checks import ConfigError, one_of, require
from pruner.compare.references import Reference
from pruner.compare.spread import Difference, Spread, paired, spread
from pruner.store.row import COLUMNS, IN_FULL, LABELS, TEXT, Row, names

# Runs are compared within a table only: of these, what is no row or column of a table is the same in all of it.
KEYS = names("""
    dataset model granularity scope budget quant_bits dense_epochs prune_epochs finetune_epochs method sparsity
""")
VERSIONS = names("commit pruner_version torch_version precision")
MORE_KEYS = (*LABELS, *names("seed device threads"), *VERSIONS)  # a table may also be laid out by these
MEANS = names("dense_accuracy soft_accuracy hard_accuracy achieved_sparsity params_kept macs_kept")
HIGHER = names("dense_accuracy soft_accuracy hard_accuracy accuracy accuracy_top5")
LOWER = names("""
    params_kept macs_kept prunable_params_kept prunable_macs_kept dense_seconds prune_seconds finetune_seconds
    size_bytes latency_ms dense_latency_ms
""")
MOST_CELLS = 1_000_000  # of all tables together, the empty ones too
Key = tuple[Any, ...]


@dataclass(frozen=True)
class Layout:
    """What stands where in a table: columns of the runs' rows as lines and as columns, and the number in the cells.

    more: what else of MORE_KEYS is the same in all of a table.
    """

    rows: tuple[str, ...] = ("method",)
    cols: tuple[str, ...] = ("sparsity",)
    value: str = "accuracy"
    more: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for flag, keys in (("--rows", self.rows), ("--cols", self.cols)):
            for key in keys:
                one_of(flag, key, KEYS + MORE_KEYS)
        require(bool(self.rows), "--rows", "", "give one key at least")
        twice = [key for key in self.keys if (self.rows + self.cols).count(key) > 1]
        require(not twice, "--rows and --cols", ",".join(twice), "one key twice; give it once")
        one_of("--value", self.value, [name for name in COLUMNS if name not in TEXT + KEYS + MORE_KEYS])

    @property
    def split(self) -> tuple[str, ...]:
        """What is the same in all of a table."""
        return (*(key for key in KEYS if key not in self.rows + self.cols), *self.more)

    @property
    def keys(self) -> tuple[str, ...]:
        """What is the same in all of a cell."""
        return KEYS + tuple(key for key in MORE_KEYS if key in self.rows + self.cols + self.more)

    @property
    def lines(self) -> tuple[str, ...]:
        """What tells the lines of a picture apart: the method, and what else tells a table's lines apart."""
        return ("method", *(key for key in self.rows if key not in ("method", "sparsity")))

    @property
    def pictures(self) -> tuple[str, ...]:
        """What is the same in all of a picture: its lines run over sparsity."""
        return tuple(key for key in self.keys if key not in (*self.lines, "sparsity"))

    @property
    def direction(self) -> int:
        """1 where more is better, -1 where less is, 0 where neither."""
        return int(self.value in HIGHER) - int(self.value in LOWER)


@dataclass(frozen=True)
class Cell:
    """Finished runs that agree in all of `keys`: seeds, as a rule. `spread` is None where no run has the value."""

    keys: Mapping[str, Any]
    runs: Sequence[Row]
    spread: Spread | None
    difference: Difference | None = None
    published: Sequence[Reference] = ()

    def mean(self, column: str) -> float | None:
        """The mean of another column, over the runs that have it."""
        found = spread(_values(self.runs, column))
        return found.mean if found else None


@dataclass(frozen=True)
class Table:
    """Runs that agree in `layout.split` (the values of which are `key`); failed ones are only listed."""

    layout: Layout
    key: Key
    done: Sequence[Row]
    failed: Sequence[Row]
    cells: Mapping[tuple[Key, Key], Cell] = field(default_factory=dict)

    @property
    def rows(self) -> list[Key]:
        """With methods as rows the best at the last column comes first, then at the one before; else by value."""
        found = sorted({row for row, _ in self.cells}, key=_by_value)
        if "method" not in self.layout.rows or not self.layout.direction:
            return found

        cols = self.cols[::-1]

        def rank(row: Key) -> tuple[float, ...]:
            cells = (self.cells.get((row, col)) for col in cols)
            spreads = (cell.spread if cell else None for cell in cells)
            return tuple(float("inf") if s is None else -self.layout.direction * s.mean for s in spreads)

        return sorted(found, key=rank)

    @property
    def cols(self) -> list[Key]:
        return sorted({col for _, col in self.cells}, key=_by_value)

    def ordered(self) -> list[Cell]:
        """The cells line by line."""
        return [self.cells[place] for place in product(self.rows, self.cols) if place in self.cells]


def tables(
    rows: Iterable[Row],
    layout: Layout = Layout(),
    baseline: str | None = None,
    references: Sequence[Reference] = (),
) -> list[Table]:
    """The rows as tables, in order of what splits them, their cells compared with those of `baseline`: a method's
    name, or `key=value` for what else they may differ in, as in `scope=layer`.

    Raises ConfigError when no finished row is of it, or when several of a method's options are.
    """
    rows = list(rows)
    done = [row for row in rows if row["status"] == "done"]
    key, wanted = _baseline(baseline, layout)
    theirs = [row for row in done if baseline is not None and _said(shown(row, key)) == wanted]
    if baseline is not None and not theirs:
        present = sorted({_said(shown(row, key)) for row in done})
        raise ConfigError(f"--baseline={baseline}: no finished run of it; there are {', '.join(present) or 'none'}")
    alone = {key, "options"} if key == "method" else {key}  # options are a method's own: another has no such
    paired_by = [name for name in layout.keys if name not in alone]
    partners = grouped(theirs, paired_by)
    for same in partners.values():
        several = sorted({_said(row["options"]) for row in same}) if "options" in layout.keys else []
        if len(several) > 1:
            raise ConfigError(f"--baseline={baseline}: several options in one setting: {'; '.join(several)}")
    found = []
    for split, group in sorted(grouped(rows, layout.split).items(), key=lambda item: _by_value(item[0])):
        finished = [row for row in group if row["status"] == "done"]
        cells = {}
        for place, runs in grouped(finished, layout.rows + layout.cols).items():
            same = partners.get(tuple(shown(runs[0], name) for name in paired_by), [])
            other = [] if _said(shown(runs[0], key)) == wanted else same
            cells[place[: len(layout.rows)], place[len(layout.rows) :]] = _cell(runs, other, layout, references)
        found.append(Table(layout, split, finished, [row for row in group if row["status"] == "failed"], cells))
    if sum(len(table.rows) * len(table.cols) for table in found) > MOST_CELLS:
        raise ConfigError(f"tables of more than {MOST_CELLS:,} cells: choose runs with --filter")
    return found


def _baseline(text: str | None, layout: Layout) -> tuple[str, str | None]:
    """The key whose value tells the baseline's runs from others, and that value."""
    key, equals, value = (text or "").partition("=")
    if not equals:
        return "method", text
    one_of("--baseline", key, layout.keys)
    return key, value


def _said(value: Any) -> str:
    return "" if value is None else str(value)


def _cell(runs: list[Row], theirs: list[Row], layout: Layout, references: Sequence[Reference]) -> Cell:
    """One cell; `theirs` are the baseline's runs of the same setting."""
    keys = {name: shown(runs[0], name) for name in layout.keys}
    values = spread(_values(runs, layout.value))
    difference = paired(_by_seed(runs, layout.value), _by_seed(theirs, layout.value))
    published = [r for r in references if r.fits(keys)] if layout.value == "accuracy" else []
    return Cell(keys, runs, values, difference, published)


def shown(row: Row, column: str) -> Any:
    """A row's value of a column, by which tables group it: the name in full, where the row has one."""
    name = row.get(IN_FULL[column]) if column in IN_FULL else None
    return row[column] if name is None else name


def grouped(rows: Iterable[Row], columns: Sequence[str]) -> dict[Key, list[Row]]:
    """The rows that agree in `columns`, by their values of these as they are shown."""
    groups: dict[Key, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(shown(row, name) for name in columns), []).append(row)
    return groups


def _by_seed(runs: Iterable[Row], column: str) -> dict[int, float]:
    """The value of each seed; the mean of its runs where one seed has several."""
    found = {seed: spread(_values(same, column)) for (seed,), same in grouped(runs, ("seed",)).items()}
    return {seed: values.mean for seed, values in found.items() if values and seed is not None}


def _values(runs: Iterable[Row], column: str) -> list[float]:
    return [float(row[column]) for row in runs if row[column] is not None]


def _by_value(key: Key) -> list[tuple[bool, Any]]:
    """A sort key: empty cells first, then numbers by size and text by letter."""
    return [(value is not None, value) for value in key]
