"""How long networks take for a batch of images, measured side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

WARM_UP = 3  # rounds that are not counted: memory is allocated, and kernels are chosen
LEAST = 5  # rounds that are counted at the least
MOST = 50
ENOUGH = 2.0  # seconds of counted rounds after which no further one begins


def latencies(networks: Sequence[nn.Module], batch: int, shape: tuple[int, ...]) -> list[float]:
    """The median time in milliseconds of each network for `batch` images [batch, *shape] of noise.

    In evaluation mode, in float32 and channels_last, on the networks' own device, with the threads that torch has. The
    networks take turns, so that what else the machine does slows all of them alike.
    """
    device = next(networks[0].parameters()).device
    images = noise(batch, shape).to(device)
    modes = [network.training for network in networks]
    for network in networks:
        network.eval()

    def once(network: nn.Module) -> None:
        network(images)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    with torch.inference_mode():
        times = in_turns([partial(once, network) for network in networks])
    for network, training in zip(networks, modes, strict=True):
        network.train(training)
    return [1000 * statistics.median(own) for own in times]


def noise(batch: int, shape: tuple[int, ...]) -> Tensor:
    """Images of noise [batch, *shape], always the same, in channels_last."""
    images = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))
    return images.to(memory_format=torch.channels_last) if images.dim() == 4 else images


def in_turns(calls: Sequence[Callable[[], object]], most: int = MOST, enough: float = ENOUGH) -> list[list[float]]:
    """The times in seconds that each of the calls took, round after round, warm: `most` rounds, or `enough` seconds."""
    times: list[list[float]] = [[] for _ in calls]
    for done in range(-WARM_UP, most):
        if done >= LEAST and sum(map(sum, times)) > enough:
            break
        for call, own in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            if done >= 0:
                own.append(time.perf_counter() - start)
    return times
