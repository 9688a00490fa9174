"""How many threads of the CPU compute: others change the last bits, of which training makes another network.

So a run, or a dense network, goes on with as many as it began with. They are kept in its folder until it is done.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch

from pruner.checks import build
from pruner.runtime.distributed import of_first, world
from pruner.store.folders import Folder
from pruner.store.reading import read_json
from pruner.store.tensors import write_json

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Computing:
    """So many threads in each of so many processes."""

    threads: int
    processes: int


def settle_threads(folder: Folder, asked: int) -> None:
    """Has as many threads compute as began what is in `folder`; keeps how many do. Needs the folder's lock.

    `asked` is the config's number, 0 where torch decides; it counts where nothing but the beginning is saved yet. On
    another number of processes each has its own threads. Raises ConfigError, OSError.
    """
    now = Computing(torch.get_num_threads(), world())
    began = _began_with(folder, asked, now)
    if began.threads != now.threads:
        threads = began.threads, now.threads
        log.info("goes on with as many threads as it began with: %d, not %d (others change the last bits)", *threads)
        torch.set_num_threads(began.threads)


@contextmanager
def threads_restored() -> Iterator[None]:
    """Afterwards as many threads compute as before."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


@of_first
def _began_with(folder: Folder, asked: int, now: Computing) -> Computing:
    """What computed when what is in `folder` began, and is to compute now; `now` where that is kept from here on."""
    began = None  # where nothing began, or an older version began it
    if folder.threads.exists():
        began = build(Computing, read_json(folder.threads), str(folder.threads))
    if began and began.processes == now.processes and (folder.begun() or not asked):
        return began
    if began != now:
        write_json(folder.threads, asdict(now))
    return now
