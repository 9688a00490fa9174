"""Sizes counted by hand. That so many bits are enough to get masks and values back is shown in test_packing.py."""

import pytest
import torch
from torch import Tensor

from pruner.sparsity.size import StoredLayer, cheapest_index, compressed_bytes, index_bits


def mask_of(rows: int, candidates: int, *kept: int) -> Tensor:
    """A 0/1 mask whose rows keep the first so many units; one number stands for every row."""
    counts = torch.tensor(kept * rows if len(kept) == 1 else kept)
    return (torch.arange(candidates) < counts[:, None]).float()


@pytest.mark.parametrize(
    ("mask", "kind", "bits"),
    [
        (mask_of(10, 100, 100), "none", 0),
        (mask_of(10, 100, 5), "equal rows", 10 * 5 * 7 + 7),  # k once
        (mask_of(10, 100, 4, 6, 5, 5, 5, 5, 5, 5, 5, 5), "rows", 50 * 7 + 10 * 7),  # k for every row
        (mask_of(10, 100, 50), "bitmap", 1000),  # lists would take 3507
        (mask_of(8, 4, 1), "equal rows", 8 * 2 + 3),  # 1:4
        (mask_of(8, 4, 2), "bitmap", 32),  # 2:4 as lists would take 35
        (mask_of(3, 64, 0), "equal rows", 7),  # nothing is left: k = 0, once
        (mask_of(3, 64, 0, 1, 0), "rows", 6 + 3 * 7),
        (mask_of(5, 1, 1, 0, 0, 1, 1), "bitmap", 5),  # rows of one: k is the bitmap
        (mask_of(1, 65, 2), "equal rows", 2 * 7 + 7),  # ceil(log2 65) = 7 = ceil(log2 66)
        (mask_of(1, 64, 2), "equal rows", 2 * 6 + 7),  # ceil(log2 64) = 6, but 65 counts are possible
    ],
)
def test_index_by_hand(mask: Tensor, kind: str, bits: int) -> None:
    assert cheapest_index(mask) == (kind, bits)
    assert index_bits(mask) == bits


def test_index_does_not_care_which_units_are_left() -> None:
    generator = torch.Generator().manual_seed(0)
    order = torch.rand(10, 100, generator=generator).argsort(1)
    assert index_bits(mask_of(10, 100, 5).gather(1, order)) == 357


def test_a_dense_network_takes_four_bytes_a_parameter() -> None:
    layers = [StoredLayer(4000, index_bits(mask_of(40, 100, 100))), StoredLayer(500)]
    assert compressed_bytes(layers, others=77) == 4 * (4000 + 500 + 77)


def test_sizes_by_hand() -> None:
    weights = StoredLayer(kept=50, index_bits=index_bits(mask_of(10, 100, 5)))
    kernels = StoredLayer(kept=9 * 6, index_bits=index_bits(mask_of(3, 4, 1, 3, 2)))  # bitmap 12, lists 6*2 + 3*3
    filters = StoredLayer(kept=120)
    layers = [weights, kernels, filters]
    kept, index = 50 + 54 + 120, 357 + 12
    assert compressed_bytes(layers, 20) * 8 == 32 * kept + index + 32 * 20 + 7  # 7 bits fill the last byte
    assert compressed_bytes(layers, 20, bits=3) * 8 == 3 * kept + 3 * 32 + index + 32 * 20 + 7
    assert compressed_bytes(iter(layers), 20, bits=1) == -(-(kept + 3 * 32 + index + 640) // 8)
    assert compressed_bytes([], 0) == 0


def test_the_cards_k_of_n() -> None:
    """LeNet-300-100, 3 bits, 5 of 100 weights for every output neuron: kept * b + rows * k * ceil(log2 n), and k."""
    shapes = [(300, 784, 39, 10), (100, 300, 15, 9), (10, 100, 5, 7)]
    layers = [StoredLayer(rows * k, index_bits(mask_of(rows, n, k))) for rows, n, k, _ in shapes]
    bits = sum(rows * k * 3 + rows * k * index for rows, _, k, index in shapes)
    bits += 10 + 9 + 7 + 3 * 32 + 410 * 32
    assert compressed_bytes(layers, others=410, bits=3) == -(-bits // 8)


def test_masks_may_be_boolean_and_large() -> None:
    mask = torch.zeros(1, 20_000_000, dtype=torch.bool)  # more ones than a float32 sum could count
    mask[0, 1:] = True
    assert index_bits(mask) == 20_000_000
    mask[0, 0] = True
    assert index_bits(mask) == 0
