"""The rows of many runs, from the files that hold them, and the settings that lie beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pruner.checks import LARGEST, ConfigError, one_line, one_of, printable
from pruner.results.row import COLUMNS, LABELS, TEXT, Row, read_rows
from pruner.results.store import RunFolder


@dataclass
class Gathered:
    """`rows` of all runs, each once; `folders` of those whose own result.csv was read, by run_id; `unreadable` has one
    line about each file that could not be used."""

    rows: list[Row] = field(default_factory=list)
    folders: dict[str, RunFolder] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)

    def configs(self) -> dict[str, dict[str, Any]]:
        """The config.yaml of each run that has one, by run_id, in printable text; damaged ones go to `unreadable`."""
        found = {}
        for row in self.rows:
            folder = self.folders.get(row["run_id"])
            if folder is not None and folder.config.exists():
                try:
                    found[row["run_id"]] = _printable(folder.read_config())
                except ConfigError as error:
                    self.unreadable.append(str(error))
        return found


def _printable(value: Any) -> Any:
    """Plain values, with text as it can go into any table."""
    if isinstance(value, dict):
        return {printable(key): _printable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_printable(inner) for inner in value]
    return printable(value) if isinstance(value, str) else value


def result_files(places: Sequence[str]) -> list[Path]:
    """The result.csv files below the folders in `places`, and the files in it. Raises ConfigError for a wrong one."""
    files: list[Path] = []
    for name in places:
        path = Path(name)
        if not path.exists():
            raise ConfigError(f"{name}: no such file or folder")
        files += [path] if path.is_file() else sorted(path.rglob("result.csv"))
    return list(dict.fromkeys(files))


def gather(files: Iterable[Path]) -> Gathered:
    """The rows of all files, each run_id once.

    Of one run's copies the first counts, but a done one before a failed one: the run was then repeated.
    """
    rows: dict[object, Row] = {}
    gathered = Gathered()
    for path in files:
        try:
            found = read_rows(path, further=LABELS)
            for row in found:
                _check(path, row)
        except (ConfigError, OSError) as error:
            gathered.unreadable.append(one_line(error))
            continue
        for number, row in enumerate(found):
            name = row["run_id"] or (path, number)
            if name not in rows or (rows[name]["status"], row["status"]) == ("failed", "done"):
                rows[name] = row
            if row["run_id"] and path.name == "result.csv":
                gathered.folders.setdefault(row["run_id"], RunFolder(path.parent))
    gathered.rows = list(rows.values())
    return gathered


def chosen(rows: Iterable[Row], filters: Sequence[str]) -> list[Row]:
    """The rows that agree with every filter `key=value[,value]`; an empty value stands for an empty cell.

    Raises ConfigError with one line for a filter that is not understood.
    """
    wanted = [_filter(text) for text in filters]
    return [row for row in rows if all(_among(row[key], values) for key, values in wanted)]


def _filter(text: str) -> tuple[str, list[str | float | None]]:
    key, equals, words = text.partition("=")
    if not equals:
        raise ConfigError(f"--filter {text}: write key=value[,value]; folders go before --filter")
    one_of("--filter", key, COLUMNS)
    values: list[str | float | None] = []
    for word in words.split(","):
        try:
            values.append(None if word == "" else word if key in TEXT else float(word))
        except ValueError as error:
            raise ConfigError(f"--filter {key}={word}: expected a number") from error
    return key, values


def _among(value: str | float | None, values: Sequence[str | float | None]) -> bool:
    if isinstance(value, int | float):
        return any(isinstance(one, float) and math.isclose(value, one, rel_tol=1e-9) for one in values)
    return value in values


def _check(path: Path, row: Mapping[str, Any]) -> None:
    """A row that would spoil a mean is refused with its file."""
    if row["status"] not in ("done", "failed"):
        raise ConfigError(f"{path}: status={row['status']}: expected done or failed")
    empty = [name for name in ("method", "sparsity", "accuracy") if row["status"] == "done" and row[name] is None]
    if empty:
        raise ConfigError(f"{path}: a run that is done has no {empty[0]}")
    odd = [name for name, value in row.items() if isinstance(value, float) and not abs(value) <= LARGEST]
    if odd:  # also a NaN; the square of a larger one is no float
        raise ConfigError(f"{path}: {odd[0]}={row[odd[0]]}: expected a finite number, of 32 bits")
    if row["sparsity"] is not None and not 0 <= row["sparsity"] < 1:
        raise ConfigError(f"{path}: sparsity={row['sparsity']}: at least 0 and below 1")
