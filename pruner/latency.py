"""How long networks take for a batch of images, measured side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

WARM_UP = 3  # rounds that are not counted: memory is allocated, and kernels are chosen
LEAST = 5  # rounds that are counted at the least
MOST = 50
ENOUGH = 2.0  # seconds of counted rounds after which no further one begins


@torch.inference_mode()
def latencies(networks: Sequence[nn.Module], batch: int, shape: tuple[int, ...]) -> list[float]:
    """The median time in milliseconds of each network for `batch` images [batch, *shape] of noise.

    In evaluation mode, in float32 and channels_last, on the networks' own device, with the threads that torch has. The
    networks take turns, so that what else the machine does slows all of them alike.
    """
    device = next(networks[0].parameters()).device
    images = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0)).to(device)
    if images.dim() == 4:
        images = images.to(memory_format=torch.channels_last)
    modes = [network.training for network in networks]
    for network in networks:
        network.eval()
    times: list[list[float]] = [[] for _ in networks]
    for done in range(-WARM_UP, MOST):
        if done >= LEAST and sum(map(sum, times)) > ENOUGH:
            break
        for network, own in zip(networks, times, strict=True):
            taken = _once(network, images)
            if done >= 0:
                own.append(taken)
    for network, training in zip(networks, modes, strict=True):
        network.train(training)
    return [1000 * statistics.median(own) for own in times]


def _once(network: nn.Module, images: Tensor) -> float:
    start = time.perf_counter()
    network(images)
    if images.device.type == "cuda":
        torch.cuda.synchronize(images.device)
    return time.perf_counter() - start
