"""Where data sets lie, and what a tree of class folders must look like; without torch, for what is answered at once."""

from __future__ import annotations

import os
from pathlib import Path

from pruner.checks import ConfigError, require
from pruner.config import expand

EMBEDDED = ("digits", "synthetic")  # built-in sets that need no file
PARTS = ("train", "val")  # of a tree of class folders
EXPECTED = "expected a folder with train/<class>/*.jpg and val/<class>/*.jpg"


def data_file(name: str, data_dir: Path) -> Path:
    """Where a published set is kept."""
    return data_dir / f"{name}.safetensors"


def check_folder(root: str) -> tuple[str, ...]:
    """The class names of the tree below `root`, in order: the folders of its train/, the same as those of its val/.

    Raises ConfigError naming `dataset.root` when a folder is missing or the classes differ.
    """
    top = Path(expand(root))
    try:
        require(top.is_dir(), "dataset.root", root, f"no such folder; {EXPECTED}")
        train, val = (_classes(root, top, part) for part in PARTS)
    except OSError as error:
        raise ConfigError(f"dataset.root={root}: {error.strerror}; {EXPECTED}") from error
    if train != val:
        name = min(set(train) ^ set(val))
        where, other = ("train", "val") if name in train else ("val", "train")
        raise ConfigError(f"dataset.root={root}: {where}/{name} is there but {other}/{name} is not; {EXPECTED}")
    return train


def _classes(root: str, top: Path, part: str) -> tuple[str, ...]:
    require((top / part).is_dir(), "dataset.root", root, f"no folder {part}/ in it; {EXPECTED}")
    names = tuple(sorted(entry.name for entry in os.scandir(top / part) if entry.is_dir()))
    require(len(names) > 0, "dataset.root", root, f"no class folders in {part}/; {EXPECTED}")
    return names
