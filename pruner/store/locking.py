"""One process at a time: locks that the operating system releases when their holder ends, however it ends.

On a network file system a lock holds between machines only where the mount passes it on to the server. NFS 4 does, and
lets go of a dead machine's locks after its lease (90 seconds as a rule); NFS 3 needs lockd and statd, and no `nolock`
or `local_lock`; Lustre needs `-o flock`, BeeGFS `tuneUseGlobalFileLocks`. With NFS also mount `lookupcache=positive`:
else a machine may not see for a minute that another one has finished a run, and do it again, which costs time and no
result.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from pruner.checks import ConfigError, one_line
from pruner.runtime.distributed import kept_by_first

log = logging.getLogger(__name__)


class Held(Exception):
    """Another process works on a folder."""


@contextmanager
def locked(folder: Path, file: Path, wait: bool) -> Iterator[None]:
    """Waits until no other run has a `folder`'s lock `file`, then keeps others out. Without `wait` raises Held.

    Of several processes of one run the first has it for all. Not reentrant. Raises ConfigError where nothing can be
    locked.
    """
    taken = kept_by_first(lambda: _taken(folder, file, wait))
    try:
        yield
    finally:
        for lock in taken:
            lock.release()


def _taken(folder: Path, file: Path, wait: bool) -> BaseFileLock:
    lock: BaseFileLock = FileLock(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout as held:
            if not wait:
                raise Held(str(folder)) from held
            log.info("waiting for the process that works on %s", folder)
            lock.acquire(poll_interval=0.2)
        if isinstance(lock, SoftFileLock):  # what some versions of filelock fall back to: it stays when a holder dies
            lock.release()
            raise NotImplementedError("this file system has no locks that end with their holder (flock)")
    except (OSError, NotImplementedError) as error:
        raise ConfigError(one_line(f"{file}: cannot be locked ({error})")) from error
    return lock
