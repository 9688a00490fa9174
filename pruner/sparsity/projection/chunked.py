"""Passes over 10^8 units: sums in float64, since float32 stops counting at 2^24, and work done a piece at a time.

Plain operators on whole tensors write every result on the way to memory and read it back. Taken in pieces, those
results stay in the processor's cache, and a pass costs little more than reading its input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat

import torch
from torch import Tensor

# A linear cost is a tensor [n] (None: one for every unit). A coupled cost, such as the MACs of filters, is a
# differentiable function mask [n] -> scalar that grows with every unit kept.
Cost = Tensor | Callable[[Tensor], Tensor] | None

_PIECE = 1 << 17  # units for each thread: half a MiB of float32, so that a few such fit the L2 cache of a core
_ADDED = 256  # values added in their own type before float64 takes over
_WORTH = 4096  # values from which on that is faster


def total_cost(cost: Cost, like: Tensor) -> float:
    """The cost of keeping every one of the units [n] that `like` holds a value for."""
    if callable(cost):
        return float(cost(torch.ones_like(like, dtype=torch.float64)))
    if cost is None:
        return float(like.numel())
    return float(added([exact_sum(piece) for piece in pieces(cost)]))


def pieces(values: Tensor) -> Sequence[Tensor]:
    """Views that cover a tensor [n]: small on a CPU; all at once on a GPU, which has no such cache to keep to."""
    if values.device.type != "cpu" or values.numel() <= _PIECE:
        return (values,)
    pieces: Sequence[Tensor] = values.split(_PIECE * torch.get_num_threads())
    return pieces


def cost_pieces(cost: Tensor | None) -> Iterable[Tensor | None]:
    """The cost of the units in each piece; None, for ones, without end."""
    return repeat(None) if cost is None else pieces(cost)


def room_for(values: Tensor) -> Tensor:
    """Memory for what one piece is made into on the way.

    Taken once, since the system may hand out new memory at the cost of a page fault for every 4 KiB.
    """
    return torch.empty_like(pieces(values)[0])


def fit(room: Tensor, part: Tensor) -> Tensor:
    """As much of the room as a piece needs: the last one may be short."""
    return room if len(room) == len(part) else room[: len(part)]


def exact_sum(values: Tensor) -> Tensor:
    """The sum [] of a piece in float64: each value is made one first, as sums of whole numbers have to be exact."""
    return values.sum(dtype=torch.float64)


def close_sum(values: Tensor) -> Tensor:
    """The sum [] of a piece in float64, off by at most 4e-7 of the sum of its values' sizes.

    Rows of 256 are added in their own type, by torch in several lanes, and their sums in float64: four times faster
    than `exact_sum`, which on a CPU makes a float64 copy of all. Counts are exact.
    """
    rows = values.numel() // _ADDED
    if values.numel() < _WORTH or values.device.type != "cpu":
        return exact_sum(values)
    rest = values[_ADDED * rows :]
    total = exact_sum(values[: _ADDED * rows].view(rows, _ADDED).sum(1))
    return total + exact_sum(rest) if len(rest) else total


def added(sums: list[Tensor]) -> Tensor:
    """The sum of the pieces' sums, in the order of the pieces."""
    return sums[0] if len(sums) == 1 else torch.stack(sums).sum(0)
