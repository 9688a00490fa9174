"""Batch norm over the whole batch where several processes have a share of it each, so that a run is the same for any N.

Every call of torch's `batch_norm` is replaced, so that modules, their parameters' names, and what a forward pass puts
in the place of parameters (gated gammas and betas) stay as they are. `nn.SyncBatchNorm` needs a GPU, and waits for it
in every layer, as shares may differ in size; here they do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from pruner.runtime import distributed


@contextmanager
def over_all_processes() -> Iterator[None]:
    """Within it training normalises by the statistics of all processes' images, which are as many for each."""
    if distributed.world() == 1:
        yield
    else:
        with _Replaced():
            yield


class _Replaced(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return (batch_norm if func is F.batch_norm else func)(*args, **(kwargs or {}))


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm` of images x [B, C, ...], of which other processes have B more each."""
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    scale = x.new_ones(x.shape[1], dtype=torch.float32) if weight is None else weight
    y: Tensor
    y, mean, var = _Normalised.apply(x, scale, torch.zeros_like(scale) if bias is None else bias, eps)
    if running_mean is not None and running_var is not None:
        count = distributed.world() * x.numel() / x.shape[1]
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(var * (count / (count - 1)), momentum)
    return y


class _Normalised(torch.autograd.Function):
    """weight (x - mean) / sqrt(var + eps) + bias; also mean [C] and var [C], which pass no gradients on."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        over = [0, *range(2, x.dim())]
        var, mean = torch.var_mean(x.float(), over, correction=0)
        means, variances = distributed.stacked(torch.stack([mean, var])).unbind(1)  # [processes, C] each
        mean = means.mean(0)
        var = (variances + (means - mean).square()).mean(0)
        inverse = (var + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.mark_non_differentiable(mean, var)
        ctx.over = over
        slope = weight * inverse
        return torch.addcmul(_wide(bias - mean * slope, x), x, _wide(slope, x)).to(x.dtype), mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensors
        dy = grads[0].float()
        normal = torch.addcmul(_wide(-mean * inverse, x), x, _wide(inverse, x))
        d_bias, d_weight = dy.sum(ctx.over), (dy * normal).sum(ctx.over)
        count = distributed.world() * x.numel() / x.shape[1]
        mean_dy, mean_dy_normal = (distributed.total(torch.stack([d_bias, d_weight])) / count).unbind(0)
        dx = torch.addcmul(dy - _wide(mean_dy, x), normal, _wide(mean_dy_normal, x), value=-1)
        return (dx * _wide(weight * inverse, x)).to(x.dtype), d_weight, d_bias, None


def _wide(values: Tensor, x: Tensor) -> Tensor:
    """Values [C] as they go with x [B, C, ...]."""
    return values.view(1, -1, *[1] * (x.dim() - 2))
