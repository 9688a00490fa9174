"""Networks as people write them, one oddity each, for images [batch, 3, 8, 8] and 5 classes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

SHAPE, CLASSES = (3, 8, 8), 5


class Net(nn.Module):
    """Some layers, and a function (net, images) -> features [batch, channels, ...]; then a mean and a linear layer."""

    def __init__(self, features: Callable[[Any, Tensor], Tensor], last: int, **layers: nn.Module):
        super().__init__()
        self.features = features
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.fc = nn.Linear(last, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.features(self, images).flatten(2).mean(2))


def conv(ins: int, outs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(ins, outs, 3, stride, 1)


def normed(ins: int, outs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(ins, outs, 3, stride, 1, bias=False), nn.BatchNorm2d(outs), nn.ReLU())


class TwoNames(nn.Module):
    """A convolution that has a name of its own and is in a Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(3, 8)
        self.body = nn.Sequential(self.conv, nn.BatchNorm2d(8), nn.ReLU(), conv(8, 6))
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).mean((2, 3)))


class TwoBlocks(nn.Module):
    """A block that has two names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.fc = normed(3, 6), normed(6, 6), nn.Linear(6, CLASSES)
        self.blocks = nn.ModuleList([self.block, normed(6, 6)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.fc(x.mean((2, 3)))


class SharedWeight(nn.Module):
    """Two convolutions with one weight, in a list and under names of their own."""

    def __init__(self, bias: bool = False):
        super().__init__()
        self.stem, self.fc = normed(3, 6), nn.Linear(6, CLASSES)
        self.a, self.b = (nn.Conv2d(6, 6, 3, padding=1, bias=bias) for _ in range(2))
        self.b.weight = self.a.weight
        self.both = nn.ModuleList([self.a, self.b])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.both:
            x = layer(x).relu()
        return self.fc(x.mean((2, 3)))


class Scaled(nn.Conv2d):
    """A convolution with a parameter for each channel of its own."""

    def __init__(self, ins: int, outs: int):
        super().__init__(ins, outs, 3, padding=1)
        self.scale = nn.Parameter(torch.rand(outs, 1, 1) + 0.5)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * self.scale


def pad_shortcut(before: int, after: int) -> Callable[[Any, Tensor], Tensor]:
    """The usual shortcut of CIFAR's ResNets: every second pixel, and channels of zeros on both sides, or one."""

    def features(net: Any, images: Tensor) -> Tensor:
        x = net.a(images)
        y = net.norm(net.c(net.b(x)))
        return (F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, before, after), "constant", 0) + y).relu()

    return features


def padded(before: int, after: int) -> Net:
    parts = {"a": normed(3, 8), "b": normed(8, 16, 2), "c": conv(16, 16), "norm": nn.BatchNorm2d(16)}
    return Net(pad_shortcut(before, after), 16, **parts)


def zeros_of_a_number(net: Any, images: Tensor) -> Tensor:
    x = net.a(images)
    return net.b(x.new_zeros(len(x), 16, *x.shape[2:]) + x)


class Flattened(nn.Module):
    """What is flattened by a function, with a number in it or without; then a linear layer."""

    def __init__(self, flatten: Callable[[Tensor], Tensor]):
        super().__init__()
        self.flatten = flatten
        self.a, self.b, self.fc = normed(3, 8, 2), normed(8, 16, 2), nn.Linear(16 * 2 * 2, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.flatten(self.b(self.a(x))))


class OneDimensional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.pool, self.b = (
            nn.Conv1d(3, 8, 3),
            nn.BatchNorm1d(8),
            nn.MaxPool1d(2),
            nn.Conv1d(8, 6, 3),
        )
        self.mean, self.fc = nn.AdaptiveAvgPool1d(1), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.mean(self.b(self.pool(self.norm(self.a(x.flatten(2))).relu()))).flatten(1))


class ThreeDimensional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv3d(1, 8, 3, padding=1), nn.BatchNorm3d(8), nn.Conv3d(8, 6, 3, padding=1)
        self.pool, self.mean, self.fc = nn.MaxPool3d((1, 2, 2)), nn.AdaptiveAvgPool3d(1), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.mean(self.b(self.pool(self.norm(self.a(x.unsqueeze(1))).relu()))).flatten(1))


class Decoder(nn.Module):
    """Downsampled, and upsampled again by a transposed convolution, with a norm behind it or with a bias alone."""

    def __init__(self, normalised: bool):
        super().__init__()
        self.down = normed(3, 8, 2)
        self.up = nn.ConvTranspose2d(8, 6, 3, 2, 1, output_padding=1, bias=not normalised)
        self.norm = nn.BatchNorm2d(6) if normalised else nn.Identity()
        self.last, self.fc = conv(6, 4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.last(self.norm(self.up(self.down(x))).relu()).mean((2, 3)))


class OneDimensionalDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.up = nn.Conv1d(3, 8, 3, 2), nn.BatchNorm1d(8), nn.ConvTranspose1d(8, 6, 4, stride=2)
        self.b, self.fc = nn.Conv1d(6, 4, 3), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.b(self.up(self.norm(self.a(x.flatten(2))).relu()).relu()).mean(2))


class TiedDecoder(nn.Module):
    """What a convolution maps, a transposed one maps back by the same weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.there, self.fc = normed(3, 6), conv(6, 8), nn.Linear(6, CLASSES)
        self.back = nn.ConvTranspose2d(8, 6, 3, padding=1)
        self.back.weight = self.there.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.back(self.there(self.stem(x)).relu()).mean((2, 3)))


class ByKeyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.fc = conv(3, 8), nn.BatchNorm2d(8), conv(8, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(input=self.b(input=self.norm(input=self.a(input=x)).relu()).mean((2, 3)))


class Recurrent(nn.Module):
    """Nearly all of its parameters are an LSTM's."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.fc = nn.LSTM(24, 40, batch_first=True), nn.Linear(40, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.rows(x.permute(0, 2, 1, 3).flatten(2))[0].mean(1))


class Answers(TwoNames):
    """A network whose answer is not a tensor of logits."""

    def __init__(self, answer: Callable[[Any, Tensor], Any]):
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> Any:
        return self.answer(self, super().forward(x))


class CrossAttention(nn.Module):
    """Its one attention asks other tokens than it is."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.queries = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.randn(2, 8))
        self.attention, self.fc = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        return self.fc(self.attention(self.queries.expand(len(x), 2, 8), tokens, tokens, need_weights=False)[0].mean(1))


class NormsAlone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x).flatten(1)[:, :CLASSES]


def computed(how: Callable[[nn.Module], Any]) -> nn.Module:
    net = TwoNames()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old weight_norm says that it is old
        how(net.conv)
    return net


# By name: how to make it, and how many filters can go.
TAKEN: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "a convolution with two names": (TwoNames, 8 + 6),
    "a block with two names": (TwoBlocks, 6),
    "a weight that two share": (SharedWeight, 6),
    "a parameter for each channel": (lambda: Net(lambda n, x: n.b(n.a(x).relu()), 6, a=Scaled(3, 8), b=conv(8, 6)), 6),
    "zero channels on both sides": (lambda: padded(4, 4), 16),
    "zero channels at the end": (lambda: padded(0, 8), 16),
    "zeros of a number of channels": (lambda: Net(zeros_of_a_number, 16, a=normed(3, 16), b=normed(16, 16)), 16),
    "reshape to a number": (lambda: Flattened(lambda x: x.reshape(-1, 64)), 8),
    "view to a number": (lambda: Flattened(lambda x: x.contiguous().view(len(x), 16, 4).flatten(1)), 8),
    "unflattened by a number": (lambda: Flattened(lambda x: x.unflatten(1, (16, 1)).flatten(1)), 8),
    "view that channels_last does not allow": (lambda: Flattened(lambda x: x.view(len(x), -1)), 24),
    "flattened": (lambda: Flattened(lambda x: x.flatten(1)), 24),
    "a functional call": (lambda: Net(lambda n, x: n.c(F.conv2d(n.a(x).relu(), n.b.weight, n.b.bias, padding=1)), 6,
                                      a=conv(3, 8), b=conv(8, 8), c=conv(8, 6)), 22),
    "calls by keyword": (ByKeyword, 14),
    "one dimension": (OneDimensional, 14),
    "three dimensions": (ThreeDimensional, 14),
    "a decoder": (lambda: Decoder(normalised=True), 8 + 6 + 4),
    "a decoder without norms": (lambda: Decoder(normalised=False), 8 + 6 + 4),
    "a decoder of one dimension": (OneDimensionalDecoder, 8 + 6 + 4),
    "upsampling channel by channel": (lambda: Net(lambda n, x: n.b(n.up(n.a(x))), 6, a=normed(3, 8), b=conv(8, 6),
                                                  up=nn.ConvTranspose2d(8, 8, 4, 2, 1, groups=8, bias=False)), 14),
    "circular padding": (lambda: Net(lambda n, x: n.b(n.a(x).relu()), 6, a=conv(3, 8),
                                     b=nn.Conv2d(8, 6, 3, padding=1, padding_mode="circular")), 14),
    "reflected padding": (lambda: Net(lambda n, x: n.b(n.a(x).relu()), 6, a=conv(3, 8),
                                      b=nn.Conv2d(8, 6, 3, padding=1, padding_mode="reflect")), 14),
    "mean and maximum over space": (lambda: Net(lambda n, x: n.b(n.a(x)).amax((2, 3), keepdim=True), 6,
                                                a=normed(3, 8), b=normed(8, 6)), 14),
    "pooled to one pixel": (lambda: Net(lambda n, x: n.b(F.adaptive_avg_pool2d(n.a(x), 1)), 6, a=normed(3, 8),
                                        b=nn.Conv2d(8, 6, 1)), 14),
}  # fmt: skip

# By name: how to make it, the granularity, and what is said of it, in words that must be there.
REFUSED: dict[str, tuple[Callable[[], nn.Module], str, list[str]]] = {
    "weight_norm": (lambda: computed(nn.utils.parametrizations.weight_norm), "weight", ["conv.weight", "weight_norm"]),
    "the old weight_norm": (lambda: computed(nn.utils.weight_norm), "filter", ["conv.weight", "remove_weight_norm"]),
    "spectral_norm": (lambda: computed(nn.utils.parametrizations.spectral_norm), "filter", ["conv.weight", "computed"]),
    "pruned by torch": (
        lambda: computed(lambda m: prune.l1_unstructured(m, "weight", 0.5)), "weight", ["prune.remove"]),
    "parameters in float64": (lambda: TwoNames().double(), "weight", ["conv.weight", "float64", "float32"]),
    "parameters in bfloat16": (lambda: TwoNames().bfloat16(), "filter", ["conv.weight", "bfloat16", "float32"]),
    "a weight that two share, with a bias each": (lambda: SharedWeight(bias=True), "filter", ["filters of stem.0"]),
    "a weight used both ways": (TiedDecoder, "filter", ["filters of stem.0"]),
    "a tuple": (lambda: Answers(lambda n, y: (y, y)), "weight", ["tuple", "logits"]),
    "a dictionary": (lambda: Answers(lambda n, y: {"logits": y}), "weight", ["dict", "logits"]),
    "a tuple in training": (lambda: Answers(lambda n, y: (y, y) if n.training else y), "weight", ["in training"]),
    "another number of logits": (lambda: Answers(lambda n, y: y[:, :3]), "weight", ["[batch, 3]", "[batch, 5]"]),
    "one number": (lambda: Answers(lambda n, y: y.mean()), "weight", ["[batch, 5]"]),
    "a lazy layer": (lambda: Net(lambda n, x: n.a(x), 4, a=nn.LazyConv2d(4, 3)), "weight", ["a is a LazyConv2d"]),
    "nothing to prune": (NormsAlone, "weight", ["no convolution and no linear layer"]),
    "another size of images": (lambda: Flattened(lambda x: x.flatten(1)[:, :60]), "weight", ["fc", "8x8"]),
    "attention to other tokens": (CrossAttention, "head", ["attention", "other tokens"]),
    "a functional call without the bias": (
        lambda: Net(lambda n, x: n.b(F.conv2d(x, n.a.weight, padding=1).relu()), 6, a=conv(3, 8), b=conv(8, 6)),
        "filter", ["filters of a", "parameters"]),
}  # fmt: skip


def odd(shape: tuple[int, int, int], classes: int, name: str) -> nn.Module:
    """One of them, as a model of a run."""
    assert (shape, classes) == (SHAPE, CLASSES)
    return (TAKEN[name] if name in TAKEN else REFUSED[name])[0]()
