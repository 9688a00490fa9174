"""Sizes counted by hand, and a packer that shows that so many bits are enough to get mask and values back."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pruner.quantize import clip_limit, fake_quantize
from pruner.sparsity.size import StoredLayer, compressed_bytes, index_bits


def mask_of(rows: int, candidates: int, *kept: int) -> Tensor:
    """A 0/1 mask whose rows keep the first so many units; one number stands for every row."""
    counts = torch.tensor(kept * rows if len(kept) == 1 else kept)
    return (torch.arange(candidates) < counts[:, None]).float()


@pytest.mark.parametrize(
    ("mask", "bits"),
    [
        (mask_of(10, 100, 100), 0),  # all are left
        (mask_of(10, 100, 5), 10 * 5 * 7 + 7),  # the same 5 in every row: k once
        (mask_of(10, 100, 4, 6, 5, 5, 5, 5, 5, 5, 5, 5), 50 * 7 + 10 * 7),  # k for every row
        (mask_of(10, 100, 50), 1000),  # 3507 as lists: a bitmap is cheaper
        (mask_of(8, 4, 1), 8 * 2 + 3),  # 1:4
        (mask_of(8, 4, 2), 32),  # 2:4 as lists would take 35
        (mask_of(3, 64, 0), 7),  # nothing is left: k = 0, once
        (mask_of(3, 64, 0, 1, 0), 6 + 3 * 7),
        (mask_of(5, 1, 1, 0, 0, 1, 1), 5),  # rows of one: k is the bitmap
        (mask_of(1, 65, 2), 2 * 7 + 7),  # ceil(log2 65) = 7 = ceil(log2 66)
        (mask_of(1, 64, 2), 2 * 6 + 7),  # ceil(log2 64) = 6, but 65 counts are possible
    ],
)
def test_index_bits_by_hand(mask: Tensor, bits: int) -> None:
    assert index_bits(mask) == bits


def test_index_does_not_care_which_units_are_left() -> None:
    generator = torch.Generator().manual_seed(0)
    order = torch.rand(10, 100, generator=generator).argsort(1)
    assert index_bits(mask_of(10, 100, 5).gather(1, order)) == 357


def test_a_dense_network_takes_four_bytes_a_parameter() -> None:
    layers = [StoredLayer(4000, [mask_of(40, 100, 100)]), StoredLayer(500)]
    assert compressed_bytes(layers, others=77) == 4 * (4000 + 500 + 77)


def test_sizes_by_hand() -> None:
    weights = StoredLayer(kept=50, masks=[mask_of(10, 100, 5)])
    kernels = StoredLayer(kept=9 * 6, masks=[mask_of(3, 4, 1, 3, 2)])  # 3x3 kernels; bitmap 12, lists 6*2 + 3*3
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
    layers = [StoredLayer(rows * k, [mask_of(rows, n, k)]) for rows, n, k, _ in shapes]
    bits = sum(rows * k * 3 + rows * k * index for rows, _, k, index in shapes)
    bits += 10 + 9 + 7 + 3 * 32 + 410 * 32
    assert compressed_bytes(layers, others=410, bits=3) == -(-bits // 8)


def test_masks_may_be_boolean_and_large() -> None:
    mask = torch.zeros(1, 20_000_000, dtype=torch.bool)  # more ones than a float32 sum could count
    mask[0, 1:] = True
    assert index_bits(mask) == 20_000_000
    mask[0, 0] = True
    assert index_bits(mask) == 0


# A packer of one layer: is what is counted enough to restore it?


def to_bits(numbers: Any, width: int) -> np.ndarray:
    """Whole numbers in `width` bits each."""
    return ((np.asarray(numbers, dtype=np.int64).reshape(-1, 1) >> np.arange(width)) & 1).astype(np.uint8).ravel()


class Reader:
    """Reads whole numbers back from bits."""

    def __init__(self, data: np.ndarray):
        self.bits, self.at = np.unpackbits(data), 0

    def take(self, count: int, width: int) -> np.ndarray:
        part = self.bits[self.at : self.at + count * width].reshape(count, width).astype(np.int64)
        self.at += count * width
        return (part << np.arange(width)).sum(1)


def pack(weight: Tensor, bits: int, uniform: bool) -> np.ndarray:
    """Row lists, the scale, and a code of `bits` for each weight that is left, as bytes."""
    mask, n, limit = weight != 0, weight.shape[1], clip_limit(weight, (weight != 0).float(), bits)
    counts = mask.sum(1)
    codes = ((weight[mask].double() / limit.double() + 1) / 2 * (2**bits - 1)).round()
    stream = [
        to_bits(counts[:1] if uniform else counts, n.bit_length()),
        to_bits(mask.nonzero()[:, 1], (n - 1).bit_length()),
        np.unpackbits(limit.reshape(1).numpy().view(np.uint8)),
        to_bits(codes, bits),
    ]
    return np.packbits(np.concatenate(stream))


def unpack(data: np.ndarray, rows: int, n: int, bits: int, uniform: bool) -> Tensor:
    reader = Reader(data)
    counts = reader.take(1, n.bit_length()).repeat(rows) if uniform else reader.take(rows, n.bit_length())
    kept = int(counts.sum())
    columns = reader.take(kept, (n - 1).bit_length())
    scale = np.packbits(reader.bits[reader.at : reader.at + 32]).view(np.float32)[0]
    reader.at += 32
    odd = 2 * reader.take(kept, bits) - (2**bits - 1)
    weight = torch.zeros(rows, n)
    at = torch.from_numpy(np.arange(rows).repeat(counts)), torch.from_numpy(columns)
    weight[at] = float(scale) * (torch.from_numpy(odd).float() / (2**bits - 1))
    assert len(reader.bits) - reader.at < 8
    return weight


@settings(deadline=None)
@given(st.data())
def test_the_counted_bits_restore_mask_and_values(data: st.DataObject) -> None:
    rows, n, bits = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 70)), data.draw(st.integers(1, 8))
    if uniform := data.draw(st.booleans()):
        kept = [data.draw(st.integers(0, n))] * rows
    else:
        kept = data.draw(
            st.lists(st.integers(0, n), min_size=rows, max_size=rows).filter(lambda k: len(set(k)) > 1 or rows == 1)
        )
    uniform = uniform or rows == 1
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    mask = mask_of(rows, n, *kept) if rows > 1 else mask_of(1, n, kept[0])
    mask = mask.gather(1, torch.rand(rows, n, generator=generator).argsort(1))
    weight = fake_quantize(torch.randn(rows, n, generator=generator), mask, bits)

    packed = pack(weight, bits, uniform)
    assert torch.equal(unpack(packed, rows, n, bits, uniform), weight)

    lists = sum(kept) * (n - 1).bit_length() + (1 if uniform else rows) * n.bit_length()
    counted = compressed_bytes([StoredLayer(sum(kept), [mask])], others=0, bits=bits)
    if sum(kept) < rows * n and lists <= rows * n:  # else no index or a bitmap is counted, which is less
        assert counted == len(packed)
    else:
        assert counted <= len(packed)
