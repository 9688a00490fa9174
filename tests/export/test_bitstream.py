"""Numbers as bits: by hand, there and back at every width, and nothing read beyond the end."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pruner.checks import ConfigError
from pruner.export.bitstream import BitReader, to_bits, to_bytes


def test_by_hand() -> None:
    data = to_bytes([to_bits(torch.tensor([1, 2, 3]), 2), to_bits(torch.tensor([9]), 4)])
    assert data.tolist() == [0b01101110, 0b01000000]
    assert data.dtype == torch.uint8
    reader = BitReader(data)
    assert reader.take(3, 2).tolist() == [1, 2, 3]
    assert reader.take(1, 4).tolist() == [9] and reader.at == 10


@given(st.data())
def test_streams_come_back(data: st.DataObject) -> None:
    streams = []
    for width in data.draw(st.lists(st.integers(0, 62), min_size=1, max_size=4)):
        drawn = data.draw(st.lists(st.integers(0, 2**width - 1), max_size=20))
        streams.append((torch.tensor(drawn, dtype=torch.int64), width))
    packed = to_bytes(to_bits(numbers, width) for numbers, width in streams)
    total = sum(len(numbers) * width for numbers, width in streams)
    assert len(packed) == -(-total // 8)
    reader = BitReader(packed)
    for numbers, width in streams:
        assert torch.equal(reader.take(len(numbers), width), numbers)
    assert reader.at == total


def test_integers_of_any_type_and_stride() -> None:
    for dtype in (torch.uint8, torch.int16, torch.int32, torch.int64):
        numbers = torch.arange(20, dtype=dtype).view(10, 2)[:, 1]
        assert BitReader(to_bytes([to_bits(numbers, 5)])).take(10, 5).tolist() == list(range(1, 20, 2))


@pytest.mark.parametrize(("count", "width"), [(17, 1), (1, 17), (6, 3), (10**30, 1), (10**15, 60)])
def test_too_short(count: int, width: int) -> None:
    reader = BitReader(torch.zeros(2, dtype=torch.uint8))
    with pytest.raises(ConfigError, match="16 bits, which is too short"):
        reader.take(count, width)
    assert reader.take(16, 1).tolist() == [0] * 16
