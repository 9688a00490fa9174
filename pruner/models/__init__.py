"""The networks that can be pruned. Importing this package does not import torch; building a model does.

A model is any callable `factory(shape=(channels, height, width), classes=N, **options)` that returns an
`nn.Module` from images [batch, channels, height, width] to logits [batch, classes]; `options` are the other
keys of its YAML file, but for `expected_accuracy`, which is of weights in a file and checked where they are measured.
A user's own model is named `package.module:Class`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pruner.checks import require
from pruner.config import Choice
from pruner.models.names import check_arch, torchvision_names
from pruner.options import bind, resolve

if TYPE_CHECKING:
    from torch import nn

__all__ = ["BUILTIN", "WITHOUT_FILTERS", "build", "check_arch", "torchvision_names"]

BUILTIN = {
    "lenet_300_100": "pruner.models.lenet:LeNet300",
    "lenet5": "pruner.models.lenet:LeNet5",
    "resnet18_cifar": "pruner.models.resnet:resnet18_cifar",
    "resnet20": "pruner.models.resnet:resnet20",
    "resnet32": "pruner.models.resnet:resnet32",
    "resnet56": "pruner.models.resnet:resnet56",
    "resnet110": "pruner.models.resnet:resnet110",
    "vgg16": "pruner.models.vgg:vgg16",
    "vgg19": "pruner.models.vgg:vgg19",
    "torchvision": "pruner.models.torchvision:torchvision_model",
    "vit": "pruner.models.vit:vit",
}

# Those that may start from trained weights, as they are without these.
UNTRAINED = {"torchvision": "pruner.models.torchvision:untrained_model"}

# No convolution, so nothing to prune at granularity=filter.
WITHOUT_FILTERS = frozenset({"lenet_300_100"})


def build(choice: Choice, shape: tuple[int, int, int], classes: int, trained: bool = True) -> nn.Module:
    """The network `choice` for images of `shape` (channels, height, width), ready to be trained.

    Without `trained` no weights are downloaded or read that its options name: for whoever has all tensors already.

    Raises ConfigError for an unknown name, unknown, missing or wrong options, and images that it cannot take.
    """
    from torch import nn  # here, so that help and wrong input are answered without it

    factory = resolve("model", choice.name, BUILTIN if trained else BUILTIN | UNTRAINED)
    options = {key: value for key, value in choice.options.items() if key != "expected_accuracy"}
    options = bind("model", choice.label, factory, options, ("shape", "classes"))
    model: nn.Module = factory(shape=tuple(shape), classes=classes, **options)
    require(isinstance(model, nn.Module), "model", choice.name, f"gives a {type(model).__name__}, not an nn.Module")
    return model
