"""Where a run computes."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from pruner.checks import ConfigError, require
from pruner.runtime import distributed

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # names of glibc's mallopt


def pick_device(name: str, threads: int = 0) -> torch.device:
    """The device that `name` stands for; `auto` is the first CUDA device, or the CPU. Sets the CPU's threads.

    Where several processes work on a run, `auto` and `cuda` are the CUDA device of this process's number.

    Convolutions are made to choose deterministic algorithms, so that a seed gives one result on one machine.
    Denormal floats count as zero: masks that fade to nothing are full of them, and on a CPU they cost a hundred times
    the time of other numbers (docs/log.md). Freed memory stays with the process, see `_keep_memory`.
    Raises ConfigError when this torch cannot use the device.
    """
    if threads:
        torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    _keep_memory()
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and distributed.world() > 1 and torch.cuda.is_available():
        name = _own_gpu(name)
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device={name}: torch cannot use it ({str(error).splitlines()[0]})") from error
    return device


def device_name(device: torch.device) -> str:
    """What rows call a device: the model of a GPU, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _keep_memory() -> None:
    """Has glibc keep what tensors free for the next ones; other C libraries are left as they are.

    It would give large blocks back to the system at once, and get them again, page by page, in the next step: a tenth
    of the time of a step of ResNet-20, and a quarter of one of ResNet-50 (docs/log.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)  # no block is the system's own
        mallopt(_TRIM_THRESHOLD, -1)  # nor is the end of the heap cut off


def _own_gpu(name: str) -> str:
    """The GPU of this process among several of one run; its own collectives use it from now on."""
    number, count = distributed.here()
    gpus = torch.cuda.device_count()
    require(name == "cuda", "device", name, f"{distributed.world()} processes need one each; use auto or cuda")
    enough = f"{count} processes on this machine, but {gpus} GPUs; give torchrun --nproc-per-node {gpus}, or device=cpu"
    require(count <= gpus, "device", name, enough)
    torch.cuda.set_device(number)
    return f"cuda:{number}"


@contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """A forward pass in the recipe's precision.

    In bfloat16 on a CPU, attention is plain matrix products: the backward pass of torch's fused kernel is slow where
    tokens are few, more than half of a step of `vit` on 16 squares (docs/log.md).
    """
    bfloat16 = precision == "bfloat16"
    plain = sdpa_kernel(SDPBackend.MATH) if bfloat16 and device.type == "cpu" else nullcontext()
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16), plain:
        yield
