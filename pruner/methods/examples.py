"""Examples that methods look at for themselves: any iterable of batches, and more exactly where it can be shuffled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count, islice
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

Batch = tuple[Any, Tensor]  # what the network is given, and what the loss compares its answer with
Examples = Iterable[Batch]


@runtime_checkable
class Shuffled(Protocol):
    """Examples that can be had in another order and in batches of any size."""

    def __len__(self) -> int:
        """How many examples there are."""

    def steps(self, batch_size: int) -> int:
        """The number of batches in a shuffled pass."""

    def batches(self, batch_size: int, *, seed: int) -> Iterator[Batch]:
        """A pass shuffled by the seed; what does not fill a batch is left out."""


def one_pass(examples: Examples | Shuffled, batch_size: int, seed: int) -> Iterator[Batch]:
    """All examples once: shuffled by the seed, in batches of that size, where they can be; else as they come."""
    return examples.batches(batch_size, seed=seed) if isinstance(examples, Shuffled) else iter(examples)


def endless(examples: Examples | Shuffled, batch_size: int, seed: int, first: int) -> Iterator[Batch]:
    """Passes over the examples, one after another, from batch number `first` on; of shuffled ones each has its seed.

    Raises ValueError where a pass is empty.
    """
    turn, skipped = divmod(first, examples.steps(batch_size)) if isinstance(examples, Shuffled) else (0, first)
    for number in count(turn):
        batches = one_pass(examples, batch_size, seed + number)
        found = 0
        for batch in islice(batches, skipped, None):
            found += 1
            yield batch
        if not found and not skipped:
            raise ValueError("examples gave no batch: give what can be gone through again, such as a list or a loader")
        skipped = 0
