"""Weights on few levels: which levels, which gradients, what a mask does to them, and that doing it twice is once."""

from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from pruner.compose.choices import conf_folder
from pruner.quantize import clip_limit, fake_quantize, quantize

BITS = (1, 2, 3, 4, 8)
LARGEST = float(torch.finfo(torch.float32).max)


def one(value: float) -> Tensor:
    return torch.tensor(value)


@st.composite
def weights(draw: Any) -> Tensor:
    """float32 weights of every kind: plain, tied, tiny, huge, zero, denormal."""
    value = draw(
        st.sampled_from(
            [
                st.floats(-3, 3, width=32),
                st.sampled_from([-1.0, -0.0, 0.0, 0.1, 1.0]),
                st.floats(-LARGEST, LARGEST, width=32),
                st.integers(-37, 37).map(lambda power: 10.0**power),
                st.floats(-(2.0**-130), 2.0**-130, width=32),
            ]
        )
    )
    return torch.tensor(draw(st.lists(value, min_size=1, max_size=60)), dtype=torch.float32)


@st.composite
def masked(draw: Any) -> tuple[Tensor, Tensor]:
    """Weights and a 0/1 gate."""
    weight = draw(weights())
    return weight, torch.tensor(draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=len(weight), max_size=len(weight))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bits", BITS)
def test_levels_are_the_cards(bits: int, dtype: torch.dtype) -> None:
    limit = torch.tensor(0.3, dtype=dtype)
    found = quantize(torch.linspace(-0.4, 0.4, 5001, dtype=dtype), bits, limit).unique()
    half = (2**bits - 1) / 2
    scale = half / limit  # of the card: (2^b - 1) / 2 / max |A W|
    steps = torch.arange(2**bits, dtype=dtype) - half  # ..., -1.5, -0.5, 0.5, 1.5, ...
    assert len(found) == 2**bits
    torch.testing.assert_close(found, steps / scale, rtol=4 * torch.finfo(dtype).eps, atol=0)
    assert found[0] == -limit and found[-1] == limit
    assert torch.equal(found, -found.flip(0)) and not bool((found == 0).any())


def test_levels_by_hand() -> None:
    # Two bits, limit 3: levels -3, -1, 1, 3, with borders at -2, 0, 2.
    weight = torch.tensor([-9.0, -3.0, -2.5, -1.9, -0.1, -0.0, 0.0, 0.1, 1.9, 2.1, 3.0, 9.0])
    expected = torch.tensor([-3.0, -3.0, -3.0, -1.0, -1.0, 1.0, 1.0, 1.0, 1.0, 3.0, 3.0, 3.0])
    torch.testing.assert_close(quantize(weight, 2, one(3.0)), expected)
    assert torch.equal(quantize(weight, 1, one(0.5)), torch.where(weight < 0, -0.5, 0.5))


@settings(deadline=None)
@given(weights(), st.integers(1, 8))
def test_every_weight_goes_to_the_nearest_level(weight: Tensor, bits: int) -> None:
    limit = clip_limit(weight, None, 8)  # the range, also for one bit
    result = quantize(weight, bits, limit).double()
    top = 2**bits - 1
    levels = (2 * torch.arange(2**bits, dtype=torch.float64) - top) / top * limit.double().clamp(min=1e-30)
    nearest = (weight.double()[:, None] - levels).abs().amin(1)
    slack = 1e-6 * float(levels[-1])  # a weight on the border of two levels may take either
    assert bool(((result - weight.double()).abs() <= nearest + slack).all())
    assert len(result.unique()) <= 2**bits and not bool((result == 0).any())


@pytest.mark.parametrize("bits", BITS)
def test_gradient_is_straight_through_up_to_the_limit(bits: int) -> None:
    weight = torch.tensor([-5.0, -2.0001, -2.0, -0.3, 0.0, 0.3, 2.0, 2.0001, 5.0], requires_grad=True)
    limit = one(2.0).requires_grad_()
    upstream = torch.arange(1.0, 10.0)
    result = quantize(weight, bits, limit)
    grads = torch.autograd.grad(result, [weight, limit], upstream, allow_unused=True)
    inside = torch.tensor([0.0, 0, 1, 1, 1, 1, 1, 0, 0]) if bits > 1 else torch.ones(9)
    assert grads[0] is not None and torch.equal(grads[0], upstream * inside)
    assert grads[1] is None


def test_gradients_of_a_gated_weight() -> None:
    # |gate w| = 1, 3, 0, 0.5: the limit is 3, the levels are -3, -1, 1, 3.
    weight = torch.tensor([1.0, -3.0, 7.0, 1.0], requires_grad=True)
    gate = torch.tensor([1.0, 1.0, 0.0, 0.5], requires_grad=True)
    result = fake_quantize(weight, gate, 2)
    torch.testing.assert_close(result, torch.tensor([1.0, -3.0, 0.0, 0.5]))
    result.backward(torch.tensor([2.0, 2.0, 2.0, 2.0]))
    assert weight.grad is not None and gate.grad is not None
    assert weight.grad.tolist() == [2.0, 2.0, 0.0, 1.0]
    torch.testing.assert_close(gate.grad, torch.tensor([2.0, -6.0, 6.0, 2.0]))  # also where it is closed: it may open


@settings(deadline=None)
@given(masked(), st.integers(1, 8))
def test_twice_is_once_to_the_last_bit(case: tuple[Tensor, Tensor], bits: int) -> None:
    weight, gate = case
    once = fake_quantize(weight, gate, bits)
    assert bool(torch.isfinite(once).all())
    assert torch.equal(fake_quantize(once, gate, bits), once)
    left = (once != 0).float()  # what a saved file knows of the mask
    assert torch.equal(left, gate)
    assert torch.equal(fake_quantize(once, left, bits), once)
    whole = fake_quantize(weight, None, bits)
    assert torch.equal(fake_quantize(whole, None, bits), whole)


@pytest.mark.parametrize("bits", BITS)
def test_twice_is_once_for_a_large_layer(bits: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = 0.05 * torch.randn(1000, 777, generator=generator)  # a float32 sum of so many would not be exact
    gate = (torch.rand(weight.shape, generator=generator) < 0.1).float()
    once = fake_quantize(weight, gate, bits)
    assert torch.equal(fake_quantize(once, gate, bits), once)
    assert len(once[once != 0].unique()) <= 2**bits


@pytest.mark.parametrize("bits", BITS)
def test_a_hard_gate_is_mask_first_then_quantise(bits: int) -> None:
    generator = torch.Generator().manual_seed(1)
    weight, gate = torch.randn(20, 30, generator=generator), (torch.rand(20, 30, generator=generator) < 0.3).float()
    weight[0, 0], gate[0, 0] = 50.0, 0.0  # the largest weight is gone, and must not stretch the levels
    left = gate * weight
    limit = left.abs().max() if bits > 1 else left[gate == 1].abs().mean()
    result = fake_quantize(weight, gate, bits)
    assert bool((result[gate == 0] == 0).all())
    torch.testing.assert_close(result[gate == 1], quantize(left[gate == 1], bits, limit), rtol=1e-6, atol=0)


def test_one_bit_by_hand() -> None:
    weight, gate = torch.tensor([1.0, -2.0, 30.0, -0.0, 6.0]), torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0])
    assert fake_quantize(weight, gate, 1).tolist() == [1.0, -1.0, 0.0, 1.0, 0.0]  # mean of 1, 2 and 0
    soft = torch.tensor([1.0, 0.5, 0.0, 0.0, 0.0])
    mean = (1 + 1) / 1.5  # sum |gate w| / sum gate
    torch.testing.assert_close(fake_quantize(weight, soft, 1), torch.tensor([mean, -mean / 2, 0.0, 0.0, 0.0]))


def test_a_faded_weight_stays_faded() -> None:
    weight, gate = torch.tensor([1.0, 0.9]), torch.tensor([1.0, 1e-6])
    result = fake_quantize(weight, gate, 2)
    torch.testing.assert_close(result, torch.tensor([1.0, 1e-6]))
    assert float(quantize(gate * weight, 2, one(1.0))[1]) > 0.3  # what quantising after masking would make of it


@pytest.mark.parametrize("bits", BITS)
def test_gates_broadcast(bits: int) -> None:
    weight = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(2))
    gate = torch.tensor([1.0, 0.0, 0.5, 1.0]).view(4, 1, 1, 1)
    assert torch.equal(fake_quantize(weight, gate, bits), fake_quantize(weight, gate.expand_as(weight), bits))


@pytest.mark.parametrize("bits", BITS)
def test_nothing_left_is_zero_and_not_nan(bits: int) -> None:
    weight = torch.randn(3, 4, generator=torch.Generator().manual_seed(3)).requires_grad_()
    gate = torch.zeros(3, 4, requires_grad=True)
    result = fake_quantize(weight, gate, bits)
    assert torch.equal(result, torch.zeros(3, 4))
    result.sum().backward()
    assert weight.grad is not None and gate.grad is not None
    assert torch.equal(weight.grad, torch.zeros(3, 4)) and bool(torch.isfinite(gate.grad).all())
    assert bool(torch.isfinite(fake_quantize(torch.zeros(5), None, bits)).all())


def test_no_bits_is_the_mask_alone() -> None:
    weight, gate = torch.tensor([1.5, -2.0]), torch.tensor([0.5, 0.0])
    assert fake_quantize(weight, None, 0) is weight
    assert torch.equal(fake_quantize(weight, gate, 0), weight * gate)


@pytest.mark.parametrize("bits", BITS)
def test_autocast_and_flushed_denormals_change_nothing(bits: int) -> None:
    weight = torch.randn(8, 9, generator=torch.Generator().manual_seed(4))
    for scale in (1.0, 1e-30, 1e-37):
        expected = fake_quantize(weight * scale, (weight > 0).float(), bits)
        supported = torch.set_flush_denormal(True)  # as every run does; conftest.py turns it off again
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = fake_quantize(weight * scale, (weight > 0).float(), bits)
        assert result.dtype == torch.float32 and torch.equal(result, expected)
        assert torch.equal((result != 0), weight > 0)
        torch.set_flush_denormal(not supported)


@pytest.mark.parametrize("bits", [-1, 9])
def test_other_numbers_of_bits_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match=f"bits must be from 1 to 8, got {bits}"):
        fake_quantize(torch.ones(2), None, bits)


@pytest.mark.parametrize("bits", BITS)
def test_a_layer_learns_through_its_levels(bits: int) -> None:
    """Targets made by a quantised layer are found again by training one; only then is the loss this small."""
    generator = torch.Generator().manual_seed(5)
    gate = (torch.rand(3, 8, generator=generator) < 0.6).float()
    goal = fake_quantize(torch.randn(3, 8, generator=generator), gate, bits)
    inputs = torch.randn(256, 8, generator=generator)
    weight = (0.5 * torch.randn(3, 8, generator=generator)).requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=0.02)
    losses = []
    for _ in range(600):
        loss = F.mse_loss(inputs @ fake_quantize(weight, gate, bits).T, inputs @ goal.T)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert min(losses) < 0.02 * losses[0]


@pytest.mark.parametrize(
    ("name", "bits"), [("none", 0), ("int8", 8), ("int4", 4), ("int3", 3), ("int2", 2), ("binary", 1)]
)
def test_config_files(name: str, bits: int) -> None:
    text = (conf_folder() / "quantization" / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert yaml.safe_load(text) == {"name": name, "bits": bits}


def test_gates_that_are_all_halfway_cut_nothing_off() -> None:
    """Early in a soft phase no gate is near 1; what counts is how the gates compare."""
    weight = torch.tensor([0.5, -1.0, 2.0], requires_grad=True)
    assert float(clip_limit(weight, torch.full((3,), 0.25), 3)) == 2.0
    fake_quantize(weight, torch.full((3,), 0.25), 3).sum().backward()
    assert weight.grad is not None and weight.grad.tolist() == [0.25, 0.25, 0.25]
