"""How many images a network in a file gets right."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pruner.data import ImageSet

BATCH = 500


@torch.no_grad()
def right(predict: Callable[[Tensor], Tensor], images: ImageSet) -> int:
    """The number of images whose largest logit is that of their label."""
    return sum(int((predict(x).argmax(1) == y).sum()) for x, y in images.batches(BATCH))
