"""Where an export goes: not over a run, not out of a run's folder by a link; all of it, once checked, or nothing."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pruner.checks import ConfigError
from pruner.store.row import HALF_WRITTEN, sync_folder

RUNS = ("result.csv", "dense.json", "epochs.csv")  # what the folder of a run or of a dense network has


def place(run: Path, output: str | None) -> Path:
    """The folder to write to: `output`, or RUN/export. Raises ConfigError where that would overwrite a network."""
    folder = Path(output) if output else run / "export"
    asked = f"--output {output}" if output else str(folder)
    real = folder.resolve()
    below = Path(os.path.abspath(folder)).is_relative_to(os.path.abspath(run))
    if below and not real.is_relative_to(run.resolve()):
        raise ConfigError(f"{asked}: a link out of the run's folder, to {real}; give --output {real} if you mean that")
    for name in RUNS:
        if (real / name).exists():
            raise ConfigError(f"{asked}: has a {name}: the folder of a run, whose model would be lost")
    return folder


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A new hidden folder in `folder`, to write to. In the end what was not moved goes, and an empty new `folder`."""
    new = not folder.exists()
    stage = folder / f".export.{secrets.token_hex(4)}{HALF_WRITTEN}"
    stage.mkdir(parents=True)
    try:
        yield stage
    finally:
        shutil.rmtree(stage)
        if new:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def moved(files: Sequence[Path], folder: Path) -> list[Path]:
    """Moves files into `folder`, one after the other; their new paths.

    Each takes its place whole. Of two that belong together the JSON goes last: until then the digest in an older one
    does not fit, so that no mixed pair is loaded. The folder cannot be moved in one step: it has other formats too.
    """
    for path in files:
        os.replace(path, folder / path.name)
    sync_folder(folder)
    return [folder / path.name for path in files]
