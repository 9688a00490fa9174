"""Random numbers that depend on a run's seed and on what they are for, and on nothing that happened before."""

from __future__ import annotations

import hashlib

import torch


def derive(seed: int, *purpose: object) -> int:
    """A seed of 63 bits for one purpose, such as derive(0, "prune", 3); unrelated purposes give unrelated seeds."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: object) -> torch.Generator:
    """A fresh generator on the CPU, seeded for one purpose."""
    return torch.Generator().manual_seed(derive(seed, *purpose))
