"""Whole numbers in as many bits as they need, one behind the other, as bytes, and back. The highest bit comes first."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from pruner.checks import ConfigError

_BYTES = (1, 2, 4, 8)  # of the unsigned integers that NumPy has


def to_bits(numbers: Tensor, width: int) -> Tensor:
    """Each of the numbers [n], integers from 0 to 2^width - 1, as `width` bits: uint8 zeros and ones [n * width]."""
    size = _bytes_for(width)
    wide = np.unpackbits(numbers.numpy().astype(f">u{size}").view(np.uint8)).reshape(-1, 8 * size)
    return torch.from_numpy(wide[:, 8 * size - width :].reshape(-1))


def to_bytes(bits: Iterable[Tensor]) -> Tensor:
    """Bits, uint8 zeros and ones in one or more parts, as uint8 [ceil(bits / 8)]; zeros fill the last byte."""
    return torch.from_numpy(np.packbits(np.concatenate([part.numpy() for part in bits])))


class BitReader:
    """Reads numbers back from bytes, in the order in which they were written."""

    def __init__(self, data: Tensor):
        """`data`: uint8 [bytes]."""
        self.at = 0  # how many bits have been read
        self._bits = np.unpackbits(data.numpy())

    def take(self, count: int, width: int) -> Tensor:
        """The next `count` numbers of `width` bits each, int64 [count].

        Raises ConfigError when there are not so many; nothing is allocated then.
        """
        stop = self.at + count * width
        if stop > len(self._bits):
            raise ConfigError(f"{len(self._bits)} bits, which is too short for the {stop} or more that belong there")
        size = _bytes_for(width)
        wide = np.zeros((count, 8 * size), np.uint8)
        wide[:, 8 * size - width :] = self._bits[self.at : stop].reshape(count, width)
        self.at = stop
        return torch.from_numpy(np.packbits(wide).view(f">u{size}").astype(np.int64))


def _bytes_for(width: int) -> int:
    return next(size for size in _BYTES if 8 * size >= width)
