"""Labels of channels, and which of them were joined: the bookkeeping of `channels`."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

FIXED = 0  # label of a channel that cannot be removed, such as those of the image
NOTHING = -1  # label of a constant zero, such as the channels that a parameter-free shortcut adds


class Labels:
    """Joins of labels: a union-find in which FIXED is always the representative of its set."""

    def __init__(self) -> None:
        self.parents = [FIXED]

    def new(self, count: int) -> Tensor:
        """`count` fresh labels."""
        start = len(self.parents)
        self.parents.extend(range(start, start + count))
        return torch.arange(start, start + count)

    def find(self, label: int) -> int:
        """The representative of the label's set: its smallest member, so FIXED wins."""
        while self.parents[label] != label:
            self.parents[label] = self.parents[self.parents[label]]
            label = self.parents[label]
        return label

    def join(self, a: Tensor, b: Tensor) -> None:
        """Joins the labels element by element; NOTHING joins with nothing."""
        for pair in torch.unique(torch.stack(torch.broadcast_tensors(a, b)).flatten(1), dim=1).T.tolist():
            if NOTHING not in pair:
                low, high = sorted(self.find(label) for label in pair)
                self.parents[high] = low

    def fix(self, labels: Tensor) -> None:
        """Marks the labels as never to be pruned."""
        self.join(labels, torch.tensor(FIXED))

    def collapse(self, labels: Tensor, dims: Iterable[int]) -> Tensor:
        """The labels with `dims` reduced to size 1, joined along them; NOTHING only where all is NOTHING."""
        for dim in dims:
            largest = labels.amax(dim, keepdim=True)
            if bool((labels != largest).any()):
                self.join(labels, largest)
            labels = largest
        return labels

    def channels(self, labels: Tensor) -> Tensor:
        """The labels of an activation's channels [channels], joined over all other dimensions."""
        return self.collapse(labels, (dim for dim in range(labels.dim()) if dim != 1)).flatten()
