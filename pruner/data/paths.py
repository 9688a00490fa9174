"""Where data sets lie, and what a tree of class folders must look like; without torch, for what is answered at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pruner.checks import ConfigError, require
from pruner.config import expand

EMBEDDED = ("digits", "synthetic")  # built-in sets that need no file
PARTS = ("train", "val")  # of a tree of class folders
EXPECTED = "expected a folder with train/<class>/*.jpg and val/<class>/*.jpg"
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's


def data_file(name: str, data_dir: Path) -> Path:
    """Where a published set is kept."""
    return data_dir / f"{name}.safetensors"


def downloaded_file(name: str, data_dir: Path) -> Path | None:
    """Where the set `name` is kept once it was downloaded; None for sets that are not published ones of ours."""
    is_published = ":" not in name and name not in (*EMBEDDED, "imagefolder")
    return data_file(name, data_dir) if is_published else None


def check_folder(root: str) -> tuple[str, ...]:
    """The class names of the tree below `root`, in order: the folders of its train/, the same as those of its val/.

    Raises ConfigError naming `dataset.root` when a folder is missing or the classes differ.
    """
    top = Path(expand(root))
    with _reached(root):
        require(top.is_dir(), "dataset.root", root, f"no such folder; {EXPECTED}")
        train, val = (_classes(root, top, part) for part in PARTS)
    if train != val:
        name = min(set(train) ^ set(val))
        where, other = ("train", "val") if name in train else ("val", "train")
        raise ConfigError(f"dataset.root={root}: {where}/{name} is there but {other}/{name} is not; {EXPECTED}")
    return train


def pictures(root: str, part: str, classes: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    """The files of `part` (train or val) that have a picture's name, each with its class: torchvision's, in its order.

    Links are followed, but no folder is listed twice: one that holds its own folder would never end, and one that
    holds another class's would give pictures a wrong label. Raises ConfigError for that, for what cannot be read, and
    for a class without a picture.
    """
    top = os.path.join(expand(root), part)
    listed = {os.path.realpath(top): top}
    found: list[tuple[str, int]] = []
    with _reached(root):
        for label, name in enumerate(classes):
            files = _files(root, os.path.join(top, name), listed)
            require(
                bool(files), "dataset.root", root, f"no picture ({', '.join(SUFFIXES)}) in {part}/{name}; {EXPECTED}"
            )
            found += ((file, label) for file in files)
    return tuple(found)


def shown(path: str) -> str:
    """A path as any file or terminal can hold it: bytes that are no UTF-8, and line ends, as escapes."""
    return path if path.isprintable() else ascii(path)


def _classes(root: str, top: Path, part: str) -> tuple[str, ...]:
    require((top / part).is_dir(), "dataset.root", root, f"no folder {part}/ in it; {EXPECTED}")
    names = tuple(sorted(entry.name for entry in os.scandir(top / part) if entry.is_dir()))
    require(len(names) > 0, "dataset.root", root, f"no class folders in {part}/; {EXPECTED}")
    for name in names:
        writable = not any("\ud800" <= letter <= "\udfff" for letter in name)  # it goes into model.json
        require(writable, "dataset.root", root, f"{part}/{shown(name)}: a class needs a name in UTF-8")
    return names


def _files(root: str, top: str, listed: dict[str, str]) -> list[str]:
    """The pictures below `top`; `listed` has the folders that were listed before, and gets these."""

    def fail(error: OSError) -> None:
        raise error

    found = []
    for folder, _, names in os.walk(top, onerror=fail, followlinks=True):
        real = os.path.realpath(folder)
        if os.path.islink(folder):  # found now, for it may hold much else
            inside = os.path.join(real, "")
            twice = next((listed[other] for other in listed if other == real or other.startswith(inside)), None)
        else:
            twice = listed.get(real)
        if twice is not None:
            raise ConfigError(
                f"dataset.root={root}: {shown(folder)} leads to {shown(twice)}, whose pictures would count twice"
            )
        listed[real] = folder
        found.append((folder, sorted(name for name in names if name.lower().endswith(SUFFIXES))))
    return [os.path.join(folder, name) for folder, names in sorted(found) for name in names]


@contextmanager
def _reached(root: str) -> Iterator[None]:
    """Turns what the system says of a folder into a ConfigError that names it."""
    try:
        yield
    except OSError as error:
        where = f" ({shown(os.fsdecode(error.filename))})" if error.filename else ""
        raise ConfigError(f"dataset.root={root}: {error.strerror}{where}; {EXPECTED}") from error
