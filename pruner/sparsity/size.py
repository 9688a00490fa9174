"""How many bytes a pruned, quantised network takes where it is stored: its weights, and the index that places them.

    bits = sum over layers (kept b + index) + 32 others,  b = 32 without quantisation     [chosen] in DPP's card
    index of k of n in every row = k ceil(log2 n) a row                                   [chosen] in DPP's card

[chosen] beyond the card: rows may keep different numbers, which are then stored too; a bitmap is taken where it is
cheaper; one 32-bit scale for each quantised layer. What is the same for all masks is not counted: names, shapes, which
index a layer has. Nor are a batch norm's running statistics, which merge with its weight and bias.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from pruner.sparsity.base import Units

FLOAT_BITS = 32


@dataclass(frozen=True)
class StoredLayer:
    """One prunable layer as it would be stored.

    kept: the weights that are left. masks: what an index must tell (see `Units.holes`).
    """

    kept: int
    masks: Sequence[Tensor] = ()


def network_bytes(model: nn.Module, units: Units, hard: Tensor, bits: int = 0) -> int:
    """The size in bytes of a network under a 0/1 mask [n], its prunable weights quantised to `bits` (0: not)."""
    zeros = units.zeros(hard)
    left = {
        name: p.numel() - int((zeros[name] == 0).sum() if name in zeros else 0) for name, p in model.named_parameters()
    }
    prunable = [layer for layer in units.layers if layer.prunable]
    stored = [StoredLayer(left.pop(layer.weight), units.holes(layer, hard)) for layer in prunable]
    return compressed_bytes(stored, sum(left.values()), bits)


def index_bits(mask: Tensor) -> int:
    """The bits that tell which units of a 0/1 mask [rows, candidates] are left: the cheapest of

    nothing     when all are left;
    a bitmap    one bit for every unit;
    row lists   ceil(log2 n) bits for each of the k units left in a row of n, and k itself in ceil(log2(n + 1)) bits:
                once if it is the same for every row, else for every row.
    """
    rows, candidates = mask.shape
    counts = (mask != 0).sum(1)
    kept = int(counts.sum())
    if kept == mask.numel():
        return 0
    uniform = bool((counts == counts[0]).all())
    # For whole n: (n - 1).bit_length() is ceil(log2 n), n.bit_length() is ceil(log2(n + 1)).
    lists = kept * (candidates - 1).bit_length() + (1 if uniform else rows) * candidates.bit_length()
    return min(mask.numel(), lists)


def compressed_bytes(layers: Iterable[StoredLayer], others: int, bits: int = 0) -> int:
    """The size of a network in bytes, rounded up once.

    layers: its prunable layers. others: how many other parameters are left (biases, normalisation, layers that are not
    prunable), which take 32 bits each. bits: of a quantised weight; 0: they are not quantised.
    """
    total = FLOAT_BITS * others
    for layer in layers:
        total += layer.kept * (bits or FLOAT_BITS) + (FLOAT_BITS if bits else 0)
        total += sum(index_bits(mask) for mask in layer.masks)
    return -(-total // 8)
