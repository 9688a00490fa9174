"""A training script under DistributedDataParallel: `python -m tests.parallel_loop FOLDER RANK WORLD` for each."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from pruner.pruning import Pruning

METHODS = ("acdc", "dpp", "dsa", "dtp", "smart")
STEPS, BATCH = 4, 8


def network() -> nn.Module:
    """Without batch norm, so that halves of a batch make its gradient."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 6))


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(BATCH, 3, 8, 8, generator=generator), torch.arange(BATCH) % 6) for _ in range(STEPS)]


def pruned(method: str, rank: int, world: int) -> Pruning:
    """The network after all steps on this process's share of every batch, hardened."""
    pruning = Pruning(
        network(), method, example=torch.zeros(1, 3, 8, 8), steps=STEPS, sparsity=0.5, examples=batches(), options={}
    )
    parallel = DistributedDataParallel(pruning, find_unused_parameters=True) if world > 1 else pruning
    optimizer = torch.optim.SGD(pruning.model.parameters(), lr=0.05, momentum=0.9)
    torch.manual_seed(rank)  # as processes of a script often have it: masks must not depend on that
    for x, y in batches():
        (F.cross_entropy(parallel(x[rank::world]), y[rank::world]) + pruning.penalty()).backward()
        pruning.step(optimizer)
        optimizer.zero_grad()
    pruning.harden()
    return pruning


def main(folder: str, rank: int, world: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    states = {}
    for method in METHODS:
        pruning = pruned(method, rank, world)
        assert pruning.hard is not None
        states[method] = {"hard": pruning.hard, **pruning.model.state_dict()}
    torch.save(states, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
