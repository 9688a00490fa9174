"""Disks that fill up or become read-only: small file systems in memory, or faults at the calls that write."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Protocol

import pytest


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class Disk(Protocol):
    """A folder with so many bytes of room."""

    folder: Path

    @property
    def used(self) -> int: ...

    def resize(self, room: int) -> None: ...

    def read_only(self) -> None: ...


class Mounted:
    """A file system in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._run("mount", "-t", "tmpfs", "-o", "size=1g", "pruner-test", str(folder))

    @property
    def used(self) -> int:
        return shutil.disk_usage(self.folder).used  # in whole pages

    def resize(self, room: int) -> None:
        self._run("mount", "-o", f"remount,rw,size={room}", str(self.folder))

    def read_only(self) -> None:
        self._run("mount", "-o", "remount,ro", str(self.folder))

    def close(self) -> None:
        self._run("umount", "--lazy", str(self.folder))

    def _run(self, *words: str) -> None:
        subprocess.run(words, check=True, capture_output=True)


class Faulty:
    """A folder of any file system, below which files can be neither opened for writing nor synced once it is full."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._room, self._mode = folder, 1 << 30, 0
        self._open, self._sync, self._mkdir = os.open, os.fsync, Path.mkdir
        monkeypatch.setattr(os, "open", self.open)
        monkeypatch.setattr(os, "fsync", self.fsync)
        monkeypatch.setattr(Path, "mkdir", lambda path, *how, **more: self.mkdir(path, *how, **more))

    @property
    def used(self) -> int:
        return size(self.folder)

    def resize(self, room: int) -> None:
        self._room, self._mode = room, 0

    def read_only(self) -> None:
        self._mode = errno.EROFS

    def open(self, path: Any, flags: int, *more: Any, **named: Any) -> int:
        self._refuse(path, flags & (os.O_WRONLY | os.O_RDWR))
        return self._open(path, flags, *more, **named)

    def mkdir(self, path: Path, *how: Any, **more: Any) -> None:
        self._refuse(path, not path.exists())
        self._mkdir(path, *how, **more)

    def fsync(self, file: int) -> None:
        if self.used > self._room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._sync(file)

    def _refuse(self, path: Any, writes: object) -> None:
        if self._mode and writes and Path(os.fsdecode(path)).is_relative_to(self.folder):
            raise OSError(self._mode, os.strerror(self._mode), str(path))
