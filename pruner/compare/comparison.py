"""What was asked for of many runs: their rows gathered and chosen, told apart, and laid out as tables with notes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pruner.checks import ConfigError, one_line
from pruner.compare.apart import keep_apart, say_in_full
from pruner.compare.gather import Gathered, chosen, gather, result_files
from pruner.compare.notes import line_names, notes
from pruner.compare.references import BUILT_IN, Reference, read_references
from pruner.compare.render import as_latex, as_markdown, as_text, csv_text, legend, long, long_columns
from pruner.compare.settings import flat
from pruner.compare.tables import Entry, Layout, Table, tables

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

    def line(self, entry: Entry) -> str:
        """The name of an entry's line in pictures."""
        return self._names[tuple(entry.keys[key] for key in self.layout.lines)]

    def written(self, form: str) -> str:
        """The tables as text, csv, markdown or latex."""
        if form == "csv":
            return csv_text(long_columns(self.layout), [row for t in self.tables for row in long(t, self.baseline)])
        render, mark = FORMS[form]
        parts = [render(table, self.baseline, notes) for table, notes in zip(self.tables, self.notes, strict=True)]
        comment = "% " if form == "latex" else ""
        explained = [f"{comment}{line}" for line in legend(self.layout, self.baseline, mark, self.tables)]
        return "\n\n".join([*parts, "\n".join(explained)]) + "\n"

    def warnings(self) -> list[str]:
        """What the console is told beside the tables: files that could not be used, and runs without digests."""
        lines = [f"warning: {line}" for line in dict.fromkeys(map(one_line, self.gathered.unreadable))]
        if old := self.gathered.unsealed:
            said = f"{old[0]}: no digests.json beside it, as older versions left it: damage goes unnoticed"
            more = f" (and {len(old) - 1} more)" if len(old) > 1 else ""
            lines.append(f"note: {said}{more}")
        return lines


def compare(
    places: Sequence[str],
    layout: Layout | None = None,
    filters: Sequence[str] = (),
    baseline: str | None = None,
    references: Sequence[Reference] = (),
) -> Comparison:
    """The runs below the folders in `places`, and of the files in it, compared; `references` go beside the built-in
    ones. Raises ConfigError.
    """
    files, closed = result_files(places)
    gathered = gather(files)
    gathered.unreadable += closed
    if not gathered.rows and not gathered.unreadable:
        raise ConfigError(f"no result.csv below {', '.join(places)}")
    left_out = [f"left out: {line}" for line in gathered.unreadable]  # of which table they are is not known
    found = len(gathered.rows)
    gathered.rows = chosen(gathered.rows, filters, in_full=False)  # of the others no config.yaml is read
    configs = gathered.configs()
    say_in_full(gathered.rows, configs)
    gathered.rows = chosen(gathered.rows, filters)
    if found and not gathered.rows:
        raise ConfigError(f"--filter {' '.join(filters)}: none of {found} rows is left")
    settings = {run_id: flat(config) for run_id, config in configs.items()}
    layout = keep_apart(gathered.rows, settings, layout or Layout())
    built = tables(gathered.rows, layout, baseline, [*read_references(BUILT_IN), *references])
    said = [notes(table, settings) + left_out for table in built]
    return Comparison(layout, baseline, built, said, gathered, configs)
