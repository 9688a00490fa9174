"""The small vision transformer: its size by hand, any channels, and the images and options that it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from pruner.checks import ConfigError
from pruner.config import Choice
from pruner.models import build
from pruner.sparsity.units.layers import count_macs

TINY = {"patch": 4, "dim": 8, "depth": 2, "heads": 2, "mlp": 12}


def vit(shape: tuple[int, int, int], **options: Any) -> Any:
    return build(Choice("vit", "vit", options), shape, 10)


def size(shape: tuple[int, int, int], patch: int, dim: int, depth: int, mlp: int) -> tuple[int, int]:
    """(parameters, multiply-adds) for 10 classes."""
    channels, side, _ = shape
    pixels, patches = channels * patch**2, (side // patch) ** 2
    tokens = patches + 1  # and the class token
    block_weights = 4 * dim**2 + 2 * dim * mlp
    block = block_weights + 4 * dim + mlp + dim + 4 * dim  # biases of attention and perceptron, two norms
    embedding = pixels * dim + dim + dim + tokens * dim  # patches, class token, positions
    macs = patches * pixels * dim + depth * (tokens * block_weights + 2 * tokens**2 * dim) + 10 * dim
    return embedding + depth * block + 2 * dim + 10 * dim + 10, macs


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (1, 8, 8)])
def test_size_is_that_derived_by_hand(shape: tuple[int, int, int]) -> None:
    with torch.device("meta"):
        model = vit(shape)
        found = sum(p.numel() for p in model.parameters()), count_macs(model, shape)
    assert found == size(shape, 4, 128, 6, 256)
    if shape == (3, 32, 32):
        assert found == (811_146, 58_002_176)  # as the config says


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_any_number_of_channels(channels: int) -> None:
    torch.manual_seed(0)
    model = vit((channels, 8, 8), **{**TINY, "dim": 256})
    assert model(torch.randn(3, channels, 8, 8)).shape == (3, 10)
    weight, bias = model.conv_proj.weight, model.conv_proj.bias
    assert weight.shape == (256, channels, 4, 4) and not bias.any()
    # A normal distribution of variance 1 / fan-in: the standard error of its deviation is that over sqrt(2 n).
    expected = math.sqrt(1 / (16 * channels))
    assert abs(float(weight.detach().std()) - expected) < 4 * expected / math.sqrt(2 * weight.numel())


def test_it_learns() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = vit((1, 8, 8), **TINY)
    images, labels = torch.randn(10, 1, 8, 8), torch.arange(10)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(120):
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(10))  # the head starts at zero
    assert losses[-1] < 0.1


@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        ((3, 32, 28), {}, "model=vit: takes square images; these are 32x28"),
        ((3, 30, 30), {}, "model.patch=4: must divide the side of the images, 30"),
        ((3, 32, 32), {"patch": 5}, "model.patch=5: must divide the side of the images, 32"),
        ((3, 32, 32), {"patch": 64}, "model.patch=64: must divide"),
        ((3, 32, 32), {"patch": 0}, "model.patch=0: a whole number, 1 or more"),
        ((3, 32, 32), {"depth": 0}, "model.depth=0: a whole number, 1 or more"),
        ((3, 32, 32), {"heads": 3}, "model.heads=3: must divide model.dim=128"),
        ((3, 32, 32), {"mlp": 2.5}, "model.mlp=2.5: expected a whole number"),
        ((3, 32, 32), {"width": 2}, "model.width=2: no such key; vit takes patch, dim, depth, heads, mlp"),
    ],
)
def test_wrong_input_gives_one_line(shape: tuple[int, int, int], options: dict[str, Any], words: str) -> None:
    with torch.device("meta"), pytest.raises(ConfigError, match=words) as error:
        vit(shape, **options)
    assert "\n" not in str(error.value)
