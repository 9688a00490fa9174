"""ResNets for small images: those of He et al. 2015 (arXiv:1512.03385, section 4.2), three stages of 16, 32 and 64
channels, and the ResNet-18 of 64 to 512 channels with a 3x3 first convolution that papers run on CIFAR.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pruner.checks import one_of, require


class Subsample(nn.Module):
    """He's option A, a shortcut without parameters: every second pixel, and zeros for the channels that it lacks.

    [batch, channels, height, width] -> [batch, like.shape[1], ceil(height/2), ceil(width/2)]. The zeros come last, so
    that a channel keeps its number through all blocks; how many is seen when it runs, so that it still fits when
    channels were taken out.
    """

    def forward(self, images: Tensor, like: Tensor) -> Tensor:
        half = images[:, :, ::2, ::2]
        batch, channels, height, width = half.shape
        return torch.cat([half, half.new_zeros(batch, like.shape[1] - channels, height, width)], dim=1)


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm, added to the shortcut; the second ReLU comes after the sum."""

    def __init__(self, before: int, after: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1:
            self.shortcut = Subsample() if shortcut == "pad" else _projection(before, after, stride)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.bn1(self.conv1(images)).relu()
        hidden = self.bn2(self.conv2(hidden))
        inputs = (images, hidden) if isinstance(self.shortcut, Subsample) else (images,)
        total: Tensor = hidden + self.shortcut(*inputs)
        return total.relu()


def _projection(before: int, after: int, stride: int) -> nn.Sequential:
    """He's option B: a 1x1 convolution with batch norm."""
    return nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))


class ResNet(nn.Module):
    """A ResNet of 2 * sum(`blocks`) + 2 layers. Images [batch, *shape] of any size -> logits [batch, classes].

    `blocks` is the number of blocks in each stage. `shortcut` is how a stage begins, `conv` (1x1 convolution and
    batch norm) or `pad` (no parameters); `width` is the number of channels in the first stage, and each stage after
    it has twice as many. Raises ConfigError for other values.
    """

    def __init__(
        self, blocks: Sequence[int], shape: tuple[int, int, int], classes: int, shortcut: str = "conv", width: int = 16
    ) -> None:
        super().__init__()
        one_of("model.shortcut", shortcut, ("conv", "pad"))
        require(type(width) is int and width >= 1, "model.width", width, "a whole number, 1 or more")
        self.conv1 = nn.Conv2d(shape[0], width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.stages = [f"layer{number}" for number in range(1, len(blocks) + 1)]
        before = after = width
        for stage, count in zip(self.stages, blocks, strict=True):
            self.add_module(stage, _stage(count, before, after, after // before, shortcut))
            before, after = after, 2 * after
        self.fc = nn.Linear(before, classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        features = self.bn1(self.conv1(images)).relu()
        for stage in self.stages:
            features = self.get_submodule(stage)(features)
        logits: Tensor = self.fc(features.mean(dim=(2, 3)))
        return logits


def _stage(blocks: int, before: int, after: int, stride: int, shortcut: str) -> nn.Sequential:
    first = Block(before, after, stride, shortcut)
    return nn.Sequential(first, *(Block(after, after, 1, shortcut) for _ in range(blocks - 1)))


def resnet20(shape: tuple[int, int, int], classes: int, shortcut: str = "conv", width: int = 16) -> ResNet:
    """ResNet-20: 0.27M parameters and 40.8M multiply-adds on CIFAR-10. Arguments as in `ResNet`."""
    return ResNet((3, 3, 3), shape, classes, shortcut, width)


def resnet32(shape: tuple[int, int, int], classes: int, shortcut: str = "conv", width: int = 16) -> ResNet:
    """ResNet-32: 0.47M parameters and 69.1M multiply-adds on CIFAR-10. Arguments as in `ResNet`."""
    return ResNet((5, 5, 5), shape, classes, shortcut, width)


def resnet56(shape: tuple[int, int, int], classes: int, shortcut: str = "conv", width: int = 16) -> ResNet:
    """ResNet-56: 0.86M parameters and 125.7M multiply-adds on CIFAR-10. Arguments as in `ResNet`."""
    return ResNet((9, 9, 9), shape, classes, shortcut, width)


def resnet110(shape: tuple[int, int, int], classes: int, shortcut: str = "conv", width: int = 16) -> ResNet:
    """ResNet-110: 1.73M parameters and 253.1M multiply-adds on CIFAR-10. Arguments as in `ResNet`."""
    return ResNet((18, 18, 18), shape, classes, shortcut, width)


def resnet18_cifar(shape: tuple[int, int, int], classes: int, shortcut: str = "conv", width: int = 64) -> ResNet:
    """ResNet-18 without ImageNet's stem: 11.17M parameters and 555.4M multiply-adds on CIFAR-10; see `ResNet`."""
    return ResNet((2, 2, 2, 2), shape, classes, shortcut, width)
