"""A small vision transformer (Dosovitskiy et al. 2020, arXiv:2010.11929), as torchvision builds them."""

from __future__ import annotations

import math

from torch import nn
from torchvision.models import VisionTransformer

from pruner.checks import require

MOST_POSITIONS = 2**28  # numbers of what tells the tokens apart: a gigabyte


def vit(
    shape: tuple[int, int, int],
    classes: int,
    patch: int = 4,
    dim: int = 128,
    depth: int = 6,
    heads: int = 4,
    mlp: int = 256,
) -> VisionTransformer:
    """A vision transformer for small square images: [batch, *shape] -> logits [batch, classes].

    Images are cut into squares of `patch` x `patch` pixels, each a token of `dim` channels; `depth` blocks have
    attention of `heads` heads, and a perceptron of `mlp` hidden channels. With the defaults, 0.81M parameters and
    58.0M multiply-adds on CIFAR-10. There is no dropout.

    Raises ConfigError for images that are not square or not made of whole patches, and for sizes that do not fit.
    """
    channels, height, width = shape
    for name, value in {"patch": patch, "dim": dim, "depth": depth, "heads": heads, "mlp": mlp}.items():
        require(type(value) is int and value >= 1, f"model.{name}", value, "a whole number, 1 or more")
    require(height == width, "model", "vit", f"takes square images; these are {height}x{width}")
    require(height % patch == 0, "model.patch", patch, f"must divide the side of the images, {height}")
    require(dim % heads == 0, "model.heads", heads, f"must divide model.dim={dim}")
    tokens = (height // patch) ** 2
    require(tokens * dim <= MOST_POSITIONS, "model.patch", patch, f"gives {tokens} tokens, too many of model.dim={dim}")
    model = VisionTransformer(height, patch, depth, heads, dim, mlp, num_classes=classes)
    if channels != 3:  # torchvision's takes no other number; initialised as there
        model.conv_proj = nn.Conv2d(channels, dim, patch, patch)
        nn.init.trunc_normal_(model.conv_proj.weight, std=math.sqrt(1 / (channels * patch**2)))
        nn.init.zeros_(model.conv_proj.bias)
    return model
