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
from pruner.runtime.distributed import first, world
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
    began, saved = first(lambda: (_kept(folder), folder.checkpoint.exists()))
    now = Computing(torch.get_num_threads(), world())
    if began and began != now and began.processes == now.processes and (saved or not asked):
        threads = began.threads, now.threads
        log.info("goes on with as many threads as it began with: %d, not %d (others change the last bits)", *threads)
        torch.set_num_threads(began.threads)
    elif began != now:
        first(lambda: write_json(folder.threads, asdict(now)))


@contextmanager
def threads_restored() -> Iterator[None]:
    """Afterwards as many threads compute as before."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _kept(folder: Folder) -> Computing | None:
    """What `settle_threads` kept; None where nothing began, or an older version began it."""
    if not folder.threads.exists():
        return None
    return build(Computing, read_json(folder.threads), str(folder.threads))
