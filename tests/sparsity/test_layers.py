"""Layers found by what runs: modules, attention projections, functions; and multiply-adds as published."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
import torch
import torchvision.models
from torch import Tensor, nn
from torch.nn import functional as F

from pruner.checks import ConfigError
from pruner.sparsity.units.layers import Layer, count_macs, find_layers


class OnTokens(nn.Module):
    """Runs `inner` on images [batch, channels, length, 1] as tokens [batch, length, channels]."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images.flatten(2).transpose(1, 2))


class SelfAttention(nn.Module):
    def __init__(self, **options: Any):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, **options)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.attention(tokens, tokens, tokens, need_weights=False)[0]


def summary(layers: list[Layer]) -> dict[str, tuple[Any, ...]]:
    return {layer.name: (layer.weight, layer.bias, layer.shape, layer.positions, layer.pairs) for layer in layers}


def test_modules_of_every_kind() -> None:
    model = nn.Sequential(
        nn.Conv3d(2, 4, (1, 3, 3), groups=2), nn.Flatten(2), nn.Conv1d(4, 6, 3, padding="same"),
        nn.Linear(8, 5, bias=False),
    )  # fmt: skip
    found = find_layers(model, (2, 2, 4, 4))
    assert [asdict(layer) for layer in found] == [
        {"name": "0", "weight": "0.weight", "bias": "0.bias", "shape": (4, 1, 1, 3, 3), "positions": 8,
         "is_conv": True, "groups": 2, "transposed": False, "prunable": True, "pairs": 0},
        {"name": "2", "weight": "2.weight", "bias": "2.bias", "shape": (6, 4, 3), "positions": 8,
         "is_conv": True, "groups": 1, "transposed": False, "prunable": True, "pairs": 0},
        {"name": "3", "weight": "3.weight", "bias": None, "shape": (5, 8), "positions": 6,
         "is_conv": False, "groups": 1, "transposed": False, "prunable": True, "pairs": 0},
    ]  # fmt: skip
    assert count_macs(model, (2, 2, 4, 4)) == sum(layer.size * layer.positions for layer in found)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_packed_attention(batch_first: bool, bias: bool, training: bool) -> None:
    model = OnTokens(SelfAttention(batch_first=batch_first, bias=bias)).train(training)
    found = summary(find_layers(model, (8, 5, 1)))
    name = "inner.attention"
    pairs = 25 if batch_first else 5  # without batch_first this is a batch of five sequences of one token
    assert found == {
        f"{name}.in_proj": (f"{name}.in_proj_weight", f"{name}.in_proj_bias" if bias else None, (24, 8), 5, pairs),
        f"{name}.out_proj": (f"{name}.out_proj.weight", f"{name}.out_proj.bias" if bias else None, (8, 8), 5, 0),
    }
    assert list(found) == [f"{name}.in_proj", f"{name}.out_proj"]
    assert count_macs(model, (8, 5, 1)) == 5 * 4 * 64 + 2 * pairs * 8
    assert model.training is training and model.inner.training is training
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_fast_path_stays_off_if_it_was_off_and_comes_back_after_an_error() -> None:
    model = OnTokens(SelfAttention(batch_first=True))
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        find_layers(model, (8, 5, 1))
        assert not torch.backends.mha.get_fastpath_enabled()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    with pytest.raises(AssertionError):
        find_layers(model, (7, 5, 1))
    assert torch.backends.mha.get_fastpath_enabled() and model.training


@pytest.mark.parametrize("nested", [True, False])
def test_a_transformer_of_torch_in_which_whole_blocks_have_a_fast_path(nested: bool) -> None:
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = OnTokens(nn.TransformerEncoder(block, 2, enable_nested_tensor=nested))
    found = find_layers(model, (8, 5, 1))
    each = ("self_attn.in_proj", "self_attn.out_proj", "linear1", "linear2")
    assert [layer.name for layer in found] == [f"inner.layers.{i}.{name}" for i in (0, 1) for name in each]
    assert {layer.positions for layer in found} == {5}
    assert count_macs(model, (8, 5, 1)) == 2 * (5 * (4 * 64 + 2 * 8 * 16) + 2 * 25 * 8)


def test_separate_projections_and_attention_to_something_else() -> None:
    class Cross(nn.Module):
        def __init__(self, **options: Any):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **options)

        def forward(self, tokens: Tensor) -> Tensor:
            other = tokens[:, :, : self.attention.kdim]
            return self.attention(tokens[:, :2], other, other, need_weights=True)[0]

    found = summary(find_layers(OnTokens(Cross(kdim=6, vdim=6)), (8, 5, 1)))
    name = "inner.attention"
    assert found == {
        f"{name}.q_proj": (f"{name}.q_proj_weight", None, (8, 8), 2, 0),
        f"{name}.k_proj": (f"{name}.k_proj_weight", None, (8, 6), 5, 0),
        f"{name}.v_proj": (f"{name}.v_proj_weight", None, (8, 6), 5, 0),
        f"{name}.out_proj": (f"{name}.out_proj.weight", f"{name}.out_proj.bias", (8, 8), 2, 0),
    }
    packed = find_layers(OnTokens(Cross()), (8, 5, 1))
    # A third of the rows sees 2 tokens, the others 5: on average 4. Heads of such attention are not units.
    assert [(layer.positions, layer.pairs) for layer in packed] == [(4, 0), (2, 0)]
    assert count_macs(OnTokens(Cross()), (8, 5, 1)) == 64 * (3 * 4 + 2) + 2 * 2 * 5 * 8


def test_extra_keys_are_not_counted_as_plain_attention() -> None:
    for option in ("add_bias_kv", "add_zero_attn"):
        found = find_layers(OnTokens(SelfAttention(batch_first=True, **{option: True})), (8, 5, 1))
        assert [(layer.positions, layer.pairs) for layer in found] == [(5, 0), (5, 0)]


def test_weights_that_functions_are_called_with_by_name_shared_or_computed() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4))
            self.scale = nn.Parameter(torch.ones(4, 4))
            self.conv = nn.Conv2d(3, 4, 1)
            self.tied = nn.Linear(4, 4)
            self.tied.weight = self.weight

        def forward(self, images: Tensor) -> Tensor:
            tokens = F.conv2d(bias=None, weight=self.conv.weight, input=images).flatten(2).transpose(1, 2)
            tokens = self.tied(F.linear(tokens, weight=self.weight))
            return F.linear(tokens, self.scale * 2)

    found = summary(find_layers(Functional(), (3, 2, 3)))
    # The computed weight is no parameter as it stands; the shared one is one layer, for 2 x 6 tokens.
    assert found == {
        "conv": ("conv.weight", None, (4, 3, 1, 1), 6, 0),
        "weight": ("weight", None, (4, 4), 12, 0),
    }


def test_excluded_attention_projections() -> None:
    model = OnTokens(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
    prunable = {layer.name: layer.prunable for layer in find_layers(model, (8, 5, 1), ("first", "inner.linear1"))}
    assert prunable == {
        "inner.self_attn.in_proj": False, "inner.self_attn.out_proj": True,
        "inner.linear1": False, "inner.linear2": True,
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"=inner\.self_attn: .*did you mean inner\.self_attn\.in_proj"):
        find_layers(model, (8, 5, 1), ("inner.self_attn",))


@pytest.mark.parametrize("arch", ["vit_b_16", "vit_l_32", "swin_t", "swin_s"])
def test_multiply_adds_of_transformers_are_those_that_torchvision_publishes(arch: str) -> None:
    with torch.device("meta"):
        model = torchvision.models.get_model(arch)
        found = find_layers(model, (3, 224, 224))
        total = count_macs(model, (3, 224, 224))
    published = torchvision.models.get_model_weights(arch).DEFAULT.meta["_ops"]
    assert round(total / 1e9, 3) == published
    in_layers = sum(layer.size * layer.positions for layer in found)
    if arch.startswith("vit"):  # the two products of attention are all that is not in a layer
        assert total == in_layers + sum(2 * layer.pairs * layer.shape[1] for layer in found)
    else:  # weights that never run as modules
        assert [layer.name for layer in found][1:3] == ["features.1.0.attn.qkv", "features.1.0.attn.proj"]
        assert 0.95 * total < in_layers < total
    matrices = {name for name, p in model.named_parameters() if name.endswith("weight") and p.dim() > 1}
    assert {layer.weight for layer in found} == matrices
