"""Blocks as people write them, and networks of a few of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.odd_networks import CLASSES, TwoNames, conv, normed


class Attentive(nn.Module):
    """Channels weighed by linear layers, between two reshapes: squeeze and excitation as it is mostly copied."""

    def __init__(self, channels: int):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(nn.Linear(channels, 2), nn.ReLU(), nn.Linear(2, channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        return x * self.fc(self.pool(x).view(b, c)).view(b, c, 1, 1).expand_as(x)


class ECA(nn.Module):
    """Channels weighed by their neighbours: to its convolution they lie in space."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.adaptive_avg_pool2d(x, 1).squeeze(-1).transpose(-1, -2)
        return x * self.conv(pooled).transpose(-1, -2).unsqueeze(-1).sigmoid().expand_as(x)


class CBAM(nn.Module):
    """Channels weighed by one small network of their mean and their maximum; then, perhaps, positions."""

    def __init__(self, channels: int, spatial: bool):
        super().__init__()
        self.mlp = nn.Sequential(nn.Conv2d(channels, 4, 1), nn.ReLU(), nn.Conv2d(4, channels, 1))
        self.spatial = nn.Conv2d(2, 1, 7, padding=3) if spatial else None

    def forward(self, x: Tensor) -> Tensor:
        x = x * (self.mlp(F.adaptive_avg_pool2d(x, 1)) + self.mlp(F.adaptive_max_pool2d(x, 1))).sigmoid()
        if self.spatial is None:
            return x
        both = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)
        return x * self.spatial(both).sigmoid()


class Ghost(nn.Module):
    """Half of the channels are made of the other half by a depthwise convolution."""

    def __init__(self, ins: int, outs: int):
        super().__init__()
        self.outs, half = outs, outs // 2
        self.primary = normed(ins, half)
        self.cheap = nn.Sequential(nn.Conv2d(half, half, 3, 1, 1, groups=half, bias=False), nn.BatchNorm2d(half))

    def forward(self, x: Tensor) -> Tensor:
        x = self.primary(x)
        return torch.cat([x, self.cheap(x)], 1)[:, : self.outs, :, :]


class Standardised(nn.Conv2d):
    """A convolution whose weight is standardised whenever it runs."""

    def forward(self, input: Tensor) -> Tensor:
        mean, std = self.weight.mean((1, 2, 3), keepdim=True), self.weight.std((1, 2, 3), keepdim=True)
        return F.conv2d(input, (self.weight - mean) / (std + 1e-5), self.bias, self.stride, self.padding)


class Branches(nn.Module):
    """Branches of several widths in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        pool = nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.Conv2d(3, 5, 1))
        self.branches = nn.ModuleDict({"one": nn.Conv2d(3, 4, 1), "three": normed(3, 6), "pool": pool})

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches.values()], 1)


class Listed(nn.Module):
    """Weights without modules."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([0.1 * torch.randn(8, 3, 3, 3), 0.1 * torch.randn(6, 8, 3, 3)])

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights:
            x = F.conv2d(x, weight, padding=1).relu()
        return x


class Blurred(nn.Module):
    """Subsampling with a fixed kernel, one for each channel that there is."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])[None, None] / 16)

    def forward(self, x: Tensor) -> Tensor:
        kernels = self.kernel.repeat(x.shape[1], 1, 1, 1)
        return F.conv2d(x, kernels, stride=2, padding=1, groups=x.shape[1])


class Hooked(nn.Module):
    """What a layer gives is changed by one hook, and kept by another."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = conv(3, 8), normed(8, 6), nn.Linear(6, CLASSES)
        self.seen: dict[str, Tensor] = {}
        self.a.register_forward_hook(lambda module, inputs, output: 2 * output.relu())
        self.a.register_forward_hook(self.keep)

    def keep(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        self.seen["a"] = output

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.b(self.a(x)).mean((2, 3)))


class Wrapped(nn.Module):
    """A network in a wrapper."""

    def __init__(self, wrap: Callable[[nn.Module], Any]):
        super().__init__()
        self.net = wrap(TwoNames())

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Squeezed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.pool, self.fc = normed(3, 8), nn.AdaptiveAvgPool2d(1), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.a(x)).squeeze())


class Tied(nn.Module):
    """An encoder and a decoder with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.code, self.fc = normed(3, 8), nn.Linear(8, 4, bias=False), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.linear(self.code(self.a(x).mean((2, 3))), self.code.weight.t()))
