"""Random pruning: a random mask at the budget, the floor of every table [common]."""

from __future__ import annotations

import torch

from pruner.methods.base import OneShot, Setup


class Random(OneShot):
    """Units stay by scores drawn from the run's seed alone."""

    def __init__(self, setup: Setup):
        draw = torch.rand(setup.units.n, generator=setup.generator)
        super().__init__(setup, draw.to(setup.units.device))
