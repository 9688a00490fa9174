"""Channels and heads taken out of small and real networks; the convolutional zoo is in tests/sparsity."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer

from pruner.checks import ConfigError
from pruner.config import Choice
from pruner.models import build
from pruner.sparsity.attention import SelfAttention
from pruner.sparsity.counts import count
from pruner.sparsity.surgery import cut, first, widths_of, without
from pruner.sparsity.units.base import Left
from pruner.sparsity.units.layers import count_macs
from pruner.sparsity.units.make import make_units
from tests.sparsity.test_heads import Attention, randomised

TOKENS = (5, 12)  # of one image: five tokens of twelve channels


def encoder() -> nn.Module:
    """torch's own encoder layer, which has a fast path around its attention module."""
    return nn.TransformerEncoderLayer(12, 4, 10, batch_first=True, dropout=0.0)


NETWORKS = {
    "attention": (lambda: Attention(), TOKENS),
    "attention, tokens first": (lambda: Attention(batch_first=False), TOKENS),
    "attention without biases": (lambda: Attention(bias=False), TOKENS),
    "encoder layer": (encoder, TOKENS),
    "vit": (lambda: build(Choice("vit", "vit", {"patch": 8, "dim": 12, "heads": 3}), (3, 32, 32), 7), (3, 32, 32)),
    "torchvision's": (lambda: VisionTransformer(32, 16, 2, 3, 12, 16, num_classes=7), (3, 32, 32)),
    "vit_b_16": (lambda: build(Choice("t", "torchvision", {"arch": "vit_b_16"}), (3, 32, 32), 7), (3, 32, 32)),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.long if n == "vit_b_16" else []) for n in NETWORKS])
def test_a_network_without_its_dead_heads_is_the_masked_one(name: str) -> None:
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    model = randomised(make()).eval()
    units = make_units(model, shape, "head")
    mask = (torch.arange(units.n) % 3 != 1).float()  # of three heads the middle one is dead
    counts, _ = count(model, shape, units, mask)
    dense = copy.deepcopy(model)
    with torch.no_grad():
        for parameter, zero in units.zeros(mask).items():
            model.get_parameter(parameter).mul_(zero)
    small = without(model, units.left(mask))
    images = torch.randn(3, *shape, generator=torch.Generator().manual_seed(2))
    exact = [copy.deepcopy(network).double()(images.double()) for network in (small, model, dense)]
    torch.testing.assert_close(exact[0], exact[1], rtol=1e-9, atol=1e-9)  # twelve layers blow up float32's rounding
    assert float((exact[1] - exact[2]).detach().abs().max()) > 1e-3  # the dead heads did speak
    assert sum(parameter.numel() for parameter in small.parameters()) == counts.params_kept < counts.params_total
    assert count_macs(small, shape) == counts.macs_kept < counts.macs_total
    again = copy.deepcopy(dense)
    cut(again, first(widths_of(model, units.left(mask)), again))
    again.load_state_dict(small.state_dict())
    assert torch.equal(again(images), small(images))


def test_attention_without_heads_refuses_what_it_does_not_do() -> None:
    tokens = torch.randn(2, 5, 12)
    attention = SelfAttention(12, heads=3, width=4, batch_first=True)
    assert attention(tokens, tokens, tokens, need_weights=False, attn_mask=None)[1] is None
    with pytest.raises(ValueError, match="attn_mask"):
        attention(tokens, tokens, tokens, attn_mask=torch.zeros(5, 5))
    with pytest.raises(ValueError, match="one tensor"):
        attention(tokens, tokens + 1, tokens)


@pytest.mark.parametrize("training", [True, False])
def test_attention_without_heads_is_in_the_mode_and_has_the_dropout_that_it_had(training: bool) -> None:
    model: Any = nn.ModuleDict({"attention": nn.MultiheadAttention(12, 3, dropout=0.3)}).train(training)
    small: Any = without(model, {"attention": Left((0, 2))})
    assert isinstance(small.attention, SelfAttention)
    assert small.attention.training is training and small.attention.dropout == 0.3


def test_what_is_left_is_the_same_filters_in_their_order() -> None:
    model: Any = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1))
    model[1].running_var.uniform_()
    left = {"0": Left((0, 3)), "1": Left((0, 3)), "2": Left(ins=(0, 3))}
    small: Any = without(model.train(), left)
    assert torch.equal(small[0].weight, model[0].weight[[0, 3]]) and torch.equal(small[0].bias, model[0].bias[[0, 3]])
    assert torch.equal(small[1].running_var, model[1].running_var[[0, 3]])
    assert torch.equal(small[2].weight, model[2].weight[:, [0, 3]])
    assert (small[0].out_channels, small[1].num_features, small[2].in_channels) == (2, 2, 2)
    assert all(module.training for module in small.modules())
    assert model[0].weight.shape == (4, 2, 3, 3)  # the model itself stays
    assert widths_of(model, left) == {"0": {"outs": 2}, "1": {"outs": 2}, "2": {"ins": 2}}


@pytest.mark.parametrize("ins", [1, 3])
def test_a_transposed_convolution_has_its_inputs_first(ins: int) -> None:
    model: Any = nn.Sequential(nn.ConvTranspose2d(ins, 4, 2))
    small: Any = without(model, {"0": Left((1, 3), (ins - 1,))})
    assert torch.equal(small[0].weight, model[0].weight[[ins - 1]][:, [1, 3]])
    assert torch.equal(small[0].bias, model[0].bias[[1, 3]])
    assert (small[0].in_channels, small[0].out_channels, small[0].groups) == (1, 2, 1)


def test_a_shared_weight_is_cut_once_and_stays_shared() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
            self.two.weight = self.one.weight

    small: Any = without(Twice(), {"one": Left((1, 2), (1, 2))})
    assert small.one.weight is small.two.weight and small.two.bias.shape == (2,) and small.two.in_features == 2


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({"conv": {"outs": 7}}, "widths.conv={'outs': 7}: nothing in this network has more than 6"),
        ({"conv": {"outs": 0}}, "widths.conv={'outs': 0}: expected whole numbers above 0 as outs and ins"),
        ({"conv": {"outs": True}}, "widths.conv={'outs': True}: expected whole numbers above 0 as outs and ins"),
        ({"conv": {"depth": 1}}, "widths.conv={'depth': 1}: expected whole numbers above 0 as outs and ins"),
        ({"conv": 3}, "widths.conv=3: expected whole numbers above 0 as outs and ins"),
        ({"convolution": {"outs": 1}}, "convolution: this network has no such module"),
        ({"pool": {"outs": 1}}, "pool: channels of a MaxPool2d cannot be taken out"),
        ({"conv": {"outs": 5}}, "conv: 5 outputs and 4 inputs do not make 2 equal groups"),
    ],
)
def test_widths_that_do_not_fit_are_named(widths: Any, message: str) -> None:
    model = nn.Module()
    model.conv, model.pool = nn.Conv2d(4, 6, 3, groups=2), nn.MaxPool2d(2)
    with pytest.raises(ConfigError) as error:
        cut(model, first(widths, model))
    assert str(error.value) == message
