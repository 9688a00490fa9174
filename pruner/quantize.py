"""Weights on few levels, jointly with masks: first the mask, then what is left is quantised, layer by layer.

The scheme is that of DPP (Gonzalez-Carabarin et al., arXiv 2105.12686); it works with every method.

    s = (2^b - 1) / 2 / limit,  limit = max |A W|          [known] b = 8, 4, 3 bits, uniform and symmetric
    levels: (+-0.5, +-1.5, ..., +-(2^b - 1) / 2) / s       [chosen] mid-rise: 2^b levels, the outermost are +-limit
    b = 1: sign(W) on what is left                         [known]; times its mean |w|, XNOR's scale [chosen]
    gradient: straight through inside the clip range       [known]

[chosen]: no level is zero, so that the zeros are exactly the mask's. The paper's s fits mid-rise levels exactly; levels
that include zero would number 2^b - 1. Dividing by s again keeps the network's range; the released layers leave that
to batch norm.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_BITS = 8
_SMALLEST = 1e-30  # the least limit: nothing divides 0 by 0, and no level becomes a denormal, which may count as zero


def quantize(weight: Tensor, bits: int, limit: Tensor) -> Tensor:
    """Every weight moved to the nearest of 2^bits levels, which are symmetric and evenly spaced; none is zero.

    weight: float32 or float64 of any shape; the result has its shape and type. limit: a scalar tensor, the outermost
    level; weights beyond are clipped to it, and a limit below 1e-30 counts as that. With one bit the levels are
    -limit and +limit. Zero counts as positive.

    The gradient of the weight is 1 up to the limit and 0 beyond [known]; with one bit it is 1 everywhere [chosen]: the
    limit is then the mean of the weights and not their range, and cutting there would freeze the larger ones. The
    limit gets none. Raises ValueError unless 1 <= bits <= 8.
    """
    if not 1 <= bits <= MAX_BITS:
        raise ValueError(f"bits must be from 1 to {MAX_BITS}, got {bits}")
    limit = limit.clamp(min=_SMALLEST)
    top = (1 << bits) - 1  # levels are odd numbers up to `top`, over `top`, times the limit
    with torch.no_grad():
        odd = (weight.abs() / limit * (top / 2)).floor().clamp(max=(top - 1) // 2) * 2 + 1
        # odd / top first: it is 1 at the outermost level, which is the limit to the last bit.
        # A tensor divides, not a number: CUDA would multiply by the rounded 1 / top, and give other levels than a CPU.
        level = torch.where(weight < 0, -limit, limit) * (odd / limit.new_full((), top))
    # Not clamp, which halves the gradient of a weight exactly at the limit, and the largest one always is.
    through = weight if bits == 1 else torch.where(weight.abs() <= limit, weight, 0.0)
    return level + (through - through.detach())  # the bracket is exactly 0, and carries the gradient


def clip_limit(weight: Tensor, gate: Tensor | None, bits: int) -> Tensor:
    """The `limit` for `quantize`, a scalar without gradient, from what the gate leaves of one layer's weight.

    The largest |gate w|, with the gates in units of the largest of them [chosen]: where all are halfway, as early in a
    soft phase, the weights would be cut off otherwise. With one bit the mean |w|, each weighted by its gate. Shapes as
    in `fake_quantize`.
    """
    weight = weight.detach()
    gate = None if gate is None else gate.detach()
    left = (weight if gate is None else gate * weight).abs()
    if bits != 1:
        return left.amax() if gate is None else left.amax() / gate.amax().clamp(min=_SMALLEST)
    # Summed in float64, where n equal float32 numbers add up exactly: so the mean of +-a is a, to the last bit.
    share = left.numel() if gate is None else gate.expand_as(weight).sum(dtype=torch.float64).clamp(min=_SMALLEST)
    return (left.sum(dtype=torch.float64) / share).to(weight.dtype)


def fake_quantize(weight: Tensor, gate: Tensor | None, bits: int) -> Tensor:
    """What the forward pass uses in the place of one layer's weight: gate * Q(weight), Q with the layer's own limit.

    weight: float32 or float64. gate: values in [0, 1] that broadcast to the weight's shape, or None when the weight has
    no mask of its own (filters are masked at their batch norm). bits: 0 leaves the weight as it is. Gradients reach
    the weight straight through (see `quantize`), and the gate.

    For a hard gate this is the mask first and quantising what is left, and doing it again on its result changes
    nothing, to the last bit: a saved network of quantised weights predicts the same when it is loaded.
    For a soft gate the order matters: quantising gate * weight would lift a weight that has faded to nearly nothing to
    half a step, as there is no level at zero. So the gate is multiplied on last, and a closed gate always gives zero.

    Raises ValueError unless 0 <= bits <= 8.
    """
    if bits:
        weight = quantize(weight, bits, clip_limit(weight, gate, bits))
    return weight if gate is None else weight * gate
