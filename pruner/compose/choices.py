"""Where the YAML files of the choices lie: the program's own conf/, and the folder that a user adds."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from pruner.checks import ConfigError
from pruner.config import conf_folder

__all__ = ["choices", "conf_folder", "natural", "user_folder"]


def user_folder(given: str) -> Path:
    """The folder of --config-dir, made importable here and in the processes that a launcher starts.

    Raises ConfigError where there is no such folder.
    """
    try:
        folder = Path(given).expanduser().resolve()
        there = folder.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, no home of that user, a null character
        raise ConfigError(f"--config-dir={given}: {error}") from error
    if not there:
        raise ConfigError(f"--config-dir={given}: no such folder; give one with YAML files, as DIR/method/NAME.yaml")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise ConfigError(f"--config-dir={given}: {os.strerror(errno.EACCES)}")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return folder


def choices(folders: Sequence[Path], group: str) -> dict[str, Path]:
    """The YAML files of `group` by name; where two folders have the same name the first one counts."""
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted((folder / group).glob("*.yaml"), key=lambda path: natural(path.stem)):
            found.setdefault(path.stem, path)
    return found


def natural(name: str) -> list[tuple[str, int]]:
    """A sort key that puts resnet20 before resnet110."""
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", name)]
