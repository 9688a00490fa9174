"""One run on several processes, as torchrun starts them. Without it there is one, and nothing here costs anything.

Process 0 leads: it alone speaks, and it alone reads and writes the folders of runs, for which these have `of_first` on
their methods; data sets are read by all. All of them take the same way through the program, so that they meet wherever
one tells the others something. One that leaves that way closes its connections, which ends the others too. torch is
imported only where there are several.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from datetime import timedelta
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from pruner.checks import require

if TYPE_CHECKING:
    from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")
LONGEST = timedelta(days=30)  # the others wait for the first, and that for whoever trains the same dense network
PATIENCE = 10.0  # seconds that a process which has ended gives the first to say why
TROUBLE, ENDED = "pruner/trouble", "pruner/ended"  # keys of the store that torchrun keeps for the processes

_stores: list[Any] = []  # that store, while the processes are joined
_apart: list[bool] = []  # not empty while this process does something by itself


def world() -> int:
    """How many processes work on this run."""
    started = all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
    return int(os.environ["WORLD_SIZE"]) if started else 1


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ["RANK"]) if world() > 1 else 0


def here() -> tuple[int, int]:
    """The number of this process among those of its machine, and how many those are."""
    if world() == 1:
        return 0, 1
    return int(os.environ.get("LOCAL_RANK", rank())), int(os.environ.get("LOCAL_WORLD_SIZE", world()))


def leads() -> bool:
    """Whether this is the first process."""
    return rank() == 0


def part() -> tuple[int, int]:
    """What this process gets of every batch, as `ImageSet.batches` takes it."""
    return rank(), world()


def peers() -> int:
    """How many processes hear each other now: those of a run while they are joined, or of a script that joined its own.

    What follows is of these, so that methods do right in a training loop under DistributedDataParallel too.
    """
    dist = sys.modules.get("torch.distributed")
    return int(dist.get_world_size()) if dist and dist.is_available() and dist.is_initialized() else 1


def check_batch(batch_size: int, images: int) -> None:
    """Raises ConfigError where the processes cannot take equal shares of every batch of so many training images."""
    if world() > 1:
        shared = f"{world()} processes share every batch; give a multiple of {world()}"
        require(batch_size % world() == 0, "recipe.batch_size", batch_size, shared)
        enough = f"{images} training images make no whole batch, which {world()} processes need; give less"
        require(batch_size <= images, "recipe.batch_size", batch_size, enough)


@contextmanager
def joined() -> Iterator[None]:
    """The processes hear each other within it; all but the first keep their results to themselves.

    The first one ends first, unless it hangs: torchrun ends all when one has ended with an error.
    """
    if world() == 1:
        yield
        return
    import torch
    import torch.distributed as dist
    import torch.distributed.nn.functional  # imported later, its functions' defaults would keep the connections open
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://"))
    _stores.append(store)
    # Objects and signals go through gloo on the CPU also where tensors are on a GPU.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank(), world_size=world(), timeout=LONGEST)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(sys.stdout if leads() else nowhere):
            yield
    finally:
        if leads():
            store.set(ENDED, "")
        dist.destroy_process_group()
        _stores.clear()
        start = time.monotonic()
        with suppress(dist.DistNetworkError):  # without torchrun the first process keeps the store: it has ended
            while not store.check([ENDED]) and time.monotonic() - start < PATIENCE:
                time.sleep(0.01)


@contextmanager
def apart() -> Iterator[None]:
    """Within it this process does something by itself, and neither tells the others nor waits for them."""
    _apart.append(True)
    try:
        yield
    finally:
        _apart.pop()


def first(function: Callable[[], T]) -> T:
    """What `function` gives on the first process, which alone calls it, on all of them; or its exception.

    Both have to be such that pickle can take them. Within the function there is no other process to hear from. Where
    processes are not joined, as those that gather rows, each of them calls it.
    """
    if not _stores or _apart:
        return function()
    import torch
    import torch.distributed as dist

    told: list[Any] = [None, None]
    if leads():
        try:
            with apart():
                told[0] = function()
        except BaseException as error:  # also signals: all processes end alike
            told[1] = error
    dist.broadcast_object_list(told, device=torch.device("cpu"))
    if told[1] is not None:
        raise told[1]
    answer: T = told[0]
    return answer


def of_first(function: Callable[P, T]) -> Callable[P, T]:
    """Decorates what the first process alone does, as what is read and written: all others hear what it gave or raised.

    Whoever calls it need not know of processes, but each of them has to call it.
    """

    @wraps(function)
    def call(*arguments: P.args, **named: P.kwargs) -> T:
        return first(lambda: function(*arguments, **named))

    return call


def kept_by_first(function: Callable[[], T]) -> list[T]:
    """What `function` gives, in a list, on the first process, which alone calls it; [] on others; on all its exception.

    For what no other process can hear of, such as an open file.
    """
    given: list[T] = []
    first(lambda: given.append(function()))
    return given


def in_turn(function: Callable[[], T]) -> T:
    """All call `function`, the first process before the others, which find what it left, such as a downloaded file.

    What it raises is raised by all of them, and the others do not try.
    """
    given = kept_by_first(function)
    return given[0] if given else function()


def total(values: Tensor) -> Tensor:
    """The sum over the processes of a tensor that each has."""
    if peers() == 1:
        return values
    import torch.distributed as dist

    assert not _apart
    values = values.clone()
    dist.all_reduce(values)
    return values


def stacked(values: Tensor) -> Tensor:
    """[processes, ...]: a tensor that each has, of all of them in their order."""
    import torch
    import torch.distributed as dist

    assert not _apart
    all_values = [torch.empty_like(values) for _ in range(peers())]
    dist.all_gather(all_values, values)
    return torch.stack(all_values)


def average(tensors: Sequence[Tensor]) -> None:
    """Puts the mean over the processes into tensors that each has, all on one device, in one exchange for each type."""
    if peers() == 1:
        return
    import torch

    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        alike = [tensor for tensor in tensors if tensor.dtype is dtype]
        means = total(torch.cat([tensor.flatten() for tensor in alike])) / peers()
        for tensor, mean in zip(alike, means.split([tensor.numel() for tensor in alike]), strict=True):
            tensor.copy_(mean.view_as(tensor))


def agree(tensors: Iterable[Tensor]) -> bool:
    """Whether all processes have the same tensors, to the bit; but for 1 in 2^32 cases in which they have not."""
    if peers() == 1:
        return True
    import torch

    checksum = 0
    for tensor in tensors:
        content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        checksum = zlib.crc32(content.numpy().data, checksum)
    return len(stacked(torch.tensor(checksum)).unique()) == 1


def union(numbers: Sequence[int]) -> list[int]:
    """The numbers, from 0 to 62, that any process gives."""
    if peers() == 1:
        return list(numbers)
    import torch
    import torch.distributed as dist

    assert not _apart
    bits = torch.tensor(sum(1 << number for number in set(numbers)))
    dist.all_reduce(bits, op=dist.ReduceOp.BOR)
    return [number for number in range(63) if int(bits) >> number & 1]


def origin(error: Exception, text: str) -> str:
    """What went wrong first on any process: `text`, which tells of `error`, or another's, whose traceback it then gets.

    A process that ends takes the others with it, which can say no more than that it is gone.
    """
    if not _stores:
        return text
    own = f"{text}\n{''.join(traceback.format_exception(error))}"
    first_said: bytes = _stores[0].compare_set(TROUBLE, "", own)
    found, _, trace = first_said.decode().partition("\n")
    if found != text:
        error.__cause__ = RuntimeError(f"in another process\n{trace}")
    return found
