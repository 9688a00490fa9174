"""Which channels live and die together in small networks, one idiom each, and that dead ones are silent."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruner.sparsity.units.channels import Channels
from pruner.sparsity.units.make import Units, make_units

AssertSilent = Callable[[nn.Module, tuple[int, ...], Units, Tensor], None]


class Net(nn.Module):
    """Some layers, and a function (net, images [batch, 3, 8, 8]) -> features; then a mean and a linear layer."""

    def __init__(self, features: Callable[[Any, Tensor], Tensor], **layers: nn.Module):
        super().__init__()
        self.features = features
        for name, layer in layers.items():
            self.add_module(name, layer)
        with torch.no_grad():
            self.fc = nn.Linear(features(self, torch.zeros(2, 3, 8, 8)).shape[1], 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.features(self, images).mean(dim=(2, 3)))


def conv(before: int, after: int, size: int = 3, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, size, padding=size // 2, groups=groups)


def shuffled(net: Any, images: Tensor) -> Tensor:
    hidden = net.a(images)
    batch, channels, *size = hidden.shape
    return hidden + hidden.view(batch, 2, channels // 2, *size).transpose(1, 2).reshape(batch, channels, *size)


def excited(net: Any, images: Tensor) -> Tensor:
    hidden = net.a(images)
    return hidden * net.c(net.b(hidden.mean((2, 3), keepdim=True)).relu()).sigmoid()


def patches(net: Any, images: Tensor) -> Tensor:
    """Four channels are folded into the batch, two by two, by number; those of `b` are only laid side by side."""
    hidden = net.a(images)
    batch, _, *size = hidden.shape
    return net.b(hidden.view(batch * 2, 2, *size)).view(batch, -1, *size)


def widened(images: Tensor, like: Tensor) -> Tensor:
    """Zero channels for those that the images lack beside another tensor."""
    batch, channels, *size = images.shape
    return torch.cat([images, images.new_zeros(batch, like.shape[1] - channels, *size)], 1)


def half_zeros(net: Any, images: Tensor) -> Tensor:
    beside = net.b(images)
    return net.wide(widened(net.a(images), beside)) + beside


SMALL: dict[str, tuple[Callable[[], Net], int]] = {
    "plain": (lambda: Net(lambda n, x: n.b(n.a(x).relu()), a=conv(3, 4), b=conv(4, 6)), 10),
    "residual": (lambda: Net(lambda n, x: n.a(x) + n.b(n.a(x).relu()), a=conv(3, 4), b=conv(4, 4)), 4),
    "depthwise": (lambda: Net(lambda n, x: n.b(n.a(x)), a=conv(3, 4), b=conv(4, 4, groups=4)), 4),
    "depthwise, two each": (lambda: Net(lambda n, x: n.b(n.a(x)), a=conv(3, 4), b=conv(4, 8, groups=4)), 4),
    "grouped": (lambda: Net(lambda n, x: n.b(n.a(x)), a=conv(3, 8), b=conv(8, 12, groups=4)), 2 + 3),
    "concat": (lambda: Net(lambda n, x: torch.cat([n.a(x), n.b(x)], 1), a=conv(3, 4), b=conv(3, 6)), 10),
    "concat and residual": (
        lambda: Net(lambda n, x: torch.cat([n.a(x), n.b(x)], 1) + n.c(x), a=conv(3, 4), b=conv(3, 6), c=conv(3, 10)),
        10,
    ),
    "squeeze and excite": (lambda: Net(excited, a=conv(3, 6), b=conv(6, 2, 1), c=conv(2, 6, 1)), 6 + 2),
    "spatial attention": (lambda: Net(lambda n, x: n.a(x) * n.b(x).sigmoid(), a=conv(3, 4), b=conv(3, 1)), 1),
    "one convolution twice": (lambda: Net(lambda n, x: n.b(n.b(n.a(x))), a=conv(3, 4), b=conv(4, 4)), 4),
    "upsampling": (lambda: Net(lambda n, x: F.interpolate(n.a(x), 16) + n.b(F.interpolate(x, 16)),
                               a=conv(3, 4), b=conv(3, 4)), 4),
    "flattened": (lambda: Net(lambda n, x: n.b(n.a(x).flatten(1))[:, :, None, None], a=conv(3, 4),
                              b=nn.Linear(256, 7)), 4),
    "zero border": (lambda: Net(lambda n, x: n.b(F.pad(n.a(x), (1, 1, 1, 1))), a=conv(3, 4), b=conv(4, 6)), 10),
    "zero border and residual": (
        lambda: Net(lambda n, x: F.max_pool2d(F.pad(n.a(x), (1, 1, 1, 1)), 3, 1) + n.b(x), a=conv(3, 4), b=conv(3, 4)),
        4,
    ),
    "zero channels": (lambda: Net(half_zeros, a=conv(3, 4), b=conv(3, 6), wide=nn.Identity()), 6),
    # What normalisation or a bias makes of constant zeros is no longer zero.
    "zero channels, normalised": (lambda: Net(half_zeros, a=conv(3, 4), b=conv(3, 6), wide=nn.BatchNorm2d(6)), 4),
    "zero channels, depthwise": (lambda: Net(half_zeros, a=conv(3, 4), b=conv(3, 6), wide=conv(6, 6, groups=6)), 4),
    # Channels of `a` that are told apart by their numbers could not be taken out, so that only `b` has units.
    "halves added": (lambda: Net(lambda n, x: n.b(n.a(x)[:, :3] + n.a(x)[:, 3:]), a=conv(3, 6), b=conv(3, 4)), 4),
    "halves taken": (lambda: Net(lambda n, x: n.b(sum(n.a(x).chunk(2, 1))), a=conv(3, 6), b=conv(3, 4)), 4),
    "one of them": (lambda: Net(lambda n, x: n.b(n.a(x)[:, 2].unsqueeze(1)), a=conv(3, 6), b=conv(1, 4)), 4),
    "rolled": (lambda: Net(lambda n, x: n.b(n.a(x).roll(1, 1)), a=conv(3, 6), b=conv(6, 4)), 4),
    "shuffle and residual": (lambda: Net(lambda n, x: n.b(shuffled(n, x)), a=conv(3, 6), b=conv(6, 4)), 4),
    "two zero channels": (
        lambda: Net(lambda n, x: n.b(F.pad(n.a(x), (0, 0, 0, 0, 0, 2))), a=conv(3, 4), b=conv(6, 5)),
        5,
    ),
    "a weight each": (
        lambda: Net(lambda n, x: n.b(n.a(x) * torch.ones(4, 1, 1)), a=conv(3, 4), b=conv(4, 6)),
        6,
    ),
    "flipped": (lambda: Net(lambda n, x: n.b(n.a(x).flip(1)), a=conv(3, 4), b=conv(4, 6)), 4 + 6),
    "one weight for all": (lambda: Net(lambda n, x: n.b(n.a(x) * torch.ones(1)), a=conv(3, 4), b=conv(4, 6)), 4 + 6),
    "patches as a batch": (lambda: Net(patches, a=conv(3, 4), b=conv(2, 6)), 6),
    # A dead channel of `a` would still be heard after these, so that only `b` has units.
    "softmax": (lambda: Net(lambda n, x: n.b(n.a(x).softmax(1)), a=conv(3, 4), b=conv(4, 6)), 6),
    "layer norm": (lambda: Net(lambda n, x: n.b(n.norm(n.a(x))), a=conv(3, 4), b=conv(4, 6),
                               norm=nn.LayerNorm([4, 8, 8])), 6),
    "group norm": (lambda: Net(lambda n, x: n.b(n.norm(n.a(x))), a=conv(3, 4), b=conv(4, 6),
                               norm=nn.GroupNorm(2, 4)), 6),
    "constant": (lambda: Net(lambda n, x: n.b(n.a(x) + 1), a=conv(3, 4), b=conv(4, 6)), 6),
    "exponential": (lambda: Net(lambda n, x: n.b(n.a(x).exp()), a=conv(3, 4), b=conv(4, 6)), 6),
    "sigmoid": (lambda: Net(lambda n, x: n.b(n.a(x).sigmoid()), a=conv(3, 4), b=conv(4, 6)), 6),
    "norm without gamma and beta": (
        lambda: Net(lambda n, x: n.b(n.norm(n.a(x))), a=conv(3, 4), b=conv(4, 6), norm=nn.BatchNorm2d(4, affine=False)),
        6,
    ),
    "transposed convolution": (
        lambda: Net(lambda n, x: n.b(n.up(n.a(x))), a=conv(3, 4), b=conv(5, 6), up=nn.ConvTranspose2d(4, 5, 2, 2)),
        4 + 5 + 6,
    ),
    "transposed, normalised": (
        lambda: Net(lambda n, x: n.b(n.norm(n.up(n.a(x))).relu()), a=conv(3, 4), b=conv(5, 6), norm=nn.BatchNorm2d(5),
                    up=nn.ConvTranspose2d(4, 5, 3, 2, 1, output_padding=1, bias=False)),
        4 + 5 + 6,
    ),
    "transposed and residual": (
        lambda: Net(lambda n, x: n.up(n.a(x)) + n.b(n.a(x)), a=conv(3, 4), b=conv(4, 5),
                    up=nn.ConvTranspose2d(4, 5, 3, padding=1)),
        4 + 5,
    ),
    "transposed, depthwise": (
        lambda: Net(lambda n, x: n.b(n.up(n.a(x))), a=conv(3, 4), b=conv(4, 6),
                    up=nn.ConvTranspose2d(4, 4, 2, 2, groups=4)),
        4 + 6,
    ),
    "transposed, depthwise, two each": (
        lambda: Net(lambda n, x: n.b(n.up(n.a(x))), a=conv(3, 4), b=conv(8, 6),
                    up=nn.ConvTranspose2d(4, 8, 2, 2, groups=4)),
        4 + 6,
    ),
    "transposed, grouped": (
        lambda: Net(lambda n, x: n.b(n.up(n.a(x))), a=conv(3, 8), b=conv(12, 5),
                    up=nn.ConvTranspose2d(8, 12, 3, groups=4)),
        2 + 3 + 5,
    ),
    # The gate of the batch norm silences the constant 1/2 of a dead channel.
    "sigmoid, normalised": (
        lambda: Net(lambda n, x: n.b(n.norm(n.a(x).sigmoid())), a=conv(3, 4), b=conv(4, 6), norm=nn.BatchNorm2d(4)),
        10,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SMALL)
def test_ties_and_silence_in_small_networks(case: str, assert_silent: AssertSilent) -> None:
    make, count = SMALL[case]
    model = make()
    units = make_units(model, (3, 8, 8), "filter")
    assert units.n == count
    for alone in torch.eye(count):
        assert_silent(model, (3, 8, 8), units, 1 - alone)


def test_tied_channels_share_their_unit_one_by_one() -> None:
    model = SMALL["concat and residual"][0]()
    channels = Channels(model, (3, 8, 8))
    assert channels.outs["a"].tolist() + channels.outs["b"].tolist() == channels.outs["c"].tolist() == list(range(10))
    assert channels.ins["a"].tolist() == [-1] * 3 and channels.ins["fc"].tolist() == list(range(10))
    assert channels.outs["fc"].tolist() == [-1] * 5


def test_convolutions_that_share_a_weight_live_and_die_together() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.first, self.second = (nn.Conv2d(before, 4, 1) for before in (2, 4, 4))
            self.second.weight = self.first.weight
            self.head = nn.Conv2d(4, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.second(self.first(self.stem(x).relu()).relu()).relu()).mean((2, 3))

    model = Twice()
    units = make_units(model, (2, 4, 4), "filter")
    # What the first gives, the second takes: the stem's channels and both others' are one.
    assert [(group.name, group.size) for group in units.groups] == [("stem", 4)]
    mask = torch.tensor([1.0, 0, 1, 0])
    assert units.zeros(mask)["first.weight"].sum() == 4
