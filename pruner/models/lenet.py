"""The two networks of LeCun et al. 1998 that pruning papers use on digits, with ReLU."""

from __future__ import annotations

import math

from torch import Tensor, nn

from pruner.checks import require


class LeNet300(nn.Module):
    """LeNet-300-100, a multilayer perceptron: 266,610 parameters for 10 classes of 1x28x28 images.

    Images [batch, *shape] of any size -> logits [batch, classes].
    """

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(math.prod(shape), 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, classes)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.fc1(images.flatten(1)).relu()
        logits: Tensor = self.fc3(self.fc2(hidden).relu())
        return logits


class LeNet5(nn.Module):
    """LeNet-5 as Caffe has it (20 and 50 filters, 500 hidden): 431,080 parameters for 10 classes of 1x28x28.

    Images [batch, *shape], 16x16 or larger -> logits [batch, classes]. Raises ConfigError for smaller images.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        allowed = f"takes images of 16x16 or larger; these are {height}x{width}"
        require(min(height, width) >= 16, "model", "lenet5", allowed)
        self.conv1 = nn.Conv2d(channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(50 * _after(height) * _after(width), 500)
        self.fc2 = nn.Linear(500, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.pool(self.conv1(images).relu())
        features = self.pool(self.conv2(features).relu())
        logits: Tensor = self.fc2(self.fc1(features.flatten(1)).relu())
        return logits


def _after(size: int) -> int:
    """One side of the feature map after twice a 5x5 convolution without padding and a pooling by 2."""
    return ((size - 4) // 2 - 4) // 2
