"""Files that anyone may have written, as plain values: JSON, YAML and CSV. No file makes a reader wait, run code, or
take more memory than some hundred times its own size, which is limited.

What is wrong with a file's content is a ConfigError, one line that names it; what keeps it from being read is an
OSError (as of a file that is not there), unless a reader says that it makes a ConfigError of that too.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pruner.checks import ConfigError, plain

LARGEST = 2**24  # bytes: of rows, tens of thousands; the channels that are left of the deepest networks have a tenth
LARGEST_YAML = 2**18  # bytes, which PyYAML takes seconds for
DIGITS = 400  # of a number in YAML


def check_regular(path: Path, most: int | None = None) -> None:
    """Raises OSError for what is no file of at most `most` bytes: a pipe would block, and some devices never end."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    if most is not None and found.st_size > most:
        raise OSError(errno.EFBIG, f"has {found.st_size:,} bytes, more than {most:,}", str(path))


def read_bytes(path: Path, most: int = LARGEST) -> bytes:
    """All of a regular file of at most `most` bytes. Raises OSError."""
    check_regular(path, most)
    with path.open("rb") as stream:
        return stream.read(most)  # some files do not say how much is in them


def read_csv(path: Path, ended: bool = False) -> Iterator[list[str]]:
    """The fields of a CSV file in UTF-8, line by line. With `ended` its last line must have an end."""
    try:
        text = read_bytes(path).decode("utf-8-sig")
        if ended and not text.endswith("\n"):
            raise ConfigError(f"{path}: cut short, the last line has no end")
        yield from csv.reader(io.StringIO(text, newline=""), strict=True)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read, not a CSV file ({error})") from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object of a file, whose numbers are finite. Raises ConfigError, also when it cannot be read."""
    try:
        text = read_bytes(path).decode("utf-8")
        values = json.loads(text, parse_float=_finite, parse_int=_whole, parse_constant=_finite)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: not a JSON object")
    return values


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]}: expected a finite number")
    return number


def _whole(text: str) -> int:
    _finite(text)
    return int(text)


class _Plain(yaml.SafeLoader):
    """YAML without what makes a few lines stand for more than there is memory or time for."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"has an alias, *{yaml.SafeLoader.peek_event(self).anchor}, and may have none")
        return super().compose_node(parent, index)

    def construct_scalar(self, node: Any) -> Any:
        if not node.tag.endswith(":str") and len(node.value) > DIGITS:  # 1:1:1 is a number to base 60
            raise yaml.YAMLError(f"a number of {len(node.value):,} characters")
        return super().construct_scalar(node)


def read_yaml(path: Path) -> dict[str, Any]:
    """The YAML mapping of a file, with text as keys. Raises ConfigError, also when it cannot be read."""
    try:
        loader = _Plain(read_bytes(path, LARGEST_YAML).decode("utf-8"))
        try:
            values = loader.get_single_data()
        finally:
            loader.dispose()
        if not isinstance(values, dict):
            raise ConfigError("not a YAML mapping")
        return {str(key): plain(value, str(key)) for key, value in values.items()}
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except Exception as error:  # PyYAML has no type of its own for odd numbers, dates, tags, and depths
        raise ConfigError(f"{path}: cannot be read ({error})") from error
