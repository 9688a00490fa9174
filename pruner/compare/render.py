"""Tables as text, Markdown, LaTeX and CSV. Nothing is computed here."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pruner.compare.notes import caption, labels, plain
from pruner.compare.settings import HELD_OUT
from pruner.compare.spread import Difference, Spread
from pruner.compare.tables import MEANS, Key, Layout, Table
from pruner.store.row import Row, guarded

LEGEND = "{}: mean ± sample standard deviation over seeds (number of runs)."
LONG = (
    *("value", "n", "mean", "std", "min", "max"),
    *("baseline", "pairs", "difference", "difference_low", "difference_high", "published"),
    *MEANS,
)
EMPTY = "-"


@dataclass(frozen=True)
class Grid:
    """A table as text: `header` and `body` of the same width, the first `keys` columns name the line."""

    keys: int
    header: list[str]
    body: list[list[str]]
    best: frozenset[tuple[int, int]] = frozenset()  # line and column in body of what is marked


def long_columns(layout: Layout) -> tuple[str, ...]:
    """The columns of the CSV table: what an entry is of, then its numbers."""
    return (*layout.keys, *(name for name in LONG if name != layout.value))


LONG_COLUMNS = long_columns(Layout())


def long(table: Table, baseline: str | None) -> list[Row]:
    """One row for each entry (`long_columns`). Accuracies are in percent; differences in the value's own unit."""
    found = []
    for entry in table.ordered():
        values, gap = entry.spread, entry.difference
        line: Row = dict(entry.keys) | {"value": table.layout.value, "n": values.n if values else 0}
        if values:
            line |= {"mean": values.mean, "std": values.std, "min": values.low, "max": values.high}
        if gap:
            line |= {"baseline": baseline, "pairs": gap.n, "difference": gap.mean}
            line |= {"difference_low": gap.low, "difference_high": gap.high}
        line["published"] = " / ".join(f"{reference.accuracy:g}" for reference in entry.published) or None
        means = {name: entry.mean(name) for name in MEANS if name != table.layout.value}
        found.append(dict.fromkeys(long_columns(table.layout)) | line | means)
    return found


def csv_text(columns: Sequence[str], rows: Sequence[Row]) -> str:
    """Rows as CSV; numbers in full, None as an empty field, text that no spreadsheet takes for a formula."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: guarded(v) if isinstance(v, str) else v for name, v in row.items()} for row in rows)
    return text.getvalue()


def main_grid(table: Table) -> Grid:
    """Means and spreads, with a column of published numbers after each column that has any."""
    layout, rows = table.layout, table.rows
    header, body, best = list(layout.rows), [list(map(plain, row)) for row in rows], set()
    for col in table.cols:
        entries = [table.entries.get((row, col)) for row in rows]
        spreads = [entry.spread if entry else None for entry in entries]
        best |= {(line, len(header)) for line in best_lines(spreads, layout)}
        header.append(_title(col, layout))
        for line, values in zip(body, spreads, strict=True):
            line.append(_spread(values, layout.value))
        if any(entry and entry.published for entry in entries):
            header.append("published")
            for line, entry in zip(body, entries, strict=True):
                line.append(" / ".join(f"{r.accuracy:.2f}" for r in entry.published) if entry else "")
    return Grid(len(layout.rows), header, body, frozenset(best))


def difference_grid(table: Table) -> Grid | None:
    """Paired differences with their intervals; None where there are none."""
    layout = table.layout
    differing = {row for (row, _), entry in table.entries.items() if entry.difference}
    if not differing:
        return None
    body, cols = [], table.cols
    for row in (row for row in table.rows if row in differing):
        entries = (table.entries.get((row, col)) for col in cols)
        gaps = [_difference(entry.difference if entry else None, layout.value) for entry in entries]
        body.append([*map(plain, row), *gaps])
    return Grid(len(layout.rows), [*layout.rows, *(_title(col, layout) for col in cols)], body)


def legend(layout: Layout, baseline: str | None, mark: str, found: Sequence[Table]) -> list[str]:
    """What the numbers are; the `mark` of the best, differences and published numbers only where there are some."""
    entries = [entry for table in found for entry in table.entries.values()]
    value = "Test accuracy in percent" if layout.value == "accuracy" else layout.value
    if layout.value == "accuracy" and any(str(entry.keys["dataset"]).endswith(HELD_OUT) for entry in entries):
        value = "Accuracy in percent, where so said on held-out training images"
    lines = [LEGEND.format(value)]
    if any(main_grid(table).best for table in found):
        lines.append(mark)
    if any(entry.difference for entry in entries):
        pairs = "(number of pairs); one pair has no interval."
        lines.append(f"Minus {baseline}: mean difference over the seeds that both have [its 95% t interval] {pairs}")
    if any(entry.published for entry in entries):
        lines.append("published: a paper's number for the same method, model, data and budget; its recipe is its own.")
    return lines


def as_text(table: Table, baseline: str | None, notes: Sequence[str]) -> str:
    """One table for the console, its columns aligned."""
    return _join(table, baseline, notes, str, str, _aligned, "\n", "\n")


def as_markdown(table: Table, baseline: str | None, notes: Sequence[str]) -> str:
    """One table as Markdown, with its caption above and its notes below."""
    said = [markdown(note) for note in notes]
    return _join(table, baseline, said, lambda text: f"**{markdown(text)}**", markdown, _pipes, "\n\n", "\n\n")


def as_latex(table: Table, baseline: str | None, notes: Sequence[str]) -> str:
    """One table as LaTeX for the package booktabs; its notes are comments."""
    title, heading = (lambda text: f"\\caption{{{latex(text)}}}"), (lambda text: f"{latex(text)} \\\\")
    body = _join(table, baseline, [], title, heading, _tabular, "\n", "\n\\par\\medskip\n")
    comments = [f"% {note}" for note in notes]
    return "\n".join(["\\begin{table}", "\\centering", body, "\\end{table}", *comments])


def _join(
    table: Table,
    baseline: str | None,
    notes: Sequence[str],
    title: Callable[[str], str],
    heading: Callable[[str], str],
    form: Callable[[Grid], str],
    under: str,
    between: str,
) -> str:
    parts = [title(caption(table)) + under + (form(main_grid(table)) if table.entries else "no finished run")]
    gaps = difference_grid(table)
    if gaps:
        parts.append(heading(f"minus {baseline}:") + under + form(gaps))
    return between.join([*parts, *notes])


def _aligned(grid: Grid) -> str:
    marked = {col for _, col in grid.best}

    def field(line: int, col: int, text: str) -> str:
        return f"{text}{' *' if (line, col) in grid.best else '  '}" if col in marked else text

    body = [[field(i, j, text) for j, text in enumerate(line)] for i, line in enumerate(grid.body)]
    header = [field(-1, j, text) for j, text in enumerate(grid.header)]
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    lines = []
    for line in (header, *body):
        padded = (
            t.ljust(w) if j < grid.keys else t.rjust(w) for j, (t, w) in enumerate(zip(line, widths, strict=True))
        )
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _pipes(grid: Grid) -> str:
    marks = ["---"] * grid.keys + ["---:"] * (len(grid.header) - grid.keys)
    body = [
        [
            markdown(text) if j < grid.keys else _bold(text, "**", "**") if (i, j) in grid.best else text
            for j, text in enumerate(line)
        ]
        for i, line in enumerate(grid.body)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in (map(markdown, grid.header), marks, *body))


def _tabular(grid: Grid) -> str:
    body = [
        [_bold(latex(t), "\\textbf{", "}") if (i, j) in grid.best else latex(t) for j, t in enumerate(line)]
        for i, line in enumerate(grid.body)
    ]
    columns = "l" * grid.keys + "r" * (len(grid.header) - grid.keys)
    lines = [" & ".join(line) + " \\\\" for line in ([latex(t) for t in grid.header], *body)]
    begin, end = f"\\begin{{tabular}}{{{columns}}}", "\\end{tabular}"
    return "\n".join([begin, "\\toprule", lines[0], "\\midrule", *lines[1:], "\\bottomrule", end])


def markdown(text: str) -> str:
    """`text` on one line with what Markdown would read as a mark, a link, HTML or the end of a field escaped."""
    text = re.sub(r"[\\`*~$\[\]]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text)  # inside of words _ is only a letter
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;")


def latex(text: str) -> str:
    """`text` on one line with what LaTeX would read as a command escaped, and with minus signs."""
    special = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "±": "$\\pm$"}
    escaped = "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)
    escaped = re.sub(r"^[\[*]", r"{\g<0>}", escaped)  # which behind the end of a line would be its argument
    return re.sub(r"(?<![\w$])([-+])(?=\d)", r"$\1$", escaped)


def _bold(text: str, before: str, after: str) -> str:
    """The number in bold, the count of runs behind it not."""
    number, bracket, count = text.rpartition(" (")
    return f"{before}{number}{after}{bracket}{count}"


def _title(col: Key, layout: Layout) -> str:
    return ", ".join(labels(col, layout.cols)) if layout.cols else layout.value


def best_lines(spreads: Sequence[Spread | None], layout: Layout) -> list[int]:
    """The lines whose mean, as it is shown, is the best of at least two."""
    means = {line: layout.direction * values.mean for line, values in enumerate(spreads) if values}
    if len(means) < 2 or not layout.direction:
        return []
    top = number(max(means.values()), layout.value)
    return [line for line, mean in means.items() if number(mean, layout.value) == top]


def number(value: float, column: str) -> str:
    """A value of a column with the digits that mean something."""
    digits = 4 if column == "achieved_sparsity" else 2 if "accuracy" in column or "latency" in column else 1
    return f"{value:,.0f}" if column.startswith(("params", "macs", "prunable", "size")) else f"{value:.{digits}f}"


def _spread(values: Spread | None, column: str) -> str:
    if values is None:
        return EMPTY
    plus_minus = "" if values.std is None else f" ± {number(values.std, column)}"
    return f"{number(values.mean, column)}{plus_minus} ({values.n})"


def _difference(gap: Difference | None, column: str) -> str:
    if gap is None:
        return EMPTY
    mean = _signed(gap.mean, column)
    if gap.low is None or gap.high is None:
        return f"{mean} ({gap.n})"
    return f"{mean} [{_signed(gap.low, column)}, {_signed(gap.high, column)}] ({gap.n})"


def _signed(value: float, column: str) -> str:
    return ("+" if value >= 0 else "") + number(value, column)
