"""Published accuracies to stand beside measured ones: `references.csv`, and files of the same columns by users.

Columns (those of NEEDED must be there, others may be left out): `paper` and `arxiv` name the publication; `method`,
`model`, `dataset`, `granularity`, `budget` and `sparsity` (from 0 to below 1) are compared with a run's; `accuracy`
and `dense_accuracy` are in percent; `params_kept` and `macs_kept` are text, as published; `source` says where the
numbers were read; `mark` is `read` (the authors' own text, code or table), `second` (a leaderboard or review), or a
user's own word; a `note` with `scope=NAME` in it belongs to runs of that scope alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruner.checks import ConfigError, one_line
from pruner.store.reading import read_csv
from pruner.store.row import names

BUILT_IN = Path(__file__).with_name("references.csv")
SAME = names("method model dataset granularity budget")
NEEDED = (*SAME, "sparsity", "accuracy")
OPTIONAL = names("paper arxiv dense_accuracy params_kept macs_kept source mark note")
NEAR = 0.001  # sparsities that differ by less are the same: what was asked, and what was counted


@dataclass(frozen=True)
class Reference:
    """One published accuracy in percent, and what it is of (`fields`: the line of the file, as text)."""

    sparsity: float
    accuracy: float
    fields: Mapping[str, str]

    @property
    def origin(self) -> str:
        """The publication, where it was read, the mark and the note, on one line."""
        arxiv = self.fields.get("arxiv") and f"arXiv {self.fields['arxiv']}"
        parts = [self.fields.get("paper"), arxiv, *(self.fields.get(name) for name in names("source mark note"))]
        return "; ".join(part for part in parts if part) or "no source given"

    def fits(self, run: Mapping[str, Any]) -> bool:
        """Whether a run (or an entry of a table) with the columns `run` is of the same setting."""
        scope = re.search(r"\bscope=(\w+)", self.fields.get("note", ""))
        return (
            all(self.fields[name] == run[name] for name in SAME)
            and abs(self.sparsity - run["sparsity"]) < NEAR
            and (scope is None or scope[1] == run["scope"])
        )


def read_references(path: str | Path) -> list[Reference]:
    """The references of a CSV file; lines without a sparsity or an accuracy are left out.

    Raises ConfigError with one line that names the file and what is wrong.
    """
    try:
        header, *lines = [line for line in read_csv(Path(path)) if line] or [[]]
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    if missing := [name for name in NEEDED if name not in header]:
        raise ConfigError(f"{path}: lacks the column {missing[0]}; needed are {', '.join(NEEDED)}")
    if unknown := [name for name in header if name not in NEEDED + OPTIONAL]:
        raise ConfigError(f"{path}: no such column: {unknown[0]}; there are {', '.join(NEEDED + OPTIONAL)}")
    if twice := [name for name in header if header.count(name) > 1]:
        raise ConfigError(f"{path}: the column {twice[0]} is there twice")
    found = []
    for number, line in enumerate(lines, start=1):
        if len(line) != len(header):
            raise ConfigError(f"{path}: row {number} has {len(line)} fields, the header has {len(header)}")
        fields = {name: one_line(field) for name, field in zip(header, line, strict=True)}
        sparsity = _number(fields, "sparsity", 1, f"{path}: row {number}")
        accuracy = _number(fields, "accuracy", 100, f"{path}: row {number}")
        if sparsity is not None and accuracy is not None:
            found.append(Reference(sparsity, accuracy, fields))
    return found


def _number(fields: Mapping[str, str], name: str, most: float, where: str) -> float | None:
    """The field as a number from 0 to `most`, None when it is empty."""
    if fields[name] == "":
        return None
    try:
        value = float(fields[name])
    except ValueError:
        value = float("nan")
    if not 0 <= value <= most:
        raise ConfigError(f"{where}: {name}={fields[name]}: expected a number from 0 to {most}")
    return value
