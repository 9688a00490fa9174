"""Rows of numbers as CSV files: the columns, and exact, atomic writing and reading.

What is written is read back equal: numbers stand in full (times in milliseconds), None is an empty cell. A
file is there whole or not at all, so that a killed run never leaves half a row.
"""

from __future__ import annotations

import csv
import io
import os
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pruner.checks import LARGEST, ConfigError, one_line
from pruner.store.reading import read_csv

Row = dict[str, Any]
FORMULA = "'*[=+@-]"  # how text begins that a spreadsheet would run, behind apostrophes or not
HALF_WRITTEN = ".tmp"  # how the hidden files end that a killed process leaves


def names(text: str) -> tuple[str, ...]:
    """Column names from words."""
    return tuple(text.split())


COLUMNS = names("""
    status error method dataset model granularity scope budget sparsity seed
    achieved_sparsity params_total params_kept macs_total macs_kept
    prunable_params_total prunable_params_kept prunable_macs_total prunable_macs_kept
    dense_accuracy soft_accuracy hard_accuracy accuracy accuracy_top5
    dense_epochs prune_epochs finetune_epochs dense_seconds prune_seconds finetune_seconds
    quant_bits size_bytes latency_ms dense_latency_ms
    device threads precision torch_version pruner_version commit run_id
""")
# Of rows that were gathered from several folders: what tells runs apart that no other column does, where any differ.
LABELS = names("options settings")
# And what a column's value leaves open, by the column: the shape of a block, and images that are no test images.
IN_FULL = {"dataset": "dataset_in_full", "granularity": "granularity_in_full"}
FURTHER = (*IN_FULL.values(), *LABELS)  # columns of gathered rows behind those of every row
# sparsity: the soft masks' current share of the cost that is removed; undecided: share of units with a mask
# between 0.05 and 0.95; gap: points of accuracy that hardening would cost now. Empty where a phase has no soft masks.
EPOCH_COLUMNS = names("phase epoch seconds lr loss train_accuracy sparsity undecided gap")
RATIO_COLUMNS = names("epoch group keep")  # the share of a group's units that each epoch of pruning would keep
MASK_COLUMNS = names("epoch bin_low bin_high count")  # how many units had a mask between two values in the last step
LAYER_COLUMNS = names("""
    layer granularity units_total units_kept params_total params_kept macs_total macs_kept confidence diversity
""")
# Every other column holds numbers, and these, or what ends like this, whole ones.
WHOLE = names("seed quant_bits size_bytes threads epoch count")
WHOLE_ENDS = names("_total _kept _epochs")
PERCENT = names("dense_accuracy soft_accuracy hard_accuracy accuracy accuracy_top5")
TEXT = names("""
    status error method dataset model granularity scope budget device precision torch_version pruner_version commit
    run_id phase layer group dataset_in_full granularity_in_full options settings
""")


def write_atomically(path: str | Path, data: bytes) -> None:
    """Puts `data` at `path` whole or not at all, also when the process is killed or the power fails; makes folders.

    The bytes go to a hidden file beside `path` that then takes its place. On an error the hidden file is
    removed, what was at `path` stays, and the error goes on; an OSError names `path`.
    """
    path = Path(path)
    # Not the tempfile module: its files cannot be read by anyone else, and results are shared.
    hidden = path.with_name(f".{path.name}.{secrets.token_hex(4)}{HALF_WRITTEN}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with hidden.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(hidden, path)
        sync_folder(path.parent)  # what is written next must not be there without this
    except BaseException as error:  # also Ctrl-C: nothing half-written stays; it goes on
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = str(path)
            if error.filename2 is not None:  # not the hidden file, of which nobody knows
                del error.filename2
        with suppress(OSError):  # it is the first error that matters
            hidden.unlink()
        raise


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder as lasting as the files are."""
    if os.name != "posix":  # elsewhere folders cannot be opened
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def write_table(path: str | Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes `rows` as CSV with a header of `columns`, atomically. Raises what `as_csv` does, and OSError."""
    write_atomically(path, as_csv(columns, rows))


def as_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    """`rows` as a CSV file with a header of `columns`. A column that a row lacks is left empty.

    Text is put on one line, and gets an apostrophe in front where a spreadsheet would take it for a formula; True and
    False have no place in a table and are left empty like None. Raises
    KeyError for a column that is not among `columns`, TypeError for a value that is no number where one belongs.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        unknown = [name for name in row if name not in columns]
        if unknown:
            raise KeyError(f"no such column: {', '.join(unknown)}")
        writer.writerow([_cell(name, row.get(name)) for name in columns])
    return text.getvalue().encode()


def read_rows(path: str | Path, columns: Sequence[str] = COLUMNS, further: Sequence[str] = ()) -> list[Row]:
    """The rows of a CSV file that `write_table` wrote: text, int, float, or None for an empty cell.

    The order of `columns` is free; those of `further` may be there, and are None where they are not. Text is read as it
    is written, on one line and without control characters, whoever wrote it.

    Raises ConfigError with one line that names the file when it is cut short, has other columns, or has text where a
    number belongs; OSError when it cannot be read.
    """
    path = Path(path)
    lines = read_csv(path, ended=True)
    header = next(lines, [])
    expected = [*columns, *(name for name in further if name in header)]
    if sorted(header) != sorted(expected):
        wrong = sorted(set(header) ^ set(expected)) or ["one column twice"]
        raise ConfigError(f"{path}: other columns than expected ({', '.join(wrong[:5])})")
    empty = dict.fromkeys(further)
    rows = []
    for number, line in enumerate(lines, start=1):
        if len(line) != len(header):
            raise ConfigError(f"{path}: row {number} has {len(line)} cells, the header has {len(header)}")
        try:
            rows.append(empty | {name: _value(name, cell) for name, cell in zip(header, line, strict=True)})
        except ValueError as error:
            raise ConfigError(f"{path}: {error}") from error
    return rows


def check_result(path: str | Path, row: Mapping[str, Any]) -> None:
    """Raises ConfigError, one line that names the file, for a run's row (COLUMNS) that would spoil a mean."""
    if row["status"] not in ("done", "failed"):
        raise ConfigError(f"{path}: status={row['status']}: expected done or failed")
    empty = [name for name in ("method", "sparsity", "accuracy") if row["status"] == "done" and row[name] is None]
    if empty:
        raise ConfigError(f"{path}: a run that is done has no {empty[0]}")
    for name, value in row.items():
        if isinstance(value, float) and not abs(value) <= LARGEST:  # also a NaN; the square of a larger one is no float
            raise ConfigError(f"{path}: {name}={value}: expected a finite number, of 32 bits")
        if name in PERCENT and value is not None and not 0 <= value <= 100:
            raise ConfigError(f"{path}: {name}={value}: expected a number from 0 to 100")
    if row["sparsity"] is not None and not 0 <= row["sparsity"] < 1:
        raise ConfigError(f"{path}: sparsity={row['sparsity']}: at least 0 and below 1")


def guarded(text: str) -> str:
    """Text for a cell of a CSV file: an apostrophe goes before what a spreadsheet would take for a formula, and run."""
    return f"'{text}" if re.match(FORMULA, text) else text


def _cell(name: str, value: Any) -> str:
    if value is None or isinstance(value, bool):
        return ""
    if name in TEXT:
        return guarded(one_line(value))
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):  # float(): a NumPy float is one too, but its repr is not a number
        return repr(round(float(value), 3) if name.endswith("seconds") else float(value))
    raise TypeError(f"column {name}: expected a number, not {value!r}")


def _value(name: str, cell: str) -> str | int | float | None:
    if cell == "":
        return None
    if name in TEXT:
        text = one_line(cell)
        return (text[1:] if text[:1] == "'" and re.match(FORMULA, text) else text) or None
    try:
        number = float(cell)
    except ValueError as error:
        raise ValueError(f"{name}={cell}: expected a number") from error
    if (name in WHOLE or name.endswith(WHOLE_ENDS)) and not number.is_integer():
        raise ValueError(f"{name}={cell}: expected a whole number")
    try:
        return int(cell) if abs(number) < 2**63 else number
    except ValueError:  # with a point or an exponent
        return number
