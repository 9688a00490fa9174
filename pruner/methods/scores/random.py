"""Random scores: the floor of every table [common]."""

from __future__ import annotations

import torch
from torch import Tensor

from pruner.methods.base import Setup


class Random:
    """Draws that depend on the run's seed alone."""

    def __call__(self, setup: Setup) -> Tensor:
        """Per unit [n], a draw from [0, 1)."""
        return torch.rand(setup.units.n, generator=setup.generator).to(setup.units.device)
