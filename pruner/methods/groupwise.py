"""Adam for scores, with one second moment for each group of units in the place of one for each unit.

Adam-mini (Zhang et al., arXiv 2406.16793) does so for blocks of a network's parameters. For scores under a mask it is
more than memory saved: a unit that is decided has next to no gradient, and Adam's own second moment would blow that
up until the unit moves as fast as all others, by noise alone. Here it stays, while undecided units move.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

_SMALLEST = 1e-30  # nothing divides 0 by 0 where no unit of a group has a gradient


class GroupwiseAdam(torch.optim.Optimizer):
    """s <- s - lr m / sqrt(v_g), with m [n] Adam's mean of gradients, and v_g that of their mean square over group g.

    scores: a parameter [n]. sizes: how many units each group has, in order. Both means are corrected for their start.
    Where the first of `betas` is 0, m is the gradient itself, and nothing of the scores' size is kept.
    """

    def __init__(
        self, scores: nn.Parameter, sizes: Sequence[int], lr: float, betas: tuple[float, float] = (0.9, 0.999)
    ):
        super().__init__([scores], {"lr": lr, "betas": betas, "sizes": list(sizes)})  # of which copies have all

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step along the gradient that the scores have; none where they have none. Closures are not called."""
        group = self.param_groups[0]
        (scores,), sizes = group["params"], group["sizes"]
        if scores.grad is None:
            return None
        state: dict[str, Any] = self.state[scores]
        if not state:
            state.update(step=0, square=scores.new_zeros(len(sizes)))
            if group["betas"][0]:
                state["mean"] = torch.zeros_like(scores)
        state["step"] += 1
        first, second = group["betas"]
        mean = state["mean"].lerp_(scores.grad, 1 - first) if first else scores.grad
        state["square"].lerp_(mean_squares(scores.grad, sizes), 1 - second)
        scale = (state["square"] / (1 - second ** state["step"])).sqrt().clamp(min=_SMALLEST)
        rate = group["lr"] / (1 - first ** state["step"])
        for part, move, one in zip(scores.split(sizes), mean.split(sizes), scale, strict=True):
            part.addcdiv_(move, one, value=-rate)
        return None


def mean_squares(values: Tensor, sizes: Sequence[int]) -> Tensor:
    """[groups]: the mean square of each group's part of `values` [n]; 0 for a group without units."""
    return torch.stack([part.square().sum() / max(1, len(part)) for part in values.split(list(sizes))])
