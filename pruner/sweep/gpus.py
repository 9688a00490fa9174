"""Which GPU a cell computes on, so that no two cells of a machine share one unless that was asked for.

A cell takes a slot of a GPU and keeps it to its end. Slots are lock files, which the operating system releases when
their holder ends, however it ends; so cells of several launchers and shells of one user see each other.
"""

from __future__ import annotations

import getpass
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pruner.compose.validate import cuda_devices

POLL = 0.5  # seconds between looks for a free GPU


def names(count: int, visible: str | None) -> list[str]:
    """What the `count` GPUs that this process sees are called on the machine; `visible` is CUDA_VISIBLE_DEVICES."""
    listed = [name.strip() for name in (visible or "").split(",") if name.strip()]
    return listed[:count] if listed else [str(number) for number in range(count)]


def slots(gpus: Sequence[str], each: int) -> list[tuple[int, str]]:
    """(number of the GPU, name of the slot), in the order in which cells take them: every GPU once, then again."""
    return [(number, f"{gpu}-{again}") for again in range(each) for number, gpu in enumerate(gpus)]


def room(devices: Iterable[str], each: int) -> int:
    """How many cells that compute on `devices` this machine's GPUs take at once, each GPU `each`; 0: they need none.

    Cells that name one GPU may all name the same one.
    """
    asked = {device for device in devices if device != "cpu"}
    if asked <= {"auto", "cuda"}:
        return cuda_devices() * each if asked else 0
    return each


@contextmanager
def own_gpu(device: str, each: int) -> Iterator[str]:
    """The device for one cell: a GPU that fewer than `each` others hold, waited for, where `device` is no certain one.

    `device` is returned as it is where it names one GPU or the CPU, where there are no GPUs, and for each=0.
    """
    gpus = names(cuda_devices(), os.environ.get("CUDA_VISIBLE_DEVICES")) if device in ("auto", "cuda") and each else []
    if not gpus:
        yield device
        return
    folder = Path(tempfile.gettempdir()) / f"pruner-gpus-{getpass.getuser()}"
    folder.mkdir(exist_ok=True)
    number, lock = _first_free(folder, slots(gpus, each))
    try:
        yield f"cuda:{number}"
    finally:
        lock.release()


def _first_free(folder: Path, wanted: Sequence[tuple[int, str]]) -> tuple[int, FileLock]:
    while True:
        for number, name in wanted:
            lock = FileLock(folder / f"{name}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            return number, lock
        time.sleep(POLL)
