"""How many bytes a pruned, quantised network takes where it is stored: its weights, and the index that places them.

    bits = sum over layers (kept b + index) + 32 others,  b = 32 without quantisation     [chosen]
    index of k of n in every row = k ceil(log2 n) a row                                   [chosen] for DPP's rows

docs/methods/dpp.md says where these come from. [chosen] beyond it: rows may keep different numbers, which are then
stored too; a bitmap is taken where it is cheaper; one 32-bit scale for each quantised layer. What is the same for all
masks is not counted: names, shapes, which index a layer has. Nor are a batch norm's running statistics, which merge
with its weight and bias.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from pruner.sparsity.units.base import Units

FLOAT_BITS = 32

Index = Literal["none", "bitmap", "equal rows", "rows"]


@dataclass(frozen=True)
class StoredLayer:
    """One prunable layer as it would be stored: the weights that are left, and the bits of the index to them."""

    kept: int
    index_bits: int = 0


def network_bytes(model: nn.Module, units: Units, hard: Tensor, bits: int = 0) -> int:
    """The size in bytes of a network under a 0/1 mask [n], its prunable weights quantised to `bits` (0: not)."""
    zeros = units.zeros(hard)
    left = {
        name: p.numel() - int((zeros[name] == 0).sum() if name in zeros else 0) for name, p in model.named_parameters()
    }
    prunable = [layer for layer in units.layers if layer.prunable]
    stored = [
        StoredLayer(left.pop(layer.weight), sum(index_bits(mask) for mask in units.index_rows(layer, hard)))
        for layer in prunable
    ]
    return compressed_bytes(stored, sum(left.values()), bits)


def index_bits(mask: Tensor) -> int:
    """The bits that tell which units of a 0/1 mask [rows, candidates] are left, by the cheapest index."""
    return cheapest_index(mask)[1]


def cheapest_index(mask: Tensor) -> tuple[Index, int]:
    """What tells which units of a 0/1 mask [rows, candidates] are left in the fewest bits, and in how many:

    none         when all are left;
    bitmap       one bit for every unit;
    equal rows   k, which is the same for every row, in list_widths(candidates)[0] bits, and which k units are left in
                 each row, in list_widths(candidates)[1] bits each;
    rows         the same, with a k for every row.
    """
    rows, candidates = mask.shape
    counts = (mask != 0).sum(1)
    kept = int(counts.sum())
    if kept == mask.numel():
        return "none", 0
    equal = bool((counts == counts[0]).all())
    count_width, place_width = list_widths(candidates)
    lists = kept * place_width + (1 if equal else rows) * count_width
    if mask.numel() <= lists:
        return "bitmap", mask.numel()
    return "equal rows" if equal else "rows", lists


def list_widths(candidates: int) -> tuple[int, int]:
    """How many bits a count of 0 to n units takes, ceil(log2(n + 1)), and a place among n: ceil(log2 n)."""
    return candidates.bit_length(), (candidates - 1).bit_length()


def compressed_bytes(layers: Iterable[StoredLayer], others: int, bits: int = 0) -> int:
    """The size of a network in bytes, rounded up once.

    layers: its prunable layers. others: how many other parameters are left (biases, normalisation, layers that are not
    prunable), which take 32 bits each. bits: of a quantised weight; 0: they are not quantised.
    """
    total = FLOAT_BITS * others
    for layer in layers:
        total += layer.kept * (bits or FLOAT_BITS) + (FLOAT_BITS if bits else 0) + layer.index_bits
    return -(-total // 8)
