"""Random scores: the floor of every table [common]."""

from __future__ import annotations

import torch
from torch import Tensor

from pruner.methods.base import Setup


def random(setup: Setup) -> Tensor:
    """Per unit [n], a draw from [0, 1) that depends on the run's seed alone."""
    return torch.rand(setup.units.n, generator=setup.generator).to(setup.units.device)
