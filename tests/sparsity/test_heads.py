"""Heads: costs and tensors by hand, and proof that what eval computes is the network without the dead heads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torchvision.models
from torch import Tensor, nn

from pruner.checks import ConfigError
from pruner.config import Choice
from pruner.models import build
from pruner.sparsity.allocation import Allocation
from pruner.sparsity.masked import MaskedModel
from pruner.sparsity.units.heads import HeadUnits
from pruner.sparsity.units.layers import count_macs, find_layers
from pruner.sparsity.units.tiles import WeightUnits

SHAPE = (2, 8, 8)
TOKENS = 5  # four patches and the class token


class Attention(nn.Module):
    """Tokens of 12 channels [batch, 5, 12] as images, through a self-attention of 4 heads."""

    def __init__(self, batch_first: bool = True, bias: bool = True):
        super().__init__()
        self.heads = nn.MultiheadAttention(12, 4, batch_first=batch_first, bias=bias)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.heads(tokens, tokens, tokens, need_weights=False)[0]


def vit(**options: Any) -> Any:
    torch.manual_seed(0)
    small = {"patch": 4, "dim": 12, "depth": 2, "heads": 3, "mlp": 10}
    return randomised(build(Choice("vit", "vit", {**small, **options}), SHAPE, 7))


def randomised(model: nn.Module) -> Any:
    """No parameter is zero, as biases and torchvision's head are at first."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def heads_of(model: nn.Module, shape: tuple[int, ...] = SHAPE, exclude: tuple[str, ...] = ()) -> HeadUnits:
    return HeadUnits(find_layers(model, shape, exclude), model)


def by_hand(model: Attention, tokens: Tensor, alive: list[int]) -> Tensor:
    """The attention without all but the heads `alive`: softmax(q k' / sqrt(d)) v, the projections cut to size."""
    attention, width = model.heads, 3
    channels = torch.cat([torch.arange(head * width, (head + 1) * width) for head in alive])
    q, k, v = (
        (tokens @ weight[channels].T + bias[channels]).unflatten(-1, (len(alive), width)).transpose(-2, -3)
        for weight, bias in zip(attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), strict=True)
    )
    mixed = (q @ k.transpose(-1, -2) / width**0.5).softmax(-1) @ v
    return mixed.transpose(-2, -3).flatten(-2) @ attention.out_proj.weight[:, channels].T + attention.out_proj.bias


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """One entry for each time that attention takes its fast path."""
    calls: list[int] = []
    function = torch._native_multi_head_attention

    def counted(*args: Any) -> Any:
        calls.append(1)
        return function(*args)

    monkeypatch.setattr(torch, "_native_multi_head_attention", counted)
    yield calls


def zero_out(model: nn.Module, zeros: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, zero in zeros.items():
            model.get_parameter(name).mul_(zero)


def test_units_costs_and_layers_of_a_vision_transformer() -> None:
    units = heads_of(vit())
    names = [f"encoder.layers.encoder_layer_{i}.self_attention.{part}_proj" for i in (0, 1) for part in ("in", "out")]
    assert [(g.name, g.start, g.stop) for g in units.groups] == [(names[0], 0, 3), (names[2], 3, 6)]
    assert units.n == 6
    assert [layer.name for layer in units.layers if layer.prunable] == names
    assert len(units.layers) == 1 + 2 * 4 + 1
    params, macs = units.cost("params"), units.cost("macs")
    assert isinstance(params, Tensor) and isinstance(macs, Tensor)
    assert params.tolist() == [4 * 4 * 12] * 6  # four rows of q, of k, of v, four columns; 12 channels
    assert macs.tolist() == [4 * 4 * 12 * TOKENS] * 6
    numbers = torch.arange(6.0)
    second = next(layer for layer in units.layers if layer.name == names[3])
    assert units.layer_mask(second, numbers).tolist() == [3, 4, 5]
    assert units.rows(second, numbers).tolist() == [[3, 4, 5]]


def test_tensors_by_hand() -> None:
    model = Attention()
    units = heads_of(model, (5, 12))
    mask = torch.tensor([1.0, 0.0, 1.0, 0.0])
    alive = [1.0] * 3 + [0.0] * 3 + [1.0] * 3 + [0.0] * 3
    zeros = units.zeros(mask)
    assert sorted(zeros) == ["heads.in_proj_bias", "heads.in_proj_weight", "heads.out_proj.weight"]
    assert zeros["heads.in_proj_bias"].tolist() == alive * 3
    assert zeros["heads.in_proj_weight"].tolist() == [[row] * 12 for row in alive * 3]
    assert zeros["heads.out_proj.weight"].tolist() == [alive] * 12
    gates = units.gates(torch.tensor([0.5, 0.25, 1.0, 0.0]))
    assert {name: gate.tolist() for name, gate in gates.items()} == {
        "heads.out_proj.weight": [[0.5] * 3 + [0.25] * 3 + [1.0] * 3 + [0.0] * 3]
    }
    values = {name: torch.rand(parameter.shape) for name, parameter in model.named_parameters()}
    inward, outward = values["heads.in_proj_weight"], values["heads.out_proj.weight"]
    sums = [
        sum(float(inward[start + 3 * h : start + 3 * h + 3].sum()) for start in (0, 12, 24))
        + float(outward[:, 3 * h : 3 * h + 3].sum())
        for h in range(4)
    ]
    assert units.sum_over(values).tolist() == pytest.approx(sums)
    assert sorted(heads_of(Attention(bias=False), (5, 12)).zeros(mask)) == [
        "heads.in_proj_weight", "heads.out_proj.weight"
    ]  # fmt: skip


def test_sums_and_gates_are_differentiable() -> None:
    model = Attention().double()
    units = heads_of(Attention(), (5, 12))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    mask = torch.rand(4, dtype=torch.float64).requires_grad_()
    tokens = torch.randn(1, 3, 12, dtype=torch.float64)

    def masked_output(mask: Tensor) -> Tensor:
        masked = MaskedModel(model, units)
        masked.gate(mask)
        return masked(tokens)

    assert torch.autograd.gradcheck(masked_output, mask)
    names = ("heads.in_proj_weight", "heads.out_proj.weight")
    weights = [torch.randn(36, 12, dtype=torch.float64), torch.randn(12, 12, dtype=torch.float64)]
    for weight in weights:
        weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda *w: units.sum_over(dict(zip(names, w, strict=True))), weights)


@pytest.mark.parametrize("dead", [[1], [0, 3], [0, 1, 2]])
def test_a_dead_head_is_a_head_that_is_not_there(dead: list[int], native: list[int]) -> None:
    model = randomised(Attention()).eval()
    units = heads_of(model, (5, 12))
    tokens = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(4).index_fill(0, torch.tensor(dead), 0)
    alive = mask.nonzero().flatten().tolist()
    masked = MaskedModel(model, units)
    with torch.no_grad():
        assert torch.allclose(model(tokens), by_hand(model, tokens, [0, 1, 2, 3]), atol=1e-6)  # the oracle is right
        expected = by_hand(model, tokens, alive)
        assert not torch.allclose(model(tokens), expected, atol=1e-2)  # and the dead heads did speak
        masked.gate(mask)
        assert torch.allclose(masked(tokens), expected, atol=1e-6)
        masked.fix(mask)
        assert torch.allclose(masked(tokens), expected, atol=1e-6)
        masked.clear()
        assert torch.allclose(model(tokens), expected, atol=1e-6)
    assert len(native) == 5


@torch.no_grad()
def test_noise_in_a_dead_head_changes_nothing(native: list[int]) -> None:
    model = randomised(Attention()).eval()
    units = heads_of(model, (5, 12))
    zeros = units.zeros(torch.tensor([1.0, 0.0, 1.0, 1.0]))
    tokens = torch.randn(2, 5, 12)
    zero_out(model, {"heads.out_proj.weight": zeros["heads.out_proj.weight"]})
    silenced = model(tokens)
    dead = zeros["heads.in_proj_bias"] == 0
    assert dead.nonzero().flatten().tolist() == [3, 4, 5, 15, 16, 17, 27, 28, 29]
    for rows in (dead & (torch.arange(36) >= 24), dead):  # of the values alone, then of queries and keys too
        model.heads.in_proj_weight[rows] = 10 * torch.randn(int(rows.sum()), 12)
        model.heads.in_proj_bias[rows] = 10 * torch.randn(int(rows.sum()))
        assert torch.equal(model(tokens), silenced)
    model.heads.in_proj_weight[0] += 1
    assert not torch.equal(model(tokens), silenced)
    assert len(native) == 4


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("granularity", ["weight", "head"])
def test_eval_sees_the_masked_packed_projections(granularity: str, batch_first: bool, native: list[int]) -> None:
    """What functional_call puts in the place of a packed weight is what the fast path multiplies."""
    model = randomised(Attention(batch_first)).eval()
    layers = find_layers(model, (5, 12))
    units = WeightUnits(layers, torch.device("cpu")) if granularity == "weight" else HeadUnits(layers, model)
    mask = (torch.rand(units.n, generator=torch.Generator().manual_seed(2)) < 0.6).float()
    zeros = units.zeros(mask)
    for name in ("heads.in_proj_weight", "heads.out_proj.weight"):
        assert 0 < int((zeros[name] == 0).sum()) < zeros[name].numel()
    tokens = torch.randn(2, 5, 12)
    masked = MaskedModel(model, units)
    masked.fix(mask)
    with torch.no_grad():
        dense, seen = model(tokens), masked(tokens)
        assert torch.equal(model(tokens), dense)  # the model itself is as it was
        really = Attention(batch_first).eval()
        really.load_state_dict(model.state_dict())
        zero_out(really, zeros)
        assert torch.equal(seen, really(tokens))
    assert not torch.allclose(seen, dense, atol=1e-2)
    assert len(native) == (4 if batch_first else 0)
    masked.train()
    assert torch.allclose(masked(tokens), seen, atol=1e-5)  # the other path, with gradients


@pytest.mark.parametrize("granularity", ["weight", "head"])
def test_vit_b_16_under_a_mask_is_vit_b_16_with_zeros(granularity: str, native: list[int]) -> None:
    torch.manual_seed(0)
    model = torchvision.models.vit_b_16(image_size=32, num_classes=5).eval()
    nn.init.normal_(model.heads.head.weight)  # which torchvision leaves at zero
    layers = find_layers(model, (3, 32, 32))
    units = WeightUnits(layers, torch.device("cpu")) if granularity == "weight" else HeadUnits(layers, model)
    mask = (torch.rand(units.n) < 0.6).float()
    images = torch.randn(1, 3, 32, 32)
    masked = MaskedModel(model, units)
    masked.fix(mask)
    with torch.no_grad():
        dense, seen = model(images), masked(images)
        zero_out(model, units.zeros(mask))
        really = model(images)
    assert torch.equal(seen, really) and not torch.allclose(seen, dense, atol=1e-2)
    assert len(native) == 3 * 12


def test_multiply_adds_that_are_gone_are_those_of_a_smaller_network() -> None:
    """Two of three heads of four channels in each block: a network whose attention is 8 channels wide inside."""
    model = vit()
    units = heads_of(model)
    mask = torch.tensor([1.0, 0, 1, 1, 1, 0])
    gone = {name: int((zero == 0).sum()) for name, zero in units.zeros(mask).items()}
    in_layers = sum(layer.positions * gone.get(layer.weight, 0) for layer in units.layers)
    assert in_layers == 2 * 4 * 4 * 12 * TOKENS
    assert units.extra_macs_gone(mask) == 2 * 2 * TOKENS * TOKENS * 4 and units.extra_macs_gone(torch.ones(6)) == 0
    everything = in_layers * 3 + units.extra_macs_gone(torch.zeros(6))  # a third of the heads is dead above
    without = count_macs(vit(), SHAPE) - everything
    # What stays with no head at all: patches, perceptrons, classifier.
    assert without == 4 * 32 * 12 + 2 * TOKENS * 2 * 12 * 10 + 12 * 7


def test_an_excluded_projection_excludes_its_module() -> None:
    model = vit()
    name = "encoder.layers.encoder_layer_0.self_attention"
    for part in ("in_proj", "out_proj"):
        units = heads_of(model, exclude=(f"{name}.{part}",))
        assert [layer.name for layer in units.layers if layer.prunable] == [
            "encoder.layers.encoder_layer_1.self_attention.in_proj",
            "encoder.layers.encoder_layer_1.self_attention.out_proj",
        ]
        assert [(group.start, group.stop) for group in units.groups] == [(0, 3)]
    with pytest.raises(ConfigError, match=r"granularity=head: budget\.exclude leaves no head to prune"):
        heads_of(model, exclude=(f"{name}.out_proj", "encoder.layers.encoder_layer_1.self_attention.in_proj"))


def test_models_without_heads_are_refused() -> None:
    for model in (nn.Sequential(nn.Flatten(), nn.Linear(128, 3)), nn.Sequential(nn.Conv2d(2, 3, 1))):
        with pytest.raises(
            ConfigError, match=r"^granularity=head: this model has no nn\.MultiheadAttention; use .*weight"
        ):
            heads_of(model)


def test_modules_of_several_widths_and_one_that_never_runs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.MultiheadAttention(6, 2)
            self.late = nn.MultiheadAttention(12, 2, batch_first=True)
            self.early = nn.MultiheadAttention(12, 3, batch_first=True)

        def forward(self, tokens: Tensor) -> Tensor:
            tokens = self.early(tokens, tokens, tokens)[0]
            return self.late(tokens, tokens, tokens)[0]

    units = heads_of(Two(), (5, 12))
    assert [(g.name, g.size) for g in units.groups] == [("early.in_proj", 3), ("late.in_proj", 2)]
    cost = units.cost("params")
    assert isinstance(cost, Tensor) and cost.tolist() == [192.0] * 3 + [288.0] * 2
    assert units.extra_macs_gone(torch.tensor([0.0, 1, 1, 1, 0])) == 2 * 25 * (4 + 6)


def test_no_head_stays_half_open() -> None:
    """6 heads at 0.45 leave room for 3.3 of them: the soft mask hardens into the 3 that fit."""
    allocation = Allocation(heads_of(vit()), "params", "global", 0.45)
    scores = torch.tensor([0.3, 0.1, 0.6, 0.2, 0.5, 0.4])
    torch.testing.assert_close(allocation.soft(scores, 1e-6), allocation.hard(scores))
    assert allocation.hard(scores).sum() == 3
