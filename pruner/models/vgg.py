"""VGG-16 and VGG-19 (Simonyan and Zisserman 2014) for 32x32 images: batch norm, and one linear layer at the end."""

from __future__ import annotations

from torch import Tensor, nn

from pruner.checks import require

CHANNELS = (64, 128, 256, 512, 512)  # of the five stages; each ends with a pooling by 2
CONVOLUTIONS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class VGG(nn.Module):
    """VGG with `depth` 16 or 19. Images [batch, *shape], 32x32 or larger -> logits [batch, classes].

    `width` multiplies all channel counts (rounded, at least 1). The convolutions have no bias, which the batch
    norm after them would undo. Raises ConfigError for smaller images and for a width that is not above 0.
    """

    def __init__(self, depth: int, shape: tuple[int, int, int], classes: int, width: float = 1.0) -> None:
        super().__init__()
        before, *size = shape
        allowed = f"takes images of 32x32 or larger; these are {size[0]}x{size[1]}"
        require(min(size) >= 32, "model", f"vgg{depth}", allowed)
        number = isinstance(width, int | float) and not isinstance(width, bool)
        require(number and 0 < width < float("inf"), "model.width", width, "a number above 0")
        layers: list[nn.Module] = []
        for channels, convolutions in zip(CHANNELS, CONVOLUTIONS[depth], strict=True):
            after = max(1, round(channels * width))
            for _ in range(convolutions):
                layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
                before = after
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(before, classes)
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images).mean(dim=(2, 3)))
        return logits


def vgg16(shape: tuple[int, int, int], classes: int, width: float = 1.0) -> VGG:
    """VGG-16: 14.7M parameters and 313.2M multiply-adds on CIFAR-10. Arguments as in `VGG`."""
    return VGG(16, shape, classes, width)


def vgg19(shape: tuple[int, int, int], classes: int, width: float = 1.0) -> VGG:
    """VGG-19: 20.0M parameters and 398.1M multiply-adds on CIFAR-10. Arguments as in `VGG`."""
    return VGG(19, shape, classes, width)
