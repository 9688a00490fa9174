"""Where an unfinished run goes on: its state after the last epoch, in the run's folder until the run is done."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import torch

from pruner.checks import ConfigError
from pruner.results.row import one_line, write_atomically


class Checkpoint:
    """One file that is there whole or not at all. Reading it executes nothing (weights_only)."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.path = folder / "state.pt"

    def save(self, state: dict[str, Any]) -> None:
        """Keeps `state`: tensors, numbers, text, and lists and dicts of them."""
        stream = io.BytesIO()
        torch.save(state, stream)
        write_atomically(self.path, stream.getvalue())

    def load(self) -> dict[str, Any]:
        """The state that was saved last, tensors on the CPU; empty when there is none.

        Raises ConfigError that names the file when it is damaged.
        """
        if not self.path.exists():
            return {}
        try:
            return torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load has no type of its own for a damaged file
            raise ConfigError(
                one_line(f"{self.path}: cannot be read ({error}); delete it to start this run again")
            ) from error

    def remove(self) -> None:
        """Removes the folder: the run is done."""
        if self.folder.exists():
            shutil.rmtree(self.folder)
