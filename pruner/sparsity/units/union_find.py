"""Labels of channels, which of them were joined, and why some must stay: the bookkeeping of `tracer`."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

FIXED = 0  # label of a channel that cannot be removed, such as those of the image
NOTHING = -1  # label of a constant zero, such as the channels that a parameter-free shortcut adds
IMAGE = "the image"


class Labels:
    """A union-find over labels, in which whole sets are fixed for a reason. FIXED is so from the beginning.

    `why`: what runs now, which is the reason of what is fixed meanwhile.
    """

    def __init__(self) -> None:
        self.parents = [FIXED]
        self.reasons = {FIXED: IMAGE}  # by the representatives of sets that stay
        self.why = IMAGE

    def new(self, count: int) -> Tensor:
        """`count` fresh labels."""
        start = len(self.parents)
        self.parents.extend(range(start, start + count))
        return torch.arange(start, start + count)

    def find(self, label: int) -> int:
        """The representative of the label's set, its smallest member; FIXED where the set stays."""
        root = self._root(label)
        return FIXED if root in self.reasons else root

    def reason(self, label: int) -> str | None:
        """Why a label stays, None where it does not."""
        return self.reasons.get(self._root(label))

    def join(self, a: Tensor, b: Tensor) -> None:
        """Joins the labels element by element; NOTHING joins with nothing. What is joined with FIXED is fixed."""
        for pair in torch.unique(torch.stack(torch.broadcast_tensors(a, b)).flatten(1), dim=1).T.tolist():
            if NOTHING not in pair:
                low, high = sorted(self._root(label) for label in pair)
                if low == FIXED:  # not made one set: each keeps its own reason
                    self.reasons.setdefault(high, self.why)
                elif low != high:
                    self.parents[high] = low
                    reason = self.reasons.pop(high, None)
                    if reason is not None:
                        self.reasons.setdefault(low, reason)

    def fix(self, labels: Tensor) -> None:
        """Marks the labels as never to be pruned."""
        self.join(labels, torch.tensor(FIXED))

    def collapse(self, labels: Tensor, dims: Iterable[int]) -> Tensor:
        """The labels with `dims` reduced to size 1, joined along them; NOTHING only where all is NOTHING.

        Where nothing else tells them apart, they stay: channels that lie in space could only go all at once.
        """
        whole = labels
        for dim in dims:
            largest = labels.amax(dim, keepdim=True)
            if bool((labels != largest).any()):
                self.join(labels, largest)
            labels = largest
        if _several(whole) and not _several(labels):
            self.fix(labels)
        return labels

    def channels(self, labels: Tensor) -> Tensor:
        """The labels of an activation's channels [channels], joined over all other dimensions."""
        return self.collapse(labels, (dim for dim in range(labels.dim()) if dim != 1)).flatten()

    def _root(self, label: int) -> int:
        while self.parents[label] != label:
            self.parents[label] = self.parents[self.parents[label]]
            label = self.parents[label]
        return label


def _several(labels: Tensor) -> bool:
    """Whether there are labels of several channels."""
    real = labels[labels != NOTHING]
    return bool((real != real[:1]).any())
