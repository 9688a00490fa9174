"""More networks as people write them, made of common blocks; and all odd networks by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth

from tests import odd_networks
from tests.odd_blocks import (
    CBAM,
    ECA,
    Attentive,
    Blurred,
    Branches,
    Ghost,
    Hooked,
    Listed,
    Squeezed,
    Standardised,
    Tied,
    Wrapped,
)
from tests.odd_networks import CLASSES, SHAPE, Net, TwoNames, conv, normed


def u_net(net: Any, images: Tensor) -> Tensor:
    fine = net.a(images)
    coarse = net.b(fine)
    x = F.interpolate(net.c(coarse), size=coarse.shape[2:], mode="bilinear", align_corners=False)
    x = net.d(torch.cat([x, coarse], 1))
    return torch.cat([F.interpolate(x, scale_factor=2.0), fine], 1)


def pyramid(net: Any, images: Tensor) -> Tensor:
    """Pooled to three sizes, flattened, and side by side."""
    x = net.b(net.a(images))
    return torch.cat([F.adaptive_max_pool2d(x, size).flatten(1) for size in (1, 2, 4)], 1).unsqueeze(2)


def dropped_path(net: Any, images: Tensor) -> Tensor:
    """Stochastic depth, by hand and by torchvision."""
    x = net.stem(images)
    y = net.a(x)
    if net.training:
        y = y.div(0.5) * y.new_empty((len(y),) + (1,) * (y.ndim - 1)).bernoulli_(0.5)
    x = x + y
    return net.drop(net.b(x)) + x


def two_scales(net: Any, images: Tensor) -> Tensor:
    x = net.a(images)
    return torch.cat([net.b(x), F.interpolate(net.b(F.avg_pool2d(x, 2)), scale_factor=2.0)], 1)


def three_in_one(net: Any, images: Tensor) -> Tensor:
    """RepVGG's block: two convolutions and the identity, each with a norm of its own."""
    x = net.stem(images)
    return (net.three(x) + net.one(x) + net.same(x)).relu()


def in_place(net: Any, images: Tensor) -> Tensor:
    images -= 0.5  # the images that it was given
    x = net.stem(images)
    y = net.b(F.relu_(net.norm(net.a(x))))
    y += x
    return F.relu_(y)


def coordinates(net: Any, images: Tensor) -> Tensor:
    x = net.a(images)
    b, _, h, w = x.shape
    rows = torch.linspace(-1, 1, h, device=x.device).view(1, 1, h, 1).expand(b, 1, h, w)
    columns = torch.linspace(-1, 1, w, device=x.device).view(1, 1, 1, w).expand(b, 1, h, w)
    return net.b(torch.cat([x, rows, columns], 1))


def copied_into_zeros(net: Any, images: Tensor) -> Tensor:
    x = net.a(images)
    wide = x.new_zeros(len(x), 16, *x.shape[2:])
    wide[:, 4:12] = x
    return net.c((wide + net.b(x)).relu())


def image_by_image(net: Any, images: Tensor) -> Tensor:
    return torch.cat([net.b(net.a(image[None])) for image in images])


def view_in_training(net: Any, images: Tensor) -> Tensor:
    x = net.b(net.a(images))
    return F.dropout(x.view(len(x), -1), 0.1).view(x.shape) if net.training else x


def helped_in_training(net: Any, images: Tensor) -> Tensor:
    """Half of it returns early in evaluation."""
    x = net.a(images)
    y = net.b(x)
    return y + net.help(x) if net.training else y


def again(net: Any, images: Tensor) -> Tensor:
    """Recomputed in the backward pass, to save memory."""
    x = net.a(images)
    return checkpoint(net.b, x, use_reentrant=False) if net.training else net.b(x)


def frozen(all_of_it: bool) -> nn.Module:
    net = TwoNames()
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(not all_of_it and name.startswith("fc"))
    return net


def scripted(module: nn.Module) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it is old
        return torch.jit.script(module)


def block(make: Callable[[], nn.Module], ins: int = 8) -> Callable[[], nn.Module]:
    """A network with a block between a convolution of 8 channels and one of 12."""
    return lambda: Net(lambda n, x: n.b(n.block(n.a(x))), 12, a=normed(3, 8), block=make(), b=normed(ins, 12))


def between(how: Callable[[Tensor], Tensor], ins: int = 8) -> Callable[[], nn.Module]:
    """Likewise, with a function."""
    return lambda: Net(lambda n, x: n.b(how(n.a(x))), 12, a=normed(3, 8), b=normed(ins, 12))


# By name: how to make it, and how many filters can go; 8 of `a` where what follows leaves them, and 12 of `b`.
TAKEN: dict[str, tuple[Callable[[], nn.Module], int]] = {
    **odd_networks.TAKEN,
    "U-Net": (lambda: Net(u_net, 8 + 8, a=normed(3, 8), b=normed(8, 12, 2), c=normed(12, 10, 2), d=normed(22, 8)), 38),
    "a pyramid of pools": (lambda: Net(pyramid, 6 * 21, a=normed(3, 8), b=normed(8, 6)), 14),
    "view in training alone": (lambda: Net(view_in_training, 6, a=normed(3, 8), b=normed(8, 6)), 14),
    "pixels shuffled": (between(lambda x: F.pixel_shuffle(x, 2), 2), 12),
    "branches in a dictionary": (lambda: Net(lambda n, x: n.b(n.a(x)), 6, a=Branches(), b=normed(15, 6)), 15 + 6),
    "one layer on two scales": (lambda: Net(two_scales, 12, a=normed(3, 8), b=normed(8, 6)), 14),
    "parameters in a list": (lambda: Net(lambda n, x: n.b(n.a(x)), 16, a=Listed(), b=normed(6, 16)), 16),
    "DataParallel": (lambda: Wrapped(nn.DataParallel), 14),
    "hooks": (Hooked, 14),
    "two convolutions and the identity": (
        lambda: Net(three_in_one, 6, stem=normed(3, 6), three=normed(6, 6)[:2],
                    one=nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)), same=nn.BatchNorm2d(6)), 6),
    "ghosts": (lambda: Net(lambda n, x: n.b(n.a(x)), 12, a=Ghost(3, 8), b=Ghost(8, 12)), 4 + 6),
    "stochastic depth": (lambda: Net(dropped_path, 6, stem=normed(3, 6), a=normed(6, 6), b=normed(6, 6),
                                     drop=StochasticDepth(0.5, "row")), 6),
    "in place": (lambda: Net(in_place, 6, stem=normed(3, 6), a=conv(6, 8), norm=nn.BatchNorm2d(8),
                             b=normed(8, 6)[:2]), 14),
    "a part in training alone": (lambda: Net(helped_in_training, 6, a=normed(3, 8), b=normed(8, 6), help=conv(8, 6)),
                                 14),
    "a frozen body": (lambda: frozen(False), 14),
    "whole channels dropped": (block(lambda: nn.Dropout2d(0.3)), 8 + 12),
    "attention by channels": (block(lambda: CBAM(8, spatial=False)), 8 + 4 + 12),
    "attention by channels and positions": (block(lambda: CBAM(8, spatial=True)), 4 + 12),
    "attention by linear layers": (block(lambda: Attentive(8)), 12),
    "attention by neighbours": (block(ECA), 12),
    "gated halves": (between(lambda x: F.glu(x, 1), 4), 12),
    "the largest of two": (between(lambda x: x.view(len(x), 4, 2, 8, 8).amax(2), 4), 12),
    "the mean over channels": (
        lambda: Net(lambda n, x: n.b(n.a(x)).flatten(2).transpose(1, 2).mean(2)[:, :, None], 64, a=normed(3, 8),
                    b=normed(8, 6)), 8),
    "group norm": (block(lambda: nn.GroupNorm(2, 8)), 12),
    "instance norm": (block(lambda: nn.InstanceNorm2d(8)), 12),
    "a slope for each channel": (block(lambda: nn.PReLU(8)), 12),
    "standardised weights": (block(lambda: Standardised(8, 8, 3, padding=1)), 12),
    "blurred": (block(Blurred), 12),
    "coordinates beside channels": (lambda: Net(coordinates, 12, a=normed(3, 8), b=normed(10, 12)), 8 + 12),
    "copied into zeros": (lambda: Net(copied_into_zeros, 24, a=normed(3, 8), b=normed(8, 16), c=normed(16, 24)), 24),
    "image by image": (lambda: Net(image_by_image, 6, a=normed(3, 8), b=normed(8, 6)), 14),
}  # fmt: skip

# By name: how to make it, the granularity, and what is said of it, in words that must be there.
REFUSED: dict[str, tuple[Callable[[], nn.Module], str, list[str]]] = {
    **odd_networks.REFUSED,
    "checkpointed": (lambda: Net(again, 6, a=normed(3, 8), b=normed(8, 6)), "weight", ["b runs again", "checkpoint"]),
    "scripted": (lambda: Wrapped(scripted), "weight", ["net is compiled", "RecursiveScriptModule"]),
    "compiled": (lambda: Wrapped(torch.compile), "filter", ["net is compiled", "OptimizedModule", "compile=true"]),
    "dropout that is always on": (
        lambda: Net(lambda n, x: F.dropout(n.a(x), 0.5), 8, a=normed(3, 8)), "weight", ["two answers", "training"]),
    "squeezed": (Squeezed, "weight", ["[5] of one image", "squeeze()", "[batch, 5]"]),
    "frozen": (lambda: frozen(True), "weight", ["no parameter", "requires_grad"]),
    "changed in place before the backward pass": (
        lambda: Net(lambda n, x: n.a(x).sigmoid().mul_(2), 8, a=conv(3, 8)), "weight", ["backward", "inplace"]),
    "an encoder and a decoder with one weight": (Tied, "filter", ["filters of a.0", "granularity=weight"]),
    "all channels normed in layers": (
        lambda: Net(lambda n, x: n.norm(n.a(x)), 8, a=conv(3, 8), norm=nn.LayerNorm([8, 8, 8])), "filter",
        ["8 stay, of a: native_layer_norm in norm", "granularity=weight"]),
}  # fmt: skip


def odd(shape: tuple[int, int, int], classes: int, name: str) -> nn.Module:
    """One of them, as a model of a run."""
    assert (shape, classes) == (SHAPE, CLASSES)
    return (TAKEN[name] if name in TAKEN else REFUSED[name])[0]()
