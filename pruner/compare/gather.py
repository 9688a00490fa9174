"""The rows of many runs, from the files that hold them, and the settings that lie beside them."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pruner.checks import ConfigError, one_line, one_of, printable
from pruner.compare.settings import HELD_OUT
from pruner.store.folders import RunFolder
from pruner.store.row import COLUMNS, FURTHER, IN_FULL, TEXT, Row, check_result, read_rows

RESULT = "result.csv"
# Names in full as older versions put them into the columns themselves, and which part of them is the column's own.
OLDER = {"dataset": rf"(.+) \(\S+% {re.escape(HELD_OUT)}", "granularity": r"(block|nm) \S+"}


@dataclass
class Gathered:
    """`rows` of all runs, each once; `folders` of those whose own result.csv was read, by run_id; `unreadable` has one
    line about each file that could not be used, `unsealed` the result.csv files of runs without digests."""

    rows: list[Row] = field(default_factory=list)
    folders: dict[str, RunFolder] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    unsealed: list[Path] = field(default_factory=list)

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


def result_files(places: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The result.csv files below the folders in `places`, and the files in it; a line for each folder that is closed.

    Raises ConfigError for a wrong place.
    """
    files: list[Path] = []
    closed: list[str] = []
    for name in places:
        path = Path(name)
        try:
            if not path.exists():
                raise ConfigError(f"{name}: no such file or folder")
        except OSError as error:
            raise ConfigError(one_line(f"{name}: cannot be read ({error.strerror})")) from error
        below = os.walk(path, onerror=lambda error: closed.append(one_line(error)))
        found = (Path(at, RESULT) for at, folders, names in below if RESULT in (*folders, *names))
        files += [path] if path.is_file() else sorted(found)
    return list(dict.fromkeys(files)), closed


def gather(files: Iterable[Path]) -> Gathered:
    """The rows of all files, each run_id once.

    Of one run's copies the first counts, but a done one before a failed one: the run was then repeated. Copies that say
    different things are named.
    """
    rows: dict[object, tuple[Path, Row]] = {}
    gathered = Gathered()
    for path in files:
        folder = RunFolder(path.parent) if path.name == RESULT else None
        try:
            found = read_rows(path, further=FURTHER)
            for row in found:
                check_result(path, row)
                _as_today(row)
            if folder is not None and not folder.digests.check(path):
                gathered.unsealed.append(path)
        except (ConfigError, OSError) as error:
            gathered.unreadable.append(one_line(error))
            continue
        for number, row in enumerate(found):
            name = row["run_id"] or (path, number)
            place, known = rows.setdefault(name, (path, row))
            if (known["status"], row["status"]) == ("failed", "done"):
                rows[name] = path, row
            elif known is not row and _another(place, known, path, row):
                gathered.unreadable.append(one_line(f"{path}: not counted, {place} has the run {name} too"))
            if row["run_id"] and folder is not None:
                gathered.folders.setdefault(row["run_id"], folder)
    gathered.rows = [row for _, row in rows.values()]
    return gathered


def _as_today(row: Row) -> None:
    """Takes names in full out of the columns into which older versions put them."""
    for column, pattern in OLDER.items():
        if older := re.fullmatch(pattern, row[column] or ""):
            row[IN_FULL[column]], row[column] = row[column], older[1]


def _another(place: Path, known: Row, path: Path, row: Row) -> bool:
    """Whether two rows of one run_id are no plain copies: of other numbers, or in the folder of another run."""
    differ = known["status"] == row["status"] and known["accuracy"] != row["accuracy"]
    return differ or (place.name == path.name == RESULT and place.parent.name != path.parent.name)


def chosen(rows: Iterable[Row], filters: Sequence[str], in_full: bool = True) -> list[Row]:
    """The rows that agree with every filter `key=value[,value]`; an empty value stands for an empty field, and a name
    in full, as in `granularity=block 16x8`, for itself alone.

    in_full: whether rows have such names by now; else those stay that may yet get one that is asked for. Raises
    ConfigError with one line for a filter that is not understood.
    """
    wanted = [_filter(text) for text in filters]
    return [row for row in rows if all(_agrees(row, key, values, in_full) for key, values in wanted)]


def _agrees(row: Row, key: str, values: Sequence[str | float | None], in_full: bool) -> bool:
    if key not in IN_FULL or row[key] in values:
        return _among(row[key], values)
    name = row[IN_FULL[key]]
    if name is None and not in_full:
        return any(str(value).startswith(f"{row[key]} ") for value in values)
    return name is not None and name in values


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
