"""Rows of fixed patterns: the same projections as `soft_mask` and `hard_mask`, for many rows at once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruner.sparsity.budget import hard_mask, soft_mask
from pruner.sparsity.rows import hard_rows, soft_rows

SHAPES = st.tuples(st.integers(1, 6), st.integers(2, 40))


@given(SHAPES, st.data())
@settings(max_examples=100, deadline=None)
def test_each_row_is_the_mask_that_it_would_have_alone(shape: tuple[int, int], data: st.DataObject) -> None:
    keep = data.draw(st.integers(1, shape[1]))
    temperature = data.draw(st.sampled_from([1e-4, 0.05, 1.0, 20.0]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    scores = torch.randn(shape, generator=generator, dtype=torch.float64)
    if data.draw(st.booleans()):
        scores = scores.mul(2).round()  # many that tie
    soft, hard = soft_rows(scores, keep, temperature), hard_rows(scores, keep)
    assert hard.sum(1).tolist() == [keep] * shape[0]
    torch.testing.assert_close(
        soft.sum(1), torch.full((shape[0],), float(keep), dtype=torch.float64), rtol=1e-7, atol=0
    )
    for row, one, other in zip(scores, soft, hard, strict=True):
        assert torch.equal(other, hard_mask(row, keep))
        torch.testing.assert_close(one, soft_mask(row, keep, None, temperature), rtol=0, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 5.0])
def test_gradients(temperature: float) -> None:
    scores = torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: soft_rows(s, 3, temperature), (scores,), atol=1e-6)


@pytest.mark.parametrize(("rows", "width"), [(20000, 2), (20000, 4), (10000, 16), (10000, 17), (200, 1000)])
def test_float32_rows_sum_to_k_at_every_temperature(rows: int, width: int) -> None:
    scores = 3 * torch.randn(rows, width, generator=torch.Generator().manual_seed(0))
    for temperature in (1e-5, 1e-3, 0.1, 1.0, 100.0):
        for keep in {1, max(1, width // 20), width // 2, width - 1}:
            soft = soft_rows(scores, keep, temperature)
            assert float((soft.double().sum(1) - keep).abs().max()) < 1e-5 * max(keep, 10)
            assert bool((soft >= 0).all()) and bool((soft <= 1).all())


def test_the_limit_of_no_temperature_is_the_hard_mask() -> None:
    scores = torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(soft_rows(scores, 11, 1e-6), hard_rows(scores, 11), rtol=0, atol=1e-4)


@pytest.mark.parametrize("width", [4, 40])
def test_scores_that_are_not_numbers_are_refused(width: int) -> None:
    scores = torch.rand(3, width)
    scores[1, 2] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        hard_rows(scores, 3)
    with pytest.raises(ValueError, match="infinite or NaN"):
        soft_rows(scores, 3)
    with pytest.raises(ValueError, match="temperature"):
        soft_rows(torch.rand(3, 8), 3, 0.0)
