"""Dead channels of real networks are silent, so that they can be removed; the units are as many as can be."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruner.checks import ConfigError
from pruner.config import Choice
from pruner.models import build
from pruner.sparsity.units.channels import Channels
from pruner.sparsity.units.filters import FilterUnits
from pruner.sparsity.units.layers import find_layers
from pruner.sparsity.units.make import Units, make_units

AssertSilent = Callable[[nn.Module, tuple[int, ...], Units, Tensor], None]


def random_mask(units: Units, keep: float) -> Tensor:
    return (torch.rand(units.n, generator=torch.Generator().manual_seed(1)) < keep).float()


# name, options, side of the images, units; torchvision's networks are in `test_zoo`.
NETWORKS: list[tuple[str, dict[str, Any], int, int]] = [
    ("resnet20", {"shortcut": "conv"}, 32, (16 + 32 + 64) * 4),
    ("resnet20", {"shortcut": "pad"}, 32, (16 + 32 + 64) * 3 + 64),  # one stream, whose channels keep their numbers
    ("vgg16", {"width": 0.25}, 32, 2 * 16 + 2 * 32 + 3 * 64 + 6 * 128),
    ("lenet5", {}, 28, 20 + 50),
]


@pytest.mark.parametrize(("name", "options", "side", "count"), NETWORKS)
def test_dead_channels_of_real_networks_are_silent(
    name: str, options: dict[str, Any], side: int, count: int, assert_silent: AssertSilent
) -> None:
    shape = (1 if name == "lenet5" else 3, side, side)
    model = build(Choice(name, name, options), shape, 10)
    units = make_units(model, shape, "filter")
    assert units.n == count
    assert_silent(model, shape, units, random_mask(units, 0.8))


def test_groups_of_resnet20_are_three_streams_and_nine_inner_layers() -> None:
    model = build(Choice("resnet20", "resnet20"), (3, 32, 32), 10)
    units = make_units(model, (3, 32, 32), "filter")
    inner = {f"layer{stage}.{block}.conv1": 8 << stage for stage in (1, 2, 3) for block in range(3)}
    streams = {"conv1": 16, "layer2.0.conv2": 32, "layer3.0.conv2": 64}
    assert {group.name: group.size for group in units.groups} == inner | streams
    assert [group.start for group in units.groups] == [0, *(group.stop for group in units.groups[:-1])]
    assert units.groups[-1].stop == units.n == 448


def test_filters_of_excluded_layers_are_not_units(assert_silent: AssertSilent) -> None:
    model = build(Choice("resnet20", "resnet20"), (3, 32, 32), 10)
    units = make_units(model, (3, 32, 32), "filter", ("first", "layer2.1.conv1"))
    assert units.n == 448 - 16 - 32  # the first convolution feeds the first stream, which so stays as a whole
    assert_silent(model, (3, 32, 32), units, random_mask(units, 0.5))


@pytest.mark.parametrize("training", [True, False])
def test_tracing_leaves_the_model_as_it_was(training: bool) -> None:
    model = build(Choice("resnet20", "resnet20"), (3, 32, 32), 10).train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    Channels(model, (3, 32, 32))
    assert model.training is training and not any(layer._forward_hooks for layer in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_model_without_removable_filters_is_refused() -> None:
    model = build(Choice("lenet_300_100", "lenet_300_100"), (3, 32, 32), 10)
    with pytest.raises(ConfigError, match=r"^granularity=filter: [^()]*; use granularity=weight$"):
        make_units(model, (3, 32, 32), "filter")


def test_the_same_channels_are_found_whatever_the_size_of_the_image() -> None:
    model = build(Choice("t", "torchvision", {"arch": "mobilenet_v3_small"}), (3, 64, 64), 10)
    small, large = (Channels(model, (3, side, side)) for side in (32, 96))
    assert all(torch.equal(units, large.outs[name]) for name, units in small.outs.items())
    layers = find_layers(model, (3, 32, 32))
    assert FilterUnits(layers, small, dict(model.named_parameters())).n == small.count == large.count
